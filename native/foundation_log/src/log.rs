//! A log, as its callers use it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, TryLockError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, SendError, Sender, TrySendError, bounded};

use crate::commit::{self, Append, Reply, Request, StartAt, Writer};
use crate::copy;
use crate::error::Error;
use crate::index::Index;
use crate::read::{self, Direction, EventRef, Range, Source, Window};
use crate::recover;
use crate::storage::Storage;
use crate::watch::{Wake, Watchers};

/// When an append is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// After the sync of what it wrote.
    Always,
    /// After the write; a sync follows within this time.
    Interval(Duration),
}

/// A log's options.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// When an append is answered.
    pub sync: Sync,
    /// A segment that has this many bytes gets no more.
    pub segment_bytes: u32,
}

/// The result of recovery, when a log is opened that had not been closed in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// The segment that was written last.
    pub path: PathBuf,
    /// How many bytes of torn frames were cut from its end.
    pub cut_bytes: u64,
}

/// A log's figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Stored events.
    pub events: u64,
    /// Streams, without the deleted ones.
    pub streams: u64,
    /// The bytes of the segments.
    pub bytes: u64,
    /// The position of the last event.
    pub position: u64,
    /// Commits that answered a caller, since the log was opened.
    pub commits: u64,
    /// Appends of events that succeeded, since the log was opened.
    pub appends: u64,
}

/// The state that the commit thread, the maintenance thread and all callers share.
pub struct Shared {
    pub(crate) storage: Box<dyn Storage>,
    pub(crate) index: RwLock<Index>,
    pub(crate) options: Mutex<Options>,
    pub(crate) watchers: Mutex<Watchers>,
    /// How far subscriptions have got beyond what is on disk.
    pub(crate) acks: Mutex<HashMap<Box<[u8]>, u64>>,
    pub(crate) counts: Mutex<Counts>,
    maintenance: Mutex<Maintenance>,
}

#[derive(Default)]
pub(crate) struct Counts {
    pub commits: u64,
    pub appends: u64,
}

/// The work of the maintenance thread.
#[derive(Default)]
pub(crate) struct Maintenance {
    pub without_hint: Vec<u64>,
    pub running: bool,
    pub closing: bool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn maintenance(&self) -> MutexGuard<'_, Maintenance> {
        locked(&self.maintenance)
    }

    pub(crate) fn acks(&self) -> MutexGuard<'_, HashMap<Box<[u8]>, u64>> {
        locked(&self.acks)
    }

    pub(crate) fn options(&self) -> Options {
        *locked(&self.options)
    }

    pub(crate) fn watchers(&self) -> MutexGuard<'_, Watchers> {
        locked(&self.watchers)
    }

    pub(crate) fn counts(&self) -> MutexGuard<'_, Counts> {
        locked(&self.counts)
    }
}

/// A request that the commit thread has not got.
pub enum Refused {
    /// Too many are waiting. [`Log::request_waiting`] waits for room.
    Full(Request),
    /// The log is closed.
    Closed(Request),
}

/// An open log.
pub struct Log {
    shared: Arc<Shared>,
    requests: Sender<Request>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Log {
    /// Opens a log, or makes one, and starts its thread.
    ///
    /// `ended` is called when the thread ends, whether it was asked to or not.
    pub fn open(
        storage: Box<dyn Storage>,
        options: Options,
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<(Log, Option<Recovery>), Error> {
        let lock = storage.lock()?;
        let lock = lock.ok_or_else(|| Error::InUse(storage.path("")))?;
        let opened = recover::open(&*storage)?;
        let shared = Arc::new(Shared {
            storage,
            index: RwLock::new(opened.index),
            options: Mutex::new(options),
            watchers: Mutex::default(),
            acks: Mutex::default(),
            counts: Mutex::default(),
            maintenance: Mutex::new(Maintenance {
                without_hint: opened.without_hint,
                ..Maintenance::default()
            }),
        });
        let (requests, receiver): (_, Receiver<Request>) = bounded(commit::QUEUE_MAX);
        let mut writer = Writer::new(shared.clone(), opened.marker, lock, receiver);
        let thread = std::thread::Builder::new()
            .name("foundation_log".into())
            .spawn(move || {
                // A panic is a defect: what was not answered is answered with `Closed`.
                let run = std::panic::AssertUnwindSafe(|| writer.run());
                let panicked = std::panic::catch_unwind(run).is_err();
                writer.end(panicked);
                drop(writer);
                ended();
            })?;
        let log = Log {
            shared,
            requests,
            thread: Mutex::new(Some(thread)),
        };
        Ok((log, opened.recovery))
    }

    /// Changes the options of an open log.
    pub fn set_options(&self, options: Options) {
        *locked(&self.shared.options) = options;
    }

    /// Hands a request to the commit thread, or gives it back.
    pub fn request(&self, request: Request) -> Result<(), Refused> {
        self.requests
            .try_send(request)
            .map_err(|error| match error {
                TrySendError::Full(request) => Refused::Full(request),
                TrySendError::Disconnected(request) => Refused::Closed(request),
            })
    }

    /// The same, and waits for room: it is given back only by a closed log.
    pub fn request_waiting(&self, request: Request) -> Result<(), Refused> {
        let sent = self.requests.send(request);
        sent.map_err(|SendError(request)| Refused::Closed(request))
    }

    fn ask(&self, request: impl FnOnce(Reply) -> Request) -> Result<u64, Error> {
        let (sender, receiver) = bounded(1);
        let reply = Reply::new(move |answer| sender.send(answer.result).is_ok());
        // A closed log drops the request, which answers it.
        let _ = self.request_waiting(request(reply));
        receiver.recv().unwrap_or(Err(Error::Closed))
    }

    /// Appends, and waits for the answer: the stream's version.
    pub fn append(&self, append: Append) -> Result<u64, Error> {
        self.ask(|reply| Request::Append(append, reply))
    }

    /// Stores a snapshot, and waits until it is durable.
    pub fn put_snapshot(&self, stream: &[u8], version: u64, state: &[u8]) -> Result<u64, Error> {
        self.ask(|reply| Request::PutSnapshot {
            stream: stream.into(),
            version,
            state: state.into(),
            reply,
        })
    }

    /// Removes the events of a stream below a version.
    pub fn trim(&self, stream: &[u8], before: u64) -> Result<u64, Error> {
        let stream = stream.into();
        self.ask(|reply| Request::Trim {
            stream,
            before,
            reply,
        })
    }

    /// Deletes a stream.
    pub fn delete(&self, stream: &[u8], expected: commit::Expected) -> Result<u64, Error> {
        let stream = stream.into();
        self.ask(|reply| Request::Delete {
            stream,
            expected,
            reply,
        })
    }

    /// The number that a subscription has acknowledged last; a new one starts at `start`.
    pub fn subscribe(
        &self,
        name: &[u8],
        stream: Option<&[u8]>,
        start: StartAt,
    ) -> Result<u64, Error> {
        self.ask(|reply| Request::Subscribe {
            name: name.into(),
            stream: stream.map(Into::into),
            start,
            reply,
        })
    }

    /// Forgets a subscription.
    pub fn forget(&self, name: &[u8]) -> Result<u64, Error> {
        let name = name.into();
        self.ask(|reply| Request::Forget { name, reply })
    }

    /// Notes how far a subscription has got; durable a little later.
    pub fn acknowledge(&self, name: &[u8], number: u64) {
        let known = self
            .shared
            .index()
            .subscriptions()
            .get(name)
            .map(|it| it.acknowledged);
        let mut acks = self.shared.acks();
        let known = known.max(acks.get(name).copied());
        if known.is_some_and(|known| number > known) {
            let first = acks.is_empty();
            acks.insert(name.into(), number);
            drop(acks);
            if first {
                // Where the queue is full the thread is awake, and looks.
                let _ = self.requests.try_send(Request::Acknowledged);
            }
        }
    }

    /// How far a subscription has got.
    pub fn acknowledged(&self, name: &[u8]) -> Option<u64> {
        let known = self.shared.index().subscriptions().get(name)?.acknowledged;
        Some(
            self.shared
                .acks()
                .get(name)
                .map_or(known, |number| known.max(*number)),
        )
    }

    /// Calls `wake` once there is an event after `number`: a version of a stream, or a position.
    /// Where there is one already it says `true`, and does not call.
    ///
    /// An earlier watcher of the same stream and `id` is replaced.
    pub fn watch(&self, stream: Option<&[u8]>, id: u64, number: u64, wake: Wake) -> bool {
        self.shared.watchers().add(stream, id, wake);
        // After that: an event that comes before this look is seen here, and a later one by the
        // commit thread.
        let index = self.shared.index();
        let exists = stream.map_or(index.position, |stream| index.version(stream)) > number;
        drop(index);
        exists && self.shared.watchers().remove(stream, id)
    }

    /// Removes a watcher.
    pub fn unwatch(&self, stream: Option<&[u8]>, id: u64) {
        self.shared.watchers().remove(stream, id);
    }

    /// Shows the events of a range, and says from where to go on: `None` after the last.
    ///
    /// At most `bytes` of data are shown, and one event at least.
    pub fn read(
        &self,
        source: Source,
        range: Range,
        bytes: usize,
        mut visit: impl FnMut(EventRef) -> Result<(), crate::Damage>,
    ) -> Result<Option<u64>, Error> {
        let wanted = read::wanted(&self.shared.index(), source, range);
        let mut window = Window::default();
        let mut left = bytes;
        for (number, next) in wanted.iter().enumerate() {
            let rest = &wanted[number..];
            let Some(event) = window.event(&*self.shared.storage, rest, source)? else {
                break;
            };
            let len = event.data.len();
            visit(event).map_err(|reason| rest[0].damaged(&*self.shared.storage, reason))?;
            if len >= left {
                return Ok(after(next.number, range.direction));
            }
            left -= len;
        }
        Ok(match wanted.last() {
            Some(last) if wanted.len() == range.limit => after(last.number, range.direction),
            _ => None,
        })
    }

    /// The newest snapshot of a stream, given to `take` with its version.
    pub fn snapshot<T>(
        &self,
        stream: &[u8],
        take: impl FnOnce(u64, &[u8]) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let found = {
            let index = self.shared.index();
            let snapshot = index.stream(stream).and_then(|stream| stream.snapshot);
            let events = |(version, place): (u64, crate::index::Place)| {
                let events = index.events_of(place.segment)?;
                Some((version, place, events.segment.clone()))
            };
            snapshot.and_then(events)
        };
        let Some((version, place, segment)) = found else {
            return Ok(None);
        };
        let storage = &*self.shared.storage;
        let state = read::read_place(storage, &segment, place, |frame| match frame.header {
            crate::frame::Header::Snapshot { stream: of, .. } if of == stream => {
                take(version, frame.data)
            }
            _ => None,
        })?;
        Ok(Some(state))
    }

    /// A stream's version, unless the index is just being written to.
    pub fn try_version(&self, stream: &[u8]) -> Option<u64> {
        match self.shared.index.try_read() {
            Ok(index) => Some(index.version(stream)),
            Err(TryLockError::Poisoned(index)) => Some(index.into_inner().version(stream)),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// A stream's version: 0 if there never was an event.
    pub fn version(&self, stream: &[u8]) -> u64 {
        self.shared.index().version(stream)
    }

    /// The version of a stream's newest snapshot.
    pub fn snapshot_version(&self, stream: &[u8]) -> Option<u64> {
        let index = self.shared.index();
        index.stream(stream)?.snapshot.map(|(version, _)| version)
    }

    /// The position of the last event.
    pub fn position(&self) -> u64 {
        self.shared.index().position
    }

    /// Shows the names of some streams, from a cursor on, and returns the next cursor.
    pub fn streams(&self, from: usize, limit: usize, visit: impl FnMut(&[u8])) -> Option<usize> {
        let index = self.shared.index();
        let (names, next) = index.names(from, limit);
        names.into_iter().for_each(visit);
        next
    }

    /// The figures.
    pub fn figures(&self) -> Figures {
        let index = self.shared.index();
        let counts = self.shared.counts();
        Figures {
            events: index.events,
            streams: index.live_streams,
            bytes: index.segments().iter().map(|events| events.end).sum(),
            position: index.position,
            commits: counts.commits,
            appends: counts.appends,
        }
    }

    /// Reads every byte, and returns every damage.
    pub fn verify(&self) -> Vec<Error> {
        copy::verify(&self.shared)
    }

    /// Copies the log, as it is now, into a new directory.
    pub fn backup(&self, target: &Path) -> Result<(), Error> {
        copy::backup(&self.shared, target)
    }

    /// Commits what is waiting, syncs and ends the thread. Later calls are answered with `Closed`.
    pub fn close(&self) {
        self.shared.maintenance().closing = true;
        let _ = self.request_waiting(Request::Close);
        if let Some(thread) = locked(&self.thread).take() {
            // It has caught its panics.
            let _ = thread.join();
        }
    }
}

/// The number after another.
fn after(number: u64, direction: Direction) -> Option<u64> {
    match direction {
        Direction::Forward => Some(number + 1),
        Direction::Backward => number.checked_sub(1).filter(|next| *next > 0),
    }
}
