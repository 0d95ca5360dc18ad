//! The metadata of a registry.

use foundation_core::table::{Guard, pin};
use rustler::{Encoder, Env, Term, atoms};

use super::instance::Registry;
use super::registry;
use crate::raw::{Failure, NifResult, nifs};
use crate::term::{Budget, Buffer, key, value, value_term};

nifs! {
    registry_meta / 2,
    registry_put_meta / 3,
    registry_delete_meta / 2,
}

atoms! { ok, error, system_limit }

/// The owner word of metadata, which no process owns.
const NOBODY: u64 = 1;

fn registry_meta<'a>(env: Env<'a>, [name, meta_key]: [Term<'a>; 2]) -> NifResult<'a> {
    let guard = pin();
    let registry = registry!(env, name, &guard);
    let (mut buffer, mut probe) = (Buffer::new(), None);
    let key = key(meta_key, &mut buffer, &mut probe)?;
    let hash = registry.meta.hash(&key);
    Ok(match registry.meta.get(&key, hash, &guard) {
        Some(entry) if !Budget::default().spend(entry.value) => return Err(Failure::TakesLong),
        Some(entry) => (ok(), value_term(env, entry.value)).encode(env),
        None => error().encode(env),
    })
}

/// Stores metadata, and replaces a present value only if `overwrite` is set. Returns `false` when
/// there is no memory for it.
pub fn put(
    registry: &Registry,
    meta_key: Term,
    meta_value: Term,
    overwrite: bool,
    guard: &Guard,
) -> Result<bool, Failure> {
    let (mut buffer, mut probe) = (Buffer::new(), None);
    let key = key(meta_key, &mut buffer, &mut probe)?;
    let hash = registry.meta.hash(&key);
    let Some(value) = value(meta_value)? else {
        return Ok(false);
    };
    let put = registry
        .meta
        .insert(&key, hash, NOBODY, || value, |_| overwrite, guard);
    Ok(put.is_ok())
}

fn registry_put_meta<'a>(env: Env<'a>, [name, key, value]: [Term<'a>; 3]) -> NifResult<'a> {
    let guard = pin();
    let registry = registry!(env, name, &guard);
    Ok(if put(registry, key, value, true, &guard)? {
        ok().encode(env)
    } else {
        (error(), system_limit()).encode(env)
    })
}

fn registry_delete_meta<'a>(env: Env<'a>, [name, meta_key]: [Term<'a>; 2]) -> NifResult<'a> {
    let guard = pin();
    let registry = registry!(env, name, &guard);
    let (mut buffer, mut probe) = (Buffer::new(), None);
    let key = key(meta_key, &mut buffer, &mut probe)?;
    let hash = registry.meta.hash(&key);
    registry.meta.remove(&key, hash, |_| true, &guard);
    Ok(ok().encode(env))
}
