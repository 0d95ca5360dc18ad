//! A term as a value: an immediate as its word, else its encoding where that is short, else a
//! term. A binary that the VM shares always stays a term: it is not copied.

use foundation_core::table::{Value, ValueView};
use rustler::{Env, Term};

use super::encoding::{Buffer, Form, decode};
use super::owned::OwnedTerm;
use super::view::Size;
use super::{is_immediate, word, word_term};
use crate::raw::Failure;

/// How many subterms are handled on a normal scheduler.
pub(super) const NODES_MAX: usize = 4_000;

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

/// The term that was stored.
#[inline]
pub fn value_term<'a>(env: Env<'a>, value: ValueView<'_, OwnedTerm>) -> Term<'a> {
    match value {
        ValueView::Word(word) => word_term(env, word),
        ValueView::Bytes(bytes) => decode(env, bytes),
        ValueView::Object(term) => term.copy(env),
    }
}
