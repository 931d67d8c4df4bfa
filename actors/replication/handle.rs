//! The public handle.

use std::sync::Arc;

use bytes::Bytes;
use converge_ledger_core::{LogIndex, NodeId};
use converge_supervisors::{CallError, ChildSpec, Service, Shutdown};
use tokio::sync::watch;
use tokio::time::Instant;

use super::actor::Raft;
use super::args::Arguments;
use super::message::{Message, ReadError, Refused};
use super::received::Received;
use super::view::{Overfull, Published, View};
use super::wire;
use crate::distribution::{Inbound, LinkEvent};
use crate::storage;

/// Handle on the replication actor; valid before it starts and across restarts.
#[derive(Clone)]
pub struct Replication {
    service: Service<Message>,
    published: Arc<Published>,
}

impl Default for Replication {
    fn default() -> Self {
        Self::new()
    }
}

impl Replication {
    /// A handle whose actor has not started.
    #[must_use]
    pub fn new() -> Replication {
        Replication { service: Service::new("replication"), published: Arc::new(Published::default()) }
    }

    /// How to start the actor under a supervisor.
    pub fn child_spec(&self, args: Arguments) -> ChildSpec {
        let (published, shutdown) = (self.published.clone(), args.bounds.shutdown);
        ChildSpec::service("replication", &self.service, move || (Raft::new(published.clone()), args.clone()))
            .shutdown(Shutdown::Timeout(shutdown))
            // It contains storage's: one death behind a long queue of applies is one restart, not many.
            .start_timeout(storage::RECOVERIES_TIMEOUT)
    }

    pub(super) fn service(&self) -> &Service<Message> {
        &self.service
    }

    /// Hands a batch to the local Raft node. `refused` is called if it is not the leader; otherwise nothing is
    /// called, and the batch shows up as applied, or never.
    ///
    /// # Errors
    /// Gives `refused` back when the actor is not running: nothing was handed over.
    pub fn propose(&self, data: Bytes, refused: Refused) -> Result<(), Refused> {
        self.service.try_cast(Message::Propose { data, refused }).map_err(|message| match message {
            Message::Propose { refused, .. } => refused,
            _ => unreachable!("the message just made"),
        })
    }

    /// Waits until everything acknowledged before this call is applied here.
    ///
    /// # Errors
    /// [`ReadError`]; the read may be tried again.
    pub async fn read_index(&self, deadline: Instant) -> Result<LogIndex, ReadError> {
        loop {
            match self.service.call(|reply| Message::Read { reply }, deadline).await {
                Ok(answer) => return answer,
                // The actor restarted: ask the next incarnation.
                Err(CallError::Unknown) if Instant::now() < deadline => tokio::task::yield_now().await,
                Err(_) => return Err(ReadError::Unavailable),
            }
        }
    }

    /// A frame of a peer. Decoded here, in the link's task.
    ///
    /// # Errors
    /// What is wrong with it; the link is to be closed.
    pub fn deliver(&self, inbound: Inbound) -> Result<(), wire::Error> {
        let received = Received::decode(inbound)?;
        // Without an actor the frame is lost, as on a network; Raft sends again.
        let _ = self.service.try_cast(Message::Frame(received));
        Ok(())
    }

    /// A link came up or went down.
    pub fn link(&self, event: LinkEvent) {
        let _ = self.service.try_cast(Message::Link(event));
    }

    /// Everything up to `index` is applied.
    pub fn applied(&self, index: LogIndex) {
        let _ = self.service.try_cast(Message::Applied(index));
    }

    /// Who leads, and what this node is. Changes can be awaited.
    #[must_use]
    pub fn view(&self) -> watch::Receiver<View> {
        self.published.view.subscribe()
    }

    /// The tag that frames of this cluster carry; 0 before it is formed.
    pub(crate) fn tag(&self) -> u64 {
        self.published.tag()
    }

    /// The commit index last seen.
    #[must_use]
    pub fn commit(&self) -> LogIndex {
        self.published.commit()
    }

    /// What each voter is known to hold, where this node leads.
    #[must_use]
    pub fn matched(&self) -> Vec<(NodeId, LogIndex)> {
        self.published.matched()
    }

    /// The voters that this node leads and has not heard of for five election time-outs, and since when.
    #[must_use]
    pub fn unheard(&self) -> Vec<(NodeId, Instant)> {
        self.published.unheard()
    }

    /// Entries that this node did not take because too much of its log was not committed, or not applied; none so far.
    #[must_use]
    pub fn overfull(&self) -> Option<Overfull> {
        self.published.overfull()
    }
}
