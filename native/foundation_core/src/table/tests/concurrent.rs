//! Invariants under threads of the operating system, in any interleaving.

use super::*;

/// The owner of every entry is a function of its key and value. So a mixture of the words of two
/// entries is never a valid entry.
fn owner(key: u64, value: u64) -> u64 {
    key.rotate_left(32) ^ value
}

fn look_whole(table: &Plain, key: u64) -> Option<u64> {
    let (found, value) = look(table, &int(key))?;
    assert_eq!(found, owner(key, value), "torn: key {key}, value {value}");
    Some(value)
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn readers_never_see_a_torn_entry_nor_miss_one_that_stays() {
    let table = plain();
    const STAY: u64 = 300;
    for key in 0..STAY {
        put(&table, &int(key), owner(key, 0), 0);
    }
    let writing = AtomicI64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..2u64 {
            let (table, running) = (&table, Running::new(&writing));
            scope.spawn(move || {
                let _running = running;
                for round in 1..400 {
                    // The keys that stay get another owner and value, in place.
                    for key in (0..STAY).filter(|key| key % 2 == thread) {
                        let hash = table.hash(&int(key));
                        let make = || Value::Word(odd(round));
                        let owner = owner(key, round);
                        let guard = pin();
                        let done = table.insert(&int(key), hash, owner, make, |_| true, &guard);
                        assert!(matches!(done, Ok(Inserted::Replaced(_))));
                    }
                    // Other keys come and go, so slots are reused, and segments are split and
                    // merged.
                    let own =
                        (thread + 1) * 1_000_000..(thread + 1) * 1_000_000 + 40 * round % 4_000;
                    for key in own.clone() {
                        assert!(put(table, &int(key), owner(key, round), round));
                    }
                    for key in own {
                        assert_eq!(look_whole(table, key), Some(round));
                        assert!(delete(table, &int(key)));
                        assert_eq!(look_whole(table, key), None);
                    }
                }
            });
        }
        for thread in 0..2u64 {
            let (table, writing) = (&table, &writing);
            scope.spawn(move || {
                let mut latest = vec![0; STAY as usize];
                while writing.load(Ordering::SeqCst) > 0 {
                    for key in 0..STAY {
                        let value = look_whole(table, key).expect("it stays");
                        let latest = &mut latest[key as usize];
                        assert!(
                            value >= *latest,
                            "key {key} went back from {latest} to {value}"
                        );
                        *latest = value;
                        look_whole(table, 1_000_000 * (1 + (key + thread) % 2) + key);
                    }
                }
            });
        }
    });
    assert_eq!(table.len(), STAY as usize);
}

/// The bytes of a key's value in a round. They are long enough for a blob, and each part differs.
fn contents(key: u64, round: u64) -> Vec<u8> {
    (key << 32 | round)
        .to_le_bytes()
        .repeat(3 + (round % 20) as usize)
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn readers_never_see_freed_keys_and_values() {
    let live: Arc<AtomicI64> = Arc::default();
    let table: Table<Text, Counted> = Table::new(Seed::fixed(6)).expect("there is memory");
    const KEYS: u64 = 64;
    let names: Vec<String> = (0..KEYS)
        .map(|key| format!("a key that is long: {key}"))
        .collect();
    let writing = AtomicI64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (table, names, live) = (&table, &names, &live);
            let running = Running::new(&writing);
            scope.spawn(move || {
                let _running = running;
                for round in 0..1_500 {
                    for key in (0..KEYS).filter(|key| key % 2 == thread) {
                        let name = Key::new(0, names[key as usize].as_bytes());
                        let hash = table.hash(&name);
                        let guard = pin();
                        let make = || match round % 2 {
                            0 => Value::bytes(&contents(key, round)).expect("there is memory"),
                            _ => Counted::value(key, live),
                        };
                        let done = table.insert(&name, hash, key, make, |_| true, &guard);
                        assert!(done.is_ok());
                        if (key + round) % 5 == 0 {
                            assert!(table.remove(&name, hash, |_| true, &guard));
                        }
                        // The same key as an opaque one.
                        let probe = probe(key, live);
                        let opaque = Key::Opaque(key / 8, &probe);
                        assert!(put(table, &opaque, key, key));
                        assert!(delete(table, &opaque));
                    }
                }
            });
        }
        for _ in 0..2 {
            let (table, names, live, writing) = (&table, &names, &live, &writing);
            scope.spawn(move || {
                while writing.load(Ordering::SeqCst) > 0 {
                    let guard = pin();
                    for key in 0..KEYS {
                        let name = Key::new(0, names[key as usize].as_bytes());
                        match table
                            .get(&name, table.hash(&name), &guard)
                            .map(|entry| entry.value)
                        {
                            None => {}
                            Some(ValueView::Object(counted)) => assert_eq!(counted.number, key),
                            Some(ValueView::Bytes(bytes)) => {
                                let word = bytes[..8].try_into().expect("eight bytes");
                                let round = u64::from_le_bytes(word) & 0xFFFF_FFFF;
                                assert_eq!(bytes, contents(key, round));
                            }
                            Some(ValueView::Word(_)) => panic!("no word was put"),
                        }
                        let probe = probe(key, live);
                        if let Some(found) = look(table, &Key::Opaque(key / 8, &probe)) {
                            assert_eq!(found, (key, key));
                        }
                    }
                    table.walk(0, 20, &guard, |visited| {
                        if let KeyView::Long(0, name) = visited.key {
                            assert_eq!(name, names[visited.entry.owner as usize].as_bytes());
                        }
                    });
                }
            });
        }
    });
    drop(table);
    wait_for(&live, 0);
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn one_of_many_that_want_a_key_gets_it() {
    let table = plain();
    const THREADS: u64 = 4;
    const KEYS: u64 = 20_000;
    let won: Vec<Vec<u64>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (1..=THREADS)
            .map(|thread| {
                let table = &table;
                let wins = move |key: &u64| put(table, &int(*key), thread, thread);
                scope.spawn(move || (0..KEYS).filter(wins).collect())
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("ends"))
            .collect()
    });
    assert_eq!(won.iter().map(Vec::len).sum::<usize>(), KEYS as usize);
    for (keys, thread) in won.iter().zip(1..) {
        for key in keys {
            assert_eq!(look(&table, &int(*key)), Some((thread, thread)));
        }
    }
    assert_eq!(table.len(), KEYS as usize);
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn of_many_replacements_of_a_value_none_is_lost() {
    let table = plain();
    const EACH: u64 = 5_000;
    put(&table, &int(1), 1, 0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..EACH {
                    loop {
                        let guard = pin();
                        let hash = table.hash(&int(1));
                        let entry = table.get(&int(1), hash, &guard).expect("it stays");
                        let ValueView::Word(word) = entry.value else {
                            panic!("only words are put");
                        };
                        let next = Value::Word(odd((word >> 1) + 1));
                        if table.replace(&int(1), hash, &entry, next, &guard) {
                            break;
                        }
                    }
                }
            });
        }
    });
    assert_eq!(look(&table, &int(1)), Some((1, 4 * EACH)));
}
