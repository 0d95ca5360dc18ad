//! The log against a model of it: a list and some maps.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::sim::{Random, Sim};
use super::{Contents, STREAMS, Seen, append, contents, open};
use crate::{Error, Expected, Log};

/// A step of a test; streams are numbers in [`STREAMS`].
#[derive(Clone, Debug)]
pub enum Step {
    Append(usize, Expectation, Vec<u8>),
    Snapshot(usize, u64),
    Trim(usize, u64),
    Delete(usize),
    Reopen,
}

#[derive(Clone, Copy, Debug)]
pub enum Expectation {
    Any,
    None,
    Exists,
    Right,
    Wrong,
}

/// The contents that a log should have.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub contents: Contents,
    deleted: BTreeSet<String>,
}

impl Model {
    fn version(&self, stream: &str) -> u64 {
        self.contents.versions.get(stream).copied().unwrap_or(0)
    }

    pub fn expected(&self, stream: &str, expectation: Expectation) -> (Expected, bool) {
        let version = self.version(stream);
        match expectation {
            Expectation::Any => (Expected::Any, true),
            Expectation::None => (Expected::None, version == 0),
            Expectation::Exists => (Expected::Exists, version > 0),
            Expectation::Right => (Expected::At(version), true),
            Expectation::Wrong => (Expected::At(version + 1), false),
        }
    }

    fn list(&mut self) {
        let versions = self.contents.versions.iter();
        let live =
            versions.filter(|(name, version)| **version > 0 && !self.deleted.contains(*name));
        self.contents.streams = live.map(|(name, _)| name.clone()).collect();
    }

    pub fn append(&mut self, stream: &str, events: &[Vec<u8>]) {
        for data in events {
            self.contents.position += 1;
            let version = self.contents.versions.entry(stream.into()).or_default();
            *version += 1;
            self.contents.events.push(Seen {
                stream: stream.into(),
                version: *version,
                position: self.contents.position,
                data: data.clone(),
            });
            self.deleted.remove(stream);
        }
        self.list();
    }

    pub fn snapshot(&mut self, stream: &str, version: u64, state: Vec<u8>) {
        let kept = self.contents.snapshots.get(stream);
        if kept.is_none_or(|(kept, _)| *kept <= version) {
            self.contents
                .snapshots
                .insert(stream.into(), (version, state));
        }
    }

    pub fn trim(&mut self, stream: &str, before: u64) {
        let events = &mut self.contents.events;
        events.retain(|event| event.stream != stream.as_bytes() || event.version >= before);
    }

    pub fn delete(&mut self, stream: &str) {
        self.trim(stream, u64::MAX);
        self.contents.snapshots.remove(stream);
        self.deleted.insert(stream.into());
        self.list();
    }
}

/// The events of an append: as many as the bytes, each as long as its byte says.
pub fn events(sizes: &[u8]) -> Vec<Vec<u8>> {
    sizes
        .iter()
        .map(|size| vec![*size; *size as usize * 2])
        .collect()
}

pub fn state(version: u64) -> Vec<u8> {
    vec![version as u8; 20]
}

/// Does a step to a log, and to the model of what it says if the log says that it was done.
pub fn step(log: &Log, model: &mut Model, step: &Step) -> Result<(), Error> {
    match step {
        Step::Append(stream, expectation, sizes) => {
            let stream = STREAMS[*stream];
            let (expected, holds) = model.expected(stream, *expectation);
            let events = events(sizes);
            let answer = append(log, stream, expected, &events);
            let actual = model.version(stream);
            if !holds && answer == Err(Error::WrongVersion(actual)) {
                return Ok(());
            }
            let version = answer?;
            assert!(holds, "an append that expects the wrong version fails");
            model.append(stream, &events);
            assert_eq!(version, model.version(stream));
        }
        Step::Snapshot(stream, version) => {
            log.put_snapshot(STREAMS[*stream].as_bytes(), *version, &state(*version))?;
            model.snapshot(STREAMS[*stream], *version, state(*version));
        }
        Step::Trim(stream, before) => {
            log.trim(STREAMS[*stream].as_bytes(), *before)?;
            model.trim(STREAMS[*stream], *before);
        }
        Step::Delete(stream) => {
            log.delete(STREAMS[*stream].as_bytes(), Expected::Any)?;
            model.delete(STREAMS[*stream]);
        }
        Step::Reopen => {}
    }
    Ok(())
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let stream = 0..STREAMS.len();
    let expectation = prop_oneof![
        4 => Just(Expectation::Any),
        1 => Just(Expectation::None),
        1 => Just(Expectation::Exists),
        1 => Just(Expectation::Right),
        1 => Just(Expectation::Wrong),
    ];
    let sizes = prop::collection::vec(any::<u8>(), 0..4);
    let step = prop_oneof![
        8 => (stream.clone(), expectation, sizes).prop_map(|(s, e, n)| Step::Append(s, e, n)),
        1 => (stream.clone(), 0..20u64).prop_map(|(s, v)| Step::Snapshot(s, v)),
        2 => (stream.clone(), 0..20u64).prop_map(|(s, v)| Step::Trim(s, v)),
        1 => stream.prop_map(Step::Delete),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_log_says_what_its_model_says(steps in steps(), seed in 1..u64::MAX) {
        let mut sim = Sim::default();
        let mut random = Random(seed);
        let (mut log, _) = open(&sim).unwrap();
        let mut model = Model::default();
        for next in &steps {
            if let Step::Reopen = next {
                log.close();
                drop(log);
                sim = if random.below(2) == 0 { sim } else { Sim::of(sim.files()) };
                let (opened, recovery) = open(&sim).unwrap();
                prop_assert_eq!(recovery, None);
                log = opened;
            }
            step(&log, &mut model, next).unwrap();
            for stream in STREAMS {
                model.contents.versions.entry(stream.into()).or_default();
            }
            prop_assert_eq!(contents(&log).unwrap(), model.contents.clone());
        }
        prop_assert_eq!(log.verify(), vec![]);
        log.close();
    }
}
