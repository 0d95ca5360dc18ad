//! The NIFs of the registry.
//!
//! Each takes the registry's name as its first argument. It returns `nil` when there is no registry
//! with that name here; the ETS engine may have one.

pub mod deaths;
mod entries;
pub mod instance;
mod lifecycle;
mod lookups;
mod meta;
mod walk;

use std::sync::Arc;

use foundation_core::table::Guard;
use rustler::{Env, Term};

use crate::raw::{Failure, NifResult};
use crate::term::word;
use instance::Registry;

/// Returns the registry with this name, or `None`.
///
/// # Errors
///
/// When the name is not an atom.
#[inline]
fn named<'g>(name: Term, guard: &'g Guard) -> Result<Option<&'g Arc<Registry>>, Failure> {
    match Registry::get(word(name), guard) {
        None if !name.is_atom() => Err(Failure::BadArgument),
        found => Ok(found),
    }
}

/// The answer of a NIF that knows no registry with the name.
fn unknown(env: Env<'_>) -> NifResult<'_> {
    Ok(rustler::types::atom::nil().to_term(env))
}

/// Evaluates to the registry with a name. Without one, the NIF that uses this returns `nil`.
macro_rules! registry {
    ($env:expr, $name:expr, $guard:expr) => {
        match $crate::registry::named($name, $guard)? {
            Some(registry) => registry,
            None => return $crate::registry::unknown($env),
        }
    };
}

use registry;
