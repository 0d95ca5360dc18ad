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

/// Returns Erlang's system time and monotonic time in nanoseconds, for a time that [`now`] has just
/// returned.
///
/// Reading the VM's clock takes three times as long as [`now`]. So the difference between both
/// clocks is measured once every 100 µs, and added to `now` meanwhile. The measured difference is
/// too large by the time that the measurement takes, about 40 ns and at most [`STOPPED`]. The VM
/// corrects its clock by up to 500 parts per million, so it drifts by up to 50 ns within the
/// interval. So each time lies between two readings of Erlang's own, one before and one after.
#[inline]
pub fn erlang_times(now: u64) -> (i64, i64) {
    let known_until = COMPARED
        .load(Ordering::Acquire)
        .saturating_add(COMPARE_EVERY);
    if now < known_until {
        let monotonic = now as i64 + AHEAD.load(Ordering::Relaxed);
        (monotonic + OFFSET.load(Ordering::Relaxed), monotonic)
    } else {
        compare()
    }
}

const COMPARE_EVERY: u64 = 100_000;
/// The longest time between two clock readings, in nanoseconds, if the thread was not preempted. It
/// must be shorter than the rest of a call, or the result could lie after it.
const STOPPED: u64 = 200;
/// How far Erlang's monotonic time is ahead of the system's monotonic clock, how far Erlang's
/// system time is ahead of its monotonic time, and when both were measured.
static AHEAD: AtomicI64 = AtomicI64::new(0);
static OFFSET: AtomicI64 = AtomicI64::new(0);
static COMPARED: AtomicU64 = AtomicU64::new(0);

#[cold]
fn compare() -> (i64, i64) {
    let before = now();
    // SAFETY: both may be called on any scheduler thread.
    let (monotonic, offset) = unsafe {
        let unit = ErlNifTimeUnit::ERL_NIF_NSEC;
        (enif_monotonic_time(unit), enif_time_offset(unit))
    };
    if now().saturating_sub(before) < STOPPED {
        AHEAD.store(monotonic - before as i64, Ordering::Relaxed);
        OFFSET.store(offset, Ordering::Relaxed);
        COMPARED.store(before, Ordering::Release);
    }
    (monotonic + offset, monotonic)
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
