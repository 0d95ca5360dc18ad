//! Two byte strings and their kinds as keys: the keys are equal if and only if strings and kinds
//! are, and a table returns them unchanged.

#![no_main]

use std::collections::BTreeSet;

use arbitrary::Arbitrary;
use foundation_core::key::{INLINE_MAX, KINDS, Key, Seed};
use foundation_core::table::{Inserted, Table, Value, pin};
use foundation_fuzz::{Counted, Live, Name, Probe, Text, check_none_left};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input {
    seed: u64,
    one: Bytes,
    other: Other,
}

#[derive(Arbitrary, Clone, Debug)]
struct Bytes {
    kind: u8,
    bytes: Vec<u8>,
}

/// The second byte string is derived from the first, because random strings are seldom nearly
/// equal.
#[derive(Arbitrary, Debug)]
enum Other {
    Same,
    OfKind(u8),
    Changed { place: u8, byte: u8 },
    Longer(u8),
    Shorter,
    Any(Bytes),
}

impl Other {
    fn of(self, mut one: Bytes) -> Bytes {
        match self {
            Other::Same => {}
            Other::OfKind(kind) => one.kind = kind,
            Other::Changed { place, byte } => {
                let len = one.bytes.len().max(1);
                if let Some(changed) = one.bytes.get_mut(usize::from(place) % len) {
                    *changed = byte;
                }
            }
            Other::Longer(byte) => one.bytes.push(byte),
            Other::Shorter => drop(one.bytes.pop()),
            Other::Any(other) => return other,
        }
        one
    }
}

impl Bytes {
    fn key(&self) -> Key<'_, Probe> {
        Key::new(self.kind % KINDS, &self.bytes)
    }

    fn name(&self) -> Name {
        Name::Bytes(self.kind % KINDS, self.bytes.clone())
    }
}

/// Returns the parts of a key that comparisons use.
fn words(key: &Key<'_, Probe>) -> (u64, u64, Vec<u8>) {
    match *key {
        Key::Inline(low, high) => (low, high, Vec::new()),
        Key::Long(kind, bytes) => (kind.into(), u64::MAX, bytes.to_vec()),
        Key::Opaque(..) => panic!("a byte string is no opaque key"),
    }
}

fuzz_target!(|input: Input| {
    let Input { seed, one, other } = input;
    let other = other.of(one.clone());
    let equal = one.name() == other.name();
    let (first, second) = (one.key(), other.key());

    assert_eq!(words(&first) == words(&second), equal);
    for (key, bytes) in [(&first, &one.bytes), (&second, &other.bytes)] {
        let inline = matches!(key, Key::Inline(..));
        assert_eq!(inline, bytes.len() <= INLINE_MAX);
        let short = Key::<Probe>::short(one.kind % KINDS, bytes);
        assert_eq!(short.is_some(), inline);
    }
    if let Ok(eight) = <[u8; 8]>::try_from(&*one.bytes) {
        let word = Key::word(one.kind % KINDS, u64::from_le_bytes(eight));
        assert_eq!(words(&word), words(&first));
    }

    let table: Table<Text, Counted> = Table::new(Seed::fixed(seed)).expect("there is memory");
    let (hash, second_hash) = (table.hash(&first), table.hash(&second));
    assert!(!equal || hash == second_hash);
    let guard = pin();
    for (key, hash, is_new) in [(&first, hash, true), (&second, second_hash, !equal)] {
        let made = table.insert(key, hash, 1, || Value::Word(1), |_| false, &guard);
        let made = made.expect("there is memory");
        assert_eq!(matches!(made, Inserted::New), is_new);
    }
    let mut found = BTreeSet::new();
    let end = table.walk(0, 10, &guard, |visited| {
        assert!(found.insert(Name::of(&visited.key)), "it was visited twice");
    });
    assert_eq!(end, None);
    assert_eq!(found, BTreeSet::from([one.name(), other.name()]));

    let live = Live::default();
    drop((guard, table));
    check_none_left(&live);
});
