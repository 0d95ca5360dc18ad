//! Foundation's tables in plain Rust. A reader of this crate needs no knowledge of the BEAM.
//!
//! - [`table`]: the concurrent hash table behind everything hot.
//! - [`key`]: the form in which a table stores and compares keys.
//! - [`handle`] and [`held`]: the entries of one owner, and the protocol for its death.
//! - [`registry`]: a table whose entries belong to owners, with unique or duplicate keys.
//! - `concurrent_table`: a table whose entries have no owner.
//! - `events`: the settings and counts of each telemetry event. [`window`], [`batch`] and
//!   [`sampler`] decide whether and when an event is emitted.
//! - `span`: the open spans of each process.
//! - [`keyed`]: state for each key of an instance, with a bound.
//! - `cache`: a cache with a bound in bytes, and one load for each key.
//! - [`permits`], `breaker` and `limiter`: bounds for the calls of a service.
//! - [`random`]: random numbers.

// The build of the loom models leaves out most code that uses the tables. The helpers of that code
// are then unused, which is no mistake.
#![cfg_attr(loom, allow(dead_code))]
#![deny(unsafe_code)]

pub mod batch;
#[cfg(not(loom))]
pub mod breaker;
pub mod cache;
#[cfg(not(loom))]
pub mod concurrent_table;
#[cfg(not(loom))]
pub mod events;
pub mod handle;
pub mod held;
mod interleave;
pub mod key;
pub mod keyed;
#[cfg(not(loom))]
pub mod limiter;
mod memory;
mod owners;
pub mod permits;
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
