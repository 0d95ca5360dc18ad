//! The numbers of one owner's entries of one key.
//!
//! They arrive in ascending order and are stored sorted, in chunks. A change moves at most a chunk,
//! plus the list of chunks, which is five hundred times shorter than the numbers.

use crate::memory::{boxed, reserve, shrink, with_room};
use crate::table::OutOfMemory;

/// The most numbers in a chunk.
const CHUNK: usize = 512;

/// A set of numbers that grows at its end.
#[derive(Debug)]
pub(super) enum Numbers {
    /// No more than a chunk: what most owners have of most keys.
    Inline(Vec<u64>),
    Spilled(Box<Chunks>),
}

/// Two or more chunks, none of them empty.
#[derive(Debug)]
pub(super) struct Chunks {
    chunks: Vec<Vec<u64>>,
    len: usize,
}

impl Numbers {
    pub(super) fn one(number: u64) -> Result<Self, OutOfMemory> {
        let mut chunk = with_room(1)?;
        chunk.push(number);
        Ok(Numbers::Inline(chunk))
    }

    fn chunks(&self) -> &[Vec<u64>] {
        match self {
            Numbers::Inline(chunk) => std::slice::from_ref(chunk),
            Numbers::Spilled(chunks) => &chunks.chunks,
        }
    }

    /// Visits all numbers in ascending order.
    pub(super) fn iter(&self) -> impl Iterator<Item = u64> {
        self.chunks().iter().flatten().copied()
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Numbers::Inline(chunk) => chunk.len(),
            Numbers::Spilled(chunks) => chunks.len,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a number that is larger than all others, unless there is no memory for it.
    pub(super) fn push(&mut self, number: u64) -> Result<(), OutOfMemory> {
        match self {
            Numbers::Inline(chunk) if chunk.len() < CHUNK => push(chunk, number),
            Numbers::Inline(chunk) => {
                let (mut chunks, mut second) = (with_room(2)?, with_room(1)?);
                second.push(number);
                let len = CHUNK + 1;
                let mut spilled = boxed(Chunks {
                    chunks: Vec::new(),
                    len,
                })?;
                chunks.push(std::mem::take(chunk));
                chunks.push(second);
                spilled.chunks = chunks;
                *self = Numbers::Spilled(spilled);
                Ok(())
            }
            Numbers::Spilled(chunks) => chunks.push(number),
        }
    }

    /// Removes the largest number.
    pub(super) fn pop(&mut self) -> Option<u64> {
        let last = *self.chunks().last()?.last()?;
        self.remove(last);
        Some(last)
    }

    /// Removes a number, if it is present.
    pub(super) fn remove(&mut self, number: u64) {
        match self {
            Numbers::Inline(chunk) => take(chunk, number),
            Numbers::Spilled(chunks) => {
                chunks.remove(number);
                if chunks.chunks.len() == 1 {
                    *self = Numbers::Inline(chunks.chunks.pop().unwrap_or_default());
                }
            }
        }
    }
}

fn push<T>(list: &mut Vec<T>, item: T) -> Result<(), OutOfMemory> {
    reserve(list, 1)?;
    list.push(item);
    Ok(())
}

/// Removes a number from a chunk, and shrinks the chunk's allocation once three quarters are
/// unused.
fn take(chunk: &mut Vec<u64>, number: u64) {
    if let Ok(place) = chunk.binary_search(&number) {
        chunk.remove(place);
        if chunk.len() < chunk.capacity() / 4 {
            shrink(chunk, chunk.len() * 2);
        }
    }
}

impl Chunks {
    fn push(&mut self, number: u64) -> Result<(), OutOfMemory> {
        match self.chunks.last_mut() {
            Some(last) if last.len() < CHUNK => push(last, number)?,
            _ => {
                let mut chunk = with_room(CHUNK)?;
                chunk.push(number);
                push(&mut self.chunks, chunk)?;
            }
        }
        self.len += 1;
        Ok(())
    }

    fn remove(&mut self, number: u64) {
        let after = self.chunks.partition_point(|chunk| chunk[0] <= number);
        let Some(index) = after.checked_sub(1) else {
            return;
        };
        let chunk = &mut self.chunks[index];
        let before = chunk.len();
        take(chunk, number);
        self.len -= before - chunk.len();
        if chunk.is_empty() {
            self.chunks.remove(index);
        } else {
            self.join(index);
            self.join(index.saturating_sub(1));
        }
        if self.chunks.len() < self.chunks.capacity() / 4 {
            let room = self.chunks.len() * 2;
            shrink(&mut self.chunks, room);
        }
    }

    /// Merges a chunk with the next one if both together fill at most half a chunk and there is
    /// memory for it. So few chunks are nearly empty.
    fn join(&mut self, index: usize) {
        if let Some([one, next]) = self.chunks.get_mut(index..index + 2)
            && one.len() + next.len() <= CHUNK / 2
            && reserve(one, next.len()).is_ok()
        {
            one.append(next);
            self.chunks.remove(index + 1);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn up_to(count: u64) -> Numbers {
        let mut numbers = Numbers::one(0).expect("there is memory");
        (1..count).for_each(|number| numbers.push(number).expect("there is memory"));
        numbers
    }

    fn memory(numbers: &Numbers) -> usize {
        let chunks = numbers.chunks().iter();
        chunks
            .map(|chunk| chunk.capacity() * size_of::<u64>())
            .sum()
    }

    /// Returns the largest allocation: the most that a push or a removal may have to move.
    fn largest(numbers: &Numbers) -> usize {
        let chunks = numbers.chunks().iter();
        chunks.map(|chunk| chunk.capacity()).max().unwrap_or(0)
    }

    #[test]
    fn nothing_is_moved_as_a_whole_however_many_there_are() {
        let mut numbers = up_to(1_000_000);
        assert!(largest(&numbers) <= 512, "{}", largest(&numbers));
        assert!(numbers.chunks().len() <= 2_000);
        for number in (0..1_000_000).filter(|number| number % 100 != 0) {
            numbers.remove(number);
        }
        assert!(largest(&numbers) <= 512, "{}", largest(&numbers));
        assert!(numbers.iter().eq((0..1_000_000).step_by(100)));
        assert_eq!(numbers.len(), 10_000);
    }

    #[test]
    fn a_set_shrinks_when_its_numbers_go() {
        assert_eq!(size_of::<Numbers>(), size_of::<Vec<u64>>());
        let mut numbers = up_to(100_000);
        let full = memory(&numbers);
        // Empty all chunks at the same pace.
        for step in 1..100 {
            for number in (step..100_000).step_by(100) {
                numbers.remove(number);
            }
        }
        assert!(
            memory(&numbers) < full / 20,
            "{} of {full}",
            memory(&numbers)
        );
        while numbers.pop().is_some() {}
        assert!(numbers.is_empty() && memory(&numbers) <= 64);
    }

    proptest! {
        #[test]
        fn it_is_a_sorted_list(
            changes in prop::collection::vec((0u8..10, any::<prop::sample::Index>()), 0..4_000),
        ) {
            let (mut numbers, mut model) = (Numbers::one(0).expect("there is memory"), vec![0]);
            let mut next = 1;
            // Phases of growth alternate with phases of shrinking.
            for (step, (dice, index)) in changes.into_iter().enumerate() {
                let growing = step / 1_500 % 2 == 0;
                if (dice < 8) == growing {
                    numbers.push(next).expect("there is memory");
                    model.push(next);
                    // Leave gaps for the numbers of other owners' entries.
                    next += 1 + u64::from(dice);
                } else if dice % 3 == 0 {
                    prop_assert_eq!(numbers.pop(), model.pop());
                } else {
                    let gone = index.index(next as usize + 1) as u64;
                    numbers.remove(gone);
                    model.retain(|number| *number != gone);
                    let gone = model.get(index.index(model.len().max(1))).copied();
                    gone.into_iter().for_each(|gone| numbers.remove(gone));
                    model.retain(|number| Some(*number) != gone);
                }
                prop_assert_eq!(numbers.len(), model.len());
            }
            prop_assert!(numbers.iter().eq(model));
        }
    }
}
