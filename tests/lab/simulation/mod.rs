//! Deterministic simulation: whole nodes in one thread, and a world that tries to make them lose a write.
//!
//! What runs is the product: the supervision tree, every actor, the journal, redb, the Raft crate, as
//! `Node::start` builds them. What is replaced is the world: the disk forgets what was not synced, tears writes,
//! fails, fills up and rots; the network delays, loses, doubles, reorders, cuts and breaks; clocks drift and jump;
//! processes and machines die at any operation, actors at any moment. Time is tokio's paused clock, so nothing waits.
//! Chance comes from the seed alone: a seed is a run, in every process the same.
//!
//! A run has two phases: faults with clients, then everything is healed and has to converge. As it goes, `facts`
//! hold; in the end the clients' history has to be linearizable, and every node has to hold all of it.
//!
//! ```text
//! plan (seed -> settings, clients, faults) -> world (hosts, lives) -> network, threads, disks
//!                                               |- client (history)
//!                                               `- facts (invariants)   -> verdict
//! ```
//! `shrink` cuts a failing plan's faults down to those that matter.

mod campaign;
mod client;
mod facts;
mod faults;
mod frames;
mod links;
mod network;
mod panics;
mod plan;
mod run;
mod said;
mod settings;
mod shrink;
mod threads;
mod trace;
mod tuning;
mod world;

pub use campaign::{Campaign, Totals, campaign};
pub use plan::{Plan, Shape};
pub use run::{REPEATS, RunOutcome, run, run_apart};
pub use shrink::shrink;
