//! Lists of entries, written into the caller's heap with their values.
//!
//! A list of pairs that is made by the VM takes two calls for each entry, and one more for its
//! value. Here the VM makes room for many entries at once, as [`block`] does it for one value.

use std::mem::MaybeUninit;

use foundation_core::table::ValueView;
use rustler::codegen_runtime::ErlNifTerm;
use rustler::{Env, Term};

use super::image::{Image, WORDS_MAX, block};
use super::layout::{ARITY, BOXED};
use super::owned::OwnedTerm;
use super::{LIST, empty_list, value, word};

/// How many entries are written at once.
const ROWS: usize = 32;
/// The words of a list's cell.
const CELL: usize = 2;
/// The words of a pair.
const PAIR: usize = 3;

/// A value that is to be written.
#[derive(Clone, Copy)]
enum Item<'g> {
    Word(u64),
    Image(Image<'g>),
}

impl<'g> Item<'g> {
    #[inline]
    fn new(env: Env, view: ValueView<'g, OwnedTerm>) -> Self {
        match view {
            ValueView::Word(word) => Item::Word(word),
            ValueView::Bytes(bytes) => Item::Image(value::image(bytes)),
            ValueView::Object(term) => Item::Word(word(term.copy(env))),
        }
    }

    #[inline]
    fn heap_words(&self) -> usize {
        match self {
            Item::Word(_) => 0,
            Item::Image(image) => image.heap_words(),
        }
    }

    /// Writes its heap words, and returns its word.
    ///
    /// # Safety
    ///
    /// There is room for them.
    #[inline]
    unsafe fn write(self, place: *mut u64) -> u64 {
        match self {
            Item::Word(word) => word,
            // SAFETY: asked of the caller.
            Item::Image(image) => unsafe { image.write(place, 0) },
        }
    }
}

/// A list of values, or of pairs of a process and a value.
pub struct Rows<'a, 'g, const PAIRS: bool> {
    env: Env<'a>,
    rows: [MaybeUninit<(u64, Item<'g>)>; ROWS],
    count: usize,
    /// The words that these rows take.
    words: usize,
    first: Option<u64>,
    /// The tail of the last cell that was written.
    tail: *mut u64,
}

impl<'a, 'g, const PAIRS: bool> Rows<'a, 'g, PAIRS> {
    const ROW: usize = if PAIRS { CELL + PAIR } else { CELL };

    #[inline]
    pub fn new(env: Env<'a>) -> Self {
        Rows {
            env,
            rows: [const { MaybeUninit::uninit() }; ROWS],
            count: 0,
            words: 0,
            first: None,
            tail: std::ptr::null_mut(),
        }
    }

    /// Appends a row. Where there are no pairs, it is the value alone.
    #[inline]
    pub fn push(&mut self, pid: Term<'a>, value: ValueView<'g, OwnedTerm>) {
        let item = Item::new(self.env, value);
        let words = Self::ROW + item.heap_words();
        if self.count == ROWS || self.words + words > WORDS_MAX {
            self.flush();
        }
        self.rows[self.count].write((word(pid), item));
        self.count += 1;
        self.words += words;
    }

    fn flush(&mut self) {
        if self.count == 0 {
            return;
        }
        let nil = word(empty_list(self.env));
        // SAFETY: all words of the block are written: those of a cell, of its pair, and of its
        // value, row after row. So many rows have been pushed. A cell before is of a block of this
        // call.
        unsafe {
            let mut place = block(self.env, self.words);
            let cell = place as u64 | LIST;
            if self.first.is_none() {
                self.first = Some(cell);
            } else {
                *self.tail = cell;
            }
            for row in &self.rows[..self.count] {
                let (pid, item) = row.assume_init_ref();
                let next = place.add(Self::ROW + item.heap_words());
                let root = item.write(place.add(Self::ROW));
                if PAIRS {
                    let pair = place.add(CELL);
                    *place = pair as u64 | BOXED;
                    *pair = 2 << ARITY;
                    *pair.add(1) = *pid;
                    *pair.add(2) = root;
                } else {
                    *place = root;
                }
                self.tail = place.add(1);
                *self.tail = next as u64 | LIST;
                place = next;
            }
            *self.tail = nil;
        }
        (self.count, self.words) = (0, 0);
    }

    /// The list.
    #[inline]
    pub fn finish(mut self) -> Term<'a> {
        self.flush();
        match self.first {
            // SAFETY: the cell was written into this environment's heap.
            Some(cell) => unsafe { Term::new(self.env, raw(cell)) },
            None => empty_list(self.env),
        }
    }
}

fn raw(word: u64) -> ErlNifTerm {
    super::image::raw_term(word)
}

/// `[{pid, value}]`.
#[inline]
pub fn single_pair<'a>(env: Env<'a>, pid: Term<'a>, value: ValueView<'_, OwnedTerm>) -> Term<'a> {
    let item = Item::new(env, value);
    // SAFETY: all words of the block are written.
    unsafe {
        let place = block(env, CELL + PAIR + item.heap_words());
        let pair = place.add(CELL);
        *place = pair as u64 | BOXED;
        *place.add(1) = word(empty_list(env));
        *pair = 2 << ARITY;
        *pair.add(1) = word(pid);
        *pair.add(2) = item.write(pair.add(PAIR));
        Term::new(env, raw(place as u64 | LIST))
    }
}
