//! Windows: whether an event is the first with its key for a while.
//!
//! The table consists of shards, each with a lock of its own and short critical sections. A caller
//! finds or opens a window under that lock, so each window has exactly one first event.
//!
//! The number of windows is bounded. A caller that exceeds the bound closes the oldest window. That
//! is the oldest of some shard, and each shard publishes the age of its oldest.

mod shard;

use crate::key::{Key, LONG, NoOpaque, Seed};
use crate::primitive::{AtomicU64, Mutex, Ordering, lock};
use shard::{NONE, Open, Shard, Slot};

/// The number of shards: enough that callers on different schedulers seldom contend.
pub const SHARDS: usize = 16;
/// The number of expired windows that are closed whenever one is opened.
const CLOSED_ON_THE_WAY: usize = 2;

/// The decision about an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It opened a window: the number of the shard that decided, and the time.
    First(usize, u64),
    /// It is a repeat.
    Repeat,
}

/// A source of time for a table of windows, in nanoseconds. Whether a time has passed may be
/// cheaper to answer than what the time is.
pub trait Clock {
    /// Returns the time.
    fn now(&self) -> u64;

    /// Checks that `time` has not passed.
    ///
    /// # Errors
    ///
    /// The current time, when `time` has passed.
    #[inline]
    fn before(&self, time: u64) -> Result<(), u64> {
        match self.now() {
            now if now < time => Ok(()),
            now => Err(now),
        }
    }
}

/// A stopped clock, for tests.
impl Clock for u64 {
    #[inline]
    fn now(&self) -> u64 {
        *self
    }
}

/// The event of a window: a handle that counts the event's windows. Each method gets the number of
/// a shard and runs under that shard's lock, so the counts of one shard have one writer at a time.
pub trait Opener: Copy {
    /// Returns a number that no other event has.
    fn id(self) -> u32;
    /// Counts an opened window.
    fn opened(self, shard: usize);
    /// Counts an event that was a repeat in a window.
    fn repeated(self, shard: usize);
    /// Counts a closed window; `early` means that it was closed at the bound.
    fn closed(self, shard: usize, early: bool);
}

/// The memory of an empty shard. Freeing it takes time in proportion to the windows it once had.
#[derive(Debug)]
#[must_use = "freeing the memory of many windows may take long"]
pub struct Idle<E>(#[expect(dead_code, reason = "it is only dropped")] Shard<E>);

/// The windows of all events. `E` is an event.
#[derive(Debug)]
pub struct Windows<E> {
    shards: Box<[Mutex<Shard<E>>]>,
    /// The `seq` of each shard's oldest window, as last published; 0 for none.
    oldest: [AtomicU64; SHARDS],
    seed: Seed,
    /// The number of windows opened so far, which gives the next window's `seq`.
    opened: AtomicU64,
    /// The number of windows that were closed or opened again.
    closed: AtomicU64,
    evicted: AtomicU64,
    most: AtomicU64,
}

impl<E: Opener> Windows<E> {
    /// Makes a table of at most `most` windows.
    pub fn new(most: u64) -> Self {
        Windows {
            shards: (0..SHARDS).map(|_| Mutex::new(Shard::new())).collect(),
            oldest: std::array::from_fn(|_| AtomicU64::new(0)),
            seed: Seed::random(),
            opened: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            most: AtomicU64::new(most),
        }
    }

    /// Sets the bound. It applies from the next window on.
    pub fn bound(&self, most: u64) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// Decides about an occurrence of `event` with this key. If this opens a window, `window`
    /// returns its duration in nanoseconds.
    #[inline]
    pub fn admit(
        &self,
        event: E,
        key: &Key<'_, NoOpaque>,
        clock: impl Clock,
        window: impl FnOnce() -> u64,
    ) -> Admission {
        let (key, long): (_, &[u8]) = match *key {
            Key::Inline(w0, w1) => ((w0, w1), &[]),
            Key::Long(kind, bytes) => ((self.seed.hash(key), LONG << 56 | u64::from(kind)), bytes),
            Key::Opaque(_, never) => match *never {},
        };
        let mut open = Open {
            key,
            expires: 0,
            event: event.id(),
            next: NONE,
        };
        let hash = open.hash(&self.seed);
        let number = (hash >> 48) as usize % SHARDS;
        let mut shard = lock(&self.shards[number]);
        let found = shard.probe(hash, key, open.event, long);
        let now = match found {
            Some(at) => match clock.before(shard.opens.at(at).expires) {
                Ok(()) => {
                    event.repeated(number);
                    return Admission::Repeat;
                }
                Err(now) => now,
            },
            None => clock.now(),
        };
        let window = window();
        let class = shard::class(window);
        open.expires = now.saturating_add(window);
        let seq = self.opened.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some(at) = found {
            self.closed.fetch_add(1, Ordering::Relaxed);
            shard.renew(at, open.expires, seq, class);
            self.note_oldest(number, &shard);
            return Admission::First(number, now);
        }
        event.opened(number);
        let slot = Slot {
            seq,
            expires: open.expires,
            event,
            hash,
            key: (!long.is_empty()).then(|| long.into()),
            older: NONE,
            newer: NONE,
            class,
        };
        shard.insert(open, slot, &self.seed);
        shard.used = now;
        for _ in 0..CLOSED_ON_THE_WAY {
            match shard.expired(now) {
                // Do not close the window that was just opened: its duration may be 0.
                Some(at) if shard.slots.at(at).seq != seq => {
                    self.close(&mut shard, number, at, false);
                }
                _ => break,
            }
        }
        self.note_oldest(number, &shard);
        drop(shard);
        if self.len() > self.most.load(Ordering::Relaxed) {
            self.evict(now);
        }
        Admission::First(number, now)
    }

    fn close(&self, shard: &mut Shard<E>, number: usize, at: u32, early: bool) {
        shard.slots.at(at).event.closed(number, early);
        shard.remove(at);
        self.closed.fetch_add(1, Ordering::Relaxed);
        if early {
            self.evicted.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn note_oldest(&self, number: usize, shard: &Shard<E>) {
        let seq = shard.first().map_or(0, |at| shard.slots.at(at).seq);
        if self.oldest[number].load(Ordering::Relaxed) != seq {
            self.oldest[number].store(seq, Ordering::Relaxed);
        }
    }

    /// Closes the oldest windows until their number is within the bound.
    #[cold]
    fn evict(&self, now: u64) {
        while self.len() > self.most.load(Ordering::Relaxed) {
            let oldest = (0..SHARDS)
                .map(|number| (self.oldest[number].load(Ordering::Relaxed), number))
                .filter(|(seq, _)| *seq != 0)
                .min();
            let Some((_, number)) = oldest else { return };
            let mut shard = lock(&self.shards[number]);
            // Another caller may have evicted windows before this one got the lock.
            if self.len() <= self.most.load(Ordering::Relaxed) {
                return;
            }
            if let Some(at) = shard.expired(now) {
                self.close(&mut shard, number, at, false);
            } else if let Some(at) = shard.first() {
                self.close(&mut shard, number, at, true);
            }
            self.note_oldest(number, &shard);
        }
    }

    /// Closes up to about `most` expired windows, and returns whether more may be left. `free` gets
    /// the memory of a shard that has been empty for a while, if there is one.
    pub fn sweep(&self, now: u64, most: usize, free: impl FnOnce(Idle<E>)) -> bool {
        let mut closed = 0;
        for (number, shard) in self.shards.iter().enumerate() {
            let mut shard = lock(shard);
            while let Some(at) = shard.expired(now) {
                if closed == most {
                    self.note_oldest(number, &shard);
                    return true;
                }
                self.close(&mut shard, number, at, false);
                closed += 1;
            }
            let idle = shard.rest(now);
            self.note_oldest(number, &shard);
            drop(shard);
            if let Some(idle) = idle {
                free(Idle(idle));
                return true;
            }
        }
        false
    }

    /// Returns the number of windows.
    pub fn len(&self) -> u64 {
        // `opened` is read before `closed`, so the answer can only miss windows that were opened
        // after the first read. Their openers check the bound themselves. So the last opener keeps
        // the bound, and no opener closes more windows than it must.
        let opened = self.opened.load(Ordering::Acquire);
        opened.saturating_sub(self.closed.load(Ordering::Acquire))
    }

    /// Returns whether there are no windows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns how many windows were closed early, at the bound.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// Closes all windows and resets the counts. The events' own counts do not change.
    pub fn clear(&self) {
        for (number, shard) in self.shards.iter().enumerate() {
            let mut shard = lock(shard);
            let old = std::mem::replace(&mut *shard, Shard::new());
            self.closed.fetch_add(old.count as u64, Ordering::Relaxed);
            self.note_oldest(number, &shard);
            // Unlock before the old shard is freed, so that no caller waits for that.
            drop(shard);
        }
        self.evicted.store(0, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
