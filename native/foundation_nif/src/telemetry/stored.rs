//! Terms as the telemetry tables keep them: encoded where that is short, else in an environment.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, LazyLock};

use foundation_core::batch::Payload;
use rustler::types::tuple::{get_tuple, make_tuple};
use rustler::{Env, Term};

use crate::raw::{Failure, may_take_long};
use crate::term::{Buffer, NotEncoded, OwnedTerm, check_size, decode_all};

/// Some terms, kept.
pub type Stored = Payload<OwnedTerm>;

/// Keeps terms, to be read by [`terms`] of as many.
///
/// # Errors
///
/// When it would take long and this is a normal scheduler, or there is no memory.
#[inline]
pub fn store<'a, const N: usize>(env: Env<'a>, terms: [Term<'a>; N]) -> Result<Stored, Failure> {
    let mut buffer = Buffer::new();
    let encoded = terms.iter().try_for_each(|term| buffer.encode_value(*term));
    match encoded {
        Ok(()) => Ok(Payload::bytes(buffer.bytes())),
        Err(NotEncoded) => {
            let tuple = make_tuple(env, &terms);
            check_size(tuple)?;
            let kept = OwnedTerm::new(tuple).ok_or(Failure::BadArgument)?;
            Ok(Payload::Kept(Arc::new(kept)))
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
        Payload::Inline(len, bytes) => Ok(decode_all(env, &bytes[..usize::from(*len)])),
        Payload::Boxed(bytes) => Ok(decode_all(env, bytes)),
        Payload::Kept(kept) if kept.is_heavy() && !may_take_long() => Err(Failure::TakesLong),
        Payload::Kept(kept) => {
            let terms = get_tuple(kept.copy(env)).map_err(|_| Failure::BadArgument)?;
            terms.try_into().map_err(|_| Failure::BadArgument)
        }
    }
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
    check_size(term)?;
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
