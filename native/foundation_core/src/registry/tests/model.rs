use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::key::KeyView;

const OWNERS: u64 = 4;
const KEYS: u64 = 12;

#[derive(Clone, Debug)]
enum Change {
    Register {
        owner: u64,
        key: u64,
        value: u64,
    },
    Unregister {
        owner: u64,
        key: u64,
    },
    /// Removes one of the owner's entries of the key.
    RemoveOne {
        owner: u64,
        key: u64,
        which: usize,
    },
    /// The owner dies, and another takes its place, as a new process would.
    Death {
        owner: u64,
    },
    /// The owner is no longer alive. Its entries stay until the next death is cleaned up.
    Doom {
        owner: u64,
    },
}

fn change() -> impl Strategy<Value = Change> {
    let owner = || 1..=OWNERS;
    let key = || 0..KEYS;
    prop_oneof![
        8 => (owner(), key(), 0..1_000u64)
            .prop_map(|(owner, key, value)| Change::Register { owner, key, value }),
        3 => (owner(), key()).prop_map(|(owner, key)| Change::Unregister { owner, key }),
        3 => (owner(), key(), 0..5usize)
            .prop_map(|(owner, key, which)| Change::RemoveOne { owner, key, which }),
        1 => owner().prop_map(|owner| Change::Death { owner }),
        1 => owner().prop_map(|owner| Change::Doom { owner }),
    ]
}

/// Gives each owner a new number at its death, because a number is never used twice.
struct Lives {
    liveness: FakeLiveness,
    numbers: [u64; OWNERS as usize + 1],
}

impl Lives {
    fn new() -> Self {
        Lives {
            liveness: FakeLiveness::default(),
            numbers: std::array::from_fn(|owner| owner as u64),
        }
    }

    fn number(&self, owner: u64) -> u64 {
        self.numbers[owner as usize]
    }

    fn renew(&mut self, owner: u64) {
        self.numbers[owner as usize] += 100;
    }
}

/// A key with the same hash as every third other key.
fn third(key: &u64) -> Key<'_, u64> {
    Key::Opaque(key % 3, key)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_unique_registry_is_a_map(changes in prop::collection::vec(change(), 0..200)) {
        let registry: Unique<NoOpaque, NoObject> =
            Unique::new(Seed::fixed(3), usize::MAX).expect("there is memory");
        let mut lives = Lives::new();
        let mut model: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for change in changes {
            match change {
                Change::Register { owner, key, value } => {
                    let number = lives.number(owner);
                    let done = registry.register(number, &int(key), word(value), &lives.liveness);
                    let alive = |holder| lives.liveness.is_alive(holder);
                    let holder = model.get(&key).filter(|(holder, _)| alive(*holder));
                    match holder {
                        Some((holder, _)) => prop_assert_eq!(done, Err(Refused::Taken(*holder))),
                        None => {
                            prop_assert_eq!(done, Ok(()));
                            model.insert(key, (number, value));
                        }
                    }
                }
                Change::Unregister { owner, key } | Change::RemoveOne { owner, key, .. } => {
                    let number = lives.number(owner);
                    let own = model.get(&key).is_some_and(|(holder, _)| *holder == number);
                    if own {
                        model.remove(&key);
                    }
                    prop_assert_eq!(registry.unregister(number, &int(key)), own);
                }
                Change::Death { owner } => {
                    let number = lives.number(owner);
                    lives.liveness.kill(number);
                    lives.renew(owner);
                    let mut pending = registry.mark_dead(number);
                    while !registry.remove_dead(&mut pending, 3) {}
                    model.retain(|_, (holder, _)| *holder != number);
                }
                Change::Doom { owner } => {
                    lives.liveness.kill(lives.number(owner));
                    lives.renew(owner);
                }
            }
            prop_assert_eq!(registry.len(), model.len());
        }
        let guard = pin();
        for key in 0..KEYS {
            let entry = registry.get(&int(key), &guard);
            let found = entry.map(|entry| (entry.owner, number(entry.value)));
            prop_assert_eq!(found, model.get(&key).copied());
        }
        for owner in 1..=OWNERS {
            let number = lives.number(owner);
            let expected = model.values().filter(|(holder, _)| *holder == number).count();
            prop_assert_eq!(registry.held_by(number), expected);
        }
    }

    #[test]
    fn a_duplicate_registry_is_a_map_of_lists(changes in prop::collection::vec(change(), 0..200)) {
        // Every third key has the same hash.
        let registry: Duplicate<Colliding, NoObject> =
            Duplicate::new(Seed::fixed(3), usize::MAX).expect("there is memory");
        let mut lives = Lives::new();
        let mut model: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
        for change in changes {
            match change {
                Change::Register { owner, key, value } => {
                    let number = lives.number(owner);
                    let text = third(&key);
                    let done = registry.register(number, &text, word(value), &lives.liveness);
                    prop_assert_eq!(done, Ok(()));
                    model.entry(key).or_default().push((number, value));
                }
                Change::Unregister { owner, key } => {
                    let number = lives.number(owner);
                    let list = model.entry(key).or_default();
                    let before = list.len();
                    list.retain(|(holder, _)| *holder != number);
                    let removed = registry.unregister(number, &third(&key), usize::MAX);
                    prop_assert_eq!(removed, Some(before - list.len()));
                }
                Change::RemoveOne { owner, key, which } => {
                    let owner = lives.number(owner);
                    let mut own = Vec::new();
                    registry.entries(owner, &third(&key), &pin(), |member| {
                        own.push((member.number, number(member.value)));
                    });
                    let list = model.entry(key).or_default();
                    let places: Vec<usize> =
                        (0..list.len()).filter(|place| list[*place].0 == owner).collect();
                    let values: Vec<u64> = places.iter().map(|place| list[*place].1).collect();
                    let expected: Vec<_> = own.iter().map(|(_, value)| *value).collect();
                    prop_assert_eq!(expected, values);
                    if which < own.len() {
                        list.remove(places[which]);
                        prop_assert_eq!(registry.remove(owner, &third(&key), &[own[which].0]), 1);
                    }
                }
                Change::Death { owner } => {
                    let number = lives.number(owner);
                    lives.liveness.kill(number);
                    lives.renew(owner);
                    let mut pending = registry.mark_dead(number);
                    while !registry.remove_dead(&mut pending, 3) {}
                    for list in model.values_mut() {
                        list.retain(|(holder, _)| *holder != number);
                    }
                }
                // A dead owner's entries are removed when its death is handled, and not before.
                Change::Doom { owner } => {
                    lives.liveness.kill(lives.number(owner));
                    lives.renew(owner);
                }
            }
            model.retain(|_, list| !list.is_empty());
            prop_assert_eq!(registry.len(), model.values().map(Vec::len).sum::<usize>());
            prop_assert_eq!(registry.figures().keys, model.len());
        }
        let guard = pin();
        for key in 0..KEYS {
            let mut entries = Vec::new();
            if let Some(bag) = registry.get(&third(&key), &guard) {
                bag.walk(0, &guard, |member| {
                    entries.push((member.owner, number(member.value)));
                    true
                });
            }
            prop_assert_eq!(entries, model.get(&key).cloned().unwrap_or_default());
        }
        for owner in 1..=OWNERS {
            let number = lives.number(owner);
            let mut keys = BTreeMap::new();
            registry.keys(number, &guard, |key, count| match key {
                KeyView::Opaque(key) => *keys.entry(key.0).or_default() += count,
                key => panic!("expected an opaque key, got: {key:?}"),
            });
            prop_assert_eq!(registry.held_by(number) == 0, keys.is_empty());
            let own = |list: &Vec<(u64, u64)>| {
                list.iter().filter(|(holder, _)| *holder == number).count()
            };
            let counts = model.iter().map(|(key, list)| (*key, own(list)));
            let expected: BTreeMap<_, _> = counts.filter(|(_, count)| *count > 0).collect();
            prop_assert_eq!(keys, expected);
        }
    }
}
