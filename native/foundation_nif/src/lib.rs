//! Foundation's NIFs: they convert terms, own resources and choose schedulers.

// The library stores terms as words of 64 bits.
#[cfg(not(target_pointer_width = "64"))]
compile_error!("the native library is for 64 bits; elsewhere: config :foundation, native: false");

mod background;
mod cache;
mod concurrent_table;
mod event_log;
mod faults;
mod live;
mod measure;
mod pin;
mod process;
mod raw;
mod registry;
mod resilience;
mod table_handle;
mod telemetry;
mod term;
mod watch;

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use rustler::{Encoder, Env, Term};

// The tables allocate through the VM, so `:erlang.memory/0` counts them.
#[global_allocator]
static ALLOCATOR: rustler::EnifAllocator = rustler::EnifAllocator;

const VERSION: &str = env!("CARGO_PKG_VERSION");

rustler::init!("Elixir.Foundation.Native", load = load);

/// The number that this library got when it was first loaded; 0 before.
static INSTANCE: AtomicU64 = AtomicU64::new(0);

/// Refuses to load in two cases. A library of another version, left behind by an upgrade, would
/// have other functions under the same names. A rebuilt or copied file, loaded beside a library
/// that is in memory already, would have empty tables of its own.
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

/// Reports a panic, which is a defect of this library, on standard error. The caller gets an
/// exception.
fn report_panic(panic: &std::panic::PanicHookInfo) {
    // Not `eprintln!`: it panics when standard error is closed, and a panic in a panic hook aborts
    // the VM.
    let _ = writeln!(
        std::io::stderr(),
        "foundation: the native library failed, and a call raises :nif_panicked: {panic}"
    );
}

/// Returns the version of this library. A caller also learns from it that a library is loaded.
fn library_version<'a>(env: Env<'a>, []: [Term<'a>; 0]) -> raw::NifResult<'a> {
    Ok(VERSION.encode(env))
}

raw::nifs! { library_version / 0 }
