//! The owners of a registry's entries, and what each of them holds.
//!
//! ```text
//!   one of 64 shards, chosen by the owner, under a lock each
//!     inline   owner ─► nothing, or the one thing that it holds       two words an owner
//!     spilled  owner ─► a handle with a lock and a set of its own     where it holds more
//! ```
//!
//! Most owners hold one thing, because a process usually registers only itself. Such an owner costs
//! two words, and registers under the shard's lock. With its second thing an owner gets a
//! [`Handle`], so that a change to a large set does not block the shard. When it holds nothing, it
//! is inline again. An owner that holds nothing stays until its death, so that it is watched only
//! once.

use crate::handle::{Handle, NotHeld, State};
use crate::held::{Held, HeldSet};
use crate::interleave::{Point, reach};
use crate::primitive::{Mutex, lock};
use crate::table::Shared;
use crate::table::counter::Counter;

/// The number of shards, each with a lock. The models have room for few.
const SHARDS: usize = if cfg!(loom) { 1 } else { 64 };

pub(crate) struct Owners<T> {
    shards: [Mutex<Shard<T>>; SHARDS],
    /// The bytes of memory of the sets behind handles.
    held: Counter,
}

/// Aligned, so that two locks never share a cache line.
#[repr(align(64))]
struct Shard<T> {
    inline: HeldSet<InlineOwner<T>>,
    spilled: HeldSet<SpilledOwner<T>>,
    /// The number of inline owners that hold something.
    holding: usize,
}

struct InlineOwner<T> {
    owner: u64,
    held: Option<T>,
}

struct SpilledOwner<T> {
    owner: u64,
    handle: Shared<Handle<T>>,
}

/// Hashes an owner. Unlike keys, owners cannot be chosen to collide, so the hash needs no secret.
fn spread(owner: u64) -> u64 {
    let product = u128::from(owner) * 0x9E37_79B9_7F4A_7C15;
    (product >> 64) as u64 ^ product as u64
}

impl<T> Held for InlineOwner<T> {
    fn hash(&self) -> u64 {
        spread(self.owner)
    }

    fn has(&self, _hash: u64) -> bool {
        true
    }
}

impl<T> Held for SpilledOwner<T> {
    fn hash(&self) -> u64 {
        spread(self.owner)
    }

    fn has(&self, _hash: u64) -> bool {
        true
    }
}

impl<T> Default for Shard<T> {
    fn default() -> Self {
        Shard {
            inline: HeldSet::default(),
            spilled: HeldSet::default(),
            holding: 0,
        }
    }
}

/// An inline owner's set, taken out for a change. Dropping it puts the set back, even after a
/// panic.
struct Borrowed<'a, T: Held> {
    place: &'a mut Option<T>,
    held: HeldSet<T>,
}

impl<T: Held> Drop for Borrowed<'_, T> {
    fn drop(&mut self) {
        *self.place = self.held.take_only();
    }
}

/// The outcome of a change to an inline owner.
struct Changed<T> {
    held_before: bool,
    holds: bool,
    /// The whole set, if the owner now holds more than one thing.
    spilled: Option<HeldSet<T>>,
}

fn change_inline<T: Held, R>(
    place: &mut Option<T>,
    change: impl FnOnce(&mut HeldSet<T>) -> R,
) -> (R, Changed<T>) {
    let held = place.take().map_or(HeldSet::Empty, HeldSet::Inline);
    let held_before = !held.is_empty();
    let mut borrowed = Borrowed { place, held };
    let result = change(&mut borrowed.held);
    let is_spilled = borrowed.held.len() > 1;
    let spilled = is_spilled.then(|| std::mem::take(&mut borrowed.held));
    let changed = Changed {
        held_before,
        holds: !borrowed.held.is_empty(),
        spilled,
    };
    (result, changed)
}

impl<T: Held> Shard<T> {
    fn handle(&mut self, owner: u64) -> Option<Shared<Handle<T>>> {
        let spilled = self
            .spilled
            .get_mut(spread(owner), |spilled| spilled.owner == owner)?;
        Some(spilled.handle.clone())
    }

    /// Returns the memory of the shard, without the sets behind handles.
    fn memory(&self) -> usize {
        let handle = size_of::<Handle<T>>() + Shared::<Handle<T>>::OVERHEAD;
        self.inline.size() + self.spilled.size() + self.spilled.len() * handle
    }
}

impl<T: Held> Owners<T> {
    pub(crate) fn new() -> Self {
        Owners {
            shards: std::array::from_fn(|_| Mutex::default()),
            held: Counter::default(),
        }
    }

    fn shard(&self, owner: u64) -> &Mutex<Shard<T>> {
        &self.shards[(spread(owner) >> 58) as usize % SHARDS]
    }

    /// Changes what an owner holds, which may be one thing more afterwards. A new owner is watched
    /// first: `watch` arranges that [`Owners::mark_dead`] is called when the owner dies, and
    /// returns whether it is alive.
    pub(crate) fn hold<R>(
        &self,
        owner: u64,
        watch: impl FnOnce() -> bool,
        change: impl FnOnce(&mut HeldSet<T>) -> R,
    ) -> Result<R, NotHeld> {
        self.change(owner, Some(watch), change)
    }

    /// Changes what an owner holds, if the owner is known. It holds no more afterwards.
    pub(crate) fn with<R>(
        &self,
        owner: u64,
        change: impl FnOnce(&mut HeldSet<T>) -> R,
    ) -> Option<R> {
        self.change(owner, None::<fn() -> bool>, change).ok()
    }

    fn change<R>(
        &self,
        owner: u64,
        watch: Option<impl FnOnce() -> bool>,
        change: impl FnOnce(&mut HeldSet<T>) -> R,
    ) -> Result<R, NotHeld> {
        loop {
            let mut shard = lock(self.shard(owner));
            let Some(handle) = shard.handle(owner) else {
                return self.change_inline(&mut shard, owner, watch, change);
            };
            drop(shard);
            reach(Point::HandleFound);
            let mut state = lock(&handle.state);
            match &mut *state {
                State::Live(held) => {
                    let before = held.size();
                    let result = change(held);
                    self.count(owner, before, held.size());
                    if held.is_empty() && self.back_to_inline(owner, &handle) {
                        *state = State::Left;
                    }
                    return Ok(result);
                }
                State::Left => {}
                State::Dead => return Err(NotHeld::Dead),
            }
        }
    }

    fn change_inline<R>(
        &self,
        shard: &mut Shard<T>,
        owner: u64,
        watch: Option<impl FnOnce() -> bool>,
        change: impl FnOnce(&mut HeldSet<T>) -> R,
    ) -> Result<R, NotHeld> {
        let hash = spread(owner);
        let is = |inline: &InlineOwner<T>| inline.owner == owner;
        let mut second = None;
        let (result, changed) = match shard.inline.get_mut(hash, is) {
            Some(inline) => {
                // All memory must be there before anything changes.
                if watch.is_some() && inline.held.is_some() {
                    second = Some(Shared::new(Handle::new(HeldSet::Empty))?);
                    shard.spilled.reserve(hash)?;
                }
                change_inline(&mut inline.held, change)
            }
            None => {
                let watch = watch.ok_or(NotHeld::Dead)?;
                shard.inline.reserve(hash)?;
                if !watch() {
                    return Err(NotHeld::Dead);
                }
                let inline = shard.inline.insert(InlineOwner { owner, held: None });
                change_inline(&mut inline.held, change)
            }
        };
        shard.holding -= usize::from(changed.held_before);
        shard.holding += usize::from(changed.holds);
        if let (Some(held), Some(handle)) = (changed.spilled, second) {
            self.count(owner, 0, held.size());
            *lock(&handle.state) = State::Live(held);
            shard.inline.remove(hash, is);
            shard.spilled.insert(SpilledOwner { owner, handle });
        }
        Ok(result)
    }

    /// Makes an owner whose handle holds nothing inline again. Returns `false` if a concurrent
    /// [`Owners::mark_dead`] has already removed the handle, or there is no memory for it.
    fn back_to_inline(&self, owner: u64, handle: &Shared<Handle<T>>) -> bool {
        let mut shard = lock(self.shard(owner));
        if shard.inline.reserve(spread(owner)).is_err() {
            return false;
        }
        let is = |spilled: &SpilledOwner<T>| spilled.handle.is_same(handle);
        let there = shard.spilled.remove(spread(owner), is).is_some();
        if there {
            shard.inline.insert(InlineOwner { owner, held: None });
        }
        there
    }

    fn count(&self, owner: u64, before: usize, after: usize) {
        if before != after {
            self.held.add(spread(owner), after as i64 - before as i64);
        }
    }

    /// Marks an owner dead, and returns what it held.
    pub(crate) fn mark_dead(&self, owner: u64) -> HeldSet<T> {
        let hash = spread(owner);
        let mut shard = lock(self.shard(owner));
        if let Some(inline) = shard.inline.remove(hash, |inline| inline.owner == owner) {
            shard.holding -= usize::from(inline.held.is_some());
            return inline.held.map_or(HeldSet::Empty, HeldSet::Inline);
        }
        let Some(spilled) = shard.spilled.remove(hash, |spilled| spilled.owner == owner) else {
            return HeldSet::default();
        };
        drop(shard);
        reach(Point::HandleUnlinked);
        let held = spilled.handle.mark_dead();
        self.count(owner, held.size(), 0);
        held
    }

    /// Returns the number of owners that hold something.
    pub(crate) fn holding(&self) -> usize {
        self.sum(|shard| shard.holding + shard.spilled.len())
    }

    pub(crate) fn memory(&self) -> usize {
        self.sum(Shard::memory) + self.held.sum()
    }

    fn sum(&self, of: impl Fn(&Shard<T>) -> usize) -> usize {
        self.shards.iter().map(|shard| of(&lock(shard))).sum()
    }
}
