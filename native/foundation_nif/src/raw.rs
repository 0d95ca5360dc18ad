//! The boundary: how a call of the VM becomes a call of Rust and its result a term.
//!
//! Every NIF goes through [`call`]. It does what rustler's attribute macro does, without decoding
//! the arguments on the way: that costs 9 to 16 ns a call, a fifth of a look-up.

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

/// Why a NIF gives no result.
#[derive(Clone, Copy, Debug)]
pub enum Failure {
    /// An argument is of a wrong type: `ArgumentError`.
    BadArgument,
    /// The call would take long: it is to be made again on a dirty scheduler, where
    /// [`may_take_long`] says so.
    TakesLong,
    /// The call waits for a disk: it is to be made again on a dirty I/O scheduler.
    DoesIo,
}

/// What a NIF gives.
pub type NifResult<'a> = Result<Term<'a>, Failure>;

/// A NIF as the VM calls it.
pub type RawNif = unsafe extern "C" fn(*mut ErlNifEnv, c_int, *const ErlNifTerm) -> ErlNifTerm;

/// Calls `nif` with its arguments, and turns a panic into an exception.
///
/// # Safety
///
/// `env` and `argv` are what the VM gave to a NIF of arity `N` called `name`, which is `raw`.
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
        // SAFETY: the environment is the one of this call, and the lifetime is its own.
        let env = unsafe { Env::new(&lifetime, env) };
        // SAFETY: the VM gives `N` arguments, which belong to the environment.
        let arguments = std::array::from_fn(|index| unsafe { Term::new(env, *argv.add(index)) });
        nif(env, arguments).map(|term| term.as_c_arg())
    }));
    match result {
        Ok(Ok(term)) => term,
        // SAFETY: both take the environment of this call; the arguments are passed on as they are.
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
    // SAFETY: asked of the caller; an atom belongs to every environment.
    unsafe {
        let reason = nif_panicked().to_term(Env::new(&lifetime, env)).as_c_arg();
        enif_raise_exception(env, reason)
    }
}

/// Whether this call runs where it may take longer than a millisecond.
pub fn may_take_long() -> bool {
    // SAFETY: it takes nothing and may be called anywhere.
    unsafe { enif_thread_type() != NORMAL_SCHEDULER }
}

/// A NIF's name as the VM wants it.
pub const fn name(with_end: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(with_end.as_bytes()) {
        Ok(name) => name,
        Err(_) => panic!("a name ends with its only zero"),
    }
}

/// Makes functions `fn(Env, [Term; N]) -> NifResult` NIFs of the same names.
macro_rules! nifs {
    ($($name:ident / $arity:literal),* $(,)?) => {
        $(const _: () = {
            const NAME: &::std::ffi::CStr = $crate::raw::name(concat!(stringify!($name), "\0"));

            unsafe extern "C" fn raw(
                env: *mut ::rustler::codegen_runtime::ErlNifEnv,
                _argc: ::rustler::codegen_runtime::c_int,
                argv: *const ::rustler::codegen_runtime::ErlNifTerm,
            ) -> ::rustler::codegen_runtime::ErlNifTerm {
                // SAFETY: the VM calls this with what it gives to a NIF of this arity.
                unsafe { $crate::raw::call::<$arity>(env, argv, NAME, raw, $name) }
            }

            ::rustler::codegen_runtime::inventory::submit! {
                ::rustler::Nif { name: NAME.as_ptr(), arity: $arity, flags: 0, raw_func: raw }
            }
        };)*
    };
}

pub(crate) use nifs;
