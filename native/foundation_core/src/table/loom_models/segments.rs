//! The sequence lock of a group: an entry is read whole or not at all.

use super::segment::Segment;
use super::*;

/// A segment that threads share. It is freed with the model.
struct Shared(Segment<'static>);

// SAFETY: a segment is made to be shared: readers need no lock, and writers take it.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: no other thread has the segment.
        unsafe { Segment::free(self.0.into_raw()) }
    }
}

/// The home and the tag of every key here. The keys are equal until their words are compared.
const HASH: u64 = 0x11 << 24;

/// The words of an entry. Each of them determines all others.
fn words(key: u64, version: u64) -> Words {
    Words {
        k0: key,
        k1: key ^ 0xFF,
        owner: key << 8 | version,
        value: key << 8 | version | 1 << 63,
    }
}

fn check(found: Option<Words>) -> Option<u64> {
    found.map(|found| {
        let version = found.owner & 0xFF;
        assert_eq!(found, words(found.k0, version), "torn");
        version
    })
}

impl Shared {
    fn new() -> Arc<Self> {
        Arc::new(Shared(Segment::new(0, 0).expect("there is memory")))
    }

    fn insert(&self, key: u64, version: u64) {
        let mut state = self.0.lock();
        self.0.insert(&mut state, HASH, words(key, version));
    }

    fn remove(&self, key: u64) {
        let mut state = self.0.lock();
        let position = self.0.probe_locked(HASH, |words| words.k0 == key);
        position.expect("it is there").remove(&mut state, HASH);
    }

    fn replace(&self, key: u64, version: u64) {
        let _state = self.0.lock();
        let position = self.0.probe_locked(HASH, |words| words.k0 == key);
        let words = words(key, version);
        let position = position.expect("it is there");
        position.replace(words.owner, words.value);
    }

    /// Readers first compare the words of the key.
    fn probe(&self, key: u64) -> Option<u64> {
        let Words { k0, k1, .. } = words(key, 0);
        check(self.0.probe(HASH, k0, k1))
    }

    fn probe_with(&self, key: u64) -> Option<u64> {
        check(self.0.probe_with(HASH, |found| {
            check(Some(*found));
            found.k0 == key
        }))
    }
}

#[test]
fn loom_an_insertion_is_seen_whole_or_not_at_all() {
    model_up_to(2, || {
        let segment = Shared::new();
        let other = segment.clone();
        let writer = spawn(move || other.insert(1, 7));
        let first = segment.probe(1);
        let second = segment.probe(1);
        assert!(first.is_none() || first == Some(7));
        assert!(second >= first, "it was there and is gone");
        writer.join().expect("it inserts");
        assert_eq!(segment.probe(1), Some(7));
    });
}

#[test]
fn loom_a_replacement_is_seen_whole_or_not_at_all() {
    model(|| {
        let segment = Shared::new();
        segment.insert(1, 1);
        let other = segment.clone();
        let writer = spawn(move || {
            other.replace(1, 2);
            other.replace(1, 3);
        });
        let first = segment.probe(1);
        assert!(first >= Some(1));
        assert!(segment.probe_with(1) >= first, "it went back");
        writer.join().expect("it replaces");
        assert_eq!(segment.probe(1), Some(3));
    });
}

#[test]
fn loom_a_slot_that_is_used_again_shows_one_of_its_entries() {
    model(|| {
        let segment = Shared::new();
        segment.insert(1, 1);
        let other = segment.clone();
        let writer = spawn(move || {
            other.remove(1);
            other.insert(2, 2);
        });
        assert!(matches!(segment.probe(1), None | Some(1)));
        writer.join().expect("it writes");
        assert_eq!((segment.probe(1), segment.probe(2)), (None, Some(2)));
    });
}

#[test]
fn loom_an_entry_that_stays_is_found_beside_one_that_comes_and_goes() {
    model(|| {
        let segment = Shared::new();
        segment.insert(1, 1);
        segment.insert(2, 2);
        let other = segment.clone();
        let writer = spawn(move || {
            other.remove(1);
            other.insert(3, 3);
        });
        assert_eq!(segment.probe_with(2), Some(2));
        writer.join().expect("it writes");
    });
}

#[test]
fn loom_a_visit_of_all_entries_sees_each_whole() {
    model(|| {
        let segment = Shared::new();
        segment.insert(1, 1);
        segment.insert(2, 1);
        let other = segment.clone();
        let writer = spawn(move || other.replace(1, 2));
        let mut seen = Vec::new();
        segment.0.for_each(|words| {
            check(Some(words));
            seen.push(words.k0);
        });
        assert_eq!(seen, [1, 2]);
        writer.join().expect("it writes");
    });
}
