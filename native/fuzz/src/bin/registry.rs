//! Registrations, deaths and their clean-up in steps, compared with maps: with unique keys and with
//! duplicate ones.

#![no_main]

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};

use arbitrary::Arbitrary;
use foundation_core::key::Seed;
use foundation_core::registry::{Duplicate, Liveness, PendingCleanup, Refused, Unique};
use foundation_core::table::pin;
use foundation_fuzz::{Chosen, Counted, Live, Name, Text, check_none_left, number, seen, value};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input {
    seed: u64,
    unique: bool,
    /// The most entries, unless it is 0.
    limit: u8,
    changes: Vec<Change>,
}

#[derive(Arbitrary, Clone, Debug)]
enum Change {
    Register {
        owner: u8,
        key: Chosen,
        number: u16,
    },
    /// Registers many entries of one owner: all under one key, or each under its own.
    Fill {
        owner: u8,
        key: Option<Chosen>,
        count: u8,
    },
    Unregister {
        owner: u8,
        key: Chosen,
    },
    /// Removes some of the owner's entries of a key, if it has several; the bits select them.
    RemoveSome {
        owner: u8,
        key: Chosen,
        which: u32,
    },
    Replace {
        key: Chosen,
        number: u16,
    },
    /// An owner dies. The registry does not know yet.
    Die(u8),
    /// The registry learns about the death. The owner's entries are pending removal.
    MarkDead(u8),
    /// Removes some entries of an owner that was marked dead.
    Clean {
        which: u8,
        most: u8,
    },
    Check(Chosen),
}

const CHANGES: usize = 300;
const OWNERS: u8 = 4;
/// The most fills per input, which keeps inputs fast.
const FILLS: usize = 2;

/// The owners. When one dies, another with a new number takes its place.
#[derive(Default)]
struct FakeLiveness {
    dead: RefCell<HashSet<u64>>,
    lives: [u64; OWNERS as usize],
}

impl Liveness for FakeLiveness {
    fn is_alive(&self, owner: u64) -> bool {
        !self.dead.borrow().contains(&owner)
    }

    fn watch(&self, owner: u64) -> bool {
        self.is_alive(owner)
    }
}

impl FakeLiveness {
    fn owner(&self, owner: u8) -> u64 {
        let owner = usize::from(owner % OWNERS);
        1 + owner as u64 + 10 * self.lives[owner]
    }

    fn kill(&mut self, owner: u8) -> u64 {
        let number = self.owner(owner);
        self.dead.borrow_mut().insert(number);
        self.lives[usize::from(owner % OWNERS)] += 1;
        number
    }
}

/// The operations of both kinds of registries.
trait Subject: Sized {
    fn new(seed: u64, limit: usize) -> Self;
    fn register(&mut self, liveness: &FakeLiveness, owner: u64, key: &Chosen, number: u16);
    fn unregister(&mut self, owner: u64, key: &Name);
    fn remove_some(&mut self, owner: u64, key: &Name, which: u32);
    fn replace(&mut self, key: &Name, number: u16);
    fn mark_dead(&mut self, owner: u64) -> PendingCleanup;
    /// Removes up to `most` entries, and returns whether none is left.
    fn clean(&mut self, owner: u64, pending: &mut PendingCleanup, most: usize) -> bool;
    /// Compares everything about one key with the model.
    fn check(&self, liveness: &FakeLiveness, key: &Name);
    /// Compares everything with the model. No dead owner has entries left.
    fn check_all(&self, liveness: &FakeLiveness);
    fn live(&self) -> Live;
}

struct Common {
    live: Live,
    limit: usize,
}

/// A registry with unique keys. Entries of dead owners stay in the model while they are in the
/// registry.
struct UniqueKeys {
    registry: Unique<Text, Counted>,
    model: BTreeMap<Name, (u64, u16)>,
    common: Common,
}

impl Subject for UniqueKeys {
    fn new(seed: u64, limit: usize) -> Self {
        UniqueKeys {
            registry: Unique::new(Seed::fixed(seed), limit).expect("there is memory"),
            model: BTreeMap::new(),
            common: Common {
                live: Live::default(),
                limit,
            },
        }
    }

    fn register(&mut self, liveness: &FakeLiveness, owner: u64, key: &Chosen, number: u16) {
        let name = key.name();
        let holder = self.model.get(&name).map(|(holder, _)| *holder);
        let expected = match holder {
            Some(holder) if liveness.is_alive(holder) => Err(Refused::Taken(holder)),
            // It replaces an entry of a dead owner, which a full registry allows too.
            Some(_) => Ok(()),
            None if self.model.len() >= self.common.limit => Err(Refused::Full),
            None => Ok(()),
        };
        let done = key.with(&self.common.live, |key| {
            let value = value(number, &self.common.live);
            self.registry.register(owner, key, value, liveness)
        });
        assert_eq!(done, expected);
        if done.is_ok() {
            self.model.insert(name, (owner, number));
        }
        assert_eq!(self.registry.len(), self.model.len());
    }

    fn unregister(&mut self, owner: u64, key: &Name) {
        let own = self.model.get(key).is_some_and(|entry| entry.0 == owner);
        let done = key.with(&self.common.live, |key| {
            self.registry.unregister(owner, key)
        });
        assert_eq!(done, own);
        if own {
            self.model.remove(key);
        }
    }

    fn remove_some(&mut self, owner: u64, key: &Name, _which: u32) {
        self.unregister(owner, key);
    }

    fn replace(&mut self, key: &Name, number: u16) {
        let guard = pin();
        let done = key.with(&self.common.live, |key| {
            let entry = self.registry.get(key, &guard)?;
            let value = value(number, &self.common.live);
            Some(self.registry.replace(key, &entry, value, &guard))
        });
        assert_eq!(done, self.model.contains_key(key).then_some(true));
        self.model
            .entry(key.clone())
            .and_modify(|entry| entry.1 = number);
    }

    fn mark_dead(&mut self, owner: u64) -> PendingCleanup {
        let held = self.model.values().filter(|entry| entry.0 == owner).count();
        let pending = self.registry.mark_dead(owner);
        // It may still record a key that another owner has taken over since it died.
        assert!(pending.keys() >= held);
        pending
    }

    fn clean(&mut self, owner: u64, pending: &mut PendingCleanup, most: usize) -> bool {
        let done = self.registry.remove_dead(pending, most);
        let guard = pin();
        let before = self.model.len();
        let registry = &self.registry;
        let live = &self.common.live;
        self.model.retain(|name, entry| {
            entry.0 != owner || name.with(live, |key| registry.get(key, &guard).is_some())
        });
        assert!(before - self.model.len() <= most);
        assert_eq!(self.registry.len(), self.model.len());
        let held = self.model.values().filter(|entry| entry.0 == owner).count();
        assert!(!done || held == 0, "{held} entries of the dead are left");
        done
    }

    fn check(&self, _liveness: &FakeLiveness, key: &Name) {
        let guard = pin();
        let found = key.with(&self.common.live, |key| {
            self.registry.get(key, &guard).as_ref().map(seen)
        });
        assert_eq!(found, self.model.get(key).copied());
    }

    fn check_all(&self, liveness: &FakeLiveness) {
        let guard = pin();
        for owner in (0..OWNERS).map(|owner| liveness.owner(owner)) {
            let mut keys = Vec::new();
            self.registry
                .keys(owner, &guard, |key| keys.push(Name::of(&key)));
            keys.sort_unstable();
            let own = self.model.iter().filter(|(_, entry)| entry.0 == owner);
            assert!(own.map(|(name, _)| name).eq(&keys));
            assert_eq!(self.registry.held_by(owner), keys.len());
        }
        let mut found = BTreeMap::new();
        self.registry.walk(0, usize::MAX, &guard, |visited| {
            found.insert(Name::of(&visited.key), seen(&visited.entry));
        });
        assert_eq!(found, self.model);
        let owners: HashSet<u64> = self.model.values().map(|entry| entry.0).collect();
        assert_eq!(self.registry.figures().owners, owners.len());
    }

    fn live(&self) -> Live {
        self.common.live.clone()
    }
}

/// A registry with duplicate keys. The model counts the entries of an owner that was marked dead
/// separately, because their order of removal is unspecified.
struct DuplicateKeys {
    registry: Duplicate<Text, Counted>,
    model: BTreeMap<Name, Vec<(u64, u16)>>,
    common: Common,
}

impl DuplicateKeys {
    fn entries(&self, key: &Name) -> Vec<(u64, u16)> {
        let guard = pin();
        let mut entries = Vec::new();
        key.with(&self.common.live, |key| {
            if let Some(bag) = self.registry.get(key, &guard) {
                let mut last = None;
                bag.walk(0, &guard, |member| {
                    assert!(last < Some(member.number));
                    last = Some(member.number);
                    entries.push((member.owner, number(member.value)));
                    true
                });
            }
        });
        entries
    }

    fn list(&self, key: &Name) -> &[(u64, u16)] {
        self.model.get(key).map_or(&[], Vec::as_slice)
    }
}

impl Subject for DuplicateKeys {
    fn new(seed: u64, limit: usize) -> Self {
        DuplicateKeys {
            registry: Duplicate::new(Seed::fixed(seed), limit).expect("there is memory"),
            model: BTreeMap::new(),
            common: Common {
                live: Live::default(),
                limit,
            },
        }
    }

    fn register(&mut self, liveness: &FakeLiveness, owner: u64, key: &Chosen, number: u16) {
        let count = self.registry.len();
        let expected = if count >= self.common.limit {
            Err(Refused::Full)
        } else {
            Ok(())
        };
        let done = key.with(&self.common.live, |key| {
            let value = value(number, &self.common.live);
            self.registry.register(owner, key, value, liveness)
        });
        assert_eq!(done, expected);
        if done.is_ok() {
            let entry = (owner, number);
            self.model.entry(key.name()).or_default().push(entry);
        }
        assert_eq!(self.registry.len(), count + usize::from(done.is_ok()));
    }

    fn unregister(&mut self, owner: u64, key: &Name) {
        let own = self
            .list(key)
            .iter()
            .filter(|entry| entry.0 == owner)
            .count();
        let (count, done) = key.with(&self.common.live, |key| {
            (
                self.registry.count_of(owner, key),
                self.registry.unregister(owner, key, usize::MAX),
            )
        });
        assert_eq!((count, done), (own, Some(own)));
        if let Some(list) = self.model.get_mut(key) {
            list.retain(|entry| entry.0 != owner);
        }
    }

    fn remove_some(&mut self, owner: u64, key: &Name, which: u32) {
        let guard = pin();
        let mut numbers = Vec::new();
        let mut gone = Vec::new();
        key.with(&self.common.live, |key| {
            let mut place = 0;
            self.registry.entries(owner, key, &guard, |member| {
                if which >> (place % 32) & 1 == 1 {
                    numbers.push(member.number);
                    gone.push(place);
                }
                place += 1;
            });
            // In any order, and with a number that is not present.
            numbers.reverse();
            numbers.push(u64::MAX);
            let done = self.registry.remove(owner, key, &numbers);
            assert_eq!(done, gone.len());
        });
        if let Some(list) = self.model.get_mut(key) {
            let mut place = 0;
            list.retain(|entry| {
                if entry.0 != owner {
                    return true;
                }
                place += 1;
                gone.binary_search(&(place - 1)).is_err()
            });
        }
    }

    // A registry with duplicate keys has no replacement: values are removed and added.
    fn replace(&mut self, _key: &Name, _number: u16) {}

    fn mark_dead(&mut self, owner: u64) -> PendingCleanup {
        let held = self.registry.held_by(owner);
        let has = |list: &&Vec<(u64, u16)>| list.iter().any(|entry| entry.0 == owner);
        let keys = self.model.values().filter(has).count();
        // A key counts twice if the owner has its first entry and others.
        assert!((keys..=2 * keys).contains(&held));
        let pending = self.registry.mark_dead(owner);
        assert_eq!(pending.keys(), held);
        pending
    }

    fn clean(&mut self, owner: u64, pending: &mut PendingCleanup, most: usize) -> bool {
        let before = self.registry.len();
        let done = self.registry.remove_dead(pending, most);
        let removed = before - self.registry.len();
        assert!(removed <= most);
        for name in self.model.keys().cloned().collect::<Vec<_>>() {
            if self.list(&name).iter().any(|entry| entry.0 == owner) {
                let found = self.entries(&name);
                let others = |entry: &&(u64, u16)| entry.0 != owner;
                assert!(
                    found
                        .iter()
                        .filter(others)
                        .eq(self.list(&name).iter().filter(others))
                );
                assert!(!done || found.iter().all(|entry| entry.0 != owner));
                self.model.insert(name, found);
            }
        }
        assert_eq!(
            self.registry.len(),
            self.model.values().map(Vec::len).sum::<usize>()
        );
        done
    }

    fn check(&self, liveness: &FakeLiveness, key: &Name) {
        assert_eq!(self.entries(key), self.list(key));
        for owner in (0..OWNERS).map(|owner| liveness.owner(owner)) {
            let guard = pin();
            let mut own = Vec::new();
            key.with(&self.common.live, |key| {
                self.registry.entries(owner, key, &guard, |member| {
                    own.push((member.owner, number(member.value)));
                });
            });
            assert!(
                self.list(key)
                    .iter()
                    .filter(|entry| entry.0 == owner)
                    .eq(&own)
            );
        }
    }

    fn check_all(&self, liveness: &FakeLiveness) {
        let guard = pin();
        let keys: Vec<&Name> = self
            .model
            .iter()
            .filter(|(_, list)| !list.is_empty())
            .map(|(key, _)| key)
            .collect();
        for key in self.model.keys() {
            self.check(liveness, key);
        }
        let mut found = Vec::new();
        self.registry.walk(0, usize::MAX, &guard, |visited| {
            found.push(Name::of(&visited.key))
        });
        found.sort_unstable();
        assert!(keys.into_iter().eq(&found));
        for owner in (0..OWNERS).map(|owner| liveness.owner(owner)) {
            let mut keys = BTreeMap::new();
            self.registry.keys(owner, &guard, |key, count| {
                // The first entry of a key may be visited separately from its others.
                *keys.entry(Name::of(key)).or_insert(0) += count;
            });
            let mut expected = BTreeMap::new();
            for (key, list) in &self.model {
                let count = list.iter().filter(|entry| entry.0 == owner).count();
                if count > 0 {
                    expected.insert(key.clone(), count);
                }
            }
            assert_eq!(keys, expected);
        }
        let entries = self.model.values().flatten();
        let owners: HashSet<u64> = entries.map(|entry| entry.0).collect();
        assert_eq!(self.registry.figures().owners, owners.len());
    }

    fn live(&self) -> Live {
        self.common.live.clone()
    }
}

fn run<S: Subject>(input: Input) {
    let limit = match input.limit {
        0 => usize::MAX,
        limit => usize::from(limit) * 4,
    };
    let mut subject = S::new(input.seed, limit);
    let mut liveness = FakeLiveness::default();
    let mut fills = 0;
    let mut dead: Vec<u64> = Vec::new();
    let mut pending: Vec<(u64, PendingCleanup)> = Vec::new();
    for change in input.changes.into_iter().take(CHANGES) {
        match change {
            Change::Register { owner, key, number } => {
                subject.register(&liveness, liveness.owner(owner), &key, number);
            }
            Change::Fill { owner, key, count } => {
                fills += 1;
                let count = if fills > FILLS {
                    0
                } else {
                    u16::from(count) * 4
                };
                for number in 0..count {
                    let key = key.unwrap_or(Chosen::Word { kind: 0, number });
                    subject.register(&liveness, liveness.owner(owner), &key, number);
                }
            }
            Change::Unregister { owner, key } => {
                subject.unregister(liveness.owner(owner), &key.name());
            }
            Change::RemoveSome { owner, key, which } => {
                subject.remove_some(liveness.owner(owner), &key.name(), which);
            }
            Change::Replace { key, number } => subject.replace(&key.name(), number),
            Change::Die(owner) => dead.push(liveness.kill(owner)),
            Change::MarkDead(which) => {
                if !dead.is_empty() {
                    let owner = dead.swap_remove(usize::from(which) % dead.len());
                    pending.push((owner, subject.mark_dead(owner)));
                }
            }
            Change::Clean { which, most } => {
                if !pending.is_empty() {
                    let place = usize::from(which) % pending.len();
                    let (owner, left) = &mut pending[place];
                    if subject.clean(*owner, left, usize::from(most) + 1) {
                        pending.swap_remove(place);
                    }
                }
            }
            Change::Check(key) => subject.check(&liveness, &key.name()),
        }
    }
    for owner in dead {
        pending.push((owner, subject.mark_dead(owner)));
    }
    for (owner, mut left) in pending {
        while !subject.clean(owner, &mut left, 1_000) {}
    }
    subject.check_all(&liveness);
    let live = subject.live();
    drop(subject);
    check_none_left(&live);
}

fuzz_target!(|input: Input| {
    if input.unique {
        run::<UniqueKeys>(input);
    } else {
        run::<DuplicateKeys>(input);
    }
});
