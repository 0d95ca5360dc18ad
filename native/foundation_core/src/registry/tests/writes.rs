//! Counts each call's writes to memory that other threads may read.

use super::*;
use crate::primitive::{Writes, take_writes};

/// The stores that mark the beginning and the end of a guard, in a word of the thread's own.
const GUARD: usize = 2;

fn writes(stores: usize, exchanges: usize, locks: usize) -> Writes {
    Writes {
        stores,
        exchanges,
        locks,
    }
}

/// Returns what `call` writes besides its guard.
fn writes_of(call: impl FnOnce()) -> Writes {
    take_writes();
    call();
    let mut writes = take_writes();
    assert!(writes.stores >= GUARD, "expected a guard, got: {writes:?}");
    writes.stores -= GUARD;
    writes
}

fn bytes<V>() -> Value<V> {
    Value::bytes(&[7; 100]).expect("there is memory")
}

#[test]
fn the_writes_of_calls_on_unique_keys_are_as_documented() {
    type Subject = Unique<NoOpaque, NoObject>;
    let registry: Subject = Unique::new(Seed::fixed(1), usize::MAX).expect("there is memory");
    let liveness = FakeLiveness::default();
    let register = |key, value| {
        assert_eq!(registry.register(1, &int(key), value, &liveness), Ok(()));
    };
    // The first calls also make the thread a participant, and make the owners' handles.
    for key in 0..8 {
        register(key, word(0));
    }
    assert_eq!(registry.register(2, &int(8), word(0), &liveness), Ok(()));
    let set = |value| assert!(registry.set(1, &int(1), value, &pin()));
    set(bytes());
    let registered = writes_of(|| register(100, word(0)));
    let refused = writes_of(|| {
        let refused = registry.register(2, &int(100), word(0), &liveness);
        assert_eq!(refused, Err(Refused::Taken(1)));
    });
    let unregistered = writes_of(|| assert!(registry.unregister(1, &int(100))));
    let set_bytes = writes_of(|| set(bytes()));
    let found = writes_of(|| {
        let guard = pin();
        assert!(registry.get(&int(1), &guard).is_some());
        assert!(registry.get(&int(200), &guard).is_none());
    });
    assert_eq!(
        [registered, refused, unregistered, set_bytes, found],
        [
            writes(7, 4, 3),
            // The second key needs a handle, which is freed again.
            writes(0, 1, 3),
            writes(3, 3, 3),
            writes(6, 0, 2),
            writes(0, 0, 0)
        ]
    );
}

#[test]
fn the_writes_of_calls_on_duplicate_keys_are_as_documented() {
    type Subject = Duplicate<NoOpaque, NoObject>;
    let registry: Subject = Duplicate::new(Seed::fixed(1), usize::MAX).expect("there is memory");
    let liveness = FakeLiveness::default();
    let register = |owner, key| {
        let registered = registry.register(owner, &int(key), word(0), &liveness);
        assert_eq!(registered, Ok(()));
    };
    for owner in 1..=10 {
        register(owner, 1);
    }
    register(11, 2);
    let alone = writes_of(|| register(11, 100));
    let alone_left = writes_of(|| {
        assert_eq!(registry.unregister(11, &int(100), usize::MAX), Some(1));
    });
    let joined = writes_of(|| register(11, 1));
    let left = writes_of(|| {
        assert_eq!(registry.unregister(11, &int(1), usize::MAX), Some(1));
    });
    let found = writes_of(|| {
        let guard = pin();
        let members = registry.get(&int(1), &guard).expect("the key has entries");
        let mut seen = 0;
        members.walk(0, &guard, |_| {
            seen += 1;
            true
        });
        assert_eq!(seen, 10);
    });
    assert_eq!(
        [alone, alone_left, joined, left, found],
        [
            // The third lock is that of the owner's new handle.
            writes(7, 2, 3),
            writes(3, 3, 3),
            writes(5, 4, 3),
            writes(2, 4, 4),
            writes(0, 0, 0)
        ]
    );
}
