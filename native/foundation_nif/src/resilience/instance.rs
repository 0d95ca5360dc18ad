//! An instance as the VM knows it: by its name, with an owner, and watching those who hold
//! something of it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use foundation_core::breaker::{self, Breaker, Breakers, Transition};
use foundation_core::keyed::{Cell, Keyed};
use foundation_core::limiter::{self, Limiter};
use foundation_core::permits::{self, Effects, Permits, Served};
use foundation_core::random::Random;
use foundation_core::table::Names;
use rustler::{Env, LocalPid, Monitor, OwnedEnv, Resource, ResourceArc, Term, atoms};

use crate::background::{self, Job, Owned};
use crate::faults;
use crate::measure::Call;
use crate::process;
use crate::telemetry::clock;
use crate::term::{OwnedTerm, pair, word};
use crate::watch::{self, Live, Watched, Watches};

atoms! { foundation_resilience, transitions, granted, refused }

/// All instances of this VM, by the words of their names.
pub static NAMES: LazyLock<Names<Instance>> = LazyLock::new(Names::default);

/// How many grants or calls of a dead process are ended in its own time; the others are left to
/// the background thread.
const ENDED_AT_ONCE: usize = 100;
/// How many changes of state wait for the owner to tell them; the oldest are dropped.
const TRANSITIONS_MAX: usize = 1_000;

/// How a waiter is told: by its reference.
pub type Waiter = OwnedTerm;

pub struct Bulkhead {
    pub permits: Permits<OwnedTerm, Waiter>,
    pub settings: RwLock<BulkheadSettings>,
}

#[derive(Clone, Copy, PartialEq)]
pub struct BulkheadSettings {
    pub pool: permits::Settings,
    /// The wait of calls without one, in milliseconds; `u64::MAX` is without limit.
    pub wait: u64,
}

pub struct CircuitBreaker {
    pub breakers: Breakers<OwnedTerm>,
    pub settings: RwLock<breaker::Settings>,
    /// The user's classifier of outcomes.
    pub classify: Mutex<Option<OwnedTerm>>,
    /// Changes of state that deaths have brought about, for the owner to tell.
    pending: Mutex<VecDeque<(Arc<Cell<Breaker>>, Transition)>>,
    told: AtomicBool,
}

pub struct RateLimiter {
    pub limiters: Keyed<OwnedTerm, Limiter>,
    pub settings: RwLock<LimiterSettings>,
}

pub struct LimiterSettings {
    pub limits: limiter::Settings,
    /// The words of the limits' names.
    pub names: Vec<u64>,
}

pub enum Core {
    Bulkhead(Bulkhead),
    CircuitBreaker(CircuitBreaker),
    RateLimiter(RateLimiter),
}

pub struct Instance {
    name: u64,
    pub core: Core,
    /// The owner's word; of the last one while there is none.
    owner: AtomicU64,
    /// How long it waits for another owner after a crash; `None` is without limit.
    adopt_timeout: Mutex<Option<Duration>>,
    watches: Watches,
    owner_watch: Mutex<Option<ResourceArc<OwnerWatch>>>,
}

/// Holds the monitor of an instance's owner.
pub struct OwnerWatch {
    instance: Weak<Instance>,
    _live: Live,
}

/// How many instances there are, also such as are being freed.
pub static LIVE: AtomicI64 = AtomicI64::new(0);

#[rustler::resource_impl(name = "ResilienceOwnerWatch")]
impl Resource for OwnerWatch {
    const IMPLEMENTS_DOWN: bool = true;

    fn down<'a>(&'a self, _env: Env<'a>, pid: LocalPid, _monitor: Monitor) {
        let _measured = Call::begin(c"resilience_owner_down".as_ptr());
        faults::reach(c"instance's owner down");
        if let Some(instance) = self.instance.upgrade() {
            instance.lose_owner(process::owner_of(pid));
        }
    }
}

/// The lock's content, also after a panic: every section leaves it whole.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A copy of settings.
pub fn settings<T: Copy>(settings: &RwLock<T>) -> T {
    *settings.read().unwrap_or_else(PoisonError::into_inner)
}

/// A number from 0 up to 1.
pub fn random() -> f64 {
    thread_local! {
        static RANDOM: std::cell::RefCell<Random> = std::cell::RefCell::new(Random::new());
    }
    RANDOM.with_borrow_mut(Random::unit)
}

/// Tells waiters what has become of them.
fn tell(env: Option<Env>, served: Vec<Served<Waiter>>) {
    for one in served {
        let pid = process::local(one.owner);
        let what = if one.granted { granted() } else { refused() };
        // One that has died meanwhile is not told: its death frees what it was granted.
        let _ = match env {
            Some(env) => {
                let message = pair(env, one.waiter.copy(env), what.to_term(env));
                env.send(&pid, message).is_ok()
            }
            None => OwnedEnv::new()
                .send_and_clear(&pid, |env| {
                    pair(env, one.waiter.copy(env), what.to_term(env))
                })
                .is_ok(),
        };
    }
}

impl Instance {
    pub fn new(name: u64, core: Core) -> Arc<Self> {
        LIVE.fetch_add(1, Ordering::Relaxed);
        Arc::new(Instance {
            name,
            core,
            owner: AtomicU64::new(0),
            adopt_timeout: Mutex::default(),
            watches: Watches::default(),
            owner_watch: Mutex::new(None),
        })
    }

    pub fn bulkhead(&self) -> Option<&Bulkhead> {
        match &self.core {
            Core::Bulkhead(bulkhead) => Some(bulkhead),
            _ => None,
        }
    }

    pub fn circuit_breaker(&self) -> Option<&CircuitBreaker> {
        match &self.core {
            Core::CircuitBreaker(breaker) => Some(breaker),
            _ => None,
        }
    }

    pub fn rate_limiter(&self) -> Option<&RateLimiter> {
        match &self.core {
            Core::RateLimiter(limiter) => Some(limiter),
            _ => None,
        }
    }

    pub fn owner(&self) -> u64 {
        self.owner.load(Ordering::Acquire)
    }

    /// Arranges that the death of a process is heard of; `false` if it is exiting.
    pub fn watch(self: &Arc<Self>, env: Env, process: u64) -> bool {
        self.watches.watch(env, process, || {
            let this: Weak<Self> = Arc::downgrade(self);
            this
        })
    }

    /// Makes a process the owner: the first one, or another after that one died. `false` if it
    /// cannot be monitored, which says that it is exiting.
    pub fn adopt(self: &Arc<Self>, env: Env, owner: u64, timeout: Option<Duration>) -> bool {
        let watch = ResourceArc::new(OwnerWatch {
            instance: Arc::downgrade(self),
            _live: Live::new(&watch::LIVE),
        });
        // Held until the owner is known: its death waits for this lock.
        let mut current = lock(&self.adopt_timeout);
        if env.monitor(&watch, &process::local(owner)).is_none() {
            return false;
        }
        self.owner.store(owner, Ordering::Release);
        *current = timeout;
        *lock(&self.owner_watch) = Some(watch);
        true
    }

    /// The owner has died without an order to destroy the instance: it is kept for a while, for
    /// another to adopt it.
    fn lose_owner(self: &Arc<Self>, owner: u64) {
        let timeout = *lock(&self.adopt_timeout);
        if self.owner() != owner {
            return;
        }
        if let Some(deadline) = timeout.and_then(|timeout| Instant::now().checked_add(timeout)) {
            let this: Weak<Self> = Arc::downgrade(self);
            background::send(Job::Ownerless(this, owner, deadline));
        }
    }

    /// Refuses all waiters and frees the instance, whose name is already removed.
    pub fn destroy(self: Arc<Self>) {
        background::send(Job::Run(Box::new(move || {
            self.dismiss();
            background::free_when_unused(self);
        })));
    }

    fn dismiss(&self) {
        let Core::Bulkhead(bulkhead) = &self.core else {
            return;
        };
        let (pools, mut from) = (bulkhead.permits.pools(), Some(0));
        while let Some(hash) = from {
            let mut cells = Vec::new();
            from = pools.walk(hash, 1_000, |cell, _key| cells.push(cell.clone()));
            for cell in cells {
                let dismissed = pools.change(&cell, |_cell, pool| pool.dismiss());
                tell(None, dismissed.unwrap_or_default());
            }
        }
    }

    /// Tells the owner that there are changes of state to tell, if it has not been told since it
    /// took them. A new owner takes them without being told.
    fn tell_owner(&self, env: Option<Env>, breaker: &CircuitBreaker) {
        if lock(&breaker.pending).is_empty() || breaker.told.swap(true, Ordering::SeqCst) {
            return;
        }
        let pid = process::local(self.owner());
        let message = (foundation_resilience(), transitions());
        let sent = match env {
            Some(env) => env.send(&pid, message).is_ok(),
            None => OwnedEnv::new().send_and_clear(&pid, |_| message).is_ok(),
        };
        if !sent {
            breaker.told.store(false, Ordering::SeqCst);
        }
    }
}

impl Watched for Instance {
    /// Ends what a dead process held: a part at once, the rest by the background thread.
    fn mark_dead(self: Arc<Self>, env: Env, process: u64) {
        match &self.core {
            Core::Bulkhead(bulkhead) => {
                let mut cleanup = bulkhead.permits.mark_dead(process);
                for _ in 0..ENDED_AT_ONCE {
                    if !bulkhead.reclaim(&self, Some(env), &mut cleanup) {
                        return;
                    }
                }
                let instance = self.clone();
                background::send(Job::Run(Box::new(move || {
                    if let Core::Bulkhead(bulkhead) = &instance.core {
                        while bulkhead.reclaim(&instance, None, &mut cleanup) {}
                    }
                })));
            }
            Core::CircuitBreaker(breaker) => {
                let mut cleanup = breaker.breakers.mark_dead(process);
                for _ in 0..ENDED_AT_ONCE {
                    if !breaker.reclaim(&mut cleanup) {
                        return self.tell_owner(Some(env), breaker);
                    }
                }
                let instance = self.clone();
                background::send(Job::Run(Box::new(move || {
                    if let Core::CircuitBreaker(breaker) = &instance.core {
                        while breaker.reclaim(&mut cleanup) {}
                        instance.tell_owner(None, breaker);
                    }
                })));
            }
            Core::RateLimiter(_) => {}
        }
    }
}

impl Owned for Instance {
    fn abandon(self: Arc<Self>, owner: u64) {
        let removed = NAMES.change(self.name, |name_holder| {
            let is_this = |holder: &&Arc<Instance>| Arc::ptr_eq(holder, &self);
            match name_holder.filter(|holder| is_this(holder) && self.owner() == owner) {
                Some(_) => (None, true),
                None => (name_holder.cloned(), false),
            }
        });
        if removed {
            self.destroy();
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        LIVE.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Bulkhead {
    /// Does what a change to a pool leaves to do.
    pub fn finish(&self, instance: &Arc<Instance>, env: Option<Env>, effects: Effects<Waiter>) {
        tell(env, effects.served);
        let Some(mut unfinished) = effects.unfinished else {
            return;
        };
        let instance = instance.clone();
        background::send(Job::Run(Box::new(move || {
            let Some(bulkhead) = instance.bulkhead() else {
                return;
            };
            loop {
                let pool = settings(&bulkhead.settings).pool;
                // One that has died is granted a permit here, and gives it back by its death.
                let effects = bulkhead.permits.resume(&pool, unfinished, |_| true);
                tell(None, effects.served);
                match effects.unfinished {
                    Some(again) => unfinished = again,
                    None => return,
                }
            }
        })));
    }

    fn reclaim(
        &self,
        instance: &Arc<Instance>,
        env: Option<Env>,
        cleanup: &mut permits::PendingCleanup<Waiter>,
    ) -> bool {
        let pool = settings(&self.settings).pool;
        let is_alive = |owner| env.is_none_or(|env| process::is_alive(env, owner));
        match self.permits.reclaim(&pool, cleanup, is_alive) {
            Some(effects) => {
                self.finish(instance, env, effects);
                true
            }
            None => false,
        }
    }
}

impl CircuitBreaker {
    pub fn new(
        breakers: Breakers<OwnedTerm>,
        settings: breaker::Settings,
        classify: Option<OwnedTerm>,
    ) -> Self {
        CircuitBreaker {
            breakers,
            settings: RwLock::new(settings),
            classify: Mutex::new(classify),
            pending: Mutex::default(),
            told: AtomicBool::new(false),
        }
    }

    fn reclaim(&self, cleanup: &mut breaker::PendingCleanup) -> bool {
        let settings = settings(&self.settings);
        let (mut changed, time) = (Vec::new(), (clock::now, random()));
        let reclaimed = self
            .breakers
            .reclaim(&settings, cleanup, time, &mut changed);
        let Some(cell) = reclaimed else {
            return false;
        };
        let mut pending = lock(&self.pending);
        for transition in changed {
            if pending.len() >= TRANSITIONS_MAX {
                pending.pop_front();
            }
            pending.push_back((cell.clone(), transition));
        }
        true
    }

    /// Takes the changes of state that are to be told: a bounded number.
    pub fn take_pending(&self) -> Vec<(Arc<Cell<Breaker>>, Transition)> {
        // Before them: what comes after it sends another message.
        self.told.store(false, Ordering::SeqCst);
        lock(&self.pending).drain(..).collect()
    }
}

/// The name that an instance is asked for by, and the key if there is one.
///
/// # Errors
///
/// When the term is neither an atom nor a pair of an atom and a key.
#[inline]
pub fn target(term: Term<'_>) -> Result<(u64, Option<Term<'_>>), crate::raw::Failure> {
    if term.is_atom() {
        return Ok((word(term), None));
    }
    match crate::term::as_pair(term) {
        Some((name, key)) if name.is_atom() => Ok((word(name), Some(key))),
        _ => Err(crate::raw::Failure::BadArgument),
    }
}
