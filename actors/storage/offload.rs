//! Where work goes that would hold up other tasks, and how much of it there is at once.

use std::sync::Arc;
use std::thread::available_parallelism;

use tokio::sync::Semaphore;

/// Where work goes that would hold up other tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offload {
    /// To tokio's blocking threads.
    Threads,
    /// Nowhere: it is done at once, in the caller's task. For a simulation, which has one thread.
    Inline,
}

impl Offload {
    /// Runs `work` to its end; its panic is the caller's.
    pub async fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> T {
        if self == Offload::Inline {
            return work();
        }
        match tokio::task::spawn_blocking(work).await {
            Ok(value) => value,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

/// Turns of reads that look at much: as many at once as half of the machine's cores, so that consensus has the others.
/// The rest waits in line.
#[derive(Debug)]
pub(crate) struct Turns(Arc<Semaphore>);

impl Default for Turns {
    fn default() -> Turns {
        let cores = available_parallelism().map_or(1, usize::from);
        Turns(Arc::new(Semaphore::new((cores / 2).max(1))))
    }
}

impl Turns {
    /// Runs `work` when it is its turn. A caller that leaves before gives its turn to the next; what has begun goes on to
    /// its end, and the turn with it.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        offload: Offload,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let turn = Arc::clone(&self.0).acquire_owned().await.expect("it is never closed");
        let work = move || {
            let _turn = turn;
            work()
        };
        offload.run(work).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn what_a_caller_left_behind_keeps_its_turn_until_it_is_done() {
        let turns = Turns(Arc::new(Semaphore::new(1)));
        let ((go, goes), (begins, begun)) = (mpsc::channel::<()>(), mpsc::channel());
        let work = move || {
            begins.send(()).unwrap();
            goes.recv()
        };
        tokio::time::timeout(Duration::from_millis(50), turns.run(Offload::Threads, work)).await.unwrap_err();
        begun.recv().unwrap();
        assert_eq!(turns.0.available_permits(), 0, "its thread still works");
        go.send(()).unwrap();
        assert_eq!(turns.run(Offload::Threads, || 7).await, 7);
    }
}
