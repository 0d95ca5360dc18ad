//! A term as a key: an immediate as its word, a binary as its bytes, other terms as their encoding.
//!
//! Terms without a key encoding are stored as terms, and the VM compares them. These are maps,
//! functions, references, larger integers, bitstrings, remote pids, and before OTP 27 a float that
//! is zero. Terms with a long encoding are stored the same way. The choice depends only on the
//! term.

use std::sync::OnceLock;

use foundation_core::key::{Key, KeyView};
use rustler::codegen_runtime::ErlNifTerm;
use rustler::sys::{ErlNifHash, enif_hash};
use rustler::{Env, Term};

use super::budget::{BYTES_MAX, measure_whole};
use super::encoding::{Buffer, Form, decode, short_map, short_tuple};
use super::owned::{OwnedTerm, Probe};
use super::view::binary;
use super::{binary_term, is_immediate, word, word_term};
use crate::raw::Failure;

const BINARY: u8 = 0;
const IMMEDIATE: u8 = 1;
const COMPOUND: u8 = 2;

/// Returns the key of an immediate, the cheapest kind of key. Hot calls try it first, so that it
/// stays in registers.
#[inline(always)]
fn immediate_key<P>(term: Term) -> Option<Key<'static, P>> {
    let word = word(term);
    is_immediate(word).then(|| Key::word(IMMEDIATE, word))
}

/// Returns the key of an immediate or of a short binary. It borrows nothing.
#[inline(always)]
pub fn short_key<P>(term: Term) -> Option<Key<'static, P>> {
    immediate_key(term).or_else(|| Key::short(BINARY, binary(term)?))
}

/// Returns the key of a short tuple of those.
#[inline]
pub fn short_compound_key<P>(term: Term) -> Option<Key<'static, P>> {
    let (bytes, len) = short_tuple(term)?;
    Some(Key::packed(COMPOUND, bytes, len))
}

/// Returns the key of a short tuple or map of those, for use where the key is never read back.
#[inline]
pub fn short_window_key<P>(term: Term) -> Option<Key<'static, P>> {
    let (bytes, len) = short_tuple(term).or_else(|| short_map(term))?;
    Some(Key::packed(COMPOUND, bytes, len))
}

/// Returns the key of a term. It may borrow from `buffer` and `probe`.
///
/// # Errors
///
/// When it would take long and this is a normal scheduler.
#[inline(always)]
pub fn key<'k, 'a: 'k>(
    term: Term<'a>,
    buffer: &'k mut Buffer,
    probe: &'k mut Option<Probe>,
) -> Result<Key<'k, Probe>, Failure> {
    if let Some(key) = immediate_key(term) {
        return Ok(key);
    }
    if let Some(bytes) = binary(term) {
        return binary_key(bytes);
    }
    compound_key(term, buffer, probe)
}

/// Calls `then` with the key of a term.
///
/// It writes a short key to memory only once, in the form in which it is read. [`key`] would move
/// its result in larger pieces than it was written in, which causes a store-to-load forwarding
/// stall.
///
/// # Errors
///
/// As [`key`], and those of `then`.
#[inline(always)]
pub fn with_key<R>(
    term: Term,
    then: impl FnOnce(&Key<'_, Probe>) -> Result<R, Failure>,
) -> Result<R, Failure> {
    match short_key(term).or_else(|| short_compound_key(term)) {
        Some(key) => then(&key),
        None => with_encoded_key(term, then),
    }
}

/// Calls `then` with the key of a term that [`short_key`] and [`short_compound_key`] have rejected.
///
/// # Errors
///
/// As [`with_key`].
#[inline(always)]
pub fn with_encoded_key<R>(
    term: Term,
    then: impl FnOnce(&Key<'_, Probe>) -> Result<R, Failure>,
) -> Result<R, Failure> {
    let (mut buffer, mut probe) = (Buffer::new(), None);
    let key = match binary(term) {
        Some(bytes) => binary_key(bytes)?,
        None => encoded_key(term, &mut buffer, &mut probe)?,
    };
    then(&key)
}

#[inline(always)]
fn binary_key(bytes: &[u8]) -> Result<Key<'_, Probe>, Failure> {
    if bytes.len() > BYTES_MAX && !crate::raw::may_take_long() {
        return Err(Failure::TakesLong);
    }
    Ok(Key::new(BINARY, bytes))
}

#[inline(never)]
fn compound_key<'k, 'a: 'k>(
    term: Term<'a>,
    buffer: &'k mut Buffer,
    probe: &'k mut Option<Probe>,
) -> Result<Key<'k, Probe>, Failure> {
    match short_compound_key(term) {
        Some(key) => Ok(key),
        None => encoded_key(term, buffer, probe),
    }
}

/// Returns the key of a term that has no short key.
#[inline(never)]
fn encoded_key<'k, 'a: 'k>(
    term: Term<'a>,
    buffer: &'k mut Buffer,
    probe: &'k mut Option<Probe>,
) -> Result<Key<'k, Probe>, Failure> {
    if buffer.encode(term, Form::Key, 0).is_ok() {
        return Ok(Key::new(COMPOUND, buffer.bytes()));
    }
    let nodes = measure_whole(term)?;
    let hash = vm_hash(term.as_c_arg());
    let probe = probe.insert(Probe::new(term, nodes));
    Ok(Key::Opaque(hash, probe))
}

/// Returns the VM's hash of a term of the current call, with a salt.
pub fn vm_hash(term: ErlNifTerm) -> u64 {
    // SAFETY: the term is alive, and hashing needs nothing else.
    unsafe { enif_hash(ErlNifHash::ERL_NIF_INTERNAL_HASH, term, salt()) }
}

/// Returns the salt for the VM's hash function. Like the tables' seeds, it is secret and random.
fn salt() -> u64 {
    static SALT: OnceLock<u64> = OnceLock::new();
    *SALT.get_or_init(|| {
        let seed = foundation_core::key::Seed::random();
        seed.hash(&Key::<()>::word(0, 0))
    })
}

/// Returns the term of a stored key.
pub fn key_term<'a>(env: Env<'a>, key: &KeyView<'_, OwnedTerm>) -> Term<'a> {
    let of_kind = |kind: u8, bytes: &[u8]| match kind {
        BINARY => binary_term(env, bytes),
        IMMEDIATE => word_term(
            env,
            bytes
                .iter()
                .rev()
                .fold(0, |word, byte| (word << 8) | u64::from(*byte)),
        ),
        _ => decode(env, bytes),
    };
    match key {
        KeyView::Inline { kind, bytes, len } => of_kind(*kind, &bytes[..*len]),
        KeyView::Long(kind, bytes) => of_kind(*kind, bytes),
        KeyView::Opaque(term) => term.copy(env),
    }
}
