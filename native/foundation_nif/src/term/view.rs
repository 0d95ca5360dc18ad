//! The kind and the size of terms.

use std::mem::MaybeUninit;

use rustler::codegen_runtime::ErlNifTerm;
use rustler::sys::*;
use rustler::{Env, Term};

use super::layout::{Boxed, boxed, boxed_words, cell, may_be_binary, small_map, tuple_words};
use super::{is_immediate, no_term, word};
use crate::raw::{Failure, may_take_long};

/// The size of terms, counted up to a limit.
#[derive(Default)]
pub(super) struct Size {
    pub(super) nodes: usize,
    pub(super) bytes: usize,
    /// Whether it contains a term whose size the VM does not tell.
    pub(super) is_opaque: bool,
}

impl Size {
    /// Stops counting at about this many subterms.
    const ENOUGH: usize = 100_000;

    pub(super) fn add(&mut self, term: Term) {
        self.add_up_to(term, Self::ENOUGH, usize::MAX);
    }

    /// Adds a term's subterms and the bytes of its binaries and large integers. Returns whether
    /// both limits held. If not, more than `nodes` or `bytes` has been counted.
    pub(super) fn add_up_to(&mut self, term: Term, nodes: usize, bytes: usize) -> bool {
        let mut left = vec![term];
        while let Some(term) = left.pop() {
            self.nodes += 1;
            if self.nodes > nodes || self.bytes > bytes {
                return false;
            }
            match View::of(term) {
                View::Immediate(_) | View::Float(_) | View::Integer(_) | View::Natural(_) => {}
                View::Binary(binary) => self.bytes += binary.len(),
                View::Cell(head, tail) => left.extend([tail, head]),
                View::Tuple(elements) => {
                    if elements.len() > nodes {
                        self.nodes += elements.len();
                        return false;
                    }
                    left.extend(elements.iter());
                }
                View::Map(len) => {
                    if len > nodes {
                        self.nodes += 2 * len;
                        return false;
                    }
                    left.extend(entries(term).flat_map(|(key, value)| [key, value]));
                }
                // The VM copies it in one piece: 16 words take as long as one subterm.
                View::Flat => {
                    self.nodes += boxed_words(term) / 16;
                    self.bytes += boxed_words(term) * size_of::<ErlNifTerm>();
                }
                View::Opaque => {
                    self.is_opaque = true;
                    self.bytes += size_of::<ErlNifTerm>();
                }
            }
        }
        self.nodes <= nodes && self.bytes <= bytes
    }
}

/// The entries of a map.
pub(super) enum Entries<'a> {
    /// Those of a small map, read in place.
    Small(Env<'a>, std::iter::Zip<Words<'a>, Words<'a>>),
    Large(LargeMap<'a>),
}

type Words<'a> = std::slice::Iter<'a, ErlNifTerm>;

#[inline]
pub(super) fn entries(map: Term<'_>) -> Entries<'_> {
    match small_map(map) {
        Some((keys, values)) => Entries::Small(map.get_env(), keys.iter().zip(values)),
        None => Entries::Large(LargeMap::new(map)),
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = (Term<'a>, Term<'a>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Entries::Small(env, entries) => {
                let (key, value) = entries.next()?;
                // SAFETY: the keys and values of a map belong to its environment.
                unsafe { Some((Term::new(*env, *key), Term::new(*env, *value))) }
            }
            Entries::Large(entries) => entries.next(),
        }
    }
}

/// The entries of a map, from the VM's own iterator. Rustler's iterator can go both ways, which
/// makes it take twice as long.
pub(super) struct LargeMap<'a> {
    map: Term<'a>,
    iterator: ErlNifMapIterator,
    left: usize,
}

impl<'a> LargeMap<'a> {
    fn new(map: Term<'a>) -> Self {
        let env = map.get_env().as_c_arg();
        let (mut left, mut iterator) = (0, MaybeUninit::<ErlNifMapIterator>::zeroed());
        // SAFETY: the iterator is used only if there are entries, and then the VM has made it. All
        // zeros is a valid value of the plain structure.
        let iterator = unsafe {
            if enif_get_map_size(env, map.as_c_arg(), &mut left) == 1 && left > 0 {
                let first = ErlNifMapIteratorEntry::ERL_NIF_MAP_ITERATOR_HEAD;
                if enif_map_iterator_create(env, map.as_c_arg(), iterator.as_mut_ptr(), first) == 0
                {
                    left = 0;
                }
            } else {
                left = 0;
            }
            iterator.assume_init()
        };
        LargeMap {
            map,
            iterator,
            left,
        }
    }

    fn next(&mut self) -> Option<(Term<'a>, Term<'a>)> {
        if self.left == 0 {
            return None;
        }
        let env = self.map.get_env();
        let (mut key, mut value) = (no_term(), no_term());
        // SAFETY: entries are left, so the iterator is at one of them. It advances only if there is
        // another.
        unsafe {
            enif_map_iterator_get_pair(env.as_c_arg(), &mut self.iterator, &mut key, &mut value);
            self.left -= 1;
            if self.left > 0 {
                enif_map_iterator_next(env.as_c_arg(), &mut self.iterator);
            } else {
                enif_map_iterator_destroy(env.as_c_arg(), &mut self.iterator);
            }
            Some((Term::new(env, key), Term::new(env, value)))
        }
    }
}

impl Drop for LargeMap<'_> {
    fn drop(&mut self) {
        if self.left > 0 {
            // SAFETY: it was created, and has not been destroyed at its end.
            unsafe {
                let env = self.map.get_env().as_c_arg();
                enif_map_iterator_destroy(env, &mut self.iterator);
            }
        }
    }
}

/// The elements of a tuple.
#[derive(Clone, Copy)]
pub(super) struct Elements<'a> {
    env: Env<'a>,
    words: &'a [ErlNifTerm],
}

impl<'a> Elements<'a> {
    pub(super) fn len(self) -> usize {
        self.words.len()
    }

    pub(super) fn iter(self) -> impl Iterator<Item = Term<'a>> {
        // SAFETY: the elements of a tuple belong to its environment.
        self.words
            .iter()
            .map(move |word| unsafe { Term::new(self.env, *word) })
    }
}

/// Returns the elements of a tuple, or `None` for any other term.
#[inline(always)]
pub(super) fn tuple(term: Term<'_>) -> Option<Elements<'_>> {
    let env = term.get_env();
    tuple_words(term).map(|words| Elements { env, words })
}

/// The kind of a term, as the encoding distinguishes kinds.
pub(super) enum View<'a> {
    Immediate(u64),
    Binary(&'a [u8]),
    Cell(Term<'a>, Term<'a>),
    Tuple(Elements<'a>),
    Float(f64),
    Integer(i64),
    Natural(u64),
    Map(usize),
    /// A large integer, a reference, or a process or port of another node.
    Flat,
    /// A function, a bitstring, or a kind that only later VMs have: the VM does not tell its size.
    Opaque,
}

impl<'a> View<'a> {
    #[inline]
    pub(super) fn of(term: Term<'a>) -> Self {
        let word = word(term);
        if is_immediate(word) {
            View::Immediate(word)
        } else {
            View::of_compound(term)
        }
    }

    #[inline]
    fn of_compound(term: Term<'a>) -> Self {
        if let Some((head, tail)) = cell(term) {
            return View::Cell(head, tail);
        }
        let env = term.get_env();
        match boxed(term) {
            Boxed::Tuple(words) => View::Tuple(Elements { env, words }),
            Boxed::SmallMap((keys, _)) => View::Map(keys.len()),
            Boxed::Other => View::of_other(term),
        }
    }

    /// Asks about each kind separately. `enif_term_type` aborts the VM for a kind that it has no
    /// name for, such as the native records of OTP 29.
    fn of_other(term: Term<'a>) -> Self {
        if let Some(bytes) = binary(term) {
            return View::Binary(bytes);
        }
        let (raw, word) = (term.get_env().as_c_arg(), term.as_c_arg());
        // SAFETY: each function gets a term of its environment, and its result is read only if it
        // reports success.
        unsafe {
            let mut size = 0;
            if enif_get_map_size(raw, word, &mut size) == 1 {
                return View::Map(size);
            }
            let mut float = 0.0;
            if enif_get_double(raw, word, &mut float) == 1 {
                return View::Float(float);
            }
            let mut integer = 0;
            if enif_get_int64(raw, word, &mut integer) == 1 {
                return View::Integer(integer);
            }
            let mut natural = 0;
            if enif_get_uint64(raw, word, &mut natural) == 1 {
                return View::Natural(natural);
            }
            let is_flat = enif_is_number(raw, word) == 1
                || enif_is_ref(raw, word) == 1
                || enif_is_pid(raw, word) == 1
                || enif_is_port(raw, word) == 1;
            if is_flat { View::Flat } else { View::Opaque }
        }
    }
}

/// Returns the elements of a list, each converted by `element`.
///
/// # Errors
///
/// When it is not a proper list, or `element` returns `None`.
pub fn elements<'a, T>(
    list: Term<'a>,
    element: impl Fn(Term<'a>) -> Option<T>,
) -> Result<Vec<T>, Failure> {
    let mut rest = list;
    let mut made = Vec::new();
    while let Some((head, tail)) = cell(rest) {
        made.push(element(head).ok_or(Failure::BadArgument)?);
        rest = tail;
    }
    if rest.is_empty_list() {
        Ok(made)
    } else {
        Err(Failure::BadArgument)
    }
}

/// Returns the bytes of an argument that must be a binary.
///
/// # Errors
///
/// When it is none, or the VM would copy its bytes on this normal scheduler.
#[inline]
pub fn required_binary(term: Term<'_>) -> Result<&[u8], Failure> {
    binary(term).ok_or_else(|| {
        if may_take_long() {
            Failure::BadArgument
        } else {
            Failure::TakesLong
        }
    })
}

/// Returns the bytes of a binary. On a normal scheduler a binary that starts within a byte has none,
/// unless it is short.
#[inline]
pub fn binary(term: Term<'_>) -> Option<&[u8]> {
    if !may_be_binary(term) {
        return None;
    }
    let mut binary = MaybeUninit::<ErlNifBinary>::uninit();
    // SAFETY: the function fills in `binary` when it succeeds. The bytes live as long as the term's
    // environment, which the slice's lifetime is bound to.
    unsafe {
        let env = term.get_env().as_c_arg();
        if enif_inspect_binary(env, term.as_c_arg(), binary.as_mut_ptr()) == 0 {
            return None;
        }
        let binary = binary.assume_init();
        Some(std::slice::from_raw_parts(binary.data, binary.size))
    }
}
