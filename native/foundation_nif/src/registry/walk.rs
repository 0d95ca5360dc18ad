//! Walks over a table, over a key's entries and over a process's keys, in bounded parts.

use foundation_core::key::KeyView;
use foundation_core::table::pin;
use rustler::{Encoder, Env, Term, atoms};

use super::entries::ENTRIES_MAX;
use super::instance::{Entries, NAMES};
use super::lifecycle::REGISTRIES_MAX;
use super::{named, registry, unknown};
use crate::process::{self, known, live_pid};
use crate::raw::{Failure, NifResult, may_take_long, nifs};
use crate::term::{
    Budget, Buffer, OwnedTerm, Rows, charge, copies_in_time, key, key_term, list, pair, tuple,
    value_term, word,
};

nifs! {
    registry_keys / 3,
    registry_walk / 2,
    registry_walk_key / 3,
    registry_broadcast / 4,
    registry_broadcast_local / 4,
    registry_remote_down / 2,
    registry_remotes / 1,
}

atoms! { done }

/// The most keys that a walk collects before it reads their entries.
const KEYS_MAX: usize = 64;

/// `registry_keys(name, pid, cursor)` returns all keys at once, since they must be seen at one
/// moment. For many keys it runs on a dirty scheduler.
fn registry_keys<'a>(env: Env<'a>, [name, pid, from]: [Term<'a>; 3]) -> NifResult<'a> {
    let guard = pin();
    let registry = registry!(env, name, &guard);
    // 0 is the only cursor that callers ever have.
    if !matches!(from.decode::<u64>(), Ok(0)) {
        return Err(Failure::BadArgument);
    }
    let mut keys = Vec::new();
    if let Some(owner) = known(pid)?.filter(|owner| process::is_alive(env, *owner)) {
        if registry.held_by(owner) > ENTRIES_MAX && !may_take_long() {
            return Err(Failure::TakesLong);
        }
        let mut budget = Budget::default();
        let mut in_time = true;
        let mut add = |key: &KeyView<'_, OwnedTerm>, count| {
            in_time = in_time && (budget.spend_keys(key, count) || may_take_long());
            if in_time {
                keys.extend(std::iter::repeat_n(key_term(env, key), count));
            }
        };
        match &registry.entries {
            Entries::Unique(entries) => entries.keys(owner, &guard, |key| add(&key, 1)),
            Entries::Duplicate(entries) => entries.keys(owner, &guard, add),
        }
        if !in_time {
            return Err(Failure::TakesLong);
        }
        budget.charge(env);
    }
    Ok((keys, done()).encode(env))
}

/// The point at which a walk continues: a hash and, for duplicate keys, the place of one of the
/// keys with that hash and the number of one of its entries.
type Cursor = (u64, u64, u64);

fn cursor(term: Term) -> Result<Cursor, Failure> {
    match term.decode::<u64>() {
        Ok(hash) => Ok((hash, 0, 0)),
        Err(_) => term.decode().map_err(|_| Failure::BadArgument),
    }
}

fn cursor_term(env: Env<'_>, cursor: Option<Cursor>) -> Term<'_> {
    match cursor {
        Some(cursor) => cursor.encode(env),
        None => done().encode(env),
    }
}

fn registry_walk<'a>(env: Env<'a>, [name, from]: [Term<'a>; 2]) -> NifResult<'a> {
    let guard = pin();
    let registry = registry!(env, name, &guard);
    let from = cursor(from)?;
    let mut budget = Budget::default();
    let mut found = Vec::new();
    let next = match &registry.entries {
        Entries::Unique(entries) => {
            let mut in_time = true;
            let next = entries.walk(from.0, ENTRIES_MAX / 2, &guard, |visited| {
                // The entries of a segment must be returned together; a dirty scheduler has the
                // time for it.
                let spent = budget.spend_entry(&visited.key, visited.entry.value);
                in_time = in_time && (spent || may_take_long());
                if in_time && let Some(pid) = live_pid(env, visited.entry.owner) {
                    let value = value_term(env, visited.entry.value);
                    found.push(tuple(env, [key_term(env, &visited.key), pid, value]).as_c_arg());
                }
            });
            if !in_time {
                return Err(Failure::TakesLong);
            }
            next.map(|hash| (hash, 0, 0))
        }
        Entries::Duplicate(entries) => {
            let mut keys = Vec::new();
            let next = entries.walk(from.0, KEYS_MAX, &guard, |keyed| keys.push(keyed));
            // Sort keys with equal hashes, so that the next call finds them in the same order.
            keys.sort_unstable_by_key(|keyed| (keyed.hash, keyed.place));
            let stopped = keys
                .iter()
                .filter(|keyed| (keyed.hash, keyed.place) >= (from.0, from.1))
                .find_map(|keyed| {
                    let same = (keyed.hash, keyed.place) == (from.0, from.1);
                    let number = if same { from.2 } else { 0 };
                    let rest = keyed.members.walk(number, &guard, |member| {
                        let in_time = budget.spend_entry(&keyed.key, member.value);
                        if in_time && let Some(pid) = live_pid(env, member.owner) {
                            let value = value_term(env, member.value);
                            found.push(
                                tuple(env, [key_term(env, &keyed.key), pid, value]).as_c_arg(),
                            );
                        }
                        in_time
                    })?;
                    Some((keyed.hash, keyed.place, rest))
                });
            stopped.or(next.map(|hash| (hash, 0, 0)))
        }
    };
    if budget.takes_long() {
        return Err(Failure::TakesLong);
    }
    budget.charge(env);
    // SAFETY: the tuples were made in this environment.
    let found = unsafe { list(env, &found) };
    Ok(pair(env, found, cursor_term(env, next)))
}

fn registry_walk_key<'a>(env: Env<'a>, [name, key_term, from]: [Term<'a>; 3]) -> NifResult<'a> {
    let guard = pin();
    let registry = registry!(env, name, &guard);
    let (mut buffer, mut probe) = (Buffer::new(), None);
    let key = key(key_term, &mut buffer, &mut probe)?;
    let from: u64 = from.decode().map_err(|_| Failure::BadArgument)?;
    let mut budget = Budget::default();
    let mut found = Rows::<true>::new(env);
    let mut add = |owner, value| {
        let in_time = budget.spend(value);
        if in_time && let Some(pid) = live_pid(env, owner) {
            found.push(pid, value);
        }
        in_time
    };
    let next = match &registry.entries {
        Entries::Unique(entries) => {
            if let Some(entry) = entries.get(&key, &guard) {
                add(entry.owner, entry.value);
            }
            None
        }
        Entries::Duplicate(entries) => entries.get(&key, &guard).and_then(|members| {
            members.walk(from, &guard, |member| add(member.owner, member.value))
        }),
    };
    if budget.takes_long() {
        return Err(Failure::TakesLong);
    }
    let next = match next {
        Some(number) => number.encode(env),
        None => done().encode(env),
    };
    budget.charge(env);
    Ok(pair(env, found.finish(), next))
}

/// `registry_broadcast(name, key, message, cursor) -> {sent, remote pids, cursor | :done}`. It
/// returns remote pids because the VM lets a NIF send only to local processes.
fn registry_broadcast<'a>(env: Env<'a>, arguments: [Term<'a>; 4]) -> NifResult<'a> {
    let mut remotes = Vec::new();
    let sent = broadcast(env, arguments, |owner| remotes.extend(live_pid(env, owner)))?;
    let Some((sent, next)) = sent else {
        return unknown(env);
    };
    Ok((sent, remotes, next).encode(env))
}

/// `registry_broadcast_local(name, key, message, cursor) -> {sent, cursor | :done}`. It leaves out
/// remote processes: their nodes send to them.
fn registry_broadcast_local<'a>(env: Env<'a>, arguments: [Term<'a>; 4]) -> NifResult<'a> {
    let sent = broadcast(env, arguments, |_owner| ())?;
    sent.map_or_else(|| unknown(env), |sent| Ok(sent.encode(env)))
}

/// Sends to the local owners of a key's entries, as far as there is time, and calls `remote` for
/// the others. Returns how many it sent to, and where the next call goes on. Returns `None` without
/// such a registry.
fn broadcast<'a>(
    env: Env<'a>,
    [name, key_term, message, from]: [Term<'a>; 4],
    mut remote: impl FnMut(u64),
) -> Result<Option<(u64, Term<'a>)>, Failure> {
    let guard = pin();
    let Some(registry) = named(name, &guard)? else {
        return Ok(None);
    };
    let (mut buffer, mut probe) = (Buffer::new(), None);
    let key = key(key_term, &mut buffer, &mut probe)?;
    let from: u64 = from.decode().map_err(|_| Failure::BadArgument)?;
    let copies = copies_in_time(message)?;
    let mut budget = copies;
    let mut sent = 0u64;
    let mut send = |owner| {
        if budget == 0 {
            return false;
        }
        budget -= 1;
        match process::as_local(owner) {
            Some(pid) => sent += u64::from(env.send(&pid, message).is_ok()),
            None => remote(owner),
        }
        true
    };
    let next = match &registry.entries {
        Entries::Unique(entries) => {
            if let Some(entry) = entries.get(&key, &guard) {
                send(entry.owner);
            }
            None
        }
        Entries::Duplicate(entries) => entries
            .get(&key, &guard)
            .and_then(|members| members.walk(from, &guard, |member| send(member.owner))),
    };
    let next = match next {
        Some(number) => number.encode(env),
        None => done().encode(env),
    };
    charge(env, (copies - budget) * 50 / copies);
    Ok(Some((sent, next)))
}

/// Declares a remote process dead. Every registry hides its entries from that moment on, and
/// removes them. Returns how many keys it had in this registry.
fn registry_remote_down<'a>(env: Env<'a>, [name, pid]: [Term<'a>; 2]) -> NifResult<'a> {
    let owner = known(pid)?;
    if !name.is_atom() || owner.is_some_and(|owner| !process::is_remote(owner)) {
        return Err(Failure::BadArgument);
    }
    let entered = owner.map_or(0, process::entered);
    if entered > REGISTRIES_MAX && !may_take_long() {
        return Err(Failure::TakesLong);
    }
    let mut held = 0;
    let guard = pin();
    if let Some((owner, registries)) = process::declare_dead(pid) {
        for other in registries {
            let keys = NAMES
                .get(other, &guard)
                .map_or(0, |registry| registry.mark_dead(Some(env), owner));
            if other == word(name) {
                held = keys;
            }
        }
    }
    registry!(env, name, &guard);
    Ok(held.encode(env))
}

/// Returns the remote processes that have entries in a registry.
fn registry_remotes<'a>(env: Env<'a>, [name]: [Term<'a>; 1]) -> NifResult<'a> {
    let guard = pin();
    let registry = registry!(env, name, &guard);
    if process::remote_count() > ENTRIES_MAX && !may_take_long() {
        return Err(Failure::TakesLong);
    }
    let pids = process::remotes()
        .into_iter()
        .filter(|owner| registry.held_by(*owner) > 0)
        .filter_map(|owner| live_pid(env, owner));
    Ok(pids.collect::<Vec<_>>().encode(env))
}
