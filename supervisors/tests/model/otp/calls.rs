//! What a supervisor under OTP's rules answers, and what can be seen of it.

use std::collections::BTreeMap;

use super::super::script::{Auto, Body, Child, Restart, Step, Strategy, Sup, split};
use super::super::{Manner, counts};
use super::supervisor::{At, Kept, Process, Supervisor};
use super::{Known, OtpWorld};

impl Supervisor {
    pub(super) fn call(&mut self, world: &mut OtpWorld, call: &Step) -> String {
        let id = asked(call);
        if self.sup.is_dynamic() && world.manner == Manner::Otp && matches!(call, Step::Restart(_) | Step::Delete(_)) {
            return "simple_one_for_one".to_owned();
        }
        match call {
            Step::Start(_, child) => self.start_child(world, child),
            Step::Terminate(_) => self.terminate_child(world, id),
            Step::Restart(_) => self.restart_child(world, id),
            Step::Delete(_) => self.delete_child(id),
            Step::Exit(_) | Step::Queued(..) | Step::Pass(_) | Step::Stop => unreachable!("no call"),
        }
    }

    fn start_child(&mut self, world: &mut OtpWorld, spec: &Child) -> String {
        if !self.legal(spec) {
            return "refused".to_owned();
        }
        if let Some(place) = self.place_of(&spec.id).filter(|_| !self.sup.is_dynamic()) {
            return match self.children[place].at {
                At::Up(_) => "already started".to_owned(),
                At::Undefined | At::Restarting => "already present".to_owned(),
            };
        }
        if world.doomed {
            world.called_off = true;
            return format!("{} did not start", self.path_of(&spec.id));
        }
        let at = match self.launch(world, spec) {
            Err(culprit) => return format!("{culprit} did not start"),
            Ok(at) => at,
        };
        let reply = started(&at);
        let forgotten = self.sup.is_dynamic() || spec.restart == Restart::Temporary;
        if !(matches!(at, At::Undefined) && forgotten) {
            self.children.push(Kept { spec: spec.clone(), at });
        }
        reply
    }

    /// `significant` means something where a child may end for good and the supervisor heeds it.
    pub(super) fn legal(&self, spec: &Child) -> bool {
        !spec.significant || (self.sup.auto != Auto::Never && spec.restart != Restart::Permanent)
    }

    fn terminate_child(&mut self, world: &mut OtpWorld, id: &str) -> String {
        match self.place_of(id) {
            Some(place) => {
                self.stop_one(world, place);
                "ok".to_owned()
            }
            // It asks for a process, and any that is dead will do.
            None if world.manner == Manner::Otp && world.once.contains(&self.path_of(id)) => "ok".to_owned(),
            None => "not found".to_owned(),
        }
    }

    fn restart_child(&mut self, world: &mut OtpWorld, id: &str) -> String {
        let Some(place) = self.place_of(id) else { return "not found".to_owned() };
        match self.children[place].at {
            At::Up(_) => "running".to_owned(),
            At::Restarting => "restarting".to_owned(),
            At::Undefined if world.doomed => {
                world.called_off = true;
                format!("{} did not start", self.path_of(id))
            }
            At::Undefined => match self.start_one(world, place) {
                Err(culprit) => format!("{culprit} did not start"),
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

    pub(super) fn known(&self, known: &mut Vec<Known>) {
        for kept in &self.children {
            let (supervisor, template) = match &kept.spec.body {
                Body::Supervisor(Sup { strategy: Strategy::Simple(template), auto, .. }) => {
                    (true, Some((*template, *auto)))
                }
                Body::Supervisor(_) => (true, None),
                Body::Worker { .. } => (false, None),
            };
            let (path, up) = (self.path_of(&kept.spec.id), matches!(kept.at, At::Up(_)));
            known.push(Known { path, up, supervisor, template, dynamic: self.sup.is_dynamic() });
            if let At::Up(Process { supervisor: Some(supervisor), .. }) = &kept.at {
                supervisor.known(known);
            }
        }
    }

    fn count_children(&self) -> String {
        let count = |holds: fn(&&Kept) -> bool| self.children.iter().filter(holds).count();
        let active = count(|kept| matches!(kept.at, At::Up(_)));
        let supervisors = count(|kept| matches!(kept.spec.body, Body::Supervisor(_)));
        // OTP counts the one template.
        let specs = if self.sup.is_dynamic() { 1 } else { self.children.len() };
        counts(&self.path, specs, active, supervisors, self.children.len() - supervisors)
    }

    pub(super) fn view(&self, seen: &BTreeMap<String, u64>, lines: &mut Vec<String>, up: &mut BTreeMap<String, u64>) {
        lines.push(self.count_children());
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

/// The child that a call is about.
pub(super) fn asked(call: &Step) -> &str {
    match call {
        Step::Start(_, child) => &child.id,
        Step::Terminate(path) | Step::Restart(path) | Step::Delete(path) => split(path).1,
        Step::Exit(_) | Step::Queued(..) | Step::Pass(_) | Step::Stop => "",
    }
}

fn started(at: &At) -> String {
    if matches!(at, At::Undefined) { "ignored".to_owned() } else { "started".to_owned() }
}
