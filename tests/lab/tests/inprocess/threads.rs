//! The thread that Raft, the links and the entry server run on reads no file, whoever lags and whatever is cold.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use converge_actors::storage::{self, Disk, File, Lock, RealDisk};
use converge_ledger::environment::Environment;
use converge_ledger::{AppendOptions, Ledger};

use crate::inprocess::{EmbeddedCluster, PATIENCE, entry, eventually, level};

/// The file system of the machine; it counts what the ledger's thread reads of it, and what others do.
#[derive(Clone, Debug, Default)]
struct CountingDisk {
    here: Arc<AtomicU64>,
    elsewhere: Arc<AtomicU64>,
}

#[derive(Debug)]
struct CountingFile {
    disk: CountingDisk,
    file: Arc<dyn File>,
}

impl CountingDisk {
    fn file(&self, file: io::Result<Arc<dyn File>>) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(CountingFile { disk: self.clone(), file: file? }))
    }
}

impl Disk for CountingDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.file(RealDisk.open(path))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.file(RealDisk.create(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        RealDisk.try_lock(path)
    }
}

impl File for CountingFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let here = std::thread::current().name() == Some("ledger");
        let count = if here { &self.disk.here } else { &self.disk.elsewhere };
        count.fetch_add(1, Ordering::SeqCst);
        self.file.read_at(offset, into)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, data)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// Entries of 64 KiB, in contexts that come back after all others.
async fn append(ledger: &Ledger, count: usize) {
    for number in 0..count {
        let options = AppendOptions { idempotency_key: Some(number.to_string()), ..AppendOptions::default() };
        let context = format!("c{}", number % 8);
        ledger.append(entry(&context, vec![7; 64 << 10]), options).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_lags_and_cold_contexts_cost_the_ledgers_thread_no_read_of_a_file() {
    let disk = CountingDisk::default();
    let mut environment = Environment::default();
    environment.storage = storage::Settings {
        disk: Arc::new(disk.clone()),
        // What was committed is read from the file again.
        commit_bytes: 256 << 10,
        redb_cache_bytes: 0,
        segment_cache_bytes: 0,
        kept_bytes: 1 << 20,
        ..environment.storage
    };
    let mut cluster = EmbeddedCluster::start_in(3, environment).await;
    append(&cluster.nodes[0].ledger(), 8).await;
    level(&cluster.ledgers()).await;
    let behind = cluster.take(2);
    behind.stop(PATIENCE).await.unwrap();
    append(&cluster.nodes[0].ledger(), 128).await;
    // Another leader, which knows nothing of the one that lags.
    let again = cluster.take(0);
    again.stop(PATIENCE).await.unwrap();
    cluster.bring_back(0).await;
    append(&cluster.nodes[0].ledger(), 16).await;
    cluster.bring_back(2).await;
    let (term, elsewhere) = (cluster.nodes[0].ledger().status().term, disk.elsewhere.load(Ordering::SeqCst));
    level(&cluster.ledgers()).await;
    eventually("what the one that lagged is sent is read", || disk.elsewhere.load(Ordering::SeqCst) > elsewhere).await;
    assert_eq!(disk.here.load(Ordering::SeqCst), 0, "reads on the ledger's thread");
    assert_eq!(cluster.nodes[0].ledger().status().term, term, "nobody was deposed");
    cluster.stop().await;
}
