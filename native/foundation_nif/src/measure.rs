//! How long calls keep a normal scheduler: only with the feature `measure`, which the benchmark
//! `scheduler` builds a library of its own with. Without it a [`Call`] is nothing.

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

    /// What was seen of one function.
    #[derive(Default)]
    struct Seen {
        calls: u64,
        /// By the clock, and by what the thread ran.
        longest: Duration,
        ran: Duration,
    }

    static SEEN: LazyLock<Mutex<HashMap<&'static CStr, Seen>>> = LazyLock::new(Mutex::default);

    fn seen() -> MutexGuard<'static, HashMap<&'static CStr, Seen>> {
        SEEN.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call from its begin to its end, when this is dropped.
    ///
    /// Its time is that on the clock, so that waiting for a lock counts, unless the system put
    /// another thread in this one's place meanwhile: then it is the time that the thread ran.
    pub struct Call {
        name: &'static CStr,
        interruptions: i64,
        ran: Duration,
        started: Instant,
    }

    impl Call {
        pub fn begin(name: *const c_char) -> Self {
            Call {
                // SAFETY: names are literals that end with a zero.
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

    /// How often the system has taken the processor from this thread.
    #[cfg(target_os = "linux")]
    fn interruptions() -> i64 {
        let mut usage = MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: the structure is this function's own, and zeros are a value of it.
        unsafe {
            libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
            usage.assume_init().ru_nivcsw
        }
    }

    /// How long this thread has run.
    #[cfg(target_os = "linux")]
    fn ran() -> Duration {
        let mut time = MaybeUninit::<libc::timespec>::zeroed();
        // SAFETY: the structure is this function's own, and zeros are a value of it.
        let time = unsafe {
            libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, time.as_mut_ptr());
            time.assume_init()
        };
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }

    /// Not known: every call counts by the clock.
    #[cfg(not(target_os = "linux"))]
    fn interruptions() -> i64 {
        0
    }

    #[cfg(not(target_os = "linux"))]
    fn ran() -> Duration {
        Duration::ZERO
    }

    /// Every function that was called on a normal scheduler since this was last asked: its name,
    /// how often, and the nanoseconds of its longest call, by the clock and by what the thread
    /// ran.
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
