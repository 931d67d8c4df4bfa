//! Everything at once, at random, from a seed: deaths of every kind, faults at every point, suspensions, requests, children
//! that come and go. Every request is answered, the tree gets whole again, what it says of each place is so, it stops soon
//! and in good order, and nothing runs twice or is left.
//!
//! Half of the seeds make no requests but of the dynamic supervisor: within a group an elder then starts only when its juniors
//! are gone. Half let every worker come to its end: the order of the stop can then be read from what they log.
//!
//! `STORM_SEED` and `STORM_SEEDS` choose others than those of every run.
#![allow(missing_docs, clippy::print_stdout)]
#![cfg(feature = "chaos")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::*;
use converge_supervisors::Callback::{Handle, HandleEvent, PostStart, PostStop, PreStart};
use converge_supervisors::Strategy::{OneForAll, OneForOne, RestForOne};
use converge_supervisors::chaos::{Armed, At, Fault, Moment};
use converge_supervisors::{
    Backoff, ChildError, ChildSpec, ChildState, DynamicSupervisor, Kind, Restart, Shutdown, SupervisorRef,
    SupervisorSpec, Tree, TreeNode,
};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep, timeout};

const DEEDS: usize = 120;
/// More restarts than any run here makes, within an hour.
const LAX: u32 = 1_000_000;
/// For an answer.
const ANSWER: Duration = Duration::from_secs(20);
/// For the stop of the whole tree.
const STOP: Duration = Duration::from_secs(10);
/// Where children come and go.
const CROWD: &str = "root/crowd";

#[derive(Clone, Copy, Debug)]
struct Weather {
    /// Children are ended, started, added and deleted on request.
    requests: bool,
    /// No worker is killed by a stop.
    gentle: bool,
}

struct Storm {
    weather: Weather,
    dice: StdRng,
    log: Log,
    tree: Tree,
    crowd: DynamicSupervisor<Knobs>,
    /// Of every worker there ever was outside the crowd, by its path.
    workers: BTreeMap<String, Knobs>,
    members: Vec<Knobs>,
    /// Places that may be down when the storm is over: somebody asked for something, or they are not permanent.
    may_rest: BTreeSet<String>,
    armed: Vec<Armed>,
    asked: JoinSet<()>,
}

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// A tree on its way up.
struct Grown<'a> {
    weather: Weather,
    dice: &'a mut StdRng,
    log: &'a Log,
    /// In start order.
    workers: Vec<(String, Knobs)>,
}

impl Grown<'_> {
    /// A supervisor of at most so many more levels.
    fn spec(&mut self, path: &str, depth: u32) -> SupervisorSpec {
        let strategy = *[OneForOne, OneForAll, RestForOne].choose(self.dice).unwrap();
        let (mut children, mut own) = (Vec::new(), Vec::new());
        for n in 0..2 + depth {
            let (id, path) = (format!("c{n}"), format!("{path}/c{n}"));
            let child = if depth > 0 && self.dice.random() {
                ChildSpec::supervisor(id, self.spec(&path, depth - 1))
            } else {
                own.push(self.workers.len());
                self.workers.push((path.clone(), Knobs::new()));
                let worker = named(&id, &path, self.log, &self.workers.last().unwrap().1);
                let how = [Shutdown::BrutalKill, Shutdown::Timeout(millis(5)), Shutdown::Infinity];
                worker.shutdown(*how.choose(self.dice).unwrap())
            };
            let child = match self.dice.random_range(0..4) {
                0 => child.backoff(Backoff { first: millis(1), max: millis(3) }),
                1 => child.shutdown(Shutdown::Timeout(millis(5))),
                _ => child,
            };
            children.push(if self.weather.gentle { child.shutdown(Shutdown::Infinity) } else { child });
        }
        if strategy != OneForOne && !self.weather.requests {
            own.into_iter().for_each(|elder| before_juniors(&self.workers[elder..]));
        }
        spec(strategy, LAX, 3600, children)
    }
}

/// The first of these starts, and stops in order, only when the others have let go.
fn before_juniors(workers: &[(String, Knobs)]) {
    workers[0].1.juniors(workers[1..].iter().map(|(_, knobs)| knobs.lock.clone()).collect());
}

impl Storm {
    async fn start(seed: u64) -> Storm {
        let (mut dice, log) = (StdRng::seed_from_u64(seed), Log::new());
        let weather = Weather { requests: dice.random(), gentle: dice.random() };
        let own = log.clone();
        let make = move |knobs: Knobs| Some((Probe { name: "x".into(), log: own.clone(), knobs }, ()));
        let crowd = DynamicSupervisor::new(template(Restart::Permanent), make);
        let mut grown = Grown { weather, dice: &mut dice, log: &log, workers: Vec::new() };
        let mut root = grown.spec("root", 2);
        root.children.push(ChildSpec::dynamic("crowd", &crowd));
        let workers = grown.workers;
        let tree = Tree::start("root", root).await.unwrap();
        let starts: Vec<String> = workers.iter().map(|(path, _)| format!("start {path}")).collect();
        assert_eq!(log.take(), starts);
        let workers = workers.into_iter().collect();
        let (members, may_rest, armed, asked) = (Vec::new(), BTreeSet::new(), Vec::new(), JoinSet::new());
        Storm { weather, dice, log, tree, crowd, workers, members, may_rest, armed, asked }
    }

    fn slow(&mut self) -> Knobs {
        let knobs = Knobs::new();
        knobs.slow_start(millis(self.dice.random_range(0..3)));
        knobs
    }

    /// Asks in a task of its own, and must be answered, whatever the answer.
    fn ask<T>(&mut self, answer: impl Future<Output = T> + Send + 'static) {
        self.asked.spawn(async move {
            let answered = timeout(ANSWER, answer).await;
            assert!(answered.is_ok(), "no answer within {ANSWER:?}");
        });
    }

    /// Asks a static supervisor. Nothing strikes the root, so that it has no excuse.
    fn ask_at<T>(&mut self, path: &str, answer: impl Future<Output = Result<T, ChildError>> + Send + 'static) {
        let lives = path == "root";
        self.ask(async move {
            let error = answer.await.err();
            let lost = matches!(error, Some(ChildError::Down(_) | ChildError::Unknown(_) | ChildError::Full(_)));
            assert!(!lives || !lost, "{error:?}");
        });
    }

    fn fault(&mut self) -> Fault {
        *[Fault::Kill, Fault::Panic, Fault::Error, Fault::Stall(millis(2))].choose(&mut self.dice).unwrap()
    }

    /// A child of any kind that a static supervisor has not had.
    fn newcomer(&mut self, above: &str, id: &str) -> ChildSpec {
        let (path, knobs) = (format!("{above}/{id}"), self.slow());
        knobs.fail_starts(self.dice.random_range(0..6u32).saturating_sub(4));
        knobs.nothing_to_do(self.dice.random_range(0..8) == 0);
        let restart = *[Restart::Permanent, Restart::Transient, Restart::Temporary].choose(&mut self.dice).unwrap();
        let child = named(id, &path, &self.log, &knobs).restart(restart).shutdown(Shutdown::Infinity);
        self.may_rest.insert(path.clone());
        self.workers.insert(path, knobs);
        child
    }

    /// Something to a supervisor and what is in it.
    fn deed(&mut self, n: usize) {
        let supervisors: Vec<String> = self.tree.snapshot().nodes.into_iter().filter_map(is_static).collect();
        match self.dice.random_range(0..4) {
            0 => {
                let (crowd, knobs) = (self.crowd.clone(), self.slow());
                self.members.push(knobs.clone());
                self.ask(async move { drop(crowd.start_child(knobs).await) });
            }
            1 => {
                let (crowd, id) = (self.crowd.clone(), self.dice.random_range(0..30).to_string());
                self.ask(async move { drop(crowd.terminate_child(&id).await) });
            }
            _ if !self.weather.requests => {}
            _ => {
                let path = supervisors.choose(&mut self.dice).unwrap();
                let child = self.newcomer(path, &format!("n{n}"));
                // It may have been deleted meanwhile.
                let Some(supervisor) = self.tree.supervisor(path) else { return };
                self.ask_at(path, async move { supervisor.start_child(child).await });
            }
        }
    }

    /// Something to one place below the root.
    async fn blow(&mut self) {
        let places = self.tree.snapshot().nodes;
        let path = places[1..].choose(&mut self.dice).unwrap().path.clone();
        let cell = self.tree.find(&path);
        // A worker that stops by itself finds its juniors there, and rightly so.
        let may_stop = self.weather.requests || !self.workers.contains_key(&path);
        match self.dice.random_range(0..16) {
            2 if may_stop => drop(cell.map(|cell| cell.stop(None))),
            3 if may_stop => drop(cell.map(|cell| cell.drain())),
            0..=3 => drop(cell.map(|cell| cell.kill())),
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
            7..=9 => self.arm(&path),
            10 | 11 if self.weather.requests => self.request(&path),
            12..=14 => {
                if let (Some(knobs), Some(cell)) = (self.workers.get(&path), cell) {
                    let ill = [Do::Panic, Do::Fail, Do::Hang(oneshot::channel().0)];
                    let n = self.dice.random_range(0..4);
                    match ill.into_iter().nth(n) {
                        Some(ill) => drop(cell.send_message(ill)),
                        None => knobs.fail_starts(2),
                    }
                    if n > 1 {
                        cell.kill(); // in the middle of the handler, or so that the next start fails
                    }
                }
            }
            // By hand, as nobody should.
            _ if self.dice.random_range(0..4) == 0 => {
                let above = path.rsplit_once('/').and_then(|(above, _)| self.tree.find(above));
                if let Some((cell, above)) = cell.zip(above) {
                    cell.unlink(above);
                }
            }
            _ => {}
        }
    }

    fn arm(&mut self, path: &str) {
        let callbacks = [None, Some(PreStart), Some(PostStart), Some(Handle), Some(HandleEvent), Some(PostStop)];
        let callback = *callbacks.choose(&mut self.dice).unwrap();
        let at = *[At::Start, At::Await(1), At::Await(2), At::End].choose(&mut self.dice).unwrap();
        let moment = Moment { callback, kind: None, skip: self.dice.random_range(0..3), at };
        let fault = self.fault();
        self.armed.extend(self.tree.arm(path, moment, fault));
    }

    fn request(&mut self, path: &str) {
        let (above, id) = path.rsplit_once('/').unwrap();
        let (Some(supervisor), id) = (self.tree.supervisor(above), id.to_owned()) else { return };
        self.may_rest.insert(path.to_owned());
        match self.dice.random_range(0..4) {
            0 => self.ask_at(above, async move { supervisor.terminate_child(&id).await }),
            1 => self.ask_at(above, async move { supervisor.restart_child(&id).await }),
            2 => self.ask_at(above, async move { supervisor.delete_child(&id).await }),
            _ => self.ask_at(above, async move { supervisor.get_childspec(&id).await }),
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

    /// Everyone is answered, all that must run does, and what is said of each place is so.
    async fn calm(&mut self) {
        self.armed.clear();
        sleep(millis(5)).await; // what is on its way arrives
        while let Some(answered) = self.asked.join_next().await {
            answered.unwrap();
        }
        until("the storm is over", &self.tree, |tree| {
            let places = tree.snapshot().nodes;
            let runs: BTreeSet<&str> = places.iter().filter(|place| is_up(place)).map(|place| &*place.path).collect();
            let held = |knobs: &&Knobs| knobs.lock.held();
            let members = runs.iter().filter(|path| path.starts_with(CROWD)).count();
            places.iter().all(|place| is_up(place) || place.state == ChildState::Stopped && self.may_rest(&place.path))
                && self.workers.iter().all(|(path, knobs)| knobs.lock.held() == runs.contains(&**path))
                && members == self.members.iter().filter(held).count() + usize::from(runs.contains(CROWD))
        })
        .await;
    }

    /// Itself, or something above it.
    fn may_rest(&self, path: &str) -> bool {
        path.match_indices('/').map(|(end, _)| &path[..end]).chain([path]).any(|path| self.may_rest.contains(path))
    }

    /// All children of the root can be ended and deleted, and others take their place.
    async fn replace_all(&mut self) {
        let root = self.tree.supervisor("root").unwrap();
        for (id, _) in children(&root) {
            timeout(PATIENCE, delete(&root, &id)).await.expect("it is deleted");
        }
        assert_eq!(root.count_children(), counts(0, 0, 0, 0));
        assert!(!self.workers.values().chain(&self.members).any(|knobs| knobs.lock.held()));
        for id in ["a", "b", "c"] {
            let (path, knobs) = (format!("root/{id}"), Knobs::new());
            running(root.start_child(named(id, &path, &self.log, &knobs)).await);
            self.workers.insert(path, knobs);
        }
    }

    async fn end(self) {
        let up: Vec<TreeNode> = self.tree.snapshot().nodes.into_iter().filter(is_up).collect();
        let up: Vec<(String, Knobs)> =
            up.into_iter().filter_map(|place| self.workers.get(&place.path).map(|k| (place.path, k.clone()))).collect();
        if self.weather.gentle {
            (0..up.len()).for_each(|elder| before_juniors(&up[elder..]));
        }
        self.log.take();
        let began = Instant::now();
        assert_eq!(self.tree.stop(STOP).await, Ok(()), "{:#?}", self.tree.snapshot());
        assert!(began.elapsed() < STOP);
        timeout(STOP, self.tree.wait()).await.expect("it has ended").unwrap();
        if self.weather.gentle {
            let stops: Vec<String> = self.log.take().into_iter().filter(|line| line != "stop x").collect(); // of the crowd
            let expected: Vec<String> = up.iter().rev().map(|(path, _)| format!("stop {path}")).collect();
            assert_eq!(stops, expected);
        }
        for knobs in self.workers.values().chain(&self.members) {
            assert_eq!((knobs.lock.held(), knobs.lock.broken()), (false, 0), "left over, or twice at a time");
            assert_eq!(knobs.disorder(), 0, "a junior was still there");
        }
        let alive = |place: &TreeNode| place.state != ChildState::Stopped || place.actor.is_some();
        assert!(!self.tree.snapshot().nodes.iter().any(alive));
    }
}

async fn delete(supervisor: &SupervisorRef, id: &str) {
    loop {
        let ended = supervisor.terminate_child(id).await;
        assert!(matches!(ended, Ok(()) | Err(ChildError::NotFound(_))), "{ended:?}");
        match supervisor.delete_child(id).await {
            Ok(()) | Err(ChildError::NotFound(_)) => return,
            // Revived with its group, by a death that was just being seen; a start that is to fail is tried again.
            Err(ChildError::Running(_) | ChildError::Restarting(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

fn is_up(place: &TreeNode) -> bool {
    place.state == ChildState::Running
}

fn is_static(place: TreeNode) -> Option<String> {
    (place.kind == Kind::Supervisor && place.path != CROWD).then_some(place.path)
}

async fn storm(seed: u64) {
    println!("STORM_SEED={seed}");
    let mut storm = Storm::start(seed).await;
    let root = storm.tree.find("root");
    storm.rage().await;
    storm.calm().await;
    assert_eq!(storm.tree.find("root"), root, "nothing strikes the root, and it never died");
    if storm.weather.requests && storm.weather.gentle {
        storm.replace_all().await;
    }
    storm.end().await;
}

fn seeds(count: u64) -> std::ops::Range<u64> {
    let given = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let from = given("STORM_SEED").unwrap_or(0);
    from..from + given("STORM_SEEDS").unwrap_or(count)
}

#[test]
fn storms_in_a_quiet_world() {
    for seed in seeds(200) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().start_paused(true).build().unwrap().block_on(storm(seed));
    }
}

#[test]
fn storms_on_threads() {
    for seed in seeds(60) {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.enable_time().worker_threads(3).build().unwrap().block_on(async move {
            // Not on the thread that only waits.
            tokio::spawn(storm(seed)).await.unwrap();
        });
    }
}
