//! The start of a child: awaited where its minder runs, or on a runtime of the child's own, which may hang without its
//! minder.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;

use ractor::SpawnErr;
use ractor::concurrency::JoinHandle;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::KILL_WAIT;
use crate::node::Node;
use crate::spec::{Spawned, Spawning};

type SpawnResult = Result<Option<Spawned>, SpawnErr>;

/// A start under way.
pub(super) enum Starting {
    Here(Spawning),
    /// A task of the runtime that the child is to run on.
    There(JoinHandle<SpawnResult>),
}

/// What is left of a start that was called off.
pub(super) enum CalledOff {
    Nothing,
    /// The child, which came up just then.
    Up(Spawned),
    /// Its task, which does not end.
    Task(JoinHandle<SpawnResult>),
}

impl Starting {
    pub(super) fn begin(spawning: Spawning, runtime: Option<&Handle>) -> Starting {
        let Some(runtime) = runtime else { return Starting::Here(spawning) };
        Starting::There(runtime.spawn(async move {
            let mut spawning = spawning;
            soundly(&mut spawning).await
        }))
    }

    /// Returns when the child is up, or has failed to come up; with nothing where there is nothing to run.
    pub(super) async fn done(&mut self) -> Result<Option<Spawned>, String> {
        match self {
            Starting::Here(spawning) => soundly(spawning).await.map_err(describe),
            Starting::There(task) => match task.await {
                Ok(outcome) => outcome.map_err(describe),
                Err(error) if error.is_cancelled() => Err("its runtime has ended".to_owned()),
                Err(error) => Err(error.to_string()),
            },
        }
    }

    /// Ends one that is not done. A task of another runtime ends where it next awaits something.
    pub(super) async fn call_off(self, node: &Node) -> CalledOff {
        match self {
            Starting::Here(spawning) => {
                let_go(spawning, node);
                CalledOff::Nothing
            }
            Starting::There(mut task) => {
                task.abort();
                match timeout(KILL_WAIT, &mut task).await {
                    Ok(Ok(Ok(Some(spawned)))) => CalledOff::Up(spawned),
                    Ok(_) => CalledOff::Nothing,
                    Err(_) => CalledOff::Task(task),
                }
            }
        }
    }

    /// One that is done.
    pub(super) fn let_go(self, node: &Node) {
        if let Starting::Here(spawning) = self {
            let_go(spawning, node);
        }
    }
}

/// Waits for a start that was called off long ago, and ends what came of it.
pub(super) async fn ended(task: JoinHandle<SpawnResult>) {
    if let Ok(Ok(Some((cell, join)))) = task.await {
        cell.kill();
        let _ = join.await;
    }
}

fn let_go(spawning: Spawning, node: &Node) {
    if catch_unwind(AssertUnwindSafe(|| drop(spawning))).is_err() {
        tracing::error!(path = %node.path, "a start panicked while it was called off");
    }
}

/// A start, with a panic of what it drops as its failure: without its minder the child would never end.
async fn soundly(spawning: &mut Spawning) -> SpawnResult {
    let panicked = || SpawnErr::StartupFailed("what its start had made panicked while it was dropped".into());
    poll_fn(|context| {
        let polled = catch_unwind(AssertUnwindSafe(|| spawning.as_mut().poll(context)));
        polled.unwrap_or_else(|_panic| Poll::Ready(Err(panicked())))
    })
    .await
}

/// What an actor's failed start has to say, without `ractor`'s preamble.
pub(crate) fn describe(error: SpawnErr) -> String {
    match error {
        SpawnErr::StartupFailed(inner) => inner.to_string(),
        other => other.to_string(),
    }
}
