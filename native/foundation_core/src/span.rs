//! Open spans: a stack of frames for each process.
//!
//! Only the process itself works on its stack, until it dies; then its frames wait to be taken as
//! abandoned. Processes are words here, and what a frame carries is its maker's business (`T`).
//!
//! Stacks are found by their process in shards, each a hash table with a lock. A frame is filled in and read
//! under that lock, where it is: moved out, its hundred bytes would be copied three times over, which
//! cost more than the lock does.

use std::collections::VecDeque;

use hashbrown::HashTable;

use crate::primitive::{AtomicU64, Mutex, MutexGuard, Ordering, lock};
use crate::random::Random;

/// What a frame carries.
pub trait Carried: Default {
    /// Drops what it holds: it will be filled again.
    fn clear(&mut self);
}

/// A frame: an open span, or a context that came from elsewhere.
#[derive(Clone, Debug, Default)]
pub struct Frame<T> {
    /// The span's id. Never 0.
    pub id: u64,
    /// Its parent's, 0 for a root.
    pub parent: u64,
    /// The id of its trace.
    pub trace: u128,
    /// The flags of its trace.
    pub flags: u8,
    /// Whether it is a span: a context from elsewhere carries nothing.
    pub is_span: bool,
    /// How many frames there are around it, and itself.
    depth: u32,
    /// When it was started, in nanoseconds of a clock that does not go back.
    pub started: u64,
    /// What a span carries.
    pub body: T,
}

/// The ids of a span that was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Started {
    /// The span's id.
    pub id: u64,
    /// Its parent's, 0 for a root.
    pub parent: u64,
    /// The id of its trace.
    pub trace: u128,
}

/// The open frames of a process, outermost first.
#[derive(Debug)]
struct Stack<T> {
    /// Those that are open, and behind them those that have been: a frame is written and read where it
    /// is, and not moved.
    frames: Vec<Frame<T>>,
    open: usize,
    /// Makes ids. The process's own, so that an id needs no lock but the stack's.
    random: Random,
}

/// A span is to be closed elsewhere: reading it takes too long here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotReady;

/// Spans that nobody can end any more.
#[derive(Debug)]
struct Abandoned<T> {
    /// Outermost first: they are taken from the end.
    frames: Vec<Frame<T>>,
    at: u64,
}

/// A queue that grows by segments: whoever appends to it does not move what is there, however many
/// have died before.
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

/// The stacks of some processes, by process.
type Stacks<T> = HashTable<(u64, Box<Stack<T>>)>;

/// Stacks that share a lock, and no cache line with others.
#[derive(Debug)]
#[repr(align(64))]
struct Shard<T>(Mutex<Stacks<T>>);

/// The open spans of all processes.
#[derive(Debug)]
pub struct Spans<T> {
    shards: Box<[Shard<T>]>,
    random: Mutex<Random>,
    abandoned: Mutex<Queue<Abandoned<T>>>,
    /// Those that are being told of, with how long they lasted. A lock of its own: reading them may
    /// take long, and those who die must not wait for that.
    handed: Mutex<VecDeque<(Frame<T>, u64)>>,
    deepest: u32,
    /// How many processes' deaths have not been told of.
    untold: AtomicU64,
}

/// Enough that callers on as many schedulers seldom contend.
const SHARDS: usize = 64;

/// Where the stack of a process is: processes are numbered, and not by strangers, so that one
/// multiplication spreads them.
#[inline]
fn hash(process: u64) -> u64 {
    let product = u128::from(process) * 0x9E37_79B9_7F4A_7C15;
    (product >> 64) as u64 ^ product as u64
}

impl<T: Carried> Spans<T> {
    /// Stacks of at most `deepest` frames.
    pub fn new(deepest: u32) -> Self {
        Spans {
            shards: (0..SHARDS).map(|_| Shard(Mutex::default())).collect(),
            random: Mutex::default(),
            abandoned: Mutex::default(),
            handed: Mutex::default(),
            deepest,
            untold: AtomicU64::new(0),
        }
    }

    #[inline]
    fn shard(&self, process: u64) -> (u64, MutexGuard<'_, Stacks<T>>) {
        let hash = hash(process);
        // The low bits choose in the shard's table, and the top seven tag its entries.
        let shard = &self.shards[(hash >> 48) as usize % SHARDS];
        (hash, lock(&shard.0))
    }

    /// What `work` makes of the stack of `process`, if it has one.
    #[inline]
    fn with<R>(&self, process: u64, work: impl FnOnce(&mut Stack<T>) -> R) -> Option<R> {
        let (hash, mut shard) = self.shard(process);
        let (_, stack) = shard.find_mut(hash, |(of, _)| *of == process)?;
        Some(work(stack))
    }

    /// As [`Spans::with`], with a new stack if there is none and `watch` says that the process is alive.
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

    /// Opens a span in the innermost frame of `process`, which `fill` gives what it carries. `watch` is called
    /// for the first of a process and says whether that is alive: if not, and past the depth, the span has ids
    /// and is not kept.
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

    /// Closes the innermost span of `process`, or the one of an id: what `read` makes of it. What
    /// makes nothing of it leaves it open.
    #[inline]
    pub fn finish<R, E>(
        &self,
        process: u64,
        id: Option<u64>,
        read: impl FnOnce(&mut Frame<T>) -> Result<R, E>,
    ) -> Result<Option<R>, E> {
        self.with(process, |stack| {
            let Some(at) = stack.position(id) else {
                return Ok(None);
            };
            let result = read(&mut stack.frames[at])?;
            stack.close(at);
            Ok(Some(result))
        })
        .unwrap_or(Ok(None))
    }

    /// What `read` makes of the innermost frame of `process`.
    pub fn innermost<R>(&self, process: u64, read: impl FnOnce(&mut Frame<T>) -> R) -> Option<R> {
        self.with(process, |stack| stack.innermost().map(read))?
    }

    /// Enters a context: the mark to leave it by, `None` when the process is dead.
    pub fn enter(
        &self,
        process: u64,
        (trace, id, flags): (u128, u64, u8),
        mark: u64,
        watch: impl FnOnce() -> bool,
    ) -> Option<u64> {
        self.with_new(process, watch, |stack| {
            let depth = stack.innermost().map_or(1, |frame| frame.depth + 1);
            let frame = stack.open();
            (frame.id, frame.parent, frame.trace, frame.flags) = (id, 0, trace, flags);
            (frame.is_span, frame.depth, frame.started) = (false, depth, mark);
            mark
        })
    }

    /// Leaves the context of a mark: up to `most` of the spans that are open in it, innermost first, and
    /// whether that was all. It stops at one that is not `ready`.
    ///
    /// # Errors
    ///
    /// [`NotReady`] when that is the first.
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

    /// The process is dead: its spans are abandoned. Whether somebody is to be told, which is once
    /// until [`Spans::told`].
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
        lock(&self.abandoned).push_back(Abandoned {
            frames: stack.frames,
            at,
        });
        self.untold.fetch_add(1, Ordering::AcqRel) == 0
    }

    /// Whoever is told looks now: a death from here on is to be told of again.
    pub fn told(&self) {
        self.untold.store(0, Ordering::Release);
    }

    /// What `read` makes of up to `most` abandoned spans and how long they lasted, innermost first for
    /// each process, and whether that is all. They stay until they are forgotten one by one, so
    /// that none is lost with whoever asked. It stops at one that is not `ready`.
    ///
    /// # Errors
    ///
    /// [`NotReady`] when that is the first.
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

    /// Fills `handed` up to `most`, and says whether nothing is left behind it.
    fn hand_out(&self, handed: &mut VecDeque<(Frame<T>, u64)>, most: usize) -> bool {
        let mut abandoned = lock(&self.abandoned);
        while let Some(process) = abandoned.front_mut() {
            if process.frames.is_empty() {
                abandoned.pop_front();
            } else if handed.len() < most {
                let at = process.at;
                let frame = process.frames.pop();
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

    /// The next abandoned span has been told of, if it is still the one of this id: it is taken out.
    pub fn forget(&self, id: u64) -> Option<Frame<T>> {
        let mut handed = lock(&self.handed);
        handed.front().filter(|(frame, _)| frame.id == id)?;
        handed.pop_front().map(|(frame, _)| frame)
    }

    /// How many processes have a stack.
    pub fn processes(&self) -> usize {
        let shards = self.shards.iter();
        shards.map(|shard| lock(&shard.0).len()).sum()
    }

    /// Forgets all spans.
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

    /// Opens a frame, whose fields are yet to be set.
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
        let (flags, depth) = parent.map_or((1, 1), |parent| (parent.flags, parent.depth + 1));
        let inherited = parent.map(|parent| (parent.id, parent.trace));
        let started = Started::new(&mut self.random, inherited);
        if depth <= deepest {
            let frame = self.open();
            (frame.id, frame.parent) = (started.id, started.parent);
            (frame.trace, frame.flags) = (started.trace, flags);
            (frame.is_span, frame.depth, frame.started) = (true, depth, now);
            fill(&mut frame.body);
        }
        started
    }

    /// Where the innermost span is, or the one of an id.
    #[inline]
    fn position(&self, id: Option<u64>) -> Option<usize> {
        let frames = &self.frames[..self.open];
        match id {
            None => frames.len().checked_sub(1).filter(|at| frames[*at].is_span),
            Some(id) => frames
                .iter()
                .rposition(|frame| frame.id == id && frame.is_span),
        }
    }

    /// Closes a frame, and drops what it carries.
    #[inline]
    fn close(&mut self, at: usize) {
        self.frames[at].body.clear();
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
    fn new(random: &mut Random, parent: Option<(u64, u128)>) -> Self {
        let mut word = || random.next_u64().max(1);
        let id = word();
        let (parent, trace) =
            parent.unwrap_or_else(|| (0, u128::from(word()) << 64 | u128::from(word())));
        Started { id, parent, trace }
    }
}

#[cfg(test)]
mod tests;
