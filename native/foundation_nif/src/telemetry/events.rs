//! The NIFs for windows, counts and batches.

use std::sync::atomic::Ordering;

use foundation_core::batch::Appended;
use foundation_core::events::Totals;
use foundation_core::key::{Key, NoOpaque};
use foundation_core::window::Admission;
use rustler::{Encoder, Env, Term, atoms};

use super::{
    NS_PER_MS, OneEvent, TABLES, clock, event, has_tables, is_nil, is_open, nil, number, push_name,
    stored, takes_new,
};
use crate::background::{self, Job};
use crate::raw::{Failure, NifResult, may_take_long, nifs};
use crate::term::{Buffer, NODES_MAX, is_map, short_key, short_window_key, word};

nifs! {
    telemetry_admit / 3,
    telemetry_append / 3,
    telemetry_count / 2,
    telemetry_configure / 4,
    telemetry_settings / 1,
    telemetry_totals / 1,
    telemetry_events / 1,
    telemetry_windows / 0,
    telemetry_own_windows / 1,
    telemetry_sweep / 0,
    telemetry_peek / 3,
    telemetry_ack / 2,
}

atoms! { ok, emit, first, full, done, emitted, suppressed, sampled_out }

/// The most events of a walk, windows of a sweep and events of a batch per call: about a hundred
/// microseconds of work.
const VISITED_MAX: usize = 200;
const SWEPT: usize = 1_000;
const PEEKED: usize = 128;
/// The most events of a batch that the acknowledging call drops itself.
const DROPPED: usize = 1_024;

/// Decodes a number or `nil`.
fn optional(term: Term) -> Result<Option<u64>, Failure> {
    if is_nil(term) {
        Ok(None)
    } else {
        number(term).map(Some)
    }
}

/// Cost: the encoding of the key, plus O(1). A large key goes to a dirty scheduler.
fn telemetry_admit<'a>(env: Env<'a>, [name, key, window]: [Term<'a>; 3]) -> NifResult<'a> {
    let mut buffer = Buffer::new();
    if !takes_new() || !push_name(&mut buffer, name) {
        return nil(env);
    }
    let Some(event) = event(env, buffer.bytes(), name) else {
        return nil(env);
    };
    let key = match short_key(key).or_else(|| short_window_key(key)) {
        Some(key) if !super::is_shared(event) => key,
        _ => window_key(&mut buffer, event, key)?,
    };
    let own = optional(window)?;
    let window = || match own {
        Some(window) => window.saturating_mul(NS_PER_MS),
        None => event
            .window
            .get_or(|| TABLES.window.load(Ordering::Relaxed)),
    };
    let answer = match TABLES.windows.admit(event, &key, clock::System, window) {
        Admission::Repeat => ok(),
        Admission::First(part, now) => {
            let counts = event.counts(part);
            if event.sampler.decide(|| now) {
                counts.emitted.fetch_add(1, Ordering::Relaxed);
                emit()
            } else {
                counts.sampled_out.fetch_add(1, Ordering::Relaxed);
                ok()
            }
        }
    };
    Ok(answer.to_term(env))
}

/// Makes the key of a window for which [`short_key`] has none, in a buffer that holds the name.
#[inline(never)]
fn window_key<'k>(
    buffer: &'k mut Buffer,
    event: &'static OneEvent,
    key: Term,
) -> Result<Key<'k, NoOpaque>, Failure> {
    if super::is_shared(event) {
        stored::identify(buffer, key)?;
        return Ok(Key::new(IN_SHARED, buffer.bytes()));
    }
    buffer.truncate(0);
    stored::identify(buffer, key)?;
    Ok(Key::new(IDENTIFIED, buffer.bytes()))
}

/// The kinds of keys that [`window_key`] makes, besides those of [`short_key`].
const IDENTIFIED: u8 = 2;
/// A key of the event that many names share; it starts with the name.
const IN_SHARED: u8 = 3;

/// Cost: the encoding of the maps, plus O(1). Large maps go to a dirty scheduler.
fn telemetry_append<'a>(
    env: Env<'a>,
    [name, measurements, metadata]: [Term<'a>; 3],
) -> NifResult<'a> {
    if !(is_map(measurements) && is_map(metadata)) {
        return Err(Failure::BadArgument);
    }
    if !is_open() {
        return nil(env);
    }
    let Some(event) = event_of(env, name) else {
        return nil(env);
    };
    let payload = stored::store(env, [measurements, metadata])?;
    let now = clock::now();
    if !event.sampler.decide(|| now) {
        let counts = event.counts(0);
        counts.sampled_out.fetch_add(1, Ordering::Relaxed);
        return Ok(ok().to_term(env));
    }
    let size = event
        .batch_size
        .get_or(|| TABLES.batch_size.load(Ordering::Relaxed));
    let most = TABLES.max_pending.load(Ordering::Relaxed);
    let answer = match event
        .queue
        .append(now, payload, size, &TABLES.pending, most)
    {
        Appended::First => first(),
        Appended::Full => full(),
        Appended::Waiting | Appended::Dropped => ok(),
    };
    Ok(answer.to_term(env))
}

/// Returns the event of a name, which is made if it is unknown, or `None` for a term that is no
/// name.
#[inline]
fn event_of<'a>(env: Env<'a>, name: Term<'a>) -> Option<&'static OneEvent> {
    let mut buffer = Buffer::new();
    push_name(&mut buffer, name)
        .then(|| event(env, buffer.bytes(), name))
        .flatten()
}

/// Evaluates to the event of a name. Without one, the NIF that uses this returns `nil`.
macro_rules! event {
    ($env:expr, $name:expr) => {
        match has_tables().then(|| event_of($env, $name)).flatten() {
            Some(event) => event,
            None => return nil($env),
        }
    };
}

fn telemetry_count<'a>(env: Env<'a>, [name, outcome]: [Term<'a>; 2]) -> NifResult<'a> {
    let event = event!(env, name);
    let counts = event.counts(0);
    let count = match word(outcome) {
        outcome if outcome == word(emitted().to_term(env)) => &counts.emitted,
        outcome if outcome == word(suppressed().to_term(env)) => &counts.suppressed,
        outcome if outcome == word(sampled_out().to_term(env)) => &counts.sampled_out,
        _ => return Err(Failure::BadArgument),
    };
    count.fetch_add(1, Ordering::Relaxed);
    Ok(ok().to_term(env))
}

fn telemetry_configure<'a>(
    env: Env<'a>,
    [name, window, batch_size, batch_timeout]: [Term<'a>; 4],
) -> NifResult<'a> {
    let (window, size, timeout) = (
        optional(window)?,
        optional(batch_size)?,
        optional(batch_timeout)?,
    );
    let event = event!(env, name);
    // A setting that is not given keeps its value.
    if let Some(window) = window {
        event.window.set(Some(window.saturating_mul(NS_PER_MS)));
    }
    if size.is_some() {
        event.batch_size.set(size);
    }
    if timeout.is_some() {
        event.batch_timeout.set(timeout);
    }
    Ok(ok().to_term(env))
}

fn telemetry_settings<'a>(env: Env<'a>, [name]: [Term<'a>; 1]) -> NifResult<'a> {
    let event = event!(env, name);
    let window = event
        .window
        .get_or(|| TABLES.window.load(Ordering::Relaxed));
    let size = event
        .batch_size
        .get_or(|| TABLES.batch_size.load(Ordering::Relaxed));
    let timeout = event
        .batch_timeout
        .get_or(|| TABLES.batch_timeout.load(Ordering::Relaxed));
    Ok((window / NS_PER_MS, size, timeout).encode(env))
}

fn totals_term(env: Env<'_>, totals: Totals) -> Term<'_> {
    (
        totals.emitted,
        totals.suppressed,
        totals.sampled_out,
        totals.dropped,
        totals.pending,
    )
        .encode(env)
}

fn telemetry_totals<'a>(env: Env<'a>, [name]: [Term<'a>; 1]) -> NifResult<'a> {
    let event = event!(env, name);
    Ok(totals_term(env, event.totals()))
}

/// Returns the events in chunks. The event that names past the bound share comes last.
fn telemetry_events<'a>(env: Env<'a>, [cursor]: [Term<'a>; 1]) -> NifResult<'a> {
    let cursor = number(cursor)? as usize;
    if !has_tables() {
        return nil(env);
    }
    let (mut events, next) = TABLES.events.walk(cursor, VISITED_MAX);
    if next.is_none() && !TABLES.events.has_room() {
        events.push(super::others(env));
    }
    let mut list = Term::list_new_empty(env);
    for event in events {
        let totals = event.totals();
        if totals != Totals::default() {
            let [name] = stored::terms(env, &event.name)?;
            list = list.list_prepend((name, totals_term(env, totals)).encode(env));
        }
    }
    let next = match next {
        Some(next) => next.encode(env),
        None => done().to_term(env),
    };
    Ok((list, next).encode(env))
}

fn telemetry_windows<'a>(env: Env<'a>, []: [Term<'a>; 0]) -> NifResult<'a> {
    if !is_open() {
        return nil(env);
    }
    Ok((TABLES.windows.len(), TABLES.windows.evicted()).encode(env))
}

fn telemetry_own_windows<'a>(env: Env<'a>, [name]: [Term<'a>; 1]) -> NifResult<'a> {
    let event = event!(env, name);
    Ok(event.windows().encode(env))
}

/// Closes a bounded number of windows per call.
fn telemetry_sweep<'a>(env: Env<'a>, []: [Term<'a>; 0]) -> NifResult<'a> {
    if !is_open() {
        return nil(env);
    }
    let free = |idle| background::send(Job::Free(Box::new(idle)));
    let more = TABLES.windows.sweep(clock::now(), SWEPT, free);
    Ok(more.encode(env))
}

/// Reads a bounded number of events per call. Large events are read on a dirty scheduler.
fn telemetry_peek<'a>(env: Env<'a>, [name, offset, limit]: [Term<'a>; 3]) -> NifResult<'a> {
    let (offset, limit) = (number(offset)? as usize, number(limit)? as usize);
    let event = event!(env, name);
    let (mut events, mut behind) = event.queue.peek(offset, limit.min(PEEKED));
    if !may_take_long() {
        // Return as many events as can be read here, but at least one. If that one takes long, the
        // call moves to a dirty scheduler.
        let mut spent = 0;
        let fit = events.iter().take_while(|(_, payload)| {
            spent += stored::cost(payload);
            spent <= NODES_MAX
        });
        let fit = fit.count().max(1).min(events.len());
        behind += (events.len() - fit) as u64;
        events.truncate(fit);
    }
    let now = clock::now();
    let mut list = Term::list_new_empty(env);
    for (at, payload) in events.iter().rev() {
        let [measurements, metadata] = stored::terms(env, payload)?;
        let age = now.saturating_sub(*at);
        list = list.list_prepend((age, measurements, metadata).encode(env));
    }
    Ok((list, behind).encode(env))
}

/// Counts a batch as emitted. The background thread drops a batch that is large or holds terms.
fn telemetry_ack<'a>(env: Env<'a>, [name, count]: [Term<'a>; 2]) -> NifResult<'a> {
    let count = number(count)?;
    let event = event!(env, name);
    let (left, spent) = event.queue.ack(count, &TABLES.pending);
    if spent.len() > DROPPED || spent.has_objects() {
        background::send(Job::Free(Box::new(spent)));
    }
    Ok(left.encode(env))
}

/// Removes all windows, counts, settings and batches.
pub fn clear() {
    TABLES.windows.clear();
    let mut cursor = Some(0);
    while let Some(from) = cursor {
        let (events, next) = TABLES.events.walk(from, VISITED_MAX);
        for event in events {
            event.clear(&TABLES.pending);
        }
        cursor = next;
    }
}
