//! Reading a segment from its beginning.

use std::io;

use crate::error::Damage;
use crate::frame::{self, Broken, Frame, Header};
use crate::storage::File;

/// How much is read at once.
const CHUNK: usize = 1 << 20;

/// Where a scan ended, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// The first byte that is no whole frame's.
    pub offset: u64,
    /// The damage there; `None` at the end of the file.
    pub reason: Option<Damage>,
}

/// A visitor's answer: an error ends the scan.
pub type Visit = Result<(), Damage>;

/// Shows each frame from `start` to `end` to `visit`, with its offset.
pub fn scan(
    file: &dyn File,
    start: u64,
    end: u64,
    mut visit: impl FnMut(u64, Frame) -> Visit,
) -> io::Result<Stop> {
    let mut buffer = Vec::new();
    // The buffer holds the file's bytes from `offset` on, behind those that are done with.
    let (mut offset, mut done) = (start, 0);
    loop {
        let stopped = |reason| Ok(Stop { offset, reason });
        match frame::read(&buffer[done..]) {
            Ok(frame) => {
                let len = frame.len;
                if let Err(reason) = visit(offset, frame) {
                    return stopped(Some(reason));
                }
                offset += len as u64;
                done += len;
            }
            Err(Broken::Short(wanted)) => {
                let left = end.saturating_sub(offset);
                if left == 0 {
                    return stopped(None);
                }
                if wanted as u64 > left {
                    return stopped(Some(Damage::Truncated));
                }
                let wanted = (wanted.max(CHUNK) as u64).min(left) as usize;
                let kept = buffer.len() - done;
                buffer.drain(..done);
                done = 0;
                buffer.resize(wanted.max(kept), 0);
                let read = file.read_at(&mut buffer[kept..], offset + kept as u64)?;
                buffer.truncate(kept + read);
                if read == 0 {
                    return stopped(Some(Damage::Truncated));
                }
            }
            Err(Broken::Checksum) => return stopped(Some(Damage::Checksum)),
            Err(Broken::Undecodable) => return stopped(Some(Damage::Undecodable)),
        }
    }
}

/// The furthest offset that a mark between `start` and `end` says had been synced.
///
/// No frame is known to begin after a damaged place, so every byte is tried.
pub fn furthest_synced(file: &dyn File, nonce: u32, start: u64, end: u64) -> io::Result<u64> {
    /// A mark's longest body: its variant and two numbers.
    const BODY: std::ops::RangeInclusive<usize> = 3..=11;
    const OVERLAP: usize = frame::HEAD + *BODY.end();

    let mut furthest = 0;
    let mut buffer = vec![0; CHUNK];
    let mut offset = start;
    while offset < end {
        let read = file.read_at(&mut buffer, offset)?;
        let bytes = &buffer[..read];
        for (at, _) in bytes.windows(frame::HEAD).enumerate() {
            let claimed = frame::claimed(&bytes[at..]).unwrap_or(0);
            if !BODY.contains(&claimed.wrapping_sub(frame::HEAD)) {
                continue;
            }
            if let Ok(frame) = frame::read(&bytes[at..])
                && let Header::Mark {
                    nonce: mark,
                    synced,
                } = frame.header
                && mark == nonce
            {
                furthest = furthest.max(u64::from(synced));
            }
        }
        if read < CHUNK {
            break;
        }
        offset += (read - OVERLAP) as u64;
    }
    Ok(furthest)
}
