//! The threads of a simulated node: tasks that step a worker, and take the time that a disk takes.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::disk::SimDisk;
use converge_actors::storage::{Executor, Step, Worker};
use converge_ledger_core::chance::Dice;
use tokio_util::sync::CancellationToken;

/// How long a step of a node's disk takes, in microseconds; changed while it runs.
#[derive(Debug, Default)]
pub(super) struct Pace {
    least: AtomicU64,
    most: AtomicU64,
}

impl Pace {
    pub(super) fn set(&self, (least, most): (u64, u64)) {
        self.least.store(least, Ordering::Relaxed);
        self.most.store(most.max(least), Ordering::Relaxed);
    }

    fn draw(&self, dice: &mut Dice) -> Duration {
        let least = self.least.load(Ordering::Relaxed);
        let spread = self.most.load(Ordering::Relaxed).saturating_sub(least);
        Duration::from_micros(least + dice.below(spread + 1))
    }
}

/// The worker that commits to the database, by its name.
const COMMITTER: &str = "storage-redb";

/// Runs the workers of one life of a node.
pub(super) struct SimThreads {
    pub(super) pace: Arc<Pace>,
    pub(super) disk: SimDisk,
    /// A commit to the database is more than one operation of the disk: it takes so many steps of the pace.
    pub(super) commit_steps: u32,
    pub(super) over: CancellationToken,
    pub(super) seed: u64,
    /// The power went off within an operation.
    pub(super) fell: CancellationToken,
}

impl std::fmt::Debug for SimThreads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimThreads").finish_non_exhaustive()
    }
}

impl Executor for SimThreads {
    fn spawn(&self, name: &str, mut worker: Box<dyn Worker>) -> io::Result<()> {
        let (pace, disk, over, fell) = (self.pace.clone(), self.disk.clone(), self.over.clone(), self.fell.clone());
        let mut dice = Dice(self.seed ^ name.len() as u64);
        let steps = if name == COMMITTER { self.commit_steps } else { 1 };
        tokio::spawn(async move {
            let signal = worker.signal();
            while !over.is_cancelled() {
                let step = worker.step();
                if disk.is_off() {
                    // Nothing that the program does from here on ever happened.
                    fell.cancel();
                    over.cancel();
                }
                let wait = async {
                    match step {
                        Step::Worked => match pace.draw(&mut dice) * steps {
                            Duration::ZERO => tokio::task::yield_now().await,
                            pause => tokio::time::sleep(pause).await,
                        },
                        Step::Idle(None) => signal.raised().await,
                        Step::Idle(Some(at_most)) => {
                            let _ = tokio::time::timeout(at_most, signal.raised()).await;
                        }
                        Step::Done => {}
                    }
                };
                let _ = over.run_until_cancelled(wait).await;
                if step == Step::Done {
                    return;
                }
            }
        });
        Ok(())
    }
}
