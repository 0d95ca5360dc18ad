//! Binaries of more than 64 bytes, which the VM shares between processes.
//!
//! A reader may store what it has read again, or a part of it. So a stored binary must not refer to
//! the one that it was made from. Otherwise each such step would wrap the bytes in another layer.
//!
//! - The bytes of a binary up to [`COPIED_MAX`] are copied into a [`Counted`] binary of the VM.
//!   Readers share it like any other binary. So are parts of other binaries up to
//!   [`PART_COPIED_MAX`], which would keep the whole binary alive. So are longer bytes that start
//!   within a byte of another binary: the VM has no bytes of these that could be borrowed.
//! - A longer binary is not copied. A lender, which is an environment that holds the binary, lends
//!   it as a [`Borrowed`] resource. If the bytes already belong to a lender, it lends them again.
//!
//! # Counting
//!
//! The VM shares a binary by adding 1 to its reference count. A NIF can ask for that only with an
//! environment. When the library is loaded, [`learn`] finds the count by the changes that the VM
//! makes to it. [`Counted::term`] adds 1 and hands the VM the new reference. If the count is not
//! found, all binaries are borrowed.

use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError, Weak};

use rustler::codegen_runtime::ErlNifTerm;
use rustler::sys::{
    ErlNifBinary, c_void, enif_alloc_binary, enif_alloc_env, enif_free_env, enif_make_binary,
    enif_make_copy, enif_release_binary,
};
use rustler::{Env, Resource, ResourceArc, Term};

use super::budget::BYTES_MAX;
use super::image::WORD;
use super::layout::is_part_of_longer;
use super::owned::Environment;
use super::view::binary;
use crate::background::{self, Job};
use crate::raw::may_take_long;

/// The longest binary that is copied. For a longer one, an environment adds at most a third of its
/// memory, and takes no longer to make than the copy.
const COPIED_MAX: usize = 8 * 1024;
/// The longest part of a longer binary that is copied. If it were borrowed it would keep the longer
/// one alive, however long that is. The copy takes some 10 µs.
const PART_COPIED_MAX: usize = 64 * 1024;
/// The most lenders that are asked for some bytes: those that begin nearest before them. More could
/// have the bytes only if as many overlapping parts of one binary had been stored.
const ASKED_MAX: usize = 64;

/// The number of stored binaries. A borrowed one counts while a reader has it.
pub static LIVE_BINARIES: AtomicI64 = AtomicI64::new(0);

/// The offsets from a binary's address: its reference count and its size in words, its data in
/// bytes.
struct Header {
    count: usize,
    size: usize,
    data: usize,
}

/// `None` inside if this VM's layout is not as expected.
static HEADER: OnceLock<Option<Header>> = OnceLock::new();

fn header() -> Option<&'static Header> {
    HEADER.get()?.as_ref()
}

/// `ErlNifBinary` of `erl_nif.h`. Rustler hides its fields, because its owner must not change them.
#[repr(C)]
struct Owned {
    size: usize,
    data: *mut u8,
    address: *mut c_void,
    spare: [*mut c_void; 2],
}

const _: () = assert!(size_of::<Owned>() == size_of::<ErlNifBinary>());

impl Owned {
    /// Allocates a binary of this length, if there is memory.
    fn new(len: usize) -> Option<Owned> {
        let mut made = MaybeUninit::<Owned>::uninit();
        // SAFETY: the function fills in the structure when it succeeds, and both types have one
        // layout.
        unsafe {
            (enif_alloc_binary(len, made.as_mut_ptr().cast()) != 0).then(|| made.assume_init())
        }
    }

    fn as_c_arg(&mut self) -> *mut ErlNifBinary {
        (&raw mut *self).cast()
    }
}

/// A binary of the VM with one reference of ours. It is used only if the header's layout is known.
pub struct Counted(NonNull<c_void>);

// SAFETY: the bytes never change, and the count is atomic.
unsafe impl Send for Counted {}
// SAFETY: as above.
unsafe impl Sync for Counted {}

impl Counted {
    /// Makes a copy of the bytes. Returns `None` without memory for it, or if the header is
    /// unknown.
    fn new(bytes: &[u8]) -> Option<Counted> {
        header()?;
        let made = Owned::new(bytes.len())?;
        // SAFETY: there is room for the bytes.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), made.data, bytes.len()) };
        LIVE_BINARIES.fetch_add(1, Ordering::Relaxed);
        NonNull::new(made.address).map(Counted)
    }

    /// Gives up the reference as a word, which [`Counted::from_word`] takes back.
    pub fn into_word(self) -> u64 {
        std::mem::ManuallyDrop::new(self)
            .0
            .as_ptr()
            .expose_provenance() as u64
    }

    /// # Safety
    ///
    /// The word came from [`Counted::into_word`], and is taken back only once.
    pub unsafe fn from_word(word: u64) -> Counted {
        let address = std::ptr::with_exposed_provenance_mut(word as usize);
        // SAFETY: the caller promises it, so it is not a null pointer.
        Counted(unsafe { NonNull::new_unchecked(address) })
    }

    /// Returns a word of the header.
    fn word(&self, at: impl Fn(&Header) -> usize) -> &AtomicU64 {
        let at = header().map_or(0, at);
        // SAFETY: the binary is alive, and the word is part of its header.
        unsafe { self.0.cast::<AtomicU64>().add(at).as_ref() }
    }

    fn len(&self) -> usize {
        self.word(|header| header.size).load(Ordering::Relaxed) as usize
    }

    /// Returns the reference in the form that the VM's functions take.
    fn owned(&self) -> Owned {
        let data = self.0.as_ptr().cast::<u8>();
        Owned {
            size: self.len(),
            data: data.wrapping_add(header().map_or(0, |header| header.data)),
            address: self.0.as_ptr(),
            spare: [std::ptr::null_mut(); 2],
        }
    }

    /// Makes the reader's binary.
    pub fn term<'a>(&self, env: Env<'a>) -> Term<'a> {
        // Count the new reference before it exists. As when the VM shares a binary, our own
        // reference keeps the binary alive meanwhile.
        self.word(|header| header.count)
            .fetch_add(1, Ordering::Relaxed);
        // SAFETY: the VM takes the reference that was just counted.
        unsafe {
            Term::new(
                env,
                enif_make_binary(env.as_c_arg(), self.owned().as_c_arg()),
            )
        }
    }

    /// Returns the bytes of memory that it uses.
    pub fn size(&self) -> usize {
        const HEADER: usize = 48;
        HEADER + self.len()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        LIVE_BINARIES.fetch_sub(1, Ordering::Relaxed);
        // SAFETY: the reference is ours, and is given up only once.
        unsafe { enif_release_binary(self.owned().as_c_arg()) }
    }
}

/// Learns the layout of a binary's header, when the library is loaded.
pub(super) fn learn() {
    HEADER.get_or_init(learn_header);
}

fn learn_header() -> Option<Header> {
    const WORDS: usize = 4;
    const SIZE: usize = 101;
    let mut made = Owned::new(SIZE)?;
    // SAFETY: there is room for as many bytes.
    unsafe { made.data.write_bytes(0, SIZE) };
    let address = made.address.cast::<AtomicU64>();
    let data = (made.data as usize).wrapping_sub(address as usize);
    // SAFETY: a binary's header and its bytes are at least four words, which may be read. Freeing
    // the environments releases it.
    let (before, one, two, after) = unsafe {
        let read = || {
            std::array::from_fn::<u64, WORDS, _>(|at| (*address.add(at)).load(Ordering::Relaxed))
        };
        let (env, other) = (enif_alloc_env(), enif_alloc_env());
        let before = read();
        let term: ErlNifTerm = enif_make_binary(env, made.as_c_arg());
        let one = read();
        enif_make_copy(other, term);
        let two = read();
        enif_free_env(other);
        let after = read();
        enif_free_env(env);
        (before, one, two, after)
    };
    let find = |condition: &dyn Fn(usize) -> bool| {
        let mut found = (0..WORDS).filter(|at| condition(*at));
        found
            .next()
            .filter(|at| (at + 1) * WORD <= data && found.next().is_none())
    };
    let count = find(&|at| one[at] != two[at]).filter(|at| (one[*at], two[*at]) == (1, 2))?;
    let size = find(&|at| one[at] == SIZE as u64)?;
    let is_as_assumed = before == one && after == one && data <= 16 * WORD;
    is_as_assumed.then_some(Header { count, size, data })
}

/// A lender's binary, as a resource, from which a reader's binary is made in one step.
pub struct Borrowed {
    lender: Arc<Lender>,
    bytes: *const [u8],
}

// SAFETY: the bytes never change, and live as long as the lender.
unsafe impl Send for Borrowed {}
// SAFETY: as above.
unsafe impl Sync for Borrowed {}

#[rustler::resource_impl]
impl Resource for Borrowed {}

impl Borrowed {
    fn bytes(&self) -> &[u8] {
        // SAFETY: the bytes live as long as the lender, which `self` keeps alive.
        unsafe { &*self.bytes }
    }
}

impl Drop for Borrowed {
    /// Runs in the process that collects the last binary. The background thread frees large ones.
    fn drop(&mut self) {
        LIVE_BINARIES.fetch_sub(1, Ordering::Relaxed);
        if self.bytes.len() > BYTES_MAX && !may_take_long() {
            background::send(Job::Free(Box::new(self.lender.clone())));
        }
    }
}

/// Keeps a long binary alive.
struct Lender {
    /// The address of its first byte.
    start: usize,
    _environment: Environment,
}

/// Lenders by their first byte, each with the address after its last byte.
type Lenders = BTreeMap<usize, (usize, Weak<Lender>)>;

static LENDERS: LazyLock<Mutex<Lenders>> = LazyLock::new(Mutex::default);

impl Lender {
    /// Returns a lender of these bytes of the binary `term`, and where the lender has them.
    ///
    /// The caller's own bytes can be a temporary copy, which the VM frees when the call ends. It
    /// makes one of a binary that does not start at a whole byte. A new lender lends its own bytes.
    fn of(term: Term, bytes: &[u8]) -> Option<(Arc<Lender>, *const [u8])> {
        if let Some(lender) = Lender::containing(bytes) {
            return Some((lender, bytes));
        }
        let environment = Environment::new(term)?;
        let bytes = environment.bytes()?;
        let start = bytes.addr();
        let lender = Arc::new(Lender {
            start,
            _environment: environment,
        });
        let mut lenders = LENDERS.lock().unwrap_or_else(PoisonError::into_inner);
        lenders.insert(start, (start + bytes.len(), Arc::downgrade(&lender)));
        Some((lender, bytes))
    }

    /// Upgrades no lender but the one it returns. If another thread let go of a rejected lender
    /// meanwhile, this thread would drop it, and [`Lender::drop`] takes the lock that is held here.
    fn containing(bytes: &[u8]) -> Option<Arc<Lender>> {
        let Range { start, end } = bytes.as_ptr_range();
        let lenders = LENDERS.lock().unwrap_or_else(PoisonError::into_inner);
        let before = lenders.range(..=start.addr()).rev().take(ASKED_MAX);
        let mut around = before.filter(|(_, (lent_end, _))| end.addr() <= *lent_end);
        // A lender that can be upgraded keeps its bytes alive, so these are the same bytes.
        around.find_map(|(_, (_, lender))| lender.upgrade())
    }
}

impl Drop for Lender {
    fn drop(&mut self) {
        let mut lenders = LENDERS.lock().unwrap_or_else(PoisonError::into_inner);
        // A later lender of bytes with the same start may have taken this entry.
        if let Some((_, lender)) = lenders.get(&self.start)
            && lender.strong_count() == 0
        {
            lenders.remove(&self.start);
        }
    }
}

/// A stored binary.
pub enum SharedBinary {
    Counted(Counted),
    Borrowed(ResourceArc<Borrowed>),
}

impl SharedBinary {
    /// Stores the binary `term`, which has these bytes. Returns `None` without memory for it.
    pub fn new(term: Term, bytes: &[u8]) -> Option<Self> {
        let is_copied = bytes.len() <= COPIED_MAX
            || (bytes.len() <= PART_COPIED_MAX && is_part_of_longer(term))
            || is_temporary(term, bytes);
        if is_copied && header().is_some() {
            return Counted::new(bytes).map(SharedBinary::Counted);
        }
        let (lender, bytes) = Lender::of(term, bytes)?;
        LIVE_BINARIES.fetch_add(1, Ordering::Relaxed);
        let borrowed = ResourceArc::new(Borrowed { lender, bytes });
        Some(SharedBinary::Borrowed(borrowed))
    }
}

/// Returns whether the VM copied `bytes` for this call. Then it copies them again, elsewhere, when
/// it is asked again. A lender would keep the whole binary and a copy.
fn is_temporary(term: Term, bytes: &[u8]) -> bool {
    binary(term).is_none_or(|again| again.as_ptr() != bytes.as_ptr())
}

/// Makes the reader's binary of a borrowed one.
pub fn borrowed_term<'a>(borrowed: &ResourceArc<Borrowed>, env: Env<'a>) -> Term<'a> {
    borrowed.make_binary(env, Borrowed::bytes).to_term(env)
}

/// Returns the bytes of memory that a borrowed binary uses.
pub fn borrowed_size(borrowed: &Borrowed) -> usize {
    /// The VM's part of a resource.
    const RESOURCE: usize = 120;
    let lender = Environment::SIZE + size_of::<Lender>();
    RESOURCE + size_of::<Borrowed>() + lender + borrowed.bytes.len()
}

/// Returns the bytes of a binary that is longer than a heap binary.
pub(super) fn long_binary(term: Term<'_>) -> Option<&[u8]> {
    binary(term).filter(|bytes| bytes.len() > super::image::HEAP_BINARY_MAX)
}
