//! A group of a segment: eight slots, their tags, and the version that readers check.
//!
//! A writer holds the segment's lock. Readers hold no lock: a group's version is odd while a writer
//! changes the group, and a reader that sees the version change reads again. This is a sequence
//! lock whose data are atomics, as in Boehm, "Can seqlocks get along with programming language
//! memory models?", 2012.

use crate::primitive::{AtomicU64, Ordering, fence};

/// Slots per group: as many as there are tags in a word.
pub(super) const GROUP: usize = 8;

/// The half of `meta` that holds a group's version.
pub(super) const VERSION_MASK: u64 = 0xFFFF_FFFF;
/// One unit of a group's overflow counter.
pub(super) const OVERFLOW_ONE: u64 = 1 << 32;

/// The state of eight slots.
pub(super) struct Group {
    /// The version in the low half, odd while a writer changes the group or its slots; the
    /// overflow counter in the high half.
    pub(super) meta: AtomicU64,
    /// One byte per slot: 0 for a free slot, else the top bit and seven bits of the hash.
    pub(super) tags: AtomicU64,
}

/// One entry: two words of key, its owner's word, and its value's word.
#[derive(Default)]
pub(super) struct Slot {
    words: [AtomicU64; 4],
}

/// The words of one entry, read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Words {
    pub(super) k0: u64,
    pub(super) k1: u64,
    pub(super) owner: u64,
    pub(super) value: u64,
}

/// Returns the tag of a hash: the top bit and seven bits of the hash.
#[inline]
pub(super) fn tag(hash: u64) -> u64 {
    (hash >> 24) & 0x7F | 0x80
}

/// Returns the position that an entry takes in its group if that position is free.
#[inline]
pub(super) fn preferred(hash: u64) -> usize {
    (hash >> 31) as usize % GROUP
}

const ONES: u64 = 0x0101_0101_0101_0101;

/// Returns the top bit of each byte of `tags` that equals `tag`. The byte above a match can be a
/// false positive; the key comparison rejects it. A false positive always has its top bit set, so
/// it is never a free slot, whose words may point to freed memory.
#[inline]
pub(super) fn matching(tags: u64, tag: u64) -> u64 {
    let difference = tags ^ (tag * ONES);
    difference.wrapping_sub(ONES) & !difference & (ONES << 7)
}

/// Returns the top bit of each byte of `tags` whose slot is taken.
#[inline]
pub(super) fn taken(tags: u64) -> u64 {
    tags & (ONES << 7)
}

/// Prefetches a cache line, where the processor supports it.
#[inline]
pub(crate) fn prefetch<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch changes nothing, and every x86-64 processor has it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// Returns a free position: the preferred one, else the other one of its cache line, else any.
pub(super) fn free(tags: u64, preferred: usize) -> Option<usize> {
    let is_free = |position: &usize| tags >> (8 * position) & 0x80 == 0;
    [preferred, preferred ^ 1]
        .into_iter()
        .chain(0..GROUP)
        .find(is_free)
}

/// Returns the positions in a mask of top bits, lowest first.
#[inline]
pub(super) fn positions(mut mask: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        if mask == 0 {
            return None;
        }
        let position = (mask.trailing_zeros() / 8) as usize;
        mask &= mask - 1;
        Some(position)
    })
}

impl Group {
    /// Returns whether no writer has changed the group since `meta` was read.
    #[inline]
    pub(super) fn unchanged(&self, meta: u64) -> bool {
        fence(Ordering::Acquire);
        self.meta.load(Ordering::Relaxed) == meta
    }

    /// Makes a change that readers see as a whole or not at all.
    pub(super) fn change(&self, change: impl FnOnce()) {
        let meta = self.meta.load(Ordering::Relaxed);
        self.meta.store(meta | 1, Ordering::Relaxed);
        // The stores of the change come after the store of the odd version.
        fence(Ordering::Release);
        change();
        let version = (meta + 2) & VERSION_MASK;
        self.meta
            .store(meta & !VERSION_MASK | version, Ordering::Release);
    }

    pub(super) fn add_overflow(&self, amount: u64) {
        let meta = self.meta.load(Ordering::Relaxed).wrapping_add(amount);
        let version = (meta + 2) & VERSION_MASK;
        self.meta
            .store(meta & !VERSION_MASK | version, Ordering::Release);
    }
}

impl Words {
    #[inline]
    pub(super) fn has_key(&self, k0: u64, k1: u64) -> bool {
        self.k0 == k0 && self.k1 == k1
    }

    pub(super) const FREE: Words = Words {
        k0: 0,
        k1: 0,
        owner: 0,
        value: 0,
    };
}

impl Slot {
    #[inline]
    pub(super) fn load(&self) -> Words {
        let [k0, k1, owner, value] = &self.words;
        Words {
            k0: k0.load(Ordering::Relaxed),
            k1: k1.load(Ordering::Relaxed),
            owner: owner.load(Ordering::Relaxed),
            value: value.load(Ordering::Relaxed),
        }
    }

    pub(super) fn store(&self, words: Words) {
        let [k0, k1, owner, value] = &self.words;
        k0.store(words.k0, Ordering::Relaxed);
        k1.store(words.k1, Ordering::Relaxed);
        owner.store(words.owner, Ordering::Relaxed);
        value.store(words.value, Ordering::Relaxed);
    }
}
