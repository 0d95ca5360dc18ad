//! The boundary: it turns a call of the VM into a call of Rust, and the result into a term.
//!
//! Every NIF goes through [`call`]. It does the work of rustler's attribute macro, but leaves the
//! arguments undecoded. Decoding costs 9 to 16 ns per call, a fifth of a lookup.

use std::ffi::CStr;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustler::codegen_runtime::{ErlNifEnv, ErlNifTerm, c_int};
use rustler::sys::{enif_make_badarg, enif_raise_exception, enif_schedule_nif, enif_thread_type};
use rustler::{Env, Term, atoms};

use crate::faults;
use crate::measure::Call;

atoms! { nif_panicked }

/// `ERL_NIF_DIRTY_JOB_CPU_BOUND` of `erl_nif.h`.
const DIRTY_CPU: c_int = 1;
/// `ERL_NIF_DIRTY_JOB_IO_BOUND` of `erl_nif.h`.
const DIRTY_IO: c_int = 2;
/// `ERL_NIF_THR_NORMAL_SCHEDULER` of `erl_nif.h`.
const NORMAL_SCHEDULER: c_int = 1;

/// The reasons why a NIF returns no result.
#[derive(Clone, Copy, Debug)]
pub enum Failure {
    /// An argument has a wrong type. The caller gets `ArgumentError`.
    BadArgument,
    /// The call would take long. It runs again on a dirty scheduler, where [`may_take_long`]
    /// returns `true`.
    TakesLong,
    /// The call waits for a disk. It runs again on a dirty I/O scheduler.
    DoesIo,
}

/// The result of a NIF.
pub type NifResult<'a> = Result<Term<'a>, Failure>;

/// A NIF in the form that the VM calls.
pub type RawNif = unsafe extern "C" fn(*mut ErlNifEnv, c_int, *const ErlNifTerm) -> ErlNifTerm;

/// Calls `nif` with its arguments, and turns a panic into an exception.
///
/// # Safety
///
/// `env` and `argv` are those that the VM passed to a NIF of arity `N` named `name`, and `raw` is
/// that NIF.
#[inline]
pub unsafe fn call<const N: usize>(
    env: *mut ErlNifEnv,
    argv: *const ErlNifTerm,
    name: &CStr,
    raw: RawNif,
    nif: impl for<'a> FnOnce(Env<'a>, [Term<'a>; N]) -> NifResult<'a>,
) -> ErlNifTerm {
    let _measured = Call::begin(name.as_ptr());
    let result = catch_unwind(AssertUnwindSafe(|| {
        faults::reach(name);
        let lifetime = ();
        // SAFETY: the environment is that of this call, and the lifetime ends with the call.
        let env = unsafe { Env::new(&lifetime, env) };
        // SAFETY: the VM passes `N` arguments, which belong to the environment.
        let arguments = std::array::from_fn(|index| unsafe { Term::new(env, *argv.add(index)) });
        nif(env, arguments).map(|term| term.as_c_arg())
    }));
    match result {
        Ok(Ok(term)) => term,
        // SAFETY: both take the environment of this call; the arguments are passed on unchanged.
        Ok(Err(failure)) => unsafe {
            match failure {
                Failure::BadArgument => enif_make_badarg(env),
                Failure::TakesLong => {
                    enif_schedule_nif(env, name.as_ptr(), DIRTY_CPU, raw, N as c_int, argv)
                }
                Failure::DoesIo => {
                    enif_schedule_nif(env, name.as_ptr(), DIRTY_IO, raw, N as c_int, argv)
                }
            }
        },
        // SAFETY: as above.
        Err(_) => unsafe { raise_panicked(env) },
    }
}

/// # Safety
///
/// `env` is the environment of the current call.
#[cold]
unsafe fn raise_panicked(env: *mut ErlNifEnv) -> ErlNifTerm {
    let lifetime = ();
    // SAFETY: the caller promises it; an atom is valid in every environment.
    unsafe {
        let reason = nif_panicked().to_term(Env::new(&lifetime, env)).as_c_arg();
        enif_raise_exception(env, reason)
    }
}

/// Returns whether this call runs on a thread where it may take longer than a millisecond.
pub fn may_take_long() -> bool {
    // SAFETY: the function takes no arguments and may be called on any thread.
    unsafe { enif_thread_type() != NORMAL_SCHEDULER }
}

/// Converts a NIF's name to the form that the VM expects.
pub const fn name(with_end: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(with_end.as_bytes()) {
        Ok(name) => name,
        Err(_) => panic!("a name ends with its only zero"),
    }
}

/// Makes NIFs from functions `fn(Env, [Term; N]) -> NifResult`, with the same names.
macro_rules! nifs {
    ($($name:ident / $arity:literal),* $(,)?) => {
        $(const _: () = {
            const NAME: &::std::ffi::CStr = $crate::raw::name(concat!(stringify!($name), "\0"));

            unsafe extern "C" fn raw(
                env: *mut ::rustler::codegen_runtime::ErlNifEnv,
                _argc: ::rustler::codegen_runtime::c_int,
                argv: *const ::rustler::codegen_runtime::ErlNifTerm,
            ) -> ::rustler::codegen_runtime::ErlNifTerm {
                // SAFETY: the VM calls this with the arguments of a NIF of this arity.
                unsafe { $crate::raw::call::<$arity>(env, argv, NAME, raw, $name) }
            }

            ::rustler::codegen_runtime::inventory::submit! {
                ::rustler::Nif { name: NAME.as_ptr(), arity: $arity, flags: 0, raw_func: raw }
            }
        };)*
    };
}

pub(crate) use nifs;
