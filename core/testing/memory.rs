//! The state machine over maps in memory.

use std::collections::BTreeMap;
use std::convert::Infallible;

use crate::apply::apply;
use crate::batch::{BatchRow, decode_row, row_chunk, row_entry, rows};
use crate::command::{Batch, Command};
use crate::entry::Entry;
use crate::ids::{ContextNo, Lamport, LogIndex, Position, Sequence};
use crate::state::{Effects, Head, IndexChunk, IndexRow, Indexed, KeyRow, State, View, in_window};

/// A whole ledger: state, rows, and the log that they follow from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The state.
    pub state: State,
    /// Everything else.
    pub rows: Rows,
}

/// What a store keeps besides the state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// The log; none for entries without commands.
    pub log: BTreeMap<LogIndex, Option<Batch>>,
    /// The contexts' ends.
    pub heads: BTreeMap<String, Head>,
    /// Idempotency keys.
    pub keys: BTreeMap<(ContextNo, String), KeyRow>,
    /// Where entries are.
    pub index: BTreeMap<(ContextNo, Sequence), IndexRow>,
}

impl View for Rows {
    type Error = Infallible;

    fn head(&self, context_id: &str) -> Result<Option<Head>, Infallible> {
        Ok(self.heads.get(context_id).copied())
    }

    fn key(&self, context: ContextNo, key: &str) -> Result<Option<KeyRow>, Infallible> {
        Ok(self.keys.get(&(context, key.to_owned())).copied())
    }
}

/// The entries of a chunk one by one, as the index of a test has them.
fn each(chunk: &IndexChunk) -> impl Iterator<Item = IndexRow> {
    let IndexChunk { context, first, count, position, index, row, .. } = *chunk;
    (0..u64::from(count)).map(move |n| IndexRow {
        context,
        sequence: Sequence(first.get() + n),
        position: Position(position.get() + n),
        // The chunk itself has it.
        lamport: Lamport(0),
        index,
        row,
    })
}

impl Memory {
    /// Nothing applied yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies the next log entry.
    pub fn apply(&mut self, batch: Option<Batch>) -> Effects {
        let index = self.state.applied.next();
        let Ok(effects) = apply(&mut self.state, &self.rows, index, batch.as_ref());
        self.rows.log.insert(index, batch);
        self.rows.heads.extend(effects.heads.clone());
        for (context, key, row) in &effects.keys {
            let before = self.rows.keys.insert((*context, key.clone()), *row);
            let last = Position(row.position.get() - 1);
            let known = before.filter(|before| in_window(before.position, last, self.state.key_window));
            assert_eq!(known, None, "an idempotency key is written once in a window");
        }
        for indexed in &effects.entries {
            let rows: Vec<IndexRow> = match indexed {
                Indexed::Entry(row) => vec![*row],
                Indexed::Chunk(chunk) => each(chunk).collect(),
            };
            for row in rows {
                let before = self.rows.index.insert((row.context, row.sequence), row);
                assert_eq!(before, None, "an entry is written once");
            }
        }
        effects
    }

    /// All entries of a context, read as a store reads them: from the bytes of the log's rows,
    /// by way of the index.
    ///
    /// # Panics
    /// When the rows do not hold what the index says.
    #[must_use]
    pub fn entries(&self, context_id: &str) -> Vec<Entry> {
        let Some(head) = self.rows.heads.get(context_id) else {
            return Vec::new();
        };
        let range = (head.number, Sequence(0))..=(head.number, Sequence(u64::MAX));
        self.rows.index.range(range).map(|(_, row)| self.entry(context_id, row)).collect()
    }

    fn entry(&self, context_id: &str, at: &IndexRow) -> Entry {
        let batch = self.rows.log[&at.index].as_ref().expect("an entry's log entry is a batch");
        let rows = rows(&batch.encode()).expect("an encoded batch has rows");
        let row = &rows[at.row as usize];
        if let Ok(BatchRow::Command(Command::Stage(stage))) = decode_row(at.row, row) {
            let count = u32::try_from(stage.entries.len()).expect("a chunk is bounded");
            let chunk = row_chunk(at.row, row, context_id, stage.first, count).expect("the index names the chunk");
            return chunk.entry(at.sequence, at.position).expect("the chunk has the entry");
        }
        row_entry(at.row, row, context_id, at.sequence, at.position, at.lamport)
            .expect("the index names the row of the entry")
    }
}
