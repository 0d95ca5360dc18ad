//! The bounds of a cache: bytes, entries, places, and the work of a call.

use super::*;
use crate::interleave::{Point, during};

#[test]
fn bytes_and_entries_stay_within_their_limits() {
    let limits = Limits {
        bytes: 100 * OVERHEAD as u64,
        ..LIMITS
    };
    let cache = plain(limits);
    for key in 0..10_000 {
        put(&cache, key, key);
        assert!(cache.figures().bytes <= limits.bytes);
    }
    let figures = cache.figures();
    let entries = figures.entries as usize;
    assert!((90..=100).contains(&entries), "{entries} entries");
    assert_eq!(figures.evicted, 10_000 - figures.entries);

    let cache = plain(Limits {
        entries: 2,
        ..LIMITS
    });
    put(&cache, 1, 1);
    put(&cache, 2, 2);
    put(&cache, 2, 3);
    assert_eq!((get(&cache, 1, 0), get(&cache, 2, 0)), (Some(1), Some(3)));
    put(&cache, 3, 4);
    assert_eq!(cache.len(), 2);
}

#[test]
fn a_value_larger_than_the_cache_removes_what_was_there() {
    let cache = plain(Limits {
        bytes: 1_000,
        ..LIMITS
    });
    put(&cache, 1, 1);
    put(&cache, 2, 2);
    let large = || Value::bytes(&[0; 1_000]).expect("there is memory");
    let stored = cache.put(&int(1), large(), (None, None), 0, true, &pin());
    assert_eq!(stored, Ok(()));
    assert_eq!((get(&cache, 1, 0), get(&cache, 2, 0)), (None, Some(2)));
    let lease = load(&cache, 3, 2 + 1, 0);
    let finished = finish(&cache, 3, lease, 3, Outcome::Value(large(), None, None));
    assert!(!finished.stored);
    let figures = cache.figures();
    assert_eq!(
        (figures.rejected, figures.evicted, figures.entries),
        (2, 0, 1)
    );
}

#[test]
fn the_bound_holds_under_writers_of_all_sizes() {
    const BYTES: u64 = 8 << 20;
    const WRITERS: u64 = 8;
    let cache = plain(Limits {
        bytes: BYTES,
        ..LIMITS
    });
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let cache = &cache;
                scope.spawn(move || {
                    let mut random = Random::new();
                    let bytes = vec![0; 1 << 20];
                    for _ in 0..400 {
                        let size = 10usize << random.below(17);
                        let size = size.min(bytes.len());
                        let value = Value::bytes(&bytes[..size]).expect("there is memory");
                        let key = int(random.below(1_000) * WRITERS + writer);
                        let times = (Some(60_000), Some(0));
                        let stored = cache.put(&key, value, times, 0, true, &pin());
                        assert_eq!(stored, Ok(()));
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Memory::Relaxed) {
                let bytes = cache.figures().bytes;
                assert!(bytes <= BYTES, "{bytes} bytes");
                std::thread::yield_now();
            }
        });
        for writer in writers {
            writer.join().expect("no writer panics");
        }
        done.store(true, Memory::Relaxed);
    });
    check(&cache);
}

/// Compares the figures with what a walk finds.
pub(super) fn check(cache: &Plain) {
    let (guard, state) = (pin(), lock(&cache.state));
    let store = cache.store(&guard);
    let (mut entries, mut bytes) = (0, 0);
    let end = store.table.walk(0, usize::MAX, &guard, |visited| {
        let node = state.queue.node(Word(visited.entry.owner).place());
        assert_eq!(node.hash, visited.hash);
        let value = match visited.entry.value {
            ValueView::Bytes(bytes) => Blob::size_of(bytes),
            _ => 0,
        };
        let size = OVERHEAD + key_size(&visited.key) + value;
        assert_eq!(node.bytes(), size.next_multiple_of(8));
        entries += 1;
        bytes += node.bytes();
    });
    assert_eq!((end, entries, bytes), (None, state.entries, state.bytes));
}

#[test]
fn a_put_that_evicts_many_goes_on_where_it_may_take_long() {
    let limits = Limits {
        bytes: 10_000 * OVERHEAD as u64,
        ..LIMITS
    };
    let cache = plain(limits);
    for key in 0..10_000 {
        put(&cache, key, key);
    }
    let large = || Value::bytes(&[0; 900_000]).expect("there is memory");
    let hasty = cache.put(&int(0), large(), (None, None), 0, false, &pin());
    assert_eq!(hasty, Err(NotStored::TakesLong));
    let left = cache.len();
    assert!((9_000..10_000).contains(&left), "{left} entries are left");
    let patient = cache.put(&int(0), large(), (None, None), 0, true, &pin());
    assert_eq!(patient, Ok(()));
    assert!(cache.figures().bytes <= limits.bytes);
    check(&cache);
}

#[test]
fn lower_limits_are_reached_in_steps() {
    let cache = plain(LIMITS);
    for key in 0..10_000 {
        put(&cache, key, key);
    }
    cache.set_limits(Limits {
        entries: 10,
        ..LIMITS
    });
    let mut steps = 0;
    while cache.trim(0) {
        steps += 1;
    }
    assert_eq!(cache.len(), 10);
    assert!(steps > 10, "{steps} steps");
}

#[test]
fn expired_entries_go_as_others_are_written() {
    let cache = plain(LIMITS);
    for key in 0..1_000 {
        put_for(&cache, key, key, Some(10), 0);
    }
    for key in 1_000..1_600 {
        put_for(&cache, key, key, None, 20 * MS);
    }
    let figures = cache.figures();
    assert_eq!((figures.entries, figures.expired), (600, 1_000));
    assert_eq!(figures.evicted, 0);
    check(&cache);
}

#[test]
fn an_entry_that_is_read_outlives_one_that_is_not() {
    let cache = plain(Limits {
        entries: 100,
        ..LIMITS
    });
    for key in 0..10_000 {
        put(&cache, key, key);
        get(&cache, 0, 0);
    }
    assert_eq!(get(&cache, 0, 0), Some(0));
}

/// See `examples/eviction.rs` for other policies on such a trace.
#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn the_hit_ratio_on_a_skewed_trace_is_that_of_the_policy() {
    const KEYS: usize = 50_000;
    let cache = plain(Limits {
        entries: KEYS as u64 / 100,
        ..LIMITS
    });
    let mut sum = 0.0;
    let cumulated: Vec<f64> = (1..=KEYS)
        .map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        })
        .collect();
    let (mut random, mut best) = (Random::new(), 0);
    for _ in 0..200_000 {
        let point = random.unit() * sum;
        let key = cumulated.partition_point(|sum| *sum < point) as u64;
        best += u64::from(key < KEYS as u64 / 100);
        if get(&cache, key, 0).is_none() {
            put(&cache, key, key);
        }
    }
    let hits = cache.figures().hits;
    // LRU loses about 0.10 of the reads to the best choice, and FIFO 0.13.
    assert!(best - hits < 200_000 * 5 / 100, "{hits} hits of {best}");
}

/// A cache with a value of half a megabyte under key 0, and otherwise full of small entries.
fn full_of_small_entries() -> Plain {
    let cache = plain(Limits {
        bytes: 2 << 20,
        ..LIMITS
    });
    assert_eq!(put_bytes(&cache, 0, 1 << 19, true), Ok(()));
    for key in 1..(3 << 19) / OVERHEAD.next_multiple_of(8) as u64 - 100 {
        put(&cache, key, key);
    }
    cache
}

fn put_bytes(cache: &Plain, key: u64, len: usize, patient: bool) -> Result<(), NotStored> {
    let value = Value::bytes(&vec![0; len]).expect("there is memory");
    cache.put(&int(key), value, (None, None), 0, patient, &pin())
}

#[test]
fn a_larger_value_takes_long_when_the_old_one_is_evicted_for_it() {
    let cache = full_of_small_entries();
    assert_eq!(cache.figures().evicted, 0);
    let before = cache.figures().evicted;
    assert_eq!(
        put_bytes(&cache, 0, 1 << 20, false),
        Err(NotStored::TakesLong)
    );
    let evicted = cache.figures().evicted - before;
    assert!(evicted < 1_000, "{evicted} evicted under one lock");
    assert_eq!(put_bytes(&cache, 0, 1 << 20, true), Ok(()));
    assert!(cache.figures().bytes <= 2 << 20);
}

#[test]
fn a_load_takes_long_when_another_writer_has_used_the_room_made_for_it() {
    let cache = std::sync::Arc::new(full_of_small_entries());
    let key = 1 << 40;
    let lease = load(&cache, 7, key, 0);
    // The process holds two things, so that it reaches the point.
    load(&cache, 7, key + 1, 0);
    assert_eq!(put_bytes(&cache, key + 2, 1 << 19, true), Ok(()));
    cache.delete(&int(key + 2), &pin());
    let finish = |patient| {
        let value = Value::bytes(&[0; 1 << 19]).expect("there is memory");
        let outcome = Outcome::Value(value, None, None);
        cache.finish(7, lease, &int(key), outcome, 0, patient, &pin())
    };
    let before = cache.figures().evicted;
    let other = cache.clone();
    let put = move || assert_eq!(put_bytes(&other, key + 3, 1 << 19, false), Ok(()));
    assert_eq!(
        during(Point::HandleFound, put, || finish(false)),
        Err(TakesLong)
    );
    let evicted = cache.figures().evicted - before;
    assert!(evicted < 1_000, "{evicted} evicted under one lock");
    let finished = finish(true).expect("a patient call ends");
    assert!(finished.is_some_and(|finished| finished.stored));
    assert!(cache.figures().bytes <= 2 << 20);
}
