//! A registry in which a key may have any number of entries, in the order of registration.

use super::owned_key::{OwnedKey, Put, note};
use super::{Capacity, Figures, Liveness, PendingCleanup, Refused, Rest, Tally};
use crate::held::Held;
use crate::interleave::{Point, reach};
use crate::key::{Key, KeyView, Opaque, Seed};
use crate::owners::Owners;
use crate::primitive::{AtomicU64, Ordering};
use crate::table::counter::Counter;
use crate::table::{
    Bag, Entry, Guard, Inserted, Member, Members, NOBODY, NotAdded, Object, OutOfMemory, Stored,
    Table, Value, Visited, pin,
};

/// A key and its entries, as a walk visits them.
#[derive(Debug)]
pub struct Keyed<'g, F, V: Object> {
    /// The key.
    pub key: KeyView<'g, F>,
    /// Its hash. A walk visits keys in the order of their hashes.
    pub hash: u64,
    /// A number that distinguishes keys with equal hashes while both are present.
    pub place: u64,
    /// Its entries, including those of dead owners.
    pub members: Members<'g, V>,
}

/// A registry in which a key may have any number of entries.
pub struct Duplicate<F: Opaque, V: Object> {
    table: Table<F, Stored<V>>,
    owners: Owners<OwnedKey>,
    /// The number of entries, not counting the first of each key.
    others: Counter,
    next_bag: AtomicU64,
    capacity: Capacity,
    tally: Tally,
}

fn members<'g, V: Object>(entry: &Entry<'g, Stored<V>>) -> Members<'g, V> {
    Members(*entry)
}

fn bag<'g, V: Object>(entry: &Entry<'g, Stored<V>>) -> Option<&'g Bag<Stored<V>>> {
    members(entry).bag()
}

impl<F: Opaque, V: Object> Duplicate<F, V> {
    /// Makes an empty registry for up to `limit` entries.
    ///
    /// # Errors
    ///
    /// When there is no memory for it.
    pub fn new(seed: Seed, limit: usize) -> Result<Self, OutOfMemory> {
        Ok(Duplicate {
            table: Table::new(seed)?,
            owners: Owners::new(),
            others: Counter::default(),
            next_bag: AtomicU64::new(0),
            capacity: Capacity::new(limit),
            tally: Tally::default(),
        })
    }

    /// Returns the entries of `key`, including those of dead owners.
    #[inline]
    pub fn get<'g>(&self, key: &Key<'_, F::Probe>, guard: &'g Guard) -> Option<Members<'g, V>> {
        self.get_with_hash(key, self.table.hash(key), guard)
    }

    fn get_with_hash<'g>(
        &self,
        key: &Key<'_, F::Probe>,
        hash: u64,
        guard: &'g Guard,
    ) -> Option<Members<'g, V>> {
        self.table.get(key, hash, guard).as_ref().map(members)
    }

    /// Registers another entry of `key` for `owner`.
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
            // Reserve only after the owner is known to be alive: a dead owner must not take the
            // last place from a caller that could register.
            let Some(reservation) = self.capacity.reserve() else {
                self.tally.drop_one();
                return Err(Refused::Full);
            };
            held.reserve(hash)?;
            let put = self.put(key, hash, owner, Stored::value(value), &guard)?;
            reservation.commit();
            note(held, hash, &put).inspect_err(|OutOfMemory| {
                self.take_back(hash, owner, &put, &guard);
            })?;
            Ok(())
        })?
    }

    /// Puts an entry into the slot of `key`, or appends it to the key's other entries.
    fn put(
        &self,
        key: &Key<'_, F::Probe>,
        hash: u64,
        owner: u64,
        value: Value<Stored<V>>,
        guard: &Guard,
    ) -> Result<Put, OutOfMemory> {
        assert_ne!(owner, NOBODY, "expected an owner that is not 0");
        let mut value = Some(value);
        loop {
            let Some(given) = value.take() else {
                unreachable!("a value that was not taken is given back");
            };
            let Some(entry) = self.table.get(key, hash, guard) else {
                let mut given = Some(given);
                let make = || match given.take() {
                    Some(given) => given,
                    None => unreachable!("a value is made once"),
                };
                match self
                    .table
                    .insert(key, hash, owner, make, |_| false, guard)?
                {
                    Inserted::New | Inserted::Replaced(_) => return Ok(Put::First),
                    Inserted::Taken(_) => value = given,
                }
                continue;
            };
            reach(Point::EntryFound);
            if let Some(bag) = bag(&entry) {
                match bag.push(owner, given, guard) {
                    Ok((number, bytes)) => {
                        self.table.add_heap(hash, bytes as i64);
                        self.others.add(hash, 1);
                        let id = bag.id();
                        return Ok(Put::Bag { id, number });
                    }
                    Err(NotAdded::OutOfMemory) => return Err(OutOfMemory),
                    Err(NotAdded::Closed(given)) => {
                        // Another thread emptied this bag and is about to remove it. Help it, then
                        // try again.
                        self.remove_bag(hash, bag.id(), guard);
                        value = Some(given);
                    }
                }
            } else {
                let id = self.next_bag.fetch_add(1, Ordering::Relaxed);
                match self
                    .table
                    .gather(key, hash, &entry, id, owner, given, guard)
                {
                    Ok(()) => {
                        self.others.add(hash, 1);
                        return Ok(Put::Bag { id, number: 1 });
                    }
                    Err(NotAdded::OutOfMemory) => return Err(OutOfMemory),
                    Err(NotAdded::Closed(given)) => value = Some(given),
                }
            }
        }
    }

    /// Removes an entry that could not be recorded as held.
    #[cold]
    fn take_back(&self, hash: u64, owner: u64, put: &Put, guard: &Guard) {
        let Put::Bag { id, number } = *put else {
            unreachable!("the first entry of a key is always recorded");
        };
        let is_bag = |entry: &Entry<'_, Stored<V>>| bag(entry).is_some_and(|bag| bag.id() == id);
        if let Some(bag) = self
            .table
            .get_by_hash(hash, is_bag, guard)
            .and_then(|found| bag(&found.entry))
        {
            self.remove_from(bag, hash, number, owner, guard);
        }
    }

    fn remove_bag(&self, hash: u64, id: u64, guard: &Guard) {
        self.table.remove_by_hash(
            hash,
            |entry| bag(entry).is_some_and(|bag| bag.id() == id),
            guard,
        );
    }

    /// Removes one entry from a bag. Removes the bag with its last entry.
    fn remove_from(
        &self,
        bag: &Bag<Stored<V>>,
        hash: u64,
        number: u64,
        owner: u64,
        guard: &Guard,
    ) -> bool {
        let Some(removed) = bag.remove(number, owner, guard) else {
            return false;
        };
        self.table.add_heap(hash, -(removed.bytes as i64));
        self.capacity.release(1);
        if removed.empty {
            reach(Point::BagEmptied);
            self.remove_bag(hash, bag.id(), guard);
        } else {
            self.others.add(hash, -1);
        }
        true
    }

    /// Removes `owner`'s entry of `key` if the slot itself holds it.
    fn remove_single(&self, key: &Key<'_, F::Probe>, hash: u64, owner: u64, guard: &Guard) -> bool {
        let is_own = |entry: &Entry<'_, Stored<V>>| entry.owner == owner;
        let removed = self.table.remove(key, hash, is_own, guard);
        if removed {
            self.capacity.release(1);
        }
        removed
    }

    /// Removes `owner`'s entries of `key`, and returns their number. If there are more than `limit`
    /// it removes none and returns `None`.
    pub fn unregister(&self, owner: u64, key: &Key<'_, F::Probe>, limit: usize) -> Option<usize> {
        let guard = pin();
        let hash = self.table.hash(key);
        self.owners
            .with(owner, |held| {
                // Look at the slot before the bag: an entry can move from the slot into a bag
                // between two looks, but never back.
                if self.remove_single(key, hash, owner, &guard) {
                    held.remove(hash, OwnedKey::is_first);
                    return Some(1);
                }
                let Some(members) = self.get_with_hash(key, hash, &guard) else {
                    return Some(0);
                };
                let Some(bag) = members.bag() else {
                    return Some(0);
                };
                let is_of = |owned: &OwnedKey| owned.is_of(bag.id());
                let has_first = members.first_is_of(owner, &guard);
                let others = held.get_mut(hash, is_of).map_or(0, |owned| owned.count());
                if usize::from(has_first) + others > limit {
                    return None;
                }
                let remove = |number: u64| self.remove_from(bag, hash, number, owner, &guard);
                let mut removed = 0;
                if has_first && held.remove(hash, OwnedKey::is_first).is_some() {
                    removed += usize::from(remove(0));
                }
                if let Some(owned) = held.remove(hash, is_of) {
                    removed += owned.numbers().filter(|number| remove(*number)).count();
                }
                Some(removed)
            })
            .unwrap_or(Some(0))
    }

    /// Removes `owner`'s entries of `key` that have one of these numbers, and returns how many it
    /// removed.
    pub fn remove(&self, owner: u64, key: &Key<'_, F::Probe>, numbers: &[u64]) -> usize {
        let guard = pin();
        let hash = self.table.hash(key);
        self.owners
            .with(owner, |held| {
                if numbers.contains(&0) && self.remove_single(key, hash, owner, &guard) {
                    held.remove(hash, OwnedKey::is_first);
                    return 1;
                }
                let Some(members) = self.get_with_hash(key, hash, &guard) else {
                    return 0;
                };
                let Some(bag) = members.bag() else {
                    return 0;
                };
                if numbers.contains(&0) && members.first_is_of(owner, &guard) {
                    held.remove(hash, OwnedKey::is_first);
                }
                let is_of = |owned: &OwnedKey| owned.is_of(bag.id());
                if held
                    .get_mut(hash, is_of)
                    .is_some_and(|owned| !owned.remove(numbers))
                {
                    held.remove(hash, is_of);
                }
                let remove = |number: &&u64| self.remove_from(bag, hash, **number, owner, &guard);
                numbers.iter().filter(remove).count()
            })
            .unwrap_or(0)
    }

    /// Returns the number of entries that `owner` has for `key`.
    pub fn count_of(&self, owner: u64, key: &Key<'_, F::Probe>) -> usize {
        let (guard, hash) = (pin(), self.table.hash(key));
        let Some(members) = self.get_with_hash(key, hash, &guard) else {
            return 0;
        };
        let id = members.bag().map(Bag::id);
        let of_bag = |owned: &OwnedKey| id.is_some_and(|id| owned.is_of(id));
        self.owners
            .with(owner, |held| {
                let others = held.get_mut(hash, of_bag).map_or(0, |owned| owned.count());
                usize::from(members.first_is_of(owner, &guard)) + others
            })
            .unwrap_or(0)
    }

    /// Visits `owner`'s entries of `key`, in the order of registration.
    pub fn entries<'g>(
        &self,
        owner: u64,
        key: &Key<'_, F::Probe>,
        guard: &'g Guard,
        mut visit: impl FnMut(Member<'g, V>),
    ) {
        let Some((members, numbers)) = self.numbers_of(owner, key, guard) else {
            return;
        };
        for number in numbers {
            if let Some(member) = members.get(number, guard) {
                visit(member);
            }
        }
    }

    /// Returns the entries of `key` and the numbers of `owner`'s entries among them.
    fn numbers_of<'g>(
        &self,
        owner: u64,
        key: &Key<'_, F::Probe>,
        guard: &'g Guard,
    ) -> Option<(Members<'g, V>, Vec<u64>)> {
        let hash = self.table.hash(key);
        let members = self.get_with_hash(key, hash, guard)?;
        let id = members.bag().map(Bag::id);
        let numbers = self.owners.with(owner, |held| {
            let mut numbers = Vec::new();
            numbers.extend(members.first_is_of(owner, guard).then_some(0));
            let of_bag = |owned: &OwnedKey| id.is_some_and(|id| owned.is_of(id));
            if let Some(owned) = held.get_mut(hash, of_bag) {
                numbers.extend(owned.numbers());
            }
            numbers
        })?;
        Some((members, numbers))
    }

    /// Visits the keys that `owner` holds, each as often as the owner has entries for it.
    pub fn keys<'g>(
        &self,
        owner: u64,
        guard: &'g Guard,
        mut visit: impl FnMut(&KeyView<'g, F>, usize),
    ) {
        let mut firsts = Vec::new();
        let mut groups = Vec::new();
        self.owners.with(owner, |held| {
            for owned in held.iter() {
                match &owned.in_bag {
                    None => firsts.push(owned.hash()),
                    Some(many) => groups.push((owned.hash(), many.bag, many.numbers.len())),
                }
            }
        });
        for (hash, id, count) in groups {
            let is_bag =
                |entry: &Entry<'g, Stored<V>>| bag(entry).is_some_and(|bag| bag.id() == id);
            if let Some(found) = self.table.get_by_hash(hash, is_bag, guard) {
                visit(&found.key, count);
            }
        }
        firsts.sort_unstable();
        for same in firsts.chunk_by(|one, other| one == other) {
            let hash = same[0];
            let is_own = |entry: &Entry<'g, Stored<V>>| members(entry).first_is_of(owner, guard);
            if same.len() == 1 {
                if let Some(found) = self.table.get_by_hash(hash, is_own, guard) {
                    visit(&found.key, 1);
                }
            } else {
                // Several keys have this hash, since an opaque key's hash has at most 32 bits.
                // Visit them all.
                self.table.walk(hash, 1, guard, |visited| {
                    if visited.hash == hash && is_own(&visited.entry) {
                        visit(&visited.key, 1);
                    }
                });
            }
        }
    }

    /// Returns for how many keys `owner` has entries. A key counts twice if the owner has its first
    /// entry and others.
    pub fn held_by(&self, owner: u64) -> usize {
        self.owners.with(owner, |held| held.len()).unwrap_or(0)
    }

    /// Visits keys and their entries; see [`Table::walk`].
    pub fn walk<'g>(
        &self,
        from: u64,
        limit: usize,
        guard: &'g Guard,
        mut visit: impl FnMut(Keyed<'g, F, V>),
    ) -> Option<u64> {
        self.table.walk(from, limit, guard, |visited| {
            let Visited {
                key,
                hash,
                place,
                entry,
            } = visited;
            visit(Keyed {
                key,
                hash,
                place,
                members: members(&entry),
            });
        })
    }

    /// Marks `owner` dead. [`Duplicate::remove_dead`] then removes its entries in steps.
    pub fn mark_dead(&self, owner: u64) -> PendingCleanup {
        let held = self.owners.mark_dead(owner);
        let keys = held.len();
        let rest = Rest::Duplicate(held.into_iter(), None);
        PendingCleanup { owner, keys, rest }
    }

    /// Removes up to `limit` entries of a dead owner. Returns whether none is left.
    pub fn remove_dead(&self, pending: &mut PendingCleanup, limit: usize) -> bool {
        let Rest::Duplicate(keys, current) = &mut pending.rest else {
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
            let Some(owned) = current else {
                *current = keys.next();
                if current.is_none() {
                    break true;
                }
                continue;
            };
            let hash = owned.hash();
            let Some(in_bag) = &mut owned.in_bag else {
                left -= 1;
                removed += u64::from(self.remove_first(owner, hash, &guard));
                *current = None;
                continue;
            };
            let id = in_bag.bag;
            let is_bag =
                |entry: &Entry<'_, Stored<V>>| bag(entry).is_some_and(|bag| bag.id() == id);
            let found = self.table.get_by_hash(hash, is_bag, &guard);
            if let Some(bag) = found.and_then(|found| bag(&found.entry)) {
                while left > 0
                    && let Some(number) = in_bag.numbers.pop()
                {
                    left -= 1;
                    let gone = self.remove_from(bag, hash, number, owner, &guard);
                    removed += u64::from(gone);
                }
                if left == 0 {
                    continue;
                }
            }
            *current = None;
        };
        self.tally.add_cleaned(removed);
        done
    }

    /// Removes an entry of `owner` that was the first of a key with this hash, whether it is in a
    /// slot or in a bag by now. Of several such entries it removes any one: each has a call of its
    /// own.
    fn remove_first(&self, owner: u64, hash: u64, guard: &Guard) -> bool {
        let is_single = |entry: &Entry<'_, Stored<V>>| entry.owner == owner;
        if self.table.remove_by_hash(hash, is_single, guard) {
            self.capacity.release(1);
            return true;
        }
        let is_own = |entry: &Entry<'_, Stored<V>>| members(entry).first_is_of(owner, guard);
        let found = self.table.get_by_hash(hash, is_own, guard);
        found
            .and_then(|found| bag(&found.entry))
            .is_some_and(|bag| self.remove_from(bag, hash, 0, owner, guard))
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.table.len() + self.others.sum()
    }

    /// Returns whether the registry is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of dead owners' entries removed since the last call.
    pub fn take_cleaned(&self) -> u64 {
        self.tally.cleaned.swap(0, Ordering::Relaxed)
    }

    /// Returns the registry's figures.
    pub fn figures(&self) -> Figures {
        Figures {
            entries: self.len(),
            keys: self.table.len(),
            owners: self.owners.holding(),
            memory: self.table.memory() + self.owners.memory(),
            drops: self.tally.drops.load(Ordering::Relaxed),
        }
    }
}
