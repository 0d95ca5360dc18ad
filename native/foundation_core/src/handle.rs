//! An owner's handle in one table: whether the owner is alive and which entries it has, under one
//! lock.
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
//! Whichever comes first, no entry of a dead owner stays. Either the registration is refused, or
//! the death takes its entry along.

use crate::held::HeldSet;
use crate::primitive::{Mutex, lock};
use crate::table::OutOfMemory;

/// The handle of one owner in one table.
#[derive(Debug)]
pub struct Handle<T> {
    pub(crate) state: Mutex<State<T>>,
}

/// The state of an owner.
#[derive(Debug)]
pub(crate) enum State<T> {
    /// The owner is alive and holds this.
    Live(HeldSet<T>),
    /// The owner is alive, and its holdings are recorded elsewhere.
    Left,
    /// The owner is dead.
    Dead,
}

/// The reason why an owner cannot hold a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotHeld {
    /// The owner is dead.
    Dead,
    /// There is no memory for it.
    OutOfMemory,
}

impl From<OutOfMemory> for NotHeld {
    fn from(_: OutOfMemory) -> Self {
        NotHeld::OutOfMemory
    }
}

impl<T> Handle<T> {
    /// Makes the handle of an owner that holds `held`.
    pub(crate) fn new(held: HeldSet<T>) -> Self {
        Handle {
            state: Mutex::new(State::Live(held)),
        }
    }

    /// Marks the owner dead and returns what it held.
    pub(crate) fn mark_dead(&self) -> HeldSet<T> {
        match std::mem::replace(&mut *lock(&self.state), State::Dead) {
            State::Live(held) => held,
            State::Left | State::Dead => HeldSet::default(),
        }
    }
}
