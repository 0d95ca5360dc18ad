//! A registry in which a key has any number of entries, in the order of their registration.

use std::sync::atomic::{AtomicU64, Ordering};

use super::owners::Owners;
use super::{Figures, Places, Refused, Tally, World};
use crate::held::{Held, IntoIter};
use crate::interleave::{Point, reach};
use crate::key::{Foreign, Key, KeyView, Seed};
use crate::table::counter::Counter;
use crate::table::{
    Bag, Entry, Guard, Inserted, Member, Object, OutOfMemory, Table, Value, ValueView, Walked, pin,
};

/// What one owner holds of one key: its entries' numbers in the key's bag.
#[derive(Debug)]
pub struct Group {
    hash: u64,
    bag: u64,
    numbers: Numbers,
}

/// One number, which takes no allocation, or more.
#[derive(Debug)]
enum Numbers {
    One(u64),
    Many(Vec<u64>),
}

impl Held for Group {
    fn hash(&self) -> u64 {
        self.hash
    }
}

impl Numbers {
    fn push(&mut self, number: u64) {
        match self {
            Numbers::One(first) => *self = Numbers::Many(vec![*first, number]),
            Numbers::Many(numbers) => numbers.push(number),
        }
    }

    fn as_slice(&self) -> &[u64] {
        match self {
            Numbers::One(number) => std::slice::from_ref(number),
            Numbers::Many(numbers) => numbers,
        }
    }

    /// Takes the last number out.
    fn pop(&mut self) -> Option<u64> {
        match self {
            Numbers::One(number) => {
                let number = *number;
                *self = Numbers::Many(Vec::new());
                Some(number)
            }
            Numbers::Many(numbers) => numbers.pop(),
        }
    }

    /// Takes out the numbers in `gone`, which is sorted, and says whether any is left.
    fn remove(&mut self, gone: &[u64]) -> bool {
        match self {
            Numbers::One(number) => gone.binary_search(number).is_err(),
            Numbers::Many(numbers) => {
                numbers.retain(|number| gone.binary_search(number).is_err());
                !numbers.is_empty()
            }
        }
    }
}

/// What is left to remove of a dead owner.
pub struct Estate {
    groups: IntoIter<Group>,
    current: Option<Group>,
}

/// A registry in which a key has any number of entries.
pub struct Duplicate<F: Foreign, V: Object> {
    table: Table<F, Bag<V>>,
    owners: Owners<Group>,
    entries: Counter,
    next_bag: AtomicU64,
    places: Places,
    tally: Tally,
}

/// The owner of a table's entry, which is a bag and belongs to nobody.
const NOBODY: u64 = 1;

fn bag<'g, V: Object>(entry: &Entry<'g, Bag<V>>) -> Option<&'g Bag<V>> {
    match entry.value {
        ValueView::Object(bag) => Some(bag),
        ValueView::Word(_) | ValueView::Bytes(_) => None,
    }
}

impl<F: Foreign, V: Object> Duplicate<F, V> {
    /// An empty registry that takes up to `limit` entries.
    ///
    /// # Errors
    ///
    /// When there is no memory for it.
    pub fn new(seed: Seed, limit: usize) -> Result<Self, OutOfMemory> {
        Ok(Duplicate {
            table: Table::new(seed)?,
            owners: Owners::new(),
            entries: Counter::default(),
            next_bag: AtomicU64::new(0),
            places: Places::new(limit),
            tally: Tally::default(),
        })
    }

    fn bag<'g>(&self, key: &Key<'_, F::Probe>, hash: u64, guard: &'g Guard) -> Option<&'g Bag<V>> {
        bag(&self.table.get(key, hash, guard)?)
    }

    /// The entries of `key`, also those whose owners are dead.
    #[inline]
    pub fn get<'g>(&self, key: &Key<'_, F::Probe>, guard: &'g Guard) -> Option<&'g Bag<V>> {
        self.bag(key, self.table.hash(key), guard)
    }

    /// Registers another entry of `key`, for `owner`.
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
        let Some(place) = self.places.take() else {
            self.tally.drop_one();
            return Err(Refused::Full);
        };
        let guard = pin();
        let hash = self.table.hash(key);
        let watch = || world.watch(owner);
        self.owners.hold(owner, watch, |held| {
            let (bag, number) = self.append(key, hash, owner, value, &guard)?;
            place.fill();
            match held.get_mut(hash, |group| group.bag == bag) {
                Some(group) => group.numbers.push(number),
                None => held.insert(Group {
                    hash,
                    bag,
                    numbers: Numbers::One(number),
                }),
            }
            self.entries.add(hash, 1);
            Ok(())
        })?
    }

    /// Appends an entry to the bag of `key`; returns the bag's id and the entry's number.
    fn append(
        &self,
        key: &Key<'_, F::Probe>,
        hash: u64,
        owner: u64,
        value: Value<V>,
        guard: &Guard,
    ) -> Result<(u64, u64), OutOfMemory> {
        let mut value = Some(value);
        loop {
            let Some(given) = value.take() else {
                unreachable!("a value that was not taken is given back");
            };
            if let Some(bag) = self.bag(key, hash, guard) {
                reach(Point::BagFound);
                match bag.push(owner, given, guard) {
                    Ok((number, bytes)) => {
                        self.table.add_heap(hash, bytes as i64);
                        return Ok((bag.id(), number));
                    }
                    Err(given) => {
                        // Whoever emptied the bag is about to remove it: help.
                        self.remove_bag(hash, bag.id(), guard);
                        value = Some(given);
                        continue;
                    }
                }
            }
            let id = self.next_bag.fetch_add(1, Ordering::Relaxed);
            let mut given = Some(given);
            let make = || match given.take() {
                Some(given) => Value::Object(Box::new(Bag::new(id, owner, given))),
                None => unreachable!("a value is made once"),
            };
            match self
                .table
                .insert(key, hash, NOBODY, make, |_| false, guard)?
            {
                Inserted::New | Inserted::Replaced(_) => return Ok((id, 0)),
                Inserted::Taken(_) => value = given,
            }
        }
    }

    fn remove_bag(&self, hash: u64, id: u64, guard: &Guard) {
        self.table.remove_hashed(
            hash,
            |entry| bag(entry).is_some_and(|bag| bag.id() == id),
            guard,
        );
    }

    /// Removes one entry from a bag, and the bag with its last entry.
    fn remove_from(&self, bag: &Bag<V>, hash: u64, number: u64, owner: u64, guard: &Guard) -> bool {
        let Some(removed) = bag.remove(number, owner, guard) else {
            return false;
        };
        self.table.add_heap(hash, -(removed.bytes as i64));
        self.entries.add(hash, -1);
        self.places.give_back(1);
        if removed.empty {
            reach(Point::BagEmptied);
            self.remove_bag(hash, bag.id(), guard);
        }
        true
    }

    /// Removes `owner`'s entries of `key`, and says how many there were.
    pub fn unregister(&self, owner: u64, key: &Key<'_, F::Probe>) -> usize {
        let guard = pin();
        let hash = self.table.hash(key);
        self.owners
            .with(owner, |held| {
                let Some(bag) = self.bag(key, hash, &guard) else {
                    return 0;
                };
                let group = held.remove(hash, |group| group.bag == bag.id());
                let numbers = group
                    .as_ref()
                    .map_or(&[][..], |group| group.numbers.as_slice());
                numbers
                    .iter()
                    .filter(|number| self.remove_from(bag, hash, **number, owner, &guard))
                    .count()
            })
            .unwrap_or(0)
    }

    /// Removes those of `owner`'s entries of `key` that have one of these numbers, and says how
    /// many there were.
    pub fn remove(&self, owner: u64, key: &Key<'_, F::Probe>, numbers: &[u64]) -> usize {
        let guard = pin();
        let hash = self.table.hash(key);
        let mut numbers = numbers.to_vec();
        numbers.sort_unstable();
        self.owners
            .with(owner, |held| {
                let Some(bag) = self.bag(key, hash, &guard) else {
                    return 0;
                };
                let id = bag.id();
                let removed = numbers
                    .iter()
                    .filter(|number| self.remove_from(bag, hash, **number, owner, &guard))
                    .count();
                let group = held.get_mut(hash, |group| group.bag == id);
                if group.is_some_and(|group| !group.numbers.remove(&numbers)) {
                    held.remove(hash, |group| group.bag == id);
                }
                removed
            })
            .unwrap_or(0)
    }

    /// How many entries of `key` `owner` has.
    pub fn count_of(&self, owner: u64, key: &Key<'_, F::Probe>) -> usize {
        let guard = pin();
        let hash = self.table.hash(key);
        let Some(bag) = self.bag(key, hash, &guard) else {
            return 0;
        };
        self.owners
            .with(owner, |held| {
                let group = held.get_mut(hash, |group| group.bag == bag.id());
                group.map_or(0, |group| group.numbers.as_slice().len())
            })
            .unwrap_or(0)
    }

    /// Visits `owner`'s entries of `key`, in the order of their registration.
    pub fn entries<'g>(
        &self,
        owner: u64,
        key: &Key<'_, F::Probe>,
        guard: &'g Guard,
        mut visit: impl FnMut(Member<'g, V>),
    ) {
        let hash = self.table.hash(key);
        let Some(bag) = self.bag(key, hash, guard) else {
            return;
        };
        let numbers = self.owners.with(owner, |held| {
            held.get_mut(hash, |group| group.bag == bag.id())
                .map(|group| group.numbers.as_slice().to_vec())
        });
        for number in numbers.flatten().unwrap_or_default() {
            if let Some(member) = bag.get(number, guard) {
                visit(member);
            }
        }
    }

    /// Visits the keys that `owner` holds, each as often as it has entries of it.
    pub fn keys<'g>(
        &self,
        owner: u64,
        guard: &'g Guard,
        mut visit: impl FnMut(&KeyView<'g, F>, usize),
    ) {
        let groups: Vec<(u64, u64, usize)> = self
            .owners
            .with(owner, |held| {
                held.iter()
                    .map(|group| (group.hash, group.bag, group.numbers.as_slice().len()))
                    .collect()
            })
            .unwrap_or_default();
        for (hash, id, count) in groups {
            let is_bag = |entry: &Entry<'g, Bag<V>>| bag(entry).is_some_and(|bag| bag.id() == id);
            if let Some(found) = self.table.find_hashed(hash, is_bag, guard) {
                visit(&found.key, count);
            }
        }
    }

    /// How many keys `owner` holds entries of.
    pub fn held_by(&self, owner: u64) -> usize {
        self.owners.with(owner, |held| held.len()).unwrap_or(0)
    }

    /// Visits keys and their bags; see [`Table::walk`].
    pub fn walk<'g>(
        &self,
        from: u64,
        limit: usize,
        guard: &'g Guard,
        visit: impl FnMut(Walked<'g, F, Bag<V>>),
    ) -> Option<u64> {
        self.table.walk(from, limit, guard, visit)
    }

    /// Declares `owner` dead, and gives what is to be [removed](Duplicate::remove_dead) of it and
    /// how many keys that concerns.
    pub fn bury(&self, owner: u64) -> (Estate, usize) {
        let held = self.owners.bury(owner);
        let count = held.len();
        let estate = Estate {
            groups: held.into_iter(),
            current: None,
        };
        (estate, count)
    }

    /// Removes up to `limit` entries of a dead owner, and says whether that was all.
    pub fn remove_dead(&self, owner: u64, estate: &mut Estate, limit: usize) -> bool {
        let guard = pin();
        let mut removed = 0;
        let mut left = limit;
        let done = loop {
            if left == 0 {
                break false;
            }
            let Some(group) = &mut estate.current else {
                estate.current = estate.groups.next();
                if estate.current.is_none() {
                    break true;
                }
                continue;
            };
            let id = group.bag;
            let is_bag = |entry: &Entry<'_, Bag<V>>| bag(entry).is_some_and(|bag| bag.id() == id);
            let found = self.table.find_hashed(group.hash, is_bag, &guard);
            if let Some(bag) = found.and_then(|found| bag(&found.entry)) {
                while left > 0
                    && let Some(number) = group.numbers.pop()
                {
                    left -= 1;
                    let gone = self.remove_from(bag, group.hash, number, owner, &guard);
                    removed += u64::from(gone);
                }
                if left == 0 {
                    continue;
                }
            }
            estate.current = None;
        };
        self.tally.add_cleaned(removed);
        done
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the count of dead owners' entries that were removed since the last call.
    pub fn take_cleaned(&self) -> u64 {
        self.tally.cleaned.swap(0, Ordering::Relaxed)
    }

    /// The registry's figures.
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
