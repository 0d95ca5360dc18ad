//! The loads under way: who runs them, and who waits for them.
//!
//! ```text
//!   key ─► load ─► load (detached) ─► …           loads of one key
//!          ├ loader                               a party each
//!          └ waiting ◄─► waiting                  in the order of arrival
//! ```
//!
//! A load is attached to its key until a write to the key detaches it. A detached load still has
//! its loader and its waiters. It stores nothing, and no caller joins it.
//!
//! A loader and a waiter are both a *party*: an entry of one slab, and an item in what their
//! process holds. When a loader dies, the party of the first living waiter becomes the loader. So
//! nothing that the process holds changes then. All of it is behind the lock of the cache.

use crate::held::Held;
use crate::key::{Key, Opaque, Seed};
use crate::permits::spread;
use crate::table::{Guard, Object, OutOfMemory, Table, Value, ValueView, pin};

const NONE: u32 = u32::MAX;
/// How many places empty lists keep.
const KEPT: usize = 16;

/// The part of a process in a load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hold {
    pub(super) id: u64,
    pub(super) party: u32,
}

impl Held for Hold {
    fn hash(&self) -> u64 {
        spread(self.id)
    }
}

/// A slab: items that keep their index.
#[derive(Debug)]
struct Slab<T> {
    items: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    fn new() -> Self {
        Slab {
            items: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Returns the index that the next item gets. There is room for it.
    fn reserve(&mut self) -> Result<u32, OutOfMemory> {
        if let Some(index) = self.free.last() {
            return Ok(*index);
        }
        // There is always room to free all of them.
        let items = self.items.len() + 1;
        self.free
            .try_reserve(items)
            .and_then(|()| self.items.try_reserve(1))
            .map_err(|_| OutOfMemory)?;
        Ok((items - 1) as u32)
    }

    /// Adds an item where [`Slab::reserve`] said.
    fn insert(&mut self, item: T) {
        match self.free.pop() {
            Some(index) => self.items[index as usize] = Some(item),
            None => self.items.push(Some(item)),
        }
    }

    fn remove(&mut self, index: u32) -> Option<T> {
        let item = self.items.get_mut(index as usize)?.take()?;
        self.free.push(index);
        if self.free.len() == self.items.len() {
            self.items.clear();
            self.free.clear();
            self.items.shrink_to(KEPT);
            self.free.shrink_to(KEPT);
        }
        Some(item)
    }

    fn get(&self, index: u32) -> Option<&T> {
        self.items.get(index as usize)?.as_ref()
    }

    fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.items.get_mut(index as usize)?.as_mut()
    }
}

/// A process in a load.
#[derive(Debug)]
struct Party {
    owner: u64,
    id: u64,
    load: u32,
    /// Its neighbours among those who wait.
    older: u32,
    newer: u32,
}

#[derive(Debug)]
struct Load {
    hash: u64,
    /// The party that loads.
    loader: u32,
    /// When the loader began, in nanoseconds.
    started: u64,
    /// The value of [`Loads::epoch`] while it is attached; 0 once it is detached.
    epoch: u64,
    /// The next load of the key.
    next: u32,
    /// Those who wait.
    oldest: u32,
    newest: u32,
}

/// A process that is told what has become of the load that it waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// The process.
    pub owner: u64,
    /// The id of its wait.
    pub id: u64,
    /// Whether it is the loader now, with that id as its lease. If not, its wait is over.
    pub loads: bool,
}

/// The loads that a caller of a key finds.
pub(super) enum Joined {
    /// It runs a load of the key itself.
    Recursion,
    /// Another process loads.
    UnderWay,
    /// Nobody loads.
    Free,
}

/// A load that has ended.
pub(super) struct Ended {
    /// Whether it was attached: its value may be stored.
    pub(super) attached: bool,
    pub(super) started: u64,
}

/// The loads of a cache. `F` and `V` are those of its entries, so that both share a table's code.
pub(super) struct Loads<F: Opaque, V: Object> {
    keys: Table<F, V>,
    loads: Slab<Load>,
    parties: Slab<Party>,
    epoch: u64,
}

impl<F: Opaque, V: Object> Loads<F, V> {
    pub(super) fn new(seed: Seed) -> Result<Self, OutOfMemory> {
        Ok(Loads {
            keys: Table::new(seed)?,
            loads: Slab::new(),
            parties: Slab::new(),
            epoch: 1,
        })
    }

    /// Returns the number of loads.
    pub(super) fn len(&self) -> usize {
        self.loads.items.len() - self.loads.free.len()
    }

    /// Returns the number of loaders and waiters.
    #[cfg(test)]
    pub(super) fn parties(&self) -> usize {
        self.parties.items.len() - self.parties.free.len()
    }

    /// Returns the first load of a key.
    fn first(&self, key: &Key<'_, F::Probe>, hash: u64, guard: &Guard) -> u32 {
        if self.len() == 0 {
            return NONE;
        }
        match self.keys.get(key, hash, guard).map(|entry| entry.value) {
            Some(ValueView::Word(word)) => (word >> 1) as u32,
            _ => NONE,
        }
    }

    /// Returns the attached load among those from `first` on.
    fn attached(&self, first: u32) -> Option<u32> {
        let mut next = first;
        while let Some(load) = self.loads.get(next) {
            if load.epoch == self.epoch {
                return Some(next);
            }
            next = load.next;
        }
        None
    }

    /// Looks for loads of a key. One that began before `overdue` is detached and not joined.
    pub(super) fn look(
        &mut self,
        owner: u64,
        key: &Key<'_, F::Probe>,
        hash: u64,
        overdue: u64,
        guard: &Guard,
    ) -> Joined {
        let first = self.first(key, hash, guard);
        let mut next = first;
        while let Some(load) = self.loads.get(next) {
            let loader = self.parties.get(load.loader);
            if loader.is_some_and(|loader| loader.owner == owner) {
                return Joined::Recursion;
            }
            next = load.next;
        }
        let attached = self.attached(first);
        match attached.and_then(|index| self.loads.get_mut(index)) {
            Some(load) if load.started < overdue => {
                load.epoch = 0;
                Joined::Free
            }
            Some(_) => Joined::UnderWay,
            None => Joined::Free,
        }
    }

    /// Begins a load of a key that nobody loads.
    pub(super) fn begin(
        &mut self,
        (owner, id): (u64, u64),
        key: &Key<'_, F::Probe>,
        hash: u64,
        now: u64,
        guard: &Guard,
    ) -> Result<Hold, OutOfMemory> {
        let next = self.first(key, hash, guard);
        // The steps that can fail come first.
        let (load, party) = (self.loads.reserve()?, self.parties.reserve()?);
        let first = || Value::Word(u64::from(load) << 1 | 1);
        self.keys.insert(key, hash, 1, first, |_| true, guard)?;
        self.loads.insert(Load {
            hash,
            loader: party,
            started: now,
            epoch: self.epoch,
            next,
            oldest: NONE,
            newest: NONE,
        });
        self.parties.insert(Party {
            owner,
            id,
            load,
            older: NONE,
            newer: NONE,
        });
        Ok(Hold { id, party })
    }

    /// Lets a process wait for the load under way of a key.
    pub(super) fn wait(
        &mut self,
        (owner, id): (u64, u64),
        key: &Key<'_, F::Probe>,
        hash: u64,
        guard: &Guard,
    ) -> Result<Hold, OutOfMemory> {
        let index = self.attached(self.first(key, hash, guard));
        let index = index.ok_or(OutOfMemory)?;
        let older = self.loads.get(index).map_or(NONE, |load| load.newest);
        let party = self.parties.reserve()?;
        self.parties.insert(Party {
            owner,
            id,
            load: index,
            older,
            newer: NONE,
        });
        if let Some(older) = self.parties.get_mut(older) {
            older.newer = party;
        }
        if let Some(load) = self.loads.get_mut(index) {
            load.newest = party;
            if load.oldest == NONE {
                load.oldest = party;
            }
        }
        Ok(Hold { id, party })
    }

    fn party(&self, hold: Hold) -> Option<&Party> {
        self.parties
            .get(hold.party)
            .filter(|party| party.id == hold.id)
    }

    /// Returns whether a process runs the load of this lease.
    pub(super) fn is_loader(&self, hold: Hold) -> bool {
        self.party(hold)
            .and_then(|party| self.loads.get(party.load))
            .is_some_and(|load| load.loader == hold.party)
    }

    /// Detaches the load of a key.
    pub(super) fn detach(&mut self, key: &Key<'_, F::Probe>, hash: u64, guard: &Guard) {
        let first = self.first(key, hash, guard);
        if let Some(load) = self.attached(first).and_then(|at| self.loads.get_mut(at)) {
            load.epoch = 0;
        }
    }

    /// Detaches all loads.
    pub(super) fn detach_all(&mut self) {
        self.epoch += 1;
    }

    /// Ends the load of a lease. `told` gets those who waited.
    pub(super) fn end(&mut self, hold: Hold, told: &mut Vec<Told>) -> Option<Ended> {
        if !self.is_loader(hold) {
            return None;
        }
        let party = self.parties.remove(hold.party)?;
        self.end_load(party.load, told)
    }

    fn end_load(&mut self, index: u32, told: &mut Vec<Told>) -> Option<Ended> {
        let load = self.loads.get(index)?;
        let (mut waiting, attached) = (load.oldest, load.epoch == self.epoch);
        while let Some(party) = self.parties.remove(waiting) {
            told.push(Told {
                owner: party.owner,
                id: party.id,
                loads: false,
            });
            waiting = party.newer;
        }
        self.unlink_load(index);
        let load = self.loads.remove(index)?;
        Some(Ended {
            attached,
            started: load.started,
        })
    }

    /// Takes a load out of those of its key.
    fn unlink_load(&mut self, index: u32) {
        let Some(Load { hash, next, .. }) = self.loads.get(index) else {
            return;
        };
        let (hash, next, guard) = (*hash, *next, pin());
        let word = |index: u32| u64::from(index) << 1 | 1;
        // Keys with equal hashes are told apart by their loads.
        let mut firsts = Vec::new();
        self.keys.get_by_hash(
            hash,
            |entry| {
                if let ValueView::Word(word) = entry.value {
                    firsts.push((word >> 1) as u32);
                }
                false
            },
            &guard,
        );
        for first in firsts {
            if first == index {
                let is_it = |entry: &crate::table::Entry<'_, V>| matches!(entry.value, ValueView::Word(found) if found == word(index));
                if next == NONE {
                    self.keys.remove_by_hash(hash, is_it, &guard);
                } else {
                    let next = Value::Word(word(next));
                    self.keys.replace_by_hash(hash, is_it, 1, next, &guard);
                }
                return;
            }
            let mut at = first;
            while let Some(load) = self.loads.get_mut(at) {
                if load.next == index {
                    load.next = next;
                    return;
                }
                at = load.next;
            }
        }
    }

    /// Takes a waiter out of its load. Returns whether it was waiting.
    pub(super) fn leave(&mut self, hold: Hold) -> bool {
        if self.party(hold).is_none() || self.is_loader(hold) {
            return false;
        }
        self.unlink_waiter(hold.party);
        self.parties.remove(hold.party).is_some()
    }

    /// Takes a party out of the list of those who wait for its load.
    fn unlink_waiter(&mut self, index: u32) {
        let Some(party) = self.parties.get(index) else {
            return;
        };
        let (load, older, newer) = (party.load, party.older, party.newer);
        if let Some(older) = self.parties.get_mut(older) {
            older.newer = newer;
        }
        if let Some(newer) = self.parties.get_mut(newer) {
            newer.older = older;
        }
        if let Some(load) = self.loads.get_mut(load) {
            if load.oldest == index {
                load.oldest = newer;
            }
            if load.newest == index {
                load.newest = older;
            }
        }
    }

    /// Ends the part of a dead process. If it was the loader, the first living waiter is handed the
    /// load; those of a detached load are told that it is over.
    pub(super) fn end_dead(
        &mut self,
        hold: Hold,
        now: u64,
        is_alive: impl Fn(u64) -> bool,
        told: &mut Vec<Told>,
    ) {
        if !self.is_loader(hold) {
            self.leave(hold);
            return;
        }
        let Some(Party { load: index, .. }) = self.parties.remove(hold.party) else {
            return;
        };
        let epoch = self.epoch;
        let Some(load) = self.loads.get_mut(index) else {
            return;
        };
        load.loader = NONE;
        let mut waiter = if load.epoch == epoch {
            load.oldest
        } else {
            NONE
        };
        while let Some(party) = self.parties.get(waiter) {
            let (owner, id, newer) = (party.owner, party.id, party.newer);
            self.unlink_waiter(waiter);
            if is_alive(owner) {
                if let Some(load) = self.loads.get_mut(index) {
                    load.loader = waiter;
                    load.started = now;
                }
                told.push(Told {
                    owner,
                    id,
                    loads: true,
                });
                return;
            }
            // Its own death then finds no party.
            self.parties.remove(waiter);
            waiter = newer;
        }
        self.end_load(index, told);
    }

    /// Ends all loads and waits. `told` gets those who waited.
    pub(super) fn dismiss(&mut self, told: &mut Vec<Told>) {
        for index in 0..self.loads.items.len() as u32 {
            let loader = self.loads.get(index).map(|load| load.loader);
            if let Some(loader) = loader {
                self.parties.remove(loader);
                self.end_load(index, told);
            }
        }
    }
}
