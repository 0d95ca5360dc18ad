//! Errors.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why a log refuses a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The operating system refused; the name is the one that POSIX gives the error.
    Io(&'static str),
    /// A file does not hold what was written to it.
    Damaged {
        /// The file.
        path: PathBuf,
        /// The first byte that cannot be trusted.
        offset: u64,
        /// The kind of damage.
        reason: Damage,
    },
    /// Another process, or another log of this one, has the directory open.
    InUse(PathBuf),
    /// The stream is at another version than expected.
    WrongVersion(u64),
    /// The subscription of this name follows another stream.
    OtherStream,
    /// The log has been closed.
    Closed,
    /// More bytes in one call than a segment can hold.
    TooLarge,
}

/// The kinds of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The file does not begin as a segment does.
    NotASegment,
    /// A later release has written it.
    UnsupportedVersion,
    /// A frame's bytes do not have its checksum.
    Checksum,
    /// The file ends before what was acknowledged does.
    Truncated,
    /// A file that has to be there is not.
    Missing,
    /// A frame is whole, and stands where it does not belong.
    Misplaced,
    /// A frame is whole, and this release cannot read its record.
    Undecodable,
}

impl Damage {
    /// The reason in one word.
    pub fn name(self) -> &'static str {
        match self {
            Damage::NotASegment => "not_a_segment",
            Damage::UnsupportedVersion => "unsupported_version",
            Damage::Checksum => "checksum",
            Damage::Truncated => "truncated",
            Damage::Missing => "missing",
            Damage::Misplaced => "misplaced",
            Damage::Undecodable => "undecodable",
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Error::Io(posix_name(&error))
    }
}

/// The name that POSIX gives an error; `eio` for one that has no name here.
pub fn posix_name(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "enoent",
        io::ErrorKind::PermissionDenied => "eacces",
        io::ErrorKind::AlreadyExists => "eexist",
        io::ErrorKind::StorageFull => "enospc",
        io::ErrorKind::QuotaExceeded => "edquot",
        io::ErrorKind::ReadOnlyFilesystem => "erofs",
        io::ErrorKind::NotADirectory => "enotdir",
        io::ErrorKind::IsADirectory => "eisdir",
        io::ErrorKind::DirectoryNotEmpty => "enotempty",
        io::ErrorKind::FileTooLarge => "efbig",
        io::ErrorKind::InvalidFilename => "enametoolong",
        io::ErrorKind::InvalidInput => "einval",
        io::ErrorKind::Unsupported => "enotsup",
        io::ErrorKind::OutOfMemory => "enomem",
        _ => match error.raw_os_error() {
            Some(23) => "enfile",
            Some(24) => "emfile",
            _ => "eio",
        },
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Error::Io(name) => write!(formatter, "the operating system answered {name}"),
            Error::Damaged {
                path,
                offset,
                reason,
            } => {
                let (path, reason) = (path.display(), reason.name());
                write!(formatter, "{path} is damaged at byte {offset}: {reason}")
            }
            Error::InUse(path) => write!(formatter, "{} is in use", path.display()),
            Error::WrongVersion(actual) => write!(formatter, "the stream is at version {actual}"),
            Error::OtherStream => write!(formatter, "the subscription follows another stream"),
            Error::Closed => write!(formatter, "the log is closed"),
            Error::TooLarge => write!(formatter, "too many bytes for one call"),
        }
    }
}

impl std::error::Error for Error {}
