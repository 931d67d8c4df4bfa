//! OTP's rules, told a second time.
//!
//! [`script`] is what is done to a tree, as plain data; [`aim`] makes random ones; [`otp`] says what OTP's supervisor
//! does with one, from its documentation and its meaning, and shares no code with the kit; [`kit`] does it to a tree of
//! the kit; [`compare`] sets two accounts side by side. `otp_differential.rs` holds the kit to the model,
//! `otp_erlang.rs` holds the model and the kit to Erlang's own supervisor.
//!
//! An account is text: one [`Record`] a step, so that a difference can be read as it is printed.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test binary uses its own part of this")]

pub mod aim;
pub mod compare;
pub mod erlang;
pub mod kit;
pub mod otp;
pub mod script;

/// What one step brought about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// In order: `start PATH ok|ignore|fail` and `down PATH WHY` of a worker, `begin PATH` and `end PATH WHY` of a
    /// supervisor; `meanwhile PATH` when others end during this start.
    pub events: Vec<String>,
    /// What supervisors decided, in order: `restart PATH N` of a child, the N-th restart in the window, `SUP gave up on
    /// PATH`, `SUP ends with PATH` for an automatic shutdown. `None`: not told.
    pub verdicts: Option<Vec<String>>,
    /// What a call answered, or a start of the whole tree; empty for other steps.
    pub reply: String,
    /// Every child of every supervisor alive afterwards, depth first in start order: `PATH up`, `PATH new` (up, and not
    /// the process that was there after the step before), `PATH undefined`, `PATH restarting`; before its children, how
    /// many of them each supervisor counts.
    pub view: Vec<String>,
}

/// A tree's whole story: its start, then a record for each step.
pub type Account = Vec<Record>;

/// Whose rules a model goes by: OTP's, or those of the kit, which differ on purpose. `guide.md` tells each with its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// As Erlang/OTP 25 does it.
    Otp,
    /// As OTP, but:
    /// - a restart counts for exactly one period; OTP counts in whole seconds of its clock, and so up to a second longer;
    /// - `terminate_child` reaches a child that is starting, and calls it off; OTP's waits behind the start;
    /// - a child of a dynamic supervisor is asked about as every other; OTP refuses `restart_child` and `delete_child`
    ///   there, and says `ok` to the end of a process that was no child, if it is dead;
    /// - a child of a dynamic supervisor whose restart has nothing to run is forgotten; OTP keeps an entry without a
    ///   process, which nothing can remove and which its supervisor's own stop trips over.
    Kit,
}

/// A supervisor's line in a view.
pub fn counts(path: &str, specs: usize, active: usize, supervisors: usize, workers: usize) -> String {
    format!("{path} has {specs} specs, {active} active, {supervisors} supervisors, {workers} workers")
}
