//! OTP's rules: what `supervisor` of Erlang/OTP 25 does with a script.
//!
//! Written from its documentation ("Supervision Principles" and the reference of `supervisor`), and checked against the
//! real one by `otp_erlang.rs`. Pure: no actor, no clock. A supervisor of OTP does one thing at a time and a script waits
//! until all is at rest, so each step is a function from a state to a state, with an account of the way.

use std::collections::BTreeMap;

use super::script::{Auto, Body, Child, Outcome, Restart, Script, Step, Strategy, Sup, Why, split};
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
}

#[derive(Clone, Debug)]
struct Supervisor {
    path: String,
    sup: Sup,
    /// In start order.
    children: Vec<Kept>,
    /// When children were restarted.
    restarts: Vec<u64>,
}

/// A child as its supervisor keeps it.
#[derive(Clone, Debug)]
struct Kept {
    spec: Child,
    at: At,
}

#[derive(Clone, Debug)]
enum At {
    /// OTP's word for a child that is known and not running.
    Undefined,
    Restarting,
    Up(Process),
}

#[derive(Clone, Debug)]
struct Process {
    number: u64,
    supervisor: Option<Supervisor>,
}

/// What becomes of a supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Stays,
    /// It exits with `shutdown`: too many restarts, or an automatic shutdown.
    Ends,
}

/// A known child, for whoever aims a step.
#[derive(Clone, Debug)]
pub struct Known {
    pub path: String,
    pub up: bool,
    pub supervisor: bool,
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
            Step::Exit(path, why) => self.exit(path, *why),
            Step::Start(parent, child) => {
                reply = self.call(parent, |supervisor, world| supervisor.start_child(world, child));
            }
            Step::Terminate(path) => reply = self.call_about(path, Supervisor::terminate_child),
            Step::Restart(path) => reply = self.call_about(path, Supervisor::restart_child),
            Step::Delete(path) => reply = self.call_about(path, |supervisor, _, id| supervisor.delete_child(id)),
            Step::Pass(seconds) => self.world.now += seconds,
            Step::Stop => self.exit(ROOT, Why::Shutdown),
        }
        self.record(reply)
    }

    fn record(&mut self, reply: String) -> Record {
        let (mut view, mut up) = (Vec::new(), BTreeMap::new());
        if let Some(root) = &self.root {
            root.view(&self.seen, &mut view, &mut up);
        }
        self.seen = up;
        Record { events: std::mem::take(&mut self.world.events), reply, view }
    }

    fn exit(&mut self, path: &str, why: Why) {
        let Some(root) = &mut self.root else { return };
        if path == ROOT {
            root.end(&mut self.world, why);
            self.root = None;
        } else if root.exit(&mut self.world, path, why) == Fate::Ends {
            root.end(&mut self.world, Why::Shutdown);
            self.root = None;
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
        Process { number: self.processes, supervisor }
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

impl Supervisor {
    /// Starts a supervisor and its children in order. When one does not start, those before it are stopped again and
    /// the supervisor exits with `{shutdown, Reason}`.
    fn start(world: &mut World, path: String, sup: &Sup) -> Result<Supervisor, String> {
        world.say(format!("begin {path}"));
        let children = sup.children.iter().map(|spec| Kept { spec: spec.clone(), at: At::Undefined }).collect();
        let mut supervisor = Supervisor { path, sup: sup.clone(), children, restarts: Vec::new() };
        match supervisor.start_from(world, 0) {
            Ok(()) => Ok(supervisor),
            Err((_, culprit)) => {
                supervisor.end(world, Why::ShutdownTerm);
                Err(culprit)
            }
        }
    }

    fn path_of(&self, id: &str) -> String {
        format!("{}/{id}", self.path)
    }

    fn place_of(&self, id: &str) -> Option<usize> {
        self.children.iter().position(|child| child.spec.id == id)
    }

    fn start_one(&self, world: &mut World, place: usize) -> Result<At, String> {
        let spec = &self.children[place].spec;
        world.start(self.path_of(&spec.id), spec)
    }

    /// Starts the children from this place on, all of them, in order; stops at the first that fails. A temporary child
    /// that ignores is not kept.
    fn start_from(&mut self, world: &mut World, from: usize) -> Result<(), (usize, String)> {
        let mut place = from;
        while place < self.children.len() {
            let at = self.start_one(world, place).map_err(|culprit| (place, culprit))?;
            if matches!(at, At::Undefined) && self.children[place].spec.restart == Restart::Temporary {
                self.children.remove(place);
            } else {
                self.children[place].at = at;
                place += 1;
            }
        }
        Ok(())
    }

    /// Stops the children from this place on, the last first. Temporary ones are forgotten.
    fn stop_from(&mut self, world: &mut World, from: usize) {
        for place in (from..self.children.len()).rev() {
            self.stop_one(world, place);
        }
    }

    /// Stops a child that runs; one that does not is no longer about to be restarted.
    fn stop_one(&mut self, world: &mut World, place: usize) {
        let path = self.path_of(&self.children[place].spec.id);
        let kept = &mut self.children[place];
        if let At::Up(process) = std::mem::replace(&mut kept.at, At::Undefined) {
            match (process.supervisor, &kept.spec.body) {
                (Some(mut supervisor), _) => supervisor.end(world, Why::Shutdown),
                (None, Body::Worker { brutal: true, .. }) => world.say(format!("down {path} {}", Why::Kill.word())),
                (None, _) => world.say(format!("down {path} {}", Why::Shutdown.word())),
            }
        }
        self.release(place);
    }

    /// A child does not run any more: a temporary one is forgotten.
    fn release(&mut self, place: usize) {
        if self.children[place].spec.restart == Restart::Temporary {
            self.children.remove(place);
        } else {
            self.children[place].at = At::Undefined;
        }
    }

    /// This supervisor ends. A killed one stops nothing: all below it is killed, in no order.
    fn end(&mut self, world: &mut World, why: Why) {
        if why == Why::Kill {
            world.say(format!("end {} {}", self.path, why.word()));
            self.fall(world);
        } else {
            self.stop_from(world, 0);
            world.say(format!("end {} {}", self.path, why.word()));
        }
    }

    fn fall(&mut self, world: &mut World) {
        for kept in &mut self.children {
            if let At::Up(process) = std::mem::replace(&mut kept.at, At::Undefined) {
                match process.supervisor {
                    Some(mut supervisor) => supervisor.end(world, Why::Kill),
                    None => world.say(format!("down {}/{} {}", self.path, kept.spec.id, Why::Kill.word())),
                }
            }
        }
    }

    /// The process with this path, below this supervisor, ends.
    fn exit(&mut self, world: &mut World, path: &str, why: Why) -> Fate {
        let below = path.strip_prefix(&self.path).and_then(|rest| rest.strip_prefix('/'));
        let Some((place, own)) = below.and_then(|below| {
            let id = below.split('/').next()?;
            Some((self.place_of(id)?, id == below))
        }) else {
            return Fate::Stays;
        };
        let At::Up(process) = &mut self.children[place].at else { return Fate::Stays };
        let why = match &mut process.supervisor {
            Some(supervisor) if own => {
                supervisor.end(world, why);
                why
            }
            Some(supervisor) => {
                if supervisor.exit(world, path, why) == Fate::Stays {
                    return Fate::Stays;
                }
                supervisor.end(world, Why::Shutdown);
                Why::Shutdown
            }
            None if own => {
                world.say(format!("down {path} {}", why.word()));
                why
            }
            None => return Fate::Stays,
        };
        self.ended(world, place, why)
    }

    /// A child has ended by itself.
    fn ended(&mut self, world: &mut World, place: usize, why: Why) -> Fate {
        let spec = &self.children[place].spec;
        let normal = matches!(why, Why::Normal | Why::Shutdown | Why::ShutdownTerm);
        match spec.restart {
            Restart::Permanent => self.restart(world, place),
            Restart::Transient if !normal => self.restart(world, place),
            Restart::Transient | Restart::Temporary => {
                let significant = spec.significant;
                self.release(place);
                self.auto_shutdown(significant)
            }
        }
    }

    fn auto_shutdown(&self, significant: bool) -> Fate {
        let one_is_left = || {
            let left = |kept: &Kept| kept.spec.significant && !matches!(kept.at, At::Undefined);
            self.children.iter().any(left)
        };
        match self.sup.auto {
            Auto::Any if significant => Fate::Ends,
            Auto::All if significant && !one_is_left() => Fate::Ends,
            _ => Fate::Stays,
        }
    }

    /// Restarts what the strategy says. A start that fails on the way is tried again, as a restart of the child that
    /// failed, and counts as one.
    fn restart(&mut self, world: &mut World, mut place: usize) -> Fate {
        loop {
            if !self.may_restart(world.now) {
                self.release(place);
                return Fate::Ends;
            }
            let result = match self.sup.strategy {
                Strategy::OneForOne => match self.start_one(world, place) {
                    Ok(at) => {
                        self.children[place].at = at;
                        Ok(())
                    }
                    Err(culprit) => Err((place, culprit)),
                },
                Strategy::OneForAll => self.restart_from(world, place, 0),
                Strategy::RestForOne => self.restart_from(world, place, place),
            };
            match result {
                Ok(()) => return Fate::Stays,
                Err((failed, _)) => {
                    self.children[failed].at = At::Restarting;
                    place = failed;
                }
            }
        }
    }

    fn restart_from(&mut self, world: &mut World, place: usize, from: usize) -> Result<(), (usize, String)> {
        self.children[place].at = At::Undefined;
        self.stop_from(world, from);
        self.start_from(world, from)
    }

    /// Counts a restart: more than `intensity` of them within `period` are too many.
    fn may_restart(&mut self, now: u64) -> bool {
        let period = self.sup.period;
        self.restarts.retain(|at| now - at <= period);
        self.restarts.push(now);
        self.restarts.len() <= self.sup.intensity
    }

    // --- calls

    fn start_child(&mut self, world: &mut World, spec: &Child) -> String {
        if !self.legal(spec) {
            return "refused".to_owned();
        }
        if let Some(place) = self.place_of(&spec.id) {
            return match self.children[place].at {
                At::Up(_) => "already started".to_owned(),
                At::Undefined | At::Restarting => "already present".to_owned(),
            };
        }
        let at = match world.start(self.path_of(&spec.id), spec) {
            Err(_) => return "start failed".to_owned(),
            Ok(at) => at,
        };
        let reply = started(&at);
        if !(matches!(at, At::Undefined) && spec.restart == Restart::Temporary) {
            self.children.push(Kept { spec: spec.clone(), at });
        }
        reply
    }

    /// `significant` means something where a child may end for good and the supervisor heeds it.
    fn legal(&self, spec: &Child) -> bool {
        !spec.significant || (self.sup.auto != Auto::Never && spec.restart != Restart::Permanent)
    }

    fn terminate_child(&mut self, world: &mut World, id: &str) -> String {
        match self.place_of(id) {
            Some(place) => {
                self.stop_one(world, place);
                "ok".to_owned()
            }
            None => "not found".to_owned(),
        }
    }

    fn restart_child(&mut self, world: &mut World, id: &str) -> String {
        let Some(place) = self.place_of(id) else { return "not found".to_owned() };
        match self.children[place].at {
            At::Up(_) => "running".to_owned(),
            At::Restarting => "restarting".to_owned(),
            At::Undefined => match self.start_one(world, place) {
                Err(_) => "start failed".to_owned(),
                Ok(at) => {
                    let reply = started(&at);
                    self.children[place].at = at;
                    reply
                }
            },
        }
    }

    fn delete_child(&mut self, id: &str) -> String {
        let Some(place) = self.place_of(id) else { return "not found".to_owned() };
        match self.children[place].at {
            At::Up(_) => "running".to_owned(),
            At::Restarting => "restarting".to_owned(),
            At::Undefined => {
                self.children.remove(place);
                "ok".to_owned()
            }
        }
    }

    // --- what others look at

    fn find(&mut self, path: &str) -> Option<&mut Supervisor> {
        if path == self.path {
            return Some(self);
        }
        self.children.iter_mut().find_map(|kept| match &mut kept.at {
            At::Up(process) => process.supervisor.as_mut()?.find(path),
            At::Undefined | At::Restarting => None,
        })
    }

    fn known(&self, known: &mut Vec<Known>) {
        for kept in &self.children {
            let supervisor = matches!(kept.spec.body, Body::Supervisor(_));
            known.push(Known { path: self.path_of(&kept.spec.id), up: matches!(kept.at, At::Up(_)), supervisor });
            if let At::Up(Process { supervisor: Some(supervisor), .. }) = &kept.at {
                supervisor.known(known);
            }
        }
    }

    fn view(&self, seen: &BTreeMap<String, u64>, lines: &mut Vec<String>, up: &mut BTreeMap<String, u64>) {
        for kept in &self.children {
            let path = self.path_of(&kept.spec.id);
            match &kept.at {
                At::Undefined => lines.push(format!("{path} undefined")),
                At::Restarting => lines.push(format!("{path} restarting")),
                At::Up(process) => {
                    let known = seen.get(&path) == Some(&process.number);
                    lines.push(format!("{path} {}", if known { "up" } else { "new" }));
                    up.insert(path, process.number);
                    if let Some(supervisor) = &process.supervisor {
                        supervisor.view(seen, lines, up);
                    }
                }
            }
        }
    }
}

fn started(at: &At) -> String {
    if matches!(at, At::Undefined) { "ignored".to_owned() } else { "started".to_owned() }
}
