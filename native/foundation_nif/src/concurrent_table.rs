//! The NIFs of concurrent tables. Each table is a resource.
//!
//! It belongs to the process that made it, or to no process. It ends with its process, or by
//! `concurrent_table_end`, and every call raises `ArgumentError` then. The background thread
//! removes the entries, since readers may still be among them.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use foundation_core::concurrent_table::{ConcurrentTable, Ended};
use foundation_core::key::Seed;
use foundation_core::table::{Entry, OutOfMemory, pin};
use rustler::{Encoder, Env, LocalPid, Term, atoms};

use crate::background::{self, Job};
use crate::faults;
use crate::measure::Call;
use crate::process;
use crate::raw::{Failure, NifResult, may_take_long, nifs};
use crate::table_handle;
use crate::term::{Budget, Buffer, OwnedTerm, key, key_term, pair, value, value_term};

nifs! {
    concurrent_table_new / 0,
    concurrent_table_new_unowned / 0,
    concurrent_table_end / 1,
    concurrent_table_put / 3,
    concurrent_table_put_new / 3,
    concurrent_table_get / 3,
    concurrent_table_fetch / 2,
    concurrent_table_replace / 4,
    concurrent_table_delete / 2,
    concurrent_table_size / 1,
    concurrent_table_walk / 2,
}

atoms! { ok, error, system_limit, done }

/// The most entries that one call of a walk returns: about a hundred microseconds of work.
const VISITED_MAX: usize = 500;
/// The most entries that are removed under one guard.
const CLEARED_AT_ONCE: usize = 1_000;

/// The entries of a table. They stay while a call uses them.
pub struct Entries(ConcurrentTable<OwnedTerm, OwnedTerm>);

impl Entries {
    /// Removes all entries.
    pub fn clear(&self) {
        let mut from = Some(0);
        while let Some(hash) = from {
            from = self.0.clear(hash, CLEARED_AT_ONCE);
        }
    }
}

impl Drop for Entries {
    fn drop(&mut self) {
        LIVE.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The number of tables, including those that are being freed.
pub static LIVE: AtomicI64 = AtomicI64::new(0);

/// A table, as Erlang terms refer to it.
pub struct Handle {
    entries: Arc<Entries>,
}

impl Handle {
    /// Ends the table, because its process has ended.
    pub fn owner_ended(&self) {
        faults::reach(c"table's owner down");
        let _measured = Call::begin(c"concurrent_table_down".as_ptr());
        self.end();
    }

    fn end(&self) {
        self.entries.0.end();
        background::send(Job::Clear(self.entries.clone()));
    }
}

impl Drop for Handle {
    /// Runs in the process that collects the last term that refers to the table.
    fn drop(&mut self) {
        background::send(Job::Clear(self.entries.clone()));
    }
}

/// Runs `work` on the table that a term refers to.
///
/// # Errors
///
/// Those of `work`; and when the term refers to no table, or the table's process ends before `work`
/// has returned.
#[inline(always)]
fn with_table<'a>(
    term: Term<'a>,
    work: impl FnOnce(&'a ConcurrentTable<OwnedTerm, OwnedTerm>) -> NifResult<'a>,
) -> NifResult<'a> {
    // Borrow the table instead of cloning its `Arc`. The term keeps the table alive during the
    // call, and the reference count would be a cache line that all processes contend for.
    let handle: &'a Handle = table_handle::get(term).ok_or(Failure::BadArgument)?;
    match handle.entries.0.during_life(work) {
        Ok(answer) => answer,
        Err(Ended) => Err(Failure::BadArgument),
    }
}

/// Encodes the result of a write, which may have failed for lack of memory.
fn written<'a, T: Encoder>(env: Env<'a>, result: Result<T, OutOfMemory>) -> NifResult<'a> {
    Ok(match result {
        Ok(answer) => answer.encode(env),
        Err(OutOfMemory) => (error(), system_limit()).encode(env),
    })
}

fn concurrent_table_new<'a>(env: Env<'a>, []: [Term<'a>; 0]) -> NifResult<'a> {
    create(env, Some(process::local(process::caller(env))))
}

/// A table that lives until `concurrent_table_end` or until its last reference is collected.
fn concurrent_table_new_unowned<'a>(env: Env<'a>, []: [Term<'a>; 0]) -> NifResult<'a> {
    create(env, None)
}

fn create(env: Env<'_>, owner: Option<LocalPid>) -> NifResult<'_> {
    let Ok(entries) = ConcurrentTable::new(Seed::random()) else {
        return written(env, Err::<bool, _>(OutOfMemory));
    };
    LIVE.fetch_add(1, Ordering::Relaxed);
    let handle = Handle {
        entries: Arc::new(Entries(entries)),
    };
    table_handle::make(env, handle, owner).ok_or(Failure::BadArgument)
}

fn concurrent_table_end<'a>(env: Env<'a>, [name]: [Term<'a>; 1]) -> NifResult<'a> {
    let handle = table_handle::get(name).ok_or(Failure::BadArgument)?;
    handle.end();
    Ok(ok().encode(env))
}

fn concurrent_table_put<'a>(env: Env<'a>, [name, key_term, new]: [Term<'a>; 3]) -> NifResult<'a> {
    with_table(name, |table| {
        let (mut buffer, mut probe) = (Buffer::new(), None);
        let key = key(key_term, &mut buffer, &mut probe)?;
        let value = value(new)?.ok_or(OutOfMemory);
        let put = value.and_then(|value| table.put(&key, value));
        written(env, put.map(|()| ok()))
    })
}

fn concurrent_table_put_new<'a>(
    env: Env<'a>,
    [name, key_term, new]: [Term<'a>; 3],
) -> NifResult<'a> {
    with_table(name, |table| {
        let (mut buffer, mut probe) = (Buffer::new(), None);
        let key = key(key_term, &mut buffer, &mut probe)?;
        let value = value(new)?.ok_or(OutOfMemory);
        written(env, value.and_then(|value| table.put_new(&key, value)))
    })
}

/// Returns the value of an entry, unless copying it would take too long here.
#[inline]
fn stored<'a>(env: Env<'a>, entry: &Entry<'_, OwnedTerm>) -> NifResult<'a> {
    if Budget::default().spend(entry.value) {
        Ok(value_term(env, entry.value))
    } else {
        Err(Failure::TakesLong)
    }
}

fn concurrent_table_get<'a>(
    env: Env<'a>,
    [name, key_term, default]: [Term<'a>; 3],
) -> NifResult<'a> {
    with_table(name, |table| {
        let guard = pin();
        let (mut buffer, mut probe) = (Buffer::new(), None);
        let key = key(key_term, &mut buffer, &mut probe)?;
        match table.get(&key, &guard) {
            Some(entry) => stored(env, &entry),
            None => Ok(default),
        }
    })
}

/// Returns `{version, value}`, or `:error`.
fn concurrent_table_fetch<'a>(env: Env<'a>, [name, key_term]: [Term<'a>; 2]) -> NifResult<'a> {
    with_table(name, |table| {
        let guard = pin();
        let (mut buffer, mut probe) = (Buffer::new(), None);
        let key = key(key_term, &mut buffer, &mut probe)?;
        match table.get(&key, &guard) {
            Some(entry) => Ok(pair(env, entry.owner.encode(env), stored(env, &entry)?)),
            None => Ok(error().encode(env)),
        }
    })
}

fn concurrent_table_replace<'a>(
    env: Env<'a>,
    [name, key_term, version, new]: [Term<'a>; 4],
) -> NifResult<'a> {
    with_table(name, |table| {
        let version = version.decode().map_err(|_| Failure::BadArgument)?;
        let (mut buffer, mut probe) = (Buffer::new(), None);
        let key = key(key_term, &mut buffer, &mut probe)?;
        let value = value(new)?.ok_or(OutOfMemory);
        written(env, value.map(|value| table.replace(&key, version, value)))
    })
}

fn concurrent_table_delete<'a>(env: Env<'a>, [name, key_term]: [Term<'a>; 2]) -> NifResult<'a> {
    with_table(name, |table| {
        let (mut buffer, mut probe) = (Buffer::new(), None);
        table.remove(&key(key_term, &mut buffer, &mut probe)?);
        Ok(ok().encode(env))
    })
}

fn concurrent_table_size<'a>(env: Env<'a>, [name]: [Term<'a>; 1]) -> NifResult<'a> {
    with_table(name, |table| Ok(table.len().encode(env)))
}

/// Returns `{[{key, value}], cursor | :done}`. The first cursor is 0.
fn concurrent_table_walk<'a>(env: Env<'a>, [name, from]: [Term<'a>; 2]) -> NifResult<'a> {
    with_table(name, |table| {
        let guard = pin();
        let from = from.decode().map_err(|_| Failure::BadArgument)?;
        let mut budget = Budget::default();
        let (mut found, mut in_time) = (Vec::new(), true);
        let next = table.walk(from, VISITED_MAX, &guard, |visited| {
            // The entries of a segment must be returned together; a dirty scheduler has the time
            // for it.
            let spent = budget.spend_entry(&visited.key, visited.entry.value);
            in_time = in_time && (spent || may_take_long());
            if in_time {
                let key = key_term(env, &visited.key);
                found.push(pair(env, key, value_term(env, visited.entry.value)));
            }
        });
        if !in_time {
            return Err(Failure::TakesLong);
        }
        budget.charge(env);
        let next = next.map_or_else(|| done().encode(env), |hash| hash.encode(env));
        Ok(pair(env, found.encode(env), next))
    })
}
