//! Crashes at every change to the disk, and errors at every change.

use std::io;

use super::model::{Expectation, Model, Step, step};
use super::sim::{Fault, Random, Sim};
use super::{Contents, STREAMS, contents, open};
use crate::{Error, StartAt};

/// Enough to fill several segments, and to have some written anew.
fn script() -> Vec<Step> {
    let mut steps = Vec::new();
    for round in 0..6u8 {
        for stream in 0..3 {
            let sizes = vec![round + 3, 40, round];
            steps.push(Step::Append(stream, Expectation::Any, sizes));
        }
        steps.push(Step::Append(3, Expectation::Right, vec![60]));
        steps.push(Step::Snapshot(usize::from(round) % 3, u64::from(round)));
        if round % 2 == 1 {
            steps.push(Step::Trim(0, u64::from(round) * 3));
        }
        if round == 3 {
            steps.push(Step::Delete(1));
        }
    }
    steps
}

/// Runs the script until the disk is dead, and returns the contents that the log may have then: the
/// acknowledged ones, without and with the step that failed.
fn run_until_dead(sim: &Sim, steps: &[Step]) -> Vec<Contents> {
    let mut model = Model::default();
    for stream in STREAMS {
        model.contents.versions.insert(stream.into(), 0);
    }
    let Ok((log, _)) = open(sim) else {
        return vec![model.contents];
    };
    for next in steps {
        let before = model.clone();
        if step(&log, &mut model, next).is_err() {
            // It may have got to the disk, and nobody was told.
            let undone = before.contents;
            let mut done = model;
            force(&mut done, next);
            log.close();
            return vec![undone, done.contents];
        }
    }
    log.close();
    vec![model.contents]
}

fn force(model: &mut Model, next: &Step) {
    match next {
        Step::Append(stream, _, sizes) => {
            model.append(STREAMS[*stream], &super::model::events(sizes))
        }
        Step::Snapshot(stream, version) => {
            model.snapshot(STREAMS[*stream], *version, super::model::state(*version));
        }
        Step::Trim(stream, before) => model.trim(STREAMS[*stream], *before),
        Step::Delete(stream) => model.delete(STREAMS[*stream]),
        Step::Reopen => {}
    }
}

fn reopens_as_one_of(sim: &Sim, allowed: &[Contents], place: &str) {
    let (log, _) = open(sim).unwrap_or_else(|error| panic!("{place}: {error}"));
    let found = contents(&log).unwrap_or_else(|error| panic!("{place}: {error}"));
    assert!(allowed.contains(&found), "{place}: it says something else");
    assert_eq!(log.verify(), vec![], "{place}");
    // And it goes on.
    let mut model = Model::default();
    model.contents = found;
    for next in script() {
        step(&log, &mut model, &next).unwrap_or_else(|error| panic!("{place}: {error}"));
    }
    log.close();
}

fn changes_of_the_script() -> usize {
    let sim = Sim::default();
    run_until_dead(&sim, &script());
    sim.changes()
}

#[test]
fn a_crash_at_any_change_loses_nothing_that_was_acknowledged() {
    let steps = script();
    for at in 0..changes_of_the_script() {
        let sim = Sim::default();
        sim.fail_at(at, Fault::Dead);
        let allowed = run_until_dead(&sim, &steps);
        // The death of the process: what was written is there.
        let place = format!("killed at change {at}");
        reopens_as_one_of(&Sim::of(sim.files()), &allowed, &place);
        for seed in 1..6 {
            let mut random = Random(seed * 7_919);
            let after = sim.power_cut(&mut random);
            let place = format!("power cut at change {at}, seed {seed}");
            reopens_as_one_of(&after, &allowed, &place);
        }
    }
}

#[test]
fn an_error_of_any_change_fails_its_request_and_no_other() {
    let steps = script();
    for at in 0..changes_of_the_script() {
        let sim = Sim::default();
        let (log, _) = open(&sim).unwrap();
        sim.fail_at(at, Fault::Once(&io::ErrorKind::StorageFull));
        let mut model = Model::default();
        for stream in STREAMS {
            model.contents.versions.insert(stream.into(), 0);
        }
        let mut failed = 0;
        for next in &steps {
            match step(&log, &mut model, next) {
                Ok(()) => {}
                Err(error) => {
                    assert_eq!(error, Error::Io("enospc"), "change {at}");
                    failed += 1;
                }
            }
            assert_eq!(contents(&log).unwrap(), model.contents, "change {at}");
        }
        assert!(failed <= 1, "change {at}");
        log.close();
        for after in [Sim::of(sim.files()), sim.power_cut(&mut Random(7))] {
            let (log, _) = open(&after).unwrap();
            assert_eq!(contents(&log).unwrap(), model.contents, "change {at}");
        }
    }
}

#[test]
fn a_subscription_resumes_at_most_where_it_has_acknowledged() {
    for at in 0..40 {
        let sim = Sim::default();
        let (log, _) = open(&sim).unwrap();
        let mut model = Model::default();
        for next in script() {
            step(&log, &mut model, &next).unwrap();
        }
        assert_eq!(log.subscribe(b"s", None, StartAt::After(0)), Ok(0));
        sim.fail_at(at, Fault::Dead);
        log.acknowledge(b"s", 5);
        assert_eq!(log.acknowledged(b"s"), Some(5));
        log.close();
        let (log, _) = open(&sim.power_cut(&mut Random(at as u64 + 1))).unwrap();
        let resumed = log.subscribe(b"s", None, StartAt::After(0)).unwrap();
        assert!(resumed == 0 || resumed == 5, "{resumed}");
    }
}
