//! A sync that fails. The simulated disk forgets then what it had to sync, as Linux does.

use std::io;
use std::time::Duration;

use super::sim::{Fault, Random, Sim};
use super::{SMALL, append, open, read_all};
use crate::{Expected, Log, Options, Sync};

/// A disk with one event whose first sync fails.
fn unsynced() -> (Sim, Log) {
    let sim = Sim::default();
    let options = Options {
        sync: Sync::Interval(Duration::from_millis(1)),
        ..SMALL
    };
    let (log, _) = Log::open(Box::new(sim.clone()), options, || {}).unwrap();
    // The write is the first change, and the sync the second.
    sim.fail_at(1, Fault::Once(&io::ErrorKind::Other));
    append(&log, "a", Expected::Any, &[b"1".to_vec()]).unwrap();
    (sim, log)
}

fn assert_durable(sim: &Sim, events: usize) {
    for seed in 1..6 {
        let (log, _) = open(&sim.power_cut(&mut Random(seed * 7_919))).unwrap();
        assert_eq!(log.verify(), vec![]);
        assert_eq!(read_all(&log).unwrap().len(), events);
        log.close();
    }
}

#[test]
fn the_next_sync_makes_up_for_it() {
    let (sim, log) = unsynced();
    let before = sim.syncs();
    while sim.syncs() == before {
        std::thread::yield_now();
    }
    assert_durable(&sim, 1);
    log.close();
    assert_durable(&sim, 1);
}

#[test]
fn a_close_makes_up_for_it() {
    let (sim, log) = unsynced();
    log.close();
    // If the close met the failure, the log is not closed in order, and nothing is promised.
    if open(&sim).unwrap().1.is_none() {
        assert_durable(&sim, 1);
    }
}

#[test]
fn a_durable_append_makes_up_for_it() {
    let (sim, log) = unsynced();
    log.set_options(SMALL);
    // It may meet the failure itself.
    while append(&log, "a", Expected::At(1), &[b"2".to_vec()]).is_err() {}
    assert_durable(&sim, 2);
    log.close();
}
