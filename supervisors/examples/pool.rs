//! A pool of workers: one that panics over a job is replaced, and the others go on.
//!
//! ```sh
//! cargo run --example pool
//! ```
#![allow(clippy::print_stdout)]

use converge_supervisors::ractor::{Actor, ActorProcessingErr, ActorRef};
use converge_supervisors::{CallError, ChildSpec, Intensity, Service, Strategy, SupervisorSpec, Tree};
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant};

const WORKERS: usize = 3;

struct Worker;

struct Job {
    number: i64,
    root: oneshot::Sender<i64>,
}

impl Actor for Worker {
    type Msg = Job;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Job>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Job>, job: Job, (): &mut ()) -> Result<(), ActorProcessingErr> {
        assert!(job.number >= 0, "{} has no root", job.number);
        let _ = job.root.send(job.number.isqrt());
        Ok(())
    }
}

/// Hands jobs out in turn.
struct Pool {
    workers: Vec<Service<Job>>,
    next: usize,
}

impl Pool {
    fn new() -> Pool {
        Pool { workers: (0..WORKERS).map(|_| Service::new("worker")).collect(), next: 0 }
    }

    fn children(&self) -> Vec<ChildSpec> {
        let child = |(n, worker)| ChildSpec::service(format!("worker-{n}"), worker, || (Worker, ()));
        self.workers.iter().enumerate().map(child).collect()
    }

    /// [`CallError::Unknown`] when the worker died over it: a job that kills is not given to the next one.
    async fn root(&mut self, number: i64) -> Result<i64, CallError> {
        let worker = &self.workers[self.next];
        self.next = (self.next + 1) % self.workers.len();
        let deadline = Instant::now() + Duration::from_secs(30);
        let asked = worker.get();
        let root = worker.call(|root| Job { number, root }, deadline).await;
        // A worker that dies lets go of the job before it is out of its place, where the next job would still meet it.
        if let (Err(CallError::Unknown), Some(dying)) = (&root, asked) {
            worker.left(dying.get_id(), deadline).await;
        }
        root
    }
}

/// Hands out six jobs, one of which kills its worker.
#[tokio::main]
pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut pool = Pool::new();
    // More bad jobs than that within a minute, and the pool gives up.
    let intensity = Intensity { restarts: 10, period: Duration::from_secs(60) };
    let tree = Tree::start("pool", SupervisorSpec::new(Strategy::OneForOne, intensity, pool.children())).await?;

    let mut roots = Vec::new();
    for number in [4, 9, -1, 16, 25, 36] {
        let root = pool.root(number).await;
        match &root {
            Ok(root) => println!("the root of {number} is {root}"),
            Err(error) => println!("{number}: {error}"),
        }
        roots.push(root.ok());
    }
    assert_eq!(roots, [Some(2), Some(3), None, Some(4), Some(5), Some(6)], "the last one by the replaced worker");
    tree.stop(Duration::from_secs(5)).await?;
    Ok(())
}
