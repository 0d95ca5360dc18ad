//! A compound term as flat words, as ETS keeps one.
//!
//! They are the words that a copy has on a process's heap, with relative pointers.
//!
//! ```text
//!  pointers: a bit a word │ root │ heap words: tuples, cells, maps, floats, …
//! ```
//!
//! A reader gets such a term in one pass. The VM makes room on the reader's heap. The words are
//! copied there, and the address is added to the pointers. `enif_make_copy` takes several times as
//! long, and so do separate calls for each part of the term.
//!
//! # Why this is sound
//!
//! It relies on the VM's layout of terms, which hardly ever changed. When the library is loaded,
//! [`learn`] checks each kind of term on terms that the VM made. A kind with another layout is
//! never stored as words. It becomes a *part*, which the VM copies.
//!
//! - **Room.** [`block`] has the VM make a tuple, and overwrites it. The tuple is contiguous words
//!   of the caller's heap that nothing refers to yet. When the call ends, the words are whole terms
//!   without a gap, as the garbage collector requires. It runs only between calls.
//! - **Kinds.** An image holds the kinds that the collector moves as plain words: tuples, lists,
//!   maps of both kinds, floats, large integers, heap binaries and plain references. The VM links
//!   some other kinds into lists of its own: shared binaries, terms of other nodes, functions and
//!   magic references. An image never holds those. They are parts.
//! - **Constants.** Where the empty tuple is a literal of the VM, an image holds that literal.
//! - **Hashes.** The nodes of a large map are placed by a hash that is the same in the whole VM.

use std::mem::MaybeUninit;
use std::sync::OnceLock;

use rustler::codegen_runtime::ErlNifTerm;
use rustler::sys::{
    enif_inspect_binary, enif_is_identical, enif_make_double, enif_make_int64, enif_make_ref,
    enif_make_tuple_from_array, enif_make_uint64,
};
use rustler::{Env, Term};

use super::layout::{BOXED, SUBTAG, TAGS};
use super::view::binary;
use super::{LIST, PRIMARY, binary_term, is_immediate, no_term, raw_word, word};

/// The most words of an image, and of a [`block`]: a quarter of a megabyte.
pub const WORDS_MAX: usize = 32 * 1024;
/// Up to this many words are built on the stack.
const SMALL: usize = 256;
const BITS: usize = u64::BITS as usize;
pub const WORD: usize = size_of::<u64>();
/// The longest binary that the VM copies instead of sharing it.
pub const HEAP_BINARY_MAX: usize = 64;

/// A header that no boxed term has: headers end in two zeros.
const NONE: u64 = 1;

/// The layout of this VM's terms, as [`learn`] found it.
struct Layout {
    /// The header of a float.
    float: u64,
    /// The low bits of the headers of large integers.
    integers: [u64; 2],
    /// The low bits of a heap binary's header, and what its second word counts: bytes or bits.
    binary: (u64, usize),
    /// The low bits of the header of maps.
    map: u64,
    small_map: u64,
    /// The header of a plain reference, whose second word begins with 32 set bits.
    reference: u64,
    /// The word of `{}`, if it is one everywhere.
    empty_tuple: u64,
}

static LAYOUT: OnceLock<Layout> = OnceLock::new();

/// Returns how many words a map's header is followed by: the size, which inner nodes of a large map
/// lack, and the node's children.
#[inline]
fn map_words(header: u64) -> (usize, usize) {
    let size = (header >> 8) as usize & 0xFF;
    let children = (header >> 16 & 0xFFFF).count_ones() as usize;
    (size, children)
}

impl Layout {
    /// Returns how many words after an object's header are not terms.
    #[inline]
    fn raw_words(&self, header: u64) -> usize {
        match header & SUBTAG {
            0 => 0,
            map if map == self.map => map_words(header).0,
            _ => (header >> 6) as usize,
        }
    }
}

/// A term that the VM must copy, and the index of its word.
pub type Part<'a> = (usize, Term<'a>);

/// The image of a term.
pub struct Built<'b, 'a> {
    /// One bit per word, set for pointers.
    pub pointers: &'b [u64],
    /// The root, and the words of the heap.
    pub words: &'b [u64],
    /// The terms that the words do not contain.
    pub parts: Vec<Part<'a>>,
}

struct Builder<'b, 'a> {
    env: Env<'a>,
    layout: &'static Layout,
    words: &'b mut [MaybeUninit<u64>],
    pointers: &'b mut [u64],
    /// The next word to scan, and the end of the words.
    at: usize,
    end: usize,
    parts: Vec<Part<'a>>,
}

/// The words do not fit in the buffer.
struct Full;

impl<'b, 'a> Builder<'b, 'a> {
    /// Starts with the term's word. `None` before the layout is known.
    #[inline]
    fn new(
        term: Term<'a>,
        words: &'b mut [MaybeUninit<u64>],
        pointers: &'b mut [u64],
    ) -> Option<Self> {
        words.first_mut()?.write(word(term));
        Some(Builder {
            env: term.get_env(),
            layout: LAYOUT.get()?,
            words,
            pointers,
            at: 0,
            end: 1,
            parts: Vec::new(),
        })
    }

    /// Continues in a larger buffer. Its bits are clear.
    fn moved<'n>(
        self,
        words: &'n mut [MaybeUninit<u64>],
        pointers: &'n mut [u64],
    ) -> Builder<'n, 'a> {
        words[..self.end].copy_from_slice(&self.words[..self.end]);
        pointers[..self.pointers.len()].copy_from_slice(self.pointers);
        Builder {
            env: self.env,
            layout: self.layout,
            words,
            pointers,
            at: self.at,
            end: self.end,
            parts: self.parts,
        }
    }

    /// Cheney's algorithm, as the garbage collector uses it: it scans the words in order, and
    /// appends the objects that they point to. So it needs no recursion. When the buffer is full,
    /// the word being scanned is unchanged, and [`Builder::moved`] continues with it.
    fn build(&mut self) -> Result<(), Full> {
        while self.at < self.end {
            let at = self.at;
            // SAFETY: the words before `end` have been written.
            let word = unsafe { self.words[at].assume_init() };
            match word & PRIMARY {
                LIST => self.list(word)?,
                BOXED => self.boxed(at, word)?,
                // A header. Skip its raw words, which could be mistaken for terms.
                0 => self.at += self.layout.raw_words(word),
                _ => {}
            }
            self.at += 1;
        }
        Ok(())
    }

    fn built(self) -> Built<'b, 'a> {
        let Builder {
            words,
            pointers,
            end,
            parts,
            ..
        } = self;
        // SAFETY: the words before `end` have been written.
        let words = unsafe { std::slice::from_raw_parts(words[..end].as_ptr().cast(), end) };
        Built {
            pointers: &pointers[..end.div_ceil(BITS)],
            words,
            parts,
        }
    }

    #[inline]
    fn push(&mut self, word: u64) -> Result<(), Full> {
        self.words.get_mut(self.end).ok_or(Full)?.write(word);
        self.end += 1;
        Ok(())
    }

    /// Makes the word at `at` point to the word at `to`.
    #[inline]
    fn point(&mut self, at: usize, to: usize, tag: u64) {
        self.words[at].write((to * WORD) as u64 | tag);
        mark(self.pointers, at);
    }

    /// Appends words from the VM's memory.
    ///
    /// # Safety
    ///
    /// `from` points to at least `count` words.
    #[inline]
    unsafe fn copy(&mut self, from: *const u64, count: usize) -> Result<(), Full> {
        let room = self.words[self.end..].get_mut(..count).ok_or(Full)?;
        // SAFETY: the caller promises it.
        let words = unsafe { std::slice::from_raw_parts(from.cast::<MaybeUninit<u64>>(), count) };
        room.copy_from_slice(words);
        self.end += count;
        Ok(())
    }

    /// Appends the first cell of a list. While nothing else is left to scan, and the heads are
    /// immediates, it also appends the cells after it, and scans their tails.
    #[inline]
    fn list(&mut self, mut word: u64) -> Result<(), Full> {
        loop {
            let (at, to) = (self.at, self.end);
            let cell = (word & !TAGS) as *const u64;
            // SAFETY: a list that is not empty points at two words.
            let (head, tail) = unsafe {
                self.copy(cell, 2)?;
                (*cell, *cell.add(1))
            };
            self.point(at, to, LIST);
            if at + 1 != to || !is_immediate(head) || tail & PRIMARY != LIST {
                return Ok(());
            }
            (self.at, word) = (to + 1, tail);
        }
    }

    #[inline]
    fn boxed(&mut self, at: usize, word: u64) -> Result<(), Full> {
        let layout = self.layout;
        let from = (word & !TAGS) as *const u64;
        // SAFETY: a boxed term points at its header.
        let header = unsafe { *from };
        let subtag = header & SUBTAG;
        let count = if subtag == 0 {
            if header == 0 && layout.empty_tuple != NONE {
                self.words[at].write(layout.empty_tuple);
                return Ok(());
            }
            1 + (header >> 6) as usize
        } else if header == layout.small_map {
            // SAFETY: a small map's size is behind its header.
            3 + unsafe { *from.add(1) } as usize
        } else if header == layout.float
            || subtag == layout.binary.0
            || layout.integers.contains(&subtag)
        {
            1 + (header >> 6) as usize
        } else if subtag == layout.map {
            let (size, children) = map_words(header);
            1 + size + children
        // SAFETY: a reference has more words than its header.
        } else if header == layout.reference && unsafe { *from.add(1) } as u32 == u32::MAX {
            1 + (header >> 6) as usize
        } else {
            return self.other(at, word);
        };
        let to = self.end;
        // SAFETY: the header says that the object has this many words.
        unsafe { self.copy(from, count)? }
        self.point(at, to, BOXED);
        Ok(())
    }

    /// Copies a short binary, wherever its bytes are. Anything else becomes a part.
    fn other(&mut self, at: usize, word: u64) -> Result<(), Full> {
        let term = term_of(self.env, word);
        let (subtag, unit) = self.layout.binary;
        match binary(term) {
            Some(bytes) if bytes.len() <= HEAP_BINARY_MAX && subtag != NONE => {
                let payload = bytes.len().div_ceil(WORD);
                let to = self.end;
                if self.words.len() - to < 2 + payload {
                    return Err(Full);
                }
                self.push(((1 + payload as u64) << 6) | subtag)?;
                self.push((bytes.len() * unit) as u64)?;
                for chunk in bytes.chunks(WORD) {
                    let mut word = [0; WORD];
                    word[..chunk.len()].copy_from_slice(chunk);
                    self.push(u64::from_ne_bytes(word))?;
                }
                self.point(at, to, BOXED);
            }
            _ => {
                self.words[at].write(super::EMPTY_LIST.load(std::sync::atomic::Ordering::Relaxed));
                self.parts.push((at, term));
            }
        }
        Ok(())
    }
}

/// The raw term of a word.
pub(super) fn raw_term(word: u64) -> ErlNifTerm {
    // SAFETY: a raw term is a transparent word of the machine's size.
    unsafe { std::mem::transmute::<usize, ErlNifTerm>(word as usize) }
}

/// Returns the term of a word, which comes from a term of the environment.
fn term_of(env: Env<'_>, word: u64) -> Term<'_> {
    // SAFETY: all callers pass such a word.
    unsafe { Term::new(env, raw_term(word)) }
}

/// Builds the image of a term in at most `most` words, and calls `then` with it. Returns `None`
/// when the image needs more words.
#[inline]
pub fn with<'a, R>(
    term: Term<'a>,
    most: usize,
    then: impl FnOnce(Built<'_, 'a>) -> R,
) -> Option<R> {
    let mut words = [const { MaybeUninit::uninit() }; SMALL];
    let mut pointers = [0; SMALL / BITS];
    let mut builder = Builder::new(term, &mut words, &mut pointers)?;
    match builder.build() {
        Ok(()) => Some(then(builder.built())),
        Err(Full) => with_more(builder, most, then),
    }
}

#[inline(never)]
fn with_more<'a, R>(
    begun: Builder<'_, 'a>,
    most: usize,
    then: impl FnOnce(Built<'_, 'a>) -> R,
) -> Option<R> {
    let room = (16 * begun.words.len()).min(most);
    if room <= begun.words.len() {
        return None;
    }
    let (mut words, mut pointers) = (Vec::<u64>::new(), Vec::new());
    let bits = room.div_ceil(BITS);
    words.try_reserve_exact(room).ok()?;
    pointers.try_reserve_exact(bits).ok()?;
    pointers.resize(bits, 0);
    let words = &mut words.spare_capacity_mut()[..room];
    let mut builder = begun.moved(words, &mut pointers);
    match builder.build() {
        Ok(()) => Some(then(builder.built())),
        Err(Full) => with_more(builder, most, then),
    }
}

/// A stored image: the bits of its pointers, followed by its words.
#[derive(Clone, Copy)]
pub struct Image<'i> {
    pointers: &'i [u64],
    words: &'i [u64],
}

impl<'i> Image<'i> {
    pub fn new(pointers: &'i [u64], words: &'i [u64]) -> Self {
        Image { pointers, words }
    }

    /// Splits the words of a stored image into the two parts of [`Built`].
    #[inline]
    pub fn joined(all: &'i [u64]) -> Self {
        let (pointers, words) = all.split_at(bits(all.len(), 1));
        Image { pointers, words }
    }

    /// Returns the address of its root, which absolute pointers are relative to.
    pub fn address(self) -> u64 {
        self.words.as_ptr() as u64
    }

    /// Returns its root as a term that the VM can read, if the pointers are absolute.
    pub fn root(self) -> ErlNifTerm {
        raw_term(self.words[0])
    }

    /// Returns how many words of a heap it needs.
    #[inline]
    pub fn heap_words(self) -> usize {
        self.words.len() - 1
    }

    /// Writes the heap words to `place`, and returns the root. The stored pointers are relative to
    /// `base`: 0, or the address of the root if they are absolute.
    ///
    /// # Safety
    ///
    /// `place` has room for them.
    #[inline]
    pub unsafe fn write(self, place: *mut u64, base: u64) -> u64 {
        let added = (place as u64).wrapping_sub(WORD as u64).wrapping_sub(base);
        let root = self.words[0];
        // SAFETY: the caller promises it, and bits are set only for words that exist.
        unsafe {
            std::ptr::copy_nonoverlapping(self.words.as_ptr().add(1), place, self.words.len() - 1);
            let mut first = place.wrapping_sub(1);
            let mut bits = self.pointers[0] & !1;
            let mut rest = self.pointers[1..].iter();
            loop {
                while bits != 0 {
                    let word = first.add(bits.trailing_zeros() as usize);
                    *word = (*word).wrapping_add(added);
                    bits &= bits - 1;
                }
                match rest.next() {
                    Some(next) => bits = *next,
                    None => break,
                }
                first = first.wrapping_add(BITS);
            }
        }
        if self.pointers[0] & 1 == 1 {
            root.wrapping_add(added)
        } else {
            root
        }
    }
}

/// Returns the length in words of one row of bits, in a block of `all` words that starts with
/// `rows` such rows.
#[inline]
pub fn bits(all: usize, rows: usize) -> usize {
    all.div_ceil(BITS + rows)
}

/// Sets a bit of a row.
pub fn mark(row: &mut [u64], at: usize) {
    row[at / BITS] |= 1 << (at % BITS);
}

/// Returns the positions of the set bits of a row.
pub fn marked(row: &[u64]) -> impl Iterator<Item = usize> {
    row.iter().enumerate().flat_map(|(index, bits)| {
        let mut bits = *bits;
        std::iter::from_fn(move || {
            let at = (bits != 0).then(|| index * BITS + bits.trailing_zeros() as usize);
            bits &= bits.wrapping_sub(1);
            at
        })
    })
}

/// Makes the pointers of an image absolute, for terms that stay in place.
pub fn make_absolute(pointers: &[u64], words: &mut [u64]) {
    let address = words.as_ptr() as u64;
    for at in marked(pointers) {
        words[at] = words[at].wrapping_add(address);
    }
}

/// The elements for the VM's tuple. Their values do not matter.
static ZEROS: [u64; WORDS_MAX] = [0; WORDS_MAX];

/// Returns `count` contiguous words of the caller's heap, from 1 to [`WORDS_MAX`].
///
/// # Safety
///
/// Before the call ends, all words are written with whole objects, without a gap.
#[inline]
pub unsafe fn block(env: Env, count: usize) -> *mut u64 {
    assert!(
        (1..=WORDS_MAX).contains(&count),
        "expected room for a term, got: {count}"
    );
    // SAFETY: there are as many zeros. The VM copies them without a look at them.
    let tuple = unsafe {
        enif_make_tuple_from_array(env.as_c_arg(), ZEROS.as_ptr().cast(), count as u32 - 1)
    };
    (raw_word(tuple) & !TAGS) as *mut u64
}

/// Makes the term of an image whose pointers are relative to `base`.
#[inline]
pub fn term<'a>(env: Env<'a>, image: Image<'_>, base: u64) -> Term<'a> {
    let count = image.heap_words();
    if count == 0 {
        return term_of(env, image.words[0]);
    }
    // SAFETY: all words of the block are written, with the objects of the image.
    unsafe { term_of(env, image.write(block(env, count), base)) }
}

/// Like [`term`], for an image with parts.
pub fn term_with_parts<'a>(
    env: Env<'a>,
    image: Image<'_>,
    base: u64,
    parts: impl Iterator<Item = (usize, Term<'a>)>,
) -> Term<'a> {
    let count = image.heap_words();
    let (mut root, mut place) = (image.words[0], std::ptr::null_mut());
    if count > 0 {
        // SAFETY: all words of the block are written, with the objects of the image.
        unsafe {
            place = block(env, count);
            root = image.write(place, base);
        }
    }
    for (at, part) in parts {
        if at == 0 {
            root = word(part);
        } else {
            assert!(at <= count, "expected a word of the image, got: {at}");
            // SAFETY: the word is in the block, and it is not a header.
            unsafe { place.add(at - 1).write(word(part)) }
        }
    }
    term_of(env, root)
}

/// Returns whether a reference belongs to this node.
pub(super) fn is_own_reference(term: Term) -> bool {
    let Some(layout) = LAYOUT.get().filter(|layout| layout.reference != NONE) else {
        return true;
    };
    // SAFETY: a boxed term points at its header.
    is_boxed(term) && unsafe { words_of::<1>(term) }[0] & SUBTAG == layout.reference & SUBTAG
}

/// Learns how this VM lays out terms, when the library is loaded. Returns whether images can be
/// used.
pub(super) fn learn(env: Env, small_map: u64, magic: Term) -> bool {
    let layout = Layout {
        float: float(env),
        integers: integers(env),
        binary: heap_binary(env),
        map: large_map(env),
        small_map,
        reference: reference(env, magic),
        empty_tuple: empty_tuple(env),
    };
    // The library may be loaded again into the same VM, where the layout is set already.
    let _ = LAYOUT.set(layout);
    samples(env).into_iter().all(|term| survives(env, term))
}

/// Returns the header of a boxed term and the words after it.
///
/// # Safety
///
/// The term is boxed and has at least `N` words.
unsafe fn words_of<const N: usize>(term: Term) -> [u64; N] {
    let from = (word(term) & !TAGS) as *const u64;
    // SAFETY: the caller promises it.
    std::array::from_fn(|at| unsafe { *from.add(at) })
}

fn is_boxed(term: Term) -> bool {
    word(term) & PRIMARY == BOXED
}

fn float(env: Env) -> u64 {
    // SAFETY: the environment is that of this call.
    let term = unsafe { Term::new(env, enif_make_double(env.as_c_arg(), 1.5)) };
    // SAFETY: a boxed float has eight bytes after its header.
    match is_boxed(term).then(|| unsafe { words_of(term) }) {
        Some([header, bits]) if header >> 6 == 1 && bits == 1.5f64.to_bits() => header,
        _ => NONE,
    }
}

fn integers(env: Env) -> [u64; 2] {
    // SAFETY: the environment is that of this call.
    let terms = unsafe {
        [
            enif_make_uint64(env.as_c_arg(), u64::MAX - 7),
            enif_make_int64(env.as_c_arg(), i64::MIN + 7),
        ]
        .map(|term| Term::new(env, term))
    };
    let digits = [u64::MAX - 7, (i64::MIN + 7).unsigned_abs()];
    let learned = terms.into_iter().zip(digits).map(|(term, digit)| {
        // SAFETY: a boxed integer has at least one digit after its header.
        match is_boxed(term).then(|| unsafe { words_of(term) }) {
            Some([header, first]) if header >> 6 == 1 && first == digit => header & SUBTAG,
            _ => NONE,
        }
    });
    let mut subtags = [NONE; 2];
    subtags
        .iter_mut()
        .zip(learned)
        .for_each(|(place, subtag)| *place = subtag);
    subtags
}

/// Returns the low bits of a heap binary's header, and whether its size counts bytes or bits.
fn heap_binary(env: Env) -> (u64, usize) {
    let sample = |len: usize| {
        let term = binary_term(env, &[0xA5; HEAP_BINARY_MAX][..len]);
        let mut inspected = MaybeUninit::uninit();
        // SAFETY: the function fills in the structure when it returns nonzero.
        let data = unsafe {
            if enif_inspect_binary(env.as_c_arg(), term.as_c_arg(), inspected.as_mut_ptr()) == 0 {
                return None;
            }
            inspected.assume_init().data as u64
        };
        if !is_boxed(term) || data != (word(term) & !TAGS) + 2 * WORD as u64 {
            return None;
        }
        // SAFETY: a heap binary has two words before its bytes.
        let [header, size] = unsafe { words_of(term) };
        (header >> 6 == 1 + len.div_ceil(WORD) as u64).then_some((header & SUBTAG, size as usize))
    };
    let samples = [1, 8, 9, HEAP_BINARY_MAX].map(|len| (len, sample(len)));
    for unit in [1, 8] {
        if let Some((subtag, _)) = samples[0].1
            && samples
                .iter()
                .all(|(len, sample)| *sample == Some((subtag, len * unit)))
        {
            return (subtag, unit);
        }
    }
    (NONE, 1)
}

/// Returns the low bits of the headers of large maps' nodes, if a walk over them finds every entry.
fn large_map(env: Env) -> u64 {
    let subtag = |size| {
        let map = map(env, size)?;
        // SAFETY: a boxed term has its header.
        let [header, entries] = unsafe { words_of(map) };
        let subtag = header & SUBTAG;
        let counted = subtag != 0 && map_words(header).0 == 1 && entries == size;
        (is_boxed(map) && counted && leaves(word(map), subtag, 0) == Some(size)).then_some(subtag)
    };
    let subtags = [33, 100, 2_000].map(subtag);
    match subtags[0] {
        Some(subtag) if subtags == [Some(subtag); 3] => subtag,
        _ => NONE,
    }
}

/// Returns how many entries are below a node of a large map, or `None` if it is no such node.
fn leaves(word: u64, subtag: u64, depth: usize) -> Option<u64> {
    const DEPTH_MAX: usize = 20;
    let from = (word & !TAGS) as *const u64;
    match word & PRIMARY {
        LIST => Some(1),
        BOXED if depth < DEPTH_MAX => {
            // SAFETY: a boxed term has its header.
            let header = unsafe { *from };
            let (size, children) = map_words(header);
            if header & SUBTAG != subtag || size > 1 || children == 0 {
                return None;
            }
            (0..children).try_fold(0, |sum, child| {
                // SAFETY: a node has as many children as its header says.
                let child = unsafe { *from.add(1 + size + child) };
                Some(sum + leaves(child, subtag, depth + 1)?)
            })
        }
        _ => None,
    }
}

fn map(env: Env<'_>, size: u64) -> Option<Term<'_>> {
    (0..size).try_fold(Term::map_new(env), |map, key| {
        map.map_put(key, key + 1_000).ok()
    })
}

/// Returns the header of a plain reference, if it differs from a magic one.
fn reference(env: Env, magic: Term) -> u64 {
    // SAFETY: the environment is that of this call.
    let plain = unsafe { Term::new(env, enif_make_ref(env.as_c_arg())) };
    if !is_boxed(plain) || !is_boxed(magic) {
        return NONE;
    }
    // SAFETY: references have more words than their headers.
    let ([header, first], [magic_header, magic_first]) =
        unsafe { (words_of(plain), words_of(magic)) };
    let is_plain = |header: u64, first: u64, of: u64| header == of && first as u32 == u32::MAX;
    let told = is_plain(header, first, header) && !is_plain(magic_header, magic_first, header);
    if told { header } else { NONE }
}

/// Returns the word of `{}`, if the VM uses the same one everywhere.
fn empty_tuple(env: Env) -> u64 {
    let make = || {
        let none = no_term();
        // SAFETY: no element is read.
        raw_word(unsafe { enif_make_tuple_from_array(env.as_c_arg(), &raw const none, 0) })
    };
    let (one, other) = (make(), make());
    if one == other { one } else { NONE }
}

/// Returns nested terms with each kind that an image holds.
fn samples(env: Env<'_>) -> Vec<Term<'_>> {
    use rustler::Encoder;
    // SAFETY: the environment is that of this call.
    let reference = unsafe { Term::new(env, enif_make_ref(env.as_c_arg())) };
    let short = binary_term(env, b"short");
    let longest = binary_term(env, &[7; HEAP_BINARY_MAX]);
    let numbers = (1.5f64, u64::MAX, i64::MIN, -3i64).encode(env);
    let list = vec![short, longest, reference, numbers].encode(env);
    let maps: Vec<_> = [0, 1, 32, 33, 100, 2_000]
        .into_iter()
        .filter_map(|size| map(env, size))
        .collect();
    let nested = maps.iter().fold(list, |nested, map| {
        let inner = map.map_put(nested, numbers).unwrap_or(*map);
        (inner, nested, list.list_prepend(inner), ((), short)).encode(env)
    });
    let mut samples = maps;
    samples.extend([short, longest, reference, numbers, list, nested]);
    samples
}

/// Returns whether a term is unchanged after it has been an image.
fn survives(env: Env, sample: Term) -> bool {
    let copy = with(sample, WORDS_MAX, |built| {
        let all = [built.pointers, built.words].concat();
        built
            .parts
            .is_empty()
            .then(|| term(env, Image::joined(&all), 0))
    });
    match copy.flatten() {
        // SAFETY: both terms are alive.
        Some(copy) => unsafe { enif_is_identical(sample.as_c_arg(), copy.as_c_arg()) == 1 },
        // A kind with another layout, which is stored as a part.
        None => true,
    }
}
