//! Where on a disk a journal has bytes that matter: for a test that lets them rot.

use std::path::{Path, PathBuf};

use converge_ledger_core::{Lsn, StoreId};

use super::record::{BLOCK, FILE_HEADER, RECORD_HEADER, VERSION};
use super::sectors::{seal, unsealed};
use super::{ring, scan};
use crate::storage::Disk;

/// Bytes of a journal file, each of which means something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The file.
    pub path: PathBuf,
    /// Where it begins.
    pub offset: u64,
    /// How many bytes it has.
    pub bytes: u64,
    /// The record that it is, with its padding; none for a copy of the file's header.
    pub record: Option<Lsn>,
    store_id: StoreId,
}

/// What a directory's journal has: the copies of the headers, and the records up to the first that is damaged,
/// in each file; the last record of all comes last. Nothing where a file is damaged so that it cannot be read.
#[must_use]
pub fn pieces(disk: &dyn Disk, dir: &Path) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for slot in disk.list(dir).unwrap_or_default().iter().filter_map(|name| ring::slot_of(name)) {
        let path = dir.join(ring::file_name(slot));
        let Ok(ring::Opened::Sound(file)) = ring::open(disk, dir, slot) else { return Vec::new() };
        let Ok(scanned) = scan::scan_file(file) else { return Vec::new() };
        let store_id = scanned.file.header.store_id;
        let header = |offset| Piece { path: path.clone(), offset, bytes: FILE_HEADER as u64, record: None, store_id };
        pieces.extend([0, BLOCK].map(header));
        pieces.extend(scanned.records.iter().map(|place| Piece {
            path: path.clone(),
            offset: place.offset,
            bytes: place.bytes,
            record: Some(place.lsn),
            store_id,
        }));
    }
    pieces.sort_by_key(|piece| piece.record);
    pieces
}

impl Piece {
    /// Makes it look as if a newer program had written it: sound, and of a version that is not known.
    ///
    /// # Panics
    /// When the file is not there.
    pub fn make_newer(&self, disk: &dyn Disk) {
        let file = disk.open(&self.path).expect("a piece is of a file");
        let mut bytes = vec![0; usize::try_from(self.bytes).expect("small")];
        file.read_at(self.offset, &mut bytes).expect("a piece is in the file");
        match self.record {
            None => renew(&mut bytes, FILE_HEADER - 4),
            Some(lsn) => {
                let mut record = unsealed(&bytes);
                let length = record[LENGTH_AT..].first_chunk().expect("a record has a head");
                record.truncate(RECORD_HEADER + u32::from_le_bytes(*length) as usize);
                renew(&mut record, RECORD_HEADER - 4);
                seal(&record, self.store_id, self.offset, lsn, &mut bytes);
            }
        }
        file.write_at(self.offset, &bytes).expect("the disk takes it");
        file.sync_data().expect("the disk takes it");
    }
}

/// Where a record says how long its body is.
const LENGTH_AT: usize = RECORD_HEADER - 8;

/// Gives it the next version, and the checksum that belongs to it.
fn renew(bytes: &mut [u8], crc: usize) {
    bytes[4..6].copy_from_slice(&(VERSION + 1).to_le_bytes());
    let covered = crc32c::crc32c_append(crc32c::crc32c(&bytes[..crc]), &bytes[crc + 4..]);
    bytes[crc..crc + 4].copy_from_slice(&covered.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use converge_ledger_core::{Boot, StoreId};

    use super::super::record::{Builder, FIRST_RECORD, Op};
    use super::super::ring::Maker;
    use super::*;
    use crate::storage::RealDisk;

    #[test]
    fn headers_come_first_then_records_in_their_order() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path();
        let maker = Maker {
            disk: Arc::new(RealDisk),
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
                let record = builder.seal(&file.header, offset, Lsn(lsn)).to_vec();
                file.file.write_at(offset, &record).unwrap();
            }
        }
        let mut found = pieces(&RealDisk, dir);
        let records: Vec<_> = found.iter().map(|piece| piece.record.map(Lsn::get)).collect();
        assert_eq!(records, [None, None, None, None, Some(1), Some(2), Some(3), Some(4)]);
        let last = found.pop().unwrap();
        assert_eq!((last.path, last.offset), (dir.join("journal-0001"), FIRST_RECORD + BLOCK));
        assert_eq!(last.bytes, BLOCK);
    }
}
