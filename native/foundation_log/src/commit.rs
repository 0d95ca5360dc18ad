//! The thread that writes: it collects the requests of all callers, writes them with one `fsync`,
//! makes them visible, and answers.
//!
//! The group commit is that of databases (Gray and Reuter, "Transaction Processing", chapter 9):
//! while one `fsync` runs, the requests for the next one gather.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};

use crate::compact;
use crate::error::Error;
use crate::frame::{self, Header};
use crate::index::{Entry, Index, Place};
use crate::log::{Shared, Sync};
use crate::marker::MarkerFile;
use crate::recover::random;
use crate::segment::{Head, Segment};

/// How many requests may wait.
pub const QUEUE_MAX: usize = 4_096;
/// A commit that has this many bytes takes no more requests.
const COMMIT_BYTES: usize = 8 << 20;
/// A segment's offsets are 32 bits wide.
const SEGMENT_MAX: u64 = u32::MAX as u64;
/// More than the mark of a commit needs.
const MARK_MAX: u64 = 32;
/// How many bytes are written again at a time.
const REWRITTEN: u64 = 1 << 20;
/// How long an acknowledgement waits for others before it is written.
const ACK_DELAY: Duration = Duration::from_millis(500);
/// How long a commit waits at most for callers that the last one has answered.
const GATHER_MAX: Duration = Duration::from_micros(200);

/// The version that a stream must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Anything.
    Any,
    /// There never was an event.
    None,
    /// There was an event once.
    Exists,
    /// This one.
    At(u64),
}

impl Expected {
    fn check(self, actual: u64) -> Result<(), Error> {
        let holds = match self {
            Expected::Any => true,
            Expected::None => actual == 0,
            Expected::Exists => actual > 0,
            Expected::At(version) => actual == version,
        };
        holds.then_some(()).ok_or(Error::WrongVersion(actual))
    }
}

/// Where a new subscription starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    /// After this version or position.
    After(u64),
    /// After the last one there is.
    End,
}

/// Events to append to a stream.
#[derive(Clone, Debug)]
pub struct Append {
    /// The stream.
    pub stream: Box<[u8]>,
    /// The version that it must have.
    pub expected: Expected,
    /// When they are appended, in microseconds of system time.
    pub at: i64,
    /// The data of all events.
    pub data: Vec<u8>,
    /// Where in it the data of each event ends.
    pub ends: Vec<u32>,
}

/// A request to the commit thread.
pub enum Request {
    /// Append events: answered with the stream's version.
    Append(Append, Reply),
    /// Store a snapshot, unless there is a newer one.
    PutSnapshot {
        /// The stream.
        stream: Box<[u8]>,
        /// The version that the state is of.
        version: u64,
        /// The state.
        state: Box<[u8]>,
        /// The answer.
        reply: Reply,
    },
    /// Remove the events of a stream below a version.
    Trim {
        /// The stream.
        stream: Box<[u8]>,
        /// The first version that is kept.
        before: u64,
        /// The answer.
        reply: Reply,
    },
    /// Delete a stream.
    Delete {
        /// The stream.
        stream: Box<[u8]>,
        /// The version that it must have.
        expected: Expected,
        /// The answer.
        reply: Reply,
    },
    /// Begin or resume a subscription: answered with the last number that was acknowledged.
    Subscribe {
        /// Its name.
        name: Box<[u8]>,
        /// The stream that it follows; `None` for the whole log.
        stream: Option<Box<[u8]>>,
        /// Where it starts if it is new.
        start: StartAt,
        /// The answer.
        reply: Reply,
    },
    /// Forget a subscription.
    Forget {
        /// Its name.
        name: Box<[u8]>,
        /// The answer.
        reply: Reply,
    },
    /// There are acknowledgements to be written, a little later.
    Acknowledged,
    /// End, after everything that was asked for before.
    Close,
}

impl Request {
    /// Drops the request without an answer.
    pub fn discard(self) {
        match self {
            Request::Append(_, reply)
            | Request::PutSnapshot { reply, .. }
            | Request::Trim { reply, .. }
            | Request::Delete { reply, .. }
            | Request::Subscribe { reply, .. }
            | Request::Forget { reply, .. } => reply.discard(),
            Request::Acknowledged | Request::Close => {}
        }
    }
}

/// The figures of one commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// How long the write and the sync took.
    pub duration: Duration,
    /// How many appends it had.
    pub appends: u64,
    /// How many events.
    pub events: u64,
    /// How many bytes were written.
    pub bytes: u64,
}

/// An answer.
pub struct Answer {
    /// The result.
    pub result: Result<u64, Error>,
    /// The commit, for one of those that it answers.
    pub commit: Option<Commit>,
}

type Send = Box<dyn FnOnce(Answer) -> bool + std::marker::Send>;

/// How a request is answered: exactly once, with `Closed` if nobody does.
pub struct Reply(Option<Send>);

impl Reply {
    /// Answers by a call of `send`, which says whether there is still somebody who hears it.
    pub fn new(send: impl FnOnce(Answer) -> bool + std::marker::Send + 'static) -> Self {
        Reply(Some(Box::new(send)))
    }

    /// Answers nothing: the caller of the request knows better.
    fn discard(mut self) {
        self.0 = None;
    }

    fn send(mut self, answer: Answer) -> bool {
        self.0.take().is_some_and(|send| send(answer))
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(send) = self.0.take() {
            send(Answer {
                result: Err(Error::Closed),
                commit: None,
            });
        }
    }
}

/// The requests of one commit, until they are written.
#[derive(Default)]
struct Draft {
    bytes: Vec<u8>,
    /// The streams that events are appended to, and their versions after it.
    versions: HashMap<Box<[u8]>, u64>,
    /// The streams and subscriptions that something else is said of.
    others: HashSet<Box<[u8]>>,
    position: u64,
    answers: Vec<(Reply, Result<u64, Error>)>,
    commit: Commit,
    acks: HashMap<Box<[u8]>, u64>,
}

/// The state of the commit thread.
pub struct Writer {
    shared: Arc<Shared>,
    marker: MarkerFile,
    /// Keeps other logs from the directory.
    lock: Option<Box<dyn Any + std::marker::Send>>,
    requests: Receiver<Request>,
    /// A request that cannot be in the same commit as those before it.
    deferred: Option<Request>,
    /// How much of the newest segment has been synced.
    synced: u64,
    sync_due: Option<Instant>,
    ack_due: Option<Instant>,
    /// Whether something may stand in the newest segment after its end.
    torn: bool,
    /// Whether a sync has failed. The system may then take the pages for written and leave them out
    /// of the next sync, so all unsynced bytes must be written again. See Rebello et al., "Can
    /// Applications Recover from fsync Failures?", ATC 2020.
    unsure: bool,
    last_requests: usize,
    last_duration: Duration,
    maintenance: Option<JoinHandle<()>>,
    closing: bool,
}

impl Writer {
    /// The state of a thread that is going to run.
    pub fn new(
        shared: Arc<Shared>,
        marker: MarkerFile,
        lock: Box<dyn Any + std::marker::Send>,
        requests: Receiver<Request>,
    ) -> Self {
        let synced = shared.index().active().map_or(0, |events| events.end);
        Writer {
            shared,
            marker,
            lock: Some(lock),
            requests,
            deferred: None,
            synced,
            sync_due: None,
            ack_due: None,
            torn: false,
            unsure: false,
            last_requests: 0,
            last_duration: Duration::ZERO,
            maintenance: None,
            closing: false,
        }
    }

    /// Runs until the log is closed.
    pub fn run(&mut self) {
        self.maintain();
        while !self.closing || self.deferred.is_some() {
            let mut draft = Draft {
                position: self.shared.index().position,
                ..Draft::default()
            };
            self.gather(&mut draft);
            self.add_acks(&mut draft);
            self.finish(draft);
            if self.sync_due.is_some_and(|due| due <= Instant::now()) {
                self.sync();
            }
        }
    }

    /// Ends the log: what has been written is synced, unless the thread has panicked.
    pub fn end(&mut self, panicked: bool) {
        self.shared.maintenance().closing = true;
        if let Some(maintenance) = self.maintenance.take() {
            // A panic there has been reported, and concerns nothing here.
            let _ = maintenance.join();
        }
        if !panicked {
            // Where it fails the next opening finds a log that was not closed in order.
            let _ = self.close();
        }
        self.lock = None;
        let wakes = self.shared.watchers().take_all();
        wakes.into_iter().for_each(|wake| wake());
    }

    fn close(&mut self) -> Result<(), Error> {
        self.ack_due = Some(Instant::now());
        let mut draft = Draft {
            position: self.shared.index().position,
            ..Draft::default()
        };
        self.add_acks(&mut draft);
        self.finish(draft);
        let (segment, end) = self.newest()?;
        self.mend(&segment, end)?;
        self.sync_file(&segment)?;
        self.marker.write_both(segment.head.sequence, end, true)?;
        Ok(())
    }

    fn next_due(&self) -> Option<Instant> {
        self.sync_due.into_iter().chain(self.ack_due).min()
    }

    /// Waits for a request, or until something else is due, and takes all that are there.
    fn gather(&mut self, draft: &mut Draft) {
        let first = match (self.deferred.take(), self.next_due()) {
            (Some(request), _) => Ok(request),
            (None, Some(due)) => self.requests.recv_deadline(due),
            (None, None) => self
                .requests
                .recv()
                .map_err(|_| RecvTimeoutError::Disconnected),
        };
        match first {
            Ok(request) => self.add(draft, request),
            Err(RecvTimeoutError::Timeout) => return,
            Err(RecvTimeoutError::Disconnected) => self.closing = true,
        }
        // Those that were answered last are about to ask again: without a moment for them, every
        // other commit would be of the quickest of them alone.
        let patience = GATHER_MAX.min(self.last_duration / 2);
        let until = Instant::now() + patience;
        while !self.is_full(draft) {
            let next = if draft.answers.len() < self.last_requests {
                self.requests.recv_deadline(until)
            } else {
                self.requests.try_recv().map_err(|error| match error {
                    TryRecvError::Empty => RecvTimeoutError::Timeout,
                    TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
                })
            };
            match next {
                Ok(request) => self.add(draft, request),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => {
                    self.closing = true;
                    break;
                }
            }
        }
    }

    fn is_full(&self, draft: &Draft) -> bool {
        self.closing
            || self.deferred.is_some()
            || draft.bytes.len() >= COMMIT_BYTES
            || draft.answers.len() >= QUEUE_MAX
    }

    fn add(&mut self, draft: &mut Draft, request: Request) {
        let shared = self.shared.clone();
        let index = shared.index();
        match request {
            Request::Append(append, reply) => {
                if draft.others.contains(&append.stream) {
                    self.deferred = Some(Request::Append(append, reply));
                    return;
                }
                let result = draft.append(&index, append);
                draft.answers.push((reply, result));
            }
            Request::Acknowledged => {
                drop(index);
                self.note_acks();
            }
            Request::Close => {
                self.closing = true;
                // The queue is in order: every earlier request has been taken.
            }
            other => {
                if draft.concerns(&other) {
                    self.deferred = Some(other);
                    return;
                }
                drop(index);
                self.add_other(draft, other);
            }
        }
    }

    fn note_acks(&mut self) {
        if self.ack_due.is_none() && !self.shared.acks().is_empty() {
            self.ack_due = Some(Instant::now() + ACK_DELAY);
        }
    }

    fn add_other(&mut self, draft: &mut Draft, request: Request) {
        let shared = self.shared.clone();
        let index = shared.index();
        let (reply, result) = match request {
            Request::PutSnapshot {
                stream,
                version,
                state,
                reply,
            } => {
                let stored = index.stream(&stream).and_then(|stream| stream.snapshot);
                if stored.is_none_or(|(stored, _)| stored <= version) {
                    let header = Header::Snapshot {
                        stream: &stream,
                        version,
                    };
                    frame::write(&mut draft.bytes, &header, &state);
                    draft.others.insert(stream);
                }
                (reply, Ok(version))
            }
            Request::Trim {
                stream,
                before,
                reply,
            } => {
                if let Some(it) = index.stream(&stream) {
                    let (first, last) = (before.min(it.last + 1), it.last);
                    if first > it.first() {
                        let header = Header::Trimmed {
                            stream: &stream,
                            first,
                            last,
                        };
                        frame::write(&mut draft.bytes, &header, &[]);
                        draft.others.insert(stream);
                    }
                }
                (reply, Ok(0))
            }
            Request::Delete {
                stream,
                expected,
                reply,
            } => {
                let it = index.stream(&stream);
                let last = it.map_or(0, |it| it.last);
                let exists = it.is_some_and(|it| !it.deleted || it.snapshot.is_some());
                let result = expected.check(last);
                if exists && result.is_ok() {
                    let header = Header::Deleted {
                        stream: &stream,
                        last,
                    };
                    frame::write(&mut draft.bytes, &header, &[]);
                    draft.others.insert(stream);
                }
                (reply, result.map(|()| last))
            }
            Request::Subscribe {
                name,
                stream,
                start,
                reply,
            } => {
                let result = draft.subscribe(&index, &name, stream.as_deref(), start);
                let acked = self.shared.acks().get(&name).copied();
                draft.others.insert(name);
                (
                    reply,
                    result.map(|number| acked.map_or(number, |acked| acked.max(number))),
                )
            }
            Request::Forget { name, reply } => {
                self.shared.acks().remove(&name);
                if index.subscriptions().contains_key(&name) {
                    frame::write(&mut draft.bytes, &Header::Unsubscribed { name: &name }, &[]);
                }
                draft.others.insert(name);
                (reply, Ok(0))
            }
            Request::Append(..) | Request::Acknowledged | Request::Close => return,
        };
        draft.answers.push((reply, result));
    }

    /// Adds the acknowledgements that have waited long enough.
    fn add_acks(&mut self, draft: &mut Draft) {
        self.note_acks();
        if self.ack_due.is_none_or(|due| due > Instant::now()) {
            return;
        }
        self.ack_due = None;
        let acks = std::mem::take(&mut *self.shared.acks());
        let index = self.shared.index();
        for (name, number) in &acks {
            // A subscription of which this commit says something else was begun or forgotten in it.
            let known = index.subscriptions().get(name);
            if let Some(subscription) = known.filter(|_| !draft.others.contains(name)) {
                let header = Header::Subscription {
                    name,
                    stream: subscription.stream.as_deref(),
                    acknowledged: *number,
                };
                frame::write(&mut draft.bytes, &header, &[]);
            }
        }
        draft.acks = acks;
    }

    /// Writes a draft, makes it visible, and answers.
    fn finish(&mut self, mut draft: Draft) {
        let written = if draft.bytes.is_empty() {
            Ok(())
        } else {
            self.write(&mut draft)
        };
        if written.is_err() {
            self.keep_acks(std::mem::take(&mut draft.acks));
        }
        self.last_requests = draft.answers.len();
        let has_callers = !draft.answers.is_empty() && !draft.bytes.is_empty();
        let mut commit = (written.is_ok() && has_callers).then_some(draft.commit);
        if let Some(commit) = commit {
            let mut counts = self.shared.counts();
            counts.commits += 1;
            counts.appends += commit.appends;
            self.last_duration = commit.duration;
        }
        for (reply, result) in draft.answers {
            // Also a refusal: it may be for a version that was to be written with the others.
            let result = written.clone().and(result);
            if reply.send(Answer { result, commit }) {
                commit = None;
            }
        }
        self.maintain();
    }

    /// Acknowledgements that could not be written are tried again.
    fn keep_acks(&mut self, failed: HashMap<Box<[u8]>, u64>) {
        let mut acks = self.shared.acks();
        for (name, number) in failed {
            let kept = acks.entry(name).or_default();
            *kept = number.max(*kept);
        }
        drop(acks);
        self.note_acks();
    }

    fn write(&mut self, draft: &mut Draft) -> Result<(), Error> {
        let started = Instant::now();
        let options = self.shared.options();
        let (segment, mut end) = self.newest()?;
        self.mend(&segment, end)?;
        let needed = draft.bytes.len() as u64 + MARK_MAX;
        let mut segment = segment;
        let is_used = end > segment.start;
        if is_used && end + needed > u64::from(options.segment_bytes).min(SEGMENT_MAX) {
            segment = self.roll(&segment)?;
            end = segment.start;
        }
        if end + needed > SEGMENT_MAX {
            return Err(Error::TooLarge);
        }
        let mark = Header::Mark {
            nonce: segment.head.nonce,
            synced: self.synced as u32,
        };
        let records = draft.bytes.len();
        frame::write(&mut draft.bytes, &mark, &[]);
        let is_always = options.sync == Sync::Always;
        let written = segment.file.write_at(&draft.bytes, end);
        let written = written.map_err(Error::from).and_then(|()| {
            if is_always {
                self.sync_file(&segment)
            } else {
                Ok(())
            }
        });
        if let Err(error) = written {
            // Nothing of it may be there when the next commit is.
            self.torn = segment.file.set_len(end).is_err();
            return Err(error);
        }
        let new_end = end + draft.bytes.len() as u64;
        if is_always {
            self.has_synced(&segment, new_end);
        } else if let Sync::Interval(interval) = options.sync {
            self.sync_due.get_or_insert(Instant::now() + interval);
        }
        draft.commit.bytes = draft.bytes.len() as u64;
        draft.commit.duration = started.elapsed();
        self.show(draft, &segment, end, new_end, records)
    }

    /// Cuts the rest of a failed commit, or the seal of a segment without a successor. Writes again
    /// the bytes that a failed sync may have lost.
    fn mend(&mut self, segment: &Segment, end: u64) -> Result<(), Error> {
        if self.torn {
            segment.file.set_len(end)?;
            self.torn = false;
        }
        let mut offset = if self.unsure { self.synced } else { end };
        let mut bytes = vec![0; REWRITTEN.min(end.saturating_sub(offset)) as usize];
        while offset < end {
            let len = REWRITTEN.min(end - offset) as usize;
            if segment.file.read_at(&mut bytes[..len], offset)? < len {
                return Err(Error::Io("eio"));
            }
            segment.file.write_at(&bytes[..len], offset)?;
            offset += len as u64;
        }
        // A sync that fails again says so again.
        self.unsure = false;
        Ok(())
    }

    fn sync_file(&mut self, segment: &Segment) -> Result<(), Error> {
        let synced = segment.file.sync();
        self.unsure |= synced.is_err();
        Ok(synced?)
    }

    fn has_synced(&mut self, segment: &Segment, end: u64) {
        self.synced = end;
        // Where it fails an older marker stays, and the marks in the segment say more.
        let _ = self.marker.write(segment.head.sequence, end);
    }

    /// Takes what was written into the index, and wakes those that wait for it.
    fn show(
        &self,
        draft: &Draft,
        segment: &Segment,
        start: u64,
        end: u64,
        records: usize,
    ) -> Result<(), Error> {
        let mut index = self
            .shared
            .index
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let mut at = 0;
        while at < records {
            let Ok(frame) = frame::read(&draft.bytes[at..]) else {
                unreachable!("the frames have just been made");
            };
            let place = Place {
                segment: segment.head.sequence,
                offset: (start + at as u64) as u32,
                len: frame.len as u32,
            };
            let entry = Entry {
                header: frame.header,
                place,
            };
            let applied = index.apply(entry);
            debug_assert!(applied.is_ok(), "the draft goes on where the index ends");
            at += frame.len;
        }
        index.set_end(end);
        drop(index);
        if !draft.versions.is_empty() {
            let streams = draft.versions.keys().map(|stream| &**stream);
            let wakes = self.shared.watchers().take(streams);
            wakes.into_iter().for_each(|wake| wake());
        }
        Ok(())
    }

    fn newest(&self) -> Result<(Arc<Segment>, u64), Error> {
        let index = self.shared.index();
        let newest = index.active().ok_or(Error::Closed)?;
        Ok((newest.segment.clone(), newest.end))
    }

    /// Seals the newest segment and makes another.
    fn roll(&mut self, old: &Segment) -> Result<Arc<Segment>, Error> {
        if !self.sync() {
            return Err(Error::Io("eio"));
        }
        let head = Head {
            sequence: old.head.sequence + 1,
            first: self.shared.index().position + 1,
            nonce: random() as u32,
            compacted: false,
            ..old.head
        };
        let end = self.newest()?.1;
        // Until the new segment is there the seal is one byte too many, like a torn frame.
        self.torn = true;
        old.file.write_at(&Segment::seal(&old.head), end)?;
        old.file.sync()?;
        let new = Arc::new(Segment::create(&*self.shared.storage, head)?);
        self.torn = false;
        let mut index = self
            .shared
            .index
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        index.add_segment(new.clone());
        drop(index);
        self.synced = new.start;
        self.shared
            .maintenance()
            .without_hint
            .push(old.head.sequence);
        Ok(new)
    }

    /// Syncs what was answered before it was synced. Says whether all is synced now.
    fn sync(&mut self) -> bool {
        let Some(due) = self.sync_due.take() else {
            return true;
        };
        let Ok((segment, end)) = self.newest() else {
            return false;
        };
        match self
            .mend(&segment, end)
            .and_then(|()| self.sync_file(&segment))
        {
            Ok(()) => {
                self.has_synced(&segment, end);
                true
            }
            Err(_) => {
                // It is tried again after a while; until then the marker says what is certain.
                self.sync_due = Some(due + ACK_DELAY);
                false
            }
        }
    }

    /// Starts the maintenance thread where there is something to do.
    fn maintain(&mut self) {
        let mut maintenance = self.shared.maintenance();
        let has_work = !maintenance.without_hint.is_empty() || compact::is_worthwhile(&self.shared);
        if maintenance.running || maintenance.closing || !has_work {
            return;
        }
        maintenance.running = true;
        drop(maintenance);
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new().name("foundation_log_maintenance".into());
        let spawned = thread.spawn(move || {
            let done = compact::run(&shared);
            // After an error there is no further attempt until the log is opened again. A full or
            // damaged disk would fail at every commit.
            shared.maintenance().running = done.is_err();
        });
        match spawned {
            Ok(thread) => self.maintenance = Some(thread),
            Err(_) => self.shared.maintenance().running = false,
        }
    }
}

impl Draft {
    fn concerns(&self, request: &Request) -> bool {
        let (Request::PutSnapshot { stream: name, .. }
        | Request::Trim { stream: name, .. }
        | Request::Delete { stream: name, .. }
        | Request::Subscribe { name, .. }
        | Request::Forget { name, .. }) = request
        else {
            return false;
        };
        // A subscription starts behind what this commit appends.
        let is_subscribe = matches!(request, Request::Subscribe { .. });
        self.others.contains(name)
            || self.versions.contains_key(name)
            || is_subscribe && !self.versions.is_empty()
    }

    fn append(&mut self, index: &Index, append: Append) -> Result<u64, Error> {
        let drafted = self.versions.get(&append.stream).copied();
        let actual = drafted.unwrap_or_else(|| index.version(&append.stream));
        append.expected.check(actual)?;
        let mut remaining = append.ends.len() as u32;
        if remaining == 0 {
            return Ok(actual);
        }
        let (mut start, mut version) = (0, actual);
        for end in &append.ends {
            remaining -= 1;
            version += 1;
            self.position += 1;
            let header = Header::Event {
                stream: &append.stream,
                version,
                position: self.position,
                at: append.at,
                remaining,
            };
            let end = *end as usize;
            frame::write(&mut self.bytes, &header, &append.data[start..end]);
            start = end;
        }
        self.commit.appends += 1;
        self.commit.events += append.ends.len() as u64;
        self.versions.insert(append.stream, version);
        Ok(version)
    }

    fn subscribe(
        &mut self,
        index: &Index,
        name: &[u8],
        stream: Option<&[u8]>,
        start: StartAt,
    ) -> Result<u64, Error> {
        if let Some(known) = index.subscriptions().get(name) {
            let same = known.stream.as_deref() == stream;
            return same.then_some(known.acknowledged).ok_or(Error::OtherStream);
        }
        let acknowledged = match start {
            StartAt::After(number) => number,
            StartAt::End => stream.map_or(index.position, |stream| index.version(stream)),
        };
        let header = Header::Subscription {
            name,
            stream,
            acknowledged,
        };
        frame::write(&mut self.bytes, &header, &[]);
        Ok(acknowledged)
    }
}
