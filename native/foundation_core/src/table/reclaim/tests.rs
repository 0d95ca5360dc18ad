use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::*;

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn retire(freed: &Arc<AtomicUsize>) {
    let object = Box::into_raw(Box::new(Counted(freed.clone())));
    // SAFETY: nobody else has the object.
    unsafe { pin().retire(object, 1) }
}

/// Other tests hold guards on other threads, so this flushes until their guards end.
fn flush_until(freed: &AtomicUsize, count: usize) {
    while freed.load(Ordering::SeqCst) < count {
        flush();
        std::thread::yield_now();
    }
}

/// On two other threads, one after the other.
fn retire_and_flush_elsewhere(freed: &Arc<AtomicUsize>) {
    std::thread::scope(|scope| {
        scope.spawn(|| retire(freed)).join().expect("retires");
        scope.spawn(flush).join().expect("flushes");
    });
}

#[test]
fn an_object_is_freed_once_nobody_reads() {
    let freed = Arc::default();
    retire(&freed);
    flush_until(&freed, 1);
    flush();
    assert_eq!(freed.load(Ordering::SeqCst), 1);
}

#[test]
fn a_reader_that_started_before_keeps_an_object() {
    let freed = Arc::default();
    let guard = pin();
    retire_and_flush_elsewhere(&freed);
    assert_eq!(freed.load(Ordering::SeqCst), 0);
    drop(guard);
    flush_until(&freed, 1);
}

#[test]
fn what_a_long_read_has_kept_is_not_freed_by_one_alone() {
    let (collector, freed) = (Collector::new(), Arc::default());
    let reader = Box::into_raw(Box::new(Participant {
        reads: AtomicU64::new(1),
        retired: Mutex::default(),
        taken: Mutex::new(true),
    }));
    // SAFETY: it is freed below, when the collector that knows it is gone.
    let participant: &'static Participant = unsafe { &*reader };
    lock(&collector.participants).push(participant);
    let collect_one = || {
        let object = Box::into_raw(Box::new(Counted(Arc::clone(&freed))));
        // SAFETY: nobody else has the object.
        let free = |object: *mut ()| drop(unsafe { Box::from_raw(object.cast::<Counted>()) });
        let retired = Retired {
            garbage: vec![Garbage {
                object: object.cast(),
                free,
            }],
            bytes: 1,
        };
        let before = freed.load(Ordering::SeqCst);
        collector.collect(retired, FREED_AT_ONCE);
        freed.load(Ordering::SeqCst) - before
    };
    for _ in 0..20 {
        assert_eq!(collect_one(), 0);
    }
    participant.reads.store(READ, Ordering::Release);
    for _ in 0..20 {
        assert_eq!(collect_one(), FREED_AT_ONCE);
    }
    assert_eq!((collect_one(), collector.outstanding()), (1, 0));
    drop(collector);
    // SAFETY: no other thread has the pointer.
    drop(unsafe { Box::from_raw(reader) });
}

#[test]
fn an_inner_guard_does_not_end_the_read() {
    let freed = Arc::default();
    let outer = pin();
    drop(pin());
    retire_and_flush_elsewhere(&freed);
    assert_eq!(freed.load(Ordering::SeqCst), 0);
    drop(outer);
    flush_until(&freed, 1);
}

#[test]
fn guards_may_be_dropped_in_any_order() {
    let freed = Arc::default();
    let first = pin();
    let second = pin();
    drop(first);
    retire_and_flush_elsewhere(&freed);
    assert_eq!(freed.load(Ordering::SeqCst), 0);
    drop(second);
    flush_until(&freed, 1);
}

#[test]
fn no_thread_takes_over_a_participant_inside_a_read() {
    let participant = std::thread::spawn(|| {
        std::mem::forget(pin());
        super::participant()
    })
    .join()
    .expect("pins");
    assert!(*lock(&participant.taken));
    // Ends the forgotten guard, because other tests wait for it.
    participant.reads.store(READ, Ordering::Release);
    *lock(&participant.taken) = false;
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn participants_of_ended_threads_are_used_again() {
    for _ in 0..1_000 {
        std::thread::spawn(|| drop(pin())).join().expect("pins");
    }
    assert!(lock(&COLLECTOR.participants).len() < 500);
}
