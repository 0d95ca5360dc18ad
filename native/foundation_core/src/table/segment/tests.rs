use super::*;
use crate::table::group::VERSION_MASK;

/// A hash whose home is a group and whose tag is given, in a segment of two groups.
fn hash(home: u64, tag: u64) -> u64 {
    tag << 24 | home << 8
}

fn words(number: u64) -> Words {
    Words {
        k0: number,
        k1: number + 1,
        owner: number + 2,
        value: number + 3,
    }
}

/// A segment that is freed with the test.
struct Own(Segment<'static>);

impl Own {
    fn new(groups_log2: u32) -> Self {
        Own(Segment::new(groups_log2, 0).expect("there is memory"))
    }

    fn insert(&self, hash: u64, number: u64) {
        self.0.insert(&mut self.0.lock(), hash, words(number));
    }

    fn probe(&self, hash: u64, number: u64) -> Option<Words> {
        let Words { k0, k1, .. } = words(number);
        let found = self.0.probe(hash, k0, k1);
        assert_eq!(found, self.0.probe_with(hash, |found| found.k0 == k0));
        found
    }

    fn remove(&self, hash: u64, number: u64) {
        let position = self.0.probe_locked(hash, |found| found.k0 == number);
        position
            .expect("it is there")
            .remove(&mut self.0.lock(), hash);
    }

    fn overflow(&self, group: usize) -> u64 {
        self.0.group(group).meta.load(Ordering::Relaxed) >> 32
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // SAFETY: it is the test's own.
        unsafe { Segment::free(self.0.into_raw()) }
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for an interpreter")]
fn a_mask_has_every_byte_that_matches_and_wrong_ones_only_above() {
    for tag in [0x80, 0x81, 0xAA, 0xFE, 0xFF] {
        for other in [0, 0x80, 0x81, 0x7F, 0xAB, 0xFF] {
            for pattern in 0..256u64 {
                let bytes: [u64; 8] =
                    std::array::from_fn(|byte| if pattern >> byte & 1 == 1 { tag } else { other });
                let tags = (0..8).fold(0, |tags, byte| tags | bytes[byte] << (8 * byte));
                let mask = matching(tags, tag);
                let mut below = false;
                for (byte, found) in bytes.iter().enumerate() {
                    let claimed = mask >> (8 * byte + 7) & 1 == 1;
                    assert!(claimed || *found != tag);
                    assert!(!claimed || *found >= 0x80, "a free slot is claimed");
                    assert!(!claimed || *found == tag || below);
                    below |= *found == tag;
                }
            }
        }
    }
}

#[test]
fn positions_are_those_of_the_taken_slots() {
    assert_eq!(positions(taken(0)).count(), 0);
    assert_eq!(
        positions(taken(0x80FF_0000_0000_9081)).collect::<Vec<_>>(),
        [0, 1, 6, 7]
    );
}

#[test]
fn a_full_group_overflows_into_the_next_and_round_the_end() {
    let segment = Own::new(1);
    for home in [1, 0] {
        for number in 0..8 {
            segment.insert(hash(home, number), 10 * home + number);
        }
    }
    assert_eq!((segment.overflow(0), segment.overflow(1)), (0, 0));
    segment.remove(hash(0, 3), 3);
    segment.insert(hash(1, 100), 99);
    assert_eq!((segment.overflow(0), segment.overflow(1)), (0, 1));
    assert_eq!(segment.probe(hash(1, 100), 99), Some(words(99)));
    assert_eq!(segment.probe(hash(0, 100), 98), None);
    segment.remove(hash(1, 100), 99);
    assert_eq!((segment.overflow(0), segment.overflow(1)), (0, 0));
    assert_eq!(segment.probe(hash(1, 100), 99), None);
}

#[test]
fn a_hole_before_an_overflown_entry_does_not_hide_it() {
    let segment = Own::new(1);
    for number in 0..9 {
        segment.insert(hash(0, 7), number);
    }
    segment.remove(hash(0, 7), 4);
    assert_eq!(segment.probe(hash(0, 7), 8), Some(words(8)));
    // The hole is filled first, and the overflow still counts the one further on.
    segment.insert(hash(0, 7), 20);
    assert_eq!(segment.overflow(0), 1);
    for number in [0, 1, 2, 3, 5, 6, 7, 8, 20] {
        assert_eq!(segment.probe(hash(0, 7), number), Some(words(number)));
    }
}

#[test]
fn entries_with_one_tag_are_told_apart_by_their_words() {
    let segment = Own::new(1);
    for number in 0..5 {
        segment.insert(hash(1, 9), number);
    }
    for number in 0..5 {
        assert_eq!(segment.probe(hash(1, 9), number), Some(words(number)));
    }
    assert_eq!(segment.probe(hash(1, 9), 5), None);
    let mut asked = 0;
    let none = segment.0.probe_with(hash(1, 8), |_| {
        asked += 1;
        true
    });
    assert_eq!((none, asked), (None, 0), "another tag is not looked at");
}

#[test]
fn a_search_of_a_segment_whose_groups_all_overflow_ends() {
    let segment = Own::new(2);
    for number in 0..32 {
        segment.insert(hash(number % 4, number), number);
    }
    for group in 0..4 {
        segment.0.group(group).add_overflow(OVERFLOW_ONE);
    }
    assert_eq!(segment.probe(hash(0, 0), 100), None);
    assert!(segment.0.probe_locked(hash(0, 0), |_| false).is_none());
}

#[test]
fn every_change_gives_a_group_another_even_version() {
    let segment = Own::new(1);
    let version = || segment.0.group(0).meta.load(Ordering::Relaxed) & VERSION_MASK;
    let mut seen = vec![version()];
    segment.insert(hash(0, 1), 1);
    seen.push(version());
    let position = segment.0.probe_locked(hash(0, 1), |_| true);
    position.expect("it is there").replace(5, 6);
    seen.push(version());
    segment.0.group(0).add_overflow(OVERFLOW_ONE);
    seen.push(version());
    segment.0.group(0).add_overflow(OVERFLOW_ONE.wrapping_neg());
    seen.push(version());
    segment.remove(hash(0, 1), 1);
    seen.push(version());
    assert_eq!(seen, [0, 2, 4, 6, 8, 10]);
    assert_eq!(segment.overflow(0), 0);
}

#[test]
fn a_version_that_wraps_leaves_the_overflow_alone() {
    let segment = Own::new(1);
    let group = segment.0.group(0);
    group
        .meta
        .store((OVERFLOW_ONE * 3) | (VERSION_MASK - 1), Ordering::Relaxed);
    segment.insert(hash(0, 1), 1);
    assert_eq!(group.meta.load(Ordering::Relaxed), OVERFLOW_ONE * 3);
    group
        .meta
        .store((OVERFLOW_ONE * 3) | (VERSION_MASK - 1), Ordering::Relaxed);
    group.add_overflow(OVERFLOW_ONE.wrapping_neg());
    assert_eq!(group.meta.load(Ordering::Relaxed), OVERFLOW_ONE * 2);
}

#[test]
fn a_replacement_keeps_the_key() {
    let segment = Own::new(1);
    segment.insert(hash(1, 1), 1);
    let position = segment.0.probe_locked(hash(1, 1), |_| true);
    position.expect("it is there").replace(50, 60);
    let expected = Words {
        owner: 50,
        value: 60,
        ..words(1)
    };
    assert_eq!(segment.probe(hash(1, 1), 1), Some(expected));
}

#[test]
fn all_entries_are_visited_and_the_lock_knows_how_many() {
    let segment = Own::new(3);
    for number in 0..50 {
        segment.insert(hash(number % 8, number), number);
    }
    for number in (0..50).step_by(2) {
        segment.remove(hash(number % 8, number), number);
    }
    let mut seen = Vec::new();
    segment.0.for_each(|words| seen.push(words));
    seen.sort_unstable_by_key(|words| words.k0);
    assert_eq!(seen, (1..50).step_by(2).map(words).collect::<Vec<_>>());
    assert_eq!(segment.0.lock().live, 25);
}

#[test]
fn groups_and_slots_lie_where_no_entry_takes_two_cache_lines() {
    for groups_log2 in 0..10 {
        let segment = Own::new(groups_log2);
        let slot = std::ptr::from_ref(segment.0.slot(segment.0.mask(), GROUP - 1));
        assert_eq!(slot.addr() % 16, 0);
        if groups_log2 > 0 {
            assert_eq!(slot.addr() % size_of::<Slot>(), 0);
        }
        let header = segment.0.header.as_ptr().addr();
        assert_eq!(header % 64, 0);
        assert!(slot.addr() + size_of::<Slot>() <= header + segment.0.size());
    }
}
