//! Operations on a table, in sequence, compared with a map.

#![no_main]

use std::collections::HashMap;

use arbitrary::Arbitrary;
use foundation_core::key::{Key, Seed};
use foundation_core::table::{Entry, Inserted, Table, pin};
use foundation_fuzz::{
    ALIKE, Chosen, Counted, Live, Name, Probe, Text, check_none_left, number, seen, value,
};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Clone, Debug)]
enum Change {
    Insert {
        key: Chosen,
        owner: u8,
        number: u16,
        replaces: bool,
    },
    Replace {
        key: Chosen,
        number: u16,
    },
    /// Replaces with an entry that was read before another change.
    ReplaceStale {
        key: Chosen,
        between: u16,
        number: u16,
    },
    Remove(Chosen),
    RemoveOwned {
        key: Chosen,
        owner: u8,
    },
    /// Removes by the hash alone.
    RemoveByHash(Chosen),
    Get(Chosen),
    /// Inserts many words, so that segments split and merge.
    Grow {
        from: u8,
        count: u8,
    },
    Shrink {
        from: u8,
        count: u8,
    },
    /// Inserts this many keys that share one hash.
    GrowAlike(u8),
    ShrinkAlike(u8),
    Walk {
        limit: u16,
    },
}

impl Change {
    fn takes_long(&self) -> bool {
        use Change::*;
        matches!(
            self,
            Grow { .. } | Shrink { .. } | GrowAlike(_) | ShrinkAlike(_) | Walk { .. }
        )
    }
}

const CHANGES: usize = 300;
/// The most slow changes per input, which keeps inputs fast.
const CROWDS: usize = 4;

struct Subject {
    table: Table<Text, Counted>,
    model: HashMap<Name, (u64, u16)>,
    live: Live,
}

impl Subject {
    fn with<R>(&self, key: &Chosen, run: impl FnOnce(&Key<'_, Probe>, u64) -> R) -> R {
        key.with(&self.live, |key| run(key, self.table.hash(key)))
    }

    fn insert(&mut self, chosen: &Chosen, owner: u64, number: u16, replaces: bool) {
        let before = self.model.get(&chosen.name()).copied();
        let done = self.with(chosen, |key, hash| {
            let guard = pin();
            let make = || value(number, &self.live);
            let asked = |entry: &Entry<'_, Counted>| {
                assert_eq!(Some(seen(entry)), before);
                replaces
            };
            match self.table.insert(key, hash, owner, make, asked, &guard) {
                Ok(Inserted::New) => None,
                Ok(Inserted::Replaced(owner)) => Some((true, owner)),
                Ok(Inserted::Taken(entry)) => {
                    assert_eq!(Some(seen(&entry)), before);
                    Some((false, entry.owner))
                }
                Err(error) => panic!("{error}"),
            }
        });
        assert_eq!(done, before.map(|(owner, _)| (replaces, owner)));
        if replaces || before.is_none() {
            self.model.insert(chosen.name(), (owner, number));
        }
    }

    /// Looks an entry up, lets `between` change the table, and gives the entry the value of
    /// `number` if it is unchanged.
    fn replace(&mut self, chosen: &Chosen, between: Option<u16>, number: u16) {
        let before = self.model.get(&chosen.name()).copied();
        let replaced = self.with(chosen, |key, hash| {
            let guard = pin();
            let entry = self.table.get(key, hash, &guard);
            assert_eq!(entry.as_ref().map(seen), before);
            let entry = entry?;
            if let Some(between) = between {
                let value = value(between, &self.live);
                assert!(self.table.replace(key, hash, &entry, value, &guard));
            }
            let now = self.table.get(key, hash, &guard)?;
            let value = value(number, &self.live);
            let done = self.table.replace(key, hash, &entry, value, &guard);
            // A stale entry is detected, unless its value is a word: equal words cannot be
            // distinguished.
            assert_eq!(done, now.same(&entry));
            assert_eq!(
                done,
                between
                    .is_none_or(|between| between % 3 == 0 && before.map(|b| b.1) == Some(between))
            );
            Some(done)
        });
        assert_eq!(replaced.is_some(), before.is_some());
        if let Some((owner, _)) = before {
            let number = match (replaced, between) {
                (Some(false), Some(between)) => between,
                _ => number,
            };
            self.model.insert(chosen.name(), (owner, number));
        }
    }

    fn remove(&mut self, chosen: &Chosen, condition: impl Fn(u64) -> bool) {
        let name = chosen.name();
        let before = self.model.get(&name).copied();
        let expected = before.is_some_and(|(owner, _)| condition(owner));
        let removed = self.with(chosen, |key, hash| {
            let condition = |entry: &Entry<'_, Counted>| {
                assert_eq!(Some(seen(entry)), before);
                condition(entry.owner)
            };
            self.table.remove(key, hash, condition, &pin())
        });
        assert_eq!(removed, expected);
        if removed {
            self.model.remove(&name);
        }
    }

    /// Removes by hash. Several keys may have the hash; the table tells which one it removed.
    fn remove_by_hash(&mut self, chosen: &Chosen) {
        let alike: Vec<Name> = match chosen.name() {
            Name::Opaque(text) if text >= ALIKE => return,
            Name::Opaque(text) => (0..4).map(|it| Name::Opaque(text / 4 * 4 + it)).collect(),
            name => vec![name],
        };
        let hash = self.with(chosen, |_, hash| hash);
        let guard = pin();
        let found = self.table.get_by_hash(hash, |_| true, &guard);
        let expected = found.map(|found| {
            assert_eq!(found.hash, hash);
            let name = Name::of(&found.key);
            assert!(alike.contains(&name));
            assert_eq!(self.model.get(&name), Some(&seen(&found.entry)));
            found.entry
        });
        let is_it = |entry: &Entry<'_, Counted>| expected.is_some_and(|found| found.same(entry));
        let removed = self.table.remove_by_hash(hash, is_it, &guard);
        assert_eq!(removed, expected.is_some());
        let mut gone = 0;
        for name in alike {
            if self.get(&name).is_none() {
                let model = self.model.remove(&name);
                if model.is_some() {
                    gone += 1;
                    assert_eq!(model, expected.as_ref().map(seen));
                }
            }
        }
        assert_eq!(gone, u8::from(removed));
    }

    fn get(&self, name: &Name) -> Option<(u64, u16)> {
        let guard = pin();
        name.with(&self.live, |key| {
            self.table
                .get(key, self.table.hash(key), &guard)
                .as_ref()
                .map(seen)
        })
    }

    /// Walks in steps. Each entry must appear once, in the order of hashes.
    fn walk(&self, limit: usize) {
        let mut found = HashMap::new();
        let mut last = 0;
        let mut from = Some(0);
        while let Some(hash) = from {
            from = self.table.walk(hash, limit, &pin(), |visited| {
                assert!(last <= visited.hash);
                last = visited.hash;
                let entry = (visited.entry.owner, number(visited.entry.value));
                let twice = found.insert(Name::of(&visited.key), entry);
                assert_eq!(twice, None);
            });
            assert!(from.is_none_or(|from| from > hash));
        }
        assert_eq!(found, self.model);
    }

    fn change(&mut self, change: Change) {
        match change {
            Change::Insert {
                key,
                owner,
                number,
                replaces,
            } => self.insert(&key, owner.into(), number, replaces),
            Change::Replace { key, number } => self.replace(&key, None, number),
            Change::ReplaceStale {
                key,
                between,
                number,
            } => self.replace(&key, Some(between), number),
            Change::Remove(key) => self.remove(&key, |_| true),
            Change::RemoveOwned { key, owner } => self.remove(&key, |found| found == owner.into()),
            Change::RemoveByHash(key) => self.remove_by_hash(&key),
            Change::Get(key) => {
                let name = key.name();
                assert_eq!(self.get(&name), self.model.get(&name).copied());
            }
            Change::Grow { from, count } => {
                for number in words(from, count) {
                    self.insert(&Chosen::Word { kind: 1, number }, 300, number, false);
                }
            }
            Change::Shrink { from, count } => {
                for number in words(from, count) {
                    self.remove(&Chosen::Word { kind: 1, number }, |_| true);
                }
            }
            Change::GrowAlike(count) => {
                for number in alike(count) {
                    self.insert(&Chosen::Opaque(number), 301, number, false);
                }
            }
            Change::ShrinkAlike(count) => {
                for number in alike(count) {
                    self.remove(&Chosen::Opaque(number), |_| true);
                }
            }
            Change::Walk { limit } => self.walk(usize::from(limit) + 1),
        }
        assert_eq!(self.table.len(), self.model.len());
    }
}

fn words(from: u8, count: u8) -> impl Iterator<Item = u16> {
    let from = u16::from(from) * 8;
    from..from + u16::from(count) * 8
}

fn alike(count: u8) -> impl Iterator<Item = u16> {
    ALIKE..ALIKE + u16::from(count)
}

fuzz_target!(|input: (u64, Vec<Change>)| {
    let (seed, changes) = input;
    let live = Live::default();
    let mut subject = Subject {
        table: Table::new(Seed::fixed(seed)).expect("there is memory"),
        model: HashMap::new(),
        live: live.clone(),
    };
    let base = subject.table.memory();
    let mut crowds = 0;
    for change in changes.into_iter().take(CHANGES) {
        crowds += usize::from(change.takes_long());
        if crowds <= CROWDS || !change.takes_long() {
            subject.change(change);
        }
    }
    subject.walk(100);
    let names: Vec<Name> = subject.model.keys().cloned().collect();
    for name in &names {
        assert_eq!(subject.get(name), subject.model.get(name).copied());
        let removed = name.with(&live, |key| {
            subject
                .table
                .remove(key, subject.table.hash(key), |_| true, &pin())
        });
        assert!(removed);
        assert_eq!(subject.get(name), None);
    }
    assert!(subject.table.is_empty());
    assert!(
        subject.table.memory() <= 8 * base,
        "it did not shrink again"
    );
    drop(subject);
    check_none_left(&live);
});
