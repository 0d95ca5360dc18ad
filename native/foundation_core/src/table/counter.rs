//! A counter that many threads change and few read.

use crate::primitive::{AtomicI64, Ordering};

#[cfg(not(loom))]
const STRIPES: usize = 16;
#[cfg(loom)]
const STRIPES: usize = 1;

#[repr(align(64))]
#[derive(Default)]
struct Stripe(AtomicI64);

/// A sum in parts, each on a cache line of its own. Writers with different hashes seldom contend.
#[derive(Default)]
pub(crate) struct Counter {
    stripes: [Stripe; STRIPES],
}

impl Counter {
    /// Adds `amount` to the part that `hash` chooses.
    #[inline]
    pub(crate) fn add(&self, hash: u64, amount: i64) {
        let stripe = (hash >> 32) as usize % STRIPES;
        self.stripes[stripe].0.fetch_add(amount, Ordering::Relaxed);
    }

    /// Returns the sum. It may include some concurrent changes and miss others.
    pub(crate) fn sum(&self) -> usize {
        let sum: i64 = self
            .stripes
            .iter()
            .map(|stripe| stripe.0.load(Ordering::Relaxed))
            .sum();
        // A concurrent removal may be counted before the insertion that it undoes.
        sum.max(0) as usize
    }
}
