//! Keys from an attacker who knows a seed.

use super::*;

/// Keys of fifteen bytes that all have one hash under `seed`.
fn colliding(seed: &Seed, count: u64) -> impl Iterator<Item = [u8; 15]> {
    let first = seed.blind_spot();
    (0..count).map(move |number| {
        let mut bytes = [0; 15];
        bytes[..8].copy_from_slice(&first);
        bytes[8..].copy_from_slice(&number.to_le_bytes()[..7]);
        bytes
    })
}

type Plain = Table<NoOpaque, Counted>;

fn filled(seed: &Seed, keys: impl Iterator<Item = [u8; 15]>) -> Plain {
    let table = Plain::new(seed.clone()).expect("there is memory");
    let guard = pin();
    for (number, bytes) in keys.enumerate() {
        let key = Key::new(0, &bytes);
        let value = || Value::Word(number as u64 * 4 + 3);
        let inserted = table.insert(&key, table.hash(&key), 1, value, |_| false, &guard);
        assert!(inserted.is_ok(), "{number}");
    }
    table
}

/// How many groups of a segment the longest search among these keys looks at.
fn longest_probe(table: &Plain, keys: impl Iterator<Item = [u8; 15]>) -> usize {
    let guard = pin();
    let probes = keys.map(|bytes| {
        let Key::Inline(k0, k1) = Key::<()>::new(0, &bytes) else {
            panic!("fifteen bytes fit");
        };
        let hash = table.hash(&Key::new(0, &bytes));
        let segment = table.directory.segment(hash, &guard);
        segment.probed(hash, k0, k1).expect("it was inserted")
    });
    probes.max().unwrap_or(0)
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn keys_that_collide_under_another_seed_are_as_good_as_any() {
    const COUNT: u64 = 100_000;
    let known = Seed::fixed(1);
    let hashes = colliding(&known, COUNT).map(|bytes| known.hash(&Key::<()>::new(0, &bytes)));
    assert_eq!(hashes.collect::<std::collections::HashSet<_>>().len(), 1);

    // Ordinary keys.
    let ordinary = |number: u64| {
        let mut bytes = [7; 15];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        bytes
    };
    for other in [Seed::fixed(2), Seed::fixed(3)] {
        let table = filled(&other, colliding(&known, COUNT));
        let longest = longest_probe(&table, colliding(&known, COUNT));
        let table = filled(&other, (0..COUNT).map(ordinary));
        let usual = longest_probe(&table, (0..COUNT).map(ordinary));
        println!("longest probe: {longest} groups of 8, of ordinary keys {usual}");
        assert!(longest <= PROBE_MAX, "{longest}, of ordinary keys {usual}");
    }
}

/// Of the 128 groups of a segment.
const PROBE_MAX: usize = 32;

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn keys_that_collide_under_the_tables_own_seed_are_told_apart() {
    const COUNT: u64 = 4_000;
    let seed = Seed::fixed(1);
    let table = filled(&seed, colliding(&seed, COUNT));
    let guard = pin();
    let get = |bytes: &[u8; 15]| {
        let key = Key::new(0, bytes);
        table
            .get(&key, table.hash(&key), &guard)
            .map(|entry| match entry.value {
                ValueView::Word(word) => word,
                _ => panic!("a word was inserted"),
            })
    };
    // The cost is the documented one: linear in the keys that collide.
    assert_eq!(
        longest_probe(&table, colliding(&seed, COUNT)),
        COUNT as usize / 8
    );
    for (number, bytes) in colliding(&seed, COUNT).enumerate() {
        assert_eq!(get(&bytes), Some(number as u64 * 4 + 3));
    }
    for (number, bytes) in colliding(&seed, COUNT).enumerate() {
        if number % 2 == 0 {
            let key = Key::new(0, &bytes);
            assert!(table.remove(&key, table.hash(&key), |_| true, &guard));
        }
    }
    for (number, bytes) in colliding(&seed, COUNT).enumerate() {
        assert_eq!(get(&bytes).is_some(), number % 2 == 1);
    }
    assert_eq!(table.len(), COUNT as usize / 2);
}
