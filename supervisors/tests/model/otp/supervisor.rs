//! One supervisor under OTP's rules: starts, stops, exits of children, restarts.

use std::collections::VecDeque;

use super::super::Manner;
use super::super::script::{Auto, Body, Child, Restart, ScriptedOutcome, Strategy, Sup, Why};
use super::OtpWorld;

#[derive(Clone, Debug)]
pub(super) struct Supervisor {
    pub(super) path: String,
    pub(super) sup: Sup,
    /// In start order.
    pub(super) children: Vec<Kept>,
    /// When children were restarted.
    restarts: Vec<u64>,
    mailbox: VecDeque<Message>,
}

/// A child as its supervisor keeps it.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) spec: Child,
    pub(super) at: At,
}

#[derive(Clone, Debug)]
pub(super) enum At {
    /// OTP's word for a child that is known and not running.
    Undefined,
    Restarting,
    Up(Process),
}

#[derive(Clone, Debug)]
pub(super) struct Process {
    pub(super) number: u64,
    pub(super) supervisor: Option<Supervisor>,
    /// It has ended, and its supervisor has yet to read that.
    pub(super) ended: bool,
}

/// What waits in a supervisor's mailbox.
#[derive(Clone, Debug)]
enum Message {
    /// The process with this number has ended.
    Exit(u64, Why),
    /// From itself: the start of this child failed, it is to be restarted once more.
    TryAgain(String),
}

/// What becomes of a supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Stays,
    /// It exits with `shutdown`: too many restarts, or an automatic shutdown.
    Ends,
}

impl Supervisor {
    /// Starts a supervisor and its children in order. When one does not start, those before it are stopped again and
    /// the supervisor exits with `{shutdown, Reason}`.
    pub(super) fn start(world: &mut OtpWorld, path: String, sup: &Sup) -> Result<Supervisor, String> {
        world.say(format!("begin {path}"));
        let children = sup.children.iter().map(|spec| Kept { spec: spec.clone(), at: At::Undefined }).collect();
        let mut supervisor =
            Supervisor { path, sup: sup.clone(), children, restarts: Vec::new(), mailbox: VecDeque::new() };
        match supervisor.start_from(world, 0) {
            Ok(()) => Ok(supervisor),
            Err((_, culprit)) => {
                supervisor.end(world, Why::ShutdownTerm);
                Err(culprit)
            }
        }
    }

    pub(super) fn path_of(&self, id: &str) -> String {
        format!("{}/{id}", self.path)
    }

    pub(super) fn place_of(&self, id: &str) -> Option<usize> {
        self.children.iter().position(|child| child.spec.id == id)
    }

    pub(super) fn start_one(&mut self, world: &mut OtpWorld, place: usize) -> Result<At, String> {
        let spec = self.children[place].spec.clone();
        self.launch(world, &spec)
    }

    /// Starts a child: a process, or none when it ignores, or the path of what did not start.
    pub(super) fn launch(&mut self, world: &mut OtpWorld, spec: &Child) -> Result<At, String> {
        let path = self.path_of(&spec.id);
        let (key, starts, slow) = match &spec.body {
            Body::Worker { key, starts, slow, .. } => (*key, starts, slow),
            Body::Supervisor(sup) => {
                let process = world.supervisor(path, sup)?;
                if process.ended {
                    self.mailbox.push_back(Message::Exit(process.number, Why::Shutdown));
                }
                return Ok(At::Up(process));
            }
        };
        let (attempt, outcome) = world.attempt(key, starts);
        let word = match outcome {
            ScriptedOutcome::Up => "ok",
            ScriptedOutcome::Ignore => "ignore",
            ScriptedOutcome::Fail => "fail",
        };
        world.say(format!("start {path} {word}"));
        if outcome == ScriptedOutcome::Ignore {
            return Ok(At::Undefined);
        }
        if let Some(slow) = slow.as_ref().filter(|slow| slow.attempt == attempt) {
            self.meanwhile(world, &path, &slow.ends);
        }
        if outcome == ScriptedOutcome::Fail {
            return Err(path);
        }
        if self.sup.is_dynamic() {
            world.once.insert(path);
        }
        Ok(At::Up(world.process(None)))
    }

    /// Children end while this one starts.
    fn meanwhile(&mut self, world: &mut OtpWorld, starting: &str, ends: &[(String, Why)]) {
        let ends: Vec<_> = ends.iter().map(|(id, why)| (self.path_of(id), *why)).collect();
        let up = |kept: &Kept| matches!(&kept.at, At::Up(process) if !process.ended);
        let hit = |path: &String| self.children.iter().any(|kept| self.path_of(&kept.spec.id) == *path && up(kept));
        if ends.iter().any(|(path, _)| hit(path)) {
            world.say(format!("meanwhile {starting}"));
        }
        self.exits(world, &ends);
    }

    /// Starts the children from this place on, all of them, in order; stops at the first that fails. A temporary child
    /// that ignores is not kept.
    fn start_from(&mut self, world: &mut OtpWorld, from: usize) -> Result<(), (usize, String)> {
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

    /// Stops the children from this place on, the last first (those of a dynamic supervisor at once, in no order).
    /// Temporary ones are forgotten.
    fn stop_from(&mut self, world: &mut OtpWorld, from: usize) {
        for place in (from..self.children.len()).rev() {
            self.stop_one(world, place);
        }
    }

    /// Stops a child that runs; one that does not is no longer about to be restarted.
    pub(super) fn stop_one(&mut self, world: &mut OtpWorld, place: usize) {
        let path = self.path_of(&self.children[place].spec.id);
        let kept = &mut self.children[place];
        if let At::Up(process) = std::mem::replace(&mut kept.at, At::Undefined) {
            match (process.supervisor, &kept.spec.body) {
                _ if process.ended => {}
                (Some(mut supervisor), _) => supervisor.end(world, Why::Shutdown),
                (None, Body::Worker { brutal: true, .. }) => world.say(format!("down {path} {}", Why::Kill.word())),
                (None, _) => world.say(format!("down {path} {}", Why::Shutdown.word())),
            }
        }
        self.release(place);
    }

    /// A child does not run any more: a temporary one, and any of a dynamic supervisor, is forgotten.
    pub(super) fn release(&mut self, place: usize) {
        if self.sup.is_dynamic() || self.children[place].spec.restart == Restart::Temporary {
            self.children.remove(place);
        } else {
            self.children[place].at = At::Undefined;
        }
    }

    /// This supervisor ends. A killed one stops nothing: all below it is killed, in no order.
    pub(super) fn end(&mut self, world: &mut OtpWorld, why: Why) {
        if why == Why::Kill {
            world.say(format!("end {} {}", self.path, why.word()));
            self.fall(world);
        } else {
            self.stop_from(world, 0);
            world.say(format!("end {} {}", self.path, why.word()));
        }
    }

    fn fall(&mut self, world: &mut OtpWorld) {
        for kept in &mut self.children {
            if let At::Up(process) = std::mem::replace(&mut kept.at, At::Undefined) {
                match process.supervisor {
                    _ if process.ended => {}
                    Some(mut supervisor) => supervisor.end(world, Why::Kill),
                    None => world.say(format!("down {}/{} {}", self.path, kept.spec.id, Why::Kill.word())),
                }
            }
        }
    }

    /// Children of this supervisor end one after the other before it reads of the first.
    pub(super) fn exits(&mut self, world: &mut OtpWorld, ends: &[(String, Why)]) {
        for (path, why) in ends {
            let exit = self.child_ends(world, path, *why);
            self.mailbox.extend(exit);
        }
    }

    /// Has the supervisor with this path, which is this one or below it, do something, and read its mailbox.
    pub(super) fn have(
        &mut self,
        world: &mut OtpWorld,
        path: &str,
        act: &mut dyn FnMut(&mut Supervisor, &mut OtpWorld),
    ) -> Fate {
        if path == self.path {
            act(self, world);
            return self.read(world);
        }
        let below = path.strip_prefix(&self.path).and_then(|rest| rest.strip_prefix('/'));
        let child = below.and_then(|below| self.place_of(below.split('/').next()?));
        let Some(At::Up(process)) = child.map(|place| &mut self.children[place].at) else { return Fate::Stays };
        let Some(mut supervisor) = process.supervisor.take() else { return Fate::Stays };
        if supervisor.have(world, path, act) == Fate::Stays {
            process.supervisor = Some(supervisor);
            return Fate::Stays;
        }
        process.ended = true;
        self.mailbox.push_back(Message::Exit(process.number, Why::Shutdown));
        supervisor.end(world, Why::Shutdown);
        self.read(world)
    }

    /// A child ends by itself; its supervisor will read of it.
    fn child_ends(&mut self, world: &mut OtpWorld, path: &str, why: Why) -> Option<Message> {
        let place = self.place_of(path.strip_prefix(&self.path)?.strip_prefix('/')?)?;
        match &mut self.children[place].at {
            At::Up(process) if !process.ended => {
                process.ended = true;
                match process.supervisor.take() {
                    Some(mut supervisor) => supervisor.end(world, why),
                    None => world.say(format!("down {path} {}", why.word())),
                }
                Some(Message::Exit(process.number, why))
            }
            _ => None,
        }
    }

    /// Reads the mailbox to its end. What was stopped or restarted in the meantime is not heeded any more.
    pub(super) fn read(&mut self, world: &mut OtpWorld) -> Fate {
        while let Some(message) = self.mailbox.pop_front() {
            let fate = match message {
                Message::Exit(number, why) => {
                    let ended = |kept: &Kept| matches!(&kept.at, At::Up(process) if process.number == number);
                    let Some(place) = self.children.iter().position(ended) else { continue };
                    self.ended(world, place, why)
                }
                Message::TryAgain(id) => {
                    let waits = |kept: &Kept| kept.spec.id == id && matches!(kept.at, At::Restarting);
                    let Some(place) = self.children.iter().position(waits) else { continue };
                    self.restart(world, place)
                }
            };
            if fate == Fate::Ends {
                return Fate::Ends;
            }
        }
        Fate::Stays
    }

    /// A child has ended by itself.
    fn ended(&mut self, world: &mut OtpWorld, place: usize, why: Why) -> Fate {
        let spec = &self.children[place].spec;
        let normal = matches!(why, Why::Normal | Why::Shutdown | Why::ShutdownTerm);
        match spec.restart {
            Restart::Permanent => self.restart(world, place),
            Restart::Transient if !normal => self.restart(world, place),
            Restart::Transient | Restart::Temporary => {
                let (significant, path) = (spec.significant, self.path_of(&spec.id));
                self.release(place);
                let fate = self.auto_shutdown(significant);
                if fate == Fate::Ends {
                    world.verdicts.push(format!("{} ends with {path}", self.path));
                }
                fate
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

    /// Restarts what the strategy says. A start that fails on the way is tried again later, as a restart of the child
    /// that failed, and counts as one.
    fn restart(&mut self, world: &mut OtpWorld, place: usize) -> Fate {
        let path = self.path_of(&self.children[place].spec.id);
        if !self.may_restart(world) {
            world.verdicts.push(format!("{} gave up on {path}", self.path));
            self.release(place);
            return Fate::Ends;
        }
        world.verdicts.push(format!("restart {path} {}", self.restarts.len()));
        let result = match self.sup.strategy {
            Strategy::OneForOne | Strategy::Simple(_) => match self.start_one(world, place) {
                Ok(At::Undefined) if self.sup.is_dynamic() => {
                    assert_eq!(
                        world.manner,
                        Manner::Kit,
                        "what OTP keeps then is no child that a script could speak of"
                    );
                    self.release(place);
                    Ok(())
                }
                Ok(at) => {
                    self.children[place].at = at;
                    Ok(())
                }
                Err(culprit) => Err((place, culprit)),
            },
            Strategy::OneForAll => self.restart_from(world, place, 0),
            Strategy::RestForOne => self.restart_from(world, place, place),
        };
        if let Err((failed, _)) = result {
            self.children[failed].at = At::Restarting;
            self.mailbox.push_back(Message::TryAgain(self.children[failed].spec.id.clone()));
        }
        Fate::Stays
    }

    fn restart_from(&mut self, world: &mut OtpWorld, place: usize, from: usize) -> Result<(), (usize, String)> {
        self.children[place].at = At::Undefined;
        self.stop_from(world, from);
        self.start_from(world, from)
    }

    /// Counts a restart: more than `intensity` of them within `period` are too many.
    fn may_restart(&mut self, world: &OtpWorld) -> bool {
        let (now, period) = (world.now, self.sup.period);
        self.restarts.retain(|at| match world.manner {
            Manner::Kit => now - at <= period * 1_000,
            Manner::Otp => now / 1_000 - at / 1_000 <= period,
        });
        self.restarts.push(now);
        self.restarts.len() <= self.sup.intensity
    }

    /// When the restarts here, and below, are a period old.
    pub(super) fn edges(&self, edges: &mut Vec<u64>) {
        edges.extend(self.restarts.iter().map(|at| at + self.sup.period * 1_000));
        for kept in &self.children {
            if let At::Up(Process { supervisor: Some(supervisor), .. }) = &kept.at {
                supervisor.edges(edges);
            }
        }
    }
}
