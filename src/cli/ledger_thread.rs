//! A thread on which a node's ledger runs, apart from its clients: no wake-up crosses threads between its actors, and a
//! crowd of clients takes no turn of theirs.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use super::Failure;

/// Threads that it may have beside it, for what blocks: a name's look-up per link, and reads.
const BLOCKING_MAX: usize = 64;
/// An end waits so long for it. Its node was stopped before, so nothing is in its way.
const PATIENCE: Duration = Duration::from_secs(2);

/// It ends when this is dropped, which is to be after the node's stop.
pub struct LedgerThread {
    runtime: Handle,
    stop: Option<oneshot::Sender<()>>,
    ended: mpsc::Receiver<()>,
}

impl LedgerThread {
    pub fn start() -> Result<LedgerThread, Failure> {
        let wrong = |error: std::io::Error| {
            let next = "check the limits on threads and open files";
            Failure::error(format!("cannot start the ledger's thread: {error}; {next}"))
        };
        let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(BLOCKING_MAX).build();
        let runtime = runtime.map_err(wrong)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let (end, ended) = mpsc::channel();
        let run = move || {
            let _ = runtime.block_on(stopped);
            // Nothing that still runs may hold up the exit.
            runtime.shutdown_background();
            let _ = end.send(());
        };
        thread::Builder::new().name("ledger".into()).spawn(run).map_err(wrong)?;
        Ok(LedgerThread { runtime: handle, stop: Some(stop), ended })
    }

    pub fn runtime(&self) -> Handle {
        self.runtime.clone()
    }
}

impl Drop for LedgerThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.ended.recv_timeout(PATIENCE).is_err() {
            tracing::warn!("the ledger's thread has not ended within {PATIENCE:?}; it is left behind");
        }
    }
}
