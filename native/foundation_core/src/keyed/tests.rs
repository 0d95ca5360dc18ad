use super::*;
use crate::key::NoOpaque;

/// A key that is idle from a time on; `None` while it is busy.
struct Until(Option<u64>);

impl Keyable for Until {
    fn idle_from(&self) -> Option<u64> {
        self.0
    }

    fn heap(&self) -> usize {
        0
    }
}

struct Keys(Keyed<NoOpaque, Until>);

impl Keys {
    fn new(max_keys: u64) -> Self {
        let keyed = Keyed::new(Seed::fixed(7), max_keys, Until(Some(0)));
        Keys(keyed.expect("there is memory"))
    }

    fn set(&self, key: u64, now: u64, until: Option<u64>) -> Result<(), NoState> {
        let key = Key::word(1, key);
        let make = || Until(Some(0));
        self.0.with(
            Some(&key),
            true,
            || now,
            make,
            |_cell, state| state.0 = until,
        )
    }

    fn has(&self, key: u64) -> bool {
        self.0.read(Some(&Key::word(1, key)), |_, _| ()).is_some()
    }
}

#[test]
fn a_new_key_takes_the_place_of_an_idle_one_and_of_no_other() {
    let keys = Keys::new(2);
    assert_eq!(keys.set(1, 0, None), Ok(()));
    assert_eq!(keys.set(2, 0, Some(10)), Ok(()));
    assert_eq!(keys.set(3, 9, None), Err(NoState::MaxKeys));
    assert_eq!(keys.set(3, 10, None), Ok(()));
    assert_eq!((keys.has(1), keys.has(2), keys.has(3)), (true, false, true));
    assert_eq!(keys.set(4, 1_000, None), Err(NoState::MaxKeys));
    // A key that was busy when it was examined is found again after its release.
    assert_eq!(keys.set(1, 1_000, Some(0)), Ok(()));
    assert_eq!(keys.set(4, 1_000, None), Ok(()));
    assert_eq!(keys.0.len(), 2);
}

#[test]
fn a_key_that_becomes_idle_earlier_is_found_earlier() {
    let keys = Keys::new(1);
    assert_eq!(keys.set(1, 0, Some(1_000)), Ok(()));
    // It goes back into the queue under its new time.
    assert_eq!(keys.set(2, 5, None), Err(NoState::MaxKeys));
    assert_eq!(keys.set(1, 6, Some(20)), Ok(()));
    assert_eq!(keys.set(2, 19, None), Err(NoState::MaxKeys));
    assert_eq!(keys.set(2, 20, None), Ok(()));
}

#[test]
fn an_idle_key_is_found_behind_many_busy_ones() {
    let keys = Keys::new(1_000);
    for key in 0..1_000 {
        assert_eq!(keys.set(key, 0, None), Ok(()));
    }
    let impatient = |key| {
        let key = Key::word(1, key);
        let make = || Until(None);
        keys.0.with(Some(&key), false, || 0, make, |_, _| ())
    };
    assert_eq!(impatient(1_000), Err(NoState::TakesLong));
    assert_eq!(keys.set(1_000, 0, None), Err(NoState::MaxKeys));
    assert_eq!(impatient(1_000), Err(NoState::MaxKeys));
    assert_eq!(keys.set(500, 0, Some(0)), Ok(()));
    assert_eq!(impatient(1_000), Ok(()));
    assert!(!keys.has(500));
}

#[test]
fn a_million_keys_stay_within_the_bound() {
    let keys = Keys::new(1_000);
    for key in 0..1_000_000 {
        assert_eq!(keys.set(key, key, Some(key + 500)), Ok(()));
    }
    assert_eq!(keys.0.len(), 1_000);
    let queue = lock(&keys.0.queue);
    assert!(
        queue.candidates.len() <= 2_000,
        "{}",
        queue.candidates.len()
    );
}

#[test]
fn threads_that_share_keys_lose_none_of_their_changes() {
    struct Sum(u64, u64);
    impl Keyable for Sum {
        fn idle_from(&self) -> Option<u64> {
            (self.0 == 0).then_some(0)
        }
        fn heap(&self) -> usize {
            0
        }
    }
    let keyed: Keyed<NoOpaque, Sum> =
        Keyed::new(Seed::fixed(7), 4, Sum(0, 0)).expect("there is memory");
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let keyed = &keyed;
            scope.spawn(move || {
                for step in 0..20_000u64 {
                    let key = Key::word(1, (thread + step) % 8);
                    let make = || Sum(0, 0);
                    let entered = keyed.with(
                        Some(&key),
                        true,
                        || 0,
                        make,
                        |cell, sum| {
                            sum.0 += 1;
                            cell.clone()
                        },
                    );
                    // Of eight keys four can be there, and each thread is in one at a time.
                    let cell = entered.expect("a key is idle");
                    let left = keyed.change(&cell, |_, sum| {
                        sum.0 -= 1;
                        sum.1 += 1;
                    });
                    assert!(left.is_some(), "a key in use was removed");
                }
            });
        }
    });
    assert!(keyed.len() <= 4);
}
