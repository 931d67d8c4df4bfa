//! Segments: the same bytes whatever happens, and damage to each piece of them.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::support::segments::{self, log};
use super::support::{Leader, RunningStorage, copy_out, one_thread, simulated};
use converge_actors::storage::{Error, LogEntry, Phase, SegmentPiece, inspect, segment_pieces};
use converge_lab::disk::SimDisk;

const DATA: &str = "/data";

#[test]
fn segments_are_the_same_whatever_the_rhythm_of_commits() {
    segments::are_the_same_whatever_the_rhythm();
}

#[test]
fn segments_are_the_same_after_every_power_cut() {
    segments::are_the_same_after_every_power_cut();
}

/// A directory that was closed well, with several segments.
fn furnished() -> (SimDisk, Leader, Vec<LogEntry>) {
    let (leader, log) = log();
    let disk = SimDisk::default();
    one_thread(async {
        let node = RunningStorage::start(simulated(&disk, 77, 3000)).await;
        for entry in &log {
            let state = converge_actors::storage::HardState { term: entry.term, ..leader.hard_state() };
            node.append(vec![entry.clone()], Some(state)).await.unwrap();
            node.apply(vec![entry.clone()]).await;
        }
        node.stop().await;
    });
    (disk, leader, log)
}

/// All there is: the truth, or an error.
async fn read(node: &RunningStorage, leader: &Leader, log: &[LogEntry]) -> Result<(), Error> {
    node.storage.recover().await?;
    for (context, kept) in &leader.contexts {
        let page = node.all(context)?;
        let got: Vec<_> = page.entries.iter().map(|entry| (entry.key.clone(), entry.payload.to_vec())).collect();
        assert_eq!(got, *kept, "wrong bytes in {context}");
    }
    assert_eq!(node.log()?, log, "another log");
    for entry in log {
        assert_eq!(node.storage.log_term(entry.index)?, Some(entry.term));
    }
    Ok(())
}

/// Whether a damaged disk gives the truth after all. Never something else.
fn is_true(disk: &SimDisk, leader: &Leader, log: &[LogEntry]) -> Result<(), String> {
    one_thread(async {
        let node = RunningStorage::try_start(simulated(disk, 78, 3000)).await.map_err(|error| error.to_string())?;
        let outcome = read(&node, leader, log).await.map_err(|error| error.to_string());
        let fenced = matches!(node.storage.status().phase, Phase::Fenced { .. });
        assert_eq!(outcome.is_err(), fenced, "{outcome:?}");
        node.stop().await;
        outcome
    })
}

fn pieces(disk: &SimDisk) -> Vec<SegmentPiece> {
    segment_pieces(&disk.killed(), Path::new(DATA))
}

#[test]
fn a_flipped_bit_of_a_block_is_data_loss_and_one_elsewhere_does_no_harm() {
    let (disk, leader, log) = furnished();
    is_true(&disk.killed(), &leader, &log).unwrap();
    let pieces = pieces(&disk);
    let blocks = pieces.iter().filter(|piece| piece.is_block).count();
    assert!(blocks > 20 && pieces.len() > blocks + 4, "{blocks} blocks of {} pieces", pieces.len());
    for (nth, piece) in pieces.iter().enumerate() {
        // Each field of a head, and a few of the bytes behind it.
        let heads = (0..64).step_by(if nth % 5 == 0 { 1 } else { 9 });
        for at in heads.chain((64..piece.bytes).step_by(211)).filter(|at| *at < piece.bytes) {
            let disk = disk.killed();
            assert!(disk.flip(&piece.path, piece.offset + at, (at % 8) as u8));
            let outcome = is_true(&disk, &leader, &log);
            let what = format!("byte {at} of {piece:?}: {outcome:?}");
            assert!(outcome.is_err() || !piece.is_block, "{what}");
            assert!(outcome.is_ok_and(|()| true) || what.contains("data loss"), "{what}");
        }
    }
}

#[test]
fn a_segment_that_is_missing_or_cut_is_data_loss() {
    let (disk, leader, log) = furnished();
    for (path, len) in disk.files().into_iter().filter(|(path, _)| path.starts_with("/data/log")) {
        let content = disk.content(&path).unwrap();
        for left in [0, 30, 64, len / 2, len - 1] {
            let disk = disk.killed();
            disk.put_content(&path, &content[..left as usize]);
            // Of a closed file the last byte is the trailer's, which only a verification reads.
            match is_true(&disk, &leader, &log) {
                Err(what) => assert!(what.contains("data loss"), "{} cut to {left}: {what}", path.display()),
                Ok(()) => assert_eq!(left, len - 1, "{} cut to {left}", path.display()),
            }
        }
        let disk = disk.killed();
        converge_actors::storage::Disk::remove(&disk, &path).unwrap();
        let what = is_true(&disk, &leader, &log).expect_err("it is missing");
        assert!(what.contains("data loss") && what.contains("is missing"), "{what}");
    }
}

/// Readers look at blocks alone; a verification at all there is.
#[test]
fn a_verification_finds_damage_to_every_piece() {
    let (disk, ..) = furnished();
    let verify = |disk: &SimDisk| {
        let dir = tempfile::tempdir().unwrap();
        copy_out(disk, dir.path());
        inspect::verify(dir.path()).map(|verified| verified.problems)
    };
    assert_eq!(verify(&disk).unwrap(), Vec::<String>::new());
    for piece in pieces(&disk) {
        let disk = disk.killed();
        assert!(disk.flip(&piece.path, piece.offset + piece.bytes / 2, 4));
        match verify(&disk) {
            Ok(problems) => {
                assert!(problems.iter().any(|problem| problem.contains("segment-")), "{piece:?}: {problems:?}")
            }
            Err(error) => assert!(matches!(error, Error::DataLoss(_)), "{piece:?}: {error}"),
        }
    }
}

/// What a commit does not name is cut, whatever it is.
#[test]
fn what_is_beyond_the_end_is_cut() {
    let (disk, leader, log) = furnished();
    let before = segments::files(&disk);
    let (last, content) = before.last_key_value().unwrap();
    let block = pieces(&disk).pop().unwrap();
    let again = &content[block.offset as usize..];
    for more in [&[0; 5][..], &[7; 5000], again, &content[..64], &again[..100]] {
        let longer = disk.killed();
        longer.put_content(&Path::new(DATA).join("log").join(last), &[&content[..], more].concat());
        let further = Path::new(DATA).join("log").join(format!("segment-{:04}", before.len() + 1));
        longer.put_content(&further, more);
        is_true(&longer, &leader, &log).unwrap();
        assert_eq!(segments::files(&longer), before);
    }
}

fn content(disk: &SimDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = disk.files().into_iter().map(|(path, _)| path);
    files.map(|path| (path.clone(), disk.content(&path).unwrap())).collect()
}

/// What a start reads is refused then, and the rest when it is read.
#[test]
fn a_piece_of_a_newer_program_is_told_and_left_alone() {
    let (disk, leader, log) = furnished();
    let pieces = pieces(&disk);
    let last = pieces.last().unwrap();
    let open_header = pieces.iter().find(|piece| piece.path == last.path).unwrap();
    for piece in pieces.iter().step_by(3).chain([last, open_header]) {
        let disk = disk.killed();
        piece.make_newer(&disk);
        let before = content(&disk);
        let Err(what) = is_true(&disk, &leader, &log) else {
            // Of a closed file a reader looks at blocks alone.
            assert!(!piece.is_block, "{piece:?} was passed over");
            continue;
        };
        let name = piece.path.file_name().unwrap().to_str().unwrap();
        for word in ["NEWER_FORMAT", name, "format 2", "reads up to 1"] {
            assert!(what.contains(word), "{word} is not in {what}");
        }
        let segments = |files: &BTreeMap<PathBuf, Vec<u8>>| -> Vec<_> {
            files.clone().into_iter().filter(|(path, _)| path.starts_with("/data/log")).collect()
        };
        assert!(segments(&content(&disk)) == segments(&before), "a segment was changed");
    }
    // And one that a start would otherwise cut.
    let longer = disk.killed();
    let own = disk.content(&last.path).unwrap();
    let block = &own[last.offset as usize..];
    longer.put_content(&last.path, &[&own[..], block].concat());
    SegmentPiece { offset: last.offset + last.bytes, ..last.clone() }.make_newer(&longer);
    let before = content(&longer);
    let what = is_true(&longer, &leader, &log).expect_err("it is newer");
    assert!(what.contains("NEWER_FORMAT") && content(&longer)[&last.path] == before[&last.path], "{what}");
}
