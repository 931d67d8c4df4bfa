//! Chaos where things come and go: actors that die before their fault, places that end, handles that are dropped.
#![allow(missing_docs)]
#![cfg(feature = "chaos")]

use crate::common::*;
use converge_supervisors::Strategy::OneForOne;
use converge_supervisors::chaos::{
    At, Budget, Endurance, Fault, Monkey, Recovery, Sweep, Target, Trigger, almost_kill, sweep_awaits,
};
use converge_supervisors::ractor::{Actor, ActorProcessingErr, ActorRef};
use converge_supervisors::{
    AutoShutdown, Callback, ChildSpec, DynamicSupervisor, Intensity, Restart, Service, SupervisorSpec, Tree,
};
use tokio::time::{Duration, sleep};

/// Handles each message for as long as it says.
struct Sleeper;

struct Nap(Duration);

impl Actor for Sleeper {
    type Msg = Nap;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Nap>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Nap>, Nap(time): Nap, (): &mut ()) -> Result<(), ActorProcessingErr> {
        sleep(time).await;
        Ok(())
    }
}

/// root ─ w
async fn sleeper() -> (Tree, Service<Nap>) {
    let service = Service::new("w");
    let w = ChildSpec::service("w", &service, || (Sleeper, ()));
    (Tree::start("root", spec(OneForOne, 100, 5, vec![w])).await.unwrap(), service)
}

fn incarnation(tree: &Tree) -> u64 {
    tree.status("root/w").unwrap().incarnation
}

// --- a fault is for the actor that was there

#[tokio::test(start_paused = true)]
async fn a_fault_whose_actor_dies_before_it_is_not_kept_for_the_next() {
    let (tree, service) = sleeper().await;
    service.try_cast(Nap(second() * 100)).ok().unwrap();
    settle().await;
    tree.inject("root/w", Fault::Panic).await.unwrap();
    tree.find("root/w").unwrap().kill();
    up(&tree, "root/w", 2).await;
    tree.inject("root/w", Fault::Stall(Duration::ZERO)).await.unwrap();
    sleep(second()).await;
    assert_eq!(incarnation(&tree), 2, "the panic was for the one before");
    tree.stop(PATIENCE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_monkey_leaves_no_fault_behind() {
    let (tree, service) = sleeper().await;
    service.try_cast(Nap(second() * 100)).ok().unwrap();
    settle().await;
    let monkey = Monkey::new(1).fault(Fault::Error, 1).hits_max(1).patience(second()).attach(&tree);
    let outcome = monkey.finished().await;
    assert_eq!(outcome.hits[0].recovery, Recovery::Failed, "it is busy: {outcome}");
    sleep(second() * 200).await;
    assert_eq!(incarnation(&tree), 1, "the fault came when the monkey was gone");
    tree.stop(PATIENCE).await.unwrap();
}

// --- monkeys

#[tokio::test(start_paused = true)]
async fn a_monkey_ends_when_its_handle_is_dropped() {
    let (tree, _service) = sleeper().await;
    drop(Monkey::new(1).attach(&tree));
    sleep(second() * 60).await;
    assert_eq!(incarnation(&tree), 1);
    tree.stop(PATIENCE).await.unwrap();
}

/// Without any pause paused time would stand still.
#[tokio::test(start_paused = true)]
async fn a_monkey_without_an_interval_lets_time_pass() {
    let (tree, _service) = sleeper().await;
    let always = Trigger::Every { interval: Duration::ZERO, jitter: 0.0 };
    let monkey = Monkey::new(1).trigger(always).attach(&tree);
    sleep(second()).await;
    let outcome = monkey.detach().await;
    assert!(outcome.is_survived() && outcome.hits.len() == 100 && outcome.spared > 0, "{outcome}");
    tree.stop(PATIENCE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_monkey_ends_with_its_tree() {
    let (tree, _service) = sleeper().await;
    let monkey = Monkey::new(1).attach(&tree);
    sleep(second() * 10).await;
    tree.stop(PATIENCE).await.unwrap();
    let outcome = monkey.finished().await;
    assert_eq!((outcome.ended, outcome.orphans), (None, vec![]));
}

/// Whoever waits for the end of a monkey gets to it, whatever the plan.
#[tokio::test(start_paused = true)]
async fn a_monkey_whose_end_is_waited_for_comes_to_it() {
    let (tree, _service) = sleeper().await;
    let never = Trigger::Message { kind: None, nth: u64::MAX };
    let brief = Monkey::new(1).patience(second() * 5);
    for (plan, hits) in [
        (Monkey::new(1), 100),
        (brief.clone().target(Target::workers().weight(0)), 0),
        (brief.clone().fault(Fault::Kill, 0), 0),
        (brief.clone().target(Target::path("root/nobody")), 0),
        (brief.clone().target(Target::path("root")), 0),
        (brief.clone().budget(Budget::Within { spare: 1_000 }), 0),
        (brief.clone().trigger(never), 0),
        (Monkey::new(1).hits_max(3), 3),
    ] {
        let name = format!("{plan:?}");
        let finished = tokio::time::timeout(second() * 3600, plan.attach(&tree).finished()).await;
        let outcome = finished.unwrap_or_else(|_| panic!("never finished: {name}"));
        assert!(outcome.is_survived() && outcome.hits.len() == hits, "{name}: {outcome}");
    }
    tree.stop(PATIENCE).await.unwrap();
}

/// A budget that is used up for now is waited for, however long.
#[tokio::test(start_paused = true)]
async fn a_monkey_that_is_to_finish_waits_for_its_budget() {
    let w = probe("w", &Log::new(), &Knobs::new());
    let tree = Tree::start("root", spec(OneForOne, 1, 3_600, vec![w])).await.unwrap();
    let outcome = Monkey::new(1).patience(second()).hits_max(3).attach(&tree).finished().await;
    assert_eq!(outcome.hits.len(), 3, "{outcome}");
    tree.stop(PATIENCE).await.unwrap();
}

// --- sweeps

/// root ─┬ crowd ─ (its children are transient)
///       └ z
#[tokio::test(start_paused = true)]
async fn a_sweep_goes_on_past_a_child_that_is_no_more_and_names_it() {
    let crowd = DynamicSupervisor::new(template(Restart::Transient), |()| Some((Sleeper, ())));
    let z = probe("z", &Log::new(), &Knobs::new());
    let children = vec![ChildSpec::dynamic("crowd", &crowd), z];
    let tree = Tree::start("root", spec(OneForOne, 100, 5, children)).await.unwrap();
    let (id, _) = running(crowd.start_child(()).await);
    let path = format!("root/crowd/{id}");
    let mut loads = 0;
    let load = async || {
        loads += 1;
        if loads == 2 {
            tree.find(&path).unwrap().stop(None);
            until("it leaves", &tree, |_| crowd.count_children().active == 0).await;
        }
    };
    let sweep = Sweep::new().target(Target::workers());
    let table = sweep_awaits(&tree, sweep, load, async |_| Ok(())).await;
    assert!(table.rows.iter().any(|row| row.point.path == "root/z" && row.reached), "{table}");
    assert!(table.not_run.iter().any(|point| point.path == path), "{table}");
    assert!(!table.is_complete(), "{table}");
    tree.stop(PATIENCE).await.unwrap();
}

/// A callback that nobody made it run is no callback that ended early.
#[tokio::test(start_paused = true)]
async fn a_sweep_says_which_callbacks_never_ran() {
    let (tree, service) = sleeper().await;
    let mut loads = 0;
    let load = async || {
        loads += 1;
        if loads == 1 {
            service.try_cast(Nap(second())).ok().unwrap();
        }
    };
    let table = sweep_awaits(&tree, Sweep::new().messages_only(), load, async |_| Ok(())).await;
    let not_run: Vec<_> = table.not_run.iter().map(|point| (point.callback, point.at)).collect();
    assert_eq!(not_run, [(Callback::Handle, At::Start)], "{table}");
    assert!(!table.is_complete() && table.reached() == 0, "{table}");
    tree.stop(PATIENCE).await.unwrap();

    let bench = Bench::start(OneForOne, 9, &["a", "b"], |_, child| child).await;
    bench.root().terminate_child("b").await.unwrap();
    let table = sweep_awaits(&bench.tree, Sweep::new(), async || {}, async |_| Ok(())).await;
    assert_eq!(table.not_run.len(), 3, "b does not run: {table}");
    assert!(table.not_run.iter().all(|point| point.path == "root/b"), "{table}");
    bench.tree.stop(PATIENCE).await.unwrap();
}

// --- almost_kill

/// s gives up with a shutdown, which is a normal end; it is transient and significant, so that the root shuts down too.
#[tokio::test(start_paused = true)]
async fn a_tree_that_shuts_itself_down_did_not_survive() {
    let make = async || {
        let a = probe("a", &Log::new(), &Knobs::new());
        let s = ChildSpec::supervisor("s", spec(OneForOne, 2, 1_000, vec![a]));
        let s = s.restart(Restart::Transient).significant(true);
        Tree::start("root", spec(OneForOne, 9, 1_000, vec![s]).auto_shutdown(AutoShutdown::AnySignificant)).await
    };
    let Endurance { survived, fatal, kills } = almost_kill(1, &Target::workers(), 100, make).await.unwrap();
    assert_eq!((survived, kills.len()), (2, 3));
    assert_eq!(fatal.map(|ended| ended.path).as_deref(), Some("root"));
}

/// As long as can be said means: without a bound.
#[tokio::test(start_paused = true)]
async fn times_that_no_clock_can_say() {
    let never = Duration::MAX;
    let forgets_nothing = async || {
        let intensity = Intensity { restarts: 2, period: never };
        let children = vec![probe("a", &Log::new(), &Knobs::new())];
        Tree::start("root", SupervisorSpec::new(OneForOne, intensity, children)).await.unwrap()
    };
    for (trigger, hits) in [
        (Trigger::Every { interval: second(), jitter: 0.5 }, 2),
        (Trigger::Every { interval: second(), jitter: f64::NAN }, 2),
        (Trigger::Every { interval: never, jitter: 1.0 }, 0),
        (Trigger::Message { kind: None, nth: 1 }, 0),
    ] {
        let tree = forgets_nothing().await;
        let attached = Monkey::new(1).patience(never).trigger(trigger).attach(&tree);
        sleep(second() * 10).await;
        let outcome = attached.detach().await;
        assert!(outcome.is_survived() && outcome.hits.len() == hits, "{trigger:?}: {outcome}");
        tree.stop(never).await.unwrap();
    }
    let tree = forgets_nothing().await;
    let table = sweep_awaits(&tree, Sweep::new().patience(never), async || {}, async |_| Ok(())).await;
    assert_eq!(table.failures().count(), 1, "two restarts, and never another: {table}");
    assert!(table.to_string().contains("never tolerates"), "{table}");
    tree.stop(never).await.unwrap();
}

/// What a supervisor has restarted before anybody looked counts as well.
#[tokio::test(start_paused = true)]
async fn restarts_before_a_monkey_or_a_sweep_are_in_the_budget() {
    let children = vec![probe("a", &Log::new(), &Knobs::new())];
    let tree = Tree::start("root", spec(OneForOne, 2, 60, children)).await.unwrap();
    for round in [2, 3] {
        tree.inject("root/a", Fault::Kill).await.unwrap();
        up(&tree, "root/a", round).await;
    }
    let monkey = Monkey::new(1).attach(&tree);
    sleep(second() * 10).await;
    let outcome = monkey.detach().await;
    assert!(outcome.is_survived() && outcome.hits.is_empty() && outcome.spared > 5, "{outcome}");
    let table = sweep_awaits(&tree, Sweep::new(), async || {}, async |_| Ok(())).await;
    assert_eq!(table.failures().count(), 0, "{table}");
    tree.stop(PATIENCE).await.unwrap();
}
