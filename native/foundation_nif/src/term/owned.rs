//! A term that is kept as it is, in an environment of its own.

use std::mem::ManuallyDrop;
use std::time::{Duration, Instant};

use foundation_core::key::Opaque;
use foundation_core::table::Object;
use rustler::codegen_runtime::{ErlNifEnv, ErlNifTerm};
use rustler::sys::{enif_alloc_env, enif_free_env, enif_is_identical, enif_make_copy};
use rustler::{Env, Resource, ResourceArc, Term};

use super::budget::{BYTES_MAX, NODES_MAX};
use super::view::{Size, binary};
use crate::background::{self, Job};
use crate::faults;
use crate::raw::may_take_long;

/// An environment with one term in it.
struct Retained {
    env: *mut ErlNifEnv,
    term: ErlNifTerm,
}

// SAFETY: the term is never changed, and reading or copying it may happen on any thread.
unsafe impl Send for Retained {}
// SAFETY: as above.
unsafe impl Sync for Retained {}

impl Retained {
    /// A copy of `term`, or `None` when there is no memory for it.
    fn new(term: Term) -> Option<Retained> {
        // SAFETY: the environment is new; the term is copied into it, and belongs to it.
        unsafe {
            let env = enif_alloc_env();
            if env.is_null() {
                return None;
            }
            LIVE_TERMS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let term = enif_make_copy(env, term.as_c_arg());
            Some(Retained { env, term })
        }
    }

    /// The bytes of the term if it is a binary, for as long as the environment is there.
    fn bytes(&self) -> Option<*const [u8]> {
        let lifetime = ();
        // SAFETY: the term belongs to the environment.
        let term = unsafe { Term::new(Env::new(&lifetime, self.env), self.term) };
        binary(term).map(std::ptr::from_ref)
    }
}

impl Drop for Retained {
    fn drop(&mut self) {
        LIVE_TERMS.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        // SAFETY: nobody has the environment but this value.
        unsafe { enif_free_env(self.env) }
    }
}

/// How many terms are kept in environments of their own.
pub static LIVE_TERMS: std::sync::atomic::AtomicI64 = std::sync::atomic::AtomicI64::new(0);

/// A binary that the VM shares between processes. It is a resource so that what a reader is given
/// is made in one step: the VM's copying of such a term takes three times as long.
pub struct SharedBinary {
    kept: Retained,
    bytes: *const [u8],
}

// SAFETY: the bytes are those of the term, which is never changed.
unsafe impl Send for SharedBinary {}
// SAFETY: as above.
unsafe impl Sync for SharedBinary {}

#[rustler::resource_impl]
impl Resource for SharedBinary {}

impl SharedBinary {
    fn bytes(&self) -> &[u8] {
        // SAFETY: they live in the environment, which lives as long as `self`.
        unsafe { &*self.bytes }
    }
}

enum Place {
    Own(Retained),
    Shared(ResourceArc<SharedBinary>),
}

impl Place {
    fn new(kept: Retained) -> Self {
        match kept.bytes() {
            Some(bytes) => Place::Shared(ResourceArc::new(SharedBinary { kept, bytes })),
            None => Place::Own(kept),
        }
    }
}

/// A term in an environment of its own.
pub struct OwnedTerm {
    place: ManuallyDrop<Place>,
    size: usize,
    nodes: usize,
}

impl OwnedTerm {
    /// About what an environment takes.
    const ENVIRONMENT: usize = 1_200;

    /// A copy of `term`, or `None` when there is no memory for it.
    pub fn new(term: Term) -> Option<OwnedTerm> {
        faults::reach(c"keep a term");
        let mut size = Size::default();
        size.add(term);
        let started = size.is_opaque.then(Instant::now);
        let kept = Retained::new(term)?;
        if let Some(started) = started {
            size.nodes = size.nodes.max(Self::nodes_in(started.elapsed()));
        }
        Some(OwnedTerm {
            place: ManuallyDrop::new(Place::new(kept)),
            size: Self::ENVIRONMENT + size.bytes + size.nodes * 2 * size_of::<ErlNifTerm>(),
            nodes: size.nodes,
        })
    }

    /// About how many subterms were copied in a time. A thread that was stopped meanwhile makes
    /// it too many, and then the term is handled with more care than it needs.
    fn nodes_in(time: Duration) -> usize {
        const NANOSECONDS: u128 = 50;
        usize::try_from(time.as_nanos() / NANOSECONDS).unwrap_or(usize::MAX)
    }

    /// Whether copying it takes so long that a normal scheduler must not.
    pub fn is_heavy(&self) -> bool {
        self.nodes > NODES_MAX
    }

    /// Whether comparing it with another takes so long.
    pub fn is_long(&self) -> bool {
        self.is_heavy() || self.size > BYTES_MAX
    }

    /// How many subterms a copy of it has to make.
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    fn term(&self) -> ErlNifTerm {
        match &*self.place {
            Place::Own(kept) => kept.term,
            Place::Shared(shared) => shared.kept.term,
        }
    }

    /// A copy for the caller.
    #[inline(never)]
    pub fn copy<'a>(&self, env: Env<'a>) -> Term<'a> {
        match &*self.place {
            // SAFETY: the copy is made in the environment that the term is given.
            Place::Own(kept) => unsafe {
                Term::new(env, enif_make_copy(env.as_c_arg(), kept.term))
            },
            Place::Shared(shared) => shared.make_binary(env, SharedBinary::bytes).to_term(env),
        }
    }

    /// Whether this is the term `other`, by `===`.
    pub fn is(&self, other: Term) -> bool {
        // SAFETY: both terms are alive.
        unsafe { enif_is_identical(self.term(), other.as_c_arg()) == 1 }
    }
}

impl Drop for OwnedTerm {
    /// What is large is given back to the system by the background thread: that takes as long as it has pages,
    /// and whoever drops this may be a call.
    fn drop(&mut self) {
        // SAFETY: it is taken once, here.
        let place = unsafe { ManuallyDrop::take(&mut self.place) };
        if self.size > BYTES_MAX && !may_take_long() {
            background::send(Job::Free(Box::new(place)));
        }
    }
}

impl Object for OwnedTerm {
    fn size(&self) -> usize {
        self.size
    }
}

/// A term to look for. It is used only during the call whose environment it belongs to.
#[derive(Debug)]
pub struct Probe {
    env: *mut ErlNifEnv,
    term: ErlNifTerm,
    /// What hashing and comparing it costs, in subterms.
    pub(super) nodes: usize,
}

impl Probe {
    pub(super) fn new(term: Term, nodes: usize) -> Self {
        Probe {
            env: term.get_env().as_c_arg(),
            term: term.as_c_arg(),
            nodes,
        }
    }
}

impl Opaque for OwnedTerm {
    type Probe = Probe;

    fn new(probe: &Probe) -> Option<Box<Self>> {
        let lifetime = ();
        // SAFETY: the term and its environment are those of the current call.
        let term = unsafe { Term::new(Env::new(&lifetime, probe.env), probe.term) };
        OwnedTerm::new(term).map(Box::new)
    }

    fn matches(&self, probe: &Probe) -> bool {
        // SAFETY: both terms are alive.
        unsafe { enif_is_identical(self.term(), probe.term) == 1 }
    }

    fn size(&self) -> usize {
        self.size
    }
}
