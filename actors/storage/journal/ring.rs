//! The journal's files: made, named, opened, and given a new life.
//!
//! A file gets its name only when it is zero-filled and both copies of its header are durable. A
//! new life is written copy by copy with a sync between, so that at every moment one copy is
//! sound: a file of which neither is was damaged.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use converge_ledger_core::planted::{self, Bug};
use converge_ledger_core::{Lsn, StoreId};

use super::record::{BLOCK, FIRST_RECORD, FileHeader};
use crate::storage::disk::{Disk, File};
use crate::storage::passing::is_full;

const PREFIX: &str = "journal-";

/// A journal file that is in use or ready for it.
#[derive(Clone, Debug)]
pub(crate) struct JournalFile {
    /// The number in its name.
    pub(crate) slot: u64,
    pub(crate) file: Arc<dyn File>,
    pub(crate) header: FileHeader,
}

/// Files that the writer is done with, and the one it takes next.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    /// Prepared and durable.
    pub(crate) ready: Option<JournalFile>,
    /// Full, with the last LSN in each, oldest first.
    pub(crate) retired: VecDeque<(JournalFile, Lsn)>,
    /// The highest generation in use.
    pub(crate) generation: u64,
    /// The highest slot in use.
    pub(crate) slot: u64,
    /// The size of the file that is written to.
    pub(crate) active_bytes: u64,
    /// The writer will need the next file, or waits for it.
    pub(crate) wanted: bool,
    /// Nobody makes files any more.
    pub(crate) ended: bool,
}

impl Spares {
    /// What all files take.
    pub(crate) fn bytes(&self) -> u64 {
        let others = self.retired.iter().map(|(file, _)| file).chain(&self.ready);
        self.active_bytes + others.map(|file| file.header.bytes).sum::<u64>()
    }

    /// Takes the oldest file of those that are full, when nothing of it is needed any more. Never a younger one: its
    /// records would be missing between those of an older one and those that are written now, and a start would take
    /// that for damage.
    pub(crate) fn take_oldest(&mut self, free: impl Fn(Lsn) -> bool) -> Option<JournalFile> {
        if planted::is(Bug::FileOutOfOrder) {
            let found = self.retired.iter().position(|(_, last)| free(*last))?;
            return self.retired.swap_remove_back(found).map(|(file, _)| file);
        }
        let (_, last) = self.retired.front()?;
        if !free(*last) {
            return None;
        }
        self.retired.pop_front().map(|(file, _)| file)
    }
}

/// What the making of files needs.
#[derive(Clone, Debug)]
pub(crate) struct Maker {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) store_id: StoreId,
    pub(crate) file_bytes: u64,
    /// What a file is written with while it has no data: large, to need few calls.
    pub(crate) fill_bytes: usize,
}

pub(crate) fn file_name(slot: u64) -> String {
    format!("{PREFIX}{slot:04}")
}

pub(crate) fn slot_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?;
    (digits.len() >= 4 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// The name under which a file is made; what a crash leaves of it is removed at the next start.
pub(crate) fn unfinished(name: &str) -> bool {
    name.starts_with(PREFIX) && name.strip_suffix(".new").is_some()
}

impl Maker {
    /// A new file, zero-filled (which halves the time of later syncs) and durable.
    pub(crate) fn make(&self, slot: u64, generation: u64, salt: u64) -> io::Result<JournalFile> {
        let name = self.dir.join(file_name(slot));
        let unfinished = self.dir.join(format!("{}.new", file_name(slot)));
        let file = self.disk.create(&unfinished)?;
        let filled = self.fill(file.as_ref(), generation, salt);
        let header = filled.inspect_err(|error| {
            if is_full(error) {
                // What it takes is what is missing. If it stays, the next start removes it.
                let _ = self.disk.remove(&unfinished);
            }
        })?;
        self.disk.rename(&unfinished, &name)?;
        if !planted::is(Bug::NameUnsynced) {
            self.disk.sync_dir(&self.dir)?;
        }
        Ok(JournalFile { slot, file, header })
    }

    fn fill(&self, file: &dyn File, generation: u64, salt: u64) -> io::Result<FileHeader> {
        let zeros = vec![0; self.fill_bytes];
        let mut at = 0;
        while at < self.file_bytes {
            let step = usize::try_from(self.file_bytes - at).map_or(zeros.len(), |n| n.min(zeros.len()));
            file.write_at(at, &zeros[..step])?;
            at += step as u64;
        }
        let header = FileHeader { store_id: self.store_id, generation, salt, bytes: self.file_bytes };
        file.write_at(0, &header.encode())?;
        file.write_at(BLOCK, &header.encode())?;
        file.sync_data()?;
        Ok(header)
    }

    /// Whether a file has the size that the settings ask for. One of another start may not even
    /// have room for a record of this one.
    pub(crate) fn fits(&self, file: &JournalFile) -> bool {
        file.header.bytes == self.file_bytes
    }

    /// Removes a file that does not fit, of which nothing is needed any more. Durable only with [`Maker::sync_names`].
    pub(crate) fn remove(&self, old: &JournalFile) -> io::Result<()> {
        self.disk.remove(&self.dir.join(file_name(old.slot)))
    }

    /// Makes a removal durable, before any other file is used again: its records would not join those of the others.
    pub(crate) fn sync_names(&self) -> io::Result<()> {
        self.disk.sync_dir(&self.dir)
    }

    /// A new life for a file of which nothing is needed any more.
    pub(crate) fn renew(&self, old: JournalFile, generation: u64, salt: u64) -> io::Result<JournalFile> {
        let salt = if planted::is(Bug::SaltKept) { old.header.salt } else { salt };
        let header = FileHeader { store_id: self.store_id, generation, salt, bytes: old.header.bytes };
        write_header(old.file.as_ref(), &header)?;
        Ok(JournalFile { header, ..old })
    }
}

fn write_header(file: &dyn File, header: &FileHeader) -> io::Result<()> {
    for at in [0, BLOCK] {
        file.write_at(at, &header.encode())?;
        file.sync_data()?;
    }
    Ok(())
}

/// What opening a file came to.
pub(crate) enum Opened {
    /// As it should be.
    Sound(JournalFile),
    /// Neither copy of its header is sound, or it is shorter than any journal file.
    Damaged(String),
    /// A newer program gave it a life, whatever the other copy of its header says.
    Newer { what: String, version: u16 },
}

/// Opens a file by its name, and makes good a copy of the header that a crash or a flip spoilt.
pub(crate) fn open(disk: &dyn Disk, dir: &Path, slot: u64) -> io::Result<Opened> {
    let name = file_name(slot);
    let file = disk.open(&dir.join(&name))?;
    let len = file.len()?;
    if len < FIRST_RECORD {
        return Ok(Opened::Damaged(format!("{name} has only {len} bytes")));
    }
    let mut copies = Vec::new();
    for at in [0, BLOCK] {
        let mut bytes = vec![0; usize::try_from(BLOCK).expect("small")];
        file.read_at(at, &mut bytes)?;
        if let Some(version) = FileHeader::newer_version(&bytes) {
            return Ok(Opened::Newer { what: name, version });
        }
        copies.push(FileHeader::decode(&bytes));
    }
    let Some(header) = copies.iter().flatten().copied().max_by_key(|h| h.generation) else {
        return Ok(Opened::Damaged(format!("{name} has no sound header")));
    };
    if len < header.bytes {
        let bytes = header.bytes;
        return Ok(Opened::Damaged(format!("{name} was cut from {bytes} to {len} bytes")));
    }
    for (at, copy) in [0, BLOCK].into_iter().zip(copies) {
        if copy != Some(header) {
            file.write_at(at, &header.encode())?;
            file.sync_data()?;
        }
    }
    Ok(Opened::Sound(JournalFile { slot, file, header }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::RealDisk;

    /// A start finds several full files, of which the database has everything.
    #[test]
    fn full_files_are_used_again_in_the_order_in_which_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let (store_id, file_bytes) = (StoreId([1; 16]), 64 << 10);
        // Less than a file, and not a part of it.
        let fill_bytes = 10_000;
        let maker = Maker { disk: Arc::new(RealDisk), dir: dir.path().into(), store_id, file_bytes, fill_bytes };
        let mut spares = Spares::default();
        for n in 1..=4 {
            spares.retired.push_back((maker.make(n, n, n).unwrap(), Lsn(0)));
        }
        let taken: Vec<u64> = (0..3).map(|_| spares.take_oldest(|_| true).unwrap().slot).collect();
        assert_eq!(taken, [1, 2, 3]);
        spares.retired.push_front((maker.make(9, 9, 9).unwrap(), Lsn(7)));
        assert!(spares.take_oldest(|last| last < Lsn(7)).is_none(), "a younger one does not go first");
    }

    #[test]
    fn names_are_read_back() {
        assert_eq!(slot_of(&file_name(1)), Some(1));
        assert_eq!(slot_of(&file_name(12345)), Some(12345));
        assert_eq!(slot_of("journal-0001.new"), None);
        assert_eq!(slot_of("journal-"), None);
        assert!(unfinished("journal-0001.new"));
    }
}
