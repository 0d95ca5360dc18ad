//! A term as a value: an immediate as its word, a compound term as its image.
//!
//! A term with parts besides its words, such as shared binaries, is an object.

use foundation_core::table::{Value, ValueView};
use rustler::{Env, Term};

use super::budget::measure;
use super::image::{self, Built, Image};
use super::owned::OwnedTerm;
use super::shared::long_binary;
use super::view::View;
use super::{is_immediate, word, word_term};
use crate::raw::{Failure, may_take_long};

/// The most words that are written on a normal scheduler: about a hundred microseconds of work.
const WRITTEN_MAX: usize = 8 * 1024;
/// The most parts that are stored on a normal scheduler.
const PARTS_MAX: usize = 32;

/// Returns the stored form of a term, or `None` when there is no memory for it.
///
/// # Errors
///
/// When it would take long and this is a normal scheduler.
#[inline]
pub fn value(term: Term) -> Result<Option<Value<OwnedTerm>>, Failure> {
    let word = word(term);
    if is_immediate(word) {
        return Ok(Some(Value::Word(word)));
    }
    if long_binary(term).is_some() {
        return Ok(OwnedTerm::new(term).map(|term| Value::Object(Box::new(term))));
    }
    image::with(term, WRITTEN_MAX, |built| of_image(&built))
        .flatten()
        .map_or_else(|| large(term), |value| Ok(Some(value)))
}

/// Returns the value of an image, if it takes little time to make.
#[inline]
fn of_image(built: &Built<'_, '_>) -> Option<Value<OwnedTerm>> {
    if built.parts.is_empty() {
        return Value::words(built.pointers, built.words);
    }
    let is_short = |part: &(usize, Term)| !matches!(View::of(part.1), View::Opaque);
    let in_time = built.parts.len() <= PARTS_MAX && built.parts.iter().all(is_short);
    if !in_time && !may_take_long() {
        return None;
    }
    OwnedTerm::of_image(built).map(|term| Value::Object(Box::new(term)))
}

/// Makes a value that takes long, or for which there was no memory before.
#[cold]
fn large(term: Term) -> Result<Option<Value<OwnedTerm>>, Failure> {
    measure(term)?;
    Ok(OwnedTerm::new(term).map(|term| Value::Object(Box::new(term))))
}

/// Returns the image in a value's bytes.
#[inline]
pub fn image(bytes: &[u8]) -> Image<'_> {
    // SAFETY: every eight bytes are a word. They are aligned, since they follow a word.
    let (unaligned, words, _) = unsafe { bytes.align_to() };
    debug_assert!(unaligned.is_empty());
    Image::joined(words)
}

/// Returns the stored term.
#[inline]
pub fn value_term<'a>(env: Env<'a>, value: ValueView<'_, OwnedTerm>) -> Term<'a> {
    match value {
        ValueView::Word(word) => word_term(env, word),
        ValueView::Bytes(bytes) => image::term(env, image(bytes), 0),
        ValueView::Object(term) => term.copy(env),
    }
}
