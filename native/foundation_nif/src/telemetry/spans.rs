//! The NIFs for spans.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use foundation_core::batch::Payload;
use foundation_core::span::{Carried, Context, Frame, NotReady, Spans};
use rustler::{Encoder, Env, LocalPid, Monitor, Resource, ResourceArc, Term, atoms};

use super::stored::{self, Stored};
use super::{clock, is_open, nil, number, takes_new};
use crate::background::{self, Job};
use crate::faults;
use crate::measure::Call;
use crate::process::caller;
use crate::raw::{Failure, NifResult, may_take_long, nifs};
use crate::term::{NODES_MAX, empty_list, is_map, tuple};

nifs! {
    span_start / 2,
    span_finish / 1,
    span_current / 0,
    span_finish_of / 2,
    span_current_of / 1,
    span_put_attributes / 1,
    span_add_event / 1,
    span_add_link / 1,
    span_enter / 4,
    span_leave / 1,
    span_watch / 1,
    span_abandoned / 0,
    span_forget / 1,
}

atoms! { ok, error, none, remote, span, foundation_spans, abandoned }

/// The greatest depth. Recursion that opens a span at each level must not take all memory.
const DEEPEST: u32 = 10_000;
/// The most abandoned spans that wait while their handler is busy.
const WAITING_MAX: usize = 100_000;
/// The limits of the OpenTelemetry specification.
const EVENTS_MAX: usize = 128;
const LINKS_MAX: usize = 128;
/// The most bytes of a `tracestate`.
const STATE_MAX: usize = 512;
/// Spans that are read in one call.
const TAKEN: usize = 32;

/// The data of a span.
#[derive(Clone, Default)]
struct Body {
    /// Name and attributes.
    head: Stored,
    /// Erlang's monotonic time at its start, in nanoseconds.
    started_at: i64,
    extra: Option<Box<Extra>>,
}

impl Carried for Body {
    #[inline]
    fn clear(&mut self) {
        self.extra = None;
        // An inline payload owns no memory.
        if !matches!(self.head, Payload::Inline(..)) {
            self.head = Stored::default();
        }
    }
}

/// Data that only some spans have.
#[derive(Clone, Default)]
struct Extra {
    /// Attributes that are newer than those in `head`.
    attributes: Option<Stored>,
    events: Vec<Stored>,
    links: Vec<Stored>,
}

static SPANS: LazyLock<Spans<Body>> = LazyLock::new(|| Spans::new(DEEPEST, WAITING_MAX));

/// The number of resources that hold monitors. Each has a tree of monitors with a lock, so one
/// resource would be a point of contention.
const WATCHES: usize = 64;
static WATCHED: LazyLock<Vec<ResourceArc<SpanWatch>>> =
    LazyLock::new(|| (0..WATCHES).map(|_| ResourceArc::new(SpanWatch)).collect());

/// Holds the monitors of some of the processes that have had a span.
struct SpanWatch;

#[rustler::resource_impl]
impl Resource for SpanWatch {
    const IMPLEMENTS_DOWN: bool = true;

    /// Runs in the exiting process, which spreads the cost of deaths over the schedulers.
    fn down<'a>(&'a self, env: Env<'a>, pid: LocalPid, _monitor: Monitor) {
        let _measured = Call::begin(c"span_down".as_ptr());
        faults::reach(c"process with spans down");
        // SAFETY: the VM's structure is one word, and a local process's word identifies its stack.
        let process =
            unsafe { std::mem::transmute::<rustler::sys::ErlNifPid, u64>(*pid.as_c_arg()) };
        if SPANS.died(process, clock::now()) {
            tell(env);
        }
    }
}

static WATCHER: Mutex<Option<LocalPid>> = Mutex::new(None);

/// Notifies the watcher. Without a watcher the next one looks when it starts.
fn tell(env: Env) {
    let watcher = *WATCHER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(watcher) = watcher {
        let _ = env.send(&watcher, (foundation_spans(), abandoned()));
    }
}

/// Monitors a process. Returns whether it is alive.
fn monitor(env: Env, process: u64) -> bool {
    faults::reach(c"watch a process with spans");
    // The low bits are equal for all processes.
    let watch = &WATCHED[(process >> 4) as usize % WATCHES];
    env.monitor(watch, &crate::process::local(process))
        .is_some()
}

/// Returns eight lower-case hex digits, computed side by side in one word.
fn digits(number: u32) -> [u8; 8] {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let mut nibbles = u64::from(number);
    nibbles = (nibbles | nibbles << 16) & 0x0000_FFFF_0000_FFFF;
    nibbles = (nibbles | nibbles << 8) & 0x00FF_00FF_00FF_00FF;
    nibbles = (nibbles | nibbles << 4) & 0x0F0F_0F0F_0F0F_0F0F;
    let above_nine = (nibbles + 6 * EACH) >> 4 & EACH;
    let to_letter = u64::from(b'a' - b'9' - 1);
    (nibbles + u64::from(b'0') * EACH + above_nine * to_letter).to_be_bytes()
}

fn span_id(env: Env<'_>, id: u64) -> Term<'_> {
    let halves = [digits((id >> 32) as u32), digits(id as u32)];
    crate::term::binary_term(env, halves.as_flattened())
}

fn parent_id(env: Env<'_>, id: u64) -> Term<'_> {
    match id {
        0 => rustler::types::atom::nil().to_term(env),
        id => span_id(env, id),
    }
}

fn trace_id(env: Env<'_>, id: u128) -> Term<'_> {
    let quarters = [96, 64, 32, 0].map(|shift| digits((id >> shift) as u32));
    crate::term::binary_term(env, quarters.as_flattened())
}

/// Decodes a binary of hex digits; returns `None` for any other term.
fn number_of(term: Term) -> Option<u128> {
    let digits = crate::term::binary(term)?;
    (1..=32).contains(&digits.len()).then_some(())?;
    let (high, low) = digits.split_at(digits.len().saturating_sub(16));
    Some(u128::from(number_of_digits(high)?) << 64 | u128::from(number_of_digits(low)?))
}

/// The number of hex digits in a span id.
const SPAN_DIGITS: usize = 16;

/// The value of each hex digit, or [`NO_DIGIT`] for any other byte.
static WORTH: [u8; 256] = {
    let mut worth = [NO_DIGIT; 256];
    let mut digit = 0;
    while digit < 16 {
        worth[b"0123456789abcdef"[digit] as usize] = digit as u8;
        digit += 1;
    }
    worth
};
const NO_DIGIT: u8 = 0x80;

/// Like [`number_of`], for at most 16 digits.
#[inline]
fn number_of_digits(digits: &[u8]) -> Option<u64> {
    let (mut number, mut seen) = (0, 0);
    for digit in digits {
        let worth = WORTH[usize::from(*digit)];
        seen |= worth;
        number = number << 4 | u64::from(worth & 0xF);
    }
    (seen < NO_DIGIT).then_some(number)
}

/// Returns whether these tables keep the caller's spans. While the tables are diverted, a process
/// with open spans here stays here. So it switches to the other backend between two root spans,
/// never inside one.
#[inline]
fn answers(env: Env<'_>) -> bool {
    takes_new() || (is_open() && SPANS.innermost(caller(env), |_| ()).is_some())
}

fn require_map(term: Term) -> Result<(), Failure> {
    if is_map(term) {
        Ok(())
    } else {
        Err(Failure::BadArgument)
    }
}

/// Returns `{span_id, parent_id, trace_id, flags, system_time, monotonic_time}`. Cost: the encoding
/// of the terms, plus O(1).
fn span_start<'a>(env: Env<'a>, [name, attributes]: [Term<'a>; 2]) -> NifResult<'a> {
    require_map(attributes)?;
    if !answers(env) {
        return nil(env);
    }
    let head = stored::prepare(env, [name, attributes])?;
    let (process, now) = (caller(env), clock::now());
    let watch = || monitor(env, process);
    let (system_time, monotonic_time) = clock::erlang_times(now);
    let started = SPANS.start(process, now, watch, |body| {
        head.keep(&mut body.head);
        body.started_at = monotonic_time;
    });
    let parts = [
        span_id(env, started.id),
        parent_id(env, started.parent),
        trace_id(env, started.trace),
        started.flags.encode(env),
        system_time.encode(env),
        monotonic_time.encode(env),
    ];
    Ok(tuple(env, parts))
}

impl From<NotReady> for Failure {
    fn from(NotReady: NotReady) -> Self {
        Failure::TakesLong
    }
}

/// Returns whether all data of a span meets a condition.
fn all_of(body: &Body, such: impl Fn(&Stored) -> bool) -> bool {
    such(&body.head)
        && body.extra.as_ref().is_none_or(|extra| {
            extra.attributes.iter().all(&such)
                && extra.events.iter().all(&such)
                && extra.links.iter().all(&such)
        })
}

/// Returns the cost of reading a span: see [`stored::cost`].
fn cost(frame: &Frame<Body>) -> usize {
    let cost = Cell::new(0);
    all_of(&frame.body, |stored| {
        cost.set(cost.get() + stored::cost(stored));
        true
    });
    cost.get()
}

/// Returns whether a span can be read here. A span that takes long is not read on a normal
/// scheduler.
fn is_ready(frame: &Frame<Body>) -> bool {
    may_take_long() || cost(frame) <= NODES_MAX
}

/// Like [`is_ready`], for several spans that share the budget of one call.
fn are_ready() -> impl Fn(&Frame<Body>) -> bool {
    let spent = Cell::new(0);
    move |frame| {
        spent.set(spent.get() + cost(frame));
        may_take_long() || spent.get() <= NODES_MAX
    }
}

/// Returns whether reading a span is fast enough to do under its lock.
fn is_short(frame: &Frame<Body>) -> bool {
    all_of(&frame.body, |stored| !matches!(stored, Payload::Object(_)))
}

/// `{name, span_id, parent_id, trace_id, flags, attributes, events, links, duration, ended_at}`
#[inline]
fn span_term<'a>(env: Env<'a>, frame: &Frame<Body>, id: Term<'a>, duration: u64) -> NifResult<'a> {
    let [name, mut attributes] = stored::terms(env, &frame.body.head)?;
    let mut events = empty_list(env);
    let mut links = events;
    if let Some(extra) = &frame.body.extra {
        if let Some(newer) = &extra.attributes {
            [attributes] = stored::terms(env, newer)?;
        }
        for event in extra.events.iter().rev() {
            let [event] = stored::terms(env, event)?;
            events = events.list_prepend(event);
        }
        for link in extra.links.iter().rev() {
            let [link] = stored::terms(env, link)?;
            links = links.list_prepend(link);
        }
    }
    let parts = [
        name,
        id,
        parent_id(env, frame.parent),
        trace_id(env, frame.trace),
        frame.flags.encode(env),
        attributes,
        events,
        links,
        duration.encode(env),
        (frame.body.started_at + duration as i64).encode(env),
    ];
    Ok(tuple(env, parts))
}

/// A finished span. A short one is read under the lock. A long one is taken out and read
/// afterwards.
enum Finished<'a> {
    Read(Term<'a>),
    Taken(Box<Frame<Body>>),
}

/// Cost: the decoding of the span's data, and the search for an outer span among at most 10,000.
fn span_finish<'a>(env: Env<'a>, [id]: [Term<'a>; 1]) -> NifResult<'a> {
    if !answers(env) {
        return nil(env);
    }
    let wanted = if super::is_nil(id) {
        None
    } else {
        Some(wanted(id)?)
    };
    finish(env, caller(env), wanted, id)
}

/// Like [`span_finish`], for a span of any local process.
fn span_finish_of<'a>(env: Env<'a>, [pid, id]: [Term<'a>; 2]) -> NifResult<'a> {
    let process = local(pid)?;
    let wanted = number_of(id).and_then(|id| u64::try_from(id).ok());
    let wanted = wanted.ok_or(Failure::BadArgument)?;
    if !is_open() {
        return nil(env);
    }
    finish(env, process, Some(wanted), id)
}

/// Returns the word of a local process.
fn local(pid: Term) -> Result<u64, Failure> {
    let _local: LocalPid = pid.decode().map_err(|_| Failure::BadArgument)?;
    crate::process::known(pid)?.ok_or(Failure::BadArgument)
}

/// Returns the number of a span id. A binary that is no id gives 0, which no span has.
fn wanted(id: Term) -> Result<u64, Failure> {
    let digits = crate::term::required_binary(id)?;
    let is_id = digits.len() == SPAN_DIGITS;
    Ok(is_id
        .then(|| number_of_digits(digits))
        .flatten()
        .unwrap_or(0))
}

fn finish<'a>(env: Env<'a>, process: u64, wanted: Option<u64>, id: Term<'a>) -> NifResult<'a> {
    let now = clock::now();
    let read = |frame: &mut Frame<Body>| {
        if is_short(frame) {
            let id = wanted.map_or_else(|| span_id(env, frame.id), |_| id);
            let duration = now.saturating_sub(frame.started);
            span_term(env, frame, id, duration).map(Finished::Read)
        } else if is_ready(frame) {
            Ok(Finished::Taken(Box::new(std::mem::take(frame))))
        } else {
            Err(Failure::TakesLong)
        }
    };
    match SPANS.finish(process, wanted, read)? {
        Some(Finished::Read(span)) => Ok(span),
        Some(Finished::Taken(frame)) => {
            let duration = now.saturating_sub(frame.started);
            span_term(env, &frame, span_id(env, frame.id), duration)
        }
        None => Ok(error().to_term(env)),
    }
}

/// The `tracestate` of a frame, or `nil`.
fn state<'a>(env: Env<'a>, frame: &Frame<Body>) -> Term<'a> {
    match &frame.state {
        Some(state) => crate::term::binary_term(env, state),
        None => rustler::types::atom::nil().to_term(env),
    }
}

/// `{:span, span, tracestate}`, `{:remote, trace_id, span_id, flags, tracestate}` or `:none`.
fn span_current<'a>(env: Env<'a>, []: [Term<'a>; 0]) -> NifResult<'a> {
    if !answers(env) {
        return nil(env);
    }
    // Copy the frame, and read the copy after the lock is released.
    let Some(frame) = SPANS.innermost(caller(env), |frame| frame.clone()) else {
        return Ok(none().to_term(env));
    };
    if !is_ready(&frame) {
        return Err(Failure::TakesLong);
    }
    let id = span_id(env, frame.id);
    let state = state(env, &frame);
    Ok(if frame.is_span {
        (span(), span_term(env, &frame, id, 0)?, state).encode(env)
    } else {
        let trace = trace_id(env, frame.trace);
        (remote(), trace, id, frame.flags, state).encode(env)
    })
}

/// `{:remote, trace_id, span_id, flags, tracestate}` of the innermost frame of any local process,
/// or `:none`.
fn span_current_of<'a>(env: Env<'a>, [pid]: [Term<'a>; 1]) -> NifResult<'a> {
    let process = local(pid)?;
    if !is_open() {
        return nil(env);
    }
    let read = |frame: &mut Frame<Body>| {
        let (trace, id) = (trace_id(env, frame.trace), span_id(env, frame.id));
        (remote(), trace, id, frame.flags, state(env, frame)).encode(env)
    };
    let current = SPANS.innermost(process, read);
    Ok(current.unwrap_or_else(|| none().to_term(env)))
}

/// Changes the data of the innermost frame, except its name, if the frame is a span.
fn change<'a>(env: Env<'a>, change: impl FnOnce(&mut Extra)) -> NifResult<'a> {
    if !answers(env) {
        return nil(env);
    }
    let changed = SPANS.innermost(caller(env), |frame| {
        if frame.is_span {
            change(frame.body.extra.get_or_insert_default());
        }
        frame.is_span
    });
    Ok(match changed {
        Some(true) => ok().to_term(env),
        _ => error().to_term(env),
    })
}

fn span_put_attributes<'a>(env: Env<'a>, [attributes]: [Term<'a>; 1]) -> NifResult<'a> {
    require_map(attributes)?;
    let attributes = stored::store(env, [attributes])?;
    change(env, |extra| extra.attributes = Some(attributes))
}

fn span_add_event<'a>(env: Env<'a>, [event]: [Term<'a>; 1]) -> NifResult<'a> {
    require_map(event)?;
    let event = stored::store(env, [event])?;
    change(env, |extra| {
        if extra.events.len() < EVENTS_MAX {
            extra.events.push(event);
        }
    })
}

fn span_add_link<'a>(env: Env<'a>, [link]: [Term<'a>; 1]) -> NifResult<'a> {
    require_map(link)?;
    let link = stored::store(env, [link])?;
    change(env, |extra| {
        if extra.links.len() < LINKS_MAX {
            extra.links.push(link);
        }
    })
}

/// Returns the mark by which to leave the context.
fn span_enter<'a>(env: Env<'a>, [trace, span, flags, state]: [Term<'a>; 4]) -> NifResult<'a> {
    if !answers(env) {
        return nil(env);
    }
    static MARKS: AtomicU64 = AtomicU64::new(0);
    let (Some(trace), Some(span)) = (number_of(trace), number_of(span)) else {
        return Err(Failure::BadArgument);
    };
    let span = u64::try_from(span).map_err(|_| Failure::BadArgument)?;
    let flags = flags.decode().map_err(|_| Failure::BadArgument)?;
    let state = if super::is_nil(state) {
        None
    } else {
        let state = crate::term::required_binary(state)?;
        if state.len() > STATE_MAX {
            return Err(Failure::BadArgument);
        }
        Some(Arc::from(state))
    };
    let context = Context {
        trace,
        id: span,
        flags,
        state,
    };
    let process = caller(env);
    let mark = MARKS.fetch_add(1, Ordering::Relaxed);
    SPANS.enter(process, context, mark, || monitor(env, process));
    Ok(mark.encode(env))
}

fn taken<'a>(env: Env<'a>, frames: Vec<(Frame<Body>, u64)>, all: bool) -> NifResult<'a> {
    let mut list = Term::list_new_empty(env);
    for (frame, duration) in frames.iter().rev() {
        let id = span_id(env, frame.id);
        list = list.list_prepend(span_term(env, frame, id, *duration)?);
    }
    Ok((list, all).encode(env))
}

/// Returns `{spans, all?}`, a bounded number per call.
fn span_leave<'a>(env: Env<'a>, [mark]: [Term<'a>; 1]) -> NifResult<'a> {
    let mark = number(mark)?;
    if !answers(env) {
        return nil(env);
    }
    let now = clock::now();
    let (frames, all) = SPANS.leave(caller(env), mark, TAKEN, are_ready())?;
    let frames = frames.into_iter().map(|frame| {
        let duration = now.saturating_sub(frame.started);
        (frame, duration)
    });
    taken(env, frames.collect(), all)
}

fn span_watch<'a>(env: Env<'a>, [pid]: [Term<'a>; 1]) -> NifResult<'a> {
    if !is_open() {
        return nil(env);
    }
    let pid: LocalPid = pid.decode().map_err(|_| Failure::BadArgument)?;
    *WATCHER.lock().unwrap_or_else(PoisonError::into_inner) = Some(pid);
    // Notify the new watcher: its predecessor may have died with a message unread.
    tell(env);
    Ok(ok().to_term(env))
}

/// Returns `{spans, all?, dropped}`, a bounded number of spans per call. The spans stay until they
/// are forgotten.
fn span_abandoned<'a>(env: Env<'a>, []: [Term<'a>; 0]) -> NifResult<'a> {
    if !is_open() {
        return nil(env);
    }
    // Rearm before the look, so that a later death sends another message.
    SPANS.told();
    let read = |frame: &Frame<Body>, lasted| span_term(env, frame, span_id(env, frame.id), lasted);
    let (spans, all) = SPANS.abandoned(TAKEN, are_ready(), read)?;
    let spans = spans.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok((spans, all, SPANS.take_dropped()).encode(env))
}

/// Forgets the next abandoned span, if it has this id.
fn span_forget<'a>(env: Env<'a>, [id]: [Term<'a>; 1]) -> NifResult<'a> {
    let id = number_of(id).and_then(|id| u64::try_from(id).ok());
    let id = id.ok_or(Failure::BadArgument)?;
    let forgotten = SPANS.forget(id);
    let is_next = forgotten.is_some();
    // Freeing its data takes about as long as reading it.
    if let Some(frame) = forgotten.filter(|frame| !is_ready(frame)) {
        background::send(Job::Free(Box::new(frame)));
    }
    Ok(is_next.encode(env))
}

/// Returns how many live processes have spans or have had some.
pub fn processes_with_spans() -> usize {
    SPANS.processes()
}

/// Removes all spans.
pub fn clear() {
    SPANS.clear();
}
