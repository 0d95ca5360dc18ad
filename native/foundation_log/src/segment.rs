//! A segment: one file of frames.
//!
//! ```text
//! 8 bytes   "FNDEVLOG"
//! 2 bytes   version of this format, little-endian, 1
//! n bytes   a frame whose body is the segment's head
//! …         frames
//! ```
//!
//! A segment is written under a temporary name, synced and renamed: a segment that has its name has
//! its head. Before the next one is made it is sealed by a last frame, which tells that it is
//! whole, and changes no more.

use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Damage, Error};
use crate::frame;
use crate::storage::{File, Storage};

const MAGIC: &[u8; 8] = b"FNDEVLOG";
/// The version of the format.
const VERSION: u16 = 1;
const SUFFIX: &str = ".events";
/// The suffix of a file's name until the file is complete.
pub const UNFINISHED: &str = ".new";
/// More bytes than a head ever has.
const HEAD_MAX: usize = 128;
/// The first bytes of a segment, which name the format.
const PREFIX: usize = MAGIC.len() + size_of::<u16>();

/// A segment's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The log that it is of.
    pub log: u64,
    /// Its number, from 1.
    pub sequence: u64,
    /// The position of the first event that it may hold.
    pub first: u64,
    /// Another number for each file, also when it replaces one of the same name.
    pub nonce: u32,
    /// Whether removed events have been left out.
    pub compacted: bool,
}

impl Head {
    /// The head's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = [0; HEAD_MAX];
        let body = postcard::to_slice(self, &mut body).expect("a head is shorter than HEAD_MAX");
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        frame::write_body(&mut bytes, body, &[]);
        bytes
    }

    /// The head at the beginning of a segment, and where its frames begin.
    pub fn decode(bytes: &[u8]) -> Result<(Head, u64), (u64, Damage)> {
        let Some((prefix, rest)) = bytes.split_at_checked(PREFIX) else {
            return Err((bytes.len() as u64, Damage::Truncated));
        };
        let (magic, version) = prefix.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err((0, Damage::NotASegment));
        }
        if version != VERSION.to_le_bytes() {
            return Err((MAGIC.len() as u64, Damage::UnsupportedVersion));
        }
        let damaged = |reason| (PREFIX as u64, reason);
        let body = frame::body(rest).map_err(|_| damaged(Damage::Checksum))?;
        let head = postcard::from_bytes(body).map_err(|_| damaged(Damage::Undecodable))?;
        Ok((head, (PREFIX + frame::HEAD + body.len()) as u64))
    }
}

/// A segment's file.
pub struct Segment {
    /// Its head.
    pub head: Head,
    /// Its bytes.
    pub file: Arc<dyn File>,
    /// Where its frames begin.
    pub start: u64,
}

impl Segment {
    /// Makes a segment that has its head and no frames. It is durable, and has its name.
    pub fn create(storage: &dyn Storage, head: Head) -> io::Result<Segment> {
        Self::create_with(storage, head, &[])
    }

    /// Makes a segment of a head and frames, in place of one of the same number.
    pub fn create_with(storage: &dyn Storage, head: Head, frames: &[u8]) -> io::Result<Segment> {
        let name = name(head.sequence);
        let unfinished = format!("{name}{UNFINISHED}");
        let bytes = head.encode();
        let file = storage.create(&unfinished)?;
        let written = file
            .write_at(&bytes, 0)
            .and_then(|()| file.write_at(frames, bytes.len() as u64))
            .and_then(|()| file.sync())
            .and_then(|()| storage.rename(&unfinished, &name))
            .and_then(|()| storage.sync());
        if let Err(error) = written {
            // A full disk has more room without it; if it stays, the next opening removes it.
            let _ = storage.remove(&unfinished);
            return Err(error);
        }
        let start = bytes.len() as u64;
        Ok(Segment { head, file, start })
    }

    /// Opens a segment.
    pub fn open(storage: &dyn Storage, sequence: u64) -> Result<Segment, Error> {
        let name = name(sequence);
        let damaged = |(offset, reason)| Error::Damaged {
            path: storage.path(&name),
            offset,
            reason,
        };
        let file = storage.open(&name)?;
        let mut bytes = [0; HEAD_MAX];
        let read = file.read_at(&mut bytes, 0)?;
        let (head, start) = Head::decode(&bytes[..read]).map_err(damaged)?;
        if head.sequence != sequence {
            return Err(damaged((PREFIX as u64, Damage::Misplaced)));
        }
        Ok(Segment { head, file, start })
    }

    /// The frame that it ends with when it is sealed.
    pub fn seal(head: &Head) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame::write(
            &mut bytes,
            &frame::Header::Sealed { nonce: head.nonce },
            &[],
        );
        bytes
    }

    /// The name of its file.
    pub fn name(&self) -> String {
        name(self.head.sequence)
    }
}

/// The name of a segment's file.
pub fn name(sequence: u64) -> String {
    format!("{sequence:020}{SUFFIX}")
}

/// The number of the segment whose file has this name.
pub fn sequence(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    let well_formed = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    well_formed.then(|| digits.parse().ok()).flatten()
}
