//! How long a trivial actor is away: from the kill to the answer of its successor.
//!
//! Current-thread and multi-thread runtime, alone and among ten thousand siblings. Criterion gives the mean and its
//! change; what it does not give, p50 and p99, is printed beside it from every single restart.
#![allow(missing_docs)]

use std::time::{Duration, Instant};

use converge_supervisors::ractor::{Actor, ActorProcessingErr, ActorRef};
use converge_supervisors::{ChildSpec, Intensity, Service, Strategy, SupervisorSpec, Tree};
use criterion::{Criterion, criterion_group, criterion_main};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

const SIBLINGS: usize = 10_000;

struct Trivial;

impl Actor for Trivial {
    type Msg = oneshot::Sender<()>;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Self::Msg>, reply: Self::Msg, (): &mut ()) -> Result<(), ActorProcessingErr> {
        let _ = reply.send(());
        Ok(())
    }
}

/// A tree whose first child is killed, among `siblings` others.
fn tree(runtime: &Runtime, siblings: usize) -> (Tree, Service<oneshot::Sender<()>>) {
    let service = Service::new("trivial");
    let mut children = vec![ChildSpec::service("trivial", &service, || (Trivial, ()))];
    children.extend((0..siblings).map(|i| ChildSpec::actor(format!("sibling-{i}"), || (Trivial, ()))));
    // As many restarts as it likes: the window forgets them after a millisecond.
    let intensity = Intensity { restarts: 1_000_000, period: Duration::from_millis(1) };
    let spec = SupervisorSpec::new(Strategy::OneForOne, intensity, children);
    (runtime.block_on(Tree::start("root", spec)).unwrap(), service)
}

/// One restart, from the kill to the answer of the successor.
async fn restart(service: &Service<oneshot::Sender<()>>) -> Duration {
    let old = service.get().expect("it is up");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    let killed = Instant::now();
    old.kill();
    loop {
        // Until the kill takes effect a call may still be answered by the old one, or die with it.
        if service.call(|reply| reply, deadline).await.is_ok() && service.get().is_some_and(|new| new != old) {
            return killed.elapsed();
        }
    }
}

fn measure(criterion: &mut Criterion, name: &str, runtime: Runtime, siblings: usize) {
    let (tree, service) = tree(&runtime, siblings);
    let mut each = Vec::new();
    criterion.bench_function(name, |bencher| {
        bencher.iter_custom(|count| {
            let total = runtime.block_on(async {
                let mut total = Duration::ZERO;
                for _ in 0..count {
                    let took = restart(&service).await;
                    each.push(took);
                    total += took;
                }
                total
            });
            total
        });
    });
    each.sort_unstable();
    let at = |share: f64| each[((each.len() - 1) as f64 * share) as usize];
    println!("{name}: {} restarts, p50 {:?}, p99 {:?}, longest {:?}\n", each.len(), at(0.5), at(0.99), at(1.0));
    runtime.block_on(tree.stop(Duration::from_secs(60))).unwrap();
}

fn restarts(criterion: &mut Criterion) {
    let current = || Builder::new_current_thread().enable_all().build().unwrap();
    let multi = || Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    measure(criterion, "current-thread", current(), 0);
    measure(criterion, "current-thread, 10,000 siblings", current(), SIBLINGS);
    measure(criterion, "multi-thread", multi(), 0);
    measure(criterion, "multi-thread, 10,000 siblings", multi(), SIBLINGS);
}

criterion_group!(benches, restarts);
criterion_main!(benches);
