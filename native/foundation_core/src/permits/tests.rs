use std::collections::{HashSet, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::key::NoOpaque;

type System = Permits<NoOpaque, u64>;

fn settings(max: u32, queue: u32, newest_first: bool) -> Settings {
    Settings {
        max,
        queue,
        newest_first,
        epoch: 0,
    }
}

/// What a pool is to do, said plainly.
#[derive(Default)]
struct Model {
    max: u64,
    queue: usize,
    newest_first: bool,
    out: Vec<(u64, u64, u64)>,
    waiting: VecDeque<(u64, u64, u64)>,
    dead: HashSet<u64>,
    figures: Figures,
}

impl Model {
    fn in_use(&self) -> u64 {
        self.out.iter().map(|(_, _, weight)| weight).sum()
    }

    fn acquire(&mut self, owner: u64, id: u64, weight: u64, waits: bool) -> Acquired {
        let is_first = self.waiting.is_empty() || self.newest_first && waits;
        if weight <= self.max && is_first && self.in_use() + weight <= self.max {
            self.out.push((owner, id, weight));
            self.figures.granted += 1;
            Acquired::Granted
        } else if weight <= self.max && waits && self.waiting.len() < self.queue {
            self.waiting.push_back((owner, id, weight));
            Acquired::Waits
        } else {
            self.figures.rejected += 1;
            Acquired::Full
        }
    }

    fn serve(&mut self) -> Vec<(u64, bool)> {
        let mut served = Vec::new();
        loop {
            let next = if self.newest_first {
                self.waiting.back()
            } else {
                self.waiting.front()
            };
            let Some((owner, id, weight)) = next.copied() else {
                return served;
            };
            let refused = weight > self.max;
            if !refused && self.in_use() + weight > self.max {
                return served;
            }
            self.waiting.retain(|(_, other, _)| *other != id);
            if refused {
                self.figures.rejected += 1;
            } else {
                self.figures.granted += 1;
                self.out.push((owner, id, weight));
            }
            served.push((id, !refused));
        }
    }

    fn release(&mut self, id: u64) -> bool {
        let before = self.out.len();
        self.out.retain(|(_, other, _)| *other != id);
        before != self.out.len()
    }

    fn cancel(&mut self, id: u64) -> Cancelled {
        if self.out.iter().any(|(_, other, _)| *other == id) {
            return Cancelled::Granted;
        }
        let before = self.waiting.len();
        self.waiting.retain(|(_, other, _)| *other != id);
        if before == self.waiting.len() {
            Cancelled::Unknown
        } else {
            self.figures.timed_out += 1;
            Cancelled::Cancelled
        }
    }

    fn resize(&mut self, max: u64) -> Vec<(u64, bool)> {
        self.max = max;
        let heavy: Vec<_> = self
            .waiting
            .iter()
            .filter(|(.., w)| *w > max)
            .copied()
            .collect();
        self.waiting.retain(|(.., weight)| *weight <= max);
        self.figures.rejected += heavy.len() as u64;
        let mut served: Vec<_> = heavy.iter().map(|(_, id, _)| (*id, false)).collect();
        served.extend(self.serve());
        served
    }

    fn kill(&mut self, owner: u64) {
        self.dead.insert(owner);
        let before = self.out.len();
        self.out.retain(|(other, ..)| *other != owner);
        self.figures.reclaimed += (before - self.out.len()) as u64;
        self.waiting.retain(|(other, ..)| *other != owner);
    }

    fn figures(&self) -> Figures {
        Figures {
            max: self.max as u32,
            in_use: self.in_use(),
            waiting: self.waiting.len() as u32,
            ..self.figures
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Acquire(u64, u64, bool),
    Release(usize),
    Cancel(usize),
    Resize(u32),
    Kill(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u64..6, 1u64..6, any::<bool>()).prop_map(|(o, w, q)| Step::Acquire(o, w, q)),
        4 => any::<prop::sample::Index>().prop_map(|i| Step::Release(i.index(64))),
        2 => any::<prop::sample::Index>().prop_map(|i| Step::Cancel(i.index(64))),
        1 => (1u32..8).prop_map(Step::Resize),
        1 => (0u64..6).prop_map(Step::Kill),
    ]
}

fn told(effects: &Effects<u64>) -> Vec<(u64, bool)> {
    effects
        .served
        .iter()
        .map(|one| (*one.waiter, one.granted))
        .collect()
}

fn kill(
    system: &System,
    settings: &Settings,
    owner: u64,
    is_alive: impl Fn(u64) -> bool,
) -> Vec<(u64, bool)> {
    let mut pending = system.mark_dead(owner);
    let mut all = Vec::new();
    while let Some(effects) = system.reclaim(settings, &mut pending, &is_alive) {
        all.extend(told(&effects));
    }
    all
}

proptest! {
    /// Every answer, every grant and its order, and the figures are those of the plain model.
    #[test]
    fn a_pool_is_its_model(
        steps in prop::collection::vec(step(), 1..200),
        max in 1u32..6,
        queue in 0u32..5,
        newest_first in any::<bool>(),
    ) {
        let settings = settings(max, queue, newest_first);
        let system = System::new(Seed::fixed(1), 10).expect("there is memory");
        let mut model = Model { max: max.into(), queue: queue as usize, newest_first, ..Model::default() };
        // A dead owner's number is taken by another that is alive: a new generation of it.
        let mut generations = [0u64; 6];
        let mut tags: Vec<(u64, u64)> = Vec::new();
        for step in steps {
            match step {
                Step::Acquire(owner, weight, waits) => {
                    let owner = owner + 10 * generations[owner as usize];
                    let tag = tags.len() as u64;
                    let waiter = if waits { Wait::Now(move || tag) } else { Wait::Never };
                    let (id, acquired) = system
                        .acquire(&settings, owner, None, (weight, true), waiter, || true)
                        .expect("it lives");
                    tags.push((owner, id));
                    prop_assert_eq!(acquired, model.acquire(owner, tag, weight, waits));
                }
                Step::Release(which) if which < tags.len() => {
                    let (owner, id) = tags[which];
                    // Only what is granted is ever released.
                    if model.release(which as u64) {
                        let effects = system.release(&settings, owner, id, |o| !model.dead.contains(&o));
                        prop_assert_eq!(told(&effects), model.serve());
                    }
                }
                Step::Cancel(which) if which < tags.len() => {
                    let (owner, id) = tags[which];
                    let expected = model.cancel(which as u64);
                    let (cancelled, effects) = system.cancel(&settings, owner, id, |_| true);
                    // A refused waiter has been told, and takes note by this call.
                    if cancelled == Cancelled::Refused {
                        prop_assert_eq!(expected, Cancelled::Unknown);
                    } else {
                        prop_assert_eq!(cancelled, expected);
                    }
                    prop_assert_eq!(told(&effects), model.serve());
                }
                Step::Resize(max) => {
                    let effects = system
                        .resize(&settings, None, (max, true), |_| true)
                        .expect("there is a pool");
                    prop_assert_eq!(told(&effects), model.resize(max.into()));
                }
                Step::Kill(number) => {
                    let owner = number + 10 * generations[number as usize];
                    generations[number as usize] += 1;
                    model.kill(owner);
                    let mut all = kill(&system, &settings, owner, |o| !model.dead.contains(&o));
                    let mut expected = model.serve();
                    // In steps, so that a light waiter may come before the last grant is freed.
                    all.sort_unstable();
                    expected.sort_unstable();
                    prop_assert_eq!(all, expected);
                }
                Step::Release(_) | Step::Cancel(_) => {}
            }
            let figures = system.pools.read(None, |_, pool| pool.figures(&settings));
            prop_assert_eq!(figures, Some(model.figures()));
        }
    }
}

#[test]
fn a_release_that_comes_twice_frees_once() {
    let settings = settings(2, 0, false);
    let system = System::new(Seed::fixed(1), 10).expect("there is memory");
    let acquire = |owner| {
        let none = Wait::<NoWaiter<u64>>::Never;
        let (id, _) = system
            .acquire(&settings, owner, None, (1, true), none, || true)
            .expect("it lives");
        id
    };
    let (first, _second) = (acquire(1), acquire(2));
    for _ in 0..3 {
        let effects = system.release(&settings, 1, first, |_| true);
        assert!(effects.served.is_empty());
    }
    let in_use = system
        .pools
        .read(None, |_, pool| pool.figures(&settings).in_use);
    assert_eq!(in_use, Some(1));
}

#[test]
fn a_process_that_dies_before_it_is_watched_gets_nothing() {
    let settings = settings(2, 0, false);
    let system = System::new(Seed::fixed(1), 10).expect("there is memory");
    let none = Wait::<NoWaiter<u64>>::Never;
    let refused = system.acquire(&settings, 1, None, (1, true), none, || false);
    assert_eq!(refused, Err(Undecided::Dead));
    let figures = system.pools.read(None, |_, pool| pool.figures(&settings));
    assert_eq!(figures.map(|figures| figures.in_use), Some(0));
}

#[test]
fn many_waiters_are_served_in_steps() {
    let settings = settings(1, 1_000, false);
    let system = System::new(Seed::fixed(1), 10).expect("there is memory");
    for owner in 0..501 {
        let waiter = Wait::Now(move || owner);
        system
            .acquire(&settings, owner, None, (1, true), waiter, || true)
            .expect("it lives");
    }
    let mut effects = system
        .resize(&settings, None, (1_000, true), |_| true)
        .expect("there is a pool");
    let mut all = told(&effects);
    assert_eq!(all.len(), SERVED_AT_ONCE);
    while let Some(unfinished) = effects.unfinished.take() {
        effects = system.resume(&settings, unfinished, |_| true);
        assert!(effects.served.len() <= SERVED_AT_ONCE);
        all.extend(told(&effects));
    }
    let expected: Vec<_> = (1..501).map(|owner| (owner, true)).collect();
    assert_eq!(all, expected);
}

#[test]
fn a_pool_of_a_key_is_small() {
    let settings = settings(10, 0, false);
    let system = System::new(Seed::fixed(1), 1_000_000).expect("there is memory");
    let before = system.pools.memory();
    for key in 0..100_000 {
        let (key, none) = (Key::word(1, key), Wait::<NoWaiter<u64>>::Never);
        let (id, _) = system
            .acquire(&settings, 1, Some(&key), (1, true), none, || true)
            .expect("it lives");
        system.release(&settings, 1, id, |_| true);
    }
    let each = (system.pools.memory() + system.pools.heap() - before) / 100_000;
    assert!(each < 300, "{each} bytes a key");
}
