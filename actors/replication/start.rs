//! From what is durable to the phase it means: a genesis to be found, a Raft node to be started, or a directory that
//! must not be used.

use std::time::Duration;

use converge_supervisors::ractor::ActorProcessingErr;
use raft::eraftpb::HardState;

use super::args::Arguments;
use super::core::{Core, Settings};
use super::genesis::{self, Forming, FormingVerdict};
use super::log::Log;
use super::outage::list;
use super::state::{Phase, RaftNode, State};
use super::wire::GROUP;
use crate::storage::{Genesis, Recovered};

impl State {
    /// From what is durable to the phase it means.
    pub(super) async fn enter(&mut self, recovered: Recovered) -> Result<(), ActorProcessingErr> {
        match recovered.genesis.clone() {
            Some(genesis) => self.run(genesis, recovered)?,
            None => {
                let Arguments { cluster_id, id, ref voters, key_window, .. } = self.args;
                let forming = Forming::new(cluster_id, GROUP, id, self.store_id, voters.clone(), key_window);
                let verdict = forming.verdict();
                self.phase = Phase::Forming(forming);
                self.decide(verdict).await?;
            }
        }
        Ok(())
    }

    /// Starts the Raft node, unless the configuration contradicts the genesis.
    fn run(&mut self, genesis: Genesis, recovered: Recovered) -> Result<(), ActorProcessingErr> {
        if let Some(reason) = self.contradiction(&genesis) {
            self.phase = Phase::Wrong;
            return (self.args.fatal)(reason).map_err(Into::into);
        }
        let (formed, configured) = (genesis.key_window, self.args.key_window);
        if formed != configured {
            tracing::warn!(
                formed,
                configured,
                "cluster.key_window is not what the cluster was formed with, which holds"
            );
        }
        let ticks = |interval: Duration| {
            let tick = self.args.heartbeat / self.args.bounds.ticks_per_heartbeat;
            usize::try_from(interval.as_nanos() / tick.as_nanos().max(1)).unwrap_or(usize::MAX)
        };
        // Never above the last index (the crate panics), never below what is applied.
        let commit = recovered.hard_state.commit.max(recovered.applied).min(recovered.last_index);
        let settings = Settings {
            id: self.args.id,
            heartbeat_ticks: self.args.bounds.ticks_per_heartbeat as usize,
            election_ticks: ticks(self.args.election),
            applied: if self.args.storage.outdated().is_some() { commit } else { recovered.applied },
            seed: (self.args.random)(),
            single: genesis.voters.len() == 1,
            bounds: self.args.bounds,
        };
        let hard_state = HardState {
            term: recovered.hard_state.term.get(),
            vote: recovered.hard_state.vote.get(),
            commit: commit.get(),
            ..HardState::default()
        };
        let voters = genesis.voters.keys().map(|id| id.get()).collect();
        let log = Log::new(self.args.storage.clone(), hard_state, voters, self.myself.clone());
        let core = Core::new(settings, log)?;
        let tag = genesis::tag(&genesis);
        tracing::info!(term = %recovered.hard_state.term, last = %recovered.last_index, applied = %recovered.applied, boot = %self.boot, "raft node starts");
        self.phase = Phase::Running(Box::new(RaftNode { core, genesis, tag }));
        // What the crate has to say already: a lone voter's campaign.
        self.published.started(recovered.applied, tag);
        self.drive(|core, out| core.settle(out)).map(|_| ())
    }

    /// Why this directory and this configuration do not belong together, and what to do.
    fn contradiction(&self, genesis: &Genesis) -> Option<String> {
        let on_disk: Vec<u64> = genesis.voters.keys().map(|id| id.get()).collect();
        let mut configured: Vec<u64> = self.args.voters.iter().map(|id| id.get()).collect();
        configured.sort_unstable();
        let owner = genesis.voters.iter().find(|(_, store)| **store == self.store_id).map(|(id, _)| *id);
        let id = self.args.id;
        match owner {
            Some(owner) if owner != id => Some(format!(
                "it belongs to node {owner}, but node.id = {id}; set node.id = {owner}, or node.data_dir to node {id}'s own directory"
            )),
            None => Some(format!(
                "its store {} is none of those that the cluster was formed with; set node.data_dir to node {id}'s own directory",
                self.store_id
            )),
            _ if on_disk != configured => Some(format!(
                "its voters are {on_disk:?}, but cluster.peers names {configured:?}; voters are fixed when a cluster is formed, only their addresses may change: set cluster.peers to the voters on disk, or node.data_dir to an empty directory for a new cluster"
            )),
            _ if genesis.cluster_id != self.args.cluster_id => Some(format!(
                "it belongs to cluster {}, but the configuration makes {}; set cluster.name to the name that the cluster was formed with",
                genesis.cluster_id, self.args.cluster_id
            )),
            _ => None,
        }
    }

    /// Acts on what is known of the other voters.
    pub(super) async fn decide(&mut self, verdict: FormingVerdict) -> Result<(), ActorProcessingErr> {
        match verdict {
            FormingVerdict::Wait => {}
            FormingVerdict::Found(genesis) => {
                self.args.storage.write_genesis(genesis.clone()).await?;
                let voters: Vec<_> = genesis.voters.keys().copied().collect();
                tracing::info!(cluster = %genesis.cluster_id, voters = list(&voters), "cluster formed");
                let recovered = self.args.storage.recover().await?;
                self.run(genesis, recovered)?;
                self.introduce(None);
            }
            FormingVerdict::Wiped { listed } => {
                self.phase = Phase::Wrong;
                let listed = listed.map_or("no store at all".to_owned(), |id| format!("store {id}"));
                // Heard of from others: whoever starts the node finds the reason when all is up, and nothing fails here.
                let _ = (self.args.fatal)(format!(
                    "the cluster was formed with {listed} for node {}, this is store {}: the directory was wiped or replaced. Start the node with its own directory; a lost disk cannot come back under its id yet, and a copy must never be put back",
                    self.args.id, self.store_id
                ));
            }
        }
        Ok(())
    }
}
