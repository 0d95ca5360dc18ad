//! Terms as the telemetry tables store them: short ones encoded, others in an environment of their
//! own.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, LazyLock};

use foundation_core::batch::{INLINE, Payload};
use rustler::types::tuple::{get_tuple, make_tuple};
use rustler::{Env, Term};

use crate::raw::{Failure, may_take_long};
use crate::term::{
    Buffer, NotEncoded, OwnedTerm, decode_all, is_immediate, map_term, measure, measure_whole,
    raw_word, small_map, word, word_term,
};

/// Some stored terms.
pub type Stored = Payload<OwnedTerm>;

/// Terms that are ready to be stored.
pub enum Prepared<'a, const N: usize> {
    /// Stored as the terms' own words: see [`pack`].
    Words([Term<'a>; N]),
    Stored(Stored),
}

/// Prepares `N` terms for storage. [`terms`] with the same `N` reads them.
///
/// # Errors
///
/// When it would take long and this is a normal scheduler, or when there is no memory.
#[inline(always)]
pub fn prepare<'a, const N: usize>(
    env: Env<'a>,
    terms: [Term<'a>; N],
) -> Result<Prepared<'a, N>, Failure> {
    if are_words(&terms) {
        return Ok(Prepared::Words(terms));
    }
    encode(env, terms).map(Prepared::Stored)
}

impl<const N: usize> Prepared<'_, N> {
    /// Stores the terms in `place`. Words are written straight to their final place. Writing bytes
    /// and then moving them in larger pieces would cause store-to-load forwarding stalls.
    #[inline(always)]
    pub fn keep(self, place: &mut Stored) {
        match self {
            Prepared::Stored(stored) => *place = stored,
            Prepared::Words(terms) => {
                if !matches!(place, Payload::Inline(..)) {
                    *place = Stored::default();
                }
                if let Payload::Inline(len, bytes) = place {
                    *len = pack(&terms, bytes) as u8;
                }
            }
        }
    }
}

/// Stores terms.
///
/// # Errors
///
/// As [`prepare`].
pub fn store<'a, const N: usize>(env: Env<'a>, terms: [Term<'a>; N]) -> Result<Stored, Failure> {
    let mut stored = Stored::default();
    prepare(env, terms)?.keep(&mut stored);
    Ok(stored)
}

#[inline(never)]
fn encode<'a, const N: usize>(env: Env<'a>, terms: [Term<'a>; N]) -> Result<Stored, Failure> {
    let mut buffer = Buffer::new();
    let encoded = terms.iter().try_for_each(|term| buffer.encode_value(*term));
    match encoded {
        Ok(()) => Ok(Payload::bytes(buffer.bytes())),
        Err(NotEncoded) => {
            let tuple = make_tuple(env, &terms);
            measure(tuple)?;
            let kept = OwnedTerm::new(tuple).ok_or(Failure::BadArgument)?;
            Ok(Payload::Object(Arc::new(kept)))
        }
    }
}

/// Returns the terms that [`store`] stored.
///
/// # Errors
///
/// When it would take long and this is a normal scheduler.
pub fn terms<'a, const N: usize>(env: Env<'a>, stored: &Stored) -> Result<[Term<'a>; N], Failure> {
    match stored {
        Payload::Inline(_, bytes) if bytes[0] >= PACKED => Ok(unpack(env, bytes)),
        Payload::Inline(len, bytes) => Ok(decode_all(env, &bytes[..usize::from(*len)])),
        Payload::Boxed(bytes) => Ok(decode_all(env, bytes)),
        Payload::Object(kept) if kept.is_heavy() && !may_take_long() => Err(Failure::TakesLong),
        Payload::Object(kept) => {
            let terms = get_tuple(kept.copy(env)).map_err(|_| Failure::BadArgument)?;
            terms.try_into().map_err(|_| Failure::BadArgument)
        }
    }
}

/// Returns about what it costs to read stored terms; a subterm counts as one.
pub fn cost(stored: &Stored) -> usize {
    match stored {
        Payload::Inline(len, _) => 4 + usize::from(*len) / 16,
        Payload::Boxed(bytes) => 4 + bytes.len() / 16,
        Payload::Object(kept) => 4 + kept.nodes(),
    }
}

/// The kind of a packed term, in a byte: a map with so many entries, or, with all bits set, an
/// immediate. No encoding starts with such a byte.
const PACKED: u8 = 0x80;
const IMMEDIATE: u8 = 0xFF;
const WORD: usize = size_of::<u64>();
/// The number of words that fit.
const WORDS: usize = INLINE / WORD;

/// Returns whether all terms are immediates or small maps of immediates, and their words fit. Most
/// events are such terms.
#[inline]
fn are_words<const N: usize>(terms: &[Term<'_>; N]) -> bool {
    let mut words = 0;
    let all_immediate = terms.iter().all(|term| match small_map(*term) {
        Some((keys, values)) => {
            words += 2 * keys.len();
            let mut words = keys.iter().chain(values);
            keys.len() <= WORDS / 2 && words.all(|term| is_immediate(raw_word(*term)))
        }
        None => {
            words += 1;
            is_immediate(word(*term))
        }
    });
    all_immediate && N + words * WORD <= INLINE
}

/// Stores terms for which [`are_words`] holds: a byte for the kind of each, then the words. This
/// takes half the time of an encoding. Returns the number of bytes.
#[inline]
fn pack<const N: usize>(terms: &[Term<'_>; N], bytes: &mut [u8; INLINE]) -> usize {
    let mut end = N;
    for (kind, term) in terms.iter().enumerate() {
        let mut push = |word: u64| {
            if let Some(room) = bytes.get_mut(end..end + WORD) {
                room.copy_from_slice(&word.to_ne_bytes());
                end += WORD;
            }
        };
        bytes[kind] = match small_map(*term) {
            Some((keys, values)) => {
                let words = keys.iter().chain(values);
                words.for_each(|term| push(raw_word(*term)));
                PACKED | keys.len() as u8
            }
            None => {
                push(word(*term));
                IMMEDIATE
            }
        };
    }
    end
}

/// Returns the terms that [`pack`] stored.
#[inline]
fn unpack<'a, const N: usize>(env: Env<'a>, bytes: &[u8; INLINE]) -> [Term<'a>; N] {
    let mut words = bytes[N..].chunks_exact(WORD).map(|chunk| {
        let mut word = [0; WORD];
        word.copy_from_slice(chunk);
        word_term(env, u64::from_ne_bytes(word)).as_c_arg()
    });
    let mut next = || words.next().unwrap_or_default();
    std::array::from_fn(|kind| match bytes[kind] {
        // SAFETY: an immediate is valid in every environment.
        IMMEDIATE => unsafe { Term::new(env, next()) },
        map => {
            let count = usize::from(map - PACKED).min(WORDS / 2);
            let mut entries = [Default::default(); WORDS];
            for word in &mut entries[..2 * count] {
                *word = next();
            }
            let (keys, values) = entries.split_at(count);
            // SAFETY: as above.
            unsafe { map_term(env, keys, &values[..count]) }
        }
    })
}

/// The longest encoding that serves as a term's identity. A digest identifies longer ones.
const EXACT_MAX: usize = 256;
/// The first bytes of digests. No encoding starts with them.
const OF_ENCODING: u8 = 0xFE;
const OF_EXTERNAL: u8 = 0xFF;

/// Adds the identity of a term to `buffer`. Equal terms have equal identities, and different terms
/// have different ones. Two long terms collide with a probability of 2^-128, and the secret keys
/// prevent an attacker from finding a collision.
///
/// # Errors
///
/// When it would take long and this is a normal scheduler.
#[inline]
pub fn identify(buffer: &mut Buffer, term: Term) -> Result<(), Failure> {
    let start = buffer.bytes().len();
    if buffer.encode_window(term).is_ok() {
        let encoding = &buffer.bytes()[start..];
        if encoding.len() > EXACT_MAX {
            let digest = digest(encoding);
            replace(buffer, start, OF_ENCODING, digest);
        }
        return Ok(());
    }
    measure_whole(term)?;
    // The order of a map that is too large to be sorted here depends only on its keys.
    let digest = digest(term.to_binary().as_slice());
    replace(buffer, start, OF_EXTERNAL, digest);
    Ok(())
}

fn replace(buffer: &mut Buffer, start: usize, tag: u8, digest: [u64; 2]) {
    buffer.truncate(start);
    // The length of names is bounded so that a digest always fits.
    let _ = buffer.push(&[tag]);
    let _ = buffer.push(&digest[0].to_le_bytes());
    let _ = buffer.push(&digest[1].to_le_bytes());
}

/// Returns 128 bits of SipHash with two secret keys.
fn digest(bytes: &[u8]) -> [u64; 2] {
    static KEYS: LazyLock<[RandomState; 2]> =
        LazyLock::new(|| [RandomState::new(), RandomState::new()]);
    KEYS.each_ref().map(|key| {
        let mut hasher = key.build_hasher();
        hasher.write(bytes);
        hasher.finish()
    })
}
