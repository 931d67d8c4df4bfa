//! What a supervisor does about the effects of its machine.

use tokio::time::{Instant, sleep};

use super::message::Msg;
use super::state::State;
use crate::exit::SHUTDOWN;
use crate::minder::{AbortOnDrop, Minder};
use crate::reports::Event;
use crate::spec::{ChildSpec, Shutdown};
use crate::strategy::{Effect, ExitCause, Input, Place, StartFailure};

impl State {
    pub(super) fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            self.perform(effect);
        }
    }

    fn perform(&mut self, effect: Effect) {
        if let Some(child) = effect.child() {
            self.stir(child);
        }
        match effect {
            Effect::Start(child) => self.start(child),
            Effect::Stop { child, hurry } => {
                let post = &self.posts[&child];
                let how = self.stop_how(&post.spec, hurry);
                if let Some(minder) = &post.minder {
                    minder.stop(how);
                }
            }
            Effect::Delay { child, attempt } => self.delay(child, attempt),
            Effect::Restarting { child, reason, in_window } => {
                self.node().hook.restarts(Instant::now());
                self.posts[&child].node.restarting();
                let allowed = self.rules.intensity.restarts as usize;
                self.tell(child, Event::Restarting { reason, in_window, allowed });
            }
            Effect::Forget(child) => self.forget(child),
            Effect::Answer(child, outcome) => self.answer(child, outcome),
            Effect::Ready => {
                if let Some(boot) = self.boot.take() {
                    let _ = boot.send(Ok(()));
                }
            }
            Effect::Exit(verdict) => self.exit(verdict),
        }
    }

    fn start(&mut self, child: Place) {
        let myself = self.myself.clone();
        let post = self.post(child);
        post.delay = None;
        post.minder = Some(Minder::start(&post.spec, child, &post.node, myself));
    }

    fn delay(&mut self, child: Place, attempt: u32) {
        let Some(backoff) = self.posts[&child].spec.backoff else {
            return self.step(Input::Elapsed(child));
        };
        self.tickets += 1;
        let ticket = self.tickets;
        let pause = backoff.delay(attempt, rand::random());
        let myself = self.myself.clone();
        let timer = AbortOnDrop::spawn(async move {
            sleep(pause).await;
            let _ = myself.send_message(Msg::Elapsed { child, ticket });
        });
        self.post(child).delay = Some((ticket, timer));
    }

    fn forget(&mut self, child: Place) {
        self.incarnation.node.remove(child);
        if let Some(post) = self.posts.remove(&child) {
            self.ids.remove(&post.spec.id);
        }
    }

    /// A sibling of a child that failed gets the grace, where that is less than its own time.
    fn stop_how(&self, spec: &ChildSpec, hurry: bool) -> Shutdown {
        match (spec.shutdown, self.orders.sibling_shutdown()) {
            (Shutdown::Timeout(own), Some(grace)) if hurry => Shutdown::Timeout(own.min(grace)),
            (Shutdown::Infinity, Some(grace)) if hurry => Shutdown::Timeout(grace),
            (own, _) => own,
        }
    }

    /// All children are gone.
    fn exit(&mut self, verdict: ExitCause) {
        self.node().all_stopped();
        self.refuse_parked();
        let (conclusion, reason) = match verdict {
            ExitCause::AutoShutdown => {
                let child = self.last_significant.take().unwrap_or_default();
                self.node().tell(Event::AutoShutdown { child });
                (Ok(()), SHUTDOWN.to_owned())
            }
            ExitCause::Shutdown => {
                self.node().tell(Event::Stopped);
                (Ok(()), SHUTDOWN.to_owned())
            }
            ExitCause::StartFailed(failure) => {
                let reason = format!("shutdown: {} did not start: {}", failure.path, failure.reason);
                (Err(failure), reason)
            }
            ExitCause::Escalated { child, reason } => {
                let failure = StartFailure { path: self.posts[&child].node.path.clone(), reason };
                let event = Event::GaveUp { child: failure.path.clone(), reason: failure.reason.clone() };
                self.node().tell(event);
                let reason = format!("shutdown: gave up on {}: {}", failure.path, failure.reason);
                (Err(failure), reason)
            }
        };
        self.node().conclude(self.incarnation.number, conclusion.clone());
        let failure = conclusion.err().unwrap_or_else(|| self.failure("it was stopped"));
        if let Some(boot) = self.boot.take() {
            let _ = boot.send(Err(failure));
        }
        // When this is already stopping, the reason it was stopped with stands.
        self.myself.stop(Some(reason));
    }

    fn failure(&self, reason: &str) -> StartFailure {
        StartFailure { path: self.node().path.clone(), reason: reason.to_owned() }
    }
}
