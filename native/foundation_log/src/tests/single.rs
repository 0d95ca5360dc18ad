//! One log, one thing at a time.

use std::sync::mpsc;
use std::time::Duration;

use super::sim::Sim;
use super::{SMALL, append, backward, forward, open, read, read_all};
use crate::read::{Range, Source};
use crate::storage::Disk;
use crate::{
    Answer, Append, Direction, Error, Expected, Log, Options, Reply, Request, StartAt, Sync,
};

fn one(byte: u8) -> Vec<Vec<u8>> {
    vec![vec![byte; 30]]
}

#[test]
fn an_append_is_synced_before_it_is_answered() {
    let sim = Sim::default();
    let (log, _) = open(&sim).unwrap();
    for _ in 0..10 {
        let before = sim.syncs();
        append(&log, "a", Expected::Any, &one(1)).unwrap();
        assert!(sim.syncs() > before);
    }
    let (before, commits) = (sim.syncs(), log.figures().commits);
    assert_eq!(
        append(&log, "a", Expected::None, &one(1)),
        Err(Error::WrongVersion(10))
    );
    assert_eq!(append(&log, "a", Expected::Any, &[]), Ok(10));
    assert_eq!(
        (sim.syncs(), log.figures().commits),
        (before, commits),
        "nothing to write"
    );
}

#[test]
fn callers_share_commits() {
    let sim = Sim::default();
    let (log, _) = Log::open(
        Box::new(sim),
        Options {
            segment_bytes: 1 << 20,
            ..SMALL
        },
        || {},
    )
    .unwrap();
    let (sender, receiver) = mpsc::channel();
    for _ in 0..256 {
        let sender = sender.clone();
        let append = Append {
            stream: (*b"a").into(),
            expected: Expected::Any,
            at: 0,
            data: vec![1],
            ends: vec![1],
        };
        let reply = Reply::new(move |answer: Answer| sender.send(answer).is_ok());
        assert!(log.request_waiting(Request::Append(append, reply)).is_ok());
    }
    drop(sender);
    let answers: Vec<Answer> = receiver.iter().collect();
    let mut versions: Vec<u64> = answers
        .iter()
        .map(|it| it.result.clone().unwrap())
        .collect();
    versions.sort_unstable();
    assert!(versions.iter().copied().eq(1..=256));
    let commits = answers.iter().filter_map(|it| it.commit);
    assert_eq!(
        commits.clone().map(|commit| commit.appends).sum::<u64>(),
        256
    );
    assert_eq!(
        commits.count() as u64,
        log.figures().commits,
        "each is told of once"
    );
    assert!(log.figures().commits < 256);
}

#[test]
fn a_full_disk_fails_an_append_until_there_is_room() {
    let sim = Sim::default();
    let (log, _) = open(&sim).unwrap();
    append(&log, "a", Expected::Any, &one(1)).unwrap();
    sim.set_room(Some(20));
    assert_eq!(
        append(&log, "a", Expected::Any, &one(2)),
        Err(Error::Io("enospc"))
    );
    assert_eq!((log.version(b"a"), log.position()), (1, 1));
    sim.set_room(None);
    assert_eq!(append(&log, "a", Expected::At(1), &one(3)), Ok(2));
    assert_eq!(read_all(&log).unwrap().len(), 2);
    log.close();
    let (log, _) = open(&Sim::of(sim.files())).unwrap();
    assert_eq!(read_all(&log).unwrap()[1].data, one(3)[0]);
}

#[test]
fn an_interval_answers_before_the_sync_and_syncs_within_it() {
    let sim = Sim::default();
    let options = Options {
        sync: Sync::Interval(Duration::from_millis(20)),
        ..SMALL
    };
    let (log, _) = Log::open(Box::new(sim.clone()), options, || {}).unwrap();
    let before = sim.syncs();
    append(&log, "a", Expected::Any, &one(1)).unwrap();
    while sim.syncs() == before {
        std::thread::yield_now();
    }
    append(&log, "a", Expected::Any, &one(1)).unwrap();
    log.close();
    assert_eq!(open(&sim).unwrap().1, None, "it was closed in order");
}

#[test]
fn a_range_has_its_bounds_and_its_order() {
    let (log, _) = open(&Sim::default()).unwrap();
    for number in 1..=20 {
        append(
            &log,
            if number % 2 == 0 { "a" } else { "bb" },
            Expected::Any,
            &one(number),
        )
        .unwrap();
    }
    let positions = |source, range: Range| {
        let limit = range.limit;
        let mut seen = Vec::new();
        log.read(source, range, usize::MAX, |event| {
            seen.push(event.position);
            Ok(())
        })
        .unwrap();
        assert!(seen.len() <= limit);
        seen
    };
    assert_eq!(positions(Source::All, forward(19, 5)), [19, 20]);
    assert_eq!(positions(Source::All, forward(21, 5)), [0; 0]);
    assert_eq!(positions(Source::All, backward(u64::MAX, 3)), [20, 19, 18]);
    assert_eq!(positions(Source::Stream(b"a"), forward(2, 3)), [4, 6, 8]);
    assert_eq!(positions(Source::Stream(b"a"), backward(3, 9)), [6, 4, 2]);
    assert_eq!(positions(Source::Stream(b"c"), forward(1, 9)), [0; 0]);
    let range = Range {
        from: 1,
        to: 4,
        limit: 100,
        direction: Direction::Forward,
    };
    assert_eq!(positions(Source::All, range), [1, 2, 3, 4]);
}

#[test]
fn removed_events_give_their_room_back() {
    let sim = Sim::default();
    let (log, _) = open(&sim).unwrap();
    for number in 1..=60 {
        append(
            &log,
            if number % 3 == 0 { "a" } else { "bb" },
            Expected::Any,
            &one(number),
        )
        .unwrap();
    }
    let full = log.figures().bytes;
    log.trim(b"bb", 39).unwrap();
    while log.figures().bytes > full / 2 {
        // Each commit looks whether there is something to do.
        append(&log, "d", Expected::Any, &[]).unwrap();
        std::thread::yield_now();
    }
    let before = super::contents(&log).unwrap();
    assert_eq!(log.verify(), vec![]);
    log.close();
    let (log, _) = open(&Sim::of(sim.files())).unwrap();
    assert_eq!(super::contents(&log).unwrap(), before);
    assert_eq!(log.version(b"bb"), 40);
}

#[test]
fn a_second_log_of_a_directory_is_refused() {
    let dir = std::env::temp_dir().join(format!("foundation_log_{}", std::process::id()));
    let disk = || Box::new(Disk::new(&dir).unwrap());
    let (log, _) = Log::open(disk(), SMALL, || {}).unwrap();
    assert!(matches!(
        Log::open(disk(), SMALL, || {}),
        Err(Error::InUse(_))
    ));
    append(&log, "a", Expected::None, &one(1)).unwrap();
    let copy = dir.join("copy");
    log.backup(&copy).unwrap();
    assert_eq!(log.backup(&copy), Err(Error::Io("eexist")));
    log.close();
    let copy: Box<Disk> = Box::new(Disk::new(&copy).unwrap());
    for disk in [disk(), copy] {
        let (log, recovery) = Log::open(disk, SMALL, || {}).unwrap();
        assert_eq!(recovery, None);
        assert_eq!(read(&log, Source::All, forward(1, 10)).unwrap().len(), 1);
        log.close();
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_closed_log_answers_that_it_is() {
    let (log, _) = open(&Sim::default()).unwrap();
    log.close();
    assert_eq!(
        append(&log, "a", Expected::Any, &one(1)),
        Err(Error::Closed)
    );
    log.close();
}

#[test]
fn a_watcher_is_told_once_about_new_and_existing_events() {
    let (log, _) = open(&Sim::default()).unwrap();
    let (sender, receiver) = mpsc::channel();
    let watch = |stream: Option<&[u8]>, number| {
        let sender = sender.clone();
        log.watch(
            stream,
            1,
            number,
            Box::new(move || sender.send(()).unwrap()),
        )
    };
    assert!(!watch(Some(b"a"), 0));
    append(&log, "bb", Expected::Any, &one(1)).unwrap();
    assert!(receiver.try_recv().is_err(), "it is of another stream");
    append(&log, "a", Expected::Any, &one(1)).unwrap();
    append(&log, "a", Expected::Any, &one(1)).unwrap();
    assert_eq!(receiver.try_iter().count(), 1);
    assert!(
        watch(None, 2) && watch(Some(b"a"), 1),
        "there are later ones"
    );
    assert_eq!(receiver.try_iter().count(), 0);
}

#[test]
fn a_subscription_starts_where_it_is_told_to_and_goes_on_where_it_was() {
    let sim = Sim::default();
    let (log, _) = open(&sim).unwrap();
    append(&log, "a", Expected::Any, &[vec![1], vec![2], vec![3]]).unwrap();
    assert_eq!(log.subscribe(b"end", None, StartAt::End), Ok(3));
    assert_eq!(
        log.subscribe(b"second", Some(b"a"), StartAt::After(1)),
        Ok(1)
    );
    assert_eq!(
        log.subscribe(b"second", None, StartAt::End),
        Err(Error::OtherStream)
    );
    log.acknowledge(b"second", 2);
    log.acknowledge(b"second", 1);
    log.acknowledge(b"unknown", 1);
    log.close();
    let (log, _) = open(&sim).unwrap();
    assert_eq!(log.subscribe(b"second", Some(b"a"), StartAt::End), Ok(2));
    log.forget(b"second").unwrap();
    assert_eq!(
        log.subscribe(b"second", Some(b"a"), StartAt::After(0)),
        Ok(0)
    );
}
