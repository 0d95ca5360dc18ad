//! Measures how long calls keep a normal scheduler. Only the feature `measure` has it, which the
//! benchmark `scheduler` builds its own library with. Without the feature a [`Call`] does nothing.

#[cfg(not(feature = "measure"))]
pub use off::Call;
#[cfg(feature = "measure")]
pub use on::Call;

#[cfg(not(feature = "measure"))]
mod off {
    use rustler::codegen_runtime::c_char;

    pub struct Call;

    impl Call {
        #[inline(always)]
        pub fn begin(_name: *const c_char) -> Self {
            Call
        }
    }
}

#[cfg(feature = "measure")]
mod on {
    use std::collections::HashMap;
    use std::ffi::CStr;
    use std::mem::MaybeUninit;
    use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
    use std::time::{Duration, Instant};

    use rustler::codegen_runtime::c_char;
    use rustler::{Encoder, Env, Term};

    use crate::raw::{NifResult, may_take_long, nifs};

    /// The measurements of one function.
    #[derive(Default)]
    struct Seen {
        calls: u64,
        /// The longest call by wall-clock time, and the time that the thread ran in it.
        longest: Duration,
        ran: Duration,
    }

    static SEEN: LazyLock<Mutex<HashMap<&'static CStr, Seen>>> = LazyLock::new(Mutex::default);

    fn seen() -> MutexGuard<'static, HashMap<&'static CStr, Seen>> {
        SEEN.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call from `begin` to its drop.
    ///
    /// Its time is wall-clock time, so waiting for a lock counts. If the system preempted the
    /// thread meanwhile, its time is the thread's CPU time.
    pub struct Call {
        name: &'static CStr,
        interruptions: i64,
        ran: Duration,
        started: Instant,
    }

    impl Call {
        pub fn begin(name: *const c_char) -> Self {
            Call {
                // SAFETY: names are literals that end with a zero byte.
                name: unsafe { CStr::from_ptr(name) },
                interruptions: interruptions(),
                ran: ran(),
                started: Instant::now(),
            }
        }
    }

    impl Drop for Call {
        fn drop(&mut self) {
            let on_the_clock = self.started.elapsed();
            if may_take_long() {
                return;
            }
            let ran = ran() - self.ran;
            let taken = if interruptions() == self.interruptions {
                on_the_clock
            } else {
                ran
            };
            let mut seen = seen();
            let seen = seen.entry(self.name).or_default();
            seen.calls += 1;
            seen.longest = seen.longest.max(taken);
            seen.ran = seen.ran.max(ran);
        }
    }

    /// Returns how often the system has preempted this thread.
    #[cfg(target_os = "linux")]
    fn interruptions() -> i64 {
        let mut usage = MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: the structure is a local variable, and all zeros is a valid value of it.
        unsafe {
            libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
            usage.assume_init().ru_nivcsw
        }
    }

    /// Returns the CPU time of this thread.
    #[cfg(target_os = "linux")]
    fn ran() -> Duration {
        let mut time = MaybeUninit::<libc::timespec>::zeroed();
        // SAFETY: the structure is a local variable, and all zeros is a valid value of it.
        let time = unsafe {
            libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, time.as_mut_ptr());
            time.assume_init()
        };
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }

    /// Unknown here, so every call counts with its wall-clock time.
    #[cfg(not(target_os = "linux"))]
    fn interruptions() -> i64 {
        0
    }

    #[cfg(not(target_os = "linux"))]
    fn ran() -> Duration {
        Duration::ZERO
    }

    /// Returns each function that was called on a normal scheduler since the last call of this one:
    /// its name, the number of calls, and the longest call in nanoseconds, by wall clock and by CPU
    /// time.
    fn library_calls<'a>(env: Env<'a>, []: [Term<'a>; 0]) -> NifResult<'a> {
        let seen = std::mem::take(&mut *seen());
        let calls: Vec<_> = seen
            .iter()
            .map(|(name, seen)| {
                let name = name.to_string_lossy().into_owned();
                let longest = seen.longest.as_nanos() as u64;
                (name, seen.calls, longest, seen.ran.as_nanos() as u64)
            })
            .collect();
        Ok(calls.encode(env))
    }

    nifs! { library_calls / 0 }
}
