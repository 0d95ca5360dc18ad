//! The word in an entry's slot beside its key and its value.
//!
//! ```text
//!   63                       27  26     25             0
//!   │ end, ms since the start  │error │      place       │
//! ```
//!
//! A reader learns from it whether the entry is fresh, without a look at anything else. The place
//! is that of the entry's mark and of its node in the queue.

use super::Millis;

const PLACE_BITS: u32 = 26;
const ERROR: u64 = 1 << PLACE_BITS;
const END_SHIFT: u32 = PLACE_BITS + 1;

/// The most places: about 67 million.
pub(super) const PLACES: u32 = 1 << PLACE_BITS;

/// The word of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word(pub(super) u64);

impl Word {
    pub(super) fn new(place: u32, is_error: bool, end: Millis) -> Self {
        debug_assert!(place < PLACES && end <= Millis::NEVER);
        let error = if is_error { ERROR } else { 0 };
        Word(end.0 << END_SHIFT | error | u64::from(place))
    }

    #[inline]
    pub(super) fn place(self) -> u32 {
        self.0 as u32 & (PLACES - 1)
    }

    /// Returns whether the entry is the error of a load.
    #[inline]
    pub(super) fn is_error(self) -> bool {
        self.0 & ERROR != 0
    }

    /// Returns the time until which the entry is fresh.
    #[inline]
    pub(super) fn end(self) -> Millis {
        Millis(self.0 >> END_SHIFT)
    }
}
