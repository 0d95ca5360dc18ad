//! The counts of reads. They have many writers, so they are kept in parts, one for each thread as
//! long as there are few threads.

#[cfg(not(loom))]
use std::cell::Cell;

use crate::primitive::{AtomicU64, Ordering};

const PARTS: usize = if cfg!(loom) { 1 } else { 32 };

/// Two cache lines, since processors fetch lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Part {
    hits: AtomicU64,
    misses: AtomicU64,
    stale_hits: AtomicU64,
}

/// The counts of reads by their outcome.
#[derive(Debug, Default)]
pub(super) struct Reads([Part; PARTS]);

/// Returns the part of this thread.
#[cfg(loom)]
fn part() -> usize {
    0
}

/// Returns the part of this thread.
#[cfg(not(loom))]
#[inline]
fn part() -> usize {
    static THREADS: AtomicU64 = AtomicU64::new(0);
    thread_local! {
        static PART: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    match PART.get() {
        usize::MAX => {
            let part = THREADS.fetch_add(1, Ordering::Relaxed) as usize % PARTS;
            PART.set(part);
            part
        }
        part => part,
    }
}

impl Reads {
    #[inline]
    pub(super) fn hit(&self) {
        self.0[part()].hits.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn stale_hit(&self) {
        let part = &self.0[part()];
        part.hits.fetch_add(1, Ordering::Relaxed);
        part.stale_hits.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn miss(&self) {
        self.0[part()].misses.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns hits, misses and stale hits.
    pub(super) fn sums(&self) -> [u64; 3] {
        let sum = |of: fn(&Part) -> &AtomicU64| {
            let parts = self.0.iter();
            parts.map(|part| of(part).load(Ordering::Relaxed)).sum()
        };
        [
            sum(|part| &part.hits),
            sum(|part| &part.misses),
            sum(|part| &part.stale_hits),
        ]
    }
}
