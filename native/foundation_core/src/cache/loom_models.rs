//! Two threads in one cache. Run with `--cfg loom`.

use loom::sync::atomic::{AtomicU64 as Source, Ordering as Memory};
use loom::thread::spawn;

use super::*;
use crate::key::NoOpaque;

#[derive(Debug)]
struct NoObject(#[expect(dead_code, reason = "it is never made")] u64);

impl Object for NoObject {
    fn size(&self) -> usize {
        0
    }
}

type Plain = Cache<NoOpaque, NoObject>;

/// Runs `body` in every way that it can run with up to two preemptions.
fn model(body: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    let asked = model.preemption_bound.unwrap_or(2);
    model.preemption_bound = Some(asked.min(2));
    model.max_branches = 50_000;
    model.check(body);
}

fn cache(entries: u64) -> Arc<Plain> {
    let limits = Limits {
        bytes: u64::MAX,
        entries,
        load: u64::MAX,
    };
    Arc::new(Cache::new(Seed::fixed(1), limits, 0).expect("there is memory"))
}

fn key(number: u64) -> Key<'static, ()> {
    Key::word(0, number)
}

fn word(number: u64) -> Value<NoObject> {
    Value::Word(number << 1 | 1)
}

fn put(cache: &Plain, number: u64) {
    let stored = cache.put(&key(number), word(number), (None, None), 0, true, &pin());
    assert_eq!(stored, Ok(()));
}

fn get(cache: &Plain, number: u64) -> Option<u64> {
    match cache.get(&key(number), 0, &pin()) {
        Found::Fresh(ValueView::Word(word)) => Some(word >> 1),
        _ => None,
    }
}

/// Loads what the source has, unless the key has a value.
fn load(cache: &Plain, owner: u64, source: &Source) {
    let guard = pin();
    let begun = cache.begin(owner, &key(1), 0.0, 0, || 0.5, || true, &guard);
    if let Ok(Begun::Load(lease)) = begun {
        let outcome = Outcome::Value(word(source.load(Memory::SeqCst)), None, None);
        let finished = cache.finish(owner, lease, &key(1), outcome, 0, true, &pin());
        assert!(matches!(finished, Ok(Some(_))));
    }
}

/// Begins a fetch that loads or waits: the id of the wait, or the lease as an error.
fn begin(cache: &Plain, owner: u64) -> Result<u64, u64> {
    let guard = pin();
    let begun = cache.begin(owner, &key(1), 0.0, 0, || 0.5, || true, &guard);
    match begun.expect("there is memory") {
        Begun::Wait(id) => Ok(id),
        Begun::Load(lease) => Err(lease),
        other => panic!("expected a load or a wait, got: {other:?}"),
    }
}

#[test]
fn loom_no_read_after_a_delete_finds_what_was_loaded_before_it() {
    model(|| {
        let (cache, source) = (cache(8), Arc::new(Source::new(1)));
        let (other, of_other) = (cache.clone(), source.clone());
        let loader = spawn(move || load(&other, 3, &of_other));
        source.store(2, Memory::SeqCst);
        cache.delete(&key(1), &pin());
        assert!(matches!(get(&cache, 1), None | Some(2)));
        loader.join().expect("it loads");
        assert!(matches!(get(&cache, 1), None | Some(2)));
    });
}

#[test]
fn loom_a_hit_finds_the_value_of_its_key_while_its_entry_is_evicted() {
    model(|| {
        let cache = cache(1);
        put(&cache, 1);
        let other = cache.clone();
        let reader = spawn(move || {
            assert!(matches!(get(&other, 1), None | Some(1)));
            assert!(matches!(get(&other, 2), None | Some(2)));
        });
        put(&cache, 2);
        assert_eq!((get(&cache, 1), get(&cache, 2)), (None, Some(2)));
        reader.join().expect("it reads");
        assert_eq!(cache.len(), 1);
    });
}

#[test]
fn loom_a_wait_ends_with_its_load_or_with_the_death_of_the_loader() {
    model(|| {
        let cache = cache(8);
        begin(&cache, 3).expect_err("it loads");
        let other = cache.clone();
        let waiter = spawn(move || begin(&other, 5).ok());
        let mut told = Vec::new();
        let mut dying = cache.mark_dead(3);
        while let Some(more) = cache.end_dead(&mut dying, 0, |_| true) {
            told.extend(more);
        }
        let waited = waiter.join().expect("it waits");
        assert_eq!(
            told.first().map(|told| (told.id, told.loads)),
            waited.map(|id| (id, true))
        );
    });
}
