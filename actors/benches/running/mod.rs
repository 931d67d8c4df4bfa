//! Storage as a node runs it, without Raft: batches go in, and are durable and applied.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use converge_actors::storage::{AppliedBatch, EntryKind, HardState, LogEntry, Settings, Storage};
use converge_ledger_core::{Append, Batch, Boot, Command, EntryId, LogIndex, NewEntry, NodeId, Term};
use converge_supervisors::{Intensity, Strategy, SupervisorSpec, Tree};
use tokio::sync::{oneshot, watch};

pub(crate) const PAYLOAD: usize = 256;
pub(crate) type Fallible<T> = Result<T, Box<dyn Error>>;

/// One storage under a supervisor of its own, and what it was given so far.
pub(crate) struct RunningStorage {
    pub(crate) storage: Storage,
    pub(crate) tree: Tree,
    applied: watch::Receiver<u64>,
    index: u64,
    pub(crate) counter: u64,
}

impl RunningStorage {
    /// It says what it applied.
    pub(crate) async fn start(
        dir: &Path,
        tell: impl Fn(&AppliedBatch) + Send + Sync + 'static,
    ) -> Fallible<RunningStorage> {
        let (sender, applied) = watch::channel(0);
        let on_applied = move |batch: AppliedBatch| {
            tell(&batch);
            sender.send_replace(batch.index.get());
        };
        let storage = Storage::new(Settings::new(dir), Arc::new(on_applied));
        let spec = SupervisorSpec::new(
            Strategy::OneForOne,
            Intensity { restarts: 0, period: Duration::from_secs(1) },
            vec![storage.child_spec()],
        );
        let tree = Tree::start("figures", spec).await?;
        let recovered = storage.recover().await?;
        let index = recovered.last_index.get();
        Ok(RunningStorage { storage, tree, applied, index, counter: index * 1000 })
    }

    fn batch(&mut self, size: usize, contexts: u64) -> LogEntry {
        self.index += 1;
        let low_water = self.counter + 1;
        let command = |counter: u64| {
            Command::Append(Append {
                counter,
                id: EntryId(u128::from(counter).to_be_bytes()),
                appended_at_ns: 1_700_000_000_000_000_000 + counter,
                idempotency_key: None,
                expected_sequence: None,
                fence_epoch: None,
                received_lamport: None,
                follows: false,
                entry: NewEntry {
                    context_id: format!("ctx-{}", counter % contexts),
                    key: "event".into(),
                    payload: Bytes::from(noise(counter)),
                    metadata: BTreeMap::new(),
                },
            })
        };
        let commands = (0..size as u64).map(|n| command(low_water + n)).collect();
        self.counter += size as u64;
        let batch = Batch { origin: NodeId(1), boot: Boot(1), low_water, low_staging: 0, commands };
        LogEntry { index: LogIndex(self.index), term: Term(1), kind: EntryKind::Normal, data: batch.encode() }
    }

    /// Appends, waits for the disk, applies. Says how long the disk took.
    pub(crate) async fn write(&mut self, size: usize, contexts: u64) -> Fallible<Duration> {
        let entry = self.batch(size, contexts);
        let hard_state = HardState { term: Term(1), vote: NodeId(1), commit: LogIndex(self.index - 1) };
        let (sender, receiver) = oneshot::channel();
        let start = Instant::now();
        let done = Box::new(move |outcome| drop(sender.send(outcome)));
        self.storage.append(vec![entry.clone()], Some(hard_state), done)?;
        receiver.await??;
        let took = start.elapsed();
        self.storage.apply(vec![entry])?;
        Ok(took)
    }

    pub(crate) async fn until_applied(&mut self) -> Fallible<()> {
        let last = self.index;
        self.applied.wait_for(|index| *index >= last).await?;
        Ok(())
    }
}

/// Bytes that do not compress or repeat.
fn noise(seed: u64) -> Vec<u8> {
    let mut hash = blake3::Hasher::new();
    hash.update(&seed.to_le_bytes());
    let mut out = vec![0; PAYLOAD];
    hash.finalize_xof().fill(&mut out);
    out
}
