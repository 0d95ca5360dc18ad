//! The time that windows, rates and spans are measured in.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use foundation_core::window::Clock;
use rustler::sys::{ErlNifTimeUnit, enif_monotonic_time, enif_time_offset};

/// Nanoseconds of the system's monotonic clock, or of what [`ticks`] makes of it. The VM's own costs three
/// times as much to ask, as it corrects what it gets; differences of either are the same.
#[inline]
pub fn now() -> u64 {
    System.now()
}

/// Erlang's system time at a time of [`now`] that has just been read, in nanoseconds.
///
/// To ask the VM costs three times what [`now`] does. So it is asked every tenth of a millisecond, for how far
/// its time is ahead of that clock, and in between that is added. It finds that too large by the time it
/// takes to ask, some 40 ns; and the VM, which corrects its clock by up to 500 parts in a million, is up to 50 ns
/// further by the end of the interval: whoever asks before and after finds this in between.
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
/// The clocks are read within this time, unless the thread is stopped in between.
const STOPPED: u64 = 500;
/// How far Erlang's system time is ahead of the system's monotonic clock, and when that was found out.
static AHEAD: AtomicI64 = AtomicI64::new(0);
static COMPARED: AtomicU64 = AtomicU64::new(0);

#[cold]
fn compare() -> i64 {
    let before = now();
    // SAFETY: both may be called on any thread that is a scheduler's.
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
