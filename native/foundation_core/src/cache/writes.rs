//! The writes of a cache: what is stored, removed and evicted.

use super::*;

/// What a load gave.
#[derive(Debug)]
pub enum Outcome<V> {
    /// A value, for how many milliseconds it is fresh, and for how many it is served after that.
    /// `None` has no end.
    Value(Value<V>, Option<u64>, Option<u64>),
    /// An error, and for how many milliseconds it is kept.
    Error(Value<V>, Option<u64>),
    /// Nothing.
    Failed,
}

/// What became of a load that was finished.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Finished {
    /// Whether its value is in the cache.
    pub stored: bool,
    /// The processes that waited for it.
    pub told: Vec<Told>,
}

/// So many entries are to be evicted that the call is to be made again with the time for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakesLong;

/// Why nothing was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotStored {
    /// See [`TakesLong`]; nothing else has changed.
    TakesLong,
    /// There was no memory for it. The key has no entry now.
    OutOfMemory,
}

/// The work under one lock: entries that the hand passes, with the weight of an eviction. About a
/// hundred microseconds.
const WORK: usize = 3_000;
const EVICTION: usize = 10;
/// How many entries' times are checked whenever one is stored.
const CHECKED: usize = 2;

/// An entry to store.
struct New<V> {
    value: Value<V>,
    is_error: bool,
    end: Millis,
    until: Millis,
    took: u32,
}

impl<F: Opaque, V: Object> State<F, V> {
    /// Removes an entry, for whatever reason.
    pub(super) fn remove(
        &mut self,
        store: &Store<F, V>,
        hash: u64,
        place: u32,
        guard: &Guard,
    ) -> Node {
        let is_it = |entry: &Entry<'_, V>| Word(entry.owner).place() == place;
        let removed = store.table.remove_by_hash(hash, is_it, guard);
        debug_assert!(removed, "the queue and the table agree");
        let node = self.queue.remove(place);
        store.marks.take(place);
        self.entries -= 1;
        self.bytes -= node.bytes();
        node
    }

    fn remove_at(&mut self, store: &Store<F, V>, place: u32, now: Millis, guard: &Guard) {
        let hash = self.queue.node(place).hash;
        let node = self.remove(store, hash, place, guard);
        if node.until <= now {
            self.expired += 1;
        } else {
            self.evicted += 1;
        }
    }

    fn is_over(&self, entries: usize, bytes: usize) -> bool {
        (self.bytes + bytes) as u64 > self.limits.bytes
            || (self.entries + entries) as u64 > self.limits.entries
    }

    /// Evicts until there is room for some entries of so many bytes. Returns whether there is; if
    /// not, it has done a share of the work.
    fn make_room(
        &mut self,
        store: &Store<F, V>,
        entries: usize,
        bytes: usize,
        now: Millis,
        guard: &Guard,
    ) -> bool {
        let mut work = 0;
        while self.is_over(entries, bytes) {
            if work > WORK {
                return false;
            }
            let Some(place) = self.queue.victim(&store.marks, now, &mut work) else {
                return true;
            };
            self.remove_at(store, place, now, guard);
            work += EVICTION;
        }
        true
    }
}

impl<F: Opaque, V: Object> Cache<F, V> {
    pub(super) fn seed_hash(&self, key: &Key<'_, F::Probe>) -> u64 {
        let guard = pin();
        self.store(&guard).table.hash(key)
    }

    /// Stores a value, and ends the lease of a load of its key. It is fresh for `ttl` milliseconds
    /// and served for `stale` after that; `None` has no end.
    ///
    /// With `patient` it evicts as many entries as it takes.
    ///
    /// # Errors
    ///
    /// See [`NotStored`].
    pub fn put(
        &self,
        key: &Key<'_, F::Probe>,
        value: Value<V>,
        (ttl, stale): (Option<u64>, Option<u64>),
        clock: impl Clock + Copy,
        patient: bool,
        guard: &Guard,
    ) -> Result<(), NotStored> {
        let size = self.size_of(key, &value);
        let mut state = self.with_room(key, size, clock, patient, guard)?;
        let hash = self.seed_hash(key);
        state.loads.detach(key, hash, guard);
        let new = self.fresh(value, false, (ttl, stale), 0, clock.now());
        self.store_locked(&mut state, key, new, clock, guard)?;
        Ok(())
    }

    /// Removes what is under a key, and ends the lease of a load of the key.
    pub fn delete(&self, key: &Key<'_, F::Probe>, guard: &Guard) {
        let mut state = lock(&self.state);
        let hash = self.seed_hash(key);
        state.loads.detach(key, hash, guard);
        self.remove_key(&mut state, key, guard);
    }

    /// Removes everything and ends all leases. With `as_expired` the entries count as expired.
    ///
    /// # Errors
    ///
    /// When there is no memory for an empty store. Then nothing has changed.
    pub fn clear(&self, as_expired: bool) -> Result<Cleared<F, V>, OutOfMemory> {
        let new = Arc::new(self.new_store()?);
        let mut state = lock(&self.state);
        state.loads.detach_all();
        if as_expired {
            state.expired += state.entries as u64;
        }
        (state.entries, state.bytes) = (0, 0);
        let queue = std::mem::replace(&mut state.queue, Queue::new());
        let old = self.store.change(STORE, |old| (Some(new), old.cloned()));
        match old {
            Some(store) => Ok(Cleared {
                store,
                _queue: queue,
            }),
            None => unreachable!("a cache always has a store"),
        }
    }

    /// Evicts some of the entries that are over the limits, and returns whether more are.
    pub fn trim(&self, clock: impl Clock) -> bool {
        let guard = pin();
        let mut state = lock(&self.state);
        let now = self.millis(clock.now());
        !state.make_room(self.store(&guard), 0, 0, now, &guard)
    }

    /// Ends a load: stores what it gave, unless its lease has ended. Returns `None` if the caller
    /// has no such lease.
    ///
    /// # Errors
    ///
    /// See [`TakesLong`]; nothing else has changed.
    #[expect(clippy::too_many_arguments, reason = "a lease, and what the load gave")]
    pub fn finish(
        &self,
        owner: u64,
        lease: u64,
        key: &Key<'_, F::Probe>,
        outcome: Outcome<V>,
        clock: impl Clock + Copy,
        patient: bool,
        guard: &Guard,
    ) -> Result<Option<Finished>, TakesLong> {
        let size = match &outcome {
            Outcome::Value(value, ..) | Outcome::Error(value, _) => self.size_of(key, value),
            Outcome::Failed => 0,
        };
        let mut outcome = Some(outcome);
        loop {
            // The room is made before the lease is given up, since the call may be made again.
            if size > 0 {
                match self.with_room(key, size, clock, patient, guard) {
                    Ok(state) => drop(state),
                    Err(NotStored::TakesLong) => return Err(TakesLong),
                    Err(NotStored::OutOfMemory) => {}
                }
            }
            let finished = self.owners.with(owner, |held| {
                let hold = *held.get_mut(spread(lease), |hold| hold.id == lease)?;
                let mut state = lock(&self.state);
                // A lease is held by its loader alone; a wait has an id too.
                state.loads.is_loader(hold).then_some(())?;
                // Another writer may have used the room.
                if size > 0 && self.is_room_needed(&state, key, size, guard) {
                    return Some(Err(TakesLong));
                }
                held.remove(spread(lease), |hold| hold.id == lease)?;
                let outcome = outcome.take()?;
                self.finish_locked(&mut state, hold, key, outcome, clock, guard)
                    .map(Ok)
            });
            match finished.flatten() {
                Some(Err(TakesLong)) if patient => {}
                Some(finished) => return finished.map(Some),
                None => return Ok(None),
            }
        }
    }

    /// Ends a load whose lease the caller has had.
    fn finish_locked(
        &self,
        state: &mut State<F, V>,
        hold: Hold,
        key: &Key<'_, F::Probe>,
        outcome: Outcome<V>,
        clock: impl Clock + Copy,
        guard: &Guard,
    ) -> Option<Finished> {
        let mut finished = Finished::default();
        let ended = state.loads.end(hold, &mut finished.told)?;
        state.loaded += 1;
        state.load_errors += u64::from(!matches!(outcome, Outcome::Value(..)));
        if !ended.attached {
            return Some(finished);
        }
        let now = clock.now();
        let took = (now.saturating_sub(ended.started) / 1_000).min(u64::from(u32::MAX)) as u32;
        let new = match outcome {
            Outcome::Value(value, ttl, stale) => self.fresh(value, false, (ttl, stale), took, now),
            Outcome::Error(value, ttl) => {
                // A value that can still be served is better than an error.
                if matches!(
                    self.peek(state, key, clock, guard),
                    Some(word) if !word.is_error()
                ) {
                    return Some(finished);
                }
                self.fresh(value, true, (ttl, Some(0)), took, now)
            }
            Outcome::Failed => return Some(finished),
        };
        if !new.is_error {
            self.longest.fetch_max(u64::from(took), Ordering::Relaxed);
        }
        let stored = self.store_locked(state, key, new, clock, guard);
        finished.stored = stored == Ok(true);
        Some(finished)
    }

    /// Returns the word of an entry that can be served.
    fn peek(
        &self,
        state: &State<F, V>,
        key: &Key<'_, F::Probe>,
        clock: impl Clock,
        guard: &Guard,
    ) -> Option<Word> {
        let table = &self.store(guard).table;
        let word = Word(table.get(key, table.hash(key), guard)?.owner);
        let until = state.queue.node(word.place()).until;
        (self.millis(clock.now()) < until).then_some(word)
    }

    fn fresh(
        &self,
        value: Value<V>,
        is_error: bool,
        (ttl, stale): (Option<u64>, Option<u64>),
        took: u32,
        now: u64,
    ) -> New<V> {
        let until = ttl.and_then(|ttl| Some(ttl.saturating_add(stale?)));
        let is_kept = until != Some(0);
        New {
            value,
            is_error,
            end: self.after(now, ttl),
            until: if is_kept {
                self.after(now, until)
            } else {
                Millis(0)
            },
            took,
        }
    }

    /// Returns the bytes of an entry, without an opaque key.
    fn size_of(&self, key: &Key<'_, F::Probe>, value: &Value<V>) -> usize {
        let key = match key {
            Key::Inline(..) | Key::Opaque(..) => 0,
            Key::Long(_, bytes) => Blob::size_of(bytes),
        };
        OVERHEAD + key + value.size()
    }

    /// Returns how many entries and bytes an entry of this size adds under a key. An entry that it
    /// replaces gives its own room back.
    fn room_for(
        &self,
        state: &State<F, V>,
        key: &Key<'_, F::Probe>,
        size: usize,
        guard: &Guard,
    ) -> (usize, usize) {
        let table = &self.store(guard).table;
        match table.get(key, table.hash(key), guard) {
            Some(old) => {
                let old = state.queue.node(Word(old.owner).place()).bytes();
                (0, size.saturating_sub(old))
            }
            None => (1, size),
        }
    }

    /// Returns whether an entry of this size under a key would be over the limits.
    fn is_room_needed(
        &self,
        state: &State<F, V>,
        key: &Key<'_, F::Probe>,
        size: usize,
        guard: &Guard,
    ) -> bool {
        let (entries, bytes) = self.room_for(state, key, size, guard);
        size as u64 <= state.limits.bytes && state.is_over(entries, bytes)
    }

    /// Makes room for an entry of this size under a key, and locks the state.
    fn with_room(
        &self,
        key: &Key<'_, F::Probe>,
        size: usize,
        clock: impl Clock,
        patient: bool,
        guard: &Guard,
    ) -> Result<crate::primitive::MutexGuard<'_, State<F, V>>, NotStored> {
        loop {
            let mut state = lock(&self.state);
            if size as u64 > state.limits.bytes {
                return Ok(state);
            }
            let (store, now) = (self.store(guard), self.millis(clock.now()));
            let (entries, bytes) = self.room_for(&state, key, size, guard);
            if state.make_room(store, entries, bytes, now, guard) {
                // The entry to replace may have been evicted, and the room it gave used.
                if !self.is_room_needed(&state, key, size, guard) {
                    return Ok(state);
                }
                continue;
            }
            drop(state);
            if !patient {
                return Err(NotStored::TakesLong);
            }
        }
    }

    fn remove_key(&self, state: &mut State<F, V>, key: &Key<'_, F::Probe>, guard: &Guard) {
        let store = self.store(guard);
        let hash = store.table.hash(key);
        if let Some(entry) = store.table.get(key, hash, guard) {
            state.remove(store, hash, Word(entry.owner).place(), guard);
        }
    }

    /// Stores an entry, for which there is room. Returns whether it is in the cache.
    fn store_locked(
        &self,
        state: &mut State<F, V>,
        key: &Key<'_, F::Probe>,
        new: New<V>,
        clock: impl Clock,
        guard: &Guard,
    ) -> Result<bool, NotStored> {
        let now = self.millis(clock.now());
        let store = self.store(guard);
        let hash = store.table.hash(key);
        for _ in 0..CHECKED {
            if let Some(place) = state.queue.overdue(now) {
                state.remove_at(store, place, now, guard);
            }
        }
        let size = self.size_of(key, &new.value);
        if new.until == Millis(0) || size as u64 > state.limits.bytes {
            state.rejected += u64::from(new.until != Millis(0));
            self.remove_key(state, key, guard);
            return Ok(false);
        }
        let stored = self.insert(state, store, hash, key, new, size, guard);
        if stored.is_err() {
            self.remove_key(state, key, guard);
            return Err(NotStored::OutOfMemory);
        }
        // Only an opaque key, whose size was not known before, can be too much.
        while state.is_over(0, 0)
            && let Some(place) = state.queue.victim(&store.marks, now, &mut 0)
        {
            state.remove_at(store, place, now, guard);
        }
        Ok(true)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "a key, an entry, and where it goes"
    )]
    fn insert(
        &self,
        state: &mut State<F, V>,
        store: &Store<F, V>,
        hash: u64,
        key: &Key<'_, F::Probe>,
        new: New<V>,
        size: usize,
        guard: &Guard,
    ) -> Result<(), OutOfMemory> {
        let New {
            value,
            is_error,
            end,
            until,
            took,
        } = new;
        let old = store.table.get(key, hash, guard);
        let place = match old {
            Some(old) => Word(old.owner).place(),
            None => {
                let place = state.queue.reserve()?;
                store.marks.reserve(place)?;
                place
            }
        };
        let word = Word::new(place, is_error, end).0;
        store
            .table
            .insert(key, hash, word, || value, |_| true, guard)?;
        let size = match key {
            Key::Inline(..) | Key::Long(..) => size,
            Key::Opaque(..) => {
                let is_it = |entry: &Entry<'_, V>| entry.owner == word;
                let visited = store.table.get_by_hash(hash, is_it, guard);
                size + visited.map_or(0, |visited| key_size(&visited.key))
            }
        };
        let node = Node::new(hash, until, size, took);
        if old.is_some() {
            state.bytes -= state.queue.node(place).bytes();
            state.queue.replace(place, node);
            store.marks.set(place);
        } else {
            state.queue.push(place, node);
            state.entries += 1;
        }
        state.bytes += state.queue.node(place).bytes();
        Ok(())
    }
}
