//! A term that needs more than words: stored as an image with its parts, or in an environment.

use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use foundation_core::key::Opaque;
use foundation_core::table::Object;
use rustler::codegen_runtime::{ErlNifEnv, ErlNifTerm};
use rustler::sys::{
    enif_alloc_env, enif_free_env, enif_is_identical, enif_is_pid, enif_is_port, enif_is_ref,
    enif_make_copy,
};
use rustler::{Env, ResourceArc, Term};

use super::budget::{BYTES_MAX, IMAGE_BYTES_A_NODE, NODES_MAX};
use super::image::{self, Built, Image, WORD, WORDS_MAX};
use super::shared::{Borrowed, Counted, SharedBinary, borrowed_size, borrowed_term, long_binary};
use super::view::{Size, binary};
use crate::background::{self, Job};
use crate::faults;
use crate::raw::may_take_long;

/// The number of stored terms that need more than their words.
pub static LIVE_TERMS: AtomicI64 = AtomicI64::new(0);

/// An environment with one term in it, which the VM copies for each reader.
pub struct Environment {
    env: *mut ErlNifEnv,
    term: ErlNifTerm,
}

// SAFETY: the term never changes, and any thread may read or copy it.
unsafe impl Send for Environment {}
// SAFETY: as above.
unsafe impl Sync for Environment {}

impl Environment {
    /// The approximate size in bytes of an environment with a few words on its heap.
    pub const SIZE: usize = 2_600;

    /// Makes a copy of `term`, or returns `None` when there is no memory for it.
    pub fn new(term: Term) -> Option<Environment> {
        // SAFETY: the environment is new, and the copied term belongs to it.
        unsafe {
            let env = enif_alloc_env();
            if env.is_null() {
                return None;
            }
            let term = enif_make_copy(env, term.as_c_arg());
            Some(Environment { env, term })
        }
    }

    /// Returns the bytes of a binary, which live as long as the environment.
    pub(super) fn bytes(&self) -> Option<*const [u8]> {
        let lifetime = ();
        // SAFETY: the term belongs to the environment, and no other thread has either of them yet.
        let term = unsafe { Term::new(Env::new(&lifetime, self.env), self.term) };
        binary(term).map(std::ptr::from_ref)
    }

    fn copy<'a>(&self, env: Env<'a>) -> Term<'a> {
        // SAFETY: the copy is made in the environment of the returned term.
        unsafe { Term::new(env, enif_make_copy(env.as_c_arg(), self.term)) }
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        // SAFETY: only this value has the environment.
        unsafe { enif_free_env(self.env) }
    }
}

/// A part of a term that is neither in its words nor a binary that the words point to.
enum Part {
    Borrowed(ResourceArc<Borrowed>),
    /// A process, port or reference of another node, in the external format.
    External(Box<[u8]>),
    Environment(Environment),
}

impl Part {
    /// Makes a part of a term that is not a long binary, or returns `None` without memory for it.
    fn new(term: Term) -> Option<Part> {
        match external(term) {
            Some(bytes) => Some(Part::External(bytes)),
            None => Environment::new(term).map(Part::Environment),
        }
    }

    fn term<'a>(&self, env: Env<'a>) -> Term<'a> {
        match self {
            Part::Borrowed(borrowed) => borrowed_term(borrowed, env),
            Part::External(bytes) => match env.binary_to_term(bytes) {
                Some((term, _)) => term,
                None => unreachable!("it was read when it was written"),
            },
            Part::Environment(environment) => environment.copy(env),
        }
    }

    /// Returns the bytes of memory that it uses, itself not included.
    fn size(&self) -> usize {
        match self {
            Part::Borrowed(borrowed) => borrowed_size(borrowed),
            Part::External(bytes) => allocated(bytes.len()),
            Part::Environment(_) => Environment::SIZE,
        }
    }
}

/// Returns the external format of a term of another node. It decodes to the same term.
fn external(term: Term) -> Option<Box<[u8]>> {
    let env = term.get_env();
    // SAFETY: each function gets a term of its environment.
    let may_be = unsafe {
        let (env, term) = (env.as_c_arg(), term.as_c_arg());
        enif_is_pid(env, term) == 1 || enif_is_port(env, term) == 1
    };
    // A reference of this node may be a magic one, which lives only while something holds it.
    let may_be = may_be || is_external_reference(term);
    if !may_be {
        return None;
    }
    let bytes: Box<[u8]> = term.to_binary().as_slice().into();
    let (read, _) = env.binary_to_term(&bytes)?;
    (read == term).then_some(bytes)
}

fn is_external_reference(term: Term) -> bool {
    // SAFETY: the function gets a term of its environment.
    let is_reference = unsafe { enif_is_ref(term.get_env().as_c_arg(), term.as_c_arg()) == 1 };
    is_reference && !image::is_own_reference(term)
}

/// The most parts of a term. With more, the VM copies the term as a whole. A part costs more than a
/// word, and an environment as much as hundreds of words.
const PARTS_MAX: usize = 32;
const ENVIRONMENTS_MAX: usize = 1;

/// An image with absolute pointers, and its parts.
///
/// The second row of bits marks the words of binaries. Each of them is the word of a [`Counted`]
/// binary.
struct Whole {
    words: Box<[u64]>,
    #[expect(
        clippy::box_collection,
        reason = "one word in the many terms that have none"
    )]
    parts: Option<Box<Vec<(u32, Part)>>>,
}

impl Whole {
    /// Returns `None` when there is no memory for it, or when it has too many parts.
    fn new(built: &Built<'_, '_>) -> Option<Whole> {
        if built.parts.len() > PARTS_MAX {
            return None;
        }
        let (bits, count) = (built.pointers.len(), built.words.len());
        let mut words = Vec::new();
        words.try_reserve_exact(2 * bits + count).ok()?;
        words.extend_from_slice(built.pointers);
        words.resize(2 * bits, 0);
        words.extend_from_slice(built.words);
        // From here on, dropping it releases the binaries and parts that it has.
        let mut whole = Whole {
            words: words.into_boxed_slice(),
            parts: None,
        };
        let mut environments = 0;
        for (at, term) in &built.parts {
            let part = match long_binary(*term) {
                Some(bytes) => match SharedBinary::new(*term, bytes)? {
                    SharedBinary::Counted(counted) => {
                        whole.words[2 * bits + at] = counted.into_word();
                        image::mark(&mut whole.words[bits..2 * bits], *at);
                        continue;
                    }
                    SharedBinary::Borrowed(borrowed) => Part::Borrowed(borrowed),
                },
                None => Part::new(*term)?,
            };
            environments += usize::from(matches!(part, Part::Environment(_)));
            if environments > ENVIRONMENTS_MAX {
                return None;
            }
            whole.parts.get_or_insert_default().push((*at as u32, part));
        }
        let (pointers, words) = whole.words.split_at_mut(2 * bits);
        image::make_absolute(&pointers[..bits], words);
        Some(whole)
    }

    /// Returns the bits of pointers, the bits of binaries, and the words.
    fn rows(&self) -> (&[u64], &[u64], &[u64]) {
        let bits = image::bits(self.words.len(), 2);
        let (bits, words) = self.words.split_at(2 * bits);
        let (pointers, binaries) = bits.split_at(bits.len() / 2);
        (pointers, binaries, words)
    }

    fn image(&self) -> Image<'_> {
        let (pointers, _, words) = self.rows();
        Image::new(pointers, words)
    }

    /// Returns the positions and the words of its binaries.
    fn binaries(&self) -> impl Iterator<Item = (usize, u64)> {
        let (_, binaries, words) = self.rows();
        image::marked(binaries).map(|at| (at, words[at]))
    }

    fn parts(&self) -> &[(u32, Part)] {
        self.parts.as_ref().map_or(&[], |parts| parts.as_slice())
    }

    fn term<'a>(&self, env: Env<'a>) -> Term<'a> {
        let image = self.image();
        let binaries = self.binaries().map(|(at, word)| {
            // SAFETY: it is the word of a counted binary, whose reference stays with the image.
            let binary = ManuallyDrop::new(unsafe { Counted::from_word(word) });
            (at, binary.term(env))
        });
        let parts = self.parts().iter();
        let parts = parts.map(|(at, part)| (*at as usize, part.term(env)));
        image::term_with_parts(env, image, image.address(), binaries.chain(parts))
    }

    fn size(&self) -> usize {
        let binaries = self.binaries().map(|(_, word)| {
            // SAFETY: as in `term`.
            allocated(ManuallyDrop::new(unsafe { Counted::from_word(word) }).size())
        });
        let parts: usize = self.parts().iter().map(|(_, part)| part.size()).sum();
        let beside = self.parts.as_ref().map_or(0, |parts| {
            allocated(size_of::<Vec<(u32, Part)>>())
                + allocated(parts.capacity() * size_of::<(u32, Part)>())
        });
        allocated(size_of_val(&*self.words)) + binaries.sum::<usize>() + parts + beside
    }

    /// Returns the cost of reading it, in subterms.
    fn nodes(&self) -> usize {
        let (_, binaries, words) = self.rows();
        let binaries: u32 = binaries.iter().map(|bits| bits.count_ones()).sum();
        let parts = binaries as usize + 4 * self.parts().len();
        words.len() * WORD / IMAGE_BYTES_A_NODE + parts
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        for (_, word) in self.binaries() {
            // SAFETY: it is the word of a counted binary, and this is its last use.
            drop(unsafe { Counted::from_word(word) });
        }
    }
}

/// Returns about the size of an allocation: the VM's allocator adds a word, and rounds up.
fn allocated(bytes: usize) -> usize {
    bytes + 2 * WORD
}

enum Form {
    Image(Whole),
    Counted(Counted),
    Part(Part),
    /// A whole term, the number of its subterms, and their size in bytes.
    Environment(Box<(Environment, usize, usize)>),
}

impl Form {
    /// Returns `None` when there is no memory for it.
    fn new(term: Term) -> Option<Form> {
        if let Some(bytes) = long_binary(term) {
            return Some(match SharedBinary::new(term, bytes)? {
                SharedBinary::Counted(counted) => Form::Counted(counted),
                SharedBinary::Borrowed(borrowed) => Form::Part(Part::Borrowed(borrowed)),
            });
        }
        match image::with(term, WORDS_MAX, |built| Form::of_image(&built)).flatten() {
            Some(form) => Some(form),
            None => Form::environment(term),
        }
    }

    /// Stores an image with few parts; returns `None` otherwise.
    fn of_image(built: &Built<'_, '_>) -> Option<Form> {
        match built.parts[..] {
            [(0, part)] => external(part).map(|bytes| Form::Part(Part::External(bytes))),
            _ => Whole::new(built).map(Form::Image),
        }
    }

    fn environment(term: Term) -> Option<Form> {
        let mut size = Size::default();
        size.add(term);
        let bytes = size.bytes + size.nodes * 2 * WORD;
        let started = size.is_opaque.then(Instant::now);
        let environment = Environment::new(term)?;
        if let Some(started) = started {
            size.nodes = size.nodes.max(nodes_in(started.elapsed()));
        }
        Some(Form::Environment(Box::new((
            environment,
            size.nodes,
            bytes,
        ))))
    }
}

/// Returns about how many subterms are copied in a time. If the thread was preempted meanwhile the
/// result is too large, and the term is handled more carefully than it needs.
fn nodes_in(time: Duration) -> usize {
    const NANOSECONDS: u128 = 50;
    usize::try_from(time.as_nanos() / NANOSECONDS).unwrap_or(usize::MAX)
}

/// A stored term.
pub struct OwnedTerm(ManuallyDrop<Form>);

impl OwnedTerm {
    fn of(form: Form) -> OwnedTerm {
        LIVE_TERMS.fetch_add(1, Ordering::Relaxed);
        OwnedTerm(ManuallyDrop::new(form))
    }

    /// Makes a copy of `term`, or returns `None` when there is no memory for it.
    pub fn new(term: Term) -> Option<OwnedTerm> {
        faults::reach(c"keep a term");
        Form::new(term).map(OwnedTerm::of)
    }

    /// Stores the term of an image that has parts.
    pub(super) fn of_image(built: &Built<'_, '_>) -> Option<OwnedTerm> {
        faults::reach(c"keep a term");
        Form::of_image(built).map(OwnedTerm::of)
    }

    /// Returns whether copying it takes too long for a normal scheduler.
    pub fn is_heavy(&self) -> bool {
        self.nodes() > NODES_MAX
    }

    /// Returns whether comparing it takes too long for a normal scheduler.
    pub fn is_long(&self) -> bool {
        self.is_heavy() || Object::size(self) > BYTES_MAX
    }

    /// Returns the cost of copying it, in subterms.
    pub fn nodes(&self) -> usize {
        match &*self.0 {
            Form::Image(whole) => whole.nodes(),
            Form::Counted(_) | Form::Part(_) => 4,
            Form::Environment(kept) => kept.1,
        }
    }

    /// Makes a copy for the caller.
    #[inline(never)]
    pub fn copy<'a>(&self, env: Env<'a>) -> Term<'a> {
        match &*self.0 {
            Form::Image(whole) => whole.term(env),
            Form::Counted(binary) => binary.term(env),
            Form::Part(part) => part.term(env),
            Form::Environment(kept) => kept.0.copy(env),
        }
    }
}

impl Drop for OwnedTerm {
    /// The background thread frees a large term, because this may run in a call. Freeing takes time
    /// in proportion to the term's pages.
    fn drop(&mut self) {
        LIVE_TERMS.fetch_sub(1, Ordering::Relaxed);
        let is_large = Object::size(self) > BYTES_MAX;
        // SAFETY: it is taken only here, and only once.
        let form = unsafe { ManuallyDrop::take(&mut self.0) };
        if is_large && !may_take_long() {
            background::send(Job::Free(Box::new(form)));
        }
    }
}

impl Object for OwnedTerm {
    fn size(&self) -> usize {
        let beside = match &*self.0 {
            Form::Image(whole) => whole.size(),
            Form::Counted(binary) => allocated(binary.size()),
            Form::Part(part) => part.size(),
            Form::Environment(kept) => allocated(size_of_val(&**kept)) + Environment::SIZE + kept.2,
        };
        allocated(size_of::<Self>()) + beside
    }
}

/// A term to look for, valid only during the call that its environment belongs to.
#[derive(Debug)]
pub struct Probe {
    env: *mut ErlNifEnv,
    term: ErlNifTerm,
    /// The cost of hashing and comparing it, in subterms.
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

/// A key must be a term that the VM can compare in place. So it is an image without parts, with
/// absolute pointers, or a term in an environment.
impl Opaque for OwnedTerm {
    type Probe = Probe;

    fn new(probe: &Probe) -> Option<Box<Self>> {
        faults::reach(c"keep a term");
        let lifetime = ();
        // SAFETY: the term and its environment are those of the current call.
        let term = unsafe { Term::new(Env::new(&lifetime, probe.env), probe.term) };
        let image = image::with(term, WORDS_MAX, |built| {
            let is_whole = built.parts.is_empty();
            is_whole.then(|| Whole::new(&built).map(Form::Image))
        });
        let form = match image.flatten() {
            Some(form) => form?,
            None => Form::environment(term)?,
        };
        Some(Box::new(OwnedTerm::of(form)))
    }

    fn matches(&self, probe: &Probe) -> bool {
        let term = match &*self.0 {
            Form::Image(whole) => whole.image().root(),
            Form::Environment(kept) => kept.0.term,
            // No key has this form.
            Form::Counted(_) | Form::Part(_) => return false,
        };
        // SAFETY: both terms are alive.
        unsafe { enif_is_identical(term, probe.term) == 1 }
    }

    fn size(&self) -> usize {
        Object::size(self)
    }
}
