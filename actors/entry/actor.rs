//! The actor: who waits for which attempts, and the batcher between them and Raft.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use converge_ledger_core::Boot;
use converge_supervisors::ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::batcher::{Batcher, Effect};
use super::origin::Claim;
use super::{Admission, Arguments, Message, Settled, Shared, Submission};
use crate::distribution::Lane;
use crate::replication::wire::Frame;
use crate::replication::{Replication, View};
use crate::storage::{self, AppliedBatch};

/// The actor.
pub(super) struct EntryServer {
    pub(super) shared: Arc<Shared>,
}

pub(crate) struct State {
    args: Arguments,
    shared: Arc<Shared>,
    myself: ActorRef<Message>,
    batcher: Batcher,
    /// Requests by the counter of their first command, from submission to outcome.
    waiting: BTreeMap<u64, Waiting>,
    /// Tokens are unique to an incarnation, so that a late refusal to a former one hits nothing.
    token_base: u64,
    view: View,
    started: Instant,
    _tasks: JoinSet<()>,
}

struct Waiting {
    /// So many, with counters from the one on that it is kept under.
    commands: usize,
    reply: oneshot::Sender<Settled>,
    claim: Arc<Claim>,
    _admission: Admission,
}

impl Actor for EntryServer {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, myself: ActorRef<Message>, args: Arguments) -> Result<State, ActorProcessingErr> {
        // Not `recover`: that applies what is committed, which is replication's to order once it runs.
        let storage = args.storage.status();
        let boot = match (storage.boot, storage.phase) {
            // Without storage there is no leader to be known here, so nothing will be handed over.
            (_, storage::Phase::Fenced { .. }) => Boot(0),
            (Some(boot), _) => *self.shared.boot.get_or_init(|| boot),
            (None, _) => return Err(storage::Error::Unavailable.into()),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(follow(args.replication.clone(), myself.clone()));
        tasks.spawn(look(myself.clone(), self.shared.bounds.look_every));
        Ok(State {
            batcher: Batcher::new(self.shared.id, boot, args.patience, self.shared.bounds),
            waiting: BTreeMap::new(),
            token_base: (args.random)() & !u64::from(u32::MAX),
            view: View::default(),
            started: Instant::now(),
            shared: self.shared.clone(),
            _tasks: tasks,
            args,
            myself,
        })
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Submit(request, reply) => state.submit(*request, reply),
            Message::Applied(batch) => state.applied(&batch),
            Message::Led(view) => state.led(view),
            Message::NotProposed { by, token, hint } => {
                state.batcher.not_proposed(by, token ^ state.token_base, hint);
            }
            Message::LostLink(peer) => state.batcher.lost_link(peer),
            Message::Look => {
                let waiting = &mut state.waiting;
                waiting.retain(|_, waiting| !waiting.reply.is_closed());
                state.batcher.expire(state.started.elapsed(), |counter| is_waited_for(waiting, counter));
            }
        }
        state.run();
        Ok(())
    }
}

/// Somebody waits for the request that this counter is of.
fn is_waited_for(waiting: &BTreeMap<u64, Waiting>, counter: u64) -> bool {
    let request = waiting.range(..=counter).next_back();
    request.is_some_and(|(first, request)| counter - first < request.commands as u64)
}

impl State {
    fn submit(&mut self, request: Submission, reply: oneshot::Sender<Settled>) {
        let Submission { commands, claim, admission } = request;
        let Some((first, _)) = commands.first() else { return };
        let waiting = Waiting { commands: commands.len(), reply, claim, _admission: admission };
        self.waiting.insert(first.counter(), waiting);
        commands.into_iter().for_each(|(command, bytes)| self.batcher.push(command, bytes));
    }

    fn applied(&mut self, batch: &AppliedBatch) {
        for (at, (counter, _)) in batch.outcomes.iter().enumerate() {
            if let Some(waiting) = self.waiting.remove(counter) {
                // What was submitted together is in the batch together.
                let own = at..at + waiting.commands;
                let _ = waiting.reply.send(Settled { outcomes: batch.outcomes.clone(), own, term: batch.term });
            }
        }
        self.batcher.resolved(self.started.elapsed(), batch.outcomes.iter().map(|(counter, _)| *counter));
    }

    fn led(&mut self, view: View) {
        if (view.leader, view.term) != (self.view.leader, self.view.term) {
            self.batcher.led_by(view.leader);
        }
        self.view = view;
    }

    fn run(&mut self) {
        let waiting = &self.waiting;
        let claim = |counter: u64| waiting.get(&counter).is_some_and(|w| !w.reply.is_closed() && w.claim.hand_over());
        let effects = self.batcher.run(self.started.elapsed(), || self.shared.origin.marks(), claim);
        effects.into_iter().for_each(|effect| self.execute(effect));
    }

    /// What cannot be handed over is taken as lost: it is handed over again after its patience, or as soon as the
    /// link is back.
    fn execute(&mut self, effect: Effect) {
        match effect {
            Effect::Propose { token, data } => {
                let token = token ^ self.token_base;
                let myself = self.myself.clone();
                let by = self.shared.id;
                let refused = Box::new(move |hint| drop(myself.cast(Message::NotProposed { by, token, hint })));
                let _ = self.args.replication.propose(data, refused);
            }
            Effect::Forward { to, token, data } => {
                let token = token ^ self.token_base;
                let frame = Frame::Propose { token, data }.encode(self.args.replication.tag());
                let _ = self.args.distribution.send(to, Lane::Forward, frame);
            }
        }
    }
}

/// Tells the actor who leads, now and at every change.
async fn follow(replication: Replication, myself: ActorRef<Message>) {
    let mut view = replication.view();
    loop {
        let now = view.borrow_and_update().clone();
        if myself.cast(Message::Led(now)).is_err() || view.changed().await.is_err() {
            return;
        }
    }
}

async fn look(myself: ActorRef<Message>, every: Duration) {
    let mut interval = tokio::time::interval(every);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        if myself.cast(Message::Look).is_err() {
            return;
        }
    }
}
