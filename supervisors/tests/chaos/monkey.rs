//! A monkey does what its plan says, no more, and tells all of it.
#![allow(missing_docs)]
#![cfg(feature = "chaos")]

use crate::common::*;
use converge_supervisors::Strategy::{OneForOne, RestForOne};
use converge_supervisors::chaos::{
    Budget, Endurance, Fault, Monkey, Outcome, Recovery, Target, Trigger, Used, almost_kill, kind_of,
};
use converge_supervisors::ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use converge_supervisors::{
    Callback, ChildSpec, DynamicSupervisor, Intensity, Kind, Restart, Service, SupervisorSpec, Template, Tree,
};
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant, sleep};

const MOMENT: Duration = Duration::from_millis(100);

/// root ─┬ s (one_for_one) ─┬ a
///       │                  └ b
///       └ t (rest_for_one) ─┬ c
///                           └ d
fn forest(restarts: u32, seconds: u64) -> SupervisorSpec {
    let log = Log::new();
    let pair = |ids: [&str; 2]| ids.map(|id| probe(id, &log, &Knobs::new())).to_vec();
    let s = ChildSpec::supervisor("s", spec(OneForOne, restarts, seconds, pair(["a", "b"])));
    let t = ChildSpec::supervisor("t", spec(RestForOne, restarts, seconds, pair(["c", "d"])));
    spec(OneForOne, restarts, seconds, vec![s, t])
}

async fn start(restarts: u32, seconds: u64) -> Tree {
    Tree::start("root", forest(restarts, seconds)).await.unwrap()
}

fn every(interval: Duration) -> Trigger {
    Trigger::Every { interval, jitter: 0.5 }
}

async fn wild(seed: u64) -> Outcome {
    let tree = start(20, 1).await;
    let monkey = Monkey::new(seed)
        .target(Target::path("root/s/*").weight(3))
        .target(Target::path("root/*/**"))
        .fault(Fault::Kill, 3)
        .fault(Fault::Panic, 1)
        .fault(Fault::Error, 1)
        .fault(Fault::Stall(second()), 1)
        .trigger(every(MOMENT))
        .hits_max(50);
    let outcome = monkey.attach(&tree).finished().await;
    tree.stop(PATIENCE).await.unwrap();
    outcome
}

#[tokio::test(start_paused = true)]
async fn a_seed_repeats_its_run() {
    let outcome = wild(7).await;
    assert_eq!(outcome.hits.len(), 50);
    assert!(outcome.is_survived(), "{outcome}");
    let on = |path: &str| outcome.hits.iter().filter(|hit| hit.path.starts_with(path)).count();
    assert!(on("root/s/") > on("root/t"), "{outcome}");
    for fault in [Fault::Kill, Fault::Panic, Fault::Error, Fault::Stall(second())] {
        assert!(outcome.hits.iter().any(|hit| hit.fault == fault), "{fault:?} never came");
    }
    assert!(outcome.hits.iter().any(|hit| hit.path == "root/t"), "supervisors are hit too");
    assert_eq!(wild(7).await, outcome);
    assert_ne!(wild(8).await.hits, outcome.hits);
}

/// It takes all that a supervisor tolerates, and nothing more.
#[tokio::test(start_paused = true)]
async fn the_budget_is_kept_and_used() {
    for (spare, most) in [(0, 3), (1, 2)] {
        let tree = start(3, 10).await;
        let monkey = Monkey::new(1).trigger(every(MOMENT)).budget(Budget::Within { spare }).attach(&tree);
        sleep(second() * 60).await;
        let outcome = monkey.detach().await;
        for path in ["root/s", "root/t"] {
            assert_eq!(node(&tree, path).unwrap().incarnation, 1, "{path} gave up");
            assert_eq!(outcome.intensity[path], Used { most, allowed: 3 });
        }
        assert!(outcome.spared > 100 && outcome.hits.len() > 20, "{outcome}");
        assert!(outcome.is_survived(), "{outcome}");
        tree.stop(PATIENCE).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn beyond_the_budget_the_tree_may_end_and_that_is_told() {
    let tree = start(1, 1_000).await;
    let monkey = Monkey::new(1).trigger(every(MOMENT)).budget(Budget::Beyond).attach(&tree);
    let outcome = monkey.finished().await;
    assert_eq!(tree.wait().await.unwrap_err(), outcome.ended.clone().unwrap());
    assert!(!outcome.is_survived() && outcome.to_string().contains("THE TREE ENDED"), "{outcome}");
    assert_eq!(outcome.hits.last().unwrap().recovery, Recovery::Failed);
}

/// Restarts that are not the monkey's leave it less.
#[tokio::test(start_paused = true)]
async fn the_budget_knows_of_other_deaths() {
    let tree = start(3, 10).await;
    let monkey = Monkey::new(1).target(Target::path("root/s/a")).trigger(every(MOMENT)).attach(&tree);
    for n in 1..=2 {
        up(&tree, "root/s/b", n).await;
        tree.find("root/s/b").unwrap().kill();
    }
    sleep(second() * 9).await;
    let outcome = monkey.detach().await;
    assert_eq!(outcome.hits.len(), 1, "{outcome}");
    assert_eq!(node(&tree, "root/s").unwrap().incarnation, 1);
    tree.stop(PATIENCE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_recovery_is_timed_from_the_hit_until_it_runs() {
    let (log, knobs) = (Log::new(), Knobs::new());
    let tree = Tree::start("root", spec(OneForOne, 3, 5, vec![probe("a", &log, &knobs)])).await.unwrap();
    knobs.slow_start(second() * 2);
    let outcome = Monkey::new(1).hits_max(1).attach(&tree).finished().await;
    let Recovery::Took(took) = outcome.hits[0].recovery else { panic!("{outcome}") };
    assert!(took >= second() * 2 && took < second() * 3, "{took:?}");
    assert_eq!(outcome.slowest(), Some(took));
    knobs.hang_start(true);
    let outcome = Monkey::new(1).hits_max(1).patience(second()).attach(&tree).finished().await;
    assert_eq!(outcome.hits[0].recovery, Recovery::Failed);
    assert!(!outcome.is_survived());
    knobs.hang_start(false);
    tree.stop(PATIENCE).await.unwrap();
}

/// They would not come back.
#[tokio::test(start_paused = true)]
async fn the_root_and_temporary_children_are_left_alone() {
    let (log, knobs) = (Log::new(), Knobs::new());
    let passing = probe("passing", &log, &knobs).restart(Restart::Temporary);
    let tree = Tree::start("root", spec(OneForOne, 3, 5, vec![passing])).await.unwrap();
    let monkey = Monkey::new(1).target(Target::path("**")).trigger(every(MOMENT)).attach(&tree);
    sleep(second() * 10).await;
    let outcome = monkey.detach().await;
    assert!(outcome.hits.is_empty() && outcome.spared > 50, "{outcome}");
    tree.stop(PATIENCE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_message_and_an_await_are_triggers() {
    let (service, log) = (Service::new("a"), Log::new());
    let a = served("a", &service, &log, &Knobs::new());
    let tree = Tree::start("root", spec(OneForOne, 100, 5, vec![a])).await.unwrap();
    let (reply, _) = oneshot::channel();
    let kind = Some(kind_of(&Do::Ping(reply)));

    let monkey = Monkey::new(1).trigger(Trigger::Message { kind, nth: 3 }).hits_max(2).attach(&tree);
    settle().await;
    let mut answers = Vec::new();
    for _ in 0..6 {
        answers.push(service.call(Do::Ping, soon()).await.is_ok());
        settle().await;
    }
    assert_eq!(answers, [true, true, false, true, true, false]);
    let outcome = monkey.finished().await;
    assert!(outcome.hits.iter().all(|hit| hit.moment == Some((Callback::Handle, kind))), "{outcome}");
    assert!(outcome.is_survived() && outcome.hits.len() == 2, "{outcome}");

    let callback = Some(Callback::Handle);
    let on_await = |nth| Trigger::Await { callback, kind: None, nth };
    let monkey = Monkey::new(1).trigger(on_await(1)).hits_max(1).attach(&tree);
    settle().await;
    service.call(Do::Ping, soon()).await.unwrap(); // never waits
    let (reply, answer) = oneshot::channel();
    service.try_cast(Do::Hang(reply)).ok().unwrap();
    assert!(answer.await.is_err());
    assert_eq!(monkey.finished().await.hits.len(), 1);

    let monkey = Monkey::new(1).trigger(on_await(2)).patience(second()).attach(&tree);
    sleep(second() * 10).await;
    let outcome = monkey.detach().await;
    assert!(outcome.hits.is_empty() && outcome.unreached >= 8, "{outcome}");
    tree.stop(PATIENCE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn children_that_come_and_go_are_hit_while_they_are_there() {
    let log = Log::new();
    let intensity = Intensity { restarts: 3, period: second() * 10 };
    let template = Template { intensity, restart: Restart::Permanent, ..Template::default() };
    let make = move |name: String| Some((Probe { name, log: log.clone(), knobs: Knobs::new() }, ()));
    let crowd = DynamicSupervisor::new(template, make);
    let tree = Tree::start("root", spec(OneForOne, 3, 5, vec![ChildSpec::dynamic("crowd", &crowd)])).await.unwrap();
    let crowded = Monkey::new(1).target(Target::path("root/crowd/*")).trigger(every(MOMENT));
    let monkey = crowded.clone().attach(&tree);
    for name in ["x", "y"] {
        crowd.start_child(name.to_owned()).await.unwrap();
    }
    sleep(second() * 30).await;
    let outcome = monkey.detach().await;
    assert!(outcome.is_survived() && outcome.hits.len() >= 6, "{outcome}");
    assert_eq!(outcome.intensity["root/crowd"], Used { most: 3, allowed: 3 });
    for child in crowd.which_children() {
        let (_, id) = child.path.rsplit_once('/').unwrap();
        crowd.terminate_child(id).await.unwrap();
    }
    let outcome = crowded.hits_max(1).attach(&tree);
    sleep(second() * 30).await;
    assert_eq!(outcome.detach().await.hits, [], "there is nobody left");
    tree.stop(PATIENCE).await.unwrap();
}

// --- orphans

/// Has a helper that is on its way out and takes for ever: `ractor` does not kill such a one with its parent, the kit does.
struct Leaky;

struct Helper;

impl Actor for Leaky {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        let (helper, _) = Actor::spawn_linked(None, Helper, (), myself.get_cell()).await?;
        helper.stop(None);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        _: SupervisionEvent,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

impl Actor for Helper {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<()>, (): &mut ()) -> Result<(), ActorProcessingErr> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_leaks_another_is_found_out() {
    let leaky = ChildSpec::actor("leaky", || (Leaky, ()));
    let sound = probe("sound", &Log::new(), &Knobs::new());
    let tree = Tree::start("root", spec(OneForOne, 9, 5, vec![leaky, sound])).await.unwrap();
    let on = |path: &str| Monkey::new(1).target(Target::path(path)).hits_max(2);
    let outcome = on("root/sound").attach(&tree).finished().await;
    assert_eq!(outcome.orphans, [], "what is linked is nobody's orphan");
    let outcome = on("root/leaky").attach(&tree).finished().await;
    assert_eq!(outcome.orphans, [], "what a worker links to itself goes with it");
    // Nothing tells a worker, or the kit, of one that somebody else links to it, if it then dies in no callback.
    let (helper, _join) = Helper::spawn(None, Helper, ()).await.unwrap();
    settle().await; // it tells nobody that it has started
    helper.link(tree.find("root/sound").unwrap());
    helper.stop(None);
    settle().await;
    let monkey = on("root/leaky").hits_max(1).attach(&tree);
    tree.find("root/sound").unwrap().kill();
    let outcome = monkey.finished().await;
    assert_eq!(outcome.orphans.len(), 1, "{outcome}");
    assert_eq!((&*outcome.orphans[0].path, outcome.orphans[0].actor), ("root/sound", helper.get_id()));
    assert!(!outcome.is_survived());
    helper.kill();
    tree.stop(PATIENCE).await.unwrap();
}

// --- how much a tree endures

#[tokio::test(start_paused = true)]
async fn almost_kill_finds_the_last_kill_but_one() {
    let make = async |restarts: u32| {
        let a = probe("a", &Log::new(), &Knobs::new());
        let s = ChildSpec::supervisor("s", spec(OneForOne, restarts, 1_000, vec![a]));
        Tree::start("root", SupervisorSpec::new(OneForOne, Intensity { restarts, period: second() * 1_000 }, vec![s]))
            .await
    };
    let workers = Target::workers();
    // Each life of s bears so many, and the root bears so many lives of s after the first.
    for (restarts, survived) in [(0, 0), (1, 3), (2, 8)] {
        let Endurance { survived: found, fatal, kills } =
            almost_kill(1, &workers, 100, async || make(restarts).await).await.unwrap();
        assert_eq!((found, kills.len()), (survived, survived + 1));
        assert_eq!(fatal.unwrap().path, "root/s");
    }
    let limited = almost_kill(1, &workers, 5, async || make(9).await).await.unwrap();
    assert_eq!((limited.survived, limited.fatal), (5, None));
    let before = Instant::now();
    let supervisors = Target::path("**").kind(Kind::Supervisor);
    let found = almost_kill(1, &supervisors, 100, async || make(2).await).await.unwrap();
    assert_eq!((found.survived, found.kills), (2, vec!["root/s".to_owned(); 3]));
    assert!(before.elapsed() < second(), "it waits for nothing but recoveries");
}
