//! Foundation's durable event log in plain Rust: no BEAM in here.
//!
//! A log is a directory of segments. A segment is a list of checked frames, and nothing else; the
//! index of the events is kept in memory and rebuilt when the log is opened. One thread commits:
//! it collects the appends of all callers, writes them with one `fsync`, and then answers.
//!
//! - [`frame`]: how a record becomes bytes, and bytes a record that is known to be whole.
//! - [`storage`]: the files that a log needs, and the disk as one way to have them.
//! - [`segment`]: one file of frames; [`scan`]: reading it from its beginning.
//! - [`marker`]: how far the log has been synced, in a file of its own.
//! - [`hint`]: the index of a sealed segment, so that opening need not read its events.
//! - [`index`]: where each event is.
//! - [`recover`]: opening a directory, whatever the last process left in it.
//! - [`commit`]: the thread that writes.
//! - [`Log`]: what a caller uses.

#![deny(unsafe_code)]

pub mod commit;
pub mod error;
pub mod frame;
pub mod hint;
pub mod index;
pub mod marker;
pub mod recover;
pub mod scan;
pub mod segment;
pub mod storage;

mod compact;
mod copy;
mod log;
mod read;
mod watch;

pub use commit::{Answer, Append, Commit, Expected, Reply, Request, StartAt};
pub use error::{Damage, Error};
pub use log::{Figures, Log, Options, Recovery, Refused, Sync};
pub use read::{Direction, EventRef, Range, Source};

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by it")]
mod tests;
