//! Nodes in one process: what a host may rely on, and what kills of actors, stops and partitions leave.
#![allow(missing_docs)]

#[path = "mod.rs"]
mod inprocess;

mod deaths;
mod embedding;
mod escalation;
mod exactly_once;
mod leaving;
mod load;
mod node_ends;
mod outdated;
mod partition;
mod poison;
mod read_back;
mod reads;
mod remote;
mod stops;
mod threads;
mod transactions;
mod whole_ledger;
