//! OTP's rules: what `supervisor` of Erlang/OTP 25 does with a script.
//!
//! Written from its documentation ("Supervision Principles" and the reference of `supervisor`), and checked against the
//! real one by `otp_erlang.rs`. Pure: no actor, no clock. A supervisor of OTP does one thing at a time and a script waits
//! until all is at rest, so each step is a function from a state to a state, with an account of the way.

mod calls;
mod supervisor;

use std::collections::BTreeMap;

use self::supervisor::{At, Fate, Process, Supervisor};
use super::script::{Auto, Body, Child, Outcome, Script, Step, Sup, Template, Why, split};
use super::{Account, Record};

/// The path of the first segment.
pub const ROOT: &str = "root";

/// A tree under OTP's rules.
#[derive(Clone, Debug)]
pub struct Otp {
    world: World,
    root: Option<Supervisor>,
    /// What was up after the last step, by path.
    seen: BTreeMap<String, u64>,
}

/// What all supervisors of a tree share.
#[derive(Clone, Debug, Default)]
struct World {
    /// In seconds.
    now: u64,
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
pub fn account(script: &Script) -> Account {
    let (mut otp, start) = Otp::start(&script.root);
    let mut account = vec![start];
    account.extend(script.steps.iter().map(|step| otp.step(step)));
    account
}

impl Otp {
    pub fn start(sup: &Sup) -> (Otp, Record) {
        let mut world = World::default();
        let (root, reply) = match Supervisor::start(&mut world, ROOT.to_owned(), sup) {
            Ok(root) => (Some(root), "ok".to_owned()),
            Err(culprit) => (None, format!("{culprit} did not start")),
        };
        let mut otp = Otp { world, root, seen: BTreeMap::new() };
        let record = otp.record(reply);
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

    pub fn step(&mut self, step: &Step) -> Record {
        let mut reply = String::new();
        match step {
            Step::Exit(ends) => self.exits(ends),
            Step::Start(parent, child) => {
                reply = self.call(parent, |supervisor, world| supervisor.start_child(world, child));
            }
            Step::Terminate(path) => reply = self.call_about(path, Supervisor::terminate_child),
            Step::Restart(path) => reply = self.call_about(path, Supervisor::restart_child),
            Step::Delete(path) => reply = self.call_about(path, |supervisor, _, id| supervisor.delete_child(id)),
            Step::Pass(seconds) => self.world.now += seconds,
            Step::Stop => self.end(Why::Shutdown),
        }
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
        let (Some(root), Some((first, _))) = (&mut self.root, ends.first()) else { return };
        if root.exits(&mut self.world, split(first).0, ends) == Fate::Ends {
            self.end(Why::Shutdown);
        }
    }

    fn end(&mut self, why: Why) {
        if let Some(mut root) = self.root.take() {
            root.end(&mut self.world, why);
        }
    }

    fn call(&mut self, parent: &str, call: impl FnOnce(&mut Supervisor, &mut World) -> String) -> String {
        match self.root.as_mut().and_then(|root| root.find(parent)) {
            Some(supervisor) => call(supervisor, &mut self.world),
            None => "no supervisor".to_owned(),
        }
    }

    fn call_about(&mut self, path: &str, call: impl FnOnce(&mut Supervisor, &mut World, &str) -> String) -> String {
        let (parent, id) = split(path);
        self.call(parent, |supervisor, world| call(supervisor, world, id))
    }
}

impl World {
    fn say(&mut self, event: String) {
        self.events.push(event);
    }

    fn process(&mut self, supervisor: Option<Supervisor>) -> Process {
        self.processes += 1;
        Process { number: self.processes, supervisor, ended: false }
    }

    /// Starts a child: a process, or none when it ignores, or the path of what did not start.
    fn start(&mut self, path: String, spec: &Child) -> Result<At, String> {
        match &spec.body {
            Body::Supervisor(sup) => {
                let supervisor = Supervisor::start(self, path, sup)?;
                Ok(At::Up(self.process(Some(supervisor))))
            }
            Body::Worker { key, starts, .. } => {
                let attempt = self.attempts.entry(*key).or_default();
                let outcome = starts.get(*attempt).copied().unwrap_or(Outcome::Up);
                *attempt += 1;
                match outcome {
                    Outcome::Up => {
                        self.say(format!("start {path} ok"));
                        Ok(At::Up(self.process(None)))
                    }
                    Outcome::Ignore => {
                        self.say(format!("start {path} ignore"));
                        Ok(At::Undefined)
                    }
                    Outcome::Fail => {
                        self.say(format!("start {path} fail"));
                        Err(path)
                    }
                }
            }
        }
    }
}
