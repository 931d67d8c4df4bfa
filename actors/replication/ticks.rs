//! What happens with time: election and heartbeats, reads that are asked again, and what an operator is told when it lasts.

use std::time::Duration;

use converge_supervisors::ractor::ActorProcessingErr;
use tokio::time::Instant;

use super::outage::{Say, Trouble};
use super::state::{Phase, State};
use super::voters;

/// A node without a leader for longer than so many election time-outs says so: by then another should have been elected.
pub const NO_LEADER_ELECTIONS: u32 = 2;

/// A leader that has entries to apply, and has applied none for so many election time-outs, leaves its office. Longer than
/// for a sync, for what takes long to apply takes as long on the next leader.
const APPLY_ELECTIONS: u32 = 3;

/// A leader without room gives up its office once in so many election time-outs.
const OFFICE_CYCLE_ELECTIONS: u32 = 30;

impl State {
    pub(super) fn tick(&mut self) -> Result<(), ActorProcessingErr> {
        self.published.tick_done();
        self.ticks += 1;
        self.reads.retain(|reply| !reply.is_closed());
        let bounds = &self.args.bounds;
        self.reads.retry(self.started.elapsed(), self.args.heartbeat * bounds.read_patience_heartbeats);
        if matches!(self.phase, Phase::Forming(_)) && (self.ticks - 1).is_multiple_of(bounds.genesis_ticks) {
            self.introduce(None);
        }
        // A leader that proposes nothing hears of no failed sync.
        if let Some(error) = self.args.storage.fence_error().filter(|_| matches!(self.phase, Phase::Running(_))) {
            self.storage_failed(error)?;
        }
        if self.args.storage.outdated().is_some() {
            // Whoever waits asks again, and is refused.
            self.reads.retain(|_| false);
            // Nothing of it is ever applied here, and it is stored all the same.
            self.unapplied = Default::default();
            self.drive(|core, out| core.pass_over(out))?;
        }
        let leaves = self.check_disk();
        let reluctant = self.stalled || self.leaves_at.is_some() || self.leaves;
        self.drive(|core, out| {
            core.set_reluctant(reluctant);
            if leaves {
                core.step_down(out);
            }
            core.tick(out);
        })?;
        if let Phase::Running(running) = &self.phase {
            self.published.set_matched(running.core.matched());
        }
        self.complain();
        self.miss();
        self.open_reads()
    }

    /// Says which voters this leader does not hear of, when that lasts, and when they are back.
    pub(super) fn miss(&mut self) {
        let leads = self.leads();
        let others = self.args.voters.iter().copied().filter(|id| *id != self.args.id);
        for notice in self.others.look(leads, others, self.started.elapsed(), self.args.election) {
            match notice {
                voters::Notice::Unheard(voter, lasted) => tracing::warn!(
                    %voter,
                    ?lasted,
                    "a voter is not heard of: see that its node runs, what its log and alarms say, and the network to it"
                ),
                voters::Notice::Back(voter, lasted) => tracing::info!(%voter, ?lasted, "a voter is heard of again"),
            }
        }
        let since = |(voter, since)| (voter, self.started + since);
        self.published.set_unheard(self.others.unheard().map(since).collect());
    }

    /// Says that nobody can be served here, when that lasts, and when it is over.
    fn complain(&mut self) {
        let trouble = match &self.phase {
            Phase::Forming(_) => Some(Trouble::NotFormed),
            Phase::Running(running) if running.core.summary().leader.is_none() => Some(Trouble::NoLeader),
            // A node that fell silent has said why.
            Phase::Running(_) | Phase::Silent | Phase::Wrong => None,
        };
        let patience = self.args.election * NO_LEADER_ELECTIONS;
        match self.outage.look(trouble, self.started.elapsed(), patience) {
            Some(Say::Lasts(Trouble::NotFormed, lasted)) => {
                let missing = self.phase.missing();
                tracing::warn!(
                    ?lasted,
                    missing,
                    "the cluster is not formed: voters are missing, or the lowest has not answered yet; start them, and see that cluster.peers names their addresses"
                );
            }
            Some(Say::Lasts(Trouble::NoLeader, lasted)) => {
                tracing::warn!(
                    ?lasted,
                    "no leader: appends and linearizable reads are refused until a majority of the voters can be reached"
                );
            }
            Some(Say::Over(Trouble::NotFormed, lasted)) => tracing::info!(?lasted, "the cluster is formed"),
            Some(Say::Over(Trouble::NoLeader, lasted)) => tracing::info!(?lasted, "there is a leader again"),
            None => {}
        }
    }

    /// Whether this node leads and must not: a leader that cannot sync, or applies nothing though entries wait for it, would
    /// hold office and answer nobody.
    fn check_disk(&mut self) -> bool {
        let waited = self.syncing.front().map_or(Duration::ZERO, |(_, since)| since.elapsed());
        let unapplied = self.unapplied.stuck(Instant::now());
        let leads = self.leads();
        let stalled = waited > self.args.election || unapplied > self.args.election * APPLY_ELECTIONS;
        if leads && stalled && !self.stalled {
            tracing::warn!(
                sync = ?waited,
                ?unapplied,
                "a sync or an apply takes too long; another node has to lead"
            );
        }
        self.stalled = stalled;
        let short = self.gives_up_office(leads);
        leads && (stalled || short)
    }

    /// A leader whose disk has little room lets the others elect one that has more, now and then: where all of them are
    /// short of it, somebody should lead the reads. It refuses proposals, so that its log is soon with the others. So does one
    /// whose program is outdated: it is elected where nobody else has what it has, and has to hand that on.
    fn gives_up_office(&mut self, leads: bool) -> bool {
        if self.alone() || self.may_lead() {
            self.leaves_at = None;
            return false;
        }
        // One that leads when it becomes short leaves at once. One that is elected later waited longer than the others, and
        // was the only one that could be.
        let now = Instant::now();
        let due = self.leaves_at.unwrap_or(now);
        let drained = matches!(&self.phase, Phase::Running(running) if running.core.is_drained_leader());
        let leaves = drained && now >= due;
        if leaves {
            tracing::warn!(
                "the disk has little room, or the program is outdated; this leader gives up its office to one that can serve"
            );
        }
        let stays = leads && !leaves;
        self.leaves_at = Some(if stays { due } else { now + self.args.election * OFFICE_CYCLE_ELECTIONS });
        leaves
    }
}
