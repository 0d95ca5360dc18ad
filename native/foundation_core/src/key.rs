//! Keys in the form in which the table stores them: two words, and a pointer for what does not fit.
//!
//! A key is either a byte string with a *kind*, or an *opaque* object that only its own type can
//! compare. The kind separates byte strings of different origin: the word 7 and a string of the
//! same eight bytes are two keys. Up to [`INLINE_MAX`] bytes are stored in the slot, so the lookup
//! of a short key follows no pointer.

use std::hash::{BuildHasher, Hasher};
use std::sync::OnceLock;

use foldhash::{SharedSeed, quality::SeedableRandomState};

/// The longest byte string that a slot can store.
pub const INLINE_MAX: usize = 15;

/// The number of kinds: a kind is below this.
pub const KINDS: u8 = 8;

/// Marks a key whose bytes are in a [`Blob`](crate::table::Blob), in the top byte of the second
/// word.
pub(crate) const LONG: u64 = 0x80;
/// Marks a key that is an opaque object, in the top byte of the second word.
pub(crate) const OPAQUE: u64 = 0xC0;

/// A key that only its own type can compare.
///
/// Equal opaque keys must be given the same hash.
pub trait Opaque: Send + Sync + 'static {
    /// The borrowed form of such a key, for a lookup.
    type Probe: ?Sized;

    /// Makes the stored key for `probe`. Returns `None` when there is no memory for it.
    fn new(probe: &Self::Probe) -> Option<Box<Self>>;

    /// Returns whether this key equals `probe`.
    fn matches(&self, probe: &Self::Probe) -> bool;

    /// Returns the bytes of memory that this key uses, itself included.
    fn size(&self) -> usize;
}

/// The opaque key type of a table without opaque keys.
#[derive(Debug)]
pub enum NoOpaque {}

impl Opaque for NoOpaque {
    type Probe = ();

    fn new(_probe: &()) -> Option<Box<Self>> {
        None
    }

    fn matches(&self, _probe: &()) -> bool {
        match *self {}
    }

    fn size(&self) -> usize {
        match *self {}
    }
}

/// A borrowed key for a lookup, already in the form that the table compares.
#[derive(Debug)]
pub enum Key<'a, P: ?Sized> {
    /// A byte string of up to [`INLINE_MAX`] bytes. The top byte of the second word has its kind
    /// and length. [`Key::new`] and [`Key::word`] make this form.
    Inline(u64, u64),
    /// A longer byte string, of a kind below [`KINDS`].
    Long(u8, &'a [u8]),
    /// An opaque key and its unseeded hash.
    Opaque(u64, &'a P),
}

impl<P: ?Sized> Clone for Key<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: ?Sized> Copy for Key<'_, P> {}

impl<'a, P: ?Sized> Key<'a, P> {
    /// Makes the key for a byte string of a kind.
    ///
    /// # Panics
    ///
    /// When `kind` is not below [`KINDS`].
    #[inline(always)]
    pub fn new(kind: u8, bytes: &'a [u8]) -> Self {
        Self::short(kind, bytes).unwrap_or(Key::Long(kind, bytes))
    }

    /// Makes the key for a byte string that fits in a slot. Returns `None` for a longer one.
    ///
    /// # Panics
    ///
    /// When `kind` is not below [`KINDS`].
    #[inline(always)]
    pub fn short(kind: u8, bytes: &[u8]) -> Option<Self> {
        assert!(kind < KINDS, "expected a kind below {KINDS}, got: {kind}");
        if bytes.len() > INLINE_MAX {
            return None;
        }
        Some(Key::packed(kind, pack(bytes), bytes.len()))
    }

    /// Makes the key for the first `len` bytes of a number whose other bytes are zero. The result
    /// equals [`Key::new`] of those bytes in little-endian order.
    ///
    /// # Panics
    ///
    /// When `kind` is not below [`KINDS`], or `len` is above [`INLINE_MAX`].
    #[inline(always)]
    pub const fn packed(kind: u8, bytes: u128, len: usize) -> Self {
        assert!(kind < KINDS, "expected a kind below KINDS");
        assert!(len <= INLINE_MAX, "expected bytes that fit a slot");
        let meta = ((kind as u64) << 4) | len as u64;
        Key::Inline(bytes as u64, (bytes >> 64) as u64 | (meta << 56))
    }

    /// Makes the key for one word. The result equals [`Key::new`] of its eight bytes.
    ///
    /// # Panics
    ///
    /// When `kind` is not below [`KINDS`].
    #[inline]
    pub const fn word(kind: u8, word: u64) -> Self {
        assert!(kind < KINDS, "expected a kind below KINDS");
        Key::Inline(word, ((kind as u64) << 60) | (8 << 56))
    }
}

/// Packs up to 15 bytes into a little-endian number; longer input gives a useless result. The loads
/// overlap, so the length is tested only a few times, and the result stays in registers. A key that
/// went through memory would cause a store-to-load forwarding stall in the lookup.
#[inline(always)]
pub fn pack(bytes: &[u8]) -> u128 {
    let len = bytes.len();
    let byte = |index: usize| u64::from(bytes[index]) << (8 * index);
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        let last = u64::from_le_bytes(*last);
        let high = last
            .checked_shr(8 * 16u32.saturating_sub(len as u32))
            .unwrap_or(0);
        u128::from(u64::from_le_bytes(*first)) | u128::from(high) << 64
    } else if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        let first = u64::from(u32::from_le_bytes(*first));
        let last = u64::from(u32::from_le_bytes(*last));
        u128::from(first | last << (8 * (len - 4)))
    } else if len > 0 {
        u128::from(byte(0) | byte(len / 2) | byte(len - 1))
    } else {
        0
    }
}

/// The key of an entry, as a reader gets it.
#[derive(Debug)]
pub enum KeyView<'g, F> {
    /// A byte string of up to [`INLINE_MAX`] bytes.
    Inline {
        /// Its kind.
        kind: u8,
        /// The bytes; only the first `len` count.
        bytes: [u8; 16],
        /// The length in bytes.
        len: usize,
    },
    /// A longer byte string and its kind.
    Long(u8, &'g [u8]),
    /// An opaque key.
    Opaque(&'g F),
}

impl<F> KeyView<'_, F> {
    pub(crate) fn inline(w0: u64, w1: u64) -> Self {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&w0.to_le_bytes());
        bytes[8..].copy_from_slice(&w1.to_le_bytes());
        let meta = bytes[15];
        bytes[15] = 0;
        KeyView::Inline {
            kind: meta >> 4,
            bytes,
            len: usize::from(meta & 0xF),
        }
    }
}

/// The keyed hash of one table.
///
/// Strangers may choose keys, so every table has random seeds of its own. The function is foldhash
/// (Orson Peters), in the variant whose output bits are all usable: the table takes its directory
/// index, group and tag from one hash. The hash of two words is computed here rather than by that
/// crate. The crate keeps half of its seed behind a pointer, and the lookup of a short key would
/// wait for one more load.
#[derive(Clone, Debug)]
pub struct Seed {
    words: [u64; 2],
    bytes: SeedableRandomState,
}

/// Multiplies two words and folds the product: the middle bits of a product vary most with either
/// factor.
#[inline(always)]
const fn folded_multiply(x: u64, y: u64) -> u64 {
    let full = (x as u128).wrapping_mul(y as u128);
    full as u64 ^ (full >> 64) as u64
}

/// Digits of pi.
const ARBITRARY: [u64; 3] = [
    0x243F_6A88_85A3_08D3,
    0x1319_8A2E_0370_7344,
    0xA409_3822_299F_31D0,
];

impl Seed {
    /// Makes a seed that nobody can predict.
    pub fn random() -> Self {
        static SHARED: OnceLock<SharedSeed> = OnceLock::new();
        let shared = SHARED.get_or_init(|| SharedSeed::from_u64(entropy()));
        Seed {
            words: [entropy(), entropy()],
            bytes: SeedableRandomState::with_seed(entropy(), shared),
        }
    }

    /// Makes a seed that is the same in every run, for tests that compare runs.
    pub fn fixed(seed: u64) -> Self {
        let word = |number: u64| folded_multiply(seed ^ number, ARBITRARY[1]) ^ ARBITRARY[2];
        Seed {
            words: [word(ARBITRARY[0]), word(ARBITRARY[2])],
            bytes: SeedableRandomState::with_seed(seed, SharedSeed::global_fixed()),
        }
    }

    /// Returns the hash of a key.
    #[inline(always)]
    pub fn hash<P: ?Sized>(&self, key: &Key<'_, P>) -> u64 {
        match *key {
            Key::Inline(w0, w1) => self.words(w0, w1),
            Key::Long(kind, bytes) => {
                let mut hasher = self.bytes.build_hasher();
                hasher.write(bytes);
                hasher.write_u8(kind);
                hasher.finish()
            }
            Key::Opaque(hash, _) => self.words(hash, OPAQUE << 56),
        }
    }

    /// Returns first eight bytes that give all keys one hash, whatever their other bytes are.
    #[cfg(test)]
    pub(crate) fn blind_spot(&self) -> [u8; 8] {
        self.words[0].to_le_bytes()
    }

    #[inline(always)]
    pub(crate) fn words(&self, w0: u64, w1: u64) -> u64 {
        let folded = folded_multiply(w0 ^ self.words[0], w1 ^ self.words[1]);
        folded_multiply(folded, ARBITRARY[0])
    }

    /// Hashes three words in the same way.
    #[inline(always)]
    pub(crate) fn three(&self, w0: u64, w1: u64, w2: u64) -> u64 {
        let folded = folded_multiply(w0 ^ self.words[0], w1 ^ self.words[1]);
        folded_multiply(folded ^ w2, ARBITRARY[0])
    }
}

/// Returns eight bytes from the operating system, taken from `std`'s own hash seeds.
fn entropy() -> u64 {
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn inline(kind: u8, bytes: &[u8]) -> (u64, u64) {
        match Key::<()>::new(kind, bytes) {
            Key::Inline(w0, w1) => (w0, w1),
            other => panic!("expected an inline key, got: {other:?}"),
        }
    }

    #[test]
    fn a_word_is_its_eight_bytes() {
        let Key::Inline(w0, w1) = Key::<()>::word(3, 0x0102_0304_0506_0708) else {
            panic!("a word is an inline key");
        };
        assert_eq!((w0, w1), inline(3, &0x0102_0304_0506_0708u64.to_le_bytes()));
    }

    #[test]
    fn length_and_kind_tell_keys_apart() {
        assert_ne!(inline(0, b""), inline(0, b"\0"));
        assert_ne!(inline(0, b"a"), inline(1, b"a"));
        assert_ne!(inline(0, b"a\0"), inline(0, b"a"));
    }

    #[test]
    fn an_inline_key_reads_back() {
        for len in 0..=INLINE_MAX {
            let bytes: Vec<u8> = (1..=len as u8).collect();
            let (w0, w1) = inline(7, &bytes);
            let view: KeyView<'_, NoOpaque> = KeyView::inline(w0, w1);
            let KeyView::Inline {
                kind,
                bytes: read,
                len: read_len,
            } = view
            else {
                panic!("expected an inline key, got: {view:?}");
            };
            assert_eq!((kind, &read[..read_len]), (7, &bytes[..]));
        }
    }

    #[test]
    fn sixteen_bytes_are_long() {
        assert!(matches!(Key::<()>::new(0, &[0; 16]), Key::Long(0, _)));
    }

    #[test]
    #[should_panic(expected = "expected a kind below")]
    fn a_word_of_an_unknown_kind_is_refused() {
        let _ = Key::<()>::word(KINDS, 7);
    }

    #[test]
    fn seeds_differ() {
        let key = Key::<()>::new(0, b"key");
        assert_ne!(Seed::random().hash(&key), Seed::random().hash(&key));
        assert_eq!(Seed::fixed(1).hash(&key), Seed::fixed(1).hash(&key));
    }
}
