use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use proptest::prelude::*;

use super::super::reclaim::{self, pin};
use super::*;

/// A value that counts its live instances.
struct Counted(Arc<AtomicI64>);

impl Object for Counted {
    fn size(&self) -> usize {
        size_of::<Self>()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn counted(live: &Arc<AtomicI64>) -> Value<Counted> {
    live.fetch_add(1, Ordering::SeqCst);
    Value::Object(Box::new(Counted(live.clone())))
}

fn word(number: u64) -> Value<Counted> {
    Value::Word(number << 1 | 1)
}

/// A bag of the owners 1, 2, …, numbered from 0.
fn bag(owners: u64) -> Bag<Counted> {
    let bag = Bag::new(0, 1, word(1));
    for owner in 2..=owners {
        let pushed = bag.push(owner, word(owner), &pin());
        assert_eq!(pushed.map(|(number, _)| number).ok(), Some(owner - 1));
    }
    bag
}

fn owners(bag: &Bag<Counted>, from: u64) -> Vec<u64> {
    let mut owners = Vec::new();
    let end = bag.walk(from, &pin(), |member| {
        assert!(matches!(member.value, ValueView::Word(word) if word == member.owner << 1 | 1));
        owners.push(member.owner);
        true
    });
    assert_eq!(end, None);
    owners
}

fn chunks(bag: &Bag<Counted>) -> usize {
    bag.chunks(&pin()).len()
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn entries_keep_the_order_in_which_they_came() {
    let bag = bag(5_000);
    assert_eq!(owners(&bag, 0), (1..=5_000).collect::<Vec<_>>());
    let guard = pin();
    for number in (0..5_000).filter(|number| number % 3 != 0) {
        assert!(bag.remove(number, number + 1, &guard).is_some());
    }
    assert!(bag.push(7, word(7), &guard).is_ok());
    let mut expected: Vec<u64> = (1..=5_000).step_by(3).collect();
    expected.push(7);
    assert_eq!(owners(&bag, 0), expected);
    assert_eq!(bag.len(), expected.len());
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_walk_goes_on_from_any_number() {
    let bag = bag(2_000);
    let guard = pin();
    for number in 500..1_500 {
        assert!(bag.remove(number, number + 1, &guard).is_some());
    }
    for from in [
        0,
        1,
        3,
        4,
        499,
        500,
        1_000,
        1_499,
        1_500,
        1_999,
        2_000,
        u64::MAX,
    ] {
        let expected: Vec<u64> = (0..500)
            .chain(1_500..2_000)
            .filter(|number| *number >= from)
            .map(|number| number + 1)
            .collect();
        assert!(owners(&bag, from) == expected, "from {from}");
    }
    // A walk in steps of seven visits the same entries.
    let mut seen = Vec::new();
    let mut from = Some(0);
    while let Some(number) = from {
        let mut left = 7;
        from = bag.walk(number, &guard, |member| {
            if left == 0 {
                return false;
            }
            seen.push(member.owner);
            left -= 1;
            true
        });
    }
    assert!(seen == owners(&bag, 0));
}

#[test]
fn only_its_owner_removes_an_entry_and_only_once() {
    let bag = bag(10);
    let guard = pin();
    assert_eq!(bag.remove(4, 4, &guard), None);
    assert_eq!(bag.remove(10, 1, &guard), None);
    assert!(bag.remove(4, 5, &guard).is_some());
    assert_eq!(bag.remove(4, 5, &guard), None);
    assert_eq!(bag.remove(4, GONE, &guard), None);
    assert!(bag.get(4, &guard).is_none());
    assert_eq!(bag.get(5, &guard).map(|member| member.owner), Some(6));
    assert!(bag.get(10, &guard).is_none());
}

#[test]
fn a_bag_is_closed_by_its_last_removal() {
    let bag = bag(2);
    let guard = pin();
    let removed = bag.remove(0, 1, &guard).expect("it is there");
    assert!(!removed.empty && !bag.is_empty());
    let removed = bag.remove(1, 2, &guard).expect("it is there");
    assert!(removed.empty && bag.is_empty());
    let value = match bag.push(3, word(3), &guard) {
        Err(value) => value,
        Ok(_) => panic!("expected the bag to be closed"),
    };
    assert!(matches!(value, NotAdded::Closed(Value::Word(7))));
    assert_eq!(owners(&bag, 0), [] as [u64; 0]);
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn what_a_bag_says_it_grew_and_shrank_by_is_what_it_holds() {
    let live = Arc::default();
    let bag: Bag<Counted> = Bag::new(0, 1, counted(&live));
    let guard = pin();
    let mut expected = bag.size();
    for owner in 1..3_000 {
        let pushed = bag.push(owner, counted(&live), &guard);
        expected += pushed.ok().expect("it is open").1;
    }
    assert_eq!(bag.size(), expected);
    for number in (1..3_000).filter(|number| number % 7 != 0) {
        let removed = bag.remove(number, number, &guard).expect("it is there");
        expected -= removed.bytes;
    }
    assert_eq!(bag.size(), expected);
    assert!(live.load(Ordering::SeqCst) > 0);
    drop(guard);
    drop(bag);
    while live.load(Ordering::SeqCst) != 0 {
        reclaim::flush();
        std::thread::yield_now();
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_bag_of_many_shrinks_when_they_go() {
    const MANY: u64 = 100_000;
    let bag = bag(MANY);
    let full = bag.size();
    assert!(
        full as u64 / MANY < 32,
        "{} bytes an entry",
        full as u64 / MANY
    );
    let guard = pin();
    // In an order that empties all chunks at the same time.
    for step in 0..100 {
        for number in (step..MANY)
            .step_by(100)
            .filter(|number| number % 1_000 != 0)
        {
            assert!(bag.remove(number, number + 1, &guard).is_some());
        }
    }
    assert_eq!(
        owners(&bag, 0),
        (1..=MANY).step_by(1_000).collect::<Vec<_>>()
    );
    // The last chunk is not full. It stays for later entries.
    let last = MAX_CHUNK * size_of::<Place>();
    assert!(bag.size() < full / 50 + last, "{} of {full}", bag.size());
    assert!(chunks(&bag) <= 101, "{} chunks", chunks(&bag));
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_bag_used_as_a_queue_stays_small() {
    let bag = bag(10);
    let guard = pin();
    for number in 0..50_000 {
        assert!(bag.push(number + 11, word(number + 11), &guard).is_ok());
        assert!(bag.remove(number, number + 1, &guard).is_some());
    }
    assert_eq!(bag.len(), 10);
    assert!(chunks(&bag) <= 3, "{} chunks", chunks(&bag));
    assert!(bag.size() < 3 * MAX_CHUNK * size_of::<Place>());
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn readers_see_every_entry_that_stays_once_and_in_order() {
    let bag = bag(1_000);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|thread| {
                let bag = &bag;
                scope.spawn(move || {
                    for round in 0..60 {
                        let mut own = Vec::new();
                        for _ in 0..400 {
                            let guard = pin();
                            let owner = 10_000 + 2 * round + thread;
                            let pushed = bag.push(owner, word(owner), &guard);
                            own.push((pushed.ok().expect("it is open").0, owner));
                        }
                        // The first in, the last out, and the other way round.
                        if round % 2 == 0 {
                            own.reverse();
                        }
                        for (number, owner) in own {
                            assert!(bag.remove(number, owner, &pin()).is_some());
                        }
                    }
                })
            })
            .collect();
        while !writers.iter().all(|writer| writer.is_finished()) {
            let mut last = None;
            let mut stayed = 0;
            bag.walk(0, &pin(), |member| {
                assert!(Some(member.number) > last, "out of order");
                assert!(
                    matches!(member.value, ValueView::Word(word) if word == member.owner << 1 | 1)
                );
                last = Some(member.number);
                stayed += u64::from(member.number < 1_000);
                true
            });
            assert_eq!(stayed, 1_000);
        }
    });
    assert_eq!(owners(&bag, 0), (1..=1_000).collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    #[cfg_attr(miri, ignore = "too many steps for an interpreter")]
    fn a_bag_is_a_vector(
        changes in prop::collection::vec((0u8..10, any::<prop::sample::Index>()), 0..1_500),
        from in 0u64..1_500,
    ) {
        let bag = bag(1);
        let mut model = vec![(0, 1)];
        let mut expected_size = bag.size();
        let mut next = 1;
        // Phases of growth and of shrinking.
        for (step, (dice, index)) in changes.into_iter().enumerate() {
            let guard = pin();
            let growing = step / 300 % 2 == 0;
            if (dice < 7) == growing {
                let pushed = bag.push(next + 1, word(next + 1), &guard);
                let (number, bytes) = pushed.ok().expect("it is open");
                prop_assert_eq!(number, next);
                expected_size += bytes;
                model.push((number, next + 1));
                next += 1;
            } else if model.len() > 1 {
                let (number, owner) = model.remove(index.index(model.len()));
                let removed = bag.remove(number, owner, &guard).expect("it is there");
                prop_assert!(!removed.empty);
                expected_size -= removed.bytes;
            }
            prop_assert_eq!(bag.len(), model.len());
        }
        prop_assert_eq!(bag.size(), expected_size);
        let expected: Vec<u64> = model
            .iter()
            .filter(|(number, _)| *number >= from)
            .map(|(_, owner)| *owner)
            .collect();
        prop_assert_eq!(owners(&bag, from), expected);
        for (number, owner) in model {
            let member = bag.get(number, &pin()).map(|member| member.owner);
            prop_assert_eq!(member, Some(owner));
        }
    }
}
