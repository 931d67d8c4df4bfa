//! What is kept of temporary children, and what many children cost.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use converge_supervisors::Strategy::{self, OneForAll, OneForOne, RestForOne};
use converge_supervisors::{ChildError, ChildSpec, DynamicSupervisor, Restart, SupervisorRef, Tree};

use super::common::*;
use super::keep;

/// A worker that is started with something heavy.
fn heavy(id: &str, weight: Arc<()>) -> ChildSpec {
    let log = Log::new();
    ChildSpec::actor(id, move || {
        let _held = Arc::clone(&weight);
        (Probe { name: "a".into(), log: log.clone(), knobs: Knobs::new() }, ())
    })
}

#[tokio::test(start_paused = true)]
async fn do_not_save_start_parameters_for_temporary_children() {
    for (restart, kept) in [(Restart::Permanent, true), (Restart::Transient, true), (Restart::Temporary, false)] {
        for strategy in [OneForOne, OneForAll, RestForOne] {
            let bench = Bench::start(strategy, 1, &[], keep).await;
            let weight = Arc::new(());
            for id in ["a", "b"] {
                running(bench.root().start_child(heavy(id, Arc::clone(&weight)).restart(restart)).await);
            }
            assert_eq!(Arc::strong_count(&weight) > 1, kept, "{restart:?}");
            let read = bench.root().get_childspec("a").await.unwrap();
            assert_eq!(Arc::strong_count(&weight) > 1, kept, "nor is it in {read:?}");
            assert_eq!(bench.tree.stop(PATIENCE).await, Ok(()));
            drop(read);
            assert_eq!(Arc::strong_count(&weight), 1);
        }
        let log = Log::new();
        let dynamic = DynamicSupervisor::new(template(restart), move |_weight: Arc<()>| {
            Some((Probe { name: "a".into(), log: log.clone(), knobs: Knobs::new() }, ()))
        });
        let tree = Tree::start("root", spec(OneForOne, 0, 5, vec![ChildSpec::dynamic("d", &dynamic)])).await.unwrap();
        let weight = Arc::new(());
        for _ in 0..2 {
            running(dynamic.start_child(Arc::clone(&weight)).await);
        }
        assert_eq!(Arc::strong_count(&weight) > 1, kept, "{restart:?}");
        assert_eq!(tree.stop(PATIENCE).await, Ok(()));
        assert_eq!(Arc::strong_count(&weight), 1);
    }
}

/// How a child ends.
#[derive(Clone, Copy, Debug)]
enum ChildEnd {
    Kill,
    Normal,
    Abnormal,
    Terminate,
}

/// Whether the spec of a child that ended so is still there, and whether it runs.
async fn left(strategy: Strategy, restart: Restart, end: ChildEnd) -> Result<(), ChildError> {
    let bench = Bench::start(strategy, 2, &[], keep).await;
    let child = || probe("a", &bench.log, &Knobs::new()).restart(restart);
    let (_, cell) = running(bench.root().start_child(child()).await);
    match end {
        ChildEnd::Kill => cell.kill(),
        ChildEnd::Normal => cell.stop(None),
        ChildEnd::Abnormal => cell.stop(Some("abnormal".into())),
        ChildEnd::Terminate => bench.root().terminate_child("a").await.unwrap(),
    }
    ended(&cell).await;
    bench.root().start_child(child()).await.map(drop)
}

#[tokio::test(start_paused = true)]
async fn do_not_save_child_specs_for_temporary_children() {
    let (runs, down) = (Err(ChildError::Running("a".into())), Err(ChildError::AlreadyPresent("a".into())));
    for strategy in [OneForOne, OneForAll, RestForOne] {
        for end in [ChildEnd::Kill, ChildEnd::Normal, ChildEnd::Abnormal, ChildEnd::Terminate] {
            let (permanent, transient) = match end {
                ChildEnd::Kill | ChildEnd::Abnormal => (&runs, &runs),
                ChildEnd::Normal => (&runs, &down),
                ChildEnd::Terminate => (&down, &down),
            };
            assert_eq!(&left(strategy, Restart::Permanent, end).await, permanent, "{end:?}");
            assert_eq!(&left(strategy, Restart::Transient, end).await, transient, "{end:?}");
            assert_eq!(left(strategy, Restart::Temporary, end).await, Ok(()), "{end:?}: it can be added again");
        }
    }
}

const CHUNK: usize = 500;
const CHUNKS: usize = 20;

/// Time that this thread has had, where the system tells; all actors of these tests run on it. What else the machine does
/// does not count then.
fn spent() -> Duration {
    static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let told = std::fs::read_to_string("/proc/thread-self/schedstat");
    let nanos = told.ok().and_then(|told| told.split(' ').next()?.parse().ok());
    nanos.map_or_else(|| BEGIN.elapsed(), Duration::from_nanos)
}

/// Times of equal shares of a job that grows or shrinks from first to last. Each is the best of five neighbours; were the
/// cost of one step to grow with the number of children, the ends would differ by a factor of ten or more.
fn flat(what: &str, times: &[Duration]) {
    let grain = Duration::from_millis(4); // of the system's count
    let best = |times: &[Duration]| grain.max(*times.iter().min().unwrap());
    let (first, last) = (best(&times[..5]), best(&times[times.len() - 5..]));
    let (low, high) = (first.min(last), first.max(last));
    assert!(high < low * 6, "{what}: {first:?} at first, {last:?} at last");
}

async fn terminate_all(place: &SupervisorRef, ids: &[String]) -> Vec<Duration> {
    let mut times = Vec::new();
    for chunk in ids.chunks(CHUNK) {
        let before = spent();
        for id in chunk {
            place.terminate_child(id).await.unwrap();
        }
        times.push(spent() - before);
    }
    times
}

#[tokio::test]
async fn simple_one_for_one_scale_many_temporary_children() {
    let nursery = Nursery::start(template(Restart::Temporary)).await;
    let (mut ids, mut starts, knobs) = (Vec::new(), Vec::new(), Knobs::new());
    for _ in 0..CHUNKS {
        let before = spent();
        for _ in 0..CHUNK {
            ids.push(nursery.child_with("a", &knobs).await.0);
        }
        starts.push(spent() - before);
        nursery.log.take();
    }
    assert_eq!(nursery.dynamic.count_children().active, CHUNK * CHUNKS);
    flat("starts", &starts);
    flat("stops", &terminate_all(&nursery.place(), &ids).await);
    assert_eq!(nursery.dynamic.count_children(), counts(0, 0, 0, 0));
    assert_eq!(nursery.tree.stop(PATIENCE).await, Ok(()));
}

#[tokio::test]
async fn scale_start_stop_many_children() {
    let bench = Bench::start(OneForOne, 1, &[], keep).await;
    let ids: Vec<String> = (0..CHUNK * CHUNKS).map(|n| format!("w{n}")).collect();
    let (mut starts, knobs) = (Vec::new(), Knobs::new());
    for chunk in ids.chunks(CHUNK) {
        let before = spent();
        for id in chunk {
            running(bench.root().start_child(probe(id, &bench.log, &knobs)).await);
        }
        starts.push(spent() - before);
        bench.log.take();
    }
    flat("starts", &starts);
    let (stopped, kept) = ids.split_at(ids.len() - 3 * CHUNK);
    flat("stops", &terminate_all(&bench.root(), stopped).await);
    assert_eq!(bench.root().count_children(), counts(ids.len(), kept.len(), 0, ids.len()));
    bench.log.take();
    assert_eq!(bench.tree.stop(PATIENCE).await, Ok(()));
    let stops: Vec<String> = kept.iter().rev().map(|id| format!("stop {id}")).collect();
    assert_eq!(bench.log.take(), stops, "in order");
}
