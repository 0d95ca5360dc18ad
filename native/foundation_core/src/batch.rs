//! A queue of events that wait to be emitted in batches.
//!
//! Any thread appends, one drains. Draining takes two steps, `peek` and `ack`. Events stay in the
//! queue until they are acknowledged, so a drainer that dies after its `peek` leaves them to its
//! successor.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::primitive::{AtomicU64, Mutex, Ordering, lock};

/// Events per segment. A queue grows by segments, so an append never moves earlier events.
const SEGMENT: usize = 256;
/// The longest event that is stored without an allocation, in bytes.
pub const INLINE: usize = 46;

/// An event's content.
#[derive(Debug)]
pub enum Payload<T> {
    /// A few bytes.
    Inline(u8, [u8; INLINE]),
    /// More bytes.
    Boxed(Arc<[u8]>),
    /// Something else.
    Object(Arc<T>),
}

impl<T> Clone for Payload<T> {
    fn clone(&self) -> Self {
        match self {
            Payload::Inline(len, bytes) => Payload::Inline(*len, *bytes),
            Payload::Boxed(bytes) => Payload::Boxed(Arc::clone(bytes)),
            Payload::Object(kept) => Payload::Object(Arc::clone(kept)),
        }
    }
}

impl<T> Default for Payload<T> {
    #[inline]
    fn default() -> Self {
        Payload::Inline(0, [0; INLINE])
    }
}

impl<T> Payload<T> {
    /// Makes the payload of an encoding.
    #[inline]
    pub fn bytes(bytes: &[u8]) -> Self {
        if bytes.len() <= INLINE {
            let mut inline = [0; INLINE];
            inline[..bytes.len()].copy_from_slice(bytes);
            Payload::Inline(bytes.len() as u8, inline)
        } else {
            Payload::Boxed(bytes.into())
        }
    }
}

/// The outcome of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// The event was added.
    Waiting,
    /// The event was added, to an empty queue.
    First,
    /// The event was added and completes a batch.
    Full,
    /// There was no room; the event was dropped.
    Dropped,
}

/// The outcomes of a queue's events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Events that were acknowledged.
    pub emitted: u64,
    /// Events that were refused.
    pub dropped: u64,
    /// Events that wait.
    pub pending: u64,
}

type Segment<T> = Vec<(u64, Payload<T>)>;

/// Acknowledged events. Dropping them takes time in proportion to their number.
#[derive(Debug)]
#[must_use = "dropping the acknowledged events may take long"]
pub struct Spent<T>(Vec<Segment<T>>);

impl<T> Spent<T> {
    /// Returns the number of events, counting every event of the segments that are dropped here.
    pub fn len(&self) -> usize {
        self.0.len() * SEGMENT
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether any event holds an object, which may take long to drop by itself.
    pub fn has_objects(&self) -> bool {
        let mut events = self.0.iter().flatten();
        events.any(|(_, payload)| matches!(payload, Payload::Object(_)))
    }
}

#[derive(Debug)]
struct Inner<T> {
    segments: VecDeque<Segment<T>>,
    /// The number of acknowledged events in the first segment.
    gone: usize,
    totals: Totals,
}

/// The queue of one event.
#[derive(Debug)]
pub struct Queue<T> {
    inner: Mutex<Inner<T>>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Queue {
            inner: Mutex::new(Inner {
                segments: VecDeque::new(),
                gone: 0,
                totals: Totals::default(),
            }),
        }
    }
}

impl<T> Queue<T> {
    /// Appends an event of the time `at`, if fewer than `most` events wait in all queues that share
    /// `waiting`. A batch is full at `size` events.
    pub fn append(
        &self,
        at: u64,
        payload: Payload<T>,
        size: u64,
        waiting: &AtomicU64,
        most: u64,
    ) -> Appended {
        let mut inner = lock(&self.inner);
        if waiting.fetch_add(1, Ordering::Relaxed) >= most {
            waiting.fetch_sub(1, Ordering::Relaxed);
            inner.totals.dropped += 1;
            return Appended::Dropped;
        }
        match inner.segments.back_mut() {
            Some(segment) if segment.len() < SEGMENT => segment.push((at, payload)),
            _ => {
                let mut segment = Vec::with_capacity(SEGMENT);
                segment.push((at, payload));
                inner.segments.push_back(segment);
            }
        }
        inner.totals.pending += 1;
        match inner.totals.pending {
            pending if pending == size => Appended::Full,
            1 => Appended::First,
            _ => Appended::Waiting,
        }
    }

    /// Returns up to `most` events from the `offset`-th on, oldest first, and how many follow them.
    pub fn peek(&self, offset: usize, most: usize) -> (Vec<(u64, Payload<T>)>, u64) {
        let inner = lock(&self.inner);
        let from = inner.gone + offset;
        let events: Vec<_> = inner
            .segments
            .iter()
            .skip(from / SEGMENT)
            .flatten()
            .skip(from % SEGMENT)
            .take(most)
            .cloned()
            .collect();
        let behind = inner
            .totals
            .pending
            .saturating_sub((offset + events.len()) as u64);
        (events, behind)
    }

    /// Removes the `count` oldest events as emitted. Returns how many still wait, and what to drop.
    pub fn ack(&self, count: u64, waiting: &AtomicU64) -> (u64, Spent<T>) {
        let mut inner = lock(&self.inner);
        let count = count.min(inner.totals.pending);
        inner.gone += count as usize;
        inner.totals.emitted += count;
        inner.totals.pending -= count;
        let whole = if inner.totals.pending == 0 {
            inner.gone = 0;
            inner.segments.len()
        } else {
            let whole = inner.gone / SEGMENT;
            inner.gone %= SEGMENT;
            whole
        };
        let spent = inner.segments.drain(..whole).collect();
        let left = inner.totals.pending;
        drop(inner);
        waiting.fetch_sub(count, Ordering::Relaxed);
        (left, Spent(spent))
    }

    /// Returns the outcomes of the events so far.
    pub fn totals(&self) -> Totals {
        lock(&self.inner).totals
    }

    /// Removes all events and resets the counts.
    pub fn clear(&self, waiting: &AtomicU64) {
        let old = std::mem::take(&mut *lock(&self.inner));
        waiting.fetch_sub(old.totals.pending, Ordering::Relaxed);
    }
}

impl<T> Default for Inner<T> {
    fn default() -> Self {
        Inner {
            segments: VecDeque::new(),
            gone: 0,
            totals: Totals::default(),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn payload(n: u64) -> Payload<()> {
        Payload::bytes(&n.to_le_bytes())
    }

    fn number(payload: &Payload<()>) -> u64 {
        match payload {
            Payload::Inline(8, bytes) => bytes[..8]
                .iter()
                .rev()
                .fold(0, |n, byte| n << 8 | u64::from(*byte)),
            other => panic!("expected eight bytes, got: {other:?}"),
        }
    }

    fn numbers(events: &[(u64, Payload<()>)]) -> Vec<u64> {
        events.iter().map(|(_, payload)| number(payload)).collect()
    }

    #[test]
    fn appends_say_when_a_batch_begins_and_is_full() {
        let (queue, waiting) = (Queue::default(), AtomicU64::new(0));
        let append = |n| queue.append(0, payload(n), 3, &waiting, 4);
        assert_eq!(append(1), Appended::First);
        assert_eq!(append(2), Appended::Waiting);
        assert_eq!(append(3), Appended::Full);
        assert_eq!(append(4), Appended::Waiting);
        assert_eq!(append(5), Appended::Dropped);
        assert_eq!(queue.ack(3, &waiting).0, 1);
        assert_eq!(append(6), Appended::Waiting);
        assert_eq!(append(7), Appended::Full);
        assert_eq!(
            queue.totals(),
            Totals {
                emitted: 3,
                dropped: 1,
                pending: 3
            }
        );
        queue.clear(&waiting);
        assert_eq!(waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn payloads_of_every_length_come_back() {
        for len in [0, 1, INLINE, INLINE + 1, 10_000] {
            let bytes = vec![7u8; len];
            match Payload::<()>::bytes(&bytes) {
                Payload::Inline(n, inline) => assert_eq!(inline[..usize::from(n)], bytes[..]),
                Payload::Boxed(boxed) => assert_eq!(*boxed, bytes[..]),
                Payload::Object(_) => panic!("bytes are not kept as something else"),
            }
        }
    }

    #[test]
    fn an_acknowledgement_counts_all_and_frees_nothing() {
        let (queue, waiting) = (Queue::default(), AtomicU64::new(0));
        let kept = Arc::new(());
        for _ in 0..10_000 {
            let payload = Payload::Object(Arc::clone(&kept));
            queue.append(0, payload, u64::MAX, &waiting, u64::MAX);
        }
        let (left, spent) = queue.ack(9_999, &waiting);
        assert_eq!((left, queue.totals().emitted), (1, 9_999));
        assert_eq!(Arc::strong_count(&kept), 10_001);
        drop(spent);
        assert!(Arc::strong_count(&kept) <= 1 + SEGMENT);
        drop(queue.ack(1, &waiting));
        assert_eq!(Arc::strong_count(&kept), 1);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Append,
        Peek(usize, usize),
        Ack(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            20 => Just(Step::Append),
            3 => (0usize..700, 0usize..700).prop_map(|(offset, most)| Step::Peek(offset, most)),
            1 => (0u64..600).prop_map(Step::Ack),
        ]
    }

    proptest! {
        #[test]
        fn a_queue_does_what_a_list_does(steps in proptest::collection::vec(step(), 1..2_000)) {
            let (queue, waiting) = (Queue::default(), AtomicU64::new(0));
            let mut model: Vec<u64> = Vec::new();
            let (mut appended, mut kept) = (0, 0);
            for step in steps {
                match step {
                    Step::Append => {
                        let item = payload(appended);
                        let result = queue.append(appended, item, u64::MAX, &waiting, 1_000);
                        if model.len() < 1_000 {
                            model.push(appended);
                            prop_assert_ne!(result, Appended::Dropped);
                        } else {
                            prop_assert_eq!(result, Appended::Dropped);
                        }
                        appended += 1;
                    }
                    Step::Peek(offset, most) => {
                        let (events, behind) = queue.peek(offset, most);
                        let expected: Vec<_> =
                            model.iter().copied().skip(offset).take(most).collect();
                        prop_assert_eq!(numbers(&events), &expected[..]);
                        let after = offset + expected.len();
                        prop_assert_eq!(behind as usize, model.len().saturating_sub(after));
                    }
                    Step::Ack(count) => {
                        let count = count.min(model.len() as u64);
                        model.drain(..count as usize);
                        let (left, spent) = queue.ack(count, &waiting);
                        prop_assert_eq!(left, model.len() as u64);
                        // The queue keeps acknowledged events only in a segment that also has
                        // events that wait.
                        kept = kept + count as usize - spent.len().min(kept + count as usize);
                        prop_assert!(kept < SEGMENT);
                        if left == 0 {
                            prop_assert_eq!(kept, 0);
                        }
                    }
                }
                prop_assert_eq!(queue.totals().pending, model.len() as u64);
                prop_assert_eq!(waiting.load(Ordering::Relaxed), model.len() as u64);
            }
        }
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use loom::sync::Arc as LoomArc;

    /// Two threads append while one drains: no event is lost, doubled or out of its thread's order,
    /// and the count of waiting events is right at the end.
    #[test]
    fn loom_append_against_drain() {
        loom::model(|| {
            let shared = LoomArc::new((Queue::<()>::default(), AtomicU64::new(0)));
            let appender = |thread: u8| {
                let shared = LoomArc::clone(&shared);
                loom::thread::spawn(move || {
                    let (queue, waiting) = &*shared;
                    (0..2u8)
                        .filter(|n| {
                            let payload = Payload::bytes(&[thread, *n]);
                            queue.append(0, payload, 2, waiting, 3) != Appended::Dropped
                        })
                        .collect::<Vec<_>>()
                })
            };
            let appenders = [appender(0), appender(1)];
            let (queue, waiting) = &*shared;
            let mut drained = Vec::new();
            let mut drain = || {
                let (events, _) = queue.peek(0, 2);
                let (_, spent) = queue.ack(events.len() as u64, waiting);
                drop(spent);
                for (_, payload) in events {
                    if let Payload::Inline(2, bytes) = payload {
                        drained.push((bytes[0], bytes[1]));
                    }
                }
            };
            drain();
            let accepted = appenders.map(|appender| appender.join().unwrap_or_default());
            drain();
            drain();
            for (thread, accepted) in accepted.iter().enumerate() {
                let own: Vec<_> = drained
                    .iter()
                    .filter(|(of, _)| usize::from(*of) == thread)
                    .map(|(_, n)| *n)
                    .collect();
                assert_eq!(own, *accepted);
            }
            assert_eq!(waiting.load(Ordering::Relaxed), 0);
            assert_eq!(queue.totals().pending, 0);
        });
    }
}
