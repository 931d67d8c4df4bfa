//! Requests to supervisors that are killed all the time: each is answered, whoever keeps a reference to the dead.
#![allow(missing_docs, clippy::print_stdout, reason = "it tells what became of the requests")]

mod common;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::*;
use converge_supervisors::Strategy::OneForOne;
use converge_supervisors::ractor::ActorCell;
use converge_supervisors::{ChildError, ChildSpec, Intensity, SupervisorRef, SupervisorSpec, Tree};
use tokio::task::JoinSet;
use tokio::time::{Duration, sleep, timeout};

const CALLERS: u64 = 16;
const SUPERVISORS: usize = 4;
/// Requests when `REQUESTS` says nothing.
const REQUESTS: u64 = 200_000;
/// The dead that are remembered, as a host's list might.
const DEAD_KEPT: usize = 10_000;
/// Between two rounds of kills.
const PAUSE: Duration = Duration::from_micros(500);

#[derive(Debug, Default)]
struct Tally {
    answered: AtomicU64,
    down: AtomicU64,
    unknown: AtomicU64,
}

impl Tally {
    fn sum(&self) -> u64 {
        [&self.answered, &self.down, &self.unknown].iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

/// Asks until all requests are made. One that is never answered ends this never.
async fn ask(caller: u64, supervisors: Arc<Vec<SupervisorRef>>, left: Arc<AtomicU64>, tally: Arc<Tally>) {
    let mut turn = caller;
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
        turn += 1;
        let supervisor = &supervisors[turn as usize % SUPERVISORS];
        // None of them changes anything, so that nothing but the death of the supervisor is in the way.
        let refusal = match turn % 5 {
            0 => supervisor.start_child(probe("a", &Log::new(), &Knobs::new())).await.err(),
            1 => supervisor.restart_child("a").await.err(),
            2 => supervisor.terminate_child("nobody").await.err(),
            3 => supervisor.delete_child("a").await.err(),
            _ => supervisor.get_childspec("a").await.err(),
        };
        let count = match refusal {
            Some(ChildError::Unknown(_)) => &tally.unknown,
            Some(ChildError::Down(_)) => {
                left.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                &tally.down
            }
            None | Some(_) => &tally.answered,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Kills all supervisors again and again, and keeps references to the dead. How often.
async fn kill(tree: Tree, over: Arc<AtomicBool>) -> u64 {
    let (mut kills, mut dead) = (0, VecDeque::<ActorCell>::new());
    while !over.load(Ordering::Relaxed) {
        for place in 0..SUPERVISORS {
            if let Some(supervisor) = tree.find(&format!("root/{place}")) {
                supervisor.kill();
                kills += 1;
                dead.push_back(supervisor);
            }
        }
        while dead.len() > DEAD_KEPT {
            dead.pop_front();
        }
        sleep(PAUSE).await;
    }
    kills
}

/// As many as `REQUESTS` says. Those that found their supervisor down are not counted: they were not sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_request_is_answered_whoever_dies() {
    let requests = std::env::var("REQUESTS").ok().map_or(REQUESTS, |number| number.parse().expect("a number"));
    let below = || SupervisorSpec::new(OneForOne, Intensity::default(), vec![probe("a", &Log::new(), &Knobs::new())]);
    let children = (0..SUPERVISORS).map(|place| ChildSpec::supervisor(place.to_string(), below())).collect();
    // No kill ends it.
    let tree = Tree::start("root", spec(OneForOne, 1_000_000, 1, children)).await.unwrap();
    let supervisors: Vec<SupervisorRef> =
        (0..SUPERVISORS).map(|place| tree.supervisor(&format!("root/{place}")).unwrap()).collect();
    let (supervisors, left) = (Arc::new(supervisors), Arc::new(AtomicU64::new(requests)));
    let (tally, over) = (Arc::new(Tally::default()), Arc::new(AtomicBool::new(false)));
    let killer = tokio::spawn(kill(tree.clone(), Arc::clone(&over)));
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        callers.spawn(ask(caller, Arc::clone(&supervisors), Arc::clone(&left), Arc::clone(&tally)));
    }
    // As long as some are answered it goes on, however slow the machine.
    let (mut unanswered, mut before) = (0, u64::MAX);
    while !callers.is_empty() {
        match timeout(PATIENCE, callers.join_next()).await {
            Ok(caller) => caller.unwrap().unwrap(),
            Err(_elapsed) if tally.sum() != before => before = tally.sum(),
            Err(_elapsed) => {
                unanswered = callers.len();
                callers.abort_all();
                break;
            }
        }
    }
    over.store(true, Ordering::Relaxed);
    let kills = killer.await.unwrap();
    println!("{requests} requests, {kills} kills: {tally:?}, unanswered: {unanswered}");
    assert_eq!(unanswered, 0, "of {requests} requests with {kills} kills: {tally:?}");
    let counts = [&tally.answered, &tally.unknown].map(|count| count.load(Ordering::Relaxed));
    assert!(kills > 0 && counts.iter().all(|&count| count > 0), "both are to be seen: {tally:?}, {kills} kills");
    tree.stop(PATIENCE).await.unwrap();
}
