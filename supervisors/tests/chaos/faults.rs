//! Faults on purpose land where and when they were meant to.
#![allow(missing_docs)]
#![cfg(feature = "chaos")]

use crate::common::*;
use converge_supervisors::Callback::{Handle, HandleEvent, PostStart, PostStop, PreStart};
use converge_supervisors::Strategy::OneForOne;
use converge_supervisors::chaos::{At, Fault, Moment, kind_of};
use converge_supervisors::ractor::{Actor, ActorProcessingErr, ActorRef};
use converge_supervisors::{Callback, ChildSpec, Phase, Service, Tree};
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::{Duration, Instant, timeout};

/// Says each line that it reaches; waits between any two.
struct Walker(Log);

enum Walk {
    Short,
    Long(oneshot::Sender<()>),
}

impl Walker {
    async fn lines(&self, name: &str, count: usize) {
        for n in 1..=count {
            self.0.push(format!("{name} {n}"));
            yield_now().await;
        }
        self.0.push(format!("{name} end"));
    }
}

impl Actor for Walker {
    type Msg = Walk;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Walk>, (): ()) -> Result<(), ActorProcessingErr> {
        self.lines("pre", 1).await;
        Ok(())
    }

    async fn post_start(&self, _: ActorRef<Walk>, (): &mut ()) -> Result<(), ActorProcessingErr> {
        self.lines("post", 1).await;
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Walk>, walk: Walk, (): &mut ()) -> Result<(), ActorProcessingErr> {
        match walk {
            Walk::Short => self.lines("short", 0).await,
            Walk::Long(reply) => {
                self.lines("long", 2).await;
                let _ = reply.send(());
            }
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Walk>, (): &mut ()) -> Result<(), ActorProcessingErr> {
        self.lines("stop", 1).await;
        Ok(())
    }
}

struct Path {
    tree: Tree,
    service: Service<Walk>,
    log: Log,
}

impl Path {
    async fn start() -> Path {
        let (log, service) = (Log::new(), Service::new("walker"));
        let lines = log.clone();
        let walker = ChildSpec::service("w", &service, move || (Walker(lines.clone()), ()));
        let tree = Tree::start("root", spec(OneForOne, 100, 5, vec![walker])).await.unwrap();
        settle().await;
        assert_eq!(log.take(), ["pre 1", "pre end", "post 1", "post end"]);
        Path { tree, service, log }
    }

    /// What the actor comes to say of a short and a long message when it is killed at this point of the long one.
    async fn killed(moment: Moment, deaths: u64) -> Vec<String> {
        let path = Path::start().await;
        let mut armed = path.tree.arm("root/w", moment, Fault::Kill).unwrap();
        let (reply, _answer) = oneshot::channel();
        path.service.try_cast(Walk::Short).ok().unwrap();
        path.service.try_cast(Walk::Long(reply)).ok().unwrap();
        path.service.try_cast(Walk::Short).ok().unwrap();
        settle().await;
        assert_eq!(armed.has_sprung().is_some(), deaths > 0);
        up(&path.tree, "root/w", deaths + 1).await;
        settle().await;
        path.tree.stop(PATIENCE).await.unwrap();
        path.log.take()
    }
}

const AGAIN: [&str; 4] = ["pre 1", "pre end", "post 1", "post end"];
const STOP: [&str; 2] = ["stop 1", "stop end"];

fn long(at: At) -> Moment {
    let (reply, _) = oneshot::channel();
    Moment { kind: Some(kind_of(&Walk::Long(reply))), ..Moment::next(Handle, at) }
}

/// Each await, and each place around the callback; a message of another kind is let pass, and the rest of the mailbox is
/// lost with the actor.
#[tokio::test(start_paused = true)]
async fn a_kill_lands_at_the_await_it_was_meant_for() {
    let points: [(At, &[&str]); 4] = [
        (At::Start, &["short end"]),
        (At::Await(1), &["short end", "long 1"]),
        (At::Await(2), &["short end", "long 1", "long 2"]),
        (At::End, &["short end", "long 1", "long 2", "long end"]),
    ];
    for (at, said) in points {
        let said = [said, &AGAIN, &STOP].concat();
        assert_eq!(Path::killed(long(at), 1).await, said, "{at:?}");
    }
    let all = ["short end", "long 1", "long 2", "long end", "short end", "stop 1", "stop end"];
    assert_eq!(Path::killed(long(At::Await(3)), 0).await, all, "the callback ends before its third");
    assert_eq!(Path::killed(Moment { skip: 1, ..long(At::Start) }, 0).await, all, "there is no second one");
}

#[tokio::test(start_paused = true)]
async fn starts_and_stops_are_killed_at_their_awaits_too() {
    let points: [(Callback, At, &[&str]); 7] = [
        (PreStart, At::Start, &[]),
        (PreStart, At::Await(1), &["pre 1"]),
        (PreStart, At::End, &["pre 1", "pre end"]),
        (PostStart, At::Start, &["pre 1", "pre end"]),
        (PostStart, At::Await(1), &["pre 1", "pre end", "post 1"]),
        (PostStop, At::Start, &[]),
        (PostStop, At::Await(1), &["stop 1"]),
    ];
    for (callback, at, said) in points {
        let path = Path::start().await;
        let mut armed = path.tree.arm("root/w", Moment::next(callback, at), Fault::Kill).unwrap();
        let cell = path.tree.find("root/w").unwrap();
        let next = if callback == PostStop {
            cell.stop(None);
            2
        } else {
            cell.kill();
            3
        };
        timeout(PATIENCE, armed.sprung()).await.unwrap();
        up(&path.tree, "root/w", next).await;
        settle().await;
        assert_eq!(path.log.take(), [said, &AGAIN].concat(), "{callback:?} {at:?}");
        path.tree.stop(PATIENCE).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_trap_that_is_dropped_is_disarmed() {
    let path = Path::start().await;
    drop(path.tree.arm("root/w", Moment::next(Handle, At::Start), Fault::Panic).unwrap());
    let call = path.service.call(Walk::Long, soon()).await;
    assert_eq!(call, Ok(()));
    assert!(path.tree.arm("root/x", Moment::next(Handle, At::Start), Fault::Kill).is_err());
    path.tree.stop(PATIENCE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn each_fault_does_what_it_says() {
    for (fault, exit) in [(Fault::Panic, "injected fault"), (Fault::Error, "injected fault"), (Fault::Kill, "killed")] {
        let path = Path::start().await;
        path.tree.inject("root/w", fault).await.unwrap();
        up(&path.tree, "root/w", 2).await;
        assert_eq!(node(&path.tree, "root/w").unwrap().last_exit.as_deref(), Some(exit), "{fault:?}");
        path.tree.stop(PATIENCE).await.unwrap();
    }
    // In the middle of a callback, too.
    for fault in [Fault::Panic, Fault::Error] {
        let path = Path::start().await;
        let armed = path.tree.arm("root/w", long(At::Await(2)), fault).unwrap();
        assert!(path.service.call(Walk::Long, soon()).await.is_err());
        up(&path.tree, "root/w", 2).await;
        drop(armed);
        assert_eq!(path.log.take()[..2], ["long 1", "long 2"]);
        path.tree.stop(PATIENCE).await.unwrap();
    }
}

/// The default `handle_supervisor_evt` stops an actor whose child ends: what brings a fault must not be taken for one.
#[tokio::test(start_paused = true)]
async fn a_stalled_actor_goes_on_and_nothing_else_happened_to_it() {
    let path = Path::start().await;
    let before = Instant::now();
    path.tree.inject("root/w", Fault::Stall(second() * 10)).await.unwrap();
    settle().await;
    assert_eq!(node(&path.tree, "root/w").unwrap().vitals.phase, Phase::In(HandleEvent));
    path.service.call(Walk::Long, soon()).await.unwrap();
    assert!(before.elapsed() >= second() * 10);
    assert_eq!(node(&path.tree, "root/w").unwrap().incarnation, 1);
    assert_eq!(path.log.take(), ["long 1", "long 2", "long end"]);
    path.tree.stop(PATIENCE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn supervisors_have_faults_too() {
    for fault in [Fault::Panic, Fault::Error, Fault::Kill, Fault::Stall(Duration::from_secs(1))] {
        let a = probe("a", &Log::new(), &Knobs::new());
        let s = ChildSpec::supervisor("s", spec(OneForOne, 3, 5, vec![a]));
        let tree = Tree::start("root", spec(OneForOne, 3, 5, vec![s])).await.unwrap();
        tree.inject("root/s", fault).await.unwrap();
        settle().await;
        if let Fault::Stall(pause) = fault {
            tokio::time::sleep(pause).await;
        }
        let lives = if matches!(fault, Fault::Stall(_)) { 1 } else { 2 };
        up(&tree, "root/s/a", lives).await;
        assert_eq!(node(&tree, "root/s").unwrap().incarnation, lives, "{fault:?}");
        tree.stop(PATIENCE).await.unwrap();
    }
}
