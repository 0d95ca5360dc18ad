//! Circuit breakers: closed, open, half-open or isolated, by what became of the calls.
//!
//! ```text
//!             too many failures, or slow calls
//!   closed ─────────────────────────────────────► open ◄───────────┐
//!     ▲                                            │ time is over,  │ a probe fails,
//!     │                                            ▼ and a call     │ or its process dies
//!     └────────── `probes` good probes ──────── half-open ──────────┘
//!
//!   isolate: from anywhere to isolated.   reset: from anywhere to closed.
//! ```
//!
//! Each change of state begins a new generation, and a call counts only in the generation in which
//! it was admitted. A probe has a place until it is recorded, its process dies, or its time is
//! over, so a half-open breaker cannot stick. All times are nanoseconds that the caller reads.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::held::{Held, IntoIter};
use crate::key::{Key, Opaque, Seed};
use crate::keyed::{Cell, Keyable, Keyed, NoState};
use crate::owners::Owners;
use crate::permits::{Undecided, next_id, spread};
use crate::table::OutOfMemory;

/// Which calls decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// The last ones, so many.
    Count(u32),
    /// Those of the last nanoseconds.
    Time(u64),
}

/// The settings of an instance, for all its breakers. Times are in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Which calls decide.
    pub span: Span,
    /// How many calls there must be.
    pub min_calls: u32,
    /// The share of failures that opens.
    pub failure_rate: f64,
    /// From which duration on a call is slow; `None` for never.
    pub slow: Option<u64>,
    /// The share of slow calls that opens.
    pub slow_rate: f64,
    /// How long it is open the first time.
    pub open: u64,
    /// How long at most.
    pub max_open: u64,
    /// By which share an open time is longer or shorter.
    pub jitter: f64,
    /// How many probes there are at a time, and how many must be good.
    pub probes: u32,
    /// When a probe gives its place back.
    pub probe_timeout: u64,
}

/// The state of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Calls are admitted.
    Closed,
    /// Calls are refused.
    Open,
    /// Some calls are admitted.
    HalfOpen,
    /// Calls are refused until it is reset.
    Isolated,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Ok,
    /// It failed.
    Error,
    /// It says nothing of the service.
    Ignore,
}

/// A change of state, to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The new state.
    pub to: Phase,
    /// The window's calls.
    pub calls: u32,
    /// The window's failures.
    pub failures: u32,
    /// The window's slow calls.
    pub slow: u32,
    /// How long it is open, or was, in nanoseconds.
    pub open: u64,
}

/// The changes of state that one call brings about: half-open and open again at most.
pub type Transitions = Vec<Transition>;

/// Why a call is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Open for so many nanoseconds more.
    Open(u64),
    /// Isolated.
    Isolated,
    /// As many probes are out as there may be.
    Probing,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    calls: u32,
    failures: u32,
    slow: u32,
}

impl Counts {
    fn add(&mut self, other: Counts) {
        self.calls = self.calls.saturating_add(other.calls);
        self.failures = self.failures.saturating_add(other.failures);
        self.slow = self.slow.saturating_add(other.slow);
    }

    fn subtract(&mut self, other: Counts) {
        self.calls = self.calls.saturating_sub(other.calls);
        self.failures = self.failures.saturating_sub(other.failures);
        self.slow = self.slow.saturating_sub(other.slow);
    }
}

/// How many slices a time window has.
const SLICES: u64 = 16;

/// The largest number of calls that one process has out. Another call makes it forget an old one.
/// Without that, a process that never records would fill the memory.
const CALLS_MAX: usize = 10_000;

/// The calls that decide.
#[derive(Debug)]
enum Window {
    Empty,
    /// Two bits a call, failed and slow, in a ring.
    Count {
        bits: Box<[u64]>,
        size: u32,
        next: u32,
        counts: Counts,
    },
    /// The slices in which there were calls, oldest first. A slice counts until all of it is older
    /// than the window.
    Time {
        slice: u64,
        slices: VecDeque<(u64, Counts)>,
        counts: Counts,
    },
}

impl Window {
    fn new(span: Span) -> Self {
        match span {
            Span::Count(size) => Window::Count {
                bits: vec![0; (2 * size as usize).div_ceil(64)].into(),
                size,
                next: 0,
                counts: Counts::default(),
            },
            Span::Time(time) => Window::Time {
                slice: (time / SLICES).max(1),
                // Most keys of many have calls in few slices.
                slices: VecDeque::with_capacity(1),
                counts: Counts::default(),
            },
        }
    }

    fn is_of(&self, span: Span) -> bool {
        match (self, span) {
            (Window::Empty, _) => true,
            (Window::Count { size, .. }, Span::Count(wanted)) => *size == wanted,
            (Window::Time { slice, .. }, Span::Time(time)) => *slice == (time / SLICES).max(1),
            _ => false,
        }
    }

    fn add(&mut self, failed: bool, slow: bool, now: u64) {
        let one = Counts {
            calls: 1,
            failures: u32::from(failed),
            slow: u32::from(slow),
        };
        match self {
            Window::Empty => {}
            Window::Count {
                bits,
                size,
                next,
                counts,
            } => {
                let (word, shift) = (*next as usize / 32, *next % 32 * 2);
                if counts.calls == *size {
                    let old = bits[word] >> shift;
                    counts.subtract(Counts {
                        calls: 1,
                        failures: (old & 1) as u32,
                        slow: (old >> 1 & 1) as u32,
                    });
                }
                bits[word] &= !(3 << shift);
                bits[word] |= (u64::from(failed) | u64::from(slow) << 1) << shift;
                counts.add(one);
                *next = (*next + 1) % *size;
            }
            Window::Time {
                slice,
                slices,
                counts,
            } => {
                let current = now / *slice;
                match slices.back_mut() {
                    // A clock that was read before another caller's is as good as that one.
                    Some((last, sums)) if *last >= current => sums.add(one),
                    _ => slices.push_back((current, one)),
                }
                counts.add(one);
            }
        }
    }

    fn counts(&mut self, now: u64) -> Counts {
        match self {
            Window::Empty => Counts::default(),
            Window::Count { counts, .. } => *counts,
            Window::Time {
                slice,
                slices,
                counts,
            } => {
                let current = now / *slice;
                while let Some((first, sums)) = slices.front() {
                    if first + SLICES >= current {
                        break;
                    }
                    counts.subtract(*sums);
                    slices.pop_front();
                }
                *counts
            }
        }
    }

    /// From when on there is no failure and no slow call in it.
    fn clean_from(&self) -> Option<u64> {
        match self {
            Window::Empty => Some(0),
            Window::Count { counts, .. } => (counts.failures + counts.slow == 0).then_some(0),
            Window::Time { slice, slices, .. } => {
                let is_bad = |sums: &Counts| sums.failures + sums.slow > 0;
                let bad = slices.iter().rev().find(|(_, sums)| is_bad(sums));
                Some(bad.map_or(0, |(last, _)| (last + SLICES + 1).saturating_mul(*slice)))
            }
        }
    }

    fn heap(&self) -> usize {
        match self {
            Window::Empty => 0,
            Window::Count { bits, .. } => size_of_val(&**bits),
            Window::Time { slices, .. } => slices.capacity() * size_of::<(u64, Counts)>(),
        }
    }

    /// The outcomes of a count window, oldest first.
    fn outcomes(&self) -> Vec<(bool, bool)> {
        let Window::Count {
            bits,
            size,
            next,
            counts,
        } = self
        else {
            return Vec::new();
        };
        let first = (next + size - counts.calls) % size;
        let places = (0..counts.calls).map(|step| (first + step) % size);
        let pair = |place: u32| bits[place as usize / 32] >> (place % 32 * 2);
        places
            .map(|place| (pair(place) & 1 == 1, pair(place) >> 1 & 1 == 1))
            .collect()
    }
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    id: u64,
    expires: u64,
}

/// The breaker of one key.
#[derive(Debug)]
pub struct Breaker {
    phase: Phase,
    /// Counts the changes of state.
    generation: u32,
    window: Window,
    /// Calls that were admitted while it was closed, and have not ended.
    out: u32,
    /// Probes that were good.
    good: u32,
    /// Probes that are out.
    probes: Vec<Probe>,
    /// How often it has opened since it was closed.
    opened_in_row: u32,
    opened: u32,
    rejected: u64,
    /// Until when it is open, and for how long.
    until: u64,
    open: u64,
}

/// A call that has been admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    generation: u32,
    started: u64,
    is_probe: bool,
}

/// A breaker's figures. Times are in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the public function")]
pub struct Figures {
    pub phase: Phase,
    pub calls: u32,
    pub failures: u32,
    pub slow: u32,
    pub retry_after: Option<u64>,
    pub rejected: u64,
    pub opened: u32,
    pub probes: u32,
}

impl Default for Breaker {
    fn default() -> Self {
        Breaker {
            phase: Phase::Closed,
            generation: 0,
            window: Window::Empty,
            out: 0,
            good: 0,
            probes: Vec::new(),
            opened_in_row: 0,
            opened: 0,
            rejected: 0,
            until: 0,
            open: 0,
        }
    }
}

impl Keyable for Breaker {
    fn idle_from(&self) -> Option<u64> {
        if self.phase == Phase::Closed && self.out == 0 {
            self.window.clean_from()
        } else {
            None
        }
    }

    fn heap(&self) -> usize {
        self.window.heap() + self.probes.capacity() * size_of::<Probe>()
    }
}

fn rate(part: u32, calls: u32) -> f64 {
    f64::from(part) / f64::from(calls)
}

impl Breaker {
    /// Asks for a call and returns its id. It calls `settings` and `new_id` only if it needs them:
    /// most refusals need neither.
    ///
    /// # Errors
    ///
    /// See [`Refusal`].
    pub fn ask(
        &mut self,
        settings: impl FnOnce() -> Settings,
        new_id: impl FnOnce() -> u64,
        now: u64,
        changed: &mut Transitions,
    ) -> Result<(u64, Admitted), Refusal> {
        let admitted = self.admit(settings, new_id, now, changed);
        self.rejected += u64::from(admitted.is_err());
        admitted
    }

    fn admit(
        &mut self,
        settings: impl FnOnce() -> Settings,
        new_id: impl FnOnce() -> u64,
        now: u64,
        changed: &mut Transitions,
    ) -> Result<(u64, Admitted), Refusal> {
        match self.phase {
            Phase::Closed => {
                self.out = self.out.saturating_add(1);
                return Ok((new_id(), self.admitted(now, false)));
            }
            Phase::Isolated => return Err(Refusal::Isolated),
            Phase::Open if now < self.until => return Err(Refusal::Open(self.until - now)),
            Phase::Open => {
                self.enter(Phase::HalfOpen, now, changed);
                self.good = 0;
            }
            Phase::HalfOpen => self.expire(now),
        }
        let settings = settings();
        if self.probes.len() >= settings.probes as usize {
            return Err(Refusal::Probing);
        }
        let id = new_id();
        let expires = now.saturating_add(settings.probe_timeout);
        self.probes.push(Probe { id, expires });
        Ok((id, self.admitted(now, true)))
    }

    fn admitted(&self, started: u64, is_probe: bool) -> Admitted {
        Admitted {
            generation: self.generation,
            started,
            is_probe,
        }
    }

    /// Counts how a call ended. `random` is a number from 0 up to 1.
    pub fn record(
        &mut self,
        settings: &Settings,
        (id, call): (u64, Admitted),
        outcome: Outcome,
        (now, random): (u64, f64),
        changed: &mut Transitions,
    ) {
        let duration = now.saturating_sub(call.started);
        let slow = settings.slow.is_some_and(|slow| duration >= slow);
        if call.is_probe {
            self.expire(now);
            if self.take_probe(id) {
                match outcome {
                    Outcome::Ignore => {}
                    Outcome::Ok if !slow => self.succeed(settings, now, changed),
                    Outcome::Ok | Outcome::Error => self.open(settings, now, random, changed),
                }
            }
            return;
        }
        self.out = self.out.saturating_sub(1);
        if call.generation != self.generation || outcome == Outcome::Ignore {
            return;
        }
        self.fit_window(settings, now);
        self.window.add(outcome == Outcome::Error, slow, now);
        let counts = self.window.counts(now);
        let too_many = rate(counts.failures, counts.calls) >= settings.failure_rate
            || (settings.slow.is_some() && rate(counts.slow, counts.calls) >= settings.slow_rate);
        if counts.calls >= settings.min_calls && too_many {
            self.open(settings, now, random, changed);
        }
    }

    /// Takes note of the death of a call's process.
    pub fn lose(
        &mut self,
        settings: &Settings,
        (id, call): (u64, Admitted),
        (now, random): (u64, f64),
        changed: &mut Transitions,
    ) {
        if !call.is_probe {
            self.out = self.out.saturating_sub(1);
            return;
        }
        self.expire(now);
        if self.take_probe(id) {
            self.open(settings, now, random, changed);
        }
    }

    /// Refuses all calls from now on.
    pub fn isolate(&mut self, now: u64, changed: &mut Transitions) {
        if self.phase != Phase::Isolated {
            self.enter(Phase::Isolated, now, changed);
        }
    }

    /// Closes it, and forgets all calls.
    pub fn reset(&mut self, now: u64, changed: &mut Transitions) {
        if self.phase == Phase::Closed {
            self.window = Window::Empty;
            self.generation = self.generation.wrapping_add(1);
        } else {
            self.close(now, changed);
        }
    }

    /// The state, also when its time is over and no call has come.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The figures.
    pub fn figures(&mut self, settings: &Settings, now: u64) -> Figures {
        self.expire(now);
        self.fit_window(settings, now);
        let counts = self.window.counts(now);
        Figures {
            phase: self.phase,
            calls: counts.calls,
            failures: counts.failures,
            slow: counts.slow,
            retry_after: (self.phase == Phase::Open).then(|| self.until.saturating_sub(now)),
            rejected: self.rejected,
            opened: self.opened,
            probes: self.probes.len() as u32,
        }
    }

    /// Makes the window one of these settings. A longer or shorter count window keeps its newest
    /// calls.
    fn fit_window(&mut self, settings: &Settings, now: u64) {
        if !matches!(self.window, Window::Empty) && self.window.is_of(settings.span) {
            return;
        }
        let mut window = Window::new(settings.span);
        if let Span::Count(_) = settings.span {
            for (failed, slow) in self.window.outcomes() {
                window.add(failed, slow, now);
            }
        }
        self.window = window;
    }

    fn succeed(&mut self, settings: &Settings, now: u64, changed: &mut Transitions) {
        self.good += 1;
        if self.good >= settings.probes {
            self.close(now, changed);
        }
    }

    fn close(&mut self, now: u64, changed: &mut Transitions) {
        self.window = Window::Empty;
        self.opened_in_row = 0;
        self.enter(Phase::Closed, now, changed);
    }

    fn open(&mut self, settings: &Settings, now: u64, random: f64, changed: &mut Transitions) {
        let doubled = 1u64
            .checked_shl(self.opened_in_row)
            .and_then(|factor| settings.open.checked_mul(factor))
            .map_or(settings.max_open, |open| open.min(settings.max_open));
        let factor = 1.0 + settings.jitter * (2.0 * random - 1.0);
        self.open = ((doubled as f64 * factor) as u64).min(settings.max_open);
        self.until = now.saturating_add(self.open);
        self.opened_in_row = self.opened_in_row.saturating_add(1);
        self.opened = self.opened.saturating_add(1);
        self.enter(Phase::Open, now, changed);
    }

    fn enter(&mut self, phase: Phase, now: u64, changed: &mut Transitions) {
        self.phase = phase;
        self.generation = self.generation.wrapping_add(1);
        self.probes = Vec::new();
        self.good = 0;
        let counts = self.window.counts(now);
        changed.push(Transition {
            to: phase,
            calls: counts.calls,
            failures: counts.failures,
            slow: counts.slow,
            open: self.open,
        });
    }

    fn expire(&mut self, now: u64) {
        self.probes.retain(|probe| now < probe.expires);
    }

    fn take_probe(&mut self, id: u64) -> bool {
        match self.probes.iter().position(|probe| probe.id == id) {
            Some(index) => {
                self.probes.swap_remove(index);
                true
            }
            None => false,
        }
    }
}

/// A call that its process has not recorded.
pub struct Call {
    id: u64,
    admitted: Admitted,
    cell: Arc<Cell<Breaker>>,
}

impl Held for Call {
    fn hash(&self) -> u64 {
        spread(self.id)
    }
}

/// The calls of a dead process that are still to be ended.
pub struct PendingCleanup(IntoIter<Call>);

/// All breakers of an instance, and who has which calls out.
pub struct Breakers<F: Opaque> {
    keyed: Keyed<F, Breaker>,
    owners: Owners<Call>,
}

impl<F: Opaque> Breakers<F> {
    /// All closed.
    ///
    /// # Errors
    ///
    /// When there is no memory for it.
    pub fn new(seed: Seed, max_keys: u64) -> Result<Self, OutOfMemory> {
        Ok(Breakers {
            keyed: Keyed::new(seed, max_keys, Breaker::default())?,
            owners: Owners::new(),
        })
    }

    /// The breakers.
    pub fn keyed(&self) -> &Keyed<F, Breaker> {
        &self.keyed
    }

    /// Asks for a call of a process and returns its id.
    ///
    /// The breaker decides first, so a refusal takes the lock of the breaker alone. Then the
    /// process holds the call. If the process is dead by then, the call ends at once.
    ///
    /// # Errors
    ///
    /// When that was not decided; the process has no call then.
    #[expect(
        clippy::too_many_arguments,
        reason = "a call, its time and its effects"
    )]
    pub fn ask(
        &self,
        settings: impl Fn() -> Settings,
        owner: u64,
        key: Option<&Key<'_, F::Probe>>,
        patient: bool,
        now: impl Fn() -> u64,
        watch: impl FnOnce() -> bool,
        changed: &mut Transitions,
    ) -> Result<Result<u64, Refusal>, Undecided> {
        let asked = self
            .keyed
            .with(key, patient, &now, Breaker::default, |cell, breaker| {
                let (id, admitted) = breaker.ask(&settings, next_id, now(), changed)?;
                let cell = cell.clone();
                Ok(Call { id, admitted, cell })
            })?;
        let call = match asked {
            Ok(call) => call,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let id = call.id;
        let mut call = Some(call);
        let held = self.owners.hold(owner, watch, |held| {
            held.reserve(spread(id))?;
            let old = (held.len() >= CALLS_MAX)
                .then(|| held.remove_low(spread(id), |call| call.id))
                .flatten();
            if let Some(call) = call.take() {
                held.insert(call);
            }
            Ok::<_, OutOfMemory>(old)
        });
        let mut held = held.and_then(|held| Ok(held?));
        // A dead process does not get its new call. A live one may have lost an old call.
        if let Some(forgotten) = call.or_else(|| held.as_mut().ok()?.take()) {
            self.forget(&settings(), &forgotten, now());
        }
        held?;
        Ok(Ok(id))
    }

    /// Ends a call without an outcome.
    fn forget(&self, settings: &Settings, call: &Call, now: u64) {
        self.keyed.change(&call.cell, |_cell, breaker| {
            let admitted = (call.id, call.admitted);
            // It changes no state.
            breaker.record(
                settings,
                admitted,
                Outcome::Ignore,
                (now, 0.0),
                &mut Vec::new(),
            );
        });
    }

    /// Records how a call ended, once; `false` if it was recorded before.
    pub fn record(
        &self,
        settings: &Settings,
        (owner, id): (u64, u64),
        outcome: Outcome,
        (now, random): (impl Fn() -> u64, f64),
        changed: &mut Transitions,
    ) -> Option<Arc<Cell<Breaker>>> {
        let take =
            |held: &mut crate::held::HeldSet<Call>| held.remove(spread(id), |call| call.id == id);
        let call = self.owners.with(owner, take).flatten()?;
        self.keyed.change(&call.cell, |_cell, breaker| {
            let admitted = (id, call.admitted);
            breaker.record(settings, admitted, outcome, (now(), random), changed);
        });
        Some(call.cell)
    }

    /// Declares a process dead; its calls are then ended in steps.
    pub fn mark_dead(&self, owner: u64) -> PendingCleanup {
        PendingCleanup(self.owners.mark_dead(owner).into_iter())
    }

    /// Ends a call of a dead process, and gives the breaker that it was of; `None` when none is
    /// left.
    pub fn reclaim(
        &self,
        settings: &Settings,
        pending: &mut PendingCleanup,
        (now, random): (impl Fn() -> u64, f64),
        changed: &mut Transitions,
    ) -> Option<Arc<Cell<Breaker>>> {
        let call = pending.0.next()?;
        self.keyed.change(&call.cell, |_cell, breaker| {
            breaker.lose(settings, (call.id, call.admitted), (now(), random), changed);
        });
        Some(call.cell)
    }

    /// Changes the breaker of a key, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// See [`NoState`].
    pub fn change<R>(
        &self,
        key: Option<&Key<'_, F::Probe>>,
        patient: bool,
        now: impl Fn() -> u64,
        change: impl FnOnce(&mut Breaker) -> R,
    ) -> Result<R, NoState> {
        self.keyed
            .with(key, patient, now, Breaker::default, |_cell, breaker| {
                change(breaker)
            })
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
