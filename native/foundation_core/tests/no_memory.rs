//! What a registry with duplicate keys does when there is no memory, in a process of its own whose
//! allocator refuses what is larger than it is told.
#![cfg(not(loom))]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use foundation_core::key::{Key, NoOpaque, Seed};
use foundation_core::registry::{Duplicate, Liveness, Refused};
use foundation_core::table::{Object, Value, pin};

struct Limited;

static LARGEST: AtomicUsize = AtomicUsize::new(usize::MAX);

// SAFETY: every call goes to the system's allocator as it came, or gets the null pointer that an
// allocator may give.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > LARGEST.load(Ordering::Relaxed) {
            return std::ptr::null_mut();
        }
        // SAFETY: asked of the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Limited = Limited;

/// Runs `work` with no memory for anything of more than `largest` bytes.
fn with_at_most<T>(largest: usize, work: impl FnOnce() -> T) -> T {
    LARGEST.store(largest, Ordering::Relaxed);
    let result = work();
    LARGEST.store(usize::MAX, Ordering::Relaxed);
    result
}

#[derive(Debug)]
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

const OWNERS: u64 = 50;

/// An owner as the virtual machine numbers its processes: few, so that each has few entries.
fn owner(number: u64) -> u64 {
    (number % OWNERS) << 4 | 3
}

type Registry = Duplicate<NoOpaque, NoObject>;

fn register(registry: &Registry, number: u64) -> Result<(), Refused> {
    let value = Value::Word(number << 1 | 1);
    registry.register(owner(number), &Key::<()>::word(0, 1), value, &Alive)
}

fn values(registry: &Registry) -> Vec<u64> {
    let guard = pin();
    let mut values = Vec::new();
    if let Some(members) = registry.get(&Key::<()>::word(0, 1), &guard) {
        members.walk(0, &guard, |member| {
            values.push(member.number);
            true
        });
    }
    values
}

#[test]
fn a_registration_without_memory_is_refused_and_changes_nothing() {
    let registry = Registry::new(Seed::random(), usize::MAX).expect("there is memory");
    // So that owners are known, and what is kept of them has room.
    for number in 0..OWNERS {
        let key = Key::<()>::word(0, 2);
        let registered = registry.register(owner(number), &key, Value::Word(1), &Alive);
        assert_eq!(registered, Ok(()));
    }
    let before = registry.figures().entries;

    // The second entry of a key makes a bag.
    assert_eq!(register(&registry, 0), Ok(()));
    let refused = with_at_most(40, || register(&registry, 1));
    assert_eq!(refused, Err(Refused::OutOfMemory));
    assert_eq!(values(&registry), [0]);
    assert_eq!(register(&registry, 1), Ok(()));

    // The chunks of a bag double. What was there stays, and the bag goes on when there is memory.
    let mut count = 2;
    let refused = with_at_most(1_000, || {
        loop {
            match register(&registry, count) {
                Ok(()) if count < 5_000 => count += 1,
                result => break result,
            }
        }
    });
    assert_eq!(refused, Err(Refused::OutOfMemory));
    assert_eq!(values(&registry), (0..count).collect::<Vec<_>>());
    assert_eq!(registry.figures().entries, before + count as usize);
    assert_eq!(register(&registry, count), Ok(()));
    count += 1;
    assert_eq!(values(&registry), (0..count).collect::<Vec<_>>());

    // A removal needs memory for no more than a copy that it can do without.
    with_at_most(16, || {
        for number in 0..OWNERS {
            let removed = registry.unregister(owner(number), &Key::<()>::word(0, 1), usize::MAX);
            assert!(removed.is_some());
        }
    });
    assert_eq!(values(&registry), []);
    assert_eq!(registry.figures().entries, before);
}
