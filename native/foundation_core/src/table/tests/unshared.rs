//! A read writes two words of its own thread, and nothing that another thread reads.

use super::*;
use crate::primitive::{Writes, take_writes};

/// Returns the writes of `read` besides the beginning and the end of a guard, which are one store
/// each.
fn writes_of(read: impl Fn(&Guard)) -> Writes {
    // The first guard of a thread makes it a participant.
    drop(pin());
    take_writes();
    let guard = pin();
    read(&guard);
    drop(guard);
    let mut writes = take_writes();
    assert!(writes.stores >= 2, "a guard is two stores, got: {writes:?}");
    writes.stores -= 2;
    writes
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_lookup_writes_nothing_that_is_shared() {
    let table = plain();
    for number in 0..5_000 {
        put(&table, &int(number), number, number);
    }
    let long = [7; 40];
    put(&table, &Key::new(0, &long), 7, 7);
    let none = Writes::default();
    for number in 0..6_000 {
        let there = number < 5_000;
        let key = int(number);
        let writes = writes_of(|guard| {
            let hash = table.hash(&key);
            assert_eq!(table.get(&key, hash, guard).is_some(), there);
            let prefetched = table.prefetch(hash, guard);
            assert_eq!(table.get_prefetched(&key, prefetched).is_some(), there);
        });
        assert_eq!(writes, none, "key {number}");
    }
    let writes = writes_of(|guard| {
        let key = Key::new(0, &long);
        assert!(table.get(&key, table.hash(&key), guard).is_some());
    });
    assert_eq!(writes, none, "a long key");
    let writes = writes_of(|guard| {
        let mut visited = 0;
        assert!(table.walk(0, usize::MAX, guard, |_| visited += 1).is_none());
        assert_eq!(visited, 5_001);
    });
    assert_eq!(writes, none, "a walk");
}

#[test]
fn a_name_is_found_without_a_write() {
    let names = Names::default();
    names.change(64, |_| (Some(Arc::new(1)), ()));
    let writes = writes_of(|guard| {
        assert!(names.get(64, guard).is_some());
        assert!(names.get(128, guard).is_none());
    });
    assert_eq!(writes, Writes::default());
}

#[test]
fn what_an_insertion_writes_is_counted() {
    let table = plain();
    let writes = writes_of(|_| {
        put(&table, &int(7), 7, 7);
    });
    assert!(writes.stores > 0 && writes.exchanges > 0 && writes.locks > 0);
}
