//! From a name, one word, to what bears it: few entries, hardly ever changed, read all the time.

use std::sync::Arc;

use crate::primitive::{AtomicPtr, Mutex, Ordering, lock};

use super::reclaim::{Guard, pin};

/// A small open-addressed table that is replaced as a whole when it changes, so that a reader
/// follows two pointers and compares a word.
pub struct Names<T: Send + Sync + 'static> {
    snapshot: AtomicPtr<Snapshot<T>>,
    writer: Mutex<()>,
}

/// A name and what bears it.
pub type Named<T> = (u64, Arc<T>);

struct Snapshot<T> {
    len: usize,
    /// A name, and where its bearer is: of one name to the next snapshot the same place in memory,
    /// so that a change copies words, and touches nothing that belongs to the others. Null where
    /// there is none.
    places: Box<[(u64, *const Arc<T>)]>,
}

// SAFETY: a snapshot is never changed, and leads to `Arc`s that may be used on any thread.
unsafe impl<T: Send + Sync> Send for Snapshot<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Snapshot<T> {}

impl<T> Snapshot<T> {
    fn new(entries: impl Iterator<Item = (u64, *const Arc<T>)>, len: usize) -> Self {
        let mut places = vec![(0, std::ptr::null::<Arc<T>>()); (2 * len + 1).next_power_of_two()];
        let mask = places.len() - 1;
        for entry in entries {
            let mut index = hash(entry.0) & mask;
            while !places[index].1.is_null() {
                index = (index + 1) & mask;
            }
            places[index] = entry;
        }
        Snapshot {
            len,
            places: places.into(),
        }
    }

    #[inline]
    fn get(&self, name: u64) -> Option<*const Arc<T>> {
        let mask = self.places.len() - 1;
        let mut index = hash(name) & mask;
        loop {
            // At least one place in two is free, so that the search ends.
            let (found, bearer) = *self.places.get(index)?;
            if bearer.is_null() {
                return None;
            }
            if found == name {
                return Some(bearer);
            }
            index = (index + 1) & mask;
        }
    }

    fn entries(&self) -> impl Iterator<Item = (u64, *const Arc<T>)> {
        let places = self.places.iter().copied();
        places.filter(|(_, bearer)| !bearer.is_null())
    }

    fn size(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.places)
    }
}

/// Names are handed out one after another by the runtime: the low bits say only what they are.
fn hash(name: u64) -> usize {
    (name >> 6) as usize
}

impl<T: Send + Sync + 'static> Default for Names<T> {
    fn default() -> Self {
        Names {
            snapshot: AtomicPtr::new(Box::into_raw(Box::new(Snapshot::new(
                std::iter::empty(),
                0,
            )))),
            writer: Mutex::new(()),
        }
    }
}

impl<T: Send + Sync + 'static> Names<T> {
    #[inline]
    fn snapshot<'g>(&self, _guard: &'g Guard) -> &'g Snapshot<T> {
        // SAFETY: the pointer came from `Box::into_raw`, and what it points to is retired only
        // after it was replaced, so that the guard keeps it.
        unsafe { &*self.snapshot.load(Ordering::Acquire) }
    }

    /// What bears `name`.
    #[inline]
    pub fn get<'g>(&self, name: u64, guard: &'g Guard) -> Option<&'g Arc<T>> {
        let bearer = self.snapshot(guard).get(name)?;
        // SAFETY: it was in a snapshot under this guard, and is retired only after that was
        // replaced by one without it.
        Some(unsafe { &*bearer })
    }

    /// How many names are borne.
    pub fn len(&self) -> usize {
        self.snapshot(&pin()).len
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All names and what bears them.
    pub fn all(&self) -> Vec<Named<T>> {
        let guard = pin();
        let entries = self.snapshot(&guard).entries();
        entries
            // SAFETY: as in `get`.
            .map(|(name, bearer)| (name, unsafe { &*bearer }.clone()))
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
        let bearer = self.get(name, &guard);
        let (next, result) = change(bearer);
        let same = match (bearer, &next) {
            (Some(bearer), Some(next)) => Arc::ptr_eq(bearer, next),
            (bearer, next) => bearer.is_none() && next.is_none(),
        };
        if !same {
            let len = old.len + usize::from(next.is_some()) - usize::from(bearer.is_some());
            let others = old.entries().filter(|(other, _)| *other != name);
            let next = next.map(|next| (name, Box::into_raw(Box::new(next)).cast_const()));
            let gone = old.get(name);
            let new = Box::into_raw(Box::new(Snapshot::new(others.chain(next), len)));
            let size = old.size();
            let old = self.snapshot.swap(new, Ordering::AcqRel);
            // SAFETY: only the holder of the lock replaces the snapshot, once; and of one snapshot
            // to the next it takes out one bearer, which no later one has again.
            unsafe {
                guard.retire(old, size);
                if let Some(gone) = gone {
                    guard.retire(gone.cast_mut(), size_of::<Arc<T>>());
                }
            }
        }
        result
    }
}

impl<T: Send + Sync + 'static> Drop for Names<T> {
    fn drop(&mut self) {
        let guard = pin();
        let snapshot = self.snapshot.load(Ordering::Relaxed);
        // SAFETY: nobody else has the names any more.
        unsafe {
            for (_, bearer) in (*snapshot).entries() {
                guard.retire(bearer.cast_mut(), size_of::<Arc<T>>());
            }
            guard.retire(snapshot, (*snapshot).size());
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
            names.change(name * 64, |bearer| {
                assert!(bearer.is_none());
                (Some(Arc::new(name)), ())
            });
        }
        let guard = pin();
        assert_eq!(names.get(64 * 7, &guard).map(|name| **name), Some(7));
        assert_eq!(names.get(64 * 1_000, &guard), None);
        assert_eq!((names.all().len(), names.len()), (1_000, 1_000));
        let seven = names.change(64 * 7, |bearer| (None, bearer.cloned()));
        assert_eq!(seven.as_deref(), Some(&7));
        assert_eq!(names.get(64 * 7, &guard), None);
        assert_eq!(names.all().len(), 999);
        let eight = names.change(64 * 8, |bearer| (Some(Arc::new(80)), bearer.cloned()));
        assert_eq!(eight.as_deref(), Some(&8));
        assert_eq!(names.get(64 * 8, &guard).map(|name| **name), Some(80));
        assert_eq!(names.all().len(), 999);
    }

    #[test]
    fn a_change_touches_its_own_bearer_alone_and_frees_it() {
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
