//! The owners of a registry's entries, and what each of them holds.
//!
//! ```text
//!   one of 64 shards, chosen by the owner, under a lock each
//!     few   owner ─► nothing, or the one thing that it holds       two words an owner
//!     many  owner ─► a handle with a lock and a set of its own     where it holds more
//! ```
//!
//! Most owners of most registries hold one thing: a process registers itself. Two words are all
//! that it costs then, and the shard's lock is the one under which it registers. With its second
//! thing an owner gets a [`Handle`], so that nobody waits for what is done to a large set; with its
//! last it is back among the few. An owner that holds nothing stays until its death, so
//! that it is watched once.

use std::sync::Arc;

use crate::handle::{Dead, Handle, State};
use crate::held::{Held, HeldSet};
use crate::interleave::{Point, reach};
use crate::primitive::{Mutex, lock};
use crate::table::counter::Counter;

/// How many locks there are.
const SHARDS: usize = 64;

pub(super) struct Owners<T> {
    shards: [Mutex<Shard<T>>; SHARDS],
    /// The bytes of what is held by those with a handle.
    held: Counter,
}

/// On a cache line of its own, so that one lock is no other's neighbour.
#[repr(align(64))]
struct Shard<T> {
    few: HeldSet<Few<T>>,
    many: HeldSet<Many<T>>,
    /// How many of the few hold something.
    holding: usize,
}

struct Few<T> {
    owner: u64,
    held: Option<T>,
}

struct Many<T> {
    owner: u64,
    handle: Arc<Handle<T>>,
}

/// An owner's hash. Nobody chooses its owners to collide, as keys may be chosen: it is no secret.
fn spread(owner: u64) -> u64 {
    let product = u128::from(owner) * 0x9E37_79B9_7F4A_7C15;
    (product >> 64) as u64 ^ product as u64
}

impl<T> Held for Few<T> {
    fn hash(&self) -> u64 {
        spread(self.owner)
    }

    fn has(&self, _hash: u64) -> bool {
        true
    }
}

impl<T> Held for Many<T> {
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
            few: HeldSet::default(),
            many: HeldSet::default(),
            holding: 0,
        }
    }
}

/// What one of the few holds while it is changed, put back whatever happens.
struct Lent<'a, T: Held> {
    place: &'a mut Option<T>,
    held: HeldSet<T>,
}

impl<T: Held> Drop for Lent<'_, T> {
    fn drop(&mut self) {
        *self.place = self.held.take_one();
    }
}

/// What became of one of the few.
struct Changed<T> {
    held_before: bool,
    holds: bool,
    /// All that it holds, if that is more than one thing now.
    many: Option<HeldSet<T>>,
}

fn change_few<T: Held, R>(
    place: &mut Option<T>,
    change: impl FnOnce(&mut HeldSet<T>) -> R,
) -> (R, Changed<T>) {
    let held = place.take().map_or(HeldSet::Empty, HeldSet::One);
    let held_before = !held.is_empty();
    let mut lent = Lent { place, held };
    let result = change(&mut lent.held);
    let many = match &lent.held {
        HeldSet::Many(_) => Some(std::mem::take(&mut lent.held)),
        HeldSet::Empty | HeldSet::One(_) => None,
    };
    let changed = Changed {
        held_before,
        holds: !lent.held.is_empty(),
        many,
    };
    (result, changed)
}

impl<T: Held> Shard<T> {
    fn handle(&mut self, owner: u64) -> Option<Arc<Handle<T>>> {
        let many = self
            .many
            .get_mut(spread(owner), |many| many.owner == owner)?;
        Some(many.handle.clone())
    }

    /// The memory of what is in it, but for what handles hold.
    fn memory(&self) -> usize {
        let handle = size_of::<Handle<T>>() + 2 * size_of::<usize>();
        self.few.size() + self.many.size() + self.many.len() * handle
    }
}

impl<T: Held> Owners<T> {
    pub(super) fn new() -> Self {
        Owners {
            shards: std::array::from_fn(|_| Mutex::default()),
            held: Counter::default(),
        }
    }

    fn shard(&self, owner: u64) -> &Mutex<Shard<T>> {
        &self.shards[(spread(owner) >> 58) as usize % SHARDS]
    }

    /// Changes what an owner holds. An owner that is new here is watched first: `watch` arranges
    /// that [`Owners::bury`] is called when it dies, and says whether it is alive.
    pub(super) fn hold<R>(
        &self,
        owner: u64,
        watch: impl FnOnce() -> bool,
        change: impl FnOnce(&mut HeldSet<T>) -> R,
    ) -> Result<R, Dead> {
        loop {
            let mut shard = lock(self.shard(owner));
            let Some(handle) = shard.handle(owner) else {
                return self.change_few(&mut shard, owner, watch, change);
            };
            drop(shard);
            reach(Point::HandleFound);
            let mut state = lock(&handle.state);
            match &mut *state {
                State::Live(held) => {
                    let before = held.size();
                    let result = change(held);
                    self.count(owner, before, held.size());
                    if held.is_empty() && self.back_to_few(owner, &handle) {
                        *state = State::Left;
                    }
                    return Ok(result);
                }
                State::Left => {}
                State::Dead => return Err(Dead),
            }
        }
    }

    /// Changes what an owner holds, if it was seen here.
    pub(super) fn with<R>(
        &self,
        owner: u64,
        change: impl FnOnce(&mut HeldSet<T>) -> R,
    ) -> Option<R> {
        self.hold(owner, || false, change).ok()
    }

    fn change_few<R>(
        &self,
        shard: &mut Shard<T>,
        owner: u64,
        watch: impl FnOnce() -> bool,
        change: impl FnOnce(&mut HeldSet<T>) -> R,
    ) -> Result<R, Dead> {
        let hash = spread(owner);
        let is = |few: &Few<T>| few.owner == owner;
        let (result, changed) = match shard.few.get_mut(hash, is) {
            Some(few) => change_few(&mut few.held, change),
            None => {
                if !watch() {
                    return Err(Dead);
                }
                let few = shard.few.insert(Few { owner, held: None });
                change_few(&mut few.held, change)
            }
        };
        shard.holding -= usize::from(changed.held_before);
        shard.holding += usize::from(changed.holds);
        if let Some(held) = changed.many {
            self.count(owner, 0, held.size());
            let handle = Arc::new(Handle::new(held));
            shard.few.remove(hash, is);
            shard.many.insert(Many { owner, handle });
        }
        Ok(result)
    }

    /// An owner with a handle holds nothing any more. `false` if it is being buried.
    fn back_to_few(&self, owner: u64, handle: &Arc<Handle<T>>) -> bool {
        let mut shard = lock(self.shard(owner));
        let is = |many: &Many<T>| Arc::ptr_eq(&many.handle, handle);
        let there = shard.many.remove(spread(owner), is).is_some();
        if there {
            shard.few.insert(Few { owner, held: None });
        }
        there
    }

    fn count(&self, owner: u64, before: usize, after: usize) {
        if before != after {
            let stripe = owner << 26;
            self.held.add(stripe, after as i64 - before as i64);
        }
    }

    /// Declares an owner dead, and gives what it held.
    pub(super) fn bury(&self, owner: u64) -> HeldSet<T> {
        let hash = spread(owner);
        let mut shard = lock(self.shard(owner));
        if let Some(few) = shard.few.remove(hash, |few| few.owner == owner) {
            shard.holding -= usize::from(few.held.is_some());
            return few.held.map_or(HeldSet::Empty, HeldSet::One);
        }
        let Some(many) = shard.many.remove(hash, |many| many.owner == owner) else {
            return HeldSet::default();
        };
        drop(shard);
        reach(Point::HandleUnlinked);
        let held = many.handle.bury();
        self.count(owner, held.size(), 0);
        held
    }

    /// How many owners hold something.
    pub(super) fn holding(&self) -> usize {
        self.sum(|shard| shard.holding + shard.many.len())
    }

    pub(super) fn memory(&self) -> usize {
        self.sum(Shard::memory) + self.held.sum()
    }

    fn sum(&self, of: impl Fn(&Shard<T>) -> usize) -> usize {
        self.shards.iter().map(|shard| of(&lock(shard))).sum()
    }
}
