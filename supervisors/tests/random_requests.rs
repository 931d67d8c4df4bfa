//! Random requests and random deaths, all at once: everyone is answered, nothing runs twice, the supervisor lives, and
//! what it says of its children is so.
#![allow(missing_docs)]

mod common;

use common::*;
use converge_supervisors::{Backoff, ChildError, ChildSpec, ChildState, Restart, Strategy, SupervisorRef, Tree};
use proptest::prelude::*;
use proptest::strategy::Strategy as _;
use tokio::task::JoinHandle;
use tokio::time::{Duration, timeout};

const STRATEGIES: [Strategy; 3] = [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne];
const IDS: [&str; 6] = ["c0", "c1", "c2", "c3", "c4", "c5"];
/// Those of the specification; the others are added.
const FIRST: usize = 3;
/// More restarts than any run here makes.
const LAX: u32 = 1_000_000;

#[derive(Clone, Copy, Debug)]
enum Deed {
    Start,
    Restart,
    Terminate,
    Delete,
    Kill,
    Stop,
    Fail,
    /// Its next starts fail.
    Cripple,
    /// Its next starts find nothing to run, or something again.
    Idle(bool),
}

fn deeds() -> impl proptest::strategy::Strategy<Value = Vec<(usize, Deed, bool)>> {
    let deed = prop_oneof![
        3 => Just(Deed::Start),
        3 => Just(Deed::Restart),
        4 => Just(Deed::Terminate),
        2 => Just(Deed::Delete),
        2 => Just(Deed::Kill),
        1 => Just(Deed::Stop),
        1 => Just(Deed::Fail),
        1 => Just(Deed::Cripple),
        1 => any::<bool>().prop_map(Deed::Idle),
    ];
    prop::collection::vec((0..IDS.len(), deed, any::<bool>()), 1..60)
}

struct Yard {
    tree: Tree,
    root: SupervisorRef,
    log: Log,
    knobs: Vec<Knobs>,
    asked: Vec<JoinHandle<Option<ChildError>>>,
}

/// Every kind of child, by its number.
fn child(n: usize, log: &Log, knobs: &Knobs) -> ChildSpec {
    let restart = [Restart::Permanent, Restart::Transient, Restart::Permanent, Restart::Temporary];
    let child = optional(IDS[n], log, knobs).restart(restart[n % restart.len()]);
    if n == 2 { child.backoff(Backoff { first: Duration::from_nanos(1), max: Duration::from_nanos(2) }) } else { child }
}

impl Yard {
    async fn start(strategy: Strategy) -> Yard {
        let (log, knobs) = (Log::new(), IDS.map(|_| Knobs::new()).to_vec());
        let children = (0..FIRST).map(|n| child(n, &log, &knobs[n])).collect();
        let tree = Tree::start("root", spec(strategy, LAX, 5, children)).await.unwrap();
        let root = tree.supervisor("root").unwrap();
        Yard { tree, root, log, knobs, asked: Vec::new() }
    }

    fn do_it(&mut self, n: usize, deed: Deed) {
        let (root, id, knobs) = (self.root.clone(), IDS[n], &self.knobs[n]);
        let cell = self.tree.find(&format!("root/{id}"));
        let spec = child(n, &self.log, knobs);
        let task = match deed {
            Deed::Start => tokio::spawn(async move { root.start_child(spec).await.err() }),
            Deed::Restart => tokio::spawn(async move { root.restart_child(id).await.err() }),
            Deed::Terminate => tokio::spawn(async move { root.terminate_child(id).await.err() }),
            Deed::Delete => tokio::spawn(async move { root.delete_child(id).await.err() }),
            Deed::Cripple => return knobs.fail_starts(2),
            Deed::Idle(on) => return knobs.nothing_to_do(on),
            Deed::Kill => return cell.into_iter().for_each(|cell| cell.kill()),
            Deed::Stop => return cell.into_iter().for_each(|cell| cell.stop(None)),
            Deed::Fail => return cell.into_iter().for_each(|cell| drop(cell.send_message(Do::Fail))),
        };
        self.asked.push(task);
    }

    async fn delete(&self, id: &str) {
        loop {
            let ended = self.root.terminate_child(id).await;
            assert!(matches!(ended, Ok(()) | Err(ChildError::NotFound(_))), "{ended:?}");
            match self.root.delete_child(id).await {
                Ok(()) | Err(ChildError::NotFound(_)) => return,
                // Revived with its group, by a death that was just being seen; a start that is to fail is tried again.
                Err(ChildError::Running(_) | ChildError::Restarting(_)) => {}
                Err(other) => panic!("{other}"),
            }
        }
    }

    /// What it says of each child is what is: who runs holds its lock, and nobody else does.
    async fn calm(&self) {
        until("what is said is so", &self.tree, |_| {
            let said = children(&self.root);
            self.knobs.iter().zip(IDS).all(|(knobs, id)| {
                let state = said.iter().find_map(|(of, state)| (of == id).then_some(*state));
                match state {
                    Some(ChildState::Running) => knobs.lock.held(),
                    Some(ChildState::Stopped) | None => !knobs.lock.held(),
                    Some(_) => false,
                }
            })
        })
        .await;
    }
}

async fn survive(strategy: Strategy, deeds: Vec<(usize, Deed, bool)>) {
    let mut yard = Yard::start(strategy).await;
    let root = yard.tree.find("root").unwrap();
    for (n, deed, pause) in deeds {
        yard.do_it(n, deed);
        if pause {
            settle().await;
        }
    }
    for task in std::mem::take(&mut yard.asked) {
        let error = answer(task).await;
        let lost = matches!(error, Some(ChildError::Down(_) | ChildError::Unknown(_) | ChildError::Full(_)));
        assert!(!lost, "{error:?}");
    }
    yard.calm().await;
    assert_eq!(yard.tree.find("root"), Some(root), "the supervisor never died");
    assert!(yard.knobs.iter().all(|knobs| knobs.lock.broken() == 0), "nothing ran twice");

    // All that is left can be ended and deleted, in any order; a death that is just being seen may revive one of a group.
    for id in IDS {
        timeout(PATIENCE, yard.delete(id)).await.expect("it is deleted");
    }
    assert_eq!(yard.root.count_children(), counts(0, 0, 0, 0));
    for (n, knobs) in yard.knobs.iter().enumerate() {
        assert!(!knobs.lock.held());
        knobs.fail_starts(0);
        knobs.nothing_to_do(false);
        running(yard.root.start_child(child(n, &yard.log, knobs)).await);
    }
    yard.log.take();
    assert_eq!(yard.tree.stop(PATIENCE).await, Ok(()));
    let mut stops = IDS.map(|id| format!("stop {id}"));
    stops.reverse();
    assert_eq!(yard.log.take(), stops);
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn random_requests_in_a_quiet_world(strategy in prop::sample::select(&STRATEGIES[..]), deeds in deeds()) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().start_paused(true).build().unwrap().block_on(survive(strategy, deeds));
    }
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn random_requests_in_parallel(strategy in prop::sample::select(&STRATEGIES[..]), deeds in deeds()) {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.enable_time().worker_threads(3).build().unwrap().block_on(survive(strategy, deeds));
    }
}
