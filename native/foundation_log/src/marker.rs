//! How far the log has been synced, in a file of its own.
//!
//! A damaged frame at the end of the log has one of two causes. Either a crash has torn a frame
//! that was never acknowledged, or the disk has lost one that was. The marker tells them apart: it
//! is written after each `fsync` of a segment and before the answers.
//!
//! The marker itself is not synced. It survives the death of the process. A power cut may leave an
//! older one; then the marks within the segment give the later offsets.
//!
//! The file has two slots of 512 bytes, at the offsets 0 and 4,096, which are written in turn: a
//! torn write leaves the other. A slot is a frame whose body is a [`Marker`].

use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::frame;
use crate::storage::{File, Storage};

/// The file's name.
pub const NAME: &str = "synced";
const SLOT: usize = 512;
const SLOTS: [u64; 2] = [0, 4_096];

/// How far the log has been synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// The log that it is of.
    pub log: u64,
    /// How many have been written before.
    pub count: u64,
    /// The segment that was written last.
    pub segment: u64,
    /// How much of it had been synced.
    pub offset: u64,
    /// Whether the log was closed in order: then it ends exactly here.
    pub closed: bool,
}

impl Marker {
    fn encode(&self) -> [u8; SLOT] {
        let mut body = [0; 64];
        let body = postcard::to_slice(self, &mut body).expect("a marker is shorter than 64 bytes");
        let mut bytes = Vec::with_capacity(SLOT);
        frame::write_body(&mut bytes, body, &[]);
        let mut slot = [0; SLOT];
        slot[..bytes.len()].copy_from_slice(&bytes);
        slot
    }

    /// The marker of a slot.
    pub fn decode(slot: &[u8]) -> Option<Marker> {
        postcard::from_bytes(frame::body(slot).ok()?).ok()
    }
}

/// The open file.
pub struct MarkerFile {
    file: Arc<dyn File>,
    last: Marker,
}

impl MarkerFile {
    /// The newest marker that is whole, of a file that may not be there.
    pub fn read(storage: &dyn Storage) -> io::Result<Option<Marker>> {
        let file = match storage.open(NAME) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut newest: Option<Marker> = None;
        for offset in SLOTS {
            let mut slot = [0; SLOT];
            let read = file.read_at(&mut slot, offset)?;
            if let Some(marker) = Marker::decode(&slot[..read])
                && newest.is_none_or(|newest| newest.count <= marker.count)
            {
                newest = Some(marker);
            }
        }
        Ok(newest)
    }

    /// Opens the file, or makes it, and writes `marker` to both slots, synced.
    pub fn start(storage: &dyn Storage, marker: Marker) -> io::Result<MarkerFile> {
        let file = match storage.open(NAME) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => storage.create(NAME)?,
            Err(error) => return Err(error),
        };
        let mut this = MarkerFile { file, last: marker };
        this.write_both(marker.segment, marker.offset, false)?;
        storage.sync()?;
        Ok(this)
    }

    /// Writes how far the log has been synced.
    pub fn write(&mut self, segment: u64, offset: u64) -> io::Result<()> {
        self.last = Marker {
            count: self.last.count + 1,
            segment,
            offset,
            ..self.last
        };
        let slot = SLOTS[(self.last.count % 2) as usize];
        self.file.write_at(&self.last.encode(), slot)
    }

    /// Writes where the log ends, and whether it is being closed; durable when this returns.
    pub fn write_both(&mut self, segment: u64, offset: u64, closed: bool) -> io::Result<()> {
        self.last.closed = closed;
        self.write(segment, offset)?;
        self.write(segment, offset)?;
        self.file.sync()
    }
}
