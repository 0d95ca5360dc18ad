//! Damaged files: a bit, a page, the end of a file.

use std::collections::BTreeMap;

use super::model::{Model, Step, step};
use super::sim::{Random, Sim};
use super::{Contents, append, contents, open};
use crate::{Error, Expected};

type Files = BTreeMap<String, Vec<u8>>;

/// A log of several segments, one of them written anew, as it is after its close or after the death
/// of its process.
fn log(closed: bool) -> (Files, Contents) {
    let sim = Sim::default();
    let (log, _) = open(&sim).unwrap();
    let mut model = Model::default();
    for round in 0..8u8 {
        for stream in 0..4 {
            let sizes = vec![20 + round, 40];
            let next = Step::Append(stream, super::model::Expectation::Any, sizes);
            step(&log, &mut model, &next).unwrap();
        }
    }
    step(&log, &mut model, &Step::Snapshot(2, 3)).unwrap();
    step(&log, &mut model, &Step::Trim(0, 9)).unwrap();
    step(&log, &mut model, &Step::Delete(1)).unwrap();
    let killed = sim.files();
    log.close();
    let files = if closed { sim.files() } else { killed };
    (files, model.contents)
}

/// The log is refused, by name, or says all that was acknowledged, or is refused by a read.
fn is_refused_or_whole(files: Files, expected: &Contents, damage: &str) -> bool {
    let name = damage.split(':').next().unwrap_or_default().to_owned();
    let is_named = |error: &Error| match error {
        Error::Damaged { path, .. } => path.ends_with(&name),
        // Removed names of hints that are not the segment's.
        _ => false,
    };
    let (log, _) = match open(&Sim::of(files)) {
        Ok(opened) => opened,
        Err(error) => {
            assert!(is_named(&error), "{damage}: {error}");
            return true;
        }
    };
    let refused = match contents(&log) {
        Ok(found) => {
            assert!(&found == expected, "{damage}: it says something else");
            false
        }
        Err(error) => {
            assert!(is_named(&error), "{damage}: {error}");
            true
        }
    };
    log.close();
    refused
}

#[test]
fn a_flipped_bit_never_gives_wrong_data() {
    for closed in [true, false] {
        let (files, expected) = log(closed);
        let mut random = Random(17);
        for (name, bytes) in &files {
            for _ in 0..300.min(bytes.len() * 8) {
                let bit = random.below(bytes.len() * 8);
                let mut damaged = files.clone();
                damaged.get_mut(name).unwrap()[bit / 8] ^= 1 << (bit % 8);
                let damage = format!("{name}: bit {bit}, closed: {closed}");
                let refused = is_refused_or_whole(damaged, &expected, &damage);
                assert!(
                    refused || !name.ends_with(".events") || bit / 8 > 0,
                    "{damage}"
                );
            }
        }
    }
}

#[test]
fn a_file_that_is_cut_never_gives_wrong_data() {
    for closed in [true, false] {
        let (files, expected) = log(closed);
        for (name, bytes) in &files {
            for len in 0..bytes.len() {
                let mut damaged = files.clone();
                damaged.get_mut(name).unwrap().truncate(len);
                let damage = format!("{name}: cut to {len}, closed: {closed}");
                let refused = is_refused_or_whole(damaged, &expected, &damage);
                assert!(refused || !name.ends_with(".events"), "{damage}");
            }
        }
    }
}

#[test]
fn a_zeroed_page_never_gives_wrong_data() {
    const PAGE: usize = 512;
    for closed in [true, false] {
        let (files, expected) = log(closed);
        for (name, bytes) in &files {
            for start in (0..bytes.len()).step_by(PAGE) {
                let mut damaged = files.clone();
                let bytes = damaged.get_mut(name).unwrap();
                let end = bytes.len().min(start + PAGE);
                bytes[start..end].fill(0);
                let damage = format!("{name}: zeros from {start}, closed: {closed}");
                is_refused_or_whole(damaged, &expected, &damage);
            }
        }
    }
}

#[test]
fn a_missing_segment_is_named() {
    let (files, expected) = log(true);
    for name in files.keys().filter(|name| name.ends_with(".events")) {
        let mut damaged = files.clone();
        damaged.remove(name);
        let damage = format!("{name}: removed");
        assert!(is_refused_or_whole(damaged, &expected, &damage));
    }
}

#[test]
fn damage_before_a_later_commit_is_not_a_torn_tail_even_without_the_marker() {
    let sim = Sim::default();
    let (log, _) = open(&sim).unwrap();
    for _ in 0..4 {
        append(&log, "a", Expected::Any, &[vec![7; 50]]).unwrap();
    }
    let mut files = sim.files();
    log.close();
    // As after a power cut: the marker is never synced while the log is in use.
    files.remove(crate::marker::NAME);
    let name = crate::segment::name(1);
    let whole = files.clone();
    let segment = files.get_mut(&name).unwrap();
    segment[60] ^= 1;
    assert!(matches!(open(&Sim::of(files)), Err(Error::Damaged { .. })));

    // The last commit's bytes may be torn.
    let mut files = whole;
    let segment = files.get_mut(&name).unwrap();
    let len = segment.len();
    segment[len - 1] ^= 1;
    let (log, recovery) = open(&Sim::of(files)).unwrap();
    assert!(recovery.is_some_and(|recovery| recovery.cut_bytes > 0));
    assert!(log.position() >= 3);
}
