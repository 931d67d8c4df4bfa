//! A sweep of the awaits finds what only one of them breaks.
#![allow(missing_docs)]
#![cfg(feature = "chaos")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use crate::common::*;
use converge_supervisors::Callback::{self, Handle, HandleEvent, PostStart, PostStop, PreStart};
use converge_supervisors::Strategy::{OneForAll, OneForOne};
use converge_supervisors::chaos::{At, Fault, Point, Row, Sweep, Table, kind_of, sweep_awaits};
use converge_supervisors::ractor::{Actor, ActorProcessingErr, ActorRef};
use converge_supervisors::{ChildSpec, Service, Tree};
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::Instant;

/// What outlives the actor.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<Option<u64>>>);

impl Disk {
    fn read(&self) -> Option<u64> {
        *self.0.lock().unwrap()
    }

    fn write(&self, value: Option<u64>) {
        *self.0.lock().unwrap() = value;
    }
}

/// Keeps one number. A hasty one erases the old number before it has the new one on disk.
struct Keeper {
    disk: Disk,
    hasty: bool,
}

enum Question {
    Get(oneshot::Sender<Option<u64>>),
    Put(u64, oneshot::Sender<()>),
}

impl Actor for Keeper {
    type Msg = Question;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Question>, (): ()) -> Result<(), ActorProcessingErr> {
        yield_now().await;
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Question>, ask: Question, (): &mut ()) -> Result<(), ActorProcessingErr> {
        match ask {
            Question::Get(reply) => drop(reply.send(self.disk.read())),
            Question::Put(value, reply) => {
                yield_now().await;
                if self.hasty {
                    self.disk.write(None);
                }
                yield_now().await;
                self.disk.write(Some(value));
                yield_now().await;
                let _ = reply.send(());
            }
        }
        Ok(())
    }
}

async fn sweep(hasty: bool, sweep: Sweep) -> Table {
    let (disk, service) = (Disk::default(), Service::new("keeper"));
    disk.write(Some(0));
    let own = disk.clone();
    let keeper = ChildSpec::service("keeper", &service, move || (Keeper { disk: own.clone(), hasty }, ()));
    let tree = Tree::start("root", spec(OneForOne, 3, 5, vec![keeper])).await.unwrap();
    let load = async || {
        let deadline = Instant::now() + second();
        let _ = service.call(|reply| Question::Put(1, reply), deadline).await;
        let _ = service.call(Question::Get, deadline).await;
    };
    let check = async |_: &Point| disk.read().map(drop).ok_or_else(|| "the number is lost".to_owned());
    let table = sweep_awaits(&tree, sweep, load, check).await;
    assert_eq!(tree.status("root").unwrap().incarnation, 1);
    tree.stop(PATIENCE).await.unwrap();
    table
}

fn put() -> Option<converge_supervisors::chaos::MessageKind> {
    Some(kind_of(&Question::Put(0, oneshot::channel().0)))
}

#[tokio::test(start_paused = true)]
async fn every_await_of_a_sound_actor_is_swept_and_holds() {
    let table = sweep(false, Sweep::new()).await;
    assert_eq!(table.failures().count(), 0, "{table}");
    assert!(table.cut.is_empty() && table.orphans.is_empty());
    let get = Some(kind_of(&Question::Get(oneshot::channel().0)));
    let reached = |callback, kind| -> Vec<At> {
        let rows = table.rows.iter().filter(|row| row.reached);
        rows.filter(|row| (row.point.callback, row.point.kind) == (callback, kind)).map(|row| row.point.at).collect()
    };
    assert_eq!(reached(PreStart, None), [At::Start, At::Await(1), At::End]);
    assert_eq!(reached(PostStart, None), [At::Start, At::End]);
    assert_eq!(reached(PostStop, None), [At::Start, At::End]);
    assert_eq!(reached(Handle, put()), [At::Start, At::Await(1), At::Await(2), At::Await(3), At::End]);
    assert_eq!(reached(Handle, get), [At::Start, At::End]);
    assert_eq!(table.reached(), 14);
    assert!(table.rows.iter().filter(|row| !row.reached).count() == 5, "each but one ends before the next: {table}");
}

#[tokio::test(start_paused = true)]
async fn the_one_await_that_loses_data_is_found() {
    let table = sweep(true, Sweep::new()).await;
    let failed: Vec<&Point> = table.failures().map(|row| &row.point).collect();
    let path = "root/keeper".to_owned();
    assert_eq!(failed, [&Point { path, callback: Handle, kind: put(), at: At::Await(2) }], "{table}");
    assert!(table.to_string().contains("root/keeper Handle #1 Await(2): FAILED: the number is lost"), "{table}");
}

#[tokio::test(start_paused = true)]
async fn a_sweep_says_what_it_left_out() {
    let table = sweep(true, Sweep::new().messages_only().awaits_max(1)).await;
    assert_eq!(table.failures().count(), 0, "{table}");
    assert_eq!(table.cut.iter().map(|point| (point.kind, point.at)).collect::<Vec<_>>(), [(put(), At::Await(1))]);
    assert!(table.rows.iter().all(|row| row.point.callback == Handle));
}

#[tokio::test(start_paused = true)]
async fn other_faults_are_swept_too() {
    for fault in [Fault::Panic, Fault::Error] {
        let table = sweep(true, Sweep::new().fault(fault)).await;
        let failed: Vec<At> = table.failures().map(|row| row.point.at).collect();
        assert_eq!(failed, [At::Await(2)], "{fault:?}: {table}");
    }
}

/// Waits in every third message only: what is to be waited for is sometimes there already.
struct Moody(Arc<AtomicU32>);

impl Actor for Moody {
    type Msg = oneshot::Sender<()>;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Self::Msg>, reply: Self::Msg, (): &mut ()) -> Result<(), ActorProcessingErr> {
        if self.0.fetch_add(1, Ordering::SeqCst) % 3 == 2 {
            yield_now().await;
        }
        let _ = reply.send(());
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn an_await_that_is_not_always_one_is_tried_for() {
    let (count, service) = (Arc::new(AtomicU32::new(0)), Service::new("moody"));
    let moody = ChildSpec::service("moody", &service, move || (Moody(count.clone()), ()));
    let tree = Tree::start("root", spec(OneForOne, 3, 5, vec![moody])).await.unwrap();
    let load = async || {
        let _ = service.call(|reply| reply, Instant::now() + second()).await;
    };
    let table = sweep_awaits(&tree, Sweep::new().messages_only().tries(3), load, async |_| Ok(())).await;
    let points: Vec<(At, bool)> = table.rows.iter().map(|row| (row.point.at, row.reached)).collect();
    let once = [(At::Start, true), (At::Await(1), true), (At::Await(2), false), (At::End, true)];
    assert_eq!(points, once, "each point once: {table}");
    tree.stop(PATIENCE).await.unwrap();
}

/// A supervisor is killed wherever it is: in its start, at each message of a child's life, with one in hand while it is
/// suspended, and while it waits for each of its children in its own stop. Nothing of it stays, and it comes back whole.
/// Its children are swept before, so that it has seen their starts fail.
#[tokio::test(start_paused = true)]
async fn every_await_of_a_supervisor_is_swept() {
    let (log, a, b) = (Log::new(), Knobs::new(), Knobs::new());
    let s = ChildSpec::supervisor("s", spec(OneForAll, 3, 5, vec![probe("a", &log, &a), probe("b", &log, &b)]));
    let tree = Tree::start("root", spec(OneForOne, 3, 5, vec![s])).await.unwrap();
    let check = async |_: &Point| match (a.lock.held(), b.lock.held()) {
        (true, true) => Ok(()),
        held => Err(format!("not all that is said to run does: {held:?}")),
    };
    let table = sweep_awaits(&tree, Sweep::new(), async || {}, check).await;
    assert!(table.is_complete(), "{table}");
    let mut reached: BTreeMap<(Callback, String), Vec<At>> = BTreeMap::new();
    for Row { point, .. } in table.rows.iter().filter(|row| row.reached && row.point.path == "root/s") {
        let kind = point.kind.map_or(String::new(), |kind| kind.to_string());
        reached.entry((point.callback, kind)).or_default().push(point.at);
    }
    let stop = reached.remove(&(PostStop, String::new())).unwrap();
    let children = [At::Start, At::Await(1), At::Await(2)];
    assert!(stop.starts_with(&children) && stop.ends_with(&[At::End]), "an await for each child: {table}");
    let around = vec![At::Start, At::End];
    let held = vec![At::Start, At::Await(1), At::End];
    let points = [
        ((PreStart, ""), around.clone()),
        ((PostStart, ""), around.clone()),
        ((Handle, "#0.0"), around.clone()), // a child is up; it comes after what a suspended one holds
        ((Handle, "#0.2"), around.clone()), // the start of one failed
        ((Handle, "#0.3"), held),           // nothing is left of one
        ((HandleEvent, "#0"), around.clone()),
        ((HandleEvent, "#1"), around.clone()),
        ((HandleEvent, "#2"), around),
    ];
    assert_eq!(reached, points.map(|((callback, kind), at)| ((callback, kind.to_owned()), at)).into(), "{table}");
    tree.stop(PATIENCE).await.unwrap();
}

/// One that tolerates no restart cannot be swept, and that is no success.
#[tokio::test(start_paused = true)]
async fn a_supervisor_that_bears_nothing_fails_the_sweep() {
    let a = probe("a", &Log::new(), &Knobs::new());
    let tree = Tree::start("root", spec(OneForOne, 1, 5, vec![a])).await.unwrap();
    let table = sweep_awaits(&tree, Sweep::new(), async || {}, async |_| Ok(())).await;
    assert_eq!((table.rows.len(), table.failures().count()), (1, 1), "{table}");
    tree.stop(PATIENCE).await.unwrap();
}
