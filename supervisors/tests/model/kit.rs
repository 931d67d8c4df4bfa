//! A script, done to a tree of the kit.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use converge_supervisors::ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef};
use converge_supervisors::{
    AutoShutdown, ChildError, ChildSpec, ChildState, Intensity, Kind, Restart as KitRestart, Shutdown, StartError,
    Started, Strategy as KitStrategy, SupervisorRef, SupervisorSpec, Tree, TreeNode,
};
use tokio::time::{Duration, sleep, timeout};

use super::otp::ROOT;
use super::script::{Auto, Body, Child, Outcome, Restart, Script, Step, Strategy, Sup, Why, split};
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
            Step::Start(parent, child) => {
                let spec = self.child(&format!("{parent}/{}", child.id), child);
                return match tree.supervisor(parent) {
                    Some(supervisor) => started(tree, supervisor.start_child(spec).await, "already started"),
                    None => NOBODY.to_owned(),
                };
            }
            Step::Restart(path) => {
                let (parent, id) = split(path);
                return match tree.supervisor(parent) {
                    Some(supervisor) => started(tree, supervisor.restart_child(id).await, "running"),
                    None => NOBODY.to_owned(),
                };
            }
            Step::Terminate(path) | Step::Delete(path) => {
                let (parent, id) = split(path);
                let Some(supervisor) = tree.supervisor(parent) else { return NOBODY.to_owned() };
                let result = match step {
                    Step::Terminate(_) => supervisor.terminate_child(id).await,
                    _ => supervisor.delete_child(id).await,
                };
                return result.map_or_else(|error| refusal(&error, "running"), |()| "ok".to_owned());
            }
        }
        String::new()
    }

    fn record(&mut self, tree: Option<&Tree>, reply: String) -> Record {
        let events = std::mem::take(&mut *self.events.lock().expect("no panic under the lock"));
        let mut view = Vec::new();
        let mut up = BTreeMap::new();
        if let Some(tree) = tree
            && tree.snapshot().nodes[0].state == ChildState::Running
        {
            self.look(tree, &tree.supervisor(ROOT).expect("the root"), &mut view, &mut up);
        }
        self.seen = up;
        Record { events, reply, view }
    }

    fn look(&self, tree: &Tree, at: &SupervisorRef, view: &mut Vec<String>, up: &mut BTreeMap<String, ActorId>) {
        let counts = at.count_children();
        view.push(super::counts(at.path(), counts.specs, counts.active, counts.supervisors, counts.workers));
        for TreeNode { path, kind, state, actor, .. } in at.which_children() {
            let word = match (state, actor) {
                (ChildState::Running, Some(actor)) => {
                    up.insert(path.clone(), actor);
                    if self.seen.get(&path) == Some(&actor) { "up" } else { "new" }
                }
                (ChildState::Restarting, _) => "restarting",
                (ChildState::Stopped, None) => "undefined",
                (state, actor) => panic!("{path} is not at rest: {state:?}, {actor:?}"),
            };
            view.push(format!("{path} {word}"));
            if kind == Kind::Supervisor && state == ChildState::Running {
                self.look(tree, &tree.supervisor(&path).expect("a supervisor"), view, up);
            }
        }
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
        let intensity = Intensity { restarts, period: Duration::from_secs(sup.period) };
        SupervisorSpec::new(strategy, intensity, children).auto_shutdown(match sup.auto {
            Auto::Never => AutoShutdown::Never,
            Auto::Any => AutoShutdown::AnySignificant,
            Auto::All => AutoShutdown::AllSignificant,
        })
    }

    fn child(&self, path: &str, child: &Child) -> ChildSpec {
        let spec = match &child.body {
            Body::Supervisor(sup) => ChildSpec::supervisor(&child.id, self.supervisor(path, sup)),
            Body::Worker { brutal, starts, .. } => {
                let spec = self.worker(path, &child.id, starts);
                if *brutal { spec.shutdown(Shutdown::BrutalKill) } else { spec }
            }
        };
        spec.significant(child.significant).restart(match child.restart {
            Restart::Permanent => KitRestart::Permanent,
            Restart::Transient => KitRestart::Transient,
            Restart::Temporary => KitRestart::Temporary,
        })
    }

    fn worker(&self, path: &str, id: &str, starts: &[Outcome]) -> ChildSpec {
        let (path, starts, events) = (path.to_owned(), starts.to_vec(), Arc::clone(&self.events));
        let attempts = AtomicUsize::new(0);
        ChildSpec::optional(id, move || {
            let outcome = starts.get(attempts.fetch_add(1, Ordering::SeqCst)).copied().unwrap_or(Outcome::Up);
            if outcome == Outcome::Ignore {
                say(&events, format!("start {path} ignore"));
                return None;
            }
            let fails = outcome == Outcome::Fail;
            Some((Worker { path: path.clone(), events: Arc::clone(&events), fails }, ()))
        })
    }
}

/// A worker says when it starts and when its state is gone.
struct Worker {
    path: String,
    events: Arc<Mutex<Vec<String>>>,
    fails: bool,
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
        say(&self.events, format!("start {} {}", self.path, if self.fails { "fail" } else { "ok" }));
        if self.fails {
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

/// What a call says when nobody is there to be called.
const NOBODY: &str = "no supervisor";

fn started(tree: &Tree, result: Result<Started, ChildError>, running: &str) -> String {
    match result {
        Ok(Started::Running { actor, .. }) => {
            let nodes = tree.snapshot().nodes;
            assert!(nodes.iter().any(|node| node.actor == Some(actor.get_id())), "it runs when that is said");
            "started".to_owned()
        }
        Ok(Started::Ignore) => "ignored".to_owned(),
        Err(error) => refusal(&error, running),
    }
}

fn refusal(error: &ChildError, running: &str) -> String {
    match error {
        ChildError::NotFound(_) => "not found".to_owned(),
        ChildError::Running(_) => running.to_owned(),
        ChildError::Restarting(_) => "restarting".to_owned(),
        ChildError::AlreadyPresent(_) => "already present".to_owned(),
        ChildError::StartFailed { path, .. } => format!("{path} did not start"),
        ChildError::Refused(_) => "refused".to_owned(),
        ChildError::Down(_) => NOBODY.to_owned(),
        error => error.to_string(),
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
