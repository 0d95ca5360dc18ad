//! A shard of windows: it finds a window by its key, the oldest window, and expired windows.
//!
//! A shard keeps its windows in lists, in the order in which they were opened. There is one list
//! for each power of two of a duration. So the oldest window is at the front of some list. The
//! windows at the front of a list also expire first, up to a factor of two in time. Both searches
//! look only at the fronts of the lists.

use crate::key::{LONG, Seed};
use crate::table::prefetch;

/// The number of slots that are allocated at a time. A slot is never moved.
const CHUNK: usize = 64;
/// Buckets per window, so that few windows share one.
const BUCKETS: usize = 2;
/// The number of lists in a shard: durations of up to 2^40 ms.
const CLASSES: usize = 41;
/// Marks the absence of a slot.
pub const NONE: u32 = u32::MAX;
/// How long an empty shard keeps its memory, in nanoseconds.
pub const IDLE: u64 = 1_000_000_000;

/// Returns the list for windows of this duration in nanoseconds.
pub fn class(window: u64) -> u8 {
    let millis = window / 1_000_000;
    (u64::BITS - millis.leading_zeros()).min(CLASSES as u32 - 1) as u8
}

/// The part of a window that a repeat reads: half a cache line.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
pub struct Open {
    /// The key, if it is short. A long key has its hash here, with [`LONG`] in the top byte of the
    /// second word.
    pub key: (u64, u64),
    pub expires: u64,
    pub event: u32,
    /// The next window in the same bucket.
    pub next: u32,
}

impl Open {
    pub fn hash(&self, seed: &Seed) -> u64 {
        seed.three(self.key.0, self.key.1, u64::from(self.event))
    }
}

/// The other part of a window: a cache line.
#[derive(Debug)]
#[repr(align(64))]
pub struct Slot<E> {
    /// The position among all windows of all shards in the order of opening.
    pub seq: u64,
    /// Also in [`Open`], so that a search for expired windows and a repeat each read a single line.
    pub expires: u64,
    pub event: E,
    pub hash: u64,
    /// The key, if it is long.
    pub key: Option<Box<[u8]>>,
    pub older: u32,
    pub newer: u32,
    pub class: u8,
}

/// A vector that grows by pieces, so that no element is moved.
#[derive(Debug)]
pub struct Pieces<T>(Vec<Vec<T>>);

impl<T> Pieces<T> {
    #[inline]
    pub fn at(&self, at: u32) -> &T {
        &self.0[at as usize / CHUNK][at as usize % CHUNK]
    }

    #[inline]
    pub fn at_mut(&mut self, at: u32) -> &mut T {
        &mut self.0[at as usize / CHUNK][at as usize % CHUNK]
    }

    fn push(&mut self, element: T) -> u32 {
        if self.0.last().is_none_or(|last| last.len() == CHUNK) {
            self.0.push(Vec::with_capacity(CHUNK));
        }
        let before = (self.0.len() - 1) * CHUNK;
        let last = &mut self.0[before / CHUNK];
        last.push(element);
        (before + last.len() - 1) as u32
    }
}

/// A shard: windows in chains by their hash, and in lists by their duration.
///
/// The chains use linear hashing (Litwin, 1980): each additional window splits the next few chains,
/// so no caller waits while a whole table is rehashed.
#[derive(Debug)]
pub struct Shard<E> {
    /// The first window of each chain.
    buckets: Vec<u32>,
    /// A mask with just enough low bits to number all buckets.
    mask: usize,
    pub opens: Pieces<Open>,
    pub slots: Pieces<Slot<E>>,
    /// The number of windows.
    pub count: usize,
    /// The first free slot; its `next` leads to another free slot.
    free: u32,
    oldest: [u32; CLASSES],
    newest: [u32; CLASSES],
    /// One bit for each list, set while the list is not empty.
    classes: u64,
    /// When a window was last opened.
    pub used: u64,
}

impl<E: Copy> Shard<E> {
    pub fn new() -> Self {
        Shard {
            buckets: vec![NONE],
            mask: 0,
            opens: Pieces(Vec::new()),
            slots: Pieces(Vec::new()),
            count: 0,
            free: NONE,
            oldest: [NONE; CLASSES],
            newest: [NONE; CLASSES],
            classes: 0,
            used: 0,
        }
    }

    #[inline]
    fn bucket(&self, hash: u64) -> usize {
        let bucket = hash as usize & self.mask;
        if bucket < self.buckets.len() {
            bucket
        } else {
            bucket & (self.mask >> 1)
        }
    }

    #[inline]
    pub fn probe(&self, hash: u64, key: (u64, u64), event: u32, long: &[u8]) -> Option<u32> {
        let mut at = self.buckets[self.bucket(hash)];
        while at != NONE {
            let open = self.opens.at(at);
            let same = open.key == key && open.event == event;
            if same && (key.1 < LONG << 56 || self.slots.at(at).key.as_deref() == Some(long)) {
                return Some(at);
            }
            at = open.next;
        }
        None
    }

    pub fn insert(&mut self, mut open: Open, slot: Slot<E>, seed: &Seed) {
        self.count += 1;
        for _ in 0..2 * BUCKETS {
            if self.buckets.len() < BUCKETS * self.count {
                self.split(seed);
            }
        }
        let bucket = self.bucket(slot.hash);
        open.next = self.buckets[bucket];
        let at = match self.free {
            NONE => {
                self.slots.push(slot);
                self.opens.push(open)
            }
            at => {
                let place = self.opens.at_mut(at);
                self.free = place.next;
                *place = open;
                *self.slots.at_mut(at) = slot;
                // The next free slot has not been used for long and is in no cache. Prefetch it, so
                // that it is there when the next window is opened.
                if self.free != NONE {
                    prefetch(self.opens.at(self.free));
                    prefetch(self.slots.at(self.free));
                }
                at
            }
        };
        self.buckets[bucket] = at;
        self.link(at);
    }

    /// Adds a bucket and moves windows to it: those of the bucket it splits off from that have the
    /// next bit of the hash set.
    fn split(&mut self, seed: &Seed) {
        let new = self.buckets.len();
        self.buckets.push(NONE);
        self.mask |= new;
        let old = new & (self.mask >> 1);
        let mut at = std::mem::replace(&mut self.buckets[old], NONE);
        while at != NONE {
            let bucket = self.bucket(self.opens.at(at).hash(seed));
            let open = self.opens.at_mut(at);
            let next = std::mem::replace(&mut open.next, self.buckets[bucket]);
            self.buckets[bucket] = at;
            at = next;
        }
    }

    /// Removes a window from its chain.
    fn unchain(&mut self, at: u32) {
        let next = self.opens.at(at).next;
        let bucket = self.bucket(self.slots.at(at).hash);
        let mut before = self.buckets[bucket];
        if before == at {
            self.buckets[bucket] = next;
            return;
        }
        while before != NONE {
            let open = self.opens.at_mut(before);
            if open.next == at {
                open.next = next;
                return;
            }
            before = open.next;
        }
    }

    /// Appends a slot to its list.
    fn link(&mut self, at: u32) {
        let class = usize::from(self.slots.at(at).class);
        let before = self.newest[class];
        let slot = self.slots.at_mut(at);
        (slot.older, slot.newer) = (before, NONE);
        match before {
            NONE => self.oldest[class] = at,
            before => self.slots.at_mut(before).newer = at,
        }
        self.newest[class] = at;
        self.classes |= 1 << class;
    }

    fn unlink(&mut self, at: u32) {
        let slot = self.slots.at(at);
        let (older, newer, class) = (slot.older, slot.newer, usize::from(slot.class));
        match older {
            NONE => self.oldest[class] = newer,
            older => self.slots.at_mut(older).newer = newer,
        }
        match newer {
            NONE => self.newest[class] = older,
            newer => self.slots.at_mut(newer).older = older,
        }
        if self.oldest[class] == NONE {
            self.classes &= !(1 << class);
        }
    }

    /// Opens an expired window again.
    #[inline]
    pub fn renew(&mut self, at: u32, expires: u64, seq: u64, class: u8) {
        self.opens.at_mut(at).expires = expires;
        self.unlink(at);
        let slot = self.slots.at_mut(at);
        (slot.expires, slot.seq, slot.class) = (expires, seq, class);
        self.link(at);
    }

    pub fn remove(&mut self, at: u32) {
        self.unlink(at);
        self.unchain(at);
        self.slots.at_mut(at).key = None;
        self.opens.at_mut(at).next = self.free;
        self.free = at;
        self.count -= 1;
    }

    /// Takes out the memory of a shard that has been empty for a while, as after a burst. A short
    /// empty moment does not count: a shard under steady load would grow anew each time.
    pub fn rest(&mut self, now: u64) -> Option<Self> {
        let is_unused = self.classes == 0 && now.saturating_sub(self.used) >= IDLE;
        let is_idle = is_unused && self.holds_memory();
        is_idle.then(|| std::mem::replace(self, Shard::new()))
    }

    /// Returns whether the shard has memory for windows.
    pub fn holds_memory(&self) -> bool {
        !self.slots.0.is_empty()
    }

    fn fronts(&self) -> impl Iterator<Item = u32> + '_ {
        let mut left = self.classes;
        std::iter::from_fn(move || {
            let class = left.trailing_zeros() as usize;
            (left != 0).then(|| {
                left &= left - 1;
                self.oldest[class]
            })
        })
    }

    /// Returns the oldest window.
    pub fn first(&self) -> Option<u32> {
        self.fronts().min_by_key(|at| self.slots.at(*at).seq)
    }

    /// Returns an expired window among those at the fronts of the lists, if there is one.
    pub fn expired(&self, now: u64) -> Option<u32> {
        self.fronts().find(|at| self.slots.at(*at).expires <= now)
    }
}
