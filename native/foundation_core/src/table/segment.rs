//! A segment: the part of a table that one directory entry leads to.
//!
//! ```text
//!  header │ group 0 │ group 1 │ … │ slot 0 … 7 │ slot 8 … 15 │ …
//!           16 bytes                 32 bytes each
//!           version, overflow, 8 tags
//! ```
//!
//! Groups of eight slots are probed linearly. One comparison with a group's tags finds the slots
//! that can hold a key. A group's overflow counter says how many entries of this group were put
//! further on. A search ends at a group that no entry overflowed from, so a removal leaves no
//! tombstone. Both ideas come from F14 (Bronson and Shi, 2019). The tags of all groups are
//! adjacent. They stay cached when the slots no longer do, so a lookup then has one cache miss.
//!
//! A writer holds the segment's lock. Readers hold no lock: see [`group`](super::group).

use std::alloc::{Layout, alloc, dealloc};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use crate::primitive::{AtomicU64, Backoff, Mutex, MutexGuard, Ordering, lock};

use super::group::{
    GROUP, Group, OVERFLOW_ONE, Slot, Words, free, matching, positions, preferred, prefetch, tag,
    taken,
};
use super::life::Life;

/// The smallest segment, as a power of two of groups. It is the cost of an empty table.
pub(super) const MIN_GROUPS_LOG2: u32 = if cfg!(loom) { 0 } else { 1 };
/// The size at which a segment is split instead of doubled: 1,024 slots. It bounds the work of one
/// call that grows the table to about ten microseconds, whatever the table's size.
pub(super) const SPLIT_GROUPS_LOG2: u32 = if cfg!(loom) { 0 } else { 7 };

/// Returns how many entries a segment takes before it grows: 13 of 16 slots. In the models,
/// segments split at their third entry.
pub(super) const fn capacity(groups_log2: u32) -> usize {
    let slots = GROUP << groups_log2;
    if cfg!(loom) {
        slots / 4
    } else {
        slots / 16 * 13
    }
}

/// The data that a segment's lock protects, besides its groups.
pub(super) struct State {
    /// The number of taken slots.
    pub(super) live: usize,
    /// The number of leading hash bits that all its entries share.
    pub(super) depth: u32,
    /// Whether the segment has been replaced. A writer that waited for the lock then starts again.
    pub(super) replaced: bool,
}

#[repr(C, align(64))]
struct Header {
    lock: Mutex<State>,
    life: Life,
    allocation: *mut u8,
    layout: Layout,
}

/// A segment. It lives for `'g`: for readers, the lifetime of their guard.
///
/// The low bits of its pointer in the directory hold the number of groups, so a reader finds a
/// group without a load of the header.
#[derive(Clone, Copy)]
pub(super) struct Segment<'g> {
    header: NonNull<Header>,
    groups_log2: u32,
    life: PhantomData<&'g Header>,
}

struct Geometry {
    layout: Layout,
    groups: usize,
    slots: usize,
}

const fn geometry(groups_log2: u32) -> Geometry {
    let count = 1 << groups_log2;
    let groups = size_of::<Header>();
    let slots = groups + count * size_of::<Group>();
    let size = slots + count * GROUP * size_of::<Slot>();
    // The VM's allocator aligns only to a word, so leave room to align by hand.
    let padded = size + align_of::<Header>() - align_of::<u64>();
    match Layout::from_size_align(padded, align_of::<u64>()) {
        Ok(layout) => Geometry {
            layout,
            groups,
            slots,
        },
        Err(_) => panic!("a segment's size fits an isize"),
    }
}

impl<'g> Segment<'g> {
    /// Makes an empty segment, or returns `None` when there is no memory for it.
    pub(super) fn new(groups_log2: u32, depth: u32) -> Option<Segment<'static>> {
        let Geometry {
            layout,
            groups,
            slots,
        } = geometry(groups_log2);
        // SAFETY: the layout is not empty.
        let allocation = NonNull::new(unsafe { alloc(layout) })?.as_ptr();
        let padding = allocation.align_offset(align_of::<Header>());
        let count = 1 << groups_log2;
        // SAFETY: the layout has room for the padding, the header, the groups and the slots, at the
        // offsets that `geometry` computed. Each is aligned, and no other thread has the
        // allocation. Slots are set to zero because readers may read a slot before a writer has
        // filled it.
        unsafe {
            let start = allocation.add(padding);
            let header = start.cast::<Header>();
            header.write(Header {
                lock: Mutex::new(State {
                    live: 0,
                    depth,
                    replaced: false,
                }),
                life: Life::default(),
                allocation,
                layout,
            });
            for index in 0..count {
                start.add(groups).cast::<Group>().add(index).write(Group {
                    meta: AtomicU64::new(0),
                    tags: AtomicU64::new(0),
                });
            }
            for index in 0..count * GROUP {
                start
                    .add(slots)
                    .cast::<Slot>()
                    .add(index)
                    .write(Slot::default());
            }
            Some(Segment {
                header: NonNull::new_unchecked(header),
                groups_log2,
                life: PhantomData,
            })
        }
    }

    /// Returns the pointer for the directory.
    pub(super) fn into_raw(self) -> *mut () {
        let groups_log2 = self.groups_log2 as usize;
        self.header
            .as_ptr()
            .map_addr(|address| address | groups_log2)
            .cast()
    }

    /// # Safety
    ///
    /// `raw` came from [`Segment::into_raw`], and the segment is not freed during `'g`.
    #[inline]
    pub(super) unsafe fn from_raw(raw: *mut ()) -> Segment<'g> {
        const MASK: usize = align_of::<Header>() - 1;
        let header = raw.cast::<Header>().map_addr(|address| address & !MASK);
        Segment {
            // SAFETY: the caller passes the pointer of a segment, which is not null.
            header: unsafe { NonNull::new_unchecked(header) },
            groups_log2: (raw.addr() & MASK) as u32,
            life: PhantomData,
        }
    }

    /// Frees the segment's memory, not the objects behind its words.
    ///
    /// # Safety
    ///
    /// As [`Segment::from_raw`], and no thread uses the segment again.
    pub(super) unsafe fn free(raw: *mut ()) {
        // SAFETY: the caller promises it.
        let segment = unsafe { Segment::from_raw(raw) };
        segment.life().end();
        let Geometry { groups, slots, .. } = geometry(segment.groups_log2);
        let count = 1 << segment.groups_log2;
        // SAFETY: `new` wrote everything at these offsets, and no thread uses it.
        unsafe {
            let start = segment.header.as_ptr().cast::<u8>();
            for index in 0..count * GROUP {
                ptr::drop_in_place(start.add(slots).cast::<Slot>().add(index));
            }
            for index in 0..count {
                ptr::drop_in_place(start.add(groups).cast::<Group>().add(index));
            }
            let Header {
                allocation, layout, ..
            } = segment.header.read();
            dealloc(allocation, layout);
        }
    }

    pub(super) fn groups_log2(self) -> u32 {
        self.groups_log2
    }

    pub(super) fn slots(self) -> usize {
        GROUP << self.groups_log2
    }

    /// Returns how many entries it takes before it grows.
    pub(super) fn capacity(self) -> usize {
        capacity(self.groups_log2)
    }

    /// Returns whether it should shrink: fewer than one slot in eight is taken.
    pub(super) fn is_sparse(self, state: &State) -> bool {
        state.live < self.slots() / 8 && (state.depth > 0 || self.groups_log2 > MIN_GROUPS_LOG2)
    }

    /// Returns its size in bytes.
    pub(super) fn size(self) -> usize {
        geometry(self.groups_log2).layout.size()
    }

    pub(super) fn lock(self) -> MutexGuard<'g, State> {
        // SAFETY: the header lives for `'g`.
        lock(unsafe { &self.header.as_ref().lock })
    }

    #[inline]
    fn life(self) -> &'g Life {
        // SAFETY: the header lives for `'g`.
        unsafe { &self.header.as_ref().life }
    }

    #[inline]
    fn mask(self) -> usize {
        (1 << self.groups_log2) - 1
    }

    #[inline]
    fn home(self, hash: u64) -> usize {
        (hash >> 8) as usize & self.mask()
    }

    #[inline]
    fn group(self, index: usize) -> &'g Group {
        debug_assert!(index <= self.mask());
        self.life().read();
        // SAFETY: `mask() + 1` groups follow the header in the same allocation, and every index is
        // masked.
        unsafe { &*self.header.as_ptr().add(1).cast::<Group>().add(index) }
    }

    #[inline]
    fn slot(self, group: usize, position: usize) -> &'g Slot {
        debug_assert!(group <= self.mask() && position < GROUP);
        // SAFETY: the slots follow the `mask() + 1` groups, eight for each group.
        unsafe {
            let groups = self.header.as_ptr().add(1).cast::<Group>();
            let slots = groups.add(self.mask() + 1).cast::<Slot>();
            &*slots.add(group * GROUP + position)
        }
    }

    /// Prefetches the cache lines that `probe` will most likely read.
    #[inline]
    pub(super) fn prefetch(self, hash: u64) {
        let index = self.home(hash);
        prefetch(self.group(index));
        prefetch(self.slot(index, preferred(hash)));
    }

    /// Looks for the entry with these key words, without a lock. The common case, a match in the
    /// home group, is inlined into the caller.
    #[inline(always)]
    pub(super) fn probe(self, hash: u64, k0: u64, k1: u64) -> Option<Words> {
        let index = self.home(hash);
        // Prefetch the most likely slot before the tags are known. In a large table both are cache
        // misses, which overlap this way.
        prefetch(self.slot(index, preferred(hash)));
        let group = self.group(index);
        let meta = group.meta.load(Ordering::Acquire);
        let tags = group.tags.load(Ordering::Relaxed);
        if let Some(position) = positions(matching(tags, tag(hash))).next() {
            let words = self.slot(index, position).load();
            if meta & 1 == 0 && group.unchanged(meta) && words.has_key(k0, k1) {
                return Some(words);
            }
        }
        self.probe_from_home(hash, k0, k1)
    }

    #[inline(never)]
    fn probe_from_home(self, hash: u64, k0: u64, k1: u64) -> Option<Words> {
        self.probe_with(hash, |words| words.has_key(k0, k1))
    }

    /// Looks for an entry without a lock. `matches` is called with the words of each entry that has
    /// the tag of `hash`; the words were read together.
    pub(super) fn probe_with(
        self,
        hash: u64,
        mut matches: impl FnMut(&Words) -> bool,
    ) -> Option<Words> {
        let tag = tag(hash);
        let mut index = self.home(hash);
        for _ in 0..=self.mask() {
            let group = self.group(index);
            let mut backoff = Backoff::new();
            let meta = 'again: loop {
                let meta = group.meta.load(Ordering::Acquire);
                if meta & 1 == 1 {
                    backoff.wait();
                    continue;
                }
                let tags = group.tags.load(Ordering::Relaxed);
                for position in positions(matching(tags, tag)) {
                    let words = self.slot(index, position).load();
                    if !group.unchanged(meta) {
                        continue 'again;
                    }
                    if matches(&words) {
                        return Some(words);
                    }
                }
                if group.unchanged(meta) {
                    break meta;
                }
            };
            if meta < OVERFLOW_ONE {
                return None;
            }
            index = (index + 1) & self.mask();
        }
        None
    }

    /// Returns how many groups the search for a present entry looks at.
    #[cfg(test)]
    pub(super) fn probed(self, hash: u64, k0: u64, k1: u64) -> Option<usize> {
        let found = self.probe_locked(hash, |words| words.has_key(k0, k1))?;
        Some((found.group.wrapping_sub(self.home(hash)) & self.mask()) + 1)
    }

    /// Visits every entry, group by group. The entries of one group are read at one moment.
    pub(super) fn for_each(self, mut visit: impl FnMut(Words)) {
        for index in 0..=self.mask() {
            let group = self.group(index);
            let mut backoff = Backoff::new();
            let (words, count) = 'again: loop {
                let meta = group.meta.load(Ordering::Acquire);
                if meta & 1 == 1 {
                    backoff.wait();
                    continue;
                }
                let tags = group.tags.load(Ordering::Relaxed);
                let mut words = [Words::FREE; GROUP];
                let mut count = 0;
                for position in positions(taken(tags)) {
                    words[count] = self.slot(index, position).load();
                    count += 1;
                }
                if group.unchanged(meta) {
                    break 'again (words, count);
                }
            };
            words[..count].iter().copied().for_each(&mut visit);
        }
    }

    /// Returns the position of the entry that `probe` would find. The caller holds the lock.
    pub(super) fn probe_locked(
        self,
        hash: u64,
        mut matches: impl FnMut(&Words) -> bool,
    ) -> Option<Position<'g>> {
        let tag = tag(hash);
        let mut index = self.home(hash);
        for _ in 0..=self.mask() {
            let group = self.group(index);
            let tags = group.tags.load(Ordering::Relaxed);
            for position in positions(matching(tags, tag)) {
                let words = self.slot(index, position).load();
                if matches(&words) {
                    return Some(Position {
                        segment: self,
                        group: index,
                        position,
                        words,
                    });
                }
            }
            if group.meta.load(Ordering::Relaxed) < OVERFLOW_ONE {
                return None;
            }
            index = (index + 1) & self.mask();
        }
        None
    }

    /// Puts an entry into a free slot. The caller holds the lock, and has checked that there is a
    /// free slot and that the key is absent.
    pub(super) fn insert(self, state: &mut State, hash: u64, words: Words) {
        self.place(hash, words);
        state.live += 1;
    }

    /// Like [`Segment::insert`], for a caller that counts the entries itself.
    pub(super) fn place(self, hash: u64, words: Words) {
        let mut index = self.home(hash);
        loop {
            let group = self.group(index);
            let tags = group.tags.load(Ordering::Relaxed);
            if let Some(position) = free(tags, preferred(hash)) {
                group.change(|| {
                    self.slot(index, position).store(words);
                    let tags = tags | tag(hash) << (8 * position);
                    group.tags.store(tags, Ordering::Relaxed);
                });
                return;
            }
            group.add_overflow(OVERFLOW_ONE);
            index = (index + 1) & self.mask();
        }
    }
}

/// The place of an entry, found under the segment's lock.
pub(super) struct Position<'g> {
    segment: Segment<'g>,
    group: usize,
    position: usize,
    pub(super) words: Words,
}

impl Position<'_> {
    /// Gives the entry another owner and value.
    pub(super) fn replace(&self, owner: u64, value: u64) {
        let slot = self.segment.slot(self.group, self.position);
        self.segment.group(self.group).change(|| {
            slot.store(Words {
                owner,
                value,
                ..self.words
            });
        });
    }

    /// Removes the entry and frees its slot.
    pub(super) fn remove(self, state: &mut State, hash: u64) {
        let group = self.segment.group(self.group);
        let tags = group.tags.load(Ordering::Relaxed) & !(0xFF << (8 * self.position));
        group.change(|| group.tags.store(tags, Ordering::Relaxed));
        state.live -= 1;
        let mut index = self.segment.home(hash);
        while index != self.group {
            self.segment
                .group(index)
                .add_overflow(OVERFLOW_ONE.wrapping_neg());
            index = (index + 1) & self.segment.mask();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
