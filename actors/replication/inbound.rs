//! Frames and link events of peers: checked here, before the Raft crate sees any of them.

use std::collections::BTreeMap;

use converge_ledger_core::{NodeId, StoreId};
use converge_supervisors::ractor::ActorProcessingErr;
use raft::eraftpb::{Message as RaftMessage, MessageType};

use super::judge::Objection;
use super::wire::{self, Frame};
use super::{Phase, State, is_batch_of};
use crate::distribution::{Inbound, Lane, LinkEvent, Permit};
use crate::storage::Genesis;

/// The connection that brought a frame.
#[derive(Clone, Copy)]
struct Link {
    from: NodeId,
    lane: Lane,
    epoch: u64,
}

/// A decoded frame. The permit is the link's credit: dropping it lets the link read on.
pub(crate) struct Received {
    link: Link,
    tag: u64,
    frame: Frame,
    _permit: Permit,
}

impl Received {
    pub(crate) fn decode(inbound: Inbound) -> Result<Received, wire::Error> {
        let (frame, tag) = Frame::decode(&inbound.payload)?;
        let Inbound { from, lane, epoch, mut permit, .. } = inbound;
        permit.weigh(frame.weight());
        Ok(Received { link: Link { from, lane, epoch }, tag, frame, _permit: permit })
    }
}

/// Appends travel apart from heartbeats, so that a megabyte of entries delays no vote (and rule 11 of the crate).
pub(crate) fn lane_of(kind: MessageType) -> Lane {
    match kind {
        MessageType::MsgAppend | MessageType::MsgAppendResponse => Lane::Append,
        _ => Lane::Control,
    }
}

/// Peers whose frames were refused, so that each reason is said once.
#[derive(Debug, Default)]
pub(crate) struct Strangers {
    said: BTreeMap<NodeId, String>,
}

impl Strangers {
    fn refuse(&mut self, from: NodeId, reason: &str) {
        if self.said.get(&from).is_none_or(|said| said != reason) {
            tracing::warn!(peer = %from, reason, "frames of this peer are refused");
            self.said.insert(from, reason.to_owned());
        }
    }
}

impl State {
    pub(super) async fn frame(&mut self, received: Received) -> Result<(), ActorProcessingErr> {
        let Received { link, tag, frame, _permit } = received;
        if !self.args.voters.contains(&link.from) || !self.current(link) {
            return Ok(());
        }
        match frame {
            Frame::Genesis { store_id, genesis } => {
                if genesis.as_ref().is_some_and(|genesis| !self.is_ours(link.from, store_id, genesis)) {
                    self.reject(link, "a genesis of another cluster, or one that does not list its sender's store");
                    return Ok(());
                }
                self.introduced(link.from, store_id, genesis).await
            }
            frame => self.ordinary(link, tag, frame),
        }
    }

    /// Whether a genesis can be one of this cluster, by a node that it lists. What it says of this node is for
    /// [`super::genesis`] to judge.
    fn is_ours(&self, from: NodeId, store_id: StoreId, genesis: &Genesis) -> bool {
        genesis.cluster_id == self.args.cluster_id
            && genesis.group == wire::GROUP
            && genesis.voters.get(&from) == Some(&store_id)
    }

    /// Drops what an older connection still delivers: a stale rejection could push `next` below `match`.
    fn current(&mut self, Link { from, lane, epoch }: Link) -> bool {
        let newest = self.epochs.entry((from, lane)).or_default();
        *newest = epoch.max(*newest);
        *newest == epoch
    }

    fn ordinary(&mut self, link: Link, tag: u64, frame: Frame) -> Result<(), ActorProcessingErr> {
        let from = link.from;
        let Phase::Running(running) = &self.phase else { return Ok(()) };
        if tag != running.tag {
            self.strangers.refuse(from, "it belongs to a cluster that was formed apart from this one");
            return Ok(());
        }
        match frame {
            Frame::Raft(message) => self.raft_message(link, *message),
            Frame::Propose { token, data } => {
                let result = if is_batch_of(from, &data) { self.propose(data)? } else { Err(None) };
                if let Err(hint) = result {
                    self.send_to(from, Lane::Forward, Frame::NotProposed { token, hint });
                }
                Ok(())
            }
            // Those go to the entry actor; see the node's sink.
            Frame::NotProposed { .. } | Frame::Genesis { .. } => Ok(()),
        }
    }

    fn raft_message(&mut self, link: Link, message: RaftMessage) -> Result<(), ActorProcessingErr> {
        let Phase::Running(running) = &self.phase else { return Ok(()) };
        if message.from != link.from.get()
            || message.to != self.args.id.get()
            || lane_of(message.get_msg_type()) != link.lane
            || !running.core.is_voter(link.from)
        {
            self.reject(link, "a Raft message names other nodes than its link, or came on the wrong lane");
            return Ok(());
        }
        self.others.heard(link.from, self.started.elapsed());
        match self.drive(|core, out| core.message(message, out))? {
            None | Some(Ok(()) | Err(Objection::Late)) => {}
            Some(Err(Objection::Bad(reason))) => self.reject(link, reason),
            Some(Err(Objection::DataLoss(what))) => {
                self.args.storage.fence(what);
                self.phase = Phase::Silent;
                return Ok(());
            }
            Some(Err(Objection::Failed(error))) => return Err(error.into()),
        }
        self.open_reads()
    }

    /// No correct node sends this: whoever is there has to shake hands again.
    fn reject(&mut self, link: Link, reason: &str) {
        self.strangers.refuse(link.from, reason);
        self.args.distribution.reject(link.from, link.lane, link.epoch, reason);
    }

    async fn introduced(
        &mut self,
        from: NodeId,
        store_id: StoreId,
        theirs: Option<Genesis>,
    ) -> Result<(), ActorProcessingErr> {
        match &mut self.phase {
            Phase::Forming(forming) => {
                let verdict = forming.heard(from, store_id, theirs);
                self.decide(verdict).await
            }
            Phase::Running(running) => {
                match theirs {
                    // Fresh, or wiped: it will see.
                    None => self.introduce(Some(from)),
                    Some(theirs) if theirs != running.genesis => {
                        self.strangers.refuse(from, "it belongs to a cluster that was formed apart from this one");
                    }
                    Some(_) => {}
                }
                Ok(())
            }
            Phase::Silent | Phase::Wrong => Ok(()),
        }
    }

    /// Says who this node is, to one peer or to all.
    pub(super) fn introduce(&mut self, to: Option<NodeId>) {
        let genesis = match &self.phase {
            Phase::Running(running) => Some(running.genesis.clone()),
            Phase::Forming(_) => None,
            Phase::Silent | Phase::Wrong => return,
        };
        let store_id = self.store_id;
        let peers = self.args.voters.iter().copied().filter(|id| *id != self.args.id);
        for peer in peers.filter(|id| to.is_none_or(|to| to == *id)).collect::<Vec<_>>() {
            self.send_to(peer, Lane::Control, Frame::Genesis { store_id, genesis: genesis.clone() });
        }
    }

    fn send_to(&self, peer: NodeId, lane: Lane, frame: Frame) {
        let tag = match &self.phase {
            Phase::Running(running) => running.tag,
            _ => 0,
        };
        // Shed or down: the peer asks again.
        let _ = self.args.distribution.send(peer, lane, frame.encode(tag));
    }

    pub(super) fn link(&mut self, event: LinkEvent) -> Result<(), ActorProcessingErr> {
        match event {
            LinkEvent::Up { peer, lane: Lane::Control, .. } => self.introduce(Some(peer)),
            LinkEvent::Up { .. } => {}
            LinkEvent::Down { peer, lane, .. } => {
                if let (Phase::Forming(forming), Lane::Control) = (&mut self.phase, lane) {
                    forming.lost(peer);
                }
                if lane == Lane::Append {
                    self.drive(|core, out| core.unreachable(peer, out))?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use converge_ledger_core::{Batch, Boot};
    use raft::eraftpb::Entry;
    use tokio::sync::Semaphore;

    use super::*;

    const CREDIT_BYTES: usize = 16 << 20;

    /// A legal append of as many empty entries as there may be, as a link delivers it.
    fn crowded() -> Bytes {
        let mut message = RaftMessage::default();
        message.set_msg_type(MessageType::MsgAppend);
        let entry = |index| Entry { index, ..Entry::default() };
        message.set_entries((1..=1 << 18).map(entry).collect::<Vec<_>>().into());
        Frame::Raft(Box::new(message)).encode(1).concat().into()
    }

    /// What a frame takes: its bytes, and those of its entries.
    fn taken(received: &Received, payload: &Bytes) -> usize {
        let Frame::Raft(message) = &received.frame else { panic!("not what was sent") };
        payload.len() + message.entries.capacity() * size_of::<Entry>()
    }

    #[test]
    fn a_batch_is_taken_only_from_its_origin() {
        let batch =
            Batch { origin: NodeId(2), boot: Boot(1), low_water: 1, low_staging: 1, commands: Vec::new() }.encode();
        assert!(is_batch_of(NodeId(2), &batch));
        assert!(!is_batch_of(NodeId(3), &batch), "whoever is made up here stays in the state of every node");
        assert!(!is_batch_of(NodeId(2), &batch.slice(1..)));
    }

    #[tokio::test]
    async fn a_link_holds_no_more_decoded_frames_than_its_credit_and_one() {
        let credits = Arc::new(Semaphore::new(CREDIT_BYTES));
        let payload = crowded();
        let mut held = Vec::new();
        let mut bytes = 0;
        // As a reader does that nobody relieves.
        while credits.available_permits() >= payload.len() {
            let permit = Permit::acquire(&credits, payload.len()).await;
            let inbound = Inbound { from: NodeId(2), lane: Lane::Append, epoch: 1, payload: payload.clone(), permit };
            let received = Received::decode(inbound).unwrap();
            bytes += taken(&received, &payload);
            assert!(bytes <= CREDIT_BYTES + taken(&received, &payload), "{} frames take {bytes} bytes", held.len() + 1);
            held.push(received);
        }
        assert_eq!(held.len(), 1, "one that weighs more than all credit passes, and alone");
        // All that was taken comes back, and a light frame takes little.
        drop(held);
        assert_eq!(credits.available_permits(), CREDIT_BYTES);
        let light: Bytes = Frame::NotProposed { token: 1, hint: None }.encode(1).concat().into();
        let permit = Permit::acquire(&credits, light.len()).await;
        let inbound = Inbound { from: NodeId(2), lane: Lane::Forward, epoch: 1, payload: light.clone(), permit };
        let _light = Received::decode(inbound).unwrap();
        assert_eq!(credits.available_permits(), CREDIT_BYTES - light.len());
    }
}
