//! The NIFs of rate limiters.

use std::sync::{PoisonError, RwLock};

use foundation_core::key::Seed;
use foundation_core::keyed::Keyed;
use foundation_core::limiter::{Algorithm, LIMITS_MAX, Limit, Limiter, Refusal, Settings};
use foundation_core::table::pin;
use rustler::{Encoder, Env, Term, TermType, atoms};

use super::instance::{Core, LimiterSettings, RateLimiter, target};
use super::{
    MS, adopt_timeout, bound, milliseconds, named, natural, nil, no_state, start, with_optional_key,
};
use crate::raw::{Failure, NifResult, may_take_long, nifs};
use crate::telemetry::clock;
use crate::term::{as_pair, cell, pair, tuple, word, word_term};

nifs! {
    limiter_start / 5,
    limiter_take / 3,
    limiter_reserve / 3,
    limiter_settle / 4,
    limiter_info / 1,
}

atoms! {
    ok, wait, limited, exceeds_limit, bad_cost, reserved, sliding_window, token_bucket,
}

/// `{name, limit, per_ms}`
fn limit(term: Term) -> Option<(u64, Limit)> {
    let (name, limit, per) = term.decode::<(Term, u32, u64)>().ok()?;
    let per = per.checked_mul(MS)?;
    let is_valid = name.is_atom() && limit > 0 && per > 0;
    is_valid.then(|| (word(name), Limit { limit, per }))
}

/// `limiter_start(name, algorithm, limits, max_keys, adopt_timeout)`.
fn limiter_start<'a>(env: Env<'a>, arguments: [Term<'a>; 5]) -> NifResult<'a> {
    let [name, algorithm, limits, max_keys, timeout] = arguments;
    let algorithm = match algorithm {
        given if given == sliding_window().to_term(env) => Algorithm::SlidingWindow,
        given if given == token_bucket().to_term(env) => Algorithm::TokenBucket,
        _ => return Err(Failure::BadArgument),
    };
    let limits = crate::term::elements(limits, limit)?;
    if limits.is_empty() || limits.len() > LIMITS_MAX {
        return Err(Failure::BadArgument);
    }
    let (max_keys, timeout) = (natural(max_keys)?, adopt_timeout(timeout)?);
    let names: Vec<u64> = limits.iter().map(|(name, _)| *name).collect();
    let new = || Settings {
        algorithm,
        limits: limits.iter().map(|(_, limit)| *limit).collect(),
        epoch: 0,
        previous: None,
    };
    let create = || {
        let settings = LimiterSettings {
            limits: new(),
            names: names.clone(),
        };
        Ok(Core::RateLimiter(RateLimiter {
            limiters: Keyed::new(Seed::random(), max_keys, Limiter::new(&settings.limits))?,
            settings: RwLock::new(settings),
        }))
    };
    start(env, name, timeout, create, |instance| {
        let Some(limiter) = instance.rate_limiter() else {
            return false;
        };
        limiter.limiters.set_max_keys(max_keys);
        let mut current = limiter
            .settings
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let mut new = new();
        if current.names != names
            || current.limits.limits != new.limits
            || current.limits.algorithm != algorithm
        {
            // A limit that has another name is another limit.
            let is_kept = current.names == names;
            let previous = Settings {
                previous: None,
                ..current.limits.clone()
            };
            new.epoch = previous.epoch.wrapping_add(1);
            new.previous = is_kept.then(|| Box::new(previous));
            *current = LimiterSettings {
                limits: new,
                names: names.clone(),
            };
        }
        true
    })
}

fn with_limiter<'a>(
    env: Env<'a>,
    term: Term<'a>,
    then: impl FnOnce(&RateLimiter, &LimiterSettings, Option<Term<'a>>) -> NifResult<'a>,
) -> NifResult<'a> {
    let (name, key) = target(term)?;
    let guard = pin();
    match named(name, &guard).and_then(|instance| instance.rate_limiter()) {
        Some(limiter) => {
            let settings = limiter.settings.read();
            let settings = settings.unwrap_or_else(PoisonError::into_inner);
            then(limiter, &settings, key)
        }
        None => nil(env),
    }
}

/// How many pairs of a cost are read on a normal scheduler.
const PAIRS_MAX: usize = 1_000;

/// A natural number. One above the range of the type becomes its maximum, which is above every
/// limit too.
fn cost(term: Term) -> Option<u64> {
    if let Ok(number) = term.decode() {
        return Some(number);
    }
    let is_larger =
        || term.get_type() == TermType::Integer && term > u64::MAX.encode(term.get_env());
    is_larger().then_some(u64::MAX)
}

/// The costs of a call, in the order of the limits.
struct Costs {
    costs: [u64; LIMITS_MAX],
    len: usize,
}

impl Costs {
    /// Decodes a number where there is one limit, or pairs of names and numbers. `None` where it is
    /// neither, or names an unknown limit.
    fn decode(term: Term, names: &[u64]) -> Result<Option<Costs>, Failure> {
        let mut costs = Costs {
            costs: [0; LIMITS_MAX],
            len: names.len(),
        };
        if let Some(number) = cost(term) {
            costs.costs[0] = number;
            return Ok((names.len() == 1).then_some(costs));
        }
        let (mut rest, mut pairs) = (term, 0);
        while let Some((head, tail)) = cell(rest) {
            pairs += 1;
            if pairs > PAIRS_MAX && !may_take_long() {
                return Err(Failure::TakesLong);
            }
            let decoded = as_pair(head).and_then(|(name, number)| {
                let index = names.iter().position(|known| *known == word(name))?;
                Some((index, cost(number)?))
            });
            let Some((index, number)) = decoded else {
                return Ok(None);
            };
            costs.costs[index] = number;
            rest = tail;
        }
        Ok(rest.is_empty_list().then_some(costs))
    }

    fn get(&self) -> &[u64] {
        &self.costs[..self.len]
    }
}

/// `{:bad_cost, names}`
fn wrong_cost<'a>(env: Env<'a>, settings: &LimiterSettings) -> NifResult<'a> {
    let names = settings.names.iter().map(|name| word_term(env, *name));
    Ok((bad_cost(), names.collect::<Vec<_>>()).encode(env))
}

/// The slot and the time until then, in nanoseconds; or the term of a refusal.
fn take<'a>(
    env: Env<'a>,
    (limiter, settings): (&RateLimiter, &LimiterSettings),
    key_term: Option<Term<'a>>,
    costs: &Costs,
    wait: u64,
) -> Result<Result<(u64, u64), Term<'a>>, Failure> {
    let patient = may_take_long();
    let taken = with_optional_key(key_term, |key| {
        Ok(limiter.limiters.with(
            key,
            patient,
            clock::now,
            || Limiter::new(&settings.limits),
            |_, limiter| {
                limiter.fit(&settings.limits);
                // Under the lock: a time that was read before might be older than one that has
                // been counted.
                let now = clock::now();
                let slot = limiter.take(&settings.limits, costs.get(), wait, now)?;
                Ok((slot, slot - now))
            },
        ))
    })?;
    Ok(match taken {
        Ok(Ok(slot)) => Ok(slot),
        Ok(Err(Refusal::Limited(later))) => Err(pair(
            env,
            limited().to_term(env),
            milliseconds(later).encode(env),
        )),
        Ok(Err(Refusal::ExceedsLimit)) => Err(exceeds_limit().to_term(env)),
        Err(error) => Err(no_state(env, error)?),
    })
}

fn wait_time(term: Term) -> Result<u64, Failure> {
    Ok(bound(term)?.map_or(u64::MAX, |wait| wait.saturating_mul(MS)))
}

/// `:ok`, `{:wait, ms}` until the slot, `{:limited, ms}`, `:exceeds_limit`, `:max_keys` or
/// `{:bad_cost, names}`.
fn limiter_take<'a>(env: Env<'a>, [name, cost, wait_term]: [Term<'a>; 3]) -> NifResult<'a> {
    let until = wait_time(wait_term)?;
    with_limiter(env, name, |limiter, settings, key| {
        let Some(costs) = Costs::decode(cost, &settings.names)? else {
            return wrong_cost(env, settings);
        };
        Ok(match take(env, (limiter, settings), key, &costs, until)? {
            Ok((_slot, 0)) => ok().to_term(env),
            Ok((_slot, later)) => pair(env, wait().to_term(env), milliseconds(later).encode(env)),
            Err(refusal) => refusal,
        })
    })
}

/// `{:reserved, slot, ms}`, or as [`limiter_take`].
fn limiter_reserve<'a>(env: Env<'a>, [name, cost, wait_term]: [Term<'a>; 3]) -> NifResult<'a> {
    let until = wait_time(wait_term)?;
    with_limiter(env, name, |limiter, settings, key| {
        let Some(costs) = Costs::decode(cost, &settings.names)? else {
            return wrong_cost(env, settings);
        };
        Ok(match take(env, (limiter, settings), key, &costs, until)? {
            Ok((slot, later)) => (reserved(), slot, milliseconds(later)).encode(env),
            Err(refusal) => refusal,
        })
    })
}

/// `limiter_settle(name, slot, reserved, actual)`: `:ok` or `{:bad_cost, names}`.
fn limiter_settle<'a>(env: Env<'a>, [name, slot, before, actual]: [Term<'a>; 4]) -> NifResult<'a> {
    let slot = natural(slot)?;
    with_limiter(env, name, |limiter, settings, key_term| {
        let costs = |term| Costs::decode(term, &settings.names);
        let Some(actual) = costs(actual)? else {
            return wrong_cost(env, settings);
        };
        // Of limits that are others now, nothing is settled.
        if let Some(before) = costs(before)? {
            with_optional_key(key_term, |key| {
                limiter.limiters.read(key, |_, limiter| {
                    limiter.fit(&settings.limits);
                    let costs = (before.get(), actual.get());
                    limiter.settle(&settings.limits, slot, costs, clock::now());
                });
                Ok(())
            })?;
        }
        Ok(ok().to_term(env))
    })
}

/// `{[{name, limit, per_ms, used, available, reset_ms}], taken, rejected}`
fn limiter_info<'a>(env: Env<'a>, [name]: [Term<'a>; 1]) -> NifResult<'a> {
    with_limiter(env, name, |limiter, settings, key_term| {
        with_optional_key(key_term, |key| {
            let figures = |limiter: &mut Limiter| {
                limiter.fit(&settings.limits);
                let figures = limiter.figures(&settings.limits, clock::now());
                (figures, limiter.totals())
            };
            let read = limiter.limiters.read(key, |_, limiter| figures(limiter));
            let (limits, (taken, rejected)) =
                read.unwrap_or_else(|| figures(&mut Limiter::new(&settings.limits)));
            let limits: Vec<_> = limits
                .iter()
                .zip(&settings.names)
                .map(|(limit, name)| {
                    let terms = [
                        word_term(env, *name),
                        limit.limit.limit.encode(env),
                        (limit.limit.per / MS).encode(env),
                        limit.used.encode(env),
                        limit.available.encode(env),
                        milliseconds(limit.reset).encode(env),
                    ];
                    tuple(env, terms)
                })
                .collect();
            Ok((limits, taken, rejected).encode(env))
        })
    })
}
