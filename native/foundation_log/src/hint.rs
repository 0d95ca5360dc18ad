//! The index of a sealed segment, beside it, so that opening a log need not read the events.
//!
//! A hint is written once its segment is sealed, under a temporary name, and renamed. It may be
//! removed at any time: where there is none that fits the segment, the segment is read instead.
//! Each read of an event checks the place that it gives.
//!
//! ```text
//! 8 bytes   "FNDINDEX"
//! 2 bytes   version of this format, little-endian, 1
//! n bytes   a frame: a head, then entries to its end, all in postcard's format
//! ```

use std::collections::HashMap;
use std::io;

use serde::{Deserialize, Serialize};

use crate::error::Damage;
use crate::frame::{self, Header};
use crate::index::{Entry, Place};
use crate::scan::scan;
use crate::segment::{Segment, UNFINISHED};
use crate::storage::Storage;

const MAGIC: &[u8; 8] = b"FNDINDEX";
const VERSION: u16 = 1;
const SUFFIX: &str = ".index";
const PREFIX: usize = MAGIC.len() + size_of::<u16>();
/// More bytes than the longest entry has: two names and some numbers.
const ENTRY_MAX: usize = 2 * frame::NAME_MAX + 256;

/// What segment a hint is of.
#[derive(Serialize, Deserialize)]
struct Head<'a> {
    log: u64,
    sequence: u64,
    nonce: u32,
    /// The segment's length.
    len: u64,
    #[serde(borrow)]
    streams: Vec<&'a [u8]>,
}

/// A frame of the segment.
#[derive(Serialize, Deserialize)]
enum Hinted<'a> {
    Event {
        /// The stream's number in the head.
        stream: u32,
        version: u64,
        position: u64,
        offset: u32,
        len: u32,
    },
    Other {
        offset: u32,
        len: u32,
        #[serde(borrow)]
        header: Header<'a>,
    },
}

/// The name of a segment's hint.
pub fn name(sequence: u64) -> String {
    format!("{sequence:020}{SUFFIX}")
}

/// The number of the segment whose hint has this name.
pub fn sequence(name: &str) -> Option<u64> {
    name.strip_suffix(SUFFIX)?.parse().ok()
}

/// Reads a sealed segment and writes its hint.
pub fn build(storage: &dyn Storage, segment: &Segment) -> io::Result<()> {
    let len = segment.file.size()?;
    let mut names: Vec<Box<[u8]>> = Vec::new();
    let mut ids: HashMap<Box<[u8]>, u32> = HashMap::new();
    let mut entries = Vec::new();
    let mut scratch = [0; ENTRY_MAX];
    let stop = scan(&*segment.file, segment.start, len, |offset, frame| {
        let (offset, len) = (offset as u32, frame.len as u32);
        let hinted = match frame.header {
            Header::Mark { .. } | Header::Sealed { .. } => return Ok(()),
            Header::Event {
                stream,
                version,
                position,
                ..
            } => {
                let known = ids.get(stream).copied();
                let stream = known.unwrap_or_else(|| {
                    names.push(stream.into());
                    ids.insert(stream.into(), names.len() as u32 - 1);
                    names.len() as u32 - 1
                });
                Hinted::Event {
                    stream,
                    version,
                    position,
                    offset,
                    len,
                }
            }
            header => Hinted::Other {
                offset,
                len,
                header,
            },
        };
        let bytes = postcard::to_slice(&hinted, &mut scratch).map_err(|_| Damage::Undecodable)?;
        entries.extend_from_slice(bytes);
        Ok(())
    })?;
    // A damaged segment gets no hint. A read or the next opening reports it.
    if stop.reason.is_some() {
        return Ok(());
    }
    let head = Head {
        log: segment.head.log,
        sequence: segment.head.sequence,
        nonce: segment.head.nonce,
        len,
        streams: names.iter().map(|name| &**name).collect(),
    };
    let head = postcard::to_allocvec(&head).map_err(|_| io::ErrorKind::OutOfMemory)?;
    if head.len() + entries.len() > frame::BODY_MAX {
        return Ok(());
    }
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    frame::write_body(&mut bytes, &head, &entries);
    write(storage, &name(segment.head.sequence), &bytes)
}

fn write(storage: &dyn Storage, name: &str, bytes: &[u8]) -> io::Result<()> {
    let unfinished = format!("{name}{UNFINISHED}");
    let file = storage.create(&unfinished)?;
    let written = file
        .write_at(bytes, 0)
        .and_then(|()| file.sync())
        .and_then(|()| storage.rename(&unfinished, name));
    if written.is_err() {
        let _ = storage.remove(&unfinished);
    }
    written
}

/// The bytes of a segment's hint, if there is one.
pub fn read(storage: &dyn Storage, sequence: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match storage.open(&name(sequence)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let len = file.size()?;
    if len > (PREFIX + frame::HEAD + frame::BODY_MAX) as u64 {
        return Ok(None);
    }
    let mut bytes = vec![0; len as usize];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// The checked body of a hint.
pub fn body(bytes: &[u8]) -> Result<&[u8], Damage> {
    let (prefix, rest) = bytes.split_at_checked(PREFIX).ok_or(Damage::Truncated)?;
    let (magic, version) = prefix.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(Damage::Misplaced);
    }
    if version != VERSION.to_le_bytes() {
        return Err(Damage::UnsupportedVersion);
    }
    frame::body(rest).map_err(|_| Damage::Checksum)
}

/// A hint that is whole, and of the segment as it is.
pub struct Hint {
    bytes: Vec<u8>,
    segment: u64,
}

impl Hint {
    /// The hint of these bytes, unless it is damaged or of another file.
    pub fn of(bytes: Vec<u8>, segment: &Segment, len: u64) -> Option<Hint> {
        let (head, _) = postcard::take_from_bytes::<Head>(body(&bytes).ok()?).ok()?;
        let said = (head.log, head.sequence, head.nonce, head.len);
        let is = segment.head;
        (said == (is.log, is.sequence, is.nonce, len)).then_some(Hint {
            bytes,
            segment: is.sequence,
        })
    }

    /// Shows the frames of the segment that are of use, in order.
    pub fn each(&self, mut visit: impl FnMut(Entry) -> Result<(), Damage>) -> Result<(), Damage> {
        let undecodable = |_| Damage::Undecodable;
        // It has been checked when this was made.
        let body = self.bytes.get(PREFIX + frame::HEAD..).unwrap_or(&[]);
        let (head, mut rest) = postcard::take_from_bytes::<Head>(body).map_err(undecodable)?;
        while !rest.is_empty() {
            let (hinted, others) =
                postcard::take_from_bytes::<Hinted>(rest).map_err(undecodable)?;
            let (offset, len, header) = head.entry(hinted)?;
            let place = Place {
                segment: self.segment,
                offset,
                len,
            };
            visit(Entry { header, place })?;
            rest = others;
        }
        Ok(())
    }
}

impl<'a> Head<'a> {
    fn entry(&self, hinted: Hinted<'a>) -> Result<(u32, u32, Header<'a>), Damage> {
        match hinted {
            Hinted::Event {
                stream,
                version,
                position,
                offset,
                len,
            } => {
                let stream = self.streams.get(stream as usize).ok_or(Damage::Misplaced)?;
                let header = Header::Event {
                    stream,
                    version,
                    position,
                    at: 0,
                    remaining: 0,
                };
                Ok((offset, len, header))
            }
            Hinted::Other {
                offset,
                len,
                header,
            } => Ok((offset, len, header)),
        }
    }
}
