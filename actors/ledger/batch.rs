//! The bytes of a [`Batch`].

use bytes::Bytes;

use crate::codec::CodecError;
use crate::command::{Batch, Command};
use crate::entry::Entry;
use crate::ids::{Lamport, Position, Sequence};

impl Batch {
    /// The bytes of a log entry.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        unimplemented!()
    }

    /// Reads a log entry; payloads are slices of it, not copies.
    ///
    /// # Errors
    /// Anything but what [`Batch::encode`] wrote.
    pub fn decode(data: &Bytes) -> Result<Self, CodecError> {
        let _ = data;
        unimplemented!()
    }
}

/// Splits a log entry into its rows without copying.
///
/// # Errors
/// The bytes are not a batch.
pub fn rows(data: &Bytes) -> Result<Vec<Bytes>, CodecError> {
    let _ = data;
    unimplemented!()
}

/// The command in row `n`.
///
/// # Errors
/// Damage, or a row of another number.
pub fn decode_row(n: u32, row: &Bytes) -> Result<Command, CodecError> {
    let _ = (n, row);
    unimplemented!()
}

/// The entry in row `n`.
///
/// # Errors
/// Damage, or a row that holds another entry.
pub fn row_entry(
    n: u32,
    row: &Bytes,
    context_id: &str,
    sequence: Sequence,
    position: Position,
    lamport: Lamport,
) -> Result<Entry, CodecError> {
    let _ = (n, row, context_id, sequence, position, lamport);
    unimplemented!()
}
