//! The NIFs of loads: who loads, who waits, and what a load gave.

use foundation_core::cache::{Begun, Finished, Found, Outcome, Refused, TakesLong};
use foundation_core::table::Value;
use rustler::types::tuple::get_tuple;
use rustler::{Encoder, Env, Term, atoms};

use super::instance::Answer;
use super::{bound, error, nil, number, ok, out_of_memory, stored, with_cache};
use crate::process;
use crate::raw::{Failure, NifResult, may_take_long, nifs};
use crate::resilience::instance::random;
use crate::telemetry::clock::System;
use crate::term::{OwnedTerm, measure, pair, value, with_key};

nifs! {
    cache_begin / 3,
    cache_begin_again / 3,
    cache_cancel / 2,
    cache_finish / 4,
}

atoms! { load, wait, recursion, cancelled, answered, failed, stored_atom = "stored", not_stored }

/// `cache_begin(name, key, early)`: `{:ok, value}`, `{:error, reason}`, `{:load, lease}`,
/// `{:wait, id}` or `:recursion`. An `early` of `nil` is the cache's own.
fn cache_begin<'a>(env: Env<'a>, arguments: [Term<'a>; 3]) -> NifResult<'a> {
    begin(env, arguments, true)
}

/// Like `cache_begin`, for a fetch that has been counted.
fn cache_begin_again<'a>(env: Env<'a>, arguments: [Term<'a>; 3]) -> NifResult<'a> {
    begin(env, arguments, false)
}

#[inline(always)]
fn begin<'a>(env: Env<'a>, [name, key, early]: [Term<'a>; 3], counts: bool) -> NifResult<'a> {
    let own = if early == rustler::types::atom::nil().to_term(env) {
        None
    } else {
        Some(number(early)?)
    };
    with_cache(env, name, |instance, guard| {
        let early = own.unwrap_or_else(|| instance.early());
        let owner = process::caller(env);
        with_key(key, |key| {
            let watch = || instance.watch(env, owner);
            let cache = &instance.cache;
            let begun = match cache.begin(owner, key, early, System, random, watch, guard) {
                Ok(begun) => begun,
                // Nobody gets the answer of an exiting process.
                Err(Refused::Dead) => return nil(env),
                Err(Refused::OutOfMemory) => return out_of_memory(env),
            };
            let answer = match &begun {
                Begun::Found(Found::Fresh(value) | Found::Stale(value)) => {
                    pair(env, ok().to_term(env), stored(env, *value)?)
                }
                Begun::Found(Found::Error(reason)) => {
                    pair(env, error().to_term(env), stored(env, *reason)?)
                }
                Begun::Found(Found::Nothing) => {
                    unreachable!("a caller loads where there is nothing")
                }
                Begun::Load(lease) => (load(), lease).encode(env),
                Begun::Wait(id) => (wait(), id).encode(env),
                Begun::Recursion => recursion().to_term(env),
                Begun::Ended => return nil(env),
            };
            if counts {
                cache.count_begun(&begun);
            }
            Ok(answer)
        })
    })
}

/// Gives up a wait of the caller: `:cancelled`, or `:answered` if the answer is on its way.
fn cache_cancel<'a>(env: Env<'a>, [name, id]: [Term<'a>; 2]) -> NifResult<'a> {
    let id = id.decode().map_err(|_| Failure::BadArgument)?;
    with_cache(env, name, |instance, _guard| {
        let is_cancelled = instance.cache.cancel(process::caller(env), id);
        let answer = if is_cancelled {
            cancelled()
        } else {
            answered()
        };
        Ok(answer.to_term(env))
    })
}

/// The times of an entry in milliseconds: how long it is fresh, and served after that.
type Times = (Option<u64>, Option<u64>);

/// Returns a term as a value with its times. A value that there is no memory for is not kept.
fn kept(term: Term, times: Times) -> Result<(Value<OwnedTerm>, Times), Failure> {
    Ok(match value(term)? {
        Some(value) => (value, times),
        None => (Value::Word(1), (Some(0), Some(0))),
    })
}

/// Returns the outcome of a load, and what the processes that wait are told.
fn outcome<'a>(env: Env<'a>, term: Term<'a>) -> Result<(Outcome<OwnedTerm>, Term<'a>), Failure> {
    let elements = get_tuple(term).map_err(|_| Failure::BadArgument)?;
    let is = |term: &Term<'a>, atom: rustler::types::atom::Atom| *term == atom.to_term(env);
    match elements[..] {
        [tag, new, ttl, stale] if is(&tag, ok()) => {
            let (value, (ttl, stale)) = kept(new, (bound(ttl)?, bound(stale)?))?;
            let answer = pair(env, ok().to_term(env), new);
            Ok((Outcome::Value(value, ttl, stale), answer))
        }
        [tag, reason, ttl] if is(&tag, error()) => {
            let (value, (ttl, _)) = kept(reason, (bound(ttl)?, Some(0)))?;
            let answer = pair(env, error().to_term(env), reason);
            Ok((Outcome::Error(value, ttl), answer))
        }
        [tag, reason] if is(&tag, failed()) => {
            // It may be copied for those who wait.
            measure(reason)?;
            let answer = pair(env, error().to_term(env), reason);
            Ok((Outcome::Failed, answer))
        }
        _ => Err(Failure::BadArgument),
    }
}

/// `cache_finish(name, key, lease, outcome)`: `:stored` or `:not_stored`, and `nil` if the caller
/// has no such lease. The outcome is `{:ok, value, ttl, stale}`, `{:error, reason, ttl}` or
/// `{:failed, reason}`.
fn cache_finish<'a>(env: Env<'a>, arguments: [Term<'a>; 4]) -> NifResult<'a> {
    let [name, key, lease, given] = arguments;
    let lease = lease.decode().map_err(|_| Failure::BadArgument)?;
    with_cache(env, name, |instance, guard| {
        with_key(key, |key| {
            let (outcome, answer) = outcome(env, given)?;
            let (owner, patient) = (process::caller(env), may_take_long());
            let cache = &instance.cache;
            match cache.finish(owner, lease, key, outcome, System, patient, guard) {
                Ok(Some(Finished { stored, told })) => {
                    instance.tell(env, told, Answer::Term(answer));
                    let answer = if stored { stored_atom() } else { not_stored() };
                    Ok(answer.to_term(env))
                }
                Ok(None) => nil(env),
                Err(TakesLong) => Err(Failure::TakesLong),
            }
        })
    })
}
