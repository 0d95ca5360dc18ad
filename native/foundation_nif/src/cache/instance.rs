//! A cache as the VM knows it: by its name, and watching the processes that load or wait.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Weak};

use foundation_core::cache::{Cache, Dying, Limits, Told};
use foundation_core::key::Seed;
use foundation_core::table::{Names, OutOfMemory};
use rustler::{Encoder, Env, OwnedEnv, Term, atoms};

use crate::background::{self, Job};
use crate::process;
use crate::telemetry::clock::System;
use crate::term::{NODES_MAX, OwnedTerm, copies_in_time};
use crate::watch::{Live, Watched, Watches};

atoms! { foundation_cache, load, again }

pub type Entries = Cache<OwnedTerm, OwnedTerm>;

/// All caches of this VM, by the words of their names.
pub static NAMES: LazyLock<Names<Instance>> = LazyLock::new(Names::default);
/// The number of caches, including those that are being freed.
pub static LIVE: AtomicI64 = AtomicI64::new(0);

/// How many loads and waits of a dead process are ended in its own time. The background thread ends
/// the others.
const ENDED_AT_ONCE: usize = 100;
/// How many processes are told in one call.
const TOLD_AT_ONCE: usize = NODES_MAX / 16;

pub struct Instance {
    pub cache: Entries,
    /// The bits of the factor of early refreshes.
    early: AtomicU64,
    watches: Watches,
    _live: Live,
}

/// What processes that waited are told.
#[derive(Clone, Copy)]
pub enum Answer<'a> {
    /// This.
    Term(Term<'a>),
    /// To begin again.
    Again,
    /// That the cache is gone.
    Gone,
}

/// An answer that the background thread gives.
enum OwnedAnswer {
    Term(OwnedTerm),
    Again,
    Gone,
}

impl OwnedAnswer {
    fn new(answer: Answer) -> Self {
        match answer {
            // Without memory for it, the process begins again.
            Answer::Term(term) => OwnedTerm::new(term).map_or(Self::Again, Self::Term),
            Answer::Again => Self::Again,
            Answer::Gone => Self::Gone,
        }
    }

    fn term<'a>(&self, env: Env<'a>) -> Answer<'a> {
        match self {
            Self::Term(term) => Answer::Term(term.copy(env)),
            Self::Again => Answer::Again,
            Self::Gone => Answer::Gone,
        }
    }
}

/// Makes `{:foundation_cache, id, answer}`.
fn message<'a>(env: Env<'a>, told: &Told, answer: Answer<'a>) -> Term<'a> {
    let answer = match answer {
        _ if told.loads => (load(), told.id).encode(env),
        Answer::Term(term) => term,
        Answer::Again => again().to_term(env),
        Answer::Gone => rustler::types::atom::nil().to_term(env),
    };
    (foundation_cache(), told.id, answer).encode(env)
}

impl Instance {
    pub fn new(limits: Limits) -> Result<Arc<Self>, OutOfMemory> {
        Ok(Arc::new(Instance {
            cache: Cache::new(Seed::random(), limits, System)?,
            early: AtomicU64::new(0),
            watches: Watches::default(),
            _live: Live::new(&LIVE),
        }))
    }

    pub fn early(&self) -> f64 {
        f64::from_bits(self.early.load(Ordering::Relaxed))
    }

    pub fn set_early(&self, early: f64) {
        self.early.store(early.to_bits(), Ordering::Relaxed);
    }

    /// Arranges that the death of a process is heard of; `false` if it is exiting.
    pub fn watch(self: &Arc<Self>, env: Env, process: u64) -> bool {
        self.watches.watch(env, process, || {
            let this: Weak<Self> = Arc::downgrade(self);
            this
        })
    }

    /// Tells processes what has become of the load that they waited for. The background thread
    /// tells those that there is no time for.
    pub fn tell<'a>(self: &Arc<Self>, env: Env<'a>, mut told: Vec<Told>, answer: Answer<'a>) {
        if told.is_empty() {
            return;
        }
        let limit = match answer {
            Answer::Term(term) => copies_in_time(term).unwrap_or(0).min(TOLD_AT_ONCE),
            Answer::Again | Answer::Gone => TOLD_AT_ONCE,
        };
        let later = told.split_off(limit.min(told.len()));
        for one in &told {
            self.cache.told(one);
            // The death of a process that is dead by now ends its part.
            let _ = env.send(&process::local(one.owner), message(env, one, answer));
        }
        if !later.is_empty() {
            let (this, answer) = (self.clone(), OwnedAnswer::new(answer));
            background::send(Job::Run(Box::new(move || this.tell_later(&later, &answer))));
        }
    }

    /// Runs in the background thread.
    fn tell_later(&self, told: &[Told], answer: &OwnedAnswer) {
        let mut env = OwnedEnv::new();
        for one in told {
            self.cache.told(one);
            let pid = process::local(one.owner);
            let _ = env.send_and_clear(&pid, |env| message(env, one, answer.term(env)));
        }
    }

    /// Answers the processes that wait, and frees the cache. It has no name now.
    pub fn destroy(self: Arc<Self>) {
        background::send(Job::Run(Box::new(move || {
            self.tell_later(&self.cache.end(), &OwnedAnswer::Gone);
            background::free_when_unused(self);
        })));
    }

    fn end_dead_later(&self, dying: &mut Dying) {
        // A heir that is dead by now hands the load on by its own death.
        while let Some(told) = self.cache.end_dead(dying, System, |_| true) {
            self.tell_later(&told, &OwnedAnswer::Again);
        }
    }
}

impl Watched for Instance {
    fn mark_dead(self: Arc<Self>, env: Env, process: u64) {
        let mut dying = self.cache.mark_dead(process);
        for _ in 0..ENDED_AT_ONCE {
            let is_alive = |owner| process::is_alive(env, owner);
            match self.cache.end_dead(&mut dying, System, is_alive) {
                Some(told) => self.tell(env, told, Answer::Again),
                None => return,
            }
        }
        background::send(Job::Run(Box::new(move || self.end_dead_later(&mut dying))));
    }
}
