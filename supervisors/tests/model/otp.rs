//! OTP's rules: what `supervisor` of Erlang/OTP 25 does with a script.
//!
//! Written from its documentation ("Supervision Principles" and the reference of `supervisor`), and checked against the
//! real one by `otp_erlang.rs`. Pure: no actor, no clock. A supervisor of OTP does one thing at a time and a script waits
//! until all is at rest, so each step is a function from a state to a state, with an account of the way.

mod calls;
mod supervisor;

use std::collections::{BTreeMap, BTreeSet};

use self::calls::asked;
use self::supervisor::{Fate, Process, Supervisor};
use super::script::{Auto, Script, ScriptedOutcome, Step, Sup, Template, Why, split};
use super::{Account, Manner, Record};

/// The path of the first segment.
pub const ROOT: &str = "root";

/// A tree under OTP's rules.
#[derive(Clone, Debug)]
pub struct Otp {
    world: OtpWorld,
    root: Option<Supervisor>,
    /// What was up after the last step, by path.
    seen: BTreeMap<String, u64>,
}

/// What all supervisors of a tree share.
#[derive(Clone, Debug)]
struct OtpWorld {
    manner: Manner,
    /// In milliseconds.
    now: u64,
    /// Children of dynamic supervisors there have been, by path.
    once: BTreeSet<String>,
    /// A request to end the child waits behind the call that is being carried out.
    doomed: bool,
    /// And has called its start off.
    called_off: bool,
    /// Attempts to start, by the key of the worker.
    attempts: BTreeMap<u32, usize>,
    /// Processes ever started.
    processes: u64,
    events: Vec<String>,
    verdicts: Vec<String>,
}

/// A known child, for whoever aims a step.
#[derive(Clone, Debug)]
pub struct Known {
    pub path: String,
    pub up: bool,
    pub supervisor: bool,
    /// It is a dynamic supervisor with these children.
    pub template: Option<(Template, Auto)>,
    /// It is a dynamic supervisor's child.
    pub dynamic: bool,
}

/// The whole story of a script.
pub fn account(script: &Script, manner: Manner) -> Account {
    let (mut otp, start) = Otp::start(&script.root, manner);
    let mut account = vec![start];
    account.extend(script.steps.iter().map(|step| otp.step(step)));
    account
}

impl Otp {
    pub fn start(sup: &Sup, manner: Manner) -> (Otp, Record) {
        let mut world = OtpWorld::new(manner);
        let (root, reply) = match world.supervisor(ROOT.to_owned(), sup) {
            Ok(process) => (process.supervisor, "ok".to_owned()),
            Err(culprit) => (None, format!("{culprit} did not start")),
        };
        let mut otp = Otp { world, root, seen: BTreeMap::new() };
        let record = otp.record(reply);
        otp.world.now += 1;
        (otp, record)
    }

    pub fn is_over(&self) -> bool {
        self.root.is_none()
    }

    /// Every known child, depth first.
    pub fn known(&self) -> Vec<Known> {
        let mut known = Vec::new();
        if let Some(root) = &self.root {
            root.known(&mut known);
        }
        known
    }

    /// Children of dynamic supervisors that have ended for good.
    pub fn gone(&self) -> Vec<String> {
        let known = self.known();
        let there = |path: &&String| !known.iter().any(|child| child.path == **path);
        let supervised =
            |path: &&String| known.iter().any(|child| child.up && child.supervisor && child.path == split(path).0);
        self.world.once.iter().filter(there).filter(supervised).cloned().collect()
    }

    /// The next moments when a restart may no longer count, or does so for the last time.
    pub fn edges(&self) -> Vec<u64> {
        let mut edges = Vec::new();
        if let Some(root) = &self.root {
            root.edges(&mut edges);
        }
        edges.into_iter().filter_map(|edge| edge.checked_sub(self.world.now)).collect()
    }

    pub fn step(&mut self, step: &Step) -> Record {
        let mut reply = String::new();
        match step {
            Step::Exit(ends) => self.exits(ends),
            Step::Start(parent, _) => reply = self.calls(parent, std::slice::from_ref(step)),
            Step::Terminate(path) | Step::Restart(path) | Step::Delete(path) => {
                reply = self.calls(split(path).0, std::slice::from_ref(step));
            }
            Step::Queued(parent, calls) => reply = self.calls(parent, calls),
            Step::Pass(milliseconds) => self.world.now += milliseconds,
            Step::Stop => self.end(Why::Shutdown),
        }
        self.world.now += 1;
        self.record(reply)
    }

    fn record(&mut self, reply: String) -> Record {
        let (mut view, mut up) = (Vec::new(), BTreeMap::new());
        if let Some(root) = &self.root {
            root.view(&self.seen, &mut view, &mut up);
        }
        self.seen = up;
        let (events, verdicts) = (std::mem::take(&mut self.world.events), std::mem::take(&mut self.world.verdicts));
        Record { events, verdicts: Some(verdicts), reply, view }
    }

    fn exits(&mut self, ends: &[(String, Why)]) {
        let Some((first, _)) = ends.first() else { return };
        self.have(split(first).0, &mut |supervisor, world| supervisor.exits(world, ends));
    }

    /// Has the supervisor with this path do something, and see what becomes of it.
    fn have(&mut self, path: &str, act: &mut dyn FnMut(&mut Supervisor, &mut OtpWorld)) {
        let Some(root) = &mut self.root else { return };
        if root.have(&mut self.world, path, act) == Fate::Ends {
            self.end(Why::Shutdown);
        }
    }

    fn end(&mut self, why: Why) {
        if let Some(mut root) = self.root.take() {
            root.end(&mut self.world, why);
        }
    }

    /// Calls of one supervisor, one after the other, and only then whatever they cause is read.
    fn calls(&mut self, parent: &str, calls: &[Step]) -> String {
        let mut replies: Vec<Option<String>> = vec![None; calls.len()];
        self.have(parent, &mut |supervisor, world| {
            for (i, call) in calls.iter().enumerate() {
                if replies[i].is_some() {
                    continue;
                }
                let ends = |j: &usize| matches!(&calls[*j], Step::Terminate(_)) && asked(&calls[*j]) == asked(call);
                let end = (i + 1..calls.len()).find(|j| replies[*j].is_none() && ends(j));
                (world.doomed, world.called_off) = (world.manner == Manner::Kit && end.is_some(), false);
                replies[i] = Some(supervisor.call(world, call));
                if let Some(end) = end.filter(|_| world.called_off) {
                    replies[end] = Some("ok".to_owned());
                }
            }
        });
        let replies: Vec<_> =
            replies.into_iter().map(|reply| reply.unwrap_or_else(|| "no supervisor".to_owned())).collect();
        replies.join(" | ")
    }
}

impl OtpWorld {
    fn new(manner: Manner) -> OtpWorld {
        OtpWorld {
            manner,
            now: 0,
            once: BTreeSet::new(),
            doomed: false,
            called_off: false,
            attempts: BTreeMap::new(),
            processes: 0,
            events: Vec::new(),
            verdicts: Vec::new(),
        }
    }

    fn say(&mut self, event: String) {
        self.events.push(event);
    }

    fn process(&mut self, supervisor: Option<Supervisor>) -> Process {
        self.processes += 1;
        Process { number: self.processes, supervisor, ended: false }
    }

    /// Starts a supervisor. By the time its parent goes on, it has read of those that ended meanwhile; so its own end may be
    /// the next that the parent reads of.
    fn supervisor(&mut self, path: String, sup: &Sup) -> Result<Process, String> {
        let mut supervisor = Supervisor::start(self, path, sup)?;
        let mut ended = false;
        if supervisor.read(self) == Fate::Ends {
            supervisor.end(self, Why::Shutdown);
            ended = true;
        }
        Ok(Process { ended, ..self.process((!ended).then_some(supervisor)) })
    }

    /// The next attempt to start this worker, and how it goes.
    fn attempt(&mut self, key: u32, starts: &[ScriptedOutcome]) -> (usize, ScriptedOutcome) {
        let next = self.attempts.entry(key).or_default();
        let attempt = *next;
        *next += 1;
        (attempt, starts.get(attempt).copied().unwrap_or(ScriptedOutcome::Up))
    }
}
