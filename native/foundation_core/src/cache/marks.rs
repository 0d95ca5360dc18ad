//! One bit for each place: whether its entry was read since the hand of the queue passed it.
//!
//! A reader sets a mark only when it is not set. So the reads of a hot entry write nothing that is
//! shared. The marks of all entries are close together, and mostly stay in the processor's cache.

use std::sync::OnceLock;

use crate::primitive::{AtomicU64, Ordering};
use crate::table::{OutOfMemory, boxed};

/// The words of a chunk. The models have room for few.
const WORDS: usize = if cfg!(loom) { 1 } else { 256 };
const FAN_OUT: usize = 64;
/// The places of a chunk: its words have 64 bits each.
const CHUNK: usize = WORDS * 64;

type Chunk = Box<[AtomicU64; WORDS]>;
type Branch = Box<[OnceLock<Chunk>; FAN_OUT]>;

/// The marks of all places. They are allocated in chunks as places are used for the first time.
#[derive(Debug)]
pub(super) struct Marks([OnceLock<Branch>; FAN_OUT]);

#[cfg(not(loom))]
const _: () = assert!(FAN_OUT * FAN_OUT * CHUNK == super::word::PLACES as usize);

/// Returns what is in `cell`, which it fills if it is empty. There is one writer at a time.
fn get_or_make<T>(
    cell: &OnceLock<T>,
    make: impl FnOnce() -> Result<T, OutOfMemory>,
) -> Result<&T, OutOfMemory> {
    match cell.get() {
        Some(made) => Ok(made),
        None => {
            let made = make()?;
            Ok(cell.get_or_init(|| made))
        }
    }
}

impl Marks {
    pub(super) fn new() -> Self {
        Marks([const { OnceLock::new() }; FAN_OUT])
    }

    /// Makes room for the mark of a place.
    pub(super) fn reserve(&self, place: u32) -> Result<(), OutOfMemory> {
        let place = place as usize;
        let branch = get_or_make(&self.0[place / CHUNK / FAN_OUT], || {
            boxed([const { OnceLock::new() }; FAN_OUT])
        })?;
        let chunk = &branch[place / CHUNK % FAN_OUT];
        get_or_make(chunk, || boxed(std::array::from_fn(|_| AtomicU64::new(0))))?;
        Ok(())
    }

    #[inline]
    fn word(&self, place: u32) -> Option<&AtomicU64> {
        let place = place as usize;
        let branch = self.0[place / CHUNK / FAN_OUT].get()?;
        let chunk = branch[place / CHUNK % FAN_OUT].get()?;
        Some(&chunk[place / 64 % WORDS])
    }

    /// Marks a place, unless it is marked.
    #[inline]
    pub(super) fn set(&self, place: u32) {
        let bit = 1 << (place % 64);
        if let Some(word) = self.word(place)
            && word.load(Ordering::Relaxed) & bit == 0
        {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// Takes the mark of a place away, and returns whether there was one.
    pub(super) fn take(&self, place: u32) -> bool {
        let bit = 1 << (place % 64);
        let Some(word) = self.word(place) else {
            return false;
        };
        let marked = word.load(Ordering::Relaxed) & bit != 0;
        if marked {
            word.fetch_and(!bit, Ordering::Relaxed);
        }
        marked
    }
}
