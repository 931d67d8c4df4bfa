//! Requests about single children, at the supervisor's end.
//!
//! Each is tried against the machine; one whose turn has not come is parked, and tried again when something is new for it
//! (see `parked`). Those about one child keep their order. A request is answered exactly once, or its reply is dropped with the supervisor.

use std::collections::BTreeSet;

use ractor::ActorCell;

use super::message::Orders;
use super::parked::TryAgain;
use super::state::{Asker, State};
use crate::requests::{ChildError, Control, Reply, Started};
use crate::spec::{ChildSpec, SpecError};
use crate::strategy::{Place, Refusal, Request, RequestOutcome};

/// Requests that may wait for their turn.
const PARKED_MAX: usize = 1024;
/// Children of a static supervisor.
const CHILDREN_MAX: usize = 1_000_000;

impl State {
    /// A new request.
    pub(super) fn control(&mut self, control: Control) {
        let waits = !control.may_pass() && self.parked.is_about(control.child());
        let later = if waits { Some(control) } else { self.attempt(control) };
        match later {
            None => {}
            Some(control) if self.parked.len() >= PARKED_MAX => control.refuse(ChildError::Full(PARKED_MAX)),
            Some(control) => self.parked.push(control),
        }
    }

    /// Something may have happened: those that wait may have their turn.
    pub(super) fn retry_parked(&mut self) {
        // Again after those that were carried out: an end can be what those before it wait for, and nothing else may follow.
        while let Some(why) = self.try_again() {
            let mut waited_for = BTreeSet::new();
            for control in self.parked.take() {
                let child = control.child().to_owned();
                let in_turn = control.may_pass() || !waited_for.contains(&child);
                let due = in_turn && why.concerns(&child);
                match if due { self.attempt(control) } else { Some(control) } {
                    None => self.parked.is_done(&child),
                    Some(control) => {
                        waited_for.insert(child);
                        self.parked.keep(control);
                    }
                }
            }
        }
    }

    /// What is new for those that wait.
    fn try_again(&mut self) -> Option<TryAgain> {
        if let Some(child) = self.parked.new_turn(self.machine.turn()) {
            self.stir(child);
        }
        self.parked.try_again(self.machine.stage())
    }

    /// The supervisor is on its way out.
    pub(super) fn refuse_parked(&mut self) {
        while let Some(control) = self.parked.pop() {
            control.refuse(ChildError::Down(self.node().path.clone()));
        }
    }

    /// Carries a request out, or refuses it, or gives it back because its turn has not come.
    fn attempt(&mut self, control: Control) -> Option<Control> {
        #[cfg(test)]
        self.node().attempts.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let child = control.id().map(|id| (id.to_owned(), self.ids.get(id).copied()));
        match (child, control) {
            (_, Control::Start { spec, reply }) => return self.start_child(spec, reply),
            (Some((id, None)), control) => control.refuse(ChildError::NotFound(id)),
            (Some((_, Some(place))), Control::Restart { id, reply }) => match self.machine.ask(Request::Restart(place))
            {
                Ok(effects) => {
                    self.post(place).askers.push(Asker::Start(reply));
                    self.carry_out(effects);
                }
                Err(Refusal::Later) => return Some(Control::Restart { id, reply }),
                Err(refusal) => drop(reply.send(Err(self.refusal(refusal, id)))),
            },
            (Some((_, Some(place))), Control::Terminate { id, reply }) => {
                match self.machine.ask(Request::Terminate(place)) {
                    Ok(effects) => {
                        self.post(place).askers.push(Asker::End(reply));
                        self.carry_out(effects);
                    }
                    Err(Refusal::Later) => return Some(Control::Terminate { id, reply }),
                    Err(refusal) => drop(reply.send(Err(self.refusal(refusal, id)))),
                }
            }
            (Some((_, Some(place))), Control::Delete { id, reply }) => match self.machine.ask(Request::Delete(place)) {
                Ok(effects) => {
                    self.carry_out(effects);
                    let _ = reply.send(Ok(()));
                }
                Err(Refusal::Later) => return Some(Control::Delete { id, reply }),
                Err(refusal) => drop(reply.send(Err(self.refusal(refusal, id)))),
            },
            (Some((_, Some(place))), Control::Spec { reply, .. }) => {
                let _ = reply.send(Ok(self.posts[&place].spec.clone()));
            }
            (None, _) => unreachable!("all but a start name a child"),
        }
        None
    }

    fn start_child(&mut self, mut spec: ChildSpec, reply: Reply<Started>) -> Option<Control> {
        let place = self.next_place;
        let children_max = match &self.orders {
            Orders::Static(_) => CHILDREN_MAX,
            Orders::Dynamic(_) if !spec.id.is_empty() => {
                let refused = SpecError("a dynamic supervisor makes its children from its template".to_owned());
                let _ = reply.send(Err(ChildError::Refused(refused)));
                return None;
            }
            Orders::Dynamic(of_all) => {
                spec.id = of_all.next_id();
                of_all.template.children_max
            }
        };
        if let Err(error) = spec.check(self.rules.intensity, self.rules.auto_shutdown) {
            let _ = reply.send(Err(ChildError::Refused(error)));
            return None;
        }
        let present = self.ids.get(&spec.id).map(|&present| self.machine.already(present));
        let taken = match present {
            None if self.posts.len() >= children_max => {
                let _ = reply.send(Err(ChildError::Full(children_max)));
                return None;
            }
            None => self.machine.ask(Request::Start(place, spec.terms())),
            Some(refusal) => Err(refusal),
        };
        match taken {
            Ok(effects) => {
                if let Orders::Dynamic(spec) = &self.orders {
                    spec.id_is_taken();
                }
                let node = self.node().add(place, &spec);
                self.take_on(spec, node).askers.push(Asker::Start(reply));
                self.carry_out(effects);
                None
            }
            Err(Refusal::Later) => {
                if let Orders::Dynamic(_) = &self.orders {
                    spec.id.clear(); // the next try chooses it anew
                }
                Some(Control::Start { spec, reply })
            }
            Err(refusal) => {
                let _ = reply.send(Err(self.refusal(refusal, spec.id)));
                None
            }
        }
    }

    fn refusal(&self, refusal: Refusal, id: String) -> ChildError {
        match refusal {
            Refusal::Running => ChildError::Running(id),
            Refusal::Restarting => ChildError::Restarting(id),
            Refusal::Present => ChildError::AlreadyPresent(id),
            Refusal::Exiting => ChildError::Down(self.node().path.clone()),
            Refusal::Later => unreachable!("is parked"),
        }
    }

    /// What was asked about a child is done.
    pub(super) fn answer(&mut self, child: Place, outcome: RequestOutcome) {
        let post = self.post(child);
        if outcome == RequestOutcome::Terminated {
            // It may have waited for its backoff.
            post.node.stopped();
            post.delay = None;
        }
        let (id, path, actor) = (post.spec.id.clone(), post.node.path.clone(), post.actor.clone());
        for asker in std::mem::take(&mut post.askers) {
            match asker {
                Asker::Start(reply) => {
                    let _ = reply.send(started(&outcome, id.clone(), path.clone(), actor.clone()));
                }
                // Not even a kill ended it: the supervisor gives up, and the reply dies with it.
                Asker::End(_) if matches!(outcome, RequestOutcome::Failed(_)) => {}
                Asker::End(reply) => drop(reply.send(Ok(()))),
            }
        }
    }
}

fn started(
    outcome: &RequestOutcome,
    id: String,
    path: String,
    actor: Option<ActorCell>,
) -> Result<Started, ChildError> {
    match (outcome, actor) {
        (RequestOutcome::Started, Some(actor)) => Ok(Started::Running { id, actor }),
        (RequestOutcome::Started, None) => unreachable!("what is up has an actor"),
        (RequestOutcome::Ignored, _) => Ok(Started::Ignore),
        (RequestOutcome::Terminated, _) => {
            Err(ChildError::StartFailed { path, reason: "it was stopped while it started".to_owned() })
        }
        (RequestOutcome::Failed(failure), _) => {
            let path = if failure.path.is_empty() { path } else { failure.path.clone() };
            Err(ChildError::StartFailed { path, reason: failure.reason.clone() })
        }
    }
}

impl Control {
    /// The child it is about, where there must be one.
    fn id(&self) -> Option<&str> {
        match self {
            Control::Start { .. } => None,
            Control::Restart { id, .. }
            | Control::Terminate { id, .. }
            | Control::Delete { id, .. }
            | Control::Spec { id, .. } => Some(id),
        }
    }

    /// The end of a child passes those that wait: they may wait for a start that hangs, and that it calls off.
    fn may_pass(&self) -> bool {
        matches!(self, Control::Terminate { .. })
    }

    /// The child whose requests are carried out in order. Those about others are not held up.
    pub(super) fn child(&self) -> &str {
        match self {
            Control::Start { spec, .. } => &spec.id,
            other => other.id().unwrap_or_default(),
        }
    }

    fn refuse(self, error: ChildError) {
        match self {
            Control::Start { reply, .. } | Control::Restart { reply, .. } => drop(reply.send(Err(error))),
            Control::Terminate { reply, .. } | Control::Delete { reply, .. } => drop(reply.send(Err(error))),
            Control::Spec { reply, .. } => drop(reply.send(Err(error))),
        }
    }
}
