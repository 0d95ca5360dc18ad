//! How much a call does before it says so: what is short is done where the caller runs, what is
//! long on a dirty scheduler, and what is longer still in pieces.

use foundation_core::key::{Key, KeyView};
use foundation_core::table::ValueView;
use rustler::codegen_runtime::c_int;
use rustler::sys::enif_consume_timeslice;
use rustler::{Env, Term};

use super::owned::{OwnedTerm, Probe};
use super::view::Size;
use crate::raw::{Failure, may_take_long};

/// How many subterms are read on a normal scheduler.
pub const NODES_MAX: usize = 4_000;
/// How many on a dirty one.
const DIRTY_NODES_MAX: usize = 100 * NODES_MAX;
/// How many of one term are written: a call may have to measure, hash, compare and copy a key, and
/// to measure and copy a value.
const WRITTEN_MAX: usize = 2_000;
/// The most bytes that are hashed, compared or copied on a normal scheduler.
pub(super) const BYTES_MAX: usize = 256 * 1024;

/// How many bytes are hashed and compared in the time of a subterm.
pub(super) const BYTES_A_NODE: usize = 256;

/// How many bytes of an image are copied in that time: the heap that they are copied to is new memory.
pub(super) const IMAGE_BYTES_A_NODE: usize = 128;

/// How many subterms a term has that is to be copied, unless that takes long and this is a normal
/// scheduler. What does not tell what it holds, as functions, may take long.
pub fn measure(term: Term) -> Result<usize, Failure> {
    Ok(measure_up_to(term, usize::MAX)?.nodes)
}

/// The same of a term that is to be hashed, compared or written out, and its binaries with it: of
/// their bytes 256 count as a subterm.
pub fn measure_whole(term: Term) -> Result<usize, Failure> {
    let size = measure_up_to(term, BYTES_MAX)?;
    Ok(size.nodes + size.bytes / BYTES_A_NODE)
}

fn measure_up_to(term: Term, bytes: usize) -> Result<Size, Failure> {
    let mut size = Size::default();
    let small = size.add_up_to(term, WRITTEN_MAX, bytes) && !size.is_opaque;
    if small || may_take_long() {
        Ok(size)
    } else {
        Err(Failure::TakesLong)
    }
}

/// What a call may copy: on a normal scheduler [`NODES_MAX`] subterms, some hundred microseconds'
/// worth; on a dirty one many times that, and one entry of any size.
#[derive(Default)]
pub struct Budget {
    spent: usize,
    has_given: bool,
    has_searched: bool,
    extended: bool,
    takes_long: bool,
}

impl Budget {
    /// Takes what copying a stored value costs, and says whether to copy it in this call.
    #[inline]
    pub fn spend(&mut self, value: ValueView<'_, OwnedTerm>) -> bool {
        self.give(value_cost(value))
    }

    /// As [`Budget::spend`], for an entry's key and value.
    #[inline]
    pub fn spend_entry(
        &mut self,
        key: &KeyView<'_, OwnedTerm>,
        value: ValueView<'_, OwnedTerm>,
    ) -> bool {
        self.give(key_cost(key) + value_cost(value))
    }

    /// As [`Budget::spend`], for a key that is given `count` times.
    pub fn spend_keys(&mut self, key: &KeyView<'_, OwnedTerm>, count: usize) -> bool {
        self.give(key_cost(key) + 4 * count)
    }

    /// Takes what looking for a key costs, and says whether to do that in this call: for the
    /// first key always, since one that takes long has been refused before.
    #[inline]
    pub fn spend_search(&mut self, key: &Key<'_, Probe>) -> bool {
        let cost = match key {
            Key::Inline(..) => return true,
            Key::Long(_, bytes) => bytes.len() / BYTES_A_NODE,
            Key::Opaque(_, probe) => probe.nodes,
        };
        let fits = !self.has_searched || self.spent + cost <= self.limit();
        self.has_searched = true;
        self.spent += cost;
        fits
    }

    #[inline]
    fn give(&mut self, cost: usize) -> bool {
        if self.spent + cost > NODES_MAX && !self.extend(cost) {
            return false;
        }
        self.has_given = true;
        self.spent += cost;
        true
    }

    fn limit(&mut self) -> usize {
        self.extended = self.extended || may_take_long();
        if self.extended {
            DIRTY_NODES_MAX
        } else {
            NODES_MAX
        }
    }

    /// Whether more than a normal scheduler's worth may be spent.
    #[cold]
    fn extend(&mut self, cost: usize) -> bool {
        let fits = self.spent + cost <= self.limit();
        let first = !self.has_given;
        self.takes_long = first && !self.extended;
        self.extended && (first || fits)
    }

    /// Whether the first entry was refused: the call is to be made on a dirty scheduler.
    pub fn takes_long(&self) -> bool {
        self.takes_long
    }

    /// Has the VM count what was spent as the caller's work.
    pub fn charge(&self, env: Env) {
        charge(env, self.spent * 50 / NODES_MAX);
    }
}

#[inline]
fn value_cost(value: ValueView<'_, OwnedTerm>) -> usize {
    4 + match value {
        ValueView::Word(_) => 0,
        ValueView::Bytes(bytes) => bytes.len() / IMAGE_BYTES_A_NODE,
        ValueView::Object(term) => term.nodes(),
    }
}

fn key_cost(key: &KeyView<'_, OwnedTerm>) -> usize {
    match key {
        KeyView::Inline { .. } => 0,
        KeyView::Long(_, bytes) => bytes.len() / 16,
        KeyView::Opaque(term) => term.nodes(),
    }
}

/// Has the VM count this share of a time slice, in percent, as the caller's work, so that a loop
/// of calls that each take a good part of one gives way to other processes as any loop does.
pub fn charge(env: Env, percent: usize) {
    let percent = percent.clamp(1, 100) as c_int;
    if !may_take_long() {
        // SAFETY: the environment is that of the call, and the share is from 1 to 100.
        unsafe { enif_consume_timeslice(env.as_c_arg(), percent) };
    }
}

/// How often a term can be copied in a few hundred microseconds, or on a dirty scheduler in some
/// milliseconds: once at least.
///
/// # Errors
///
/// When one copy takes long and this is a normal scheduler.
pub fn copies_in_time(term: Term) -> Result<usize, Failure> {
    let nodes = measure(term)?;
    let limit = if may_take_long() {
        DIRTY_NODES_MAX
    } else {
        NODES_MAX
    };
    Ok((limit / (4 + nodes)).clamp(1, NODES_MAX / 4))
}
