//! What a newer program wrote, found by this one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use converge_actors::storage::{Piece, pieces};
use converge_lab::disk::SimDisk;

use super::{Leader, RunningStorage, one_thread, simulated, write};

/// A directory as a kill leaves it, with records that the database does not have.
fn furnished() -> (SimDisk, Leader) {
    one_thread(async {
        let (disk, mut leader) = (SimDisk::default(), Leader::new());
        let node = RunningStorage::start(simulated(&disk, 77, 1 << 30)).await;
        for n in 0..20_u8 {
            leader.write(&node, &[write("c", "k", &[n; 3000])]).await;
        }
        (disk.killed(), leader)
    })
}

fn journal(disk: &SimDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = disk.files().into_iter().map(|(path, _)| path);
    let journal = files.filter(|path| path.to_string_lossy().contains("journal-"));
    journal.map(|path| (path.clone(), disk.content(&path).unwrap())).collect()
}

fn starts(disk: &SimDisk) -> Result<RunningStorage, String> {
    one_thread(RunningStorage::try_start(simulated(disk, 78, 1))).map_err(|error| error.to_string())
}

/// A start refuses the journal, says why, and changes nothing: the program that wrote it has all of it.
pub fn records_and_headers_of_a_newer_program_are_not_the_end() {
    let (disk, leader) = furnished();
    let found = pieces(&disk.killed(), Path::new("/data"));
    let records = found.iter().filter(|piece| piece.record.is_some()).count();
    let headers: Vec<&Piece> = found.iter().filter(|piece| piece.record.is_none()).collect();
    assert!(records > 20 && headers.len() >= 4, "{found:#?}");
    // The last record, the one before it, one in the middle, and each copy of each header.
    let picked = [1, 2, records / 2].map(|back| &found[found.len() - back]);
    for piece in picked.into_iter().chain(headers) {
        let disk = disk.killed();
        piece.make_newer(&disk);
        let before = journal(&disk);
        let refused = starts(&disk).err().unwrap_or_else(|| panic!("{piece:?} was passed over"));
        let name = piece.path.file_name().unwrap().to_str().unwrap();
        for word in ["NEWER_FORMAT", name, "format 3", "reads up to 2"] {
            assert!(refused.contains(word), "{word} is not in {refused}");
        }
        assert!(journal(&disk) == before, "the journal was changed");
    }
    one_thread(async {
        let node = RunningStorage::start(simulated(&disk, 78, 1)).await;
        leader.check(&node);
        node.stop().await;
    });
}
