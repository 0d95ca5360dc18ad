//! Processes as owners of entries, a word for each process.
//!
//! The word of a local process is the word of its pid, which is odd. A remote process gets an even
//! number, which is valid until the process is declared dead.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use dashmap::DashMap;
use foundation_core::concurrent_table::ConcurrentTable;
use foundation_core::key::{Key, NoOpaque, Opaque, Seed};
use foundation_core::table::{Object, Value, ValueView, pin};
use rustler::codegen_runtime::{ErlNifEnv, ErlNifTerm};
use rustler::sys::{
    ErlNifPid, enif_alloc_env, enif_free_env, enif_is_identical, enif_is_process_alive,
    enif_make_copy,
};
use rustler::{Env, LocalPid, Term};

use crate::faults;
use crate::raw::Failure;
use crate::term::{is_immediate, vm_hash, word, word_term};

/// Remote processes. The two tables are read by lookups, which must not write to memory that they
/// share.
struct Remotes {
    /// Numbers, by pid, with their lowest bit set.
    numbers: ConcurrentTable<RemotePid, RemotePid>,
    /// Pids, by number.
    pids: ConcurrentTable<NoOpaque, RemotePid>,
    /// The page that the next pid is copied to, and how many pids have been. Whoever adds or
    /// removes a process holds the lock.
    page: Mutex<(Option<Arc<Page>>, usize)>,
    /// The names of the registries that a process has been in, by its number. Its death visits only
    /// these.
    registries: DashMap<u64, Vec<u64>>,
}

const EMPTY: &str = "an empty table has a few kilobytes";
static REMOTES: LazyLock<Remotes> = LazyLock::new(|| Remotes {
    numbers: ConcurrentTable::new(Seed::random()).expect(EMPTY),
    pids: ConcurrentTable::new(Seed::random()).expect(EMPTY),
    page: Mutex::new((None, 0)),
    registries: DashMap::new(),
});
/// Numbers are even. 0 stands for no process.
static NEXT: AtomicU64 = AtomicU64::new(2);

/// Returns the key of a number in the table of pids.
#[inline]
fn number_key(owner: u64) -> Key<'static, ()> {
    Key::word(0, owner)
}

/// How many pids share an environment. One of its own would take 2.6 kB for each pid, and decoding
/// the external format takes a microsecond for each reader.
const PAGE: usize = 64;

/// An environment with pids. It is freed when the last of them is.
struct Page(*mut ErlNifEnv);

// SAFETY: pids are added under a lock. Readers copy pids that were added before, which an addition
// neither moves nor changes: it takes new words, and links them before the others.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

impl Page {
    fn new() -> Option<Page> {
        // SAFETY: it has no arguments.
        let env = unsafe { enif_alloc_env() };
        (!env.is_null()).then_some(Page(env))
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: only this value has the environment, and no pid in it is used after this.
        unsafe { enif_free_env(self.0) }
    }
}

/// The pid of a remote process.
#[derive(Clone)]
struct RemotePid {
    pid: ErlNifTerm,
    _page: Arc<Page>,
}

/// A pid to look for, valid only during the call that it belongs to, and the copy to store.
struct PidProbe {
    pid: ErlNifTerm,
    copy: Option<RemotePid>,
}

impl PidProbe {
    fn new(pid: Term, copy: Option<RemotePid>) -> Self {
        let pid = pid.as_c_arg();
        PidProbe { pid, copy }
    }

    fn key(&self) -> Key<'_, PidProbe> {
        Key::Opaque(vm_hash(self.pid), self)
    }
}

impl Opaque for RemotePid {
    type Probe = PidProbe;

    fn new(probe: &PidProbe) -> Option<Box<Self>> {
        probe.copy.clone().map(Box::new)
    }

    fn matches(&self, probe: &PidProbe) -> bool {
        // SAFETY: both terms are alive, and comparing needs nothing else.
        unsafe { enif_is_identical(self.pid, probe.pid) != 0 }
    }

    fn size(&self) -> usize {
        Object::size(self)
    }
}

// SAFETY: the pid never changes, and any thread may copy it.
unsafe impl Send for RemotePid {}
// SAFETY: as above.
unsafe impl Sync for RemotePid {}

impl Object for RemotePid {
    fn size(&self) -> usize {
        const WORDS: usize = 6;
        size_of::<Self>() + WORDS * size_of::<u64>()
    }
}

impl RemotePid {
    /// Makes a copy of a pid, or returns `None` when there is no memory for it.
    fn new(pid: Term, page: &mut (Option<Arc<Page>>, usize)) -> Option<RemotePid> {
        faults::reach(c"keep a term");
        let (current, copied) = page;
        let of = match current {
            Some(page) if *copied < PAGE => Arc::clone(page),
            // Places of dead processes are not used again: the VM frees an environment as a whole.
            _ => {
                *copied = 0;
                Arc::clone(current.insert(Arc::new(Page::new()?)))
            }
        };
        *copied += 1;
        // SAFETY: the lock is held, so no other thread writes to the environment.
        let pid = unsafe { enif_make_copy(of.0, pid.as_c_arg()) };
        Some(RemotePid { pid, _page: of })
    }

    fn copy<'a>(&self, env: Env<'a>) -> Term<'a> {
        // SAFETY: the copy is made in the environment of the returned term.
        unsafe { Term::new(env, enif_make_copy(env.as_c_arg(), self.pid)) }
    }
}

/// Returns whether an owner is a remote process.
pub fn is_remote(owner: u64) -> bool {
    owner & 1 == 0
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
    Ok(number(&PidProbe::new(pid, None)))
}

fn number(probe: &PidProbe) -> Option<u64> {
    match REMOTES.numbers.get(&probe.key(), &pin())?.value {
        ValueView::Word(word) => Some(word & !1),
        ValueView::Bytes(_) | ValueView::Object(_) => None,
    }
}

/// Returns the owner for a pid. A remote process gets a number if it has none.
pub fn intern(pid: Term) -> Result<u64, Failure> {
    if let Some(owner) = known(pid)? {
        return Ok(owner);
    }
    let mut page = REMOTES.page.lock().unwrap_or_else(PoisonError::into_inner);
    // Another thread may have had the lock before.
    if let Some(owner) = known(pid)? {
        return Ok(owner);
    }
    let number = NEXT.fetch_add(2, Ordering::Relaxed);
    let copy = RemotePid::new(pid, &mut page).ok_or(Failure::BadArgument)?;
    REMOTES
        .pids
        .put(&number_key(number), Value::Object(Box::new(copy.clone())))
        .map_err(|_| Failure::BadArgument)?;
    REMOTES.registries.insert(number, Vec::new());
    let probe = PidProbe::new(pid, Some(copy));
    let kept = REMOTES.numbers.put(&probe.key(), Value::Word(number | 1));
    kept.map_err(|_| {
        forget(number);
        Failure::BadArgument
    })?;
    Ok(number)
}

/// Removes what is known of a number, and returns the registries that its process has been in.
fn forget(number: u64) -> Vec<u64> {
    REMOTES.pids.remove(&number_key(number));
    let registries = REMOTES.registries.remove(&number);
    registries.map_or_else(Vec::new, |(_, registries)| registries)
}

/// Records that a remote process is in a registry. Returns `false` if the process is dead.
pub fn enter(owner: u64, registry: u64) -> bool {
    let Some(mut registries) = REMOTES.registries.get_mut(&owner) else {
        return false;
    };
    // The list may have duplicates, because a restarted registry is entered again.
    if registries.len() == registries.capacity() {
        registries.sort_unstable();
        registries.dedup();
    }
    registries.push(registry);
    true
}

/// Returns how many registries a remote process has been in.
pub fn entered(owner: u64) -> usize {
    let registries = REMOTES.registries.get(&owner);
    registries.map_or(0, |registries| registries.len())
}

/// Declares a remote process dead in every registry. Its number becomes invalid. If the connection
/// comes back and the process registers again, it gets another number. Returns the number, and the
/// names of the registries that the process has been in. Returns `None` if it had no number.
pub fn declare_dead(pid: Term) -> Option<(u64, Vec<u64>)> {
    let _lock = REMOTES.page.lock().unwrap_or_else(PoisonError::into_inner);
    let probe = PidProbe::new(pid, None);
    let owner = number(&probe)?;
    REMOTES.numbers.remove(&probe.key());
    let mut registries = forget(owner);
    registries.sort_unstable();
    registries.dedup();
    Some((owner, registries))
}

/// Returns the number of known remote processes.
pub fn remote_count() -> usize {
    REMOTES.registries.len()
}

/// Returns all remote processes that are known and alive.
pub fn remotes() -> Vec<u64> {
    let numbers = REMOTES.registries.iter();
    numbers.map(|number| *number.key()).collect()
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
    REMOTES.pids.get(&number_key(owner), &pin()).is_some()
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
    let guard = pin();
    let entry = REMOTES.pids.get(&number_key(owner), &guard)?;
    match entry.value {
        ValueView::Object(remote) => Some(remote.copy(env)),
        ValueView::Word(_) | ValueView::Bytes(_) => None,
    }
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
