//! A term as a value: an immediate as its word, else its encoding where that is short, else a
//! term. A binary that the VM shares always stays a term: it is not copied.

use foundation_core::table::{Value, ValueView};
use rustler::{Env, Term};

use super::budget::measure;
use super::encoding::{Buffer, Form, decode};
use super::owned::OwnedTerm;
use super::{is_immediate, word, word_term};
use crate::raw::Failure;

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
    measure(term)?;
    Ok(OwnedTerm::new(term).map(|term| Value::Object(Box::new(term))))
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
