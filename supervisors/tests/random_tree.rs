//! Random trees, random deaths: whatever dies, the tree gets whole again, in order, and nothing runs twice.
#![allow(missing_docs)]

mod common;

use common::*;
use converge_supervisors::ractor::{ActorCell, ActorId};
use converge_supervisors::{ChildSpec, ChildState, Strategy, Tree};
use proptest::prelude::*;
use proptest::strategy::Strategy as _;
use tokio::sync::oneshot;

const STRATEGIES: [Strategy; 3] = [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne];

/// More restarts than any run here makes.
const LAX: u32 = 1_000_000;

#[derive(Clone, Debug)]
enum Shape {
    Worker,
    Supervisor(Strategy, Vec<Shape>),
}

fn shapes() -> impl proptest::strategy::Strategy<Value = Shape> {
    Just(Shape::Worker).prop_recursive(3, 16, 4, |inner| {
        let children = prop::collection::vec(inner, 1..4);
        (prop::sample::select(&STRATEGIES[..]), children)
            .prop_map(|(strategy, children)| Shape::Supervisor(strategy, children))
    })
}

fn roots() -> impl proptest::strategy::Strategy<Value = (Strategy, Vec<Shape>)> {
    (prop::sample::select(&STRATEGIES[..]), prop::collection::vec(shapes(), 1..4))
}

/// What is done to a node, chosen by number so that it fits any tree.
#[derive(Clone, Copy, Debug)]
enum Blow {
    Kill,
    Stop,
    /// Workers only, like those below.
    Panic,
    Fail,
    /// In the middle of a handler.
    Hang,
    /// And its next start fails.
    Cripple,
}

fn blows() -> impl proptest::strategy::Strategy<Value = Vec<(usize, Blow, bool)>> {
    let blow = prop::sample::select(
        &[Blow::Kill, Blow::Kill, Blow::Stop, Blow::Panic, Blow::Fail, Blow::Hang, Blow::Cripple][..],
    );
    prop::collection::vec((any::<usize>(), blow, any::<bool>()), 1..25)
}

/// A tree and the knobs of its workers, in start order.
struct Grown {
    log: Log,
    workers: Vec<(String, Knobs)>,
    paths: Vec<String>,
}

impl Grown {
    fn children(&mut self, path: &str, strategy: Strategy, shapes: &[Shape]) -> Vec<ChildSpec> {
        let mut specs = Vec::new();
        let mut firsts = Vec::new();
        for (i, shape) in shapes.iter().enumerate() {
            let (id, first) = (format!("c{i}"), self.workers.len());
            let path = format!("{path}/{id}");
            self.paths.push(path.clone());
            firsts.push((first, matches!(shape, Shape::Worker)));
            specs.push(match shape {
                Shape::Worker => {
                    let knobs = Knobs::new();
                    self.workers.push((path.clone(), knobs.clone()));
                    let (name, log) = (path, self.log.clone());
                    let make = move || (Probe { name: name.clone(), log: log.clone(), knobs: knobs.clone() }, ());
                    ChildSpec::actor(id, make)
                }
                Shape::Supervisor(strategy, shapes) => {
                    let children = self.children(&path, *strategy, shapes);
                    ChildSpec::supervisor(id, spec(*strategy, LAX, 5, children))
                }
            });
        }
        // In a group, a worker starts only when its juniors, and all below them, are gone.
        if strategy != Strategy::OneForOne {
            for &(own, _) in firsts.iter().filter(|(_, worker)| *worker) {
                let juniors = self.workers[own + 1..].iter().map(|(_, knobs)| knobs.lock.clone()).collect();
                self.workers[own].1.juniors(juniors);
            }
        }
        specs
    }

    /// Strikes what is there, if anything is; it will be replaced.
    fn strike(&self, tree: &Tree, target: usize, blow: Blow) -> Option<(String, ActorId)> {
        let path = &self.paths[target % self.paths.len()];
        let cell = tree.find(path)?;
        self.hit(path, &cell, blow);
        Some((path.clone(), cell.get_id()))
    }

    fn hit(&self, path: &str, cell: &ActorCell, blow: Blow) {
        let worker = self.workers.iter().find(|(name, _)| name == path);
        let (msg, kill) = match (blow, worker) {
            // A worker that stops on its own would find its juniors there, and rightly so.
            (Blow::Stop, None) => return cell.stop(None),
            (Blow::Stop, Some(_)) => return cell.kill(),
            (Blow::Panic, Some(_)) => (Do::Panic, false),
            (Blow::Fail, Some(_)) => (Do::Fail, false),
            (Blow::Hang, Some(_)) => (Do::Hang(oneshot::channel().0), true),
            (Blow::Cripple, Some((_, knobs))) => {
                knobs.fail_starts(2);
                return cell.kill();
            }
            (_, None) | (Blow::Kill, _) => return cell.kill(),
        };
        let _ = cell.send_message(msg);
        if kill {
            cell.kill();
        }
    }

    async fn whole(&self, tree: &Tree) {
        until("the tree is whole", tree, |tree| {
            let running = tree.snapshot().nodes.iter().all(|node| node.state == ChildState::Running);
            running && self.workers.iter().all(|(_, knobs)| knobs.lock.held())
        })
        .await;
    }
}

/// Grows the tree, strikes it, and checks what must hold.
async fn survive(root: (Strategy, Vec<Shape>), blows: Vec<(usize, Blow, bool)>) {
    let mut grown = Grown { log: Log::new(), workers: Vec::new(), paths: Vec::new() };
    let children = grown.children("root", root.0, &root.1);
    let tree = Tree::start("root", spec(root.0, LAX, 5, children)).await.unwrap();
    let names: Vec<&String> = grown.workers.iter().map(|(name, _)| name).collect();
    let starts: Vec<String> = names.iter().map(|name| format!("start {name}")).collect();
    assert_eq!(grown.log.take(), starts);

    let mut struck = Vec::new();
    for (target, blow, pause) in blows {
        struck.extend(grown.strike(&tree, target, blow));
        if pause {
            grown.whole(&tree).await;
        } else {
            tokio::task::yield_now().await;
        }
    }
    for (path, actor) in struck {
        until("it is replaced", &tree, |tree| {
            node(tree, &path).is_some_and(|node| node.state == ChildState::Running && node.actor != Some(actor))
        })
        .await;
    }
    grown.whole(&tree).await;
    for (name, knobs) in &grown.workers {
        assert_eq!(knobs.lock.broken(), 0, "{name} ran twice at a time");
        assert_eq!(knobs.disorder(), 0, "{name} started before its juniors were gone");
        knobs.fail_starts(0);
    }
    grown.log.take();
    // An ordered stop goes from the last to the first, each gone with its state before the next is asked.
    for (i, (_, knobs)) in grown.workers.iter().enumerate() {
        knobs.juniors(grown.workers[i + 1..].iter().map(|(_, knobs)| knobs.lock.clone()).collect());
    }
    tree.stop(PATIENCE).await.unwrap();
    let stops: Vec<String> = names.iter().rev().map(|name| format!("stop {name}")).collect();
    assert_eq!(grown.log.take(), stops);
    for (name, knobs) in &grown.workers {
        assert!(!knobs.lock.held(), "{name} is an orphan");
        assert_eq!(knobs.disorder(), 0, "{name} stopped before its juniors had let go");
    }
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(200))]

    /// One thread, paused time: time moves when nothing is left to do.
    #[test]
    fn random_deaths_in_a_quiet_world(root in roots(), blows in blows()) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().start_paused(true).build().unwrap().block_on(survive(root, blows));
    }
}

proptest! {
    #![proptest_config(config(60))]

    /// Threads, real time.
    #[test]
    fn random_deaths_in_parallel(root in roots(), blows in blows()) {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.enable_time().worker_threads(3).build().unwrap().block_on(survive(root, blows));
    }
}
