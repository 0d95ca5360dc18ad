//! A registry in which a key has one owner.

use super::owners::Owners;
use super::{Figures, Place, Places, Refused, Tally, World};
use crate::held::{Hashed, Held, IntoIter};
use crate::key::{Foreign, Key, KeyView, Seed};
use crate::primitive::Ordering;
use crate::table::{
    Entry, Guard, Inserted, Object, OutOfMemory, Sought, Table, Value, Walked, pin,
};

/// A registry in which a key has one owner.
pub struct Unique<F: Foreign, V: Object> {
    table: Table<F, V>,
    owners: Owners<Hashed>,
    places: Places,
    tally: Tally,
}

impl<F: Foreign, V: Object> Unique<F, V> {
    /// An empty registry that takes up to `limit` entries.
    ///
    /// # Errors
    ///
    /// When there is no memory for it.
    pub fn new(seed: Seed, limit: usize) -> Result<Self, OutOfMemory> {
        Ok(Unique {
            table: Table::new(seed)?,
            owners: Owners::new(),
            places: Places::new(limit),
            tally: Tally::default(),
        })
    }

    /// The entry of `key`, also one whose owner is dead.
    #[inline(always)]
    pub fn get<'g>(&self, key: &Key<'_, F::Probe>, guard: &'g Guard) -> Option<Entry<'g, V>> {
        self.table.get(key, self.table.hash(key), guard)
    }

    /// Begins to look for `key`; see [`Sought`].
    #[inline]
    pub fn seek<'g>(&self, key: &Key<'_, F::Probe>, guard: &'g Guard) -> Sought<'g> {
        self.table.seek(self.table.hash(key), guard)
    }

    /// As [`Unique::get`], of the key that was sought.
    #[inline]
    pub fn get_sought<'g>(
        &self,
        key: &Key<'_, F::Probe>,
        sought: Sought<'g>,
    ) -> Option<Entry<'g, V>> {
        self.table.get_sought(key, sought)
    }

    /// Registers `key` for `owner`, in place of an owner that is dead.
    ///
    /// # Errors
    ///
    /// See [`Refused`]; nothing has changed then.
    pub fn register(
        &self,
        owner: u64,
        key: &Key<'_, F::Probe>,
        value: Value<V>,
        world: &impl World,
    ) -> Result<(), Refused> {
        let guard = pin();
        let hash = self.table.hash(key);
        let watch = || world.watch(owner);
        self.owners.hold(owner, watch, |held| {
            let mut place = None;
            let admit = || {
                place = self.places.take();
                place.is_some()
            };
            let usurp = |entry: &Entry<'_, V>| !world.is_alive(entry.owner);
            match self
                .table
                .insert_if(key, hash, owner, admit, || value, usurp, &guard)?
            {
                None => {
                    self.tally.drop_one();
                    return Err(Refused::Full);
                }
                Some(Inserted::Taken(entry)) => return Err(Refused::Taken(entry.owner)),
                // The dead owner's death finds this entry no more, so it is counted here; its place
                // is the new one's.
                Some(Inserted::Replaced(_)) => self.tally.add_cleaned(1),
                Some(Inserted::New) => place.into_iter().for_each(Place::fill),
            }
            held.insert(Hashed::new(hash));
            Ok(())
        })?
    }

    /// Removes `owner`'s entry of `key`, and says whether there was one.
    pub fn unregister(&self, owner: u64, key: &Key<'_, F::Probe>) -> bool {
        let guard = pin();
        let hash = self.table.hash(key);
        self.owners
            .with(owner, |held| {
                let is_own = |entry: &Entry<'_, V>| entry.owner == owner;
                let removed = self.table.remove(key, hash, is_own, &guard);
                if removed {
                    self.places.give_back(1);
                    held.remove(hash, |_| true);
                }
                removed
            })
            .unwrap_or(false)
    }

    /// Gives the entry of `key` another value if it is still exactly `expected`.
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
                if let Some(found) = self.table.find_hashed(hash, is_own, guard) {
                    visit(found.key);
                }
            } else {
                // Keys that collide: a foreign key's hash has no more than 32 bits.
                self.table.walk(hash, 1, guard, |walked| {
                    if walked.hash == hash && walked.entry.owner == owner {
                        visit(walked.key);
                    }
                });
            }
        }
    }

    /// How many keys `owner` holds.
    pub fn held_by(&self, owner: u64) -> usize {
        self.owners.with(owner, |held| held.len()).unwrap_or(0)
    }

    /// Visits entries; see [`Table::walk`].
    pub fn walk<'g>(
        &self,
        from: u64,
        limit: usize,
        guard: &'g Guard,
        visit: impl FnMut(Walked<'g, F, V>),
    ) -> Option<u64> {
        self.table.walk(from, limit, guard, visit)
    }

    /// Declares `owner` dead, and gives what is to be [removed](Unique::remove_dead) of it and how
    /// many keys that is.
    pub fn bury(&self, owner: u64) -> (IntoIter<Hashed>, usize) {
        let held = self.owners.bury(owner);
        let count = held.len();
        (held.into_iter(), count)
    }

    /// Removes up to `limit` entries of a dead owner, and says whether that was all.
    pub fn remove_dead(&self, owner: u64, held: &mut IntoIter<Hashed>, limit: usize) -> bool {
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
            removed += u64::from(self.table.remove_hashed(hash, is_own, &guard));
        };
        self.places.give_back(removed as usize);
        self.tally.add_cleaned(removed);
        done
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Takes the count of dead owners' entries that were removed since the last call.
    pub fn take_cleaned(&self) -> u64 {
        self.tally.cleaned.swap(0, Ordering::Relaxed)
    }

    /// The registry's figures.
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
