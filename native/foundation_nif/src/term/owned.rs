//! A term that is more than words: kept as an image and its parts, or in an environment of its own.

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
use super::shared::{Counted, Lent, SharedBinary, lent_size, lent_term, long_binary};
use super::view::Size;
use crate::background::{self, Job};
use crate::faults;
use crate::raw::may_take_long;

/// How many terms are kept with more than their words.
pub static LIVE_TERMS: AtomicI64 = AtomicI64::new(0);

/// An environment with one term in it, which the VM copies for each reader.
pub struct Environment {
    env: *mut ErlNifEnv,
    term: ErlNifTerm,
}

// SAFETY: the term is never changed, and reading or copying it may happen on any thread.
unsafe impl Send for Environment {}
// SAFETY: as above.
unsafe impl Sync for Environment {}

impl Environment {
    /// About what one takes, with a heap that holds a few words.
    pub const SIZE: usize = 2_600;

    /// A copy of `term`, or `None` when there is no memory for it.
    pub fn new(term: Term) -> Option<Environment> {
        // SAFETY: the environment is new; the term is copied into it, and belongs to it.
        unsafe {
            let env = enif_alloc_env();
            if env.is_null() {
                return None;
            }
            let term = enif_make_copy(env, term.as_c_arg());
            Some(Environment { env, term })
        }
    }

    fn copy<'a>(&self, env: Env<'a>) -> Term<'a> {
        // SAFETY: the copy is made in the environment that the term is given.
        unsafe { Term::new(env, enif_make_copy(env.as_c_arg(), self.term)) }
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        // SAFETY: nobody has the environment but this value.
        unsafe { enif_free_env(self.env) }
    }
}

/// A part of a term that is neither in its words nor a binary that they lead to.
enum Part {
    Lent(ResourceArc<Lent>),
    /// A process, port or reference of another node, in the external format.
    External(Box<[u8]>),
    Environment(Environment),
}

impl Part {
    /// A part that is no long binary. `None` when there is no memory for it.
    fn new(term: Term) -> Option<Part> {
        match external(term) {
            Some(bytes) => Some(Part::External(bytes)),
            None => Environment::new(term).map(Part::Environment),
        }
    }

    fn term<'a>(&self, env: Env<'a>) -> Term<'a> {
        match self {
            Part::Lent(lent) => lent_term(lent, env),
            Part::External(bytes) => match env.binary_to_term(bytes) {
                Some((term, _)) => term,
                None => unreachable!("it was read when it was written"),
            },
            Part::Environment(environment) => environment.copy(env),
        }
    }

    /// The bytes of memory that it holds beside itself.
    fn size(&self) -> usize {
        match self {
            Part::Lent(lent) => lent_size(lent),
            Part::External(bytes) => allocated(bytes.len()),
            Part::Environment(_) => Environment::SIZE,
        }
    }
}

/// The external format of a term of another node, from which the same term comes back.
fn external(term: Term) -> Option<Box<[u8]>> {
    let env = term.get_env();
    // SAFETY: each function is asked about a term of its environment.
    let may_be = unsafe {
        let (env, term) = (env.as_c_arg(), term.as_c_arg());
        enif_is_pid(env, term) == 1 || enif_is_port(env, term) == 1
    };
    // A reference of this node may be a magic one, which lives only as long as something holds it.
    let may_be = may_be || is_external_reference(term);
    if !may_be {
        return None;
    }
    let bytes: Box<[u8]> = term.to_binary().as_slice().into();
    let (read, _) = env.binary_to_term(&bytes)?;
    (read == term).then_some(bytes)
}

fn is_external_reference(term: Term) -> bool {
    // SAFETY: asked about a term of its environment.
    let is_reference = unsafe { enif_is_ref(term.get_env().as_c_arg(), term.as_c_arg()) == 1 };
    is_reference && !image::is_own_reference(term)
}

/// How many parts a term may have before the VM copies it as a whole. Each costs more than a word, and
/// an environment of its own as much as hundreds.
const PARTS_MAX: usize = 32;
const ENVIRONMENTS_MAX: usize = 1;

/// An image with absolute pointers, and its parts.
///
/// In the words that are binaries, which the second row of bits tells, is a [`Counted`] binary's word.
struct Whole {
    words: Box<[u64]>,
    #[expect(
        clippy::box_collection,
        reason = "one word in the many terms that have none"
    )]
    parts: Option<Box<Vec<(u32, Part)>>>,
}

impl Whole {
    /// `None` when there is no memory for it, or it has too many parts.
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
        // From here on it gives back what it has been given.
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
                    SharedBinary::Lent(lent) => Part::Lent(lent),
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

    /// The bits of pointers, those of binaries, and the words.
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

    /// Where its binaries belong, and their words.
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
            // SAFETY: the word is one of these. Its reference stays with the image.
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

    /// As how many subterms reading it takes.
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
            // SAFETY: the word is one of these, and this is its last use.
            drop(unsafe { Counted::from_word(word) });
        }
    }
}

/// About what an allocation of so many bytes takes: the VM's allocator adds a word, and rounds up.
fn allocated(bytes: usize) -> usize {
    bytes + 2 * WORD
}

enum Form {
    Image(Whole),
    Counted(Counted),
    Part(Part),
    /// A whole term, how many subterms it has, and how many bytes they take.
    Environment(Box<(Environment, usize, usize)>),
}

impl Form {
    /// `None` when there is no memory for it.
    fn new(term: Term) -> Option<Form> {
        if let Some(bytes) = long_binary(term) {
            return Some(match SharedBinary::new(term, bytes)? {
                SharedBinary::Counted(counted) => Form::Counted(counted),
                SharedBinary::Lent(lent) => Form::Part(Part::Lent(lent)),
            });
        }
        match image::with(term, WORDS_MAX, |built| Form::of_image(&built)).flatten() {
            Some(form) => Some(form),
            None => Form::environment(term),
        }
    }

    /// An image whose parts are few; `None` otherwise.
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

/// About how many subterms were copied in a time. A thread that was stopped meanwhile makes it too
/// many, and then the term is handled with more care than it needs.
fn nodes_in(time: Duration) -> usize {
    const NANOSECONDS: u128 = 50;
    usize::try_from(time.as_nanos() / NANOSECONDS).unwrap_or(usize::MAX)
}

/// A term that is kept.
pub struct OwnedTerm(ManuallyDrop<Form>);

impl OwnedTerm {
    fn of(form: Form) -> OwnedTerm {
        LIVE_TERMS.fetch_add(1, Ordering::Relaxed);
        OwnedTerm(ManuallyDrop::new(form))
    }

    /// A copy of `term`, or `None` when there is no memory for it.
    pub fn new(term: Term) -> Option<OwnedTerm> {
        faults::reach(c"keep a term");
        Form::new(term).map(OwnedTerm::of)
    }

    /// The term of an image that has parts.
    pub(super) fn of_image(built: &Built<'_, '_>) -> Option<OwnedTerm> {
        faults::reach(c"keep a term");
        Form::of_image(built).map(OwnedTerm::of)
    }

    /// Whether copying it takes so long that a normal scheduler must not.
    pub fn is_heavy(&self) -> bool {
        self.nodes() > NODES_MAX
    }

    /// Whether comparing it with another takes so long.
    pub fn is_long(&self) -> bool {
        self.is_heavy() || Object::size(self) > BYTES_MAX
    }

    /// How many subterms a copy of it has to make, or takes as long as.
    pub fn nodes(&self) -> usize {
        match &*self.0 {
            Form::Image(whole) => whole.nodes(),
            Form::Counted(_) | Form::Part(_) => 4,
            Form::Environment(kept) => kept.1,
        }
    }

    /// A copy for the caller.
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
    /// The background thread frees a large term: that takes as long as it has pages, and this may run
    /// in a call.
    fn drop(&mut self) {
        LIVE_TERMS.fetch_sub(1, Ordering::Relaxed);
        let is_large = Object::size(self) > BYTES_MAX;
        // SAFETY: it is taken once, here.
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

/// As a key a term is one that the VM can compare where it is: an image without parts, whose
/// pointers are absolute, or in an environment.
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
            // No key is one.
            Form::Counted(_) | Form::Part(_) => return false,
        };
        // SAFETY: both terms are alive.
        unsafe { enif_is_identical(term, probe.term) == 1 }
    }

    fn size(&self) -> usize {
        Object::size(self)
    }
}
