//! Writing sealed segments anew without what nobody needs any more, and writing their hints.

use std::sync::{Arc, PoisonError};

use crate::error::{Damage, Error};
use crate::hint;
use crate::index::Place;
use crate::log::Shared;
use crate::recover::random;
use crate::scan::scan;
use crate::segment::{Head, Segment};

/// A segment is written anew when more than this part of it is dead.
const DEAD_PART: u64 = 2;

/// The sealed segments that are worth writing anew.
fn worthwhile(shared: &Shared) -> Option<Arc<Segment>> {
    let index = shared.index();
    let (_, sealed) = index.segments().split_last()?;
    let found = sealed.iter().find(|events| {
        let used = events.end - events.segment.start;
        events.dead * DEAD_PART > used
    });
    found.map(|events| events.segment.clone())
}

/// Whether there is a segment that is worth writing anew.
pub fn is_worthwhile(shared: &Shared) -> bool {
    worthwhile(shared).is_some()
}

/// Writes hints, and segments anew, until nothing is left to do or the log is being closed.
pub fn run(shared: &Shared) -> Result<(), Error> {
    loop {
        let next = shared.maintenance().without_hint.pop();
        let Some(sequence) = next else { break };
        let segment = {
            let index = shared.index();
            index
                .events_of(sequence)
                .map(|events| events.segment.clone())
        };
        if let Some(segment) = segment {
            hint::build(&*shared.storage, &segment)?;
        }
        if shared.maintenance().closing {
            return Ok(());
        }
    }
    while let Some(segment) = worthwhile(shared) {
        compact(shared, &segment)?;
        if shared.maintenance().closing {
            break;
        }
    }
    Ok(())
}

fn compact(shared: &Shared, old: &Arc<Segment>) -> Result<(), Error> {
    let storage = &*shared.storage;
    let sequence = old.head.sequence;
    let len = old.file.size()?;
    let head = Head {
        nonce: random() as u32,
        compacted: true,
        ..old.head
    };
    // Where the frames begin depends on how long the head is.
    let start = head.encode().len();
    let (mut frames, mut moved) = (Vec::new(), Vec::new());
    let stop = {
        let mut bytes = Vec::new();
        scan(&*old.file, old.start, len, |offset, frame| {
            let place = Place {
                segment: sequence,
                offset: offset as u32,
                len: frame.len as u32,
            };
            if shared.index().is_live(&frame, place) {
                bytes.clear();
                crate::frame::write(&mut bytes, &frame.header, frame.data);
                moved.push((place.offset, (start + frames.len()) as u32));
                frames.extend_from_slice(&bytes);
            }
            Ok(())
        })?
    };
    if let Some(reason) = stop.reason {
        return Err(Error::Damaged {
            path: storage.path(&old.name()),
            offset: stop.offset,
            reason,
        });
    }
    frames.extend_from_slice(&Segment::seal(&head));
    let new = Arc::new(Segment::create_with(storage, head, &frames)?);
    if new.start != start as u64 {
        return Err(Error::Damaged {
            path: storage.path(&new.name()),
            offset: 0,
            reason: Damage::Misplaced,
        });
    }
    let end = (start + frames.len()) as u64;
    let mut index = shared.index.write().unwrap_or_else(PoisonError::into_inner);
    index.replace_segment(new.clone(), end, &moved);
    drop(index);
    hint::build(storage, &new)?;
    Ok(())
}
