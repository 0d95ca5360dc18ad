//! Registries against their guarantees, against a model, and with deaths at the worst moments.

mod deaths;
mod duplicate;
mod model;
mod unique;
mod writes;

use std::collections::HashSet;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use super::*;
use crate::key::{Key, NoOpaque, Opaque, Seed};
use crate::primitive::lock;
use crate::table::{Object, Value, ValueView, pin};

/// Owners that live until they are killed.
#[derive(Default)]
pub(super) struct FakeLiveness {
    dead: Mutex<HashSet<u64>>,
    watched: AtomicU64,
}

impl Liveness for FakeLiveness {
    fn is_alive(&self, owner: u64) -> bool {
        !lock(&self.dead).contains(&owner)
    }

    fn watch(&self, owner: u64) -> bool {
        self.watched.fetch_add(1, Ordering::SeqCst);
        self.is_alive(owner)
    }
}

impl FakeLiveness {
    pub(super) fn kill(&self, owner: u64) {
        lock(&self.dead).insert(owner);
    }

    pub(super) fn watched(&self) -> u64 {
        self.watched.load(Ordering::SeqCst)
    }
}

/// These tests use no objects as values, but the registry needs a type for them.
#[derive(Debug)]
pub(super) struct NoObject {
    _word: u64,
}

impl Object for NoObject {
    fn size(&self) -> usize {
        size_of::<Self>()
    }
}

pub(super) fn int(number: u64) -> Key<'static, ()> {
    Key::word(0, number)
}

pub(super) fn word<V>(number: u64) -> Value<V> {
    Value::Word((number << 1) | 1)
}

pub(super) fn number<V>(view: ValueView<'_, V>) -> u64 {
    match view {
        ValueView::Word(word) => word >> 1,
        _ => panic!("expected a word"),
    }
}

/// An opaque key. Several may have the same hash.
#[derive(Debug)]
pub(super) struct Colliding(pub(super) u64);

impl Opaque for Colliding {
    type Probe = u64;

    fn new(probe: &u64) -> Option<Box<Self>> {
        Some(Box::new(Colliding(*probe)))
    }

    fn matches(&self, probe: &u64) -> bool {
        self.0 == *probe
    }

    fn size(&self) -> usize {
        size_of::<Self>()
    }
}
