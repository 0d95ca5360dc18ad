use std::collections::HashSet;
use std::sync::Arc;

use super::*;
use crate::interleave::{Point, during};
use crate::key::NoOpaque;
use crate::table::ValueView;

/// These tests use no objects as values, but the table needs a type for them.
#[derive(Debug)]
struct NoObject {
    _word: u64,
}

impl Object for NoObject {
    fn size(&self) -> usize {
        size_of::<Self>()
    }
}

type Subject = ConcurrentTable<NoOpaque, NoObject>;

fn empty() -> Subject {
    ConcurrentTable::new(Seed::fixed(1)).expect("there is memory")
}

fn int(number: u64) -> Key<'static, ()> {
    Key::word(0, number)
}

fn word(number: u64) -> Value<NoObject> {
    Value::Word(number << 1 | 1)
}

/// A key's version and value.
fn look(table: &Subject, key: u64) -> Option<(u64, u64)> {
    let guard = pin();
    table.get(&int(key), &guard).map(|entry| match entry.value {
        ValueView::Word(word) => (entry.owner, word >> 1),
        _ => panic!("only words are put"),
    })
}

#[test]
fn a_key_is_put_overwritten_and_removed() {
    let table = empty();
    assert_eq!(table.put(&int(1), word(10)), Ok(()));
    assert_eq!(table.put(&int(1), word(11)), Ok(()));
    assert_eq!(table.put_new(&int(1), word(12)), Ok(false));
    assert_eq!(look(&table, 1).map(|(_, value)| value), Some(11));
    assert_eq!((table.len(), table.is_empty()), (1, false));
    assert!(table.remove(&int(1)));
    assert!(!table.remove(&int(1)));
    assert_eq!(table.put_new(&int(1), word(12)), Ok(true));
    assert_eq!(look(&table, 1).map(|(_, value)| value), Some(12));
}

#[test]
fn a_replacement_loses_to_every_write_that_came_between() {
    let table = empty();
    let put = |value| table.put(&int(1), word(value)).expect("there is memory");
    put(1);
    let (seen, _) = look(&table, 1).expect("it is there");
    assert!(table.replace(&int(1), seen, word(2)));
    assert!(!table.replace(&int(1), seen, word(3)), "replaced");

    let (seen, value) = look(&table, 1).expect("it is there");
    put(value);
    assert!(
        !table.replace(&int(1), seen, word(4)),
        "the same value again"
    );

    let (seen, value) = look(&table, 1).expect("it is there");
    table.remove(&int(1));
    assert!(!table.replace(&int(1), seen, word(5)), "removed");
    assert_eq!(look(&table, 1), None);
    put(value);
    assert!(
        !table.replace(&int(1), seen, word(6)),
        "removed and put again"
    );
    assert_eq!(look(&table, 1).map(|(_, value)| value), Some(2));
}

#[test]
fn no_two_writes_of_any_threads_have_one_version() {
    const EACH: usize = 20_000;
    let versions = std::thread::scope(|scope| {
        let take = || (0..EACH).map(|_| version()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
        let taken = threads.into_iter().map(|thread| thread.join());
        taken
            .flat_map(|versions| versions.expect("takes versions"))
            .collect::<HashSet<_>>()
    });
    assert_eq!(versions.len(), 4 * EACH);
}

#[test]
fn of_many_replacements_none_is_lost() {
    const EACH: u64 = 5_000;
    let table = empty();
    table.put(&int(1), word(0)).expect("there is memory");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..EACH {
                    loop {
                        let (seen, value) = look(&table, 1).expect("it stays");
                        if table.replace(&int(1), seen, word(value + 1)) {
                            break;
                        }
                    }
                }
            });
        }
    });
    assert_eq!(look(&table, 1).map(|(_, value)| value), Some(4 * EACH));
}

#[test]
fn clearing_in_pieces_leaves_nothing_and_gives_its_memory_back() {
    const COUNT: u64 = 100_000;
    let table = empty();
    let base = table.memory();
    for key in 0..COUNT {
        table.put(&int(key), word(key)).expect("there is memory");
    }
    let (mut from, mut pieces) = (Some(0), 0);
    while let Some(hash) = from {
        from = table.clear(hash, 1_000);
        pieces += 1;
    }
    assert!(pieces >= 100, "{pieces} pieces");
    assert!(table.is_empty());
    assert!(table.memory() <= 4 * base, "{} of {base}", table.memory());
}

/// Ends a table and removes its entries, as its owner's death does.
fn end(table: &Subject) {
    table.end();
    let mut from = Some(0);
    while let Some(hash) = from {
        from = table.clear(hash, 100);
    }
}

/// Runs `work` on a table of one key. When `work` reaches `point`, the table ends and is emptied.
fn across_the_end<R>(point: Point, work: impl FnOnce(&Subject) -> R) -> Result<R, Ended> {
    let table = Arc::new(empty());
    assert_eq!(table.put(&int(1), word(10)), Ok(()));
    let ending = table.clone();
    during(point, move || end(&ending), || table.during_life(work))
}

#[test]
fn a_read_gives_no_answer_when_the_table_ends_before_it_searches() {
    let read = across_the_end(Point::SegmentFound, |table| look(table, 1));
    assert_eq!(read, Err(Ended));
}

#[test]
fn a_write_gives_no_answer_when_the_table_ends_before_it_locks() {
    let put = |table: &Subject| table.put(&int(1), word(11));
    assert_eq!(across_the_end(Point::SegmentChosen, put), Err(Ended));
    // The key was present before the end, so `true` would be wrong.
    let put_new = |table: &Subject| table.put_new(&int(1), word(11));
    assert_eq!(across_the_end(Point::SegmentChosen, put_new), Err(Ended));
    let remove = |table: &Subject| table.remove(&int(1));
    assert_eq!(across_the_end(Point::SegmentChosen, remove), Err(Ended));
}

#[test]
fn a_replacement_gives_no_answer_when_the_table_ends_before_it_locks() {
    let replace = |table: &Subject| {
        let (seen, _) = look(table, 1).expect("it is there");
        table.replace(&int(1), seen, word(11))
    };
    assert_eq!(across_the_end(Point::SegmentChosen, replace), Err(Ended));
}

#[test]
fn a_walk_gives_no_answer_when_the_table_ends_before_it_visits_a_segment() {
    let walk = |table: &Subject| {
        let mut visited = 0;
        table.walk(0, 10, &pin(), |_| visited += 1);
        visited
    };
    assert_eq!(across_the_end(Point::SegmentVisited, walk), Err(Ended));
}

#[test]
fn a_size_gives_no_answer_when_the_table_ends_before_it_counts() {
    let table = empty();
    assert_eq!(table.put(&int(1), word(10)), Ok(()));
    assert_eq!(table.during_life(Subject::len), Ok(1));
    let counted = table.during_life(|table| {
        end(table);
        table.len()
    });
    assert_eq!(counted, Err(Ended));
    assert_eq!(table.during_life(Subject::len), Err(Ended));
}
