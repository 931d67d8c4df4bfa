//! Threads that outlive their actor hold its successor back.
#![allow(missing_docs)]

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use crate::common::{PATIENCE, second, spec, up};
use converge_supervisors::Strategy::OneForOne;
use converge_supervisors::ractor::{Actor, ActorProcessingErr, ActorRef};
use converge_supervisors::{ChildSpec, Escalated, Event, Latch, StartError, StopError, SupervisorSpec, Tree};
use tokio::time::{Duration, Instant, timeout};

/// What only one thread may own at a time, like a locked file.
#[derive(Clone, Default)]
struct File(Arc<Facts>);

#[derive(Default)]
struct Facts {
    open: AtomicBool,
    opened: AtomicU32,
    twice: AtomicU32,
    fail_next: AtomicBool,
}

impl File {
    fn open(&self) {
        self.0.opened.fetch_add(1, Ordering::SeqCst);
        if self.0.open.swap(true, Ordering::SeqCst) {
            self.0.twice.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn close(&self) {
        self.0.open.store(false, Ordering::SeqCst);
    }

    fn twice(&self) -> u32 {
        self.0.twice.load(Ordering::SeqCst)
    }
}

/// Has a thread that owns the file, and takes `slow` to close it once the actor is gone.
struct Writer {
    file: File,
    latch: Latch,
    slow: Duration,
}

impl Actor for Writer {
    type Msg = ();
    type State = mpsc::Sender<()>;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<mpsc::Sender<()>, ActorProcessingErr> {
        let (work, inbox) = mpsc::channel();
        let (file, hold, slow) = (self.file.clone(), self.latch.hold(), self.slow);
        file.open();
        thread::spawn(move || {
            while inbox.recv().is_ok() {}
            thread::sleep(slow);
            file.close();
            drop(hold);
        });
        match self.file.0.fail_next.swap(false, Ordering::SeqCst) {
            true => Err("told to fail".into()),
            false => Ok(work),
        }
    }
}

fn writer(file: &File, latch: &Latch, slow: Duration) -> ChildSpec {
    let (file, own) = (file.clone(), latch.clone());
    ChildSpec::actor("writer", move || (Writer { file: file.clone(), latch: own.clone(), slow }, ())).latch(latch)
}

fn tree(child: ChildSpec) -> SupervisorSpec {
    let s = ChildSpec::supervisor("s", spec(OneForOne, 100, 5, vec![child]));
    spec(OneForOne, 100, 5, vec![s])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_starts_when_the_thread_has_let_go() {
    let (file, latch, slow) = (File::default(), Latch::new("file"), Duration::from_millis(50));
    let tree = Tree::start("root", tree(writer(&file, &latch, slow))).await.unwrap();
    let before = Instant::now();
    for n in 2..6 {
        tree.find("root/s/writer").unwrap().kill();
        up(&tree, "root/s/writer", n).await;
    }
    assert!(before.elapsed() >= slow * 4);
    // A start that fails leaves a thread too, and so does the death of the supervisor.
    file.0.fail_next.store(true, Ordering::SeqCst);
    tree.find("root/s/writer").unwrap().kill();
    up(&tree, "root/s/writer", 7).await;
    tree.find("root/s").unwrap().kill();
    up(&tree, "root/s", 2).await;
    up(&tree, "root/s/writer", 8).await;
    assert_eq!((file.twice(), file.0.opened.load(Ordering::SeqCst)), (0, 8));
    tree.stop(PATIENCE).await.unwrap();
    assert!(!latch.is_held(), "a tree that has stopped has let go of all");
}

/// Paused time does not see the thread, so that the 30 s are over at once.
#[tokio::test(start_paused = true)]
async fn a_latch_that_is_never_released_ends_the_supervisor_by_name() {
    let (file, latch) = (File::default(), Latch::new("file"));
    let held = latch.hold();
    let root = spec(OneForOne, 100, 5, vec![writer(&file, &latch, Duration::ZERO)]);
    let tree = Tree::start("root", root).await.unwrap();
    let mut reports = tree.reports();
    let before = Instant::now();
    tree.find("root/writer").unwrap().kill();
    let ended = timeout(second() * 100, tree.wait()).await.expect("it gives up");
    let Escalated { path, reason } = ended.unwrap_err();
    assert_eq!(path, "root/writer");
    assert!(reason.contains("the latch \"file\" of root/writer is still held"), "{reason}");
    assert!(before.elapsed() >= second() * 30);
    assert!(matches!(reports.next().await.unwrap().event, Event::Stuck { reason } if reason.contains("\"file\"")));
    assert_eq!(file.0.opened.load(Ordering::SeqCst), 1, "no successor");
    assert_eq!(tree.stop(PATIENCE).await, Err(StopError::Stuck(vec!["root/writer".into()])));
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn a_first_start_that_leaves_a_held_latch_is_a_failed_start() {
    let (file, latch) = (File::default(), Latch::new("file"));
    let _held = latch.hold();
    file.0.fail_next.store(true, Ordering::SeqCst);
    let root = spec(OneForOne, 100, 5, vec![writer(&file, &latch, Duration::ZERO)]);
    let StartError::Child { path, reason } = Tree::start("root", root).await.unwrap_err() else { panic!() };
    assert_eq!(path, "root/writer");
    assert!(reason.contains("the latch \"file\""), "{reason}");
}
