//! Where something in a table ends, and where it is read before: nothing but in the models, which
//! fail when an end does not come after each of the reads.

/// Stands in what is freed while other threads may have read it.
#[derive(Default)]
pub(super) struct Life {
    #[cfg(loom)]
    state: crate::primitive::UnsafeCell<()>,
}

// SAFETY: there is nothing in it, and that it is used out of order is what the models look for.
#[cfg(loom)]
unsafe impl Sync for Life {}

impl Life {
    /// What it stands for is read.
    #[inline(always)]
    pub(super) fn read(&self) {
        #[cfg(loom)]
        self.state.with(|_| ());
    }

    /// What it stands for is about to be freed.
    #[inline(always)]
    pub(super) fn end(&self) {
        #[cfg(loom)]
        self.state.with_mut(|_| ());
    }
}
