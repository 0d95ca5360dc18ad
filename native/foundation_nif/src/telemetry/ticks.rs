//! The system's monotonic clock, read between its ticks from the processor's counter.
//!
//! Linux makes that clock of the counter, if it trusts it, and reads it in such a way that no instruction before is
//! still under way: that costs 27 ns, and the counter alone 11. So each thread remembers a pair of both,
//! and for a millisecond from there on adds what the counter has counted since. Where Linux has found the counter
//! not to be trusted, it is not used; and should it jump, the time is a millisecond off at most, for a millisecond
//! at most. Times of one thread, and of two, may be in the wrong order by some nanoseconds.

use std::arch::x86_64::_rdtsc;
use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a pair of both clocks is used for, in nanoseconds.
const USED_FOR: u64 = 1_000_000;
/// How far apart two pairs are that the length of a count is taken from.
const MEASURED_OVER: std::ops::Range<u64> = 20_000_000..10_000_000_000;
/// Reading a pair takes fewer counts than this, unless the thread is stopped in between.
const STOPPED: u64 = 2_000;

/// Both clocks at one time.
#[derive(Clone, Copy)]
struct Pair {
    count: u64,
    time: u64,
    /// Nanoseconds of a count, in parts of 2^32.
    length: u64,
    /// For how many counts it is good.
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

/// The time, which `clock` tells exactly.
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

/// How long a count is, 0 while that is not known. It is measured again and again, since the clock may be made
/// slower or faster, by one part in two thousand at most.
fn length(count: u64, time: u64) -> u64 {
    static LENGTH: AtomicU64 = AtomicU64::new(0);
    static SINCE: std::sync::Mutex<Option<(u64, u64)>> = std::sync::Mutex::new(None);

    // Whoever comes while another measures takes what there is.
    if let Ok(mut since) = SINCE.try_lock() {
        let (from, started) = *since.get_or_insert((count, time));
        let passed = time.saturating_sub(started);
        if passed >= MEASURED_OVER.start {
            *since = Some((count, time));
        }
        if MEASURED_OVER.contains(&passed) {
            let counted = count.wrapping_sub(from).max(1);
            let measured = (u128::from(passed) << 32) / u128::from(counted);
            // Anything else is a counter that has jumped.
            let possible = 1 << 29..1 << 33;
            let length = u64::try_from(measured).ok();
            let length = length.filter(|length| possible.contains(length));
            LENGTH.store(length.unwrap_or(0), Ordering::Relaxed);
        }
    }
    LENGTH.load(Ordering::Relaxed)
}

/// Whether Linux makes its clock of the counter.
fn is_trusted() -> bool {
    static TRUSTED: OnceLock<bool> = OnceLock::new();
    *TRUSTED.get_or_init(|| {
        let source = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
        std::fs::read(source).is_ok_and(|name| name.trim_ascii() == b"tsc")
    })
}
