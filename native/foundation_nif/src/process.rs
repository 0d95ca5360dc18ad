//! Processes as owners of entries: a word each.
//!
//! A local pid is its own word, which is odd. A remote one is given an even number, kept as long
//! as a table says that the process is there; a remote process whose number is gone is dead.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use rustler::sys::{ErlNifPid, enif_is_process_alive};
use rustler::{Env, LocalPid, Term};

use crate::raw::Failure;
use crate::term::{OwnedTerm, is_immediate, word, word_term};

/// Remote processes, by their pids' external form and by number.
#[derive(Default)]
struct Remotes {
    numbers: DashMap<Box<[u8]>, u64>,
    pids: DashMap<u64, Remote>,
}

/// A remote process that is known.
struct Remote {
    pid: OwnedTerm,
    /// The names of the registries that it has been in: its death looks in no others.
    registries: Mutex<Vec<u64>>,
}

static REMOTES: LazyLock<Remotes> = LazyLock::new(Remotes::default);
/// Numbers are even and not 0, which is nobody.
static NEXT: AtomicU64 = AtomicU64::new(2);

/// Whether an owner is a remote process.
pub fn is_remote(owner: u64) -> bool {
    owner & 1 == 0
}

fn external(pid: Term) -> Box<[u8]> {
    pid.to_binary().as_slice().into()
}

/// The owner that a pid stands for, if the process is known here: a local one always is.
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

/// The owner that a pid stands for; a remote one is known from then on.
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

/// Notes that a remote process is in the registry of a name; `false` if it is dead.
pub fn enter(owner: u64, registry: u64) -> bool {
    let Some(remote) = REMOTES.pids.get(&owner) else {
        return false;
    };
    let mut registries = lock(&remote.registries);
    // A registry that is started again is entered again.
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

/// How many registries a remote process has been in.
pub fn entered(owner: u64) -> usize {
    let remote = REMOTES.pids.get(&owner);
    remote.map_or(0, |remote| lock(&remote.registries).len())
}

/// A remote process is dead from now on, in every registry: its number, if it had one, is nobody's
/// any more. If the connection comes back and the process registers again, it gets another.
/// Returns the number, and the names of the registries that the process has been in.
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

/// How many remote processes are known.
pub fn remote_count() -> usize {
    REMOTES.pids.len()
}

/// All remote processes that are known and alive.
pub fn remotes() -> Vec<u64> {
    REMOTES.pids.iter().map(|pid| *pid.key()).collect()
}

/// Whether an owner is alive.
#[inline(always)]
pub fn is_alive(env: Env, owner: u64) -> bool {
    if is_remote(owner) {
        return is_known(owner);
    }
    let pid = local(owner);
    // SAFETY: the environment is the one of this call.
    unsafe { enif_is_process_alive(env.as_c_arg(), pid.as_c_arg()) != 0 }
}

#[inline(never)]
fn is_known(owner: u64) -> bool {
    REMOTES.pids.contains_key(&owner)
}

/// The pid of an owner, or `None` if the process is dead. Inlined: a call that gives its result by
/// way of memory would be a quarter of a look-up.
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

/// The local process that an owner is.
pub fn local(owner: u64) -> LocalPid {
    // SAFETY: this is the VM's structure of one word, and the owner is a local pid's.
    LocalPid::from_c_arg(unsafe { std::mem::transmute::<u64, ErlNifPid>(owner) })
}

/// The local process that an owner is, unless it is remote.
pub fn as_local(owner: u64) -> Option<LocalPid> {
    (!is_remote(owner)).then(|| local(owner))
}

/// The owner that a local process is.
pub fn owner_of(pid: LocalPid) -> u64 {
    // SAFETY: the VM's structure is one word, which for a local process is what owners are.
    unsafe { std::mem::transmute::<ErlNifPid, u64>(*pid.as_c_arg()) }
}

/// The calling process.
#[inline]
pub fn caller(env: Env) -> u64 {
    let mut pid = std::mem::MaybeUninit::<ErlNifPid>::uninit();
    // SAFETY: the VM fills in the caller of a NIF, and NIFs have one; the structure is one word.
    unsafe {
        rustler::sys::enif_self(env.as_c_arg(), pid.as_mut_ptr());
        std::mem::transmute::<ErlNifPid, u64>(pid.assume_init())
    }
}
