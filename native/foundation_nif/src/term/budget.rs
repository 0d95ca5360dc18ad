//! The limits on the work of a call. A call with little work runs on the caller's scheduler. A call
//! with more moves to a dirty scheduler, and one with still more works in parts.

use foundation_core::key::{Key, KeyView};
use foundation_core::table::ValueView;
use rustler::codegen_runtime::c_int;
use rustler::sys::enif_consume_timeslice;
use rustler::{Env, Term};

use super::owned::{OwnedTerm, Probe};
use super::view::Size;
use crate::raw::{Failure, may_take_long};

/// The most subterms that are read on a normal scheduler.
pub const NODES_MAX: usize = 4_000;
/// The most subterms that are read on a dirty scheduler.
const DIRTY_NODES_MAX: usize = 100 * NODES_MAX;
/// The most subterms of a term that is written. A call may measure, hash, compare and copy a key,
/// and measure and copy a value.
const WRITTEN_MAX: usize = 2_000;
/// The most bytes that are hashed, compared or copied on a normal scheduler.
pub(super) const BYTES_MAX: usize = 256 * 1024;

/// The bytes that are hashed and compared in the time of one subterm.
pub(super) const BYTES_A_NODE: usize = 256;

/// The bytes of an image that are copied in that time. The heap that they go to is new memory.
pub(super) const IMAGE_BYTES_A_NODE: usize = 128;

/// Returns the number of subterms of a term that will be copied. Fails on a normal scheduler if the
/// copy would take long. Terms whose size the VM does not tell, such as functions, count as long.
pub fn measure(term: Term) -> Result<usize, Failure> {
    Ok(measure_up_to(term, usize::MAX)?.nodes)
}

/// Like [`measure`], for a term that will be hashed, compared or written with its binaries. 256
/// bytes count as a subterm.
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

/// The work that a call may do. On a normal scheduler it is [`NODES_MAX`] subterms, about a hundred
/// microseconds. On a dirty one it is many times that, and one entry of any size.
#[derive(Default)]
pub struct Budget {
    spent: usize,
    has_given: bool,
    has_searched: bool,
    extended: bool,
    takes_long: bool,
}

impl Budget {
    /// Spends the cost of copying a stored value. Returns whether to copy it in this call.
    #[inline]
    pub fn spend(&mut self, value: ValueView<'_, OwnedTerm>) -> bool {
        self.give(value_cost(value))
    }

    /// Like [`Budget::spend`], for an entry's key and value.
    #[inline]
    pub fn spend_entry(
        &mut self,
        key: &KeyView<'_, OwnedTerm>,
        value: ValueView<'_, OwnedTerm>,
    ) -> bool {
        self.give(key_cost(key) + value_cost(value))
    }

    /// Like [`Budget::spend`], for a key that is returned `count` times.
    pub fn spend_keys(&mut self, key: &KeyView<'_, OwnedTerm>, count: usize) -> bool {
        self.give(key_cost(key) + 4 * count)
    }

    /// Spends the cost of searching for a key. Returns whether to search for it in this call. The
    /// first key is always searched for, since a long one has been refused before.
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

    /// Returns whether more than a normal scheduler's share may be spent.
    #[cold]
    fn extend(&mut self, cost: usize) -> bool {
        let fits = self.spent + cost <= self.limit();
        let first = !self.has_given;
        self.takes_long = first && !self.extended;
        self.extended && (first || fits)
    }

    /// Returns whether the first entry was refused, so that the call must move to a dirty
    /// scheduler.
    pub fn takes_long(&self) -> bool {
        self.takes_long
    }

    /// Tells the VM to count the work as the caller's.
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

/// Tells the VM to count this share of a time slice, in percent, as the caller's work. So a loop of
/// such calls yields to other processes as any other loop does.
pub fn charge(env: Env, percent: usize) {
    let percent = percent.clamp(1, 100) as c_int;
    if !may_take_long() {
        // SAFETY: the environment is that of this call, and the share is from 1 to 100.
        unsafe { enif_consume_timeslice(env.as_c_arg(), percent) };
    }
}

/// Returns how often a term can be copied in a few hundred microseconds, or on a dirty scheduler in
/// a few milliseconds. The result is at least 1.
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
