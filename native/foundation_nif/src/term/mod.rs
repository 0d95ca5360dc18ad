//! Terms as keys and values of the tables.
//!
//! - [`key`]: a term as a key. Equal terms (`===`) are equal keys.
//! - [`value`]: a term as a value, and back.
//! - [`budget`]: the limits on the work of a call.
//! - [`encoding`]: the byte encoding of short terms.
//! - [`layout`]: lists, tuples and small maps in the VM's memory.
//! - [`view`]: the kind and the size of a term.
//! - [`image`]: a compound term as flat words.
//! - [`rows`]: lists of entries.
//! - [`shared`]: binaries that the VM shares.
//! - [`owned`]: a term that needs more than words.

mod budget;
mod encoding;
mod image;
mod key;
mod layout;
mod owned;
mod rows;
mod shared;
mod value;
mod view;

pub use budget::{Budget, NODES_MAX, charge, copies_in_time, measure, measure_whole};
pub use encoding::{Buffer, NotEncoded, decode_all};
pub use key::{
    key, key_term, short_compound_key, short_key, short_window_key, vm_hash, with_encoded_key,
    with_key,
};
pub use layout::{as_pair, cell, is_map, small_map};
pub use owned::{LIVE_TERMS, OwnedTerm, Probe};
pub use rows::{Rows, single_pair};
pub use shared::LIVE_BINARIES;
pub use value::{value, value_term};
pub use view::{binary, elements, required_binary};

use std::sync::atomic::{AtomicU64, Ordering};

use rustler::codegen_runtime::ErlNifTerm;
use rustler::sys::{
    enif_make_list_from_array, enif_make_map_from_arrays, enif_make_new_binary,
    enif_make_tuple_from_array,
};
use rustler::{Env, Term};

/// The low two bits of a word, which tell the kind of the term.
const PRIMARY: u64 = 3;
const LIST: u64 = 1;

/// Returns a term's word.
#[inline]
pub fn word(term: Term) -> u64 {
    raw_word(term.as_c_arg())
}

/// Returns the word of a raw term.
#[inline]
pub fn raw_word(term: ErlNifTerm) -> u64 {
    // SAFETY: a raw term is a transparent word of the machine's size.
    let word = unsafe { std::mem::transmute::<ErlNifTerm, usize>(term) };
    word as u64
}

/// Returns a word that no term has.
fn no_term() -> ErlNifTerm {
    ErlNifTerm::default()
}

/// Returns whether the word alone is the whole term.
#[inline]
pub fn is_immediate(word: u64) -> bool {
    word & PRIMARY == PRIMARY
}

/// Checks, when the library is loaded, the assumptions about this VM's words: their two low bits
/// mark immediates, and the layout is that of [`layout`]. Both hold since before OTP had NIFs. A VM
/// where they do not hold cannot use this library. `magic` is a magic reference, which a library
/// cannot make while it is being loaded.
pub fn words_are_as_assumed(env: Env, magic: Term) -> bool {
    let encode = |value: i64| rustler::Encoder::encode(&value, env);
    let list = Term::list_new_empty(env);
    EMPTY_LIST.store(word(list), Ordering::Relaxed);
    let cell = list.list_prepend(encode(1));
    let atom = rustler::types::atom::ok().to_term(env);
    let tuple = rustler::types::tuple::make_tuple(env, &[atom, atom]);
    let float = rustler::Encoder::encode(&1.5f64, env);
    let binary = rustler::Encoder::encode("binary", env);
    let map = Term::map_new(env);
    let immediates = [list, atom, encode(0), encode(-1), encode(1 << 58)];
    let others = [
        tuple,
        float,
        binary,
        map,
        encode(i64::MAX),
        encode(i64::MIN),
    ];
    immediates.into_iter().all(|term| is_immediate(word(term)))
        && others
            .into_iter()
            .all(|term| !is_immediate(word(term)) && word(term) & PRIMARY != LIST)
        && word(cell) & PRIMARY == LIST
        && layout::is_as_assumed(env, magic)
}

/// Makes `{first, second}`.
#[inline]
pub fn pair<'a>(env: Env<'a>, first: Term<'a>, second: Term<'a>) -> Term<'a> {
    let words = [first.as_c_arg(), second.as_c_arg()];
    // SAFETY: both terms belong to this environment.
    unsafe {
        let tuple = enif_make_tuple_from_array(env.as_c_arg(), words.as_ptr(), 2);
        Term::new(env, tuple)
    }
}

/// Makes a tuple. Rustler's own function allocates a vector for the elements, which costs more than
/// the tuple.
#[inline]
pub fn tuple<'a, const N: usize>(env: Env<'a>, elements: [Term<'a>; N]) -> Term<'a> {
    let words = elements.map(|element| element.as_c_arg());
    // SAFETY: the elements belong to this environment.
    unsafe {
        let tuple = enif_make_tuple_from_array(env.as_c_arg(), words.as_ptr(), N as u32);
        Term::new(env, tuple)
    }
}

/// Makes the map of distinct keys and as many values.
///
/// # Safety
///
/// All of them belong to this environment.
#[inline]
pub unsafe fn map_term<'a>(env: Env<'a>, keys: &[ErlNifTerm], values: &[ErlNifTerm]) -> Term<'a> {
    let mut map = no_term();
    let count = keys.len().min(values.len());
    // SAFETY: there are `count` keys and values, and the caller promises that they belong to the
    // environment. The map is used only if the VM says that it has made one.
    unsafe {
        let (env_arg, keys, values) = (env.as_c_arg(), keys.as_ptr(), values.as_ptr());
        let made = enif_make_map_from_arrays(env_arg, keys, values, count, &mut map);
        assert_eq!(made, 1, "a map's keys are different");
        Term::new(env, map)
    }
}

/// Makes the list of these terms.
///
/// # Safety
///
/// They belong to the environment.
pub unsafe fn list<'a>(env: Env<'a>, terms: &[ErlNifTerm]) -> Term<'a> {
    // SAFETY: the caller promises it, and there are `terms.len()` terms.
    unsafe {
        let list = enif_make_list_from_array(env.as_c_arg(), terms.as_ptr(), terms.len() as u32);
        Term::new(env, list)
    }
}

/// The word of `[]`, which is taken from the VM when the library is loaded.
static EMPTY_LIST: AtomicU64 = AtomicU64::new(0);

/// Returns `[]`.
#[inline]
pub fn empty_list(env: Env<'_>) -> Term<'_> {
    word_term(env, EMPTY_LIST.load(Ordering::Relaxed))
}

/// Returns the term of an immediate's word.
#[inline]
pub fn word_term(env: Env<'_>, word: u64) -> Term<'_> {
    debug_assert!(is_immediate(word));
    // SAFETY: a raw term is a transparent word of the machine's size, and an immediate is valid in
    // every environment.
    unsafe { Term::new(env, std::mem::transmute::<usize, ErlNifTerm>(word as usize)) }
}

/// Makes a new binary.
pub fn binary_term<'a>(env: Env<'a>, bytes: &[u8]) -> Term<'a> {
    let mut term = no_term();
    // SAFETY: the VM provides room for as many bytes as are copied there.
    unsafe {
        let room = enif_make_new_binary(env.as_c_arg(), bytes.len(), &mut term);
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), room, bytes.len());
        Term::new(env, term)
    }
}
