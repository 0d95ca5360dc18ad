//! Processes as owners of entries, a word for each process.
//!
//! The word of a local process is the word of its pid, which is odd. A remote process gets an even
//! number, which is valid until the process is declared dead.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use rustler::sys::{ErlNifPid, enif_is_process_alive};
use rustler::{Env, LocalPid, Term};

use crate::raw::Failure;
use crate::term::{OwnedTerm, is_immediate, word, word_term};

/// Remote processes, by the external format of their pids and by number.
#[derive(Default)]
struct Remotes {
    numbers: DashMap<Box<[u8]>, u64>,
    pids: DashMap<u64, Remote>,
}

/// A known remote process.
struct Remote {
    pid: OwnedTerm,
    /// The names of the registries that it has been in. Its death visits only these.
    registries: Mutex<Vec<u64>>,
}

static REMOTES: LazyLock<Remotes> = LazyLock::new(Remotes::default);
/// Numbers are even. 0 stands for no process.
static NEXT: AtomicU64 = AtomicU64::new(2);

/// Returns whether an owner is a remote process.
pub fn is_remote(owner: u64) -> bool {
    owner & 1 == 0
}

fn external(pid: Term) -> Box<[u8]> {
    pid.to_binary().as_slice().into()
}

/// Returns the owner for a pid, if the process is known here. A local process always is.
pub fn known(pid: Term) -> Result<Option<u64>, Failure> {
    if !pid.is_pid() {
        return Err(Failure::BadArgument);
    }
    let word = word(pid);
    if is_immediate(word) {
        return Ok(Some(word));
    }
    let number = REMOTES.numbers.get(&external(pid));
    Ok(number.map(|number| *number))
}

/// Returns the owner for a pid. A remote process gets a number if it has none.
pub fn intern(pid: Term) -> Result<u64, Failure> {
    if let Some(owner) = known(pid)? {
        return Ok(owner);
    }
    match REMOTES.numbers.entry(external(pid)) {
        Entry::Occupied(number) => Ok(*number.get()),
        Entry::Vacant(place) => {
            let number = NEXT.fetch_add(2, Ordering::Relaxed);
            let pid = OwnedTerm::new(pid).ok_or(Failure::BadArgument)?;
            let registries = Mutex::default();
            REMOTES.pids.insert(number, Remote { pid, registries });
            place.insert(number);
            Ok(number)
        }
    }
}

/// Records that a remote process is in a registry. Returns `false` if the process is dead.
pub fn enter(owner: u64, registry: u64) -> bool {
    let Some(remote) = REMOTES.pids.get(&owner) else {
        return false;
    };
    let mut registries = lock(&remote.registries);
    // The list may have duplicates, because a restarted registry is entered again.
    if registries.len() == registries.capacity() {
        registries.sort_unstable();
        registries.dedup();
    }
    registries.push(registry);
    true
}

fn lock(registries: &Mutex<Vec<u64>>) -> std::sync::MutexGuard<'_, Vec<u64>> {
    registries.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns how many registries a remote process has been in.
pub fn entered(owner: u64) -> usize {
    let remote = REMOTES.pids.get(&owner);
    remote.map_or(0, |remote| lock(&remote.registries).len())
}

/// Declares a remote process dead in every registry. Its number becomes invalid. If the connection
/// comes back and the process registers again, it gets another number. Returns the number, and the
/// names of the registries that the process has been in. Returns `None` if it had no number.
pub fn declare_dead(pid: Term) -> Option<(u64, Vec<u64>)> {
    let (_, owner) = REMOTES.numbers.remove(&external(pid))?;
    let remote = REMOTES.pids.remove(&owner).map(|(_, remote)| remote);
    let mut registries = remote.map_or_else(Vec::new, |remote| {
        let registries = remote.registries.into_inner();
        registries.unwrap_or_else(PoisonError::into_inner)
    });
    registries.sort_unstable();
    registries.dedup();
    Some((owner, registries))
}

/// Returns the number of known remote processes.
pub fn remote_count() -> usize {
    REMOTES.pids.len()
}

/// Returns all remote processes that are known and alive.
pub fn remotes() -> Vec<u64> {
    REMOTES.pids.iter().map(|pid| *pid.key()).collect()
}

/// Returns whether an owner is alive.
#[inline(always)]
pub fn is_alive(env: Env, owner: u64) -> bool {
    if is_remote(owner) {
        return is_known(owner);
    }
    let pid = local(owner);
    // SAFETY: the environment is that of this call.
    unsafe { enif_is_process_alive(env.as_c_arg(), pid.as_c_arg()) != 0 }
}

#[inline(never)]
fn is_known(owner: u64) -> bool {
    REMOTES.pids.contains_key(&owner)
}

/// Returns the pid of an owner, or `None` if the process is dead. It is inlined because a result in
/// memory would add a quarter to the time of a lookup.
#[inline(always)]
pub fn live_pid(env: Env<'_>, owner: u64) -> Option<Term<'_>> {
    if is_remote(owner) {
        return remote_pid(env, owner);
    }
    is_alive(env, owner).then(|| word_term(env, owner))
}

#[inline(never)]
fn remote_pid(env: Env<'_>, owner: u64) -> Option<Term<'_>> {
    REMOTES.pids.get(&owner).map(|remote| remote.pid.copy(env))
}

/// Returns the local process of an owner.
pub fn local(owner: u64) -> LocalPid {
    // SAFETY: this is a structure of one word in the VM, and the word is that of a local pid.
    LocalPid::from_c_arg(unsafe { std::mem::transmute::<u64, ErlNifPid>(owner) })
}

/// Returns the local process of an owner, or `None` for a remote one.
pub fn as_local(owner: u64) -> Option<LocalPid> {
    (!is_remote(owner)).then(|| local(owner))
}

/// Returns the owner for a local process.
pub fn owner_of(pid: LocalPid) -> u64 {
    // SAFETY: the VM's structure is one word, and the word of a local process is its owner word.
    unsafe { std::mem::transmute::<ErlNifPid, u64>(*pid.as_c_arg()) }
}

/// Returns the calling process.
#[inline]
pub fn caller(env: Env) -> u64 {
    let mut pid = std::mem::MaybeUninit::<ErlNifPid>::uninit();
    // SAFETY: a NIF always has a caller, which the VM stores here; the structure is one word.
    unsafe {
        rustler::sys::enif_self(env.as_c_arg(), pid.as_mut_ptr());
        std::mem::transmute::<ErlNifPid, u64>(pid.assume_init())
    }
}
