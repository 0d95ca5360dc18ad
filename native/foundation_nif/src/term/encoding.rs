//! The byte encoding of short terms.
//!
//! In the key form, terms are equal (`===`) if and only if their encodings are. Immediates (atoms,
//! small integers, local pids, ports, `[]`) are the VM's own words, and binaries are their bytes.
//! Tuples, lists, floats and integers of 64 bits are built from those. In the value form maps have
//! an encoding too.

use std::mem::MaybeUninit;
use std::sync::OnceLock;

use foundation_core::key::{INLINE_MAX, pack};
use rustler::codegen_runtime::ErlNifTerm;
use rustler::sys::*;
use rustler::{Env, Term};

use super::layout::small_map;
use super::view::{View, binary, entries, tuple};
use super::{PRIMARY, binary_term, is_immediate, map_term, raw_word, word, word_term};

/// The longest encoding. Longer terms are stored as terms.
const ENCODED_MAX: usize = 512;
/// The deepest nesting of an encoded term. Deeper terms are stored as terms.
const DEPTH_MAX: usize = 16;
/// The longest binary that the VM copies instead of sharing it.
const HEAP_BINARY_MAX: usize = 64;

const TAG_FLOAT: u8 = 0x01;
const TAG_INTEGER: u8 = 0x02;
const TAG_NATURAL: u8 = 0x03;
const TAG_BINARY: u8 = 0x04;
const TAG_TUPLE: u8 = 0x05;
const TAG_LIST: u8 = 0x06;
const TAG_END: u8 = 0x07;
const TAG_TAIL: u8 = 0x08;
const TAG_MAP: u8 = 0x09;
/// Tags from here on include the number of bytes of the immediate's word.
const IMMEDIATE: u8 = 0x10;
const SHORT_TUPLE: u8 = 0x20;
const SHORT_TUPLES: usize = 0x20;
const SHORT_BINARY: u8 = 0x40;
const SHORT_BINARIES: usize = 0x40;
/// Tags from here on include the number of entries. Only [`short_map`] writes them.
const SHORT_MAP: u8 = 0x80;
/// The low bits of every atom's word. [`short_map`] has only atoms as keys, so it leaves these bits
/// out.
const ATOM: u64 = 0x0B;
const ATOM_BITS: usize = 6;
const ATOM_MASK: u64 = (1 << ATOM_BITS) - 1;
/// How many bytes of an atom's word [`short_map`] writes. Atoms with larger words have no short
/// form.
const NAME_BYTES: usize = 3;

/// Returns whether `0.0` and `-0.0` are equal terms in this VM. From OTP 27 on they differ.
fn zeros_are_one() -> bool {
    static ONE: OnceLock<bool> = OnceLock::new();
    *ONE.get_or_init(|| {
        // SAFETY: the terms belong to an environment that lives until they have been compared.
        unsafe {
            let env = enif_alloc_env();
            let (plus, minus) = (enif_make_double(env, 0.0), enif_make_double(env, -0.0));
            let one = enif_is_identical(plus, minus) == 1;
            enif_free_env(env);
            one
        }
    })
}

/// A buffer on the stack for an encoding, of limited size.
pub struct Buffer {
    bytes: [MaybeUninit<u8>; ENCODED_MAX],
    len: usize,
}

/// The use of an encoding.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// For comparison: encodes only terms that have exactly one encoding.
    Key,
    /// Like a key, but also encodes maps that the VM keeps sorted.
    Window,
    /// For storage: decodes to an equal term.
    Value,
}

/// The most entries of a map that the VM keeps sorted by key, whatever the order of insertion.
const SORTED_MAP_MAX: usize = 32;

/// A term has no encoding, or one that is too long.
pub struct NotEncoded;

impl Buffer {
    #[inline]
    pub fn new() -> Self {
        Buffer {
            bytes: [const { MaybeUninit::uninit() }; ENCODED_MAX],
            len: 0,
        }
    }

    /// Returns the bytes written so far.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the first `len` bytes have been written.
        unsafe { std::slice::from_raw_parts(self.bytes.as_ptr().cast(), self.len) }
    }

    /// Writes bytes unchanged.
    #[inline]
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), NotEncoded> {
        let end = self.len + bytes.len();
        let room = self.bytes.get_mut(self.len..end).ok_or(NotEncoded)?;
        for (place, byte) in room.iter_mut().zip(bytes) {
            place.write(*byte);
        }
        self.len = end;
        Ok(())
    }

    fn push_number(&mut self, mut number: u64) -> Result<(), NotEncoded> {
        while number >= 0x80 {
            self.push(&[number as u8 | 0x80])?;
            number >>= 7;
        }
        self.push(&[number as u8])
    }

    /// Writes the first `len` bytes of a number.
    #[inline]
    fn push_short(&mut self, number: u128, len: usize) -> Result<(), NotEncoded> {
        let bytes = number.to_le_bytes();
        // Write all bytes, which needs no branch on their number, and count only the first ones.
        match self.bytes.get_mut(self.len..self.len + bytes.len()) {
            Some(room) => {
                for (place, byte) in room.iter_mut().zip(bytes) {
                    place.write(byte);
                }
                self.len += len;
                Ok(())
            }
            None => self.push(&bytes[..len]),
        }
    }

    #[inline(always)]
    fn push_immediate(&mut self, word: u64) -> Result<(), NotEncoded> {
        let (number, len) = short_immediate(word);
        self.push_short(number, len)
    }

    #[inline]
    fn push_binary(&mut self, bytes: &[u8], form: Form) -> Result<(), NotEncoded> {
        if form == Form::Value && bytes.len() > HEAP_BINARY_MAX {
            return Err(NotEncoded);
        }
        self.push_header(bytes.len(), (SHORT_BINARY, SHORT_BINARIES), TAG_BINARY)?;
        self.push(bytes)
    }

    fn push_header(
        &mut self,
        count: usize,
        short: (u8, usize),
        long: u8,
    ) -> Result<(), NotEncoded> {
        if count < short.1 {
            self.push(&[short.0 | count as u8])
        } else {
            self.push(&[long])?;
            self.push_number(count as u64)
        }
    }

    /// Removes everything after the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Writes a term so that [`decode_all`] returns it.
    #[inline]
    pub fn encode_value(&mut self, term: Term) -> Result<(), NotEncoded> {
        self.encode(term, Form::Value, 0)
    }

    /// Writes a term so that its bytes equal those of another if and only if the terms are equal.
    #[inline]
    pub fn encode_window(&mut self, term: Term) -> Result<(), NotEncoded> {
        self.encode(term, Form::Window, 0)
    }

    /// Encodes a term. In the key form, terms are equal if and only if their encodings are.
    pub(super) fn encode(
        &mut self,
        term: Term,
        form: Form,
        depth: usize,
    ) -> Result<(), NotEncoded> {
        if depth == DEPTH_MAX {
            return Err(NotEncoded);
        }
        match View::of(term) {
            View::Immediate(word) => self.push_immediate(word),
            View::Binary(bytes) => self.push_binary(bytes, form),
            View::Cell(..) => {
                self.push(&[TAG_LIST])?;
                let mut rest = term;
                while let View::Cell(head, tail) = View::of(rest) {
                    self.encode(head, form, depth + 1)?;
                    rest = tail;
                }
                if rest.is_empty_list() {
                    self.push(&[TAG_END])
                } else {
                    self.push(&[TAG_TAIL])?;
                    self.encode(rest, form, depth + 1)
                }
            }
            View::Tuple(elements) => {
                self.push_header(elements.len(), (SHORT_TUPLE, SHORT_TUPLES), TAG_TUPLE)?;
                for element in elements.iter() {
                    // Most elements take one of these two branches.
                    let word = word(element);
                    if is_immediate(word) {
                        self.push_immediate(word)?;
                    } else if let Some(bytes) = binary(element) {
                        self.push_binary(bytes, form)?;
                    } else {
                        self.encode(element, form, depth + 1)?;
                    }
                }
                Ok(())
            }
            View::Float(float) => {
                // Where this VM treats both zeros as equal, a key must still come back with its
                // sign. So it is stored as a term, and the VM compares it. A window key is never
                // read back.
                let one = form != Form::Value && float == 0.0 && zeros_are_one();
                if one && form == Form::Key {
                    return Err(NotEncoded);
                }
                self.push(&[TAG_FLOAT])?;
                self.push(&if one { 0.0f64 } else { float }.to_le_bytes())
            }
            View::Integer(integer) => {
                self.push(&[TAG_INTEGER])?;
                self.push(&integer.to_le_bytes())
            }
            View::Natural(natural) => {
                self.push(&[TAG_NATURAL])?;
                self.push(&natural.to_le_bytes())
            }
            View::Map(len)
                if form == Form::Value || form == Form::Window && len <= SORTED_MAP_MAX =>
            {
                self.push(&[TAG_MAP])?;
                self.push_number(len as u64)?;
                for (key, value) in entries(term) {
                    self.encode(key, form, depth + 1)?;
                    self.encode(value, form, depth + 1)?;
                }
                Ok(())
            }
            View::Map(_) | View::Flat | View::Opaque => Err(NotEncoded),
        }
    }
}

/// Returns the encoding of an immediate as a number, and its length in bytes.
#[inline(always)]
fn short_immediate(word: u64) -> (u128, usize) {
    let word = word >> 2;
    let len = (u64::BITS - word.leading_zeros()).div_ceil(8);
    let tag = IMMEDIATE | len as u8;
    (u128::from(word) << 8 | u128::from(tag), 1 + len as usize)
}

/// The encoding of a tuple of immediates and binaries that fits in registers. As a number, it has
/// the bytes that [`Buffer::encode`] would write. Most compound keys have this form.
struct Short {
    bytes: u128,
    len: usize,
}

impl Short {
    const MAX: usize = INLINE_MAX;

    /// Starts the encoding of a tuple with this many elements.
    #[inline(always)]
    fn tuple(arity: usize) -> Option<Self> {
        (arity < Self::MAX).then(|| Short {
            bytes: u128::from(SHORT_TUPLE | arity as u8),
            len: 1,
        })
    }

    /// Appends an element, if it is an immediate or a binary and there is room.
    #[inline(always)]
    fn push(&mut self, element: Term) -> bool {
        let (number, len) = match word(element) {
            word if is_immediate(word) => short_immediate(word),
            _ => match binary(element) {
                Some(bytes) if bytes.len() < Self::MAX => {
                    let header = SHORT_BINARY | bytes.len() as u8;
                    (pack(bytes) << 8 | u128::from(header), 1 + bytes.len())
                }
                _ => return false,
            },
        };
        let fits = self.len + len <= Self::MAX;
        if fits {
            self.bytes |= number << (8 * self.len);
            self.len += len;
        }
        fits
    }
}

/// Returns the encoding of a short tuple in registers, and its length in bytes.
#[inline]
pub(super) fn short_tuple(term: Term) -> Option<(u128, usize)> {
    let elements = tuple(term)?;
    let mut short = Short::tuple(elements.len())?;
    let fits = elements.iter().all(|element| short.push(element));
    fits.then_some((short.bytes, short.len))
}

/// Returns bytes in registers that identify a small map, and their length. The keys must be atoms,
/// and the values immediates or short binaries. Two such maps are equal if and only if their bytes
/// are. The bytes are never decoded.
///
/// The number of entries comes first, then the atoms, then four bits for each value, then the
/// values. A map with a number and an atom as values fits.
#[inline]
pub(super) fn short_map(term: Term) -> Option<(u128, usize)> {
    let (keys, values) = small_map(term)?;
    let count = keys.len();
    let mut end = 1 + count * NAME_BYTES + count.div_ceil(2);
    if end > Short::MAX {
        return None;
    }
    let mut bytes = u128::from(SHORT_MAP | count as u8);
    for (index, key) in keys.iter().enumerate() {
        let name = raw_word(*key);
        if name & ATOM_MASK != ATOM || name >> (ATOM_BITS + 8 * NAME_BYTES) != 0 {
            return None;
        }
        bytes |= u128::from(name >> ATOM_BITS) << (8 * (1 + index * NAME_BYTES));
    }
    for (index, value) in values.iter().enumerate() {
        // SAFETY: the values of a map belong to its environment.
        let value = unsafe { Term::new(term.get_env(), *value) };
        let (kind, number, len) = short_value(value)?;
        if end + len > Short::MAX {
            return None;
        }
        let kinds = 8 * (1 + count * NAME_BYTES) + 4 * index;
        bytes |= u128::from(kind) << kinds | number << (8 * end);
        end += len;
    }
    Some((bytes, end))
}

/// Encodes a value of a [`short_map`]: its type and length, its bytes as a number, and their
/// number.
#[inline(always)]
fn short_value(value: Term) -> Option<(u8, u128, usize)> {
    // An immediate has up to eight bytes, which leaves seven of the sixteen codes for binaries.
    const BINARY: u8 = 9;
    let word = word(value);
    if is_immediate(word) {
        let (number, len) = short_immediate(word);
        return Some((len as u8 - 1, number >> 8, len - 1));
    }
    let bytes = binary(value)?;
    let kind = (bytes.len() <= usize::from(0x0F - BINARY)).then_some(BINARY + bytes.len() as u8)?;
    Some((kind, pack(bytes), bytes.len()))
}

/// Decodes one term.
pub(super) fn decode<'a>(env: Env<'a>, bytes: &[u8]) -> Term<'a> {
    let mut reader = Reader { env, bytes };
    reader.term()
}

/// Decodes `N` terms, one after the other.
pub fn decode_all<'a, const N: usize>(env: Env<'a>, bytes: &[u8]) -> [Term<'a>; N] {
    let mut reader = Reader { env, bytes };
    std::array::from_fn(|_| reader.term())
}

/// Reads the output of [`Buffer::encode`]. It is never given other input.
struct Reader<'a, 'b> {
    env: Env<'a>,
    bytes: &'b [u8],
}

impl<'a> Reader<'a, '_> {
    fn byte(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn take(&mut self, count: usize) -> &[u8] {
        let (taken, rest) = self.bytes.split_at(count);
        self.bytes = rest;
        taken
    }

    fn eight(&mut self) -> [u8; 8] {
        let mut eight = [0; 8];
        eight.copy_from_slice(self.take(8));
        eight
    }

    fn number(&mut self) -> u64 {
        let mut number = 0;
        let mut shift = 0;
        loop {
            let byte = self.byte();
            number |= u64::from(byte & 0x7F) << shift;
            shift += 7;
            if byte < 0x80 {
                return number;
            }
        }
    }

    fn term(&mut self) -> Term<'a> {
        let tag = self.byte();
        let env = self.env.as_c_arg();
        match tag {
            TAG_FLOAT => {
                let float = f64::from_le_bytes(self.eight());
                // SAFETY: the environment is that of this call.
                unsafe { Term::new(self.env, enif_make_double(env, float)) }
            }
            TAG_INTEGER => {
                let integer = i64::from_le_bytes(self.eight());
                // SAFETY: as above.
                unsafe { Term::new(self.env, enif_make_int64(env, integer)) }
            }
            TAG_NATURAL => {
                let natural = u64::from_le_bytes(self.eight());
                // SAFETY: as above.
                unsafe { Term::new(self.env, enif_make_uint64(env, natural)) }
            }
            TAG_BINARY => {
                let len = self.number() as usize;
                self.binary(len)
            }
            TAG_TUPLE => {
                let arity = self.number() as usize;
                self.tuple(arity)
            }
            TAG_LIST => self.list(),
            TAG_MAP => self.map(),
            short if short < SHORT_TUPLE => {
                let word = pack(self.take(usize::from(short - IMMEDIATE))) as u64;
                word_term(self.env, word << 2 | PRIMARY)
            }
            short if short >= SHORT_BINARY => self.binary(usize::from(short - SHORT_BINARY)),
            short => self.tuple(usize::from(short - SHORT_TUPLE)),
        }
    }

    fn binary(&mut self, len: usize) -> Term<'a> {
        let env = self.env;
        binary_term(env, self.take(len))
    }

    fn words(&mut self, count: usize) -> Words {
        let mut words = Words::default();
        for _ in 0..count {
            words.push(self.term().as_c_arg());
        }
        words
    }

    fn tuple(&mut self, arity: usize) -> Term<'a> {
        let words = self.words(arity);
        let words = words.as_slice();
        // SAFETY: the elements were made in this environment.
        unsafe {
            let env = self.env.as_c_arg();
            let tuple = enif_make_tuple_from_array(env, words.as_ptr(), words.len() as u32);
            Term::new(self.env, tuple)
        }
    }

    fn list(&mut self) -> Term<'a> {
        let mut words = Words::default();
        let tail = loop {
            match self.bytes[0] {
                TAG_END => {
                    self.byte();
                    break Term::list_new_empty(self.env);
                }
                TAG_TAIL => {
                    self.byte();
                    break self.term();
                }
                _ => words.push(self.term().as_c_arg()),
            }
        };
        let cells = words.as_slice().iter().rev();
        cells.fold(tail, |tail, head| {
            // SAFETY: the element was made in this environment.
            tail.list_prepend(unsafe { Term::new(self.env, *head) })
        })
    }

    fn map(&mut self) -> Term<'a> {
        let count = self.number() as usize;
        let (mut keys, mut values) = (Words::default(), Words::default());
        for _ in 0..count {
            keys.push(self.term().as_c_arg());
            values.push(self.term().as_c_arg());
        }
        // SAFETY: the keys and values were made in this environment. The keys come from a map, so
        // they are distinct.
        unsafe { map_term(self.env, keys.as_slice(), values.as_slice()) }
    }
}

/// The words of a few terms, on the stack while they are few.
#[derive(Default)]
struct Words {
    few: [ErlNifTerm; 8],
    len: usize,
    many: Vec<ErlNifTerm>,
}

impl Words {
    fn push(&mut self, word: ErlNifTerm) {
        if let Some(place) = self.few.get_mut(self.len) {
            *place = word;
            self.len += 1;
            return;
        }
        if self.many.is_empty() {
            self.many.extend(self.few);
        }
        self.many.push(word);
    }

    fn as_slice(&self) -> &[ErlNifTerm] {
        if self.many.is_empty() {
            &self.few[..self.len]
        } else {
            &self.many
        }
    }
}
