use super::*;
use crate::key::KeyView;

type Subject = super::super::Unique<NoOpaque, NoObject>;

fn unique(limit: usize) -> Subject {
    Unique::new(Seed::fixed(1), limit).expect("there is memory")
}

fn owner_of(registry: &Subject, key: u64) -> Option<u64> {
    let guard = pin();
    registry.get(&int(key), &guard).map(|entry| entry.owner)
}

fn keys(registry: &Subject, owner: u64) -> usize {
    let mut keys = 0;
    registry.keys(owner, &pin(), |_| keys += 1);
    keys
}

/// Kills an owner, marks it dead and removes its entries, as a runtime does.
fn die(registry: &Subject, liveness: &FakeLiveness, owner: u64) {
    liveness.kill(owner);
    let mut pending = registry.mark_dead(owner);
    while !registry.remove_dead(&mut pending, 100) {}
}

#[test]
fn a_key_has_one_owner_who_alone_gives_it_up() {
    let (registry, liveness) = (unique(usize::MAX), FakeLiveness::default());
    assert_eq!(registry.register(1, &int(7), word(0), &liveness), Ok(()));
    let taken = Err(Refused::Taken(1));
    assert_eq!(registry.register(2, &int(7), word(0), &liveness), taken);
    assert_eq!(registry.register(1, &int(7), word(0), &liveness), taken);
    assert!(!registry.unregister(2, &int(7)));
    assert!(registry.unregister(1, &int(7)));
    assert!(!registry.unregister(1, &int(7)));
    assert_eq!(registry.register(2, &int(7), word(0), &liveness), Ok(()));
    assert_eq!(owner_of(&registry, 7), Some(2));
}

#[test]
fn an_owner_is_watched_once_and_a_dead_one_refused() {
    let (registry, liveness) = (unique(usize::MAX), FakeLiveness::default());
    for key in 0..100 {
        assert_eq!(registry.register(1, &int(key), word(0), &liveness), Ok(()));
    }
    assert_eq!(liveness.watched(), 1);
    liveness.kill(2);
    let refused = registry.register(2, &int(1_000), word(0), &liveness);
    assert_eq!(refused, Err(Refused::Dead));
    assert_eq!((registry.len(), owner_of(&registry, 1_000)), (100, None));
    assert_eq!(registry.figures().owners, 1);
}

#[test]
fn a_death_takes_an_owners_entries_in_pieces_and_no_others() {
    let (registry, liveness) = (unique(usize::MAX), FakeLiveness::default());
    for key in 0..2_500 {
        let owner = 1 + key % 2;
        assert_eq!(
            registry.register(owner, &int(key), word(key), &liveness),
            Ok(())
        );
    }
    liveness.kill(1);
    let mut pending = registry.mark_dead(1);
    let mut pieces = 0;
    loop {
        let before = registry.len();
        let done = registry.remove_dead(&mut pending, 100);
        assert!(before - registry.len() <= 100);
        pieces += 1;
        if done {
            break;
        }
    }
    assert!((13..=14).contains(&pieces), "{pieces} pieces");
    assert_eq!((registry.len(), registry.take_cleaned()), (1_250, 1_250));
    assert_eq!(registry.take_cleaned(), 0);
    assert_eq!((keys(&registry, 1), keys(&registry, 2)), (0, 1_250));
    assert_eq!(registry.held_by(2), 1_250);
}

#[test]
fn a_dead_owners_key_is_taken_over_and_its_death_leaves_it_alone() {
    let (registry, liveness) = (unique(usize::MAX), FakeLiveness::default());
    for key in 0..3 {
        assert_eq!(registry.register(1, &int(key), word(0), &liveness), Ok(()));
    }
    liveness.kill(1);
    assert_eq!(registry.register(2, &int(1), word(9), &liveness), Ok(()));
    assert_eq!(registry.take_cleaned(), 1);
    die(&registry, &liveness, 1);
    assert_eq!(registry.take_cleaned(), 2);
    assert_eq!((registry.len(), owner_of(&registry, 1)), (1, Some(2)));
    let guard = pin();
    let entry = registry.get(&int(1), &guard).expect("it is there");
    assert_eq!(number(entry.value), 9);
}

#[test]
fn a_full_registry_refuses_and_counts_it() {
    let (registry, liveness) = (unique(2), FakeLiveness::default());
    for key in 0..2 {
        assert_eq!(registry.register(1, &int(key), word(0), &liveness), Ok(()));
    }
    let full = Err(Refused::Full);
    assert_eq!(registry.register(2, &int(2), word(0), &liveness), full);
    assert_eq!(registry.register(1, &int(3), word(0), &liveness), full);
    assert_eq!((registry.len(), registry.figures().drops), (2, 2));
    assert!(registry.unregister(1, &int(0)));
    assert_eq!(registry.register(2, &int(2), word(0), &liveness), Ok(()));
}

#[test]
fn a_value_is_replaced_if_it_is_the_one_that_was_seen() {
    let (registry, liveness) = (unique(usize::MAX), FakeLiveness::default());
    assert_eq!(registry.register(1, &int(1), word(1), &liveness), Ok(()));
    let guard = pin();
    let seen = registry.get(&int(1), &guard).expect("it is there");
    assert!(registry.replace(&int(1), &seen, word(2), &guard));
    assert!(!registry.replace(&int(1), &seen, word(3), &guard));
    let now = registry.get(&int(1), &guard).expect("it is there");
    assert_eq!((number(seen.value), number(now.value)), (1, 2));
}

#[test]
fn figures_return_to_what_an_empty_registry_has() {
    let (registry, liveness) = (unique(usize::MAX), FakeLiveness::default());
    let empty = registry.figures();
    for owner in 0..500 {
        for key in 0..20 {
            let key = int(owner * 1_000 + key);
            assert_eq!(registry.register(owner, &key, word(0), &liveness), Ok(()));
        }
    }
    let full = registry.figures();
    assert_eq!(
        (full.entries, full.keys, full.owners),
        (10_000, 10_000, 500)
    );
    assert!(full.memory > empty.memory + 10_000 * 34);
    for owner in 0..250 {
        die(&registry, &liveness, owner);
    }
    assert_eq!(registry.figures().owners, 250);
    for owner in 250..500 {
        for key in 0..20 {
            assert!(registry.unregister(owner, &int(owner * 1_000 + key)));
        }
        die(&registry, &liveness, owner);
    }
    let left = registry.figures();
    assert_eq!((left.entries, left.keys, left.owners), (0, 0, 0));
    assert!(
        left.memory <= 2 * empty.memory,
        "{} of {}",
        left.memory,
        empty.memory
    );
}

#[test]
fn owners_that_came_and_went_leave_no_memory() {
    let (registry, liveness) = (unique(usize::MAX), FakeLiveness::default());
    let empty = registry.figures().memory;
    const MANY: u64 = 20_000;
    for owner in 1..=MANY {
        // An owner with one entry, one with several, and one that is back to a single entry.
        for key in 0..1 + owner % 3 {
            let key = int(owner * 4 + key);
            assert_eq!(registry.register(owner, &key, word(0), &liveness), Ok(()));
        }
        if owner % 5 == 0 {
            registry.unregister(owner, &int(owner * 4));
        }
    }
    assert!(registry.figures().memory > 100 * empty);
    for owner in 1..=MANY {
        die(&registry, &liveness, owner);
    }
    let left = registry.figures();
    assert_eq!((left.entries, left.owners), (0, 0));
    assert!(left.memory <= 2 * empty, "{} of {empty}", left.memory);
}

#[test]
fn an_owner_is_watched_once_however_much_it_holds_in_turn() {
    let (registry, liveness) = (unique(usize::MAX), FakeLiveness::default());
    for keys in [1, 3, 0, 2, 1, 100, 0] {
        for key in 0..100 {
            registry.unregister(1, &int(key));
        }
        for key in 0..keys {
            assert_eq!(registry.register(1, &int(key), word(0), &liveness), Ok(()));
        }
        assert_eq!(registry.held_by(1), keys as usize);
        assert_eq!(registry.figures().owners, usize::from(keys > 0));
    }
    assert_eq!(liveness.watched(), 1);
}

#[test]
fn keys_with_one_hash_are_all_listed_and_all_removed() {
    let registry = super::super::Unique::<Colliding, NoObject>::new(Seed::fixed(1), usize::MAX)
        .expect("there is memory");
    let liveness = FakeLiveness::default();
    for key in 0..2_000 {
        let owner = 1 + key % 2;
        let key = Key::Opaque(7, &key);
        assert_eq!(registry.register(owner, &key, word(0), &liveness), Ok(()));
    }
    assert!(registry.unregister(1, &Key::Opaque(7, &10)));
    let mut keys = Vec::new();
    registry.keys(1, &pin(), |key| match key {
        KeyView::Opaque(key) => keys.push(key.0),
        key => panic!("expected an opaque key, got: {key:?}"),
    });
    keys.sort_unstable();
    let expected: Vec<u64> = (0..2_000).step_by(2).filter(|key| *key != 10).collect();
    assert_eq!(keys, expected);

    liveness.kill(1);
    let mut pending = registry.mark_dead(1);
    assert_eq!(pending.keys(), 999);
    while !registry.remove_dead(&mut pending, 100) {}
    assert_eq!((registry.len(), registry.take_cleaned()), (1_000, 999));
}

#[test]
fn the_limit_holds_whoever_comes_at_once() {
    let liveness = FakeLiveness::default();
    let registries: Vec<Subject> = (0..5_000).map(|_| unique(1)).collect();
    std::thread::scope(|scope| {
        for owner in 1..=4 {
            let (registries, liveness) = (&registries, &liveness);
            scope.spawn(move || {
                for registry in registries {
                    let _ = registry.register(owner, &int(owner), word(0), liveness);
                }
            });
        }
    });
    for registry in registries {
        assert_eq!((registry.len(), registry.figures().drops), (1, 3));
    }
}

#[test]
fn a_full_registry_says_who_has_a_key_and_has_room_again() {
    let (registry, liveness) = (unique(2), FakeLiveness::default());
    for key in [1, 2] {
        assert_eq!(
            registry.register(key, &int(key), word(0), &liveness),
            Ok(())
        );
    }
    let taken = Err(Refused::Taken(1));
    assert_eq!(registry.register(3, &int(1), word(0), &liveness), taken);
    assert_eq!(registry.figures().drops, 0);
    assert_eq!(
        registry.register(3, &int(3), word(0), &liveness),
        Err(Refused::Full)
    );
    assert!(registry.unregister(2, &int(2)));
    assert_eq!(registry.register(3, &int(1), word(0), &liveness), taken);
    assert_eq!(registry.register(3, &int(3), word(0), &liveness), Ok(()));
    die(&registry, &liveness, 1);
    assert_eq!(registry.register(3, &int(1), word(0), &liveness), Ok(()));
    assert_eq!(
        registry.register(3, &int(4), word(0), &liveness),
        Err(Refused::Full)
    );
    assert_eq!((registry.len(), registry.figures().drops), (2, 2));
}

/// A liveness check during which another owner registers, once.
struct Meanwhile<'a>(
    &'a FakeLiveness,
    std::cell::RefCell<Option<Box<dyn FnOnce() + 'a>>>,
);

impl Liveness for Meanwhile<'_> {
    fn is_alive(&self, owner: u64) -> bool {
        self.0.is_alive(owner)
    }

    fn watch(&self, owner: u64) -> bool {
        let meanwhile = self.1.take();
        meanwhile.into_iter().for_each(|meanwhile| meanwhile());
        self.0.watch(owner)
    }
}

#[test]
fn a_registration_in_progress_does_not_make_the_registry_full() {
    let (registry, liveness) = (unique(1), FakeLiveness::default());
    let other = || {
        std::thread::scope(|scope| {
            let other = scope.spawn(|| registry.register(2, &int(7), word(0), &liveness));
            assert_eq!(other.join().expect("it does not panic"), Ok(()));
        });
    };
    let liveness = Meanwhile(&liveness, std::cell::RefCell::new(Some(Box::new(other))));
    let late = registry.register(1, &int(7), word(0), &liveness);
    assert_eq!(late, Err(Refused::Taken(2)));
    assert_eq!((registry.len(), registry.figures().drops), (1, 0));
}

#[test]
fn a_dead_owner_is_replaced_also_where_the_registry_is_full() {
    let (registry, liveness) = (unique(1), FakeLiveness::default());
    assert_eq!(registry.register(1, &int(7), word(0), &liveness), Ok(()));
    liveness.kill(1);
    assert_eq!(registry.register(2, &int(7), word(0), &liveness), Ok(()));
    die(&registry, &liveness, 1);
    assert_eq!(
        registry.register(3, &int(8), word(0), &liveness),
        Err(Refused::Full)
    );
    assert!(registry.unregister(2, &int(7)));
    assert_eq!(registry.register(3, &int(8), word(0), &liveness), Ok(()));
}
