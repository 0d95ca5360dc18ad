//! The cache against a model that is a map, with time and leases.

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Put(u64, u64, Option<u64>, u64),
    Get(u64),
    Delete(u64),
    Clear(bool),
    Begin(u64, u64),
    Finish(u64, Option<u64>, u64),
    Kill(u64),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let (key, owner) = (0u64..6, 0u64..4);
    let ttl = prop_oneof![Just(None), (0u64..20).prop_map(Some)];
    prop_oneof![
        3 => (key.clone(), 0u64..1_000, ttl.clone(), 0u64..10)
            .prop_map(|(key, value, ttl, stale)| Step::Put(key, value, ttl, stale)),
        4 => key.clone().prop_map(Step::Get),
        1 => key.clone().prop_map(Step::Delete),
        1 => any::<bool>().prop_map(Step::Clear),
        6 => (owner.clone(), key).prop_map(|(owner, key)| Step::Begin(owner, key)),
        6 => (owner.clone(), ttl, 0u64..10).prop_map(|(owner, ttl, stale)| Step::Finish(owner, ttl, stale)),
        1 => owner.prop_map(Step::Kill),
        2 => (1u64..8).prop_map(Step::Pass),
    ]
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    value: u64,
    end: u64,
    until: u64,
}

#[derive(Clone, Debug)]
struct Running {
    owner: u64,
    lease: u64,
    key: u64,
    attached: bool,
    /// Owners and ids.
    waiters: Vec<(u64, u64)>,
}

#[derive(Default)]
struct Model {
    entries: HashMap<u64, Kept>,
    loads: Vec<Running>,
    expired: u64,
    now: u64,
}

impl Model {
    fn keep(&mut self, key: u64, value: u64, ttl: Option<u64>, stale: u64) {
        let end = ttl.map_or(u64::MAX, |ttl| self.now + ttl);
        let until = end.saturating_add(stale);
        if until == self.now {
            self.entries.remove(&key);
        } else {
            self.entries.insert(key, Kept { value, end, until });
        }
    }

    fn detach(&mut self, key: u64) {
        let loads = self.loads.iter_mut().filter(|load| load.key == key);
        loads.for_each(|load| load.attached = false);
    }

    /// The value that can be served, and whether it is fresh.
    fn serve(&self, key: u64) -> Option<(u64, bool)> {
        let kept = self.entries.get(&key)?;
        (self.now < kept.until).then_some((kept.value, self.now < kept.end))
    }

    fn is_busy(&self, owner: u64) -> bool {
        let mut loads = self.loads.iter();
        loads.any(|load| load.waiters.iter().any(|(waiter, _)| *waiter == owner))
    }
}

fn run(steps: Vec<Step>) {
    let (cache, mut model) = (plain(LIMITS), Model::default());
    for (number, step) in steps.into_iter().enumerate() {
        let now = model.now * MS;
        let value = number as u64;
        match step {
            Step::Put(key, value, ttl, stale) => {
                let times = (ttl, Some(stale));
                let stored = cache.put(&int(key), word(value), times, now, true, &pin());
                assert_eq!(stored, Ok(()));
                model.detach(key);
                model.keep(key, value, ttl, stale);
            }
            Step::Get(key) => {
                let expected = model.serve(key).map(|(value, _)| value);
                assert_eq!(get(&cache, key, now), expected);
            }
            Step::Delete(key) => {
                cache.delete(&int(key), &pin());
                model.detach(key);
                model.entries.remove(&key);
            }
            Step::Clear(as_expired) => {
                drop(cache.clear(as_expired).expect("there is memory"));
                model
                    .loads
                    .iter_mut()
                    .for_each(|load| load.attached = false);
                model.entries.clear();
            }
            Step::Begin(owner, key) if !model.is_busy(owner) => {
                let began = begin(&cache, owner, key, now);
                let mine = model
                    .loads
                    .iter()
                    .any(|load| load.key == key && load.owner == owner);
                let under_way = model.loads.iter_mut();
                let mut under_way = under_way.filter(|load| load.key == key && load.attached);
                match (model.entries.get(&key), under_way.next()) {
                    (Some(kept), _) if model.now < kept.end => {
                        assert_eq!(began, Began::Hit(kept.value));
                    }
                    _ if mine => assert_eq!(began, Began::Recursion),
                    (Some(kept), Some(_)) if model.now < kept.until => {
                        assert_eq!(began, Began::Stale(kept.value));
                    }
                    (_, Some(load)) => match began {
                        Began::Wait(id) => load.waiters.push((owner, id)),
                        other => panic!("expected to wait, got: {other:?}"),
                    },
                    (_, None) => match began {
                        Began::Load(lease) => model.loads.push(Running {
                            owner,
                            lease,
                            key,
                            attached: true,
                            waiters: Vec::new(),
                        }),
                        other => panic!("expected to load, got: {other:?}"),
                    },
                }
            }
            Step::Finish(owner, ttl, stale) => {
                let at = model.loads.iter().position(|load| load.owner == owner);
                let Some(at) = at.filter(|_| !model.is_busy(owner)) else {
                    continue;
                };
                let load = model.loads.remove(at);
                let outcome = Outcome::Value(word(value), ttl, Some(stale));
                let finished = finish_at(&cache, owner, load.lease, load.key, outcome, now)
                    .expect("it has the lease");
                let told: Vec<_> = finished
                    .told
                    .iter()
                    .map(|told| (told.owner, told.id))
                    .collect();
                assert_eq!(told, load.waiters);
                let is_kept = ttl.is_none_or(|ttl| ttl + stale > 0);
                assert_eq!(finished.stored, load.attached && is_kept);
                if load.attached {
                    model.keep(load.key, value, ttl, stale);
                }
            }
            Step::Kill(owner) => {
                let mut told = kill(&cache, owner, now, |_| true);
                for load in &mut model.loads {
                    load.waiters.retain(|(waiter, _)| *waiter != owner);
                }
                let mut expected = Vec::new();
                for mut load in std::mem::take(&mut model.loads) {
                    if load.owner != owner {
                        model.loads.push(load);
                    } else if load.attached && !load.waiters.is_empty() {
                        let (heir, id) = load.waiters.remove(0);
                        expected.push((heir, id, true));
                        model.loads.push(Running {
                            owner: heir,
                            lease: id,
                            ..load
                        });
                    } else {
                        let over = load.waiters.iter();
                        expected.extend(over.map(|(waiter, id)| (*waiter, *id, false)));
                    }
                }
                told.sort_by_key(|told| told.id);
                expected.sort_by_key(|(_, id, _)| *id);
                let told: Vec<_> = told
                    .iter()
                    .map(|told| (told.owner, told.id, told.loads))
                    .collect();
                assert_eq!(told, expected);
            }
            Step::Pass(time) => model.now += time,
            Step::Begin(..) => {}
        }
        let waiters: usize = model.loads.iter().map(|load| load.waiters.len()).sum();
        let state = lock(&cache.state);
        assert_eq!(state.loads.len(), model.loads.len());
        assert_eq!(state.loads.parties(), model.loads.len() + waiters);
    }
    bounds::check(&cache);
    let _ = model.expired;
}

proptest! {
    #[test]
    #[cfg_attr(miri, ignore = "too many steps for an interpreter")]
    fn the_cache_is_a_map_with_times_and_leases(steps in prop::collection::vec(step(), 0..400)) {
        run(steps);
    }
}
