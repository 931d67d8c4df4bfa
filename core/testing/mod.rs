//! Oracles for tests, here and in the crates that store and replicate what this one computes.
//!
//! [`Memory`] runs the real apply over maps in memory: what a store must end up with.
//! [`Model`] is the ledger as one would explain it, written a second time and plainly: what apply
//! must end up with.

mod memory;
mod model;

pub use memory::{Memory, Rows};
pub use model::Model;
