//! One owner's entries of one key, in a registry with duplicate keys.

use super::numbers::Numbers;
use crate::held::{Hashed, Held, HeldSet};
use crate::memory::boxed;
use crate::table::OutOfMemory;

/// One owner's entries of one key: either the key's first entry, or others.
///
/// The first entry starts in the key's slot, without a bag. A later registration by another owner
/// may move it into a bag at any time. So only the hash is recorded for the first entry, even if
/// its owner also has other entries of the key.
#[derive(Debug)]
pub struct OwnedKey {
    hash: Hashed,
    pub(super) in_bag: Option<Box<InBag>>,
}

/// Entries in a bag, by their numbers.
#[derive(Debug)]
pub(super) struct InBag {
    pub(super) bag: u64,
    pub(super) numbers: Numbers,
}

impl Held for OwnedKey {
    fn hash(&self) -> u64 {
        self.hash.hash()
    }
}

impl OwnedKey {
    /// Makes the record of the first entry of a key with this hash.
    fn first(hash: u64) -> Self {
        OwnedKey {
            hash: Hashed::new(hash),
            in_bag: None,
        }
    }

    pub(super) fn is_first(&self) -> bool {
        self.in_bag.is_none()
    }

    pub(super) fn is_of(&self, bag: u64) -> bool {
        self.in_bag.as_ref().is_some_and(|in_bag| in_bag.bag == bag)
    }

    /// Visits the numbers of the entries other than the first.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.in_bag.iter().flat_map(|in_bag| in_bag.numbers.iter())
    }

    /// Returns the number of entries other than the first.
    pub(super) fn count(&self) -> usize {
        self.in_bag
            .as_ref()
            .map_or(0, |in_bag| in_bag.numbers.len())
    }

    /// Removes the numbers in `gone`, and returns whether any number is left.
    pub(super) fn remove(&mut self, gone: &[u64]) -> bool {
        self.in_bag.as_mut().is_some_and(|in_bag| {
            gone.iter()
                .for_each(|number| in_bag.numbers.remove(*number));
            !in_bag.numbers.is_empty()
        })
    }
}

/// Where an entry was put.
pub(super) enum Put {
    /// In the slot: it is the first of its key.
    First,
    /// In a bag, with this number.
    Bag { id: u64, number: u64 },
}

/// Records an entry as held, for which there is room in `held`.
///
/// # Errors
///
/// When there is no memory for the number of an entry in a bag; then nothing is recorded.
pub(super) fn note(held: &mut HeldSet<OwnedKey>, hash: u64, put: &Put) -> Result<(), OutOfMemory> {
    let Put::Bag { id, number } = *put else {
        held.insert(OwnedKey::first(hash));
        return Ok(());
    };
    let owned = held.get_mut(hash, |owned| owned.is_of(id));
    match owned.and_then(|owned| owned.in_bag.as_mut()) {
        Some(in_bag) => in_bag.numbers.push(number),
        None => {
            let numbers = Numbers::one(number)?;
            let in_bag = Some(boxed(InBag { bag: id, numbers })?);
            let hash = Hashed::new(hash);
            held.insert(OwnedKey { hash, in_bag });
            Ok(())
        }
    }
}
