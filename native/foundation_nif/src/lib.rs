//! Foundation's NIFs: terms in, terms out, resources, scheduling.

mod pin;

use rustler::{Env, Term};

const VERSION: &str = env!("CARGO_PKG_VERSION");

rustler::init!("Elixir.Foundation.Native", load = load);

/// Refuses to be the library of another version: one that was left behind by an upgrade
/// would have other functions under the same names.
fn load(_env: Env, version: Term) -> bool {
    matches!(version.decode::<&str>(), Ok(VERSION)) && pin::pin()
}

/// The version of this library; also how a caller knows that one is loaded.
#[rustler::nif]
fn library_version() -> &'static str {
    VERSION
}
