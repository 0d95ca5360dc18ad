//! A registry in which a key has one owner.

use std::cell::{Cell, RefCell};

use super::{Capacity, Figures, Liveness, PendingCleanup, Refused, Reservation, Rest, Tally};
use crate::held::{Hashed, Held};
use crate::key::{Key, KeyView, Opaque, Seed};
use crate::owners::Owners;
use crate::primitive::Ordering;
use crate::table::{
    Entry, Guard, Inserted, Object, OutOfMemory, Prefetched, Table, Value, Visited, pin,
};

/// A registry in which a key has one owner.
pub struct Unique<F: Opaque, V: Object> {
    table: Table<F, V>,
    owners: Owners<Hashed>,
    capacity: Capacity,
    tally: Tally,
}

impl<F: Opaque, V: Object> Unique<F, V> {
    /// Makes an empty registry for up to `limit` entries.
    ///
    /// # Errors
    ///
    /// When there is no memory for it.
    pub fn new(seed: Seed, limit: usize) -> Result<Self, OutOfMemory> {
        Ok(Unique {
            table: Table::new(seed)?,
            owners: Owners::new(),
            capacity: Capacity::new(limit),
            tally: Tally::default(),
        })
    }

    /// Returns the entry of `key`, even if its owner is dead.
    #[inline(always)]
    pub fn get<'g>(&self, key: &Key<'_, F::Probe>, guard: &'g Guard) -> Option<Entry<'g, V>> {
        self.table.get(key, self.table.hash(key), guard)
    }

    /// Starts a lookup of `key`; see [`Prefetched`].
    #[inline]
    pub fn prefetch<'g>(&self, key: &Key<'_, F::Probe>, guard: &'g Guard) -> Prefetched<'g> {
        self.table.prefetch(self.table.hash(key), guard)
    }

    /// Like [`Unique::get`], for a key that was prefetched.
    #[inline]
    pub fn get_prefetched<'g>(
        &self,
        key: &Key<'_, F::Probe>,
        prefetched: Prefetched<'g>,
    ) -> Option<Entry<'g, V>> {
        self.table.get_prefetched(key, prefetched)
    }

    /// Registers `key` for `owner`. An entry of a dead owner is replaced.
    ///
    /// # Errors
    ///
    /// See [`Refused`]; then nothing has changed.
    pub fn register(
        &self,
        owner: u64,
        key: &Key<'_, F::Probe>,
        value: Value<V>,
        liveness: &impl Liveness,
    ) -> Result<(), Refused> {
        let guard = pin();
        let hash = self.table.hash(key);
        let watch = || liveness.watch(owner);
        self.owners.hold(owner, watch, |held| {
            let mut reservation = None;
            // Both run under the segment's lock, only when the entry will be inserted.
            let room = Cell::new(Ok(()));
            let held = RefCell::new(held);
            let reserve = || {
                room.set(held.borrow_mut().reserve(hash));
                room.get().is_ok()
            };
            let admit = || {
                reservation = self.capacity.reserve();
                reservation.is_some() && reserve()
            };
            let replace_if = |entry: &Entry<'_, V>| !liveness.is_alive(entry.owner) && reserve();
            let inserted =
                self.table
                    .insert_if(key, hash, owner, admit, || value, replace_if, &guard)?;
            room.get()?;
            match inserted {
                None => {
                    self.tally.drop_one();
                    return Err(Refused::Full);
                }
                Some(Inserted::Taken(entry)) => return Err(Refused::Taken(entry.owner)),
                // The clean-up of the dead owner will not find this entry, so the entry is counted
                // as cleaned here. The new entry takes over its place.
                Some(Inserted::Replaced(_)) => self.tally.add_cleaned(1),
                Some(Inserted::New) => reservation.into_iter().for_each(Reservation::commit),
            }
            held.into_inner().insert(Hashed::new(hash));
            Ok(())
        })?
    }

    /// Removes `owner`'s entry of `key`, and returns whether there was one.
    pub fn unregister(&self, owner: u64, key: &Key<'_, F::Probe>) -> bool {
        let guard = pin();
        let hash = self.table.hash(key);
        self.owners
            .with(owner, |held| {
                let is_own = |entry: &Entry<'_, V>| entry.owner == owner;
                let removed = self.table.remove(key, hash, is_own, &guard);
                if removed {
                    self.capacity.release(1);
                    held.remove(hash, |_| true);
                }
                removed
            })
            .unwrap_or(false)
    }

    /// Gives the entry of `key` another value if it is still the very entry `expected`.
    pub fn replace(
        &self,
        key: &Key<'_, F::Probe>,
        expected: &Entry<'_, V>,
        value: Value<V>,
        guard: &Guard,
    ) -> bool {
        let hash = self.table.hash(key);
        self.table.replace(key, hash, expected, value, guard)
    }

    /// Gives `owner`'s entry of `key` another value, and says whether there was one.
    pub fn set(&self, owner: u64, key: &Key<'_, F::Probe>, value: Value<V>, guard: &Guard) -> bool {
        let hash = self.table.hash(key);
        let is_own = |entry: &Entry<'_, V>| entry.owner == owner;
        self.table
            .replace_if(key, hash, is_own, owner, value, guard)
    }

    /// Visits the keys that `owner` holds.
    pub fn keys<'g>(&self, owner: u64, guard: &'g Guard, mut visit: impl FnMut(KeyView<'g, F>)) {
        let mut hashes: Vec<u64> = self
            .owners
            .with(owner, |held| held.iter().map(Held::hash).collect())
            .unwrap_or_default();
        hashes.sort_unstable();
        for same in hashes.chunk_by(|one, other| one == other) {
            let hash = same[0];
            if same.len() == 1 {
                let is_own = |entry: &Entry<'g, V>| entry.owner == owner;
                if let Some(found) = self.table.get_by_hash(hash, is_own, guard) {
                    visit(found.key);
                }
            } else {
                // Several keys have this hash, since an opaque key's hash has at most 32 bits.
                // Visit them all.
                self.table.walk(hash, 1, guard, |visited| {
                    if visited.hash == hash && visited.entry.owner == owner {
                        visit(visited.key);
                    }
                });
            }
        }
    }

    /// Returns the number of keys that `owner` holds.
    pub fn held_by(&self, owner: u64) -> usize {
        self.owners.with(owner, |held| held.len()).unwrap_or(0)
    }

    /// Visits entries; see [`Table::walk`].
    pub fn walk<'g>(
        &self,
        from: u64,
        limit: usize,
        guard: &'g Guard,
        visit: impl FnMut(Visited<'g, F, V>),
    ) -> Option<u64> {
        self.table.walk(from, limit, guard, visit)
    }

    /// Marks `owner` dead. [`Unique::remove_dead`] then removes its entries in steps.
    pub fn mark_dead(&self, owner: u64) -> PendingCleanup {
        let held = self.owners.mark_dead(owner);
        let keys = held.len();
        let rest = Rest::Unique(held.into_iter());
        PendingCleanup { owner, keys, rest }
    }

    /// Removes up to `limit` entries of a dead owner. Returns whether none is left.
    pub fn remove_dead(&self, pending: &mut PendingCleanup, limit: usize) -> bool {
        let Rest::Unique(held) = &mut pending.rest else {
            unreachable!("a clean-up belongs to the registry that started it");
        };
        let owner = pending.owner;
        let guard = pin();
        let mut removed = 0;
        let mut left = limit;
        let done = loop {
            if left == 0 {
                break false;
            }
            left -= 1;
            let Some(hash) = held.next().map(|held| held.hash()) else {
                break true;
            };
            let is_own = |entry: &Entry<'_, V>| entry.owner == owner;
            removed += u64::from(self.table.remove_by_hash(hash, is_own, &guard));
        };
        self.capacity.release(removed as usize);
        self.tally.add_cleaned(removed);
        done
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Returns whether the registry is empty.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Returns the number of dead owners' entries removed since the last call.
    pub fn take_cleaned(&self) -> u64 {
        self.tally.cleaned.swap(0, Ordering::Relaxed)
    }

    /// Returns the registry's figures.
    pub fn figures(&self) -> Figures {
        let entries = self.table.len();
        Figures {
            entries,
            keys: entries,
            owners: self.owners.holding(),
            memory: self.table.memory() + self.owners.memory(),
            drops: self.tally.drops.load(Ordering::Relaxed),
        }
    }
}
