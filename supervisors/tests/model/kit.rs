//! A script, done to a tree of the kit.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;

use converge_supervisors::ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, ActorStatus};
use converge_supervisors::{
    AutoShutdown, ChildError, ChildSpec, ChildState, DynamicSupervisor, Event, Intensity, Kind, Reports,
    Restart as KitRestart, Shutdown, StartError, Started, Strategy as KitStrategy, SupervisorRef, SupervisorSpec,
    Template as KitTemplate, Tree, TreeNode,
};
use tokio::time::{Duration, sleep, timeout};

use super::otp::ROOT;
use super::script::{
    Auto, Body, Child, DYNAMIC, Restart, Script, ScriptedOutcome, Slow, Step, Strategy, Sup, Template, Why, split,
};
use super::{Account, Record};

/// Turns of a slow start: more than it takes until all else is at rest. It takes no time, for it says nothing of that.
const TURNS: usize = 1_000;

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
    dynamic: Arc<Mutex<Dynamics>>,
    workers: Workers,
}

/// The workers that came up last, by path.
type Workers = Arc<Mutex<BTreeMap<String, ActorRef<Why>>>>;

/// The dynamic supervisors of a tree. They choose the ids of their children; a script has names for them.
#[derive(Debug, Default)]
struct Dynamics {
    handles: BTreeMap<String, DynamicSupervisor<KitWorker>>,
    /// The script's path of a child, and its path in the tree.
    paths: BTreeMap<String, String>,
}

impl Rig {
    async fn run(mut self, script: &Script) -> Account {
        let tree = match Tree::start(ROOT, self.supervisor(ROOT, &script.root)).await {
            Ok(tree) => tree,
            Err(StartError::Child { path, .. }) => return vec![self.record(None, format!("{path} did not start"))],
            Err(error) => panic!("{error}"),
        };
        sleep(Duration::from_millis(1)).await;
        let mut reports = tree.reports();
        let mut account = vec![self.record(Some(&tree), "ok".to_owned())];
        for step in &script.steps {
            let reply = self.step(&tree, step).await;
            // Nothing of a tree without pauses of its own waits for the clock: it stands still until all is at rest.
            sleep(Duration::from_millis(1)).await;
            let verdicts = Some(self.verdicts(&mut reports));
            account.push(Record { verdicts, ..self.record(Some(&tree), reply) });
        }
        if timeout(PATIENCE, tree.wait()).await.is_err() {
            account.push(Record { reply: "a tree that does not end".to_owned(), ..Record::default() });
        }
        account
    }

    async fn step(&self, tree: &Tree, step: &Step) -> String {
        let Step::Queued(_, calls) = step else { return self.one_step(tree, step).await };
        // Each is polled once, which sends it, before the supervisor can read the first.
        let mut asking: Vec<_> = calls.iter().map(|call| Box::pin(self.one_step(tree, call))).collect();
        let mut replies: Vec<Option<String>> = vec![None; calls.len()];
        std::future::poll_fn(|context| {
            for (call, reply) in asking.iter_mut().zip(&mut replies).filter(|(_, reply)| reply.is_none()) {
                if let Poll::Ready(text) = call.as_mut().poll(context) {
                    *reply = Some(text);
                }
            }
            if replies.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        replies.into_iter().flatten().collect::<Vec<_>>().join(" | ")
    }

    async fn one_step(&self, tree: &Tree, step: &Step) -> String {
        match step {
            Step::Exit(ends) => {
                let nodes = tree.snapshot().nodes;
                for (path, why) in ends {
                    let path = self.in_tree(path);
                    let worker = nodes.iter().any(|node| node.path == path && node.kind == Kind::Worker);
                    if let Some(cell) = tree.find(&path) {
                        exit(&cell, *why, worker);
                    }
                }
            }
            Step::Pass(milliseconds) => sleep(Duration::from_millis(*milliseconds)).await,
            Step::Queued(..) => unreachable!("one call at a time"),
            Step::Stop => tree.stop(PATIENCE).await.expect("stops in time"),
            Step::Start(parent, child) if parent.ends_with(DYNAMIC) => {
                return self.start_dynamic(tree, parent, child).await;
            }
            Step::Start(parent, child) => {
                let handles = self.dynamic.lock().expect("no panic under the lock").handles.clone();
                let path = format!("{parent}/{}", child.id);
                let spec = self.child(&path, child);
                let Some(supervisor) = tree.supervisor(parent) else { return NOBODY.to_owned() };
                let result = supervisor.start_child(spec).await;
                if result.is_err() {
                    // What is there is what was there.
                    let own = |place: &str| {
                        place.strip_prefix(&path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                    };
                    let now = &mut self.dynamic.lock().expect("no panic under the lock").handles;
                    now.retain(|place, _| !own(place));
                    now.extend(handles.into_iter().filter(|(place, _)| own(place)));
                }
                return self.started(tree, result, "already started");
            }
            Step::Restart(path) => {
                let path = self.in_tree(path);
                let (parent, id) = split(&path);
                return match tree.supervisor(parent) {
                    Some(supervisor) => self.started(tree, supervisor.restart_child(id).await, "running"),
                    None => NOBODY.to_owned(),
                };
            }
            Step::Terminate(path) | Step::Delete(path) => {
                let path = self.in_tree(path);
                let (parent, id) = split(&path);
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

    fn verdicts(&self, reports: &mut Reports) -> Vec<String> {
        let mut verdicts = Vec::new();
        while let Some(report) = reports.try_next().expect("few reports, and a handle on the tree") {
            let path = self.in_script(report.path);
            verdicts.extend(match report.event {
                Event::Restarting { in_window, .. } => Some(format!("restart {path} {in_window}")),
                Event::GaveUp { child, .. } => Some(format!("{path} gave up on {}", self.in_script(child))),
                Event::AutoShutdown { child } => Some(format!("{path} ends with {}", self.in_script(child))),
                _ => None,
            });
        }
        verdicts
    }

    async fn start_dynamic(&self, tree: &Tree, parent: &str, child: &Child) -> String {
        let handle = self.dynamic.lock().expect("no panic under the lock").handles.get(parent).cloned();
        let Some(handle) = handle else { return NOBODY.to_owned() };
        let path = format!("{parent}/{}", child.id);
        let result = handle.start_child(self.worker(&path, child)).await;
        if let Ok(Started::Running { id, .. }) = &result {
            let mut dynamic = self.dynamic.lock().expect("no panic under the lock");
            dynamic.paths.insert(path.clone(), format!("{parent}/{id}"));
        }
        match result {
            Err(ChildError::StartFailed { path: place, .. }) => {
                assert_eq!(split(&place).0, parent);
                format!("{path} did not start")
            }
            result => self.started(tree, result, "running"),
        }
    }

    fn started(&self, tree: &Tree, result: Result<Started, ChildError>, running: &str) -> String {
        match result {
            Ok(Started::Running { actor, .. }) => {
                let nodes = tree.snapshot().nodes;
                let runs = nodes.iter().any(|node| node.actor == Some(actor.get_id()));
                // Who ended meanwhile may take it along as soon as it is up.
                let events = self.events.lock().expect("no panic under the lock");
                let alone = !events.iter().any(|event| event.starts_with("meanwhile "));
                assert!(runs || !alone, "it runs when that is said");
                "started".to_owned()
            }
            Ok(Started::Ignore) => "ignored".to_owned(),
            Err(error) => refusal(&error, running),
        }
    }

    fn in_tree(&self, path: &str) -> String {
        let dynamic = self.dynamic.lock().expect("no panic under the lock");
        dynamic.paths.get(path).cloned().unwrap_or_else(|| path.to_owned())
    }

    /// The latest of that place: ids begin anew when the supervisor does.
    fn in_script(&self, path: String) -> String {
        let dynamic = self.dynamic.lock().expect("no panic under the lock");
        let name = dynamic.paths.iter().rfind(|(_, place)| **place == path);
        name.map_or(path, |(name, _)| name.clone())
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
        Record { events, verdicts: None, reply, view }
    }

    fn look(&self, tree: &Tree, at: &SupervisorRef, view: &mut Vec<String>, up: &mut BTreeMap<String, ActorId>) {
        let counts = at.count_children();
        // OTP counts the one template.
        let specs = if at.path().ends_with(DYNAMIC) { 1 } else { counts.specs };
        view.push(super::counts(at.path(), specs, counts.active, counts.supervisors, counts.workers));
        for TreeNode { path, kind, state, actor, .. } in at.which_children() {
            let path = self.in_script(path);
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
            Strategy::Simple(_) => unreachable!("not at the root, and below it made by `dynamic`"),
        };
        let intensity = tolerated(sup.intensity, sup.period);
        SupervisorSpec::new(strategy, intensity, children).auto_shutdown(auto_shutdown(sup.auto))
    }

    fn child(&self, path: &str, child: &Child) -> ChildSpec {
        let spec = match &child.body {
            Body::Supervisor(Sup { strategy: Strategy::Simple(template), intensity, period, auto, .. }) => {
                let intensity = tolerated(*intensity, *period);
                ChildSpec::dynamic(&child.id, &self.dynamic(path, *template, intensity, *auto))
            }
            Body::Supervisor(sup) => ChildSpec::supervisor(&child.id, self.supervisor(path, sup)),
            Body::Worker { brutal, .. } => {
                let worker = self.worker(path, child);
                let spec = ChildSpec::optional(&child.id, move || worker.starts());
                if *brutal { spec.shutdown(Shutdown::BrutalKill) } else { spec }
            }
        };
        spec.significant(child.significant).restart(restart(child.restart))
    }

    fn dynamic(
        &self,
        path: &str,
        template: Template,
        intensity: Intensity,
        auto: Auto,
    ) -> DynamicSupervisor<KitWorker> {
        let template = KitTemplate {
            intensity,
            restart: restart(template.restart),
            shutdown: template.brutal.then_some(Shutdown::BrutalKill),
            auto_shutdown: auto_shutdown(auto),
            ..KitTemplate::default()
        };
        let handle = DynamicSupervisor::new(template, |worker: KitWorker| worker.starts());
        let mut dynamic = self.dynamic.lock().expect("no panic under the lock");
        dynamic.handles.insert(path.to_owned(), handle.clone());
        handle
    }

    fn worker(&self, path: &str, child: &Child) -> KitWorker {
        let Body::Worker { starts, slow, .. } = &child.body else { unreachable!("a worker") };
        let (events, workers) = (Arc::clone(&self.events), Arc::clone(&self.workers));
        let (path, starts, slow) = (path.to_owned(), starts.clone(), slow.clone());
        KitWorker { path, events, workers, starts, slow, attempts: Arc::default(), attempt: 0, fails: false }
    }
}

fn tolerated(restarts: usize, seconds: u64) -> Intensity {
    Intensity { restarts: u32::try_from(restarts).expect("few"), period: Duration::from_secs(seconds) }
}

fn auto_shutdown(auto: Auto) -> AutoShutdown {
    match auto {
        Auto::Never => AutoShutdown::Never,
        Auto::Any => AutoShutdown::AnySignificant,
        Auto::All => AutoShutdown::AllSignificant,
    }
}

fn restart(restart: Restart) -> KitRestart {
    match restart {
        Restart::Permanent => KitRestart::Permanent,
        Restart::Transient => KitRestart::Transient,
        Restart::Temporary => KitRestart::Temporary,
    }
}

/// A worker says when it starts and when its state is gone.
#[derive(Clone, Debug)]
struct KitWorker {
    path: String,
    events: Arc<Mutex<Vec<String>>>,
    workers: Workers,
    starts: Vec<ScriptedOutcome>,
    slow: Option<Slow>,
    /// Of all its incarnations.
    attempts: Arc<AtomicUsize>,
    attempt: usize,
    fails: bool,
}

impl KitWorker {
    /// The next incarnation, if it is to run.
    fn starts(&self) -> Option<(KitWorker, ())> {
        let attempt = self.attempts.fetch_add(1, Ordering::SeqCst);
        let outcome = self.starts.get(attempt).copied().unwrap_or(ScriptedOutcome::Up);
        if outcome == ScriptedOutcome::Ignore {
            say(&self.events, format!("start {} ignore", self.path));
            return None;
        }
        Some((KitWorker { attempt, fails: outcome == ScriptedOutcome::Fail, ..self.clone() }, ()))
    }

    /// What happens during a slow start.
    async fn meanwhile(&self) {
        let Some(slow) = self.slow.as_ref().filter(|slow| slow.attempt == self.attempt) else { return };
        at_rest().await;
        let parent = split(&self.path).0;
        let mut hit = false;
        for (id, why) in &slow.ends {
            let sibling = self.workers.lock().expect("no panic under the lock").get(&format!("{parent}/{id}")).cloned();
            let Some(sibling) = sibling.filter(|sibling| sibling.get_status() == ActorStatus::Running) else {
                continue;
            };
            if !std::mem::replace(&mut hit, true) {
                say(&self.events, format!("meanwhile {}", self.path));
            }
            exit(&sibling.get_cell(), *why, true);
            at_rest().await;
        }
    }
}

async fn at_rest() {
    for _ in 0..TURNS {
        tokio::task::yield_now().await;
    }
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

impl Actor for KitWorker {
    type Msg = Why;
    type State = Alive;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Why>, (): ()) -> Result<Alive, ActorProcessingErr> {
        say(&self.events, format!("start {} {}", self.path, if self.fails { "fail" } else { "ok" }));
        self.meanwhile().await;
        if self.fails {
            return Err("told to fail".into());
        }
        self.workers.lock().expect("no panic under the lock").insert(self.path.clone(), myself);
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
        // Two words for one thing.
        Why::Normal if cell.get_id().pid().is_multiple_of(2) => cell.stop(None),
        Why::Normal => cell.stop(Some("normal".to_owned())),
        Why::Shutdown => cell.stop(Some("shutdown".to_owned())),
        Why::ShutdownTerm => cell.stop(Some("shutdown: told to".to_owned())),
        Why::Abnormal | Why::Odd => cell.stop(Some("out of luck".to_owned())),
        Why::Kill => cell.kill(),
    }
}
