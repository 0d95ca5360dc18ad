//! Rate limiters: several limits at once, by a sliding window or a token bucket.
//!
//! A sliding window counts costs in slices of 1/256 of its length. A slice counts until all of it
//! is older than the window. So no window of that length has more than the limit, wherever it
//! begins.
//!
//! A token bucket is represented by the time at which it is full again (the generic cell rate
//! algorithm, ITU-T I.371). A cost moves that time forward by its refill time. It is allowed if the
//! result is at most one full bucket ahead.
//!
//! A caller that waits books its slot in the future, and nobody gets an earlier one afterwards:
//! slots are in the order of arrival. All times are nanoseconds that the caller reads.

use std::collections::VecDeque;

use crate::keyed::Keyable;

/// How many slices a window has.
pub const SLICES: u64 = 256;
/// How many limits an instance may have.
pub const LIMITS_MAX: usize = 8;

/// How a limit recovers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// When it is older than the window.
    SlidingWindow,
    /// At a steady rate.
    TokenBucket,
}

/// One limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// How much there is in a window, or in a full bucket.
    pub limit: u32,
    /// The length of the window, or how long an empty bucket takes to be full, in nanoseconds.
    pub per: u64,
}

impl Limit {
    fn slice(&self) -> u64 {
        (self.per / SLICES).max(1)
    }

    /// A time in the unit of buckets, in which refilling one piece takes a whole number: one part
    /// in `limit` of a nanosecond.
    fn scaled(&self, time: u64) -> u128 {
        u128::from(time) * u128::from(self.limit)
    }

    /// The first nanosecond that is not before a scaled time.
    fn unscaled(&self, time: u128) -> u64 {
        u64::try_from(time.div_ceil(u128::from(self.limit))).unwrap_or(u64::MAX)
    }

    /// How long refilling takes, scaled.
    fn refill(&self, cost: u32) -> u128 {
        u128::from(cost) * u128::from(self.per)
    }

    /// When all that was taken in a slice is older than the window.
    fn leaves(&self, slice: u64) -> u64 {
        (slice.saturating_add(1).saturating_mul(self.slice())).saturating_add(self.per)
    }
}

/// What an instance's limiters have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether windows or buckets.
    pub algorithm: Algorithm,
    /// The limits, at most [`LIMITS_MAX`].
    pub limits: Box<[Limit]>,
    /// Counts the changes of these settings.
    pub epoch: u32,
    /// Those before them.
    pub previous: Option<Box<Settings>>,
}

/// What was taken in one slice.
#[derive(Clone, Copy, Debug)]
struct Slice {
    /// Counted from the lane's base.
    index: u32,
    taken: u32,
}

/// One limit of one key.
#[derive(Debug)]
enum Lane {
    Window(Window),
    /// When the bucket is full.
    Bucket(Scaled),
}

/// A time that is [scaled](Limit::scaled), in two words: a number of two words would be aligned to
/// two.
#[derive(Clone, Copy, Debug, Default)]
struct Scaled([u64; 2]);

impl Scaled {
    fn new(time: u128) -> Self {
        Scaled([time as u64, (time >> 64) as u64])
    }

    fn get(self) -> u128 {
        u128::from(self.0[0]) | u128::from(self.0[1]) << 64
    }
}

#[derive(Debug, Default)]
struct Window {
    /// The slice that the others are counted from.
    base: u64,
    slices: VecDeque<Slice>,
    /// Those before this one have left the window at the last slot that was given out.
    live_from: u32,
    /// The sum of those from there on.
    live: u64,
    /// The sum of all of them.
    total: u64,
}

impl Window {
    /// When all that is in a slice is older than the window.
    fn leaves(&self, slice: Slice, limit: &Limit) -> u64 {
        limit.leaves(self.base + u64::from(slice.index))
    }

    /// From when on nothing is used.
    fn empty_from(&self, limit: &Limit) -> u64 {
        let last = self.slices.iter().rev().find(|slice| slice.taken > 0);
        last.map_or(0, |last| self.leaves(*last, limit))
    }

    /// Forgets what has left the window.
    fn expire(&mut self, now: u64, limit: &Limit) {
        while let Some(first) = self.slices.front() {
            if self.leaves(*first, limit) > now {
                break;
            }
            let taken = u64::from(first.taken);
            self.slices.pop_front();
            self.total -= taken;
            if self.live_from == 0 {
                self.live -= taken;
            } else {
                self.live_from -= 1;
            }
        }
    }

    /// Takes out of `live` what has left the window at `time`, which is not before the last slot.
    fn advance(&mut self, time: u64, limit: &Limit) {
        while let Some(first) = self.slices.get(self.live_from as usize) {
            if self.leaves(*first, limit) > time {
                break;
            }
            self.live -= u64::from(first.taken);
            self.live_from += 1;
        }
    }

    /// The first time from `time` on at which there is room for `cost`.
    fn earliest(&self, time: u64, cost: u32, limit: &Limit) -> u64 {
        let room = u64::from(limit.limit - cost);
        let (mut earliest, mut live) = (time, self.live);
        let mut index = self.live_from as usize;
        while live > room {
            let Some(slice) = self.slices.get(index) else {
                break;
            };
            live -= u64::from(slice.taken);
            earliest = earliest.max(self.leaves(*slice, limit));
            index += 1;
        }
        earliest
    }

    fn take(&mut self, time: u64, cost: u32, limit: &Limit) {
        self.advance(time, limit);
        if cost == 0 {
            return;
        }
        let index = self.relative(time / limit.slice());
        match self.slices.back_mut() {
            Some(last) if last.index >= index => {
                let added = cost.min(u32::MAX - last.taken);
                last.taken += added;
                self.add(added.into(), true);
            }
            _ => {
                if self.slices.len() == self.slices.capacity() {
                    // Most keys of many have few slices in use.
                    let more = (self.slices.len() / 3).max(1);
                    self.slices.reserve_exact(more);
                }
                self.slices.push_back(Slice { index, taken: cost });
                self.add(cost.into(), true);
            }
        }
    }

    /// Adds to the sums.
    fn add(&mut self, change: i64, is_live: bool) {
        self.total = self.total.saturating_add_signed(change);
        if is_live {
            self.live = self.live.saturating_add_signed(change);
        }
    }

    /// The number of a slice from the base.
    fn relative(&mut self, slice: u64) -> u32 {
        if self.slices.is_empty() {
            self.base = slice;
        }
        if let Ok(index) = u32::try_from(slice.saturating_sub(self.base)) {
            return index;
        }
        // Hours later, and never empty in between.
        let first = self.slices.front().map_or(0, |first| first.index);
        for slice in &mut self.slices {
            slice.index -= first;
        }
        self.base += u64::from(first);
        u32::try_from(slice - self.base).unwrap_or(u32::MAX)
    }

    /// Adds to what was taken at `slot`, or takes it off.
    fn settle(&mut self, slot: u64, change: i64, limit: &Limit) {
        let slice = slot / limit.slice();
        if self.slices.is_empty() {
            self.base = slice;
        }
        let Some(index) = slice.checked_sub(self.base) else {
            return;
        };
        let place = self
            .slices
            .binary_search_by_key(&index, |slice| u64::from(slice.index));
        match place {
            Ok(place) => {
                let slice = &mut self.slices[place];
                let before = i64::from(slice.taken);
                let taken = (before + change).clamp(0, i64::from(u32::MAX));
                slice.taken = taken as u32;
                self.add(taken - before, place >= self.live_from as usize);
            }
            Err(place) if change > 0 => {
                let (Ok(index), Ok(taken)) = (u32::try_from(index), u32::try_from(change)) else {
                    return;
                };
                self.slices.insert(place, Slice { index, taken });
                let is_live = place >= self.live_from as usize;
                self.live_from += u32::from(!is_live);
                self.add(change, is_live);
            }
            Err(_) => {}
        }
    }
}

/// The limits of one key.
#[derive(Debug)]
pub struct Limiter {
    lanes: Box<[Lane]>,
    /// The last slot that was given out.
    last: u64,
    /// The time from which on nothing is used.
    idle_from: u64,
    taken: u64,
    rejected: u64,
    epoch: u32,
}

/// Why nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is room in so many nanoseconds.
    Limited(u64),
    /// There is never room for so much.
    ExceedsLimit,
}

/// The figures of one limit. `reset` is in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the public function")]
pub struct Figures {
    pub limit: Limit,
    pub used: u64,
    pub available: u64,
    pub reset: u64,
}

impl Keyable for Limiter {
    fn idle_from(&self) -> Option<u64> {
        Some(self.idle_from)
    }

    fn heap(&self) -> usize {
        let of_lane = |lane: &Lane| match lane {
            Lane::Window(window) => window.slices.capacity() * size_of::<Slice>(),
            Lane::Bucket(_) => 0,
        };
        size_of_val(&*self.lanes) + self.lanes.iter().map(of_lane).sum::<usize>()
    }
}

impl Limiter {
    /// Nothing is used.
    pub fn new(settings: &Settings) -> Self {
        let lane = |_: &Limit| match settings.algorithm {
            Algorithm::SlidingWindow => Lane::Window(Window::default()),
            Algorithm::TokenBucket => Lane::Bucket(Scaled::default()),
        };
        Limiter {
            lanes: settings.limits.iter().map(lane).collect(),
            last: 0,
            idle_from: 0,
            taken: 0,
            rejected: 0,
            epoch: settings.epoch,
        }
    }

    /// How often something was taken, and how often refused.
    pub fn totals(&self) -> (u64, u64) {
        (self.taken, self.rejected)
    }

    /// Takes `costs`, one for each limit, all or none: the slot, which is `now` or up to `wait`
    /// nanoseconds later.
    ///
    /// # Errors
    ///
    /// See [`Refusal`]; nothing is taken then.
    pub fn take(
        &mut self,
        settings: &Settings,
        costs: &[u64],
        wait: u64,
        now: u64,
    ) -> Result<u64, Refusal> {
        let slot = self.slot(settings, costs, wait, now);
        match slot {
            Ok(slot) => self.book(settings, costs, slot),
            Err(_) => self.rejected += 1,
        }
        slot
    }

    fn slot(
        &mut self,
        settings: &Settings,
        costs: &[u64],
        wait: u64,
        now: u64,
    ) -> Result<u64, Refusal> {
        let exceeds = |(cost, limit): (&u64, &Limit)| *cost > u64::from(limit.limit);
        if costs.iter().zip(&settings.limits).any(exceeds) {
            return Err(Refusal::ExceedsLimit);
        }
        let mut slot = now.max(self.last);
        for ((lane, limit), cost) in self.lanes.iter_mut().zip(&settings.limits).zip(costs) {
            let cost = *cost as u32;
            match lane {
                Lane::Window(window) => {
                    window.expire(now, limit);
                    window.advance(slot.min(now.max(self.last)), limit);
                    if cost > 0 {
                        slot = window.earliest(slot, cost, limit);
                    }
                }
                Lane::Bucket(full) => {
                    let after = full.get().max(limit.scaled(slot)) + limit.refill(cost);
                    let full_bucket = limit.scaled(limit.per);
                    if cost > 0 {
                        slot = slot.max(limit.unscaled(after.saturating_sub(full_bucket)));
                    }
                }
            }
        }
        let later = slot - now;
        if later > wait {
            return Err(Refusal::Limited(later));
        }
        Ok(slot)
    }

    fn book(&mut self, settings: &Settings, costs: &[u64], slot: u64) {
        self.last = self.last.max(slot);
        self.taken += 1;
        for ((lane, limit), cost) in self.lanes.iter_mut().zip(&settings.limits).zip(costs) {
            let cost = *cost as u32;
            match lane {
                Lane::Window(window) => window.take(slot, cost, limit),
                Lane::Bucket(full) => {
                    let after = full.get().max(limit.scaled(slot)) + limit.refill(cost);
                    *full = Scaled::new(after);
                }
            }
        }
        self.note_use(settings);
    }

    /// Corrects what was taken at `slot` from `reserved` to `actual`.
    pub fn settle(
        &mut self,
        settings: &Settings,
        slot: u64,
        (reserved, actual): (&[u64], &[u64]),
        now: u64,
    ) {
        let costs = reserved.iter().zip(actual);
        for ((lane, limit), (reserved, actual)) in
            self.lanes.iter_mut().zip(&settings.limits).zip(costs)
        {
            let bounded = |cost: u64| cost.min(u64::from(u32::MAX)) as i64;
            let change = bounded(*actual) - bounded(*reserved);
            match lane {
                Lane::Window(window) => {
                    window.expire(now, limit);
                    if limit.leaves(slot / limit.slice()) > now {
                        window.settle(slot, change, limit);
                    }
                }
                Lane::Bucket(full) if slot.saturating_add(limit.per) > now => {
                    let time = limit.refill(change.unsigned_abs() as u32);
                    *full = Scaled::new(if change < 0 {
                        full.get().saturating_sub(time)
                    } else {
                        full.get().max(limit.scaled(now)) + time
                    });
                }
                Lane::Bucket(_) => {}
            }
        }
        self.note_use(settings);
    }

    /// The figures of each limit.
    pub fn figures(&mut self, settings: &Settings, now: u64) -> Vec<Figures> {
        let lanes = self.lanes.iter_mut().zip(&settings.limits);
        lanes
            .map(|(lane, limit)| {
                let (used, reset) = match lane {
                    Lane::Window(window) => {
                        window.expire(now, limit);
                        (window.total, window.empty_from(limit))
                    }
                    Lane::Bucket(full) => {
                        let missing = full.get().saturating_sub(limit.scaled(now));
                        let used = missing.div_ceil(limit.per.into());
                        let used = u64::try_from(used).unwrap_or(u64::MAX);
                        (used, limit.unscaled(full.get()))
                    }
                };
                Figures {
                    limit: *limit,
                    used,
                    available: u64::from(limit.limit).saturating_sub(used),
                    reset: reset.saturating_sub(now),
                }
            })
            .collect()
    }

    /// Adapts the lanes to the settings. Unchanged limits keep their use.
    pub fn fit(&mut self, settings: &Settings) {
        if self.epoch == settings.epoch {
            return;
        }
        let mut fresh = Limiter::new(settings);
        let old = settings
            .previous
            .as_deref()
            .filter(|old| old.epoch == self.epoch && old.algorithm == settings.algorithm);
        if let Some(old) = old {
            let kept = old.limits.iter().zip(std::mem::take(&mut self.lanes));
            let lanes = fresh.lanes.iter_mut().zip(&settings.limits);
            for ((new, limit), (before, lane)) in lanes.zip(kept) {
                match lane {
                    Lane::Window(_) if limit.per == before.per => *new = lane,
                    Lane::Bucket(full) => {
                        let full = limit.scaled(before.unscaled(full.get()));
                        *new = Lane::Bucket(Scaled::new(full));
                    }
                    Lane::Window(_) => {}
                }
            }
        }
        self.lanes = fresh.lanes;
        self.epoch = settings.epoch;
        self.note_use(settings);
    }

    fn note_use(&mut self, settings: &Settings) {
        let used_until = |(lane, limit): (&Lane, &Limit)| match lane {
            Lane::Window(window) => window.empty_from(limit),
            Lane::Bucket(full) => limit.unscaled(full.get()),
        };
        let lanes = self.lanes.iter().zip(&settings.limits);
        self.idle_from = lanes.map(used_until).max().unwrap_or(0);
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
