//! Clients at work, until somebody says that it is enough.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use converge_ledger_core::chance::Dice;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Api, Client, Mix, Record};

/// Clients that were started so far: no two of a process have one number, so no two write one value.
static STARTED: AtomicU64 = AtomicU64::new(0);

/// No client waits longer for acknowledgements while a majority is there, or soon will be.
const PATIENCE: Duration = Duration::from_secs(40);

/// See the module.
pub struct Load {
    /// What they see.
    pub record: Arc<Record>,
    ids: Range<u64>,
    clients: JoinSet<()>,
}

impl Load {
    /// Starts a client for each API, all with one mix. They write down what they see where their APIs do.
    pub fn start<A: Api>(record: &Arc<Record>, mix: &Mix, seed: u64, apis: Vec<A>) -> Load {
        record.begin();
        let clients = apis.len() as u64;
        let first = STARTED.fetch_add(clients, Ordering::Relaxed) + 1;
        let mut load = Load { record: record.clone(), ids: first..first + clients, clients: JoinSet::new() };
        let mut dice = Dice(seed);
        for (id, api) in load.ids.clone().zip(apis) {
            load.clients.spawn(Client::new(id, mix.clone(), Dice(dice.roll()), api).run());
        }
        load
    }

    /// How many there are.
    #[must_use]
    pub fn clients(&self) -> u64 {
        self.ids.end - self.ids.start
    }

    /// Waits until each client had so many more appends acknowledged: none still waits in a call from before.
    ///
    /// # Panics
    /// When one waits for too long.
    pub async fn progress(&self, more: u64) {
        let mut progress = self.record.progress();
        let so_far = progress.borrow().clone();
        let targets: Vec<_> = self.ids.clone().map(|id| (id, so_far.get(&id).unwrap_or(&0) + more)).collect();
        let reached = progress.wait_for(|now| targets.iter().all(|(id, target)| now.get(id) >= Some(target)));
        let is_late = timeout(PATIENCE, reached).await.is_err();
        assert!(!is_late, "not {more} more acknowledgements for each client within {PATIENCE:?}: {so_far:?}");
    }

    /// Tells the clients that it is enough, and waits for them.
    pub async fn finish(mut self) -> Arc<Record> {
        self.record.end();
        while let Some(client) = self.clients.join_next().await {
            if let Err(error) = client {
                self.record.trouble(format!("a client failed: {error}"));
            }
        }
        self.record
    }
}
