//! A cache: entries with an exact bound in bytes, a time of their own, and one load for each key.
//!
//! ```text
//!   readers ─► store ─► table: key ─► word, value      word: place, error?, end of freshness
//!                  └──► marks: place ─► bit            set by a read, if it is not set
//!
//!   writers ─► lock ─► queue: place ─► node            order of eviction, bytes, end of service
//!                  └─► loads: key ─► loader, waiters
//! ```
//!
//! A read that finds a fresh entry takes no lock. All writes, and the reads that find nothing
//! fresh, take the lock of the cache. So the table, the queue and the loads always agree behind
//! that lock.
//!
//! A load that runs holds a *lease* (Nishtala et al., NSDI 2013). Each write to its key ends the
//! lease, and the value of a load without its lease is not stored. So no read finds a value that
//! was loaded before the last write to its key.
//!
//! [`Cache::clear`] puts a new store in place of the old one. The caller frees the old one at
//! leisure.
//!
//! Locks are taken in this order: owner, cache.

mod counts;
mod loads;
mod marks;
mod queue;
mod reads;
mod word;
mod writes;

use std::sync::Arc;

use crate::handle::NotHeld;
use crate::held::IntoIter;
use crate::key::{Key, KeyView, Opaque, Seed};
use crate::owners::Owners;
use crate::permits::{next_id, spread};
use crate::primitive::{AtomicU64, Mutex, Ordering, lock};
use crate::table::{
    Blob, Entry, Guard, Names, Object, OutOfMemory, Table, Value, ValueView, Visited, pin,
};
use crate::window::Clock;

use counts::Reads;
pub use loads::Told;
use loads::{Hold, Loads};
use marks::Marks;
use queue::{Node, Queue};
pub use reads::{Begun, Found, Refused};
use word::Word;
pub use writes::{Finished, NotStored, Outcome, TakesLong};

/// The bytes of an entry beside its key and its value. They are a slot of the table at the average
/// load of a segment, a node of the queue, and a mark.
pub const OVERHEAD: usize = 58 + size_of::<Node>() + 1;

const NS_PER_MS: u64 = 1_000_000;

/// Milliseconds since the cache was made. The range is 4 years, and its last moment means that
/// there is no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Millis(u64);

impl Millis {
    const NEVER: Millis = Millis((1 << 37) - 1);
}

/// The bounds of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The bytes of all entries.
    pub bytes: u64,
    /// The number of entries.
    pub entries: u64,
    /// How long a load is waited for, in nanoseconds.
    pub load: u64,
}

impl Limits {
    /// Bounds the entries by the places that there are. There is always room for one.
    fn in_places(self) -> Self {
        Limits {
            entries: self.entries.clamp(1, u64::from(word::PLACES)),
            ..self
        }
    }
}

/// The part that readers see.
struct Store<F: Opaque, V: Object> {
    table: Table<F, V>,
    marks: Marks,
}

/// The part that writers change, behind the lock.
struct State<F: Opaque, V: Object> {
    limits: Limits,
    queue: Queue,
    loads: Loads<F, V>,
    entries: usize,
    bytes: usize,
    loaded: u64,
    load_errors: u64,
    evicted: u64,
    expired: u64,
    rejected: u64,
    /// Whether the cache is gone, so that no caller may wait.
    ended: bool,
}

/// A cache.
pub struct Cache<F: Opaque, V: Object> {
    /// One store, under the name [`STORE`]: readers find it without a lock, and a clear replaces
    /// it.
    store: Names<Store<F, V>>,
    state: Mutex<State<F, V>>,
    /// The parts of each process in loads.
    owners: Owners<Hold>,
    reads: Reads,
    seed: Seed,
    /// The time of the clock when the cache was made.
    start: u64,
    /// The longest load of an entry, in microseconds: no early refresh comes sooner than this says.
    longest: AtomicU64,
}

const STORE: u64 = 64;

/// The figures of a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the public function")]
pub struct Figures {
    pub hits: u64,
    pub misses: u64,
    pub loads: u64,
    pub load_errors: u64,
    pub stale_hits: u64,
    pub evicted: u64,
    pub expired: u64,
    pub rejected: u64,
    pub entries: u64,
    pub bytes: u64,
}

/// The entries of a cleared cache. Freeing them takes time in proportion to their number.
#[must_use = "freeing many entries may take long"]
pub struct Cleared<F: Opaque, V: Object> {
    store: Arc<Store<F, V>>,
    _queue: Queue,
}

impl<F: Opaque, V: Object> Cleared<F, V> {
    /// Frees the entries if no reader can be among them, or gives them back.
    ///
    /// # Errors
    ///
    /// When a reader may still use the entries.
    pub fn free(self) -> Result<(), Self> {
        let Cleared { store, _queue } = self;
        match Arc::try_unwrap(store) {
            Ok(store) => {
                drop(store);
                Ok(())
            }
            Err(store) => Err(Cleared { store, _queue }),
        }
    }
}

/// The parts of a dead process in loads that are still to be ended.
pub struct Dying(IntoIter<Hold>);

impl<F: Opaque, V: Object> Cache<F, V> {
    /// Makes an empty cache.
    ///
    /// # Errors
    ///
    /// When there is no memory for it.
    pub fn new(seed: Seed, limits: Limits, clock: impl Clock) -> Result<Self, OutOfMemory> {
        let cache = Cache {
            store: Names::default(),
            state: Mutex::new(State {
                limits: limits.in_places(),
                queue: Queue::new(),
                loads: Loads::new(seed.clone())?,
                entries: 0,
                bytes: 0,
                loaded: 0,
                load_errors: 0,
                evicted: 0,
                expired: 0,
                rejected: 0,
                ended: false,
            }),
            owners: Owners::new(),
            reads: Reads::default(),
            start: clock.now(),
            seed,
            longest: AtomicU64::new(0),
        };
        let store = Arc::new(cache.new_store()?);
        cache.store.change(STORE, |_| (Some(store), ()));
        Ok(cache)
    }

    fn new_store(&self) -> Result<Store<F, V>, OutOfMemory> {
        Ok(Store {
            // The seed stays, so that a walk goes on after a clear and visits no key twice.
            table: Table::new(self.seed.clone())?,
            marks: Marks::new(),
        })
    }

    #[inline]
    fn store<'g>(&self, guard: &'g Guard) -> &'g Store<F, V> {
        match self.store.get(STORE, guard) {
            Some(store) => store,
            None => unreachable!("a cache always has a store"),
        }
    }

    /// Sets other limits. [`Cache::trim`] evicts what is over them.
    pub fn set_limits(&self, limits: Limits) {
        lock(&self.state).limits = limits.in_places();
    }

    /// Returns the figures.
    pub fn figures(&self) -> Figures {
        let state = lock(&self.state);
        let [hits, misses, stale_hits] = self.reads.sums();
        Figures {
            hits,
            misses,
            loads: state.loaded,
            load_errors: state.load_errors,
            stale_hits,
            evicted: state.evicted,
            expired: state.expired,
            rejected: state.rejected,
            entries: state.entries as u64,
            bytes: state.bytes as u64,
        }
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        lock(&self.state).entries
    }

    /// Returns whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the time after `duration` milliseconds, rounded up; `None` has no end.
    fn after(&self, now: u64, duration: Option<u64>) -> Millis {
        let Some(duration) = duration else {
            return Millis::NEVER;
        };
        let since = now.saturating_sub(self.start).div_ceil(NS_PER_MS);
        Millis(since.saturating_add(duration).min(Millis::NEVER.0))
    }

    /// Returns the time of the clock as the cache counts it.
    fn millis(&self, now: u64) -> Millis {
        let since = now.saturating_sub(self.start) / NS_PER_MS;
        Millis(since.min(Millis::NEVER.0 - 1))
    }

    fn nanoseconds(&self, time: Millis) -> u64 {
        self.start + time.0 * NS_PER_MS
    }

    /// Ends all waits of a cache that is gone. Nobody can wait afterwards.
    pub fn end(&self) -> Vec<Told> {
        let mut told = Vec::new();
        let mut state = lock(&self.state);
        state.ended = true;
        state.loads.dismiss(&mut told);
        told
    }

    /// Forgets a wait that is over, when its process has been told.
    pub fn told(&self, told: &Told) {
        if !told.loads {
            self.owners.with(told.owner, |held| {
                held.remove(spread(told.id), |hold| hold.id == told.id)
            });
        }
    }

    /// Declares a process dead. [`Cache::end_dead`] then ends its parts in loads one by one.
    pub fn mark_dead(&self, owner: u64) -> Dying {
        Dying(self.owners.mark_dead(owner).into_iter())
    }

    /// Ends one part of a dead process, and returns the processes to tell. Returns `None` when
    /// there is none left.
    pub fn end_dead(
        &self,
        dying: &mut Dying,
        clock: impl Clock,
        is_alive: impl Fn(u64) -> bool,
    ) -> Option<Vec<Told>> {
        let hold = dying.0.next()?;
        let mut told = Vec::new();
        let mut state = lock(&self.state);
        state.loads.end_dead(hold, clock.now(), is_alive, &mut told);
        Some(told)
    }

    /// Visits entries with a value that can be served; see [`Table::walk`].
    pub fn walk<'g>(
        &self,
        from: u64,
        limit: usize,
        clock: impl Clock,
        guard: &'g Guard,
        mut visit: impl FnMut(Visited<'g, F, V>),
    ) -> Option<u64> {
        let store = self.store(guard);
        let now = self.millis(clock.now());
        store.table.walk(from, limit, guard, |visited| {
            let word = Word(visited.entry.owner);
            let is_served = !word.is_error()
                && (now < word.end() || self.served_until(store, visited.hash, word, guard) > now);
            if is_served {
                visit(visited);
            }
        })
    }
}

/// Returns the bytes of a key outside its slot.
fn key_size<F: Opaque>(key: &KeyView<'_, F>) -> usize {
    match key {
        KeyView::Inline { .. } => 0,
        KeyView::Long(_, bytes) => Blob::size_of(bytes),
        KeyView::Opaque(key) => key.size(),
    }
}

#[cfg(all(test, loom))]
mod loom_models;
#[cfg(all(test, not(loom)))]
mod tests;
