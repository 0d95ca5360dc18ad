//! What the allocator has given out, in a process of its own: an account of memory that leaves
//! something out cannot hide it here.
#![cfg(not(loom))]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use foundation_core::key::{Key, NoOpaque, Seed};
use foundation_core::registry::{Liveness, Unique};
use foundation_core::table::{Object, Value, reclaim};

struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
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
static ALLOCATOR: Counting = Counting;

/// Freed memory included.
fn allocated() -> usize {
    while reclaim::outstanding() > 0 {
        reclaim::flush();
    }
    ALLOCATED.load(Ordering::Relaxed)
}

struct NoObject(#[expect(dead_code, reason = "it is never made")] u64);

impl Object for NoObject {
    fn size(&self) -> usize {
        0
    }
}

struct Alive;

impl Liveness for Alive {
    fn is_alive(&self, _owner: u64) -> bool {
        true
    }

    fn watch(&self, _owner: u64) -> bool {
        true
    }
}

/// An owner as the virtual machine numbers its processes.
fn owner(number: u64) -> u64 {
    number << 4 | 3
}

#[test]
fn owners_that_came_and_went_leave_nothing_with_the_allocator() {
    const OWNERS: u64 = 20_000;
    let registry: Unique<NoOpaque, NoObject> =
        Unique::new(Seed::random(), usize::MAX).expect("there is memory");
    for keys in [1, 3] {
        let (before, told) = (allocated(), registry.figures().memory);
        for number in 0..OWNERS {
            for key in 0..keys {
                let key = Key::<()>::word(0, number * 4 + key);
                let registered = registry.register(owner(number), &key, Value::Word(1), &Alive);
                assert_eq!(registered, Ok(()));
            }
        }
        let full = allocated() - before;
        let full_told = registry.figures().memory - told;
        assert!(
            full_told.abs_diff(full) < full / 20,
            "{full_told} for {full}"
        );
        if keys == 1 {
            let each = full / OWNERS as usize;
            assert!(each < 100, "{each} bytes for an owner of one thing");
        }
        for number in 0..OWNERS {
            let mut pending = registry.mark_dead(owner(number));
            while !registry.remove_dead(&mut pending, 1_000) {}
        }
        let left = allocated().saturating_sub(before);
        assert!(left < full / 50, "{left} of {full} are left");
    }
}
