use super::shard::IDLE;
use super::*;
use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;

use proptest::prelude::*;

const MS: u64 = 1_000_000;

impl Opener for u8 {
    fn id(self) -> u32 {
        u32::from(self)
    }
    fn opened(self, _shard: usize) {}
    fn repeated(self, _shard: usize) {}
    fn closed(self, _shard: usize, _early: bool) {}
}

fn first(windows: &Windows<u8>, key: &[u8], now: u64, window: u64) -> bool {
    first_of(windows, 0, key, now, window)
}

fn first_of(windows: &Windows<u8>, event: u8, key: &[u8], now: u64, window: u64) -> bool {
    let admission = windows.admit(event, &Key::new(0, key), now, || window);
    matches!(admission, Admission::First(..))
}

#[test]
fn events_and_kinds_of_keys_have_windows_of_their_own() {
    let windows = Windows::new(100);
    for key in [&[7u8; 8][..], &[7; 100]] {
        for event in [1, 2] {
            for kind in [0, 1] {
                let admit = || windows.admit(event, &Key::new(kind, key), 1, || 10);
                assert!(matches!(admit(), Admission::First(..)));
                assert_eq!(admit(), Admission::Repeat);
            }
        }
    }
}

#[test]
fn many_windows_are_found_again_and_closed_whatever_has_grown_meanwhile() {
    let windows = Windows::new(u64::MAX);
    // Short and long windows in turn.
    let key = |n: u32| n.to_le_bytes().repeat(1 + 8 * (n as usize % 2));
    let event = |n: u32| (n % 200) as u8;
    for n in 0..40_000 {
        assert!(first_of(&windows, event(n), &key(n), 0, 10));
    }
    for n in 0..40_000 {
        assert!(!first_of(&windows, event(n), &key(n), 9, 10));
    }
    assert!(!windows.sweep(10, usize::MAX, drop));
    assert!(windows.is_empty());
    for n in 0..40_000 {
        assert!(first_of(&windows, event(n), &key(n), 10, 10));
    }
}

#[test]
fn repeats_do_not_extend_a_window() {
    let windows = Windows::new(10);
    assert!(first(&windows, b"a", 0, 10));
    for now in 1..10 {
        assert!(!first(&windows, b"a", now, 10));
    }
    assert!(first(&windows, b"a", 10, 10));
    assert!(!first(&windows, b"a", 19, 10));
}

#[test]
fn a_window_of_nothing_suppresses_nothing() {
    let windows = Windows::new(10);
    for now in [5, 5, 6] {
        assert!(first(&windows, b"a", now, 0));
    }
}

#[test]
fn the_oldest_goes_at_the_bound_whatever_its_duration() {
    let windows = Windows::new(3);
    assert!(first(&windows, b"a", 0, 1_000 * MS));
    assert!(first(&windows, b"b", 1, 10 * MS));
    assert!(first(&windows, b"c", 2, 100_000 * MS));
    assert!(first(&windows, b"d", 3, 10 * MS));
    assert_eq!((windows.len(), windows.evicted()), (3, 1));
    for key in [b"b", b"c", b"d"] {
        assert!(!first(&windows, key, 4, 10));
    }
    assert!(first(&windows, b"a", 4, 10));
}

#[test]
fn a_window_that_is_opened_again_is_young_again() {
    let windows = Windows::new(2);
    assert!(first(&windows, b"a", 0, 10));
    assert!(first(&windows, b"b", 1, 100));
    assert!(first(&windows, b"a", 20, 100));
    assert!(first(&windows, b"c", 21, 100));
    assert!(!first(&windows, b"a", 22, 100));
    assert!(first(&windows, b"b", 22, 100));
}

#[test]
fn a_sweep_closes_what_has_expired_and_nothing_else() {
    let windows = Windows::new(1_000);
    for key in 0..500u32 {
        first(&windows, &key.to_le_bytes(), 0, 10 * MS);
        first(&windows, &(key + 1_000).to_le_bytes(), 0, 10_000 * MS);
    }
    assert!(windows.sweep(20 * MS, 100, drop));
    assert!(!windows.sweep(20 * MS, 1_000, drop));
    assert_eq!((windows.len(), windows.evicted()), (500, 0));
}

#[test]
fn an_empty_shard_gives_its_memory_back_after_a_while_without_windows() {
    let windows = Windows::new(1_000);
    let is_kept = || {
        let mut shards = windows.shards.iter();
        shards.any(|shard| lock(shard).holds_memory())
    };
    for second in 0..3 {
        first(&windows, b"a", second * IDLE, MS);
        assert!(!windows.sweep(second * IDLE + 2 * MS, 100, drop));
        assert_eq!((windows.len(), is_kept()), (0, true));
    }
    assert!(!windows.sweep(3 * IDLE - 1, 100, drop));
    assert!(is_kept());
    assert!(windows.sweep(3 * IDLE, 100, drop));
    assert!(!is_kept());
}

#[test]
fn a_sweep_hands_out_the_memory_of_an_idle_shard() {
    let windows = Windows::new(u64::MAX);
    for n in 0..10_000u32 {
        assert!(first(&windows, &n.to_le_bytes(), 0, 1));
    }
    let in_use = || {
        let shards = windows.shards.iter();
        shards.filter(|shard| lock(shard).holds_memory()).count()
    };
    assert!(!windows.sweep(1, usize::MAX, drop));
    assert_eq!(in_use(), SHARDS);
    for left in (0..SHARDS).rev() {
        assert!(windows.sweep(IDLE, usize::MAX, drop));
        assert_eq!(in_use(), left);
    }
    assert!(!windows.sweep(IDLE, usize::MAX, drop));
}

#[test]
fn long_keys_and_short_ones_are_told_apart_by_every_byte() {
    let windows = Windows::new(1_000);
    let long = [7u8; 100];
    for len in 0..=100 {
        assert!(first(&windows, &long[..len], 0, 10));
    }
    for len in 0..=100 {
        assert!(!first(&windows, &long[..len], 1, 10));
    }
}

#[test]
fn one_thread_wins_each_window_and_the_bound_is_kept() {
    let windows = Windows::new(100);
    let won = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for key in 0..50u32 {
                    if first(&windows, &key.to_le_bytes(), 1, 10) {
                        won.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(won.into_inner(), 50);
    std::thread::scope(|scope| {
        for thread in 0..4u32 {
            let windows = &windows;
            scope.spawn(move || {
                for key in 0..5_000u32 {
                    first(
                        windows,
                        &(thread << 24 | key | 1 << 20).to_le_bytes(),
                        2,
                        10,
                    );
                }
            });
        }
    });
    assert_eq!(windows.len(), 100);
    assert_eq!(windows.evicted(), 4 * 5_000 + 50 - 100);
}

/// The model: a map of keys with the times at which they were opened and expire.
fn model(steps: &[(u8, u16, u8)], most: usize) {
    let windows = Windows::new(most as u64);
    let mut open: HashMap<u8, (usize, u64)> = HashMap::new();
    let mut now = 0;
    for (step, (key, passed, window)) in steps.iter().enumerate() {
        now += u64::from(*passed);
        // All windows have one duration, so the first in a list is the first to expire.
        let _ = window;
        let expected = open.get(key).is_none_or(|(_, expires)| *expires <= now);
        assert_eq!(first(&windows, &[*key], now, 300), expected);
        if expected {
            open.insert(*key, (step, now + 300));
            if open.len() > most {
                open.retain(|_, (_, expires)| *expires > now);
            }
            if open.len() > most {
                let oldest = open
                    .iter()
                    .min_by_key(|(_, (step, _))| *step)
                    .map(|(key, _)| *key);
                oldest.and_then(|key| open.remove(&key));
            }
        }
        assert!(windows.len() <= most as u64);
    }
}

proptest! {
    #[test]
    fn windows_do_what_the_model_does(
        steps in proptest::collection::vec((0u8..30, 0u16..60, any::<u8>()), 1..400),
        most in 1usize..40,
    ) {
        model(&steps, most);
    }
}
