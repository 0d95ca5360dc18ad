//! Registries without memory, in a process of their own whose allocator refuses what
//! is larger than it is told.
#![cfg(not(loom))]

#[expect(dead_code, reason = "nothing is counted here")]
mod support;

use foundation_core::key::{Key, NoOpaque, Seed};
use foundation_core::registry::{Duplicate, Refused, Unique};
use foundation_core::table::{Value, pin, reclaim};
use support::{Alive, NoObject, with_at_most};

const OWNERS: u64 = 50;

/// One of a few owners, so that each has some entries.
fn owner(number: u64) -> u64 {
    support::owner(number % OWNERS)
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

    // The chunks of a bag double. Existing entries stay, and the bag accepts more once there is
    // memory.
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

/// Registers and unregisters with less and less memory: each call is done as a whole or refused.
fn with_all_limits(
    register: impl Fn(u64, u64) -> Result<(), Refused>,
    unregister: impl Fn(u64, u64) -> usize,
    entries: impl Fn() -> usize,
) {
    const KEYS: u64 = 1_200;
    let sizes = (0..40)
        .map(|size| size * 8)
        .chain([512, 1_024, 2_048, 4_096, 8_192]);
    for largest in sizes.chain([16_384, 65_536]) {
        let mut registered = Vec::new();
        let mut refused = 0;
        for number in 0..KEYS {
            // Some owners hold one thing, some a few, and one holds most.
            let owner = match number % 4 {
                0 => number % OWNERS,
                1 => number,
                _ => 7,
            };
            match with_at_most(largest, || register(owner, number)) {
                Ok(()) => registered.push((owner, number)),
                Err(Refused::OutOfMemory) => refused += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
        assert_eq!(entries(), registered.len(), "with at most {largest} bytes");
        assert!(largest > 0 || refused > 0);
        with_at_most(largest, || {
            for (owner, number) in registered {
                assert_eq!(unregister(owner, number), 1, "with at most {largest} bytes");
            }
        });
        assert_eq!(entries(), 0, "with at most {largest} bytes");
    }
}

#[test]
fn an_owner_without_memory_for_another_entry_holds_what_it_held() {
    // A thread's first guard needs memory.
    drop(pin());
    let key = |number: u64| Key::<()>::word(1, number);
    let unique: Unique<NoOpaque, NoObject> =
        Unique::new(Seed::random(), usize::MAX).expect("there is memory");
    with_all_limits(
        |owner, number| {
            let owner = support::owner(owner);
            unique.register(owner, &key(number), Value::Word(1), &Alive)
        },
        |owner, number| usize::from(unique.unregister(support::owner(owner), &key(number))),
        || unique.figures().entries,
    );
    let duplicate = Registry::new(Seed::random(), usize::MAX).expect("there is memory");
    with_all_limits(
        |owner, number| {
            let owner = support::owner(owner);
            duplicate.register(owner, &key(number % 9), Value::Word(1), &Alive)
        },
        |owner, number| {
            // The first call for a key removes all of the owner's entries of it.
            let owner = support::owner(owner);
            let before = duplicate.count_of(owner, &key(number % 9));
            let removed = duplicate.unregister(owner, &key(number % 9), usize::MAX);
            assert_eq!(removed, Some(before));
            1
        },
        || duplicate.figures().entries,
    );
}

#[test]
fn what_is_retired_without_memory_is_freed_later_or_stays() {
    let registry: Unique<NoOpaque, NoObject> =
        Unique::new(Seed::random(), usize::MAX).expect("there is memory");
    let key = Key::<()>::word(0, 1);
    let owner = support::owner(1);
    let value = || Value::bytes(&[7; 100]).expect("there is memory");
    assert_eq!(registry.register(owner, &key, value(), &Alive), Ok(()));
    for _ in 0..1_000 {
        let value = value();
        assert!(with_at_most(16, || registry.set(
            owner,
            &key,
            value,
            &pin()
        )));
    }
    with_at_most(16, reclaim::flush);
    assert!(registry.set(owner, &key, value(), &pin()));
    while reclaim::outstanding() > 0 {
        reclaim::flush();
    }
}
