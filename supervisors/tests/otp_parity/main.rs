//! Cases of Erlang/OTP's own test suite for its supervisor (`supervisor_SUITE.erl`), by their names there, and after
//! them what OTP has not (`additions`). A case that differs on purpose says how in its comment.
//!
//! Everywhere: a child that is `{error, {already_started, Pid}}` in OTP is `ChildError::Running` here, and one that is
//! `{restarting, _}` is `ChildError::Restarting` for `start_child` too, where OTP says `already_present`; children of a
//! dynamic supervisor go by an id, not by their process.
//!
//! Left out, with the reason:
//!
//! - sup_start_ignore_init: a specification is a value; there is no `init` that could say `ignore` for it.
//! - extra_return, simple_one_for_one_extra: a start returns an actor and nothing beside it. What these do otherwise is
//!   in child_adm and simple_one_for_one.
//! - faulty_application_shutdown: see the tests of applications.
//! - simple_global_supervisor, already_started_outside_supervisor: nothing is registered by name here.
//! - code_change, code_change_map, code_change_simple, code_change_simple_map, significant_upgrade_*: code is not
//!   replaced while it runs.
//! - get_callback_module: there is none.
//! - format_log_1, format_log_2, external_start_no_progress_log: reports are structured events, formatted by whoever
//!   subscribes.
#![allow(missing_docs)]

mod additions;
mod administration;
#[path = "../common/mod.rs"]
mod common;
mod dynamic;
mod endings;
mod loops;
mod scale;
mod significant;
mod specs;
mod starts;
mod stops;
mod strategies;

use converge_supervisors::{ChildSpec, Restart};

fn keep(_: &str, child: ChildSpec) -> ChildSpec {
    child
}

fn with(restart: Restart) -> impl Fn(&str, ChildSpec) -> ChildSpec {
    move |_, child| child.restart(restart)
}
