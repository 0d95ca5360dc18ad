//! Loads, leases, waiters and deaths.

use super::*;

#[test]
fn one_caller_loads_and_the_others_wait_for_it() {
    let cache = plain(LIMITS);
    let lease = load(&cache, 3, 1, 0);
    let waits: Vec<u64> = (10..20).map(|owner| wait(&cache, owner, 1, 0)).collect();
    let finished = finish(&cache, 3, lease, 1, value(7));
    assert!(finished.stored);
    let told: Vec<u64> = finished.told.iter().map(|told| told.id).collect();
    assert_eq!(told, waits);
    assert_eq!(begin(&cache, 3, 1, 0), Began::Hit(7));
    assert_eq!(finish_at(&cache, 3, lease, 1, value(8), 0), None);
    let state = lock(&cache.state);
    assert_eq!((state.loads.len(), state.loads.parties()), (0, 0));
    drop(state);
    let figures = cache.figures();
    assert_eq!((figures.hits, figures.misses, figures.loads), (1, 11, 1));
}

#[test]
fn a_write_ends_the_lease_of_a_load() {
    type Write = fn(&Plain);
    let writes: [(Write, Option<u64>); 4] = [
        (|cache| put(cache, 1, 5), Some(5)),
        (|cache| cache.delete(&int(1), &pin()), None),
        (
            |cache| drop(cache.clear(false).expect("there is memory")),
            None,
        ),
        (
            |cache| drop(cache.clear(true).expect("there is memory")),
            None,
        ),
    ];
    for (write, left) in writes {
        let cache = plain(LIMITS);
        let lease = load(&cache, 3, 1, 0);
        let id = wait(&cache, 5, 1, 0);
        write(&cache);
        if left.is_none() {
            // A caller that comes later must not get the old value.
            let later = load(&cache, 7, 1, 0);
            let finished = finish(&cache, 3, lease, 1, value(7));
            assert!(!finished.stored);
            assert_eq!(
                finished.told.iter().map(|told| told.id).collect::<Vec<_>>(),
                [id]
            );
            assert_eq!(get(&cache, 1, 0), None);
            assert!(finish(&cache, 7, later, 1, value(9)).stored);
            assert_eq!(get(&cache, 1, 0), Some(9));
        } else {
            assert!(!finish(&cache, 3, lease, 1, value(7)).stored);
            assert_eq!(get(&cache, 1, 0), left);
        }
    }
}

#[test]
fn the_next_living_waiter_takes_over_from_a_loader_that_dies() {
    let cache = plain(LIMITS);
    let lease = load(&cache, 3, 1, 0);
    let dead = wait(&cache, 5, 1, 0);
    let heir = wait(&cache, 7, 1, 0);
    let last = wait(&cache, 9, 1, 0);
    let told = kill(&cache, 3, 0, |owner| owner != 5);
    let handed = Told {
        owner: 7,
        id: heir,
        loads: true,
    };
    assert_eq!(told, [handed]);
    assert_eq!(finish_at(&cache, 3, lease, 1, value(1), 0), None);
    assert_eq!(kill(&cache, 5, 0, |_| true), []);
    assert!(!cache.cancel(5, dead));
    // A wait that became a load is not given up.
    assert!(!cache.cancel(7, heir));
    let finished = finish(&cache, 7, heir, 1, value(2));
    assert_eq!(
        finished.told.iter().map(|told| told.id).collect::<Vec<_>>(),
        [last]
    );
    assert_eq!(get(&cache, 1, 0), Some(2));
    assert_eq!(cache.figures().loads, 1);
}

#[test]
fn waiters_of_an_ended_lease_begin_again_when_its_loader_dies() {
    let cache = plain(LIMITS);
    load(&cache, 3, 1, 0);
    let id = wait(&cache, 5, 1, 0);
    cache.delete(&int(1), &pin());
    let told = kill(&cache, 3, 0, |_| true);
    let over = Told {
        owner: 5,
        id,
        loads: false,
    };
    assert_eq!(told, [over]);
    load(&cache, 5, 1, 0);
}

#[test]
fn a_wait_is_given_up_once() {
    let cache = plain(LIMITS);
    let lease = load(&cache, 3, 1, 0);
    let first = wait(&cache, 5, 1, 0);
    let second = wait(&cache, 7, 1, 0);
    assert!(cache.cancel(5, first));
    assert!(!cache.cancel(5, first));
    let finished = finish(&cache, 3, lease, 1, Outcome::Failed);
    assert_eq!(
        finished.told.iter().map(|told| told.id).collect::<Vec<_>>(),
        [second]
    );
    assert!(!cache.cancel(7, second));
    assert_eq!(cache.figures().load_errors, 1);
}

#[test]
fn a_loader_that_fetches_its_key_is_told() {
    let cache = plain(LIMITS);
    let lease = load(&cache, 3, 1, 0);
    load(&cache, 3, 2, 0);
    assert_eq!(begin(&cache, 3, 1, 0), Began::Recursion);
    cache.delete(&int(1), &pin());
    assert_eq!(begin(&cache, 3, 1, 0), Began::Recursion);
    let other = load(&cache, 5, 1, 0);
    finish(&cache, 3, lease, 1, value(1));
    assert!(finish(&cache, 5, other, 1, value(2)).stored);
    assert_eq!(get(&cache, 1, 0), Some(2));
}

#[test]
fn a_stale_value_is_served_while_one_caller_refreshes_it() {
    let cache = plain(LIMITS);
    let stored = cache.put(&int(1), word(1), (Some(10), Some(10)), 0, true, &pin());
    assert_eq!(stored, Ok(()));
    let lease = load(&cache, 3, 1, 12 * MS);
    assert_eq!(begin(&cache, 5, 1, 12 * MS), Began::Stale(1));
    let failed = Outcome::Error(word(9), Some(1_000));
    assert!(
        !finish_at(&cache, 3, lease, 1, failed, 12 * MS)
            .expect("it has the lease")
            .stored
    );
    assert_eq!(get(&cache, 1, 13 * MS), Some(1));
    let lease = load(&cache, 3, 1, 13 * MS);
    let finished = finish_at(&cache, 3, lease, 1, value(2), 13 * MS);
    assert!(finished.expect("it has the lease").stored);
    assert_eq!(begin(&cache, 5, 1, 13 * MS), Began::Hit(2));
    assert_eq!(cache.figures().stale_hits, 2);
}

#[test]
fn an_error_is_kept_for_its_time() {
    let cache = plain(LIMITS);
    let lease = load(&cache, 3, 1, 0);
    let finished = finish(&cache, 3, lease, 1, Outcome::Error(word(9), Some(10)));
    assert!(finished.stored);
    assert_eq!(begin(&cache, 5, 1, 0), Began::Error(9));
    assert_eq!(get(&cache, 1, 0), None);
    let lease = load(&cache, 5, 1, 10 * MS);
    let failed = Outcome::Error(word(9), Some(0));
    assert!(
        !finish_at(&cache, 5, lease, 1, failed, 10 * MS)
            .expect("it has the lease")
            .stored
    );
    assert_eq!(cache.len(), 0);
}

#[test]
fn an_early_refresh_depends_on_the_time_of_the_load() {
    let cache = plain(LIMITS);
    let lease = load(&cache, 3, 1, 0);
    // The load took 10 ms, and the logarithm of 0.5 is about -0.7.
    let outcome = Outcome::Value(word(1), Some(100), Some(0));
    finish_at(&cache, 3, lease, 1, outcome, 10 * MS);
    assert_eq!(begin_early(&cache, 5, 1, 102 * MS, 1.0), Began::Hit(1));
    assert_eq!(begin_early(&cache, 5, 1, 104 * MS, 0.0), Began::Hit(1));
    let early = begin_early(&cache, 5, 1, 104 * MS, 1.0);
    assert!(matches!(early, Began::Load(_)), "{early:?}");
    assert_eq!(begin_early(&cache, 7, 1, 104 * MS, 1.0), Began::Hit(1));
}

#[test]
fn a_load_that_takes_too_long_is_not_waited_for() {
    let cache = plain(Limits {
        load: 100,
        ..LIMITS
    });
    let lease = load(&cache, 3, 1, 0);
    wait(&cache, 5, 1, 100);
    let other = load(&cache, 7, 1, 101);
    assert!(finish(&cache, 7, other, 1, value(2)).stored);
    assert!(!finish(&cache, 3, lease, 1, value(1)).stored);
    assert_eq!(get(&cache, 1, 0), Some(2));
}

#[test]
fn nobody_waits_for_a_cache_that_is_gone() {
    let cache = plain(LIMITS);
    let lease = load(&cache, 3, 1, 0);
    let id = wait(&cache, 5, 1, 0);
    let told = cache.end();
    assert_eq!(told.iter().map(|told| told.id).collect::<Vec<_>>(), [id]);
    assert_eq!(begin(&cache, 7, 2, 0), Began::Ended);
    assert_eq!(finish_at(&cache, 3, lease, 1, value(1), 0), None);
}

#[test]
fn no_read_after_a_delete_finds_what_was_loaded_before_it() {
    let cache = plain(LIMITS);
    let stop = AtomicBool::new(false);
    // The version of the source: a loader reads it and stores it.
    let source = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for owner in [3, 5] {
            let (cache, stop, source) = (&cache, &stop, &source);
            scope.spawn(move || {
                while !stop.load(Memory::Relaxed) {
                    if let Began::Load(lease) = begin(cache, owner, 1, 0) {
                        let seen = source.load(Memory::SeqCst);
                        std::thread::yield_now();
                        finish(cache, owner, lease, 1, value(seen));
                    } else {
                        kill(cache, owner, 0, |_| true);
                    }
                }
            });
        }
        for version in 1..3_000 {
            source.store(version, Memory::SeqCst);
            cache.delete(&int(1), &pin());
            for _ in 0..3 {
                if let Some(seen) = get(&cache, 1, 0) {
                    assert!(seen >= version, "{seen} after the delete of {version}");
                }
            }
        }
        stop.store(true, Memory::Relaxed);
    });
}
