//! A concurrent hash table whose readers take no lock and write nothing that they share.
//!
//! It is extendible hashing (Fagin et al., 1979), as CCEH (Nam et al., 2019) and Dash (Lu et al.,
//! 2020) have it: a directory, indexed with the first bits of a key's hash, leads to segments of
//! bounded size. A full segment is split in two, so that growing never takes longer than a
//! segment does, whatever the table's size, and never stops a reader: the old segment stays as it
//! was until nobody can see it. See [`segment`] for what is inside one, and [`reclaim`] for when
//! memory is freed.
//!
//! # Consistency
//!
//! Each call that concerns one key takes effect at one moment between its start and its end.
//! [`Table::walk`] visits an entry that was there throughout exactly once, and one that came or
//! went meanwhile at most once.
//!
//! All the crate's `unsafe` is in this module.

pub(crate) mod bag;
mod blob;
pub(crate) mod counter;
mod directory;
mod group;
mod life;
#[cfg(all(test, loom))]
mod loom_models;
mod names;
pub mod reclaim;
mod segment;
#[cfg(not(loom))]
mod stored;
#[cfg(all(test, not(loom)))]
mod tests;
mod value;

#[cfg(not(loom))]
pub(crate) use bag::NotAdded;
pub use bag::{Bag, Member};
pub use blob::Blob;
pub use names::Names;
pub use reclaim::{Guard, pin};
#[cfg(not(loom))]
pub(crate) use stored::NOBODY;
#[cfg(not(loom))]
pub use stored::{Members, Stored};
pub use value::{Object, Value, ValueView};

use crate::interleave::{Point, reach};
use crate::key::{KINDS, Key, KeyView, LONG, OPAQUE, Opaque, Seed};
use counter::Counter;
use directory::Directory;
use group::Words;
pub(crate) use group::prefetch;
use segment::{Position, Segment};
use value::ValueWord;

/// There was no memory for an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

impl std::fmt::Display for OutOfMemory {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("no memory for another entry of the table")
    }
}

impl std::error::Error for OutOfMemory {}

/// A concurrent table from keys to an owner and a value.
///
/// An owner is a word that means something to the user alone.
pub struct Table<F: Opaque, V: Object> {
    directory: Directory,
    seed: Seed,
    entries: Counter,
    /// Bytes that keys and values hold beside their slots.
    heap: Counter,
    contents: std::marker::PhantomData<(Box<F>, Box<V>)>,
}

/// An entry as a reader finds it.
#[derive(Debug)]
pub struct Entry<'g, V> {
    /// The owner's word.
    pub owner: u64,
    /// The value.
    pub value: ValueView<'g, V>,
    word: ValueWord,
}

impl<V> Clone for Entry<'_, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for Entry<'_, V> {}

impl<V> Entry<'_, V> {
    /// Whether both are the same stored value: not equal ones, but the very same.
    pub fn same(&self, other: &Self) -> bool {
        self.owner == other.owner && self.word == other.word
    }
}

/// What became of an insertion.
#[derive(Debug)]
pub enum Inserted<'g, V> {
    /// The key was free.
    New,
    /// The key was taken by this owner, who was replaced.
    Replaced(u64),
    /// The key is taken, by this entry.
    Taken(Entry<'g, V>),
}

/// An entry as [`Table::walk`] shows it.
#[derive(Debug)]
pub struct Visited<'g, F, V> {
    /// Its key.
    pub key: KeyView<'g, F>,
    /// Its key's hash, in whose order the walk goes.
    pub hash: u64,
    /// What tells keys of one hash apart, for as long as they are there.
    pub place: u64,
    /// Its owner and value.
    pub entry: Entry<'g, V>,
}

/// A key that is being looked for, so that the memory of many can be waited for at once: the lines
/// of each are asked for, and then each is read.
///
/// What is read was in the table at one moment since [`Table::prefetch`]: a segment that is replaced
/// meanwhile is left as it was.
#[derive(Clone, Copy)]
pub struct Prefetched<'g> {
    segment: Segment<'g>,
    hash: u64,
}

/// The bits of a hash that are used. The others give way to the marks of long and opaque keys,
/// whose second word holds their hash.
const HASH: u64 = !0xFF;

impl<F: Opaque, V: Object> Table<F, V> {
    /// An empty table.
    ///
    /// # Errors
    ///
    /// When there is no memory for its first segment.
    pub fn new(seed: Seed) -> Result<Self, OutOfMemory> {
        Ok(Table {
            directory: Directory::new()?,
            seed,
            entries: Counter::default(),
            heap: Counter::default(),
            contents: std::marker::PhantomData,
        })
    }

    /// The hash of a key in this table, which every other call wants.
    #[inline(always)]
    pub fn hash(&self, key: &Key<'_, F::Probe>) -> u64 {
        self.seed.hash(key) & HASH
    }

    /// How many entries there are. It touches 16 cache lines at most.
    pub fn len(&self) -> usize {
        self.entries.sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of memory that the table holds.
    pub fn memory(&self) -> usize {
        size_of::<Self>() + self.directory.size() + self.heap.sum()
    }

    /// Counts bytes that an object of this table has come to hold, or to hold no more.
    #[cfg(not(loom))]
    pub(crate) fn add_heap(&self, hash: u64, bytes: i64) {
        self.heap.add(hash, bytes);
    }

    /// Whether the entry with these words is the one of `key`.
    ///
    /// # Safety
    ///
    /// The words were in a segment of this table at one moment since the current guard was made,
    /// or the segment's lock has been held since they were read.
    #[inline(always)]
    unsafe fn matches(words: &Words, key: &Key<'_, F::Probe>, hash: u64) -> bool {
        match *key {
            Key::Inline(k0, k1) => words.has_key(k0, k1),
            Key::Long(kind, bytes) => {
                words.k1 == long_word(kind, hash)
                    // SAFETY: the second word says that the first is a blob's pointer: `insert`
                    // refuses inline keys whose second word would. It was in the table under the
                    // guard, so it is retired after the guard began at the earliest.
                    && unsafe { Blob::bytes_of(pointer(words.k0)) } == bytes
            }
            Key::Opaque(_, probe) => {
                words.k1 == opaque_word(hash)
                    // SAFETY: the same for the pointer of a `Box<F>`.
                    && unsafe { &*pointer::<F>(words.k0) }.matches(probe)
            }
        }
    }

    /// The hash of an entry that is in the table.
    #[inline]
    fn hash_of(&self, words: &Words) -> u64 {
        if words.k1 >> 56 >= LONG {
            words.k1 << 8
        } else {
            self.seed.words(words.k0, words.k1) & HASH
        }
    }

    /// # Safety
    ///
    /// As [`Table::matches`], with a guard that lives as long as `'g`.
    #[inline(always)]
    unsafe fn entry<'g>(words: &Words) -> Entry<'g, V> {
        let word = ValueWord(words.value);
        Entry {
            owner: words.owner,
            // SAFETY: asked of the caller: the value was in the table under this guard.
            value: unsafe { word.view() },
            word,
        }
    }

    /// Begins to look for a key with this hash, and does not wait for the memory that this takes:
    /// see [`Prefetched`].
    #[inline]
    pub fn prefetch<'g>(&self, hash: u64, guard: &'g Guard) -> Prefetched<'g> {
        let segment = self.directory.segment(hash, guard);
        segment.prefetch(hash);
        Prefetched { segment, hash }
    }

    /// The entry of the key that was prefetched, as it was at one moment since [`Table::prefetch`].
    #[inline]
    pub fn get_prefetched<'g>(
        &self,
        key: &Key<'_, F::Probe>,
        prefetched: Prefetched<'g>,
    ) -> Option<Entry<'g, V>> {
        // SAFETY: the segment was this table's when it was prefetched, under a guard that lives for
        // `'g`.
        unsafe { Self::get_in(prefetched.segment, key, prefetched.hash) }
    }

    /// The entry of `key`.
    #[inline(always)]
    pub fn get<'g>(
        &self,
        key: &Key<'_, F::Probe>,
        hash: u64,
        guard: &'g Guard,
    ) -> Option<Entry<'g, V>> {
        let segment = self.directory.segment(hash, guard);
        reach(Point::SegmentFound);
        // SAFETY: the segment is this table's, and was found under this guard.
        unsafe { Self::get_in(segment, key, hash) }
    }

    /// # Safety
    ///
    /// The segment was found in a table of this type under a guard that lives for `'g`.
    #[inline(always)]
    unsafe fn get_in<'g>(
        segment: Segment<'g>,
        key: &Key<'_, F::Probe>,
        hash: u64,
    ) -> Option<Entry<'g, V>> {
        let found = match *key {
            Key::Inline(k0, k1) => segment.probe(hash, k0, k1),
            // SAFETY: `probe_with` shows words that were in the table together under the guard.
            _ => segment.probe_with(hash, |words| unsafe { Self::matches(words, key, hash) }),
        };
        // SAFETY: as above.
        found.map(|words| unsafe { Self::entry(&words) })
    }

    /// The key of an entry with this hash that `condition` agrees to.
    pub fn get_by_hash<'g>(
        &self,
        hash: u64,
        mut condition: impl FnMut(&Entry<'g, V>) -> bool,
        guard: &'g Guard,
    ) -> Option<Visited<'g, F, V>> {
        self.directory
            .segment(hash, guard)
            .probe_with(hash, |words| {
                // SAFETY: `probe_with` shows words that were in the table together under this guard.
                self.hash_of(words) == hash && condition(&unsafe { Self::entry(words) })
            })
            // SAFETY: as above.
            .map(|words| unsafe { Self::visited(hash, &words) })
    }

    /// Adds an entry, with the value that `make` makes. When the key is taken, `replace_if` is asked
    /// whether its owner may be replaced, and `make` is not called unless it agrees.
    ///
    /// # Errors
    ///
    /// When there is no memory for the key or for a larger segment: nothing has changed then.
    ///
    /// # Panics
    ///
    /// When the key is none that [`Key::new`] makes.
    #[inline]
    pub fn insert<'g>(
        &self,
        key: &Key<'_, F::Probe>,
        hash: u64,
        owner: u64,
        make: impl FnOnce() -> Value<V>,
        replace_if: impl FnOnce(&Entry<'g, V>) -> bool,
        guard: &'g Guard,
    ) -> Result<Inserted<'g, V>, OutOfMemory> {
        let inserted = self.insert_if(key, hash, owner, || true, make, replace_if, guard)?;
        Ok(inserted.unwrap_or_else(|| unreachable!("every key is admitted")))
    }

    /// As [`Table::insert`], but for a key that is free `admit` is asked whether it may come, while
    /// nobody else can take it. `None` where it may not.
    #[expect(
        clippy::too_many_arguments,
        reason = "an entry, and what there is to say of it"
    )]
    pub(crate) fn insert_if<'g>(
        &self,
        key: &Key<'_, F::Probe>,
        hash: u64,
        owner: u64,
        admit: impl FnOnce() -> bool,
        make: impl FnOnce() -> Value<V>,
        replace_if: impl FnOnce(&Entry<'g, V>) -> bool,
        guard: &'g Guard,
    ) -> Result<Option<Inserted<'g, V>>, OutOfMemory> {
        // What a reader believes of an entry's words is what is checked here: their marks say which
        // of them are pointers.
        assert!(
            match *key {
                Key::Inline(_, k1) => k1 >> 56 < LONG,
                Key::Long(kind, _) => kind < KINDS,
                Key::Opaque(..) => true,
            },
            "expected a key of a kind below {KINDS}"
        );
        debug_assert_eq!(
            hash,
            self.hash(key),
            "expected the key's hash in this table"
        );
        let (segment, mut state) = self
            .directory
            .lock_for_insert(hash, guard, |words| self.hash_of(words))?;
        // SAFETY: the segment's lock is held, and the guard.
        let found = segment.probe_locked(hash, |words| unsafe { Self::matches(words, key, hash) });
        if let Some(position) = found {
            // SAFETY: as above.
            let entry = unsafe { Self::entry(&position.words) };
            if !replace_if(&entry) {
                return Ok(Some(Inserted::Taken(entry)));
            }
            self.set(&position, hash, owner, make(), guard);
            return Ok(Some(Inserted::Replaced(entry.owner)));
        }
        if !admit() {
            return Ok(None);
        }
        let (k0, k1, key_size) = match *key {
            Key::Inline(k0, k1) => (k0, k1, 0),
            Key::Long(kind, bytes) => {
                let blob = Blob::new(bytes).ok_or(OutOfMemory)?;
                let raw = blob.into_raw().expose_provenance() as u64;
                (raw, long_word(kind, hash), Blob::size_of(bytes))
            }
            Key::Opaque(_, probe) => {
                let opaque = F::new(probe).ok_or(OutOfMemory)?;
                let size = opaque.size();
                let raw = Box::into_raw(opaque).expose_provenance() as u64;
                (raw, opaque_word(hash), size)
            }
        };
        let word = ValueWord::new(make());
        // SAFETY: the value is still ours.
        let size = key_size + unsafe { word.size::<V>() };
        let words = Words {
            k0,
            k1,
            owner,
            value: word.0,
        };
        segment.insert(&mut state, hash, words);
        self.entries.add(hash, 1);
        if size != 0 {
            self.heap.add(hash, size as i64);
        }
        Ok(Some(Inserted::New))
    }

    /// Puts another owner and value into an entry, under the segment's lock.
    fn set(&self, position: &Position<'_>, hash: u64, owner: u64, value: Value<V>, guard: &Guard) {
        let old = ValueWord(position.words.value);
        let new = ValueWord::new(value);
        // SAFETY: the old value is in the table, the new one is ours.
        let grown = unsafe { new.size::<V>() as i64 - old.size::<V>() as i64 };
        position.replace(owner, new.0);
        if grown != 0 {
            self.heap.add(hash, grown);
        }
        // SAFETY: the value has just been taken out of the table, under the lock.
        unsafe { old.retire::<V>(guard) }
    }

    /// Gives the entry of `key` another value, if it is still exactly `expected`.
    pub fn replace(
        &self,
        key: &Key<'_, F::Probe>,
        hash: u64,
        expected: &Entry<'_, V>,
        value: Value<V>,
        guard: &Guard,
    ) -> bool {
        let is_expected = |entry: &Entry<'_, V>| entry.same(expected);
        self.replace_if(key, hash, is_expected, expected.owner, value, guard)
    }

    /// Gives the entry of `key` another owner and value, if it is there and `condition` agrees, and
    /// says whether it did.
    pub fn replace_if(
        &self,
        key: &Key<'_, F::Probe>,
        hash: u64,
        condition: impl FnOnce(&Entry<'_, V>) -> bool,
        owner: u64,
        value: Value<V>,
        guard: &Guard,
    ) -> bool {
        let (segment, _state) = self.directory.lock(hash, guard);
        // SAFETY: the segment's lock is held, and the guard.
        match segment.probe_locked(hash, |words| unsafe { Self::matches(words, key, hash) }) {
            // SAFETY: as above.
            Some(position) if condition(&unsafe { Self::entry(&position.words) }) => {
                self.set(&position, hash, owner, value, guard);
                true
            }
            _ => false,
        }
    }

    /// Removes the entry of `key` if `condition` agrees, and says whether it did.
    pub fn remove(
        &self,
        key: &Key<'_, F::Probe>,
        hash: u64,
        mut condition: impl FnMut(&Entry<'_, V>) -> bool,
        guard: &Guard,
    ) -> bool {
        self.remove_where(hash, guard, |words| {
            // SAFETY: `remove_where` shows words under the segment's lock and the guard.
            unsafe { Self::matches(words, key, hash) && condition(&Self::entry(words)) }
        })
    }

    /// Removes one entry with this hash that `condition` agrees to, and says whether there was
    /// one: for who has kept a key's hash and not the key.
    pub fn remove_by_hash(
        &self,
        hash: u64,
        mut condition: impl FnMut(&Entry<'_, V>) -> bool,
        guard: &Guard,
    ) -> bool {
        self.remove_where(hash, guard, |words| {
            // SAFETY: as in `remove`.
            self.hash_of(words) == hash && condition(&unsafe { Self::entry(words) })
        })
    }

    fn remove_where(&self, hash: u64, guard: &Guard, matches: impl FnMut(&Words) -> bool) -> bool {
        let (segment, mut state) = self.directory.lock(hash, guard);
        let Some(position) = segment.probe_locked(hash, matches) else {
            return false;
        };
        let words = position.words;
        position.remove(&mut state, hash);
        let sparse = segment.is_sparse(&state);
        drop(state);
        self.entries.add(hash, -1);
        // SAFETY: the entry has just been taken out of the table by us, under the lock.
        let size = unsafe { Self::retire(&words, guard) };
        if size != 0 {
            self.heap.add(hash, -(size as i64));
        }
        if sparse {
            self.directory
                .shrink(hash, guard, |words| self.hash_of(words));
        }
        true
    }

    /// Frees what an entry's words lead to once no reader sees it; returns its bytes.
    ///
    /// # Safety
    ///
    /// The entry has been taken out of the table, and this is called once for it.
    unsafe fn retire(words: &Words, guard: &Guard) -> usize {
        let value = ValueWord(words.value);
        // SAFETY: the words' marks say what the pointers are, and the caller is their only user.
        unsafe {
            let value_size = value.size::<V>();
            value.retire::<V>(guard);
            let key_size = match words.k1 >> 56 {
                OPAQUE => {
                    let opaque = pointer::<F>(words.k0);
                    let size = (*opaque).size();
                    guard.retire(opaque, size);
                    size
                }
                LONG.. => {
                    let size = Blob::size_of(Blob::bytes_of(pointer(words.k0)));
                    guard.retire_with(pointer(words.k0), Blob::free, size);
                    size
                }
                _ => 0,
            };
            key_size + value_size
        }
    }

    /// Visits entries in the order of their hashes, from the hash `from` on, and returns where to
    /// go on: `None` at the end.
    ///
    /// It stops after `limit` entries, or a few more: entries with the same hash stay together,
    /// so that a walk that goes on later visits none twice. Between calls it holds nothing.
    pub fn walk<'g>(
        &self,
        from: u64,
        limit: usize,
        guard: &'g Guard,
        mut visit: impl FnMut(Visited<'g, F, V>),
    ) -> Option<u64> {
        let mut from = from;
        let mut visited = 0;
        let mut found = Vec::new();
        loop {
            let (segment, end) = self.directory.segment_and_end(from, guard);
            let last = end.map_or(u64::MAX, |end| end - 1);
            reach(Point::SegmentVisited);
            found.clear();
            segment.for_each(|words| {
                let hash = self.hash_of(&words);
                if (from..=last).contains(&hash) {
                    found.push((hash, words));
                }
            });
            found.sort_unstable_by_key(|(hash, _)| *hash);
            let mut previous = None;
            for (hash, words) in &found {
                if visited >= limit && previous != Some(*hash) {
                    return Some(*hash);
                }
                // SAFETY: the words were in a segment together under this guard.
                visit(unsafe { Self::visited(*hash, words) });
                visited += 1;
                previous = Some(*hash);
            }
            from = end?;
            if visited >= limit {
                return Some(from);
            }
        }
    }

    /// # Safety
    ///
    /// As [`Table::matches`], with a guard that lives as long as `'g`.
    unsafe fn visited<'g>(hash: u64, words: &Words) -> Visited<'g, F, V> {
        // SAFETY: the words' marks say what the pointers are, and the guard keeps them alive.
        unsafe {
            let key = match words.k1 >> 56 {
                OPAQUE => KeyView::Opaque(&*pointer::<F>(words.k0)),
                kind @ LONG.. => {
                    KeyView::Long((kind - LONG) as u8, Blob::bytes_of(pointer(words.k0)))
                }
                _ => KeyView::inline(words.k0, words.k1),
            };
            Visited {
                key,
                hash,
                place: words.k0 ^ words.k1.rotate_left(32),
                entry: Self::entry(words),
            }
        }
    }
}

impl<F: Opaque, V: Object> Drop for Table<F, V> {
    fn drop(&mut self) {
        let mut from = Some(0);
        while let Some(hash) = from {
            // A guard for each segment: what one guard has seen retired waits for its end, and the
            // entries of a large table would all wait together.
            let guard = pin();
            let (segment, end) = self.directory.segment_and_end(hash, &guard);
            // SAFETY: nobody else has the table any more, so this is the only call for each entry.
            segment.for_each(|words| unsafe {
                Self::retire(&words, &guard);
            });
            from = end;
        }
    }
}

fn long_word(kind: u8, hash: u64) -> u64 {
    ((LONG | u64::from(kind)) << 56) | hash >> 8
}

fn opaque_word(hash: u64) -> u64 {
    (OPAQUE << 56) | hash >> 8
}

fn pointer<T>(word: u64) -> *mut T {
    std::ptr::with_exposed_provenance_mut(word as usize)
}
