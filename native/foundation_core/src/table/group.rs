//! A group of a segment: eight slots, their tags, and what keeps readers and a writer apart.
//!
//! Writers hold the segment's lock. Readers hold nothing: a group's version is odd while a writer
//! is in it, and who sees it change reads again (a sequence lock whose data are atomics, as in
//! Boehm, "Can seqlocks get along with programming language memory models?", 2012).

use crate::primitive::{AtomicU64, Ordering, fence};

/// Slots in a group: as many as tags fit a word.
pub(super) const GROUP: usize = 8;

/// The half of a group's `meta` that is its version.
pub(super) const VERSION_MASK: u64 = 0xFFFF_FFFF;
/// One entry more in a group's overflow counter.
pub(super) const OVERFLOW_ONE: u64 = 1 << 32;

/// The state of eight slots.
pub(super) struct Group {
    /// The version in the low half, odd while a writer changes the group or its slots; the
    /// overflow counter in the high half.
    pub(super) meta: AtomicU64,
    /// A byte a slot: 0 when it is free, else the top bit and seven bits of the hash.
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

/// Where a hash belongs in a segment: its tag.
#[inline]
pub(super) fn tag(hash: u64) -> u64 {
    (hash >> 24) & 0x7F | 0x80
}

/// The position that an entry takes in its group if it is free.
#[inline]
pub(super) fn preferred(hash: u64) -> usize {
    (hash >> 31) as usize % GROUP
}

const ONES: u64 = 0x0101_0101_0101_0101;

/// The top bit of each byte of `tags` that equals `tag`. A byte above an equal one may be claimed
/// wrongly, and then the words tell; but only one whose top bit is set, never that of a free slot,
/// whose words may lead to what has been freed.
#[inline]
pub(super) fn matching(tags: u64, tag: u64) -> u64 {
    let difference = tags ^ (tag * ONES);
    difference.wrapping_sub(ONES) & !difference & (ONES << 7)
}

/// The top bit of each byte of `tags` whose slot is taken.
#[inline]
pub(super) fn taken(tags: u64) -> u64 {
    tags & (ONES << 7)
}

/// A hint to the processor, where it takes one.
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

/// A free position: the preferred one, else the other one of its cache line, else any.
pub(super) fn free(tags: u64, preferred: usize) -> Option<usize> {
    let is_free = |position: &usize| tags >> (8 * position) & 0x80 == 0;
    [preferred, preferred ^ 1]
        .into_iter()
        .chain(0..GROUP)
        .find(is_free)
}

/// The slots that a mask of top bits stands for, lowest first.
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
    /// Whether no writer has been here since `meta` was read.
    #[inline]
    pub(super) fn unchanged(&self, meta: u64) -> bool {
        fence(Ordering::Acquire);
        self.meta.load(Ordering::Relaxed) == meta
    }

    /// Makes a change that readers see whole or not at all.
    pub(super) fn change(&self, change: impl FnOnce()) {
        let meta = self.meta.load(Ordering::Relaxed);
        self.meta.store(meta | 1, Ordering::Relaxed);
        // The stores of the change come after that of the odd version.
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
