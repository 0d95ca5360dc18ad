//! Forced interleavings: steps of one thread between two steps of another.

use super::*;
use crate::interleave::{Point, during};

/// A shared table with some entries, and enough others to split its segment when they come.
fn shared() -> Arc<Plain> {
    let table = Arc::new(plain());
    for number in 0..500 {
        put(&table, &int(number), number, number);
    }
    table
}

fn grow(table: &Plain) {
    for number in 1_000..20_000 {
        put(table, &int(number), number, number);
    }
}

fn shrink(table: &Plain) {
    for number in (100..500).chain(1_000..20_000) {
        delete(table, &int(number));
    }
}

#[test]
fn a_reader_in_a_segment_that_is_split_and_freed_meanwhile_finds_its_entry() {
    let table = shared();
    let other = table.clone();
    let meanwhile = move || {
        grow(&other);
        reclaim::flush();
    };
    let found = during(Point::SegmentFound, meanwhile, || look(&table, &int(7)));
    assert_eq!(found, Some((7, 7)));
}

#[test]
fn a_reader_in_segments_that_are_merged_meanwhile_finds_its_entry() {
    let table = shared();
    grow(&table);
    let other = table.clone();
    let meanwhile = move || {
        shrink(&other);
        reclaim::flush();
    };
    let found = during(Point::SegmentFound, meanwhile, || look(&table, &int(7)));
    assert_eq!(found, Some((7, 7)));
}

#[test]
fn a_key_that_is_sought_before_its_segment_is_split_and_given_up_is_found() {
    let table = shared();
    let key = int(7);
    let guard = pin();
    let prefetched = table.prefetch(table.hash(&key), &guard);
    grow(&table);
    std::thread::spawn(reclaim::flush).join().expect("flushes");
    let found = table.get_prefetched(&key, prefetched);
    assert_eq!(found.map(|entry| entry.owner), Some(7));
    assert!(
        table.get_prefetched(&int(8), prefetched).is_none(),
        "another key"
    );
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_reader_may_see_what_has_been_removed_since_it_began_but_only_whole() {
    let table: Arc<Table<Text, Counted>> = Arc::new(plain_text());
    let live: Arc<AtomicI64> = Arc::default();
    let long = [7; 40];
    let key = Key::new(0, &long);
    let make = || Counted::value(7, &live);
    let hash = table.hash(&key);
    let guard = pin();
    let inserted = table.insert(&key, hash, 1, make, |_| false, &guard);
    assert!(matches!(inserted, Ok(Inserted::New)));
    let other = table.clone();
    let meanwhile = move || {
        // The segment is split, so the reader's segment is a copy. Then the entry is removed from
        // the new one.
        for number in 0..5_000 {
            put(&other, &Key::word(0, number), number, number);
        }
        assert!(delete(&other, &Key::new(0, &[7; 40])));
        for _ in 0..3 {
            reclaim::flush();
        }
    };
    let found = during(Point::SegmentFound, meanwhile, || {
        table.get(&key, hash, &guard)
    });
    match found.map(|entry| entry.value) {
        Some(ValueView::Object(counted)) => assert_eq!(counted.number, 7),
        other => panic!(
            "expected the entry that the reader's segment had, got: {}",
            other.is_some()
        ),
    }
    assert_eq!(
        live.load(Ordering::SeqCst),
        1,
        "it was freed under the reader"
    );
    assert!(table.get(&key, hash, &guard).is_none());
    drop(guard);
    wait_for(&live, 0);
}

fn plain_text() -> Table<Text, Counted> {
    Table::new(Seed::fixed(11)).expect("there is memory")
}

#[test]
fn a_writer_whose_segment_is_split_before_it_locks_it_writes_into_the_new_one() {
    let table = shared();
    let other = table.clone();
    let new = during(
        Point::SegmentChosen,
        move || grow(&other),
        || put(&table, &int(900), 1, 1),
    );
    assert!(new);
    assert_eq!(look(&table, &int(900)), Some((1, 1)));
    let other = table.clone();
    let gone = during(
        Point::SegmentChosen,
        move || shrink(&other),
        || delete(&table, &int(900)),
    );
    assert!(gone);
    assert_eq!(look(&table, &int(900)), None);
    assert_eq!(table.len(), 100);
}

#[test]
fn a_writer_that_is_overtaken_finds_the_key_taken() {
    let table = shared();
    let other = table.clone();
    let meanwhile = move || assert!(put(&other, &int(900), 2, 2));
    let new = during(Point::SegmentChosen, meanwhile, || {
        put(&table, &int(900), 1, 1)
    });
    assert!(!new);
    assert_eq!(look(&table, &int(900)), Some((2, 2)));
}

#[test]
fn a_walk_of_a_segment_that_is_split_meanwhile_misses_nothing_and_repeats_nothing() {
    for (before, meanwhile) in [
        (None, grow as fn(&Plain)),
        (Some(grow as fn(&Plain)), shrink),
    ] {
        for limit in [10, 10_000] {
            let table = shared();
            if let Some(before) = before {
                before(&table);
            }
            let other = table.clone();
            let meanwhile = move || {
                meanwhile(&other);
                reclaim::flush();
            };
            let walk = || super::visited::owners(&table, limit);
            let mut owners = during(Point::SegmentVisited, meanwhile, walk);
            owners.sort_unstable();
            let seen = owners.len();
            owners.dedup();
            assert_eq!(seen, owners.len());
            assert!(owners.iter().take(100).copied().eq(0..100));
        }
    }
}
