//! The synchronisation primitives of this crate: those of `std`, or those of `loom` when the models
//! run (`--cfg loom`). Nothing else names an atomic directly, except tests and the barrier of
//! `table::reclaim`, which has no model. In the crate's own tests these types count writes.

#[cfg(all(test, not(loom)))]
mod counted;

#[cfg(all(test, not(loom)))]
pub(crate) use counted::{AtomicI64, AtomicPtr, AtomicU64, Writes, take_writes};

#[cfg(not(loom))]
pub(crate) use std::{
    hint,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering, fence},
    },
};

#[cfg(not(any(test, loom)))]
pub(crate) use std::sync::atomic::{AtomicI64, AtomicPtr, AtomicU64};

#[cfg(loom)]
pub(crate) use loom::{
    cell::UnsafeCell,
    hint,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicI64, AtomicPtr, AtomicU64, Ordering, fence},
    },
};

/// Locks `mutex`, even if it is poisoned.
///
/// Every critical section of this crate allocates first and changes data afterwards. So the data is
/// consistent at each point that can panic, and a poisoned lock protects sound data.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    #[cfg(all(test, not(loom)))]
    counted::count(|writes| writes.locks += 1);
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Waits for another thread that is in the middle of a few stores. It spins first. If the other
/// thread seems to have lost its processor, it yields.
pub(crate) struct Backoff(u32);

impl Backoff {
    const SPINS: u32 = 64;

    pub(crate) fn new() -> Self {
        Backoff(0)
    }

    #[cold]
    pub(crate) fn wait(&mut self) {
        self.0 += 1;
        if cfg!(loom) || self.0 > Self::SPINS {
            #[cfg(not(loom))]
            std::thread::yield_now();
            #[cfg(loom)]
            loom::thread::yield_now();
        } else {
            hint::spin_loop();
        }
    }
}
