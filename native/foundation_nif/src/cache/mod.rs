//! The NIFs of caches.
//!
//! Each takes the name of a cache first, and returns `nil` when there is none of that name. Then
//! the ETS engine may have it. Times are durations in milliseconds or `:infinity`.

mod instance;
mod loads;

use std::sync::Arc;

use foundation_core::cache::{Found, Limits, NotStored};
use foundation_core::table::{Guard, OutOfMemory, ValueView, pin};
use rustler::{Encoder, Env, Term, atoms};

use crate::background::{self, Job};
use crate::raw::{Failure, NifResult, may_take_long, nifs};
use crate::telemetry::clock::System;
use crate::term::{
    Budget, OwnedTerm, key_term, pair, tuple, value, value_term, with_key, word, word_term,
};
pub use instance::LIVE;
use instance::{Entries, Instance, NAMES};

nifs! {
    cache_open / 5,
    cache_stop / 1,
    cache_names / 0,
    cache_get / 2,
    cache_put / 5,
    cache_delete / 2,
    cache_clear / 1,
    cache_expire / 1,
    cache_size / 1,
    cache_stats / 1,
    cache_walk / 2,
}

atoms! { ok, error, created, adopted, system_limit, infinity, done }

/// How many entries are visited in one call.
const VISITED_MAX: usize = 500;
/// How many caches are opened and stopped beside, or named on a normal scheduler.
const INSTANCES_MAX: usize = 1_000;
const NS_PER_MS: u64 = 1_000_000;

fn nil(env: Env<'_>) -> NifResult<'_> {
    Ok(rustler::types::atom::nil().to_term(env))
}

fn out_of_memory(env: Env<'_>) -> NifResult<'_> {
    Ok(system_limit().to_term(env))
}

/// Returns a natural number, or `None` for `:infinity`.
fn bound(term: Term) -> Result<Option<u64>, Failure> {
    if term == infinity().to_term(term.get_env()) {
        return Ok(None);
    }
    term.decode().map(Some).map_err(|_| Failure::BadArgument)
}

/// Returns a number that is not negative.
fn number(term: Term) -> Result<f64, Failure> {
    let natural = || term.decode::<u64>().map(|number| number as f64);
    let number: Result<f64, _> = term.decode().or_else(|_| natural());
    let number = number.ok().filter(|number| *number >= 0.0);
    number.ok_or(Failure::BadArgument)
}

/// Runs `then` on the cache of a name.
#[inline(always)]
fn with_cache<'a>(
    env: Env<'a>,
    name: Term<'a>,
    then: impl FnOnce(&Arc<Instance>, &Guard) -> NifResult<'a>,
) -> NifResult<'a> {
    if !name.is_atom() {
        return Err(Failure::BadArgument);
    }
    let guard = pin();
    match NAMES.get(word(name), &guard) {
        Some(instance) => then(instance, &guard),
        None => nil(env),
    }
}

/// Refuses, on a normal scheduler, work in proportion to the number of caches.
fn unless_many() -> Result<(), Failure> {
    if NAMES.len() > INSTANCES_MAX && !may_take_long() {
        return Err(Failure::TakesLong);
    }
    Ok(())
}

/// Returns a stored value, unless copying it takes too long here.
#[inline]
fn stored<'a>(env: Env<'a>, value: ValueView<'_, OwnedTerm>) -> NifResult<'a> {
    if Budget::default().spend(value) {
        Ok(value_term(env, value))
    } else {
        Err(Failure::TakesLong)
    }
}

/// `cache_open(name, max_bytes, max_entries, early, load_timeout)`: makes a cache, or sets the
/// limits of the one with this name.
fn cache_open<'a>(env: Env<'a>, arguments: [Term<'a>; 5]) -> NifResult<'a> {
    let [name, bytes, entries, early, load_timeout] = arguments;
    let limits = Limits {
        bytes: bytes.decode().map_err(|_| Failure::BadArgument)?,
        entries: bound(entries)?.unwrap_or(u64::MAX),
        load: bound(load_timeout)?.map_or(u64::MAX, |ms| ms.saturating_mul(NS_PER_MS)),
    };
    let early = number(early)?;
    if !name.is_atom() {
        return Err(Failure::BadArgument);
    }
    unless_many()?;
    enum Opened {
        Created,
        Adopted(Arc<Instance>),
        Failed,
    }
    let opened = NAMES.change(word(name), |holder| match holder {
        Some(old) => (Some(old.clone()), Opened::Adopted(old.clone())),
        None => match Instance::new(limits) {
            Ok(new) => {
                new.set_early(early);
                (Some(new), Opened::Created)
            }
            Err(OutOfMemory) => (None, Opened::Failed),
        },
    });
    match opened {
        Opened::Created => Ok(created().encode(env)),
        Opened::Adopted(instance) => {
            instance.set_early(early);
            instance.cache.set_limits(limits);
            while instance.cache.trim(System) {
                // The call then runs again from its beginning, and finds less to evict.
                if !may_take_long() {
                    return Err(Failure::TakesLong);
                }
            }
            Ok(adopted().encode(env))
        }
        Opened::Failed => out_of_memory(env),
    }
}

fn cache_stop<'a>(env: Env<'a>, [name]: [Term<'a>; 1]) -> NifResult<'a> {
    if !name.is_atom() {
        return Err(Failure::BadArgument);
    }
    unless_many()?;
    match NAMES.change(word(name), |holder| (None, holder.cloned())) {
        Some(instance) => {
            instance.destroy();
            Ok(ok().encode(env))
        }
        None => nil(env),
    }
}

fn cache_names<'a>(env: Env<'a>, []: [Term<'a>; 0]) -> NifResult<'a> {
    unless_many()?;
    let names = NAMES.all().into_iter();
    let names: Vec<_> = names.map(|(name, _)| word_term(env, name)).collect();
    Ok(names.encode(env))
}

/// Returns `{:ok, value}` or `:error`.
fn cache_get<'a>(env: Env<'a>, [name, key]: [Term<'a>; 2]) -> NifResult<'a> {
    with_cache(env, name, |instance, guard| {
        with_key(key, |key| {
            let found = instance.cache.get(key, System, guard);
            let answer = match &found {
                Found::Fresh(value) | Found::Stale(value) => {
                    pair(env, ok().to_term(env), stored(env, *value)?)
                }
                Found::Error(_) | Found::Nothing => error().to_term(env),
            };
            instance.cache.count(&found, false);
            Ok(answer)
        })
    })
}

/// `cache_put(name, key, value, ttl, stale)`
fn cache_put<'a>(env: Env<'a>, arguments: [Term<'a>; 5]) -> NifResult<'a> {
    let [name, key, new, ttl, stale] = arguments;
    let times = (bound(ttl)?, bound(stale)?);
    with_cache(env, name, |instance, guard| {
        with_key(key, |key| {
            let Some(new) = value(new)? else {
                return out_of_memory(env);
            };
            let patient = may_take_long();
            match instance.cache.put(key, new, times, System, patient, guard) {
                Ok(()) => Ok(ok().to_term(env)),
                Err(NotStored::TakesLong) => Err(Failure::TakesLong),
                Err(NotStored::OutOfMemory) => out_of_memory(env),
            }
        })
    })
}

fn cache_delete<'a>(env: Env<'a>, [name, key]: [Term<'a>; 2]) -> NifResult<'a> {
    with_cache(env, name, |instance, guard| {
        with_key(key, |key| {
            instance.cache.delete(key, guard);
            Ok(ok().to_term(env))
        })
    })
}

fn cache_clear<'a>(env: Env<'a>, [name]: [Term<'a>; 1]) -> NifResult<'a> {
    clear(env, name, false)
}

/// Removes everything as expired.
fn cache_expire<'a>(env: Env<'a>, [name]: [Term<'a>; 1]) -> NifResult<'a> {
    clear(env, name, true)
}

fn clear<'a>(env: Env<'a>, name: Term<'a>, as_expired: bool) -> NifResult<'a> {
    with_cache(env, name, |instance, _guard| {
        match instance.cache.clear(as_expired) {
            Ok(cleared) => {
                free_when_unread(cleared);
                Ok(ok().to_term(env))
            }
            Err(OutOfMemory) => out_of_memory(env),
        }
    })
}

/// Lets the background thread free the entries as soon as no reader is among them.
fn free_when_unread(cleared: foundation_core::cache::Cleared<OwnedTerm, OwnedTerm>) {
    let mut left = Some(cleared);
    background::send(Job::Try(Box::new(move || {
        left = left.take().and_then(|cleared| cleared.free().err());
        left.is_none()
    })));
}

fn cache_size<'a>(env: Env<'a>, [name]: [Term<'a>; 1]) -> NifResult<'a> {
    with_cache(env, name, |instance, _guard| {
        Ok(instance.cache.len().encode(env))
    })
}

/// Returns `{hits, misses, loads, load_errors, stale_hits, evicted, expired, rejected, entries,
/// bytes}`.
fn cache_stats<'a>(env: Env<'a>, [name]: [Term<'a>; 1]) -> NifResult<'a> {
    with_cache(env, name, |instance, _guard| {
        let figures = instance.cache.figures();
        let figures = [
            figures.hits,
            figures.misses,
            figures.loads,
            figures.load_errors,
            figures.stale_hits,
            figures.evicted,
            figures.expired,
            figures.rejected,
            figures.entries,
            figures.bytes,
        ];
        Ok(tuple(env, figures.map(|figure| figure.encode(env))))
    })
}

/// Returns `{[{key, value}], cursor | :done}`. The first cursor is 0.
fn cache_walk<'a>(env: Env<'a>, [name, from]: [Term<'a>; 2]) -> NifResult<'a> {
    let from = from.decode().map_err(|_| Failure::BadArgument)?;
    with_cache(env, name, |instance, guard| {
        let mut budget = Budget::default();
        let (mut found, mut in_time) = (Vec::new(), true);
        let visit = |visited: foundation_core::table::Visited<'_, OwnedTerm, OwnedTerm>| {
            // The entries of a segment must be returned together; a dirty scheduler has the time
            // for it.
            let spent = budget.spend_entry(&visited.key, visited.entry.value);
            in_time = in_time && (spent || may_take_long());
            if in_time {
                let key = key_term(env, &visited.key);
                found.push(pair(env, key, value_term(env, visited.entry.value)));
            }
        };
        let next = Entries::walk(&instance.cache, from, VISITED_MAX, System, guard, visit);
        if !in_time {
            return Err(Failure::TakesLong);
        }
        budget.charge(env);
        let next = next.map_or_else(|| done().encode(env), |hash| hash.encode(env));
        Ok(pair(env, found.encode(env), next))
    })
}
