//! The NIFs for sampling strategies. Here a name may be any term.

use foundation_core::sampler::Strategy;
use rustler::types::tuple::get_tuple;
use rustler::{Encoder, Env, Term, atoms};

use super::{OneEvent, TABLES, clock, event, is_name, is_open, nil, number, push_name, stored};
use crate::raw::{Failure, NifResult, may_take_long, nifs};
use crate::term::{Buffer, NODES_MAX, decode_all};

nifs! {
    sampler_configure / 2,
    sampler_decide / 1,
    sampler_stats / 1,
    sampler_events / 1,
    sampler_reset / 0,
}

atoms! { ok, done, always, never, random, rate_limited, adaptive, reservoir, system_limit, error }

const VISITED_MAX: usize = 200;
/// The prefix of a name that is not an event's. No atom's word is zero.
const OTHER: [u8; 8] = [0; 8];

/// Returns the event of a name, if it is known.
fn known_event(name: Term) -> Result<Option<&'static OneEvent>, Failure> {
    let mut buffer = Buffer::new();
    if !(push_name(&mut buffer, name) && is_name(name)) {
        identify_other(&mut buffer, name)?;
    }
    Ok(TABLES.events.get(buffer.bytes()))
}

fn identify_other(buffer: &mut Buffer, name: Term) -> Result<(), Failure> {
    buffer.truncate(0);
    let _ = buffer.push(&OTHER);
    stored::identify(buffer, name)
}

fn strategy(term: Term) -> Option<Strategy> {
    if let Ok(atom) = term.decode::<rustler::Atom>() {
        return match atom {
            atom if atom == always() => Some(Strategy::Always),
            atom if atom == never() => Some(Strategy::Never),
            _ => None,
        };
    }
    let [kind, value]: [Term; 2] = get_tuple(term).ok()?.try_into().ok()?;
    let kind: rustler::Atom = kind.decode().ok()?;
    let real = || {
        value
            .decode::<f64>()
            .or_else(|_| value.decode::<u32>().map(f64::from))
            .ok()
    };
    if kind == random() {
        real().map(Strategy::Random)
    } else if kind == adaptive() {
        real().map(Strategy::Adaptive)
    } else if kind == rate_limited() {
        number(value).ok().map(Strategy::RateLimited)
    } else if kind == reservoir() {
        number(value).ok().map(Strategy::Reservoir)
    } else {
        None
    }
}

fn sampler_configure<'a>(env: Env<'a>, [name, term]: [Term<'a>; 2]) -> NifResult<'a> {
    if !is_open() {
        return nil(env);
    }
    let strategy = strategy(term).ok_or(Failure::BadArgument)?;
    let mut shown = Buffer::new();
    shown.encode_value(term).map_err(|_| Failure::BadArgument)?;
    let mut key = Buffer::new();
    let event = if push_name(&mut key, name) && is_name(name) {
        event(env, key.bytes(), name)
    } else {
        identify_other(&mut key, name)?;
        let kept = || stored::store(env, [name]).ok();
        TABLES.events.get_or_insert(key.bytes(), kept)
    };
    // The shared event must not get a strategy: it would apply to every name past the bound.
    match event {
        Some(event) if !std::ptr::eq(event, super::others(env)) => {
            event.sampler.configure(strategy, shown.bytes());
            Ok(ok().to_term(env))
        }
        _ => Ok((error(), system_limit()).encode(env)),
    }
}

fn sampler_decide<'a>(env: Env<'a>, [name]: [Term<'a>; 1]) -> NifResult<'a> {
    if !is_open() {
        return nil(env);
    }
    let keep = known_event(name)?.is_none_or(|event| event.sampler.decide(clock::now));
    Ok(keep.encode(env))
}

fn stats<'a>(env: Env<'a>, event: &OneEvent) -> Option<Term<'a>> {
    let sampled = event.sampler.sampled()?;
    let [strategy] = decode_all(env, &sampled.shown);
    Some((sampled.sampled, sampled.sampled_out, strategy).encode(env))
}

fn sampler_stats<'a>(env: Env<'a>, [name]: [Term<'a>; 1]) -> NifResult<'a> {
    if !is_open() {
        return nil(env);
    }
    let stats = known_event(name)?.and_then(|event| stats(env, event));
    Ok(stats.unwrap_or_else(|| (0, 0, always()).encode(env)))
}

/// Returns the events in chunks. Names that take long to copy are read on a dirty scheduler.
fn sampler_events<'a>(env: Env<'a>, [cursor]: [Term<'a>; 1]) -> NifResult<'a> {
    let cursor = number(cursor)? as usize;
    if !is_open() {
        return nil(env);
    }
    let (events, next) = TABLES.events.walk(cursor, VISITED_MAX);
    let cost: usize = events.iter().map(|event| stored::cost(&event.name)).sum();
    if cost > NODES_MAX && !may_take_long() {
        return Err(Failure::TakesLong);
    }
    let mut list = Term::list_new_empty(env);
    for event in events {
        if let Some(stats) = stats(env, event) {
            let [name] = stored::terms(env, &event.name)?;
            list = list.list_prepend((name, stats).encode(env));
        }
    }
    let next = match next {
        Some(next) => next.encode(env),
        None => done().to_term(env),
    };
    Ok((list, next).encode(env))
}

/// Resets all names in one call, on a dirty scheduler: up to 10,000 short locks.
fn sampler_reset<'a>(env: Env<'a>, []: [Term<'a>; 0]) -> NifResult<'a> {
    if !is_open() {
        return nil(env);
    }
    if !may_take_long() {
        return Err(Failure::TakesLong);
    }
    let (events, _) = TABLES.events.walk(0, usize::MAX);
    for event in events {
        event.sampler.reset();
    }
    Ok(ok().to_term(env))
}
