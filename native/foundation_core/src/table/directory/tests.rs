use super::super::reclaim::{Guard, pin};
use super::*;

/// A directory whose entries' first word is their hash.
struct Subject(Directory);

fn hash_of(words: &Words) -> u64 {
    words.k0
}

impl Subject {
    fn new() -> Self {
        Subject(Directory::new().expect("there is memory"))
    }

    fn insert(&self, hash: u64) {
        let guard = pin();
        let locked = self.0.lock_for_insert(hash, &guard, hash_of);
        let (segment, mut state) = locked.expect("there is memory");
        let words = Words {
            k0: hash,
            k1: 0,
            owner: 0,
            value: 0,
        };
        segment.insert(&mut state, hash, words);
    }

    fn remove(&self, hash: u64) {
        let guard = pin();
        let (segment, mut state) = self.0.lock(hash, &guard);
        let position = segment.probe_locked(hash, |words| words.k0 == hash);
        position.expect("it is there").remove(&mut state, hash);
        let sparse = segment.is_sparse(&state);
        drop(state);
        if sparse {
            self.0.shrink(hash, &guard, hash_of);
        }
    }

    fn has(&self, hash: u64) -> bool {
        let guard = pin();
        let segment = self.0.segment(hash, &guard);
        segment.probe_with(hash, |words| words.k0 == hash).is_some()
    }

    fn bits(&self) -> u32 {
        self.0.slots(&pin()).bits
    }

    /// The depth, slots and entries of each segment. Checks that the slots lead to the right
    /// segments.
    fn segments(&self, guard: &Guard) -> Vec<(u32, usize, usize)> {
        let mut segments = Vec::new();
        let mut covered = 0u128;
        self.0.for_each_segment(guard, |segment| {
            let state = segment.lock();
            assert!(!state.replaced);
            let mut live = 0;
            segment.for_each(|words| {
                live += 1;
                assert!(self.has(words.k0), "{:#x} is in a wrong segment", words.k0);
            });
            assert_eq!(live, state.live);
            covered += (1 << 64) >> state.depth;
            segments.push((state.depth, segment.slots(), live));
        });
        assert_eq!(
            covered,
            1 << 64,
            "the segments' hashes do not add up to all"
        );
        segments
    }

    /// Compares the directory's size with that of its parts.
    fn check_size(&self, guard: &Guard) {
        let slots = self.0.slots(guard).size();
        let mut segments = 0;
        self.0
            .for_each_segment(guard, |segment| segments += segment.size());
        assert_eq!(self.0.size(), slots + segments);
    }
}

/// Hashes that differ in their first bits and are spread over the groups of a segment.
fn spread(number: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15) & !0xFF
}

const FULL: u64 = 1_024 / 16 * 13;

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_small_segment_doubles_until_it_is_worth_splitting() {
    let subject = Subject::new();
    let guard = pin();
    assert_eq!(subject.segments(&guard), [(0, 16, 0)]);
    for number in 0..FULL {
        subject.insert(spread(number));
    }
    assert_eq!(subject.segments(&guard), [(0, 1_024, FULL as usize)]);
    subject.insert(spread(FULL));
    let segments = subject.segments(&guard);
    assert_eq!((segments.len(), subject.bits()), (2, 1));
    assert!(
        segments
            .iter()
            .all(|(depth, slots, _)| (*depth, *slots) == (1, 1_024))
    );
    subject.check_size(&guard);
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn segments_of_different_depths_share_a_directory() {
    let subject = Subject::new();
    let guard = pin();
    // The first bit of five in six is 1, so that side grows deeper than the other.
    for number in 0..6_000 {
        let side = u64::from(number % 6 != 0) << 63;
        subject.insert(spread(number) >> 1 | side);
    }
    let segments = subject.segments(&guard);
    let depths: Vec<u32> = segments.iter().map(|(depth, ..)| *depth).collect();
    assert!(depths.iter().min() < depths.iter().max(), "{depths:?}");
    assert_eq!(Some(&subject.bits()), depths.iter().max());
    subject.check_size(&guard);
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn hashes_that_share_a_place_double_their_segment_and_leave_the_directory() {
    let subject = Subject::new();
    for number in 0..6_000 {
        subject.insert(1 << 62 | number << 8);
    }
    let guard = pin();
    // It was split by its first two bits, or not at all.
    assert!(subject.bits() <= 2, "{} bits", subject.bits());
    assert!((0..6_000).all(|number| subject.has(1 << 62 | number << 8)));
    subject.check_size(&guard);
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_few_others_among_colliding_hashes_do_not_double_the_directory_for_each_bit() {
    let subject = Subject::new();
    for number in 0..100 {
        subject.insert(spread(number));
    }
    for number in 0..20_000 {
        subject.insert(number << 8);
    }
    assert!(subject.bits() <= 4, "{} bits", subject.bits());
    assert!((0..100).all(|number| subject.has(spread(number))));
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn buddies_merge_and_the_directory_is_halved() {
    let subject = Subject::new();
    let guard = pin();
    for number in 0..20_000 {
        subject.insert(spread(number));
    }
    let full = subject.segments(&guard);
    assert!(subject.bits() >= 4);
    for number in 100..20_000 {
        subject.remove(spread(number));
        if number % 1_000 == 0 {
            subject.segments(&guard);
            subject.check_size(&guard);
        }
    }
    let left = subject.segments(&guard);
    assert!(
        left.len() * 8 <= full.len(),
        "{} of {}",
        left.len(),
        full.len()
    );
    assert!((0..100).all(|number| subject.has(spread(number))));
    for number in 0..100 {
        subject.remove(spread(number));
    }
    assert!(subject.bits() <= 1, "{:?}", subject.segments(&guard));
    subject.check_size(&guard);
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_segment_whose_buddy_is_deeper_becomes_smaller_alone() {
    let subject = Subject::new();
    let guard = pin();
    for number in 0..2 * FULL {
        subject.insert(spread(number) >> 1);
        if number < FULL {
            subject.insert(spread(number) >> 1 | 1 << 63);
        }
    }
    let (_, slots, live) = subject.segments(&guard).pop().expect("there is one");
    assert_eq!((slots, live), (1_024, FULL as usize));
    for number in 5..FULL {
        subject.remove(spread(number) >> 1 | 1 << 63);
    }
    let (depth, slots, live) = subject.segments(&guard).pop().expect("there is one");
    assert_eq!((depth, live), (1, 5));
    assert!(slots <= 64, "{slots} slots for 5 entries");
    assert!((0..5).all(|number| subject.has(spread(number) >> 1 | 1 << 63)));
    subject.check_size(&guard);
}
