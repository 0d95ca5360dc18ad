//! The holdings of one owner in one table. `unregister` finds an entry in constant time, and a
//! death finds all of them.

use std::num::NonZeroU64;

use crate::memory::{boxed, reserve, reserve_exact, shrink, with_room};
use crate::table::OutOfMemory;

/// A held thing, found by its hash.
pub trait Held {
    /// Returns a hash that is random from the ninth bit on.
    fn hash(&self) -> u64;

    /// Returns whether it has this hash. It may return `true` without a look at the hash, where the
    /// predicate that the caller tests next is cheaper.
    fn has(&self, hash: u64) -> bool {
        self.hash() == hash
    }
}

/// The hash of a held key. It is never 0, so an `Option` of it fits in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hashed(NonZeroU64);

impl Hashed {
    /// The bits of a hash that are ignored.
    const UNUSED: u64 = 0xFF;

    /// Keeps a hash without its last byte.
    pub fn new(hash: u64) -> Self {
        Hashed(NonZeroU64::MIN | (hash & !Self::UNUSED))
    }
}

impl Held for Hashed {
    fn hash(&self) -> u64 {
        self.0.get() & !Self::UNUSED
    }
}

/// A multiset of held things. One change takes bounded time, however many things there are.
#[derive(Debug, Default)]
pub enum HeldSet<T> {
    /// Nothing.
    #[default]
    Empty,
    /// One thing, as most owners have.
    Inline(T),
    /// Two or more.
    Spilled(Box<Buckets<T>>),
}

/// Linear hashing (Litwin, 1980): when the buckets get full on average, one bucket is split, so no
/// change moves more than a bucket. A bucket is a list of a few cache lines. Scanning it is faster
/// than maintaining a hash table of its elements.
#[derive(Debug)]
pub struct Buckets<T> {
    buckets: Vec<Vec<T>>,
    /// The bits of a hash that choose a bucket: just enough to number all buckets.
    mask: usize,
    len: usize,
    /// The bytes that the buckets have allocated.
    bytes: usize,
}

/// The average length of a bucket at which another bucket is added.
const BUCKET: usize = 32;

/// Returns the bucket of a hash among `buckets` buckets.
fn index(hash: u64, mask: usize, buckets: usize) -> usize {
    let index = (hash >> 8) as usize & mask;
    if index < buckets {
        index
    } else {
        // This one has not been split yet.
        index & (mask >> 1)
    }
}

/// Returns the mask for this many buckets.
fn mask(buckets: usize) -> usize {
    buckets.next_power_of_two() - 1
}

/// Returns the bucket that `bucket` was split from, or will be.
fn buddy(bucket: usize) -> usize {
    bucket - (bucket + 1).next_power_of_two() / 2
}

/// Returns the bytes that a bucket has allocated.
fn size<T>(bucket: &Vec<T>) -> usize {
    bucket.capacity() * size_of::<T>()
}

impl<T: Held> Buckets<T> {
    /// Makes a table of one thing, with room for another.
    fn new(first: T) -> Result<Box<Self>, (T, OutOfMemory)> {
        let made = with_room(1).and_then(|buckets| Ok((buckets, with_room(2)?)));
        let (mut buckets, mut bucket) = match made {
            Ok(made) => made,
            Err(error) => return Err((first, error)),
        };
        let bytes = size(&bucket);
        let new = boxed(Buckets {
            buckets: Vec::new(),
            mask: 0,
            len: 1,
            bytes,
        });
        match new {
            Ok(mut new) => {
                bucket.push(first);
                buckets.push(bucket);
                new.buckets = buckets;
                Ok(new)
            }
            Err(error) => Err((first, error)),
        }
    }

    fn index(&self, hash: u64) -> usize {
        index(hash, self.mask, self.buckets.len())
    }

    /// Makes room for a thing with this hash.
    fn reserve(&mut self, hash: u64) -> Result<(), OutOfMemory> {
        if self.len >= self.buckets.len() * BUCKET {
            // Without memory for it the buckets get longer instead.
            let _ = self.split();
        }
        let index = self.index(hash);
        let bucket = &mut self.buckets[index];
        if bucket.len() == bucket.capacity() {
            let before = size(bucket);
            reserve_exact(bucket, (bucket.len() / 3).max(2))?;
            self.bytes += size(bucket) - before;
        }
        Ok(())
    }

    fn insert(&mut self, held: T) -> &mut T {
        let index = self.index(held.hash());
        self.len += 1;
        let bucket = &mut self.buckets[index];
        bucket.push(held);
        let last = bucket.len() - 1;
        &mut bucket[last]
    }

    fn split(&mut self) -> Result<(), OutOfMemory> {
        let new = self.buckets.len();
        let mask = mask(new + 1);
        let old = buddy(new);
        reserve(&mut self.buckets, 1)?;
        let bucket = &self.buckets[old];
        let is_upper = |held: &T| index(held.hash(), mask, new + 1) == new;
        let upper_len = bucket.iter().filter(|held| is_upper(held)).count();
        // More than half: the split is seldom even, and more things will come.
        let room = bucket.len() * 3 / 4;
        let mut upper = with_room(room.max(upper_len))?;
        let mut lower = with_room(room.max(bucket.len() - upper_len))?;
        let bucket = std::mem::take(&mut self.buckets[old]);
        self.bytes -= size(&bucket);
        for held in bucket {
            let half = if is_upper(&held) {
                &mut upper
            } else {
                &mut lower
            };
            half.push(held);
        }
        self.bytes += size(&lower) + size(&upper);
        self.buckets[old] = lower;
        self.buckets.push(upper);
        self.mask = mask;
        Ok(())
    }

    fn remove(&mut self, hash: u64, is: impl FnMut(&T) -> bool) -> Option<T> {
        let (index, place) = self.probe(hash, is)?;
        let bucket = &mut self.buckets[index];
        let held = bucket.swap_remove(place);
        if bucket.len() < bucket.capacity() / 4 {
            self.bytes -= size(bucket);
            shrink(bucket, bucket.len() * 2);
            self.bytes += size(bucket);
        }
        self.len -= 1;
        if self.len < self.buckets.len() * BUCKET / 8 {
            self.merge();
        }
        Some(held)
    }

    /// Merges the last bucket into the one that it was split from, if there is memory for it.
    fn merge(&mut self) {
        let last = self.buckets.len() - 1;
        if last == 0 {
            return;
        }
        let more = self.buckets[last].len();
        let into = &mut self.buckets[buddy(last)];
        let before = size(into);
        if into.capacity() - into.len() < more && reserve_exact(into, more).is_err() {
            return;
        }
        self.bytes += size(into) - before;
        if let Some(mut bucket) = self.buckets.pop() {
            self.bytes -= size(&bucket);
            self.buckets[buddy(last)].append(&mut bucket);
            self.mask = mask(last);
            if last < self.buckets.capacity() / 4 {
                shrink(&mut self.buckets, last * 2);
            }
        }
    }

    /// Finds a thing with this hash that `is` accepts, and returns its bucket and its place there.
    fn probe(&self, hash: u64, mut is: impl FnMut(&T) -> bool) -> Option<(usize, usize)> {
        let index = self.index(hash);
        let bucket = &self.buckets[index];
        let place = bucket.iter().position(|held| held.has(hash) && is(held))?;
        Some((index, place))
    }

    fn get_mut(&mut self, hash: u64, is: impl FnMut(&T) -> bool) -> Option<&mut T> {
        let (index, place) = self.probe(hash, is)?;
        self.buckets[index].get_mut(place)
    }

    /// Returns the thing with the least rank in the bucket of a hash.
    fn least_beside(&self, hash: u64, rank: impl Fn(&T) -> u64) -> Option<&T> {
        self.buckets[self.index(hash)]
            .iter()
            .min_by_key(|held| rank(held))
    }
}

impl<T: Held> HeldSet<T> {
    /// Makes room for a thing with this hash: the next [`HeldSet::insert`] allocates nothing.
    ///
    /// # Errors
    ///
    /// When there is no memory for it; then the set is as it was.
    pub fn reserve(&mut self, hash: u64) -> Result<(), OutOfMemory> {
        if let HeldSet::Spilled(buckets) = self {
            return buckets.reserve(hash);
        }
        let Some(first) = self.take_only() else {
            return Ok(());
        };
        match Buckets::new(first) {
            Ok(buckets) => {
                *self = HeldSet::Spilled(buckets);
                Ok(())
            }
            Err((first, error)) => {
                *self = HeldSet::Inline(first);
                Err(error)
            }
        }
    }

    /// Adds a thing, even if an equal one is there, and returns a reference to it. There must be
    /// room for it: see [`HeldSet::reserve`].
    ///
    /// # Panics
    ///
    /// When the set has one thing and no room was reserved.
    pub fn insert(&mut self, held: T) -> &mut T {
        if self.is_empty() {
            *self = HeldSet::Inline(held);
            return match self {
                HeldSet::Inline(held) => held,
                HeldSet::Empty | HeldSet::Spilled(_) => unreachable!("there is one"),
            };
        }
        match self {
            HeldSet::Spilled(buckets) => buckets.insert(held),
            HeldSet::Empty | HeldSet::Inline(_) => panic!("expected room for a second thing"),
        }
    }

    /// Removes one thing with this hash that `is` accepts.
    pub fn remove(&mut self, hash: u64, mut is: impl FnMut(&T) -> bool) -> Option<T> {
        match self {
            HeldSet::Empty => None,
            HeldSet::Inline(held) => {
                if !held.has(hash) || !is(held) {
                    return None;
                }
                self.take_only()
            }
            HeldSet::Spilled(buckets) => {
                let held = buckets.remove(hash, is)?;
                if buckets.len == 0 {
                    *self = HeldSet::Empty;
                }
                Some(held)
            }
        }
    }

    /// Removes a thing of low rank: the least in the bucket of this hash. Finding the least of all
    /// would take linear time.
    pub fn remove_low(&mut self, hash: u64, rank: impl Fn(&T) -> u64) -> Option<T> {
        let HeldSet::Spilled(buckets) = self else {
            return self.take_only();
        };
        let least = buckets.least_beside(hash, &rank)?;
        let (hash, least) = (least.hash(), rank(least));
        self.remove(hash, |held| rank(held) == least)
    }

    /// Takes the thing out if it is the only one.
    pub(crate) fn take_only(&mut self) -> Option<T> {
        match std::mem::take(self) {
            HeldSet::Inline(held) => Some(held),
            HeldSet::Spilled(mut buckets) if buckets.len == 1 => {
                buckets.buckets.iter_mut().find_map(Vec::pop)
            }
            other => {
                *self = other;
                None
            }
        }
    }

    /// Finds a thing with this hash that `is` accepts.
    pub fn get_mut(&mut self, hash: u64, mut is: impl FnMut(&T) -> bool) -> Option<&mut T> {
        match self {
            HeldSet::Empty => None,
            HeldSet::Inline(held) => (held.has(hash) && is(held)).then_some(held),
            HeldSet::Spilled(buckets) => buckets.get_mut(hash, is),
        }
    }

    /// Returns the number of things.
    pub fn len(&self) -> usize {
        match self {
            HeldSet::Empty => 0,
            HeldSet::Inline(_) => 1,
            HeldSet::Spilled(buckets) => buckets.len,
        }
    }

    /// Returns whether the set is empty.
    pub fn is_empty(&self) -> bool {
        matches!(self, HeldSet::Empty)
    }

    /// Visits all things, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        let (inline, buckets) = match self {
            HeldSet::Empty => (None, None),
            HeldSet::Inline(held) => (Some(held), None),
            HeldSet::Spilled(buckets) => (None, Some(&buckets.buckets)),
        };
        inline
            .into_iter()
            .chain(buckets.into_iter().flatten().flatten())
    }

    /// Returns the bytes of memory that the set has allocated, itself not included.
    pub fn size(&self) -> usize {
        match self {
            HeldSet::Empty | HeldSet::Inline(_) => 0,
            HeldSet::Spilled(buckets) => {
                size_of::<Buckets<T>>()
                    + buckets.buckets.capacity() * size_of::<Vec<T>>()
                    + buckets.bytes
            }
        }
    }
}

/// The iterator of [`HeldSet::into_iter`].
pub struct IntoIter<T>(std::iter::Chain<std::option::IntoIter<T>, Flat<T>>);

type Flat<T> = std::iter::Flatten<std::vec::IntoIter<Vec<T>>>;

impl<T> Iterator for IntoIter<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.0.next()
    }
}

impl<T> IntoIterator for HeldSet<T> {
    type Item = T;
    type IntoIter = IntoIter<T>;

    fn into_iter(self) -> IntoIter<T> {
        let (inline, buckets) = match self {
            HeldSet::Empty => (None, Vec::new()),
            HeldSet::Inline(held) => (Some(held), Vec::new()),
            HeldSet::Spilled(buckets) => (None, buckets.buckets),
        };
        IntoIter(inline.into_iter().chain(buckets.into_iter().flatten()))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spread(number: u64) -> u64 {
        number.wrapping_mul(0x9E37_79B9_7F4A_7C15) & !0xFF
    }

    fn thing(number: u64) -> Hashed {
        Hashed::new(spread(number))
    }

    fn put(set: &mut HeldSet<Hashed>, held: Hashed) {
        set.reserve(held.hash()).expect("there is memory");
        set.insert(held);
    }

    #[test]
    fn a_hash_is_kept_as_it_is_and_no_hash_is_an_absent_one() {
        for hash in [0, 1 << 8, !0xFF, spread(7)] {
            assert_eq!(Some(Hashed::new(hash)).map(|held| held.hash()), Some(hash));
        }
        assert_eq!(size_of::<Option<Hashed>>(), size_of::<u64>());
    }

    #[test]
    fn it_grows_and_shrinks_again() {
        let mut set = HeldSet::default();
        for number in 0..100_000 {
            put(&mut set, thing(number));
        }
        assert_eq!((set.len(), set.iter().count()), (100_000, 100_000));
        let full = set.size();
        for number in 0..99_999 {
            assert_eq!(set.remove(spread(number), |_| true), Some(thing(number)));
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), [&thing(99_999)]);
        assert!(set.size() < full / 100, "{} of {full}", set.size());
        assert_eq!(set.remove(spread(99_999), |_| true), Some(thing(99_999)));
        assert!(set.is_empty());
    }

    #[test]
    fn one_of_the_lowest_is_removed() {
        let mut set = HeldSet::default();
        let rank = |held: &Hashed| held.hash().wrapping_mul(0xF1DE_83E1_9937_733D) >> 8;
        assert!(set.remove_low(spread(1), rank).is_none());
        put(&mut set, thing(1));
        assert_eq!(set.remove_low(spread(7), rank), Some(thing(1)));
        for number in 0..10_000 {
            put(&mut set, thing(number));
        }
        let mut ranks: Vec<u64> = set.iter().map(rank).collect();
        ranks.sort_unstable();
        for number in 0..100 {
            let low = set.remove_low(spread(number), rank).expect("a full bucket");
            // The least of about 32: one of the lowest half except once in 2^32.
            assert!(rank(&low) < ranks[5_000]);
        }
        assert_eq!(set.len(), 9_900);
    }

    proptest! {
        #[test]
        fn it_is_a_multiset(changes in prop::collection::vec((any::<bool>(), 0u64..40), 0..4_000)) {
            let mut set = HeldSet::default();
            let mut model = Vec::new();
            for (add, number) in changes {
                let held = thing(number);
                if add {
                    put(&mut set, held);
                    model.push(held);
                } else {
                    let found = model.iter().position(|other| *other == held);
                    found.map(|index| model.swap_remove(index));
                    let removed = set.remove(held.hash(), |other| *other == held);
                    prop_assert_eq!(removed.is_some(), found.is_some());
                }
                prop_assert_eq!(set.len(), model.len());
            }
            let mut all: Vec<Hashed> = set.into_iter().collect();
            all.sort_unstable();
            model.sort_unstable();
            prop_assert_eq!(all, model);
        }
    }
}
