//! Levels: one number in the replicated state that says which formats may be written, and what apply computes.
//!
//! Whatever another node or an older program reads, and whatever apply computes, belongs to a level, a mended mistake
//! included: nodes of two programs that compute another state from one log are a fork. A program reads all levels for ever,
//! for the log is never purged, and writes that of the cluster ([`crate::State::level`]). So what writes such bytes takes the
//! level as an argument, and apply asks the state for it: an old entry keeps its meaning.
//!
//! A level is added so:
//!
//! 1. a line in [`LEVELS`], which is what [`MAX_LEVEL`] and the hellos of links follow from;
//! 2. the new meaning or bytes, behind a comparison with the level. Nothing of a lower one is changed;
//! 3. golden files: a log and a directory of the new level beside those that there are.
//!
//! A node takes no part in a cluster of a level that it does not know: its links are refused, its start refuses the directory,
//! and an entry that it cannot read stops its apply. Nothing raises the level yet.

/// Every level that there ever was: its number, and what came with it.
pub const LEVELS: &[(u32, &str)] = &[(1, "genesis")];

/// The level of a new cluster, and the lowest that is read.
pub const MIN_LEVEL: u32 = LEVELS[0].0;

/// The highest level that this program knows.
pub const MAX_LEVEL: u32 = LEVELS[LEVELS.len() - 1].0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_follow_one_another() {
        assert!(LEVELS.iter().map(|(level, _)| *level).eq(MIN_LEVEL..=MAX_LEVEL));
    }
}
