//! A log entry and its rows: what an index row points to.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::types::{EntryKind, LogEntry};

/// A log entry and, once somebody asked, its rows.
#[derive(Debug)]
pub(crate) struct RowedEntry {
    pub(crate) entry: LogEntry,
    rows: OnceLock<Vec<Bytes>>,
}

impl RowedEntry {
    pub(crate) fn new(entry: LogEntry) -> Arc<RowedEntry> {
        Arc::new(RowedEntry { entry, rows: OnceLock::new() })
    }

    pub(crate) fn rows(&self) -> &[Bytes] {
        self.rows.get_or_init(|| split(&self.entry))
    }
}

/// An entry's data in rows: one per command for a batch; anything else is one row.
pub(crate) fn split(entry: &LogEntry) -> Vec<Bytes> {
    if entry.kind == EntryKind::Normal
        && !entry.data.is_empty()
        && let Ok(rows) = converge_ledger_core::rows(&entry.data)
        && !rows.is_empty()
    {
        return rows;
    }
    vec![entry.data.clone()]
}
