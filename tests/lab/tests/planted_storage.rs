//! Planted bugs of storage: each is found by the crash images or the flipped bits that are there to find it.
//!
//! The control is the same search in the same places without a bug, which finds nothing.
#![allow(missing_docs, clippy::print_stderr)]

#[path = "storage/support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use converge_actors::storage::{Cause, LogEntry, Phase};
use converge_lab::disk::{Change, Faults, Moment, SimDisk};
use converge_ledger_core::planted::{self, Bug, Level};
use converge_supervisors::panic_text;
use support::images::Start;
use support::{
    Dice, Leader, RunningStorage, keys, killed, lacks, newer, one_thread, outdated, pile, segments, simulated, write,
};

/// The life in which a bug shows, if that is not life 0.
const FIRST: &[(Bug, u64)] = &[(Bug::VoteUnsynced, 5), (Bug::VoteUnwritten, 2), (Bug::NameUnsynced, 11)];
/// Lives behind the first one, before a bug counts as not found.
const LIVES_MORE: u64 = 12;

/// What a panic says, on one line.
fn text(panic: &(dyn std::any::Any + Send)) -> String {
    panic_text(panic).lines().next().unwrap_or_default().chars().take(150).collect()
}

/// How a level finds fault with a life or a flip, if it does.
fn fault(look: impl FnOnce()) -> Option<String> {
    catch_unwind(AssertUnwindSafe(look)).err().map(|panic| text(panic.as_ref()))
}

fn subsets(moment: &Moment) -> u64 {
    match (moment.disk.unsynced(), moment.change) {
        (0, _) => 1,
        (_, Change::Sync) => 3,
        _ => 2,
    }
}

/// A life with the power cut in front of every change, with every third sync failing, and with every read of its start.
fn crashes(seed: u64) {
    let start = Start::draw(seed);
    let ended = start.live(Faults::default());
    assert_eq!(ended.phase, Some(Phase::Serving), "nothing failed");
    let (life, reads) = (ended.life, ended.reads_in_start);
    for moment in &life.moments {
        for subset in 0..subsets(moment) {
            let mut dice = Dice(moment.op.wrapping_mul(31).wrapping_add(subset));
            let disk = moment.disk.crash(&mut dice);
            match dice.below(12) {
                0 => life.check_twice(&disk, moment.op, &mut dice),
                1 | 2 => life.check_onward(&disk, moment.op, &mut dice),
                _ => drop(one_thread(life.check(&disk, moment.op, dice.roll()))),
            }
        }
    }
    let syncs = life.moments.iter().filter(|moment| moment.change == Change::Sync).count() as u64;
    for nth in (1..=syncs).step_by(3) {
        let ended = start.live(Faults { fail_sync: Some(nth), seed: nth, ..Faults::default() });
        let left = ended.disk.killed();
        ended.disk.cut();
        ended.life.check_onward(&left, u64::MAX, &mut Dice(nth));
    }
    for nth in 1..=reads {
        let ended = start.live(Faults { fail_read: Some(nth..nth + 1), ..Faults::default() });
        let noticed = matches!(ended.phase, None | Some(Phase::Fenced { cause: Cause::Io { .. } }));
        assert!(noticed, "read {nth} failed, and that came of it: {:?}", ended.phase);
        ended.disk.cut();
    }
}

/// The first life in which the bug shows, and how.
fn crash_finds(bug: Bug) -> Option<(u64, String)> {
    let _planted = planted::plant(bug);
    // It takes several starts to get as many files as it needs.
    if bug == Bug::FileOutOfOrder {
        return Some((0, fault(pile::full_files_are_used_again_in_order)?));
    }
    // It takes a kill, and then a power cut.
    if bug == Bug::NamesUnsure {
        return Some((0, fault(killed::names_are_durable_before_the_next_process_builds_on_them)?));
    }
    // Storage is to go on through what is lacking for a while.
    if bug == Bug::LackFences {
        return Some((0, fault(lacks::a_file_that_cannot_be_opened_is_opened_later)?));
    }
    if bug == Bug::RoomUnwatched {
        return Some((0, fault(lacks::nothing_is_written_where_there_is_no_room)?));
    }
    // It takes another program.
    if bug == Bug::NewerIsEnd {
        return Some((0, fault(newer::records_and_headers_of_a_newer_program_are_not_the_end)?));
    }
    // It takes two nodes.
    if bug == Bug::KeyWindowLocal {
        return Some((0, fault(keys::what_is_known_does_not_hang_on_what_a_node_has)?));
    }
    if bug == Bug::UnknownSkipped {
        return Some((0, fault(outdated::apply_stops_at_a_newer_entry)?));
    }
    if bug == Bug::SegmentLongTaken {
        return Some((0, fault(segments::are_the_same_after_every_power_cut)?));
    }
    if bug == Bug::BlockClosedEarly {
        return Some((0, fault(segments::are_the_same_whatever_the_rhythm)?));
    }
    if bug == Bug::FullEnds {
        return Some((0, fault(lacks::a_member_that_is_started_on_a_full_disk_goes_on_when_there_is_room)?));
    }
    let first = FIRST.iter().find(|(of, _)| *of == bug).map_or(0, |(_, life)| *life);
    (first..=first + LIVES_MORE).find_map(|life| Some((life, fault(|| crashes(life))?)))
}

/// A directory with entries in a segment and in the tail of the database; as a stop leaves it, or a kill, and then there are
/// some in the journal alone, which a start takes over.
async fn furnished(killed: bool) -> (SimDisk, Leader, Vec<LogEntry>) {
    let (disk, mut leader, mut dice) = (SimDisk::default(), Leader::new(), Dice(11));
    for (commit_bytes, batches) in [(1, 10), (1 << 30, 3)] {
        let node = RunningStorage::start(simulated(&disk, 77, commit_bytes)).await;
        for n in 0..batches {
            let writes = [write(&format!("c{}", n % 3), "k", &dice.bytes(100)), write("c", "k", &dice.bytes(100))];
            leader.write(&node, &writes).await;
        }
        let log = node.log().unwrap();
        if commit_bytes > 1 {
            return (disk.killed(), leader, log);
        }
        node.stop().await;
        if !killed {
            return (disk, leader, log);
        }
    }
    unreachable!("the second round returns")
}

/// Turns over one bit in the middle of each copy of each payload: the truth, or an error.
fn flips() {
    [true, false].into_iter().for_each(flips_of);
}

fn flips_of(killed: bool) {
    let (disk, leader, log) = one_thread(furnished(killed));
    let payloads: Vec<_> = leader.contexts.values().flatten().map(|(_, payload)| payload.clone()).collect();
    let mut flips = Vec::new();
    for (path, _) in disk.files() {
        let content = disk.content(&path).unwrap();
        for payload in &payloads {
            let found = content.windows(payload.len()).enumerate().filter(|(_, window)| window == payload);
            flips.extend(found.map(|(at, _)| (path.clone(), at + payload.len() / 2)));
        }
    }
    assert!(flips.len() > payloads.len(), "all are in the journal, and some in the database as well");
    for (path, at) in flips {
        let disk = disk.killed();
        assert!(disk.flip(&path, at as u64, 3));
        // The log in a life of its own, for data loss that is found ends all reading.
        for of_log in [false, true] {
            let left = disk.killed();
            one_thread(async {
                let Ok(node) = RunningStorage::try_start(simulated(&left, 77, 1)).await else { return };
                for (context, kept) in leader.contexts.iter().filter(|_| !of_log) {
                    let Ok(page) = node.all(context) else { continue };
                    let mut pairs = page.entries.iter().zip(kept);
                    assert!(pairs.all(|(entry, (_, payload))| entry.payload == payload), "wrong bytes in {context}");
                    assert_eq!(page.entries.len(), kept.len(), "{context} is shorter");
                }
                let believed = node.log().is_ok_and(|found| found != log);
                assert!(!believed, "another log for a bit at {at} of {}", path.display());
                left.cut();
            });
        }
    }
}

fn flips_find(bug: Bug) -> Option<String> {
    let _planted = planted::plant(bug);
    fault(flips)
}

fn of_level(level: Level) -> impl Iterator<Item = Bug> {
    Bug::ALL.iter().copied().filter(move |bug| bug.levels().contains(&level))
}

/// Every panic here is looked for; each is reported with its bug.
fn quietly<R>(act: impl FnOnce() -> R) -> R {
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = act();
    std::panic::set_hook(loud);
    result
}

#[test]
fn crash_images_and_flipped_bits_find_every_bug_of_theirs_and_nothing_else() {
    let (mut missed, mut lives) = (Vec::new(), BTreeSet::new());
    quietly(|| {
        for bug in of_level(Level::Crash) {
            let began = Instant::now();
            let found = crash_finds(bug);
            eprintln!("{:>18} {:>5.1} s, crash: {found:?}", bug.name(), began.elapsed().as_secs_f64());
            missed.extend(found.is_none().then_some((Level::Crash, bug)));
            lives.extend(found.map(|(life, _)| life));
        }
        for bug in of_level(Level::Flips) {
            let found = flips_find(bug);
            eprintln!("{:>18}          flips: {found:?}", bug.name());
            missed.extend(found.is_none().then_some((Level::Flips, bug)));
        }
    });
    assert!(missed.is_empty(), "not found: {missed:?}");
    // The control, aloud.
    lives.into_iter().for_each(crashes);
    flips();
}
