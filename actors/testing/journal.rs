//! Where on a simulated disk a journal has bytes that matter: for whoever lets them rot.

use std::path::{Path, PathBuf};

use converge_ledger_core::Lsn;

use super::SimDisk;
use crate::storage::journal::record::{BLOCK, FILE_HEADER, RECORD_HEADER};
use crate::storage::journal::{ring, scan};

/// Bytes of a journal file, each of which means something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The file.
    pub path: PathBuf,
    /// Where it begins.
    pub offset: u64,
    /// How many bytes it has.
    pub bytes: u64,
    /// The record that it is; none for a copy of the file's header.
    pub record: Option<Lsn>,
}

/// What is durable of a directory's journal: the copies of the headers, and the records up to the first that is damaged,
/// in each file; the last record of all comes last. Nothing where a file is damaged so that it cannot be read.
#[must_use]
pub fn journal(disk: &SimDisk, dir: &Path) -> Vec<Piece> {
    let disk = disk.durable();
    let names = disk.files().into_iter().filter_map(|(path, _)| Some(path.file_name()?.to_str()?.to_owned()));
    let mut pieces = Vec::new();
    for slot in names.filter_map(|name| ring::slot_of(&name)).collect::<Vec<_>>() {
        let path = dir.join(ring::file_name(slot));
        let Ok(ring::Opened::Sound(file)) = ring::open(&disk, dir, slot) else { return Vec::new() };
        let Ok(scanned) = scan::scan_file(file) else { return Vec::new() };
        let header = |offset| Piece { path: path.clone(), offset, bytes: FILE_HEADER as u64, record: None };
        pieces.extend([0, BLOCK].map(header));
        pieces.extend(scanned.records.iter().map(|place| Piece {
            path: path.clone(),
            offset: place.offset,
            bytes: RECORD_HEADER as u64 + u64::from(place.length),
            record: Some(place.lsn),
        }));
    }
    pieces.sort_by_key(|piece| piece.record);
    pieces
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::storage::Disk;
    use crate::storage::journal::record::{Builder, FIRST_RECORD, Op};
    use crate::storage::journal::ring::Maker;
    use converge_ledger_core::{Boot, StoreId};

    #[test]
    fn headers_come_first_then_records_in_their_order_and_nothing_that_is_not_durable() {
        let (disk, dir) = (SimDisk::default(), Path::new("/d"));
        let maker = Maker {
            disk: Arc::new(disk.clone()),
            dir: dir.into(),
            store_id: StoreId([1; 16]),
            file_bytes: 64 << 10,
            fill_bytes: 4096,
        };
        // Used in the other order than named.
        for (slot, generation, lsns) in [(1, 2, [3, 4]), (2, 1, [1, 2])] {
            let file = maker.make(slot, generation, generation).unwrap();
            for (lsn, offset) in lsns.into_iter().zip([FIRST_RECORD, FIRST_RECORD + BLOCK]) {
                let mut builder = Builder::default();
                builder.begin();
                builder.put(&Op::Boot(Boot(lsn)));
                let record = builder.seal(file.header.salt, offset, Lsn(lsn)).to_vec();
                file.file.write_at(offset, &record).unwrap();
                if lsn != 4 {
                    file.file.sync_data().unwrap();
                }
            }
        }
        disk.sync_dir(dir).unwrap();
        let records: Vec<_> = journal(&disk, dir).iter().map(|piece| piece.record.map(Lsn::get)).collect();
        assert_eq!(records, [None, None, None, None, Some(1), Some(2), Some(3)]);
        let third = journal(&disk, dir).pop().unwrap();
        assert_eq!((third.path, third.offset), (dir.join("journal-0001"), FIRST_RECORD));
        // Behind the head, a kind and a number.
        assert_eq!(third.bytes, RECORD_HEADER as u64 + 9);
    }
}
