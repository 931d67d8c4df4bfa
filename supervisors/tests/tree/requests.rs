//! Requests about single children while other things happen: to the child, to its group, to the supervisor, to other
//! requests.
#![allow(missing_docs)]

use crate::common::*;
use converge_supervisors::Strategy::{OneForAll, OneForOne, RestForOne};
use converge_supervisors::{
    Backoff, ChildError, ChildSpec, ChildState, Intensity, Restart, StartError, SupervisorRef, Template, Tree,
};
use tokio::time::{Duration, Instant, timeout};

fn keep(_: &str, child: ChildSpec) -> ChildSpec {
    child
}

/// A start or a stop may take as long as it likes.
fn patient(_: &str, child: ChildSpec) -> ChildSpec {
    child.start_timeout(second() * 36_000).shutdown(converge_supervisors::Shutdown::Infinity)
}

fn terminate(root: &SupervisorRef, id: &'static str) -> impl Future<Output = Result<(), ChildError>> + Send + use<> {
    let root = root.clone();
    async move { root.terminate_child(id).await }
}

fn down(path: &str) -> ChildError {
    ChildError::Down(path.to_owned())
}

fn called_off(id: &str) -> ChildError {
    not_started(&format!("root/{id}"), "it was stopped while it started")
}

/// The second waits for the first, and finds what the first has left: OTP's answers.
#[tokio::test(start_paused = true)]
async fn two_callers_terminate_the_same_child() {
    let missing = Err(ChildError::NotFound("a".into()));
    for (restart, second_hears) in [(Restart::Permanent, Ok(())), (Restart::Temporary, missing)] {
        let bench = Bench::start(OneForOne, 1, &["a"], |_, c| patient("", c).restart(restart)).await;
        bench.knobs["a"].hang_stop(true);
        let first = asking(terminate(&bench.root(), "a")).await;
        let second = asking(terminate(&bench.root(), "a")).await;
        assert!(!first.is_finished() && !second.is_finished());
        bench.knobs["a"].hang_stop(false);
        assert_eq!((answer(first).await, answer(second).await), (Ok(()), second_hears));
        assert_eq!(bench.log.take(), ["start a", "stop a"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_waits_for_the_stop_before_it() {
    let bench = Bench::start(OneForOne, 1, &["a"], patient).await;
    bench.knobs["a"].hang_stop(true);
    let stop = asking(terminate(&bench.root(), "a")).await;
    let root = bench.root();
    let restart = asking(async move { root.restart_child("a").await }).await;
    let root = bench.root();
    let delete = asking(async move { root.delete_child("a").await }).await;
    bench.knobs["a"].hang_stop(false);
    assert_eq!(answer(stop).await, Ok(()));
    running(answer(restart).await);
    assert_eq!(answer(delete).await, Err(ChildError::Running("a".into())), "each in its turn");
    assert_eq!(bench.knobs["a"].lock.broken(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_child_calls_its_start_off() {
    let bench = Bench::start(OneForOne, 1, &["a"], patient).await;
    let (root, b) = (bench.root(), Knobs::new());
    b.hang_start(true);
    let spec = patient("", probe("b", &bench.log, &b));
    let start = asking(async move { root.start_child(spec).await }).await;
    assert_eq!(bench.root().terminate_child("b").await, Ok(()));
    assert_eq!(refused(answer(start).await), called_off("b"));
    assert_eq!(children(&bench.root()), are(&[("a", ChildState::Running)]), "it never was a child");
    assert!(!b.lock.held());

    // A restart, by request and by itself.
    bench.root().terminate_child("a").await.unwrap();
    bench.knobs["a"].hang_start(true);
    let root = bench.root();
    let restart = asking(async move { root.restart_child("a").await }).await;
    assert_eq!(bench.root().terminate_child("a").await, Ok(()));
    assert_eq!(refused(answer(restart).await), called_off("a"));
    bench.knobs["a"].hang_start(false);
    running(bench.root().restart_child("a").await);
    bench.knobs["a"].hang_start(true);
    bench.cell("a").kill();
    bench.log.seen("start a", 4).await;
    assert_eq!(bench.root().terminate_child("a").await, Ok(()));
    assert_eq!(children(&bench.root()), are(&[("a", ChildState::Stopped)]));
}

#[tokio::test(start_paused = true)]
async fn a_child_whose_backoff_is_called_off_is_down() {
    let backoff = Backoff { first: second() * 2, max: second() * 2 };
    let bench = Bench::start(OneForOne, 1, &["a"], |_, c| c.backoff(backoff)).await;
    let a = bench.cell("a");
    a.kill();
    ended(&a).await;
    assert_eq!(children(&bench.root()), are(&[("a", ChildState::Restarting)]));
    assert_eq!(refused(bench.root().restart_child("a").await), ChildError::Restarting("a".into()));
    assert_eq!(bench.root().terminate_child("a").await, Ok(()));
    assert_eq!(children(&bench.root()), are(&[("a", ChildState::Stopped)]));
    tokio::time::sleep(second() * 10).await;
    assert_eq!(children(&bench.root()), are(&[("a", ChildState::Stopped)]), "its timer is gone too");
    running(bench.root().restart_child("a").await);
}

#[tokio::test(start_paused = true)]
async fn requests_wait_for_the_restart_of_a_group() {
    let bench = Bench::start(OneForAll, 9, &["a", "b", "c"], patient).await;
    bench.root().terminate_child("c").await.unwrap();
    bench.knobs["b"].hang_stop(true);
    bench.cell("a").kill();
    bench.log.seen("stop b", 1).await;
    let (root, d) = (bench.root(), probe("d", &bench.log, &Knobs::new()));
    let start = asking(async move { root.start_child(d).await }).await;
    let root = bench.root();
    let restart = asking(async move { root.restart_child("c").await }).await;
    let root = bench.root();
    let delete = asking(async move { root.delete_child("c").await }).await;
    let stop = asking(terminate(&bench.root(), "a")).await;
    assert!([start.is_finished(), restart.is_finished(), delete.is_finished(), stop.is_finished()] == [false; 4]);
    bench.log.take();
    bench.knobs["b"].hang_stop(false);
    running(answer(start).await);
    let revived = ChildError::Running("c".into());
    assert_eq!(refused(answer(restart).await), revived, "the group brought it back");
    assert_eq!(answer(delete).await, Err(revived));
    assert_eq!(answer(stop).await, Ok(()));
    assert_eq!(bench.node("a").unwrap().state, ChildState::Stopped);
    let mut log = bench.log.take();
    log.retain(|line| line.starts_with("start") && line != "start a"); // its start may have been called off
    assert_eq!(log, ["start b", "start c", "start d"]);
}

/// Who waits behind others for a start to be called off does not wait for them: they wait for that very start.
#[tokio::test(start_paused = true)]
async fn an_end_passes_those_that_wait() {
    let bench = Bench::start(OneForAll, 9, &["a", "b"], patient).await;
    bench.knobs["b"].hang_stop(true);
    bench.cell("a").kill();
    bench.log.seen("stop b", 1).await;
    let (root, d) = (bench.root(), probe("d", &bench.log, &Knobs::new()));
    let start = asking(async move { root.start_child(d).await }).await;
    let stop = asking(terminate(&bench.root(), "b")).await;
    bench.knobs["b"].hang_start(true);
    bench.knobs["b"].hang_stop(false);
    assert_eq!(answer(stop).await, Ok(()));
    running(answer(start).await);
    assert_eq!(bench.node("b").unwrap().state, ChildState::Stopped);
    assert_eq!(bench.node("a").unwrap().state, ChildState::Running);
}

#[tokio::test(start_paused = true)]
async fn those_that_wait_hold_up_nobody_else() {
    let bench = Bench::start(OneForOne, 1, &["a", "b"], patient).await;
    bench.knobs["a"].hang_stop(true);
    let stop = asking(terminate(&bench.root(), "a")).await;
    let root = bench.root();
    let restart = asking(async move { root.restart_child("a").await }).await;
    let (root, c) = (bench.root(), probe("c", &bench.log, &Knobs::new()));
    running(answer(asking(async move { root.start_child(c).await }).await).await);
    assert_eq!(refused(bench.root().restart_child("b").await), ChildError::Running("b".into()));
    assert_eq!(bench.root().get_childspec("b").await.unwrap().id(), "b");
    assert!(!stop.is_finished() && !restart.is_finished());
    bench.knobs["a"].hang_stop(false);
    assert_eq!(answer(stop).await, Ok(()));
    running(answer(restart).await);
}

/// An end that is carried out at once can bring the turn of one that waits before it, and nothing else may follow.
#[tokio::test(start_paused = true)]
async fn a_start_has_its_turn_when_a_later_end_has_cleared_the_way() {
    let backoff = Backoff { first: second(), max: second() };
    let adjust = |id: &str, child| if id == "b" { patient(id, child).backoff(backoff) } else { patient(id, child) };
    let bench = Bench::start(OneForAll, 9, &["a", "b"], adjust).await;
    bench.knobs["a"].hang_stop(true);
    bench.cell("b").kill();
    bench.log.seen("stop a", 1).await;
    let (root, d) = (bench.root(), probe("d", &bench.log, &Knobs::new()));
    let start = asking(async move { root.start_child(d).await }).await;
    let stop = asking(terminate(&bench.root(), "b")).await;
    let before = Instant::now();
    bench.knobs["a"].hang_stop(false);
    assert_eq!(answer(stop).await, Ok(()));
    running(answer(start).await);
    assert!(before.elapsed() < second() / 10, "it did not wait for a timer of someone else: {:?}", before.elapsed());
}

/// root ─ s ─ a, and one to be added.
async fn below() -> (Tree, SupervisorRef, Log, Knobs, Knobs) {
    let (log, a, b) = (Log::new(), Knobs::new(), Knobs::new());
    let s = ChildSpec::supervisor("s", spec(OneForOne, 9, 5, vec![patient("", probe("a", &log, &a))]));
    let tree = Tree::start("root", spec(OneForOne, 9, 5, vec![s])).await.unwrap();
    let s = tree.supervisor("root/s").unwrap();
    (tree, s, log, a, b)
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_killed_in_the_middle_leaves_it_unknown() {
    let (tree, s, log, a, b) = below().await;
    b.hang_start(true);
    let (supervisor, spec) = (s.clone(), patient("", probe("b", &log, &b)));
    let start = asking(async move { supervisor.start_child(spec).await }).await;
    a.hang_stop(true);
    let stop = asking(terminate(&s, "a")).await;
    let parked = asking(terminate(&s, "a")).await;
    tree.find("root/s").unwrap().kill();
    let unknown = ChildError::Unknown("root/s".into());
    assert_eq!(refused(answer(start).await), unknown);
    assert_eq!((answer(stop).await, answer(parked).await), (Err(unknown.clone()), Err(unknown)));
    a.hang_stop(false);
    up(&tree, "root/s/a", 2).await;
    assert_eq!(children(&s), are(&[("a", ChildState::Running)]));
    assert_eq!((a.lock.broken(), b.lock.held()), (0, false));
    assert_eq!(s.terminate_child("a").await, Ok(()), "the handle is good for the next incarnation");
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_that_stops_in_the_middle_answers() {
    let (tree, s, log, a, b) = below().await;
    b.hang_start(true);
    let (supervisor, spec) = (s.clone(), patient("", probe("b", &log, &b)));
    let start = asking(async move { supervisor.start_child(spec).await }).await;
    a.hang_stop(true);
    let stop = asking(terminate(&s, "a")).await;
    let parked = asking(terminate(&s, "a")).await;
    let stopping = tree.clone();
    let stopping = asking(async move { stopping.stop(PATIENCE).await }).await;
    assert!(parked.is_finished(), "who asks may be what is being stopped");
    a.hang_stop(false);
    assert_eq!(answer(stopping).await, Ok(()));
    assert_eq!(refused(answer(start).await), not_started("root/s/b", "its start was called off"));
    assert_eq!((answer(stop).await, answer(parked).await), (Ok(()), Err(down("root/s"))));
    assert_eq!(s.delete_child("a").await, Err(down("root/s")));
}

/// A start that a failed elder interrupted, and that the group never got to.
#[tokio::test(start_paused = true)]
async fn a_supervisor_that_gives_up_answers_those_whose_turn_never_came() {
    let bench = Bench::start(RestForOne, 1, &["a", "b"], patient).await;
    let (root, z) = (bench.root(), Knobs::new());
    z.hang_start(true);
    let spec = patient("", probe("z", &bench.log, &z));
    let start = asking(async move { root.start_child(spec).await }).await;
    bench.knobs["a"].fail_starts(u32::MAX);
    bench.cell("a").kill();
    assert_eq!(bench.tree.wait().await.unwrap_err().path, "root/a");
    assert_eq!(refused(answer(start).await), not_started("root/z", "its supervisor is on its way out"));
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_that_is_restarted_has_lost_the_children_that_were_added() {
    let (tree, s, log, a, b) = below().await;
    tree.find("root/s/a").unwrap().kill();
    up(&tree, "root/s/a", 2).await;
    running(s.start_child(probe("b", &log, &b)).await);
    let t = spec(OneForOne, 1, 1, vec![probe("c", &log, &Knobs::new())]);
    running(s.start_child(ChildSpec::supervisor("t", t)).await);
    assert!(tree.find("root/s/t/c").is_some());
    tree.find("root/s").unwrap().kill();
    up(&tree, "root/s/a", 3).await;
    assert_eq!(children(&s), are(&[("a", ChildState::Running)]));
    assert!(!b.lock.held() && tree.find("root/s/t/c").is_none());
    let looked = node(&tree, "root/s/a").unwrap();
    assert_eq!((looked.incarnation, looked.restarts), (3, 2), "what is told of its past is kept");
    running(s.start_child(probe("b", &log, &b)).await);
    assert_eq!((a.lock.broken(), b.lock.broken()), (0, 0));
}

/// While a new incarnation waits for the old subtree to go it knows no children yet; it does not deny them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_supervisor_that_waits_for_its_predecessor_denies_no_child() {
    let (tree, s, _log, a, _b) = below().await;
    a.slow_drop(Duration::from_millis(300));
    tree.find("root/s").unwrap().kill();
    let deadline = Instant::now() + PATIENCE;
    loop {
        match s.terminate_child("a").await {
            Ok(()) => break,
            Err(ChildError::Down(_) | ChildError::Unknown(_)) => tokio::task::yield_now().await,
            Err(other) => panic!("{other}"),
        }
        assert!(Instant::now() < deadline);
    }
    assert_eq!(node(&tree, "root/s/a").unwrap().state, ChildState::Stopped);
    assert_eq!(a.lock.broken(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_whole_subtree_is_added_and_terminated() {
    let bench = Bench::start(OneForOne, 1, &["a"], keep).await;
    let below = vec![probe("x", &bench.log, &Knobs::new()), probe("y", &bench.log, &Knobs::new())];
    running(bench.root().start_child(ChildSpec::supervisor("s", spec(OneForOne, 1, 1, below))).await);
    assert_eq!(bench.tree.supervisor("root/s").unwrap().count_children(), counts(2, 2, 0, 2));
    bench.log.take();
    bench.root().terminate_child("s").await.unwrap();
    assert_eq!(bench.log.take(), ["stop y", "stop x"]);
    running(bench.root().restart_child("s").await);
    assert_eq!(bench.log.take(), ["start x", "start y"]);
}

/// Neither here nor elsewhere: what it was started with is gone.
#[tokio::test(start_paused = true)]
async fn the_spec_of_a_temporary_child_that_runs_cannot_be_started() {
    let bench = Bench::start(OneForOne, 1, &["a"], |_, c| c.restart(Restart::Temporary)).await;
    let spent = bench.root().get_childspec("a").await.unwrap();
    bench.root().terminate_child("a").await.unwrap();
    let reason = "what this temporary child was started with is gone";
    let start = asking({
        let (root, spent) = (bench.root(), spent.clone());
        async move { root.start_child(spent).await }
    });
    assert_eq!(refused(answer(start.await).await), not_started("root/a", reason));
    assert_eq!(children(&bench.root()), []);
    let error = timeout(PATIENCE, Tree::start("root", spec(OneForOne, 1, 5, vec![spent]))).await.unwrap().unwrap_err();
    assert_eq!(error, StartError::Child { path: "root/a".into(), reason: reason.into() });
}

#[tokio::test(start_paused = true)]
async fn there_is_a_most_of_children() {
    let nursery = Nursery::start(Template { children_max: 2, ..template(Restart::Temporary) }).await;
    let hung = Knobs::new();
    hung.hang_start(true);
    let (a, _) = nursery.child("a").await;
    let (dynamic, with) = (nursery.dynamic.clone(), ("b".to_owned(), hung.clone()));
    let start = asking(async move { dynamic.start_child(with).await }).await;
    let full = refused(nursery.dynamic.start_child(("c".into(), Knobs::new())).await);
    assert_eq!(full, ChildError::Full(2), "one that is starting counts");
    nursery.dynamic.terminate_child(&a).await.unwrap();
    nursery.child("c").await;
    hung.hang_start(false);
    running(answer(start).await);
}

#[tokio::test(start_paused = true)]
async fn there_is_a_most_of_requests_that_wait() {
    const PARKED_MAX: usize = 1024;
    let bench = Bench::start(OneForAll, 9, &["a", "b"], patient).await;
    bench.knobs["b"].hang_stop(true);
    bench.cell("a").kill();
    bench.log.seen("stop b", 1).await;
    let mut asked = Vec::new();
    for _ in 0..PARKED_MAX + 5 {
        asked.push(tokio::spawn(terminate(&bench.root(), "a")));
    }
    settle().await;
    let refused = asked.extract_if(.., |task| task.is_finished());
    for task in refused.collect::<Vec<_>>() {
        assert_eq!(answer(task).await, Err(ChildError::Full(PARKED_MAX)));
    }
    assert_eq!(asked.len(), PARKED_MAX);
    bench.knobs["b"].hang_stop(false);
    for task in asked {
        assert_eq!(answer(task).await, Ok(()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_handle_on_a_dynamic_supervisor_outlives_it() {
    let dynamic = converge_supervisors::DynamicSupervisor::new(template(Restart::Permanent), |(): ()| {
        Some((Probe { name: "a".into(), log: Log::new(), knobs: Knobs::new() }, ()))
    });
    assert_eq!(refused(dynamic.start_child(()).await), down("no tree yet"));
    assert_eq!((dynamic.which_children().len(), dynamic.count_children()), (0, counts(0, 0, 0, 0)));
    let tree = Tree::start("root", spec(OneForOne, 9, 5, vec![ChildSpec::dynamic("d", &dynamic)])).await.unwrap();
    let (_, first) = running(dynamic.start_child(()).await);
    tree.find("root/d").unwrap().kill();
    up(&tree, "root/d", 2).await;
    assert_eq!(first.get_status(), converge_supervisors::ractor::ActorStatus::Stopped);
    assert_eq!(dynamic.count_children(), counts(0, 0, 0, 0), "its children are gone with it");
    running(dynamic.start_child(()).await);
    assert_eq!(tree.stop(PATIENCE).await, Ok(()));
    assert_eq!(refused(dynamic.start_child(()).await), down("root/d"));
}

/// Who holds an id from before its supervisor's restart must not end a stranger with it.
#[tokio::test(start_paused = true)]
async fn an_id_of_a_dynamic_child_is_never_used_again() {
    let dynamic = converge_supervisors::DynamicSupervisor::new(template(Restart::Temporary), |(): ()| {
        Some((Probe { name: "a".into(), log: Log::new(), knobs: Knobs::new() }, ()))
    });
    let tree = Tree::start("root", spec(OneForOne, 9, 5, vec![ChildSpec::dynamic("d", &dynamic)])).await.unwrap();
    let (old, _) = running(dynamic.start_child(()).await);
    tree.find("root/d").unwrap().kill();
    up(&tree, "root/d", 2).await;
    let (new, actor) = running(dynamic.start_child(()).await);
    assert_ne!(old, new);
    assert_eq!(dynamic.terminate_child(&old).await, Err(ChildError::NotFound(old)));
    assert_eq!(tree.find(&format!("root/d/{new}")), Some(actor));
    assert_eq!(dynamic.terminate_child(&new).await, Ok(()));
}

/// One handle, one place: a second would take the children of the first away from those who started them.
#[tokio::test(start_paused = true)]
async fn a_dynamic_supervisor_is_not_started_in_two_places() {
    let nursery = Nursery::start(template(Restart::Temporary)).await;
    let (first, actor) = nursery.child("a").await;
    let children = vec![ChildSpec::dynamic("e", &nursery.dynamic)];
    let error = Tree::start("other", spec(OneForOne, 0, 5, children)).await.unwrap_err();
    let reason = "its handle is that of root/d, which runs".to_owned();
    assert_eq!(error, StartError::Child { path: "other/e".into(), reason });
    assert_eq!(nursery.tree.find(&format!("root/d/{first}")), Some(actor));
    assert_eq!(nursery.dynamic.terminate_child(&first).await, Ok(()));
    assert_eq!(nursery.tree.stop(PATIENCE).await, Ok(()));
    let children = vec![ChildSpec::dynamic("e", &nursery.dynamic)];
    let other = Tree::start("other", spec(OneForOne, 0, 5, children)).await.unwrap();
    nursery.child("b").await;
    assert_eq!(other.supervisor("other/e").unwrap().count_children(), counts(1, 1, 0, 1));
}

/// A backoff that runs out while its supervisor stops the others for good.
#[tokio::test(start_paused = true)]
async fn a_dynamic_supervisor_gives_up_in_good_order() {
    let backoff = Some(Backoff { first: second(), max: second() });
    let intensity = Intensity { restarts: 1, period: second() * 5 };
    let shutdown = Some(converge_supervisors::Shutdown::Timeout(second() * 10));
    let template = Template { backoff, intensity, shutdown, ..template(Restart::Permanent) };
    let nursery = Nursery::start(template).await;
    let slow = Knobs::new();
    let ((_, a), (_, b)) = (nursery.child("a").await, nursery.child("b").await);
    nursery.child_with("slow", &slow).await;
    slow.hang_stop(true);
    a.kill();
    ended(&a).await;
    let before = Instant::now();
    b.kill();
    let escalated = timeout(second() * 60, nursery.tree.wait()).await.unwrap().unwrap_err();
    assert_eq!(before.elapsed().as_secs(), 10, "the slow one got its time");
    assert!(escalated.reason.starts_with("shutdown: gave up on root/d/1: killed"), "{}", escalated.reason);
}
