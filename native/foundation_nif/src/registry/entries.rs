//! Registers and changes entries, and reads the entries that one process has under a key.

use std::sync::Arc;

use foundation_core::key::Key;
use foundation_core::registry::Refused;
use foundation_core::table::{Guard, ValueView, pin};
use rustler::{Encoder, Env, Term, atoms};

use super::instance::{Entries, Registry};
use super::lookups::stored;
use super::{lifecycle, registry};
use crate::process::{self, caller, intern, known, live_pid};
use crate::raw::{Failure, NifResult, may_take_long, nifs};
use crate::term::{
    Budget, Buffer, OwnedTerm, Probe, Rows, cell, elements, empty_list, key, pair, value,
    value_term, with_key, word_term,
};

nifs! {
    registry_register / 3,
    registry_register_for / 4,
    registry_unregister / 2,
    registry_unregister_for / 3,
    registry_values / 3,
    registry_entries / 3,
    registry_remove / 4,
    registry_fetch / 2,
    registry_set / 3,
    registry_replace / 5,
}

atoms! { ok, error, notify, already_registered, not_alive, system_limit, duplicate, stale }

/// The most entries that a call on a normal scheduler handles: about a hundred microseconds of
/// work.
pub const ENTRIES_MAX: usize = 1_000;

/// How many entries of a key are examined one by one for those of a process.
const FEW: usize = 32;

/// Refuses work that takes long, on a normal scheduler.
fn unless_long(takes_long: bool) -> Result<(), Failure> {
    if takes_long && !may_take_long() {
        return Err(Failure::TakesLong);
    }
    Ok(())
}

fn registry_register<'a>(env: Env<'a>, [name, key, value]: [Term<'a>; 3]) -> NifResult<'a> {
    let guard = pin();
    let registry = registry!(env, name, &guard);
    register(env, registry, caller(env), key, value)
}

fn registry_register_for<'a>(
    env: Env<'a>,
    [name, pid, key, value]: [Term<'a>; 4],
) -> NifResult<'a> {
    let guard = pin();
    let registry = registry!(env, name, &guard);
    loop {
        let owner = intern(pid)?;
        if !process::is_alive(env, owner) && !process::is_remote(owner) {
            return Ok((error(), not_alive()).encode(env));
        }
        let registered = register(env, registry, owner, key, value)?;
        if !process::is_remote(owner) || process::is_alive(env, owner) {
            return Ok(registered);
        }
        // The process was declared dead during this call, perhaps before its entry could be found.
        // So this call cleans up. Then it tries again: if the process is alive after all, `intern`
        // gives it another number.
        registry.mark_dead(Some(env), owner);
    }
}

fn register<'a>(
    env: Env<'a>,
    registry: &Arc<Registry>,
    owner: u64,
    key_term: Term<'a>,
    value_term: Term<'a>,
) -> NifResult<'a> {
    with_key(key_term, |key| {
        register_key(env, registry, owner, key, value_term)
    })
}

#[inline(never)]
fn register_key<'a>(
    env: Env<'a>,
    registry: &Arc<Registry>,
    owner: u64,
    key: &Key<'_, Probe>,
    value_term: Term<'a>,
) -> NifResult<'a> {
    let liveness = registry.liveness(env);
    loop {
        let Some(value) = value(value_term)? else {
            return Ok((error(), system_limit()).encode(env));
        };
        let registered = match &registry.entries {
            Entries::Unique(entries) => entries.register(owner, key, value, &liveness),
            Entries::Duplicate(entries) => entries.register(owner, key, value, &liveness),
        };
        let reason = match registered {
            Ok(()) => return Ok(registered_term(env, registry)),
            Err(Refused::Taken(holder)) => match live_pid(env, holder) {
                Some(pid) => (already_registered(), pid).encode(env),
                // The holder has died since the registration was refused, so the key is free now.
                None => continue,
            },
            Err(Refused::Dead) => not_alive().encode(env),
            Err(Refused::Full | Refused::OutOfMemory) => system_limit().encode(env),
        };
        return Ok((error(), reason).encode(env));
    }
}

fn registered_term<'a>(env: Env<'a>, registry: &Registry) -> Term<'a> {
    let owner = word_term(env, registry.owner());
    if registry.has_listeners() {
        let listeners = lifecycle::listeners(env, &registry.config());
        (notify(), owner, listeners).encode(env)
    } else {
        pair(env, ok().to_term(env), owner)
    }
}

fn registry_unregister<'a>(env: Env<'a>, [name, key]: [Term<'a>; 2]) -> NifResult<'a> {
    let guard = pin();
    let registry = registry!(env, name, &guard);
    unregister(env, registry, Some(caller(env)), key)
}

fn registry_unregister_for<'a>(env: Env<'a>, [name, pid, key]: [Term<'a>; 3]) -> NifResult<'a> {
    let guard = pin();
    let registry = registry!(env, name, &guard);
    unregister(env, registry, known(pid)?, key)
}

fn unregister<'a>(
    env: Env<'a>,
    registry: &Registry,
    owner: Option<u64>,
    key_term: Term<'a>,
) -> NifResult<'a> {
    with_key(key_term, |key| unregister_key(env, registry, owner, key))
}

#[inline(never)]
fn unregister_key<'a>(
    env: Env<'a>,
    registry: &Registry,
    owner: Option<u64>,
    key: &Key<'_, Probe>,
) -> NifResult<'a> {
    if let Some(owner) = owner {
        match &registry.entries {
            Entries::Unique(entries) => {
                entries.unregister(owner, key);
            }
            Entries::Duplicate(entries) => {
                let limit = if may_take_long() {
                    usize::MAX
                } else {
                    ENTRIES_MAX
                };
                let removed = entries.unregister(owner, key, limit);
                unless_long(removed.is_none())?;
            }
        }
    }
    if registry.has_listeners() {
        let listeners = lifecycle::listeners(env, &registry.config());
        return Ok((notify(), listeners).encode(env));
    }
    Ok(ok().to_term(env))
}

fn registry_values<'a>(env: Env<'a>, [name, key_term, pid]: [Term<'a>; 3]) -> NifResult<'a> {
    let guard = pin();
    let registry = registry!(env, name, &guard);
    with_key(key_term, |key| {
        let Some(owner) = known(pid)?.filter(|owner| process::is_alive(env, *owner)) else {
            return Ok(empty_list(env));
        };
        let mut found = Rows::<false>::new(env);
        each_own(registry, owner, key, &guard, |_, value| {
            found.push(pid, value)
        })?;
        Ok(found.finish())
    })
}

fn registry_entries<'a>(env: Env<'a>, [name, key_term, pid]: [Term<'a>; 3]) -> NifResult<'a> {
    let guard = pin();
    let registry = registry!(env, name, &guard);
    with_key(key_term, |key| {
        let Some(owner) = known(pid)?.filter(|owner| process::is_alive(env, *owner)) else {
            return Ok(empty_list(env));
        };
        let mut found = Vec::new();
        each_own(registry, owner, key, &guard, |number, value| {
            found.push(pair(env, number.encode(env), value_term(env, value)));
        })?;
        Ok(found.encode(env))
    })
}

/// Visits the number and the value of each of a process's entries of a key.
///
/// # Errors
///
/// When that takes long and this is a normal scheduler.
#[inline]
fn each_own<'g>(
    registry: &Registry,
    owner: u64,
    key: &Key<'_, Probe>,
    guard: &'g Guard,
    mut visit: impl FnMut(u64, ValueView<'g, OwnedTerm>),
) -> Result<(), Failure> {
    let mut budget = Budget::default();
    match &registry.entries {
        Entries::Unique(entries) => {
            let entry = entries.get(key, guard);
            if let Some(entry) = entry.filter(|entry| entry.owner == owner) {
                if !budget.spend(entry.value) {
                    return Err(Failure::TakesLong);
                }
                visit(0, entry.value);
            }
        }
        Entries::Duplicate(entries) => {
            let Some(members) = entries.get(key, guard) else {
                return Ok(());
            };
            let mut in_time = true;
            let mut add = |number, value| {
                in_time = in_time && (budget.spend(value) || may_take_long());
                if in_time {
                    visit(number, value);
                }
            };
            let mut seen = 0;
            let few = members.walk(0, guard, |_| {
                seen += 1;
                seen <= FEW
            });
            // To look at all of a few takes less time than to lock what the process holds.
            if few.is_none() {
                members.walk(0, guard, |member| {
                    if member.owner == owner {
                        add(member.number, member.value);
                    }
                    true
                });
            } else {
                unless_long(entries.count_of(owner, key) > ENTRIES_MAX)?;
                entries.entries(owner, key, guard, |member| add(member.number, member.value));
            }
            unless_long(!in_time)?;
        }
    }
    Ok(())
}

/// Returns whether a list has more than `most` elements.
fn is_longer(list: Term, most: usize) -> bool {
    let mut rest = list;
    for _ in 0..most {
        match cell(rest) {
            Some((_, tail)) => rest = tail,
            None => return false,
        }
    }
    cell(rest).is_some()
}

fn registry_remove<'a>(
    env: Env<'a>,
    [name, key_term, pid, numbers]: [Term<'a>; 4],
) -> NifResult<'a> {
    let guard = pin();
    let registry = registry!(env, name, &guard);
    let (mut buffer, mut probe) = (Buffer::new(), None);
    let key = key(key_term, &mut buffer, &mut probe)?;
    // Check before the numbers are read, which takes time in proportion to their count.
    unless_long(is_longer(numbers, ENTRIES_MAX))?;
    let numbers = elements(numbers, |number| number.decode().ok())?;
    let removed = match (&registry.entries, known(pid)?) {
        (_, None) => 0,
        (Entries::Unique(_), _) if numbers.is_empty() => 0,
        (Entries::Unique(entries), Some(owner)) => usize::from(entries.unregister(owner, &key)),
        (Entries::Duplicate(entries), Some(owner)) => entries.remove(owner, &key, &numbers),
    };
    Ok(removed.encode(env))
}

/// `registry_fetch(name, key)` returns `{:ok, value}` for the caller's unique entry.
fn registry_fetch<'a>(env: Env<'a>, [name, key_term]: [Term<'a>; 2]) -> NifResult<'a> {
    let guard = pin();
    let registry = registry!(env, name, &guard);
    let Entries::Unique(entries) = &registry.entries else {
        return Ok(duplicate().to_term(env));
    };
    let entry = with_key(key_term, |key| Ok(entries.get(key, &guard)))?;
    match entry.filter(|entry| entry.owner == caller(env)) {
        Some(entry) => {
            let value = stored(env, entry.value, &mut Budget::default())?;
            Ok(pair(env, ok().to_term(env), value))
        }
        None => Ok(error().to_term(env)),
    }
}

/// `registry_set(name, key, value)` sets the value of the caller's unique entry.
fn registry_set<'a>(env: Env<'a>, [name, key_term, new]: [Term<'a>; 3]) -> NifResult<'a> {
    let guard = pin();
    let registry = registry!(env, name, &guard);
    let Entries::Unique(entries) = &registry.entries else {
        return Ok(duplicate().to_term(env));
    };
    let Some(value) = value(new)? else {
        return Ok((error(), system_limit()).encode(env));
    };
    let owner = caller(env);
    let replaced = with_key(key_term, |key| Ok(entries.set(owner, key, value, &guard)))?;
    Ok(if replaced { ok() } else { error() }.to_term(env))
}

fn registry_replace<'a>(
    env: Env<'a>,
    [name, key_term, pid, expected, new]: [Term<'a>; 5],
) -> NifResult<'a> {
    let guard = pin();
    let registry = registry!(env, name, &guard);
    let owner = known(pid)?;
    let Entries::Unique(entries) = &registry.entries else {
        return Ok(duplicate().to_term(env));
    };
    let (mut buffer, mut probe) = (Buffer::new(), None);
    let key = key(key_term, &mut buffer, &mut probe)?;
    let owner = owner.filter(|owner| process::is_alive(env, *owner));
    let entry = entries
        .get(&key, &guard)
        .filter(|entry| Some(entry.owner) == owner);
    let Some(entry) = entry else {
        return Ok(error().to_term(env));
    };
    let Some(value) = value(new)? else {
        return Ok((error(), system_limit()).encode(env));
    };
    let same = match entry.value {
        ValueView::Object(term) => {
            unless_long(term.is_long())?;
            term.copy(env) == expected
        }
        value => value_term(env, value) == expected,
    };
    Ok(if same && entries.replace(&key, &entry, value, &guard) {
        ok()
    } else {
        stale()
    }
    .to_term(env))
}
