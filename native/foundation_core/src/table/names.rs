//! A map from names to their holders. A name is one word. The map has few entries, changes rarely
//! and is read all the time.

use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::sync::Arc;

use crate::primitive::{AtomicPtr, AtomicU64, Mutex, Ordering, lock};

use super::reclaim::{Guard, pin};

/// A small open-addressed table. A change replaces it as a whole, so a reader follows one pointer
/// to the slot with the name and its holder.
pub struct Names<T: Send + Sync + 'static> {
    /// See [`Snapshot::into_raw`].
    snapshot: AtomicPtr<()>,
    len: AtomicU64,
    writer: Mutex<()>,
    holders: PhantomData<Arc<T>>,
}

/// A name and its holder.
pub type Named<T> = (u64, Arc<T>);

/// A name and its holder. All snapshots with this slot share one reference count of the holder, so
/// a change copies words and touches no other holder.
struct Slot<T> {
    name: u64,
    holder: Option<ManuallyDrop<Arc<T>>>,
}

/// Slots are allocated by the cache line. That leaves the low bits of their address for the number
/// of slots.
#[repr(C, align(64))]
struct Line<T>([Slot<T>; SLOTS]);

const SLOTS: usize = 4;
const _: () = assert!(size_of::<Line<()>>() == SLOTS * size_of::<Slot<()>>());

/// One generation of the slots. It lives for `'g`: for readers, the lifetime of their guard.
struct Snapshot<'g, T> {
    slots: *mut Slot<T>,
    slots_log2: u32,
    life: PhantomData<&'g T>,
}

impl<'g, T> Snapshot<'g, T> {
    /// Makes slots for `len` names; at least half of them stay free.
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
    /// As [`Snapshot::from_raw`], and no thread uses the snapshot again.
    unsafe fn free(raw: *mut ()) {
        // SAFETY: the caller promises it; `new` made a box of this many lines.
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
        // SAFETY: there are `mask() + 1` slots. They live for `'g`, and do not change once a reader
        // can find them.
        unsafe { &*self.slots.add(index & self.mask()) }
    }

    #[inline]
    fn get(&self, name: u64) -> Option<&'g Arc<T>> {
        let mut index = hash(name);
        loop {
            let slot = self.slot(index);
            // At least half of the slots are free, so the probe ends.
            let holder = slot.holder.as_ref()?;
            if slot.name == name {
                return Some(holder);
            }
            index += 1;
        }
    }

    /// Adds a name that is not present.
    fn insert(&mut self, name: u64, holder: ManuallyDrop<Arc<T>>) {
        let mut index = hash(name);
        while self.slot(index).holder.is_some() {
            index += 1;
        }
        let holder = Some(holder);
        // SAFETY: as in `slot`; no other thread has a snapshot that is being filled.
        unsafe { *self.slots.add(index & self.mask()) = Slot { name, holder } }
    }

    fn entries(&self) -> impl Iterator<Item = (u64, &'g Arc<T>)> {
        (0..=self.mask()).filter_map(|index| {
            let Slot { name, holder } = self.slot(index);
            Some((*name, &**holder.as_ref()?))
        })
    }
}

/// Hashes a name. The VM hands out names in order, and their low bits hold only a type tag.
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

/// Drops a holder that `Arc::into_raw` returned.
///
/// # Safety
///
/// It is called only once for that reference.
unsafe fn drop_holder<T>(holder: *mut ()) {
    // SAFETY: the caller promises it.
    drop(unsafe { Arc::from_raw(holder.cast_const().cast::<T>()) });
}

impl<T: Send + Sync + 'static> Names<T> {
    #[inline]
    fn snapshot<'g>(&self, _guard: &'g Guard) -> Snapshot<'g, T> {
        // SAFETY: a snapshot is retired only after it was replaced, so the guard keeps it alive.
        unsafe { Snapshot::from_raw(self.snapshot.load(Ordering::Acquire)) }
    }

    /// Returns the holder of `name`.
    #[inline]
    pub fn get<'g>(&self, name: u64, guard: &'g Guard) -> Option<&'g Arc<T>> {
        // A holder is retired only after a snapshot without it has replaced this one.
        self.snapshot(guard).get(name)
    }

    /// Returns the number of names.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed) as usize
    }

    /// Returns whether there are no names.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns all names and their holders.
    pub fn all(&self) -> Vec<Named<T>> {
        let guard = pin();
        let snapshot = self.snapshot(&guard);
        snapshot
            .entries()
            .map(|(name, holder)| (name, holder.clone()))
            .collect()
    }

    /// Changes the holder of `name`: `change` gets the present holder and returns the next one. No
    /// other change happens meanwhile.
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
                // SAFETY: neither the copy nor the original is dropped: together they stand for the
                // one reference that `change` was given.
                new.insert(other, ManuallyDrop::new(unsafe { std::ptr::read(holder) }));
            }
            if let Some(next) = next {
                new.insert(name, ManuallyDrop::new(next));
            }
            self.len.store(len as u64, Ordering::Relaxed);
            let raw = self.snapshot.swap(new.into_raw(), Ordering::AcqRel);
            // SAFETY: only the holder of the lock replaces the snapshot, so it is retired once. The
            // next snapshot lacks one holder, which no later snapshot has again, so that is retired
            // once too.
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
        // SAFETY: no other thread has the names, and each holder is in the snapshot once.
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
