//! A disk that fails on order, and that forgets at a crash what was not synced.

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::storage::{File, Storage};

/// Random numbers that are the same in each run (Marsaglia, "Xorshift RNGs", 2003).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

#[derive(Clone)]
enum Change {
    Write(usize, Vec<u8>),
    SetLen(usize),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Write(offset, written) => {
                let end = offset + written.len();
                bytes.resize(bytes.len().max(end), 0);
                bytes[*offset..end].copy_from_slice(written);
            }
            Change::SetLen(len) => bytes.resize(*len, 0),
        }
    }
}

#[derive(Default, Clone)]
struct Bytes {
    now: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

/// How the disk fails at its n-th change.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This one change fails, half done; later ones succeed.
    Once(&'static io::ErrorKind),
    /// Every later change fails.
    Dead,
}

#[derive(Default)]
struct State {
    files: Vec<Bytes>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    changes: usize,
    fault: Option<(usize, Fault)>,
    room: Option<usize>,
    syncs: usize,
    locked: bool,
}

/// The disk. Clones are the same one.
#[derive(Clone, Default)]
pub struct Sim(Arc<Mutex<State>>);

struct SimFile(Sim, usize);

impl Sim {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub fn of(files: BTreeMap<String, Vec<u8>>) -> Sim {
        let sim = Sim::default();
        for (name, bytes) in files {
            sim.state().add(name, bytes);
        }
        sim
    }

    pub fn fail_at(&self, change: usize, fault: Fault) {
        let mut state = self.state();
        let at = state.changes + change;
        state.fault = Some((at, fault));
    }

    /// How many bytes may still be written; `None` for as many as one likes.
    pub fn set_room(&self, room: Option<usize>) {
        self.state().room = room;
    }

    pub fn changes(&self) -> usize {
        self.state().changes
    }

    /// How often a file has been synced.
    pub fn syncs(&self) -> usize {
        self.state().syncs
    }

    /// The files as the process left them: what survives its death.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.state();
        let names = state.names.iter();
        names
            .map(|(name, id)| (name.clone(), state.files[*id].now.clone()))
            .collect()
    }

    /// The files after a power cut: of what was not synced, any part may be there.
    pub fn power_cut(&self, random: &mut Random) -> Sim {
        let state = self.state();
        let names = if random.below(2) == 0 {
            &state.names
        } else {
            &state.durable_names
        };
        let files = names.iter().map(|(name, id)| {
            let file = &state.files[*id];
            let mut bytes = file.durable.clone();
            for change in &file.unsynced {
                match (random.below(4), change) {
                    (0, _) => {}
                    (1, Change::Write(offset, written)) => {
                        let kept = random.below(written.len());
                        Change::Write(*offset, written[..kept].to_vec()).apply(&mut bytes);
                    }
                    (2, Change::Write(offset, written)) => {
                        // Its length is there, and its bytes are not.
                        Change::Write(*offset, vec![0; written.len()]).apply(&mut bytes);
                    }
                    (_, change) => change.apply(&mut bytes),
                }
            }
            (name.clone(), bytes)
        });
        Sim::of(files.collect())
    }

    fn change(&self) -> io::Result<bool> {
        let mut state = self.state();
        let number = state.changes;
        state.changes += 1;
        match state.fault {
            Some((at, Fault::Once(kind))) if at == number => Err((*kind).into()),
            Some((at, Fault::Dead)) if at <= number => Err(io::Error::other("the disk is dead")),
            _ => Ok(true),
        }
    }
}

impl State {
    fn is_first_fault(&self) -> bool {
        self.fault.is_some_and(|(at, _)| at + 1 == self.changes)
    }

    fn add(&mut self, name: String, bytes: Vec<u8>) {
        let id = self.files.len();
        self.files.push(Bytes {
            durable: bytes.clone(),
            now: bytes,
            unsynced: Vec::new(),
        });
        self.names.insert(name.clone(), id);
        self.durable_names.insert(name, id);
    }
}

impl Storage for Sim {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.change()?;
        let mut state = self.state();
        let id = state.files.len();
        state.files.push(Bytes::default());
        state.names.insert(name.into(), id);
        Ok(Arc::new(SimFile(self.clone(), id)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let id = self.state().names.get(name).copied();
        let id = id.ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimFile(self.clone(), id)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change()?;
        let mut state = self.state();
        let id = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.into(), id);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.change()?;
        let removed = self.state().names.remove(name);
        removed.map(|_| ()).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync(&self) -> io::Result<()> {
        self.change()?;
        let mut state = self.state();
        state.durable_names = state.names.clone();
        Ok(())
    }

    fn lock(&self) -> io::Result<Option<Box<dyn Any + Send>>> {
        let mut state = self.state();
        let free = !std::mem::replace(&mut state.locked, true);
        Ok(free.then(|| Box::new(SimLock(self.clone())) as Box<dyn Any + Send>))
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("sim").join(name)
    }
}

struct SimLock(Sim);

impl Drop for SimLock {
    fn drop(&mut self) {
        self.0.state().locked = false;
    }
}

impl File for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.0.state();
        let rest = state.files[self.1]
            .now
            .get(offset as usize..)
            .unwrap_or(&[]);
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let allowed = self.0.change();
        let mut state = self.0.state();
        let room = state.room.unwrap_or(usize::MAX);
        let fits = bytes.len().min(room);
        // The first change that fails is half done.
        let done = match allowed {
            Ok(_) => fits,
            Err(_) if state.is_first_fault() => fits / 2,
            Err(_) => 0,
        };
        if done == 0 && !bytes.is_empty() {
            allowed?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.room = state.room.map(|room| room - done);
        let change = Change::Write(offset as usize, bytes[..done].to_vec());
        let file = &mut state.files[self.1];
        change.apply(&mut file.now);
        file.unsynced.push(change);
        allowed?;
        if done < bytes.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.change()?;
        let mut state = self.0.state();
        let change = Change::SetLen(len as usize);
        let file = &mut state.files[self.1];
        change.apply(&mut file.now);
        file.unsynced.push(change);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.state().files[self.1].now.len() as u64)
    }

    fn sync(&self) -> io::Result<()> {
        let allowed = self.0.change();
        let mut state = self.0.state();
        let forgets = matches!(state.fault, Some((_, Fault::Once(_))));
        let file = &mut state.files[self.1];
        if allowed.is_err() && forgets {
            // As Linux does: after the error its pages count as clean, and a later sync leaves them out.
            file.unsynced.clear();
        }
        allowed?;
        for change in std::mem::take(&mut file.unsynced) {
            change.apply(&mut file.durable);
        }
        state.syncs += 1;
        Ok(())
    }
}
