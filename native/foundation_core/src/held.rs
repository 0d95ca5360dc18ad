//! The holdings of one owner in one table. `unregister` finds an entry in constant time, and a
//! death finds all of them.

use std::num::NonZeroU64;

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

impl<T> Default for Buckets<T> {
    fn default() -> Self {
        Buckets {
            buckets: vec![Vec::new()],
            mask: 0,
            len: 0,
            bytes: 0,
        }
    }
}

/// Returns the bytes that a bucket has allocated.
fn size<T>(bucket: &Vec<T>) -> usize {
    bucket.capacity() * size_of::<T>()
}

impl<T: Held> Buckets<T> {
    fn index(&self, hash: u64) -> usize {
        let index = (hash >> 8) as usize & self.mask;
        if index < self.buckets.len() {
            index
        } else {
            // This one has not been split yet.
            index & (self.mask >> 1)
        }
    }

    fn set_mask(&mut self) {
        self.mask = self.buckets.len().next_power_of_two() - 1;
    }

    fn insert(&mut self, held: T) -> &mut T {
        if self.len >= self.buckets.len() * BUCKET {
            self.split();
        }
        let index = self.index(held.hash());
        self.len += 1;
        self.put(index, held)
    }

    fn put(&mut self, index: usize, held: T) -> &mut T {
        let bucket = &mut self.buckets[index];
        if bucket.len() == bucket.capacity() {
            self.bytes -= size(bucket);
            bucket.reserve_exact((bucket.len() / 3).max(2));
            self.bytes += size(bucket);
        }
        bucket.push(held);
        let last = bucket.len() - 1;
        &mut bucket[last]
    }

    fn split(&mut self) {
        let new = self.buckets.len();
        let old = new - (new + 1).next_power_of_two() / 2;
        let bucket = std::mem::take(&mut self.buckets[old]);
        self.bytes -= size(&bucket);
        self.buckets.push(Vec::new());
        self.set_mask();
        // More than half: the split is seldom even, and more things will come.
        let room = bucket.len() * 3 / 4;
        let (mut lower, mut upper) = (Vec::with_capacity(room), Vec::with_capacity(room));
        for held in bucket {
            let half = if self.index(held.hash()) == new {
                &mut upper
            } else {
                &mut lower
            };
            half.push(held);
        }
        self.bytes += size(&lower) + size(&upper);
        self.buckets[old] = lower;
        self.buckets[new] = upper;
    }

    fn remove(&mut self, hash: u64, is: impl FnMut(&T) -> bool) -> Option<T> {
        let (index, place) = self.probe(hash, is)?;
        let bucket = &mut self.buckets[index];
        let held = bucket.swap_remove(place);
        if bucket.len() < bucket.capacity() / 4 {
            self.bytes -= size(bucket);
            bucket.shrink_to(bucket.len() * 2);
            self.bytes += size(bucket);
        }
        self.len -= 1;
        if self.len < self.buckets.len() * BUCKET / 8 {
            self.merge();
        }
        Some(held)
    }

    fn merge(&mut self) {
        if self.buckets.len() == 1 {
            return;
        }
        if let Some(bucket) = self.buckets.pop() {
            self.set_mask();
            if self.buckets.len() < self.buckets.capacity() / 4 {
                self.buckets.shrink_to(self.buckets.len() * 2);
            }
            self.bytes -= size(&bucket);
            for held in bucket {
                let index = self.index(held.hash());
                self.put(index, held);
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
    /// Adds a thing, even if an equal one is there, and returns a reference to it.
    pub fn insert(&mut self, held: T) -> &mut T {
        if let Some(first) = self.take_inline() {
            let mut buckets = Box::new(Buckets::default());
            buckets.insert(first);
            *self = HeldSet::Spilled(buckets);
        }
        if self.is_empty() {
            *self = HeldSet::Inline(held);
            return match self {
                HeldSet::Inline(held) => held,
                HeldSet::Empty | HeldSet::Spilled(_) => unreachable!("there is one"),
            };
        }
        match self {
            HeldSet::Spilled(buckets) => buckets.insert(held),
            HeldSet::Empty | HeldSet::Inline(_) => unreachable!("there are several"),
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
                self.take_inline()
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
            return self.take_inline();
        };
        let least = buckets.least_beside(hash, &rank)?;
        let (hash, least) = (least.hash(), rank(least));
        self.remove(hash, |held| rank(held) == least)
    }

    /// Takes the thing out if it is the only one.
    pub(crate) fn take_inline(&mut self) -> Option<T> {
        match std::mem::take(self) {
            HeldSet::Inline(held) => Some(held),
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
            set.insert(thing(number));
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
        set.insert(thing(1));
        assert_eq!(set.remove_low(spread(7), rank), Some(thing(1)));
        for number in 0..10_000 {
            set.insert(thing(number));
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
                    set.insert(held);
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
