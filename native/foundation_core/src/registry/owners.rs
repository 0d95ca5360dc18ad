//! The owners of a registry's entries, and what each of them holds.

use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use crate::handle::{Dead, Handle};
use crate::held::{Held, HeldSet};
use crate::interleave::{Point, reach};
use crate::table::counter::Counter;

/// How many locks the map of handles has: enough that with four million owners its growth still
/// holds one of them for less than a millisecond.
const SHARDS: usize = 64;

pub(super) struct Owners<T> {
    handles: DashMap<u64, Arc<Handle<T>>, foldhash::fast::RandomState>,
    /// How many owners hold something.
    holding: Counter,
    /// The bytes of handles and what they hold.
    memory: Counter,
}

impl<T: Held> Owners<T> {
    pub(super) fn new() -> Self {
        Owners {
            handles: DashMap::with_hasher_and_shard_amount(Default::default(), SHARDS),
            holding: Counter::default(),
            memory: Counter::default(),
        }
    }

    /// What an owner's handle takes, by estimate: its place in the map included.
    const HANDLE: i64 = (size_of::<Handle<T>>() + 6 * size_of::<usize>()) as i64;

    fn find(&self, owner: u64) -> Option<Arc<Handle<T>>> {
        self.handles.get(&owner).map(|handle| handle.clone())
    }

    /// Changes what an owner holds. An owner that is new here is watched first: `watch` arranges
    /// that [`Owners::bury`] is called when it dies, and says whether it is alive.
    pub(super) fn hold<R>(
        &self,
        owner: u64,
        watch: impl FnOnce() -> bool,
        change: impl FnOnce(&mut HeldSet<T>) -> R,
    ) -> Result<R, Dead> {
        let handle = match self.find(owner) {
            Some(handle) => handle,
            None => match self.handles.entry(owner) {
                Entry::Occupied(handle) => handle.get().clone(),
                Entry::Vacant(place) => {
                    if !watch() {
                        return Err(Dead);
                    }
                    self.memory.add(owner << 26, Self::HANDLE);
                    place.insert(Arc::default()).clone()
                }
            },
        };
        reach(Point::HandleFound);
        self.change(owner, &handle, change)
    }

    /// Changes what an owner holds, if it was seen here.
    pub(super) fn with<R>(
        &self,
        owner: u64,
        change: impl FnOnce(&mut HeldSet<T>) -> R,
    ) -> Option<R> {
        let handle = self.find(owner)?;
        self.change(owner, &handle, change).ok()
    }

    fn change<R>(
        &self,
        owner: u64,
        handle: &Handle<T>,
        change: impl FnOnce(&mut HeldSet<T>) -> R,
    ) -> Result<R, Dead> {
        handle.with(|held| {
            let before = (held.is_empty(), held.size());
            let result = change(held);
            self.count(owner, before, (held.is_empty(), held.size()));
            result
        })
    }

    fn count(&self, owner: u64, before: (bool, usize), after: (bool, usize)) {
        let stripe = owner << 26;
        if before.0 != after.0 {
            self.holding.add(stripe, if after.0 { -1 } else { 1 });
        }
        if before.1 != after.1 {
            self.memory.add(stripe, after.1 as i64 - before.1 as i64);
        }
    }

    /// Declares an owner dead, and gives what it held.
    pub(super) fn bury(&self, owner: u64) -> HeldSet<T> {
        let Some((_, handle)) = self.handles.remove(&owner) else {
            return HeldSet::default();
        };
        reach(Point::HandleUnlinked);
        let held = handle.bury();
        self.count(owner, (held.is_empty(), held.size()), (true, 0));
        self.memory.add(owner << 26, -Self::HANDLE);
        held
    }

    pub(super) fn holding(&self) -> usize {
        self.holding.sum()
    }

    pub(super) fn memory(&self) -> usize {
        self.memory.sum()
    }
}
