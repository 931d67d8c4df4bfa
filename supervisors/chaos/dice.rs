//! The chance of a run, all of it from one seed.

/// SplitMix64 (Steele, Lea and Flood, 2014). Of its own here, so that a seed repeats its run with every version of every
/// dependency.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        (self.roll() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// The place of one of these, each as likely as its weight; `None` when all weights are zero.
    pub(crate) fn pick(&mut self, weights: impl Iterator<Item = u32> + Clone) -> Option<usize> {
        let sum: u64 = weights.clone().map(u64::from).sum();
        let mut left = self.roll().checked_rem(sum)?;
        for (place, weight) in weights.enumerate() {
            match left.checked_sub(u64::from(weight)) {
                Some(rest) => left = rest,
                None => return Some(place),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of the reference implementation for the seed 1234567.
    #[test]
    fn the_numbers_are_those_of_the_paper() {
        let mut dice = Dice::new(1_234_567);
        let numbers = [(); 3].map(|()| dice.roll());
        assert_eq!(numbers, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn weights_weigh() {
        let mut dice = Dice::new(1);
        let mut hits = [0u32; 3];
        for _ in 0..1_000 {
            hits[dice.pick([1, 0, 3].into_iter()).unwrap()] += 1;
        }
        assert_eq!(hits[1], 0);
        assert!((650..850).contains(&hits[2]), "{hits:?}");
        assert_eq!(dice.pick([0, 0].into_iter()), None);
        assert!((0..1_000).all(|_| (0.0..1.0).contains(&dice.fraction())));
    }
}
