//! A term that is kept as it is, in an environment of its own.

use foundation_core::key::Foreign;
use foundation_core::table::Object;
use rustler::codegen_runtime::{ErlNifEnv, ErlNifTerm};
use rustler::sys::{enif_alloc_env, enif_free_env, enif_is_identical, enif_make_copy};
use rustler::{Env, Term};

use super::value::NODES_MAX;
use super::view::Size;

/// A term in an environment of its own.
pub struct OwnedTerm {
    env: *mut ErlNifEnv,
    term: ErlNifTerm,
    size: usize,
    /// How many subterms a copy of it has to make.
    pub(super) nodes: usize,
}

// SAFETY: the term is never changed, and reading or copying it may happen on any thread.
unsafe impl Send for OwnedTerm {}
// SAFETY: as above.
unsafe impl Sync for OwnedTerm {}

impl OwnedTerm {
    /// About what an environment takes.
    const ENVIRONMENT: usize = 1_200;

    /// A copy of `term`, or `None` when there is no memory for it.
    pub fn new(term: Term) -> Option<OwnedTerm> {
        let mut size = Size::default();
        size.add(term);
        // SAFETY: the environment is new; the term is copied into it, and belongs to it.
        unsafe {
            let env = enif_alloc_env();
            if env.is_null() {
                return None;
            }
            LIVE_TERMS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Some(OwnedTerm {
                env,
                term: enif_make_copy(env, term.as_c_arg()),
                size: Self::ENVIRONMENT + size.bytes + size.nodes * 2 * size_of::<ErlNifTerm>(),
                nodes: size.nodes,
            })
        }
    }

    /// Whether copying it takes so long that a normal scheduler must not.
    pub fn is_heavy(&self) -> bool {
        self.nodes > NODES_MAX
    }

    /// A copy for the caller.
    pub fn copy<'a>(&self, env: Env<'a>) -> Term<'a> {
        // SAFETY: the copy is made in the environment that the term is given.
        unsafe { Term::new(env, enif_make_copy(env.as_c_arg(), self.term)) }
    }

    /// Whether this is the term `other`, by `===`.
    pub fn is(&self, other: Term) -> bool {
        // SAFETY: both terms are alive.
        unsafe { enif_is_identical(self.term, other.as_c_arg()) == 1 }
    }
}

impl Drop for OwnedTerm {
    fn drop(&mut self) {
        LIVE_TERMS.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        // SAFETY: nobody has the environment but this value.
        unsafe { enif_free_env(self.env) }
    }
}

/// How many terms are kept in environments of their own.
pub static LIVE_TERMS: std::sync::atomic::AtomicI64 = std::sync::atomic::AtomicI64::new(0);

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
}

impl Probe {
    pub(super) fn new(term: Term) -> Self {
        Probe {
            env: term.get_env().as_c_arg(),
            term: term.as_c_arg(),
        }
    }
}

impl Foreign for OwnedTerm {
    type Probe = Probe;

    fn new(probe: &Probe) -> Option<Box<Self>> {
        let lifetime = ();
        // SAFETY: the term and its environment are those of the current call.
        let term = unsafe { Term::new(Env::new(&lifetime, probe.env), probe.term) };
        OwnedTerm::new(term).map(Box::new)
    }

    fn matches(&self, probe: &Probe) -> bool {
        // SAFETY: both terms are alive.
        unsafe { enif_is_identical(self.term, probe.term) == 1 }
    }

    fn size(&self) -> usize {
        self.size
    }
}
