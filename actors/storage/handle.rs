//! The public handle.

use std::sync::Arc;

use converge_ledger_core::{Entry, Head, LogIndex, Sequence, Term};
use converge_supervisors::ChildSpec;

use super::error::Error;
use super::settings::Settings;
use super::types::{
    Done, Genesis, HardState, LogEntry, OnApplied, Page, ReadQuery, Recovered, Status,
};

/// Storage, from outside. Cheap to clone, made before the tree, valid across restarts.
#[derive(Clone, Debug)]
pub struct Storage {
    pub(super) settings: Arc<Settings>,
}

#[allow(missing_docs, clippy::missing_errors_doc, clippy::unused_async, clippy::needless_pass_by_value, unused_variables, clippy::must_use_candidate)]
impl Storage {
    pub fn new(settings: Settings, on_applied: OnApplied) -> Storage { unimplemented!() }
    pub fn child_spec(&self) -> ChildSpec { unimplemented!() }
    pub async fn recover(&self) -> Result<Recovered, Error> { Err(Error::Unavailable) }
    pub async fn write_genesis(&self, genesis: Genesis) -> Result<(), Error> { Err(Error::Unavailable) }
    pub fn append(&self, entries: Vec<LogEntry>, hard_state: Option<HardState>, done: Done) -> Result<(), Error> { Err(Error::Unavailable) }
    pub fn log_entries(&self, lo: LogIndex, hi: LogIndex, max_bytes: usize) -> Result<Vec<LogEntry>, Error> { Err(Error::Unavailable) }
    pub fn log_term(&self, index: LogIndex) -> Result<Option<Term>, Error> { Err(Error::Unavailable) }
    pub fn log_last(&self) -> LogIndex { LogIndex(0) }
    pub fn apply(&self, entries: Vec<LogEntry>) -> Result<(), Error> { Err(Error::Unavailable) }
    pub fn read(&self, context: &str, query: ReadQuery) -> Result<Page, Error> { Err(Error::Unavailable) }
    pub fn entry(&self, context: &str, sequence: Sequence) -> Result<Option<Entry>, Error> { Err(Error::Unavailable) }
    pub fn head(&self, context: &str) -> Result<Option<Head>, Error> { Err(Error::Unavailable) }
    pub fn status(&self) -> Status { unimplemented!() }
}
