//! Reading a log.

use foundation_log::{Damage, Direction, EventRef, Range, Source};
use rustler::types::atom::nil;
use rustler::{Encoder, Env, Term, atoms};

use super::{event_log, failed, name_of, path, reason, stream_or_all};
use crate::raw::{Failure, NifResult, may_take_long, nifs};
use crate::term::{binary_term, tuple};

nifs! {
    event_log_read / 6,
    event_log_snapshot / 2,
    event_log_version / 2,
    event_log_position / 1,
    event_log_streams / 2,
    event_log_info / 1,
    event_log_verify / 1,
    event_log_backup / 2,
}

atoms! { ok, error, none, done, forward, backward }

/// How many bytes of events a call gives at most, and one event at least.
const READ_BYTES: usize = 4 << 20;
/// How many names of streams a call gives at most: some hundred microseconds' worth.
const NAMES_MAX: usize = 1_000;

/// A term that was encoded when it was appended.
fn decoded<'a>(env: Env<'a>, bytes: &[u8]) -> Result<Term<'a>, Damage> {
    // SAFETY: any bytes may be given; the VM checks them. It may create atoms, and the checksum
    // says that they are those which were appended.
    let decoded = unsafe { env.binary_to_term_trusted(bytes) };
    match decoded {
        Some((term, length)) if length == bytes.len() => Ok(term),
        _ => Err(Damage::Undecodable),
    }
}

/// `event_log_read(name, stream | :all, from, to, limit, direction)`: the events, each of them
/// `{stream, version, position, at, term}`, and where to go on: `nil` after the last.
fn event_log_read<'a>(env: Env<'a>, arguments: [Term<'a>; 6]) -> NifResult<'a> {
    let [name, stream_term, from, to, limit, direction] = arguments;
    let log = event_log!(env, name);
    let stream = stream_or_all(stream_term)?;
    let natural = |term: Term| term.decode::<u64>().map_err(|_| Failure::BadArgument);
    let direction = if direction == forward().encode(env) {
        Direction::Forward
    } else if direction == backward().encode(env) {
        Direction::Backward
    } else {
        return Err(Failure::BadArgument);
    };
    let range = Range {
        from: natural(from)?,
        to: natural(to)?,
        limit: natural(limit)? as usize,
        direction,
    };
    if !may_take_long() {
        return Err(Failure::DoesIo);
    }
    let source = stream.map_or(Source::All, Source::Stream);
    let mut events = Vec::new();
    let read = log.log.read(source, range, READ_BYTES, |event: EventRef| {
        let name = match stream {
            Some(_) => stream_term,
            None => binary_term(env, event.stream),
        };
        let term = decoded(env, event.data)?;
        let number = |number: u64| number.encode(env);
        let fields = [name, number(event.version), number(event.position)];
        let [name, version, position] = fields;
        events.push(tuple(
            env,
            [name, version, position, event.at.encode(env), term],
        ));
        Ok(())
    });
    Ok(match read {
        Ok(next) => {
            let next = next.map_or_else(|| nil().encode(env), |next| next.encode(env));
            (events, next).encode(env)
        }
        Err(error) => failed(env, &error),
    })
}

/// `{:ok, version, state}` of the newest snapshot, or `:none`.
fn event_log_snapshot<'a>(env: Env<'a>, [name, stream]: [Term<'a>; 2]) -> NifResult<'a> {
    let log = event_log!(env, name);
    let stream = name_of(stream)?;
    if !may_take_long() {
        return Err(Failure::DoesIo);
    }
    let found = log.log.snapshot(stream, |version, state| {
        let state = decoded(env, state).ok()?;
        Some((ok(), version, state).encode(env))
    });
    Ok(match found {
        Ok(found) => found.unwrap_or_else(|| none().encode(env)),
        Err(error) => failed(env, &error),
    })
}

fn event_log_version<'a>(env: Env<'a>, [name, stream]: [Term<'a>; 2]) -> NifResult<'a> {
    let log = event_log!(env, name);
    let stream = name_of(stream)?;
    let version = if may_take_long() {
        log.log.version(stream)
    } else {
        // A commit of many events is just being taken in.
        log.log.try_version(stream).ok_or(Failure::TakesLong)?
    };
    Ok(version.encode(env))
}

fn event_log_position<'a>(env: Env<'a>, [name]: [Term<'a>; 1]) -> NifResult<'a> {
    let log = event_log!(env, name);
    if !may_take_long() {
        return Err(Failure::TakesLong);
    }
    Ok(log.log.position().encode(env))
}

/// The names of some streams and the next cursor, or `:done`; the first cursor is 0.
fn event_log_streams<'a>(env: Env<'a>, [name, cursor]: [Term<'a>; 2]) -> NifResult<'a> {
    let log = event_log!(env, name);
    let cursor: u64 = cursor.decode().map_err(|_| Failure::BadArgument)?;
    if !may_take_long() {
        return Err(Failure::TakesLong);
    }
    let mut names = Vec::new();
    let next = log.log.streams(cursor as usize, NAMES_MAX, |name| {
        names.push(binary_term(env, name));
    });
    let next = next.map_or_else(|| done().encode(env), |next| (next as u64).encode(env));
    Ok((names, next).encode(env))
}

/// `{events, streams, bytes, position, commits, appends}`.
fn event_log_info<'a>(env: Env<'a>, [name]: [Term<'a>; 1]) -> NifResult<'a> {
    let log = event_log!(env, name);
    if !may_take_long() {
        return Err(Failure::TakesLong);
    }
    let figures = log.log.figures();
    let counts = (figures.position, figures.commits, figures.appends);
    let (position, commits, appends) = counts;
    Ok((
        figures.events,
        figures.streams,
        figures.bytes,
        position,
        commits,
        appends,
    )
        .encode(env))
}

/// The reasons of all damage.
fn event_log_verify<'a>(env: Env<'a>, [name]: [Term<'a>; 1]) -> NifResult<'a> {
    let log = event_log!(env, name);
    if !may_take_long() {
        return Err(Failure::DoesIo);
    }
    let damage = log.log.verify();
    let reasons: Vec<_> = damage.iter().map(|error| reason(env, error)).collect();
    Ok(reasons.encode(env))
}

fn event_log_backup<'a>(env: Env<'a>, [name, target]: [Term<'a>; 2]) -> NifResult<'a> {
    let log = event_log!(env, name);
    let target = path(target)?;
    if !may_take_long() {
        return Err(Failure::DoesIo);
    }
    Ok(match log.log.backup(&target) {
        Ok(()) => ok().encode(env),
        Err(error) => failed(env, &error),
    })
}
