//! Terms as the telemetry tables keep them: encoded where that is short, else in an environment.

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

/// Some terms, kept.
pub type Stored = Payload<OwnedTerm>;

/// Terms that are ready to be kept.
pub enum Prepared<'a, const N: usize> {
    /// As their words: see [`pack`].
    Words([Term<'a>; N]),
    Stored(Stored),
}

/// Prepares terms to be kept, and to be read by [`terms`] of as many.
///
/// # Errors
///
/// When it would take long and this is a normal scheduler, or there is no memory.
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
    /// Keeps them in `place`, where words are written as they are to stay: bytes that are written one
    /// after another and then moved in larger pieces make the processor wait.
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

/// Keeps terms.
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

/// The terms that were kept by [`store`].
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

/// What reading what was kept by [`store`] costs, about: a subterm is one.
pub fn cost(stored: &Stored) -> usize {
    match stored {
        Payload::Inline(len, _) => 4 + usize::from(*len) / 16,
        Payload::Boxed(bytes) => 4 + bytes.len() / 16,
        Payload::Object(kept) => 4 + kept.nodes(),
    }
}

/// What a byte says of a packed term: that it is a map of so many entries, or, with all bits set, an immediate.
/// No encoding begins so.
const PACKED: u8 = 0x80;
const IMMEDIATE: u8 = 0xFF;
const WORD: usize = size_of::<u64>();
/// Words that there is room for.
const WORDS: usize = INLINE / WORD;

/// Whether terms are immediates, and maps of a few of them, and there is room for their words. It is what most
/// events are made of.
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

/// Keeps terms that [`are_words`]: a byte for each, then the words. That is half the work of encoding
/// them. Answers how many bytes there are.
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

/// The terms of [`pack`].
#[inline]
fn unpack<'a, const N: usize>(env: Env<'a>, bytes: &[u8; INLINE]) -> [Term<'a>; N] {
    let mut words = bytes[N..].chunks_exact(WORD).map(|chunk| {
        let mut word = [0; WORD];
        word.copy_from_slice(chunk);
        word_term(env, u64::from_ne_bytes(word)).as_c_arg()
    });
    let mut next = || words.next().unwrap_or_default();
    std::array::from_fn(|kind| match bytes[kind] {
        // SAFETY: an immediate belongs to every environment.
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

/// The longest encoding that identifies a term as it is: past it, its digest does.
const EXACT_MAX: usize = 256;
/// What a digest begins with: no encoding begins so.
const OF_ENCODING: u8 = 0xFE;
const OF_EXTERNAL: u8 = 0xFF;

/// Adds to `buffer` what identifies a term: equal terms are alike, and others are not, but for a
/// chance of one in 2^128 for the long ones, which nobody outside can improve.
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
    // Maps that are too large to be sorted have an order that depends on their keys alone.
    let digest = digest(term.to_binary().as_slice());
    replace(buffer, start, OF_EXTERNAL, digest);
    Ok(())
}

fn replace(buffer: &mut Buffer, start: usize, tag: u8, digest: [u64; 2]) {
    buffer.truncate(start);
    // The names before it are bounded so that a digest always fits.
    let _ = buffer.push(&[tag]);
    let _ = buffer.push(&digest[0].to_le_bytes());
    let _ = buffer.push(&digest[1].to_le_bytes());
}

/// 128 bits of SipHash with two secret keys.
fn digest(bytes: &[u8]) -> [u64; 2] {
    static KEYS: LazyLock<[RandomState; 2]> =
        LazyLock::new(|| [RandomState::new(), RandomState::new()]);
    KEYS.each_ref().map(|key| {
        let mut hasher = key.build_hasher();
        hasher.write(bytes);
        hasher.finish()
    })
}
