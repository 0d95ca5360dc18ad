//! The bytes that a cache counts against those that the allocator has given out, in a process of
//! its own: a count that leaves something out cannot hide it here.
#![cfg(not(loom))]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use foundation_core::cache::{Cache, Limits, NotStored, OVERHEAD};
use foundation_core::key::{Key, NoOpaque, Seed};
use foundation_core::table::{Object, Value, pin, reclaim};

struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
static LARGEST: AtomicUsize = AtomicUsize::new(usize::MAX);
/// Each test measures what the whole process allocates.
static ALONE: Mutex<()> = Mutex::new(());

/// What the VM's allocator adds to an allocation, as the cache counts it.
const ADDED: usize = 16;

// SAFETY: every call goes to the system's allocator as it came, or gets the null pointer that an
// allocator may give.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > LARGEST.load(Ordering::Relaxed) {
            return std::ptr::null_mut();
        }
        ALLOCATED.fetch_add(layout.size() + ADDED, Ordering::Relaxed);
        // SAFETY: asked of the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size() + ADDED, Ordering::Relaxed);
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

type Plain = Cache<NoOpaque, NoObject>;

fn cache(bytes: u64) -> Plain {
    let limits = Limits {
        bytes,
        entries: u64::MAX,
        load: u64::MAX,
    };
    Cache::new(Seed::random(), limits, 0).expect("there is memory")
}

fn put(cache: &Plain, number: u64, size: usize) -> Result<(), NotStored> {
    let bytes = vec![7; size];
    let value = Value::bytes(&bytes).ok_or(NotStored::OutOfMemory)?;
    cache.put(
        &Key::<()>::word(0, number),
        value,
        (None, None),
        0,
        true,
        &pin(),
    )
}

#[test]
fn the_bytes_of_a_cache_are_those_of_the_allocator() {
    let _alone = ALONE.lock();
    for size in [0, 10, 100, 1_000, 100_000] {
        for bytes in [4 << 20, 40 << 20] {
            let before = allocated();
            let cache = cache(bytes);
            // At the bound, with places and slots that were used before.
            let entries = 2 * bytes / (OVERHEAD + size + 24) as u64;
            for number in 0..entries {
                assert_eq!(put(&cache, number, size), Ok(()));
            }
            let (taken, counted) = (allocated() - before, cache.figures().bytes as usize);
            assert!(
                taken.abs_diff(counted) < counted * 15 / 100,
                "{taken} bytes for {counted}, values of {size}"
            );
            drop(cache);
            let left = allocated().saturating_sub(before);
            assert!(left < counted / 50, "{left} of {taken} are left");
        }
    }
}

#[test]
fn an_entry_takes_less_than_a_hundred_bytes_beside_its_value() {
    let _alone = ALONE.lock();
    const ENTRIES: u64 = 300_000;
    let before = allocated();
    let cache = cache(1 << 30);
    for number in 0..ENTRIES {
        let key = Key::<()>::word(0, number);
        let stored = cache.put(&key, Value::Word(1), (None, None), 0, true, &pin());
        assert_eq!(stored, Ok(()));
    }
    let each = (allocated() - before) / ENTRIES as usize;
    assert!(each < 100, "{each} bytes an entry");
}

#[test]
fn a_put_without_memory_removes_what_was_there_and_leaves_the_rest() {
    let _alone = ALONE.lock();
    let cache = cache(1 << 30);
    assert_eq!(put(&cache, 1, 10), Ok(()));
    let mut number = 2;
    // Sooner or later a segment, a chunk of nodes or a chunk of marks is due.
    LARGEST.store(500, Ordering::Relaxed);
    let refused = loop {
        match put(&cache, number, 10) {
            Ok(()) => number += 1,
            Err(error) => break error,
        }
    };
    LARGEST.store(usize::MAX, Ordering::Relaxed);
    assert_eq!(refused, NotStored::OutOfMemory);
    assert_eq!(cache.len() as u64, number - 1);
    assert_eq!(put(&cache, number, 10), Ok(()));
    assert_eq!(cache.len() as u64, number);
    LARGEST.store(500, Ordering::Relaxed);
    assert!(cache.clear(false).is_err());
    LARGEST.store(usize::MAX, Ordering::Relaxed);
    assert_eq!(cache.len() as u64, number);
}
