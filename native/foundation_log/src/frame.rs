//! Frames: how a record becomes bytes, and bytes a record that is known to be whole.
//!
//! ```text
//! 4 bytes   length of the body, little-endian
//! 4 bytes   CRC-32C of the length and the body, little-endian
//! n bytes   body: a header in postcard's format, then data that only the caller understands
//! ```
//!
//! The checksum covers the length, so that a run of zeros is no frame.

use serde::{Deserialize, Serialize};

/// How many bytes precede a body.
pub const HEAD: usize = 8;

/// The longest body.
pub const BODY_MAX: usize = 1 << 30;

/// The longest name of a stream or a subscription.
pub const NAME_MAX: usize = 1_024;

/// The longest header: a name, another, and some numbers.
const HEADER_MAX: usize = 2 * NAME_MAX + 128;

/// The record of a frame. A variant's place in this list is part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Header<'a> {
    /// Begins each commit.
    Mark {
        /// The segment's, so that a copy of another segment's mark is none of this one.
        nonce: u32,
        /// Everything before this offset had been synced when the commit was written.
        synced: u32,
    },
    /// An event; its data follows.
    Event {
        /// Its stream.
        #[serde(borrow)]
        stream: &'a [u8],
        /// Its number in the stream, from 1.
        version: u64,
        /// Its number in the log, from 1.
        position: u64,
        /// When it was appended, in microseconds of system time.
        at: i64,
        /// How many events of the same append follow. An append is there with its last event.
        remaining: u32,
    },
    /// A stream's state at a version; the state follows.
    Snapshot {
        /// The stream.
        #[serde(borrow)]
        stream: &'a [u8],
        /// The version that the state is of.
        version: u64,
    },
    /// Events of a stream have been removed.
    Trimmed {
        /// The stream.
        #[serde(borrow)]
        stream: &'a [u8],
        /// The first version that is kept.
        first: u64,
        /// The stream's version.
        last: u64,
    },
    /// A stream has been deleted, with its snapshot.
    Deleted {
        /// The stream.
        #[serde(borrow)]
        stream: &'a [u8],
        /// The stream's version.
        last: u64,
    },
    /// How far a subscription has got.
    Subscription {
        /// Its name.
        #[serde(borrow)]
        name: &'a [u8],
        /// Its stream; `None` for the whole log.
        #[serde(borrow)]
        stream: Option<&'a [u8]>,
        /// The last version or position that was acknowledged.
        acknowledged: u64,
    },
    /// A subscription is forgotten.
    Unsubscribed {
        /// Its name.
        #[serde(borrow)]
        name: &'a [u8],
    },
    /// Ends a segment that is followed by another.
    Sealed {
        /// The segment's.
        nonce: u32,
    },
}

/// A frame that is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it records.
    pub header: Header<'a>,
    /// The data after the header.
    pub data: &'a [u8],
    /// How long the frame is, with its head.
    pub len: usize,
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The bytes end before the frame does, which needs this many.
    Short(usize),
    /// The checksum is another.
    Checksum,
    /// The checksum is right, and the header is none that this release knows.
    Undecodable,
}

/// Appends a frame to `bytes`, and returns its length.
pub fn write(bytes: &mut Vec<u8>, header: &Header, data: &[u8]) -> usize {
    let mut scratch = [0; HEADER_MAX];
    let header: &[u8] = postcard::to_slice(header, &mut scratch)
        .expect("names are at most NAME_MAX bytes, and HEADER_MAX has room for two");
    write_body(bytes, header, data)
}

/// Appends a frame whose body is `header` and `data`.
pub fn write_body(bytes: &mut Vec<u8>, header: &[u8], data: &[u8]) -> usize {
    let len = (header.len() + data.len()) as u32;
    let crc = crc32c::crc32c(&len.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c_append(crc, header), data);
    bytes.reserve(HEAD + len as usize);
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(header);
    bytes.extend_from_slice(data);
    HEAD + len as usize
}

/// How many bytes the frame at the beginning of `bytes` says that it has, its head included.
pub fn claimed(bytes: &[u8]) -> Option<usize> {
    let (len, _) = bytes.split_first_chunk::<4>()?;
    Some(HEAD + u32::from_le_bytes(*len) as usize)
}

/// The body of the frame that `bytes` begin with.
pub fn body(bytes: &[u8]) -> Result<&[u8], Broken> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() else {
        return Err(Broken::Short(HEAD));
    };
    let [l0, l1, l2, l3, crc @ ..] = *head;
    let length = [l0, l1, l2, l3];
    let len = u32::from_le_bytes(length) as usize;
    if len > BODY_MAX {
        return Err(Broken::Checksum);
    }
    let body = rest.get(..len).ok_or(Broken::Short(HEAD + len))?;
    let actual = crc32c::crc32c_append(crc32c::crc32c(&length), body);
    if actual != u32::from_le_bytes(crc) {
        return Err(Broken::Checksum);
    }
    Ok(body)
}

/// The frame that `bytes` begin with.
pub fn read(bytes: &[u8]) -> Result<Frame<'_>, Broken> {
    let body = body(bytes)?;
    match postcard::take_from_bytes(body) {
        Ok((header, data)) => Ok(Frame {
            header,
            data,
            len: HEAD + body.len(),
        }),
        Err(_) => Err(Broken::Undecodable),
    }
}
