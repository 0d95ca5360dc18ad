//! Pin, unlink, retire, collect: nothing is freed that a reader can be in.

use super::*;
use crate::primitive::{AtomicPtr, Ordering};

/// A pointer that is replaced, and the old one retired.
struct Link(AtomicPtr<Watched>);

impl Link {
    fn new() -> Arc<Self> {
        let first = Box::into_raw(Box::new(Watched::new(0)));
        Arc::new(Link(AtomicPtr::new(first)))
    }

    fn read<'g>(&self, _guard: &'g Guard) -> &'g Watched {
        // SAFETY: what is linked is retired after it was unlinked, so that the guard keeps it.
        unsafe { &*self.0.load(Ordering::Acquire) }
    }

    fn replace(&self, number: u64) {
        let guard = pin();
        let new = Box::into_raw(Box::new(Watched::new(number)));
        let old = self.0.swap(new, Ordering::AcqRel);
        // SAFETY: it came from a box, and has just been unlinked, by us alone.
        unsafe { guard.retire(old, 1) }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // SAFETY: no other thread has the link.
        drop(unsafe { Box::from_raw(self.0.load(Ordering::Relaxed)) });
    }
}

#[test]
fn loom_an_object_is_not_freed_under_its_reader() {
    model(|| {
        let link = Link::new();
        let other = link.clone();
        let reader = spawn(move || {
            let guard = pin();
            let first = other.read(&guard);
            let number = first.read();
            assert!(other.read(&guard).read() >= number);
            assert_eq!(first.read(), number);
        });
        link.replace(1);
        reclaim::flush();
        reader.join().expect("it reads");
        reclaim::flush();
    });
}

#[test]
fn loom_a_reader_that_begins_again_is_not_waited_for_and_not_overlooked() {
    model(|| {
        let link = Link::new();
        let other = link.clone();
        let reader = spawn(move || {
            for _ in 0..2 {
                other.read(&pin()).read();
            }
        });
        link.replace(1);
        reclaim::flush();
        link.replace(2);
        reclaim::flush();
        reader.join().expect("it reads");
    });
}

#[test]
fn loom_a_guard_that_outlives_the_one_around_it_still_guards() {
    model(|| {
        let link = Link::new();
        let other = link.clone();
        let reader = spawn(move || {
            let outer = pin();
            let inner = pin();
            let watched = other.read(&inner);
            drop(outer);
            watched.read();
        });
        link.replace(1);
        reclaim::flush();
        reader.join().expect("it reads");
    });
}

#[test]
fn loom_two_that_retire_and_collect_free_each_object_once() {
    model(|| {
        let link = Link::new();
        let other = link.clone();
        let writer = spawn(move || {
            other.replace(1);
            reclaim::flush();
        });
        let seen = link.read(&pin()).read();
        assert!(seen <= 2);
        link.replace(2);
        writer.join().expect("it replaces");
        reclaim::flush();
        assert_eq!(reclaim::outstanding(), 0);
    });
}

#[test]
fn loom_a_name_that_changes_its_holder_keeps_the_old_one_for_its_readers() {
    model(|| {
        let names: Arc<Names<Watched>> = Arc::default();
        names.change(64, |_| (Some(Arc::new(Watched::new(1))), ()));
        let other = names.clone();
        let reader = spawn(move || {
            let guard = pin();
            let holder = other.get(64, &guard).expect("it is held");
            assert!((1..=2).contains(&holder.read()));
        });
        names.change(64, |_| (Some(Arc::new(Watched::new(2))), ()));
        reclaim::flush();
        reader.join().expect("it reads");
        reclaim::flush();
    });
}
