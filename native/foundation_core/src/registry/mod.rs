//! A registry: entries that belong to owners, and go when their owner dies.
//!
//! An owner is a word that means something to the user, who says which owners are alive. Of each
//! owner the registry keeps a [`Handle`](crate::handle::Handle), so that its death costs what it
//! held, and it is watched once, however many entries it has.

mod duplicate;
mod group;
mod numbers;
mod owners;
#[cfg(test)]
mod tests;
mod unique;

pub use duplicate::{Duplicate, Estate, Keyed};
pub use group::Group;
pub use unique::Unique;

use crate::handle::Dead;
use crate::primitive::{AtomicU64, Ordering};
use crate::table::OutOfMemory;

/// Why an entry was not registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The key belongs to this owner, who is alive.
    Taken(u64),
    /// The one who was to own it is dead.
    Dead,
    /// The registry has as many entries as it may have.
    Full,
    /// There was no memory for it.
    OutOfMemory,
}

impl From<Dead> for Refused {
    fn from(_: Dead) -> Self {
        Refused::Dead
    }
}

impl From<OutOfMemory> for Refused {
    fn from(_: OutOfMemory) -> Self {
        Refused::OutOfMemory
    }
}

/// The world outside, as far as a registration needs it.
pub trait World {
    /// Whether an owner is alive.
    fn is_alive(&self, owner: u64) -> bool;

    /// Arranges that the registry hears of an owner's death; `false` if it is dead already.
    fn watch(&self, owner: u64) -> bool;
}

/// What a registry has refused and cleaned up.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Registrations refused because the registry was full.
    drops: AtomicU64,
    /// Entries of dead owners that were removed, and have not been reported.
    cleaned: AtomicU64,
}

impl Tally {
    fn add_cleaned(&self, entries: u64) {
        self.cleaned.fetch_add(entries, Ordering::Relaxed);
    }

    fn drop_one(&self) {
        self.drops.fetch_add(1, Ordering::Relaxed);
    }
}

/// How many entries a registry may have, and how many places of these are taken.
///
/// A place is taken when it is certain that its entry comes, before that is there, and given back
/// after it is gone: so there are never more entries than places, however many callers register at
/// once, and nobody is refused for the sake of one that does not come. Without a limit nobody
/// counts.
#[derive(Debug)]
pub(crate) struct Places {
    limit: usize,
    taken: AtomicU64,
}

impl Places {
    fn new(limit: usize) -> Self {
        Places {
            limit,
            taken: AtomicU64::new(0),
        }
    }

    /// Takes a place for an entry that may come, unless there is none.
    fn take(&self) -> Option<Place<'_>> {
        if self.limit != usize::MAX {
            let more = |taken| (taken < self.limit as u64).then_some(taken + 1);
            let order = Ordering::Relaxed;
            self.taken.fetch_update(order, order, more).ok()?;
        }
        Some(Place(self))
    }

    /// Gives back the places of entries that are gone.
    fn give_back(&self, entries: usize) {
        if self.limit != usize::MAX {
            self.taken.fetch_sub(entries as u64, Ordering::Relaxed);
        }
    }
}

/// A place that is given back unless an entry comes.
struct Place<'a>(&'a Places);

impl Place<'_> {
    /// The entry has come: whoever removes it gives the place back.
    fn fill(self) {
        std::mem::forget(self);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.give_back(1);
    }
}

/// The figures of a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Entries.
    pub entries: usize,
    /// Distinct keys.
    pub keys: usize,
    /// Owners that hold an entry.
    pub owners: usize,
    /// Bytes of memory.
    pub memory: usize,
    /// Registrations refused because the registry was full.
    pub drops: u64,
}
