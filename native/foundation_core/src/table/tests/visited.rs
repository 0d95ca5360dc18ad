use super::*;

/// All owners of a table, in the order of a walk in steps of `limit`.
pub(super) fn owners<F: Opaque, V: Object>(table: &Table<F, V>, limit: usize) -> Vec<u64> {
    let mut owners = Vec::new();
    let mut from = Some(0);
    while let Some(hash) = from {
        from = table.walk(hash, limit, &pin(), |visited| {
            owners.push(visited.entry.owner)
        });
    }
    owners
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_walk_visits_each_entry_once_whatever_its_steps() {
    let table = plain();
    for number in 0..5_000 {
        put(&table, &int(number), number, number);
    }
    for limit in [1, 7, 1_000, 1_000_000] {
        let mut owners = owners(&table, limit);
        owners.sort_unstable();
        assert_eq!(owners, (0..5_000).collect::<Vec<u64>>());
    }
    assert!(self::owners(&plain(), 10).is_empty());
}

#[test]
fn a_walk_goes_in_the_order_of_the_hashes_and_shows_keys_as_they_are() {
    let table: Table<Text, Counted> = Table::new(Seed::fixed(8)).expect("there is memory");
    let probe = probe("opaque", &Arc::default());
    let keys = [
        Key::new(3, b"short"),
        Key::new(4, b"longer than fifteen bytes"),
        Key::Opaque(1, &probe),
    ];
    for key in &keys {
        put(&table, key, table.hash(key), 0);
    }
    let mut last = 0;
    let mut seen = Vec::new();
    let end = table.walk(0, 10, &pin(), |visited| {
        assert!(visited.hash >= last);
        assert_eq!(visited.hash, visited.entry.owner);
        last = visited.hash;
        seen.push(match visited.key {
            KeyView::Inline { kind, bytes, len } => (kind, bytes[..len].to_vec()),
            KeyView::Long(kind, bytes) => (kind, bytes.to_vec()),
            KeyView::Opaque(text) => (99, text.text.clone().into_bytes()),
        });
    });
    assert_eq!(end, None);
    seen.sort_unstable();
    let expected: [(u8, &[u8]); 3] = [
        (3, b"short"),
        (4, b"longer than fifteen bytes"),
        (99, b"opaque"),
    ];
    assert!(
        seen.iter()
            .map(|(kind, bytes)| (*kind, &**bytes))
            .eq(expected)
    );
}

#[test]
fn entries_with_one_hash_are_visited_in_one_step() {
    let table: Table<Text, Counted> = Table::new(Seed::fixed(9)).expect("there is memory");
    let live = Arc::default();
    for number in 0..50 {
        put(&table, &Key::Opaque(1, &probe(number, &live)), number, 0);
    }
    let mut seen = 0;
    let next = table.walk(0, 1, &pin(), |_| seen += 1);
    assert_eq!((seen, next), (50, None));
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_walk_of_sparse_segments_ends_after_bounded_work() {
    let table = plain();
    for number in 0..200_000 {
        put(&table, &int(number), number, number);
    }
    // One entry is left in each 1,024th part of the hashes, or none.
    let mut kept = std::collections::HashSet::new();
    for number in 0..200_000 {
        let key = int(number);
        if !kept.insert(table.hash(&key) >> 54) {
            delete(&table, &key);
        }
    }
    let mut steps = 0;
    let mut from = Some(0);
    let mut seen = 0;
    while let Some(hash) = from {
        let mut step = 0;
        from = table.walk(hash, 64, &pin(), |_| step += 1);
        assert!(step <= 64 + 1);
        seen += step;
        steps += 1;
    }
    assert_eq!(seen, table.len());
    assert!(
        steps <= 2 * table.len() / 64 + 8,
        "{steps} steps for {seen} entries"
    );
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_walk_shows_what_stays_once_while_the_table_grows_and_shrinks() {
    let table = plain();
    const STAY: u64 = 2_000;
    for number in 0..STAY {
        put(&table, &int(number), number, number);
    }
    let walking = AtomicI64::new(0);
    std::thread::scope(|scope| {
        for limit in [50, 1_000] {
            let (table, running) = (&table, Running::new(&walking));
            scope.spawn(move || {
                let _running = running;
                for _ in 0..10 {
                    let mut owners = owners(table, limit);
                    owners.sort_unstable();
                    let seen = owners.len();
                    owners.dedup();
                    assert_eq!(seen, owners.len(), "an entry was visited twice");
                    let stayed = owners.iter().take_while(|owner| **owner < STAY);
                    assert!(stayed.copied().eq(0..STAY), "an entry was missed");
                }
            });
        }
        for thread in 1..3u64 {
            let (table, walking) = (&table, &walking);
            scope.spawn(move || {
                // Between many and few entries, so that segments are split and merged all the time.
                while walking.load(Ordering::SeqCst) > 0 {
                    let own = thread * 1_000_000..thread * 1_000_000 + 20_000;
                    for number in own.clone() {
                        assert!(put(table, &int(number), number, number));
                    }
                    for number in own {
                        assert!(delete(table, &int(number)));
                    }
                }
            });
        }
    });
    assert_eq!(table.len(), STAY as usize);
}
