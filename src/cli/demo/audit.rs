//! Reads every node on its own and counts what is missing and what is there twice.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::grpc::pb::context::Entry;

use super::super::client::Client;
use super::super::processes::look::read_all;
use super::events::{Acknowledged, Appends, EVENT};
use super::{CALL, Failure};

/// What is wrong, summed over the nodes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Audit {
    /// Acknowledged, and not there at the place that the client was told.
    pub(super) lost: usize,
    /// There more than once.
    pub(super) duplicated: usize,
    /// Sequences that are not 1, 2, 3 ...
    pub(super) gaps: usize,
    /// Nodes that hold something else than the first one.
    pub(super) differing: usize,
}

impl Audit {
    pub(super) fn is_clean(&self) -> bool {
        *self == Audit::default()
    }

    /// Adds what is wrong with one node's entries, per context.
    pub(super) fn add(&mut self, contexts: &Contexts, acknowledged: &[Option<Acknowledged>]) {
        for answer in acknowledged.iter().flatten() {
            let entries = contexts.get(&answer.context_id).map_or(&[][..], Vec::as_slice);
            let at = usize::try_from(answer.sequence - 1).unwrap_or(usize::MAX);
            if entries.get(at).is_none_or(|entry| entry.id != answer.id) {
                self.lost += 1;
            }
        }
        let mut seen = BTreeSet::new();
        for entry in contexts.values().flatten() {
            if !seen.insert(entry.metadata.get(EVENT)) {
                self.duplicated += 1;
            }
        }
        for entries in contexts.values() {
            self.gaps += entries.iter().zip(1..).filter(|(entry, wanted)| entry.sequence != *wanted).count();
        }
    }
}

/// What one node holds.
pub(super) type Contexts = BTreeMap<String, Vec<Entry>>;

/// Reads all nodes.
pub(super) async fn audit(client: &Client, appends: &Appends) -> Result<Audit, Failure> {
    let acknowledged = appends.answers();
    let names: BTreeSet<String> = appends.contexts();
    let mut audit = Audit::default();
    let mut first = None;
    for node in client.nodes() {
        let mut contexts = Contexts::new();
        for name in &names {
            contexts.insert(name.clone(), read_all(node, name, CALL).await?);
        }
        audit.add(&contexts, &acknowledged);
        match &first {
            None => first = Some(contexts),
            Some(first) if *first != contexts => audit.differing += 1,
            Some(_) => {}
        }
    }
    Ok(audit)
}
