//! Opening a directory, whatever the last process left in it.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Damage, Error};
use crate::frame::{Frame, Header};
use crate::hint;
use crate::index::{Entry, Index, Place};
use crate::log::Recovery;
use crate::marker::{Marker, MarkerFile};
use crate::scan::{Stop, furthest_synced, scan};
use crate::segment::{self, Head, Segment, UNFINISHED};
use crate::storage::Storage;

/// A log that has been read, and can be written to.
pub struct Opened {
    /// Where everything is.
    pub index: Index,
    /// How far it has been synced.
    pub marker: MarkerFile,
    /// Set if the log had not been closed in order.
    pub recovery: Option<Recovery>,
    /// The sealed segments that have no hint.
    pub without_hint: Vec<u64>,
}

/// A number that no other has, for all that matters.
pub fn random() -> u64 {
    RandomState::new().hash_one(0)
}

/// Reads the directory, and makes a log where there is none.
pub fn open(storage: &dyn Storage) -> Result<Opened, Error> {
    let names = storage.list()?;
    for name in names.iter().filter(|name| name.ends_with(UNFINISHED)) {
        storage.remove(name)?;
    }
    let mut sequences: Vec<u64> = names
        .iter()
        .filter_map(|name| segment::sequence(name))
        .collect();
    sequences.sort_unstable();
    let marker = MarkerFile::read(storage)?;
    match (sequences.as_slice(), marker) {
        ([], None) => create(storage),
        _ => Opening::new(storage, marker).run(&sequences),
    }
}

fn create(storage: &dyn Storage) -> Result<Opened, Error> {
    let head = Head {
        log: random(),
        sequence: 1,
        first: 1,
        nonce: random() as u32,
        compacted: false,
    };
    let segment = Segment::create(storage, head)?;
    let marker = Marker {
        log: head.log,
        segment: head.sequence,
        offset: segment.start,
        ..Marker::default()
    };
    let mut index = Index::default();
    index.add_segment(Arc::new(segment));
    Ok(Opened {
        index,
        marker: MarkerFile::start(storage, marker)?,
        recovery: None,
        without_hint: Vec::new(),
    })
}

struct Opening<'s> {
    storage: &'s dyn Storage,
    marker: Marker,
    known: bool,
    index: Index,
    without_hint: Vec<u64>,
}

impl<'s> Opening<'s> {
    fn new(storage: &'s dyn Storage, marker: Option<Marker>) -> Self {
        Opening {
            storage,
            marker: marker.unwrap_or_default(),
            known: marker.is_some(),
            index: Index::default(),
            without_hint: Vec::new(),
        }
    }

    fn damaged(&self, sequence: u64, offset: u64, reason: Damage) -> Error {
        Error::Damaged {
            path: self.storage.path(&segment::name(sequence)),
            offset,
            reason,
        }
    }

    fn run(mut self, sequences: &[u64]) -> Result<Opened, Error> {
        // Segments are never removed, and the marker's has been there.
        let last = sequences
            .last()
            .copied()
            .unwrap_or(0)
            .max(self.marker.segment)
            .max(1);
        for sequence in 1..=last {
            if sequences.binary_search(&sequence).is_err() {
                return Err(self.damaged(sequence, 0, Damage::Missing));
            }
        }
        let mut cut = None;
        for sequence in 1..=last {
            let segment = Arc::new(Segment::open(self.storage, sequence)?);
            self.check_head(&segment)?;
            self.index.add_segment(segment.clone());
            if sequence < last {
                self.sealed(&segment)?;
            } else {
                cut = Some(self.newest(&segment)?);
            }
        }
        let Some((segment, end, cut_bytes)) = cut else {
            return Err(self.damaged(1, 0, Damage::Missing));
        };
        let closed = self.known && self.marker.closed;
        let recovery = (!closed).then(|| Recovery {
            path: self.path(segment.head.sequence),
            cut_bytes,
        });
        let marker = Marker {
            log: segment.head.log,
            segment: segment.head.sequence,
            offset: end,
            ..self.marker
        };
        let marker = MarkerFile::start(self.storage, marker)?;
        self.remove_stray_hints(last)?;
        Ok(Opened {
            index: self.index,
            marker,
            recovery,
            without_hint: self.without_hint,
        })
    }

    fn path(&self, sequence: u64) -> PathBuf {
        self.storage.path(&segment::name(sequence))
    }

    fn check_head(&self, segment: &Segment) -> Result<(), Error> {
        let head = segment.head;
        let before = self.index.active().map(|events| events.segment.head.log);
        let of_marker = self.known.then_some(self.marker.log);
        let follows = head.first > self.index.position;
        if before.or(of_marker).is_some_and(|log| log != head.log) || !follows {
            return Err(self.damaged(head.sequence, 0, Damage::Misplaced));
        }
        Ok(())
    }

    fn sealed(&mut self, segment: &Segment) -> Result<(), Error> {
        let sequence = segment.head.sequence;
        let len = segment.file.size()?;
        if u32::try_from(len).is_err() {
            return Err(self.damaged(sequence, 0, Damage::Misplaced));
        }
        let bytes = hint::read(self.storage, sequence)?;
        if let Some(hint) = bytes.and_then(|bytes| hint::Hint::of(bytes, segment, len)) {
            let index = &mut self.index;
            let loaded = hint.each(|entry| index.apply(entry));
            self.index.set_end(len);
            // It is whole, and yet wrong: no crash has done that, and the way out is to remove it.
            return loaded.map_err(|reason| Error::Damaged {
                path: self.storage.path(&hint::name(sequence)),
                offset: 0,
                reason,
            });
        }
        let Read { stop, sealed } = self.read(segment, len)?;
        let unsealed = sealed.is_none().then_some(Damage::Truncated);
        if let Some(reason) = stop.reason.or(unsealed) {
            return Err(self.damaged(sequence, stop.offset, reason));
        }
        self.index.set_end(len);
        self.without_hint.push(sequence);
        Ok(())
    }

    /// Takes in the frames of a segment, as far as they are whole and belong to whole appends.
    fn read(&mut self, segment: &Segment, len: u64) -> io::Result<Read> {
        let sequence = segment.head.sequence;
        let mut appends = Appends::default();
        let mut sealed = None;
        let index = &mut self.index;
        let mut stop = scan(&*segment.file, segment.start, len, |offset, frame| {
            if sealed.is_some() {
                return Err(Damage::Misplaced);
            }
            if let Header::Sealed { nonce } = frame.header {
                if nonce != segment.head.nonce || appends.incomplete().is_some() {
                    return Err(Damage::Misplaced);
                }
                sealed = Some(offset);
                return Ok(());
            }
            let place = Place {
                segment: sequence,
                offset: u32::try_from(offset).map_err(|_| Damage::Misplaced)?,
                len: frame.len as u32,
            };
            appends.next(&frame, place, index)
        })?;
        if let Some(offset) = appends.incomplete() {
            stop = Stop {
                offset: offset.into(),
                reason: Some(stop.reason.unwrap_or(Damage::Truncated)),
            };
        }
        Ok(Read { stop, sealed })
    }

    /// Reads the segment that was written to last, and cuts what a crash has torn.
    fn newest(&mut self, segment: &Arc<Segment>) -> Result<(Arc<Segment>, u64, u64), Error> {
        let sequence = segment.head.sequence;
        let len = segment.file.size()?;
        let Read { stop, sealed } = self.read(segment, len)?;
        // It was sealed, and the crash came before the next one was there: it goes on.
        let end = sealed.unwrap_or(stop.offset);
        let is_marked = self.known && self.marker.segment == sequence;
        let acknowledged = if is_marked { self.marker.offset } else { 0 };
        let longer = is_marked && self.marker.closed && len != acknowledged;
        if end < acknowledged || longer {
            let reason = stop.reason.unwrap_or(Damage::Truncated);
            return Err(self.damaged(sequence, end.min(acknowledged), reason));
        }
        if let Some(reason) = stop.reason {
            let nonce = segment.head.nonce;
            if furthest_synced(&*segment.file, nonce, end, len)? > end {
                return Err(self.damaged(sequence, end, reason));
            }
        }
        if end < len {
            segment.file.set_len(end)?;
        }
        // Readers see every whole frame from now on, so each must be durable.
        segment.file.sync()?;
        self.index.set_end(end);
        Ok((segment.clone(), end, len - end))
    }

    /// A hint of a segment that is not sealed, or is not there, is of another time.
    fn remove_stray_hints(&self, last: u64) -> io::Result<()> {
        for name in self.storage.list()? {
            if hint::sequence(&name).is_some_and(|sequence| sequence >= last) {
                self.storage.remove(&name)?;
            }
        }
        Ok(())
    }
}

/// How far a segment could be read, and where its seal is.
struct Read {
    stop: Stop,
    sealed: Option<u64>,
}

/// Takes events in once the last of their append has been met.
#[derive(Default)]
struct Appends {
    waiting: Vec<(Waiting, Place)>,
    stream: Vec<u8>,
}

struct Waiting {
    version: u64,
    position: u64,
    remaining: u32,
}

impl Appends {
    fn next(&mut self, frame: &Frame, place: Place, index: &mut Index) -> Result<(), Damage> {
        let header = frame.header;
        let Header::Event {
            stream,
            version,
            position,
            remaining,
            ..
        } = header
        else {
            if !self.waiting.is_empty() {
                return Err(Damage::Misplaced);
            }
            return index.apply(Entry { header, place });
        };
        if let Some((before, _)) = self.waiting.last() {
            let next = (
                before.version.wrapping_add(1),
                before.position.wrapping_add(1),
            );
            let expected = (next.0, next.1, before.remaining - 1);
            if *stream != *self.stream || (version, position, remaining) != expected {
                return Err(Damage::Misplaced);
            }
        } else if remaining == 0 {
            return index.apply(Entry { header, place });
        } else {
            self.stream.clear();
            self.stream.extend_from_slice(stream);
        }
        let waiting = Waiting {
            version,
            position,
            remaining,
        };
        self.waiting.push((waiting, place));
        if remaining > 0 {
            return Ok(());
        }
        for (waiting, place) in std::mem::take(&mut self.waiting) {
            let header = Header::Event {
                stream,
                version: waiting.version,
                position: waiting.position,
                at: 0,
                remaining: waiting.remaining,
            };
            index.apply(Entry { header, place })?;
        }
        Ok(())
    }

    /// Where an append begins whose last events have not been met.
    fn incomplete(&self) -> Option<u32> {
        self.waiting.first().map(|(_, place)| place.offset)
    }
}
