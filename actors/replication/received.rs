//! Frames of peers as they arrive, before anything is done with them.

use std::collections::BTreeMap;

use converge_ledger_core::NodeId;
use raft::eraftpb::MessageType;

use super::wire::{self, Frame};
use crate::distribution::{Inbound, Lane, Permit};

/// The connection that brought a frame.
#[derive(Clone, Copy)]
pub(super) struct Link {
    pub(super) from: NodeId,
    pub(super) lane: Lane,
    pub(super) epoch: u64,
}

/// A decoded frame. The permit is the link's credit: dropping it lets the link read on.
pub(crate) struct Received {
    pub(super) link: Link,
    pub(super) tag: u64,
    pub(super) frame: Frame,
    pub(super) permit: Permit,
}

impl Received {
    pub(crate) fn decode(inbound: Inbound) -> Result<Received, wire::Error> {
        let (frame, tag) = Frame::decode(&inbound.payload)?;
        let Inbound { from, lane, epoch, mut permit, .. } = inbound;
        permit.weigh(frame.weight());
        Ok(Received { link: Link { from, lane, epoch }, tag, frame, permit })
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
    pub(super) fn refuse(&mut self, from: NodeId, reason: &str) {
        if self.said.get(&from).is_none_or(|said| said != reason) {
            tracing::warn!(peer = %from, reason, "frames of this peer are refused");
            self.said.insert(from, reason.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use raft::eraftpb::{Entry, Message};
    use tokio::sync::Semaphore;

    use super::*;

    const CREDIT_BYTES: usize = 16 << 20;

    /// A legal append of as many empty entries as there may be, as a link delivers it.
    fn crowded() -> Bytes {
        let mut message = Message::default();
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
