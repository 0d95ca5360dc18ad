//! Foundation's tables in plain Rust: no BEAM in here.
//!
//! - [`table`]: the concurrent hash table that everything hot is kept in.
//! - [`key`]: what a key is to a table.
//! - [`handle`] and [`held`]: what an owner holds, and the protocol of its death.
//! - [`registry`]: a table whose entries belong to owners, with unique or duplicate keys.
//! - `concurrent_table`: a table whose entries belong to nobody.
//! - `events`: what is known of each telemetry event; [`window`], [`batch`] and [`sampler`] decide
//!   what becomes of it.
//! - `span`: what each process is in the middle of.
//! - [`random`]: random numbers.

// Most of what uses the tables is left out of the models' build: what only that needs is no
// mistake.
#![cfg_attr(loom, allow(dead_code))]
#![deny(unsafe_code)]

pub mod batch;
#[cfg(not(loom))]
pub mod concurrent_table;
#[cfg(not(loom))]
pub mod events;
pub mod handle;
pub mod held;
mod interleave;
pub mod key;
mod primitive;
pub mod random;
#[cfg(not(loom))]
pub mod registry;
pub mod sampler;
#[cfg(not(loom))]
pub mod span;
#[allow(unsafe_code)]
pub mod table;
pub mod window;
