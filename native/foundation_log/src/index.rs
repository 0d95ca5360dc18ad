//! Where each event is. Kept in memory, and rebuilt when the log is opened.
//!
//! An event costs 16 bytes: 8 in its stream's list of positions, 8 in its segment's list of places.
//! A list that grows has room for up to twice its length. A stream costs about 150 bytes and its
//! name.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::HashTable;

use crate::error::Damage;
use crate::frame::{Frame, Header};
use crate::segment::Segment;

/// Where a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The number of its segment.
    pub segment: u64,
    /// Its offset there.
    pub offset: u32,
    /// How long it is.
    pub len: u32,
}

/// A frame that the index has a place for, as it stands in a segment or in a hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// What it records.
    pub header: Header<'a>,
    /// Where it is.
    pub place: Place,
}

/// The state of a stream.
#[derive(Default)]
pub struct Stream {
    /// Its name.
    pub name: Box<[u8]>,
    /// The version of the last event that was ever appended.
    pub last: u64,
    /// The positions of the stored events, whose versions end with `last`.
    pub positions: Vec<u64>,
    /// Whether it has been deleted, and nothing was appended since.
    pub deleted: bool,
    /// Its newest snapshot, and the version that it is of.
    pub snapshot: Option<(u64, Place)>,
    /// The newest record of a removal of events.
    trimmed: Option<Place>,
    /// The newest record of its deletion.
    deletion: Option<Place>,
}

impl Stream {
    /// The version of the first stored event; above `last` if there is none.
    pub fn first(&self) -> u64 {
        self.last.saturating_add(1) - self.positions.len() as u64
    }
}

/// The state of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The stream that it follows; `None` for the whole log.
    pub stream: Option<Box<[u8]>>,
    /// The last version or position that was acknowledged, as it is on disk.
    pub acknowledged: u64,
    place: Place,
}

/// The events of a segment, and how much of the file is of use.
pub struct Events {
    /// The file. Readers keep it while it is replaced.
    pub segment: Arc<Segment>,
    /// Each event's position, less the segment's first, and its offset; in order of both.
    entries: Vec<(u32, u32)>,
    /// How many of the entries are of removed events, and have the offset [`REMOVED`].
    removed: usize,
    /// Where its frames end.
    pub end: u64,
    /// How many bytes of it nobody needs now.
    pub dead: u64,
}

/// No frame has this offset: a segment begins with its head.
const REMOVED: u32 = 0;

impl Events {
    fn new(segment: Arc<Segment>) -> Self {
        let end = segment.start;
        Events {
            segment,
            entries: Vec::new(),
            removed: 0,
            end,
            dead: 0,
        }
    }

    /// Where the entry of a position is, or would be.
    fn index_of(&self, position: u64) -> Result<usize, usize> {
        let wanted = position.saturating_sub(self.segment.head.first);
        // Where nothing was left out it is where it would be in an array.
        let guess = wanted as usize;
        match self.entries.get(guess) {
            Some((found, _)) if u64::from(*found) == wanted => Ok(guess),
            _ => self
                .entries
                .binary_search_by(|(found, _)| u64::from(*found).cmp(&wanted)),
        }
    }

    /// The position and the place of an entry; `None` if its event was removed.
    fn located(&self, index: usize) -> Option<(u64, Place)> {
        let (relative, offset) = *self.entries.get(index)?;
        if offset == REMOVED {
            return None;
        }
        // The bytes up to the next event are counted with this one. No event is longer than that.
        let mut later = self.entries[index + 1..].iter();
        let next = later.find(|(_, offset)| *offset != REMOVED);
        let end = next.map_or(self.end, |(_, offset)| u64::from(*offset));
        let place = Place {
            segment: self.segment.head.sequence,
            offset,
            len: (end - u64::from(offset)) as u32,
        };
        Some((self.segment.head.first + u64::from(relative), place))
    }

    fn remove(&mut self, position: u64) {
        if let Ok(index) = self.index_of(position)
            && let Some((_, place)) = self.located(index)
        {
            self.dead += u64::from(place.len);
            self.entries[index].1 = REMOVED;
            self.removed += 1;
            if self.removed * 2 > self.entries.len() {
                self.forget_removed();
            }
        }
    }

    fn forget_removed(&mut self) {
        self.entries.retain(|(_, offset)| *offset != REMOVED);
        self.entries.shrink_to_fit();
        self.removed = 0;
    }
}

/// Where everything is.
#[derive(Default)]
pub struct Index {
    names: HashTable<u32>,
    hasher: RandomState,
    streams: Vec<Stream>,
    subscriptions: HashMap<Box<[u8]>, Subscription>,
    segments: Vec<Events>,
    /// The position of the last event that was ever appended.
    pub position: u64,
    /// How many events are stored.
    pub events: u64,
    /// How many streams are there, without the deleted ones.
    pub live_streams: u64,
}

impl Index {
    fn id(&self, name: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one(name);
        let streams = &self.streams;
        let is_it = |id: &u32| {
            streams
                .get(*id as usize)
                .is_some_and(|it| *it.name == *name)
        };
        self.names.find(hash, is_it).copied()
    }

    fn id_or_new(&mut self, name: &[u8]) -> usize {
        if let Some(id) = self.id(name) {
            return id as usize;
        }
        let id = self.streams.len();
        self.streams.push(Stream {
            name: name.into(),
            // Not there until an event is.
            deleted: true,
            ..Stream::default()
        });
        let (streams, hasher) = (&self.streams, &self.hasher);
        let rehash = |id: &u32| hasher.hash_one(&*streams[*id as usize].name);
        let hash = hasher.hash_one(name);
        self.names.insert_unique(hash, id as u32, rehash);
        id
    }

    /// The state of a stream.
    pub fn stream(&self, name: &[u8]) -> Option<&Stream> {
        self.id(name).map(|id| &self.streams[id as usize])
    }

    /// A stream's version: 0 if there never was an event.
    pub fn version(&self, name: &[u8]) -> u64 {
        self.stream(name).map_or(0, |stream| stream.last)
    }

    /// The names of streams that are there, at most `limit`, from a cursor on, and the next cursor.
    pub fn names(&self, from: usize, limit: usize) -> (Vec<&[u8]>, Option<usize>) {
        let rest = self.streams.get(from..).unwrap_or(&[]);
        // Deleted streams count too: a call has a bound.
        let page = &rest[..rest.len().min(limit)];
        let live = page.iter().filter(|stream| !stream.deleted);
        let names = live.map(|stream| &*stream.name).collect();
        (names, (rest.len() > limit).then_some(from + limit))
    }

    /// All subscriptions, by their names.
    pub fn subscriptions(&self) -> &HashMap<Box<[u8]>, Subscription> {
        &self.subscriptions
    }

    /// The segments, the oldest first.
    pub fn segments(&self) -> &[Events] {
        &self.segments
    }

    /// The segment that is written to.
    pub fn active(&self) -> Option<&Events> {
        self.segments.last()
    }

    /// The events of a segment.
    pub fn events_of(&self, sequence: u64) -> Option<&Events> {
        let found = self
            .segments
            .binary_search_by_key(&sequence, |events| events.segment.head.sequence);
        found.ok().map(|index| &self.segments[index])
    }

    fn events_of_mut(&mut self, sequence: u64) -> Option<&mut Events> {
        let found = self
            .segments
            .binary_search_by_key(&sequence, |events| events.segment.head.sequence);
        found.ok().map(|index| &mut self.segments[index])
    }

    /// Adds a segment after all others.
    pub fn add_segment(&mut self, segment: Arc<Segment>) {
        if let Some(sealed) = self.segments.last_mut() {
            sealed.entries.shrink_to_fit();
        }
        // The position goes on where the events before it may all have been removed.
        self.position = self.position.max(segment.head.first - 1);
        self.segments.push(Events::new(segment));
    }

    /// Says where the frames of the newest segment end.
    pub fn set_end(&mut self, end: u64) {
        if let Some(events) = self.segments.last_mut() {
            events.end = end;
        }
    }

    /// Where a segment's position lies, by the segment's index.
    fn segment_of(&self, position: u64) -> Option<usize> {
        let after = self
            .segments
            .partition_point(|events| events.segment.head.first <= position);
        after.checked_sub(1)
    }

    /// Where the event of a position is; `None` if it was removed or is still to come.
    pub fn locate(&self, position: u64) -> Option<(Arc<Segment>, Place)> {
        let events = &self.segments[self.segment_of(position)?];
        let (_, place) = events.located(events.index_of(position).ok()?)?;
        Some((events.segment.clone(), place))
    }

    /// Shows the stored events from position `from` to `to`, until `visit` says `false`.
    pub fn walk(
        &self,
        from: u64,
        to: u64,
        mut visit: impl FnMut(u64, &Arc<Segment>, Place) -> bool,
    ) {
        let first = self.segment_of(from).unwrap_or(0);
        for events in self.segments.iter().skip(first) {
            let (Ok(mut index) | Err(mut index)) = events.index_of(from);
            while index < events.entries.len() {
                if let Some((position, place)) = events.located(index)
                    && (position > to || !visit(position, &events.segment, place))
                {
                    return;
                }
                index += 1;
            }
        }
    }

    /// The same, from `from` down to 1.
    pub fn walk_back(&self, from: u64, mut visit: impl FnMut(u64, &Arc<Segment>, Place) -> bool) {
        let Some(last) = self.segment_of(from) else {
            return;
        };
        for events in self.segments[..=last].iter().rev() {
            let mut after = match events.index_of(from) {
                Ok(index) => index + 1,
                Err(index) => index,
            };
            while let Some(index) = after.checked_sub(1) {
                if let Some((position, place)) = events.located(index)
                    && !visit(position, &events.segment, place)
                {
                    return;
                }
                after = index;
            }
        }
    }

    /// Counts a frame as dead.
    fn mark_dead(&mut self, place: Place) {
        if let Some(events) = self.events_of_mut(place.segment) {
            events.dead += u64::from(place.len);
        }
    }

    /// Removes the stored events of a stream below a version.
    fn cut(&mut self, id: usize, first: u64) {
        let stream = &mut self.streams[id];
        let count = first.saturating_sub(stream.first()) as usize;
        let count = count.min(stream.positions.len());
        let removed: Vec<u64> = stream.positions.drain(..count).collect();
        stream.positions.shrink_to_fit();
        for position in &removed {
            if let Some(index) = self.segment_of(*position) {
                self.segments[index].remove(*position);
            }
        }
        self.events -= count as u64;
    }

    /// Takes in what a frame records, in the order of the log.
    pub fn apply(&mut self, entry: Entry) -> Result<(), Damage> {
        let place = entry.place;
        match entry.header {
            Header::Mark { .. } | Header::Sealed { .. } => {}
            Header::Event {
                stream,
                version,
                position,
                ..
            } => self.apply_event(stream, version, position, place)?,
            Header::Snapshot { stream, version } => {
                let id = self.id_or_new(stream);
                let old = self.streams[id].snapshot.replace((version, place));
                if let Some((_, old)) = old {
                    self.mark_dead(old);
                }
            }
            Header::Trimmed {
                stream,
                first,
                last,
            } => {
                let id = self.id_or_new(stream);
                // Compaction may have left the events out, and then only this record has their
                // count.
                let had_more = last > self.streams[id].last;
                self.raise(id, last);
                self.cut(id, first);
                if had_more && self.streams[id].deleted {
                    self.streams[id].deleted = false;
                    self.live_streams += 1;
                }
                if let Some(old) = self.streams[id].trimmed.replace(place) {
                    self.mark_dead(old);
                }
            }
            Header::Deleted { stream, last } => {
                let id = self.id_or_new(stream);
                self.raise(id, last);
                self.cut(id, u64::MAX);
                let it = &mut self.streams[id];
                let was_deleted = std::mem::replace(&mut it.deleted, true);
                let old = [
                    it.snapshot.take().map(|(_, place)| place),
                    it.trimmed.take(),
                    it.deletion.replace(place),
                ];
                self.live_streams -= u64::from(!was_deleted);
                old.into_iter()
                    .flatten()
                    .for_each(|old| self.mark_dead(old));
            }
            Header::Subscription {
                name,
                stream,
                acknowledged,
            } => {
                let subscription = Subscription {
                    stream: stream.map(Into::into),
                    acknowledged,
                    place,
                };
                if let Some(old) = self.subscriptions.insert(name.into(), subscription) {
                    self.mark_dead(old.place);
                }
            }
            Header::Unsubscribed { name } => {
                if let Some(old) = self.subscriptions.remove(name) {
                    self.mark_dead(old.place);
                }
                // It stays of use as long as an older record of the subscription may be there.
            }
        }
        Ok(())
    }

    /// A stream is at least at this version: what is below and not stored was removed.
    fn raise(&mut self, id: usize, last: u64) {
        if self.streams[id].last < last {
            self.cut(id, u64::MAX);
            self.streams[id].last = last;
        }
    }

    fn apply_event(
        &mut self,
        stream: &[u8],
        version: u64,
        position: u64,
        place: Place,
    ) -> Result<(), Damage> {
        let id = self.id_or_new(stream);
        if position <= self.position || version <= self.streams[id].last {
            return Err(Damage::Misplaced);
        }
        // A gap: compaction has left the events in between out, because a later record removes
        // them. That record removes all earlier events too.
        self.raise(id, version - 1);
        let Some(events) = self.segments.last_mut() else {
            return Err(Damage::Misplaced);
        };
        let relative = u32::try_from(position - events.segment.head.first);
        let relative = relative.map_err(|_| Damage::Misplaced)?;
        events.entries.push((relative, place.offset));
        events.end = u64::from(place.offset) + u64::from(place.len);
        let it = &mut self.streams[id];
        it.last = version;
        it.positions.push(position);
        self.live_streams += u64::from(std::mem::replace(&mut it.deleted, false));
        self.position = position;
        self.events += 1;
        Ok(())
    }

    /// Whether a frame of a segment still says something.
    pub fn is_live(&self, frame: &Frame, place: Place) -> bool {
        let is_here =
            |other: &Place| (other.segment, other.offset) == (place.segment, place.offset);
        match frame.header {
            Header::Mark { .. } | Header::Sealed { .. } => false,
            Header::Event { position, .. } => self
                .locate(position)
                .is_some_and(|(_, located)| is_here(&located)),
            Header::Snapshot { stream, .. } => {
                let snapshot = self.stream(stream).and_then(|it| it.snapshot.as_ref());
                snapshot.is_some_and(|(_, place)| is_here(place))
            }
            Header::Trimmed { stream, .. } => {
                let trimmed = self.stream(stream).and_then(|it| it.trimmed.as_ref());
                trimmed.is_some_and(is_here)
            }
            Header::Deleted { stream, .. } => {
                let deletion = self.stream(stream).and_then(|it| it.deletion.as_ref());
                deletion.is_some_and(is_here)
            }
            Header::Subscription { name, .. } => {
                let subscription = self.subscriptions.get(name);
                subscription.is_some_and(|it| is_here(&it.place))
            }
            Header::Unsubscribed { name } => !self.subscriptions.contains_key(name),
        }
    }

    /// Puts a segment without its dead frames in the place of the one that it was made from.
    ///
    /// `moved` says where each of its frames was, and where it is now, in order.
    pub fn replace_segment(&mut self, segment: Arc<Segment>, end: u64, moved: &[(u32, u32)]) {
        let sequence = segment.head.sequence;
        let target = |offset: u32| {
            let found = moved.binary_search_by_key(&offset, |(old, _)| *old);
            found.ok().map(|index| moved[index].1)
        };
        let mut live = 0;
        let Some(events) = self.events_of_mut(sequence) else {
            return;
        };
        for (_, offset) in &mut events.entries {
            *offset = target(*offset).unwrap_or(REMOVED);
        }
        events.forget_removed();
        events.end = end;
        events.segment = segment;
        let mut lens = Vec::new();
        for index in 0..events.entries.len() {
            lens.extend(events.located(index).map(|(_, place)| u64::from(place.len)));
        }
        live += lens.iter().sum::<u64>();
        let places = self.streams.iter_mut().flat_map(|stream| {
            let snapshot = stream.snapshot.as_mut().map(|(_, place)| place);
            [snapshot, stream.trimmed.as_mut(), stream.deletion.as_mut()]
        });
        let subscriptions = self.subscriptions.values_mut();
        let places = places
            .flatten()
            .chain(subscriptions.map(|subscription| &mut subscription.place));
        for place in places.filter(|place| place.segment == sequence) {
            if let Some(new) = target(place.offset) {
                place.offset = new;
            }
            live += u64::from(place.len);
        }
        if let Some(events) = self.events_of_mut(sequence) {
            let start = events.segment.start;
            // Frames may have died during the compaction.
            events.dead = (end - start).saturating_sub(live);
        }
    }
}
