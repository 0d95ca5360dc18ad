//! Marks where an object of the table is freed, and where a reader reads it. The models fail when
//! the end of an object is not ordered after each read. Outside the models it does nothing.

/// A field of an object that is freed while other threads may have read it.
#[derive(Default)]
pub(super) struct Life {
    #[cfg(loom)]
    state: crate::primitive::UnsafeCell<()>,
}

// SAFETY: the cell is empty. The models exist to find accesses to it that are out of order.
#[cfg(loom)]
unsafe impl Sync for Life {}

impl Life {
    /// Records a read of the object.
    #[inline(always)]
    pub(super) fn read(&self) {
        #[cfg(loom)]
        self.state.with(|_| ());
    }

    /// Records that the object is about to be freed.
    #[inline(always)]
    pub(super) fn end(&self) {
        #[cfg(loom)]
        self.state.with_mut(|_| ());
    }
}
