//! Chance from a seed: splitmix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators").

/// The step between two states of a generator: the golden ratio.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Every bit of the input changes about half of the output's.
#[must_use]
pub const fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(STEP);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A small generator with a seed; the same seed gives the same rolls on every machine.
#[derive(Clone, Debug, Default)]
pub struct Dice(pub u64);

impl Dice {
    /// The next number.
    pub fn roll(&mut self) -> u64 {
        let rolled = mix(self.0);
        self.0 = self.0.wrapping_add(STEP);
        rolled
    }

    /// A number below `n`.
    ///
    /// # Panics
    /// When `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.roll() % n
    }

    /// True once in `n` times.
    ///
    /// # Panics
    /// When `n` is 0.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// So many bytes.
    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.roll().to_le_bytes()[0]).collect()
    }
}
