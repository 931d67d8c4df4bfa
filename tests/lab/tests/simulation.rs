//! Seeds that lose nothing, in every build; and that a seed is a run.
#![allow(missing_docs, clippy::print_stderr)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use converge_lab::simulation::{Campaign, Plan, REPEATS, Shape, campaign, run};
use converge_ledger_core::planted::{self, Bug};
use serde_json::Value;

/// Kinds of faults.
const KINDS: usize = 33;
/// Seeds of the default run; `SIMULATION_SEEDS` asks for more, from `SIMULATION_SEED` on.
const SEEDS: u64 = 40;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn no_seed_loses_an_acknowledged_write() {
    let seeds = number("SIMULATION_SEEDS", SEEDS);
    let first = number("SIMULATION_SEED", 1);
    let totals = campaign(Campaign { first, seeds, time: None, threads: 2, shape: Shape::default() }, |_, _, _| {});
    eprintln!(
        "{} seeds, {:.1} simulated hours, {} appends acknowledged, faults: {:?}",
        totals.seeds,
        totals.simulated_ms as f64 / 3_600_000.0,
        totals.acknowledged,
        totals.faults
    );
    for (seed, violations) in &totals.failed {
        eprintln!("again: converge-lab sim --seed {seed} --trace\n  {violations:#?}");
    }
    assert_eq!(totals.stuck, None, "a seed does not end");
    assert!(totals.failed.is_empty(), "seeds fail: {:?}", totals.failed.keys());
    assert_eq!(totals.seeds, seeds);
    assert!(totals.aborted.len() as u64 <= 1 + seeds / 100, "redb aborts too often: {:?}", totals.aborted);
    assert!(totals.faults_min >= 50, "a run had only {} faults that did something", totals.faults_min);
    assert!(totals.acknowledged > seeds * 100, "the runs did work");
    // What never happens is never shown to be survived.
    assert!(seeds < SEEDS || totals.faults.len() == KINDS, "every kind of fault came: {:?}", totals.faults);
}

/// Its newer copy leads after the others have gone on. The one that knew what was committed was started again, and knows it
/// still: the commit index goes with every record.
const NEWER_COPY_LEADS: u64 = 300_575;

/// Seeds in which copies of directories are put back: `PUT_BACK_SEEDS` asks for more, from `PUT_BACK_SEED` on.
#[test]
fn after_copies_of_different_age_were_put_back_all_holds_or_nodes_are_fenced() {
    let puts_back = |plan: &Plan| serde_json::to_string(plan).unwrap().contains("put_back");
    let draw = |seed| (seed, Plan::draw(seed, Shape::default()));
    let plans = (number("PUT_BACK_SEED", 1032)..).map(draw).filter(|(_, plan)| puts_back(plan));
    let mut done = 0;
    for (seed, plan) in plans.take(number("PUT_BACK_SEEDS", 4) as usize).chain([draw(NEWER_COPY_LEADS)]) {
        let outcome = run(&plan, false);
        assert_eq!(outcome.violations, Vec::<String>::new(), "again: converge-lab sim --seed {seed} --trace");
        done += u64::from(outcome.faults.contains_key("copies put back") && !outcome.excused);
        eprintln!("seed {seed}: {} appends acknowledged", outcome.appends.0);
    }
    assert!(done > 0, "no seed with copies put back was judged");
}

/// What a run came to, and the digest of everything that happened in it; from a process of its own.
fn outcome(seed: u64) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_converge-lab"));
    let output = command.args(["sim", "--seed", &seed.to_string(), "--output", "json"]).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_seed_is_the_same_run_in_every_process() {
    const { assert!(REPEATS, "RUSTFLAGS replace those of .cargo/config.toml: tokio's chance is not seeded") };
    let mut digests = BTreeSet::new();
    for seed in [3, 11, 12, 37, 46, 47] {
        let first = outcome(seed);
        assert_eq!(first, outcome(seed), "seed {seed}");
        digests.insert(first["digest"].as_str().unwrap().to_owned());
    }
    assert_eq!(digests.len(), 6, "another seed is another run");
}

fn sim(planted: Option<&str>, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_converge-lab"));
    command.envs(planted.map(|bug| ("CONVERGE_PLANTED", bug))).arg("sim").args(arguments).output().unwrap()
}

#[test]
fn a_failure_names_its_seed_and_is_cut_down_to_what_matters() {
    const BUG: &str = "watch-repeats";
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("plan.json");
    let file = file.to_str().unwrap();
    let short = ["--seed", "3", "--faults", "8", "--faults-for", "8s"];
    let output = sim(Some(BUG), &[&short[..], &["--shrink", file]].concat());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("again: converge-lab sim --seed 3 --faults 8 --faults-for 8000ms --trace"), "{said}");
    let plan: Plan = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    assert!(plan.faults() < 8, "{} faults are left", plan.faults());
    assert_eq!(sim(Some(BUG), &["--plan", file]).status.code(), Some(5), "the shorter plan fails, too");
    assert_eq!(sim(None, &["--plan", file]).status.code(), Some(0), "and holds without the bug");
}

/// Plans that failed once, cut down to what made them fail. One that bears a planted bug's name still finds it.
#[test]
fn what_failed_once_does_not_fail_again() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("simulation/regressions");
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let plans: Vec<_> = paths.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect();
    assert!(!plans.is_empty());
    for path in plans {
        let plan: Plan = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let violations = run(&plan, false).violations;
        assert!(violations.is_empty(), "{}: {violations:#?}", path.display());
        let name = path.file_stem().unwrap();
        if let Some(bug) = Bug::ALL.iter().find(|bug| name == bug.name()) {
            let _planted = planted::plant(*bug);
            assert!(!run(&plan, false).violations.is_empty(), "{} is not found any more", bug.name());
        }
    }
}
