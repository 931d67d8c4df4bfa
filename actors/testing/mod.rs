//! What tests and simulations put in place of the machine.
//!
//! Behind the cargo feature `testing`, and in no build of a node. Everything here is deterministic:
//! chance comes from a seed, and time is nowhere.

mod dice;
mod disk;
mod faults;
mod journal;
mod model;
mod pages;

pub use dice::Dice;
pub use disk::SimDisk;
pub use faults::{Change, Counters, Faults, Moment};
pub use journal::{Piece, journal};
