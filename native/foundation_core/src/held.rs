//! What one owner holds in one table, for `unregister` in constant time and for its death.

use hashbrown::HashTable;

/// Something that is held, found by a hash.
pub trait Held {
    /// A hash whose bits from the ninth on are random.
    fn hash(&self) -> u64;
}

impl Held for u64 {
    fn hash(&self) -> u64 {
        *self
    }
}

/// A multiset of held things that never takes long for one change, however many there are.
#[derive(Debug, Default)]
pub enum HeldSet<T> {
    /// Nothing.
    #[default]
    Empty,
    /// One thing: what most owners hold.
    One(T),
    /// More.
    Many(Box<Buckets<T>>),
}

/// Linear hashing (Litwin, 1980) over small hash tables: when there are many things for each
/// bucket, one bucket is split, so that no change moves more than a bucket.
#[derive(Debug)]
pub struct Buckets<T> {
    buckets: Vec<HashTable<T>>,
    len: usize,
    /// The bytes that the buckets have allocated.
    bytes: usize,
}

/// About how many things a bucket holds before there is another.
const BUCKET: usize = 512;

/// The hash inside a bucket, made of other bits than those that chose it.
fn inner<T: Held>(held: &T) -> u64 {
    inner_hash(held.hash())
}

fn inner_hash(hash: u64) -> u64 {
    hash.rotate_right(32)
}

impl<T: Held> Buckets<T> {
    fn index(&self, hash: u64) -> usize {
        let count = self.buckets.len();
        let hash = (hash >> 8) as usize;
        let index = hash & (count.next_power_of_two() - 1);
        if index < count {
            index
        } else {
            index - count.next_power_of_two() / 2
        }
    }

    fn insert(&mut self, held: T) {
        if self.len >= self.buckets.len() * BUCKET {
            self.split();
        }
        self.put(held);
        self.len += 1;
    }

    /// Changes the bucket for a hash, and keeps count of what it takes of memory.
    fn change<R>(&mut self, hash: u64, change: impl FnOnce(&mut HashTable<T>) -> R) -> R {
        let index = self.index(hash);
        let bucket = &mut self.buckets[index];
        self.bytes -= bucket.allocation_size();
        let result = change(bucket);
        self.bytes += bucket.allocation_size();
        result
    }

    fn put(&mut self, held: T) {
        self.change(held.hash(), |bucket| {
            bucket.insert_unique(inner(&held), held, inner);
        });
    }

    fn put_all(&mut self, bucket: HashTable<T>) {
        self.bytes -= bucket.allocation_size();
        bucket.into_iter().for_each(|held| self.put(held));
    }

    fn split(&mut self) {
        let new = self.buckets.len();
        let old = new - (new + 1).next_power_of_two() / 2;
        self.buckets.push(HashTable::new());
        let bucket = std::mem::take(&mut self.buckets[old]);
        self.put_all(bucket);
    }

    fn remove(&mut self, hash: u64, mut is: impl FnMut(&T) -> bool) -> Option<T> {
        let held = self.change(hash, |bucket| {
            let is = |held: &T| held.hash() == hash && is(held);
            let (held, _) = bucket.find_entry(inner_hash(hash), is).ok()?.remove();
            if bucket.len() < bucket.capacity() / 8 {
                bucket.shrink_to(bucket.len() * 2, inner);
            }
            Some(held)
        })?;
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
            self.put_all(bucket);
        }
    }

    fn get_mut(&mut self, hash: u64, mut is: impl FnMut(&T) -> bool) -> Option<&mut T> {
        let index = self.index(hash);
        let is = |held: &T| held.hash() == hash && is(held);
        self.buckets[index].find_mut(inner_hash(hash), is)
    }
}

impl<T: Held> HeldSet<T> {
    /// Adds something, once more if it is there already.
    pub fn insert(&mut self, held: T) {
        match std::mem::take(self) {
            HeldSet::Empty => *self = HeldSet::One(held),
            HeldSet::One(first) => {
                let mut many = Box::new(Buckets {
                    buckets: vec![HashTable::new()],
                    len: 0,
                    bytes: 0,
                });
                many.insert(first);
                many.insert(held);
                *self = HeldSet::Many(many);
            }
            HeldSet::Many(mut many) => {
                many.insert(held);
                *self = HeldSet::Many(many);
            }
        }
    }

    /// Takes out one thing that has this hash and that `is` agrees to.
    pub fn remove(&mut self, hash: u64, mut is: impl FnMut(&T) -> bool) -> Option<T> {
        match self {
            HeldSet::Empty => None,
            HeldSet::One(held) => {
                if held.hash() != hash || !is(held) {
                    return None;
                }
                self.take_one()
            }
            HeldSet::Many(many) => {
                let held = many.remove(hash, is)?;
                if many.len == 0 {
                    *self = HeldSet::Empty;
                }
                Some(held)
            }
        }
    }

    fn take_one(&mut self) -> Option<T> {
        match std::mem::take(self) {
            HeldSet::One(held) => Some(held),
            other => {
                *self = other;
                None
            }
        }
    }

    /// The thing that has this hash and that `is` agrees to.
    pub fn get_mut(&mut self, hash: u64, mut is: impl FnMut(&T) -> bool) -> Option<&mut T> {
        match self {
            HeldSet::Empty => None,
            HeldSet::One(held) => (held.hash() == hash && is(held)).then_some(held),
            HeldSet::Many(many) => many.get_mut(hash, is),
        }
    }

    /// How many things there are.
    pub fn len(&self) -> usize {
        match self {
            HeldSet::Empty => 0,
            HeldSet::One(_) => 1,
            HeldSet::Many(many) => many.len,
        }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        matches!(self, HeldSet::Empty)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        let (one, many) = match self {
            HeldSet::Empty => (None, None),
            HeldSet::One(held) => (Some(held), None),
            HeldSet::Many(many) => (None, Some(&many.buckets)),
        };
        one.into_iter().chain(many.into_iter().flatten().flatten())
    }

    /// The bytes that it holds beside itself.
    pub fn size(&self) -> usize {
        match self {
            HeldSet::Empty | HeldSet::One(_) => 0,
            HeldSet::Many(many) => {
                size_of::<Buckets<T>>() + size_of_val(&*many.buckets) + many.bytes
            }
        }
    }
}

/// What [`HeldSet::into_iter`] goes through.
pub struct IntoIter<T>(std::iter::Chain<std::option::IntoIter<T>, Flat<T>>);

type Flat<T> = std::iter::Flatten<std::vec::IntoIter<HashTable<T>>>;

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
        let (one, many) = match self {
            HeldSet::Empty => (None, Vec::new()),
            HeldSet::One(held) => (Some(held), Vec::new()),
            HeldSet::Many(many) => (None, many.buckets),
        };
        IntoIter(one.into_iter().chain(many.into_iter().flatten()))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spread(number: u64) -> u64 {
        number.wrapping_mul(0x9E37_79B9_7F4A_7C15) & !0xFF
    }

    #[test]
    fn it_grows_and_shrinks_again() {
        let mut set = HeldSet::default();
        for number in 0..100_000 {
            set.insert(spread(number));
        }
        assert_eq!((set.len(), set.iter().count()), (100_000, 100_000));
        let full = set.size();
        for number in 0..99_999 {
            assert_eq!(set.remove(spread(number), |_| true), Some(spread(number)));
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), [&spread(99_999)]);
        assert!(set.size() < full / 100, "{} of {full}", set.size());
        assert_eq!(set.remove(spread(99_999), |_| true), Some(spread(99_999)));
        assert!(set.is_empty());
    }

    proptest! {
        #[test]
        fn it_is_a_multiset(changes in prop::collection::vec((any::<bool>(), 0u64..40), 0..4_000)) {
            let mut set = HeldSet::default();
            let mut model = Vec::new();
            for (add, number) in changes {
                let hash = spread(number);
                if add {
                    set.insert(hash);
                    model.push(hash);
                } else {
                    let found = model.iter().position(|held| *held == hash);
                    found.map(|index| model.swap_remove(index));
                    prop_assert_eq!(set.remove(hash, |held| *held == hash).is_some(), found.is_some());
                }
                prop_assert_eq!(set.len(), model.len());
            }
            let mut all: Vec<u64> = set.into_iter().collect();
            all.sort_unstable();
            model.sort_unstable();
            prop_assert_eq!(all, model);
        }
    }
}
