//! Real processes: how they become one cluster, and what kills, pauses and directories put back leave.
#![allow(missing_docs)]

#[path = "mod.rs"]
mod processes;
#[path = "../../../support/mod.rs"]
mod support;

mod genesis;
mod kills;
mod pauses;
mod restored;
mod streams;
