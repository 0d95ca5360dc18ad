//! Terms as keys and values of the tables.
//!
//! A key is encoded so that two terms are equal (`===`) if and only if their encodings are: an
//! immediate (atom, small integer, local pid, port, `[]`) as the VM's own word, a binary as its
//! bytes, and tuples, lists, floats and integers of 64 bits in the form of [`encode`]. What has no
//! such form (maps, functions, references, larger integers, bitstrings, remote pids) and what is
//! longer than [`ENCODED_MAX`] bytes that way is kept as a term, in an environment of its own, and
//! compared by the VM. Which of them it is depends on the term alone.
//!
//! A value is kept as an immediate's word, as its encoding where that is short, else as a term. A
//! binary of more than [`HEAP_BINARY_MAX`] bytes always stays a term: it is shared, not copied.

use std::mem::MaybeUninit;
use std::sync::OnceLock;

use foundation_core::key::{Foreign, Key, KeyView};
use foundation_core::table::{Object, Value, ValueView};
use rustler::codegen_runtime::{ErlNifEnv, ErlNifTerm};
use rustler::sys::*;
use rustler::{Env, Term};

use crate::raw::Failure;

const BINARY: u8 = 0;
const IMMEDIATE: u8 = 1;
const COMPOUND: u8 = 2;

/// The longest encoding of a compound term; longer ones are kept as terms.
const ENCODED_MAX: usize = 512;
/// How deep an encoded term nests; deeper ones are kept as terms.
const DEPTH_MAX: usize = 16;
/// The longest binary that the VM copies instead of sharing it.
const HEAP_BINARY_MAX: usize = 64;
/// How many subterms, and bytes of binaries, are handled on a normal scheduler.
const NODES_MAX: usize = 4_000;
const BYTES_MAX: usize = 256 * 1024;

const TAG_IMMEDIATE: u8 = 0x00;
const TAG_FLOAT: u8 = 0x01;
const TAG_INTEGER: u8 = 0x02;
const TAG_NATURAL: u8 = 0x03;
const TAG_BINARY: u8 = 0x04;
const TAG_TUPLE: u8 = 0x05;
const TAG_LIST: u8 = 0x06;
const TAG_END: u8 = 0x07;
const TAG_TAIL: u8 = 0x08;
const TAG_MAP: u8 = 0x09;
const SHORT_TUPLE: u8 = 0x20;
const SHORT_TUPLES: usize = 0x20;
const SHORT_BINARY: u8 = 0x40;
const SHORT_BINARIES: usize = 0x40;

/// The low two bits of a word, which say what it is.
const PRIMARY: u64 = 3;
const LIST: u64 = 1;

/// A term's word.
#[inline]
pub fn word(term: Term) -> u64 {
    // SAFETY: a raw term is a transparent word of the machine's size.
    let word = unsafe { std::mem::transmute::<ErlNifTerm, usize>(term.as_c_arg()) };
    word as u64
}

/// A word that no term has.
fn no_term() -> ErlNifTerm {
    ErlNifTerm::default()
}

/// Whether a term is its word alone.
#[inline]
pub fn is_immediate(word: u64) -> bool {
    word & PRIMARY == PRIMARY
}

/// Checks, when the library is loaded, what it assumes about this VM's words: that it can tell
/// immediates by their two low bits. It has been so since before OTP had NIFs; a VM where it is
/// not so does not get to use this library.
pub fn words_are_as_assumed(env: Env) -> bool {
    let encode = |value: i64| rustler::Encoder::encode(&value, env);
    let list = Term::list_new_empty(env);
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
}

/// Whether `0.0` and `-0.0` are one term here: they are two from OTP 27 on.
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

/// A term in an environment of its own.
pub struct OwnedTerm {
    env: *mut ErlNifEnv,
    term: ErlNifTerm,
    size: usize,
    /// How many subterms a copy of it has to make.
    nodes: usize,
}

// SAFETY: the term is never changed, and reading or copying it may happen on any thread.
unsafe impl Send for OwnedTerm {}
// SAFETY: as above.
unsafe impl Sync for OwnedTerm {}

impl OwnedTerm {
    /// About what an environment takes.
    const ENVIRONMENT: usize = 1_200;

    /// A copy of `term`, or `None` when there is no memory for it.
    pub fn new(term: Term) -> Option<OwnedTerm> {
        let mut size = Size::default();
        size.add(term);
        // SAFETY: the environment is new; the term is copied into it, and belongs to it.
        unsafe {
            let env = enif_alloc_env();
            if env.is_null() {
                return None;
            }
            LIVE_TERMS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Some(OwnedTerm {
                env,
                term: enif_make_copy(env, term.as_c_arg()),
                size: Self::ENVIRONMENT + size.bytes + size.nodes * 2 * size_of::<ErlNifTerm>(),
                nodes: size.nodes,
            })
        }
    }

    /// Whether copying it takes so long that a normal scheduler must not.
    pub fn is_heavy(&self) -> bool {
        self.nodes > NODES_MAX
    }

    /// A copy for the caller.
    pub fn copy<'a>(&self, env: Env<'a>) -> Term<'a> {
        // SAFETY: the copy is made in the environment that the term is given.
        unsafe { Term::new(env, enif_make_copy(env.as_c_arg(), self.term)) }
    }

    /// Whether this is the term `other`, by `===`.
    pub fn is(&self, other: Term) -> bool {
        // SAFETY: both terms are alive.
        unsafe { enif_is_identical(self.term, other.as_c_arg()) == 1 }
    }
}

impl Drop for OwnedTerm {
    fn drop(&mut self) {
        LIVE_TERMS.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        // SAFETY: nobody has the environment but this value.
        unsafe { enif_free_env(self.env) }
    }
}

/// How many terms are kept in environments of their own.
pub static LIVE_TERMS: std::sync::atomic::AtomicI64 = std::sync::atomic::AtomicI64::new(0);

impl Object for OwnedTerm {
    fn size(&self) -> usize {
        self.size
    }
}

/// A term to look for. It is used only during the call whose environment it belongs to.
#[derive(Debug)]
pub struct Probe {
    env: *mut ErlNifEnv,
    term: ErlNifTerm,
}

impl Foreign for OwnedTerm {
    type Probe = Probe;

    fn new(probe: &Probe) -> Option<Box<Self>> {
        let lifetime = ();
        // SAFETY: the term and its environment are those of the current call.
        let term = unsafe { Term::new(Env::new(&lifetime, probe.env), probe.term) };
        OwnedTerm::new(term).map(Box::new)
    }

    fn matches(&self, probe: &Probe) -> bool {
        // SAFETY: both terms are alive.
        unsafe { enif_is_identical(self.term, probe.term) == 1 }
    }

    fn size(&self) -> usize {
        self.size
    }
}

/// How much there is of a term, as far as somebody wants to know.
#[derive(Default)]
struct Size {
    nodes: usize,
    bytes: usize,
}

impl Size {
    /// Counts at most about this many subterms.
    const ENOUGH: usize = 100_000;

    fn add(&mut self, term: Term) {
        self.add_up_to(term, Self::ENOUGH, usize::MAX);
    }

    /// Adds a term's subterms and the bytes of its binaries, and says whether the limits held.
    fn add_up_to(&mut self, term: Term, nodes: usize, bytes: usize) -> bool {
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
                        return false;
                    }
                    left.extend(elements.iter());
                }
                View::Map(len) => {
                    if len > nodes {
                        return false;
                    }
                    left.extend(entries(term).flat_map(|(key, value)| [key, value]));
                }
                // A large integer has its size in its bits, and bitstrings and functions have
                // theirs elsewhere: the VM copies them as one piece.
                View::Other => self.bytes += size_of::<ErlNifTerm>(),
            }
        }
        true
    }
}

/// The entries of a map, by the VM's own iterator: rustler's can go both ways, which costs
/// as much again for every entry.
struct Entries<'a> {
    map: Term<'a>,
    iterator: ErlNifMapIterator,
    left: usize,
}

fn entries(map: Term<'_>) -> Entries<'_> {
    let env = map.get_env().as_c_arg();
    let (mut left, mut iterator) = (0, MaybeUninit::<ErlNifMapIterator>::zeroed());
    // SAFETY: the iterator is used only if there are entries, and then the VM has made it; it
    // is a plain structure, of which all zeros is a value.
    let iterator = unsafe {
        if enif_get_map_size(env, map.as_c_arg(), &mut left) == 1 && left > 0 {
            let first = ErlNifMapIteratorEntry::ERL_NIF_MAP_ITERATOR_HEAD;
            if enif_map_iterator_create(env, map.as_c_arg(), iterator.as_mut_ptr(), first) == 0 {
                left = 0;
            }
        } else {
            left = 0;
        }
        iterator.assume_init()
    };
    Entries {
        map,
        iterator,
        left,
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = (Term<'a>, Term<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let env = self.map.get_env();
        let (mut key, mut value) = (no_term(), no_term());
        // SAFETY: entries are left, so the iterator is at one of them, and is moved on only if
        // there is another.
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

impl Drop for Entries<'_> {
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
struct Elements<'a> {
    env: Env<'a>,
    words: &'a [ErlNifTerm],
}

impl<'a> Elements<'a> {
    fn len(self) -> usize {
        self.words.len()
    }

    fn iter(self) -> impl Iterator<Item = Term<'a>> {
        // SAFETY: the elements of a tuple belong to its environment.
        self.words
            .iter()
            .map(move |word| unsafe { Term::new(self.env, *word) })
    }
}

/// What a term is, as far as its encoding is concerned.
enum View<'a> {
    Immediate(u64),
    Binary(&'a [u8]),
    Cell(Term<'a>, Term<'a>),
    Tuple(Elements<'a>),
    Float(f64),
    Integer(i64),
    Natural(u64),
    Map(usize),
    Other,
}

impl<'a> View<'a> {
    #[inline]
    fn of(term: Term<'a>) -> Self {
        let word = word(term);
        if is_immediate(word) {
            View::Immediate(word)
        } else {
            View::of_compound(term)
        }
    }

    fn of_compound(term: Term<'a>) -> Self {
        let env = term.get_env();
        let (raw, word) = (env.as_c_arg(), term.as_c_arg());
        // SAFETY: each function is asked about a term of its environment, and what it fills is
        // read only when it says that it has.
        unsafe {
            if let Some((head, tail)) = cell(term) {
                return View::Cell(head, tail);
            }
            // One question instead of one for each kind.
            match enif_term_type(raw, word) {
                ErlNifTermType::ERL_NIF_TERM_TYPE_MAP => {
                    let mut size = 0;
                    if enif_get_map_size(raw, word, &mut size) == 1 {
                        return View::Map(size);
                    }
                }
                ErlNifTermType::ERL_NIF_TERM_TYPE_TUPLE => {
                    let mut arity = 0;
                    let mut elements = MaybeUninit::uninit();
                    if enif_get_tuple(raw, word, &mut arity, elements.as_mut_ptr()) == 1 {
                        // An empty tuple has no place for elements to point at.
                        let words = match arity {
                            0 => &[],
                            arity => {
                                std::slice::from_raw_parts(elements.assume_init(), arity as usize)
                            }
                        };
                        return View::Tuple(Elements { env, words });
                    }
                }
                ErlNifTermType::ERL_NIF_TERM_TYPE_FLOAT => {
                    let mut float = 0.0;
                    if enif_get_double(raw, word, &mut float) == 1 {
                        return View::Float(float);
                    }
                }
                ErlNifTermType::ERL_NIF_TERM_TYPE_INTEGER => {
                    let mut integer = 0;
                    if enif_get_int64(raw, word, &mut integer) == 1 {
                        return View::Integer(integer);
                    }
                    let mut natural = 0;
                    if enif_get_uint64(raw, word, &mut natural) == 1 {
                        return View::Natural(natural);
                    }
                }
                ErlNifTermType::ERL_NIF_TERM_TYPE_BITSTRING => {
                    if let Some(bytes) = binary(term) {
                        return View::Binary(bytes);
                    }
                }
                _ => {}
            }
        }
        View::Other
    }
}

/// The head and the tail of a list that is not empty.
#[inline]
pub fn cell(term: Term<'_>) -> Option<(Term<'_>, Term<'_>)> {
    if word(term) & PRIMARY != LIST {
        return None;
    }
    let env = term.get_env();
    let (mut head, mut tail) = (no_term(), no_term());
    // SAFETY: the terms are read only when the function says that it has filled them in.
    unsafe {
        (enif_get_list_cell(env.as_c_arg(), term.as_c_arg(), &mut head, &mut tail) == 1)
            .then(|| (Term::new(env, head), Term::new(env, tail)))
    }
}

/// The elements of a list, as `element` makes them of their terms.
///
/// # Errors
///
/// When it is no proper list, or `element` makes nothing of one of them.
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

/// The bytes of a binary.
#[inline]
pub fn binary(term: Term<'_>) -> Option<&[u8]> {
    let mut binary = MaybeUninit::<ErlNifBinary>::uninit();
    // SAFETY: the function fills `binary` when it says so; the bytes live as long as the term's
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

/// A buffer on the stack that an encoding goes into, as far as there is room.
pub struct Buffer {
    bytes: [MaybeUninit<u8>; ENCODED_MAX],
    len: usize,
}

/// What an encoding is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// To be compared: only what has one encoding is encoded.
    Key,
    /// As a key, and of a map that the VM keeps sorted too.
    Window,
    /// To be turned into an equal term again.
    Value,
}

/// The most entries of a map that the VM keeps sorted by key, whatever the order they came in.
const SORTED_MAP_MAX: usize = 32;

/// A term has no encoding, or a longer one than is kept.
pub struct NotEncoded;

impl Buffer {
    #[inline]
    pub fn new() -> Self {
        Buffer {
            bytes: [const { MaybeUninit::uninit() }; ENCODED_MAX],
            len: 0,
        }
    }

    /// What has been written.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the first `len` bytes have been written.
        unsafe { std::slice::from_raw_parts(self.bytes.as_ptr().cast(), self.len) }
    }

    /// Writes bytes as they are.
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

    /// Takes back everything after the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Writes a term such that [`decode_all`] gives it back.
    #[inline]
    pub fn encode_value(&mut self, term: Term) -> Result<(), NotEncoded> {
        self.encode(term, Form::Value, 0)
    }

    /// Writes a term such that equal terms, and no others, are written alike.
    #[inline]
    pub fn encode_window(&mut self, term: Term) -> Result<(), NotEncoded> {
        self.encode(term, Form::Window, 0)
    }

    /// Encodes a term. In the form of a key, terms are equal if and only if their encodings are.
    fn encode(&mut self, term: Term, form: Form, depth: usize) -> Result<(), NotEncoded> {
        if depth == DEPTH_MAX {
            return Err(NotEncoded);
        }
        match View::of(term) {
            View::Immediate(word) => {
                self.push(&[TAG_IMMEDIATE])?;
                self.push_number(word >> 2)
            }
            View::Binary(bytes) => {
                if form == Form::Value && bytes.len() > HEAP_BINARY_MAX {
                    return Err(NotEncoded);
                }
                self.push_header(bytes.len(), (SHORT_BINARY, SHORT_BINARIES), TAG_BINARY)?;
                self.push(bytes)
            }
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
                    self.encode(element, form, depth + 1)?;
                }
                Ok(())
            }
            View::Float(float) => {
                // A value keeps the sign of its zero; a key of which the VM says that the sign
                // makes no difference must not.
                let one = form != Form::Value && float == 0.0 && zeros_are_one();
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
            View::Map(_) | View::Other => Err(NotEncoded),
        }
    }
}

/// The key of an immediate: of all keys the cheapest, which hot calls look for first so that it
/// stays in registers.
#[inline(always)]
pub fn immediate_key(term: Term) -> Option<Key<'static, Probe>> {
    let word = word(term);
    is_immediate(word).then(|| Key::word(IMMEDIATE, word))
}

/// The key of an immediate or of a short binary: one that borrows nothing.
#[inline(always)]
pub fn short_key(term: Term) -> Option<Key<'static, Probe>> {
    immediate_key(term).or_else(|| Key::short(BINARY, binary(term)?))
}

/// The key of a term, which `buffer` and `probe` hold what it borrows of.
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
        if bytes.len() > BYTES_MAX && !crate::raw::may_take_long() {
            return Err(Failure::TakesLong);
        }
        return Ok(Key::new(BINARY, bytes));
    }
    compound_key(term, buffer, probe)
}

#[inline(never)]
fn compound_key<'k, 'a: 'k>(
    term: Term<'a>,
    buffer: &'k mut Buffer,
    probe: &'k mut Option<Probe>,
) -> Result<Key<'k, Probe>, Failure> {
    if buffer.encode(term, Form::Key, 0).is_ok() {
        return Ok(Key::new(COMPOUND, buffer.bytes()));
    }
    check_size(term)?;
    // SAFETY: the term is alive, and hashing it needs nothing else.
    let hash = unsafe { enif_hash(ErlNifHash::ERL_NIF_INTERNAL_HASH, term.as_c_arg(), salt()) };
    let probe = probe.insert(Probe {
        env: term.get_env().as_c_arg(),
        term: term.as_c_arg(),
    });
    Ok(Key::Foreign(hash, probe))
}

/// The salt of the VM's own hash function: a secret of this run, as the tables' seeds are.
fn salt() -> u64 {
    static SALT: OnceLock<u64> = OnceLock::new();
    *SALT.get_or_init(|| {
        let seed = foundation_core::key::Seed::random();
        seed.hash(&Key::<()>::word(0, 0))
    })
}

/// Refuses, on a normal scheduler, a term that takes long to copy, hash or compare.
pub fn check_size(term: Term) -> Result<(), Failure> {
    let mut size = Size::default();
    if crate::raw::may_take_long() || size.add_up_to(term, NODES_MAX, usize::MAX) {
        Ok(())
    } else {
        Err(Failure::TakesLong)
    }
}

/// What a term is stored as.
///
/// # Errors
///
/// `None` when there is no memory for it; a failure when it would take long and this is a normal
/// scheduler.
#[inline]
pub fn value(term: Term) -> Result<Option<Value<OwnedTerm>>, Failure> {
    let word = word(term);
    if is_immediate(word) {
        return Ok(Some(Value::Word(word)));
    }
    let mut buffer = Buffer::new();
    if buffer.encode(term, Form::Value, 0).is_ok() {
        return Ok(Value::bytes(buffer.bytes()));
    }
    check_size(term)?;
    Ok(OwnedTerm::new(term).map(|term| Value::Object(Box::new(term))))
}

/// What a call may copy: on a normal scheduler [`NODES_MAX`] subterms, some hundred microseconds'
/// worth; on a dirty one many times that, and one value of any size.
#[derive(Default)]
pub struct Budget {
    spent: usize,
    extended: bool,
    takes_long: bool,
}

impl Budget {
    const DIRTY: usize = 100 * NODES_MAX;

    /// Takes what copying a stored value costs, and says whether to copy it in this call.
    #[inline]
    pub fn spend(&mut self, value: ValueView<'_, OwnedTerm>) -> bool {
        let cost = 4 + match value {
            ValueView::Word(_) => 0,
            ValueView::Bytes(bytes) => bytes.len() / 16,
            ValueView::Object(term) => term.nodes,
        };
        if self.spent + cost > NODES_MAX && !self.extend(cost) {
            return false;
        }
        self.spent += cost;
        true
    }

    /// Whether more than a normal scheduler's worth may be spent.
    #[cold]
    fn extend(&mut self, cost: usize) -> bool {
        self.extended = self.extended || crate::raw::may_take_long();
        let first = self.spent == 0;
        self.takes_long = first && !self.extended;
        self.extended && (first || self.spent + cost <= Self::DIRTY)
    }

    /// Whether the first value was refused: the call is to be made on a dirty scheduler.
    pub fn takes_long(&self) -> bool {
        self.takes_long
    }
}

/// How often a term can be copied in a few hundred microseconds: once at least.
pub fn copies_in_time(term: Term) -> usize {
    let mut size = Size::default();
    size.add_up_to(term, NODES_MAX, usize::MAX);
    (NODES_MAX / (4 + size.nodes)).max(1)
}

/// `{first, second}`.
#[inline]
pub fn pair<'a>(env: Env<'a>, first: Term<'a>, second: Term<'a>) -> Term<'a> {
    let words = [first.as_c_arg(), second.as_c_arg()];
    // SAFETY: both terms belong to this environment.
    unsafe {
        let tuple = enif_make_tuple_from_array(env.as_c_arg(), words.as_ptr(), 2);
        Term::new(env, tuple)
    }
}

/// `[term]`.
#[inline]
pub fn single<'a>(env: Env<'a>, term: Term<'a>) -> Term<'a> {
    let word = term.as_c_arg();
    // SAFETY: the term belongs to this environment.
    unsafe { Term::new(env, enif_make_list_from_array(env.as_c_arg(), &word, 1)) }
}

/// The term that was stored.
#[inline]
pub fn value_term<'a>(env: Env<'a>, value: ValueView<'_, OwnedTerm>) -> Term<'a> {
    match value {
        ValueView::Word(word) => word_term(env, word),
        ValueView::Bytes(bytes) => decode(env, bytes),
        ValueView::Object(term) => term.copy(env),
    }
}

/// The term of an immediate's word.
#[inline]
pub fn word_term(env: Env<'_>, word: u64) -> Term<'_> {
    debug_assert!(is_immediate(word));
    // SAFETY: a raw term is a transparent word of the machine's size, and an immediate belongs to
    // every environment.
    unsafe { Term::new(env, std::mem::transmute::<usize, ErlNifTerm>(word as usize)) }
}

/// The term of a stored key.
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
        KeyView::Foreign(term) => term.copy(env),
    }
}

/// A new binary.
pub fn binary_term<'a>(env: Env<'a>, bytes: &[u8]) -> Term<'a> {
    let mut term = no_term();
    // SAFETY: the VM gives room for as many bytes as are copied there.
    unsafe {
        let room = enif_make_new_binary(env.as_c_arg(), bytes.len(), &mut term);
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), room, bytes.len());
        Term::new(env, term)
    }
}

/// The term of an encoding.
fn decode<'a>(env: Env<'a>, bytes: &[u8]) -> Term<'a> {
    let mut reader = Reader { env, bytes };
    reader.term()
}

/// The terms of so many encodings, one after the other.
pub fn decode_all<'a, const N: usize>(env: Env<'a>, bytes: &[u8]) -> [Term<'a>; N] {
    let mut reader = Reader { env, bytes };
    std::array::from_fn(|_| reader.term())
}

/// Reads what [`Buffer::encode`] has written: nothing else is ever given to it.
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
            TAG_IMMEDIATE => {
                let word = self.number() << 2 | PRIMARY;
                word_term(self.env, word)
            }
            TAG_FLOAT => {
                let float = f64::from_le_bytes(self.eight());
                // SAFETY: the environment is the call's.
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
        let mut map = no_term();
        // SAFETY: the keys and values were made in this environment, there are as many of each as
        // is said, and the keys are different, being a map's.
        unsafe {
            let env = self.env.as_c_arg();
            let (keys, values) = (keys.as_slice().as_ptr(), values.as_slice().as_ptr());
            let made = enif_make_map_from_arrays(env, keys, values, count, &mut map);
            assert_eq!(made, 1, "a map's keys are different");
            Term::new(self.env, map)
        }
    }
}

/// A few terms' words, on the stack as long as they are few.
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
