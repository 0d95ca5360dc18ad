use proptest::prelude::*;

use super::*;
use crate::key::{Key, NoOpaque, Seed};
use crate::keyed::Keyed;

const MS: u64 = 1_000_000;

fn settings(algorithm: Algorithm, limits: &[(u32, u64)]) -> Settings {
    let limits = limits.iter().map(|(limit, per)| Limit {
        limit: *limit,
        per: per * MS,
    });
    Settings {
        algorithm,
        limits: limits.collect(),
        epoch: 0,
        previous: None,
    }
}

fn window(limits: &[(u32, u64)]) -> Settings {
    settings(Algorithm::SlidingWindow, limits)
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Take(Vec<u64>, u64),
    Settle(prop::sample::Index, Vec<u64>),
}

fn step() -> impl Strategy<Value = Step> {
    let costs = || prop::collection::vec(0u64..6, 2);
    prop_oneof![
        3 => (0u64..300 * MS).prop_map(Step::Wait),
        3 => (0u64..3 * MS).prop_map(Step::Wait),
        8 => (costs(), prop_oneof![Just(0), 0u64..500]).prop_map(|(c, w)| Step::Take(c, w * MS)),
        1 => (any::<prop::sample::Index>(), costs()).prop_map(|(i, c)| Step::Settle(i, c)),
    ]
}

/// Everything that was taken: slot and costs.
type Takes = Vec<(u64, Vec<u64>)>;

/// The most of limit `which` that any window has in it.
fn most(takes: &Takes, which: usize, per: u64) -> u64 {
    let in_window = |end: u64| {
        let is_in = |at: u64| at <= end && at + per > end;
        let taken = takes.iter().filter(|(at, _)| is_in(*at));
        taken.map(|(_, costs)| costs[which]).sum::<u64>()
    };
    takes
        .iter()
        .map(|(at, _)| in_window(*at))
        .max()
        .unwrap_or(0)
}

proptest! {
    /// Never more than the limit in any window; slots in order of arrival; nothing is refused that
    /// there was room for, but for a slice.
    #[test]
    fn no_window_has_more_than_the_limit(
        steps in prop::collection::vec(step(), 1..200),
        first in 1u32..8,
        second in 1u32..12,
    ) {
        let limits = [(first, 100), (second, 450)];
        let settings = window(&limits);
        let mut limiter = Limiter::new(&settings);
        let (mut now, mut last) = (77_777 * MS + 123, 0);
        let mut takes: Takes = Vec::new();
        let mut settled = false;
        for step in steps {
            match step {
                Step::Wait(time) => now += time,
                Step::Take(costs, wait) => match limiter.take(&settings, &costs, wait, now) {
                    Ok(slot) => {
                        prop_assert!(slot >= now && slot - now <= wait && slot >= last);
                        last = slot;
                        takes.push((slot, costs));
                    }
                    Err(Refusal::ExceedsLimit) => prop_assert!(
                        costs[0] > first.into() || costs[1] > second.into()
                    ),
                    Err(Refusal::Limited(later)) => {
                        prop_assert!(later > wait);
                        // It may be refused for a slice too long.
                        let slack = (450 * MS).div_ceil(SLICES) + 1;
                        if !settled && now >= last && later > slack {
                            let mut then = takes.clone();
                            then.push((now + later - slack, costs));
                            let too_much = limits.iter().enumerate().any(|(which, (limit, per))| {
                                most(&then, which, per * MS) > u64::from(*limit)
                            });
                            prop_assert!(too_much, "refused for {later}");
                        }
                    }
                },
                Step::Settle(which, actual) if !takes.is_empty() => {
                    let which = which.index(takes.len());
                    let (slot, reserved) = takes[which].clone();
                    // Only less: a debt is more than the limit, and is tested by itself.
                    let actual: Vec<u64> =
                        actual.iter().zip(&reserved).map(|(a, r)| *a.min(r)).collect();
                    limiter.settle(&settings, slot, (&reserved, &actual), now);
                    if now < slot + 100 * MS {
                        takes[which].1 = actual;
                        settled = true;
                    } else {
                        // One of the windows has passed: that one is not changed.
                        settled = true;
                    }
                }
                Step::Settle(..) => {}
            }
            if !settled {
                for (which, (limit, per)) in limits.iter().enumerate() {
                    prop_assert!(most(&takes, which, per * MS) <= u64::from(*limit));
                }
            }
        }
    }

    /// A bucket gives what a plain simulation of one gives, with the fractions of a fraction.
    #[test]
    fn a_bucket_is_its_simulation(
        steps in prop::collection::vec((0u64..40 * MS, 1u64..5), 1..200),
        limit in 1u32..12,
    ) {
        let settings = settings(Algorithm::TokenBucket, &[(limit, 100)]);
        let mut limiter = Limiter::new(&settings);
        let (mut now, full) = (5 * MS, u128::from(limit) * u128::from(100 * MS));
        // In tokens times nanoseconds of `per`.
        let mut level = full;
        for (time, cost) in steps {
            now += time;
            level = (level + u128::from(time) * u128::from(limit)).min(full);
            let price = u128::from(cost) * u128::from(100 * MS);
            let taken = limiter.take(&settings, &[cost], 0, now);
            if cost > limit.into() {
                prop_assert_eq!(taken, Err(Refusal::ExceedsLimit));
            } else if price <= level {
                prop_assert_eq!(taken, Ok(now));
                level -= price;
            } else {
                let later = (price - level).div_ceil(limit.into()) as u64;
                prop_assert_eq!(taken, Err(Refusal::Limited(later)));
            }
        }
    }
}

#[test]
fn all_come_at_once_if_they_come_at_once() {
    for algorithm in [Algorithm::SlidingWindow, Algorithm::TokenBucket] {
        let settings = settings(algorithm, &[(7, 1_000)]);
        let mut limiter = Limiter::new(&settings);
        for _ in 0..7 {
            assert_eq!(limiter.take(&settings, &[1], 0, 5 * MS), Ok(5 * MS));
        }
        assert!(matches!(
            limiter.take(&settings, &[1], 0, 5 * MS),
            Err(Refusal::Limited(_))
        ));
        assert_eq!(limiter.totals(), (7, 1));
    }
}

#[test]
fn of_several_limits_all_are_taken_or_none() {
    let settings = window(&[(10, 1_000), (100, 1_000)]);
    let mut limiter = Limiter::new(&settings);
    assert!(limiter.take(&settings, &[1, 90], 0, MS).is_ok());
    assert!(limiter.take(&settings, &[1, 20], 0, MS).is_err());
    let figures = limiter.figures(&settings, MS);
    assert_eq!((figures[0].used, figures[1].used), (1, 90));
    assert_eq!(figures[1].available, 10);
}

#[test]
fn nobody_overtakes_a_slot_that_was_booked() {
    for algorithm in [Algorithm::SlidingWindow, Algorithm::TokenBucket] {
        let settings = settings(algorithm, &[(10, 1_000)]);
        let mut limiter = Limiter::new(&settings);
        assert!(limiter.take(&settings, &[8], 0, MS).is_ok());
        let booked = limiter
            .take(&settings, &[5], u64::MAX, MS)
            .expect("it waits");
        assert!(booked > MS);
        let next = limiter
            .take(&settings, &[1], u64::MAX, MS)
            .expect("it waits");
        assert!(next >= booked);
        assert!(limiter.take(&settings, &[1], 0, MS).is_err());
    }
}

#[test]
fn a_debt_is_paid_by_those_who_come_next_and_leaves_with_its_reservation() {
    let settings = window(&[(10, 1_000)]);
    let mut limiter = Limiter::new(&settings);
    let slot = limiter.take(&settings, &[2], 0, MS).expect("there is room");
    limiter.settle(&settings, slot, (&[2], &[25]), 100 * MS);
    assert_eq!(limiter.figures(&settings, 100 * MS)[0].used, 25);
    let refused = limiter.take(&settings, &[1], 0, 900 * MS);
    assert!(matches!(refused, Err(Refusal::Limited(_))), "{refused:?}");
    assert!(limiter.take(&settings, &[10], 0, 1_006 * MS).is_ok());
    // Its window has passed.
    limiter.settle(&settings, slot, (&[25], &[1_000]), 1_006 * MS);
    assert_eq!(limiter.figures(&settings, 1_006 * MS)[0].used, 10);

    let settings = self::settings(Algorithm::TokenBucket, &[(10, 1_000)]);
    let mut limiter = Limiter::new(&settings);
    let slot = limiter
        .take(&settings, &[10], 0, MS)
        .expect("there is room");
    limiter.settle(&settings, slot, (&[10], &[15]), MS);
    // Half a bucket below zero: six tenths of its time until there is one.
    assert_eq!(
        limiter.take(&settings, &[1], 0, MS),
        Err(Refusal::Limited(600 * MS))
    );
    assert_eq!(limiter.figures(&settings, MS)[0].used, 15);
}

#[test]
fn what_was_not_used_can_be_taken_by_others() {
    for algorithm in [Algorithm::SlidingWindow, Algorithm::TokenBucket] {
        let settings = settings(algorithm, &[(10, 1_000)]);
        let mut limiter = Limiter::new(&settings);
        let slot = limiter
            .take(&settings, &[10], 0, MS)
            .expect("there is room");
        limiter.settle(&settings, slot, (&[10], &[3]), MS);
        assert!(limiter.take(&settings, &[7], 0, MS).is_ok());
        assert!(limiter.take(&settings, &[1], 0, MS).is_err());
    }
}

#[test]
fn a_year_without_a_pause_is_counted_right() {
    let settings = window(&[(2, 1)]);
    let mut limiter = Limiter::new(&settings);
    let mut now = MS;
    for _ in 0..100_000 {
        assert!(limiter.take(&settings, &[1], 0, now).is_ok());
        now += 700_000;
    }
    // Slices are counted from the first one in use, however long ago that was.
    for hours in 1..10 {
        now += hours * 3_600 * 1_000 * MS;
        assert!(limiter.take(&settings, &[2], 0, now).is_ok());
        assert!(limiter.take(&settings, &[1], 0, now).is_err());
    }
}

#[test]
fn a_limiter_of_a_key_is_small() {
    for algorithm in [Algorithm::SlidingWindow, Algorithm::TokenBucket] {
        let settings = settings(algorithm, &[(100, 60_000)]);
        let keyed: Keyed<NoOpaque, Limiter> =
            Keyed::new(Seed::fixed(1), 1_000_000, Limiter::new(&settings)).expect("memory");
        let before = keyed.memory();
        for number in 0..100_000 {
            let key = Key::word(1, number);
            for slice in 1..=8 {
                let now = slice * 250 * MS;
                let taken = keyed.with(
                    Some(&key),
                    true,
                    || now,
                    || Limiter::new(&settings),
                    |_, limiter| limiter.take(&settings, &[1], 0, now),
                );
                assert_eq!(taken, Ok(Ok(now)));
            }
        }
        let each = (keyed.memory() + keyed.heap() - before) / 100_000;
        assert!(each < 300, "{each} bytes a key");
    }
}

#[test]
fn other_limits_keep_what_is_used() {
    for algorithm in [Algorithm::SlidingWindow, Algorithm::TokenBucket] {
        let old = settings(algorithm, &[(10, 1_000)]);
        let mut limiter = Limiter::new(&old);
        assert!(limiter.take(&old, &[10], 0, MS).is_ok());
        let new = Settings {
            epoch: 1,
            previous: Some(Box::new(old)),
            ..settings(algorithm, &[(20, 1_000)])
        };
        limiter.fit(&new);
        let figures = limiter.figures(&new, MS);
        assert!(figures[0].used >= 10, "{figures:?}");
        assert!(limiter.take(&new, &[11], 0, MS).is_err());
    }
}
