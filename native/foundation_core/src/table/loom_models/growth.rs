//! Reads and writes while segments are split and merged, and while an owner dies.

use super::*;
use crate::handle::{Handle, State};
use crate::held::{Hashed, Held, HeldSet};
use crate::primitive::lock;

/// A table and three keys, whose hashes begin with 0, 1 and 1. It has the first two of them, with
/// the numbers 10 and 11: the third splits its only segment, and doubles the directory.
fn full_table() -> (Arc<Subject>, [Key<'static, ()>; 3]) {
    let table = table();
    let zero = keys(&table, 0).next().expect("there are");
    let one = keys(&table, 1).next().expect("there are");
    let third = keys(&table, 1).nth(1).expect("there are");
    put(&table, &zero, 10);
    put(&table, &one, 11);
    (table, [zero, one, third])
}

#[test]
fn loom_a_reader_finds_its_entry_while_the_segment_is_split_and_freed() {
    model(|| {
        let (table, [zero, one, third]) = full_table();
        let other = table.clone();
        let reader = spawn(move || {
            assert_eq!(look(&other, &zero), Some(10));
            assert_eq!(look(&other, &one), Some(11));
        });
        put(&table, &third, 12);
        reclaim::flush();
        reader.join().expect("it reads");
        assert_eq!(look(&table, &third), Some(12));
    });
}

#[test]
fn loom_a_reader_finds_its_entry_while_segments_are_merged_and_freed() {
    model(|| {
        let (table, [zero, kept, last]) = full_table();
        put(&table, &last, 12);
        let other = table.clone();
        delete(&table, &last);
        let reader = spawn(move || assert_eq!(look(&other, &kept), Some(11)));
        // The other side is empty then. Its segment is freed, and the directory is halved.
        delete(&table, &zero);
        reclaim::flush();
        reader.join().expect("it reads");
        assert_eq!(look(&table, &zero), None);
    });
}

#[test]
fn loom_a_key_that_is_sought_is_found_while_its_segment_is_merged_and_freed() {
    model_up_to(2, || {
        let (table, [zero, kept, last]) = full_table();
        put(&table, &last, 12);
        let other = table.clone();
        delete(&table, &last);
        let reader = spawn(move || {
            let guard = pin();
            let prefetched = other.prefetch(other.hash(&kept), &guard);
            let found = other.get_prefetched(&kept, prefetched);
            assert_eq!(found.map(|entry| entry.owner), Some(11));
        });
        delete(&table, &zero);
        reclaim::flush();
        reader.join().expect("it reads");
    });
}

#[test]
fn loom_two_that_insert_the_same_key_while_its_segment_is_split_agree() {
    model(|| {
        let (table, [_, _, third]) = full_table();
        let other = table.clone();
        let rival = spawn(move || put(&other, &third, 1));
        let won = put(&table, &third, 2);
        let lost = rival.join().expect("it inserts");
        assert!(won != lost, "both or none have got the key");
        assert_eq!(look(&table, &third), Some(if won { 2 } else { 1 }));
        assert_eq!(table.len(), 3);
    });
}

#[test]
fn loom_a_removal_from_a_segment_that_is_split_meanwhile_is_not_lost() {
    model(|| {
        let (table, [zero, one, third]) = full_table();
        let other = table.clone();
        let remover = spawn(move || assert!(delete(&other, &one)));
        put(&table, &third, 12);
        remover.join().expect("it removes");
        let left = [zero, one, third].map(|key| look(&table, &key));
        assert_eq!(left, [Some(10), None, Some(12)]);
        assert_eq!(table.len(), 2);
    });
}

#[test]
fn loom_a_removed_entry_is_not_freed_under_its_reader() {
    model_up_to(2, || {
        let table = table();
        let key = Key::word(0, 1);
        put(&table, &key, 1);
        let other = table.clone();
        let reader = spawn(move || look(&other, &Key::word(0, 1)));
        assert!(delete(&table, &key));
        reclaim::flush();
        put(&table, &key, 2);
        let seen = reader.join().expect("it reads");
        assert!(seen.is_none_or(|number| number <= 2));
    });
}

#[test]
fn loom_one_of_two_replacements_of_the_same_value_wins() {
    model_up_to(2, || {
        let table = table();
        let key = Key::word(0, 1);
        put(&table, &key, 1);
        let replace = |table: &Subject| {
            let (key, guard) = (Key::word(0, 1), pin());
            let hash = table.hash(&key);
            let entry = table.get(&key, hash, &guard).expect("it stays");
            let first = matches!(entry.value, ValueView::Object(watched) if watched.read() == 1);
            table.replace(&key, hash, &entry, Watched::value(5), &guard) && first
        };
        let other = table.clone();
        let rival = spawn(move || replace(&other));
        let won = replace(&table);
        assert!(won != rival.join().expect("it replaces"));
    });
}

#[test]
fn loom_of_an_owner_that_dies_while_it_registers_nothing_is_left() {
    model(|| {
        let table = table();
        let handle = Arc::new(Handle::new(HeldSet::<Hashed>::default()));
        let (dying, other) = (handle.clone(), table.clone());
        let death = spawn(move || {
            for held in dying.mark_dead() {
                assert!(other.remove_by_hash(held.hash(), |_| true, &pin()));
            }
        });
        let key = Key::word(0, 1);
        let hash = table.hash(&key);
        let registered = match &mut *lock(&handle.state) {
            State::Live(held) => {
                assert!(put(&table, &key, 1));
                held.insert(Hashed::new(hash));
                true
            }
            State::Left | State::Dead => false,
        };
        death.join().expect("it removes what it held");
        assert_eq!(look(&table, &key), None, "{registered}");
        assert!(table.is_empty());
        assert!(matches!(*lock(&handle.state), State::Dead));
    });
}

#[test]
fn loom_counts_add_up_whoever_changes_them() {
    model(|| {
        let counter: Arc<Counter> = Arc::default();
        let other = counter.clone();
        let thread = spawn(move || {
            other.add(1, 2);
            other.add(2, -1);
        });
        counter.add(3, 1);
        assert!((1..=3).contains(&counter.sum()));
        thread.join().expect("it counts");
        assert_eq!(counter.sum(), 2);
    });
}
