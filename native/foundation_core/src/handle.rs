//! An owner's handle in one table: whether it lives, and what it holds, under one lock.
//!
//! ```text
//!   register                        death
//!   ────────                        ─────
//!   lock the handle                 lock the handle
//!   dead? then refuse               dead from now on; take what it holds
//!   insert into the table           unlock
//!   note it as held                 remove what was taken from the table
//!   unlock
//! ```
//!
//! Whichever comes first, no entry of a dead owner stays: either the registration is refused, or
//! its entry is among what the death takes.

use crate::held::{Held, HeldSet};
use crate::primitive::{Mutex, MutexGuard, lock};

/// The handle of one owner in one table.
pub struct Handle<T> {
    /// What it holds; `None` once it is dead.
    held: Mutex<Option<HeldSet<T>>>,
}

/// The owner is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dead;

impl<T> Default for Handle<T> {
    fn default() -> Self {
        Handle {
            held: Mutex::new(Some(HeldSet::default())),
        }
    }
}

impl<T: Held> Handle<T> {
    /// Changes the table and what the owner holds, together.
    ///
    /// # Errors
    ///
    /// When the owner is dead: `change` is not called then.
    pub fn with<R>(&self, change: impl FnOnce(&mut HeldSet<T>) -> R) -> Result<R, Dead> {
        let mut held: MutexGuard<'_, _> = lock(&self.held);
        held.as_mut().map(change).ok_or(Dead)
    }

    /// Declares the owner dead, and gives what it held: empty if it was dead before.
    pub fn bury(&self) -> HeldSet<T> {
        lock(&self.held).take().unwrap_or_default()
    }
}
