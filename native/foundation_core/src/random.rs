//! Random numbers for sampling and ids, not for secrets.

use std::hash::{BuildHasher, Hasher};

/// A generator: xoshiro256++ (Blackman and Vigna), seeded from the operating system.
#[derive(Clone, Debug)]
pub struct Random([u64; 4]);

impl Default for Random {
    fn default() -> Self {
        Random::new()
    }
}

impl Random {
    /// Makes a generator whose numbers nobody can predict.
    pub fn new() -> Self {
        // `std` seeds its hashers from the operating system; four of them, with different input.
        let word = |salt: u64| {
            let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
            hasher.write_u64(salt);
            hasher.finish()
        };
        // At least one word must not be zero: a generator whose state is all zeros returns zero for
        // good.
        Random([word(1), word(2), word(3), word(4) | 1])
    }

    /// Makes another generator whose numbers are independent of this one's.
    pub fn fork(&mut self) -> Self {
        let mut word = || self.next_u64();
        Random([word(), word(), word(), word() | 1])
    }

    /// Returns 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.0;
        let result = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let t = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= t;
        *d = d.rotate_left(45);
        result
    }

    /// Returns a number from 0 up to 1, exclusive.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Returns a number from 0 up to `bound`, exclusive, with Lemire's multiplication. The bias is
    /// below `bound` in 2^64.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_spread_and_in_bounds() {
        let mut random = Random::new();
        let mut counts = [0u32; 10];
        for _ in 0..100_000 {
            counts[random.below(10) as usize] += 1;
            assert!((0.0..1.0).contains(&random.unit()));
        }
        // 10,000 expected each, with a deviation of 95.
        assert!(
            counts.iter().all(|count| (9_400..10_600).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn generators_differ() {
        assert_ne!(Random::new().next_u64(), Random::new().next_u64());
    }

    #[test]
    fn forks_differ_from_each_other_and_from_their_origin() {
        let mut origin = Random::new();
        let mut forks = [origin.fork(), origin.fork()];
        let [one, other] = forks.each_mut().map(Random::next_u64);
        assert_ne!(one, other);
        assert!(![one, other].contains(&origin.next_u64()));
    }
}
