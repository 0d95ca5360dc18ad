//! The points between two steps of an algorithm at which another thread may intervene.
//!
//! In tests a thread can plan an action for a point. That forces an interleaving that repetition
//! would hit only by chance. Outside tests a point does nothing.

/// A point that a thread reaches.
#[cfg_attr(loom, expect(dead_code, reason = "the models have no registries"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    /// A reader has found the segment that it is about to search.
    SegmentFound,
    /// A writer has found the segment that it is about to lock.
    SegmentChosen,
    /// A walk has found the segment that it is about to read.
    SegmentVisited,
    /// A registration has found the entry or the bag that it is about to append an entry to.
    EntryFound,
    /// A bag has been emptied, and is about to be removed.
    BagEmptied,
    /// The handle of an owner has been found, and is about to be locked.
    HandleFound,
    /// A dead owner's handle has been unlinked, and is about to be emptied.
    HandleUnlinked,
}

#[cfg(not(all(test, not(loom))))]
#[inline(always)]
pub(crate) fn reach(_point: Point) {}

#[cfg(all(test, not(loom)))]
pub(crate) use planned::{during, reach};

#[cfg(all(test, not(loom)))]
mod planned {
    use std::cell::RefCell;

    use super::Point;

    type Plan = (Point, Box<dyn FnOnce() + Send>);

    thread_local! {
        static PLAN: RefCell<Option<Plan>> = const { RefCell::new(None) };
    }

    pub(crate) fn reach(point: Point) {
        let planned = PLAN.with_borrow_mut(|plan| plan.take_if(|(planned, _)| *planned == point));
        if let Some((_, action)) = planned {
            std::thread::spawn(action)
                .join()
                .expect("what is planned at a point does not panic");
        }
    }

    /// Runs `main`. When `main` first reaches `point`, runs `action` on another thread.
    pub(crate) fn during<R>(
        point: Point,
        action: impl FnOnce() + Send + 'static,
        main: impl FnOnce() -> R,
    ) -> R {
        PLAN.with_borrow_mut(|plan| *plan = Some((point, Box::new(action))));
        let result = main();
        let missed = PLAN.with_borrow_mut(Option::take);
        assert!(missed.is_none(), "expected to reach {point:?}");
        result
    }
}
