//! The NIFs of bulkheads.

use std::sync::{Arc, PoisonError, RwLock};

use foundation_core::key::Seed;
use foundation_core::permits::{
    Acquired, Cancelled, Figures, NoWaiter, Permits, Pool, Settings, Undecided, Wait,
};
use foundation_core::table::pin;
use rustler::{Encoder, Env, Term, atoms};

use super::instance::{Bulkhead, BulkheadSettings, Core, Instance, Waiter, settings, target};
use super::{
    adopt_timeout, bound, infinity, local_process, named, natural, natural_32, nil, no_state,
    start, system_limit, with_optional_key,
};
use crate::process::{caller, is_alive};
use crate::raw::{Failure, NifResult, may_take_long, nifs};
use crate::term::{OwnedTerm, key_term, pair, tuple};

nifs! {
    bulkhead_start / 7,
    bulkhead_acquire / 3,
    bulkhead_wait / 3,
    bulkhead_cancel / 2,
    bulkhead_release / 3,
    bulkhead_resize / 2,
    bulkhead_info / 1,
    bulkhead_full / 2,
}

atoms! { ok, full, wait, waits, granted, cancelled, refused, unknown, exiting, fifo, lifo, done, bare, key }

/// How many waiters are looked at in one call on a normal scheduler.
const WAITERS_MAX: u32 = 1_000;
/// How many keys are looked at in one call.
const VISITED_MAX: usize = 500;

/// `bulkhead_start(name, max, queue, wait, order, max_keys, adopt_timeout)`.
fn bulkhead_start<'a>(env: Env<'a>, arguments: [Term<'a>; 7]) -> NifResult<'a> {
    let [name, max, queue, default_wait, order, max_keys, timeout] = arguments;
    let newest_first = match order {
        order if order == fifo().to_term(env) => false,
        order if order == lifo().to_term(env) => true,
        _ => return Err(Failure::BadArgument),
    };
    let new = BulkheadSettings {
        pool: Settings {
            max: natural_32(max)?,
            queue: natural_32(queue)?,
            newest_first,
            epoch: 0,
        },
        wait: bound(default_wait)?.unwrap_or(u64::MAX),
    };
    let (max_keys, timeout) = (natural(max_keys)?, adopt_timeout(timeout)?);
    let create = || {
        Ok(Core::Bulkhead(Bulkhead {
            permits: Permits::new(Seed::random(), max_keys)?,
            settings: RwLock::new(new),
        }))
    };
    start(env, name, timeout, create, |instance| {
        let Some(bulkhead) = instance.bulkhead() else {
            return false;
        };
        bulkhead.permits.pools().set_max_keys(max_keys);
        let mut current = bulkhead
            .settings
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let before = current.pool;
        *current = new;
        // A pool that was resized stays so, unless the option is another.
        current.pool.epoch = before.epoch + u32::from(before.max != new.pool.max);
        let pool = current.pool;
        drop(current);
        if pool != before {
            bulkhead.finish_all(instance);
        }
        true
    })
}

fn with_bulkhead<'a, R>(
    term: Term<'a>,
    then: impl FnOnce(&Arc<Instance>, &Bulkhead, Option<Term<'a>>) -> Result<R, Failure>,
    otherwise: impl FnOnce() -> Result<R, Failure>,
) -> Result<R, Failure> {
    let (name, key) = target(term)?;
    let guard = pin();
    let instance = named(name, &guard);
    match instance.and_then(|instance| Some((instance, instance.bulkhead()?))) {
        Some((instance, bulkhead)) => then(instance, bulkhead, key),
        None => otherwise(),
    }
}

fn undecided(env: Env<'_>, error: Undecided) -> NifResult<'_> {
    match error {
        Undecided::Dead => Ok(exiting().to_term(env)),
        Undecided::NoState(error) => no_state(env, error),
    }
}

/// `{:wait, ms | :infinity}`
fn would_wait(env: Env<'_>, time: u64) -> Term<'_> {
    let time = match time {
        u64::MAX => infinity().to_term(env),
        ms => ms.encode(env),
    };
    pair(env, wait().to_term(env), time)
}

/// An id, `:full`, `:max_keys`, or `{:wait, ms | :infinity}` where it would wait. Without a wait of
/// the call's own, `nil`, it is the instance's.
fn bulkhead_acquire<'a>(env: Env<'a>, [name, weight, wait_term]: [Term<'a>; 3]) -> NifResult<'a> {
    let weight = natural(weight)?;
    let own = match wait_term {
        none if none == rustler::types::atom::nil().to_term(env) => None,
        given => Some(bound(given)?.unwrap_or(u64::MAX)),
    };
    let acquire = |instance: &Arc<Instance>, bulkhead: &Bulkhead, key_term| {
        let settings = settings(&bulkhead.settings);
        let time = own.unwrap_or(settings.wait);
        let (owner, request) = (caller(env), (weight, may_take_long()));
        let wait = match time {
            0 => Wait::<NoWaiter<Waiter>>::Never,
            _ => Wait::Later,
        };
        let watch = || instance.watch(env, owner);
        with_optional_key(key_term, |key| {
            let permits = &bulkhead.permits;
            match permits.acquire(&settings.pool, owner, key, request, wait, watch) {
                Ok((id, Acquired::Granted)) => Ok(id.encode(env)),
                Ok((_, Acquired::WouldWait)) => Ok(would_wait(env, time)),
                Ok(_) => Ok(full().to_term(env)),
                Err(error) => undecided(env, error),
            }
        })
    };
    with_bulkhead(name, acquire, || nil(env))
}

/// An id, `{:waits, id}`, `:full` or `:max_keys`. A waiter gets `{ref, :granted | :refused}`.
fn bulkhead_wait<'a>(env: Env<'a>, [name, weight, reference]: [Term<'a>; 3]) -> NifResult<'a> {
    let weight = natural(weight)?;
    if !reference.is_ref() {
        return Err(Failure::BadArgument);
    }
    let acquire = |instance: &Arc<Instance>, bulkhead: &Bulkhead, key_term| {
        let settings = settings(&bulkhead.settings);
        let (owner, request) = (caller(env), (weight, may_take_long()));
        let Some(waiter) = OwnedTerm::new(reference) else {
            return Ok(system_limit().to_term(env));
        };
        let wait = Wait::Now(move || waiter);
        let watch = || instance.watch(env, owner);
        with_optional_key(key_term, |key| {
            let permits = &bulkhead.permits;
            match permits.acquire(&settings.pool, owner, key, request, wait, watch) {
                Ok((id, Acquired::Granted)) => Ok(id.encode(env)),
                Ok((id, Acquired::Waits)) => Ok((waits(), id).encode(env)),
                Ok(_) => Ok(full().to_term(env)),
                Err(error) => undecided(env, error),
            }
        })
    };
    with_bulkhead(name, acquire, || nil(env))
}

/// Gives up a wait of the caller's: `:cancelled`, `:granted`, `:refused` or `:unknown`.
fn bulkhead_cancel<'a>(env: Env<'a>, [name, id]: [Term<'a>; 2]) -> NifResult<'a> {
    let id = natural(id)?;
    let cancel = |instance: &Arc<Instance>, bulkhead: &Bulkhead, _key| {
        let pool = settings(&bulkhead.settings).pool;
        let alive = |owner| is_alive(env, owner);
        let (answer, effects) = bulkhead.permits.cancel(&pool, caller(env), id, alive);
        bulkhead.finish(instance, Some(env), effects);
        Ok(match answer {
            Cancelled::Cancelled => cancelled(),
            Cancelled::Granted => granted(),
            Cancelled::Refused => refused(),
            Cancelled::Unknown => unknown(),
        }
        .to_term(env))
    };
    with_bulkhead(name, cancel, || nil(env))
}

/// Gives back a permit of that process, once.
fn bulkhead_release<'a>(env: Env<'a>, [name, pid, id]: [Term<'a>; 3]) -> NifResult<'a> {
    let (owner, id) = (local_process(pid)?, natural(id)?);
    let release = |instance: &Arc<Instance>, bulkhead: &Bulkhead, _key| {
        let pool = settings(&bulkhead.settings).pool;
        let alive = |owner| is_alive(env, owner);
        let effects = bulkhead.permits.release(&pool, owner, id, alive);
        bulkhead.finish(instance, Some(env), effects);
        Ok(ok().to_term(env))
    };
    with_bulkhead(name, release, || nil(env))
}

/// `:ok` or `:max_keys`.
fn bulkhead_resize<'a>(env: Env<'a>, [name, max]: [Term<'a>; 2]) -> NifResult<'a> {
    let max = natural_32(max)?;
    let resize = |instance: &Arc<Instance>, bulkhead: &Bulkhead, key_term| {
        let pool = settings(&bulkhead.settings).pool;
        with_optional_key(key_term, |key| {
            let pools = bulkhead.permits.pools();
            let figures = pools.read(key, |_, state| state.figures(&pool));
            let many = figures.is_some_and(|figures| figures.waiting > WAITERS_MAX);
            if many && !may_take_long() {
                return Err(Failure::TakesLong);
            }
            let change = (max, may_take_long());
            let alive = |owner| is_alive(env, owner);
            match bulkhead.permits.resize(&pool, key, change, alive) {
                Ok(effects) => {
                    bulkhead.finish(instance, Some(env), effects);
                    Ok(ok().to_term(env))
                }
                Err(error) => no_state(env, error),
            }
        })
    };
    with_bulkhead(name, resize, || nil(env))
}

/// `{max, in_use, waiting, granted, rejected, timed_out, reclaimed}`
fn bulkhead_info<'a>(env: Env<'a>, [name]: [Term<'a>; 1]) -> NifResult<'a> {
    let info = |_instance: &Arc<Instance>, bulkhead: &Bulkhead, key_term| {
        let pool = settings(&bulkhead.settings).pool;
        with_optional_key(key_term, |key| {
            let pools = bulkhead.permits.pools();
            let figures = pools.read(key, |_, state| state.figures(&pool));
            let figures = figures.unwrap_or_else(|| Pool::<Waiter>::default().figures(&pool));
            Ok(figures_term(env, figures))
        })
    };
    with_bulkhead(name, info, || nil(env))
}

fn figures_term(env: Env<'_>, figures: Figures) -> Term<'_> {
    let numbers = [
        u64::from(figures.max),
        figures.in_use,
        u64::from(figures.waiting),
        figures.granted,
        figures.rejected,
        figures.timed_out,
        figures.reclaimed,
    ];
    tuple(env, numbers.map(|number| number.encode(env)))
}

/// The keys whose permits are all out, `:bare` or `{:key, key}`: a chunk, and the next cursor or
/// `:done`.
fn bulkhead_full<'a>(env: Env<'a>, [name, from]: [Term<'a>; 2]) -> NifResult<'a> {
    let from = natural(from)?;
    let walk = |_instance: &Arc<Instance>, bulkhead: &Bulkhead, _key| {
        let pool = settings(&bulkhead.settings).pool;
        let (pools, mut found) = (bulkhead.permits.pools(), Vec::new());
        let next = pools.walk(from, VISITED_MAX, |cell, key_view| {
            let figures = pools.change(cell, |_, state| state.figures(&pool));
            if figures.is_some_and(|figures| figures.in_use >= u64::from(figures.max)) {
                found.push(match key_view {
                    None => bare().to_term(env),
                    Some(view) => (key(), key_term(env, &view)).encode(env),
                });
            }
        });
        let next = next.map_or_else(|| done().to_term(env), |hash| hash.encode(env));
        Ok((found, next).encode(env))
    };
    with_bulkhead(name, walk, || nil(env))
}

impl Bulkhead {
    /// Serves the waiters of all keys, whose settings have changed.
    fn finish_all(&self, instance: &Arc<Instance>) {
        let instance = instance.clone();
        let serve = move || {
            let Some(bulkhead) = instance.bulkhead() else {
                return;
            };
            let (pools, mut from) = (bulkhead.permits.pools(), Some(0));
            while let Some(hash) = from {
                let mut cells = Vec::new();
                from = pools.walk(hash, VISITED_MAX, |cell, _key| cells.push(cell.clone()));
                for cell in cells {
                    let pool = settings(&bulkhead.settings).pool;
                    let effects = bulkhead.permits.serve_all(&pool, cell);
                    bulkhead.finish(&instance, None, effects);
                }
            }
        };
        crate::background::send(crate::background::Job::Run(Box::new(serve)));
    }
}
