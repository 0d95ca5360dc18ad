//! The NIFs of the telemetry area: one set of tables for the application.
//!
//! Each returns `nil` while the tables are closed. The hot ones also do while the tables are
//! diverted. Then the caller uses another backend.

pub mod clock;
mod events;
mod sampler;
mod spans;
mod stored;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod ticks;

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{LazyLock, OnceLock};

use foundation_core::events::{Event, Events};
use foundation_core::window::Windows;
use rustler::{Encoder, Env, Term, atoms};

use crate::raw::{Failure, NifResult, may_take_long, nifs};
use crate::term::{Buffer, OwnedTerm, word};
pub use spans::processes_with_spans;
use stored::Stored;

nifs! {
    telemetry_start / 5,
    telemetry_seal / 0,
    telemetry_stop / 0,
    telemetry_started / 0,
    telemetry_divert / 1,
}

atoms! { ok, created, adopted }

type OneEvent = Event<Stored, OwnedTerm>;

/// The tables of events. Those of spans are in [`spans`].
struct Tables {
    events: Events<Stored, OwnedTerm>,
    windows: Windows<&'static OneEvent>,
    /// The number of events that wait in all batches.
    pending: AtomicU64,
    max_pending: AtomicU64,
    /// In nanoseconds.
    window: AtomicU64,
    batch_size: AtomicU64,
    /// In milliseconds.
    batch_timeout: AtomicU64,
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| Tables {
    events: Events::default(),
    windows: Windows::new(u64::MAX),
    pending: AtomicU64::new(0),
    max_pending: AtomicU64::new(0),
    window: AtomicU64::new(0),
    batch_size: AtomicU64::new(0),
    batch_timeout: AtomicU64::new(0),
});

/// There are no tables.
const CLOSED: u8 = 0;
/// Events and spans of all processes are in the tables.
const OPEN: u8 = 1;
/// A feature flag sends new events and spans to the process dictionary. The tables serve the spans
/// that began in them.
const DIVERTED: u8 = 2;
/// Refuses new events, while the waiting ones can still be read.
const SEALED: u8 = 3;

static STATE: AtomicU8 = AtomicU8::new(CLOSED);
/// The state of open tables: `OPEN`, or `DIVERTED`.
static DIVERT: AtomicU8 = AtomicU8::new(OPEN);

fn is_open() -> bool {
    matches!(STATE.load(Ordering::Acquire), OPEN | DIVERTED)
}

/// Returns whether there are tables to read from, which sealed tables allow too.
fn has_tables() -> bool {
    STATE.load(Ordering::Acquire) != CLOSED
}

/// Returns whether new events and spans go into the tables.
#[inline]
fn takes_new() -> bool {
    STATE.load(Ordering::Acquire) == OPEN
}

fn nil(env: Env<'_>) -> NifResult<'_> {
    Ok(rustler::types::atom::nil().to_term(env))
}

fn is_nil(term: Term) -> bool {
    word(term) == word(rustler::types::atom::nil().to_term(term.get_env()))
}

fn number(term: Term) -> Result<u64, Failure> {
    term.decode().map_err(|_| Failure::BadArgument)
}

const NS_PER_MS: u64 = 1_000_000;

/// The most elements of a name that are distinguished. Their words and a digest must fit in a
/// buffer.
const NAME_MAX: usize = 32;

/// Adds the words of an event's name to `buffer`. Returns `false` for a term that cannot be a name.
/// Only interning the event checks that the elements are atoms.
#[inline]
fn push_name<'a>(buffer: &mut Buffer, name: Term<'a>) -> bool {
    let mut rest = name;
    let mut count = 0;
    while let Some((head, tail)) = crate::term::cell(rest) {
        count += 1;
        if count > NAME_MAX || buffer.push(&word(head).to_le_bytes()).is_err() {
            return false;
        }
        rest = tail;
    }
    count > 0 && rest.is_empty_list()
}

fn is_name(name: Term) -> bool {
    let mut atoms = name.into_list_iterator().into_iter().flatten();
    atoms.all(|atom| atom.is_atom())
}

/// Returns the event of a name, given the name's words.
#[inline]
fn event<'a>(env: Env<'a>, key: &[u8], name: Term<'a>) -> Option<&'static OneEvent> {
    let events = &TABLES.events;
    events.get(key).or_else(|| intern(env, key, name))
}

#[cold]
fn intern<'a>(env: Env<'a>, key: &[u8], name: Term<'a>) -> Option<&'static OneEvent> {
    let kept = || {
        is_name(name)
            .then(|| stored::store(env, [name]).ok())
            .flatten()
    };
    let interned = TABLES.events.get_or_insert(key, kept);
    if interned.is_some() || TABLES.events.has_room() || !is_name(name) {
        return interned;
    }
    Some(others(env))
}

static OTHERS: OnceLock<&'static OneEvent> = OnceLock::new();

/// Returns the event that all names past the bound share.
fn others(env: Env<'_>) -> &'static OneEvent {
    atoms! { foundation, other_events }
    OTHERS.get_or_init(|| {
        let name = [foundation(), other_events()].encode(env);
        let name = stored::store(env, [name]).unwrap_or_else(|_| Stored::bytes(&[]));
        Box::leak(Box::new(Event::new(&[], name)))
    })
}

/// Returns whether an event is the one of [`others`].
#[inline]
fn is_shared(event: &'static OneEvent) -> bool {
    let others = OTHERS.get().copied();
    others.is_some_and(|others| std::ptr::eq(others, event))
}

fn telemetry_start<'a>(
    env: Env<'a>,
    [max_windows, max_pending, window, batch_size, batch_timeout]: [Term<'a>; 5],
) -> NifResult<'a> {
    let tables = &*TABLES;
    // Decode all numbers before any is stored.
    let max_windows = number(max_windows)?;
    let settings = [
        (&tables.max_pending, number(max_pending)?),
        (&tables.window, number(window)?.saturating_mul(NS_PER_MS)),
        (&tables.batch_size, number(batch_size)?),
        (&tables.batch_timeout, number(batch_timeout)?),
    ];
    tables.windows.bound(max_windows);
    for (setting, value) in settings {
        setting.store(value, Ordering::Relaxed);
    }
    let state = DIVERT.load(Ordering::Acquire);
    let answer = match STATE.swap(state, Ordering::AcqRel) {
        CLOSED => created(),
        _ => adopted(),
    };
    Ok(answer.encode(env))
}

fn telemetry_seal<'a>(env: Env<'a>, []: [Term<'a>; 0]) -> NifResult<'a> {
    let _ = STATE.fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| {
        (old != CLOSED).then_some(SEALED)
    });
    Ok(ok().encode(env))
}

/// Runs on a dirty scheduler, because it frees all content of the tables.
fn telemetry_stop<'a>(env: Env<'a>, []: [Term<'a>; 0]) -> NifResult<'a> {
    STATE.store(CLOSED, Ordering::Release);
    if !may_take_long() {
        return Err(Failure::TakesLong);
    }
    events::clear();
    spans::clear();
    Ok(ok().encode(env))
}

fn telemetry_started<'a>(env: Env<'a>, []: [Term<'a>; 0]) -> NifResult<'a> {
    Ok(is_open().encode(env))
}

fn telemetry_divert<'a>(env: Env<'a>, [on]: [Term<'a>; 1]) -> NifResult<'a> {
    let state = match on.decode() {
        Ok(true) => DIVERTED,
        Ok(false) => OPEN,
        Err(_) => return Err(Failure::BadArgument),
    };
    DIVERT.store(state, Ordering::Release);
    // Closed and sealed tables stay as they are.
    let _ = STATE.fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| {
        matches!(old, OPEN | DIVERTED).then_some(state)
    });
    Ok(ok().encode(env))
}
