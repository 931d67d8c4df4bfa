//! A running tree: what it does about deaths and requests, and what can be seen of it.
#![allow(missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod application;
mod asking_children;
mod deaf_parents;
mod introspection;
mod kills;
mod latches;
mod linked;
mod order_of_death;
mod requests;
mod runtime;
mod sole;
