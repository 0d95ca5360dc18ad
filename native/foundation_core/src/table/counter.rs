//! A counter that many threads change and few read.

use crate::primitive::{AtomicI64, Ordering};

#[cfg(not(loom))]
const STRIPES: usize = 16;
#[cfg(loom)]
const STRIPES: usize = 1;

#[repr(align(64))]
#[derive(Default)]
struct Stripe(AtomicI64);

/// A sum that is kept in parts, each on a cache line of its own: writers that come with different
/// hashes do not wait for each other.
#[derive(Default)]
pub(crate) struct Counter {
    stripes: [Stripe; STRIPES],
}

impl Counter {
    /// Adds `amount`, in the part that `hash` chooses.
    #[inline]
    pub(crate) fn add(&self, hash: u64, amount: i64) {
        let stripe = (hash >> 32) as usize % STRIPES;
        self.stripes[stripe].0.fetch_add(amount, Ordering::Relaxed);
    }

    /// The sum. Of changes made meanwhile it may hold some and miss others.
    pub(crate) fn sum(&self) -> usize {
        let sum: i64 = self
            .stripes
            .iter()
            .map(|stripe| stripe.0.load(Ordering::Relaxed))
            .sum();
        // A removal may be seen before the insertion that it undoes.
        sum.max(0) as usize
    }
}
