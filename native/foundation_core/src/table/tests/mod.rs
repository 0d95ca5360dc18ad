//! The table against its guarantees: on one thread, against a model, under threads, and in forced
//! interleavings.

mod concurrent;
mod hostile;
mod interleaved;
mod model;
mod single;
mod unshared;
mod visited;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::*;
use crate::key::NoOpaque;

/// An opaque key. Two are equal if their texts are, with any hash.
pub(super) struct Text {
    text: String,
    live: Arc<AtomicI64>,
}

/// The probe for a [`Text`]. `live` counts the keys made from it. Without it, there is no memory
/// for one.
pub(super) struct Probe {
    text: String,
    live: Option<Arc<AtomicI64>>,
}

pub(super) fn probe(text: impl ToString, live: &Arc<AtomicI64>) -> Probe {
    Probe {
        text: text.to_string(),
        live: Some(live.clone()),
    }
}

impl Opaque for Text {
    type Probe = Probe;

    fn new(probe: &Probe) -> Option<Box<Self>> {
        let live = probe.live.clone()?;
        live.fetch_add(1, Ordering::SeqCst);
        Some(Box::new(Text {
            text: probe.text.clone(),
            live,
        }))
    }

    fn matches(&self, probe: &Probe) -> bool {
        self.text == probe.text
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.text.capacity()
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        self.live.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A value that counts its live instances.
pub(super) struct Counted {
    pub(super) number: u64,
    live: Arc<AtomicI64>,
}

impl Counted {
    pub(super) fn value(number: u64, live: &Arc<AtomicI64>) -> Value<Counted> {
        live.fetch_add(1, Ordering::SeqCst);
        Value::Object(Box::new(Counted {
            number,
            live: live.clone(),
        }))
    }
}

impl Object for Counted {
    fn size(&self) -> usize {
        size_of::<Self>()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.live.fetch_sub(1, Ordering::SeqCst);
    }
}

pub(super) type Plain = Table<NoOpaque, Counted>;

pub(super) fn plain() -> Plain {
    Table::new(Seed::fixed(7)).expect("there is memory")
}

pub(super) fn int(number: u64) -> Key<'static, ()> {
    Key::word(0, number)
}

/// An odd word, as a value has to be.
pub(super) fn odd(number: u64) -> u64 {
    number << 1 | 1
}

/// Adds an entry with a word for its value; `false` when the key is taken.
pub(super) fn put<F: Opaque, V: Object>(
    table: &Table<F, V>,
    key: &Key<'_, F::Probe>,
    owner: u64,
    number: u64,
) -> bool {
    let make = || Value::Word(odd(number));
    let guard = pin();
    let inserted = table.insert(key, table.hash(key), owner, make, |_| false, &guard);
    matches!(inserted.expect("there is memory"), Inserted::New)
}

/// The owner and the number of an entry that [`put`] has put.
pub(super) fn look<F: Opaque, V: Object>(
    table: &Table<F, V>,
    key: &Key<'_, F::Probe>,
) -> Option<(u64, u64)> {
    let guard = pin();
    let entry = table.get(key, table.hash(key), &guard)?;
    match entry.value {
        ValueView::Word(word) => Some((entry.owner, word >> 1)),
        _ => panic!("expected a word"),
    }
}

pub(super) fn delete<F: Opaque, V: Object>(table: &Table<F, V>, key: &Key<'_, F::Probe>) -> bool {
    table.remove(key, table.hash(key), |_| true, &pin())
}

/// Waits until `live` is `expected`. Guards of other tests may delay the frees.
pub(super) fn wait_for(live: &AtomicI64, expected: i64) {
    while live.load(Ordering::SeqCst) != expected {
        reclaim::flush();
        std::thread::yield_now();
    }
}

/// Counts a thread as running until it ends or panics, so that others do not wait for a thread that
/// has failed.
pub(super) struct Running<'a>(&'a AtomicI64);

impl<'a> Running<'a> {
    pub(super) fn new(count: &'a AtomicI64) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Running(count)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
