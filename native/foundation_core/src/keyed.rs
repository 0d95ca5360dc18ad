//! State for each key of an instance: made on first use, and dropped when it is idle and another
//! key needs the place.
//!
//! ```text
//!   bare name ───────────► cell
//!   table: key ──────────► cell ◄── queue of candidates, by the time from which each is idle
//!                          │ lock
//!                          └ state, `queued`: the time under which the cell is in the queue
//! ```
//!
//! The queue is lazy, so that a call on a known key does not touch it. A cell stands in it under a
//! time that is not later than the one from which it is idle. At the bound the first candidates are
//! examined. An idle one is removed. A busy one leaves the queue until it is released. One that is
//! idle later goes back under its new time. The queue is empty, or its first time is in
//! the future, if and only if no key is idle.
//!
//! Locks are taken in this order: owner, queue, cell.

use std::cmp::Ordering as Order;
use std::collections::BinaryHeap;
use std::sync::Arc;

use crate::key::{Key, KeyView, Opaque, Seed};
use crate::primitive::{AtomicU64, Mutex, MutexGuard, Ordering, lock};
use crate::table::{Guard, Inserted, Object, OutOfMemory, Table, Value, ValueView, pin};

/// The state of one key.
pub trait Keyable: Send + 'static {
    /// The time from which the state is as good as none, unless it is used again: 0 if it is so
    /// already, `None` while something is out.
    fn idle_from(&self) -> Option<u64>;

    /// The bytes that it holds beside itself.
    fn heap(&self) -> usize;
}

/// One key's state behind its lock.
pub struct Cell<S> {
    /// The hash of the key in the table.
    hash: u64,
    slot: Mutex<Slot<S>>,
}

struct Slot<S> {
    /// See [`OUT`], [`BARE`] and [`GONE`].
    queued: u64,
    state: S,
}

/// The cell is busy, and in no queue.
const OUT: u64 = u64::MAX;
/// The cell is that of the bare name, which is never in the queue.
const BARE: u64 = u64::MAX - 1;
/// The cell has been removed from the table.
const GONE: u64 = u64::MAX - 2;
/// The last time under which a cell can be queued.
const LATEST: u64 = u64::MAX - 3;

/// A cell in the queue.
struct Candidate<S> {
    from: u64,
    cell: Arc<Cell<S>>,
}

impl<S> PartialEq for Candidate<S> {
    fn eq(&self, other: &Self) -> bool {
        self.from == other.from
    }
}

impl<S> Eq for Candidate<S> {}

impl<S> PartialOrd for Candidate<S> {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl<S> Ord for Candidate<S> {
    /// The earliest is the greatest, which is what a heap gives first.
    fn cmp(&self, other: &Self) -> Order {
        other.from.cmp(&self.from)
    }
}

/// The value of a key in the table.
struct Entry<S>(Arc<Cell<S>>);

impl<S: Keyable> Object for Entry<S> {
    fn size(&self) -> usize {
        size_of::<Self>() + size_of::<Cell<S>>() + 2 * size_of::<usize>()
    }
}

struct Queue<S> {
    candidates: BinaryHeap<Candidate<S>>,
    keys: usize,
}

/// The states of an instance, by key.
pub struct Keyed<F: Opaque, S: Keyable> {
    bare: Arc<Cell<S>>,
    table: Table<F, Entry<S>>,
    queue: Mutex<Queue<S>>,
    max_keys: AtomicU64,
}

/// Why there is no state for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoState {
    /// There are as many keys as there may be, and none of them is idle.
    MaxKeys,
    /// There was no memory for it.
    OutOfMemory,
    /// So many keys had to be looked at for an idle one that the call is to be made again with the
    /// time for it.
    TakesLong,
}

impl From<OutOfMemory> for NoState {
    fn from(_: OutOfMemory) -> Self {
        NoState::OutOfMemory
    }
}

/// How many candidates are looked at under one lock.
const CANDIDATES: usize = 64;

/// The outcome of a search for an idle key.
enum Room {
    Made,
    None,
    Unknown,
}

impl<F: Opaque, S: Keyable> Keyed<F, S> {
    /// No keys yet, and the bare name's state.
    ///
    /// # Errors
    ///
    /// When there is no memory for it.
    pub fn new(seed: Seed, max_keys: u64, bare: S) -> Result<Self, OutOfMemory> {
        Ok(Keyed {
            bare: Arc::new(Cell {
                hash: 0,
                slot: Mutex::new(Slot {
                    queued: BARE,
                    state: bare,
                }),
            }),
            table: Table::new(seed)?,
            queue: Mutex::new(Queue {
                candidates: BinaryHeap::new(),
                keys: 0,
            }),
            max_keys: AtomicU64::new(max_keys),
        })
    }

    /// Sets how many keys there may be. Keys above that stay until they are idle.
    pub fn set_max_keys(&self, max_keys: u64) {
        self.max_keys.store(max_keys, Ordering::Relaxed);
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        lock(&self.queue).keys
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of memory of all keys, without what their states hold beside themselves.
    pub fn memory(&self) -> usize {
        let queue = lock(&self.queue);
        self.table.memory() + queue.candidates.capacity() * size_of::<Candidate<S>>()
    }

    /// The state of a key, or of the bare name; it is made if it is not there.
    ///
    /// `change` is called once, unless there is an error. With `patient` it looks at as many keys
    /// as it takes.
    ///
    /// # Errors
    ///
    /// See [`NoState`]; nothing has changed then.
    pub fn with<R>(
        &self,
        key: Option<&Key<'_, F::Probe>>,
        patient: bool,
        now: impl Fn() -> u64,
        make: impl Fn() -> S,
        change: impl FnOnce(&Arc<Cell<S>>, &mut S) -> R,
    ) -> Result<R, NoState> {
        let Some(key) = key else {
            let mut slot = lock(&self.bare.slot);
            return Ok(change(&self.bare, &mut slot.state));
        };
        let (hash, guard) = (self.table.hash(key), pin());
        let mut change = Some(change);
        loop {
            // A cell that is removed between the lookup and the lock is made anew: `create` waits
            // for the removal.
            if let Some(cell) = self.cell(key, hash, &guard)
                && let Some(result) = self.try_change(cell, &mut change)
            {
                return Ok(result);
            }
            match self.create(key, hash, &now, &make, &mut change, &guard) {
                Err(NoState::TakesLong) if patient => {}
                Ok(None) => {}
                Ok(Some(result)) => return Ok(result),
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads the state of a key, or of the bare name, if it is there.
    pub fn read<R>(
        &self,
        key: Option<&Key<'_, F::Probe>>,
        read: impl FnOnce(&Arc<Cell<S>>, &mut S) -> R,
    ) -> Option<R> {
        let guard = pin();
        let cell = match key {
            None => &self.bare,
            Some(key) => self.cell(key, self.table.hash(key), &guard)?,
        };
        self.try_change(cell, &mut Some(read))
    }

    /// Changes the state of a cell that something is out of, so that it has not been removed.
    pub fn change<R>(
        &self,
        cell: &Arc<Cell<S>>,
        change: impl FnOnce(&Arc<Cell<S>>, &mut S) -> R,
    ) -> Option<R> {
        self.try_change(cell, &mut Some(change))
    }

    /// Calls `visit` with some cells, from the hash `from` on; returns where to go on. The bare
    /// name's comes first.
    pub fn walk(
        &self,
        from: u64,
        limit: usize,
        mut visit: impl FnMut(&Arc<Cell<S>>, Option<KeyView<'_, F>>),
    ) -> Option<u64> {
        let guard = pin();
        if from == 0 {
            visit(&self.bare, None);
        }
        self.table.walk(from, limit, &guard, |visited| {
            if let ValueView::Object(Entry(cell)) = visited.entry.value {
                visit(cell, Some(visited.key));
            }
        })
    }

    /// Shows the key of a cell; `None` for the bare name's, and for one that has been removed.
    pub fn with_key_of<R>(
        &self,
        cell: &Arc<Cell<S>>,
        show: impl FnOnce(Option<KeyView<'_, F>>) -> R,
    ) -> R {
        let guard = pin();
        let is_this = |entry: &crate::table::Entry<'_, Entry<S>>| match entry.value {
            ValueView::Object(Entry(other)) => Arc::ptr_eq(other, cell),
            ValueView::Word(_) | ValueView::Bytes(_) => false,
        };
        let found = self.table.get_by_hash(cell.hash, is_this, &guard);
        show(found.map(|visited| visited.key))
    }

    /// Whether a cell is that of the bare name.
    pub fn is_bare(&self, cell: &Arc<Cell<S>>) -> bool {
        Arc::ptr_eq(cell, &self.bare)
    }

    fn cell<'g>(
        &self,
        key: &Key<'_, F::Probe>,
        hash: u64,
        guard: &'g Guard,
    ) -> Option<&'g Arc<Cell<S>>> {
        match self.table.get(key, hash, guard)?.value {
            ValueView::Object(Entry(cell)) => Some(cell),
            ValueView::Word(_) | ValueView::Bytes(_) => None,
        }
    }

    /// `None` if the cell has been removed.
    fn try_change<R, C>(&self, cell: &Arc<Cell<S>>, change: &mut Option<C>) -> Option<R>
    where
        C: FnOnce(&Arc<Cell<S>>, &mut S) -> R,
    {
        let mut slot = lock(&cell.slot);
        if slot.queued == GONE {
            return None;
        }
        let result = change.take()?(cell, &mut slot.state);
        if slot.queued == BARE {
            return Some(result);
        }
        if let Some(from) = slot.state.idle_from().map(|from| from.min(LATEST))
            && from < slot.queued
        {
            slot.queued = from;
            drop(slot);
            let cell = cell.clone();
            lock(&self.queue).candidates.push(Candidate { from, cell });
        }
        Some(result)
    }

    fn create<R, C>(
        &self,
        key: &Key<'_, F::Probe>,
        hash: u64,
        now: &impl Fn() -> u64,
        make: &impl Fn() -> S,
        change: &mut Option<C>,
        guard: &Guard,
    ) -> Result<Option<R>, NoState>
    where
        C: FnOnce(&Arc<Cell<S>>, &mut S) -> R,
    {
        let mut queue = lock(&self.queue);
        // All keys are made under this lock.
        if self.cell(key, hash, guard).is_some() {
            return Ok(None);
        }
        while queue.keys as u64 >= self.max_keys.load(Ordering::Relaxed) {
            match self.make_room(&mut queue, now(), guard) {
                Room::Made => {}
                Room::None => return Err(NoState::MaxKeys),
                Room::Unknown => return Err(NoState::TakesLong),
            }
        }
        let cell = Arc::new(Cell {
            hash,
            slot: Mutex::new(Slot {
                queued: 0,
                state: make(),
            }),
        });
        let value = || Value::Object(Box::new(Entry(cell.clone())));
        let inserted = self.table.insert(key, hash, 1, value, |_| false, guard)?;
        debug_assert!(matches!(inserted, Inserted::New));
        queue.keys += 1;
        // Before anybody can find it idle.
        let mut slot = lock(&cell.slot);
        let Some(change) = change.take() else {
            return Ok(None);
        };
        let result = change(&cell, &mut slot.state);
        drop(slot);
        queue.candidates.push(Candidate { from: 0, cell });
        Ok(Some(result))
    }

    /// Removes a key that is idle.
    fn make_room(&self, queue: &mut MutexGuard<'_, Queue<S>>, now: u64, guard: &Guard) -> Room {
        for _ in 0..CANDIDATES {
            match queue.candidates.peek() {
                None => return Room::None,
                Some(first) if first.from > now => return Room::None,
                Some(_) => {}
            }
            let Some(Candidate { from, cell }) = queue.candidates.pop() else {
                return Room::None;
            };
            let mut slot = lock(&cell.slot);
            // It stands there under an earlier time too, and has been looked at.
            if slot.queued != from {
                continue;
            }
            match slot.state.idle_from().map(|from| from.min(LATEST)) {
                None => slot.queued = OUT,
                Some(from) if from > now => {
                    slot.queued = from;
                    drop(slot);
                    queue.candidates.push(Candidate { from, cell });
                }
                Some(_) => {
                    slot.queued = GONE;
                    drop(slot);
                    self.remove(&cell, guard);
                    queue.keys -= 1;
                    return Room::Made;
                }
            }
        }
        Room::Unknown
    }

    fn remove(&self, cell: &Arc<Cell<S>>, guard: &Guard) {
        let is_this = |value: &ValueView<'_, Entry<S>>| matches!(value, ValueView::Object(Entry(other)) if Arc::ptr_eq(other, cell));
        let hash = cell.hash;
        self.table
            .remove_by_hash(hash, |entry| is_this(&entry.value), guard);
    }
}

/// The bytes of all states, for tests and figures: a walk over all keys.
impl<F: Opaque, S: Keyable> Keyed<F, S> {
    /// The bytes that the states of all keys hold beside themselves.
    pub fn heap(&self) -> usize {
        let (mut heap, mut from) = (0, Some(0));
        while let Some(hash) = from {
            from = self.walk(hash, 1_000, |cell, _key| {
                heap += lock(&cell.slot).state.heap()
            });
        }
        heap
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
