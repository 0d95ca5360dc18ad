//! Bags: no entry is appended to a closed one, and none is freed under a walk.

use super::*;

fn bag() -> Arc<Bag<Watched>> {
    Arc::new(Bag::new(0, 1, Watched::value(1)))
}

/// The owners in a bag, each of whose values is its owner's number.
fn owners(bag: &Bag<Watched>) -> Vec<u64> {
    let mut owners = Vec::new();
    bag.walk(0, &pin(), |member| {
        match member.value {
            ValueView::Object(watched) => assert_eq!(watched.read(), member.owner),
            _ => panic!("only objects are pushed"),
        }
        owners.push(member.owner);
        true
    });
    owners
}

#[test]
fn loom_an_entry_is_appended_before_the_bag_is_closed_or_not_at_all() {
    model(|| {
        let bag = bag();
        let other = bag.clone();
        let remover = spawn(move || {
            let removed = other.remove(0, 1, &pin());
            removed.expect("it is there").empty
        });
        let pushed = bag.push(2, Watched::value(2), &pin()).is_ok();
        let closed = remover.join().expect("it removes");
        assert!(pushed != closed);
        assert_eq!(owners(&bag), if pushed { vec![2] } else { vec![] });
    });
}

#[test]
fn loom_a_walk_sees_an_entry_that_is_being_removed_whole_or_not() {
    model(|| {
        let bag = bag();
        assert!(bag.push(2, Watched::value(2), &pin()).is_ok());
        let other = bag.clone();
        let reader = spawn(move || {
            let owners = owners(&other);
            assert!(owners == [1, 2] || owners == [2], "{owners:?}");
        });
        assert!(bag.remove(0, 1, &pin()).is_some());
        reclaim::flush();
        reader.join().expect("it walks");
    });
}

#[test]
fn loom_a_walk_sees_appended_entries_whole_and_in_order() {
    model(|| {
        let bag = bag();
        let other = bag.clone();
        let writer = spawn(move || {
            for owner in 2..=3 {
                assert!(other.push(owner, Watched::value(owner), &pin()).is_ok());
            }
        });
        let owners = owners(&bag);
        assert!(
            [1, 2, 3].starts_with(&owners) && !owners.is_empty(),
            "{owners:?}"
        );
        writer.join().expect("it appends");
    });
}

#[test]
fn loom_a_walk_goes_through_a_chunk_that_is_replaced_and_freed() {
    model(|| {
        let bag = bag();
        for owner in 2..=4 {
            assert!(bag.push(owner, Watched::value(owner), &pin()).is_ok());
        }
        for number in 0..2 {
            assert!(bag.remove(number, number + 1, &pin()).is_some());
        }
        reclaim::flush();
        let other = bag.clone();
        let reader = spawn(move || {
            let owners = owners(&other);
            assert!(owners == [3, 4] || owners == [4], "{owners:?}");
        });
        // The full chunk has one entry left then, and is replaced by a smaller one.
        assert!(bag.remove(2, 3, &pin()).is_some());
        reclaim::flush();
        reader.join().expect("it walks");
    });
}
