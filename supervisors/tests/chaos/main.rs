//! Deaths on purpose.
#![allow(missing_docs)]
#![cfg(feature = "chaos")]

#[path = "../common/mod.rs"]
mod common;

mod edges;
mod faults;
mod monkey;
mod sweep;
