//! Bytes as the files of an event log: each decoder takes or refuses them, and never panics.

#![no_main]

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arbitrary::Arbitrary;
use foundation_log::frame::{self, Header};
use foundation_log::hint;
use foundation_log::marker::{self, Marker};
use foundation_log::recover;
use foundation_log::segment::{self, Head};
use foundation_log::storage::{File, Storage};
use libfuzzer_sys::fuzz_target;

/// Files of a directory. Random bytes hardly ever have their checksum, so some frames get it.
#[derive(Arbitrary, Debug)]
struct Input {
    raw: Vec<u8>,
    segments: Vec<Vec<Piece>>,
    hint: Vec<u8>,
    marker: Option<(u64, u64, bool)>,
}

#[derive(Arbitrary, Debug)]
enum Piece {
    Raw(Vec<u8>),
    Body(Vec<u8>),
    Event {
        stream: u8,
        version: u64,
        position: u64,
        remaining: u32,
    },
    Trimmed {
        stream: u8,
        first: u64,
        last: u64,
    },
    Deleted {
        stream: u8,
        last: u64,
    },
    Snapshot {
        stream: u8,
        version: u64,
    },
    Sealed,
}

impl Piece {
    fn add(&self, bytes: &mut Vec<u8>, nonce: u32) {
        let mut write = |header: Header| frame::write(bytes, &header, b"data");
        match self {
            Piece::Raw(raw) => {
                bytes.extend_from_slice(raw);
                0
            }
            Piece::Body(body) => frame::write_body(bytes, body, &[]),
            Piece::Event {
                stream,
                version,
                position,
                remaining,
            } => write(Header::Event {
                stream: &[*stream],
                version: *version,
                position: *position,
                at: 0,
                remaining: *remaining,
            }),
            Piece::Trimmed {
                stream,
                first,
                last,
            } => write(Header::Trimmed {
                stream: &[*stream],
                first: *first,
                last: *last,
            }),
            Piece::Deleted { stream, last } => write(Header::Deleted {
                stream: &[*stream],
                last: *last,
            }),
            Piece::Snapshot { stream, version } => write(Header::Snapshot {
                stream: &[*stream],
                version: *version,
            }),
            Piece::Sealed => write(Header::Sealed { nonce }),
        };
    }
}

type Files = Arc<Mutex<BTreeMap<String, Arc<Mutex<Vec<u8>>>>>>;

#[derive(Clone, Default)]
struct Memory(Files);

struct Bytes(Arc<Mutex<Vec<u8>>>);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Memory {
    fn add(&self, name: String, bytes: Vec<u8>) {
        locked(&self.0).insert(name, Arc::new(Mutex::new(bytes)));
    }
}

impl Storage for Memory {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(locked(&self.0).keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.add(name.into(), Vec::new());
        self.open(name)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = locked(&self.0).get(name).cloned();
        Ok(Arc::new(Bytes(file.ok_or(io::ErrorKind::NotFound)?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = locked(&self.0);
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.into(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        locked(&self.0).remove(name);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self) -> io::Result<Option<Box<dyn Any + Send>>> {
        Ok(Some(Box::new(())))
    }

    fn path(&self, name: &str) -> PathBuf {
        name.into()
    }
}

impl File for Bytes {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = locked(&self.0);
        let rest = bytes.get(offset as usize..).unwrap_or(&[]);
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_at(&self, written: &[u8], offset: u64) -> io::Result<()> {
        let (mut bytes, start) = (locked(&self.0), offset as usize);
        let len = bytes.len().max(start + written.len());
        bytes.resize(len, 0);
        bytes[start..start + written.len()].copy_from_slice(written);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        locked(&self.0).resize(len as usize, 0);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(locked(&self.0).len() as u64)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

fuzz_target!(|input: Input| {
    let _ = frame::read(&input.raw);
    let _ = Head::decode(&input.raw);
    let _ = hint::body(&input.raw);
    let _ = Marker::decode(&input.raw);

    let memory = Memory::default();
    for (number, pieces) in input.segments.iter().enumerate() {
        let head = Head {
            log: 1,
            sequence: number as u64 + 1,
            first: number as u64 * 5 + 1,
            nonce: 7,
            compacted: false,
        };
        let mut bytes = head.encode();
        pieces
            .iter()
            .for_each(|piece| piece.add(&mut bytes, head.nonce));
        memory.add(segment::name(head.sequence), bytes);
    }
    if !input.hint.is_empty() {
        let mut bytes = b"FNDINDEX\x01\x00".to_vec();
        frame::write_body(&mut bytes, &input.hint, &[]);
        memory.add(hint::name(1), bytes);
    }
    if let Some((segment, offset, closed)) = input.marker {
        let marker = Marker {
            log: 1,
            count: 0,
            segment: segment % 4,
            offset,
            closed,
        };
        let started = marker::MarkerFile::start(&memory, marker);
        assert!(started.is_ok());
    }
    if let Ok(opened) = recover::open(&memory) {
        // A log that opens does so again, with the same events.
        let (events, position) = (opened.index.events, opened.index.position);
        let again = recover::open(&memory);
        assert!(again.is_ok_and(|again| {
            (again.index.events, again.index.position) == (events, position)
        }));
    }
});
