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

use crate::held::HeldSet;
use crate::primitive::{Mutex, lock};

/// The handle of one owner in one table.
#[derive(Debug)]
pub struct Handle<T> {
    pub(crate) state: Mutex<State<T>>,
}

/// What is known of an owner.
#[derive(Debug)]
pub(crate) enum State<T> {
    /// It lives, and holds this.
    Live(HeldSet<T>),
    /// It lives, and what it holds is noted elsewhere.
    Left,
    /// It is dead.
    Dead,
}

/// The owner is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dead;

impl<T> Handle<T> {
    /// The handle of an owner that holds this.
    pub(crate) fn new(held: HeldSet<T>) -> Self {
        Handle {
            state: Mutex::new(State::Live(held)),
        }
    }

    /// Declares the owner dead, and gives what it held.
    pub(crate) fn mark_dead(&self) -> HeldSet<T> {
        match std::mem::replace(&mut *lock(&self.state), State::Dead) {
            State::Live(held) => held,
            State::Left | State::Dead => HeldSet::default(),
        }
    }
}
