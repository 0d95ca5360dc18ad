//! Open spans: a stack of frames for each process.
//!
//! Only the process itself uses its stack until it dies. Then its frames wait to be taken as
//! abandoned. Processes are words here, and the caller defines what a frame carries (`T`).
//!
//! Stacks are in shards: hash tables by process, each with a lock. A frame is filled and read in
//! place, under that lock. Moving it out would copy its hundred bytes three times, which costs more
//! than the lock.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashTable;

use crate::primitive::{AtomicU64, Mutex, MutexGuard, Ordering, lock};
use crate::random::Random;

/// The caller's data in a frame.
pub trait Carried: Default {
    /// Drops the contents, so the frame can be filled again.
    fn clear(&mut self);
}

/// A frame: an open span, or a context that came from another process or node.
#[derive(Clone, Debug, Default)]
pub struct Frame<T> {
    /// The span's id. Never 0.
    pub id: u64,
    /// The id of its parent; 0 for a root.
    pub parent: u64,
    /// The id of its trace.
    pub trace: u128,
    /// The flags of its trace.
    pub flags: u8,
    /// The `tracestate` that its trace came with.
    pub state: Option<Arc<[u8]>>,
    /// Whether it is a span. The context of another process carries nothing.
    pub is_span: bool,
    /// Its depth in the stack; the outermost frame has 1.
    depth: u32,
    /// When it was started, in nanoseconds of a monotonic clock.
    pub started: u64,
    /// The caller's data.
    pub body: T,
}

/// A context from another process or node: the parent of the spans in it.
#[derive(Clone, Debug)]
pub struct Context {
    /// The id of the trace.
    pub trace: u128,
    /// The id of the parent.
    pub id: u64,
    /// The flags of the trace.
    pub flags: u8,
    /// The `tracestate` that the trace came with.
    pub state: Option<Arc<[u8]>>,
}

/// The flags of a trace that begins here.
const SAMPLED: u8 = 1;

/// The ids of a started span, and its trace's flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Started {
    /// The span's id.
    pub id: u64,
    /// The id of its parent; 0 for a root.
    pub parent: u64,
    /// The id of its trace.
    pub trace: u128,
    /// The flags of its trace.
    pub flags: u8,
}

/// The open frames of a process, outermost first.
#[derive(Debug)]
struct Stack<T> {
    /// The open frames, followed by closed ones whose memory is reused. A frame is never moved.
    frames: Vec<Frame<T>>,
    open: usize,
    /// Makes the ids of this process, so an id needs no lock beyond the stack's.
    random: Random,
}

/// The span must be closed elsewhere, because reading it would take too long here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotReady;

/// Spans of a dead process, which nobody can end.
#[derive(Debug)]
struct Abandoned<T> {
    /// Outermost first, since they are taken from the end.
    frames: Vec<Frame<T>>,
    at: u64,
}

/// A queue that grows by segments. An append never moves earlier elements, however many there are.
#[derive(Debug)]
struct Queue<T>(VecDeque<VecDeque<T>>);

/// The longest segment.
const SEGMENT: usize = 256;

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Queue(VecDeque::new())
    }
}

impl<T> Queue<T> {
    fn push_back(&mut self, element: T) {
        match self.0.back_mut() {
            Some(segment) if segment.len() < SEGMENT => segment.push_back(element),
            _ => self.0.push_back(VecDeque::from([element])),
        }
    }

    fn front_mut(&mut self) -> Option<&mut T> {
        self.0.front_mut()?.front_mut()
    }

    fn pop_front(&mut self) {
        if let Some(segment) = self.0.front_mut() {
            segment.pop_front();
            if segment.is_empty() {
                self.0.pop_front();
            }
        }
    }
}

/// The spans of dead processes that wait to be handed out.
#[derive(Debug)]
struct Waiting<T> {
    queue: Queue<Abandoned<T>>,
    /// How many spans are in the queue.
    spans: usize,
    dropped: u64,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Waiting {
            queue: Queue::default(),
            spans: 0,
            dropped: 0,
        }
    }
}

/// The stacks of some processes, by process.
type Stacks<T> = HashTable<(u64, Box<Stack<T>>)>;

/// Stacks that share a lock. The alignment keeps two shards off one cache line.
#[derive(Debug)]
#[repr(align(64))]
struct Shard<T>(Mutex<Stacks<T>>);

/// The open spans of all processes.
#[derive(Debug)]
pub struct Spans<T> {
    shards: Box<[Shard<T>]>,
    random: Mutex<Random>,
    abandoned: Mutex<Waiting<T>>,
    /// The abandoned spans that the reporter has read and not yet forgotten, with their durations.
    /// They have a lock of their own: reading them may take long, and dying processes must not wait
    /// for it.
    handed: Mutex<VecDeque<(Frame<T>, u64)>>,
    deepest: u32,
    /// How many abandoned spans wait at once.
    most: usize,
    /// The number of deaths since the reporter last looked.
    untold: AtomicU64,
}

/// Enough that callers on different schedulers seldom contend.
const SHARDS: usize = 64;

/// Hashes a process. The VM numbers processes, so strangers cannot choose the input, and one
/// multiplication spreads it well enough.
#[inline]
fn hash(process: u64) -> u64 {
    let product = u128::from(process) * 0x9E37_79B9_7F4A_7C15;
    (product >> 64) as u64 ^ product as u64
}

impl<T: Carried> Spans<T> {
    /// Makes an empty table whose stacks have at most `deepest` frames. At most `most` abandoned
    /// spans wait for the reporter. Those of later deaths are dropped and counted.
    pub fn new(deepest: u32, most: usize) -> Self {
        Spans {
            shards: (0..SHARDS).map(|_| Shard(Mutex::default())).collect(),
            random: Mutex::default(),
            abandoned: Mutex::default(),
            handed: Mutex::default(),
            deepest,
            most,
            untold: AtomicU64::new(0),
        }
    }

    #[inline]
    fn shard(&self, process: u64) -> (u64, MutexGuard<'_, Stacks<T>>) {
        let hash = hash(process);
        // The shard's table uses the low bits for its buckets and the top seven bits for its tags.
        let shard = &self.shards[(hash >> 48) as usize % SHARDS];
        (hash, lock(&shard.0))
    }

    /// Runs `work` on the stack of `process`, if it has one.
    #[inline]
    fn with<R>(&self, process: u64, work: impl FnOnce(&mut Stack<T>) -> R) -> Option<R> {
        let (hash, mut shard) = self.shard(process);
        let (_, stack) = shard.find_mut(hash, |(of, _)| *of == process)?;
        Some(work(stack))
    }

    /// Like [`Spans::with`], but makes a stack if there is none and `watch` says that the process
    /// is alive.
    #[inline]
    fn with_new<R>(
        &self,
        process: u64,
        watch: impl FnOnce() -> bool,
        work: impl FnOnce(&mut Stack<T>) -> R,
    ) -> Option<R> {
        let (hash, mut shard) = self.shard(process);
        if let Some((_, stack)) = shard.find_mut(hash, |(of, _)| *of == process) {
            return Some(work(stack));
        }
        let mut stack = self.stack(watch)?;
        let result = work(&mut stack);
        shard.insert_unique(hash, (process, stack), |(of, _)| self::hash(*of));
        Some(result)
    }

    #[cold]
    fn stack(&self, watch: impl FnOnce() -> bool) -> Option<Box<Stack<T>>> {
        watch().then(|| {
            Box::new(Stack {
                frames: Vec::new(),
                open: 0,
                random: lock(&self.random).fork(),
            })
        })
    }

    /// Opens a span as the innermost frame of `process`; `fill` sets its data. `watch` is called
    /// for the first span of a process and returns whether the process is alive. If the process is
    /// dead, or its stack has the greatest depth, the span gets ids but is not kept.
    #[inline]
    pub fn start(
        &self,
        process: u64,
        now: u64,
        watch: impl FnOnce() -> bool,
        fill: impl FnOnce(&mut T),
    ) -> Started {
        let deepest = self.deepest;
        self.with_new(process, watch, |stack| stack.start(now, deepest, fill))
            .unwrap_or_else(|| Started::new(&mut lock(&self.random), None))
    }

    /// Closes the innermost span of `process`, or the span with the given id, and returns the
    /// result of `read`. When `read` fails the span stays open.
    #[inline]
    pub fn finish<R, E>(
        &self,
        process: u64,
        id: Option<u64>,
        read: impl FnOnce(&mut Frame<T>) -> Result<R, E>,
    ) -> Result<Option<R>, E> {
        self.with(process, |stack| {
            let Some(at) = stack.index_of(id) else {
                return Ok(None);
            };
            let result = read(&mut stack.frames[at])?;
            stack.close(at);
            Ok(Some(result))
        })
        .unwrap_or(Ok(None))
    }

    /// Runs `read` on the innermost frame of `process`.
    pub fn innermost<R>(&self, process: u64, read: impl FnOnce(&mut Frame<T>) -> R) -> Option<R> {
        self.with(process, |stack| stack.innermost().map(read))?
    }

    /// Enters a context. Returns the mark to leave it by, or `None` when the process is dead.
    pub fn enter(
        &self,
        process: u64,
        context: Context,
        mark: u64,
        watch: impl FnOnce() -> bool,
    ) -> Option<u64> {
        self.with_new(process, watch, |stack| {
            let depth = stack.innermost().map_or(1, |frame| frame.depth + 1);
            let frame = stack.open();
            (frame.id, frame.parent) = (context.id, 0);
            (frame.trace, frame.flags, frame.state) = (context.trace, context.flags, context.state);
            (frame.is_span, frame.depth, frame.started) = (false, depth, mark);
            mark
        })
    }

    /// Leaves the context of a mark. Returns up to `most` of the spans that are open in it,
    /// innermost first, and whether that was all. It stops at a span that is not `ready`.
    ///
    /// # Errors
    ///
    /// [`NotReady`] when the first span is not ready.
    pub fn leave(
        &self,
        process: u64,
        mark: u64,
        most: usize,
        ready: impl Fn(&Frame<T>) -> bool,
    ) -> Result<(Vec<Frame<T>>, bool), NotReady> {
        self.with(process, |stack| stack.leave(mark, most, ready))
            .unwrap_or(Ok((Vec::new(), true)))
    }

    /// Records that the process is dead: its spans are abandoned. Returns whether the reporter must
    /// be notified, which is once until [`Spans::told`].
    pub fn died(&self, process: u64, at: u64) -> bool {
        let (hash, mut shard) = self.shard(process);
        let found = shard.find_entry(hash, |(of, _)| *of == process);
        let Ok((_, mut stack)) = found.map(|found| found.remove().0) else {
            return false;
        };
        drop(shard);
        stack.frames.truncate(stack.open);
        stack.frames.retain(|frame| frame.is_span);
        if stack.frames.is_empty() {
            return false;
        }
        let mut abandoned = lock(&self.abandoned);
        if abandoned.spans + stack.frames.len() > self.most {
            abandoned.dropped += stack.frames.len() as u64;
        } else {
            abandoned.spans += stack.frames.len();
            let frames = stack.frames;
            abandoned.queue.push_back(Abandoned { frames, at });
        }
        drop(abandoned);
        self.untold.fetch_add(1, Ordering::AcqRel) == 0
    }

    /// The reporter calls this before it looks: a later death notifies it again.
    pub fn told(&self) {
        self.untold.store(0, Ordering::Release);
    }

    /// Runs `read` on up to `most` abandoned spans and their durations, innermost first for each
    /// process. Also returns whether that was all. It stops at a span that is not `ready`. The
    /// spans stay until they are forgotten one by one, so a reporter that dies loses none.
    ///
    /// # Errors
    ///
    /// [`NotReady`] when the first span is not ready.
    pub fn abandoned<R>(
        &self,
        most: usize,
        ready: impl Fn(&Frame<T>) -> bool,
        mut read: impl FnMut(&Frame<T>, u64) -> R,
    ) -> Result<(Vec<R>, bool), NotReady> {
        let mut handed = lock(&self.handed);
        let mut all = self.hand_out(&mut handed, most);
        let mut given = Vec::new();
        for (frame, lasted) in handed.iter() {
            if !ready(frame) {
                all = false;
                break;
            }
            given.push(read(frame, *lasted));
        }
        if given.is_empty() && !handed.is_empty() {
            Err(NotReady)
        } else {
            Ok((given, all))
        }
    }

    /// Fills `handed` up to `most` spans, and returns whether no span is left behind.
    fn hand_out(&self, handed: &mut VecDeque<(Frame<T>, u64)>, most: usize) -> bool {
        let mut abandoned = lock(&self.abandoned);
        let Waiting { queue, spans, .. } = &mut *abandoned;
        while let Some(process) = queue.front_mut() {
            if process.frames.is_empty() {
                queue.pop_front();
            } else if handed.len() < most {
                let at = process.at;
                let frame = process.frames.pop();
                *spans -= 1;
                handed.extend(frame.map(|frame| {
                    let lasted = at.saturating_sub(frame.started);
                    (frame, lasted)
                }));
            } else {
                return false;
            }
        }
        true
    }

    /// Returns how many spans were dropped since the last call, because too many waited.
    pub fn take_dropped(&self) -> u64 {
        std::mem::take(&mut lock(&self.abandoned).dropped)
    }

    /// Removes the next abandoned span, which has been reported, if it still has this id.
    pub fn forget(&self, id: u64) -> Option<Frame<T>> {
        let mut handed = lock(&self.handed);
        handed.front().filter(|(frame, _)| frame.id == id)?;
        handed.pop_front().map(|(frame, _)| frame)
    }

    /// Returns the number of processes with a stack.
    pub fn processes(&self) -> usize {
        let shards = self.shards.iter();
        shards.map(|shard| lock(&shard.0).len()).sum()
    }

    /// Removes all spans.
    pub fn clear(&self) {
        for shard in &self.shards {
            let stacks = std::mem::take(&mut *lock(&shard.0));
            drop(stacks);
        }
        let old = std::mem::take(&mut *lock(&self.abandoned));
        drop(old);
        lock(&self.handed).clear();
        self.told();
    }
}

impl<T: Carried> Stack<T> {
    fn innermost(&mut self) -> Option<&mut Frame<T>> {
        self.frames[..self.open].last_mut()
    }

    /// Opens a frame; the caller sets its fields.
    #[inline]
    fn open(&mut self) -> &mut Frame<T> {
        if self.open == self.frames.len() {
            self.frames.push(Frame::default());
        }
        self.open += 1;
        &mut self.frames[self.open - 1]
    }

    #[inline]
    fn start(&mut self, now: u64, deepest: u32, fill: impl FnOnce(&mut T)) -> Started {
        let parent = self.frames[..self.open].last();
        let depth = parent.map_or(1, |parent| parent.depth + 1);
        let inherited = parent.map(|parent| (parent.id, parent.trace, parent.flags));
        let state = parent.and_then(|parent| parent.state.clone());
        let started = Started::new(&mut self.random, inherited);
        if depth <= deepest {
            let frame = self.open();
            (frame.id, frame.parent) = (started.id, started.parent);
            (frame.trace, frame.flags, frame.state) = (started.trace, started.flags, state);
            (frame.is_span, frame.depth, frame.started) = (true, depth, now);
            fill(&mut frame.body);
        }
        started
    }

    /// Returns the position of the innermost span, or of the span with this id.
    #[inline]
    fn index_of(&self, id: Option<u64>) -> Option<usize> {
        let frames = &self.frames[..self.open];
        match id {
            None => frames.len().checked_sub(1).filter(|at| frames[*at].is_span),
            Some(id) => frames
                .iter()
                .rposition(|frame| frame.id == id && frame.is_span),
        }
    }

    /// Closes a frame and drops its data.
    #[inline]
    fn close(&mut self, at: usize) {
        self.frames[at].body.clear();
        self.frames[at].state = None;
        if at + 1 < self.open {
            self.frames[at..self.open].rotate_left(1);
        }
        self.open -= 1;
    }

    fn leave(
        &mut self,
        mark: u64,
        most: usize,
        ready: impl Fn(&Frame<T>) -> bool,
    ) -> Result<(Vec<Frame<T>>, bool), NotReady> {
        let is_mark = |frame: &Frame<T>| !frame.is_span && frame.started == mark;
        let mut left = Vec::new();
        if !self.frames[..self.open].iter().rev().any(is_mark) {
            return Ok((left, true));
        }
        while let Some(frame) = self.innermost() {
            frame.state = None;
            if is_mark(frame) {
                self.open -= 1;
                return Ok((left, true));
            }
            if frame.is_span {
                if left.len() == most || !ready(frame) {
                    break;
                }
                left.push(std::mem::take(frame));
            }
            self.open -= 1;
        }
        if left.is_empty() {
            Err(NotReady)
        } else {
            Ok((left, false))
        }
    }
}

impl Started {
    #[inline]
    fn new(random: &mut Random, parent: Option<(u64, u128, u8)>) -> Self {
        let mut word = || random.next_u64().max(1);
        let id = word();
        let root = || (0, u128::from(word()) << 64 | u128::from(word()), SAMPLED);
        let (parent, trace, flags) = parent.unwrap_or_else(root);
        Started {
            id,
            parent,
            trace,
            flags,
        }
    }
}

#[cfg(test)]
mod tests;
