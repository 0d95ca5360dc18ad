//! Models of the table's protocols, in which loom tries every interleaving and every value that a
//! load may return, up to a number of preemptions.

mod bags;
mod growth;
mod reclamation;
mod segments;

use std::sync::Arc;

use super::life::Life;
use super::*;
use crate::key::NoOpaque;

/// Runs `body` in every interleaving with up to three preemptions.
pub(super) fn model(body: impl Fn() + Send + Sync + 'static) {
    model_up_to(3, body);
}

/// Runs `body` in every interleaving with up to this many preemptions: two, where three take longer
/// than some seconds.
pub(super) fn model_up_to(preemptions: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    let asked = model.preemption_bound.unwrap_or(preemptions);
    model.preemption_bound = Some(asked.min(preemptions));
    model.max_branches = 20_000;
    model.check(body);
}

pub(super) use loom::thread::spawn;

/// An object whose reads and drop are visible to the model.
#[derive(Default)]
pub(super) struct Watched {
    life: Life,
    number: u64,
}

impl Watched {
    pub(super) fn new(number: u64) -> Self {
        Watched {
            life: Life::default(),
            number,
        }
    }

    pub(super) fn value(number: u64) -> Value<Watched> {
        Value::Object(Box::new(Watched::new(number)))
    }

    pub(super) fn read(&self) -> u64 {
        self.life.read();
        self.number
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.life.end();
    }
}

impl Object for Watched {
    fn size(&self) -> usize {
        size_of::<Self>()
    }
}

pub(super) type Subject = Table<NoOpaque, Watched>;

pub(super) fn table() -> Arc<Subject> {
    Arc::new(Table::new(Seed::fixed(1)).expect("there is memory"))
}

/// The first keys whose hashes begin with a bit.
pub(super) fn keys(table: &Subject, first_bit: u64) -> impl Iterator<Item = Key<'static, ()>> {
    (0..)
        .map(|number| Key::word(0, number))
        .filter(move |key| table.hash(key) >> 63 == first_bit)
}

/// Adds an entry whose owner and value are both `number`.
pub(super) fn put(table: &Subject, key: &Key<'_, ()>, number: u64) -> bool {
    let guard = pin();
    let make = || Watched::value(number);
    let hash = table.hash(key);
    let inserted = table.insert(key, hash, number, make, |_| false, &guard);
    matches!(inserted.expect("there is memory"), Inserted::New)
}

/// The number of an entry that [`put`] has put.
pub(super) fn look(table: &Subject, key: &Key<'_, ()>) -> Option<u64> {
    let guard = pin();
    let entry = table.get(key, table.hash(key), &guard)?;
    match entry.value {
        ValueView::Object(watched) => {
            assert_eq!(watched.read(), entry.owner, "torn");
            Some(entry.owner)
        }
        _ => panic!("only objects are put"),
    }
}

pub(super) fn delete(table: &Subject, key: &Key<'_, ()>) -> bool {
    table.remove(key, table.hash(key), |_| true, &pin())
}
