//! Versions of `std`'s atomics for the crate's own tests. They count what a thread writes, so a
//! test can assert that a call does not write. They have only the operations that the crate uses:
//! another one does not compile until it is added here, with its count.

use std::cell::Cell;
use std::sync::atomic::{self, Ordering};

/// The writes of a thread since the last [`take_writes`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Writes {
    /// Plain stores.
    pub(crate) stores: usize,
    /// Read-modify-write operations, which need exclusive ownership of the cache line.
    pub(crate) exchanges: usize,
    /// Locks that were taken.
    pub(crate) locks: usize,
}

thread_local! {
    static WRITES: Cell<Writes> = const { Cell::new(Writes { stores: 0, exchanges: 0, locks: 0 }) };
}

/// Returns this thread's counts and resets them.
pub(crate) fn take_writes() -> Writes {
    WRITES.take()
}

pub(super) fn count(add: impl FnOnce(&mut Writes)) {
    let mut writes = WRITES.get();
    add(&mut writes);
    WRITES.set(writes);
}

macro_rules! counted {
    (
        $name:ident $(<$parameter:ident>)?,
        $value:ty,
        $($operation:ident: $count:ident -> $result:ty),*
    ) => {
        #[derive(Debug, Default)]
        #[repr(transparent)]
        pub struct $name $(<$parameter>)? (atomic::$name $(<$parameter>)?);

        impl $(<$parameter>)? $name $(<$parameter>)? {
            pub(crate) const fn new(value: $value) -> Self {
                $name(atomic::$name::new(value))
            }

            pub(crate) fn load(&self, order: Ordering) -> $value {
                self.0.load(order)
            }

            $(pub(crate) fn $operation(&self, value: $value, order: Ordering) -> $result {
                count(|writes| writes.$count += 1);
                self.0.$operation(value, order)
            })*
        }
    };
}

counted!(
    AtomicU64,
    u64,
    store: stores -> (),
    swap: exchanges -> u64,
    fetch_add: exchanges -> u64,
    fetch_sub: exchanges -> u64,
    fetch_or: exchanges -> u64,
    fetch_and: exchanges -> u64,
    fetch_max: exchanges -> u64
);
counted!(AtomicI64, i64, fetch_add: exchanges -> i64, fetch_sub: exchanges -> i64);
counted!(AtomicPtr<T>, *mut T, store: stores -> (), swap: exchanges -> *mut T);

impl AtomicU64 {
    pub(crate) fn fetch_update(
        &self,
        set: Ordering,
        fetch: Ordering,
        change: impl FnMut(u64) -> Option<u64>,
    ) -> Result<u64, u64> {
        count(|writes| writes.exchanges += 1);
        self.0.fetch_update(set, fetch, change)
    }
}
