//! Looks up entries by key.

use foundation_core::key::Key;
use foundation_core::registry::Unique;
use foundation_core::table::{Entry, Guard, Members, Prefetched, ValueView, pin};
use rustler::{Env, Term, atoms};

use super::entries::ENTRIES_MAX;
use super::instance::{Entries, Registry};
use super::registry;
use crate::process::live_pid;
use crate::raw::{Failure, NifResult, may_take_long, nifs};
use crate::term::{
    Budget, OwnedTerm, Probe, Rows, cell, empty_list, list, pair, short_compound_key, short_key,
    single_pair, value_term, with_encoded_key, with_key,
};

nifs! {
    registry_lookup / 2,
    registry_lookup_many / 2,
    registry_whereis / 2,
}

atoms! { undefined, duplicate }

type StoredEntry<'g> = Entry<'g, OwnedTerm>;

fn registry_lookup<'a>(env: Env<'a>, [name, key_term]: [Term<'a>; 2]) -> NifResult<'a> {
    let guard = pin();
    let registry = registry!(env, name, &guard);
    if let (Some(key), Entries::Unique(entries)) = (short_key(key_term), &registry.entries) {
        return entry_list(env, entries.get(&key, &guard), &mut Budget::default());
    }
    lookup(env, registry, key_term, &mut Budget::default(), &guard)
}

/// Looks up a key. In a registry with unique keys, [`short_key`] has rejected it already.
#[inline(never)]
fn lookup<'a>(
    env: Env<'a>,
    registry: &Registry,
    key_term: Term<'a>,
    budget: &mut Budget,
    guard: &Guard,
) -> NifResult<'a> {
    match &registry.entries {
        Entries::Unique(entries) => match short_compound_key(key_term) {
            Some(key) => entry_list(env, entries.get(&key, guard), budget),
            None => lookup_encoded(env, entries, key_term, budget, guard),
        },
        Entries::Duplicate(entries) => with_key(key_term, |key| {
            spend_search(budget, key)?;
            entries_list(env, entries.get(key, guard), budget, guard)
        }),
    }
}

/// Looks up a unique key that is not short.
#[inline(never)]
fn lookup_encoded<'a>(
    env: Env<'a>,
    entries: &Unique<OwnedTerm, OwnedTerm>,
    key_term: Term<'a>,
    budget: &mut Budget,
    guard: &Guard,
) -> NifResult<'a> {
    with_encoded_key(key_term, |key| {
        spend_search(budget, key)?;
        entry_list(env, entries.get(key, guard), budget)
    })
}

#[inline(always)]
fn spend_search(budget: &mut Budget, key: &Key<'_, Probe>) -> Result<(), Failure> {
    if budget.spend_search(key) {
        Ok(())
    } else {
        Err(Failure::TakesLong)
    }
}

/// Returns `[{pid, value}, …]` of a key's entries whose owners are alive.
fn entries_list<'a, 'g>(
    env: Env<'a>,
    members: Option<Members<'g, OwnedTerm>>,
    budget: &mut Budget,
    guard: &'g Guard,
) -> NifResult<'a> {
    let mut found = Rows::<true>::new(env);
    let rest = members.and_then(|members| {
        members.walk(0, guard, |member| {
            // A key's entries must be returned together; a dirty scheduler has the time for it.
            let in_time = budget.spend(member.value) || may_take_long();
            if in_time && let Some(pid) = live_pid(env, member.owner) {
                found.push(pid, member.value);
            }
            in_time
        })
    });
    match rest {
        Some(_) => Err(Failure::TakesLong),
        None => Ok(found.finish()),
    }
}

/// Returns `[{pid, value}]` for an entry, or `[]` if there is none or its owner is dead.
#[inline(always)]
fn entry_list<'a>(
    env: Env<'a>,
    entry: Option<StoredEntry<'_>>,
    budget: &mut Budget,
) -> NifResult<'a> {
    let Some(entry) = entry else {
        return Ok(empty_list(env));
    };
    let Some(pid) = live_pid(env, entry.owner) else {
        return Ok(empty_list(env));
    };
    if !budget.spend(entry.value) {
        return Err(Failure::TakesLong);
    }
    Ok(single_pair(env, pid, entry.value))
}

/// Returns a stored value as a term, unless copying it would take too long here.
#[inline]
pub fn stored<'a>(
    env: Env<'a>,
    value: ValueView<'_, OwnedTerm>,
    budget: &mut Budget,
) -> NifResult<'a> {
    if budget.spend(value) {
        Ok(value_term(env, value))
    } else {
        Err(Failure::TakesLong)
    }
}

/// How many keys `registry_lookup_many` prefetches together. It prefetches all of them before it
/// reads the first. Reading each key one step after its prefetch took half as long again, in a
/// table of a million entries.
const BATCH: usize = 16;

/// A key of `registry_lookup_many` whose lookup is in progress.
#[derive(Clone, Copy)]
struct InFlight<'a, 'g> {
    key: Term<'a>,
    /// The list of keys after it.
    next: Term<'a>,
    prefetched: Option<(Key<'static, Probe>, Prefetched<'g>)>,
}

/// `registry_lookup_many(name, keys) -> {results, rest}` handles as many keys as there is time for.
fn registry_lookup_many<'a>(env: Env<'a>, [name, keys]: [Term<'a>; 2]) -> NifResult<'a> {
    let guard = pin();
    let registry = registry!(env, name, &guard);
    let mut results = Vec::with_capacity(BATCH);
    let mut budget = Budget::default();
    let mut in_flight = [InFlight {
        key: keys,
        next: keys,
        prefetched: None,
    }; BATCH];
    let (mut to_prefetch, mut rest) = (keys, keys);
    'all: while results.len() < ENTRIES_MAX {
        let mut count = 0;
        while count < BATCH
            && let Some((key, next)) = cell(to_prefetch)
        {
            let prefetched = prefetch(registry, key, &guard);
            in_flight[count] = InFlight {
                key,
                next,
                prefetched,
            };
            to_prefetch = next;
            count += 1;
        }
        if count == 0 {
            break;
        }
        for InFlight {
            key,
            next,
            prefetched,
        } in &in_flight[..count]
        {
            let result = match (prefetched, &registry.entries) {
                (Some((key, prefetched)), Entries::Unique(entries)) => {
                    entry_list(env, entries.get_prefetched(key, *prefetched), &mut budget)
                }
                _ => lookup(env, registry, *key, &mut budget, &guard),
            };
            match result {
                Ok(result) => results.push(result.as_c_arg()),
                // Stop here; the next call starts with this key.
                Err(Failure::TakesLong) if !results.is_empty() => break 'all,
                Err(failure) => return Err(failure),
            }
            rest = *next;
        }
    }
    if !rest.is_list() {
        return Err(Failure::BadArgument);
    }
    budget.charge(env);
    // SAFETY: the results were made in this environment.
    let results = unsafe { list(env, &results) };
    Ok(pair(env, results, rest))
}

/// Prefetches a short unique key.
#[inline(always)]
fn prefetch<'g>(
    registry: &Registry,
    key: Term,
    guard: &'g Guard,
) -> Option<(Key<'static, Probe>, Prefetched<'g>)> {
    let Entries::Unique(entries) = &registry.entries else {
        return None;
    };
    let key = short_key(key)?;
    Some((key, entries.prefetch(&key, guard)))
}

fn registry_whereis<'a>(env: Env<'a>, [name, key_term]: [Term<'a>; 2]) -> NifResult<'a> {
    let guard = pin();
    let registry = registry!(env, name, &guard);
    let Entries::Unique(entries) = &registry.entries else {
        return Ok(duplicate().to_term(env));
    };
    let entry = match short_key(key_term) {
        Some(key) => entries.get(&key, &guard),
        None => get(entries, key_term, &guard)?,
    };
    Ok(entry
        .and_then(|entry| live_pid(env, entry.owner))
        .unwrap_or_else(|| undefined().to_term(env)))
}

/// Returns the entry of a key that [`short_key`] has rejected.
#[inline(never)]
fn get<'g>(
    entries: &Unique<OwnedTerm, OwnedTerm>,
    key_term: Term<'_>,
    guard: &'g Guard,
) -> Result<Option<StoredEntry<'g>>, Failure> {
    match short_compound_key(key_term) {
        Some(key) => Ok(entries.get(&key, guard)),
        None => with_encoded_key(key_term, |key| Ok(entries.get(key, guard))),
    }
}
