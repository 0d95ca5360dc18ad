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
    places: Box<[Option<Named<T>>]>,
}

impl<T> Snapshot<T> {
    fn new(entries: impl Iterator<Item = Named<T>>, len: usize) -> Self {
        let mut places: Vec<Option<Named<T>>> = Vec::new();
        places.resize_with((2 * len + 1).next_power_of_two(), || None);
        let mask = places.len() - 1;
        for entry in entries {
            let mut index = hash(entry.0) & mask;
            while places[index].is_some() {
                index = (index + 1) & mask;
            }
            places[index] = Some(entry);
        }
        Snapshot {
            len,
            places: places.into(),
        }
    }

    #[inline]
    fn get(&self, name: u64) -> Option<&Arc<T>> {
        let mask = self.places.len() - 1;
        let mut index = hash(name) & mask;
        loop {
            // At least one place in two is free, so that the search ends.
            match self.places.get(index)? {
                Some((found, value)) if *found == name => return Some(value),
                Some(_) => index = (index + 1) & mask,
                None => return None,
            }
        }
    }

    fn entries(&self) -> impl Iterator<Item = Named<T>> {
        self.places.iter().flatten().cloned()
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
        self.snapshot(guard).get(name)
    }

    /// All names and what bears them.
    pub fn all(&self) -> Vec<Named<T>> {
        self.snapshot(&pin()).entries().collect()
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
        let bearer = old.get(name);
        let (next, result) = change(bearer);
        let same = match (bearer, &next) {
            (Some(bearer), Some(next)) => Arc::ptr_eq(bearer, next),
            (bearer, next) => bearer.is_none() && next.is_none(),
        };
        if !same {
            let len = old.len + usize::from(next.is_some()) - usize::from(bearer.is_some());
            let others = old.entries().filter(|(other, _)| *other != name);
            let entries = others.chain(next.map(|next| (name, next)));
            let new = Box::into_raw(Box::new(Snapshot::new(entries, len)));
            let old = self.snapshot.swap(new, Ordering::AcqRel);
            // SAFETY: only the holder of the lock replaces the snapshot, once.
            unsafe { guard.retire(old, size_of::<Snapshot<T>>()) }
        }
        result
    }
}

impl<T: Send + Sync + 'static> Drop for Names<T> {
    fn drop(&mut self) {
        let snapshot = self.snapshot.load(Ordering::Relaxed);
        // SAFETY: nobody else has the names any more.
        unsafe { pin().retire(snapshot, size_of::<Snapshot<T>>()) }
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
        assert_eq!(names.all().len(), 1_000);
        let seven = names.change(64 * 7, |bearer| (None, bearer.cloned()));
        assert_eq!(seven.as_deref(), Some(&7));
        assert_eq!(names.get(64 * 7, &guard), None);
        assert_eq!(names.all().len(), 999);
    }
}
