//! What tests and simulations put in place of the machine.
//!
//! Behind the cargo feature `testing`, and in no build of a node. Everything here is deterministic:
//! chance comes from a seed, and time is nowhere.

mod disk;
mod faults;
mod journal;
mod model;
mod pages;

pub use converge_ledger_core::chance::Dice;
pub use disk::{Moment, SimDisk};
pub use faults::{Change, Counters, Faults};
pub use journal::{Piece, journal};
