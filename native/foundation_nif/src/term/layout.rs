//! Lists, tuples, small maps and the sizes of parts of binaries, read in the VM's memory.
//!
//! Asking the VM for the parts of a term costs 3 to 5 ns per question, and 19 ns for a map with one
//! entry. That is more than the encoding of the parts. The layout of lists and tuples has not
//! changed since before OTP had NIFs, and that of maps not since they exist. When the library is
//! loaded, it checks the layout on terms that the VM has made.

use std::mem::MaybeUninit;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustler::codegen_runtime::ErlNifTerm;
use rustler::sys::{enif_get_list_cell, enif_get_tuple, enif_make_sub_binary};
use rustler::{Encoder, Env, Term};

use super::image::HEAP_BINARY_MAX;
use super::{LIST, PRIMARY, binary_term, image, no_term, shared, word};
use crate::raw::may_take_long;

/// The low two bits of a pointer to a boxed term: a header followed by more words.
pub(super) const BOXED: u64 = 2;
/// The bits of a word that are not part of a pointer.
pub(super) const TAGS: u64 = 7;
/// The bits of a header that tell the kind of the term: all zero for a tuple. The arity is above
/// them.
pub(super) const SUBTAG: u64 = 0x3F;
pub(super) const ARITY: u32 = 6;

/// The header of small maps, or [`NO_HEADER`] where their layout is not as expected.
static SMALL_MAP: AtomicU64 = AtomicU64::new(NO_HEADER);
/// No term has this header: headers end in two zero bits.
const NO_HEADER: u64 = 1;

/// Returns the address that a list or a boxed term points to.
#[inline(always)]
fn pointer(term: Term) -> *const ErlNifTerm {
    (word(term) & !TAGS) as *const ErlNifTerm
}

/// Returns a word of a list cell or of a boxed term, as a number.
///
/// # Safety
///
/// The term is alive and a pointer, and has more than `at` words.
#[inline(always)]
unsafe fn number(term: Term, at: usize) -> u64 {
    // SAFETY: the caller promises it.
    unsafe { *pointer(term).add(at).cast::<u64>() }
}

/// Returns the head and the tail of a nonempty list.
#[inline(always)]
pub fn cell(term: Term<'_>) -> Option<(Term<'_>, Term<'_>)> {
    if word(term) & PRIMARY != LIST {
        return None;
    }
    let (env, cell) = (term.get_env(), pointer(term));
    // SAFETY: a nonempty list points at its head and its tail, which belong to its environment.
    unsafe { Some((Term::new(env, *cell), Term::new(env, *cell.add(1)))) }
}

/// Returns whether a term may be a binary, and asking the VM for its bytes does not take long here.
#[inline(always)]
pub(super) fn may_be_binary(term: Term) -> bool {
    if word(term) & PRIMARY != BOXED {
        return false;
    }
    // SAFETY: a boxed term points at its header.
    let header = unsafe { number(term, 0) };
    header & SUBTAG != 0
        && header != SMALL_MAP.load(Ordering::Relaxed)
        && (header != PART_HEADER.load(Ordering::Relaxed) || !is_long_copy(term))
}

/// Where a part of a binary has its size.
enum PartSize {
    /// A word has the bytes. The first two bytes of another are 0 unless the part starts or ends
    /// within a byte; the VM leaves the others as they were.
    Bytes { len: usize, flags: usize },
    /// Two words have the first bit, and the one after the last.
    Bits { start: usize, end: usize },
}

/// The header of a part of a binary, or [`NO_HEADER`].
static PART_HEADER: AtomicU64 = AtomicU64::new(NO_HEADER);
static PART_SIZE: OnceLock<PartSize> = OnceLock::new();

/// Returns whether a binary is known to be a part of a longer one, which it keeps alive. From OTP
/// 27 on, a part that begins with the first byte is not known as one.
pub(super) fn is_part_of_longer(binary: Term) -> bool {
    if word(binary) & PRIMARY != BOXED {
        return false;
    }
    // SAFETY: a boxed term points at its header, and a part has the words of its size.
    unsafe {
        number(binary, 0) == PART_HEADER.load(Ordering::Relaxed)
            && match PART_SIZE.get() {
                Some(PartSize::Bytes { .. }) => true,
                Some(PartSize::Bits { start, .. }) => number(binary, *start) != 0,
                None => false,
            }
    }
}

/// Returns whether the VM would copy many bytes on this normal scheduler, to tell where they are.
/// It does so for a part of a binary that does not start at a whole byte. A term may have thousands
/// of these, so only short ones are copied here.
#[inline(never)]
fn is_long_copy(part: Term) -> bool {
    // SAFETY: the header is that of a part, which has these words.
    let (len, is_copied) = unsafe {
        match PART_SIZE.get() {
            Some(PartSize::Bytes { len, flags }) => {
                (number(part, *len), !is_whole(number(part, *flags)))
            }
            Some(PartSize::Bits { start, end }) => {
                let (start, end) = (number(part, *start), number(part, *end));
                (end.saturating_sub(start) / 8, start % 8 != 0)
            }
            None => return false,
        }
    };
    is_copied && len > HEAP_BINARY_MAX as u64 && !may_take_long()
}

/// Returns whether the flags of a part are those of whole bytes.
fn is_whole(flags: u64) -> bool {
    flags.to_ne_bytes()[..2] == [0, 0]
}

/// Learns the layout of parts of binaries. Without it the VM is always asked for their bytes.
fn learn_parts(env: Env) {
    const PARTS: [(u64, u64); 2] = [(1_000, 300), (1_500, 777)];
    let whole = binary_term(env, &[0; 4_000]);
    // SAFETY: the bytes are within the binary.
    let part = |(from, len)| unsafe {
        let part = enif_make_sub_binary(env.as_c_arg(), whole.as_c_arg(), from as _, len as _);
        Term::new(env, part)
    };
    let parts = PARTS.map(part);
    if parts.iter().any(|part| word(*part) & PRIMARY != BOXED) {
        return;
    }
    // SAFETY: a boxed term points at its header.
    let headers = parts.map(|part| unsafe { number(part, 0) });
    if headers[0] != headers[1] {
        return;
    }
    let find = |is: fn(u64, (u64, u64)) -> bool| {
        // SAFETY: a boxed term has as many words after its header as that says, or more.
        let is =
            |at: &usize| (0..2).all(|part| is(unsafe { number(parts[part], *at) }, PARTS[part]));
        (1..=boxed_words(parts[0])).find(is)
    };
    let bytes = find(|word, (_, len)| word == len).zip(find(|word, _| is_whole(word)));
    let first_bit = find(|word, (from, _)| word == 8 * from);
    let bits = first_bit.zip(find(|word, (from, len)| word == 8 * (from + len)));
    let size = match (bytes, bits) {
        (Some((len, flags)), None) => PartSize::Bytes { len, flags },
        (None, Some((start, end))) => PartSize::Bits { start, end },
        _ => return,
    };
    // The library may be loaded again into the same VM.
    let _ = PART_SIZE.set(size);
    PART_HEADER.store(headers[0], Ordering::Relaxed);
}

/// The keys and the values of a small map, in the order of its keys.
pub type Entries<'a> = (&'a [ErlNifTerm], &'a [ErlNifTerm]);

/// Returns the elements of a tuple, or `None` for any other term.
#[inline(always)]
pub(super) fn tuple_words(term: Term<'_>) -> Option<&[ErlNifTerm]> {
    if word(term) & PRIMARY != BOXED {
        return None;
    }
    // SAFETY: a boxed term points at its header, and a tuple's header has the number of elements
    // after it.
    unsafe {
        let header = number(term, 0);
        let elements = pointer(term).wrapping_add(1);
        (header & SUBTAG == 0)
            .then(|| std::slice::from_raw_parts(elements, (header >> ARITY) as usize))
    }
}

/// The two elements of a pair; `None` for every other term.
#[inline(always)]
pub fn as_pair<'a>(term: Term<'a>) -> Option<(Term<'a>, Term<'a>)> {
    let [first, second] = *tuple_words(term)? else {
        return None;
    };
    let env = term.get_env();
    // SAFETY: the elements of a term belong to its environment.
    Some(unsafe { (Term::new(env, first), Term::new(env, second)) })
}

/// The contents of a boxed term.
pub(super) enum Boxed<'a> {
    Tuple(&'a [ErlNifTerm]),
    SmallMap(Entries<'a>),
    Other,
}

/// Returns the contents of a term that is neither an immediate nor a list.
#[inline(always)]
pub(super) fn boxed(term: Term<'_>) -> Boxed<'_> {
    debug_assert_eq!(word(term) & PRIMARY, BOXED);
    match (tuple_words(term), small_map(term)) {
        (Some(elements), _) => Boxed::Tuple(elements),
        (None, Some(entries)) => Boxed::SmallMap(entries),
        (None, None) => Boxed::Other,
    }
}

/// Returns how many words follow the header of a boxed term. For a large integer this is exact.
pub(super) fn boxed_words(term: Term) -> usize {
    debug_assert_eq!(word(term) & PRIMARY, BOXED);
    // SAFETY: a boxed term points at its header.
    (unsafe { number(term, 0) } >> ARITY) as usize
}

/// Returns the entries of a small map, or `None` for any other term.
#[inline(always)]
pub fn small_map(term: Term<'_>) -> Option<Entries<'_>> {
    if word(term) & PRIMARY != BOXED {
        return None;
    }
    // SAFETY: a boxed term points at its header. A small map's header is followed by its size, a
    // tuple of that many keys, and that many values.
    unsafe {
        if number(term, 0) != SMALL_MAP.load(Ordering::Relaxed) {
            return None;
        }
        let size = number(term, 1) as usize;
        let map = pointer(term);
        let keys = pointer(Term::new(term.get_env(), *map.add(2))).add(1);
        let keys = std::slice::from_raw_parts(keys, size);
        Some((keys, std::slice::from_raw_parts(map.add(3), size)))
    }
}

/// Returns whether a term is a map.
#[inline]
pub fn is_map(term: Term) -> bool {
    small_map(term).is_some() || term.is_map()
}

/// Checks the assumptions of this module, when the library is loaded. A VM with another layout of
/// lists or tuples cannot use this library. With another layout of maps only, the library asks the
/// VM for their entries.
pub(super) fn is_as_assumed(env: Env, magic: Term) -> bool {
    let encode = |value: i64| value.encode(env);
    let list = Term::list_new_empty(env)
        .list_prepend(encode(1))
        .list_prepend(encode(2));
    let pair = rustler::types::tuple::make_tuple(env, &[encode(3), list]);
    let none = rustler::types::tuple::make_tuple(env, &[]);
    let fits = word(pair) & PRIMARY == BOXED
        && has_cell(list)
        && has_elements(pair, 2)
        && has_elements(none, 0);
    if fits {
        learn_maps(env);
        learn_parts(env);
    }
    shared::learn();
    fits && image::learn(env, SMALL_MAP.load(Ordering::Relaxed), magic)
}

fn has_cell(list: Term) -> bool {
    let (mut head, mut tail) = (no_term(), no_term());
    // SAFETY: the terms are compared only if the function has filled them in.
    let is_list = unsafe {
        enif_get_list_cell(
            list.get_env().as_c_arg(),
            list.as_c_arg(),
            &mut head,
            &mut tail,
        ) == 1
    };
    let read = cell(list).map(|(head, tail)| (head.as_c_arg(), tail.as_c_arg()));
    is_list && read == Some((head, tail))
}

fn has_elements(tuple: Term, arity: usize) -> bool {
    let (mut of_vm, mut elements) = (0, MaybeUninit::<*const ErlNifTerm>::zeroed());
    // SAFETY: the function fills in what it is given.
    let elements = unsafe {
        enif_get_tuple(
            tuple.get_env().as_c_arg(),
            tuple.as_c_arg(),
            &mut of_vm,
            elements.as_mut_ptr(),
        );
        elements.assume_init()
    };
    // SAFETY: a term that is neither a list nor an immediate points at at least one word.
    let header = unsafe { number(tuple, 0) };
    of_vm as usize == arity
        && header == (arity as u64) << ARITY
        && (arity == 0 || elements == pointer(tuple).wrapping_add(1))
}

/// Learns the header of small maps, if all of them have the expected layout.
fn learn_maps(env: Env) {
    let map = |size: i64| {
        (0..size).try_fold(Term::map_new(env), |map, key| {
            map.map_put(key.encode(env), (key + 1_000).encode(env)).ok()
        })
    };
    let (Some(none), Some(one), Some(five), Some(large)) = (map(0), map(1), map(5), map(100))
    else {
        return;
    };
    // SAFETY: a boxed term points at its header.
    let header = |map| unsafe { number(map, 0) };
    if [none, one, five].map(header) != [header(five); 3] || header(large) == header(five) {
        return;
    }
    SMALL_MAP.store(header(five), Ordering::Relaxed);
    let fits = [(none, 0), (one, 1), (five, 5)]
        .into_iter()
        .all(|(map, size)| has_entries(map, size));
    if !fits {
        SMALL_MAP.store(NO_HEADER, Ordering::Relaxed);
    }
}

fn has_entries(map: Term, size: usize) -> bool {
    let env = map.get_env();
    // SAFETY: whatever they are, small maps have at least two words after their header.
    if unsafe { number(map, 1) } != size as u64 {
        return false;
    }
    if size > 0 {
        // SAFETY: as above.
        let keys = unsafe { Term::new(env, *pointer(map).add(2)) };
        if !keys.is_tuple() || !has_elements(keys, size) {
            return false;
        }
    }
    small_map(map).is_some_and(|(keys, values)| {
        keys.iter().zip(values).all(|(key, value)| {
            // SAFETY: the keys of a map belong to its environment.
            let key = unsafe { Term::new(env, *key) };
            map.map_get(key)
                .is_ok_and(|of_vm| of_vm.as_c_arg() == *value)
        })
    })
}
