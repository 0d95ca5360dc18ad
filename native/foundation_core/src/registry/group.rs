//! What an owner holds of a key that may have any number of entries.

use super::numbers::Numbers;
use crate::held::{Hashed, Held, HeldSet};

/// What one owner holds of one key: its first entry ever, or others.
///
/// The first was in the key's slot, without a bag, and another registrant may have made a bag of it
/// since. So of that one nothing is noted but the hash, also where its owner has others as well.
#[derive(Debug)]
pub struct Group {
    hash: Hashed,
    pub(super) many: Option<Box<Many>>,
}

/// Entries by their numbers in a bag.
#[derive(Debug)]
pub(super) struct Many {
    pub(super) bag: u64,
    pub(super) numbers: Numbers,
}

impl Held for Group {
    fn hash(&self) -> u64 {
        self.hash.hash()
    }
}

impl Group {
    /// The first entry of a key with this hash.
    fn first(hash: u64) -> Self {
        Group {
            hash: Hashed::new(hash),
            many: None,
        }
    }

    pub(super) fn is_first(&self) -> bool {
        self.many.is_none()
    }

    pub(super) fn is_of(&self, bag: u64) -> bool {
        self.many.as_ref().is_some_and(|many| many.bag == bag)
    }

    /// The numbers of others than the first.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.many.iter().flat_map(|many| many.numbers.iter())
    }

    /// How many those are.
    pub(super) fn count(&self) -> usize {
        self.many.as_ref().map_or(0, |many| many.numbers.len())
    }

    /// Takes out the numbers that are `gone`, and says whether any is left.
    pub(super) fn remove(&mut self, gone: &[u64]) -> bool {
        self.many.as_mut().is_some_and(|many| {
            gone.iter().for_each(|number| many.numbers.remove(*number));
            !many.numbers.is_empty()
        })
    }
}

/// Where an entry has been put.
pub(super) enum Put {
    /// It is its key's first.
    First,
    /// In a bag, with this number.
    Bag { id: u64, number: u64 },
}

/// Notes an entry as held.
pub(super) fn note(held: &mut HeldSet<Group>, hash: u64, put: Put) {
    let Put::Bag { id, number } = put else {
        held.insert(Group::first(hash));
        return;
    };
    let group = held.get_mut(hash, |group| group.is_of(id));
    match group.and_then(|group| group.many.as_mut()) {
        Some(many) => many.numbers.push(number),
        None => {
            let numbers = Numbers::one(number);
            let many = Some(Box::new(Many { bag: id, numbers }));
            let hash = Hashed::new(hash);
            held.insert(Group { hash, many });
        }
    }
}
