//! A registry: entries that belong to owners, and go when their owner dies.
//!
//! An owner is a word that means something to the user, who says which owners are alive. Of each
//! owner the registry keeps a [`Handle`](crate::handle::Handle), so that its death costs what it
//! held, and it is watched once, however many entries it has.

mod duplicate;
mod owners;
#[cfg(test)]
mod tests;
mod unique;

pub use duplicate::{Duplicate, Estate, Group};
pub use unique::Unique;

use std::sync::atomic::{AtomicU64, Ordering};

use crate::handle::Dead;
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
