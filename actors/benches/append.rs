//! What a batch costs storage, from the hand-over until it is durable and applied; and what it costs until ten thousand
//! watches of its context have its entry.
#![allow(missing_docs, reason = "Criterion's macros define what they run")]

mod running;

use std::time::{Duration, Instant};

use converge_actors::storage::Ordinal;
use converge_actors::watch::{Bounds, Followed, Unbounded, Watches};
use converge_supervisors::{Intensity, Strategy, SupervisorSpec, Tree};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use running::RunningStorage;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;

const SIZES: [usize; 3] = [1, 16, 256];
const CONTEXTS: u64 = 100;
const WATCHES: usize = 10_000;
const WAIT: Duration = Duration::from_secs(60);

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn batches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("storage");
    for size in SIZES {
        let (runtime, dir) = (runtime(), tempfile::tempdir().unwrap());
        let mut node = runtime.block_on(RunningStorage::start(dir.path(), |_| ())).unwrap();
        group.throughput(Throughput::Elements(size as u64));
        group.bench_function(BenchmarkId::new("batch", size), |bencher| {
            bencher.iter_custom(|count| {
                runtime.block_on(async {
                    let start = Instant::now();
                    for _ in 0..count {
                        node.write(size, CONTEXTS).await.unwrap();
                        node.until_applied().await.unwrap();
                    }
                    start.elapsed()
                })
            });
        });
        runtime.block_on(node.tree.stop(WAIT)).unwrap();
    }
}

fn watches(criterion: &mut Criterion) {
    let (runtime, dir) = (runtime(), tempfile::tempdir().unwrap());
    let watches = Watches::new(Bounds::default());
    let told = watches.clone();
    let mut node = runtime.block_on(RunningStorage::start(dir.path(), move |batch| told.applied(batch))).unwrap();
    let intensity = Intensity { restarts: 0, period: Duration::from_secs(1) };
    let spec = SupervisorSpec::new(Strategy::OneForOne, intensity, vec![watches.child_spec(&node.storage)]);
    let tree = runtime.block_on(Tree::start("watches", spec)).unwrap();
    let (sender, mut received) = mpsc::channel(WATCHES);
    for _ in 0..WATCHES {
        let mut follow = watches.follow(node.storage.clone(), Followed::Context("ctx-0".to_owned(), None), Ordinal(0));
        let sender = sender.clone();
        runtime.spawn(async move {
            while let Ok((page, ())) = follow.page(&Unbounded).await {
                for _ in page {
                    if sender.send(()).await.is_err() {
                        return;
                    }
                }
            }
        });
    }
    criterion.bench_function(&format!("watch/append to {WATCHES} watches"), |bencher| {
        bencher.iter_custom(|count| {
            runtime.block_on(async {
                let start = Instant::now();
                for _ in 0..count {
                    node.write(1, 1).await.unwrap();
                    for _ in 0..WATCHES {
                        received.recv().await.unwrap();
                    }
                }
                start.elapsed()
            })
        });
    });
    drop(received);
    runtime.block_on(node.tree.stop(WAIT)).unwrap();
    runtime.block_on(tree.stop(WAIT)).unwrap();
}

criterion_group!(benches, batches, watches);
criterion_main!(benches);
