//! A script, done to a tree of the kit.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use converge_supervisors::ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef};
use converge_supervisors::{
    ChildSpec, ChildState, Intensity, Kind, Restart as KitRestart, Shutdown, StartError, Strategy as KitStrategy,
    SupervisorSpec, Tree,
};
use tokio::time::{Duration, sleep, timeout};

use super::otp::ROOT;
use super::script::{Body, Child, Outcome, Restart, Script, Step, Strategy, Sup, Why};
use super::{Account, Record};

/// More than any stop of these children takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// The whole story of a script, in paused time.
pub fn account(script: &Script) -> Account {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(Rig::default().run(script))
}

/// What all workers of a tree share.
#[derive(Clone, Debug, Default)]
struct Rig {
    events: Arc<Mutex<Vec<String>>>,
    /// What was up after the last step, by path.
    seen: BTreeMap<String, ActorId>,
}

impl Rig {
    async fn run(mut self, script: &Script) -> Account {
        let tree = match Tree::start(ROOT, self.supervisor(ROOT, &script.root)).await {
            Ok(tree) => tree,
            Err(StartError::Child { path, .. }) => return vec![self.record(None, format!("{path} did not start"))],
            Err(error) => panic!("{error}"),
        };
        let mut account = vec![self.record(Some(&tree), "ok".to_owned())];
        for step in &script.steps {
            let reply = self.step(&tree, step).await;
            // Nothing of a tree without pauses of its own waits for the clock: it stands still until all is at rest.
            sleep(Duration::from_millis(1)).await;
            account.push(self.record(Some(&tree), reply));
        }
        assert!(timeout(PATIENCE, tree.wait()).await.is_ok(), "a script ends with its tree");
        account
    }

    async fn step(&self, tree: &Tree, step: &Step) -> String {
        match step {
            Step::Exit(ends) => {
                let nodes = tree.snapshot().nodes;
                for (path, why) in ends {
                    let worker = nodes.iter().any(|node| node.path == *path && node.kind == Kind::Worker);
                    if let Some(cell) = tree.find(path) {
                        exit(&cell, *why, worker);
                    }
                }
            }
            Step::Pass(seconds) => sleep(Duration::from_secs(*seconds)).await,
            Step::Stop => tree.stop(PATIENCE).await.expect("stops in time"),
            Step::Start(..) | Step::Terminate(_) | Step::Restart(_) | Step::Delete(_) => unreachable!("not yet"),
        }
        String::new()
    }

    fn record(&mut self, tree: Option<&Tree>, reply: String) -> Record {
        let events = std::mem::take(&mut *self.events.lock().expect("no panic under the lock"));
        let mut view = Vec::new();
        let (mut up, mut parents) = (BTreeMap::new(), vec![ROOT.to_owned()]);
        let nodes = tree.map(|tree| tree.snapshot().nodes).unwrap_or_default();
        if nodes.first().is_none_or(|root| root.state != ChildState::Running) {
            parents.clear();
        }
        for node in nodes.into_iter().skip(1) {
            let parent = super::script::split(&node.path).0;
            if !parents.iter().any(|up| up == parent) {
                continue;
            }
            let word = match (node.state, node.actor) {
                (ChildState::Running, Some(actor)) => {
                    up.insert(node.path.clone(), actor);
                    parents.push(node.path.clone());
                    if self.seen.get(&node.path) == Some(&actor) { "up" } else { "new" }
                }
                (ChildState::Restarting, _) => "restarting",
                (ChildState::Stopped, _) => "undefined",
                (state, _) => panic!("{} is not at rest: {state:?}", node.path),
            };
            view.push(format!("{} {word}", node.path));
        }
        self.seen = up;
        Record { events, reply, view }
    }

    // --- specs

    fn supervisor(&self, path: &str, sup: &Sup) -> SupervisorSpec {
        let children = sup.children.iter().map(|child| self.child(&format!("{path}/{}", child.id), child)).collect();
        let strategy = match sup.strategy {
            Strategy::OneForOne => KitStrategy::OneForOne,
            Strategy::OneForAll => KitStrategy::OneForAll,
            Strategy::RestForOne => KitStrategy::RestForOne,
        };
        let restarts = u32::try_from(sup.intensity).expect("few");
        SupervisorSpec::new(strategy, Intensity { restarts, period: Duration::from_secs(sup.period) }, children)
    }

    fn child(&self, path: &str, child: &Child) -> ChildSpec {
        let spec = match &child.body {
            Body::Supervisor(sup) => ChildSpec::supervisor(&child.id, self.supervisor(path, sup)),
            Body::Worker { brutal, starts, .. } => {
                let spec = self.worker(path, &child.id, starts);
                if *brutal { spec.shutdown(Shutdown::BrutalKill) } else { spec }
            }
        };
        spec.restart(match child.restart {
            Restart::Permanent => KitRestart::Permanent,
            Restart::Transient => KitRestart::Transient,
            Restart::Temporary => KitRestart::Temporary,
        })
    }

    fn worker(&self, path: &str, id: &str, starts: &[Outcome]) -> ChildSpec {
        let (path, starts, events) = (path.to_owned(), starts.to_vec(), Arc::clone(&self.events));
        let attempts = AtomicUsize::new(0);
        ChildSpec::actor(id, move || {
            let outcome = starts.get(attempts.fetch_add(1, Ordering::SeqCst)).copied().unwrap_or(Outcome::Up);
            (Worker { path: path.clone(), events: Arc::clone(&events), outcome }, ())
        })
    }
}

/// A worker says when it starts and when its state is gone.
struct Worker {
    path: String,
    events: Arc<Mutex<Vec<String>>>,
    outcome: Outcome,
}

struct Alive {
    path: String,
    events: Arc<Mutex<Vec<String>>>,
    /// Why it ends; until it knows, by a kill.
    why: Why,
    own: bool,
}

impl Drop for Alive {
    fn drop(&mut self) {
        say(&self.events, format!("down {} {}", self.path, self.why.word()));
    }
}

fn say(events: &Mutex<Vec<String>>, event: String) {
    events.lock().expect("no panic under the lock").push(event);
}

impl Actor for Worker {
    type Msg = Why;
    type State = Alive;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Why>, (): ()) -> Result<Alive, ActorProcessingErr> {
        let word = match self.outcome {
            Outcome::Up => "ok",
            Outcome::Ignore => "ignore",
            Outcome::Fail => "fail",
        };
        say(&self.events, format!("start {} {word}", self.path));
        if self.outcome == Outcome::Fail {
            return Err("told to fail".into());
        }
        Ok(Alive { path: self.path.clone(), events: Arc::clone(&self.events), why: Why::Kill, own: false })
    }

    async fn handle(&self, myself: ActorRef<Why>, why: Why, alive: &mut Alive) -> Result<(), ActorProcessingErr> {
        (alive.why, alive.own) = (why, true);
        match why {
            Why::Abnormal => return Err("told to fail".into()),
            why => stop(&myself.get_cell(), why),
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Why>, alive: &mut Alive) -> Result<(), ActorProcessingErr> {
        if !alive.own {
            alive.why = Why::Shutdown;
        }
        Ok(())
    }
}

fn exit(cell: &ActorCell, why: Why, worker: bool) {
    if worker && why != Why::Kill {
        cell.send_message(why).expect("a worker takes it");
    } else {
        stop(cell, why);
    }
}

fn stop(cell: &ActorCell, why: Why) {
    match why {
        Why::Normal => cell.stop(None),
        Why::Shutdown => cell.stop(Some("shutdown".to_owned())),
        Why::ShutdownTerm => cell.stop(Some("shutdown: told to".to_owned())),
        Why::Abnormal | Why::Odd => cell.stop(Some("out of luck".to_owned())),
        Why::Kill => cell.kill(),
    }
}
