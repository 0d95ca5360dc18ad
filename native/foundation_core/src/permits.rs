//! Permits: a counted pool with weights, its waiters in order, and holders that may die.
//!
//! ```text
//!   owner (locked) ── held: id ─► grant ─► pool (locked): slab of entries
//!                                          ├ granted                  counted in `in_use`
//!                                          └ waiting ◄─► waiting      in the order of arrival
//! ```
//!
//! A permit and a wait for one are an entry of the pool's slab and a grant in what their process
//! holds. The thread that removes the grant frees the entry. So a second release, or a release
//! during the death of the process, frees nothing. A grant to a waiter changes the entry alone,
//! under the pool's lock. So a waiter that gives up learns under that lock whether it has been
//! granted meanwhile, and owns a permit or nothing.
//!
//! Granting, releasing, cancelling and death are O(1) for each permit and each waiter served.

use std::sync::Arc;

use crate::handle::NotHeld;
use crate::held::{Held, IntoIter};
use crate::key::{Key, Opaque, Seed};
use crate::keyed::{Cell, Keyable, Keyed, NoState};
use crate::owners::Owners;
#[cfg(not(loom))]
use crate::primitive::{AtomicU64, Ordering};
use crate::table::OutOfMemory;

/// A permit that a process holds, or waits for.
pub struct Grant<W: Send + 'static> {
    id: u64,
    index: u32,
    cell: Arc<Cell<Pool<W>>>,
}

/// A hash of an id: its high bits are as good as random.
pub(crate) fn spread(id: u64) -> u64 {
    id.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

impl<W: Send + 'static> Held for Grant<W> {
    fn hash(&self) -> u64 {
        spread(self.id)
    }
}

/// A number that no other permit of this process has.
pub(crate) fn next_id() -> u64 {
    #[cfg(not(loom))]
    {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        NEXT.fetch_add(1, Ordering::Relaxed)
    }
    #[cfg(loom)]
    {
        use std::sync::atomic::{AtomicU64 as Plain, Ordering as PlainOrdering};
        static NEXT: Plain = Plain::new(1);
        NEXT.fetch_add(1, PlainOrdering::Relaxed)
    }
}

/// What all pools of an instance have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The sum of the weights that may be out.
    pub max: u32,
    /// How many may wait.
    pub queue: u32,
    /// Whether the newest waiter is served first.
    pub newest_first: bool,
    /// Counts the changes of `max`: a pool that was resized before has the new one again.
    pub epoch: u32,
}

const NONE: u32 = u32::MAX;

#[derive(Debug)]
enum State<W> {
    Granted,
    /// The neighbours in the queue, and how the waiter is told.
    Waiting(u32, u32, Box<W>),
    /// The pool has become smaller than the waiter's weight, which has been told.
    Refused,
    /// The next free place.
    Free(u32),
}

#[derive(Debug)]
struct Entry<W> {
    owner: u64,
    id: u64,
    weight: u32,
    state: State<W>,
}

/// The permits of one key.
#[derive(Debug)]
pub struct Pool<W> {
    entries: Vec<Entry<W>>,
    free: u32,
    used: u32,
    /// The waiter that came first, and the one that came last.
    oldest: u32,
    newest: u32,
    waiting: u32,
    /// The size after a resize, and the epoch of the resize.
    resized: Option<(u32, u32)>,
    in_use: u64,
    granted: u64,
    rejected: u64,
    timed_out: u64,
    reclaimed: u64,
}

/// A pool's figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the public function")]
pub struct Figures {
    pub max: u32,
    pub in_use: u64,
    pub waiting: u32,
    pub granted: u64,
    pub rejected: u64,
    pub timed_out: u64,
    pub reclaimed: u64,
}

/// Whether a request waits where it cannot be granted at once.
#[derive(Clone, Copy, Debug)]
pub enum Wait<F> {
    /// No.
    Never,
    /// Yes, by another request: this one only says that it would.
    Later,
    /// Yes; this makes what it is told by.
    Now(F),
}

/// A request that does not wait.
pub type NoWaiter<W> = fn() -> W;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// The permit is the owner's.
    Granted,
    /// The owner waits.
    Waits,
    /// The owner has to wait, and does not do so yet.
    WouldWait,
    /// There is none, and it does not wait.
    Full,
}

/// What became of a wait that was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// The owner has nothing.
    Cancelled,
    /// The permit was granted before, and is the owner's.
    Granted,
    /// It was refused before, because the pool has become smaller.
    Refused,
    /// There is no such wait.
    Unknown,
}

/// A waiter that has been granted its permit, or refused one, and is to be told.
#[derive(Debug)]
pub struct Served<W> {
    /// The process.
    pub owner: u64,
    /// How it is told.
    pub waiter: Box<W>,
    /// Whether it has a permit.
    pub granted: bool,
}

/// How many waiters are served under one lock.
pub const SERVED_AT_ONCE: usize = 100;

impl<W> Default for Pool<W> {
    fn default() -> Self {
        Pool {
            entries: Vec::new(),
            free: NONE,
            used: 0,
            oldest: NONE,
            newest: NONE,
            waiting: 0,
            resized: None,
            in_use: 0,
            granted: 0,
            rejected: 0,
            timed_out: 0,
            reclaimed: 0,
        }
    }
}

impl<W: Send + 'static> Keyable for Pool<W> {
    fn idle_from(&self) -> Option<u64> {
        (self.used == 0).then_some(0)
    }

    fn heap(&self) -> usize {
        self.entries.capacity() * size_of::<Entry<W>>()
    }
}

impl<W> Pool<W> {
    /// The most that may be out.
    pub fn max(&self, settings: &Settings) -> u32 {
        match self.resized {
            Some((max, epoch)) if epoch == settings.epoch => max,
            _ => settings.max,
        }
    }

    /// The figures.
    pub fn figures(&self, settings: &Settings) -> Figures {
        Figures {
            max: self.max(settings),
            in_use: self.in_use,
            waiting: self.waiting,
            granted: self.granted,
            rejected: self.rejected,
            timed_out: self.timed_out,
            reclaimed: self.reclaimed,
        }
    }

    fn fits(&self, weight: u32, settings: &Settings) -> bool {
        self.in_use + u64::from(weight) <= u64::from(self.max(settings))
    }

    /// Asks for a permit. A waiter is enqueued with what `waiter` makes, if it waits.
    ///
    /// `weight` is above every maximum where it does not fit its type.
    pub fn acquire(
        &mut self,
        settings: &Settings,
        (owner, id): (u64, u64),
        weight: u64,
        wait: Wait<impl FnOnce() -> W>,
    ) -> (Acquired, u32) {
        let too_heavy = weight > u64::from(self.max(settings));
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        // With the newest first a waiter is at the front as soon as it comes.
        let is_first = self.waiting == 0 || settings.newest_first && !matches!(wait, Wait::Never);
        if !too_heavy && is_first && self.fits(weight, settings) {
            let index = self.insert(owner, id, weight, State::Granted);
            self.in_use += u64::from(weight);
            self.granted += 1;
            return (Acquired::Granted, index);
        }
        let has_place = !too_heavy && self.waiting < settings.queue;
        match wait {
            Wait::Later if has_place => (Acquired::WouldWait, NONE),
            Wait::Now(waiter) if has_place => {
                let state = State::Waiting(self.newest, NONE, Box::new(waiter()));
                let index = self.insert(owner, id, weight, state);
                self.set_newer(self.newest, index);
                self.newest = index;
                self.waiting += 1;
                (Acquired::Waits, index)
            }
            _ => {
                self.rejected += 1;
                (Acquired::Full, NONE)
            }
        }
    }

    /// Frees the entry of a grant that has been taken from its owner. `reclaimed` says that this is
    /// because of the owner's death.
    pub fn free(&mut self, index: u32, id: u64, reclaimed: bool) {
        // A dead waiter is passed over when its turn comes, and its place may be another's.
        let Some(entry) = self.entry(index, id) else {
            return;
        };
        match entry.state {
            State::Granted => {
                self.in_use -= u64::from(entry.weight);
                self.reclaimed += u64::from(reclaimed);
            }
            State::Waiting(..) => {
                self.unlink(index);
            }
            State::Refused => {}
            State::Free(_) => return,
        }
        self.remove(index);
    }

    /// Gives up a wait.
    pub fn cancel(&mut self, index: u32, id: u64) -> Cancelled {
        let Some(entry) = self.entry(index, id) else {
            return Cancelled::Unknown;
        };
        match entry.state {
            State::Granted => Cancelled::Granted,
            State::Waiting(..) => {
                self.unlink(index);
                self.remove(index);
                self.timed_out += 1;
                Cancelled::Cancelled
            }
            State::Refused => {
                self.remove(index);
                Cancelled::Refused
            }
            State::Free(_) => Cancelled::Unknown,
        }
    }

    /// Grants permits to waiters in order, and refuses waiters at the front that weigh more than
    /// the pool's maximum. Returns whether there may be more to do.
    pub fn serve(
        &mut self,
        settings: &Settings,
        is_alive: impl Fn(u64) -> bool,
        served: &mut Vec<Served<W>>,
    ) -> bool {
        for _ in 0..SERVED_AT_ONCE {
            let front = if settings.newest_first {
                self.newest
            } else {
                self.oldest
            };
            if front == NONE {
                return false;
            }
            let (owner, weight) = {
                let entry = &self.entries[front as usize];
                (entry.owner, entry.weight)
            };
            let too_heavy = weight > self.max(settings);
            if !too_heavy && !self.fits(weight, settings) {
                return false;
            }
            let waiter = self.unlink(front);
            if !is_alive(owner) {
                // Its death finds another in its place, or none.
                self.remove(front);
                continue;
            }
            let state = if too_heavy {
                self.rejected += 1;
                State::Refused
            } else {
                self.in_use += u64::from(weight);
                self.granted += 1;
                State::Granted
            };
            self.entries[front as usize].state = state;
            served.extend(waiter.map(|waiter| Served {
                owner,
                waiter,
                granted: !too_heavy,
            }));
        }
        true
    }

    /// Sets the most that may be out, and refuses all waiters that weigh more.
    pub fn resize(&mut self, settings: &Settings, max: u32, served: &mut Vec<Served<W>>) {
        self.resized = Some((max, settings.epoch));
        let mut next = self.oldest;
        while next != NONE {
            let (index, entry) = (next, &self.entries[next as usize]);
            let State::Waiting(_, newer, _) = entry.state else {
                return;
            };
            next = newer;
            let (owner, too_heavy) = (entry.owner, entry.weight > max);
            if too_heavy {
                let waiter = self.unlink(index);
                self.entries[index as usize].state = State::Refused;
                self.rejected += 1;
                served.extend(waiter.map(|waiter| Served {
                    owner,
                    waiter,
                    granted: false,
                }));
            }
        }
    }

    /// Takes the waiters out, whose pool is gone.
    pub fn dismiss(&mut self) -> Vec<Served<W>> {
        let mut dismissed = Vec::new();
        while self.oldest != NONE {
            let index = self.oldest;
            let owner = self.entries[index as usize].owner;
            let waiter = self.unlink(index);
            self.entries[index as usize].state = State::Refused;
            dismissed.extend(waiter.map(|waiter| Served {
                owner,
                waiter,
                granted: false,
            }));
        }
        dismissed
    }

    fn entry(&self, index: u32, id: u64) -> Option<&Entry<W>> {
        self.entries
            .get(index as usize)
            .filter(|entry| entry.id == id)
    }

    fn insert(&mut self, owner: u64, id: u64, weight: u32, state: State<W>) -> u32 {
        let entry = Entry {
            owner,
            id,
            weight,
            state,
        };
        self.used += 1;
        if self.free != NONE {
            let index = self.free;
            if let State::Free(next) = self.entries[index as usize].state {
                self.free = next;
            }
            self.entries[index as usize] = entry;
            return index;
        }
        if self.entries.len() == self.entries.capacity() {
            // Most pools of many keys have one permit out.
            self.entries.reserve_exact(self.entries.len().max(1));
        }
        self.entries.push(entry);
        (self.entries.len() - 1) as u32
    }

    fn remove(&mut self, index: u32) {
        self.entries[index as usize].state = State::Free(self.free);
        self.free = index;
        self.used -= 1;
        if self.used == 0 {
            // No index of an entry is in use.
            self.entries.clear();
            self.free = NONE;
            self.entries.shrink_to(KEPT);
        }
    }

    /// Takes a waiter out of the queue.
    fn unlink(&mut self, index: u32) -> Option<Box<W>> {
        let state = std::mem::replace(&mut self.entries[index as usize].state, State::Granted);
        let State::Waiting(older, newer, waiter) = state else {
            self.entries[index as usize].state = state;
            return None;
        };
        self.set_newer(older, newer);
        if newer == NONE {
            self.newest = older;
        } else if let State::Waiting(of_newer, _, _) = &mut self.entries[newer as usize].state {
            *of_newer = older;
        }
        self.waiting -= 1;
        Some(waiter)
    }

    fn set_newer(&mut self, index: u32, newer: u32) {
        if index == NONE {
            self.oldest = newer;
        } else if let State::Waiting(_, of_older, _) = &mut self.entries[index as usize].state {
            *of_older = newer;
        }
    }
}

/// How many places an empty pool keeps.
const KEPT: usize = 4;

/// All pools of an instance, and who holds what.
pub struct Permits<F: Opaque, W: Send + 'static> {
    pools: Keyed<F, Pool<W>>,
    owners: Owners<Grant<W>>,
}

/// Why a request was not decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undecided {
    /// The process is exiting.
    Dead,
    /// There is no pool for the key.
    NoState(NoState),
}

impl From<NotHeld> for Undecided {
    fn from(reason: NotHeld) -> Self {
        match reason {
            NotHeld::Dead => Undecided::Dead,
            NotHeld::OutOfMemory => Undecided::NoState(NoState::OutOfMemory),
        }
    }
}

impl From<OutOfMemory> for Undecided {
    fn from(error: OutOfMemory) -> Self {
        Undecided::NoState(error.into())
    }
}

impl From<NoState> for Undecided {
    fn from(error: NoState) -> Self {
        Undecided::NoState(error)
    }
}

/// What a change to a pool has brought about: waiters to tell, and whether more can be served.
#[derive(Debug)]
pub struct Effects<W: Send + 'static> {
    /// Those who are to be told.
    pub served: Vec<Served<W>>,
    /// The pool whose queue is to be served again.
    pub unfinished: Option<Unfinished<W>>,
}

/// A pool with waiters that may be served.
pub struct Unfinished<W: Send + 'static>(Arc<Cell<Pool<W>>>);

impl<W: Send + 'static> std::fmt::Debug for Unfinished<W> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Unfinished")
    }
}

impl<W: Send + 'static> Effects<W> {
    fn none() -> Self {
        Effects {
            served: Vec::new(),
            unfinished: None,
        }
    }
}

/// The grants of a dead process that are still to be freed.
pub struct PendingCleanup<W: Send + 'static>(IntoIter<Grant<W>>);

impl<F: Opaque, W: Send + 'static> Permits<F, W> {
    /// No permit is out.
    ///
    /// # Errors
    ///
    /// When there is no memory for it.
    pub fn new(seed: Seed, max_keys: u64) -> Result<Self, OutOfMemory> {
        Ok(Permits {
            pools: Keyed::new(seed, max_keys, Pool::default())?,
            owners: Owners::new(),
        })
    }

    /// The pools.
    pub fn pools(&self) -> &Keyed<F, Pool<W>> {
        &self.pools
    }

    /// Asks for a permit: its id, and what became of it.
    ///
    /// `watch` arranges that [`Permits::mark_dead`] is called when the process dies.
    ///
    /// # Errors
    ///
    /// See [`Undecided`]; the process holds nothing then.
    pub fn acquire(
        &self,
        settings: &Settings,
        owner: u64,
        key: Option<&Key<'_, F::Probe>>,
        (weight, patient): (u64, bool),
        wait: Wait<impl FnOnce() -> W>,
        watch: impl FnOnce() -> bool,
    ) -> Result<(u64, Acquired), Undecided> {
        let id = next_id();
        self.owners.hold(owner, watch, |held| {
            held.reserve(spread(id))?;
            let (acquired, grant) = self.pools.with(
                key,
                patient,
                || 0,
                Pool::default,
                |cell, pool| {
                    let (acquired, index) = pool.acquire(settings, (owner, id), weight, wait);
                    let grant = (acquired != Acquired::Full).then(|| Grant {
                        id,
                        index,
                        cell: cell.clone(),
                    });
                    (acquired, grant)
                },
            )?;
            if let Some(grant) = grant {
                held.insert(grant);
            }
            Ok((id, acquired))
        })?
    }

    /// Gives a permit back. Does nothing if it has been given back.
    pub fn release(
        &self,
        settings: &Settings,
        owner: u64,
        id: u64,
        is_alive: impl Fn(u64) -> bool,
    ) -> Effects<W> {
        let taken = self.owners.with(owner, |held| {
            held.remove(spread(id), |grant| grant.id == id)
        });
        match taken.flatten() {
            Some(grant) => self.free(settings, &grant, false, is_alive),
            None => Effects::none(),
        }
    }

    /// Gives up a wait of the caller's.
    pub fn cancel(
        &self,
        settings: &Settings,
        owner: u64,
        id: u64,
        is_alive: impl Fn(u64) -> bool,
    ) -> (Cancelled, Effects<W>) {
        let cancelled = self.owners.with(owner, |held| {
            let grant = held.get_mut(spread(id), |grant| grant.id == id)?;
            let (cell, index) = (grant.cell.clone(), grant.index);
            let cancelled = self
                .pools
                .change(&cell, |_cell, pool| pool.cancel(index, id))?;
            if cancelled != Cancelled::Granted {
                held.remove(spread(id), |grant| grant.id == id);
            }
            Some((cancelled, cell))
        });
        match cancelled.flatten() {
            // The waiter behind it may need less.
            Some((Cancelled::Cancelled, cell)) => {
                (Cancelled::Cancelled, self.serve(settings, cell, is_alive))
            }
            Some((cancelled, _cell)) => (cancelled, Effects::none()),
            None => (Cancelled::Unknown, Effects::none()),
        }
    }

    /// Declares a process dead; what it held is then freed in steps.
    pub fn mark_dead(&self, owner: u64) -> PendingCleanup<W> {
        PendingCleanup(self.owners.mark_dead(owner).into_iter())
    }

    /// Frees one grant of a dead process; `None` when there is none left.
    pub fn reclaim(
        &self,
        settings: &Settings,
        pending: &mut PendingCleanup<W>,
        is_alive: impl Fn(u64) -> bool,
    ) -> Option<Effects<W>> {
        let grant = pending.0.next()?;
        Some(self.free(settings, &grant, true, is_alive))
    }

    /// Serves the waiters of a pool whose settings have changed.
    pub fn serve_all(&self, settings: &Settings, cell: Arc<Cell<Pool<W>>>) -> Effects<W> {
        self.serve(settings, cell, |_| true)
    }

    /// Goes on serving.
    pub fn resume(
        &self,
        settings: &Settings,
        unfinished: Unfinished<W>,
        is_alive: impl Fn(u64) -> bool,
    ) -> Effects<W> {
        self.serve(settings, unfinished.0, is_alive)
    }

    /// Resizes the pool of a key.
    ///
    /// # Errors
    ///
    /// When there is no pool for the key.
    pub fn resize(
        &self,
        settings: &Settings,
        key: Option<&Key<'_, F::Probe>>,
        (max, patient): (u32, bool),
        is_alive: impl Fn(u64) -> bool,
    ) -> Result<Effects<W>, NoState> {
        self.pools.with(
            key,
            patient,
            || 0,
            Pool::default,
            |cell, pool| {
                let mut served = Vec::new();
                pool.resize(settings, max, &mut served);
                let more = pool.serve(settings, is_alive, &mut served);
                Effects {
                    served,
                    unfinished: more.then(|| Unfinished(cell.clone())),
                }
            },
        )
    }

    fn free(
        &self,
        settings: &Settings,
        grant: &Grant<W>,
        reclaimed: bool,
        is_alive: impl Fn(u64) -> bool,
    ) -> Effects<W> {
        let freed = self.pools.change(&grant.cell, |cell, pool| {
            pool.free(grant.index, grant.id, reclaimed);
            Self::serve_locked(settings, cell, pool, is_alive)
        });
        freed.unwrap_or_else(Effects::none)
    }

    fn serve(
        &self,
        settings: &Settings,
        cell: Arc<Cell<Pool<W>>>,
        is_alive: impl Fn(u64) -> bool,
    ) -> Effects<W> {
        let served = self.pools.change(&cell, |cell, pool| {
            Self::serve_locked(settings, cell, pool, is_alive)
        });
        served.unwrap_or_else(Effects::none)
    }

    fn serve_locked(
        settings: &Settings,
        cell: &Arc<Cell<Pool<W>>>,
        pool: &mut Pool<W>,
        is_alive: impl Fn(u64) -> bool,
    ) -> Effects<W> {
        let mut served = Vec::new();
        let more = pool.serve(settings, is_alive, &mut served);
        Effects {
            served,
            unfinished: more.then(|| Unfinished(cell.clone())),
        }
    }
}

#[cfg(all(test, loom))]
mod loom_models;
#[cfg(all(test, not(loom)))]
mod tests;
