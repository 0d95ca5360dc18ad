//! Sampling strategies: whether to keep one more event of a name.
//!
//! A decision is made under the strategy's lock. So any number of callers share one limit, as if
//! they had called one after another.

use crate::primitive::{AtomicU64, Mutex, Ordering, lock};
use crate::random::Random;

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;
/// The length of a rate limit's slices, in nanoseconds.
const SLICE: u64 = 4_000_000;
/// The number of slices for which a sample counts against the limit: those of a second, and the
/// slice that has just begun. So a sample counts for at least a second, and no second exceeds its
/// limit.
const SLICES: usize = (SECOND / SLICE) as usize + 1;

/// How to choose among the events of a name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Strategy {
    /// Keep every event.
    Always,
    /// Keep none.
    Never,
    /// Keep each event with this probability.
    Random(f64),
    /// Keep at most this many events in any second.
    RateLimited(u64),
    /// Keep every event up to this rate per second, and this many per second beyond it.
    Adaptive(f64),
    /// Keep the first `n` events, and the k-th with probability `n / k` (reservoir sampling).
    Reservoir(u64),
}

/// What a strategy remembers of past events.
#[derive(Debug)]
enum Memory {
    Nothing,
    Slices(Box<Slices>),
    /// When the bucket will be empty.
    Bucket(u64),
    Seen(u64),
}

impl Memory {
    fn of(strategy: Strategy) -> Self {
        match strategy {
            Strategy::Always | Strategy::Never | Strategy::Random(_) => Memory::Nothing,
            Strategy::RateLimited(_) => Memory::Slices(Box::default()),
            Strategy::Adaptive(_) => Memory::Bucket(0),
            Strategy::Reservoir(_) => Memory::Seen(0),
        }
    }
}

/// Samples of the last second, by slice of time.
#[derive(Debug)]
struct Slices {
    counts: [u32; SLICES],
    total: u64,
    newest: u64,
}

impl Default for Slices {
    fn default() -> Self {
        Slices {
            counts: [0; SLICES],
            total: 0,
            newest: 0,
        }
    }
}

impl Slices {
    fn take(&mut self, limit: u64, now: u64) -> bool {
        // Callers read the clock before they take the lock, so a caller may bring a time that is
        // earlier than the newest slice. It counts in the newest slice.
        let slice = (now / SLICE).max(self.newest);
        let passed = (slice - self.newest).min(SLICES as u64);
        for back in 0..passed {
            let place = &mut self.counts[((slice - back) % SLICES as u64) as usize];
            self.total -= u64::from(*place);
            *place = 0;
        }
        self.newest = slice;
        let room = self.total < limit;
        if room {
            self.counts[(slice % SLICES as u64) as usize] += 1;
            self.total += 1;
        }
        room
    }
}

/// The leaky bucket of the generic cell rate algorithm (ITU-T I.371): it drips `target` times per
/// second and holds a second's worth.
fn drip(arrival: &mut u64, target: f64, now: u64) -> bool {
    if target <= 0.0 {
        return false;
    }
    let interval = ((SECOND as f64 / target) as u64).max(1);
    let next = (*arrival).max(now) + interval;
    let room = next - now <= SECOND.max(interval);
    if room {
        *arrival = next;
    }
    room
}

#[derive(Debug)]
struct State {
    strategy: Strategy,
    /// The strategy in the caller's own form, for display.
    shown: Box<[u8]>,
    memory: Memory,
    random: Random,
    sampled: u64,
    sampled_out: u64,
}

/// The decisions of a strategy so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sampled {
    /// Events that were kept.
    pub sampled: u64,
    /// Events that were not kept.
    pub sampled_out: u64,
    /// The strategy in the form that was given to [`Sampler::configure`].
    pub shown: Box<[u8]>,
}

/// The strategy of one name, if it has one.
#[derive(Debug)]
pub struct Sampler {
    /// 0 while there is no strategy. Most names have none, and this lets them skip the lock.
    configured: AtomicU64,
    state: Mutex<Option<State>>,
}

impl Default for Sampler {
    fn default() -> Self {
        Sampler {
            configured: AtomicU64::new(0),
            state: Mutex::new(None),
        }
    }
}

impl Sampler {
    /// Sets the strategy and empties its memory. The counts continue.
    pub fn configure(&self, strategy: Strategy, shown: &[u8]) {
        let mut state = lock(&self.state);
        let (sampled, sampled_out) = match &*state {
            Some(state) => (state.sampled, state.sampled_out),
            None => (0, 0),
        };
        *state = Some(State {
            strategy,
            shown: shown.into(),
            memory: Memory::of(strategy),
            random: Random::new(),
            sampled,
            sampled_out,
        });
        self.configured.store(1, Ordering::Release);
    }

    /// Removes the strategy and its counts.
    pub fn clear(&self) {
        self.configured.store(0, Ordering::Release);
        *lock(&self.state) = None;
    }

    /// Empties the strategy's memory and resets its counts.
    pub fn reset(&self) {
        if let Some(state) = &mut *lock(&self.state) {
            state.memory = Memory::of(state.strategy);
            state.sampled = 0;
            state.sampled_out = 0;
        }
    }

    /// Returns whether to keep an event. `now` is the time in nanoseconds of a monotonic clock.
    #[inline]
    pub fn decide(&self, now: impl FnOnce() -> u64) -> bool {
        self.configured.load(Ordering::Acquire) == 0 || self.decide_by_strategy(now())
    }

    fn decide_by_strategy(&self, now: u64) -> bool {
        let mut state = lock(&self.state);
        let Some(state) = &mut *state else {
            return true;
        };
        let keep = match (state.strategy, &mut state.memory) {
            (Strategy::Never, _) => false,
            (Strategy::Random(rate), _) => state.random.unit() < rate,
            (Strategy::RateLimited(limit), Memory::Slices(slices)) => slices.take(limit, now),
            (Strategy::Adaptive(target), Memory::Bucket(arrival)) => drip(arrival, target, now),
            (Strategy::Reservoir(size), Memory::Seen(seen)) => {
                // Algorithm R (Vitter, 1985).
                *seen += 1;
                *seen <= size || state.random.below(*seen) < size
            }
            _ => true,
        };
        if keep {
            state.sampled += 1;
        } else {
            state.sampled_out += 1;
        }
        keep
    }

    /// Returns the decisions of the strategy, or `None` when there is no strategy.
    pub fn sampled(&self) -> Option<Sampled> {
        lock(&self.state).as_ref().map(|state| Sampled {
            sampled: state.sampled,
            sampled_out: state.sampled_out,
            shown: state.shown.clone(),
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn sampler(strategy: Strategy) -> Sampler {
        let sampler = Sampler::default();
        sampler.configure(strategy, b"");
        sampler
    }

    fn kept(sampler: &Sampler, times: impl Iterator<Item = u64>) -> Vec<u64> {
        times.filter(|now| sampler.decide(|| *now)).collect()
    }

    #[test]
    fn without_a_strategy_all_are_kept_and_none_counted() {
        let sampler = Sampler::default();
        assert_eq!(kept(&sampler, 0..10).len(), 10);
        assert_eq!(sampler.sampled(), None);
    }

    #[test]
    fn a_rate_holds_in_every_second_and_bursts_whole() {
        let sampler = sampler(Strategy::RateLimited(100));
        let times = kept(
            &sampler,
            (0..5 * SECOND)
                .step_by(1_000_000)
                .chain(5 * SECOND..5 * SECOND + 10),
        );
        assert_eq!(
            times[..100],
            (0..100 * 1_000_000).step_by(1_000_000).collect::<Vec<_>>()
        );
        for pair in times.windows(101) {
            assert!(pair[100] - pair[0] >= SECOND);
        }
        assert_eq!(
            kept(&sampler, (0..150).map(|n| 100 * SECOND + n)).len(),
            100
        );
    }

    #[test]
    fn an_earlier_time_does_not_open_a_limit_again() {
        let sampler = sampler(Strategy::RateLimited(1));
        assert!(sampler.decide(|| 10 * SECOND));
        assert!(!sampler.decide(|| 8 * SECOND));
        assert!(!sampler.decide(|| 10 * SECOND + SECOND / 2));
        assert!(sampler.decide(|| 12 * SECOND));
    }

    #[test]
    fn adaptive_keeps_all_below_and_its_target_above() {
        let sampler = sampler(Strategy::Adaptive(100.0));
        let slow = (0..10 * SECOND).step_by((SECOND / 90) as usize);
        assert_eq!(kept(&sampler, slow.clone()).len(), slow.count());
        let fast = (10 * SECOND..20 * SECOND).step_by((SECOND / 1000) as usize);
        let times = kept(&sampler, fast);
        let settled = times.iter().filter(|time| **time >= 12 * SECOND).count();
        assert!((795..=805).contains(&settled), "{settled}");
    }

    #[test]
    fn a_reservoir_takes_the_first_and_then_n_of_k() {
        let mut taken = 0;
        for _ in 0..2_000 {
            let sampler = sampler(Strategy::Reservoir(10));
            let times = kept(&sampler, 1..=40);
            assert_eq!(times[..10], (1..=10).collect::<Vec<_>>());
            taken += times.iter().filter(|k| **k == 40).count();
        }
        // 500 expected, with a deviation of 19.4.
        assert!((400..=600).contains(&taken), "{taken}");
    }

    #[test]
    fn a_reset_keeps_the_strategy() {
        let sampler = sampler(Strategy::Reservoir(2));
        kept(&sampler, 0..100);
        sampler.reset();
        assert_eq!(kept(&sampler, 0..2).len(), 2);
        let stats = sampler
            .sampled()
            .unwrap_or_else(|| panic!("a strategy is set"));
        assert_eq!((stats.sampled, stats.sampled_out), (2, 0));
    }
}
