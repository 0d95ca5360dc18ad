//! A log as the VM knows it: by its name, and with an owner.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use foundation_core::table::Names;
use foundation_log::storage::Disk;
use foundation_log::{Error, Log, Options, Recovery, Sync};
use rustler::{
    Atom, Encoder, Env, LocalPid, Monitor, OwnedEnv, Resource, ResourceArc, Term, atoms,
};

use super::{failed, path, path_term};
use crate::background::{self, Job, Owned};
use crate::faults;
use crate::measure::Call;
use crate::process;
use crate::raw::{Failure, NifResult, may_take_long, nifs};
use crate::term::{OwnedTerm, pair, word, word_term};

nifs! {
    event_log_start / 6,
    event_log_stop / 1,
    event_log_owner / 1,
    event_log_names / 0,
    event_log_subscriptions / 1,
}

/// How many subscriptions are listed on a normal scheduler.
const LISTED_MAX: usize = 200;
/// The names whose logs are being opened, and the processes that open them.
static OPENING: Mutex<Vec<(u64, u64)>> = Mutex::new(Vec::new());

atoms! { ok, error, created, recovered, adopted, already_started, foundation_event_log, ended, closed }

/// All logs of this VM, by the words of their names.
pub static NAMES: LazyLock<Names<EventLog>> = LazyLock::new(Names::default);

/// How many logs there are, also such as are being closed.
pub static LIVE: AtomicI64 = AtomicI64::new(0);

/// The two processes of a subscription.
pub struct Subscriber {
    /// The process that gets the events.
    pub subscriber: u64,
    /// The process that reads and sends them.
    pub server: u64,
    /// Whether a message about acknowledgements is on its way to the server.
    pub told: bool,
    /// The term that the server was started with, for its successor.
    pub arguments: OwnedTerm,
}

/// An open log.
pub struct EventLog {
    name: u64,
    dir: PathBuf,
    pub log: Arc<Log>,
    max_event_bytes: AtomicU64,
    adopt_timeout: Mutex<Duration>,
    /// The owner's word; the last one while there is none.
    owner: Arc<AtomicU64>,
    owner_watch: Mutex<Option<ResourceArc<LogOwnerWatch>>>,
    /// Whether the commit thread has ended.
    ended: Arc<AtomicBool>,
    subscribers: Mutex<HashMap<Box<[u8]>, Subscriber>>,
}

/// Holds the monitor of a log's owner.
pub struct LogOwnerWatch(Weak<EventLog>);

#[rustler::resource_impl]
impl Resource for LogOwnerWatch {
    const IMPLEMENTS_DOWN: bool = true;

    fn down<'a>(&'a self, _env: Env<'a>, pid: LocalPid, _monitor: Monitor) {
        let _measured = Call::begin(c"event_log_owner_down".as_ptr());
        faults::reach(c"event log's owner down");
        if let Some(log) = self.0.upgrade() {
            log.lost(process::owner_of(pid));
        }
    }
}

impl EventLog {
    fn open(start: &Start) -> Result<(Arc<EventLog>, Option<Recovery>), Error> {
        let disk = Disk::new(&start.dir)?;
        let owner = Arc::new(AtomicU64::new(start.owner));
        let ended = Arc::new(AtomicBool::new(false));
        let on_end = {
            let (owner, ended) = (owner.clone(), ended.clone());
            move || {
                ended.store(true, Ordering::Release);
                tell(None, owner.load(Ordering::Acquire), self::ended());
            }
        };
        let opened = Log::open(Box::new(disk), start.options, on_end);
        let (log, recovery) = opened.map_err(|error| match error {
            Error::InUse(_) => Error::InUse(start.dir.clone()),
            error => error,
        })?;
        LIVE.fetch_add(1, Ordering::Relaxed);
        let this = Arc::new(EventLog {
            name: start.name,
            dir: start.dir.clone(),
            log: Arc::new(log),
            max_event_bytes: AtomicU64::new(start.max_event_bytes),
            adopt_timeout: Mutex::new(start.adopt_timeout),
            owner,
            owner_watch: Mutex::new(None),
            ended,
            subscribers: Mutex::default(),
        });
        Ok((this, recovery))
    }

    /// Makes the caller the owner.
    fn adopt(self: &Arc<Self>, env: Env, start: &Start) {
        let watch = ResourceArc::new(LogOwnerWatch(Arc::downgrade(self)));
        self.owner.store(start.owner, Ordering::Release);
        self.max_event_bytes
            .store(start.max_event_bytes, Ordering::Relaxed);
        *locked(&self.adopt_timeout) = start.adopt_timeout;
        self.log.set_options(start.options);
        // A caller that cannot be monitored is exiting: the log is ownerless from the beginning.
        let watched = env.monitor(&watch, &process::local(start.owner)).is_some();
        *locked(&self.owner_watch) = Some(watch);
        if !watched {
            self.lost(start.owner);
        }
    }

    /// The owner has died without an order to close the log: it stays for another to adopt it.
    fn lost(self: &Arc<Self>, owner: u64) {
        let timeout = *locked(&self.adopt_timeout);
        if self.owner.load(Ordering::Acquire) == owner
            && let Some(deadline) = Instant::now().checked_add(timeout)
        {
            let this: Weak<Self> = Arc::downgrade(self);
            background::send(Job::Ownerless(this, owner, deadline));
        }
    }

    pub fn max_event_bytes(&self) -> u64 {
        self.max_event_bytes.load(Ordering::Relaxed)
    }

    /// Whether the commit thread has ended by itself.
    fn has_failed(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    pub fn subscribers(&self) -> MutexGuard<'_, HashMap<Box<[u8]>, Subscriber>> {
        locked(&self.subscribers)
    }

    /// Commits what is waiting, and tells the subscriptions' processes that the log is closed, or
    /// that it will be opened again after a failure.
    fn close(&self, env: Option<Env>) {
        let what = if self.has_failed() {
            self::ended()
        } else {
            closed()
        };
        self.log.close();
        let servers: Vec<u64> = self.subscribers().values().map(|it| it.server).collect();
        for server in servers {
            tell(env, server, what);
        }
    }
}

impl Owned for EventLog {
    fn abandon(self: Arc<Self>, owner: u64) {
        if withdraw(&self, Some(owner)) {
            // It takes as long as the disk does, and this thread has other things to do.
            let thread = std::thread::Builder::new().name("foundation_log_close".into());
            // Without a thread the log ends when nobody uses it.
            let _ = thread.spawn(move || self.close(None));
        }
    }
}

impl Drop for EventLog {
    fn drop(&mut self) {
        LIVE.fetch_sub(1, Ordering::Relaxed);
        // The index of a large log takes its time.
        background::send(Job::Free(Box::new(self.log.clone())));
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends `{:foundation_event_log, what}` to a process. `env` is the environment of the current
/// call; `None` on a thread that is not the VM's.
pub fn tell(env: Option<Env>, pid: u64, what: Atom) {
    let pid = process::local(pid);
    let message = (foundation_event_log(), what);
    // A process that has ended needs no message.
    let _ = match env {
        Some(env) => env.send(&pid, message),
        None => OwnedEnv::new().send_and_clear(&pid, |_| message),
    };
}

/// Takes a log's name from it, if it still has it, and this owner.
fn withdraw(log: &Arc<EventLog>, owner: Option<u64>) -> bool {
    NAMES.change(log.name, |holder| {
        let is_it = holder.is_some_and(|holder| Arc::ptr_eq(holder, log));
        let owned = owner.is_none_or(|owner| log.owner.load(Ordering::Acquire) == owner);
        if is_it && owned {
            (None, true)
        } else {
            (holder.cloned(), false)
        }
    })
}

/// Says that a name's log is being opened, for as long as it exists.
struct Opening(u64);

impl Opening {
    /// Returns the process that opens the log of this name already, if it is alive.
    fn begin(env: Env, name: u64, owner: u64) -> Result<Self, u64> {
        let mut opening = locked(&OPENING);
        match opening.iter().find(|(other, _)| *other == name) {
            Some((_, other)) if process::is_alive(env, *other) => return Err(*other),
            _ => opening.retain(|(other, _)| *other != name),
        }
        opening.push((name, owner));
        Ok(Opening(name))
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        locked(&OPENING).retain(|(name, _)| *name != self.0);
    }
}

struct Start {
    name: u64,
    owner: u64,
    dir: PathBuf,
    options: Options,
    max_event_bytes: u64,
    adopt_timeout: Duration,
}

enum Found {
    Nothing,
    Running(u64),
    Adopted,
    Unfit(Arc<EventLog>),
}

/// `event_log_start(name, dir, sync_ms, segment_bytes, max_event_bytes, adopt_timeout)`; a
/// `sync_ms` of 0 syncs before each answer.
fn event_log_start<'a>(env: Env<'a>, arguments: [Term<'a>; 6]) -> NifResult<'a> {
    let [
        name,
        dir,
        sync_ms,
        segment_bytes,
        max_event_bytes,
        adopt_timeout,
    ] = arguments;
    if !name.is_atom() {
        return Err(Failure::BadArgument);
    }
    let natural = |term: Term| term.decode::<u64>().map_err(|_| Failure::BadArgument);
    let sync = match natural(sync_ms)? {
        0 => Sync::Always,
        interval => Sync::Interval(Duration::from_millis(interval)),
    };
    let start = Start {
        name: word(name),
        owner: process::caller(env),
        dir: path(dir)?,
        options: Options {
            sync,
            segment_bytes: segment_bytes.decode().map_err(|_| Failure::BadArgument)?,
        },
        max_event_bytes: natural(max_event_bytes)?,
        adopt_timeout: Duration::from_millis(natural(adopt_timeout)?),
    };
    if !may_take_long() {
        return Err(Failure::DoesIo);
    }
    let already_started = |owner| {
        let reason = (already_started(), word_term(env, owner));
        (error(), reason).encode(env)
    };
    let _opening = match Opening::begin(env, start.name, start.owner) {
        Ok(opening) => opening,
        Err(other) => return Ok(already_started(other)),
    };
    let found = NAMES.change(start.name, |holder| {
        let Some(log) = holder else {
            return (None, Found::Nothing);
        };
        let owner = log.owner.load(Ordering::Acquire);
        let found = if owner != start.owner && process::is_alive(env, owner) {
            Found::Running(owner)
        } else if log.dir == start.dir && !log.has_failed() {
            log.adopt(env, &start);
            Found::Adopted
        } else {
            Found::Unfit(log.clone())
        };
        (Some(log.clone()), found)
    });
    match found {
        Found::Running(owner) => return Ok(already_started(owner)),
        Found::Adopted => return Ok(adopted().encode(env)),
        Found::Unfit(log) => {
            withdraw(&log, None);
            log.close(Some(env));
        }
        Found::Nothing => {}
    }
    let (log, recovery) = match EventLog::open(&start) {
        Ok(opened) => opened,
        Err(error) => return Ok(failed(env, &error)),
    };
    NAMES.change(start.name, |_| (Some(log.clone()), ()));
    // A log whose owner turns out to be dead is closed under its name.
    log.adopt(env, &start);
    Ok(match recovery {
        Some(Recovery { path, cut_bytes }) => {
            (recovered(), path_term(env, &path), cut_bytes).encode(env)
        }
        None => created().encode(env),
    })
}

fn event_log_stop<'a>(env: Env<'a>, [name]: [Term<'a>; 1]) -> NifResult<'a> {
    let log = super::event_log!(env, name);
    if !may_take_long() {
        return Err(Failure::DoesIo);
    }
    if withdraw(&log, None) {
        log.close(Some(env));
    }
    Ok(ok().encode(env))
}

fn event_log_owner<'a>(env: Env<'a>, [name]: [Term<'a>; 1]) -> NifResult<'a> {
    let log = super::event_log!(env, name);
    Ok(word_term(env, log.owner.load(Ordering::Acquire)))
}

/// `[{server, arguments}]` of the subscriptions whose subscribers are alive.
fn event_log_subscriptions<'a>(env: Env<'a>, [name]: [Term<'a>; 1]) -> NifResult<'a> {
    let log = super::event_log!(env, name);
    let subscribers = log.subscribers();
    if subscribers.len() > LISTED_MAX && !may_take_long() {
        return Err(Failure::TakesLong);
    }
    let alive = subscribers
        .values()
        .filter(|it| process::is_alive(env, it.subscriber));
    let listed: Vec<_> = alive
        .map(|it| pair(env, word_term(env, it.server), it.arguments.copy(env)))
        .collect();
    Ok(listed.encode(env))
}

fn event_log_names<'a>(env: Env<'a>, []: [Term<'a>; 0]) -> NifResult<'a> {
    let names = NAMES.all().into_iter();
    let names: Vec<_> = names.map(|(name, _)| word_term(env, name)).collect();
    Ok(names.encode(env))
}
