//! A registry in the VM: it has a name and an owner, and monitors its registrants.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use foundation_core::key::Seed;
use foundation_core::registry::{Duplicate, Liveness, PendingCleanup, Unique};
use foundation_core::table::{Guard, Names, OutOfMemory, Table};
use rustler::{Env, LocalPid, Monitor, Resource, ResourceArc};

use super::deaths;
use crate::background::{self, Job, Owned};
use crate::faults;
use crate::measure::Call;
use crate::process;
use crate::term::OwnedTerm;

/// The most entries of a dead process that are removed in its own time. The background thread
/// removes the rest.
const REMOVED_AT_ONCE: usize = 1_000;

/// The number of resources that share the monitors of a registry's processes. Each keeps its
/// monitors in a tree with a lock of its own, so one resource would be a point of contention.
const WATCHES: usize = 32;

/// All registries of this VM, by the words of their names.
pub static NAMES: LazyLock<Names<Registry>> = LazyLock::new(Names::default);

/// Whether keys are unique, and by what Elixir's `Registry` would partition duplicate ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Unique,
    DuplicateKey,
    DuplicatePid,
}

#[expect(
    clippy::large_enum_variant,
    reason = "there is one in a registry, and it is never moved"
)]
pub enum Entries {
    Unique(Unique<OwnedTerm, OwnedTerm>),
    Duplicate(Duplicate<OwnedTerm, OwnedTerm>),
}

/// The settings of a registry that an adoption can change.
#[derive(Default)]
pub struct Config {
    pub partitions: u64,
    /// The words of the listeners' names.
    pub listeners: Vec<u64>,
    /// How long the registry waits for a new owner after it has lost one; `None` means without
    /// limit.
    pub adopt_timeout: Option<Duration>,
}

pub struct Registry {
    pub name: u64,
    pub kind: Kind,
    pub entries: Entries,
    pub meta: Table<OwnedTerm, OwnedTerm>,
    config: Mutex<Config>,
    /// The owner's word. While there is no owner, the word of the last one.
    owner: AtomicU64,
    has_listeners: AtomicBool,
    watches: [OnceLock<ResourceArc<Watch>>; WATCHES],
    owner_watch: Mutex<Option<ResourceArc<OwnerWatch>>>,
}

/// Holds the monitors of some of a registry's registrants.
pub struct Watch(Weak<Registry>, Live);

/// Holds the monitor of a registry's owner.
pub struct OwnerWatch(Weak<Registry>, Live);

/// The number of resources that hold monitors of registrants and owners.
pub static LIVE_WATCHES: AtomicI64 = AtomicI64::new(0);

/// Counts one such resource while it lives.
struct Live;

impl Live {
    fn new() -> Self {
        LIVE_WATCHES.fetch_add(1, Ordering::Relaxed);
        Live
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        LIVE_WATCHES.fetch_sub(1, Ordering::Relaxed);
    }
}

#[rustler::resource_impl]
impl Resource for Watch {
    const IMPLEMENTS_DOWN: bool = true;

    /// Runs in the exiting process, which spreads the cost of deaths over the schedulers.
    fn down<'a>(&'a self, env: Env<'a>, pid: LocalPid, _monitor: Monitor) {
        let _measured = Call::begin(c"registry_down".as_ptr());
        faults::reach(c"registrant down");
        if let Some(registry) = self.0.upgrade() {
            registry.mark_dead(Some(env), process::owner_of(pid));
        }
    }
}

#[rustler::resource_impl]
impl Resource for OwnerWatch {
    const IMPLEMENTS_DOWN: bool = true;

    fn down<'a>(&'a self, _env: Env<'a>, pid: LocalPid, _monitor: Monitor) {
        let _measured = Call::begin(c"registry_owner_down".as_ptr());
        faults::reach(c"owner down");
        if let Some(registry) = self.0.upgrade() {
            registry.lose_owner(process::owner_of(pid));
        }
    }
}

/// The core's view of processes during a call: it asks the VM who is alive, and sets up monitors.
pub struct Processes<'e, 'r> {
    env: Env<'e>,
    registry: &'r Arc<Registry>,
}

impl Liveness for Processes<'_, '_> {
    fn is_alive(&self, owner: u64) -> bool {
        faults::reach(c"ask whether an owner is alive");
        process::is_alive(self.env, owner)
    }

    fn watch(&self, owner: u64) -> bool {
        faults::reach(c"watch an owner");
        match process::as_local(owner) {
            Some(pid) => {
                let watch = self.registry.watch(owner);
                self.env.monitor(watch, &pid).is_some()
            }
            // An Elixir process has monitored the remote process before this call.
            None => process::enter(owner, self.registry.name),
        }
    }
}

impl Registry {
    /// Makes a registry that has no owner yet.
    pub fn new(name: u64, kind: Kind, limit: usize) -> Result<Arc<Self>, OutOfMemory> {
        let seed = Seed::random();
        let entries = match kind {
            Kind::Unique => Entries::Unique(Unique::new(seed, limit)?),
            Kind::DuplicateKey | Kind::DuplicatePid => {
                Entries::Duplicate(Duplicate::new(seed, limit)?)
            }
        };
        let meta = Table::new(Seed::random())?;
        LIVE.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(Registry {
            name,
            kind,
            entries,
            meta,
            owner: AtomicU64::new(0),
            has_listeners: AtomicBool::new(false),
            config: Mutex::default(),
            watches: [const { OnceLock::new() }; WATCHES],
            owner_watch: Mutex::new(None),
        }))
    }

    /// Returns the registry with this name.
    #[inline]
    pub fn get(name: u64, guard: &Guard) -> Option<&Arc<Registry>> {
        NAMES.get(name, guard)
    }

    pub fn config(&self) -> MutexGuard<'_, Config> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn owner(&self) -> u64 {
        self.owner.load(Ordering::Acquire)
    }

    #[inline]
    pub fn has_listeners(&self) -> bool {
        self.has_listeners.load(Ordering::Relaxed)
    }

    pub fn liveness<'e, 'r>(self: &'r Arc<Self>, env: Env<'e>) -> Processes<'e, 'r> {
        Processes {
            env,
            registry: self,
        }
    }

    fn watch(self: &Arc<Self>, owner: u64) -> &ResourceArc<Watch> {
        let index = (owner >> 4) as usize % WATCHES;
        self.watches[index]
            .get_or_init(|| ResourceArc::new(Watch(Arc::downgrade(self), Live::new())))
    }

    /// Makes the caller the owner: the first one, or a new one after the last one died.
    ///
    /// Returns `false` if the caller cannot be monitored, which means that it is exiting.
    pub fn adopt(self: &Arc<Self>, env: Env, owner: u64, config: Config) -> bool {
        let watch = ResourceArc::new(OwnerWatch(Arc::downgrade(self), Live::new()));
        // Hold the lock until the new owner is stored. A caller on a dirty scheduler may die
        // meanwhile, and `lose_owner` must wait for this lock to see that owner.
        let mut current = self.config();
        if env.monitor(&watch, &process::local(owner)).is_none() {
            return false;
        }
        self.owner.store(owner, Ordering::Release);
        self.has_listeners
            .store(!config.listeners.is_empty(), Ordering::Relaxed);
        *current = config;
        *self
            .owner_watch
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(watch);
        true
    }

    /// The owner has died without an order to destroy the registry. Keeps the registry for a while,
    /// so that another process can adopt it.
    fn lose_owner(self: &Arc<Self>, owner: u64) {
        let timeout = self.config().adopt_timeout;
        if self.owner() == owner
            && let Some(deadline) = timeout.and_then(|timeout| Instant::now().checked_add(timeout))
        {
            let registry: Weak<Self> = Arc::downgrade(self);
            background::send(Job::Ownerless(registry, owner, deadline));
        }
    }

    /// Declares a process dead and removes its first entries at once; the background thread removes
    /// the rest. Returns how many keys the process had.
    pub fn mark_dead(self: &Arc<Self>, env: Option<Env>, owner: u64) -> usize {
        let mut pending = match &self.entries {
            Entries::Unique(entries) => entries.mark_dead(owner),
            Entries::Duplicate(entries) => entries.mark_dead(owner),
        };
        let keys = pending.keys();
        if keys == 0 {
            return 0;
        }
        if self.clean_up(&mut pending) {
            deaths::announce(env, self);
        } else {
            background::send(Job::CleanUp(self.clone(), Box::new(pending)));
        }
        keys
    }

    /// Removes some entries of a dead process. Returns whether none is left.
    pub fn clean_up(&self, pending: &mut PendingCleanup) -> bool {
        match &self.entries {
            Entries::Unique(entries) => entries.remove_dead(pending, REMOVED_AT_ONCE),
            Entries::Duplicate(entries) => entries.remove_dead(pending, REMOVED_AT_ONCE),
        }
    }

    /// Returns the number of dead processes' entries removed since the last call.
    pub fn take_cleaned(&self) -> u64 {
        match &self.entries {
            Entries::Unique(entries) => entries.take_cleaned(),
            Entries::Duplicate(entries) => entries.take_cleaned(),
        }
    }

    /// Returns how many keys a process holds.
    pub fn held_by(&self, owner: u64) -> usize {
        match &self.entries {
            Entries::Unique(entries) => entries.held_by(owner),
            Entries::Duplicate(entries) => entries.held_by(owner),
        }
    }
}

impl Owned for Registry {
    fn abandon(self: Arc<Self>, owner: u64) {
        let removed = NAMES.change(self.name, |name_holder| {
            match name_holder
                .filter(|name_holder| Arc::ptr_eq(name_holder, &self) && self.owner() == owner)
            {
                Some(_) => (None, true),
                None => (name_holder.cloned(), false),
            }
        });
        if removed {
            background::send(Job::Drop(self));
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        LIVE.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The number of registries, including those that are being destroyed.
pub static LIVE: AtomicU64 = AtomicU64::new(0);
