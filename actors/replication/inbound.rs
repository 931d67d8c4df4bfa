//! Frames and link events of peers: checked here, before the Raft crate sees any of them.

use bytes::Bytes;
use converge_ledger_core::{Batch, NodeId, StoreId};
use converge_supervisors::ractor::ActorProcessingErr;
use raft::eraftpb::Message as RaftMessage;

use super::judge::Objection;
use super::received::{Link, Received, lane_of};
use super::state::{Phase, State};
use super::unapplied::brings_entries;
use super::wire::{self, Frame};
use crate::distribution::{Lane, LinkEvent};
use crate::storage::Genesis;

impl State {
    pub(super) async fn frame(&mut self, received: Received) -> Result<(), ActorProcessingErr> {
        let Received { link, tag, frame, permit: _permit } = received;
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
        if brings_entries(&message) && self.is_behind() {
            return Ok(());
        }
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
                    self.drive(|core, out| {
                        core.unreachable(peer, out);
                        if core.heir() == Some(peer) {
                            core.abort_transfer(out);
                        }
                    })?;
                }
            }
        }
        Ok(())
    }
}

/// Whether these bytes are a batch that every node can apply, and of the node that sent them. Checked before a
/// stranger's bytes enter the log: every origin is remembered for ever, and its low-water mark lets go of outcomes.
fn is_batch_of(from: NodeId, data: &Bytes) -> bool {
    Batch::decode(data).is_ok_and(|batch| batch.origin == from)
}

#[cfg(test)]
mod tests {
    use converge_ledger_core::Boot;

    use super::*;

    #[test]
    fn a_batch_is_taken_only_from_its_origin() {
        let batch =
            Batch { origin: NodeId(2), boot: Boot(1), low_water: 1, low_staging: 1, commands: Vec::new() }.encode();
        assert!(is_batch_of(NodeId(2), &batch));
        assert!(!is_batch_of(NodeId(3), &batch), "whoever is made up here stays in the state of every node");
        assert!(!is_batch_of(NodeId(2), &batch.slice(1..)));
    }
}
