//! The state of each telemetry event, by its name: settings, counts, strategy, batch.
//!
//! Event names come from a program's text, so there are few. An event stays for as long as the
//! program runs, and a lookup takes no lock. Past [`NAMES_MAX`] names, all further names share one
//! event.

use std::sync::OnceLock;

use crate::batch::Queue;
use crate::key::{Key, Seed};
use crate::primitive::{AtomicU64, Ordering};
use crate::sampler::Sampler;
use crate::window::Opener;

/// The most names that have an event of their own.
pub const NAMES_MAX: u64 = 10_000;
/// More slots than names, so a probe ends soon.
const SLOTS: usize = 16_384;
/// Counts that many schedulers write are kept in parts, one for each shard of the windows.
const PARTS: usize = crate::window::SHARDS;
/// Marks a setting that an event does not have.
const UNSET: u64 = u64::MAX;

/// One part of an event's counts, in a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Counts {
    /// Occurrences that were emitted or put into a batch.
    pub emitted: AtomicU64,
    /// Repeats in a window.
    pub suppressed: AtomicU64,
    /// Occurrences that the strategy did not choose.
    pub sampled_out: AtomicU64,
    /// Repeats that were counted under the lock of this part's shard.
    repeats: AtomicU64,
    /// The open windows of this part's shard, and the windows that it closed early. Written under
    /// the shard's lock.
    windows: AtomicU64,
    evicted: AtomicU64,
}

/// Adds to a count that has one writer at a time, which needs no atomic read-modify-write.
#[inline]
fn add(count: &AtomicU64, n: u64) {
    count.store(count.load(Ordering::Relaxed) + n, Ordering::Relaxed);
}

/// The outcomes of an event's occurrences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Emitted, alone or in a batch.
    pub emitted: u64,
    /// Repeats in a window.
    pub suppressed: u64,
    /// Not chosen by the strategy.
    pub sampled_out: u64,
    /// Refused by a batch.
    pub dropped: u64,
    /// Waiting in a batch.
    pub pending: u64,
}

/// A number that is set or unset.
#[derive(Debug)]
pub struct Setting(AtomicU64);

impl Default for Setting {
    fn default() -> Self {
        Setting(AtomicU64::new(UNSET))
    }
}

impl Setting {
    /// Sets the number; `None` unsets it.
    pub fn set(&self, value: Option<u64>) {
        self.0.store(value.unwrap_or(UNSET), Ordering::Relaxed);
    }

    /// Returns the number, or `default` when it is unset.
    #[inline]
    pub fn get_or(&self, default: impl FnOnce() -> u64) -> u64 {
        match self.0.load(Ordering::Relaxed) {
            UNSET => default(),
            value => value,
        }
    }
}

/// An event. `N` is its name as the caller wants to see it, `T` the objects in its batch.
#[derive(Debug)]
pub struct Event<N, T> {
    key: Box<[u8]>,
    id: u32,
    /// The name.
    pub name: N,
    counts: [Counts; PARTS],
    /// The duration of its windows.
    pub window: Setting,
    /// The number of events in a full batch.
    pub batch_size: Setting,
    /// The longest time that an event waits in a batch.
    pub batch_timeout: Setting,
    /// Its sampling strategy.
    pub sampler: Sampler,
    /// Its batch.
    pub queue: Queue<T>,
}

impl<N, T> Event<N, T> {
    /// Makes an event that is in no table yet.
    pub fn new(key: &[u8], name: N) -> Self {
        static IDS: AtomicU64 = AtomicU64::new(0);
        Event {
            key: key.into(),
            id: IDS.fetch_add(1, Ordering::Relaxed) as u32,
            name,
            counts: Default::default(),
            window: Setting::default(),
            batch_size: Setting::default(),
            batch_timeout: Setting::default(),
            sampler: Sampler::default(),
            queue: Queue::default(),
        }
    }

    /// Returns the counts for callers with this number. Callers with different numbers seldom
    /// contend.
    #[inline]
    pub fn counts(&self, number: usize) -> &Counts {
        &self.counts[number % PARTS]
    }

    /// Returns the outcomes of its occurrences.
    pub fn totals(&self) -> Totals {
        let batch = self.queue.totals();
        let mut totals = Totals {
            emitted: batch.emitted,
            dropped: batch.dropped,
            pending: batch.pending,
            ..Totals::default()
        };
        for counts in &self.counts {
            totals.emitted += counts.emitted.load(Ordering::Relaxed);
            totals.suppressed += counts.suppressed.load(Ordering::Relaxed);
            totals.suppressed += counts.repeats.load(Ordering::Relaxed);
            totals.sampled_out += counts.sampled_out.load(Ordering::Relaxed);
        }
        totals
    }

    /// Returns how many windows it has open, and how many were closed early.
    pub fn windows(&self) -> (u64, u64) {
        let sum = |of: fn(&Counts) -> &AtomicU64| {
            let parts = self.counts.iter();
            parts.map(|part| of(part).load(Ordering::Relaxed)).sum()
        };
        (sum(|part| &part.windows), sum(|part| &part.evicted))
    }

    /// Resets everything but the name.
    pub fn clear(&self, waiting: &AtomicU64) {
        for counts in &self.counts {
            counts.emitted.store(0, Ordering::Relaxed);
            counts.suppressed.store(0, Ordering::Relaxed);
            counts.repeats.store(0, Ordering::Relaxed);
            counts.sampled_out.store(0, Ordering::Relaxed);
            counts.windows.store(0, Ordering::Relaxed);
            counts.evicted.store(0, Ordering::Relaxed);
        }
        self.window.set(None);
        self.batch_size.set(None);
        self.batch_timeout.set(None);
        self.sampler.clear();
        self.queue.clear(waiting);
    }
}

impl<N, T> Opener for &Event<N, T> {
    #[inline]
    fn id(self) -> u32 {
        self.id
    }

    #[inline]
    fn repeated(self, shard: usize) {
        add(&self.counts(shard).repeats, 1);
    }

    #[inline]
    fn opened(self, shard: usize) {
        add(&self.counts(shard).windows, 1);
    }

    #[inline]
    fn closed(self, shard: usize, early: bool) {
        let counts = self.counts(shard);
        // A window that was opened while `clear` ran may not have been counted.
        let open = counts.windows.load(Ordering::Relaxed).saturating_sub(1);
        counts.windows.store(open, Ordering::Relaxed);
        if early {
            add(&counts.evicted, 1);
        }
    }
}

/// All events, by name.
#[derive(Debug)]
pub struct Events<N: 'static, T: 'static> {
    slots: Box<[OnceLock<&'static Event<N, T>>]>,
    seed: Seed,
    count: AtomicU64,
}

impl<N, T> Default for Events<N, T> {
    fn default() -> Self {
        Events {
            slots: (0..SLOTS).map(|_| OnceLock::new()).collect(),
            seed: Seed::random(),
            count: AtomicU64::new(0),
        }
    }
}

impl<N: Send + Sync, T: Send + Sync> Events<N, T> {
    fn probe<'s>(
        &'s self,
        key: &'s [u8],
    ) -> impl Iterator<Item = &'s OnceLock<&'static Event<N, T>>> {
        let start = self.seed.hash(&Key::<()>::Long(0, key)) as usize;
        (start..start + SLOTS).map(|at| &self.slots[at % SLOTS])
    }

    /// Returns the event of a name, given the bytes that identify the name.
    #[inline]
    pub fn get(&self, key: &[u8]) -> Option<&'static Event<N, T>> {
        self.probe(key)
            .map_while(|slot| slot.get())
            .find(|event| *event.key == *key)
            .copied()
    }

    /// Returns the event of a name. An unknown name gets a new event if there is room. `name`
    /// returns `None` when the bytes are not those of an event's name.
    pub fn get_or_insert(
        &self,
        key: &[u8],
        name: impl Fn() -> Option<N>,
    ) -> Option<&'static Event<N, T>> {
        for slot in self.probe(key) {
            if slot.get().is_none() {
                if self.count.load(Ordering::Relaxed) >= NAMES_MAX {
                    return None;
                }
                let fresh = name()?;
                // Never freed: callers may use it for as long as the program runs.
                let mut fresh = Some(Event::new(key, fresh));
                slot.get_or_init(|| {
                    self.count.fetch_add(1, Ordering::Relaxed);
                    let fresh = fresh.take();
                    Box::leak(Box::new(fresh.expect("an initializer runs once")))
                });
            }
            if let Some(event) = slot.get().filter(|event| *event.key == *key) {
                return Some(event);
            }
        }
        None
    }

    /// Returns whether there is room for another name.
    pub fn has_room(&self) -> bool {
        self.count.load(Ordering::Relaxed) < NAMES_MAX
    }

    /// Returns the events from a cursor on, and the next cursor. The first cursor is 0.
    pub fn walk(&self, cursor: usize, most: usize) -> (Vec<&'static Event<N, T>>, Option<usize>) {
        let mut found = Vec::new();
        for (at, slot) in self.slots.iter().enumerate().skip(cursor) {
            if found.len() == most {
                return (found, Some(at));
            }
            found.extend(slot.get());
        }
        (found, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_event_whoever_asks_first() {
        let events = Events::<u32, ()>::default();
        let key = |n: u32| n.to_le_bytes();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..500 {
                        let event = events.get_or_insert(&key(n), || Some(n));
                        let event = event.unwrap_or_else(|| panic!("there is room"));
                        event.counts(0).emitted.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        for n in 0..500 {
            let event = events
                .get(&key(n))
                .unwrap_or_else(|| panic!("{n} is known"));
            assert_eq!((event.name, event.totals().emitted), (n, 4));
        }
        assert!(events.get(&key(500)).is_none());
        assert!(events.get_or_insert(&key(500), || None).is_none());
        let (first, cursor) = events.walk(0, 300);
        let (second, end) = events.walk(cursor.unwrap_or(0), 300);
        assert_eq!((first.len(), second.len(), end), (300, 200, None));
    }

    #[test]
    fn names_past_the_bound_have_no_event() {
        let events = Events::<u64, ()>::default();
        for n in 0..NAMES_MAX {
            assert!(events.get_or_insert(&n.to_le_bytes(), || Some(n)).is_some());
        }
        assert!(events.get_or_insert(b"more", || Some(0)).is_none());
        assert!(events.get(&7u64.to_le_bytes()).is_some());
    }

    #[test]
    fn an_event_knows_its_own_windows() {
        let events = Events::<u64, ()>::default();
        let event = |key| {
            events
                .get_or_insert(key, || Some(0))
                .unwrap_or_else(|| panic!("there is room"))
        };
        let (a, b) = (event(b"a"), event(b"b"));
        let windows = crate::window::Windows::new(5);
        for n in 0..6u8 {
            windows.admit(a, &Key::new(0, &[n]), 0, || 10);
        }
        for n in 0..2u8 {
            windows.admit(b, &Key::new(0, &[n]), 1, || 100);
        }
        assert_eq!((a.windows(), b.windows()), ((3, 3), (2, 0)));
        // An expired window that is opened again counts as the same one.
        windows.admit(a, &Key::new(0, &[5]), 10, || 10);
        windows.admit(a, &Key::new(0, &[5]), 11, || 10);
        assert_eq!(a.totals().suppressed, 1);
        assert!(!windows.sweep(15, 100, drop));
        assert_eq!((a.windows(), b.windows()), ((1, 3), (2, 0)));
        a.clear(&AtomicU64::new(0));
        assert_eq!(a.windows(), (0, 0));
    }

    #[test]
    fn what_is_cleared_starts_anew() {
        let events = Events::<u64, ()>::default();
        let event = events
            .get_or_insert(b"a", || Some(0))
            .unwrap_or_else(|| panic!("there is room"));
        event.window.set(Some(5));
        event.counts(3).suppressed.fetch_add(1, Ordering::Relaxed);
        assert_eq!(event.window.get_or(|| 9), 5);
        event.clear(&AtomicU64::new(0));
        assert_eq!(
            (event.window.get_or(|| 9), event.totals()),
            (9, Totals::default())
        );
    }
}
