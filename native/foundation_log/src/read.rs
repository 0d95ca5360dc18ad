//! Reading events: their places are looked up under the index's lock, and then read without it.

use std::io;
use std::sync::Arc;

use crate::error::{Damage, Error};
use crate::frame::{self, Broken, Frame, Header};
use crate::index::{Index, Place};
use crate::segment::Segment;
use crate::storage::Storage;

/// What to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source<'a> {
    /// The whole log, by positions.
    All,
    /// A stream, by versions.
    Stream(&'a [u8]),
}

/// In which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The oldest first.
    Forward,
    /// The newest first.
    Backward,
}

/// An event, for as long as its bytes are in a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventRef<'a> {
    /// Its stream.
    pub stream: &'a [u8],
    /// Its number in the stream.
    pub version: u64,
    /// Its number in the log.
    pub position: u64,
    /// When it was appended, in microseconds of system time.
    pub at: i64,
    /// The bytes that the caller appended.
    pub data: &'a [u8],
}

/// An event that is to be read.
pub struct Wanted {
    /// The version or position that the reader counts by.
    pub number: u64,
    position: u64,
    segment: Arc<Segment>,
    place: Place,
}

impl Wanted {
    /// The event is not what it has to be.
    pub fn damaged(&self, storage: &dyn Storage, reason: Damage) -> Error {
        damaged_at(storage, &self.segment, self.place, reason)
    }
}

/// What part of a source to read.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// The first version or position that is read; in the order of the direction.
    pub from: u64,
    /// The highest.
    pub to: u64,
    /// How many events at most.
    pub limit: usize,
    /// The order.
    pub direction: Direction,
}

/// Where the events of a range are.
pub fn wanted(index: &Index, source: Source, range: Range) -> Vec<Wanted> {
    let mut found = Vec::new();
    if range.limit == 0 {
        return found;
    }
    let limit = range.limit;
    let mut add = |number, position, segment: &Arc<Segment>, place| {
        found.push(Wanted {
            number,
            position,
            segment: segment.clone(),
            place,
        });
        found.len() < limit
    };
    match (source, range.direction) {
        (Source::All, Direction::Forward) => {
            index.walk(range.from, range.to, |position, segment, place| {
                add(position, position, segment, place)
            });
        }
        (Source::All, Direction::Backward) => {
            let from = range.from.min(range.to);
            index.walk_back(from, |position, segment, place| {
                add(position, position, segment, place)
            });
        }
        (Source::Stream(name), direction) => {
            let Some(stream) = index.stream(name) else {
                return found;
            };
            let (first, last) = (stream.first(), stream.last.min(range.to));
            let mut add_version = |version: u64| {
                let position = stream.positions[(version - first) as usize];
                let located = index.locate(position);
                located.is_none_or(|(segment, place)| add(version, position, &segment, place))
            };
            match direction {
                Direction::Forward => (range.from.max(first)..=last).all(&mut add_version),
                Direction::Backward => (first..=last.min(range.from)).rev().all(&mut add_version),
            };
        }
    }
    found
}

/// How much is read at once at most, unless an event is longer.
const WINDOW: u64 = 1 << 20;
/// How much that nobody asked for is read with what was.
const GAP: u64 = 1 << 14;
/// How much is read of what may be a long event.
const FIRST: u64 = 1 << 16;

/// A piece of a segment in memory.
#[derive(Default)]
pub struct Window {
    segment: Option<Arc<Segment>>,
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// The event that the first of `rest` says where it is, reading some of the others with it.
    pub fn event<'w>(
        &'w mut self,
        storage: &dyn Storage,
        rest: &[Wanted],
        source: Source,
    ) -> Result<Option<EventRef<'w>>, Error> {
        let Some(wanted) = rest.first() else {
            return Ok(None);
        };
        let damaged = |reason| wanted.damaged(storage, reason);
        let frame = self.frame(storage, rest)?;
        let Header::Event {
            stream,
            version,
            position,
            at,
            ..
        } = frame.header
        else {
            return Err(damaged(Damage::Misplaced));
        };
        let is_it = match source {
            Source::All => true,
            Source::Stream(name) => stream == name && version == wanted.number,
        };
        if !is_it || position != wanted.position {
            return Err(damaged(Damage::Misplaced));
        }
        Ok(Some(EventRef {
            stream,
            version,
            position,
            at,
            data: frame.data,
        }))
    }

    fn frame(&mut self, storage: &dyn Storage, rest: &[Wanted]) -> Result<Frame<'_>, Error> {
        let Wanted { segment, place, .. } = &rest[0];
        let offset = u64::from(place.offset);
        let is_same = |it: &Arc<Segment>| Arc::ptr_eq(it, segment);
        let here = self.segment.as_ref().is_some_and(is_same) && self.start <= offset;
        if !here
            || self
                .claimed(offset)
                .is_none_or(|needed| needed > self.left(offset))
        {
            let (start, end) = span(rest);
            self.fill(segment, start, end)?;
        }
        // A frame that is longer than expected is read again, whole.
        if let Some(needed) = self.claimed(offset)
            && needed > self.left(offset)
            && needed <= place.len as usize
        {
            self.fill(segment, offset, offset + needed as u64)?;
        }
        let bytes = self.bytes.get((offset - self.start) as usize..);
        frame::read(bytes.unwrap_or(&[])).map_err(|broken| {
            let reason = match broken {
                Broken::Undecodable => Damage::Undecodable,
                Broken::Short(_) | Broken::Checksum => Damage::Checksum,
            };
            damaged_at(storage, segment, *place, reason)
        })
    }

    fn left(&self, offset: u64) -> usize {
        self.bytes
            .len()
            .saturating_sub((offset - self.start) as usize)
    }

    fn claimed(&self, offset: u64) -> Option<usize> {
        let bytes = self.bytes.get((offset - self.start) as usize..)?;
        frame::claimed(bytes)
    }

    fn fill(&mut self, segment: &Arc<Segment>, start: u64, end: u64) -> io::Result<()> {
        self.segment = Some(segment.clone());
        self.start = start;
        self.bytes.resize((end - start) as usize, 0);
        let read = segment.file.read_at(&mut self.bytes, start)?;
        self.bytes.truncate(read);
        Ok(())
    }
}

/// The piece of a segment that holds the first of `rest`, and as many of the next as are near.
fn span(rest: &[Wanted]) -> (u64, u64) {
    let bounds = |wanted: &Wanted| {
        let start = u64::from(wanted.place.offset);
        (start, start + u64::from(wanted.place.len).min(FIRST))
    };
    let (mut start, mut end) = bounds(&rest[0]);
    for wanted in &rest[1..] {
        let (other_start, other_end) = bounds(wanted);
        let all = (start.min(other_start), end.max(other_end));
        let near = other_start <= end + GAP && start <= other_end + GAP;
        let same = Arc::ptr_eq(&wanted.segment, &rest[0].segment);
        if !same || !near || all.1 - all.0 > WINDOW {
            break;
        }
        (start, end) = all;
    }
    (start, end)
}

/// Reads one frame by its place.
pub fn read_place<T>(
    storage: &dyn Storage,
    segment: &Segment,
    place: Place,
    take: impl FnOnce(Frame) -> Option<T>,
) -> Result<T, Error> {
    let mut bytes = vec![0; place.len as usize];
    let read = segment.file.read_at(&mut bytes, place.offset.into())?;
    let frame = frame::read(&bytes[..read]);
    let frame = frame.map_err(|_| damaged_at(storage, segment, place, Damage::Checksum))?;
    take(frame).ok_or_else(|| damaged_at(storage, segment, place, Damage::Misplaced))
}

fn damaged_at(storage: &dyn Storage, segment: &Segment, place: Place, reason: Damage) -> Error {
    Error::Damaged {
        path: storage.path(&segment.name()),
        offset: place.offset.into(),
        reason,
    }
}
