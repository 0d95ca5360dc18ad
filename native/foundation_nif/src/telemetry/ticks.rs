//! The system's monotonic clock, extrapolated with the processor's time stamp counter.
//!
//! Linux derives that clock from the counter, if it trusts the counter, but waits for earlier
//! instructions before it reads it. So a clock reading takes 27 ns, and a counter reading only 11
//! ns. Each thread therefore remembers one reading of both, and for a millisecond adds what the
//! counter has counted since. Where Linux does not trust the counter, it is not used. Should the
//! counter jump, the time is wrong by at most a millisecond, for at most a millisecond. Two
//! readings, of one thread or of two, can be out of order by a few nanoseconds.

use std::arch::x86_64::_rdtsc;
use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// How long a reading of both clocks is used, in nanoseconds.
const USED_FOR: u64 = 1_000_000;
/// The distance between two readings from which the length of a count is computed, in nanoseconds.
const MEASURED_OVER: std::ops::Range<u64> = 20_000_000..10_000_000_000;
/// A reading of both clocks takes fewer counts than this, if the thread was not preempted.
const STOPPED: u64 = 2_000;

/// A reading of both clocks at the same time.
#[derive(Clone, Copy)]
struct Pair {
    count: u64,
    time: u64,
    /// Nanoseconds per count, as a fraction of 2^32.
    length: u64,
    /// The number of counts for which the reading is used.
    good_for: u64,
}

thread_local! {
    static PAIR: Cell<Pair> = const {
        Cell::new(Pair { count: 0, time: 0, length: 0, good_for: 0 })
    };
}

#[inline]
fn count() -> u64 {
    // SAFETY: every processor of this architecture has the instruction.
    unsafe { _rdtsc() }
}

/// Returns the time. `clock` reads the exact one.
#[inline]
pub fn now(clock: impl Fn() -> u64) -> u64 {
    PAIR.with(|pair| {
        let Pair {
            count: from,
            time,
            length,
            good_for,
        } = pair.get();
        let passed = count().wrapping_sub(from);
        if passed < good_for {
            return time + ((passed * length) >> 32);
        }
        again(pair, clock)
    })
}

#[cold]
fn again(pair: &Cell<Pair>, clock: impl Fn() -> u64) -> u64 {
    if !is_trusted() {
        return clock();
    }
    let before = count();
    let time = clock();
    let passed = count().wrapping_sub(before);
    if passed < STOPPED {
        let count = before.wrapping_add(passed / 2);
        let length = length(count, time);
        let good_for = (USED_FOR << 32).checked_div(length).unwrap_or(0);
        pair.set(Pair {
            count,
            time,
            length,
            good_for,
        });
    }
    time
}

/// Returns the length of a count, or 0 while it is unknown. It is measured repeatedly, because the
/// system may speed the clock up or slow it down by up to one part in two thousand.
fn length(count: u64, time: u64) -> u64 {
    static LENGTH: AtomicU64 = AtomicU64::new(0);
    static SINCE: std::sync::Mutex<Option<(u64, u64)>> = std::sync::Mutex::new(None);

    // If another thread is measuring, use the last value.
    if let Ok(mut since) = SINCE.try_lock() {
        let (from, started) = *since.get_or_insert((count, time));
        let passed = time.saturating_sub(started);
        if passed >= MEASURED_OVER.start {
            *since = Some((count, time));
        }
        if MEASURED_OVER.contains(&passed) {
            let counted = count.wrapping_sub(from).max(1);
            let measured = (u128::from(passed) << 32) / u128::from(counted);
            // Any other length means that the counter has jumped.
            let possible = 1 << 29..1 << 33;
            let length = u64::try_from(measured).ok();
            let length = length.filter(|length| possible.contains(length));
            LENGTH.store(length.unwrap_or(0), Ordering::Relaxed);
        }
    }
    LENGTH.load(Ordering::Relaxed)
}

/// Returns whether Linux derives its clock from the counter.
fn is_trusted() -> bool {
    static TRUSTED: OnceLock<bool> = OnceLock::new();
    *TRUSTED.get_or_init(|| {
        let source = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
        std::fs::read(source).is_ok_and(|name| name.trim_ascii() == b"tsc")
    })
}
