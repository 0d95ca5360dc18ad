//! The time that windows, rates and spans are measured in.

use foundation_core::window::Clock;

/// Nanoseconds of the system's monotonic clock. The VM's own costs three times as much to ask, as it
/// corrects what it gets; differences of either are the same.
#[inline]
pub fn now() -> u64 {
    System.now()
}

/// The system's monotonic clock.
#[derive(Clone, Copy)]
pub struct System;

#[cfg(unix)]
fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the function fills in the structure that it is given.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

impl Clock for System {
    #[cfg(unix)]
    #[inline]
    fn now(&self) -> u64 {
        read(libc::CLOCK_MONOTONIC)
    }

    #[cfg(not(unix))]
    fn now(&self) -> u64 {
        use std::sync::LazyLock;
        use std::time::Instant;

        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        START.elapsed().as_nanos() as u64
    }

    /// The clock of the last tick costs a third. It is behind by one tick, 10 ms at most: so a
    /// time that is further away than this many nanoseconds from there is still to come.
    #[cfg(target_os = "linux")]
    #[inline]
    fn before(&self, time: u64) -> Result<(), u64> {
        const BEHIND: u64 = 50_000_000;
        if read(libc::CLOCK_MONOTONIC_COARSE).saturating_add(BEHIND) < time {
            return Ok(());
        }
        match self.now() {
            now if now < time => Ok(()),
            now => Err(now),
        }
    }
}
