//! The reads of a cache, and the beginning of a load.

use super::loads::Joined;
use super::*;

/// What a read finds.
#[derive(Debug)]
pub enum Found<'g, V> {
    /// A fresh value.
    Fresh(ValueView<'g, V>),
    /// A value in its stale time.
    Stale(ValueView<'g, V>),
    /// The error of a load.
    Error(ValueView<'g, V>),
    /// Nothing.
    Nothing,
}

/// What becomes of a caller that loads where there is nothing.
#[derive(Debug)]
pub enum Begun<'g, V> {
    /// It gets what is there.
    Found(Found<'g, V>),
    /// It runs the load, with this lease.
    Load(u64),
    /// It waits for the load of another process, under this id.
    Wait(u64),
    /// It runs a load of the key already.
    Recursion,
    /// The cache is gone.
    Ended,
}

/// Why a caller neither loads nor waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Its process is exiting.
    Dead,
    /// There was no memory.
    OutOfMemory,
}

impl From<NotHeld> for Refused {
    fn from(reason: NotHeld) -> Self {
        match reason {
            NotHeld::Dead => Refused::Dead,
            NotHeld::OutOfMemory => Refused::OutOfMemory,
        }
    }
}

impl From<OutOfMemory> for Refused {
    fn from(_: OutOfMemory) -> Self {
        Refused::OutOfMemory
    }
}

/// An entry and the store that it is in.
struct Probe<'g, F: Opaque, V: Object> {
    store: &'g Store<F, V>,
    hash: u64,
    entry: Option<Entry<'g, V>>,
}

fn shown<'g, V>(entry: &Entry<'g, V>) -> Found<'g, V> {
    if Word(entry.owner).is_error() {
        Found::Error(entry.value)
    } else {
        Found::Fresh(entry.value)
    }
}

impl<F: Opaque, V: Object> Cache<F, V> {
    #[inline(always)]
    fn probe<'g>(&self, key: &Key<'_, F::Probe>, guard: &'g Guard) -> Probe<'g, F, V> {
        let store = self.store(guard);
        let hash = store.table.hash(key);
        Probe {
            store,
            hash,
            entry: store.table.get(key, hash, guard),
        }
    }

    #[inline(always)]
    fn is_fresh(&self, word: Word, clock: impl Clock) -> bool {
        let end = word.end();
        end == Millis::NEVER || clock.before(self.nanoseconds(end)).is_ok()
    }

    /// Returns what there is for a key, and marks it as used. [`Cache::count`] counts the read.
    #[inline(always)]
    pub fn get<'g>(
        &self,
        key: &Key<'_, F::Probe>,
        clock: impl Clock + Copy,
        guard: &'g Guard,
    ) -> Found<'g, V> {
        let probe = self.probe(key, guard);
        match &probe.entry {
            None => Found::Nothing,
            Some(entry) if self.is_fresh(Word(entry.owner), clock) => {
                probe.store.marks.set(Word(entry.owner).place());
                shown(entry)
            }
            Some(_) => self.get_late(key, clock, guard),
        }
    }

    /// Counts a read by what it found. An error counts as a hit only where `errors` are answers.
    #[inline]
    pub fn count(&self, found: &Found<'_, V>, errors: bool) {
        match found {
            Found::Fresh(_) => self.reads.hit(),
            Found::Stale(_) => self.reads.stale_hit(),
            Found::Error(_) if errors => self.reads.hit(),
            Found::Error(_) | Found::Nothing => self.reads.miss(),
        }
    }

    #[cold]
    fn get_late<'g>(
        &self,
        key: &Key<'_, F::Probe>,
        clock: impl Clock + Copy,
        guard: &'g Guard,
    ) -> Found<'g, V> {
        let mut state = lock(&self.state);
        // The key may have another entry by now, in another store.
        self.serve(&mut state, key, clock, guard)
    }

    /// Returns what there is for a key, and removes it if its time is over.
    fn serve<'g>(
        &self,
        state: &mut State<F, V>,
        key: &Key<'_, F::Probe>,
        clock: impl Clock + Copy,
        guard: &'g Guard,
    ) -> Found<'g, V> {
        let Probe { store, hash, entry } = self.probe(key, guard);
        let Some(entry) = entry else {
            return Found::Nothing;
        };
        let word = Word(entry.owner);
        if self.is_fresh(word, clock) {
            store.marks.set(word.place());
            return shown(&entry);
        }
        let until = state.queue.node(word.place()).until;
        if !word.is_error() && self.millis(clock.now()) < until {
            store.marks.set(word.place());
            return Found::Stale(entry.value);
        }
        state.remove(store, hash, word.place(), guard);
        state.expired += 1;
        Found::Nothing
    }

    /// Returns until when an entry can be served that was just seen in `store`.
    pub(super) fn served_until(
        &self,
        store: &Store<F, V>,
        hash: u64,
        word: Word,
        guard: &Guard,
    ) -> Millis {
        let state = lock(&self.state);
        let is_it = |entry: &Entry<'_, V>| entry.owner == word.0;
        let is_current = std::ptr::eq(self.store(guard), store);
        if is_current && store.table.get_by_hash(hash, is_it, guard).is_some() {
            state.queue.node(word.place()).until
        } else {
            Millis(0)
        }
    }

    /// Begins a fetch: returns what is fresh, or makes the caller load, or wait for another's load.
    /// A stale value is returned while another process loads.
    ///
    /// `early` is the factor of the early refresh (XFetch: Vattani et al., VLDB 2015), and `random`
    /// a number from 0 up to 1. `watch` arranges that [`Cache::mark_dead`] is called when the
    /// process dies.
    ///
    /// # Errors
    ///
    /// See [`Refused`]; the process has no part in a load then.
    #[expect(clippy::too_many_arguments, reason = "a caller, a key, and its time")]
    #[inline(always)]
    pub fn begin<'g>(
        &self,
        owner: u64,
        key: &Key<'_, F::Probe>,
        early: f64,
        clock: impl Clock + Copy,
        random: impl FnOnce() -> f64,
        watch: impl FnOnce() -> bool,
        guard: &'g Guard,
    ) -> Result<Begun<'g, V>, Refused> {
        let probe = self.probe(key, guard);
        if let Some(entry) = &probe.entry
            && self.is_fresh(Word(entry.owner), clock)
            && (early <= 0.0 || !self.may_be_early(Word(entry.owner), early, clock))
        {
            probe.store.marks.set(Word(entry.owner).place());
            return Ok(Begun::Found(shown(entry)));
        }
        self.begin_slowly(owner, key, early, clock, random, watch, guard)
    }

    /// Returns whether an early refresh of a fresh entry is not out of the question: the logarithm
    /// of a random number below 1 is hardly ever below -40.
    fn may_be_early(&self, word: Word, early: f64, clock: impl Clock) -> bool {
        if word.end() == Millis::NEVER || word.is_error() {
            return false;
        }
        let longest = self.longest.load(Ordering::Relaxed) as f64 * 1_000.0;
        let left = self.nanoseconds(word.end()).saturating_sub(clock.now());
        (left as f64) < longest * early * 40.0
    }

    #[expect(clippy::too_many_arguments, reason = "as in `begin`")]
    #[inline(never)]
    fn begin_slowly<'g>(
        &self,
        owner: u64,
        key: &Key<'_, F::Probe>,
        early: f64,
        clock: impl Clock + Copy,
        random: impl FnOnce() -> f64,
        watch: impl FnOnce() -> bool,
        guard: &'g Guard,
    ) -> Result<Begun<'g, V>, Refused> {
        self.owners.hold(owner, watch, |held| {
            let mut state = lock(&self.state);
            if state.ended {
                return Ok(Begun::Ended);
            }
            let found = self.serve(&mut state, key, clock, guard);
            let is_early = || {
                let probe = self.probe(key, guard);
                let word = probe.entry.map(|entry| Word(entry.owner));
                word.is_some_and(|word| {
                    let took = f64::from(state.queue.node(word.place()).took) * 1_000.0;
                    let left = self.nanoseconds(word.end()).saturating_sub(clock.now());
                    word.end() != Millis::NEVER && -took * early * random().ln() >= left as f64
                })
            };
            match &found {
                Found::Error(_) => return Ok(Begun::Found(found)),
                Found::Fresh(_) if early <= 0.0 || !is_early() => return Ok(Begun::Found(found)),
                Found::Fresh(_) | Found::Stale(_) | Found::Nothing => {}
            }
            let id = next_id();
            held.reserve(spread(id))?;
            let (hash, now) = (self.seed_hash(key), clock.now());
            let overdue = now.saturating_sub(state.limits.load);
            let hold = match state.loads.look(owner, key, hash, overdue, guard) {
                // The value is fresh, and another process refreshes it early.
                Joined::UnderWay | Joined::Recursion if matches!(found, Found::Fresh(_)) => {
                    return Ok(Begun::Found(found));
                }
                Joined::Recursion => return Ok(Begun::Recursion),
                Joined::UnderWay if matches!(found, Found::Stale(_)) => {
                    return Ok(Begun::Found(found));
                }
                Joined::UnderWay => {
                    let hold = state.loads.wait((owner, id), key, hash, guard)?;
                    (hold, Begun::Wait(id))
                }
                Joined::Free => {
                    let hold = state.loads.begin((owner, id), key, hash, now, guard)?;
                    (hold, Begun::Load(id))
                }
            };
            held.insert(hold.0);
            Ok(hold.1)
        })?
    }

    /// Counts a fetch by what it began.
    #[inline]
    pub fn count_begun(&self, begun: &Begun<'_, V>) {
        match begun {
            Begun::Found(found) => self.count(found, true),
            Begun::Load(_) | Begun::Wait(_) | Begun::Recursion => self.reads.miss(),
            Begun::Ended => {}
        }
    }

    /// Gives up a wait. Returns `false` if it was over before, so that the process has been told.
    pub fn cancel(&self, owner: u64, id: u64) -> bool {
        let cancelled = self.owners.with(owner, |held| {
            let hold = *held.get_mut(spread(id), |hold| hold.id == id)?;
            let mut state = lock(&self.state);
            let left = state.loads.leave(hold);
            // It may be the loader now.
            if !state.loads.is_loader(hold) {
                drop(state);
                held.remove(spread(id), |hold| hold.id == id);
            }
            Some(left)
        });
        cancelled.flatten().unwrap_or(false)
    }
}
