//! Keeps this library in memory for as long as the VM runs.
//!
//! The VM unloads a library when it purges the library's module, which every code reload does. But
//! the tables are statics of this library, and threads run its code. So the library stays in
//! memory, and the module's next instance loads the same library again.

/// Pins the library. Returns `false` when the system refuses.
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

    // SAFETY: `file` is the zero-terminated path of this library, which is loaded already, so no
    // initializer runs. The handle is never closed.
    let handle = unsafe { libc::dlopen(file, libc::RTLD_NOW | libc::RTLD_NODELETE) };
    !handle.is_null()
}

/// On other systems the library is unloaded with its module, as every other NIF is.
#[cfg(not(unix))]
pub fn pin() -> bool {
    true
}
