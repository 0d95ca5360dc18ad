//! A registry: entries that belong to owners, and go when their owner dies.
//!
//! An owner is a word that means something to the user, who says which owners are alive. Of each
//! owner the registry keeps a [`Handle`](crate::handle::Handle), so that its death costs what it
//! held, and it is watched once, however many entries it has.

mod duplicate;
mod numbers;
mod owned_key;
mod owners;
#[cfg(test)]
mod tests;
mod unique;

pub use duplicate::{Duplicate, Keyed};
pub use owned_key::OwnedKey;
pub use unique::Unique;

use crate::handle::Dead;
use crate::held::{Hashed, IntoIter};
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

/// Tells a registry which owners are alive.
pub trait Liveness {
    /// Whether an owner is alive.
    fn is_alive(&self, owner: u64) -> bool;

    /// Arranges that the registry hears of an owner's death; `false` if it is dead already.
    fn watch(&self, owner: u64) -> bool;
}

/// The entries of a dead owner that are still to be removed.
///
/// One call must not take long, so a death that leaves many entries is cleaned up in steps.
pub struct PendingCleanup {
    owner: u64,
    keys: usize,
    rest: Rest,
}

/// The part that is left, by the kind of registry.
enum Rest {
    Unique(IntoIter<Hashed>),
    /// The second is the key whose entries are being removed.
    Duplicate(IntoIter<OwnedKey>, Option<OwnedKey>),
}

impl PendingCleanup {
    /// How many keys the owner held when it died. See [`Duplicate::held_by`] for what counts twice.
    pub fn keys(&self) -> usize {
        self.keys
    }
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
pub(crate) struct Capacity {
    limit: usize,
    taken: AtomicU64,
}

impl Capacity {
    fn new(limit: usize) -> Self {
        Capacity {
            limit,
            taken: AtomicU64::new(0),
        }
    }

    /// Takes a place for an entry that may come, unless there is none.
    fn reserve(&self) -> Option<Reservation<'_>> {
        if self.limit != usize::MAX {
            let more = |taken| (taken < self.limit as u64).then_some(taken + 1);
            let order = Ordering::Relaxed;
            self.taken.fetch_update(order, order, more).ok()?;
        }
        Some(Reservation(self))
    }

    /// Gives back the places of entries that are gone.
    fn release(&self, entries: usize) {
        if self.limit != usize::MAX {
            self.taken.fetch_sub(entries as u64, Ordering::Relaxed);
        }
    }
}

/// A place that is given back unless an entry comes.
struct Reservation<'a>(&'a Capacity);

impl Reservation<'_> {
    /// The entry has come: whoever removes it gives the place back.
    fn commit(self) {
        std::mem::forget(self);
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.0.release(1);
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
