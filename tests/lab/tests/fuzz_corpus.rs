//! The fuzzer's corpus, fed without a fuzzer: what was found once is never lost again. See `fuzz/`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use converge_lab::fuzzing::{named, seeds, targets};
use converge_ledger_core::chance::Dice;

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target)
}

/// All inputs of a target, by file name.
fn inputs(target: &str) -> BTreeMap<String, Vec<u8>> {
    let dir = corpus(target);
    let files = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    files
        .map(|file| {
            let path = file.unwrap().path();
            (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap())
        })
        .collect()
}

#[test]
fn every_input_of_the_corpus_is_digested() {
    for target in targets() {
        let inputs = inputs(target.name);
        let mut taken = Vec::new();
        for (name, bytes) in &inputs {
            let fed = std::panic::catch_unwind(|| (target.feed)(bytes));
            if fed.unwrap_or_else(|_| panic!("a promise is broken by fuzz/corpus/{}/{name}", target.name)) {
                taken.push(name);
            }
        }
        assert!(taken.len() > 1, "{}: of {} inputs, {taken:?} are sound", target.name, inputs.len());
        assert!(taken.len() < inputs.len(), "{}: nothing in the corpus is refused", target.name);
    }
}

/// A run of messages is found by chance where a format is not. Longer: `STEP_RUNS=1000000`.
#[test]
fn chance_finds_no_message_that_harms_a_raft_node() {
    let runs = std::env::var("STEP_RUNS").map_or(20_000, |runs| runs.parse().unwrap());
    let (mut dice, target) = (Dice(7), named("raft_step"));
    let mut taken = 0;
    for run in 0..runs {
        let length = dice.below(600) as usize;
        let input = dice.bytes(length);
        let fed = std::panic::catch_unwind(|| (target.feed)(&input));
        taken += u64::from(fed.unwrap_or_else(|_| panic!("a promise is broken by run {run}")));
    }
    assert!(taken > runs / 2, "of {runs} runs, only {taken} had a message that a node takes");
}

/// Formats that change leave their seeds behind: then run `cargo test -p converge-lab --test fuzz_corpus -- --ignored`.
#[test]
fn the_seeds_are_those_of_this_build() {
    for target in targets() {
        let inputs = inputs(target.name);
        for seed in seeds().into_iter().filter(|seed| seed.target == target.name) {
            let stored = inputs.get(&seed.name);
            assert_eq!(stored, Some(&seed.bytes), "{}/{} is not what this build writes", seed.target, seed.name);
        }
    }
}

#[test]
#[ignore = "writes the seeds into fuzz/corpus"]
fn write_the_seeds() {
    for seed in seeds() {
        let dir = corpus(named(seed.target).name);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(&seed.name), &seed.bytes).unwrap();
    }
}
