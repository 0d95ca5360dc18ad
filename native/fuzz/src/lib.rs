//! Shared by the fuzz targets: keys and values with known expected contents.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arbitrary::{Arbitrary, Unstructured};
use foundation_core::key::{KINDS, Key, KeyView, Opaque};
use foundation_core::table::{Entry, Object, Value, ValueView, reclaim};

/// The number of live opaque keys and objects.
pub type Live = Arc<AtomicI64>;

/// All opaque keys from this number on share one hash.
pub const ALIKE: u16 = 1024;

/// A key that the fuzzer chose, mostly one of a few, so that keys repeat.
#[derive(Clone, Copy, Debug)]
pub enum Chosen {
    /// One word.
    Word {
        /// Its kind, taken modulo their number.
        kind: u8,
        /// The word.
        number: u16,
    },
    /// A byte string: the same byte many times, and another at its end.
    Bytes {
        /// Its kind, modulo the number of kinds.
        kind: u8,
        /// Its length, modulo 40: some are inline, others long.
        len: u8,
        /// The byte that it repeats.
        byte: u8,
        /// Its last byte.
        last: u8,
    },
    /// An opaque key. Below 1,024, groups of four share a hash; from 1,024 on, all share one.
    Opaque(u16),
}

/// A key in the model. Two are equal if and only if the table must treat them as one key.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Name {
    /// A kind and its bytes.
    Bytes(u8, Vec<u8>),
    /// The text of an opaque key.
    Opaque(u16),
}

impl<'a> Arbitrary<'a> for Chosen {
    fn arbitrary(input: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let few = u8::arbitrary(input)?;
        Ok(match (few, few % 24 / 3) {
            (0..=191, number) => match few % 3 {
                0 => Chosen::Word {
                    kind: 1,
                    number: number.into(),
                },
                // 12 to 19 bytes: about half of them fit in a slot.
                1 => Chosen::Bytes {
                    kind: 2,
                    len: 12 + number,
                    byte: 0,
                    last: 7,
                },
                _ => Chosen::Opaque(number.into()),
            },
            (_, 0..=1) => Chosen::Word {
                kind: input.arbitrary()?,
                number: input.arbitrary()?,
            },
            (_, 2..=5) => Chosen::Bytes {
                kind: input.arbitrary()?,
                len: input.arbitrary()?,
                byte: input.arbitrary()?,
                last: input.arbitrary()?,
            },
            _ => Chosen::Opaque(input.arbitrary()?),
        })
    }
}

impl Chosen {
    /// Returns the key's name in the model.
    pub fn name(&self) -> Name {
        match *self {
            Chosen::Word { kind, number } => {
                Name::Bytes(kind % KINDS, u64::from(number).to_le_bytes().into())
            }
            Chosen::Bytes {
                kind,
                len,
                byte,
                last,
            } => {
                let mut bytes = vec![byte; usize::from(len % 40)];
                if let Some(end) = bytes.last_mut() {
                    *end = last;
                }
                Name::Bytes(kind % KINDS, bytes)
            }
            Chosen::Opaque(text) => Name::Opaque(text),
        }
    }

    /// Runs `run` with the key. A word is built with [`Key::word`] here and from bytes in
    /// [`Name::with`]; the table must not distinguish the two.
    pub fn with<R>(&self, live: &Live, run: impl FnOnce(&Key<'_, Probe>) -> R) -> R {
        match *self {
            Chosen::Word { kind, number } => run(&Key::word(kind % KINDS, number.into())),
            _ => self.name().with(live, run),
        }
    }
}

impl Name {
    /// Runs `run` with the key.
    pub fn with<R>(&self, live: &Live, run: impl FnOnce(&Key<'_, Probe>) -> R) -> R {
        match self {
            Name::Bytes(kind, bytes) => run(&Key::new(*kind, bytes)),
            Name::Opaque(text) => {
                let probe = Probe(*text, live.clone());
                let group = text / 4;
                run(&Key::Opaque(group.min(ALIKE / 4).into(), &probe))
            }
        }
    }

    /// Returns the name of a key that a walk visits.
    pub fn of(view: &KeyView<'_, Text>) -> Name {
        match view {
            KeyView::Inline { kind, bytes, len } => Name::Bytes(*kind, bytes[..*len].into()),
            KeyView::Long(kind, bytes) => Name::Bytes(*kind, (*bytes).into()),
            KeyView::Opaque(text) => Name::Opaque(text.text),
        }
    }
}

/// An opaque key, counted while it lives.
pub struct Text {
    text: u16,
    live: Live,
}

/// The borrowed form of a [`Text`], for a lookup.
pub struct Probe(u16, Live);

impl Opaque for Text {
    type Probe = Probe;

    fn new(probe: &Probe) -> Option<Box<Self>> {
        probe.1.fetch_add(1, Ordering::Relaxed);
        Some(Box::new(Text {
            text: probe.0,
            live: probe.1.clone(),
        }))
    }

    fn matches(&self, probe: &Probe) -> bool {
        self.text == probe.0
    }

    fn size(&self) -> usize {
        size_of::<Self>()
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        self.live.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A value that is an object, counted while it lives.
pub struct Counted {
    number: u16,
    live: Live,
}

impl Object for Counted {
    fn size(&self) -> usize {
        size_of::<Self>()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.live.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Returns the value for a number. The number decides which of the three forms of a value it has.
pub fn value(number: u16, live: &Live) -> Value<Counted> {
    match number % 3 {
        0 => Value::Word(u64::from(number) << 1 | 1),
        1 => {
            let bytes = number.to_le_bytes().repeat(usize::from(number % 60));
            Value::bytes(&[&number.to_le_bytes(), &*bytes].concat()).expect("there is memory")
        }
        _ => {
            live.fetch_add(1, Ordering::Relaxed);
            Value::Object(Box::new(Counted {
                number,
                live: live.clone(),
            }))
        }
    }
}

/// Returns the number of a value, and checks that the value is intact.
pub fn number(view: ValueView<'_, Counted>) -> u16 {
    match view {
        ValueView::Word(word) => (word >> 1) as u16,
        ValueView::Bytes(bytes) => {
            let number = u16::from_le_bytes([bytes[0], bytes[1]]);
            assert_eq!(bytes.len(), 2 + 2 * usize::from(number % 60));
            assert!(
                bytes
                    .chunks(2)
                    .all(|part| part == number.to_le_bytes().as_slice())
            );
            number
        }
        ValueView::Object(counted) => counted.number,
    }
}

/// Returns an entry's owner and the number of its value.
pub fn seen(entry: &Entry<'_, Counted>) -> (u64, u16) {
    (entry.owner, number(entry.value))
}

/// Checks that no key or object is left after all garbage has been freed.
pub fn check_none_left(live: &Live) {
    reclaim::flush();
    assert_eq!(live.load(Ordering::Relaxed), 0, "keys or objects leaked");
}
