//! The actor: starts the workers, applies committed entries, and stops the workers when it dies.

use std::sync::Arc;

use converge_supervisors::ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::committer::Committer;
use super::database::trouble::Trouble;
use super::error::Error;
use super::executor::Worker;
use super::failure::{Failure, data_loss, io_failure};
use super::incarnation::{Incarnation, QueuedWrite};
use super::journal::record::Op;
use super::message::Message;
use super::passing::is_lack;
use super::room::{LACK_PAUSE, LOOK_INTERVAL};
use super::shared::Shared;
use super::types::{Genesis, HardState, LogEntry, Recovered};
use super::writer::Writer;

pub(crate) struct StorageActor;

/// Closes the incarnation when it ends, however it does.
struct Guard {
    shared: Arc<Shared>,
    incarnation: Arc<Incarnation>,
    /// Who says that nothing more comes from the journal.
    writer: Ender,
}

/// Who ends the stream from the journal to the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ender {
    /// No writer was started: the guard does it.
    Guard,
    /// The writer, when it is done.
    Writer,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.writer == Ender::Guard {
            self.incarnation.durable().ended = true;
        }
        self.shared.incarnations.close(&self.incarnation);
    }
}

pub(crate) struct State {
    phase: IncarnationPhase,
    /// Sends [`Message::Look`].
    _looks: JoinSet<()>,
}

/// The phases of an incarnation.
enum IncarnationPhase {
    /// Both workers run.
    Serving(Serving),
    /// Fenced before it could serve; nothing runs.
    Fenced(Arc<Shared>),
}

struct Serving {
    guard: Guard,
}

impl Actor for StorageActor {
    type Msg = Message;
    type State = State;
    type Arguments = Arc<Shared>;

    async fn pre_start(&self, myself: ActorRef<Message>, shared: Arc<Shared>) -> Result<State, ActorProcessingErr> {
        let phase = enter(&shared, &myself).await?;
        Ok(State { phase, _looks: looks(myself, shared) })
    }

    async fn handle(
        &self,
        _myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match (message, &mut state.phase) {
            (Message::Apply(entries), IncarnationPhase::Serving(serving)) => serving.apply(&entries).await?,
            (Message::Apply(_), IncarnationPhase::Fenced(_)) => {}
            (Message::Recover(reply), IncarnationPhase::Serving(serving)) => {
                let _ = reply.send(serving.recover().await);
            }
            (Message::WriteGenesis(genesis, reply), IncarnationPhase::Serving(serving)) => {
                let _ = reply.send(serving.write_genesis(genesis).await);
            }
            (Message::Recover(reply), IncarnationPhase::Fenced(shared)) => {
                let _ = reply.send(Err(fenced(shared)));
            }
            (Message::WriteGenesis(_, reply), IncarnationPhase::Fenced(shared)) => {
                let _ = reply.send(Err(fenced(shared)));
            }
            (Message::WorkerDied, IncarnationPhase::Serving(serving)) if serving.guard.incarnation.is_closed() => {
                return Err("a thread of storage died, see the log".into());
            }
            // The thread of a start that was given up, or tried again, may end before its incarnation is closed.
            (Message::WorkerDied, IncarnationPhase::Serving(_) | IncarnationPhase::Fenced(_)) => {}
            (
                Message::Look,
                IncarnationPhase::Serving(Serving { guard: Guard { shared, .. } }) | IncarnationPhase::Fenced(shared),
            ) => {
                if shared.may_leave() {
                    return Err("there is room on the disk again: recovering from what is there".into());
                }
            }
        }
        Ok(())
    }

    async fn post_stop(&self, _myself: ActorRef<Message>, state: &mut State) -> Result<(), ActorProcessingErr> {
        if let IncarnationPhase::Serving(serving) = &state.phase {
            let Guard { shared, incarnation, .. } = &serving.guard;
            shared.incarnations.close(incarnation);
            shared.incarnations.all_gone().await;
        }
        Ok(())
    }
}

fn fenced(shared: &Shared) -> Error {
    shared.fence.cause().map_or(Error::Unavailable, |cause| cause.error())
}

/// Recovers; from the first time that it did not fail on, every failure is one that this process knows of.
async fn enter(shared: &Arc<Shared>, myself: &ActorRef<Message>) -> Result<IncarnationPhase, ActorProcessingErr> {
    let phase = recover(shared, myself).await?;
    shared.process().came_up = true;
    Ok(phase)
}

/// Recovers, however long it takes until what that needs is there.
async fn recover(shared: &Arc<Shared>, myself: &ActorRef<Message>) -> Result<IncarnationPhase, ActorProcessingErr> {
    loop {
        shared.incarnations.all_gone().await;
        shared.fence.leave_full();
        if shared.fence.cause().is_some() {
            return Ok(IncarnationPhase::Fenced(Arc::clone(shared)));
        }
        match start(shared, myself.clone()).await {
            Ok(serving) => {
                shared.lacks.say(None);
                return Ok(IncarnationPhase::Serving(serving));
            }
            Err(Failure::Fence(cause)) => drop(shared.fence(cause)),
            Err(Failure::Refused(error)) => return Err(error.into()),
            Err(Failure::Passing(what)) => {
                shared.lacks.say(Some(what));
                tokio::time::sleep(LACK_PAUSE).await;
                continue;
            }
        }
        return Ok(IncarnationPhase::Fenced(Arc::clone(shared)));
    }
}

fn looks(myself: ActorRef<Message>, shared: Arc<Shared>) -> JoinSet<()> {
    let mut looks = JoinSet::new();
    looks.spawn(async move {
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            if shared.may_leave() && myself.cast(Message::Look).is_err() {
                return;
            }
        }
    });
    looks
}

fn spawn(shared: &Shared, name: &str, worker: Box<dyn Worker>) -> Result<(), Failure> {
    let spawned = shared.settings.executor.spawn(name, worker);
    spawned.map_err(|error| match is_lack(&error) {
        true => Failure::Passing(format!("starting a thread: {error}")),
        false => io_failure("starting a thread")(error),
    })
}

async fn start(shared: &Arc<Shared>, actor: ActorRef<Message>) -> Result<Serving, Failure> {
    let mut guard =
        Guard { shared: Arc::clone(shared), incarnation: shared.incarnations.begin(Some(actor)), writer: Ender::Guard };
    let incarnation = &guard.incarnation;
    let alive = || incarnation.alive().expect("nobody can have closed it yet");
    let (alive_here, alive_there) = (alive(), alive());
    let (reply, outcome) = oneshot::channel();
    let committer = Committer::new(Arc::clone(shared), Arc::clone(incarnation), reply, alive_here);
    spawn(shared, "storage-redb", Box::new(committer))?;
    let tip = match outcome.await {
        Ok(outcome) => outcome?,
        Err(_) => return Err(data_loss("recovery panicked, see the log")),
    };
    let writer = Writer::new(Arc::clone(shared), Arc::clone(incarnation), tip, alive_there);
    spawn(shared, "storage-journal", Box::new(writer))?;
    shared.incarnations.open(incarnation);
    guard.writer = Ender::Writer;
    Ok(Serving { guard })
}

impl Serving {
    async fn apply(&self, entries: &[LogEntry]) -> Result<(), Error> {
        let shared = &self.guard.shared;
        for entry in entries {
            self.wait_for_room().await;
            if shared.fence.cause().is_some() {
                return Ok(());
            }
            if let Err(trouble) = self.apply_one(entry).await {
                return self.apply_failed(trouble);
            }
            // Ticks and heartbeats may have the same thread.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Here, where memory has all that it takes; else on a thread that may wait for a file, for Raft and the links may have
    /// this one. The incarnation's threads are waited for, this one among them (S6).
    async fn apply_one(&self, entry: &LogEntry) -> Result<(), Trouble> {
        let Guard { shared, incarnation, .. } = &self.guard;
        let Some(batch) = shared.batch_of(entry) else { return Ok(()) };
        if shared.apply_one(incarnation, entry, batch.as_ref(), false)? {
            return Ok(());
        }
        let Some(alive) = incarnation.alive() else { return Err(Trouble::Closed) };
        let (shared, incarnation, entry) = (Arc::clone(shared), Arc::clone(incarnation), entry.clone());
        let work = move || {
            let _alive = alive;
            shared.apply_one(&incarnation, &entry, batch.as_ref(), true).map(drop)
        };
        self.guard.shared.settings.offload.run(work).await
    }

    fn apply_failed(&self, trouble: Trouble) -> Result<(), Error> {
        let shared = &self.guard.shared;
        match Failure::from(trouble) {
            Failure::Fence(cause) => {
                shared.fence(cause);
                Ok(())
            }
            // Whoever met the failure was quicker, or will be found when the threads are waited for.
            Failure::Refused(_) if shared.fence.cause().is_some() => Ok(()),
            Failure::Refused(error) => Err(error),
            Failure::Passing(what) => Err(Error::Passing(what)),
        }
    }

    /// The database is behind by more than memory should hold.
    async fn wait_for_room(&self) {
        let Guard { shared, incarnation, .. } = &self.guard;
        loop {
            let committed = incarnation.committed.notified();
            if !shared.crowded(incarnation) || shared.fence.cause().is_some() || incarnation.is_closed() {
                return;
            }
            incarnation.want_commit();
            committed.await;
        }
    }

    /// Everything that was queued before is durable when this returns Ok.
    async fn barrier(&self, ops: Vec<Op>) -> Result<(), Error> {
        let (sender, receiver) = oneshot::channel();
        let write = QueuedWrite {
            weight: ops.iter().map(Op::weight).sum(),
            ops,
            done: Some(Box::new(move |outcome| {
                let _ = sender.send(outcome);
            })),
        };
        self.guard.shared.submit(vec![write], &[], None)?;
        receiver.await.unwrap_or(Err(Error::Unavailable))
    }

    async fn recover(&self) -> Result<Recovered, Error> {
        self.barrier(Vec::new()).await?;
        let shared = &self.guard.shared;
        while let Some(indexes) = shared.unapplied() {
            let entries = shared.read_log(indexes.start, indexes.end, shared.settings.apply_bytes)?;
            self.apply(&entries).await?;
            if let Some(cause) = shared.fence.cause() {
                return Err(cause.error());
            }
        }
        let process = *shared.process();
        let overlay = shared.memory.overlay();
        Ok(Recovered {
            hard_state: HardState { commit: overlay.commit(), ..overlay.hard_state },
            applied: overlay.applied.index,
            last_index: overlay.last(),
            genesis: overlay.genesis.clone(),
            store_id: process.store_id.ok_or(Error::Unavailable)?,
            boot: process.boot.ok_or(Error::Unavailable)?,
        })
    }

    async fn write_genesis(&self, genesis: Genesis) -> Result<(), Error> {
        let known = self.guard.shared.memory.overlay().genesis.clone();
        match known {
            Some(known) if known == genesis => self.barrier(Vec::new()).await,
            Some(known) => Err(Error::Refused {
                dir: self.guard.shared.settings.dir.clone(),
                reason: format!(
                    "it belongs to cluster {}, and cannot join {}: choose an empty directory",
                    known.cluster_id, genesis.cluster_id
                ),
            }),
            None => {
                self.barrier(vec![Op::Genesis(genesis.clone())]).await?;
                self.guard.shared.memory.set_genesis(genesis);
                Ok(())
            }
        }
    }
}
