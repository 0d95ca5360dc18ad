//! Decides when memory that readers may still see can be freed.
//!
//! A reader writes only one word of its own thread: how many guards the thread has ([`pin`]), and
//! how many reads it has ended. A writer that has unlinked an object passes it to
//! [`Guard::retire`]. When enough objects have been retired, the writer closes the batch: it issues
//! a process-wide barrier and notes which threads are inside a read. It frees the batch once each
//! of them has left that read.
//!
//! This is the grace period of read-copy-update (McKenney and Slingwine, 1998) with the asymmetric
//! barrier of `membarrier(2)`. The writer's barrier orders the reader's store before its next load,
//! at a cost of one system call per batch. So the read path has no fence and no locked instruction.
//! Without that system call, each reader issues a fence. If the kernel refuses the call later,
//! readers switch to fences, and batches wait until every reader has switched.

use std::cell::Cell;
use std::collections::VecDeque;
use std::marker::PhantomData;

use crate::primitive::{AtomicU64, Mutex, Ordering, lock};

/// How many retired objects a thread collects before it closes the batch.
const BATCH_LEN: usize = if cfg!(loom) { 1 } else { 128 };
/// The same in bytes, so that a few large objects do not wait for many small ones.
const BATCH_BYTES: usize = 256 * 1024;
/// The most batches that a thread frees when it closes one. Two rather than one, so that a backlog
/// behind a long read shrinks. No more, so that the next writer does not free all of it.
const FREED_AT_ONCE: usize = 2;

/// One ended read, in [`Participant::reads`]. When the count of ended reads wraps, a collector may
/// mistake a later read for the one it waits for. Then it frees later, never too early. The count
/// of guards has enough bits not to overflow, even if guards are forgotten instead of dropped.
const READ: u64 = 1 << 48;

/// Returns whether a thread whose word is `reads` is inside a read.
fn is_reading(reads: u64) -> bool {
    reads & (READ - 1) != 0
}

struct Garbage {
    object: *mut (),
    free: unsafe fn(*mut ()),
}

// SAFETY: garbage has no other user when it is freed, and `Guard::retire` demands objects that may
// be freed on any thread.
unsafe impl Send for Garbage {}

#[derive(Default)]
struct Retired {
    garbage: Vec<Garbage>,
    bytes: usize,
}

/// A thread's state that other threads read. It takes two cache lines, since processors fetch lines
/// in pairs.
#[repr(align(128))]
struct Participant {
    /// The low bits count the thread's guards. The bits above count its ended reads, which tell a
    /// collector that a read it waits for is over.
    reads: AtomicU64,
    retired: Mutex<Retired>,
    /// Whether a live thread uses it. Participants outlive threads and are reused.
    taken: Mutex<bool>,
}

struct Batch {
    garbage: Vec<Garbage>,
    /// The threads that were inside a read when the batch was closed, with their words at that
    /// time.
    readers: Vec<(&'static Participant, u64)>,
}

struct Collector {
    participants: Mutex<Vec<&'static Participant>>,
    /// Garbage that was put back because [`barrier::heavy`] failed.
    unclosed: Mutex<Vec<Garbage>>,
    /// Oldest first. A reader that blocks a batch began before the later batches were closed, and
    /// blocks them too. So only the first batch is checked.
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

    /// A thread's first guard is the one that allocates, and a process has few threads.
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
        self.close(retired.garbage);
        for _ in 0..most {
            let Some(batch) = self.unseen() else { return };
            for Garbage { object, free } in batch.garbage {
                // SAFETY: the caller of `retire` promised that `free` may be called with `object`
                // once no reader can have found it. That is the case now.
                unsafe { free(object) }
            }
        }
    }

    /// Makes a batch of the garbage. It is put back when the barrier fails, or when there is no
    /// memory for the batch.
    fn close(&self, mut garbage: Vec<Garbage>) {
        {
            let mut unclosed = lock(&self.unclosed);
            if garbage.try_reserve(unclosed.len()).is_ok() {
                garbage.append(&mut unclosed);
            }
        }
        // Everything in the batch was unlinked before this barrier. A thread without a guard at the
        // barrier cannot find any of it in a later read.
        if garbage.is_empty() {
            // There is nothing to close, but earlier batches may be free by now.
        } else if !barrier::heavy() || !self.push_batch(&mut garbage) {
            put_back(&mut lock(&self.unclosed), garbage);
        }
    }

    /// Notes which threads are inside a read. Returns `false` when there is no memory for that.
    fn push_batch(&self, garbage: &mut Vec<Garbage>) -> bool {
        let mut readers = Vec::new();
        {
            let participants = lock(&self.participants);
            if readers.try_reserve(participants.len()).is_err() {
                return false;
            }
            for participant in participants.iter() {
                let reads = participant.reads.load(Ordering::Acquire);
                if is_reading(reads) {
                    readers.push((*participant, reads));
                }
            }
        }
        let mut waiting = lock(&self.waiting);
        if waiting.try_reserve(1).is_err() {
            return false;
        }
        let garbage = std::mem::take(garbage);
        waiting.push_back(Batch { garbage, readers });
        true
    }

    /// Takes the oldest batch, if no reader can still see it.
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

    /// Takes the garbage of every thread, idle ones included, and collects it.
    fn flush(&self) {
        let get = |index: usize| lock(&self.participants).get(index).copied();
        for participant in (0..).map_while(get) {
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

/// Puts garbage back. Without memory for a longer list the objects of the shorter one stay for
/// good: a reader may still see them.
fn put_back(unclosed: &mut Vec<Garbage>, mut garbage: Vec<Garbage>) {
    if unclosed.len() < garbage.len() {
        std::mem::swap(unclosed, &mut garbage);
    }
    if unclosed.try_reserve(garbage.len()).is_ok() {
        unclosed.append(&mut garbage);
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
            // A guard was forgotten, or another thread-local holds it and is destroyed later. The
            // participant stays taken: a thread that reused it would count this guard as its own.
            return;
        }
        // The destructor of another thread-local may take a guard after this point; it joins again.
        PARTICIPANT.set(None);
        *lock(&self.0.taken) = false;
    }
}

#[cfg(not(loom))]
thread_local! {
    // There are two variables, since the access to one without a destructor need not check for its
    // registration. The second is accessed once per thread.
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
    // When the thread's variables are already being destroyed, the participant can no longer be
    // returned, and stays taken.
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

/// A read in progress: nothing that it can reach is freed while it lives.
///
/// A thread may have several guards, and drop them in any order. Holding a guard only delays the
/// freeing of memory.
pub struct Guard {
    participant: &'static Participant,
    /// Makes the type neither `Send` nor `Sync`: only the thread that made the guard writes the
    /// participant's word.
    _thread: PhantomData<*mut ()>,
}

/// Starts a read on this thread.
#[inline]
pub fn pin() -> Guard {
    let participant = participant();
    let reads = participant.reads.load(Ordering::Relaxed);
    // Release, although nothing is published here. A collector may see this word without having
    // seen the word before it. Release orders the collector after the reads that ended with that
    // word.
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
    /// Frees `object` once no reader can still see it. `bytes` is about the size of the freed
    /// memory.
    ///
    /// # Safety
    ///
    /// `object` came from `Box::into_raw`, no reader that starts from now on can find it, and no
    /// other code retires or frees it.
    pub(crate) unsafe fn retire<T: Send>(&self, object: *mut T, bytes: usize) {
        unsafe fn free<T>(object: *mut ()) {
            // SAFETY: the caller of `retire` gave a pointer that `Box::into_raw` had returned.
            drop(unsafe { Box::from_raw(object.cast::<T>()) });
        }
        // SAFETY: `free` undoes `Box::into_raw`; the caller promises the rest.
        unsafe { self.retire_with(object.cast(), free::<T>, bytes) }
    }

    /// Like [`Guard::retire`], for an object that `free` frees on any thread.
    ///
    /// # Safety
    ///
    /// No reader that starts from now on can find `object`, no other code retires or frees it, and
    /// `free` may be called with it, once, on any thread.
    pub(crate) unsafe fn retire_with(
        &self,
        object: *mut (),
        free: unsafe fn(*mut ()),
        bytes: usize,
    ) {
        let full = {
            let mut retired = lock(&self.participant.retired);
            if retired.garbage.try_reserve(1).is_ok() {
                retired.garbage.push(Garbage { object, free });
                retired.bytes += bytes;
            }
            // Otherwise the object stays for good: a reader may still see it.
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

/// Frees everything that any thread has retired and that can be freed now.
///
/// A background thread calls this after a burst of work. Otherwise the last retired objects of an
/// idle thread would stay.
pub fn flush() {
    COLLECTOR.flush();
}

/// Returns the number of retired objects that have not been freed.
pub fn outstanding() -> usize {
    COLLECTOR.outstanding()
}

#[cfg(all(target_os = "linux", not(loom), not(miri)))]
mod barrier {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, Ordering, compiler_fence, fence};
    use std::time::{Duration, Instant};

    use crate::primitive::{Mutex, lock};

    /// Whether `membarrier(2)` orders the readers' stores. It starts as `false`, so readers issue
    /// fences until the first participant joins and asks the kernel.
    static ASYMMETRIC: AtomicBool = AtomicBool::new(false);
    /// When readers were told to issue fences again, because the kernel had refused the call.
    static FELL_BACK: Mutex<Option<Instant>> = Mutex::new(None);

    /// The longest time that a store may stay in a processor's store buffer, by a wide margin.
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

    /// Orders what this thread did before the reads that begin from now on. Returns `false` when it
    /// cannot; then nothing may be freed that relies on this order.
    pub(super) fn heavy() -> bool {
        detect();
        fence(Ordering::SeqCst);
        if ASYMMETRIC.load(Ordering::Relaxed) {
            // A process that was restored from a checkpoint is no longer registered.
            return order() || register() || fall_back();
        }
        // A reader may have read `ASYMMETRIC` before it changed, and then skipped its fence. Its
        // store came before that read, and no processor keeps a store in its buffer for as long as
        // `SETTLED`.
        lock(&FELL_BACK).is_none_or(|since| since.elapsed() >= SETTLED)
    }

    /// The kernel refuses the call that it granted, because a system call filter was set after the
    /// start. Readers issue fences from now on.
    #[cold]
    fn fall_back() -> bool {
        let mut since = lock(&FELL_BACK);
        // Only the first thread notes the time, which runs from the last store to the flag.
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
