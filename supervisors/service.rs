//! A slot for an actor that callers keep across its restarts.
//!
//! Owns the current actor reference of one service. Filled by the wrapper around the supervised actor when it has
//! started, emptied when that same incarnation ends, whatever ends it. Does not queue: a message goes to the actor that
//! is there, or back to the caller.

use std::sync::{Arc, OnceLock};

use ractor::{ActorId, ActorRef, Message, MessagingErr};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout_at};

use crate::gone::{Alive, Gone};
use crate::vitals::Pulse;

/// A handle on "whoever is the storage now", valid before the tree starts and across every restart.
///
/// Made before the tree, given to [`ChildSpec::service`](crate::ChildSpec::service) and to everyone who calls. Cheap to
/// clone. One child fills it: a specification that gives it to two is refused, and of two specifications the child that
/// finds it filled does not start.
pub struct Service<M> {
    slot: Arc<ServiceSlot<M>>,
}

struct ServiceSlot<M> {
    name: &'static str,
    actor: watch::Sender<Option<Holder<M>>>,
}

/// Who is in the slot, where its mailbox is counted, and what tells of its end.
struct Holder<M> {
    actor: ActorRef<M>,
    pulse: Arc<Pulse>,
    gone: Gone,
}

impl<M> Clone for Holder<M> {
    fn clone(&self) -> Self {
        Holder { actor: self.actor.clone(), pulse: Arc::clone(&self.pulse), gone: self.gone.clone() }
    }
}

/// Why a call has no answer; what matters to a caller is whether the request may have been acted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The service was not there (by the deadline, where the call waits), or the deadline had passed: nothing was sent,
    /// it is safe to try again.
    #[error("the request was not sent: the service is down, or it was too late; it is safe to try again")]
    NotSent,
    /// The actor died, or dropped the request, after it was sent: it may have been acted on. Told as soon as the actor is
    /// gone, also when it had handed the reply on to somebody else.
    #[error("the service died before it answered; the request may have been acted on")]
    Unknown,
    /// Sent, and no answer by the deadline: it may still be acted on.
    #[error("no answer before the deadline; the request may still be acted on")]
    Deadline,
}

impl<M> Clone for Service<M> {
    fn clone(&self) -> Self {
        Service { slot: Arc::clone(&self.slot) }
    }
}

impl<M> std::fmt::Debug for Service<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let holder = self.slot.actor.borrow();
        let actor = holder.as_ref().map(|holder| &holder.actor);
        f.debug_struct("Service").field("name", &self.slot.name).field("actor", &actor).finish()
    }
}

impl<M: Message> Service<M> {
    /// An empty slot. The name is for people: in logs and `Debug`, never for lookup.
    pub fn new(name: &'static str) -> Self {
        Service { slot: Arc::new(ServiceSlot { name, actor: watch::Sender::new(None) }) }
    }

    /// The same for all clones, and for no other.
    pub(crate) fn identity(&self) -> usize {
        Arc::as_ptr(&self.slot) as usize
    }

    /// The name given to [`Service::new`].
    pub fn name(&self) -> &'static str {
        self.slot.name
    }

    /// The actor that is there now, if any. What is sent to it directly is not counted in
    /// [`Vitals::mailbox`](crate::Vitals).
    pub fn get(&self) -> Option<ActorRef<M>> {
        self.slot.actor.borrow().as_ref().map(|holder| holder.actor.clone())
    }

    /// Sends to whoever is there, without a clone of its reference: the lock is held for a send, which runs no code of the
    /// actor's.
    fn offer(&self, msg: M) -> Result<Gone, Unsent<M>> {
        match &*self.slot.actor.borrow() {
            Some(holder) => holder.send(msg),
            None => Err(Unsent { msg, refused: None }),
        }
    }

    /// Sends without waiting.
    ///
    /// # Errors
    /// Gives the message back when nobody is there to take it.
    pub fn try_cast(&self, msg: M) -> Result<(), M> {
        self.offer(msg).map(drop).map_err(|unsent| unsent.msg)
    }

    /// Waits until the slot is filled; `None` when it is still empty at the deadline.
    pub async fn wait(&self, deadline: Instant) -> Option<ActorRef<M>> {
        self.other_than(None, deadline).await.map(|holder| holder.actor)
    }

    /// Waits until this actor is out of the slot: whoever calls then reaches nobody, or its successor. What an actor owns
    /// goes a moment earlier, so that a caller who learns of its end by that alone could still send to it. False when it
    /// is there at the deadline.
    pub async fn left(&self, actor: ActorId, deadline: Instant) -> bool {
        let mut slot = self.slot.actor.subscribe();
        let left = slot.wait_for(|slot| slot.as_ref().is_none_or(|holder| holder.actor.get_id() != actor));
        timeout_at(deadline, left).await.is_ok()
    }

    /// Waits for the service, sends it a request, and waits for the answer, all before `deadline`.
    ///
    /// # Errors
    /// See [`CallError`]. A request that met a dying actor and came back unsent goes to its successor. Nothing is sent
    /// once the deadline has come.
    pub async fn call<R>(&self, make: impl FnOnce(oneshot::Sender<R>) -> M, deadline: Instant) -> Result<R, CallError> {
        in_time(deadline)?;
        let (reply, answer) = oneshot::channel();
        let mut sent = self.offer(make(reply));
        let gone = loop {
            match sent {
                Ok(gone) => break gone,
                Err(Unsent { msg, refused }) => {
                    let holder = self.other_than(refused, deadline).await.ok_or(CallError::NotSent)?;
                    in_time(deadline)?;
                    sent = holder.send(msg);
                }
            }
        };
        receive(answer, gone, deadline).await
    }

    /// Waits for an actor in the slot that is not the one that just refused a message.
    async fn other_than(&self, refused: Option<ActorId>, deadline: Instant) -> Option<Holder<M>> {
        let mut slot = self.slot.actor.subscribe();
        let filled = slot.wait_for(|slot| slot.as_ref().is_some_and(|holder| Some(holder.actor.get_id()) != refused));
        match timeout_at(deadline, filled).await {
            Ok(Ok(holder)) => holder.clone(),
            // The sender lives in `self`, so the channel cannot close: this is the deadline.
            Ok(Err(_)) | Err(_) => None,
        }
    }

    /// Fails when another actor is in the slot.
    fn fill(&self, holder: Holder<M>) -> Result<(), String> {
        let (actor, pulse) = (holder.actor.get_id(), Arc::clone(&holder.pulse));
        let mut other = None;
        self.slot.actor.send_if_modified(|slot| {
            other = slot.as_ref().map(|holder| holder.actor.get_id());
            if other.is_none() {
                pulse.count_mailbox();
                *slot = Some(holder);
            }
            other.is_none()
        });
        match other {
            Some(other) => Err(format!("the service {:?} is that of the actor {other}, which runs", self.slot.name)),
            None => {
                tracing::trace!(service = self.slot.name, %actor, "service slot filled");
                Ok(())
            }
        }
    }

    /// Empties the slot if this actor is the one in it: a late guard never empties its successor's slot.
    fn vacate(&self, actor: ActorId) {
        self.slot.actor.send_if_modified(|slot| {
            let own = slot.as_ref().is_some_and(|current| current.actor.get_id() == actor);
            if own {
                *slot = None;
            }
            own
        });
    }
}

/// A message that came back.
struct Unsent<M> {
    msg: M,
    /// By this actor, if any was there.
    refused: Option<ActorId>,
}

impl<M: Message> Holder<M> {
    /// Sends, or gives the message back. A message for an actor that is stopping comes back too. What is given to a caller
    /// who then waits is no reference to the actor, which would keep a message in its channel past its end.
    fn send(&self, msg: M) -> Result<Gone, Unsent<M>> {
        self.pulse.sending();
        match self.actor.send_message(msg) {
            Ok(()) => Ok(self.gone.clone()),
            Err(MessagingErr::SendErr(msg)) => {
                self.pulse.taken();
                Err(Unsent { msg, refused: Some(self.actor.get_id()) })
            }
            Err(other) => {
                unreachable!("a typed local reference refused a message of its own type: {other}")
            }
        }
    }
}

/// A request that comes at its deadline, or after it, is not sent: nobody would wait for the answer.
fn in_time(deadline: Instant) -> Result<(), CallError> {
    if Instant::now() < deadline { Ok(()) } else { Err(CallError::NotSent) }
}

async fn receive<R>(answer: oneshot::Receiver<R>, gone: Gone, deadline: Instant) -> Result<R, CallError> {
    match timeout_at(deadline, gone.or_answer(answer)).await {
        Ok(answer) => answer.ok_or(CallError::Unknown),
        Err(_elapsed) => Err(CallError::Deadline),
    }
}

/// Lives inside the wrapped actor, so it is dropped with the actor's task: stop, kill, panic or abort. Whatever filled
/// the slot is out of it before the join handle completes, and so before a successor can exist.
pub(crate) struct SlotGuard<M: Message> {
    service: Service<M>,
    pulse: Arc<Pulse>,
    holder: OnceLock<ActorId>,
    /// Dropped after the slot was emptied: who hears of the end finds nobody there, or the successor.
    alive: Alive,
}

impl<M: Message> SlotGuard<M> {
    pub(crate) fn new(service: Service<M>, pulse: Arc<Pulse>) -> Self {
        SlotGuard { service, pulse, holder: OnceLock::new(), alive: Alive::new() }
    }

    /// The actor is ready for messages. Fails when another actor is in the slot.
    pub(crate) fn fill(&self, actor: ActorRef<M>) -> Result<(), String> {
        let holder = *self.holder.get_or_init(|| actor.get_id());
        assert_eq!(holder, actor.get_id(), "a guard is of one actor");
        self.service.fill(Holder { actor, pulse: Arc::clone(&self.pulse), gone: self.alive.watch() })
    }

    /// The actor takes no more messages.
    pub(crate) fn vacate(&self) {
        if let Some(&actor) = self.holder.get() {
            self.service.vacate(actor);
        }
    }
}

impl<M: Message> Drop for SlotGuard<M> {
    fn drop(&mut self) {
        self.vacate();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ractor::{Actor, ActorProcessingErr};

    use super::*;

    struct Nobody;

    impl Actor for Nobody {
        type Msg = ();
        type State = ();
        type Arguments = ();
        async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
            Ok(())
        }
    }

    fn guard(service: &Service<()>) -> SlotGuard<()> {
        SlotGuard::new(service.clone(), Arc::new(Pulse::new()))
    }

    #[tokio::test]
    async fn only_the_holder_empties_the_slot() {
        let service = Service::new("nobody");
        let (old, new) = (guard(&service), guard(&service));
        let first = Nobody::spawn(None, Nobody, ()).await.unwrap().0;
        let second = Nobody::spawn(None, Nobody, ()).await.unwrap().0;
        old.fill(first.clone()).unwrap();
        new.fill(second.clone()).unwrap_err();
        assert_eq!(service.get(), Some(first.clone()), "who comes second does not push the first out");
        assert!(!service.left(first.get_id(), Instant::now()).await, "it is there");
        let waits = tokio::spawn({
            let (service, first) = (service.clone(), first.get_id());
            async move { service.left(first, Instant::now() + Duration::from_secs(60)).await }
        });
        tokio::task::yield_now().await;
        old.vacate();
        assert!(waits.await.unwrap(), "who waits for its leaving hears of it");
        new.fill(second.clone()).unwrap();
        drop(old);
        assert_eq!(service.get(), Some(second.clone()), "a late guard leaves its successor alone");
        drop(new);
        assert_eq!(service.get(), None);
        first.stop(None);
        second.stop(None);
    }
}
