//! The NIFs of event logs.
//!
//! Writes are handed to the log's commit thread, which answers the caller by a message. Reads run
//! on a dirty I/O scheduler. Calls without I/O run where they are called: they wait for short locks
//! only.

mod instance;
mod reads;
mod writes;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use foundation_core::table::pin;
use foundation_log::frame::NAME_MAX;
use foundation_log::{Error, Expected};
use rustler::{Atom, Encoder, Env, Term, atoms};

pub use instance::LIVE;
use instance::{EventLog, NAMES};

use crate::raw::Failure;
use crate::term::{binary_term, required_binary, word};

atoms! {
    all, any, none, exists, io, damaged, in_use, closed, wrong_version, other_stream, error,
}

/// The log of a name.
fn log_of(name: Term) -> Result<Option<Arc<EventLog>>, Failure> {
    if !name.is_atom() {
        return Err(Failure::BadArgument);
    }
    Ok(NAMES.get(word(name), &pin()).cloned())
}

/// The log of a name; the NIF answers `nil` where there is none.
macro_rules! event_log {
    ($env:expr, $name:expr) => {
        match crate::event_log::log_of($name)? {
            Some(log) => log,
            None => return Ok(::rustler::types::atom::nil().encode($env)),
        }
    };
}

use event_log;

/// The name of a stream or a subscription.
fn name_of(term: Term<'_>) -> Result<&[u8], Failure> {
    let name = required_binary(term)?;
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(Failure::BadArgument);
    }
    Ok(name)
}

/// A stream, or `None` for `:all`.
fn stream_or_all(term: Term<'_>) -> Result<Option<&[u8]>, Failure> {
    if term == all().encode(term.get_env()) {
        return Ok(None);
    }
    name_of(term).map(Some)
}

fn expected(term: Term) -> Result<Expected, Failure> {
    let env = term.get_env();
    [
        (any(), Expected::Any),
        (none(), Expected::None),
        (exists(), Expected::Exists),
    ]
    .into_iter()
    .find_map(|(name, expected)| (term == name.encode(env)).then_some(expected))
    .or_else(|| term.decode().ok().map(Expected::At))
    .ok_or(Failure::BadArgument)
}

#[cfg(unix)]
fn path(term: Term) -> Result<PathBuf, Failure> {
    use std::os::unix::ffi::OsStrExt;
    let bytes = required_binary(term)?;
    Ok(Path::new(std::ffi::OsStr::from_bytes(bytes)).into())
}

#[cfg(not(unix))]
fn path(term: Term) -> Result<PathBuf, Failure> {
    let path: &str = term.decode().map_err(|_| Failure::BadArgument)?;
    Ok(path.into())
}

fn path_term<'a>(env: Env<'a>, path: &Path) -> Term<'a> {
    binary_term(env, path.as_os_str().as_encoded_bytes())
}

/// The reason of an error as the callers of the public functions get it.
fn reason<'a>(env: Env<'a>, error: &Error) -> Term<'a> {
    let atom =
        |name| Atom::from_str(env, name).map_or_else(|_| io().encode(env), |it| it.encode(env));
    match error {
        Error::Io(name) => (io(), atom(name)).encode(env),
        Error::Damaged {
            path,
            offset,
            reason,
        } => {
            let reason = (atom(reason.name()), *offset);
            (damaged(), path_term(env, path), reason).encode(env)
        }
        Error::InUse(path) => (in_use(), path_term(env, path)).encode(env),
        Error::WrongVersion(actual) => (wrong_version(), *actual).encode(env),
        Error::OtherStream => other_stream().encode(env),
        Error::Closed => closed().encode(env),
        Error::TooLarge => (io(), atom("efbig")).encode(env),
    }
}

/// `{:error, reason}`.
fn failed<'a>(env: Env<'a>, why: &Error) -> Term<'a> {
    (error(), reason(env, why)).encode(env)
}
