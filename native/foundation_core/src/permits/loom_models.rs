//! Models of two threads that change one pool. They run with `--cfg loom`.

use loom::thread;

use super::*;
use crate::key::NoOpaque;
use crate::primitive::lock;

type System = Permits<NoOpaque, u64>;

/// The parts that the models need, behind the same locks in the same order: a process's grants,
/// and the pool.
struct Small {
    settings: Settings,
    pool: crate::primitive::Mutex<Pool<u64>>,
    told: crate::primitive::Mutex<Vec<u64>>,
}

impl Small {
    fn new(max: u32) -> Arc<Self> {
        let _: fn(Seed, u64) -> Result<System, OutOfMemory> = System::new;
        Arc::new(Small {
            settings: Settings {
                max,
                queue: 4,
                newest_first: false,
                epoch: 0,
            },
            pool: crate::primitive::Mutex::new(Pool::default()),
            told: crate::primitive::Mutex::new(Vec::new()),
        })
    }

    fn acquire(&self, id: u64, weight: u64) -> (Acquired, u32) {
        lock(&self.pool).acquire(&self.settings, (id, id), weight, Wait::Now(|| id))
    }

    fn serve(&self, pool: &mut Pool<u64>) -> Vec<Served<u64>> {
        let mut served = Vec::new();
        pool.serve(&self.settings, |_| true, &mut served);
        served
    }

    /// Messages are sent after the lock has been given back.
    fn tell(&self, served: Vec<Served<u64>>) {
        let granted = served.into_iter().filter(|one| one.granted);
        lock(&self.told).extend(granted.map(|one| *one.waiter));
    }

    fn free(&self, index: u32, id: u64, reclaimed: bool) {
        let mut pool = lock(&self.pool);
        pool.free(index, id, reclaimed);
        let served = self.serve(&mut pool);
        drop(pool);
        self.tell(served);
    }

    fn cancel(&self, index: u32, id: u64) -> Cancelled {
        let mut pool = lock(&self.pool);
        let cancelled = pool.cancel(index, id);
        let served = self.serve(&mut pool);
        drop(pool);
        self.tell(served);
        cancelled
    }

    fn figures(&self) -> Figures {
        lock(&self.pool).figures(&self.settings)
    }
}

#[test]
fn loom_a_waiter_that_gives_up_owns_a_permit_or_nothing() {
    loom::model(|| {
        let small = Small::new(1);
        let (_, held) = small.acquire(1, 1);
        let (acquired, waits) = small.acquire(2, 1);
        assert_eq!(acquired, Acquired::Waits);
        let other = small.clone();
        let releaser = thread::spawn(move || other.free(held, 1, false));
        let cancelled = small.cancel(waits, 2);
        releaser.join().expect("it releases");
        let told = lock(&small.told).len();
        match cancelled {
            Cancelled::Granted => assert_eq!((small.figures().in_use, told), (1, 1)),
            Cancelled::Cancelled => assert_eq!((small.figures().in_use, told), (0, 0)),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn loom_a_release_and_a_death_free_a_permit_once() {
    loom::model(|| {
        let owners: Arc<Owners<Held1>> = Arc::new(Owners::new());
        let small = Small::new(2);
        let (_, first) = small.acquire(1, 1);
        let (_, _second) = small.acquire(2, 1);
        let hold = |held: &mut crate::held::HeldSet<Held1>| {
            held.reserve(spread(1)).expect("there is memory");
            held.insert(Held1(1));
        };
        owners.hold(1, || true, hold).expect("it lives");
        let (other, others) = (small.clone(), owners.clone());
        let death = thread::spawn(move || {
            for Held1(id) in others.mark_dead(1) {
                other.free(first, id, true);
            }
        });
        let taken = owners.with(1, |held| held.remove(spread(1), |_| true));
        if let Some(Held1(id)) = taken.flatten() {
            small.free(first, id, false);
        }
        death.join().expect("it dies");
        assert_eq!(small.figures().in_use, 1);
    });
}

#[test]
fn loom_a_request_and_a_death_leave_no_permit_out() {
    loom::model(|| {
        let owners: Arc<Owners<Held1>> = Arc::new(Owners::new());
        let small = Small::new(1);
        owners.hold(1, || true, |_| ()).expect("it lives");
        let (other, others) = (small.clone(), owners.clone());
        let death = thread::spawn(move || {
            for Held1(id) in others.mark_dead(1) {
                other.free(0, id, true);
            }
        });
        let acquired = owners.hold(
            1,
            || false,
            |held| {
                let (acquired, _) = small.acquire(1, 1);
                held.reserve(spread(1)).expect("there is memory");
                held.insert(Held1(1));
                acquired
            },
        );
        death.join().expect("it dies");
        assert!(matches!(
            acquired,
            Ok(Acquired::Granted) | Err(NotHeld::Dead)
        ));
        assert_eq!(small.figures().in_use, 0);
    });
}

#[test]
fn loom_growing_and_cancelling_lose_no_permit() {
    loom::model(|| {
        let small = Small::new(1);
        let (_, _held) = small.acquire(1, 1);
        let (_, waits) = small.acquire(2, 1);
        let other = small.clone();
        let grower = thread::spawn(move || {
            let mut pool = lock(&other.pool);
            let mut served = Vec::new();
            pool.resize(&other.settings, 2, &mut served);
            pool.serve(&other.settings, |_| true, &mut served);
            drop(pool);
            other.tell(served);
        });
        let cancelled = small.cancel(waits, 2);
        grower.join().expect("it grows");
        let in_use = if cancelled == Cancelled::Granted {
            2
        } else {
            1
        };
        assert_eq!(small.figures().in_use, in_use);
        assert_eq!(small.figures().waiting, 0);
    });
}

/// A grant whose pool is known.
struct Held1(u64);

impl Held for Held1 {
    fn hash(&self) -> u64 {
        spread(self.0)
    }
}
