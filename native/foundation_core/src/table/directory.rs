//! The directory: it maps the first bits of a hash to the segment with the entries of that hash.
//!
//! Readers follow two pointers. Both are replaced as a whole, and what they led to is freed when no
//! reader can still see it. A thread that changes the structure holds the structure lock, and takes
//! the locks of segments inside it. A writer that finds its segment full unlocks the segment before
//! it takes the structure lock.

use std::marker::PhantomData;

use crate::interleave::{Point, reach};
use crate::primitive::{AtomicI64, AtomicPtr, Mutex, MutexGuard, Ordering, lock};

use super::OutOfMemory;
use super::group::Words;
use super::reclaim::Guard;
use super::segment::{MIN_GROUPS_LOG2, SPLIT_GROUPS_LOG2, Segment, State, capacity};

/// The most bits of a hash that distinguish segments.
const MAX_BITS: u32 = 32;

/// A full segment is split if each half gets at least one in this many of its entries. Otherwise it
/// is full because hashes collide, and it is doubled instead. A split would leave most entries
/// together, so the segment would soon be full again, and each such split may double the directory.
const MIN_SHARE: usize = 8;

/// One generation of the directory. It lives for `'g`: for readers, the lifetime of their guard. A
/// segment whose hashes share fewer than `bits` bits occupies several slots.
///
/// The low bits of the pointer to the slots hold `bits`, so a reader needs no other load to find
/// its slot.
#[derive(Clone, Copy)]
struct Slots<'g> {
    first: *mut AtomicPtr<()>,
    bits: u32,
    life: PhantomData<&'g AtomicPtr<()>>,
}

/// Slots are allocated by the cache line, which leaves the low bits of their address free.
#[repr(C, align(64))]
struct Line([AtomicPtr<()>; LINE]);

const LINE: usize = 8;
const _: () = assert!(size_of::<Line>() == LINE * size_of::<AtomicPtr<()>>());

pub(super) struct Directory {
    /// See [`Slots::into_raw`].
    slots: AtomicPtr<()>,
    structure: Mutex<()>,
    /// The bytes of the directory and its segments.
    size: AtomicI64,
}

impl<'g> Slots<'g> {
    /// Makes slots for these segments. Their number is a power of two.
    fn new(segments: impl ExactSizeIterator<Item = *mut ()>) -> Self {
        let count = segments.len();
        debug_assert!(count.is_power_of_two());
        let mut segments = segments.chain(std::iter::repeat(std::ptr::null_mut()));
        let mut next = || AtomicPtr::new(segments.next().unwrap_or_default());
        let lines: Box<[Line]> = std::iter::repeat_with(|| Line([(); LINE].map(|()| next())))
            .take(Self::lines(count))
            .collect();
        Slots {
            first: Box::into_raw(lines).cast(),
            bits: count.trailing_zeros(),
            life: PhantomData,
        }
    }

    fn lines(count: usize) -> usize {
        count.div_ceil(LINE)
    }

    fn into_raw(self) -> *mut () {
        let bits = self.bits as usize;
        self.first.map_addr(|address| address | bits).cast()
    }

    /// # Safety
    ///
    /// `raw` came from [`Slots::into_raw`], and is not freed during `'g`.
    #[inline]
    unsafe fn from_raw(raw: *mut ()) -> Self {
        const BITS: usize = align_of::<Line>() - 1;
        Slots {
            first: raw
                .cast::<AtomicPtr<()>>()
                .map_addr(|address| address & !BITS),
            bits: (raw.addr() & BITS) as u32,
            life: PhantomData,
        }
    }

    /// # Safety
    ///
    /// As [`Slots::from_raw`], and no thread uses the slots again.
    unsafe fn free(raw: *mut ()) {
        // SAFETY: the caller promises it; `new` made a box of this many lines.
        unsafe {
            let slots = Self::from_raw(raw);
            let lines = std::ptr::slice_from_raw_parts_mut(
                slots.first.cast::<Line>(),
                Self::lines(1 << slots.bits),
            );
            drop(Box::from_raw(lines));
        }
    }

    fn all(self) -> &'g [AtomicPtr<()>] {
        // SAFETY: there are `1 << bits` slots, and they live for `'g`.
        unsafe { std::slice::from_raw_parts(self.first, 1 << self.bits) }
    }

    #[inline]
    fn index(self, hash: u64) -> usize {
        ((hash >> 32) >> (32 - self.bits)) as usize
    }

    /// Returns the slot of the segment for `hash`.
    #[inline]
    fn slot(self, hash: u64) -> &'g AtomicPtr<()> {
        // SAFETY: the index has `bits` bits, and there are `1 << bits` slots.
        unsafe { &*self.first.add(self.index(hash)) }
    }

    /// Returns the slots of the segments whose hashes share their first `depth` bits with `hash`.
    fn range(self, hash: u64, depth: u32) -> std::ops::Range<usize> {
        let run = 1 << (self.bits - depth);
        let start = self.index(hash) & !(run - 1);
        start..start + run
    }

    fn size(self) -> usize {
        size_of::<Line>() * Self::lines(1 << self.bits)
    }
}

impl Directory {
    pub(super) fn new() -> Result<Self, OutOfMemory> {
        let segment = Segment::new(MIN_GROUPS_LOG2, 0).ok_or(OutOfMemory)?;
        let slots = Slots::new([segment.into_raw()].into_iter());
        let size = segment.size() + slots.size();
        Ok(Directory {
            slots: AtomicPtr::new(slots.into_raw()),
            structure: Mutex::new(()),
            size: AtomicI64::new(size as i64),
        })
    }

    pub(super) fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed).max(0) as usize
    }

    #[inline]
    fn slots<'g>(&self, _guard: &'g Guard) -> Slots<'g> {
        // SAFETY: slots are retired only after they were replaced, so the guard keeps these alive.
        unsafe { Slots::from_raw(self.slots.load(Ordering::Acquire)) }
    }

    /// Returns the segment for `hash`. It may be replaced at any moment, and then stays unchanged.
    ///
    /// Even a replaced segment shows entries that were in the table at one moment since the guard
    /// began. Either the segment was in its slot when the reader loaded the slot. Or a writer
    /// replaced the slots in between, and the segment was current when the reader loaded the slots.
    /// The reader loads both under the guard.
    #[inline]
    pub(super) fn segment<'g>(&self, hash: u64, guard: &'g Guard) -> Segment<'g> {
        let raw = self.slots(guard).slot(hash).load(Ordering::Acquire);
        // SAFETY: the directory holds only pointers to segments. A segment is retired only after it
        // was replaced, so the guard keeps it alive.
        unsafe { Segment::from_raw(raw) }
    }

    /// Returns the segment for `hash` and the first hash that belongs to the next segment.
    pub(super) fn segment_and_end<'g>(
        &self,
        hash: u64,
        guard: &'g Guard,
    ) -> (Segment<'g>, Option<u64>) {
        let slots = self.slots(guard);
        let index = slots.index(hash);
        let all = slots.all();
        let raw = all[index].load(Ordering::Acquire);
        let run = all[index..]
            .iter()
            .take_while(|segment| segment.load(Ordering::Acquire) == raw)
            .count()
            .max(1);
        let end = index + run;
        // SAFETY: as in `segment`.
        let segment = unsafe { Segment::from_raw(raw) };
        if end == all.len() {
            (segment, None)
        } else {
            (segment, Some((end as u64) << (64 - slots.bits)))
        }
    }

    /// Visits each segment once. The caller must have the table to itself.
    pub(super) fn for_each_segment(&self, guard: &Guard, mut visit: impl FnMut(Segment<'_>)) {
        let mut from = Some(0);
        while let Some(hash) = from {
            let (segment, end) = self.segment_and_end(hash, guard);
            visit(segment);
            from = end;
        }
    }

    /// Locks the segment for `hash` against other writers.
    pub(super) fn lock<'g>(
        &self,
        hash: u64,
        guard: &'g Guard,
    ) -> (Segment<'g>, MutexGuard<'g, State>) {
        loop {
            let segment = self.segment(hash, guard);
            reach(Point::SegmentChosen);
            let state = segment.lock();
            if !state.replaced {
                return (segment, state);
            }
        }
    }

    /// Locks the segment for `hash`, with room for another entry in it.
    pub(super) fn lock_for_insert<'g>(
        &self,
        hash: u64,
        guard: &'g Guard,
        hash_of: impl Fn(&Words) -> u64,
    ) -> Result<(Segment<'g>, MutexGuard<'g, State>), OutOfMemory> {
        loop {
            let (segment, state) = self.lock(hash, guard);
            if state.live < segment.capacity() {
                return Ok((segment, state));
            }
            drop(state);
            self.grow(hash, guard, &hash_of)?;
        }
    }

    /// Splits or doubles the segment for `hash` if it is full.
    #[cold]
    fn grow(
        &self,
        hash: u64,
        guard: &Guard,
        hash_of: &impl Fn(&Words) -> u64,
    ) -> Result<(), OutOfMemory> {
        let _structure = lock(&self.structure);
        let (segment, mut state) = self.lock(hash, guard);
        if state.live < segment.capacity() {
            return Ok(());
        }
        let depth = state.depth;
        let bit = |hash: u64| (hash >> (63 - depth)) & 1;
        let groups_log2 = segment.groups_log2();
        if groups_log2 >= SPLIT_GROUPS_LOG2 && depth < MAX_BITS {
            let mut ones = 0;
            segment.for_each(|words| ones += bit(hash_of(&words)) as usize);
            if ones.min(state.live - ones) * MIN_SHARE >= state.live {
                let counts = [state.live - ones, ones];
                let mut halves = Halves::new(depth + 1, counts).ok_or(OutOfMemory)?;
                if depth == self.slots(guard).bits {
                    self.double(guard);
                }
                segment.for_each(|words| {
                    let hash = hash_of(&words);
                    halves.insert(bit(hash) as usize, hash, words);
                });
                let boundary = 1 << (63 - depth);
                self.publish(hash & !boundary, halves.take(0), guard);
                self.publish(hash | boundary, halves.take(1), guard);
                self.replace(segment, &mut state, guard);
                return Ok(());
            }
        }
        let larger = Segment::new(groups_log2 + 1, depth).ok_or(OutOfMemory)?;
        self.move_into(larger, segment, hash_of);
        self.publish(hash, larger, guard);
        self.replace(segment, &mut state, guard);
        Ok(())
    }

    /// Merges a sparse segment for `hash` with its buddy, or makes it smaller. Without memory for
    /// that, nothing changes.
    #[cold]
    pub(super) fn shrink(&self, hash: u64, guard: &Guard, hash_of: impl Fn(&Words) -> u64) {
        let _structure = lock(&self.structure);
        let (segment, mut state) = self.lock(hash, guard);
        if !segment.is_sparse(&state) {
            return;
        }
        if state.depth > 0 {
            let (buddy, mut buddy_state) = self.lock(hash ^ (1 << (64 - state.depth)), guard);
            let live = state.live + buddy_state.live;
            let groups_log2 = groups_for(live);
            if buddy_state.depth == state.depth && groups_log2 <= SPLIT_GROUPS_LOG2 {
                let Some(merged) = Segment::new(groups_log2, state.depth - 1) else {
                    return;
                };
                self.move_into(merged, segment, &hash_of);
                self.move_into(merged, buddy, &hash_of);
                self.publish(hash, merged, guard);
                self.replace(segment, &mut state, guard);
                self.replace(buddy, &mut buddy_state, guard);
                self.halve(guard);
                return;
            }
        }
        let groups_log2 = groups_for(state.live);
        if groups_log2 < segment.groups_log2()
            && let Some(smaller) = Segment::new(groups_log2, state.depth)
        {
            self.move_into(smaller, segment, &hash_of);
            self.publish(hash, smaller, guard);
            self.replace(segment, &mut state, guard);
        }
    }

    fn move_into(
        &self,
        target: Segment<'_>,
        source: Segment<'_>,
        hash_of: &impl Fn(&Words) -> u64,
    ) {
        let mut state = target.lock();
        source.for_each(|words| target.insert(&mut state, hash_of(&words), words));
    }

    /// Puts a new segment into all slots of its depth.
    fn publish(&self, hash: u64, segment: Segment<'_>, guard: &Guard) {
        let slots = self.slots(guard);
        let depth = segment.lock().depth;
        self.size
            .fetch_add(segment.size() as i64, Ordering::Relaxed);
        for slot in &slots.all()[slots.range(hash, depth)] {
            slot.store(segment.into_raw(), Ordering::Release);
        }
    }

    /// Marks a segment that is in no slot as replaced, and retires it.
    fn replace(&self, segment: Segment<'_>, state: &mut State, guard: &Guard) {
        state.replaced = true;
        self.size
            .fetch_sub(segment.size() as i64, Ordering::Relaxed);
        // SAFETY: the segment has been replaced in every slot. Its lock is held, so this happens
        // once.
        unsafe { guard.retire_with(segment.into_raw(), Segment::free, segment.size()) }
    }

    /// Doubles the directory.
    fn double(&self, guard: &Guard) {
        let old = self.slots(guard);
        let segment = |index: usize| old.all()[index / 2].load(Ordering::Relaxed);
        self.set_slots(Slots::new((0..2 << old.bits).map(segment)), guard);
    }

    /// Halves the directory while every segment occupies at least two slots.
    fn halve(&self, guard: &Guard) {
        loop {
            let old = self.slots(guard);
            let raw = |slot: &AtomicPtr<()>| slot.load(Ordering::Relaxed);
            let mut pairs = old.all().chunks_exact(2);
            if old.bits == 0 || !pairs.all(|pair| raw(&pair[0]) == raw(&pair[1])) {
                return;
            }
            let segments = old.all().iter().step_by(2).map(raw);
            self.set_slots(Slots::new(segments), guard);
        }
    }

    fn set_slots(&self, new: Slots<'_>, guard: &Guard) {
        let size = self.slots(guard).size();
        let grown = new.size() as i64 - size as i64;
        self.size.fetch_add(grown, Ordering::Relaxed);
        let old = self.slots.swap(new.into_raw(), Ordering::AcqRel);
        // SAFETY: only the holder of the structure lock replaces slots, so these slots are retired
        // once, and no later reader finds them.
        unsafe { guard.retire_with(old, Slots::free, size) }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let guard = super::reclaim::pin();
        self.for_each_segment(&guard, |segment| {
            let mut state = segment.lock();
            self.replace(segment, &mut state, &guard);
        });
        let size = self.slots(&guard).size();
        let slots = self.slots.load(Ordering::Relaxed);
        // SAFETY: no other thread has the directory.
        unsafe { guard.retire_with(slots, Slots::free, size) }
    }
}

/// Returns the size of the smallest segment that `live` entries fill at most half way to its
/// capacity.
fn groups_for(live: usize) -> u32 {
    let mut groups_log2 = MIN_GROUPS_LOG2;
    while capacity(groups_log2) < 2 * live {
        groups_log2 += 1;
    }
    groups_log2
}

/// The two halves of a segment while they are being filled. Unused halves are freed on drop.
struct Halves([Option<Segment<'static>>; 2]);

impl Halves {
    fn new(depth: u32, counts: [usize; 2]) -> Option<Self> {
        let mut halves = Halves([None, None]);
        for (half, count) in halves.0.iter_mut().zip(counts) {
            // The old segment may have been doubled, so its half may need more than the usual size.
            let groups_log2 = groups_for(count / 2 + 1).max(SPLIT_GROUPS_LOG2);
            let segment = Segment::new(groups_log2, depth)?;
            segment.lock().live = count;
            *half = Some(segment);
        }
        Some(halves)
    }

    /// Puts an entry into its half; the entry is already in the half's count.
    fn insert(&mut self, half: usize, hash: u64, words: Words) {
        if let Some(segment) = self.0[half] {
            segment.place(hash, words);
        }
    }

    fn take(&mut self, half: usize) -> Segment<'static> {
        self.0[half].take().expect("each half is taken once")
    }
}

impl Drop for Halves {
    fn drop(&mut self) {
        for segment in self.0.iter().flatten() {
            // SAFETY: no other thread has seen a half that was not taken.
            unsafe { Segment::free(segment.into_raw()) }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
