//! A concurrent hash table whose readers take no lock and write nothing shared.
//!
//! It uses extendible hashing (Fagin et al., 1979), as CCEH (Nam et al., 2019) and Dash (Lu et al.,
//! 2020) do: a directory, indexed by the first bits of a key's hash, leads to segments of bounded
//! size. A full segment is split in two. So growth costs at most a segment's work per step,
//! whatever the table's size. It never blocks a reader, because the old segment stays unchanged
//! until no reader can see it. See [`segment`] for the inside of a segment, and [`reclaim`] for the
//! freeing of memory.
//!
//! # Consistency
//!
//! Each call on one key is linearizable: it takes effect at one moment between its start and its
//! end. [`Table::walk`] visits an entry that stays in the table exactly once. It visits an entry
//! that is inserted or removed meanwhile at most once.
//!
//! All `unsafe` code of the crate is in this module.

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
mod shared;
#[cfg(not(loom))]
mod stored;
#[cfg(all(test, not(loom)))]
mod tests;
mod value;

#[cfg(not(loom))]
pub(crate) use bag::NotAdded;
pub(crate) use bag::boxed;
pub use bag::{Bag, Member};
pub use blob::Blob;
pub use names::Names;
pub use reclaim::{Guard, pin};
pub(crate) use shared::Shared;
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

/// The error of an insertion that there was no memory for.
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
/// An owner is a word whose meaning only the caller knows.
pub struct Table<F: Opaque, V: Object> {
    directory: Directory,
    seed: Seed,
    entries: Counter,
    /// The bytes of keys and values outside their slots.
    heap: Counter,
    contents: std::marker::PhantomData<(Box<F>, Box<V>)>,
}

/// An entry, as a reader gets it.
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
    /// Returns whether both are the very same stored value, not merely equal ones.
    pub fn same(&self, other: &Self) -> bool {
        self.owner == other.owner && self.word == other.word
    }
}

/// The outcome of an insertion.
#[derive(Debug)]
pub enum Inserted<'g, V> {
    /// The key was free.
    New,
    /// The entry of this owner was replaced.
    Replaced(u64),
    /// The key is taken by this entry.
    Taken(Entry<'g, V>),
}

/// An entry, as [`Table::walk`] visits it.
#[derive(Debug)]
pub struct Visited<'g, F, V> {
    /// Its key.
    pub key: KeyView<'g, F>,
    /// Its key's hash. A walk visits entries in the order of their hashes.
    pub hash: u64,
    /// A number that distinguishes keys with equal hashes while both are present.
    pub place: u64,
    /// Its owner and value.
    pub entry: Entry<'g, V>,
}

/// A lookup in progress. A caller with many keys prefetches the cache lines of each key first and
/// reads each entry afterwards, so the cache misses overlap.
///
/// The answer was in the table at one moment since [`Table::prefetch`]: a segment that is replaced
/// meanwhile stays unchanged.
#[derive(Clone, Copy)]
pub struct Prefetched<'g> {
    segment: Segment<'g>,
    hash: u64,
}

/// The bits of a hash that are used. A long or opaque key stores its hash in its second word, where
/// the other bits give way to the key's mark.
const HASH: u64 = !0xFF;

impl<F: Opaque, V: Object> Table<F, V> {
    /// Makes an empty table.
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

    /// Returns the hash of a key in this table. Most other calls need it.
    #[inline(always)]
    pub fn hash(&self, key: &Key<'_, F::Probe>) -> u64 {
        self.seed.hash(key) & HASH
    }

    /// Returns the number of entries. It reads at most 16 cache lines.
    pub fn len(&self) -> usize {
        self.entries.sum()
    }

    /// Returns whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the bytes of memory that the table uses.
    pub fn memory(&self) -> usize {
        size_of::<Self>() + self.directory.size() + self.heap.sum()
    }

    /// Adds to the count of bytes that objects of this table use.
    #[cfg(not(loom))]
    pub(crate) fn add_heap(&self, hash: u64, bytes: i64) {
        self.heap.add(hash, bytes);
    }

    /// Returns whether the entry with these words has this key.
    ///
    /// # Safety
    ///
    /// The words were in a segment of this table at one moment since the current guard was made, or
    /// the segment's lock has been held since they were read.
    #[inline(always)]
    unsafe fn matches(words: &Words, key: &Key<'_, F::Probe>, hash: u64) -> bool {
        match *key {
            Key::Inline(k0, k1) => words.has_key(k0, k1),
            Key::Long(kind, bytes) => {
                words.k1 == long_word(kind, hash)
                    // SAFETY: the mark in the second word says that the first is a blob's pointer;
                    // `insert` refuses inline keys with such a mark. The entry was in the table
                    // under the guard, so the blob is retired under that guard at the earliest.
                    && unsafe { Blob::bytes_of(pointer(words.k0)) } == bytes
            }
            Key::Opaque(_, probe) => {
                words.k1 == opaque_word(hash)
                    // SAFETY: as above, for the pointer of a `Box<F>`.
                    && unsafe { &*pointer::<F>(words.k0) }.matches(probe)
            }
        }
    }

    /// Returns the hash of an entry that is in the table.
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
            // SAFETY: the caller promises that the value was in the table under this guard.
            value: unsafe { word.view() },
            word,
        }
    }

    /// Starts a lookup of a key with this hash without waiting for memory: see [`Prefetched`].
    #[inline]
    pub fn prefetch<'g>(&self, hash: u64, guard: &'g Guard) -> Prefetched<'g> {
        let segment = self.directory.segment(hash, guard);
        segment.prefetch(hash);
        Prefetched { segment, hash }
    }

    /// Returns the entry of a prefetched key, as it was at one moment since [`Table::prefetch`].
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

    /// Returns the entry of `key`.
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
            // SAFETY: `probe_with` passes words that were in the table together under the guard.
            _ => segment.probe_with(hash, |words| unsafe { Self::matches(words, key, hash) }),
        };
        // SAFETY: as above.
        found.map(|words| unsafe { Self::entry(&words) })
    }

    /// Returns the key of an entry with this hash that `condition` accepts.
    pub fn get_by_hash<'g>(
        &self,
        hash: u64,
        mut condition: impl FnMut(&Entry<'g, V>) -> bool,
        guard: &'g Guard,
    ) -> Option<Visited<'g, F, V>> {
        self.directory
            .segment(hash, guard)
            .probe_with(hash, |words| {
                // SAFETY: `probe_with` passes words that were in the table together under this
                // guard.
                self.hash_of(words) == hash && condition(&unsafe { Self::entry(words) })
            })
            // SAFETY: as above.
            .map(|words| unsafe { Self::visited(hash, &words) })
    }

    /// Inserts an entry with the value that `make` returns. If the key is taken, `replace_if`
    /// decides whether its entry may be replaced. `make` is called only when the entry is stored.
    ///
    /// # Errors
    ///
    /// When there is no memory for the key or for a larger segment; then nothing has changed.
    ///
    /// # Panics
    ///
    /// When the key has a form that [`Key::new`] never makes.
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

    /// Like [`Table::insert`], but for a free key `admit` decides whether to insert. No other
    /// thread can take the key meanwhile. Returns `None` when `admit` declines.
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
        // Readers rely on the marks of an entry's words: the marks say which words are pointers. So
        // a key with a false mark must never enter the table.
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
        // SAFETY: the segment's lock and the guard are held.
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

    /// Stores another owner and value in an entry. The segment's lock is held.
    fn set(&self, position: &Position<'_>, hash: u64, owner: u64, value: Value<V>, guard: &Guard) {
        let old = ValueWord(position.words.value);
        let new = ValueWord::new(value);
        // SAFETY: the old value is in the table, and the new one is still ours.
        let grown = unsafe { new.size::<V>() as i64 - old.size::<V>() as i64 };
        position.replace(owner, new.0);
        if grown != 0 {
            self.heap.add(hash, grown);
        }
        // SAFETY: the value has just been taken out of the table, under the lock.
        unsafe { old.retire::<V>(guard) }
    }

    /// Gives the entry of `key` another value if it is still the very entry `expected`.
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

    /// Gives the entry of `key` another owner and value if it is present and `condition` accepts
    /// it. Returns whether it did.
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
        // SAFETY: the segment's lock and the guard are held.
        match segment.probe_locked(hash, |words| unsafe { Self::matches(words, key, hash) }) {
            // SAFETY: as above.
            Some(position) if condition(&unsafe { Self::entry(&position.words) }) => {
                self.set(&position, hash, owner, value, guard);
                true
            }
            _ => false,
        }
    }

    /// Like [`Table::replace_if`], for callers that kept only the hash of a key.
    pub(crate) fn replace_by_hash(
        &self,
        hash: u64,
        mut condition: impl FnMut(&Entry<'_, V>) -> bool,
        owner: u64,
        value: Value<V>,
        guard: &Guard,
    ) -> bool {
        let (segment, _state) = self.directory.lock(hash, guard);
        let found = segment.probe_locked(hash, |words| {
            // SAFETY: the segment's lock and the guard are held.
            self.hash_of(words) == hash && condition(&unsafe { Self::entry(words) })
        });
        if let Some(position) = &found {
            self.set(position, hash, owner, value, guard);
        }
        found.is_some()
    }

    /// Removes the entry of `key` if `condition` accepts it, and returns whether it did.
    pub fn remove(
        &self,
        key: &Key<'_, F::Probe>,
        hash: u64,
        mut condition: impl FnMut(&Entry<'_, V>) -> bool,
        guard: &Guard,
    ) -> bool {
        self.remove_where(hash, guard, |words| {
            // SAFETY: `remove_where` passes words under the segment's lock and the guard.
            unsafe { Self::matches(words, key, hash) && condition(&Self::entry(words)) }
        })
    }

    /// Removes one entry with this hash that `condition` accepts, and returns whether there was
    /// one. It is for callers that kept only the hash of a key.
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
        // SAFETY: this call has just taken the entry out of the table, under the lock.
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

    /// Frees the memory behind an entry's words once no reader can see it. Returns its size in
    /// bytes.
    ///
    /// # Safety
    ///
    /// The entry has been taken out of the table, and this is called only once for it.
    unsafe fn retire(words: &Words, guard: &Guard) -> usize {
        let value = ValueWord(words.value);
        // SAFETY: the marks say which words are pointers, and the caller is their only user.
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

    /// Visits entries in the order of their hashes, from the hash `from` on. Returns the hash at
    /// which to continue, or `None` at the end.
    ///
    /// It stops after `limit` entries or a few more: it never separates entries with equal hashes,
    /// so the next call visits no entry again. Between calls it holds no resources.
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
        // SAFETY: the marks say which words are pointers, and the guard keeps their objects alive.
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
            // Take a guard for each segment. Garbage that is retired under a guard waits for the
            // end of that guard, so a single guard would keep all entries of a large table in
            // memory.
            let guard = pin();
            let (segment, end) = self.directory.segment_and_end(hash, &guard);
            // SAFETY: no other thread has the table, so each entry is retired only once.
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
