//! A bag: the entries of one key of a table with duplicate keys, in the order of insertion.
//!
//! ```text
//!  list of chunks ──► chunk: 4 entries │ chunk: 8 │ … │ chunk: 512 │ chunk: 512 …
//!                            owner, value, number
//! ```
//!
//! Entries are only appended, and their numbers only grow. A removal marks its entry as gone. A
//! chunk with few live entries is replaced by a smaller copy, and a chunk with none is dropped. So
//! the order stays, and no call copies more than one chunk. Writers hold a lock. Readers hold none:
//! an entry is complete before the chunk's length counts it, and later changes only once, when its
//! owner becomes [`GONE`].

use crate::primitive::{AtomicPtr, AtomicU64, Mutex, MutexGuard, Ordering, lock};

use super::OutOfMemory;
use super::reclaim::Guard;
use super::value::{Object, Value, ValueView, ValueWord};

/// The owner of an entry that has been removed.
const GONE: u64 = 0;
const MIN_CHUNK: usize = 4;
const MAX_CHUNK: usize = 512;

struct Place {
    owner: AtomicU64,
    value: AtomicU64,
    number: AtomicU64,
}

struct Chunk {
    /// The number of filled places. Readers ignore the places beyond it.
    len: AtomicU64,
    /// How many of them are not gone. Written under the bag's lock.
    live: AtomicU64,
    places: Box<[Place]>,
}

#[derive(Debug)]
struct Chunks(Box<[*mut Chunk]>);

// SAFETY: the pointers come from boxes, and chunks consist of atomics.
unsafe impl Send for Chunks {}
// SAFETY: as above.
unsafe impl Sync for Chunks {}

#[derive(Debug)]
struct State {
    next: u64,
    live: usize,
}

/// The entries of one key.
#[derive(Debug)]
pub struct Bag<V: Object> {
    id: u64,
    chunks: AtomicPtr<Chunks>,
    state: Mutex<State>,
    values: std::marker::PhantomData<Box<V>>,
}

/// An entry of a bag.
#[derive(Debug)]
pub struct Member<'g, V> {
    /// Its owner.
    pub owner: u64,
    /// Its number, larger than those of the entries before it.
    pub number: u64,
    /// Its value.
    pub value: ValueView<'g, V>,
}

/// The reason why an entry was not appended.
#[derive(Debug)]
pub(crate) enum NotAdded<V> {
    /// The bag is closed. It returns the value, for another bag.
    Closed(Value<V>),
    /// There is no memory for it.
    OutOfMemory,
}

impl<V> From<OutOfMemory> for NotAdded<V> {
    fn from(_: OutOfMemory) -> Self {
        NotAdded::OutOfMemory
    }
}

/// The outcome of a removal.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Removed {
    /// The bytes of memory that the bag freed.
    pub(crate) bytes: usize,
    /// Whether the bag is empty now, and closed for good.
    pub(crate) empty: bool,
}

/// Makes a slice of `len` items, or fails without memory for it.
fn boxed_slice<T>(len: usize, items: impl Iterator<Item = T>) -> Result<Box<[T]>, OutOfMemory> {
    let mut slice = Vec::new();
    slice.try_reserve_exact(len).map_err(|_| OutOfMemory)?;
    slice.extend(items.take(len));
    Ok(slice.into_boxed_slice())
}

/// Makes a box, or fails without memory for it.
pub(crate) fn boxed<T>(value: T) -> Result<Box<T>, OutOfMemory> {
    const { assert!(size_of::<T>() > 0) };
    let mut one = Vec::new();
    one.try_reserve_exact(1).map_err(|_| OutOfMemory)?;
    one.push(value);
    let slice = Box::into_raw(one.into_boxed_slice());
    // SAFETY: a boxed slice of one item has the same allocation as a box of that item.
    Ok(unsafe { Box::from_raw(slice.cast::<T>()) })
}

impl Chunk {
    fn new(capacity: usize) -> Result<Box<Self>, OutOfMemory> {
        let place = || Place {
            owner: AtomicU64::new(GONE),
            value: AtomicU64::new(0),
            number: AtomicU64::new(0),
        };
        boxed(Chunk {
            len: AtomicU64::new(0),
            live: AtomicU64::new(0),
            places: boxed_slice(capacity, std::iter::repeat_with(place))?,
        })
    }

    fn size(&self) -> usize {
        size_of::<Self>() + size_of::<*mut Chunk>() + size_of_val(&*self.places)
    }

    fn filled(&self) -> &[Place] {
        &self.places[..self.len.load(Ordering::Acquire) as usize]
    }

    fn is_full(&self) -> bool {
        self.filled().len() == self.places.len()
    }

    /// Appends an entry. The caller holds the bag's lock and has checked that there is room.
    fn push(&self, owner: u64, value: u64, number: u64) {
        let len = self.len.load(Ordering::Relaxed);
        let place = &self.places[len as usize];
        place.value.store(value, Ordering::Relaxed);
        place.number.store(number, Ordering::Relaxed);
        place.owner.store(owner, Ordering::Relaxed);
        self.live
            .store(self.live.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        self.len.store(len + 1, Ordering::Release);
    }

    fn first(&self) -> u64 {
        self.places[0].number.load(Ordering::Relaxed)
    }
}

impl<V: Object> Bag<V> {
    /// Makes a bag with its first entry, whose number is 0. No other bag of the table may have the
    /// same `id`.
    ///
    /// It is not public, and neither are the functions that change a bag. A reader's view of a
    /// member lives as long as its guard, so a bag must be in a table, which frees it only after
    /// the guard ends.
    #[cfg(test)]
    pub(crate) fn new(id: u64, owner: u64, value: Value<V>) -> Self {
        Self::with(id, [(owner, ValueWord::new(value))]).expect("there is memory")
    }

    /// Makes a bag with its first entries, numbered from 0; they must fit in one chunk. If it fails
    /// for lack of memory, the caller keeps the values.
    pub(super) fn with<const N: usize>(
        id: u64,
        entries: [(u64, ValueWord); N],
    ) -> Result<Self, OutOfMemory> {
        const { assert!(0 < N && N <= MIN_CHUNK) };
        let chunk = Chunk::new(MIN_CHUNK)?;
        for (number, (owner, word)) in (0..).zip(entries) {
            assert_ne!(owner, GONE, "expected an owner that is not 0");
            chunk.push(owner, word.0, number);
        }
        let mut chunks = boxed(Chunks(boxed_slice(
            1,
            std::iter::once(std::ptr::null_mut()),
        )?))?;
        chunks.0[0] = Box::into_raw(chunk);
        let state = State {
            next: N as u64,
            live: N,
        };
        Ok(Bag {
            id,
            chunks: AtomicPtr::new(Box::into_raw(chunks)),
            state: Mutex::new(state),
            values: std::marker::PhantomData,
        })
    }

    /// Returns a number that no other bag has, not even an earlier one of the same key.
    pub fn id(&self) -> u64 {
        self.id
    }

    fn chunks<'g>(&self, _guard: &'g Guard) -> &'g [*mut Chunk] {
        // SAFETY: the pointer came from `Box::into_raw`. Its target is retired only after it was
        // replaced, so the guard keeps it alive.
        unsafe { &(*self.chunks.load(Ordering::Acquire)).0 }
    }

    fn chunk<'g>(&self, chunk: *mut Chunk, _guard: &'g Guard) -> &'g Chunk {
        // SAFETY: the chunk was in the list under this guard, and is retired only after it has left
        // the list.
        unsafe { &*chunk }
    }

    fn set_chunks(&self, chunks: Box<Chunks>, guard: &Guard) {
        let new = Box::into_raw(chunks);
        let old = self.chunks.swap(new, Ordering::AcqRel);
        // SAFETY: only the holder of the bag's lock replaces the list, so it is retired once. Its
        // chunks are not freed with it.
        unsafe { guard.retire(old, size_of::<Chunks>()) }
    }

    /// Appends an entry. Returns its number and the bytes by which the bag has grown.
    ///
    /// # Errors
    ///
    /// See [`NotAdded`]; then nothing has changed.
    pub(crate) fn push(
        &self,
        owner: u64,
        value: Value<V>,
        guard: &Guard,
    ) -> Result<(u64, usize), NotAdded<V>> {
        assert_ne!(owner, GONE, "expected an owner that is not 0");
        let mut state = lock(&self.state);
        if state.live == 0 {
            return Err(NotAdded::Closed(value));
        }
        let number = state.next;
        let mut bytes = 0;
        let word = |value, bytes: &mut usize| {
            let word = ValueWord::new(value);
            // SAFETY: the value is still ours.
            *bytes += unsafe { word.size::<V>() };
            word.0
        };
        let chunks = self.chunks(guard);
        let last = chunks.last().map(|chunk| self.chunk(*chunk, guard));
        match last {
            Some(last) if !last.is_full() => last.push(owner, word(value, &mut bytes), number),
            last => {
                let capacity = last.map_or(0, |last| 2 * last.places.len());
                let chunk = Chunk::new(capacity.clamp(MIN_CHUNK, MAX_CHUNK))?;
                let (len, more) = (chunks.len(), std::iter::once(std::ptr::null_mut()));
                let longer = boxed_slice(len + 1, chunks.iter().copied().chain(more))?;
                let mut longer = boxed(Chunks(longer))?;
                // All memory is allocated, so nothing fails from here on.
                chunk.push(owner, word(value, &mut bytes), number);
                bytes += chunk.size();
                longer.0[len] = Box::into_raw(chunk);
                self.set_chunks(longer, guard);
            }
        }
        state.next += 1;
        state.live += 1;
        Ok((number, bytes))
    }

    /// Removes the entry with this number if it is present and belongs to `owner`.
    pub(crate) fn remove(&self, number: u64, owner: u64, guard: &Guard) -> Option<Removed> {
        if owner == GONE {
            // Removed entries have this owner and must not be removed again.
            return None;
        }
        let mut state = lock(&self.state);
        let chunks = self.chunks(guard);
        let index = chunks
            .partition_point(|chunk| self.chunk(*chunk, guard).first() <= number)
            .checked_sub(1)?;
        let chunk = self.chunk(chunks[index], guard);
        let places = chunk.filled();
        let place = places
            .binary_search_by_key(&number, |place| place.number.load(Ordering::Relaxed))
            .ok()
            .map(|position| &places[position])
            .filter(|place| place.owner.load(Ordering::Relaxed) == owner)?;
        place.owner.store(GONE, Ordering::Release);
        let word = ValueWord(place.value.load(Ordering::Relaxed));
        // SAFETY: the entry has just been removed, under the lock.
        let mut bytes = unsafe { word.size::<V>() };
        // SAFETY: as above.
        unsafe { word.retire::<V>(guard) };
        let live = chunk.live.load(Ordering::Relaxed) - 1;
        chunk.live.store(live, Ordering::Relaxed);
        state.live -= 1;
        if state.live > 0 {
            bytes += self.tidy(&state, index, guard);
        }
        Some(Removed {
            bytes,
            empty: state.live == 0,
        })
    }

    /// Replaces the chunk at `index` if few of its entries are left, or drops it if none is.
    /// Returns the bytes that this frees. The last chunk stays while it has room for new entries.
    /// Without memory for a replacement, any chunk stays.
    fn tidy(&self, locked: &MutexGuard<'_, State>, index: usize, guard: &Guard) -> usize {
        self.try_tidy(locked, index, guard).unwrap_or(0)
    }

    fn try_tidy(
        &self,
        _locked: &MutexGuard<'_, State>,
        index: usize,
        guard: &Guard,
    ) -> Result<usize, OutOfMemory> {
        let chunks = self.chunks(guard);
        let chunk = self.chunk(chunks[index], guard);
        let live = chunk.live.load(Ordering::Relaxed) as usize;
        if !chunk.is_full() || live > chunk.places.len() / 4 {
            return Ok(0);
        }
        let mut bytes = chunk.size();
        let smaller = if live > 0 {
            Some(Chunk::new(live)?)
        } else {
            None
        };
        let (before, after) = (&chunks[..index], &chunks[index + 1..]);
        let places = before.len() + usize::from(smaller.is_some()) + after.len();
        let gap = smaller.iter().map(|_| std::ptr::null_mut());
        let others = before
            .iter()
            .copied()
            .chain(gap)
            .chain(after.iter().copied());
        let mut list = boxed(Chunks(boxed_slice(places, others)?))?;
        // All memory is allocated, so nothing fails from here on.
        if let Some(smaller) = smaller {
            for place in chunk.filled() {
                let owner = place.owner.load(Ordering::Relaxed);
                if owner != GONE {
                    let value = place.value.load(Ordering::Relaxed);
                    smaller.push(owner, value, place.number.load(Ordering::Relaxed));
                }
            }
            bytes -= smaller.size();
            list.0[index] = Box::into_raw(smaller);
        }
        let old = chunks[index];
        self.set_chunks(list, guard);
        // SAFETY: the chunk has left the list, and only the holder of the lock can take it out.
        unsafe { guard.retire(old, chunk.size()) };
        Ok(bytes)
    }

    /// Visits the entries in order, from the number `from` on, until `visit` returns `false`. Then
    /// it returns the number of that entry, to continue from.
    pub fn walk<'g>(
        &self,
        from: u64,
        guard: &'g Guard,
        mut visit: impl FnMut(Member<'g, V>) -> bool,
    ) -> Option<u64> {
        let chunks = self.chunks(guard);
        let start = chunks
            .partition_point(|chunk| self.chunk(*chunk, guard).first() <= from)
            .saturating_sub(1);
        for chunk in &chunks[start..] {
            for place in self.chunk(*chunk, guard).filled() {
                let owner = place.owner.load(Ordering::Acquire);
                let number = place.number.load(Ordering::Relaxed);
                if owner == GONE || number < from {
                    continue;
                }
                let word = ValueWord(place.value.load(Ordering::Relaxed));
                // SAFETY: the entry was live under this guard.
                let value = unsafe { word.view() };
                let member = Member {
                    owner,
                    number,
                    value,
                };
                if !visit(member) {
                    return Some(number);
                }
            }
        }
        None
    }

    /// Returns the entry with this number.
    pub fn get<'g>(&self, number: u64, guard: &'g Guard) -> Option<Member<'g, V>> {
        let mut found = None;
        self.walk(number, guard, |member| {
            if member.number == number {
                found = Some(member);
            }
            false
        });
        found
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        lock(&self.state).live
    }

    /// Returns whether the bag is empty, and therefore closed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<V: Object> Object for Bag<V> {
    fn size(&self) -> usize {
        let guard = super::reclaim::pin();
        let mut bytes = size_of::<Self>() + size_of::<Chunks>();
        for chunk in self.chunks(&guard) {
            let chunk = self.chunk(*chunk, &guard);
            bytes += chunk.size();
            for place in chunk.filled() {
                if place.owner.load(Ordering::Relaxed) != GONE {
                    // SAFETY: the entry is in the bag.
                    bytes += unsafe { ValueWord(place.value.load(Ordering::Relaxed)).size::<V>() };
                }
            }
        }
        bytes
    }
}

impl<V: Object> Drop for Bag<V> {
    fn drop(&mut self) {
        let chunks = self.chunks.load(Ordering::Relaxed);
        // SAFETY: no other thread has the bag, and everything behind it is freed here, once.
        unsafe {
            let chunks = Box::from_raw(chunks);
            for chunk in &chunks.0 {
                let chunk = Box::from_raw(*chunk);
                for place in chunk.filled() {
                    if place.owner.load(Ordering::Relaxed) != GONE {
                        drop(ValueWord(place.value.load(Ordering::Relaxed)).take::<V>());
                    }
                }
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
