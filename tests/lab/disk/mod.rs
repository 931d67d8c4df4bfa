//! A disk in memory, which a test cuts the power of: it forgets what was not synced, tears writes, fails, fills up, rots.
//!
//! Everything of it is deterministic: chance comes from a seed, and time is nowhere. Beside it, [`WatchedDisk`] is the machine's
//! own file system.

mod faults;
mod model;
mod pages;
mod real;
mod sim;

pub use faults::{Change, Counters, Faults};
pub use real::WatchedDisk;
pub use sim::{Moment, SimDisk};
