//! When memory that readers may still see can be freed.
//!
//! A reader writes nothing but a word of its own thread, which says how many guards the thread has
//! ([`pin`]) and how often it has had none. A writer that has unlinked an object hands it to
//! [`Guard::retire`]; when enough of them have come together it issues one process-wide barrier,
//! notes which threads are inside a read, and frees the batch once each of those has left it. That
//! is the grace period of read-copy-update (McKenney and Slingwine, 1998) with the asymmetric
//! barrier of `membarrier(2)`: the reader's store and its next load are kept in order by the
//! writer, who pays for it once a batch, and so the read path has no fence and no locked
//! instruction. Where that system call is missing the reader issues a fence of its own. Where the
//! kernel refuses it later, readers are told to issue fences, and batches wait until all have heard.

use std::cell::Cell;
use std::collections::VecDeque;
use std::marker::PhantomData;

use crate::primitive::{AtomicU64, Mutex, Ordering, lock};

/// How many retired objects a thread collects before it looks for what can be freed.
const BATCH_LEN: usize = if cfg!(loom) { 1 } else { 128 };
/// The same in bytes, so that a few large objects do not wait for many small ones.
const BATCH_BYTES: usize = 256 * 1024;
/// How many batches are freed by whoever closes one. One more than that, so that what a long read
/// has kept is worked off, but not all by the one who comes after it.
const FREED_AT_ONCE: usize = 2;

/// The end of a read, in [`Participant::reads`]. When the count of ended reads wraps, a collector
/// may take a later read for the one it waits for: it frees later then, never too early. The count
/// of guards has bits enough not to run over, also where guards are forgotten and not dropped.
const READ: u64 = 1 << 48;

/// Whether a thread whose word is `reads` is inside a read.
fn is_reading(reads: u64) -> bool {
    reads & (READ - 1) != 0
}

struct Garbage {
    object: *mut (),
    free: unsafe fn(*mut ()),
}

// SAFETY: what is retired has no other user left once it is freed, and `Guard::retire` asks for
// objects that may be freed on any thread.
unsafe impl Send for Garbage {}

#[derive(Default)]
struct Retired {
    garbage: Vec<Garbage>,
    bytes: usize,
}

/// What one thread shows to the others. Two cache lines, since processors fetch lines in pairs.
#[repr(align(128))]
struct Participant {
    /// In the low bits how many guards the thread has; above them how many reads it has ended,
    /// from which a collector sees that a read it waits for is over.
    reads: AtomicU64,
    retired: Mutex<Retired>,
    /// Whether a living thread uses it: participants outlive threads and are used again.
    taken: Mutex<bool>,
}

struct Batch {
    garbage: Vec<Garbage>,
    /// The threads that were inside a read when the batch was closed, with their words then.
    readers: Vec<(&'static Participant, u64)>,
}

struct Collector {
    participants: Mutex<Vec<&'static Participant>>,
    /// What was put back because [`barrier::heavy`] gave no barrier.
    unclosed: Mutex<Vec<Garbage>>,
    /// Oldest first. A reader that keeps a batch was there before those behind it were closed, and
    /// keeps them too: only the first is ever asked.
    waiting: Mutex<VecDeque<Batch>>,
}

impl Collector {
    #[cfg(not(loom))]
    const fn new() -> Self {
        Collector {
            participants: Mutex::new(Vec::new()),
            unclosed: Mutex::new(Vec::new()),
            waiting: Mutex::new(VecDeque::new()),
        }
    }

    #[cfg(loom)]
    fn new() -> Self {
        Collector {
            participants: Mutex::new(Vec::new()),
            unclosed: Mutex::new(Vec::new()),
            waiting: Mutex::new(VecDeque::new()),
        }
    }

    fn join(&self) -> &'static Participant {
        barrier::detect();
        let mut participants = lock(&self.participants);
        let free = participants.iter().find(|participant| {
            let mut taken = lock(&participant.taken);
            !std::mem::replace(&mut *taken, true)
        });
        if let Some(participant) = free {
            return participant;
        }
        let participant: &'static Participant = Box::leak(Box::new(Participant {
            reads: AtomicU64::new(0),
            retired: Mutex::new(Retired::default()),
            taken: Mutex::new(true),
        }));
        participants.push(participant);
        participant
    }

    /// Closes the batch of `retired`, and frees up to `most` batches that no reader can still see.
    fn collect(&self, retired: Retired, most: usize) {
        let mut garbage = retired.garbage;
        garbage.append(&mut lock(&self.unclosed));
        // Everything in the batch was unlinked before this barrier. A thread that has no guard
        // after it will, when it next starts a read, find nothing of the batch.
        if garbage.is_empty() {
            // Nothing to close: what was closed before may be free by now.
        } else if barrier::heavy() {
            let readers = lock(&self.participants)
                .iter()
                .map(|participant| (*participant, participant.reads.load(Ordering::Acquire)))
                .filter(|(_, reads)| is_reading(*reads))
                .collect();
            lock(&self.waiting).push_back(Batch { garbage, readers });
        } else {
            lock(&self.unclosed).append(&mut garbage);
        }
        for _ in 0..most {
            let Some(batch) = self.unseen() else { return };
            for Garbage { object, free } in batch.garbage {
                // SAFETY: `retire` was promised that `free` may be called with `object` once no
                // reader is left that could have found it, and that is now.
                unsafe { free(object) }
            }
        }
    }

    /// Takes out the oldest batch, if no reader can still see it.
    fn unseen(&self) -> Option<Batch> {
        let mut waiting = lock(&self.waiting);
        let first = waiting.front_mut()?;
        first.readers.retain(|(participant, reads)| {
            participant.reads.load(Ordering::Acquire) / READ == reads / READ
        });
        if !first.readers.is_empty() {
            return None;
        }
        waiting.pop_front()
    }

    /// Takes what every thread has retired, also the idle ones, and collects it.
    fn flush(&self) {
        let participants = lock(&self.participants).clone();
        for participant in participants {
            let retired = std::mem::take(&mut *lock(&participant.retired));
            self.collect(retired, usize::MAX);
        }
        self.collect(Retired::default(), usize::MAX);
    }

    fn outstanding(&self) -> usize {
        let retired: usize = lock(&self.participants)
            .iter()
            .map(|participant| lock(&participant.retired).garbage.len())
            .sum();
        let waiting: usize = lock(&self.waiting)
            .iter()
            .map(|batch| batch.garbage.len())
            .sum();
        retired + lock(&self.unclosed).len() + waiting
    }
}

#[cfg(not(loom))]
static COLLECTOR: Collector = Collector::new();

#[cfg(loom)]
loom::lazy_static! {
    static ref COLLECTOR: Collector = Collector::new();
}

/// Gives a thread's participant back when the thread ends.
#[cfg(not(loom))]
struct Membership(&'static Participant);

#[cfg(not(loom))]
impl Drop for Membership {
    fn drop(&mut self) {
        if is_reading(self.0.reads.load(Ordering::Relaxed)) {
            // A guard was forgotten, or is in another thread-local that is destroyed after this
            // one. No other thread may begin its reads inside this one.
            return;
        }
        // A guard after this point, in the destructor of another thread-local, joins anew.
        PARTICIPANT.set(None);
        *lock(&self.0.taken) = false;
    }
}

#[cfg(not(loom))]
thread_local! {
    // Two variables, since one that needs no destructor is reached without asking whether that
    // has been registered: the second is touched once a thread.
    static PARTICIPANT: Cell<Option<&'static Participant>> = const { Cell::new(None) };
    static MEMBERSHIP: Cell<Option<Membership>> = const { Cell::new(None) };
}

#[cfg(loom)]
loom::thread_local! {
    static PARTICIPANT: Cell<Option<&'static Participant>> = Cell::new(None);
}

#[cfg(not(loom))]
#[inline]
fn participant() -> &'static Participant {
    PARTICIPANT.get().unwrap_or_else(join)
}

#[cfg(not(loom))]
#[cold]
fn join() -> &'static Participant {
    let participant = COLLECTOR.join();
    // While the thread's variables are being destroyed there is nothing left to give the
    // participant back, and it stays taken.
    if MEMBERSHIP
        .try_with(|membership| membership.set(Some(Membership(participant))))
        .is_ok()
    {
        PARTICIPANT.set(Some(participant));
    }
    participant
}

#[cfg(loom)]
fn participant() -> &'static Participant {
    PARTICIPANT.with(|cell| {
        cell.get().unwrap_or_else(|| {
            let participant = COLLECTOR.join();
            cell.set(Some(participant));
            participant
        })
    })
}

/// A read in progress: nothing that was reachable while it lives is freed.
///
/// A thread may have several guards, and drop them in any order. Holding one only delays the
/// freeing of memory.
pub struct Guard {
    participant: &'static Participant,
    /// The participant's word is written by the thread that made the guard alone.
    _thread: PhantomData<*mut ()>,
}

/// Starts a read on this thread.
#[inline]
pub fn pin() -> Guard {
    let participant = participant();
    let reads = participant.reads.load(Ordering::Relaxed);
    // Release, though nothing is published here: a collector that sees this word and not the one
    // before it must still come after the reads that ended with that one.
    participant.reads.store(reads + 1, Ordering::Release);
    barrier::light();
    Guard {
        participant,
        _thread: PhantomData,
    }
}

impl Drop for Guard {
    #[inline]
    fn drop(&mut self) {
        let reads = self.participant.reads.load(Ordering::Relaxed) - 1;
        let ended = if is_reading(reads) { 0 } else { READ };
        self.participant
            .reads
            .store(reads.wrapping_add(ended), Ordering::Release);
    }
}

impl Guard {
    /// Frees `object` once no reader can still see it. `bytes` is about what that gives back.
    ///
    /// # Safety
    ///
    /// `object` came from `Box::into_raw`, no reader that starts from now on can find it, and
    /// nobody else retires or frees it.
    pub(crate) unsafe fn retire<T: Send>(&self, object: *mut T, bytes: usize) {
        unsafe fn free<T>(object: *mut ()) {
            // SAFETY: the caller of `retire` gave a pointer that `Box::into_raw` had returned.
            drop(unsafe { Box::from_raw(object.cast::<T>()) });
        }
        // SAFETY: `free` undoes `Box::into_raw`, and the rest is asked of our own caller.
        unsafe { self.retire_with(object.cast(), free::<T>, bytes) }
    }

    /// As [`Guard::retire`], for an object that `free` frees, on whichever thread.
    ///
    /// # Safety
    ///
    /// No reader that starts from now on can find `object`, nobody else retires or frees it, and
    /// `free` may be called with it, once, on any thread.
    pub(crate) unsafe fn retire_with(
        &self,
        object: *mut (),
        free: unsafe fn(*mut ()),
        bytes: usize,
    ) {
        let full = {
            let mut retired = lock(&self.participant.retired);
            retired.garbage.push(Garbage { object, free });
            retired.bytes += bytes;
            if retired.garbage.len() >= BATCH_LEN || retired.bytes >= BATCH_BYTES {
                Some(std::mem::take(&mut *retired))
            } else {
                None
            }
        };
        if let Some(retired) = full {
            COLLECTOR.collect(retired, FREED_AT_ONCE);
        }
    }
}

/// Frees what can be freed of all that any thread has retired.
///
/// For a background thread to call when work has been done and no more comes: without it the last
/// few retired objects of an idle thread would stay.
pub fn flush() {
    COLLECTOR.flush();
}

/// How many retired objects have not been freed yet.
pub fn outstanding() -> usize {
    COLLECTOR.outstanding()
}

#[cfg(all(target_os = "linux", not(loom), not(miri)))]
mod barrier {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, Ordering, compiler_fence, fence};
    use std::time::{Duration, Instant};

    use crate::primitive::{Mutex, lock};

    /// Whether the kernel puts the readers' stores in order for us. Until a participant has
    /// joined, which asks the kernel first, readers issue fences.
    static ASYMMETRIC: AtomicBool = AtomicBool::new(false);
    /// When readers were told to issue fences again, the kernel having refused.
    static FELL_BACK: Mutex<Option<Instant>> = Mutex::new(None);

    /// How long a store may stay in a processor's buffer before others see it, by a wide margin.
    const SETTLED: Duration = Duration::from_secs(1);

    fn membarrier(command: libc::c_int) -> bool {
        // SAFETY: membarrier(2) takes integers and touches no memory of ours.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
    }

    fn register() -> bool {
        membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) && order()
    }

    fn order() -> bool {
        membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED)
    }

    pub(super) fn detect() {
        static DETECTED: OnceLock<()> = OnceLock::new();
        DETECTED.get_or_init(|| ASYMMETRIC.store(register(), Ordering::SeqCst));
    }

    #[inline]
    pub(super) fn light() {
        if ASYMMETRIC.load(Ordering::Relaxed) {
            compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
    }

    /// Orders what this thread did before the reads that begin from now on; `false` while it
    /// cannot, and then nothing may be freed for what this thread did.
    pub(super) fn heavy() -> bool {
        detect();
        fence(Ordering::SeqCst);
        if ASYMMETRIC.load(Ordering::Relaxed) {
            // A process that is restored from a checkpoint is not registered any more.
            return order() || register() || fall_back();
        }
        // A read that began without a fence has made its store visible by then: the store comes
        // before the look at `ASYMMETRIC`, and no processor keeps one in its buffer for long.
        lock(&FELL_BACK).is_none_or(|since| since.elapsed() >= SETTLED)
    }

    /// The kernel refuses what it granted: a system call filter was set after the start. Readers
    /// issue fences from now on.
    #[cold]
    fn fall_back() -> bool {
        let mut since = lock(&FELL_BACK);
        // The first thread to come here alone: the time runs from the last store of the flag.
        if ASYMMETRIC.swap(false, Ordering::SeqCst) {
            *since = Some(Instant::now());
        }
        false
    }
}

#[cfg(any(not(target_os = "linux"), loom, miri))]
mod barrier {
    use crate::primitive::{Ordering, fence};

    pub(super) fn detect() {}

    #[inline]
    pub(super) fn light() {
        fence(Ordering::SeqCst);
    }

    pub(super) fn heavy() -> bool {
        fence(Ordering::SeqCst);
        true
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
