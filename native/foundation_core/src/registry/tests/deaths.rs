//! Deaths and removals during other calls.

use std::sync::mpsc;

use super::*;
use crate::interleave::{Point, during};

type Subject = super::super::Unique<NoOpaque, NoObject>;
type Bags = super::super::Duplicate<NoOpaque, NoObject>;

fn unique() -> Arc<(Subject, FakeLiveness)> {
    let registry = Unique::new(Seed::fixed(1), usize::MAX).expect("there is memory");
    Arc::new((registry, FakeLiveness::default()))
}

fn duplicate() -> Arc<(Bags, FakeLiveness)> {
    let registry = Duplicate::new(Seed::fixed(1), usize::MAX).expect("there is memory");
    Arc::new((registry, FakeLiveness::default()))
}

fn die(subject: &(Subject, FakeLiveness), owner: u64) {
    subject.1.kill(owner);
    let mut pending = subject.0.mark_dead(owner);
    while !subject.0.remove_dead(&mut pending, 10) {}
}

fn die_with_bags(subject: &(Bags, FakeLiveness), owner: u64) {
    subject.1.kill(owner);
    let mut pending = subject.0.mark_dead(owner);
    while !subject.0.remove_dead(&mut pending, 10) {}
}

fn register(subject: &(Subject, FakeLiveness), owner: u64, key: u64) -> Result<(), Refused> {
    subject.0.register(owner, &int(key), word(0), &subject.1)
}

fn add(subject: &(Bags, FakeLiveness), owner: u64, key: u64) -> Result<(), Refused> {
    subject
        .0
        .register(owner, &int(key), word(owner), &subject.1)
}

/// An owner with a handle. An owner with one entry has none.
fn with_handle(subject: &(Subject, FakeLiveness), owner: u64) {
    for key in [101, 102] {
        assert_eq!(register(subject, owner, key), Ok(()));
    }
}

/// Runs `main`, which finds and locks the handle of owner 1. Meanwhile the owner's death unlinks
/// the handle. It empties the handle after `main` has returned.
fn while_unlinked<R>(subject: &Arc<(Subject, FakeLiveness)>, main: impl FnOnce() -> R) -> R {
    let (found, begin) = mpsc::channel();
    let (unlinked, wait) = mpsc::channel();
    let (done, go_on) = mpsc::channel::<()>();
    let dying = subject.clone();
    let death = std::thread::spawn(move || {
        begin.recv().expect("it is sent");
        let meanwhile = move || {
            unlinked.send(()).expect("it waits");
            go_on.recv().expect("it is sent");
        };
        during(Point::HandleUnlinked, meanwhile, || die(&dying, 1));
    });
    let meanwhile = move || {
        found.send(()).expect("it waits");
        wait.recv().expect("it is sent");
    };
    let result = during(Point::HandleFound, meanwhile, main);
    done.send(()).expect("it waits");
    death.join().expect("it ends");
    result
}

#[test]
fn an_owner_that_dies_before_its_handle_is_locked_is_refused() {
    let subject = unique();
    with_handle(&subject, 1);
    let other = subject.clone();
    let result = during(
        Point::HandleFound,
        move || die(&other, 1),
        || register(&subject, 1, 2),
    );
    assert_eq!(result, Err(Refused::Dead));
    assert_eq!((subject.0.len(), subject.0.figures().owners), (0, 0));
}

#[test]
fn an_owner_that_registers_while_its_handle_is_taken_away_leaves_nothing() {
    let subject = unique();
    with_handle(&subject, 1);
    let other = subject.clone();
    let meanwhile = move || assert_eq!(register(&other, 1, 2), Err(Refused::Dead));
    during(Point::HandleUnlinked, meanwhile, || die(&subject, 1));
    assert_eq!((subject.0.len(), subject.0.figures().owners), (0, 0));
}

#[test]
fn an_owner_that_gives_up_all_while_it_registers_is_one_of_the_few_and_still_watched() {
    let subject = unique();
    with_handle(&subject, 1);
    let other = subject.clone();
    let meanwhile = move || {
        for key in [101, 102] {
            assert!(other.0.unregister(1, &int(key)));
        }
        assert_eq!(other.0.figures().owners, 0);
    };
    let result = during(Point::HandleFound, meanwhile, || register(&subject, 1, 2));
    assert_eq!(result, Ok(()));
    assert_eq!((subject.0.held_by(1), subject.0.figures().owners), (1, 1));
    assert_eq!(subject.1.watched(), 1);
    die(&subject, 1);
    assert_eq!((subject.0.len(), subject.0.figures().owners), (0, 0));
}

#[test]
fn an_owner_that_gives_up_its_last_while_it_is_marked_dead_leaves_nothing() {
    let subject = unique();
    with_handle(&subject, 1);
    assert!(subject.0.unregister(1, &int(101)));
    // The last entry goes after the handle was unlinked.
    assert!(while_unlinked(&subject, || subject
        .0
        .unregister(1, &int(102))));
    assert_eq!((subject.0.len(), subject.0.figures().owners), (0, 0));
    assert_eq!(register(&subject, 1, 3), Err(Refused::Dead));
}

#[test]
fn a_registration_whose_handle_is_taken_away_is_undone_by_the_death() {
    // It locks the handle first. Its entry must be removed with the others.
    let subject = unique();
    with_handle(&subject, 1);
    let result = while_unlinked(&subject, || register(&subject, 1, 2));
    assert_eq!(result, Ok(()));
    assert_eq!((subject.0.len(), subject.0.held_by(1)), (0, 0));
}

#[test]
fn a_registration_behind_entries_that_go_meanwhile_is_the_first() {
    // One key with a single entry, and one with a bag.
    for before in [1, 2] {
        let subject = duplicate();
        for _ in 0..before {
            assert_eq!(add(&subject, 1, 7), Ok(()));
        }
        let other = subject.clone();
        let meanwhile = move || assert_eq!(other.0.unregister(1, &int(7), 9), Some(before));
        let result = during(Point::EntryFound, meanwhile, || add(&subject, 2, 7));
        assert_eq!(result, Ok(()));
        let figures = subject.0.figures();
        assert_eq!((figures.entries, figures.keys, figures.owners), (1, 1, 1));
        assert_eq!(subject.0.unregister(2, &int(7), 9), Some(1));
    }
}

#[test]
fn a_registration_behind_an_entry_that_becomes_a_bag_meanwhile_goes_into_it() {
    let subject = duplicate();
    assert_eq!(add(&subject, 1, 7), Ok(()));
    let other = subject.clone();
    let meanwhile = move || assert_eq!(add(&other, 2, 7), Ok(()));
    let result = during(Point::EntryFound, meanwhile, || add(&subject, 3, 7));
    assert_eq!(result, Ok(()));
    assert_eq!((subject.0.len(), subject.0.figures().keys), (3, 1));
    for owner in [1, 2, 3] {
        assert_eq!(subject.0.unregister(owner, &int(7), 9), Some(1));
    }
}

#[test]
fn a_registration_helps_away_an_empty_bag_and_keeps_its_own() {
    let subject = duplicate();
    assert_eq!(add(&subject, 1, 7), Ok(()));
    let before = subject.0.figures().memory;
    assert_eq!(add(&subject, 1, 7), Ok(()));
    let other = subject.clone();
    let meanwhile = move || assert_eq!(add(&other, 2, 7), Ok(()));
    let removed = during(Point::BagEmptied, meanwhile, || {
        subject.0.unregister(1, &int(7), 9)
    });
    assert_eq!(removed, Some(2));
    let figures = subject.0.figures();
    assert_eq!((figures.entries, figures.keys, figures.owners), (1, 1, 1));
    assert_eq!(subject.0.unregister(2, &int(7), 9), Some(1));
    assert_eq!(subject.0.figures().keys, 0);
    assert!(subject.0.figures().memory <= 2 * before);
}

#[test]
fn a_registration_and_the_death_of_the_last_of_its_key() {
    let subject = duplicate();
    assert_eq!(add(&subject, 1, 7), Ok(()));
    let other = subject.clone();
    let result = during(
        Point::EntryFound,
        move || die_with_bags(&other, 1),
        || add(&subject, 2, 7),
    );
    assert_eq!(result, Ok(()));
    assert_eq!(add(&subject, 2, 7), Ok(()));
    let other = subject.clone();
    let death = || die_with_bags(&subject, 2);
    during(
        Point::BagEmptied,
        move || assert_eq!(add(&other, 3, 7), Ok(())),
        death,
    );
    let figures = subject.0.figures();
    assert_eq!((figures.entries, figures.keys, figures.owners), (1, 1, 1));
}

#[test]
fn of_owners_that_register_while_they_die_nothing_is_left() {
    let unique = unique();
    let bags = duplicate();
    std::thread::scope(|scope| {
        for thread in 0..2u64 {
            let (unique, bags) = (&unique, &bags);
            scope.spawn(move || {
                for round in 0..1_500u64 {
                    let owner = 1 + (round << 8);
                    // One thread registers the owner's keys, and the other handles its death.
                    if thread == 0 {
                        for key in 0..10 {
                            let _dead_or_done =
                                (register(unique, owner, key), add(bags, owner, key));
                        }
                    } else {
                        die(unique, owner);
                        die_with_bags(bags, owner);
                    }
                }
            });
        }
    });
    for round in 0..1_500 {
        die(&unique, 1 + (round << 8));
        die_with_bags(&bags, 1 + (round << 8));
    }
    let empty = |figures: Figures| (figures.entries, figures.keys, figures.owners);
    assert_eq!(empty(unique.0.figures()), (0, 0, 0));
    assert_eq!(empty(bags.0.figures()), (0, 0, 0));
}
