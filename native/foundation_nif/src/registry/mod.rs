//! The NIFs of the registry.
//!
//! Each takes the registry's name first, and says `nil` when there is none of that name: then the
//! ETS engine may know it.

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

/// The registry of this name; `None` when there is none.
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

/// What a NIF says when it knows no registry of that name.
fn unknown(env: Env<'_>) -> NifResult<'_> {
    Ok(rustler::types::atom::nil().to_term(env))
}

/// The registry of a name in the NIF that this is used in, which says `nil` if there is none.
macro_rules! registry {
    ($env:expr, $name:expr, $guard:expr) => {
        match $crate::registry::named($name, $guard)? {
            Some(registry) => registry,
            None => return $crate::registry::unknown($env),
        }
    };
}

use registry;
