//! A leader hands its office to another voter: the crate's transfer of leadership, and who is to have it.
//!
//! Nothing that is acknowledged depends on it. The heir campaigns in a later term and is elected like everybody else; where it is
//! not, the leader goes on after an election time-out. No proposal is taken while a transfer runs: whoever made it hands it
//! over again to who leads then (`actors/entry`).

use std::time::Duration;

use converge_ledger_core::NodeId;
use converge_supervisors::ractor::ActorProcessingErr;
use tokio::time::{Instant, timeout_at};

use super::handle::Replication;
use super::message::Message;
use super::state::{Phase, State};
use super::view::{Role, View};

/// Voters that were not heard of for longer than so many election time-outs inherit nothing.
const HEARD_ELECTIONS: u32 = 2;

/// Why leadership was not handed over.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum NotHandedOver {
    /// Another node leads, or none.
    #[error("{}", not_leader(*.0))]
    NotLeader(Option<NodeId>),
    /// It has no vote.
    #[error("node {0} is no voter of this cluster")]
    NoVoter(NodeId),
    /// It would not answer.
    #[error("node {0} has not been heard of: see that it runs, and the network to it")]
    Unheard(NodeId),
    /// There is no other voter, or none that was heard of.
    #[error("no other voter has been heard of")]
    Nobody,
    /// It has begun, and nobody was elected in time: the leader leads on.
    #[error("node {0} was not elected in time; see its alarms and its log, then try again")]
    NotElected(NodeId),
    /// The actor is starting anew, or has too much to do.
    #[error("the replication actor did not answer in time; try again")]
    NoAnswer,
}

fn not_leader(leader: Option<NodeId>) -> String {
    match leader {
        Some(leader) => format!("this node does not lead; node {leader} does"),
        None => "this node does not lead, and knows of no leader".to_owned(),
    }
}

/// Which voter is to lead.
#[derive(Debug, Clone, Copy)]
pub(super) enum Heir {
    /// This one.
    Named(NodeId),
    /// Whichever was heard of and has most of the log; another than this one, if there is one.
    Best(Option<NodeId>),
}

impl State {
    /// Begins to hand the office over, and says to whom. A node that `leaves` does not want it back.
    pub(super) fn hand_over(
        &mut self,
        heir: Heir,
        leaves: bool,
    ) -> Result<Result<NodeId, NotHandedOver>, ActorProcessingErr> {
        self.leaves |= leaves;
        if leaves {
            self.drive(|core, _| core.set_reluctant(true))?;
        }
        let heir = match self.heir(heir) {
            Ok(heir) => heir,
            Err(error) => return Ok(Err(error)),
        };
        if self.published.view.borrow().leader == Some(heir) {
            return Ok(Ok(heir));
        }
        tracing::info!(%heir, "this leader hands its office over");
        self.drive(|core, out| core.transfer(heir, out))?;
        Ok(Ok(heir))
    }

    /// Nobody waits for the heir any more: proposals are taken again.
    pub(super) fn keep_office(&mut self) -> Result<(), ActorProcessingErr> {
        self.drive(|core, out| core.abort_transfer(out)).map(|_| ())
    }

    fn heir(&self, heir: Heir) -> Result<NodeId, NotHandedOver> {
        let leader = self.published.view.borrow().leader;
        let (Phase::Running(running), true) = (&self.phase, self.leads()) else {
            return match heir {
                Heir::Named(heir) if leader == Some(heir) => Ok(heir),
                _ => Err(NotHandedOver::NotLeader(leader)),
            };
        };
        let (now, recent) = (self.started.elapsed(), self.args.election * HEARD_ELECTIONS);
        let heard = |voter: NodeId| self.others.was_heard(voter, now, recent);
        match heir {
            Heir::Named(heir) if heir == self.args.id => Ok(heir),
            Heir::Named(heir) if !running.core.is_voter(heir) => Err(NotHandedOver::NoVoter(heir)),
            Heir::Named(heir) if !heard(heir) => Err(NotHandedOver::Unheard(heir)),
            Heir::Named(heir) => Ok(heir),
            Heir::Best(tried) => {
                let others = running.core.matched().into_iter().filter(|(id, _)| *id != self.args.id && heard(*id));
                let best = others.max_by_key(|(id, matched)| (Some(*id) != tried, *matched, std::cmp::Reverse(*id)));
                best.map(|(heir, _)| heir).ok_or(NotHandedOver::Nobody)
            }
        }
    }
}

impl Replication {
    /// Has this node, the leader, hand its office to another voter: to this one, or to one that was heard of and has most of
    /// the log. Returns who leads then. The heir has an election time-out.
    ///
    /// # Errors
    /// [`NotHandedOver`]; this node may lead on.
    pub async fn hand_over(
        &self,
        to: Option<NodeId>,
        election: Duration,
        deadline: Instant,
    ) -> Result<NodeId, NotHandedOver> {
        let heir = self.begin(to.map_or(Heir::Best(None), Heir::Named), false, deadline).await?;
        let leader = self.elected(heir, election, deadline).await?;
        match to {
            Some(to) if leader != to => Err(NotHandedOver::NotLeader(Some(leader))),
            _ => Ok(leader),
        }
    }

    /// This node is about to stop: it campaigns no more while others can, and hands its office over if it leads. Returns who
    /// leads then; each heir that is tried has half an election time-out.
    ///
    /// # Errors
    /// [`NotHandedOver`] says why nobody else does; whatever it is, the node may stop.
    pub async fn leave(&self, election: Duration, deadline: Instant) -> Result<NodeId, NotHandedOver> {
        let mut tried = None;
        loop {
            let heir = self.begin(Heir::Best(tried), true, deadline).await?;
            match self.elected(heir, election / 2, deadline).await {
                Err(NotHandedOver::NotElected(heir)) if tried.is_none() => tried = Some(heir),
                ended => return ended,
            }
        }
    }

    async fn begin(&self, heir: Heir, leaves: bool, deadline: Instant) -> Result<NodeId, NotHandedOver> {
        let asked = self.service().call(|reply| Message::HandOver { heir, leaves, reply }, deadline).await;
        asked.unwrap_or(Err(NotHandedOver::NoAnswer))
    }

    /// Waits until the heir leads, which may be this node, or any other; after so long the office is kept.
    async fn elected(&self, heir: NodeId, patience: Duration, deadline: Instant) -> Result<NodeId, NotHandedOver> {
        let mut view = self.view();
        let leads = |view: &View| view.leader == Some(heir) || view.leader.is_some() && view.role != Role::Leader;
        let until = deadline.min(Instant::now() + patience);
        if let Ok(Ok(view)) = timeout_at(until, view.wait_for(leads)).await
            && let Some(leader) = view.leader
        {
            return Ok(leader);
        }
        let _ = self.service().try_cast(Message::KeepOffice);
        Err(NotHandedOver::NotElected(heir))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use raft::eraftpb::MessageType;

    use super::*;
    use crate::replication::core::NotProposed;
    use crate::replication::live::{LoneNode, PEERS, State};

    #[test]
    fn an_heir_that_has_the_whole_log_is_told_to_campaign_and_nothing_is_proposed_meanwhile() {
        let mut live = LoneNode::new(State::Leader);
        // This one alone has acknowledged all.
        live.step(|core, out| core.transfer(NodeId(PEERS[1]), out));
        let told = |live: &mut LoneNode| {
            let sent = live.sent();
            sent.iter().filter(|m| m.get_msg_type() == MessageType::MsgTimeoutNow).map(|m| m.to).collect::<Vec<_>>()
        };
        assert_eq!(told(&mut live), [PEERS[1]]);
        let proposed = live.step(|core, out| core.propose(Bytes::from_static(b"batch"), out));
        assert_eq!(proposed, Err(NotProposed { hint: None }));
        assert_eq!(live.step(|core, _| core.heir()), Some(NodeId(PEERS[1])));
        live.step(|core, out| core.abort_transfer(out));
        let proposed = live.step(|core, out| core.propose(Bytes::from_static(b"batch"), out));
        assert_eq!(proposed, Ok(()), "it leads on");
        // The other has to catch up first.
        let mut live = LoneNode::new(State::Leader);
        live.step(|core, out| core.transfer(NodeId(PEERS[0]), out));
        assert_eq!(told(&mut live), []);
    }

    #[test]
    fn a_follower_hands_nothing_over() {
        let mut live = LoneNode::new(State::Follower);
        live.step(|core, out| core.transfer(NodeId(PEERS[1]), out));
        assert!(live.sent().is_empty());
    }
}
