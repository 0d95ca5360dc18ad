//! Lets Erlang terms refer to concurrent tables, even terms from before a code reload.
//!
//! When the VM purges the module of this library, it forgets the library's resource types. A
//! library that is loaded again opens new types, but existing terms keep the type that they were
//! made with. So this module keeps every type that a table still has, and looks a term up in all of
//! them. Rustler knows only the latest type of a name, so this is not a `rustler::Resource`.

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rustler::sys::{
    ErlNifEnv, ErlNifMonitor, ErlNifPid, ErlNifResourceDown, ErlNifResourceDtor,
    ErlNifResourceFlags, ErlNifResourceType, ErlNifResourceTypeInit, enif_alloc_resource,
    enif_get_resource, enif_make_resource, enif_monitor_process, enif_open_resource_type_x,
    enif_release_resource,
};
use rustler::{Env, LocalPid, Term};

use crate::concurrent_table::Handle;

/// The content of a resource. A resource without a table only keeps its type in memory.
type Content = Option<(Handle, Arc<Generation>)>;

/// The resource type of one load of this library.
struct Generation {
    kind: NonNull<ErlNifResourceType>,
    /// A resource of the type. The VM frees a type without resources, and could then give its
    /// address to the type of another library. The resource is made with the first table, because
    /// the VM allows none while the library is being loaded.
    pin: OnceLock<Resource>,
}

// SAFETY: the VM's functions that take the type may be called on any thread, and the type is used
// for nothing else.
unsafe impl Send for Generation {}
// SAFETY: as above.
unsafe impl Sync for Generation {}

/// A counted reference to a resource.
struct Resource(NonNull<c_void>);

// SAFETY: the VM counts references atomically, and any thread may release one.
unsafe impl Send for Resource {}
// SAFETY: as above.
unsafe impl Sync for Resource {}

impl Drop for Resource {
    fn drop(&mut self) {
        // SAFETY: this is the reference that `enif_alloc_resource` returned.
        unsafe { enif_release_resource(self.0.as_ptr()) }
    }
}

/// The type of the current load. Nearly every lookup succeeds with it.
static CURRENT: AtomicPtr<ErlNifResourceType> = AtomicPtr::new(ptr::null_mut());
/// All types that tables have, the current one last.
static GENERATIONS: RwLock<Vec<Arc<Generation>>> = RwLock::new(Vec::new());

// A poisoned lock is fine: no panic under it leaves the list half changed.
fn generations() -> RwLockReadGuard<'static, Vec<Arc<Generation>>> {
    GENERATIONS.read().unwrap_or_else(PoisonError::into_inner)
}

fn generations_mut() -> RwLockWriteGuard<'static, Vec<Arc<Generation>>> {
    GENERATIONS.write().unwrap_or_else(PoisonError::into_inner)
}

/// Opens the type of this load. Returns `false` when the VM refuses. Call it last while the library
/// is loaded: the VM frees the types of a load that fails.
pub fn open(env: Env) -> bool {
    let callbacks = ErlNifResourceTypeInit {
        dtor: destroy as *const ErlNifResourceDtor,
        stop: ptr::null(),
        down: down as *const ErlNifResourceDown,
    };
    let mut tried = MaybeUninit::<ErlNifResourceFlags>::uninit();
    // SAFETY: the environment is that of the library's load, the name ends with a zero byte, and
    // the callbacks are functions of this library, which stays in memory (`pin`).
    let kind = unsafe {
        enif_open_resource_type_x(
            env.as_c_arg(),
            c"Foundation.ConcurrentTable".as_ptr(),
            &raw const callbacks,
            ErlNifResourceFlags::ERL_NIF_RT_CREATE,
            tried.as_mut_ptr(),
        )
    };
    let Some(kind) = NonNull::new(kind.cast_mut()) else {
        return false;
    };
    let mut generations = generations_mut();
    // Keep only those earlier types that a table still has.
    generations.retain(|generation| Arc::strong_count(generation) > 1);
    generations.push(Arc::new(Generation {
        kind,
        pin: OnceLock::new(),
    }));
    CURRENT.store(kind.as_ptr(), Ordering::Release);
    true
}

impl Generation {
    fn make(&self, content: Content) -> Resource {
        const { assert!(align_of::<Content>() <= align_of::<u64>()) };
        // SAFETY: the type is open: it is the current one, or an earlier one that still has a
        // resource.
        let place = unsafe { enif_alloc_resource(self.kind.as_ptr(), size_of::<Content>()) };
        // The VM aborts rather than return null.
        let place = NonNull::new(place).expect("the VM allocates a resource or ends");
        // SAFETY: the VM aligns the memory of a resource to a word, the memory has this size, and
        // no other code knows of it yet.
        unsafe { place.cast::<Content>().write(content) };
        Resource(place)
    }
}

/// Makes a term that refers to a new table, and monitors the table's owner if it has one.
pub fn make(env: Env<'_>, handle: Handle, owner: Option<LocalPid>) -> Option<Term<'_>> {
    let generation = generations().last()?.clone();
    generation.pin.get_or_init(|| generation.make(None));
    let resource = generation.make(Some((handle, generation.clone())));
    let monitored = owner.is_none_or(|owner| monitor(env, &resource, &owner));
    // SAFETY: the environment is that of this call, and the reference is held until after the call.
    let term = unsafe {
        let term = enif_make_resource(env.as_c_arg(), resource.0.as_ptr());
        Term::new(env, term)
    };
    if !monitored {
        get(term)?.owner_ended();
    }
    Some(term)
}

/// Returns `false` when the process is not alive.
fn monitor(env: Env, resource: &Resource, owner: &LocalPid) -> bool {
    let mut monitor = MaybeUninit::<ErlNifMonitor>::uninit();
    // SAFETY: the environment is that of this call, and the resource's type has a `down` callback.
    let refused = unsafe {
        enif_monitor_process(
            env.as_c_arg(),
            resource.0.as_ptr(),
            owner.as_c_arg(),
            monitor.as_mut_ptr(),
        )
    };
    refused == 0
}

/// Returns the table that a term refers to, if it refers to one.
#[inline]
pub fn get(term: Term<'_>) -> Option<&Handle> {
    get_of(term, CURRENT.load(Ordering::Acquire)).or_else(|| get_earlier(term))
}

#[inline]
fn get_of(term: Term<'_>, kind: *const ErlNifResourceType) -> Option<&Handle> {
    let mut place = MaybeUninit::<*const c_void>::uninit();
    // SAFETY: the term belongs to its environment. The VM only compares the type's address.
    let found = unsafe {
        enif_get_resource(
            term.get_env().as_c_arg(),
            term.as_c_arg(),
            kind,
            place.as_mut_ptr(),
        )
    };
    if found == 0 {
        return None;
    }
    // SAFETY: the VM has found a resource of a type of this module, so it holds a `Content`. The
    // term keeps the resource alive for as long as the term's environment lasts.
    let content = unsafe { &*place.assume_init().cast::<Content>() };
    content.as_ref().map(|(handle, _)| handle)
}

#[cold]
fn get_earlier(term: Term<'_>) -> Option<&Handle> {
    // The lock keeps these types alive, since each has a resource that is held here.
    let generations = generations();
    generations
        .iter()
        .filter(|generation| generation.pin.get().is_some())
        .find_map(|generation| get_of(term, generation.kind.as_ptr()))
}

/// # Safety
///
/// The VM calls this once, after the last reference to the resource is gone.
unsafe extern "C" fn destroy(_env: *mut ErlNifEnv, place: *mut c_void) {
    let _ = catch_unwind(|| {
        // SAFETY: `Generation::make` has written it, and nothing uses it after this.
        drop(unsafe { place.cast::<Content>().read() });
    });
}

/// # Safety
///
/// The VM calls this with a resource whose monitored process has ended.
unsafe extern "C" fn down(
    _env: *mut ErlNifEnv,
    place: *mut c_void,
    _pid: *const ErlNifPid,
    _monitor: *const ErlNifMonitor,
) {
    let _ = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: `Generation::make` has written it, and the VM keeps it alive during this call.
        if let Some((handle, _)) = unsafe { &*place.cast::<Content>() } {
            handle.owner_ended();
        }
    }));
}
