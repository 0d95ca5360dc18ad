//! From a name, one word, to its holder: few entries, rarely changed, read all the time.

use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::sync::Arc;

use crate::primitive::{AtomicPtr, AtomicU64, Mutex, Ordering, lock};

use super::reclaim::{Guard, pin};

/// A small open-addressed table that is replaced as a whole when it changes, so that a reader
/// follows one pointer to a word that it compares and to what it looks for.
pub struct Names<T: Send + Sync + 'static> {
    /// See [`Snapshot::into_raw`].
    snapshot: AtomicPtr<()>,
    len: AtomicU64,
    writer: Mutex<()>,
    holders: PhantomData<Arc<T>>,
}

/// A name and its holder.
pub type Named<T> = (u64, Arc<T>);

/// A name and its holder, whose count of references is one for all snapshots that it is in: a
/// change copies words, and touches nothing that belongs to the others.
struct Slot<T> {
    name: u64,
    holder: Option<ManuallyDrop<Arc<T>>>,
}

/// Slots are allocated by the line, which leaves the low bits of their address to say how many
/// there are.
#[repr(C, align(64))]
struct Line<T>([Slot<T>; SLOTS]);

const SLOTS: usize = 4;
const _: () = assert!(size_of::<Line<()>>() == SLOTS * size_of::<Slot<()>>());

/// All slots, for as long as `'g`: a guard's life for readers.
struct Snapshot<'g, T> {
    slots: *mut Slot<T>,
    slots_log2: u32,
    life: PhantomData<&'g T>,
}

impl<'g, T> Snapshot<'g, T> {
    /// Room for `len` names, and as much again.
    fn new(len: usize) -> Self {
        let count = (2 * len + 1).next_power_of_two().max(SLOTS);
        let slot = || Slot {
            name: 0,
            holder: None,
        };
        let lines: Box<[Line<T>]> = std::iter::repeat_with(|| Line([(); SLOTS].map(|()| slot())))
            .take(count / SLOTS)
            .collect();
        Snapshot {
            slots: Box::into_raw(lines).cast(),
            slots_log2: count.trailing_zeros(),
            life: PhantomData,
        }
    }

    fn into_raw(self) -> *mut () {
        let slots_log2 = self.slots_log2 as usize;
        self.slots.map_addr(|address| address | slots_log2).cast()
    }

    /// # Safety
    ///
    /// `raw` came from [`Snapshot::into_raw`], and is not freed during `'g`.
    #[inline]
    unsafe fn from_raw(raw: *mut ()) -> Self {
        const COUNT: usize = align_of::<Line<()>>() - 1;
        Snapshot {
            slots: raw.cast::<Slot<T>>().map_addr(|address| address & !COUNT),
            slots_log2: (raw.addr() & COUNT) as u32,
            life: PhantomData,
        }
    }

    /// Frees the slots, not the holders.
    ///
    /// # Safety
    ///
    /// As [`Snapshot::from_raw`], and nobody uses it any more.
    unsafe fn free(raw: *mut ()) {
        // SAFETY: asked of the caller; `new` made a box of as many lines.
        unsafe {
            let snapshot = Self::from_raw(raw);
            let lines = snapshot.slots.cast::<Line<T>>();
            let count = (1 << snapshot.slots_log2) / SLOTS;
            drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(
                lines, count,
            )));
        }
    }

    fn size(&self) -> usize {
        size_of::<Slot<T>>() << self.slots_log2
    }

    #[inline]
    fn mask(&self) -> usize {
        (1 << self.slots_log2) - 1
    }

    #[inline]
    fn slot(&self, index: usize) -> &'g Slot<T> {
        // SAFETY: there are `mask() + 1` slots, which live for `'g` and are not changed once a
        // reader can find them.
        unsafe { &*self.slots.add(index & self.mask()) }
    }

    #[inline]
    fn get(&self, name: u64) -> Option<&'g Arc<T>> {
        let mut index = hash(name);
        loop {
            let slot = self.slot(index);
            // At least one slot in two is free, so that the search ends.
            let holder = slot.holder.as_ref()?;
            if slot.name == name {
                return Some(holder);
            }
            index += 1;
        }
    }

    /// Adds a name that is not there.
    fn insert(&mut self, name: u64, holder: ManuallyDrop<Arc<T>>) {
        let mut index = hash(name);
        while self.slot(index).holder.is_some() {
            index += 1;
        }
        let holder = Some(holder);
        // SAFETY: as in `slot`; nobody else has a snapshot that is being filled.
        unsafe { *self.slots.add(index & self.mask()) = Slot { name, holder } }
    }

    fn entries(&self) -> impl Iterator<Item = (u64, &'g Arc<T>)> {
        (0..=self.mask()).filter_map(|index| {
            let Slot { name, holder } = self.slot(index);
            Some((*name, &**holder.as_ref()?))
        })
    }
}

/// Names are handed out one after another by the runtime: the low bits say only what they are.
#[inline]
fn hash(name: u64) -> usize {
    (name >> 6) as usize
}

impl<T: Send + Sync + 'static> Default for Names<T> {
    fn default() -> Self {
        Names {
            snapshot: AtomicPtr::new(Snapshot::<T>::new(0).into_raw()),
            len: AtomicU64::new(0),
            writer: Mutex::new(()),
            holders: PhantomData,
        }
    }
}

/// Drops a holder that was given up as what `Arc::into_raw` gave.
///
/// # Safety
///
/// It is called once for it.
unsafe fn drop_holder<T>(holder: *mut ()) {
    // SAFETY: asked of the caller.
    drop(unsafe { Arc::from_raw(holder.cast_const().cast::<T>()) });
}

impl<T: Send + Sync + 'static> Names<T> {
    #[inline]
    fn snapshot<'g>(&self, _guard: &'g Guard) -> Snapshot<'g, T> {
        // SAFETY: it is retired only after it was replaced, so that the guard keeps it.
        unsafe { Snapshot::from_raw(self.snapshot.load(Ordering::Acquire)) }
    }

    /// What bears `name`.
    #[inline]
    pub fn get<'g>(&self, name: u64, guard: &'g Guard) -> Option<&'g Arc<T>> {
        // A holder is retired only after the snapshot was replaced by one without it.
        self.snapshot(guard).get(name)
    }

    /// How many names are borne.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed) as usize
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All names and what bears them.
    pub fn all(&self) -> Vec<Named<T>> {
        let guard = pin();
        let snapshot = self.snapshot(&guard);
        snapshot
            .entries()
            .map(|(name, holder)| (name, holder.clone()))
            .collect()
    }

    /// Changes who bears `name`: `change` is told who does, and says who shall. No other change
    /// happens meanwhile.
    pub fn change<R>(
        &self,
        name: u64,
        change: impl FnOnce(Option<&Arc<T>>) -> (Option<Arc<T>>, R),
    ) -> R {
        let _writer = lock(&self.writer);
        let guard = pin();
        let old = self.snapshot(&guard);
        let holder = old.get(name);
        let (next, result) = change(holder);
        let same = match (holder, &next) {
            (Some(holder), Some(next)) => Arc::ptr_eq(holder, next),
            (holder, next) => holder.is_none() && next.is_none(),
        };
        if !same {
            let len = self.len() + usize::from(next.is_some()) - usize::from(holder.is_some());
            let mut new = Snapshot::new(len);
            for (other, holder) in old.entries().filter(|(other, _)| *other != name) {
                // SAFETY: the copy is dropped no more than what it was copied from: both stand
                // for the one reference that `change` was once given.
                new.insert(other, ManuallyDrop::new(unsafe { std::ptr::read(holder) }));
            }
            if let Some(next) = next {
                new.insert(name, ManuallyDrop::new(next));
            }
            self.len.store(len as u64, Ordering::Relaxed);
            let raw = self.snapshot.swap(new.into_raw(), Ordering::AcqRel);
            // SAFETY: only the holder of the lock replaces the snapshot, once; and of one snapshot
            // to the next it takes out one holder, which no later one has again.
            unsafe {
                guard.retire_with(raw, Snapshot::<T>::free, old.size());
                if let Some(gone) = holder {
                    let gone = Arc::into_raw(std::ptr::read(gone)).cast_mut().cast();
                    guard.retire_with(gone, drop_holder::<T>, size_of::<T>());
                }
            }
        }
        result
    }
}

impl<T: Send + Sync + 'static> Drop for Names<T> {
    fn drop(&mut self) {
        let guard = pin();
        let snapshot = self.snapshot(&guard);
        let raw = self.snapshot.load(Ordering::Relaxed);
        // SAFETY: nobody else has the names any more, and each holder is in the snapshot once.
        unsafe {
            for (_, holder) in snapshot.entries() {
                let holder = Arc::into_raw(std::ptr::read(holder)).cast_mut().cast();
                guard.retire_with(holder, drop_holder::<T>, size_of::<T>());
            }
            guard.retire_with(raw, Snapshot::<T>::free, snapshot.size());
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn names_come_change_and_go() {
        let names = Names::default();
        for name in 0..1_000u64 {
            names.change(name * 64, |holder| {
                assert!(holder.is_none());
                (Some(Arc::new(name)), ())
            });
        }
        let guard = pin();
        assert_eq!(names.get(64 * 7, &guard).map(|name| **name), Some(7));
        assert_eq!(names.get(64 * 1_000, &guard), None);
        assert_eq!((names.all().len(), names.len()), (1_000, 1_000));
        let seven = names.change(64 * 7, |holder| (None, holder.cloned()));
        assert_eq!(seven.as_deref(), Some(&7));
        assert_eq!(names.get(64 * 7, &guard), None);
        assert_eq!(names.all().len(), 999);
        let eight = names.change(64 * 8, |holder| (Some(Arc::new(80)), holder.cloned()));
        assert_eq!(eight.as_deref(), Some(&8));
        assert_eq!(names.get(64 * 8, &guard).map(|name| **name), Some(80));
        assert_eq!(names.all().len(), 999);
    }

    #[test]
    fn a_change_touches_its_own_holder_alone_and_frees_it() {
        let names = Names::default();
        let (one, two) = (Arc::new(1), Arc::new(2));
        names.change(64, |_| (Some(one.clone()), ()));
        names.change(128, |_| (Some(two.clone()), ()));
        assert_eq!((Arc::strong_count(&one), Arc::strong_count(&two)), (2, 2));
        names.change(64, |_| (None, ()));
        while Arc::strong_count(&one) > 1 {
            crate::table::reclaim::flush();
            std::thread::yield_now();
        }
        drop(names);
        while Arc::strong_count(&two) > 1 {
            crate::table::reclaim::flush();
            std::thread::yield_now();
        }
    }
}
