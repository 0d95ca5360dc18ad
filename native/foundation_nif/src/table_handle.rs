//! How Erlang's terms refer to concurrent tables, also to those from before a reload.
//!
//! When the VM purges the module that holds this library, it forgets the library's resource types,
//! and a library that is loaded again opens new ones. Terms keep the type that they were made with.
//! So this module keeps every type that a table still has, and looks a term up in all of them.
//! Rustler knows only the last type of a name, which is why this is not a `rustler::Resource`.

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

/// What a resource holds. The one without a table keeps its type in memory.
type Content = Option<(Handle, Arc<Generation>)>;

/// The resource type of one load of this library.
struct Generation {
    kind: NonNull<ErlNifResourceType>,
    /// A resource of the type: the VM frees a type that has none, and could then give its address
    /// to the type of another library. It is made with the first table, for none may be made
    /// while the library is being loaded.
    pin: OnceLock<Resource>,
}

// SAFETY: the VM's functions that take the type may be called by any thread, and nothing else is
// done with it.
unsafe impl Send for Generation {}
// SAFETY: as above.
unsafe impl Sync for Generation {}

/// A reference to a resource.
struct Resource(NonNull<c_void>);

// SAFETY: resources are counted atomically, and may be released by any thread.
unsafe impl Send for Resource {}
// SAFETY: as above.
unsafe impl Sync for Resource {}

impl Drop for Resource {
    fn drop(&mut self) {
        // SAFETY: this reference is the one that `enif_alloc_resource` gave.
        unsafe { enif_release_resource(self.0.as_ptr()) }
    }
}

/// The type of the library as it is loaded now, for the look that nearly always succeeds.
static CURRENT: AtomicPtr<ErlNifResourceType> = AtomicPtr::new(ptr::null_mut());
/// All types that tables have, the current one last.
static GENERATIONS: RwLock<Vec<Arc<Generation>>> = RwLock::new(Vec::new());

// Nothing panics under this lock in a way that leaves the list half changed.
fn generations() -> RwLockReadGuard<'static, Vec<Arc<Generation>>> {
    GENERATIONS.read().unwrap_or_else(PoisonError::into_inner)
}

fn generations_mut() -> RwLockWriteGuard<'static, Vec<Arc<Generation>>> {
    GENERATIONS.write().unwrap_or_else(PoisonError::into_inner)
}

/// Opens the type of this load; `false` when the VM refuses. Only for the library's load, as the
/// last thing that can fail there: the VM frees the types of a load that fails.
pub fn open(env: Env) -> bool {
    let callbacks = ErlNifResourceTypeInit {
        dtor: destroy as *const ErlNifResourceDtor,
        stop: ptr::null(),
        down: down as *const ErlNifResourceDown,
    };
    let mut tried = MaybeUninit::<ErlNifResourceFlags>::uninit();
    // SAFETY: the environment is that of the library's load, the name ends with a zero, and the
    // callbacks are functions of this library, which stays in memory (`pin`).
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
    // Of the earlier types only those stay that a table has.
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
        // SAFETY: the type is open: it is current, or was so and has a resource.
        let place = unsafe { enif_alloc_resource(self.kind.as_ptr(), size_of::<Content>()) };
        // The VM ends itself rather than return null.
        let place = NonNull::new(place).expect("the VM allocates a resource or ends");
        // SAFETY: the VM aligns the memory of a resource to a word, it has this size, and nobody
        // else knows of it yet.
        unsafe { place.cast::<Content>().write(content) };
        Resource(place)
    }
}

/// A term that refers to a new table, which hears of the end of `owner`.
pub fn make<'a>(env: Env<'a>, handle: Handle, owner: LocalPid) -> Option<Term<'a>> {
    let generation = generations().last()?.clone();
    generation.pin.get_or_init(|| generation.make(None));
    let resource = generation.make(Some((handle, generation.clone())));
    let mut monitor = MaybeUninit::<ErlNifMonitor>::uninit();
    // SAFETY: the environment is that of this call, and the resource's type has a `down`.
    let monitored = unsafe {
        enif_monitor_process(
            env.as_c_arg(),
            resource.0.as_ptr(),
            owner.as_c_arg(),
            monitor.as_mut_ptr(),
        )
    } == 0;
    // SAFETY: the environment is that of this call, and the reference is held until after it.
    let term = unsafe {
        let term = enif_make_resource(env.as_c_arg(), resource.0.as_ptr());
        Term::new(env, term)
    };
    if !monitored {
        get(term)?.owner_ended();
    }
    Some(term)
}

/// The table that a term refers to, if it refers to one.
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
    // SAFETY: the VM has found a resource of a type of this module, whose resources hold a
    // `Content`. The term keeps it for as long as the term's environment lasts.
    let content = unsafe { &*place.assume_init().cast::<Content>() };
    content.as_ref().map(|(handle, _)| handle)
}

#[cold]
fn get_earlier(term: Term<'_>) -> Option<&Handle> {
    // Under the lock none of these types is freed, since a resource of each is held.
    let generations = generations();
    generations
        .iter()
        .filter(|generation| generation.pin.get().is_some())
        .find_map(|generation| get_of(term, generation.kind.as_ptr()))
}

/// # Safety
///
/// The VM calls this once, when nothing refers to the resource any more.
unsafe extern "C" fn destroy(_env: *mut ErlNifEnv, place: *mut c_void) {
    let _ = catch_unwind(|| {
        // SAFETY: `Generation::make` has written it, and it is not used after this.
        drop(unsafe { place.cast::<Content>().read() });
    });
}

/// # Safety
///
/// The VM calls this with a resource whose process has ended.
unsafe extern "C" fn down(
    _env: *mut ErlNifEnv,
    place: *mut c_void,
    _pid: *const ErlNifPid,
    _monitor: *const ErlNifMonitor,
) {
    let _ = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: `Generation::make` has written it, and the VM keeps it during this call.
        if let Some((handle, _)) = unsafe { &*place.cast::<Content>() } {
            handle.owner_ended();
        }
    }));
}
