//! The background thread: it does work that would take too long in a process's own time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use foundation_core::registry::PendingCleanup;
use foundation_core::table::reclaim;

use crate::concurrent_table::Entries;
use crate::faults;
use crate::registry::deaths;
use crate::registry::instance::Registry;

/// An instance with an owner process, which outlives that process for a while.
pub trait Owned: Send + Sync {
    /// Ends the instance, unless it was adopted after it lost this owner.
    fn abandon(self: Arc<Self>, owner: u64);
}

/// A piece of work.
pub enum Job {
    /// Removes the entries that a dead process's own clean-up left.
    CleanUp(Arc<Registry>, Box<PendingCleanup>),
    /// Abandons an instance that lost this owner, unless it is adopted in time.
    Ownerless(Weak<dyn Owned>, u64, Instant),
    /// Frees a destroyed registry once no other thread uses it.
    Drop(Arc<Registry>),
    /// Removes the entries of a concurrent table whose process has ended.
    Clear(Arc<Entries>),
    /// Drops something large.
    Free(Box<dyn Send>),
    /// Does something that takes long.
    Run(Box<dyn FnOnce() + Send>),
    /// Is called until it has freed something, once no other thread uses that.
    Try(Box<dyn FnMut() -> bool + Send>),
}

/// How often the thread collects retired memory that idle threads have left.
const TICK: Duration = Duration::from_secs(1);
/// The shorter interval while a registry waits to be freed.
const SHORT_TICK: Duration = Duration::from_millis(10);

static QUEUE: LazyLock<Sender<Job>> = LazyLock::new(|| {
    let (sender, receiver) = unbounded();
    std::thread::Builder::new()
        .name("foundation".into())
        .spawn(move || Worker::default().run(&receiver))
        .expect("a thread can be started when the library is loaded");
    sender
});

/// Starts the thread. Called when the library is loaded.
pub fn start() {
    LazyLock::force(&QUEUE);
}

pub fn send(job: Job) {
    // The thread never ends, so the channel always has its receiver.
    let _ = QUEUE.send(job);
}

/// Frees `shared` here as soon as nobody else uses it.
pub fn free_when_unused<T: Send + Sync + 'static>(shared: Arc<T>) {
    let mut left = Some(shared);
    send(Job::Try(Box::new(move || {
        left = left.take().and_then(|shared| Arc::try_unwrap(shared).err());
        left.is_none()
    })));
}

struct Worker {
    tries: Vec<Box<dyn FnMut() -> bool + Send>>,
    ownerless: Vec<(Weak<dyn Owned>, u64, Instant)>,
    drops: Vec<Arc<Registry>>,
    flushed: Instant,
}

impl Default for Worker {
    fn default() -> Self {
        Worker {
            tries: Vec::new(),
            ownerless: Vec::new(),
            drops: Vec::new(),
            flushed: Instant::now(),
        }
    }
}

impl Worker {
    fn run(&mut self, queue: &Receiver<Job>) {
        loop {
            let pause = self.next().saturating_duration_since(Instant::now());
            let job = match queue.recv_timeout(pause) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            // A panic here is a defect. It has been reported on standard error, and must not stop
            // the other clean-ups.
            let _ = catch_unwind(AssertUnwindSafe(|| self.step(job)));
        }
    }

    /// Returns when the next work is due even if no job arrives.
    fn next(&self) -> Instant {
        let next = self.ownerless.iter().map(|(.., deadline)| *deadline).min();
        next.map_or(self.next_flush(), |next| next.min(self.next_flush()))
    }

    fn next_flush(&self) -> Instant {
        let waits = !self.drops.is_empty() || !self.tries.is_empty();
        self.flushed + if waits { SHORT_TICK } else { TICK }
    }

    fn step(&mut self, job: Option<Job>) {
        match job {
            Some(Job::CleanUp(registry, mut pending)) => {
                faults::reach(c"clean up a death");
                while !registry.clean_up(&mut pending) {}
                deaths::announce(None, &registry);
            }
            Some(Job::Ownerless(instance, owner, deadline)) => {
                self.ownerless.push((instance, owner, deadline));
            }
            Some(Job::Drop(registry)) => self.drops.push(registry),
            Some(Job::Clear(entries)) => entries.clear(),
            Some(Job::Free(large)) => drop(large),
            Some(Job::Run(job)) => job(),
            Some(Job::Try(job)) => self.tries.push(job),
            None => {}
        }
        let now = Instant::now();
        self.ownerless.retain(|(instance, owner, deadline)| {
            if now < *deadline {
                return true;
            }
            if let Some(instance) = instance.upgrade() {
                instance.abandon(*owner);
            }
            false
        });
        // Flush by the clock, not when the queue is empty: under load it may never be empty.
        if now >= self.next_flush() {
            self.flushed = now;
            reclaim::flush();
            self.drop_unused();
            self.tries.retain_mut(|job| !job());
            // Dropping the registries has retired their entries.
            reclaim::flush();
        }
    }

    /// Frees the destroyed registries that no other thread uses. A reader of the names or a death
    /// in progress may still hold a reference. `Arc::try_unwrap` then fails, and this thread tries
    /// again later. So the last reference is always dropped here, where a long drop blocks no
    /// process.
    fn drop_unused(&mut self) {
        let drops = std::mem::take(&mut self.drops).into_iter();
        self.drops = drops
            .filter_map(|registry| Arc::try_unwrap(registry).err())
            .collect();
    }
}
