//! Compares the library's account of memory with what the allocator has given out, in a process of
//! its own. A forgotten part shows here.
#![cfg(not(loom))]

#[expect(dead_code, reason = "no allocation is refused here")]
mod support;

use foundation_core::key::{Key, NoOpaque, Seed};
use foundation_core::registry::Unique;
use foundation_core::table::{Value, reclaim};
use support::{Alive, NoObject, owner};

/// Freed memory included.
fn allocated() -> usize {
    while reclaim::outstanding() > 0 {
        reclaim::flush();
    }
    support::allocated()
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
