//! Reading every byte of a log that is in use: to check it, or to copy it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Damage, Error};
use crate::hint;
use crate::log::Shared;
use crate::marker::{Marker, MarkerFile};
use crate::scan::scan;
use crate::segment::{self, Segment};
use crate::storage::{Disk, File, Storage};

/// How much is copied at once.
const CHUNK: usize = 1 << 20;

/// All segments, as they are at one moment, and where each ends.
fn snapshot(shared: &Shared) -> Vec<(Arc<Segment>, u64)> {
    let index = shared.index();
    let segments = index.segments().iter();
    segments
        .map(|events| (events.segment.clone(), events.end))
        .collect()
}

/// Every damage that there is.
pub fn verify(shared: &Shared) -> Vec<Error> {
    let storage = &*shared.storage;
    let mut errors = Vec::new();
    let segments = snapshot(shared);
    let sealed = segments.len().saturating_sub(1);
    for (number, (segment, end)) in segments.iter().enumerate() {
        let path = storage.path(&segment.name());
        errors.extend(check(&*segment.file, segment, *end, &path).err());
        if number < sealed {
            errors.extend(check_hint(storage, segment).err());
        }
    }
    errors
}

fn check(file: &dyn File, segment: &Segment, end: u64, path: &Path) -> Result<(), Error> {
    let damaged = |(offset, reason)| Error::Damaged {
        path: path.into(),
        offset,
        reason,
    };
    let mut head = vec![0; segment.start as usize];
    let read = file.read_at(&mut head, 0)?;
    let (head, _) = segment::Head::decode(&head[..read]).map_err(damaged)?;
    if head != segment.head {
        return Err(damaged((0, Damage::Misplaced)));
    }
    let stop = scan(file, segment.start, end, |_, _| Ok(()))?;
    match stop.reason {
        Some(reason) => Err(damaged((stop.offset, reason))),
        None => Ok(()),
    }
}

fn check_hint(storage: &dyn Storage, segment: &Segment) -> Result<(), Error> {
    let Some(bytes) = hint::read(storage, segment.head.sequence)? else {
        return Ok(());
    };
    hint::body(&bytes)
        .map(|_| ())
        .map_err(|reason| Error::Damaged {
            path: storage.path(&hint::name(segment.head.sequence)),
            offset: 0,
            reason,
        })
}

/// Copies the log into a new directory, which has its name once the copy is whole and durable.
pub fn backup(shared: &Shared, target: &Path) -> Result<(), Error> {
    if target.exists() {
        return Err(Error::Io("eexist"));
    }
    let mut unfinished = target.as_os_str().to_owned();
    unfinished.push(segment::UNFINISHED);
    let unfinished = PathBuf::from(unfinished);
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    let copied = copy(shared, &unfinished).and_then(|()| {
        fs::rename(&unfinished, target)?;
        // The directory that it is in knows its name now.
        let parent = target.parent().unwrap_or(Path::new("."));
        Ok(Disk::new(parent)?.sync()?)
    });
    if copied.is_err() {
        // Best effort: a leftover takes room, and the next backup removes it.
        let _ = fs::remove_dir_all(&unfinished);
    }
    copied
}

fn copy(shared: &Shared, dir: &Path) -> Result<(), Error> {
    let disk = Disk::new(dir)?;
    let mut marker = None;
    let mut buffer = vec![0; CHUNK];
    for (segment, end) in snapshot(shared) {
        let file = disk.create(&segment.name())?;
        let mut offset = 0;
        while offset < end {
            let wanted = (end - offset).min(CHUNK as u64) as usize;
            let read = segment.file.read_at(&mut buffer[..wanted], offset)?;
            if read == 0 {
                break;
            }
            file.write_at(&buffer[..read], offset)?;
            offset += read as u64;
        }
        file.sync()?;
        // A copy of what is damaged would be found out when it is needed.
        check(&*file, &segment, end, &shared.storage.path(&segment.name()))?;
        marker = Some(Marker {
            log: segment.head.log,
            segment: segment.head.sequence,
            offset: end,
            ..Marker::default()
        });
    }
    if let Some(marker) = marker {
        let mut file = MarkerFile::start(&disk, marker)?;
        file.write_both(marker.segment, marker.offset, true)?;
    }
    Ok(disk.sync()?)
}
