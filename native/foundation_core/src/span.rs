//! Open spans: a stack of frames for each process.
//!
//! Only the process itself works on its stack, until it dies; then its frames wait to be taken as
//! abandoned. Processes are words here, and what a frame carries is its maker's business (`T`), as is
//! what a stack holds on to for as long as its process lives (`W`).

use std::collections::VecDeque;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use crate::primitive::{AtomicU64, Mutex, Ordering, lock};
use crate::random::Random;

/// A frame: an open span, or a context that came from elsewhere.
#[derive(Debug)]
pub struct Frame<T> {
    /// The span's id. Never 0.
    pub id: u64,
    /// Its parent's, 0 for a root.
    pub parent: u64,
    /// The id of its trace.
    pub trace: u128,
    /// The flags of its trace.
    pub flags: u8,
    /// When it was started, in nanoseconds of a clock that does not go back.
    pub started: u64,
    /// How many frames there are around it, and itself.
    depth: u32,
    /// What a span carries; `None` is a context from elsewhere.
    pub body: Option<T>,
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

#[derive(Debug)]
struct Stack<T, W> {
    frames: Vec<Frame<T>>,
    /// Makes ids. The process's own, so that an id needs no lock but the stack's.
    random: Random,
    /// Kept until the process dies.
    _watch: W,
}

/// A span is to be closed elsewhere: reading it takes too long here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotReady;

/// Spans that nobody can end any more.
#[derive(Debug)]
pub struct Abandoned<T> {
    /// Outermost first: they are taken from the end.
    frames: Vec<Frame<T>>,
    at: u64,
}

/// The open spans of all processes.
#[derive(Debug)]
pub struct Spans<T, W> {
    stacks: DashMap<u64, Stack<T, W>, foldhash::quality::RandomState>,
    random: Box<[Mutex<Random>]>,
    abandoned: Mutex<VecDeque<Abandoned<T>>>,
    /// Those that are being told of, with how long they lasted. A lock of its own: reading them may
    /// take long, and those who die must not wait for that.
    handed: Mutex<VecDeque<(Frame<T>, u64)>>,
    deepest: u32,
    /// How many processes' deaths have not been told of.
    untold: AtomicU64,
}

/// What the generators of stacks are forked from: enough that callers on as many schedulers seldom
/// meet.
const GENERATORS: usize = 16;

impl<T, W> Spans<T, W> {
    /// Stacks of at most `deepest` frames.
    pub fn new(deepest: u32) -> Self {
        Spans {
            stacks: DashMap::default(),
            random: (0..GENERATORS).map(|_| Mutex::default()).collect(),
            abandoned: Mutex::default(),
            handed: Mutex::default(),
            deepest,
            untold: AtomicU64::new(0),
        }
    }

    fn generator(&self, process: u64) -> Random {
        // The low bits of a process's word are the same for all.
        let generator = (process >> 4) as usize % GENERATORS;
        lock(&self.random[generator]).fork()
    }

    /// Opens a span in the innermost frame of `process`. `watch` is called for the first of a process
    /// and answers `None` when the process is dead: then, and past the depth, the span has ids and is not kept.
    pub fn start(
        &self,
        process: u64,
        now: u64,
        body: T,
        watch: impl FnOnce() -> Option<W>,
    ) -> Started {
        match self.stacks.entry(process) {
            Entry::Occupied(mut stack) => {
                let stack = stack.get_mut();
                let frame = Frame::new(&mut stack.random, stack.frames.last(), now, body);
                let started = frame.ids();
                if frame.depth <= self.deepest {
                    stack.frames.push(frame);
                }
                started
            }
            Entry::Vacant(place) => {
                let mut random = self.generator(process);
                let frame = Frame::new(&mut random, None, now, body);
                let started = frame.ids();
                if let Some(watch) = watch() {
                    place.insert(Stack {
                        frames: vec![frame],
                        random,
                        _watch: watch,
                    });
                }
                started
            }
        }
    }

    /// Closes the innermost span of `process`, or the one of an id, if it is `ready`; else it stays.
    ///
    /// # Errors
    ///
    /// [`NotReady`] when it is not.
    pub fn finish(
        &self,
        process: u64,
        id: Option<u64>,
        ready: impl Fn(&Frame<T>) -> bool,
    ) -> Result<Option<Frame<T>>, NotReady> {
        let Some(mut stack) = self.stacks.get_mut(&process) else {
            return Ok(None);
        };
        let frames = &mut stack.frames;
        let at = match id {
            None => frames.len().checked_sub(1),
            Some(id) => frames
                .iter()
                .rposition(|frame| frame.id == id && frame.body.is_some()),
        };
        match at {
            Some(at) if frames[at].body.is_none() => Ok(None),
            Some(at) if !ready(&frames[at]) => Err(NotReady),
            Some(at) => Ok(Some(frames.remove(at))),
            None => Ok(None),
        }
    }

    /// What `read` makes of the innermost frame of `process`.
    pub fn innermost<R>(&self, process: u64, read: impl FnOnce(&mut Frame<T>) -> R) -> Option<R> {
        self.stacks.get_mut(&process)?.frames.last_mut().map(read)
    }

    /// Enters a context: the mark to leave it by, `None` when the process is dead.
    pub fn enter(
        &self,
        process: u64,
        (trace, span, flags): (u128, u64, u8),
        mark: u64,
        watch: impl FnOnce() -> Option<W>,
    ) -> Option<u64> {
        let mut stack = match self.stacks.entry(process) {
            Entry::Occupied(stack) => stack.into_ref(),
            Entry::Vacant(place) => place.insert(Stack {
                frames: Vec::new(),
                random: self.generator(process),
                _watch: watch()?,
            }),
        };
        let depth = stack.frames.last().map_or(1, |frame| frame.depth + 1);
        stack.frames.push(Frame {
            id: span,
            parent: 0,
            trace,
            flags,
            started: mark,
            depth,
            body: None,
        });
        Some(mark)
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
        let mut left = Vec::new();
        let Some(mut stack) = self.stacks.get_mut(&process) else {
            return Ok((left, true));
        };
        let frames = &mut stack.frames;
        let is_mark = |frame: &Frame<T>| frame.body.is_none() && frame.started == mark;
        if !frames.iter().rev().any(is_mark) {
            return Ok((left, true));
        }
        while let Some(frame) = frames.pop() {
            if is_mark(&frame) {
                return Ok((left, true));
            }
            if frame.body.is_none() {
                continue;
            }
            if left.len() == most || !ready(&frame) {
                frames.push(frame);
                break;
            }
            left.push(frame);
        }
        if left.is_empty() {
            Err(NotReady)
        } else {
            Ok((left, false))
        }
    }

    /// The process is dead: its spans are abandoned. Whether somebody is to be told, which is once
    /// until [`Spans::told`].
    pub fn died(&self, process: u64, at: u64) -> bool {
        // The stack's watch may be what called this: it is dropped when nothing is locked.
        let Some((_, mut stack)) = self.stacks.remove(&process) else {
            return false;
        };
        stack.frames.retain(|frame| frame.body.is_some());
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

    /// The next abandoned span has been told of, if it is still the one of this id.
    pub fn forget(&self, id: u64) -> bool {
        let mut handed = lock(&self.handed);
        let next = handed.front().is_some_and(|(frame, _)| frame.id == id);
        if next {
            handed.pop_front();
        }
        next
    }

    /// How many processes have a stack.
    pub fn processes(&self) -> usize {
        self.stacks.len()
    }

    /// Forgets all spans.
    pub fn clear(&self) {
        self.stacks.clear();
        lock(&self.abandoned).clear();
        lock(&self.handed).clear();
        self.told();
    }
}

impl<T> Frame<T> {
    #[inline]
    fn new(random: &mut Random, parent: Option<&Frame<T>>, now: u64, body: T) -> Self {
        let mut word = || random.next_u64().max(1);
        let id = word();
        let (parent, trace, flags, depth) = match parent {
            Some(parent) => (parent.id, parent.trace, parent.flags, parent.depth + 1),
            None => (0, u128::from(word()) << 64 | u128::from(word()), 1, 1),
        };
        Frame {
            id,
            parent,
            trace,
            flags,
            started: now,
            depth,
            body: Some(body),
        }
    }

    fn ids(&self) -> Started {
        Started {
            id: self.id,
            parent: self.parent,
            trace: self.trace,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans() -> Spans<&'static str, ()> {
        Spans::new(100)
    }

    fn start(spans: &Spans<&'static str, ()>, name: &'static str) -> Started {
        spans.start(1, 10, name, || Some(()))
    }

    fn finish(
        spans: &Spans<&'static str, ()>,
        process: u64,
        id: Option<u64>,
    ) -> Option<Frame<&'static str>> {
        spans
            .finish(process, id, |_| true)
            .unwrap_or_else(|NotReady| panic!("all are ready"))
    }

    fn leave(
        spans: &Spans<&'static str, ()>,
        mark: u64,
        most: usize,
    ) -> (Vec<Frame<&'static str>>, bool) {
        let left = spans.leave(1, mark, most, |_| true);
        left.unwrap_or_else(|NotReady| panic!("all are ready"))
    }

    type Told = (u64, Option<&'static str>, u64);

    fn look(spans: &Spans<&'static str, ()>, most: usize) -> (Vec<Told>, bool) {
        let read = |frame: &Frame<_>, lasted| (frame.id, frame.body, lasted);
        let told = spans.abandoned(most, |_| true, read);
        told.unwrap_or_else(|NotReady| panic!("all are ready"))
    }

    fn take(spans: &Spans<&'static str, ()>) -> Vec<Told> {
        let (told, _all) = look(spans, 2);
        for (id, ..) in &told {
            assert!(spans.forget(*id) && !spans.forget(*id));
        }
        told
    }

    fn names(frames: &[Frame<&'static str>]) -> Vec<&'static str> {
        frames.iter().filter_map(|frame| frame.body).collect()
    }

    #[test]
    fn spans_nest_in_their_process() {
        let spans = spans();
        let outer = start(&spans, "outer");
        let inner = start(&spans, "inner");
        let other = spans.start(2, 10, "other", || Some(()));
        assert_eq!((outer.parent, inner.parent, other.parent), (0, outer.id, 0));
        assert_eq!(inner.trace, outer.trace);
        assert_ne!(other.trace, outer.trace);
        assert_eq!(
            finish(&spans, 1, None).and_then(|frame| frame.body),
            Some("inner")
        );
        assert_eq!(
            finish(&spans, 1, None).and_then(|frame| frame.body),
            Some("outer")
        );
        assert!(finish(&spans, 1, None).is_none());
    }

    #[test]
    fn a_span_ends_by_its_id_in_its_own_process_only() {
        let spans = spans();
        let outer = start(&spans, "outer");
        start(&spans, "inner");
        assert!(finish(&spans, 2, Some(outer.id)).is_none());
        assert!(finish(&spans, 1, Some(outer.id)).is_some());
        assert!(finish(&spans, 1, Some(outer.id)).is_none());
        assert_eq!(spans.innermost(1, |frame| frame.body), Some(Some("inner")));
    }

    #[test]
    fn a_context_is_a_parent_and_no_span() {
        let spans = spans();
        start(&spans, "own");
        let mark = spans.enter(1, (7, 8, 0), 1, || Some(()));
        assert!(finish(&spans, 1, None).is_none());
        assert!(finish(&spans, 1, Some(8)).is_none());
        let inner = start(&spans, "inner");
        assert_eq!((inner.parent, inner.trace), (8, 7));
        start(&spans, "left");
        let mark = mark.unwrap_or(0);
        let (left, all) = leave(&spans, mark, 1);
        assert_eq!((names(&left), all), (vec!["left"], false));
        let (left, all) = leave(&spans, mark, 9);
        assert_eq!((names(&left), all), (vec!["inner"], true));
        assert_eq!(spans.innermost(1, |frame| frame.body), Some(Some("own")));
    }

    #[test]
    fn a_death_abandons_what_is_open_and_is_told_once() {
        let spans = spans();
        start(&spans, "outer");
        start(&spans, "inner");
        spans.start(2, 10, "second", || Some(()));
        spans.start(3, 10, "done", || Some(()));
        finish(&spans, 3, None);
        assert!(!spans.died(3, 20));
        assert!(spans.died(1, 30));
        assert!(!spans.died(2, 40));
        assert!(!spans.died(2, 40));
        spans.told();
        let taken: Vec<_> = take(&spans)
            .into_iter()
            .map(|(_id, body, lasted)| (body, lasted))
            .collect();
        assert_eq!(taken, [(Some("inner"), 20), (Some("outer"), 20)]);
        assert_eq!(take(&spans).len(), 1);
        assert_eq!((take(&spans).len(), spans.processes()), (0, 0));
        start(&spans, "again");
        assert!(spans.died(1, 50));
    }

    #[test]
    fn an_abandoned_span_stays_until_it_is_forgotten() {
        let spans = spans();
        for name in ["outer", "middle", "inner"] {
            start(&spans, name);
        }
        assert!(spans.died(1, 30));
        let (first, all) = look(&spans, 2);
        assert_eq!((first.len(), all), (2, false));
        assert_eq!(look(&spans, 2), (first.clone(), false));
        assert!(!spans.forget(first[1].0), "not the next");
        assert!(spans.forget(first[0].0));
        let (second, all) = look(&spans, 2);
        assert_eq!(
            (second[0], second[1].1, all),
            (first[1], Some("outer"), true)
        );
        spans.clear();
        assert_eq!(look(&spans, 2), (vec![], true));
    }

    #[test]
    fn a_span_of_a_dead_process_or_past_the_depth_is_not_kept() {
        let spans = Spans::new(2);
        assert_ne!(spans.start(1, 0, "dead", || None::<()>).id, 0);
        assert_eq!(spans.processes(), 0);
        for _ in 0..3 {
            spans.start(1, 0, "level", || Some(()));
        }
        assert!(finish(&spans, 1, None).is_some() && finish(&spans, 1, None).is_some());
        assert!(finish(&spans, 1, None).is_none());
    }

    #[test]
    fn a_span_that_is_not_ready_stays() {
        let spans = spans();
        let id = start(&spans, "large").id;
        assert!(spans.finish(1, None, |_| false).is_err());
        assert!(spans.finish(1, Some(id), |_| false).is_err());
        spans.enter(1, (7, 8, 0), 5, || Some(()));
        start(&spans, "large too");
        assert!(spans.leave(1, 5, 9, |_| false).is_err());
        assert_eq!(
            spans.innermost(1, |frame| frame.body),
            Some(Some("large too"))
        );
        spans.died(1, 9);
        assert!(spans.abandoned(9, |_| false, |_, _| ()).is_err());
        assert_eq!(take(&spans).len(), 2);
        assert_eq!(look(&spans, 9), (vec![], true));
    }
}
