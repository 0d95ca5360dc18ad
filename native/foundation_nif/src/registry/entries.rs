//! Registering, looking up and changing entries.

use std::sync::Arc;

use foundation_core::key::Key;
use foundation_core::registry::{Refused, Unique};
use foundation_core::table::{Entry, Guard, Members, Sought, ValueView, pin};
use rustler::{Encoder, Env, Term, atoms};

use super::table::{Entries, Registry};
use super::{lifecycle, registry};
use crate::process::{self, caller, known, live_pid, meet};
use crate::raw::{Failure, NifResult, may_take_long, nifs};
use crate::term::{
    Budget, Buffer, OwnedTerm, Probe, cell, elements, empty_list, key, list, pair,
    short_compound_key, short_key, single, value, value_term, word_term,
};

nifs! {
    registry_register / 3,
    registry_register_for / 4,
    registry_unregister / 2,
    registry_unregister_for / 3,
    registry_lookup / 2,
    registry_lookup_many / 2,
    registry_whereis / 2,
    registry_values / 3,
    registry_entries / 3,
    registry_remove / 4,
    registry_replace / 5,
}

atoms! {
    ok, error, notify, already_registered, not_alive, system_limit, undefined, duplicate, stale
}

/// How many entries a call on a normal scheduler handles: some hundred microseconds.
pub const ENTRIES_MAX: usize = 1_000;

type StoredEntry<'g> = Entry<'g, OwnedTerm>;

/// Refuses, on a normal scheduler, what takes long.
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
        let owner = meet(pid)?;
        if !process::is_alive(env, owner) && !process::is_remote(owner) {
            return Ok((error(), not_alive()).encode(env));
        }
        let registered = register(env, registry, owner, key, value)?;
        if !process::is_remote(owner) || process::is_alive(env, owner) {
            return Ok(registered);
        }
        // Declared dead meanwhile, perhaps before the entry was there to be found. What it is
        // called from now on, if it is there after all, is not that.
        registry.bury(Some(env), owner);
    }
}

fn register<'a>(
    env: Env<'a>,
    registry: &Arc<Registry>,
    owner: u64,
    key_term: Term<'a>,
    value_term: Term<'a>,
) -> NifResult<'a> {
    // A short key is put into memory once, as it is read: the answer of `key` would be moved there, in
    // larger pieces than it was written in, for which the processor waits.
    if let Some(key) = short_key(key_term).or_else(|| short_compound_key(key_term)) {
        return register_key(env, registry, owner, &key, value_term);
    }
    let (mut buffer, mut probe) = (Buffer::new(), None);
    let key = key(key_term, &mut buffer, &mut probe)?;
    register_key(env, registry, owner, &key, value_term)
}

#[inline(never)]
fn register_key<'a>(
    env: Env<'a>,
    registry: &Arc<Registry>,
    owner: u64,
    key: &Key<'_, Probe>,
    value_term: Term<'a>,
) -> NifResult<'a> {
    let world = registry.world(env);
    loop {
        let Some(value) = value(value_term)? else {
            return Ok((error(), system_limit()).encode(env));
        };
        let registered = match &registry.entries {
            Entries::Unique(entries) => entries.register(owner, key, value, &world),
            Entries::Duplicate(entries) => entries.register(owner, key, value, &world),
        };
        let reason = match registered {
            Ok(()) => return Ok(registered_term(env, registry)),
            Err(Refused::Taken(holder)) => match live_pid(env, holder) {
                Some(pid) => (already_registered(), pid).encode(env),
                // It has died since it was asked, so that the key is free now.
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
    // As in `register`.
    if let Some(key) = short_key(key_term).or_else(|| short_compound_key(key_term)) {
        return unregister_key(env, registry, owner, &key);
    }
    let (mut buffer, mut probe) = (Buffer::new(), None);
    let key = key(key_term, &mut buffer, &mut probe)?;
    unregister_key(env, registry, owner, &key)
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

fn registry_lookup<'a>(env: Env<'a>, [name, key_term]: [Term<'a>; 2]) -> NifResult<'a> {
    let guard = pin();
    let registry = registry!(env, name, &guard);
    if let (Some(key), Entries::Unique(entries)) = (short_key(key_term), &registry.entries) {
        return entry_list(env, entries.get(&key, &guard), &mut Budget::default());
    }
    lookup(env, registry, key_term, &mut Budget::default(), &guard)
}

#[inline(never)]
fn lookup<'a>(
    env: Env<'a>,
    registry: &Registry,
    key_term: Term<'a>,
    budget: &mut Budget,
    guard: &Guard,
) -> NifResult<'a> {
    if let (Some(key), Entries::Unique(entries)) = (short_compound_key(key_term), &registry.entries)
    {
        return entry_list(env, entries.get(&key, guard), budget);
    }
    let (mut buffer, mut probe) = (Buffer::new(), None);
    let key = key(key_term, &mut buffer, &mut probe)?;
    if !budget.spend_search(&key) {
        return Err(Failure::TakesLong);
    }
    match &registry.entries {
        Entries::Unique(entries) => entry_list(env, entries.get(&key, guard), budget),
        Entries::Duplicate(entries) => entries_list(env, entries.get(&key, guard), budget, guard),
    }
}

/// `[{pid, value}, …]` of a key's entries whose owners are alive.
fn entries_list<'a>(
    env: Env<'a>,
    members: Option<Members<'_, OwnedTerm>>,
    budget: &mut Budget,
    guard: &Guard,
) -> NifResult<'a> {
    let mut found = Vec::new();
    let rest = members.and_then(|members| {
        members.walk(0, guard, |member| {
            // All of a key's entries are one answer, which a dirty scheduler has the time for.
            let in_time = budget.spend(member.value) || may_take_long();
            if in_time && let Some(pid) = live_pid(env, member.owner) {
                found.push(pair(env, pid, value_term(env, member.value)).as_c_arg());
            }
            in_time
        })
    });
    match rest {
        Some(_) => Err(Failure::TakesLong),
        // SAFETY: the pairs were made in this environment.
        None => Ok(unsafe { list(env, &found) }),
    }
}

/// `[{pid, value}]` of an entry, or `[]` if there is none or its owner is dead.
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
    let value = stored(env, entry.value, budget)?;
    Ok(single(env, pair(env, pid, value)))
}

/// A stored value's term, unless copying it takes too long here.
#[inline]
fn stored<'a>(env: Env<'a>, value: ValueView<'_, OwnedTerm>, budget: &mut Budget) -> NifResult<'a> {
    if budget.spend(value) {
        Ok(value_term(env, value))
    } else {
        Err(Failure::TakesLong)
    }
}

/// How many keys of `registry_lookup_many` are fetched from memory side by side. All are asked for
/// before the first is read: where each was read after another had been asked for, a table of a
/// million took half as long again.
const ABREAST: usize = 16;

/// A key of `registry_lookup_many` that is under way.
#[derive(Clone, Copy)]
struct UnderWay<'a, 'g> {
    key: Term<'a>,
    /// The keys after it.
    next: Term<'a>,
    sought: Option<(Key<'static, Probe>, Sought<'g>)>,
}

/// `registry_lookup_many(name, keys) -> {results, rest}`: of as many keys as there is time for.
fn registry_lookup_many<'a>(env: Env<'a>, [name, keys]: [Term<'a>; 2]) -> NifResult<'a> {
    let guard = pin();
    let registry = registry!(env, name, &guard);
    let mut results = Vec::with_capacity(ABREAST);
    let mut budget = Budget::default();
    let mut under_way = [UnderWay {
        key: keys,
        next: keys,
        sought: None,
    }; ABREAST];
    let (mut unbegun, mut rest) = (keys, keys);
    'all: while results.len() < ENTRIES_MAX {
        let mut begun = 0;
        while begun < ABREAST
            && let Some((key, next)) = cell(unbegun)
        {
            let sought = seek(registry, key, &guard);
            under_way[begun] = UnderWay { key, next, sought };
            unbegun = next;
            begun += 1;
        }
        if begun == 0 {
            break;
        }
        for UnderWay { key, next, sought } in &under_way[..begun] {
            let result = match (sought, &registry.entries) {
                (Some((key, sought)), Entries::Unique(entries)) => {
                    entry_list(env, entries.get_sought(key, *sought), &mut budget)
                }
                _ => lookup(env, registry, *key, &mut budget, &guard),
            };
            match result {
                Ok(result) => results.push(result.as_c_arg()),
                // The next call starts with this key.
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

/// Begins to look for a short unique key.
#[inline(always)]
fn seek<'g>(
    registry: &Registry,
    key: Term,
    guard: &'g Guard,
) -> Option<(Key<'static, Probe>, Sought<'g>)> {
    let Entries::Unique(entries) = &registry.entries else {
        return None;
    };
    let key = short_key(key)?;
    Some((key, entries.seek(&key, guard)))
}

fn registry_whereis<'a>(env: Env<'a>, [name, key_term]: [Term<'a>; 2]) -> NifResult<'a> {
    let guard = pin();
    let registry = registry!(env, name, &guard);
    let Entries::Unique(entries) = &registry.entries else {
        return Ok(duplicate().to_term(env));
    };
    let entry = match short_key(key_term) {
        Some(key) => entries.get(&key, &guard),
        None => find(entries, key_term, &guard)?,
    };
    Ok(entry
        .and_then(|entry| live_pid(env, entry.owner))
        .unwrap_or_else(|| undefined().to_term(env)))
}

#[inline(never)]
fn find<'g>(
    entries: &Unique<OwnedTerm, OwnedTerm>,
    key_term: Term<'_>,
    guard: &'g Guard,
) -> Result<Option<StoredEntry<'g>>, Failure> {
    if let Some(key) = short_compound_key(key_term) {
        return Ok(entries.get(&key, guard));
    }
    let (mut buffer, mut probe) = (Buffer::new(), None);
    let key = key(key_term, &mut buffer, &mut probe)?;
    Ok(entries.get(&key, guard))
}

fn registry_values<'a>(env: Env<'a>, [name, key, pid]: [Term<'a>; 3]) -> NifResult<'a> {
    own(env, [name, key, pid], |_, value| value)
}

fn registry_entries<'a>(env: Env<'a>, [name, key, pid]: [Term<'a>; 3]) -> NifResult<'a> {
    own(env, [name, key, pid], |number, value| {
        pair(env, number.encode(env), value)
    })
}

/// A list of one process's entries of a key, each as `form` makes it of its number and value.
fn own<'a>(
    env: Env<'a>,
    [name, key_term, pid]: [Term<'a>; 3],
    form: impl Fn(u64, Term<'a>) -> Term<'a>,
) -> NifResult<'a> {
    let guard = pin();
    let registry = registry!(env, name, &guard);
    let (mut buffer, mut probe) = (Buffer::new(), None);
    let key = key(key_term, &mut buffer, &mut probe)?;
    let Some(owner) = known(pid)?.filter(|owner| process::is_alive(env, *owner)) else {
        return Ok(empty_list(env));
    };
    match &registry.entries {
        Entries::Unique(entries) => {
            match entries
                .get(&key, &guard)
                .filter(|entry| entry.owner == owner)
            {
                Some(entry) => {
                    let value = stored(env, entry.value, &mut Budget::default())?;
                    Ok(single(env, form(0, value)))
                }
                None => Ok(empty_list(env)),
            }
        }
        Entries::Duplicate(entries) => {
            let many = entries.count_of(owner, &key) > ENTRIES_MAX;
            unless_long(many)?;
            let mut found = Vec::new();
            let mut budget = Budget::default();
            let mut in_time = true;
            entries.entries(owner, &key, &guard, |member| {
                in_time = in_time && (budget.spend(member.value) || may_take_long());
                if in_time {
                    found.push(form(member.number, value_term(env, member.value)));
                }
            });
            unless_long(!in_time)?;
            Ok(found.encode(env))
        }
    }
}

/// Whether a list has more than `most` elements.
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
    // Before they are read, which takes as long as they are many.
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
            unless_long(term.is_heavy())?;
            term.is(expected)
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
