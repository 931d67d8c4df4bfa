//! A storage of its own in a tree, and a driver that plays Raft to it.
#![allow(dead_code, unused_imports, missing_docs, unreachable_pub)]

pub mod images;
pub mod keys;
pub mod killed;
pub mod lacks;
pub mod newer;
pub mod outdated;
pub mod pile;
pub mod segments;
pub mod workload;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use converge_actors::storage::{
    AppliedBatch, EntryKind, Error, Executor, HardState, LogEntry, Offload, Page, Phase, ReadQuery, Recovered,
    Settings, Step, Storage, Worker,
};
use converge_lab::disk::SimDisk;
pub use converge_ledger_core::chance::Dice;
use converge_ledger_core::{Append, Batch, Boot, Command, EntryId, LogIndex, NewEntry, NodeId, Sequence, Term};
use converge_supervisors::{Intensity, StartError, Strategy, SupervisorSpec, Tree};
use tokio::sync::{oneshot, watch};

pub const WAIT: Duration = Duration::from_secs(20);

/// A storage that runs.
pub struct RunningStorage {
    pub storage: Storage,
    pub tree: Tree,
    pub applied: watch::Receiver<u64>,
    pub outcomes: Arc<Mutex<Vec<AppliedBatch>>>,
}

/// Small files, so that tests reuse them, and close segments.
pub fn small(dir: impl Into<std::path::PathBuf>) -> Settings {
    Settings {
        journal_file_bytes: 96 << 10,
        journal_record_bytes_max: 16 << 10,
        commit_interval: Duration::from_millis(2),
        segment_block_bytes: 2 << 10,
        segment_file_bytes: 12 << 10,
        ..Settings::new(dir)
    }
}

/// On a simulated disk, in one thread, with chance of its own: the same life each time. Commits come by size alone, for a clock
/// would make runs differ.
pub fn simulated(disk: &SimDisk, salt: u64, commit_bytes: usize) -> Settings {
    let numbers = Mutex::new(Dice(salt));
    Settings {
        disk: Arc::new(disk.clone()),
        executor: Arc::new(Tasks),
        offload: Offload::Inline,
        random: Arc::new(move || numbers.lock().unwrap().roll()),
        commit_interval: Duration::from_secs(3600),
        commit_bytes,
        ..small("/data")
    }
}

/// Storage's workers as tasks of a runtime with one thread: the same seed gives the same run.
#[derive(Debug)]
pub struct Tasks;

impl Executor for Tasks {
    fn spawn(&self, _name: &str, mut worker: Box<dyn Worker>) -> io::Result<()> {
        tokio::spawn(async move {
            while worker.step() != Step::Done {
                tokio::task::yield_now().await;
            }
        });
        Ok(())
    }
}

pub fn one_thread<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

impl RunningStorage {
    pub async fn start(settings: Settings) -> RunningStorage {
        RunningStorage::try_start(settings).await.expect("storage starts")
    }

    pub async fn try_start(settings: Settings) -> Result<RunningStorage, StartError> {
        let (sender, applied) = watch::channel(0);
        let outcomes = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&outcomes);
        let storage = Storage::new(
            settings,
            Arc::new(move |batch: AppliedBatch| {
                let index = batch.index.get();
                seen.lock().unwrap().push(batch);
                sender.send_replace(index);
            }),
        );
        let spec = SupervisorSpec::new(
            Strategy::OneForOne,
            Intensity { restarts: 1000, period: Duration::from_secs(60) },
            vec![storage.child_spec()],
        );
        let tree = Tree::start("root", spec).await?;
        Ok(RunningStorage { storage, tree, applied, outcomes })
    }

    pub async fn stop(self) {
        self.tree.stop(WAIT).await.expect("storage stops in time");
    }

    pub async fn recover(&self) -> Recovered {
        self.storage.recover().await.expect("storage recovers")
    }

    /// Appends and waits until it is durable.
    pub async fn append(&self, entries: Vec<LogEntry>, hard_state: Option<HardState>) -> Result<(), Error> {
        let (sender, receiver) = oneshot::channel();
        let done = Box::new(move |outcome| drop(sender.send(outcome)));
        self.storage.append(entries, hard_state, done)?;
        tokio::time::timeout(WAIT, receiver).await.expect("the journal answers").unwrap_or(Err(Error::Unavailable))
    }

    /// Applies and waits until it is applied.
    pub async fn apply(&self, entries: Vec<LogEntry>) {
        let Some(last) = entries.last().map(|e| e.index.get()) else { return };
        self.storage.apply(entries).expect("storage takes it");
        let mut applied = self.applied.clone();
        let wait = applied.wait_for(|index| *index >= last);
        tokio::time::timeout(WAIT, wait).await.expect("it is applied").unwrap();
    }

    /// All of a context, a page at a time.
    pub fn all(&self, context: &str) -> Result<Page, Error> {
        let mut all = Page::default();
        loop {
            let query = ReadQuery { after: all.next_after, max_bytes: usize::MAX, ..ReadQuery::default() };
            let page = self.storage.read(context, query)?;
            let entries = [all.entries, page.entries].concat();
            all = Page { entries, ..page };
            if !all.truncated {
                return Ok(all);
            }
        }
    }

    /// All of the log.
    pub fn log(&self) -> Result<Vec<LogEntry>, Error> {
        self.storage.log_entries(LogIndex(1), self.storage.log_last().next(), usize::MAX)
    }

    pub async fn until_covered(&self) {
        until(&self.storage, "a database that has all", async || {
            let status = self.storage.status();
            (status.covered_lsn == status.durable_lsn && status.overlay_bytes == 0).then_some(())
        })
        .await;
    }

    pub async fn until_serving(&self) {
        let is_serving = async || (self.storage.status().phase == Phase::Serving).then_some(());
        until(&self.storage, "storage that serves", is_serving).await;
    }

    pub async fn until_fenced(&self) -> converge_actors::storage::Cause {
        let cause = async || match self.storage.status().phase {
            Phase::Fenced { cause } => Some(cause),
            Phase::Serving | Phase::Recovering | Phase::Outdated { .. } => None,
        };
        until(&self.storage, "a fence", cause).await
    }
}

/// Looks until there is an answer: for what the threads of storage come to and announce to nobody.
pub async fn until<T>(storage: &Storage, what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let start = std::time::Instant::now();
    loop {
        if let Some(answer) = probe().await {
            return answer;
        }
        assert!(start.elapsed() < WAIT, "{what} does not come: {:?}", storage.status());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// What a client wrote: context, key, payload.
pub type Write = (String, String, Vec<u8>);

/// Plays leader: numbers entries, remembers what every context must hold.
#[derive(Clone, Default)]
pub struct Leader {
    pub index: u64,
    pub term: u64,
    pub counter: u64,
    pub contexts: BTreeMap<String, Vec<(String, Vec<u8>)>>,
}

impl Leader {
    pub fn new() -> Leader {
        Leader { term: 1, ..Leader::default() }
    }

    /// A batch of appends as the next log entry.
    pub fn batch(&mut self, writes: &[Write]) -> LogEntry {
        self.index += 1;
        let low_water = self.counter + 1;
        let mut commands = Vec::new();
        for (context, key, payload) in writes {
            self.counter += 1;
            let kept = self.contexts.entry(context.clone()).or_default();
            kept.push((key.clone(), payload.clone()));
            commands.push(Command::Append(Append {
                counter: self.counter,
                id: EntryId(u128::from(self.counter).to_be_bytes()),
                appended_at_ns: 1_700_000_000_000_000_000 + self.counter,
                idempotency_key: None,
                expected_sequence: None,
                fence_epoch: None,
                received_lamport: None,
                follows: false,
                entry: NewEntry {
                    context_id: context.clone(),
                    key: key.clone(),
                    payload: Bytes::from(payload.clone()),
                    metadata: BTreeMap::new(),
                },
            }));
        }
        let batch = Batch { origin: NodeId(1), boot: Boot(1), low_water, low_staging: 0, commands };
        LogEntry { index: LogIndex(self.index), term: Term(self.term), kind: EntryKind::Normal, data: batch.encode() }
    }

    pub fn hard_state(&self) -> HardState {
        HardState { term: Term(self.term), vote: NodeId(1), commit: LogIndex(self.index) }
    }

    /// Appends, waits, applies, waits.
    pub async fn write(&mut self, node: &RunningStorage, writes: &[Write]) {
        let entry = self.batch(writes);
        node.append(vec![entry.clone()], Some(self.hard_state())).await.expect("is durable");
        node.apply(vec![entry]).await;
    }

    /// Every context of the node is what was written.
    pub fn check(&self, node: &RunningStorage) {
        for (context, kept) in &self.contexts {
            check_context(node, context, kept);
        }
    }
}

pub fn check_context(node: &RunningStorage, context: &str, kept: &[(String, Vec<u8>)]) {
    check_page(&node.all(context).expect("is readable"), context, kept);
}

pub fn check_page(page: &Page, context: &str, kept: &[(String, Vec<u8>)]) {
    assert_eq!(page.latest, Sequence(kept.len() as u64), "latest of {context}");
    assert_eq!(page.entries.len(), kept.len(), "entries of {context}");
    for (n, (entry, (key, payload))) in page.entries.iter().zip(kept).enumerate() {
        assert_eq!(entry.sequence, Sequence(n as u64 + 1));
        assert_eq!((&entry.key, &entry.payload[..]), (key, &payload[..]), "{context}/{}", n + 1);
    }
}

/// All files of a simulated disk's data directory, in a directory of the machine.
pub fn copy_out(disk: &SimDisk, to: &std::path::Path) {
    for (path, _) in disk.files() {
        let copy = to.join(path.strip_prefix("/data").unwrap());
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        std::fs::write(copy, disk.content(&path).unwrap()).unwrap();
    }
}

/// All files of a directory and of those in it, elsewhere.
pub fn copy_dir(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let (path, copy) = file.map(|file| (file.path(), to.join(file.file_name()))).unwrap();
        if path.is_dir() {
            copy_dir(&path, &copy);
        } else {
            std::fs::copy(path, copy).unwrap();
        }
    }
}

pub fn write(context: &str, key: &str, payload: &[u8]) -> Write {
    (context.to_owned(), key.to_owned(), payload.to_vec())
}
