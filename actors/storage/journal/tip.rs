//! Where the journal goes on.

use converge_ledger_core::Lsn;

use super::record::Builder;
use super::ring::JournalFile;

/// The next file is made when this part of a file is used: an idle ledger has one file, and a busy one never waits.
const PART_BEFORE_NEXT: u64 = 8;

/// Where the journal goes on.
#[derive(Debug)]
pub(crate) struct Tip {
    pub(crate) file: JournalFile,
    pub(crate) offset: u64,
    /// Of the last record.
    pub(crate) last: Lsn,
}

impl Tip {
    /// Writes a sealed record at the tip; it is the last one once it is synced.
    ///
    /// # Panics
    /// When it does not fit: behind the end that the file's header names, nobody would find it.
    pub(crate) fn write(&self, builder: &mut Builder) -> std::io::Result<()> {
        assert!(self.has_room(builder), "a record is larger than a journal file");
        let record = builder.seal(&self.file.header, self.offset, self.last.next());
        self.file.file.write_at(self.offset, record)
    }

    /// Makes the record that was written durable.
    pub(crate) fn sync(&mut self, builder: &Builder) -> std::io::Result<()> {
        self.file.file.sync_data()?;
        self.pass(builder);
        Ok(())
    }

    /// The record that was written is the last one.
    pub(crate) fn pass(&mut self, builder: &Builder) {
        self.offset += builder.sealed_len();
        self.last = self.last.next();
    }

    /// So much of the file is used that the next one is to be made.
    pub(crate) fn wants_next(&self) -> bool {
        self.offset >= self.file.header.bytes / PART_BEFORE_NEXT
    }

    pub(crate) fn has_room(&self, builder: &Builder) -> bool {
        self.offset + builder.sealed_len() <= self.file.header.bytes
    }
}
