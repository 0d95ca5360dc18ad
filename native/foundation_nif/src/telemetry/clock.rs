//! The clocks for windows, rates and spans.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use foundation_core::window::Clock;
use rustler::sys::{ErlNifTimeUnit, enif_monotonic_time, enif_time_offset};

/// Returns the time of the system's monotonic clock in nanoseconds, read by way of [`ticks`] where
/// that is possible. The VM's clock takes three times as long, since it corrects the system's.
/// Differences between two times are the same on both.
#[inline]
pub fn now() -> u64 {
    System.now()
}

/// Returns Erlang's system time in nanoseconds, for a time that [`now`] has just returned.
///
/// Reading the VM's clock takes three times as long as [`now`]. So the difference between both
/// clocks is measured once every 100 µs, and added to `now` meanwhile. The measured difference is
/// too large by the time that the measurement takes, about 40 ns. The VM corrects its clock by up
/// to 500 parts per million, so it drifts by up to 50 ns within the interval. So this time lies
/// between two readings of Erlang's system time, one before and one after.
#[inline]
pub fn system_time(now: u64) -> i64 {
    if now
        < COMPARED
            .load(Ordering::Acquire)
            .saturating_add(COMPARE_EVERY)
    {
        now as i64 + AHEAD.load(Ordering::Relaxed)
    } else {
        compare()
    }
}

const COMPARE_EVERY: u64 = 100_000;
/// The longest time between two clock readings, in nanoseconds, if the thread was not preempted.
const STOPPED: u64 = 500;
/// How far Erlang's system time is ahead of the system's monotonic clock, and when that was
/// measured.
static AHEAD: AtomicI64 = AtomicI64::new(0);
static COMPARED: AtomicU64 = AtomicU64::new(0);

#[cold]
fn compare() -> i64 {
    let before = now();
    // SAFETY: both may be called on any scheduler thread.
    let erlang = unsafe {
        enif_monotonic_time(ErlNifTimeUnit::ERL_NIF_NSEC)
            + enif_time_offset(ErlNifTimeUnit::ERL_NIF_NSEC)
    };
    if now().saturating_sub(before) < STOPPED {
        AHEAD.store(erlang - before as i64, Ordering::Relaxed);
        COMPARED.store(before, Ordering::Release);
    }
    erlang
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
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    #[inline]
    fn now(&self) -> u64 {
        super::ticks::now(|| read(libc::CLOCK_MONOTONIC))
    }

    #[cfg(all(unix, not(all(target_os = "linux", target_arch = "x86_64"))))]
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

    /// Reads the coarse clock, which costs a third. It lags by at most one tick, 10 ms. So a time
    /// that is more than `BEHIND` nanoseconds ahead of it has not passed.
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
