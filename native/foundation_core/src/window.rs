//! Windows: whether an event is the first of its key for a while.
//!
//! The table is cut into shards, each with a lock of its own and short critical sections; whoever
//! finds or opens a window under that lock has decided, so there is one winner a window.
//!
//! The number of windows is bounded: whoever goes past the bound closes the oldest of all, which is
//! the oldest of some shard, and each shard says how old that is.

mod shard;

use crate::key::{Key, LONG, NoOpaque, Seed};
use crate::primitive::{AtomicU64, Mutex, Ordering, lock};
use shard::{NONE, Open, Shard, Slot};

/// Shards: enough that callers on as many schedulers seldom contend.
pub const SHARDS: usize = 16;
/// How many expired windows whoever opens one closes.
const CLOSED_ON_THE_WAY: usize = 2;

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It opened a window; the number of the shard that decided, and when.
    First(usize, u64),
    /// It is a repeat.
    Repeat,
}

/// What tells the time, in nanoseconds, to a table of windows. Asking whether a time is still to
/// come may be cheaper than asking for the time.
pub trait Clock {
    /// The time.
    fn now(&self) -> u64;

    /// Whether `time` is still to come.
    ///
    /// # Errors
    ///
    /// The time, when it is not.
    #[inline]
    fn before(&self, time: u64) -> Result<(), u64> {
        match self.now() {
            now if now < time => Ok(()),
            now => Err(now),
        }
    }
}

/// A clock that has stopped.
impl Clock for u64 {
    #[inline]
    fn now(&self) -> u64 {
        *self
    }
}

/// The event of a window: a handle that keeps count of the event's windows, with the number of a
/// shard, while that is locked. So for one number there is one writer.
pub trait Opener: Copy {
    /// What tells it from every other event.
    fn id(self) -> u32;
    /// A window was opened.
    fn opened(self, shard: usize);
    /// An event was a repeat in a window.
    fn repeated(self, shard: usize);
    /// A window was closed; whether that was early, at the bound.
    fn closed(self, shard: usize, early: bool);
}

/// The memory of a shard that is empty. To free it takes as long as there have been many windows.
#[derive(Debug)]
#[must_use = "what a rush has taken may take long to free"]
pub struct Idle<E>(#[expect(dead_code, reason = "it is only dropped")] Shard<E>);

/// The windows of all events. `E` is an event.
#[derive(Debug)]
pub struct Windows<E> {
    shards: Box<[Mutex<Shard<E>>]>,
    /// The `seq` of each shard's oldest window, as it last was. 0 is none.
    oldest: [AtomicU64; SHARDS],
    seed: Seed,
    /// How often a window was opened: its `seq`.
    opened: AtomicU64,
    /// How often one was closed, or opened again.
    closed: AtomicU64,
    evicted: AtomicU64,
    most: AtomicU64,
}

impl<E: Opener> Windows<E> {
    /// A table of at most `most` windows.
    pub fn new(most: u64) -> Self {
        Windows {
            shards: (0..SHARDS).map(|_| Mutex::new(Shard::new())).collect(),
            oldest: std::array::from_fn(|_| AtomicU64::new(0)),
            seed: Seed::random(),
            opened: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            most: AtomicU64::new(most),
        }
    }

    /// Sets the bound, which holds from the next window on.
    pub fn bound(&self, most: u64) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// Decides about an occurrence of `event` with this key. `window` says how many nanoseconds a
    /// window lasts that is opened now.
    #[inline]
    pub fn admit(
        &self,
        event: E,
        key: &Key<'_, NoOpaque>,
        clock: impl Clock,
        window: impl FnOnce() -> u64,
    ) -> Admission {
        let (key, long): (_, &[u8]) = match *key {
            Key::Inline(w0, w1) => ((w0, w1), &[]),
            Key::Long(kind, bytes) => ((self.seed.hash(key), LONG << 56 | u64::from(kind)), bytes),
            Key::Opaque(_, never) => match *never {},
        };
        let mut open = Open {
            key,
            expires: 0,
            event: event.id(),
            next: NONE,
        };
        let hash = open.hash(&self.seed);
        let number = (hash >> 48) as usize % SHARDS;
        let mut shard = lock(&self.shards[number]);
        let found = shard.probe(hash, key, open.event, long);
        let now = match found {
            Some(at) => match clock.before(shard.opens.at(at).expires) {
                Ok(()) => {
                    event.repeated(number);
                    return Admission::Repeat;
                }
                Err(now) => now,
            },
            None => clock.now(),
        };
        let window = window();
        let class = shard::class(window);
        open.expires = now.saturating_add(window);
        let seq = self.opened.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some(at) = found {
            self.closed.fetch_add(1, Ordering::Relaxed);
            shard.renew(at, open.expires, seq, class);
            self.note_oldest(number, &shard);
            return Admission::First(number, now);
        }
        event.opened(number);
        let slot = Slot {
            seq,
            expires: open.expires,
            event,
            hash,
            key: (!long.is_empty()).then(|| long.into()),
            older: NONE,
            newer: NONE,
            class,
        };
        shard.insert(open, slot, &self.seed);
        shard.used = now;
        for _ in 0..CLOSED_ON_THE_WAY {
            match shard.expired(now) {
                // Not the one that was opened just now, whose window may be 0.
                Some(at) if shard.slots.at(at).seq != seq => {
                    self.close(&mut shard, number, at, false);
                }
                _ => break,
            }
        }
        self.note_oldest(number, &shard);
        drop(shard);
        if self.len() > self.most.load(Ordering::Relaxed) {
            self.evict(now);
        }
        Admission::First(number, now)
    }

    fn close(&self, shard: &mut Shard<E>, number: usize, at: u32, early: bool) {
        shard.slots.at(at).event.closed(number, early);
        shard.remove(at);
        self.closed.fetch_add(1, Ordering::Relaxed);
        if early {
            self.evicted.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn note_oldest(&self, number: usize, shard: &Shard<E>) {
        let seq = shard.first().map_or(0, |at| shard.slots.at(at).seq);
        if self.oldest[number].load(Ordering::Relaxed) != seq {
            self.oldest[number].store(seq, Ordering::Relaxed);
        }
    }

    /// Closes the windows that were opened first, until the bound is kept.
    #[cold]
    fn evict(&self, now: u64) {
        while self.len() > self.most.load(Ordering::Relaxed) {
            let oldest = (0..SHARDS)
                .map(|number| (self.oldest[number].load(Ordering::Relaxed), number))
                .filter(|(seq, _)| *seq != 0)
                .min();
            let Some((_, number)) = oldest else { return };
            let mut shard = lock(&self.shards[number]);
            // Others may have been here meanwhile: then there is less to do.
            if self.len() <= self.most.load(Ordering::Relaxed) {
                return;
            }
            if let Some(at) = shard.expired(now) {
                self.close(&mut shard, number, at, false);
            } else if let Some(at) = shard.first() {
                self.close(&mut shard, number, at, true);
            }
            self.note_oldest(number, &shard);
        }
    }

    /// Closes up to about `most` expired windows; whether there is more to do. `free` is given a
    /// shard that has been empty for a while, if there is one.
    pub fn sweep(&self, now: u64, most: usize, free: impl FnOnce(Idle<E>)) -> bool {
        let mut closed = 0;
        for (number, shard) in self.shards.iter().enumerate() {
            let mut shard = lock(shard);
            while let Some(at) = shard.expired(now) {
                if closed == most {
                    self.note_oldest(number, &shard);
                    return true;
                }
                self.close(&mut shard, number, at, false);
                closed += 1;
            }
            let idle = shard.rest(now);
            self.note_oldest(number, &shard);
            drop(shard);
            if let Some(idle) = idle {
                free(Idle(idle));
                return true;
            }
        }
        false
    }

    /// How many windows there are.
    pub fn len(&self) -> u64 {
        // In this order the answer misses only windows that were opened meanwhile, whose openers
        // look themselves: so the last of them keeps the bound, and none closes more than it
        // must.
        let opened = self.opened.load(Ordering::Acquire);
        opened.saturating_sub(self.closed.load(Ordering::Acquire))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many windows were closed early, at the bound.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// Closes all windows and forgets what was counted. Openers are not told.
    pub fn clear(&self) {
        for (number, shard) in self.shards.iter().enumerate() {
            let mut shard = lock(shard);
            let old = std::mem::replace(&mut *shard, Shard::new());
            self.closed.fetch_add(old.count as u64, Ordering::Relaxed);
            self.note_oldest(number, &shard);
            // Nobody waits until it is freed.
            drop(shard);
        }
        self.evicted.store(0, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
