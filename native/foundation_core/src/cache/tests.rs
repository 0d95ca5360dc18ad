use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering as Memory};

use proptest::prelude::*;

use super::*;
use crate::key::NoOpaque;
use crate::primitive::{Writes, take_writes};
use crate::random::Random;

mod bounds;
mod leases;
mod model;

#[derive(Debug)]
struct NoObject(#[expect(dead_code, reason = "it is never made")] u64);

impl Object for NoObject {
    fn size(&self) -> usize {
        0
    }
}

type Plain = Cache<NoOpaque, NoObject>;

const LIMITS: Limits = Limits {
    bytes: 1 << 30,
    entries: u64::MAX,
    load: u64::MAX,
};
const MS: u64 = NS_PER_MS;

fn plain(limits: Limits) -> Plain {
    Cache::new(Seed::random(), limits, 0).expect("there is memory")
}

fn int(number: u64) -> Key<'static, ()> {
    Key::word(0, number)
}

fn word(number: u64) -> Value<NoObject> {
    Value::Word(number << 1 | 1)
}

fn number(value: ValueView<'_, NoObject>) -> u64 {
    match value {
        ValueView::Word(word) => word >> 1,
        other => panic!("expected a word, got: {other:?}"),
    }
}

fn put(cache: &Plain, key: u64, value: u64) {
    put_for(cache, key, value, None, 0);
}

fn put_for(cache: &Plain, key: u64, value: u64, ttl: Option<u64>, now: u64) {
    let stored = cache.put(&int(key), word(value), (ttl, Some(0)), now, true, &pin());
    assert_eq!(stored, Ok(()));
}

/// Reads and counts.
fn get(cache: &Plain, key: u64, now: u64) -> Option<u64> {
    let guard = pin();
    let found = cache.get(&int(key), now, &guard);
    cache.count(&found, false);
    match found {
        Found::Fresh(value) | Found::Stale(value) => Some(number(value)),
        Found::Error(_) | Found::Nothing => None,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Began {
    Hit(u64),
    Stale(u64),
    Error(u64),
    Load(u64),
    Wait(u64),
    Recursion,
    Ended,
}

fn begin(cache: &Plain, owner: u64, key: u64, now: u64) -> Began {
    begin_early(cache, owner, key, now, 0.0)
}

fn begin_early(cache: &Plain, owner: u64, key: u64, now: u64, early: f64) -> Began {
    let guard = pin();
    let begun = cache.begin(owner, &int(key), early, now, || 0.5, || true, &guard);
    let begun = begun.expect("there is memory");
    cache.count_begun(&begun);
    match begun {
        Begun::Found(Found::Fresh(value)) => Began::Hit(number(value)),
        Begun::Found(Found::Stale(value)) => Began::Stale(number(value)),
        Begun::Found(Found::Error(value)) => Began::Error(number(value)),
        Begun::Found(Found::Nothing) => panic!("a caller that finds nothing loads"),
        Begun::Load(lease) => Began::Load(lease),
        Begun::Wait(id) => Began::Wait(id),
        Begun::Recursion => Began::Recursion,
        Begun::Ended => Began::Ended,
    }
}

fn load(cache: &Plain, owner: u64, key: u64, now: u64) -> u64 {
    match begin(cache, owner, key, now) {
        Began::Load(lease) => lease,
        other => panic!("expected to load, got: {other:?}"),
    }
}

fn wait(cache: &Plain, owner: u64, key: u64, now: u64) -> u64 {
    match begin(cache, owner, key, now) {
        Began::Wait(id) => id,
        other => panic!("expected to wait, got: {other:?}"),
    }
}

fn finish(cache: &Plain, owner: u64, lease: u64, key: u64, outcome: Outcome<NoObject>) -> Finished {
    finish_at(cache, owner, lease, key, outcome, 0).expect("it has the lease")
}

fn finish_at(
    cache: &Plain,
    owner: u64,
    lease: u64,
    key: u64,
    outcome: Outcome<NoObject>,
    now: u64,
) -> Option<Finished> {
    let finished = cache.finish(owner, lease, &int(key), outcome, now, true, &pin());
    let finished = finished.expect("a patient call ends");
    for told in finished.iter().flat_map(|finished| &finished.told) {
        cache.told(told);
    }
    finished
}

fn value(number: u64) -> Outcome<NoObject> {
    Outcome::Value(word(number), None, Some(0))
}

fn kill(cache: &Plain, owner: u64, now: u64, is_alive: impl Fn(u64) -> bool) -> Vec<Told> {
    let (mut dying, mut all) = (cache.mark_dead(owner), Vec::new());
    while let Some(told) = cache.end_dead(&mut dying, now, &is_alive) {
        told.iter().for_each(|told| cache.told(told));
        all.extend(told);
    }
    all
}

#[test]
fn a_value_is_found_until_it_is_deleted_or_cleared() {
    let cache = plain(LIMITS);
    assert_eq!(get(&cache, 1, 0), None);
    put(&cache, 1, 10);
    put(&cache, 2, 20);
    assert_eq!((get(&cache, 1, 0), get(&cache, 2, 0)), (Some(10), Some(20)));
    put(&cache, 1, 11);
    cache.delete(&int(2), &pin());
    assert_eq!((get(&cache, 1, 0), get(&cache, 2, 0)), (Some(11), None));
    assert_eq!(cache.len(), 1);
    assert!(cache.clear(false).expect("there is memory").free().is_err());
    assert_eq!((get(&cache, 1, 0), cache.len()), (None, 0));
    assert_eq!(cache.figures().bytes, 0);
    put(&cache, 1, 12);
    assert_eq!(get(&cache, 1, 0), Some(12));
}

#[test]
fn a_value_is_fresh_then_stale_then_gone() {
    let cache = plain(LIMITS);
    let times = (Some(10), Some(5));
    let stored = cache.put(&int(1), word(10), times, 0, true, &pin());
    assert_eq!(stored, Ok(()));
    let guard = pin();
    assert!(matches!(
        cache.get(&int(1), 10 * MS - 1, &guard),
        Found::Fresh(_)
    ));
    assert!(matches!(
        cache.get(&int(1), 10 * MS, &guard),
        Found::Stale(_)
    ));
    assert!(matches!(
        cache.get(&int(1), 15 * MS - 1, &guard),
        Found::Stale(_)
    ));
    assert_eq!(cache.len(), 1);
    assert!(matches!(
        cache.get(&int(1), 15 * MS, &guard),
        Found::Nothing
    ));
    assert_eq!((cache.len(), cache.figures().expired), (0, 1));
}

#[test]
fn a_read_of_a_marked_entry_writes_nothing_but_its_own_count() {
    let cache = plain(LIMITS);
    for key in 0..1_000 {
        put_for(&cache, key, key, Some(60_000), 0);
        get(&cache, key, 0);
    }
    drop(pin());
    for key in 0..1_000 {
        take_writes();
        let guard = pin();
        let found = cache.get(&int(key), 1, &guard);
        assert!(matches!(found, Found::Fresh(_)));
        let guard_begun = Writes {
            stores: 1,
            ..Writes::default()
        };
        assert_eq!(take_writes(), guard_begun, "key {key}");
        cache.count(&found, false);
        assert_eq!(take_writes().exchanges, 1);
    }
}

#[test]
fn a_read_marks_an_entry_once() {
    let cache = plain(LIMITS);
    put(&cache, 1, 1);
    let guard = pin();
    take_writes();
    cache.get(&int(1), 0, &guard);
    assert_eq!(take_writes().exchanges, 1);
    cache.get(&int(1), 0, &guard);
    assert_eq!(take_writes(), Writes::default());
}

#[test]
fn counts_of_reads_add_up() {
    let cache = plain(LIMITS);
    put(&cache, 1, 1);
    let readers = 4;
    std::thread::scope(|scope| {
        for _ in 0..readers {
            scope.spawn(|| {
                (0..2_000).for_each(|key| {
                    get(&cache, key % 2, 0);
                })
            });
        }
    });
    let figures = cache.figures();
    assert_eq!(
        (figures.hits, figures.misses),
        (readers * 1_000, readers * 1_000)
    );
}
