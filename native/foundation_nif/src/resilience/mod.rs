//! The NIFs of resilience: bulkheads, circuit breakers and rate limiters.
//!
//! Each takes an instance's name, or `{name, key}`, first, and says `nil` when there is none of
//! that name and kind: then the ETS engine may know it.

mod breaker;
mod bulkhead;
pub mod instance;
mod limiter;

use std::sync::Arc;
use std::time::Duration;

use foundation_core::key::Key;
use foundation_core::keyed::NoState;
use foundation_core::table::{Guard, OutOfMemory, pin};
use rustler::{Encoder, Env, Term, atoms};

use crate::background::Owned;
use crate::process;
use crate::raw::{Failure, NifResult, may_take_long, nifs};
use crate::term::{Probe, with_key, word, word_term};
use instance::{Core, Instance, NAMES};

nifs! {
    resilience_stop / 1,
    resilience_owner / 1,
    resilience_names / 0,
}

atoms! {
    ok, error, created, adopted, already_started, system_limit, max_keys, exiting, infinity,
    circuit_breaker, rate_limiter, bulkhead_atom = "bulkhead",
}

/// How many instances are started and stopped beside, or named on a normal scheduler.
const INSTANCES_MAX: usize = 1_000;
/// A millisecond.
const MS: u64 = 1_000_000;

fn nil(env: Env<'_>) -> NifResult<'_> {
    Ok(rustler::types::atom::nil().to_term(env))
}

/// A time in milliseconds, rounded up: who waits for so long does not come too early.
fn milliseconds(nanoseconds: u64) -> u64 {
    nanoseconds.div_ceil(MS)
}

/// A natural number.
fn natural(term: Term) -> Result<u64, Failure> {
    term.decode().map_err(|_| Failure::BadArgument)
}

/// The same, up to a bound.
fn natural_32(term: Term) -> Result<u32, Failure> {
    term.decode().map_err(|_| Failure::BadArgument)
}

/// A natural number, or `None` for `:infinity`.
fn bound(term: Term) -> Result<Option<u64>, Failure> {
    if term == infinity().to_term(term.get_env()) {
        return Ok(None);
    }
    natural(term).map(Some)
}

fn adopt_timeout(term: Term) -> Result<Option<Duration>, Failure> {
    Ok(bound(term)?.map(Duration::from_millis))
}

/// A local process.
fn local_process(term: Term) -> Result<u64, Failure> {
    match process::known(term)? {
        Some(owner) if !process::is_remote(owner) => Ok(owner),
        _ => Err(Failure::BadArgument),
    }
}

/// The instance of a name.
#[inline]
fn named(name: u64, guard: &Guard) -> Option<&Arc<Instance>> {
    NAMES.get(name, guard)
}

/// Calls `then` with the key, if there is one.
fn with_optional_key<R>(
    key: Option<Term>,
    then: impl FnOnce(Option<&Key<'_, Probe>>) -> Result<R, Failure>,
) -> Result<R, Failure> {
    match key {
        None => then(None),
        Some(term) => with_key(term, |key| then(Some(key))),
    }
}

/// Why there is no state for a key, as a term.
fn no_state<'a>(env: Env<'a>, error: NoState) -> NifResult<'a> {
    match error {
        NoState::MaxKeys => Ok(max_keys().to_term(env)),
        NoState::OutOfMemory => Ok(system_limit().to_term(env)),
        NoState::TakesLong => Err(Failure::TakesLong),
    }
}

/// Refuses, on a normal scheduler, what takes as long as there are instances.
fn unless_many() -> Result<(), Failure> {
    if NAMES.len() > INSTANCES_MAX && !may_take_long() {
        return Err(Failure::TakesLong);
    }
    Ok(())
}

enum Started {
    Created,
    Adopted,
    Replaced(Arc<Instance>),
    Running(u64),
    Failed,
}

/// Starts an instance, or adopts the one that its predecessor left, to which `configure` applies
/// the new settings; `false` from it says that it is another kind.
fn start<'a>(
    env: Env<'a>,
    name: Term<'a>,
    timeout: Option<Duration>,
    create: impl Fn() -> Result<Core, OutOfMemory>,
    configure: impl Fn(&Arc<Instance>) -> bool,
) -> NifResult<'a> {
    if !name.is_atom() {
        return Err(Failure::BadArgument);
    }
    unless_many()?;
    let owner = process::caller(env);
    let started = NAMES.change(word(name), |holder| {
        let new = || {
            let new = Instance::new(word(name), create().ok()?);
            new.adopt(env, owner, timeout).then_some(new)
        };
        match holder {
            Some(old) if process::is_alive(env, old.owner()) => {
                (Some(old.clone()), Started::Running(old.owner()))
            }
            Some(old) if configure(old) => {
                let adopted = old.adopt(env, owner, timeout);
                let started = if adopted {
                    Started::Adopted
                } else {
                    Started::Failed
                };
                (Some(old.clone()), started)
            }
            old => match (old, new()) {
                (None, Some(new)) => (Some(new), Started::Created),
                (Some(old), Some(new)) => (Some(new), Started::Replaced(old.clone())),
                (old, None) => (old.cloned(), Started::Failed),
            },
        }
    });
    Ok(match started {
        Started::Created => created().to_term(env),
        Started::Adopted => adopted().to_term(env),
        Started::Replaced(old) => {
            old.destroy();
            created().to_term(env)
        }
        Started::Running(owner) => {
            let reason = (already_started(), word_term(env, owner));
            (error(), reason).encode(env)
        }
        Started::Failed => (error(), system_limit()).encode(env),
    })
}

/// The owner's orderly stop: the instance is gone after it.
fn resilience_stop<'a>(env: Env<'a>, [name]: [Term<'a>; 1]) -> NifResult<'a> {
    if !name.is_atom() {
        return Err(Failure::BadArgument);
    }
    unless_many()?;
    let guard = pin();
    let Some(instance) = named(word(name), &guard) else {
        return nil(env);
    };
    instance.clone().abandon(instance.owner());
    Ok(ok().to_term(env))
}

fn kind<'a>(env: Env<'a>, instance: &Instance) -> Term<'a> {
    match instance.core {
        Core::Bulkhead(_) => bulkhead_atom(),
        Core::CircuitBreaker(_) => circuit_breaker(),
        Core::RateLimiter(_) => rate_limiter(),
    }
    .to_term(env)
}

/// `{kind, pid}`
fn resilience_owner<'a>(env: Env<'a>, [name]: [Term<'a>; 1]) -> NifResult<'a> {
    if !name.is_atom() {
        return Err(Failure::BadArgument);
    }
    let guard = pin();
    match named(word(name), &guard) {
        Some(instance) => {
            let owner = word_term(env, instance.owner());
            Ok((kind(env, instance), owner).encode(env))
        }
        None => nil(env),
    }
}

/// `[{name, kind}]`
fn resilience_names<'a>(env: Env<'a>, []: [Term<'a>; 0]) -> NifResult<'a> {
    unless_many()?;
    let all = NAMES.all().into_iter();
    let all: Vec<_> = all
        .map(|(name, instance)| (word_term(env, name), kind(env, &instance)))
        .collect();
    Ok(all.encode(env))
}
