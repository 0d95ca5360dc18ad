//! Foundation's tables in plain Rust: no BEAM in here.
//!
//! - [`table`]: the concurrent hash table that everything hot is kept in.
//! - [`key`]: what a key is to a table.
//! - [`handle`] and [`held`]: what an owner holds, and the protocol of its death.
//! - [`registry`]: a table whose entries belong to owners, with unique or duplicate keys.

pub mod handle;
pub mod held;
pub mod key;
mod primitive;
#[cfg(not(loom))]
pub mod registry;
pub mod table;
