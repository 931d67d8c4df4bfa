//! Everything at once, at random, from a seed: deaths of every kind, faults at every point, suspensions, requests, children
//! that come and go. Every request is answered, the tree stops soon and in good order, and nothing runs twice or is left.
//!
//! `STORM_SEED` and `STORM_SEEDS` choose others than those of every run.
#![allow(missing_docs, clippy::print_stdout)]
#![cfg(feature = "chaos")]

mod common;

use common::*;
use converge_supervisors::Callback::{Handle, HandleEvent, PostStart, PostStop, PreStart};
use converge_supervisors::Strategy::{OneForAll, OneForOne, RestForOne};
use converge_supervisors::chaos::{At, Fault, Moment};
use converge_supervisors::{Backoff, ChildSpec, ChildState, DynamicSupervisor, Kind, Restart, Shutdown, Tree};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep, timeout};

const DEEDS: usize = 120;
/// More restarts than any run here makes, within an hour.
const LAX: u32 = 1_000_000;
/// For an answer.
const ANSWER: Duration = Duration::from_secs(20);
/// For the stop of the whole tree.
const STOP: Duration = Duration::from_secs(10);

struct Storm {
    dice: StdRng,
    log: Log,
    tree: Tree,
    crowd: DynamicSupervisor<Knobs>,
    /// Of every worker there ever was.
    knobs: Vec<Knobs>,
    asked: JoinSet<()>,
}

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn lax(dice: &mut StdRng, children: Vec<ChildSpec>) -> converge_supervisors::SupervisorSpec {
    spec(*[OneForOne, OneForAll, RestForOne].choose(dice).unwrap(), LAX, 3600, children)
}

/// Children of a tree of at most so many more levels.
fn grown(dice: &mut StdRng, depth: u32, log: &Log, knobs: &mut Vec<Knobs>) -> Vec<ChildSpec> {
    let grow = |n| {
        let id = format!("c{n}");
        let child = if depth > 0 && dice.random() {
            let below = grown(dice, depth - 1, log, knobs);
            ChildSpec::supervisor(id, lax(dice, below))
        } else {
            knobs.push(Knobs::new());
            let how = [Shutdown::BrutalKill, Shutdown::Timeout(millis(5)), Shutdown::Infinity];
            probe(&id, log, knobs.last().unwrap()).shutdown(*how.choose(dice).unwrap())
        };
        match dice.random_range(0..4) {
            0 => child.backoff(Backoff { first: millis(1), max: millis(3) }),
            1 => child.shutdown(Shutdown::Timeout(millis(5))),
            _ => child,
        }
    };
    (0..2 + depth).map(grow).collect()
}

impl Storm {
    async fn start(seed: u64) -> Storm {
        let (mut dice, log, mut knobs) = (StdRng::seed_from_u64(seed), Log::new(), Vec::new());
        let own = log.clone();
        let make = move |knobs: Knobs| Some((Probe { name: "x".into(), log: own.clone(), knobs }, ()));
        let crowd = DynamicSupervisor::new(template(Restart::Permanent), make);
        let mut children = grown(&mut dice, 2, &log, &mut knobs);
        children.push(ChildSpec::dynamic("crowd", &crowd));
        let tree = Tree::start("root", lax(&mut dice, children)).await.unwrap();
        Storm { dice, log, tree, crowd, knobs, asked: JoinSet::new() }
    }

    fn slow(&mut self) -> Knobs {
        let knobs = Knobs::new();
        knobs.slow_start(millis(self.dice.random_range(0..3)));
        self.knobs.push(knobs.clone());
        knobs
    }

    /// Asks in a task of its own, and must be answered, whatever the answer.
    fn ask<T>(&mut self, answer: impl Future<Output = T> + Send + 'static) {
        self.asked.spawn(async move {
            let answered = timeout(ANSWER, answer).await;
            assert!(answered.is_ok(), "no answer within {ANSWER:?}");
        });
    }

    fn fault(&mut self) -> Fault {
        *[Fault::Kill, Fault::Panic, Fault::Error, Fault::Stall(millis(2))].choose(&mut self.dice).unwrap()
    }

    /// Something to the supervisor and what is in it.
    fn deed(&mut self, n: usize) {
        let supervisors: Vec<String> = self.tree.snapshot().nodes.into_iter().filter_map(is_static).collect();
        match self.dice.random_range(0..4) {
            0 => {
                let (crowd, knobs) = (self.crowd.clone(), self.slow());
                self.ask(async move { drop(crowd.start_child(knobs).await) });
            }
            1 => {
                let (crowd, id) = (self.crowd.clone(), self.dice.random_range(0..30).to_string());
                self.ask(async move { drop(crowd.terminate_child(&id).await) });
            }
            _ => {
                let path = supervisors.choose(&mut self.dice).unwrap();
                let knobs = self.slow();
                let child = probe(&format!("n{n}"), &self.log, &knobs);
                // It may have been deleted meanwhile.
                let Some(supervisor) = self.tree.supervisor(path) else { return };
                self.ask(async move { drop(supervisor.start_child(child).await) });
            }
        }
    }

    /// Something to one place below the root.
    async fn blow(&mut self) {
        let places = self.tree.snapshot().nodes;
        let path = places[1..].choose(&mut self.dice).unwrap().path.clone();
        let (above, id) = path.rsplit_once('/').unwrap();
        let cell = self.tree.find(&path);
        match self.dice.random_range(0..13) {
            0 | 1 => drop(cell.map(|cell| cell.kill())),
            2 => drop(cell.map(|cell| cell.stop(None))),
            3 => drop(cell.map(|cell| cell.drain())),
            4 => {
                let _ = self.tree.suspend(&path);
                let (tree, pause) = (self.tree.clone(), millis(self.dice.random_range(0..5)));
                self.ask(async move {
                    sleep(pause).await;
                    let _ = tree.resume(&path);
                });
            }
            5 | 6 => {
                let fault = self.fault();
                let _ = self.tree.inject(&path, fault).await;
            }
            7..=9 => {
                let callbacks =
                    [None, Some(PreStart), Some(PostStart), Some(Handle), Some(HandleEvent), Some(PostStop)];
                let callback = *callbacks.choose(&mut self.dice).unwrap();
                let at = *[At::Start, At::Await(1), At::Await(2), At::End].choose(&mut self.dice).unwrap();
                let moment = Moment { callback, kind: None, skip: self.dice.random_range(0..3), at };
                let fault = self.fault();
                if let Ok(armed) = self.tree.arm(&path, moment, fault) {
                    armed.leave();
                }
            }
            10 | 11 => {
                let (Some(above), id) = (self.tree.supervisor(above), id.to_owned()) else { return };
                match self.dice.random_range(0..4) {
                    0 => self.ask(async move { drop(above.terminate_child(&id).await) }),
                    1 => self.ask(async move { drop(above.restart_child(&id).await) }),
                    2 => self.ask(async move { drop(above.delete_child(&id).await) }),
                    _ => self.ask(async move { drop(above.get_childspec(&id).await) }),
                }
            }
            // By hand, as nobody should.
            _ if self.dice.random_range(0..4) == 0 => {
                if let Some((cell, above)) = cell.zip(self.tree.find(above)) {
                    cell.unlink(above);
                }
            }
            _ => {}
        }
    }

    async fn rage(&mut self) {
        for n in 0..DEEDS {
            match self.dice.random_range(0..5) {
                0 => self.deed(n),
                _ => self.blow().await,
            }
            match self.dice.random_range(0..4) {
                0 => sleep(millis(self.dice.random_range(0..3))).await,
                1 => tokio::task::yield_now().await,
                _ => {}
            }
        }
    }

    async fn end(mut self) {
        while let Some(answered) = self.asked.join_next().await {
            answered.unwrap();
        }
        let began = Instant::now();
        assert_eq!(self.tree.stop(STOP).await, Ok(()), "{:#?}", self.tree.snapshot());
        assert!(began.elapsed() < STOP);
        timeout(STOP, self.tree.wait()).await.expect("it has ended").unwrap();
        for knobs in &self.knobs {
            assert_eq!((knobs.lock.held(), knobs.lock.broken()), (false, 0), "left over, or twice at a time");
        }
        let alive =
            |place: &converge_supervisors::TreeNode| place.state != ChildState::Stopped || place.actor.is_some();
        assert!(!self.tree.snapshot().nodes.iter().any(alive));
    }
}

fn is_static(place: converge_supervisors::TreeNode) -> Option<String> {
    (place.kind == Kind::Supervisor && place.path != "root/crowd").then_some(place.path)
}

async fn storm(seed: u64) {
    println!("STORM_SEED={seed}");
    let mut storm = Storm::start(seed).await;
    storm.rage().await;
    storm.end().await;
}

fn seeds(count: u64) -> std::ops::Range<u64> {
    let given = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let from = given("STORM_SEED").unwrap_or(0);
    from..from + given("STORM_SEEDS").unwrap_or(count)
}

#[test]
fn storms_in_a_quiet_world() {
    for seed in seeds(150) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().start_paused(true).build().unwrap().block_on(storm(seed));
    }
}

#[test]
fn storms_on_threads() {
    for seed in seeds(50) {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.enable_time().worker_threads(3).build().unwrap().block_on(async move {
            // Not on the thread that only waits.
            tokio::spawn(storm(seed)).await.unwrap();
        });
    }
}
