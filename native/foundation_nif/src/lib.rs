//! Foundation's NIFs: terms in, terms out, resources, scheduling.

// A term is a word, and words are 64 bits wherever one is kept.
#[cfg(not(target_pointer_width = "64"))]
compile_error!("the native library is for 64 bits; elsewhere: config :foundation, native: false");

mod background;
mod concurrent_table;
mod event_log;
mod faults;
mod live;
mod measure;
mod pin;
mod process;
mod raw;
mod registry;
mod table_handle;
mod telemetry;
mod term;

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use rustler::{Encoder, Env, Term};

// What the tables allocate is the VM's memory, and `:erlang.memory/0` counts it.
#[global_allocator]
static ALLOCATOR: rustler::EnifAllocator = rustler::EnifAllocator;

const VERSION: &str = env!("CARGO_PKG_VERSION");

rustler::init!("Elixir.Foundation.Native", load = load);

/// The number that this library was given when it was loaded first; 0 before.
static INSTANCE: AtomicU64 = AtomicU64::new(0);

/// Refuses to be the library of another version: one that was left behind by an upgrade
/// would have other functions under the same names. And refuses to be taken for a library that is
/// in memory already, with tables that this one would not have: the same file, built anew or
/// copied.
fn load(env: Env, argument: Term) -> bool {
    let Ok((version, instance, again, magic)) = argument.decode::<(&str, u64, bool, Term)>() else {
        return false;
    };
    let fits = version == VERSION && term::words_are_as_assumed(env, magic);
    let is_it = !again || INSTANCE.load(Ordering::Relaxed) == instance;
    if !fits || !is_it || !pin::pin() {
        return false;
    }
    INSTANCE.store(instance, Ordering::Relaxed);
    std::panic::set_hook(Box::new(report_panic));
    background::start();
    table_handle::open(env)
}

/// A panic is a defect of this library. Its caller gets an exception; where it was is said here.
fn report_panic(panic: &std::panic::PanicHookInfo) {
    // Not `eprintln!`, which panics where nobody reads standard error any more: a panic in here
    // would abort the VM.
    let _ = writeln!(
        std::io::stderr(),
        "foundation: the native library failed, and a call raises :nif_panicked: {panic}"
    );
}

/// The version of this library; also how a caller knows that one is loaded.
fn library_version<'a>(env: Env<'a>, []: [Term<'a>; 0]) -> raw::NifResult<'a> {
    Ok(VERSION.encode(env))
}

raw::nifs! { library_version / 0 }
