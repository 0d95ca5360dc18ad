//! Keeps this library in memory for as long as the VM runs.
//!
//! The VM unloads a library when it purges the module that holds it, which is part of
//! every code reload. The tables are statics of this library and threads run in it, so
//! it must not go: it stays, and the module's next instance loads the same one again.

/// Pins the library. `false` when the system refuses.
#[cfg(unix)]
pub fn pin() -> bool {
    use std::ffi::c_void;
    use std::mem::MaybeUninit;

    let mut info = MaybeUninit::<libc::Dl_info>::uninit();
    let here = pin as *const c_void;

    // SAFETY: `here` is an address, and `info` is room for the answer.
    if unsafe { libc::dladdr(here, info.as_mut_ptr()) } == 0 {
        return false;
    }

    // SAFETY: `dladdr` succeeded, so it has filled `info`.
    let file = unsafe { info.assume_init() }.dli_fname;

    // SAFETY: `file` is the path, ended by a zero, under which this library is loaded, so
    // this runs no initializer; the handle is never closed.
    let handle = unsafe { libc::dlopen(file, libc::RTLD_NOW | libc::RTLD_NODELETE) };
    !handle.is_null()
}

/// Elsewhere the library goes with its module, as it does for every other NIF.
#[cfg(not(unix))]
pub fn pin() -> bool {
    true
}
