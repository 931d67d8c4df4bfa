use std::sync::Arc;

use converge_ledger_core::chance::Dice;
use converge_ledger_core::{Boot, LogIndex, StoreId, Term};

use super::super::in_memory::InMemory;
use super::super::record::{Builder, FileHeader};
use super::*;
use crate::storage::types::{EntryKind, LogEntry};

const FILE_BYTES: u64 = 8 * BLOCK;

/// A file under the test's hands.
#[derive(Clone)]
struct Content {
    header: FileHeader,
    content: Vec<u8>,
}

impl Content {
    fn new(generation: u64, salt: u64) -> Content {
        let header = FileHeader { store_id: StoreId([1; 16]), generation, salt, bytes: FILE_BYTES };
        Content { header, content: vec![0; FILE_BYTES as usize] }
    }

    /// Another life of the same file.
    fn renewed(&self, generation: u64, salt: u64) -> Content {
        Content { content: self.content.clone(), ..Content::new(generation, salt) }
    }

    /// A sealed record, for a place that it is not written to.
    fn sealed(&self, at: u64, lsn: u64, bytes: usize) -> Vec<u8> {
        let mut builder = Builder::default();
        builder.begin();
        builder.put(&op(lsn, bytes));
        builder.seal(&self.header, at, Lsn(lsn)).to_vec()
    }

    /// Writes a record, and says where the next one goes.
    fn write(&mut self, at: u64, lsn: u64, bytes: usize) -> u64 {
        let sealed = self.sealed(at, lsn, bytes);
        self.content[at as usize..][..sealed.len()].copy_from_slice(&sealed);
        at + sealed.len() as u64
    }

    /// Writes the sectors of a record that a mask picks.
    fn tear(&mut self, at: u64, sealed: &[u8], mask: u64) {
        for (n, sector) in sealed.chunks(SECTOR).enumerate().filter(|(n, _)| mask >> n & 1 == 1) {
            self.content[at as usize + n * SECTOR..][..SECTOR].copy_from_slice(sector);
        }
    }

    fn file(&self) -> JournalFile {
        let slot = self.header.generation;
        JournalFile { slot, file: Arc::new(InMemory(self.content.clone())), header: self.header }
    }
}

fn op(lsn: u64, bytes: usize) -> Op {
    match bytes {
        0 => Op::Boot(Boot(lsn)),
        _ => {
            let data = Bytes::from(Dice(lsn + bytes as u64).bytes(bytes));
            Op::Entries(vec![LogEntry { index: LogIndex(lsn), term: Term(1), kind: EntryKind::Normal, data }])
        }
    }
}

/// The records of some files, or the damage that their last one has.
fn surveyed(files: &[&Content], covered: u64) -> Result<Vec<Vec<Op>>, String> {
    match survey(files.iter().map(|file| file.file()).collect(), Lsn(covered)) {
        Ok((journal, None)) => {
            let places = journal.files.iter().flat_map(|scanned| scanned.records.iter().map(|at| (&scanned.file, *at)));
            Ok(places.map(|(file, place)| read(file, place).unwrap()).collect())
        }
        Ok((_, Some(damage))) => Err(format!("record {} at {}", damage.lsn, damage.offset)),
        Err(ScanError::DataLoss(what)) => Err(what),
        Err(other) => panic!("{other:?}"),
    }
}

/// Records 1 to 3, of one, two and one blocks; and where the last of them is, and its end.
fn three() -> (Content, u64, u64) {
    let mut file = Content::new(1, 11);
    let second = file.write(FIRST_RECORD, 1, 300);
    let third = file.write(second, 2, 5000);
    let end = file.write(third, 3, 100);
    (file, third, end)
}

#[test]
fn a_flipped_bit_of_any_record_or_of_its_padding_is_damage() {
    let (file, third, end) = three();
    assert_eq!(surveyed(&[&file], 0), Ok(vec![vec![op(1, 300)], vec![op(2, 5000)], vec![op(3, 100)]]));
    for bit in FIRST_RECORD * 8..end * 8 {
        let mut file = file.clone();
        file.content[bit as usize / 8] ^= 1 << (bit % 8);
        let what = surveyed(&[&file], 0).expect_err("a flipped bit");
        assert_eq!(bit / 8 >= third, what == format!("record 3 at {third}"), "bit {bit}: {what}");
    }
}

/// Every disk that a torn record can leave, over all that may have been in its place: it is there as a whole, or not at all.
#[test]
fn a_torn_record_is_the_end_and_never_damage() {
    let (zeros, third, _) = three();
    let older = {
        let mut old = Content::new(1, 77);
        let mut at = FIRST_RECORD;
        for (lsn, bytes) in [(1, 0), (2, 3000), (3, 9000), (4, 0)] {
            at = old.write(at, lsn, bytes);
        }
        let mut file = old.renewed(2, 11);
        let second = file.write(FIRST_RECORD, 11, 300);
        assert_eq!(file.write(second, 12, 5000), third);
        file
    };
    let attempts = |file: &Content, lsn, missing: &[u64]| {
        let earlier = file.sealed(third, lsn, 7000);
        let torn = missing.iter().map(|sector| {
            let mut file = file.clone();
            file.tear(third, &earlier, !(1 << sector));
            file
        });
        torn.collect::<Vec<_>>()
    };
    let mut grounds: Vec<(Content, u64)> = Vec::new();
    for (file, before) in [(zeros, 0), (older, 10)] {
        let mut empty = file.clone();
        if before == 0 {
            empty.content[third as usize..].fill(0);
        }
        grounds.extend(attempts(&empty, before + 3, &[0, 1, 9]).into_iter().map(|file| (file, before)));
        grounds.push((empty, before));
    }
    for (ground, before) in grounds {
        let kept = [vec![op(before + 1, 300)], vec![op(before + 2, 5000)]];
        assert_eq!(surveyed(&[&ground], before), Ok(kept.to_vec()));
        for (bytes, sectors) in [(0, 8), (3000, 8), (5000, 16)] {
            let sealed = ground.sealed(third, before + 3, bytes);
            assert_eq!(sealed.len() / SECTOR, sectors);
            let whole = [&kept[..], &[vec![op(before + 3, bytes)]]].concat();
            for mask in (0..1 << sectors).step_by(if sectors > 8 { 13 } else { 1 }).chain([(1 << sectors) - 1]) {
                let mut torn = ground.clone();
                torn.tear(third, &sealed, mask);
                let found = surveyed(&[&torn], before);
                let is_whole = mask + 1 == 1 << sectors;
                // Padding may be the same as that of an attempt before it.
                assert!(found == Ok(whole.clone()) || (!is_whole && found == Ok(kept.to_vec())), "{mask:b}: {found:?}");
            }
        }
    }
}

#[test]
fn what_a_later_record_left_says_that_one_is_missing() {
    let (file, third, _) = three();
    // Without its beginning the second was never durable, and then there is no third.
    for lost in [BLOCK, 2 * BLOCK] {
        let mut file = file.clone();
        file.content[(FIRST_RECORD + BLOCK) as usize..][..lost as usize].fill(0);
        assert!(surveyed(&[&file], 0).unwrap_err().contains("record 3 is at"), "{lost}");
    }
    // Nor is there any sector of a fifth without the fourth.
    let mut file = file;
    let sealed = file.sealed(third + 2 * BLOCK, 5, 0);
    file.tear(third + 2 * BLOCK, &sealed, 1 << 4);
    assert!(surveyed(&[&file], 0).unwrap_err().contains("record 5 is at"));
}

#[test]
fn damage_where_a_file_ends_matters_unless_the_next_one_goes_on() {
    let (mut first, _, end) = three();
    first.content[end as usize + 5] ^= 1;
    let mut next = Content::new(2, 12);
    assert_eq!(surveyed(&[&first, &next], 0), Err(format!("record 4 at {end}")));
    next.write(FIRST_RECORD, 4, 0);
    assert_eq!(surveyed(&[&next, &first], 0).map(|records| records.len()), Ok(4));
    // The first record of a file that was ready may be the last one.
    next.content[FIRST_RECORD as usize + 900] ^= 1;
    first.content[end as usize + 5] ^= 1;
    assert_eq!(surveyed(&[&first, &next], 0), Err(format!("record 4 at {FIRST_RECORD}")));
}

#[test]
fn a_first_record_that_is_damaged_is_found_whatever_the_database_covers() {
    for covered in [0, 1] {
        let mut file = Content::new(1, 11);
        file.write(FIRST_RECORD, 1, 0);
        file.content[FIRST_RECORD as usize] ^= 1;
        assert_eq!(surveyed(&[&file], covered), Err(format!("record {} at {FIRST_RECORD}", covered + 1)));
    }
    // A record that the database has may be the damaged one; two of them are more than that.
    let (mut file, third, _) = three();
    file.content[third as usize] ^= 1;
    assert_eq!(surveyed(&[&file], 3), Err(format!("record 3 at {third}")));
    assert!(surveyed(&[&file], 4).unwrap_err().contains("the database is at 4"));
}
