//! Crash consistency at scale: lives of storage drawn from seeds, the power cut in front of every
//! operation that changes a disk, and many of the disks that each cut could leave.
//!
//! For every image: acknowledged ⊆ stored ⊆ attempted, in order and with the same content; term and
//! vote never go back; applied ≤ commit ≤ last; the ledger is what a model makes of the log.
//!
//! A failure prints the image, and the command that looks at this one alone. It is the first cut
//! of its life that fails, so nothing behind it matters.
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::support::images::{EndedLife, Left, Life, Start};
use super::support::one_thread;
use converge_actors::storage::{Cause, Phase};
use converge_lab::disk::{Change, Faults, Moment};
use converge_ledger_core::chance::Dice;
use converge_supervisors::panic_text;

/// An image: the seed of a life, the operation that the power was cut in front of, and which of the
/// disks that could be left.
type Image = (u64, u64, u64);

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |n| n.parse().expect("a number"))
}

/// How many disks to draw for a cut: most where most is not synced.
fn subsets(moment: &Moment) -> u64 {
    match (moment.disk.unsynced(), moment.change) {
        (0, _) => 1,
        (1, _) => 3,
        (_, Change::Sync) => 8,
        _ => 3,
    }
}

fn dice((seed, op, subset): Image) -> Dice {
    Dice(seed.wrapping_mul(31).wrapping_add(op).wrapping_mul(31).wrapping_add(subset))
}

/// Looks at one image, and at what follows from it for some.
fn look(life: &Life, moment: &Moment, image: Image) -> u64 {
    let mut dice = dice(image);
    let disk = moment.disk.crash(&mut dice);
    match dice.below(96) {
        0 => life.check_inspection(&disk, moment.op, dice.roll()),
        1..=8 => life.check_onward(&disk, moment.op, &mut dice),
        9..=24 => {
            life.check_twice(&disk, moment.op, &mut dice);
            return 2;
        }
        _ => drop(one_thread(life.check(&disk, moment.op, dice.roll()))),
    }
    1
}

fn reported(image: Image, test: &str, look: impl FnOnce() -> u64) -> u64 {
    catch_unwind(AssertUnwindSafe(look)).unwrap_or_else(|panic| {
        let text = panic_text(panic.as_ref());
        let (seed, op, subset) = image;
        panic!(
            "life {seed}, power cut in front of operation {op}, disk {subset}: {text}\n  \
             again: STORAGE_IMAGE={seed}:{op}:{subset} cargo test -p converge-lab --test storage crash_images {test}"
        )
    })
}

/// The one image that is asked for.
fn chosen() -> Option<Image> {
    let text = std::env::var("STORAGE_IMAGE").ok()?;
    let numbers: Vec<u64> = text.split(':').map(|n| n.parse().expect("three numbers")).collect();
    Some((numbers[0], numbers[1], numbers[2]))
}

/// The seeds of the lives to look at: so many, or those that are asked for.
fn seeds(from: u64, lives: u64) -> std::ops::Range<u64> {
    match chosen() {
        Some((seed, ..)) => seed..seed + 1,
        None => number("STORAGE_FROM", from)..number("STORAGE_FROM", from) + number("STORAGE_LIVES", lives),
    }
}

fn is_wanted(image: Image) -> bool {
    chosen().is_none_or(|chosen| chosen == image)
}

/// Says how much was looked at; in a run of the usual size that may not shrink unnoticed.
fn report(count: u64, least: u64, what: &str) {
    eprintln!("{count} {what}");
    let usual = ["STORAGE_IMAGE", "STORAGE_FROM", "STORAGE_LIVES"].iter().all(|name| std::env::var(name).is_err());
    assert!(!usual || count >= least, "only {count} {what}, not {least}");
}

/// Every cut of these lives; says how many images there were.
fn cuts(seeds: std::ops::Range<u64>, test: &str, each: impl Fn(&Life, &Moment, Image) -> u64) -> u64 {
    let mut images = 0;
    for seed in seeds {
        let life = Life::draw(seed);
        for moment in &life.moments {
            let of_moment = (0..subsets(moment)).map(|subset| (seed, moment.op, subset));
            for image in of_moment.filter(|image| is_wanted(*image)) {
                images += reported(image, test, || each(&life, moment, image));
            }
        }
    }
    images
}

#[test]
fn every_power_cut_of_a_life() {
    let images = cuts(seeds(0, 16), "every_power_cut_of_a_life", look);
    report(images, 14_000, "crash images of lives");
}

#[test]
fn every_power_cut_of_a_recovery() {
    let images = cuts(seeds(100, 8), "every_power_cut_of_a_recovery", |life, moment, image| {
        let mut dice = dice(image);
        // The recovery of one disk in so many, for each is cut dozens of times.
        if image.2 > 0 || !(dice.one_in(12) || chosen().is_some()) {
            return 0;
        }
        life.check_recovery(&moment.disk.crash(&mut dice), Left::ByPowerCut, moment.op, &mut dice)
    });
    report(images, 6_000, "crash images of recoveries");
}

#[test]
fn a_life_repeats() {
    for seed in [1, 6] {
        let (first, second) = (Life::draw(seed), Life::draw(seed));
        assert_eq!(first.moments.len(), second.moments.len());
        for (a, b) in first.moments.iter().zip(&second.moments) {
            assert_eq!((a.op, a.change), (b.op, b.change));
            let (a, b) = (a.disk.crash(&mut Dice(a.op)), b.disk.crash(&mut Dice(a.op)));
            assert_eq!(a.files(), b.files());
            for (path, _) in a.files() {
                assert!(a.content(&path) == b.content(&path), "{}", path.display());
            }
        }
    }
}

/// What a failure of the disk leaves is looked at like what a power cut leaves.
fn after_a_failure(ended: EndedLife, failed: u64, image: Image) {
    let mut dice = dice(image);
    let acked = ended.life.history.acked.lock().unwrap().iter().filter(|at| **at >= failed).count();
    assert_eq!(acked, 0, "acknowledged after the failure");
    let left = if dice.one_in(2) { ended.disk.killed() } else { ended.disk.crash(&mut dice) };
    ended.disk.cut();
    match dice.below(8) {
        0 => drop(ended.life.check_recovery(&left, Left::ByKill, u64::MAX, &mut dice)),
        1..4 => ended.life.check_twice(&left, u64::MAX, &mut dice),
        _ => ended.life.check_onward(&left, u64::MAX, &mut dice),
    }
}

/// One life for each operation of a kind, or for one in so many, in which this one fails; says how
/// often that fenced it.
fn failures(seeds: std::ops::Range<u64>, test: &str, each: (Change, usize), faults: impl Fn(u64) -> Faults) -> u64 {
    let (change, step) = each;
    let mut fenced = 0;
    for seed in seeds {
        let start = Start::draw(seed);
        let whole = start.live(Faults::default());
        let all = whole.life.moments.iter().filter(|moment| moment.change == change);
        let all = (1..).zip(all).map(|(nth, moment)| (nth, (seed, moment.op, 0)));
        for (nth, image) in all.step_by(step).filter(|(_, image)| is_wanted(*image)) {
            fenced += reported(image, test, || {
                let ended = start.live(Faults { seed: nth, ..faults(nth) });
                // A node that is told to stop does not say how it went.
                let told = image.1 <= whole.told_to_stop;
                let phase = &ended.phase;
                let noticed = matches!(phase, None | Some(Phase::Fenced { cause: Cause::Io { .. } }));
                assert!(noticed || !told, "it failed and nobody cared: {phase:?}");
                after_a_failure(ended, image.1, image);
                u64::from(told)
            });
        }
    }
    fenced
}

#[test]
fn every_sync_that_fails() {
    let faults = |nth| Faults { fail_sync: Some(nth), ..Faults::default() };
    let fenced = failures(seeds(1000, 4), "every_sync_that_fails", (Change::Sync, 1), faults);
    report(fenced, 200, "failed syncs that fenced a node");
}

#[test]
fn writes_that_fail() {
    let faults = |nth| Faults { fail_write: Some(nth), ..Faults::default() };
    let fenced = failures(seeds(1000, 2), "writes_that_fail", (Change::Write, 3), faults);
    report(fenced, 140, "failed writes that fenced a node");
}

/// A read that fails is no news of what is on the disk: the node is fenced for an operator to look, or its start is
/// refused; never is it told that its data is lost, and never does the log end there.
#[test]
fn every_read_that_fails() {
    let mut noticed = 0;
    for seed in seeds(2000, 2) {
        let start = Start::draw(seed).uncached();
        let whole = start.live(Faults::default());
        // Every one of a start, and some of those behind it.
        let (in_start, all) = (whole.reads_in_start, whole.disk.counters().reads);
        assert!(in_start > 100 && all > in_start + 100, "{in_start} reads of a start, {all} of all");
        for nth in (1..=in_start).chain((in_start + 1..=all).step_by(23)) {
            let image = (seed, nth, 0);
            if is_wanted(image) {
                noticed += reported(image, "every_read_that_fails", || {
                    let ended = start.live(Faults { fail_read: Some(nth..nth + 1), seed: nth, ..Faults::default() });
                    let failed = ended.disk.failed_at().expect("a life repeats up to its first failure");
                    let told = failed <= ended.told_to_stop;
                    let phase = &ended.phase;
                    let noticed = matches!(phase, None | Some(Phase::Fenced { cause: Cause::Io { .. } }));
                    assert!(noticed || !told, "read {nth} failed, and that came of it: {phase:?}");
                    after_a_failure(ended, failed, image);
                    u64::from(told)
                });
            }
        }
    }
    report(noticed, 400, "failed reads that fenced a node");
}

#[test]
fn every_size_of_a_disk_that_is_full() {
    let mut full = 0;
    for seed in seeds(300, 4) {
        let start = Start::draw(seed);
        for capacity in (start.used()..).step_by(4096) {
            let ended = start.live(Faults { capacity: Some(capacity), seed, ..Faults::default() });
            if ended.phase == Some(Phase::Serving) {
                break;
            }
            let image = (seed, capacity, 0);
            if is_wanted(image) {
                full += reported(image, "every_size_of_a_disk_that_is_full", || {
                    let phase = &ended.phase;
                    let noticed = matches!(phase, None | Some(Phase::Fenced { cause: Cause::DiskFull { .. } }));
                    assert!(noticed, "{phase:?}");
                    ended.disk.set_capacity(None);
                    after_a_failure(ended, u64::MAX, image);
                    1
                });
            }
        }
    }
    report(full, 150, "sizes of a disk that were too small");
}
