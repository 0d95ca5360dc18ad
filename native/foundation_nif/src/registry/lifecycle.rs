//! Starts and stops registries, and returns their figures.

use std::sync::Arc;
use std::time::Duration;

use foundation_core::table::{Guard, pin};
use rustler::{Encoder, Env, LocalPid, Term, atoms};

use super::instance::{Config, Entries, Kind, NAMES, Registry};
use super::{deaths, meta, registry};
use crate::background::{self, Job, Owned};
use crate::process;
use crate::raw::{Failure, NifResult, may_take_long, nifs};
use crate::term::{Buffer, elements, key, measure, word, word_term};

nifs! {
    registry_start / 7,
    registry_stop / 1,
    registry_config / 1,
    registry_groups / 1,
    registry_info / 1,
    registry_count / 1,
    registry_names / 0,
    registry_watch / 2,
    registry_take_cleaned / 1,
}

/// The most registries for which a start, stop, count or list runs on a normal scheduler.
pub const REGISTRIES_MAX: usize = 1_000;

atoms! {
    ok, error, created, adopted, replaced, already_started, system_limit, infinity,
    unique, duplicate_key, duplicate_pid,
}

impl Kind {
    fn decode(term: Term) -> Result<Kind, Failure> {
        [Kind::Unique, Kind::DuplicateKey, Kind::DuplicatePid]
            .into_iter()
            .find(|kind| kind.encode(term.get_env()) == term)
            .ok_or(Failure::BadArgument)
    }

    fn encode(self, env: Env<'_>) -> Term<'_> {
        match self {
            Kind::Unique => unique(),
            Kind::DuplicateKey => duplicate_key(),
            Kind::DuplicatePid => duplicate_pid(),
        }
        .encode(env)
    }
}

/// Decodes a natural number, or `None` for `:infinity`.
fn bound(term: Term) -> Result<Option<u64>, Failure> {
    if term == infinity().encode(term.get_env()) {
        return Ok(None);
    }
    term.decode().map(Some).map_err(|_| Failure::BadArgument)
}

/// Refuses, on a normal scheduler, work that takes time in proportion to the number of registries.
pub fn unless_many() -> Result<(), Failure> {
    if NAMES.len() > REGISTRIES_MAX && !may_take_long() {
        return Err(Failure::TakesLong);
    }
    Ok(())
}

enum Started {
    Created,
    Adopted(Arc<Registry>),
    Replaced(Arc<Registry>),
    Running(u64),
    Failed,
}

/// Stores metadata under keys that have none. Returns `None` when there is no memory for it.
fn put_all(registry: &Registry, pairs: &[(Term, Term)], guard: &Guard) -> Option<()> {
    pairs.iter().try_for_each(|(key, value)| {
        let put = meta::put(registry, *key, *value, false, guard);
        put.is_ok_and(|put| put).then_some(())
    })
}

/// `registry_start(name, kind, partitions, listeners, meta, adopt_timeout, max_entries)`.
fn registry_start<'a>(env: Env<'a>, arguments: [Term<'a>; 7]) -> NifResult<'a> {
    let [
        name,
        kind,
        partitions,
        listeners,
        pairs,
        adopt_timeout,
        limit,
    ] = arguments;
    if !name.is_atom() {
        return Err(Failure::BadArgument);
    }
    unless_many()?;
    let kind = Kind::decode(kind)?;
    let mut config = Some(Config {
        partitions: partitions.decode().map_err(|_| Failure::BadArgument)?,
        listeners: elements(listeners, |listener| {
            listener.is_atom().then(|| word(listener))
        })?,
        adopt_timeout: bound(adopt_timeout)?.map(Duration::from_millis),
    });
    let pairs = elements(pairs, |pair| pair.decode::<(Term, Term)>().ok())?;
    // Check these before anything changes: after a change the call must not start again on a dirty
    // scheduler.
    for (meta_key, value) in &pairs {
        key(*meta_key, &mut Buffer::new(), &mut None)?;
        measure(*value)?;
    }
    let limit = bound(limit)?.map_or(usize::MAX, |limit| limit as usize);
    let owner = process::caller(env);

    let guard = pin();
    let started = NAMES.change(word(name), |name_holder| {
        let config = config
            .take()
            .unwrap_or_else(|| unreachable!("this is called once"));
        let create = |config| {
            let created = Registry::new(word(name), kind, limit).ok()?;
            // Store the metadata first, so that a process that finds the registry also finds its
            // metadata.
            put_all(&created, &pairs, &guard)?;
            created.adopt(env, owner, config).then_some(created)
        };
        match name_holder {
            Some(old) if process::is_alive(env, old.owner()) => {
                (Some(old.clone()), Started::Running(old.owner()))
            }
            Some(old) if old.kind == kind => {
                let adopted = old.adopt(env, owner, config);
                let started = if adopted {
                    Started::Adopted(old.clone())
                } else {
                    Started::Failed
                };
                (Some(old.clone()), started)
            }
            old => match (old, create(config)) {
                (None, Some(new)) => (Some(new), Started::Created),
                (Some(old), Some(new)) => (Some(new), Started::Replaced(old.clone())),
                (old, None) => (old.cloned(), Started::Failed),
            },
        }
    });
    if let Started::Adopted(registry) = &started {
        // Without memory the metadata is missing, as it would be after `put_meta/3`.
        let _ = put_all(registry, &pairs, &guard);
    }
    Ok(match started {
        Started::Created => created().encode(env),
        Started::Adopted(_) => adopted().encode(env),
        Started::Replaced(old) => {
            let old_kind = old.kind.encode(env);
            background::send(Job::Drop(old));
            (replaced(), old_kind).encode(env)
        }
        Started::Running(owner) => {
            let reason = (already_started(), word_term(env, owner));
            (error(), reason).encode(env)
        }
        Started::Failed => (error(), system_limit()).encode(env),
    })
}

fn registry_stop<'a>(env: Env<'a>, [name]: [Term<'a>; 1]) -> NifResult<'a> {
    let guard = pin();
    let registry = registry!(env, name, &guard);
    unless_many()?;
    registry.clone().abandon(registry.owner());
    Ok(ok().encode(env))
}

fn registry_config<'a>(env: Env<'a>, [name]: [Term<'a>; 1]) -> NifResult<'a> {
    let guard = pin();
    let registry = registry!(env, name, &guard);
    let config = registry.config();
    let kind = registry.kind.encode(env);
    let owner = word_term(env, registry.owner());
    let listeners = listeners(env, &config);
    Ok((kind, config.partitions, listeners, owner).encode(env))
}

/// Into how many groups a dispatch divides the entries of a key.
fn registry_groups<'a>(env: Env<'a>, [name]: [Term<'a>; 1]) -> NifResult<'a> {
    let guard = pin();
    let registry = registry!(env, name, &guard);
    let groups = match registry.kind {
        Kind::DuplicatePid => registry.config().partitions,
        Kind::Unique | Kind::DuplicateKey => 1,
    };
    Ok(groups.encode(env))
}

/// Returns the names of the listeners.
pub fn listeners<'a>(env: Env<'a>, config: &Config) -> Vec<Term<'a>> {
    let names = config.listeners.iter();
    names.map(|name| word_term(env, *name)).collect()
}

fn registry_info<'a>(env: Env<'a>, [name]: [Term<'a>; 1]) -> NifResult<'a> {
    let guard = pin();
    let registry = registry!(env, name, &guard);
    let figures = match &registry.entries {
        Entries::Unique(entries) => entries.figures(),
        Entries::Duplicate(entries) => entries.figures(),
    };
    let memory = figures.memory + size_of::<Registry>() + registry.meta.memory();
    Ok((
        figures.entries,
        figures.keys,
        figures.owners,
        memory,
        figures.drops,
    )
        .encode(env))
}

fn registry_count<'a>(env: Env<'a>, [name]: [Term<'a>; 1]) -> NifResult<'a> {
    let guard = pin();
    let registry = registry!(env, name, &guard);
    Ok(match &registry.entries {
        Entries::Unique(entries) => entries.len(),
        Entries::Duplicate(entries) => entries.len(),
    }
    .encode(env))
}

fn registry_names<'a>(env: Env<'a>, []: [Term<'a>; 0]) -> NifResult<'a> {
    unless_many()?;
    let names = NAMES.all().into_iter();
    let names: Vec<_> = names.map(|(name, _)| word_term(env, name)).collect();
    Ok(names.encode(env))
}

fn registry_watch<'a>(env: Env<'a>, [name, pid]: [Term<'a>; 2]) -> NifResult<'a> {
    if !name.is_atom() {
        return Err(Failure::BadArgument);
    }
    let pid: LocalPid = pid.decode().map_err(|_| Failure::BadArgument)?;
    deaths::watch(env, word(name), pid);
    Ok(ok().encode(env))
}

fn registry_take_cleaned<'a>(env: Env<'a>, [name]: [Term<'a>; 1]) -> NifResult<'a> {
    // Arm even if there is no registry yet: the watcher may start before its registry.
    deaths::arm();
    let guard = pin();
    let registry = registry!(env, name, &guard);
    Ok(registry.take_cleaned().encode(env))
}
