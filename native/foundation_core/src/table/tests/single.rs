use super::*;

/// A byte string of this length. Strings of different lengths differ.
fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index * 7 + len) as u8).collect()
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn keys_of_every_length_and_kind_are_told_apart() {
    let table = plain();
    let keys: Vec<Vec<u8>> = (0..=200).map(bytes).collect();
    let key = |kind: u8, len: usize| Key::new(kind, &keys[len]);
    for kind in 0..KINDS {
        for len in 0..=200 {
            assert!(put(
                &table,
                &key(kind, len),
                1,
                (len as u64) << 8 | u64::from(kind)
            ));
        }
    }
    for kind in 0..KINDS {
        for len in 0..=200 {
            let expected = (1, (len as u64) << 8 | u64::from(kind));
            assert_eq!(look(&table, &key(kind, len)), Some(expected));
            assert!(!put(&table, &key(kind, len), 2, 0));
        }
    }
    for kind in 0..KINDS {
        for len in 0..=200 {
            assert!(delete(&table, &key(kind, len)));
            assert_eq!(look(&table, &key(kind, len)), None);
            assert!(!delete(&table, &key(kind, len)));
        }
    }
    assert!(table.is_empty());
}

#[test]
fn long_keys_that_differ_in_one_byte_are_two() {
    let table = plain();
    let one = [1; 100];
    for position in [0, 15, 16, 50, 99] {
        let mut other = one;
        other[position] = 2;
        assert!(put(&table, &Key::new(0, &other), 1, position as u64));
    }
    assert_eq!(look(&table, &Key::new(0, &one)), None);
    let mut other = one;
    other[50] = 2;
    assert_eq!(look(&table, &Key::new(0, &other)), Some((1, 50)));
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_million_entries_come_and_go_and_so_does_their_memory() {
    let table = plain();
    let base = table.memory();
    const COUNT: u64 = 1_000_000;
    for count in [1_000, COUNT] {
        for number in 0..count {
            assert!(put(&table, &int(number), 5, number));
        }
        assert_eq!(table.len(), count as usize);
        // Slots of 32 bytes and their groups; a segment has just been split, or is about to be.
        let each = table.memory() as u64 / count;
        assert!((34..90).contains(&each), "{each} bytes an entry of {count}");
        assert_eq!(look(&table, &int(count - 1)), Some((5, count - 1)));
        for number in 0..count {
            assert!(delete(&table, &int(number)));
        }
        assert!(table.is_empty());
        let left = table.memory();
        assert!(left <= 4 * base, "{left} bytes of {base} when empty");
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn entries_removed_in_the_order_of_their_hashes_leave_no_memory() {
    let table = plain();
    let base = table.memory();
    for number in 0..100_000 {
        put(&table, &int(number), 1, number);
    }
    let mut hashes: Vec<u64> = (0..100_000)
        .map(|number| table.hash(&int(number)))
        .collect();
    hashes.sort_unstable();
    let guard = pin();
    for hash in hashes {
        assert!(table.remove_by_hash(hash, |_| true, &guard));
    }
    assert!(table.is_empty());
    assert!(table.memory() <= 4 * base, "{} of {base}", table.memory());
}

#[test]
fn what_keys_and_values_hold_is_counted_and_given_back() {
    let table: Table<Text, Counted> = Table::new(Seed::fixed(1)).expect("there is memory");
    let live = Arc::default();
    let base = table.memory();
    let guard = pin();
    let long = [9; 500];
    let keys = [
        Key::new(0, &long),
        Key::new(1, &long[..3]),
        Key::new(2, &long[..16]),
    ];
    for key in &keys {
        let make = || Counted::value(1, &live);
        let inserted = table.insert(key, table.hash(key), 1, make, |_| false, &guard);
        assert!(matches!(inserted, Ok(Inserted::New)));
    }
    let objects = 3 * size_of::<Counted>();
    // A length each, and what the allocator adds.
    let blob = 3 * size_of::<usize>();
    let blobs = 2 * blob + 500 + 16;
    assert_eq!(table.memory(), base + objects + blobs);

    let hash = table.hash(&keys[1]);
    let before = table.get(&keys[1], hash, &guard).expect("it is there");
    let value = Value::bytes(&[1; 1_000]).expect("there is memory");
    assert!(table.replace(&keys[1], hash, &before, value, &guard));
    let value = blob + 1_000 - size_of::<Counted>();
    assert_eq!(table.memory(), base + objects + blobs + value);

    let probe = probe("opaque", &live);
    let opaque = Key::Opaque(3, &probe);
    assert!(put(&table, &opaque, 1, 1));
    let text = size_of::<Text>() + "opaque".len();
    assert_eq!(table.memory(), base + objects + blobs + value + text);

    for key in keys.iter().chain([&opaque]) {
        assert!(delete(&table, key));
    }
    assert_eq!(table.memory(), base);
}

#[test]
fn everything_is_freed_once() {
    let live: Arc<AtomicI64> = Arc::default();
    let table: Table<Text, Counted> = Table::new(Seed::fixed(2)).expect("there is memory");
    let probes: Vec<Probe> = (0..500).map(|number| probe(number, &live)).collect();
    for (number, probe) in probes.iter().enumerate() {
        let key = Key::Opaque(number as u64 / 3, probe);
        let hash = table.hash(&key);
        let make = || Counted::value(number as u64, &live);
        let guard = pin();
        let inserted = table.insert(&key, hash, 1, make, |_| false, &guard);
        assert!(matches!(inserted, Ok(Inserted::New)));
    }
    assert_eq!(live.load(Ordering::SeqCst), 1_000);
    for (number, probe) in probes.iter().enumerate().take(200) {
        assert!(delete(&table, &Key::Opaque(number as u64 / 3, probe)));
    }
    wait_for(&live, 600);
    // A replacement by an owner takes the old value along, and a stale one changes nothing.
    for (number, probe) in probes.iter().enumerate().skip(200).take(100) {
        let key = Key::Opaque(number as u64 / 3, probe);
        let guard = pin();
        let hash = table.hash(&key);
        let stale = table.get(&key, hash, &guard).expect("it is there");
        let value = Counted::value(number as u64, &live);
        assert!(table.replace(&key, hash, &stale, value, &guard));
        let value = Counted::value(0, &live);
        assert!(!table.replace(&key, hash, &stale, value, &guard));
    }
    wait_for(&live, 600);
    drop(table);
    wait_for(&live, 0);
}

#[test]
fn an_insertion_without_memory_changes_nothing() {
    let table: Table<Text, Counted> = Table::new(Seed::fixed(3)).expect("there is memory");
    let before = table.memory();
    let probe = Probe {
        text: String::new(),
        live: None,
    };
    let key = Key::Opaque(1, &probe);
    let make = || -> Value<Counted> { panic!("a value is made after its key") };
    let guard = pin();
    let inserted = table.insert(&key, table.hash(&key), 1, make, |_| false, &guard);
    assert!(matches!(inserted, Err(OutOfMemory)));
    assert_eq!((table.len(), table.memory()), (0, before));
    assert_eq!(look(&table, &key), None);
}

#[test]
fn a_taken_key_is_given_up_only_if_its_owner_may_be_replaced() {
    let table = plain();
    let key = int(1);
    let hash = table.hash(&key);
    let guard = pin();
    assert!(put(&table, &key, 10, 1));
    let not_made = || -> Value<Counted> { panic!("the key is taken") };
    match table.insert(&key, hash, 20, not_made, |_| false, &guard) {
        Ok(Inserted::Taken(entry)) => assert_eq!(entry.owner, 10),
        other => panic!("expected the owner's entry, got: {:?}", other.is_ok()),
    }
    let make = || Value::Word(odd(2));
    match table.insert(&key, hash, 20, make, |entry| entry.owner == 10, &guard) {
        Ok(Inserted::Replaced(10)) => {}
        other => panic!(
            "expected the owner 10 to be replaced, got: {:?}",
            other.is_ok()
        ),
    }
    assert_eq!((look(&table, &key), table.len()), (Some((20, 2)), 1));
}

#[test]
fn a_value_is_replaced_only_if_it_is_the_expected_one() {
    let table = plain();
    let key = int(1);
    let hash = table.hash(&key);
    let guard = pin();
    put(&table, &key, 1, 1);
    let first = table.get(&key, hash, &guard).expect("it is there");
    assert!(table.replace(&key, hash, &first, Value::Word(odd(2)), &guard));
    assert!(!table.replace(&key, hash, &first, Value::Word(odd(3)), &guard));
    assert_eq!(look(&table, &key), Some((1, 2)));

    // The same value of another owner is a different entry.
    let second = table.get(&key, hash, &guard).expect("it is there");
    assert!(delete(&table, &key));
    assert!(!table.replace(&key, hash, &second, Value::Word(odd(4)), &guard));
    put(&table, &key, 2, 2);
    assert!(!table.replace(&key, hash, &second, Value::Word(odd(4)), &guard));
    assert_eq!(look(&table, &key), Some((2, 2)));
}

#[test]
fn a_condition_decides_what_is_found_and_removed_by_hash() {
    let table: Table<Text, Counted> = Table::new(Seed::fixed(4)).expect("there is memory");
    let live = Arc::default();
    let probes = ["a", "b", "c"].map(|text| probe(text, &live));
    let keys: Vec<_> = probes.iter().map(|probe| Key::Opaque(9, probe)).collect();
    let hash = table.hash(&keys[0]);
    for (owner, key) in keys.iter().enumerate() {
        assert!(put(&table, key, owner as u64, 0));
    }
    let guard = pin();
    let found = table
        .get_by_hash(hash, |entry| entry.owner == 1, &guard)
        .expect("it is there");
    assert!(matches!(found.key, KeyView::Opaque(text) if text.text == "b"));
    assert_eq!(found.hash, hash);
    assert!(table.remove_by_hash(hash, |entry| entry.owner == 1, &guard));
    assert!(!table.remove_by_hash(hash, |entry| entry.owner == 1, &guard));
    assert!(!table.remove(&keys[0], hash, |entry| entry.owner == 2, &guard));
    let left: Vec<_> = keys.iter().map(|key| look(&table, key)).collect();
    assert_eq!(left, [Some((0, 0)), None, Some((2, 0))]);
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn keys_that_all_collide_are_kept_apart_without_a_huge_directory() {
    const COUNT: usize = 5_000;
    let live: Arc<AtomicI64> = Arc::default();
    let table: Table<Text, Counted> = Table::new(Seed::fixed(5)).expect("there is memory");
    let base = table.memory();
    // Many other keys around them, so that a segment has colliding and other keys.
    for number in 0..20_000 {
        assert!(put(&table, &Key::word(0, number), 1, number));
    }
    let before = table.memory();
    let probes: Vec<Probe> = (0..COUNT).map(|number| probe(number, &live)).collect();
    let keys: Vec<_> = probes.iter().map(|probe| Key::Opaque(77, probe)).collect();
    for (number, key) in keys.iter().enumerate() {
        assert!(put(&table, key, 2, number as u64));
    }
    let slots = 32 * 16 * COUNT / 5;
    let texts = COUNT * (size_of::<Text>() + 4);
    let grown = table.memory() - before;
    assert!(grown < slots + texts, "{grown} bytes for {COUNT} keys");
    for (number, key) in keys.iter().enumerate().step_by(97) {
        assert_eq!(look(&table, key), Some((2, number as u64)));
        assert!(!put(&table, key, 3, 0));
    }
    for key in &keys {
        assert!(delete(&table, key));
    }
    for number in 0..20_000 {
        assert_eq!(look(&table, &Key::word(0, number)), Some((1, number)));
        assert!(delete(&table, &Key::word(0, number)));
    }
    assert!(table.is_empty());
    assert!(table.memory() <= 4 * base, "{} of {base}", table.memory());
}
