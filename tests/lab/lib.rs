//! The test bench of a Converge Ledger: whole nodes in a simulated world, real nodes under real faults, and the check
//! of what clients saw.
//!
//! Nothing of it is part of a node. It reaches into one through the feature `lab` of `converge-ledger`, which lets a
//! simulation put its own world in place of the machine's, and through the features with which actors and supervisors
//! let themselves be killed.

#![forbid(unsafe_code)]

pub mod disk;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod history;
pub mod segments;
pub mod simulation;
pub mod workload;
