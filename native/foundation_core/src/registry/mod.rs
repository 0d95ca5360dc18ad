//! A registry: entries that belong to owners, and that are removed when their owner dies.
//!
//! An owner is a word. The caller gives it its meaning, and says which owners are alive. The
//! registry records what each owner holds (see [`Handle`](crate::handle::Handle)). So a death costs
//! time in proportion to its own entries, and an owner is watched only once.

mod duplicate;
mod numbers;
mod owned_key;
#[cfg(test)]
mod tests;
mod unique;

pub use duplicate::{Duplicate, Keyed};
pub use owned_key::OwnedKey;
pub use unique::Unique;

use crate::handle::NotHeld;
use crate::held::{Hashed, IntoIter};
use crate::primitive::{AtomicU64, Ordering};
use crate::table::OutOfMemory;

/// The reason why an entry was not registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The key belongs to this owner, who is alive.
    Taken(u64),
    /// The owner of the new entry is dead.
    Dead,
    /// The registry is full.
    Full,
    /// There was no memory for the entry.
    OutOfMemory,
}

impl From<NotHeld> for Refused {
    fn from(reason: NotHeld) -> Self {
        match reason {
            NotHeld::Dead => Refused::Dead,
            NotHeld::OutOfMemory => Refused::OutOfMemory,
        }
    }
}

impl From<OutOfMemory> for Refused {
    fn from(_: OutOfMemory) -> Self {
        Refused::OutOfMemory
    }
}

/// Tells a registry which owners are alive.
pub trait Liveness {
    /// Returns whether an owner is alive.
    fn is_alive(&self, owner: u64) -> bool;

    /// Arranges that the registry learns about the owner's death. Returns `false` if the owner is
    /// already dead.
    fn watch(&self, owner: u64) -> bool;
}

/// The entries of a dead owner that are still to be removed.
///
/// One call must not take long, so a death with many entries is cleaned up in steps.
pub struct PendingCleanup {
    owner: u64,
    keys: usize,
    rest: Rest,
}

/// The part that is left, for each kind of registry.
enum Rest {
    Unique(IntoIter<Hashed>),
    /// The second field is the key whose entries are being removed.
    Duplicate(IntoIter<OwnedKey>, Option<OwnedKey>),
}

impl PendingCleanup {
    /// Returns how many keys the owner held when it died; [`Duplicate::held_by`] says which count
    /// twice.
    pub fn keys(&self) -> usize {
        self.keys
    }
}

/// Counts of refused registrations and removed entries.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Registrations refused because the registry was full.
    drops: AtomicU64,
    /// Removed entries of dead owners that have not been reported.
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

/// The limit of a registry's entries, and how many places are taken.
///
/// A place is reserved before its entry is inserted and released after the entry is removed. So
/// there are never more entries than places, however many callers register at once. A registration
/// reserves a place only once its owner and its key allow the entry. So no registration is refused
/// because of another that was going to fail. Without a limit there is no count.
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

    /// Reserves a place, if there is one.
    fn reserve(&self) -> Option<Reservation<'_>> {
        if self.limit != usize::MAX {
            let more = |taken| (taken < self.limit as u64).then_some(taken + 1);
            let order = Ordering::Relaxed;
            self.taken.fetch_update(order, order, more).ok()?;
        }
        Some(Reservation(self))
    }

    /// Releases the places of removed entries.
    fn release(&self, entries: usize) {
        if self.limit != usize::MAX {
            self.taken.fetch_sub(entries as u64, Ordering::Relaxed);
        }
    }
}

/// A reserved place. Dropping it releases the place; `commit` keeps it.
struct Reservation<'a>(&'a Capacity);

impl Reservation<'_> {
    /// The entry was inserted. Its removal will release the place.
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
