//! What is decided without a process: the plan and what it asks for.

use std::collections::BTreeSet;
use std::time::Duration;

use super::disk::used_kib;
use super::faults::{Abilities, CLIENTS, Fault, Loss, Timed, Turn, Want, Who, draw, turns};
use super::think_ms;

const ALL: Abilities = Abilities { partitions: true, disks: true };
const MINUTE: Duration = Duration::from_secs(60);

fn kinds(plan: &[Timed]) -> BTreeSet<String> {
    plan.iter().map(|timed| timed.fault.name()).collect()
}

#[test]
fn a_seed_draws_the_same_faults_again_and_another_one_others() {
    assert_eq!(draw(7, MINUTE, 3, ALL), draw(7, MINUTE, 3, ALL));
    assert_ne!(draw(7, MINUTE, 3, ALL), draw(8, MINUTE, 3, ALL));
}

#[test]
fn an_hour_has_every_kind_of_fault_and_every_node_is_hit() {
    let plan = draw(1, 60 * MINUTE, 3, ALL);
    // Two roles for each of ten kinds, and all nodes for two of them.
    assert_eq!(kinds(&plan).len(), 22, "{:?}", kinds(&plan));
    let only = |who| if let Who::Node(id) = who { Some(id) } else { None };
    let nodes: BTreeSet<u64> = plan.iter().filter_map(|timed| only(timed.fault.who())).collect();
    assert_eq!(nodes, BTreeSet::from([1, 2, 3]));
    assert!(plan.iter().any(|timed| timed.lasts.is_zero()) && plan.iter().all(|timed| timed.at < 60 * MINUTE));
}

#[test]
fn a_machine_that_allows_no_more_gets_no_partition_and_no_full_disk() {
    let plan = draw(1, 10 * MINUTE, 3, Abilities::default());
    assert!(plan.iter().all(|timed| !matches!(timed.fault, Fault::Lose(..) | Fault::Fill(_))));
    assert!(plan.len() > 100);
}

#[test]
fn what_is_lost_is_what_the_fault_says() {
    let lost = |loss, nodes| Fault::Lose(loss, Who::Node(2)).on(&[2], nodes).lost;
    assert_eq!(lost(Loss::Alone, 3), BTreeSet::from([(2, 1), (1, 2), (2, 3), (3, 2)]));
    assert_eq!(lost(Loss::Deaf, 3), BTreeSet::from([(1, 2), (3, 2)]));
    assert_eq!(lost(Loss::Mute, 3), BTreeSet::from([(2, 1), (2, 3)]));
    assert_eq!(lost(Loss::OneWay, 3), BTreeSet::from([(2, 3)]));
    assert_eq!(lost(Loss::OneWay, 2), BTreeSet::from([(2, 1)]), "the one after the last is the first");
    assert_eq!(lost(Loss::Unanswered, 3), BTreeSet::from([(2, CLIENTS)]));
}

#[test]
fn every_fault_ends_after_it_began_and_time_goes_on() {
    let plan = draw(3, 10 * MINUTE, 3, ALL);
    let turns = turns(&plan);
    assert!(turns.is_sorted_by_key(|turn| turn.0) && turns.len() == 2 * plan.len());
    for (number, timed) in plan.iter().enumerate() {
        let of: Vec<Turn> = turns.iter().filter(|turn| turn.1 == number).map(|turn| turn.2).collect();
        assert_eq!(of, [Turn::Begins, Turn::Ends], "{timed:?}");
    }
}

#[test]
fn faults_that_overlap_end_one_by_one() {
    let killed = Fault::Kill(Who::All).on(&[1, 2, 3], 3);
    let one = Fault::Kill(Who::Node(2)).on(&[2], 3);
    let paused = Fault::Pause(Who::Node(1)).on(&[1], 3);
    let both = Want::union([&killed, &one, &paused]);
    assert_eq!((both.down.len(), both.paused.len()), (3, 1));
    assert_eq!(Want::union([&one, &paused]).down, BTreeSet::from([2]), "still down for the other fault");
    assert_eq!(Want::union([]), Want::default());
}

#[test]
fn a_night_is_held_in_memory() {
    assert_eq!(think_ms(MINUTE, 16), 10);
    let night = Duration::from_secs(8 * 3600);
    let operations = night.as_millis() as u64 * 16 / (think_ms(night, 16) / 2);
    assert!(operations <= 1_100_000, "{operations}");
}

#[test]
fn df_is_understood() {
    let df = "Filesystem 1024-blocks Used Available Capacity Mounted on\ntmpfs 5200 5120 80 99% /a b\n";
    assert_eq!(used_kib(df), Ok(5120));
    assert!(used_kib("nothing").is_err());
}
