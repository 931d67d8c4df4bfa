//! The actors of a Converge Ledger node.
//!
//! One folder per actor; each owns one thing and recovers it from disk or from its elders.

#![forbid(unsafe_code)]

pub mod distribution;
pub mod entry;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(test)]
mod golden;
pub mod replication;
pub mod storage;
pub mod watch;
