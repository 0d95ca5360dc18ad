//! The order in which entries are evicted: SIEVE (Zhang et al., NSDI 2024).
//!
//! ```text
//!   oldest ◄──► ○ ◄──► ● ◄──► ○ ◄──► ● ◄──► newest
//!                      ▲ hand ──►
//! ```
//!
//! Entries stand in the order of their insertion and never move. The hand goes from the oldest to
//! the newest and begins again. It takes marks away, and the first entry without one is evicted.
//! `examples/eviction.rs` compares the policy with others.

use crate::table::OutOfMemory;

use super::Millis;
use super::marks::Marks;
use super::word::PLACES;

const NONE: u32 = u32::MAX;
const CHUNK: usize = 1 << 10;
/// How many marked entries the hand passes for one eviction at most. Then it takes the next one,
/// marked or not, so that an eviction takes less than 200 µs even where all entries are marked.
const PASSED_MAX: usize = 2_000;

/// What is known of an entry beside its slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    /// The hash of its key.
    pub(super) hash: u64,
    /// When it cannot be served any more, not even as a stale value.
    pub(super) until: Millis,
    /// Its bytes, in units of [`UNIT`].
    units: u32,
    /// How long its load took, in microseconds.
    pub(super) took: u32,
    newer: u32,
    older: u32,
}

/// Allocators round sizes up to at least this.
const UNIT: usize = 8;

impl Node {
    pub(super) fn new(hash: u64, until: Millis, bytes: usize, took: u32) -> Self {
        Node {
            hash,
            until,
            units: u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX),
            took,
            newer: NONE,
            older: NONE,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.units as usize * UNIT
    }
}

/// The nodes of all entries, by place.
#[derive(Debug)]
pub(super) struct Queue {
    chunks: Vec<Box<[Node]>>,
    /// How many places have been used.
    used: u32,
    /// The first of the free places among those; each one's `newer` is the next.
    free: u32,
    newest: u32,
    oldest: u32,
    hand: u32,
    /// The next entry whose time is checked on the way.
    checked: u32,
}

impl Queue {
    pub(super) fn new() -> Self {
        Queue {
            chunks: Vec::new(),
            used: 0,
            free: NONE,
            newest: NONE,
            oldest: NONE,
            hand: NONE,
            checked: NONE,
        }
    }

    pub(super) fn node(&self, place: u32) -> &Node {
        &self.chunks[place as usize / CHUNK][place as usize % CHUNK]
    }

    fn node_mut(&mut self, place: u32) -> &mut Node {
        &mut self.chunks[place as usize / CHUNK][place as usize % CHUNK]
    }

    /// Returns a free place, which stays free until [`Queue::push`].
    pub(super) fn reserve(&mut self) -> Result<u32, OutOfMemory> {
        if self.free != NONE {
            return Ok(self.free);
        }
        if self.used as usize == self.chunks.len() * CHUNK {
            if self.used == PLACES {
                return Err(OutOfMemory);
            }
            let mut chunk = Vec::new();
            chunk.try_reserve_exact(CHUNK).map_err(|_| OutOfMemory)?;
            self.chunks.try_reserve(1).map_err(|_| OutOfMemory)?;
            chunk.resize(CHUNK, Node::new(0, Millis(0), 0, 0));
            self.chunks.push(chunk.into_boxed_slice());
        }
        Ok(self.used)
    }

    /// Adds the newest entry, at the place that was reserved last.
    pub(super) fn push(&mut self, place: u32, node: Node) {
        if place == self.free {
            self.free = self.node(place).newer;
        } else {
            self.used += 1;
        }
        let older = self.newest;
        *self.node_mut(place) = Node {
            newer: NONE,
            older,
            ..node
        };
        if older == NONE {
            self.oldest = place;
        } else {
            self.node_mut(older).newer = place;
        }
        self.newest = place;
    }

    /// Changes what is known of an entry, whose order stays.
    pub(super) fn replace(&mut self, place: u32, node: Node) {
        let Node { newer, older, .. } = *self.node(place);
        *self.node_mut(place) = Node {
            newer,
            older,
            ..node
        };
    }

    /// Removes an entry and frees its place.
    pub(super) fn remove(&mut self, place: u32) -> Node {
        let node = *self.node(place);
        match node.newer {
            NONE => self.newest = node.older,
            newer => self.node_mut(newer).older = node.older,
        }
        match node.older {
            NONE => self.oldest = node.newer,
            older => self.node_mut(older).newer = node.newer,
        }
        if self.hand == place {
            self.hand = node.newer;
        }
        if self.checked == place {
            self.checked = node.newer;
        }
        self.node_mut(place).newer = self.free;
        self.free = place;
        node
    }

    /// Chooses the entry to evict, and counts the entries that the hand looks at in `looked_at`.
    pub(super) fn victim(
        &mut self,
        marks: &Marks,
        now: Millis,
        looked_at: &mut usize,
    ) -> Option<u32> {
        for _ in 0..PASSED_MAX {
            if self.hand == NONE {
                self.hand = self.oldest;
            }
            if self.hand == NONE {
                return None;
            }
            *looked_at += 1;
            let node = self.node(self.hand);
            let newer = node.newer;
            if node.until <= now || !marks.take(self.hand) {
                break;
            }
            self.hand = newer;
        }
        Some(if self.hand == NONE {
            self.oldest
        } else {
            self.hand
        })
    }

    /// Returns the next entry in turn if its time is over. Each call looks at another entry.
    pub(super) fn overdue(&mut self, now: Millis) -> Option<u32> {
        if self.checked == NONE {
            self.checked = self.oldest;
        }
        if self.checked == NONE {
            return None;
        }
        let place = self.checked;
        let node = self.node(place);
        let is_overdue = node.until <= now;
        self.checked = node.newer;
        is_overdue.then_some(place)
    }
}
