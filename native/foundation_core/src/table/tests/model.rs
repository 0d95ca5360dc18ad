use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// A change to the table and to its model. Keys come from a small space.
#[derive(Clone, Debug)]
enum Change {
    Insert {
        key: u16,
        owner: u64,
        value: u64,
    },
    ReplaceOwner {
        key: u16,
        owner: u64,
        value: u64,
    },
    Replace {
        key: u16,
        value: u64,
    },
    Remove {
        key: u16,
    },
    RemoveOwned {
        key: u16,
        owner: u64,
    },
    /// Many changes at once, so that segments are split and merged.
    Grow {
        from: u16,
    },
    Shrink {
        from: u16,
    },
}

fn change() -> impl Strategy<Value = Change> {
    let key = || 0u16..60;
    let owner = || 0u64..3;
    let value = || 0u64..1_000;
    prop_oneof![
        6 => (key(), owner(), value())
            .prop_map(|(key, owner, value)| Change::Insert { key, owner, value }),
        3 => (key(), owner(), value())
            .prop_map(|(key, owner, value)| Change::ReplaceOwner { key, owner, value }),
        3 => (key(), value()).prop_map(|(key, value)| Change::Replace { key, value }),
        4 => key().prop_map(|key| Change::Remove { key }),
        2 => (key(), owner()).prop_map(|(key, owner)| Change::RemoveOwned { key, owner }),
        1 => (100u16..5_000).prop_map(|from| Change::Grow { from }),
        1 => (100u16..5_000).prop_map(|from| Change::Shrink { from }),
    ]
}

const CROWD: u16 = 1_500;

/// A table under test: every third of its small keys is inline, long and opaque.
struct Subject {
    table: Table<Text, Counted>,
    live: Arc<AtomicI64>,
}

impl Subject {
    fn with<R>(&self, key: u16, run: impl FnOnce(&Key<'_, Probe>, u64) -> R) -> R {
        let text = format!("a text that is longer than a slot: {key}");
        let probe = probe(key, &self.live);
        let key = match key % 3 {
            0 => Key::word(1, u64::from(key)),
            1 => Key::new(2, text.as_bytes()),
            // Five opaque keys have the same hash.
            _ => Key::Opaque(u64::from(key) / 15, &probe),
        };
        run(&key, self.table.hash(&key))
    }

    /// A value of any form. Its number determines which one.
    fn value(&self, number: u64) -> Value<Counted> {
        match number % 3 {
            0 => Value::Word(odd(number)),
            1 => Value::bytes(&number.to_le_bytes().repeat(5)).expect("there is memory"),
            _ => Counted::value(number, &self.live),
        }
    }

    fn number(entry: &Entry<'_, Counted>) -> u64 {
        match entry.value {
            ValueView::Word(word) => word >> 1,
            ValueView::Bytes(bytes) => {
                let (number, rest) = bytes.split_at(8);
                assert!(rest.chunks(8).all(|part| part == number));
                u64::from_le_bytes(number.try_into().expect("eight bytes"))
            }
            ValueView::Object(counted) => counted.number,
        }
    }

    fn get(&self, key: u16) -> Option<(u64, u64)> {
        self.with(key, |key, hash| {
            let guard = pin();
            let entry = self.table.get(key, hash, &guard)?;
            Some((entry.owner, Self::number(&entry)))
        })
    }

    fn insert(&self, key: u16, owner: u64, value: u64, replaces: bool) -> Option<u64> {
        self.with(key, |key, hash| {
            let make = || self.value(value);
            let guard = pin();
            match self
                .table
                .insert(key, hash, owner, make, |_| replaces, &guard)
            {
                Ok(Inserted::New) => None,
                Ok(Inserted::Replaced(owner)) => Some(owner),
                Ok(Inserted::Taken(entry)) => Some(entry.owner),
                Err(OutOfMemory) => panic!("there is memory"),
            }
        })
    }

    fn replace(&self, key: u16, value: u64) -> bool {
        self.with(key, |key, hash| {
            let guard = pin();
            let Some(entry) = self.table.get(key, hash, &guard) else {
                return false;
            };
            let value = self.value(value);
            self.table.replace(key, hash, &entry, value, &guard)
        })
    }

    fn remove(&self, key: u16, condition: impl Fn(u64) -> bool) -> bool {
        self.with(key, |key, hash| {
            let condition = |entry: &Entry<'_, Counted>| condition(entry.owner);
            self.table.remove(key, hash, condition, &pin())
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    #[cfg_attr(miri, ignore = "too many steps for an interpreter")]
    fn a_table_is_a_map(seed: u64, changes in prop::collection::vec(change(), 0..150)) {
        let live: Arc<AtomicI64> = Arc::default();
        let subject = Subject {
            table: Table::new(Seed::fixed(seed)).expect("there is memory"),
            live: live.clone(),
        };
        let base = subject.table.memory();
        let mut model: HashMap<u16, (u64, u64)> = HashMap::new();
        for change in changes {
            match change {
                Change::Insert { key, owner, value } => {
                    let before = model.get(&key).map(|(owner, _)| *owner);
                    prop_assert_eq!(subject.insert(key, owner, value, false), before);
                    model.entry(key).or_insert((owner, value));
                }
                Change::ReplaceOwner { key, owner, value } => {
                    let before = model.insert(key, (owner, value)).map(|(owner, _)| owner);
                    prop_assert_eq!(subject.insert(key, owner, value, true), before);
                }
                Change::Replace { key, value } => {
                    prop_assert_eq!(subject.replace(key, value), model.contains_key(&key));
                    model.entry(key).and_modify(|entry| entry.1 = value);
                }
                Change::Remove { key } => {
                    let was_there = model.remove(&key).is_some();
                    prop_assert_eq!(subject.remove(key, |_| true), was_there);
                }
                Change::RemoveOwned { key, owner } => {
                    let owned = model.get(&key).is_some_and(|entry| entry.0 == owner);
                    if owned {
                        model.remove(&key);
                    }
                    prop_assert_eq!(subject.remove(key, |found| found == owner), owned);
                }
                Change::Grow { from } => {
                    for key in from..from + CROWD {
                        let before = model.get(&key).map(|(owner, _)| *owner);
                        prop_assert_eq!(subject.insert(key, 9, u64::from(key), false), before);
                        model.entry(key).or_insert((9, u64::from(key)));
                    }
                }
                Change::Shrink { from } => {
                    for key in from..from + CROWD {
                        let was_there = model.remove(&key).is_some();
                        prop_assert_eq!(subject.remove(key, |_| true), was_there);
                    }
                }
            }
            prop_assert_eq!(subject.table.len(), model.len());
        }
        for key in 0..60 {
            prop_assert_eq!(subject.get(key), model.get(&key).copied());
        }
        let mut visited = Vec::new();
        let end = subject.table.walk(0, usize::MAX, &pin(), |entry| {
            visited.push((entry.entry.owner, Subject::number(&entry.entry)));
        });
        prop_assert_eq!(end, None);
        let mut expected: Vec<_> = model.values().copied().collect();
        visited.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(visited, expected);
        for key in model.keys() {
            prop_assert_eq!(subject.get(*key), Some(model[key]));
            prop_assert!(subject.remove(*key, |_| true));
        }
        prop_assert!(subject.table.is_empty());
        prop_assert!(subject.table.memory() <= 8 * base);
        drop(subject);
        wait_for(&live, 0);
    }
}
