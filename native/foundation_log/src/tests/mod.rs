//! Tests of the log.

mod crash;
mod damage;
mod failed_sync;
mod model;
mod sim;
mod single;

use std::collections::BTreeMap;

use crate::read::{Direction, Range, Source};
use crate::{Append, Error, Expected, Log, Options, Recovery, Sync};
use sim::Sim;

/// An event as tests compare it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub stream: Vec<u8>,
    pub version: u64,
    pub position: u64,
    pub data: Vec<u8>,
}

/// Segments so small that a few appends fill one.
pub const SMALL: Options = Options {
    sync: Sync::Always,
    segment_bytes: 1_000,
};

pub fn open(sim: &Sim) -> Result<(Log, Option<Recovery>), Error> {
    Log::open(Box::new(sim.clone()), SMALL, || {})
}

pub fn append(
    log: &Log,
    stream: &str,
    expected: Expected,
    events: &[Vec<u8>],
) -> Result<u64, Error> {
    let mut ends = Vec::new();
    let data = events.concat();
    let mut end = 0;
    for event in events {
        end += event.len() as u32;
        ends.push(end);
    }
    log.append(Append {
        stream: stream.as_bytes().into(),
        expected,
        at: 1,
        data,
        ends,
    })
}

pub fn read(log: &Log, source: Source, range: Range) -> Result<Vec<Seen>, Error> {
    let mut seen = Vec::new();
    let mut range = range;
    loop {
        let next = log.read(source, range, 300, |event| {
            seen.push(Seen {
                stream: event.stream.into(),
                version: event.version,
                position: event.position,
                data: event.data.into(),
            });
            Ok(())
        })?;
        match next {
            Some(from) => range.from = from,
            None => return Ok(seen),
        }
    }
}

pub fn forward(from: u64, limit: usize) -> Range {
    Range {
        from,
        to: u64::MAX,
        limit,
        direction: Direction::Forward,
    }
}

pub fn backward(from: u64, limit: usize) -> Range {
    Range {
        from,
        to: u64::MAX,
        limit,
        direction: Direction::Backward,
    }
}

pub fn read_all(log: &Log) -> Result<Vec<Seen>, Error> {
    read(log, Source::All, forward(1, 7))
}

/// Everything that a log says, as far as it is durable at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    pub events: Vec<Seen>,
    pub versions: BTreeMap<String, u64>,
    pub snapshots: BTreeMap<String, (u64, Vec<u8>)>,
    pub streams: Vec<String>,
    pub position: u64,
}

pub const STREAMS: [&str; 4] = ["a", "bb", "accounts-3", "d"];

pub fn contents(log: &Log) -> Result<Contents, Error> {
    let mut all = Contents {
        events: read_all(log)?,
        position: log.position(),
        ..Contents::default()
    };
    let mut of_streams = Vec::new();
    for stream in STREAMS {
        let name = stream.as_bytes();
        all.versions.insert(stream.into(), log.version(name));
        let snapshot = log.snapshot(name, |version, state| Some((version, state.to_vec())))?;
        if let Some(snapshot) = snapshot {
            all.snapshots.insert(stream.into(), snapshot);
        }
        of_streams.extend(read(log, Source::Stream(name), forward(1, 5))?);
    }
    of_streams.sort_by_key(|event| event.position);
    assert_eq!(all.events, of_streams, "the log is its streams");
    let backward = read(log, Source::All, backward(u64::MAX, 4))?;
    assert!(
        all.events.iter().eq(backward.iter().rev()),
        "and is the same from its end"
    );
    let mut cursor = Some(0);
    while let Some(from) = cursor {
        cursor = log.streams(from, 2, |name| {
            all.streams.push(String::from_utf8_lossy(name).into_owned());
        });
    }
    all.streams.sort();
    let figures = log.figures();
    assert_eq!(figures.events, all.events.len() as u64);
    assert_eq!(figures.streams, all.streams.len() as u64);
    Ok(all)
}
