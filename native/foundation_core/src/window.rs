//! Windows: whether an event is the first of its key for a while.
//!
//! The table is cut into shards, each with a lock of its own and short critical sections; whoever
//! finds or opens a window under that lock has decided, so there is one winner a window.
//!
//! The number of windows is bounded. A shard keeps its windows in lists, in the order in which they were
//! opened: one list for each power of two of their duration. So the oldest window is the first of some
//! list, and a list's first windows are those that expire first, up to a factor of two in time: finding
//! either looks at the fronts of the lists and never at the table.

use crate::key::{Key, LONG, NoForeign, Seed};
use crate::primitive::{AtomicU64, Mutex, Ordering, lock};
use crate::table::prefetch;

/// Shards: enough that callers on as many schedulers seldom meet.
pub const SHARDS: usize = 16;
/// Slots that are made at a time: none is ever moved.
const CHUNK: usize = 64;
/// Buckets for each window: few windows share one.
const BUCKETS: usize = 2;
/// Lists of a shard: durations of up to 2^40 ms.
const CLASSES: usize = 41;
/// No slot.
const NONE: u32 = u32::MAX;
/// For how many nanoseconds an empty shard keeps its memory.
const IDLE: u64 = 1_000_000_000;
/// How many expired windows whoever opens one closes.
const CLOSED_ON_THE_WAY: usize = 2;

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It opened a window; the number of the shard that decided, and when.
    First(usize, u64),
    /// It is a repeat.
    Repeat,
}

/// What tells the time, in nanoseconds, to a table of windows. Asking whether a time is still to come may
/// be cheaper than asking for the time.
pub trait Clock {
    /// The time.
    fn now(&self) -> u64;

    /// Whether `time` is still to come.
    ///
    /// # Errors
    ///
    /// The time, when it is not.
    #[inline]
    fn before(&self, time: u64) -> Result<(), u64> {
        match self.now() {
            now if now < time => Ok(()),
            now => Err(now),
        }
    }
}

/// A clock that has stopped.
impl Clock for u64 {
    #[inline]
    fn now(&self) -> u64 {
        *self
    }
}

/// The event of a window: a handle that keeps count of the event's windows, with the number of a shard, while
/// that is locked. So for one number there is one writer.
pub trait Opener: Copy {
    /// What tells it from every other event.
    fn id(self) -> u32;
    /// A window was opened.
    fn opened(self, shard: usize);
    /// An event was a repeat in a window.
    fn repeated(self, shard: usize);
    /// A window was closed; whether that was early, at the bound.
    fn closed(self, shard: usize, early: bool);
}

/// What a repeat needs to know of a window: half a cache line.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
struct Open {
    /// The key, if it is short; else its hash, with [`LONG`] in the top byte of the second word.
    key: (u64, u64),
    expires: u64,
    event: u32,
    /// Another in the same bucket.
    next: u32,
}

/// The rest: a cache line.
#[derive(Debug)]
#[repr(align(64))]
struct Slot<E> {
    /// The order in which windows were opened, over all shards.
    seq: u64,
    expires: u64,
    event: E,
    hash: u64,
    /// A key that is not short.
    key: Option<Box<[u8]>>,
    older: u32,
    newer: u32,
    class: u8,
}

/// A vector that grows by pieces, so that nothing is moved.
#[derive(Debug)]
struct Pieces<T>(Vec<Vec<T>>);

impl<T> Pieces<T> {
    #[inline]
    fn at(&self, at: u32) -> &T {
        &self.0[at as usize / CHUNK][at as usize % CHUNK]
    }

    #[inline]
    fn at_mut(&mut self, at: u32) -> &mut T {
        &mut self.0[at as usize / CHUNK][at as usize % CHUNK]
    }

    fn push(&mut self, element: T) -> u32 {
        if self.0.last().is_none_or(|last| last.len() == CHUNK) {
            self.0.push(Vec::with_capacity(CHUNK));
        }
        let before = (self.0.len() - 1) * CHUNK;
        let last = &mut self.0[before / CHUNK];
        last.push(element);
        (before + last.len() - 1) as u32
    }
}

/// A shard: windows in chains by their hash, and in lists by their duration.
///
/// The chains are those of linear hashing (Litwin, 1980): each window that is one more splits the next
/// few chains, so that none waits for a whole table to be rearranged.
#[derive(Debug)]
struct Shard<E> {
    /// The first window of each chain.
    buckets: Vec<u32>,
    /// One less than the power of two from the number of buckets on.
    mask: usize,
    opens: Pieces<Open>,
    slots: Pieces<Slot<E>>,
    /// How many windows there are.
    count: usize,
    /// A place that is not used, the `next` of which is another.
    free: u32,
    oldest: [u32; CLASSES],
    newest: [u32; CLASSES],
    /// The lists that are not empty, one bit each.
    classes: u64,
    /// When a window was last opened.
    used: u64,
}

impl<E: Copy> Shard<E> {
    fn new() -> Self {
        Shard {
            buckets: vec![NONE],
            mask: 0,
            opens: Pieces(Vec::new()),
            slots: Pieces(Vec::new()),
            count: 0,
            free: NONE,
            oldest: [NONE; CLASSES],
            newest: [NONE; CLASSES],
            classes: 0,
            used: 0,
        }
    }

    #[inline]
    fn bucket(&self, hash: u64) -> usize {
        let bucket = hash as usize & self.mask;
        if bucket < self.buckets.len() {
            bucket
        } else {
            bucket & (self.mask >> 1)
        }
    }

    #[inline]
    fn find(&self, hash: u64, key: (u64, u64), event: u32, long: &[u8]) -> Option<u32> {
        let mut at = self.buckets[self.bucket(hash)];
        while at != NONE {
            let open = self.opens.at(at);
            let same = open.key == key && open.event == event;
            if same && (key.1 < LONG << 56 || self.slots.at(at).key.as_deref() == Some(long)) {
                return Some(at);
            }
            at = open.next;
        }
        None
    }

    fn insert(&mut self, mut open: Open, slot: Slot<E>, seed: &Seed) {
        self.count += 1;
        for _ in 0..2 * BUCKETS {
            if self.buckets.len() < BUCKETS * self.count {
                self.split(seed);
            }
        }
        let bucket = self.bucket(slot.hash);
        open.next = self.buckets[bucket];
        let at = match self.free {
            NONE => {
                self.slots.push(slot);
                self.opens.push(open)
            }
            at => {
                let place = self.opens.at_mut(at);
                self.free = place.next;
                *place = open;
                *self.slots.at_mut(at) = slot;
                // Long not used, it is in no cache; it will be when the next window is opened here.
                if self.free != NONE {
                    prefetch(self.opens.at(self.free));
                    prefetch(self.slots.at(self.free));
                }
                at
            }
        };
        self.buckets[bucket] = at;
        self.link(at);
    }

    /// Makes one more bucket, which takes from another the windows that have one more bit.
    fn split(&mut self, seed: &Seed) {
        let new = self.buckets.len();
        self.buckets.push(NONE);
        self.mask |= new;
        let old = new & (self.mask >> 1);
        let mut at = std::mem::replace(&mut self.buckets[old], NONE);
        while at != NONE {
            let bucket = self.bucket(self.opens.at(at).hash(seed));
            let open = self.opens.at_mut(at);
            let next = std::mem::replace(&mut open.next, self.buckets[bucket]);
            self.buckets[bucket] = at;
            at = next;
        }
    }

    /// Takes a window out of its chain.
    fn unchain(&mut self, at: u32) {
        let next = self.opens.at(at).next;
        let bucket = self.bucket(self.slots.at(at).hash);
        let mut before = self.buckets[bucket];
        if before == at {
            self.buckets[bucket] = next;
            return;
        }
        while before != NONE {
            let open = self.opens.at_mut(before);
            if open.next == at {
                open.next = next;
                return;
            }
            before = open.next;
        }
    }

    /// Puts a slot at the end of its list.
    fn link(&mut self, at: u32) {
        let class = usize::from(self.slots.at(at).class);
        let before = self.newest[class];
        let slot = self.slots.at_mut(at);
        (slot.older, slot.newer) = (before, NONE);
        match before {
            NONE => self.oldest[class] = at,
            before => self.slots.at_mut(before).newer = at,
        }
        self.newest[class] = at;
        self.classes |= 1 << class;
    }

    fn unlink(&mut self, at: u32) {
        let slot = self.slots.at(at);
        let (older, newer, class) = (slot.older, slot.newer, usize::from(slot.class));
        match older {
            NONE => self.oldest[class] = newer,
            older => self.slots.at_mut(older).newer = newer,
        }
        match newer {
            NONE => self.newest[class] = older,
            newer => self.slots.at_mut(newer).older = older,
        }
        if self.oldest[class] == NONE {
            self.classes &= !(1 << class);
        }
    }

    fn remove(&mut self, at: u32) {
        self.unlink(at);
        self.unchain(at);
        self.slots.at_mut(at).key = None;
        self.opens.at_mut(at).next = self.free;
        self.free = at;
        self.count -= 1;
    }

    /// Gives out what a rush has taken, when nothing is left of it and no more has come for a while: what
    /// comes and goes all the time is not to grow the shard anew each time.
    fn rest(&mut self, now: u64) -> Option<Self> {
        let is_unused = self.classes == 0 && now.saturating_sub(self.used) >= IDLE;
        let is_idle = is_unused && !self.slots.0.is_empty();
        is_idle.then(|| std::mem::replace(self, Shard::new()))
    }

    fn fronts(&self) -> impl Iterator<Item = u32> + '_ {
        let mut left = self.classes;
        std::iter::from_fn(move || {
            let class = left.trailing_zeros() as usize;
            (left != 0).then(|| {
                left &= left - 1;
                self.oldest[class]
            })
        })
    }

    /// The window that was opened first.
    fn first(&self) -> Option<u32> {
        self.fronts().min_by_key(|at| self.slots.at(*at).seq)
    }

    /// A window that has expired, of those that are first in their lists.
    fn expired(&self, now: u64) -> Option<u32> {
        self.fronts().find(|at| self.slots.at(*at).expires <= now)
    }
}

impl Open {
    fn hash(&self, seed: &Seed) -> u64 {
        seed.three(self.key.0, self.key.1, u64::from(self.event))
    }
}

/// The memory of a shard that is empty. To free it takes as long as there have been many windows.
#[derive(Debug)]
#[must_use = "what a rush has taken may take long to free"]
pub struct Idle<E>(#[expect(dead_code, reason = "it is only dropped")] Shard<E>);

/// The windows of all events. `E` is an event.
#[derive(Debug)]
pub struct Windows<E> {
    shards: Box<[Mutex<Shard<E>>]>,
    /// The `seq` of each shard's oldest window, as it last was. 0 is none.
    oldest: [AtomicU64; SHARDS],
    seed: Seed,
    /// How often a window was opened: its `seq`.
    opened: AtomicU64,
    /// How often one was closed, or opened again.
    closed: AtomicU64,
    evicted: AtomicU64,
    most: AtomicU64,
}

/// The list for windows of so many nanoseconds.
fn class(window: u64) -> u8 {
    let millis = window / 1_000_000;
    (u64::BITS - millis.leading_zeros()).min(CLASSES as u32 - 1) as u8
}

impl<E: Opener> Windows<E> {
    /// A table of at most `most` windows.
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

    /// Sets the bound, which holds from the next window on.
    pub fn bound(&self, most: u64) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// Decides about an occurrence of `event` with this key. `window` says how many nanoseconds a window
    /// lasts that is opened now.
    #[inline]
    pub fn admit(
        &self,
        event: E,
        key: &Key<'_, NoForeign>,
        clock: impl Clock,
        window: impl FnOnce() -> u64,
    ) -> Admission {
        let (key, long): (_, &[u8]) = match *key {
            Key::Inline(w0, w1) => ((w0, w1), &[]),
            Key::Long(kind, bytes) => ((self.seed.hash(key), LONG << 56 | u64::from(kind)), bytes),
            Key::Foreign(_, never) => match *never {},
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
        let found = shard.find(hash, key, open.event, long);
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
        let class = class(window);
        open.expires = now.saturating_add(window);
        let seq = self.opened.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some(at) = found {
            shard.opens.at_mut(at).expires = open.expires;
            self.closed.fetch_add(1, Ordering::Relaxed);
            shard.unlink(at);
            let slot = shard.slots.at_mut(at);
            (slot.expires, slot.seq, slot.class) = (open.expires, seq, class);
            shard.link(at);
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
                // Not the one that was opened just now, whose window may be 0.
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

    /// Closes the windows that were opened first, until the bound is kept.
    #[cold]
    fn evict(&self, now: u64) {
        while self.len() > self.most.load(Ordering::Relaxed) {
            let oldest = (0..SHARDS)
                .map(|number| (self.oldest[number].load(Ordering::Relaxed), number))
                .filter(|(seq, _)| *seq != 0)
                .min();
            let Some((_, number)) = oldest else { return };
            let mut shard = lock(&self.shards[number]);
            // Others may have been here meanwhile: then there is less to do.
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

    /// Closes up to about `most` expired windows; whether there is more to do. `free` is given a shard that
    /// has been empty for a while, if there is one.
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

    /// How many windows there are.
    pub fn len(&self) -> u64 {
        // In this order the answer misses only windows that were opened meanwhile, whose openers look
        // themselves: so the last of them keeps the bound, and none closes more than it must.
        let opened = self.opened.load(Ordering::Acquire);
        opened.saturating_sub(self.closed.load(Ordering::Acquire))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many windows were closed early, at the bound.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// Closes all windows and forgets what was counted. Openers are not told.
    pub fn clear(&self) {
        for (number, shard) in self.shards.iter().enumerate() {
            let mut shard = lock(shard);
            let old = std::mem::replace(&mut *shard, Shard::new());
            self.closed.fetch_add(old.count as u64, Ordering::Relaxed);
            self.note_oldest(number, &shard);
            // Nobody waits until it is freed.
            drop(shard);
        }
        self.evicted.store(0, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
