//! A disk in memory, which a test cuts the power of: it forgets what was not synced, tears writes, fails, fills up, rots.
//!
//! Everything here is deterministic: chance comes from a seed, and time is nowhere.

mod faults;
mod model;
mod pages;
mod sim;

pub use faults::{Change, Counters, Faults};
pub use sim::{Moment, SimDisk};
