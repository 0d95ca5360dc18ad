//! A byte string behind one thin pointer, for keys and values that do not fit in a slot.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::{self, NonNull};

/// The length, immediately followed by the bytes.
#[derive(Debug)]
pub struct Blob(NonNull<usize>);

// SAFETY: a blob owns its bytes and never changes them.
unsafe impl Send for Blob {}
// SAFETY: as above.
unsafe impl Sync for Blob {}

const HEADER: usize = size_of::<usize>();

fn layout(len: usize) -> Option<Layout> {
    Layout::from_size_align(HEADER.checked_add(len)?, align_of::<usize>()).ok()
}

impl Blob {
    /// Makes a copy of `bytes`, or returns `None` when there is no memory for it.
    pub fn new(bytes: &[u8]) -> Option<Blob> {
        let layout = layout(bytes.len())?;
        // SAFETY: the layout is not empty: it has the header.
        let blob = NonNull::new(unsafe { alloc(layout) }.cast::<usize>())?;
        // SAFETY: the allocation has room for a header and the bytes, and is aligned for the
        // header. No other code has it.
        unsafe {
            blob.write(bytes.len());
            ptr::copy_nonoverlapping(bytes.as_ptr(), blob.add(1).cast().as_ptr(), bytes.len());
        }
        Some(Blob(blob))
    }

    /// Makes the bytes of `first` followed by those of `second`, aligned to words. Returns `None`
    /// when there is no memory for them.
    pub fn words(first: &[u64], second: &[u64]) -> Option<Blob> {
        let len = size_of_val(first).checked_add(size_of_val(second))?;
        let layout = layout(len)?;
        // SAFETY: as in `new`.
        let blob = NonNull::new(unsafe { alloc(layout) }.cast::<usize>())?;
        // SAFETY: as in `new`; the words follow a word.
        unsafe {
            blob.write(len);
            let words = blob.add(1).cast::<u64>().as_ptr();
            ptr::copy_nonoverlapping(first.as_ptr(), words, first.len());
            ptr::copy_nonoverlapping(second.as_ptr(), words.add(first.len()), second.len());
        }
        Some(Blob(blob))
    }

    /// Gives up ownership, which [`Blob::from_raw`] takes back.
    pub(super) fn into_raw(self) -> *mut () {
        std::mem::ManuallyDrop::new(self).0.as_ptr().cast()
    }

    /// # Safety
    ///
    /// `raw` came from [`Blob::into_raw`], and is taken back only once.
    pub(super) unsafe fn from_raw(raw: *mut ()) -> Blob {
        // SAFETY: the caller promises it; `into_raw` returns no null pointer.
        Blob(unsafe { NonNull::new_unchecked(raw.cast()) })
    }

    /// # Safety
    ///
    /// As [`Blob::from_raw`].
    pub(super) unsafe fn free(raw: *mut ()) {
        // SAFETY: the caller promises it.
        drop(unsafe { Blob::from_raw(raw) });
    }

    /// # Safety
    ///
    /// `raw` came from [`Blob::into_raw`] and is not taken back during `'a`.
    pub(super) unsafe fn bytes_of<'a>(raw: *mut ()) -> &'a [u8] {
        let raw = raw.cast::<usize>();
        // SAFETY: the header and the bytes after it were written by `new`.
        unsafe { std::slice::from_raw_parts(raw.add(1).cast(), *raw) }
    }

    /// Returns the memory that it uses, including the header and the allocator's overhead.
    pub(crate) fn size_of(bytes: &[u8]) -> usize {
        const ALLOCATION: usize = 2 * size_of::<usize>();
        ALLOCATION + HEADER + bytes.len()
    }

    /// Returns the bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `self` keeps the allocation alive.
        unsafe { Blob::bytes_of(self.0.as_ptr().cast()) }
    }
}

impl Drop for Blob {
    fn drop(&mut self) {
        let size = HEADER + self.bytes().len();
        // SAFETY: the layout is the one of `new`, whose size was checked there.
        unsafe {
            let layout = Layout::from_size_align_unchecked(size, align_of::<usize>());
            dealloc(self.0.as_ptr().cast(), layout);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::Blob;

    #[test]
    fn words_are_bytes_one_behind_the_other_and_aligned() {
        let blob = Blob::words(&[1, 2], &[3]).expect("there is memory");
        let expected: Vec<u8> = [1u64, 2, 3]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect();
        assert_eq!(blob.bytes(), expected);
        assert!(blob.bytes().as_ptr().cast::<u64>().is_aligned());
        assert_eq!(Blob::words(&[], &[]).expect("there is memory").bytes(), b"");
    }
}
