//! A value with a reference count, like the standard library's `Arc`, whose allocation can fail.

use std::ops::Deref;
use std::ptr::NonNull;

use super::OutOfMemory;
use super::bag::boxed;
use crate::primitive::{AtomicU64, Ordering};

struct Counted<T> {
    count: AtomicU64,
    value: T,
}

/// A reference to a shared value. The last reference frees it.
pub(crate) struct Shared<T>(NonNull<Counted<T>>);

// SAFETY: as for `Arc`: a reference gives other threads `&T`, and the last one may drop the value
// on any thread.
unsafe impl<T: Send + Sync> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// The bytes that each value takes besides its own.
    pub(crate) const OVERHEAD: usize = size_of::<AtomicU64>();

    /// Moves a value into memory of its own, or fails without memory for it.
    pub(crate) fn new(value: T) -> Result<Self, OutOfMemory> {
        let counted = boxed(Counted {
            count: AtomicU64::new(1),
            value,
        })?;
        Ok(Shared(NonNull::from(Box::leak(counted))))
    }

    fn counted(&self) -> &Counted<T> {
        // SAFETY: the value lives while there is a reference, and nobody has a mutable one.
        unsafe { self.0.as_ref() }
    }

    /// Returns whether both refer to the same value.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        // Relaxed, as in `Arc`: the new reference comes from one that exists. 2^64 references that
        // are forgotten would be needed for an overflow.
        self.counted().count.fetch_add(1, Ordering::Relaxed);
        Shared(self.0)
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.counted().value
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // Every use of the value through another reference comes before its drop. ThreadSanitizer
        // does not see fences, so it is not `Release` with a fence as in `Arc`.
        if self.counted().count.fetch_sub(1, Ordering::AcqRel) == 1 {
            // SAFETY: this was the last reference, and `new` made the pointer from a box.
            drop(unsafe { Box::from_raw(self.0.as_ptr()) });
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_last_reference_drops_the_value() {
        let value = Arc::new(7);
        let first = Shared::new(value.clone()).expect("there is memory");
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let shared = first.clone();
                std::thread::spawn(move || assert_eq!(**shared, 7))
            })
            .collect();
        assert!(first.is_same(&first.clone()));
        for thread in threads {
            thread.join().expect("it reads");
        }
        assert_eq!(Arc::strong_count(&value), 2);
        drop(first);
        assert_eq!(Arc::strong_count(&value), 1);
    }
}
