//! An allocator that counts and refuses, and the parts of a registry, for the tests of memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

use foundation_core::registry::Liveness;
use foundation_core::table::Object;

/// Counts the bytes that it has given out, and refuses what is larger than it is told.
pub struct Limited;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    // The test harness allocates in other threads meanwhile.
    static LARGEST: Cell<usize> = const { Cell::new(usize::MAX) };
}

// SAFETY: every call goes to the system's allocator as it came, or gets the null pointer that an
// allocator may give.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > LARGEST.get() {
            return std::ptr::null_mut();
        }
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: asked of the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Limited = Limited;

/// Returns the bytes that the allocator has given out.
pub fn allocated() -> usize {
    ALLOCATED.load(Ordering::Relaxed)
}

/// Runs `work` with no memory in this thread for anything of more than `largest` bytes.
pub fn with_at_most<T>(largest: usize, work: impl FnOnce() -> T) -> T {
    LARGEST.set(largest);
    let result = work();
    LARGEST.set(usize::MAX);
    result
}

/// A value that is never made.
#[derive(Debug)]
pub struct NoObject(#[expect(dead_code, reason = "it is never made")] u64);

impl Object for NoObject {
    fn size(&self) -> usize {
        0
    }
}

/// Every owner is alive.
pub struct Alive;

impl Liveness for Alive {
    fn is_alive(&self, _owner: u64) -> bool {
        true
    }

    fn watch(&self, _owner: u64) -> bool {
        true
    }
}

/// An owner as the virtual machine numbers its processes.
pub fn owner(number: u64) -> u64 {
    number << 4 | 3
}
