//! The program as people and scripts meet it.
#![cfg(feature = "cli")]
#![allow(missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod client_all;
mod client_commands;
mod client_files;
mod command_line;
mod health;
mod output;
