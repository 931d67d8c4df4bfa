//! Significant children: a supervisor that exits because they have ended.

use converge_supervisors::AutoShutdown::{self, AllSignificant, AnySignificant, Never};
use converge_supervisors::Strategy::{self, OneForAll, OneForOne, RestForOne};
use converge_supervisors::ractor::ActorCell;
use converge_supervisors::{ChildSpec, ChildState, Intensity, Restart, SupervisorSpec, Template, Tree};

use super::common::*;

/// Children of one restart; those in `significant` are.
async fn root(
    strategy: Strategy,
    auto_shutdown: AutoShutdown,
    restart: Restart,
    ids: &[&str],
    significant: &[&str],
) -> Tree {
    let child = |id: &&str| {
        let child = probe(id, &Log::new(), &Knobs::new()).restart(restart);
        child.significant(significant.contains(id))
    };
    let intensity = Intensity { restarts: 5, period: second() * 5 };
    let spec = SupervisorSpec::new(strategy, intensity, ids.iter().map(child).collect()).auto_shutdown(auto_shutdown);
    Tree::start("root", spec).await.unwrap()
}

fn cell(tree: &Tree, id: &str) -> ActorCell {
    tree.find(&format!("root/{id}")).unwrap()
}

/// Ends a child from outside, and lets the tree see it.
async fn end(tree: &Tree, id: &str, how: impl Fn(&ActorCell)) {
    let cell = cell(tree, id);
    how(&cell);
    ended(&cell).await;
}

fn kill(cell: &ActorCell) {
    cell.kill();
}

fn normal(cell: &ActorCell) {
    cell.stop(None);
}

fn abnormal(cell: &ActorCell) {
    cell.stop(Some("abnormal".into()));
}

fn runs(tree: &Tree) -> bool {
    tree.find("root").is_some()
}

/// It has exited by itself, in good order, with nothing left.
async fn has_shut_down(tree: &Tree) {
    assert_eq!(tree.wait().await, Ok(()));
    assert!(tree.snapshot().nodes.iter().all(|node| node.state == ChildState::Stopped && node.actor.is_none()));
    assert_eq!(node(tree, "root").unwrap().last_exit.as_deref(), Some("shutdown"));
}

#[tokio::test(start_paused = true)]
async fn nonsignificant_temporary() {
    for auto_shutdown in [Never, AnySignificant, AllSignificant] {
        for how in [kill, normal, abnormal] {
            let tree = root(OneForOne, auto_shutdown, Restart::Temporary, &["a", "b"], &[]).await;
            end(&tree, "a", how).await;
            tree.supervisor("root").unwrap().terminate_child("b").await.unwrap();
            settle().await;
            assert!(runs(&tree), "{auto_shutdown:?}");
            assert_eq!(tree.stop(PATIENCE).await, Ok(()));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nonsignificant_transient() {
    for auto_shutdown in [Never, AnySignificant, AllSignificant] {
        let tree = root(OneForOne, auto_shutdown, Restart::Transient, &["a"], &[]).await;
        let supervisor = tree.supervisor("root").unwrap();
        supervisor.terminate_child("a").await.unwrap();
        running(supervisor.restart_child("a").await);
        for how in [kill, abnormal, normal] {
            end(&tree, "a", how).await;
        }
        assert!(runs(&tree) && tree.find("root/a").is_none(), "{auto_shutdown:?}");
        assert_eq!(tree.stop(PATIENCE).await, Ok(()));
    }
}

#[tokio::test(start_paused = true)]
async fn significant_temporary() {
    let (ids, both) = (["a", "b", "c"], ["a", "b"]);
    for how in [kill, normal, abnormal] {
        let tree = root(OneForOne, AnySignificant, Restart::Temporary, &ids, &both).await;
        tree.supervisor("root").unwrap().terminate_child("a").await.unwrap();
        settle().await;
        assert!(runs(&tree), "one that was terminated does not count");
        end(&tree, "b", how).await;
        has_shut_down(&tree).await;

        let tree = root(OneForOne, AllSignificant, Restart::Temporary, &ids, &both).await;
        end(&tree, "a", how).await;
        assert!(runs(&tree) && tree.find("root/b").is_some(), "b is left");
        end(&tree, "b", how).await;
        has_shut_down(&tree).await;
    }
    // One of the two was terminated: the other is the last.
    let tree = root(OneForOne, AllSignificant, Restart::Temporary, &ids, &both).await;
    tree.supervisor("root").unwrap().terminate_child("a").await.unwrap();
    end(&tree, "b", normal).await;
    has_shut_down(&tree).await;
}

#[tokio::test(start_paused = true)]
async fn significant_transient() {
    let (ids, both) = (["a", "b", "c"], ["a", "b"]);
    let tree = root(OneForOne, AnySignificant, Restart::Transient, &ids, &both).await;
    let supervisor = tree.supervisor("root").unwrap();
    supervisor.terminate_child("a").await.unwrap();
    running(supervisor.restart_child("a").await);
    for how in [kill, abnormal] {
        end(&tree, "a", how).await;
        assert!(runs(&tree) && tree.find("root/a").is_some(), "it is restarted");
    }
    end(&tree, "c", normal).await;
    assert!(runs(&tree), "c is not significant");
    end(&tree, "a", normal).await;
    has_shut_down(&tree).await;

    let tree = root(OneForOne, AllSignificant, Restart::Transient, &ids, &both).await;
    end(&tree, "a", normal).await;
    assert!(runs(&tree) && tree.find("root/b").is_some());
    // It is started again by hand: then b is not the last.
    running(tree.supervisor("root").unwrap().restart_child("a").await);
    end(&tree, "b", normal).await;
    assert!(runs(&tree) && tree.find("root/a").is_some());
    end(&tree, "a", normal).await;
    has_shut_down(&tree).await;
}

/// As in OTP 25; later ones refuse the combination. OTP checks the children's specification when the supervisor starts,
/// here each child's is checked when it is started.
#[tokio::test(start_paused = true)]
async fn significant_simple() {
    for (auto_shutdown, first_is_enough) in [(AnySignificant, true), (AllSignificant, false)] {
        let template = Template { auto_shutdown, ..template(Restart::Transient) };
        let nursery = Nursery::start(template).await;
        let ((_, a), (b, _), (_, c)) = (nursery.child("a").await, nursery.child("b").await, nursery.child("c").await);
        let d = nursery.tree.find("root/d").unwrap();
        nursery.dynamic.terminate_child(&b).await.unwrap();
        a.stop(None);
        ended(&a).await;
        let shut_down = nursery.tree.find("root/d") != Some(d.clone());
        assert_eq!(shut_down, first_is_enough);
        if !first_is_enough {
            c.stop(None);
        }
        // It is permanent under a root that tolerates no restart.
        assert_eq!(nursery.tree.wait().await.unwrap_err().path, "root/d");
    }
    let never = Nursery::start(template(Restart::Transient)).await;
    let (_, a) = never.child("a").await;
    a.stop(None);
    ended(&a).await;
    assert_eq!(never.tree.stop(PATIENCE).await, Ok(()));
}

/// A significant child that is stopped because a sibling failed does not count.
#[tokio::test(start_paused = true)]
async fn significant_bystander() {
    for strategy in [OneForOne, OneForAll, RestForOne] {
        for auto_shutdown in [AnySignificant, AllSignificant] {
            let tree = root(strategy, auto_shutdown, Restart::Transient, &["a", "b", "c"], &["a", "c"]).await;
            let before = ["a", "b", "c"].map(|id| cell(&tree, id));
            end(&tree, "b", kill).await;
            assert!(runs(&tree), "{strategy:?} {auto_shutdown:?}");
            let after = ["a", "b", "c"].map(|id| cell(&tree, id));
            let replaced: Vec<bool> = before.iter().zip(&after).map(|(old, new)| old != new).collect();
            let expected = match strategy {
                OneForOne => [false, true, false],
                OneForAll => [true, true, true],
                RestForOne => [false, true, true],
            };
            assert_eq!(replaced, expected);
            assert_eq!(tree.stop(PATIENCE).await, Ok(()));
        }
    }
}

/// root ─ s ─ c, each supervisor with auto-shutdown; c is significant, s is or is not.
#[tokio::test(start_paused = true)]
async fn significant_escalation() {
    for significant in [true, false] {
        let c = probe("c", &Log::new(), &Knobs::new()).restart(Restart::Transient).significant(true);
        let s = spec(OneForOne, 1, 5, vec![c]).auto_shutdown(AnySignificant);
        let s = ChildSpec::supervisor("s", s).restart(Restart::Transient).significant(significant);
        let tree = Tree::start("root", spec(OneForOne, 1, 5, vec![s]).auto_shutdown(AnySignificant)).await.unwrap();
        let c = tree.find("root/s/c").unwrap();
        c.stop(None);
        ended(&c).await;
        if significant {
            has_shut_down(&tree).await;
        } else {
            assert!(runs(&tree));
            assert_eq!(node(&tree, "root/s").unwrap().state, ChildState::Stopped);
            assert_eq!(node(&tree, "root/s").unwrap().last_exit.as_deref(), Some("shutdown"));
            assert_eq!(tree.stop(PATIENCE).await, Ok(()));
        }
    }
}

/// Not a start that failed: the supervisor was up, and is done.
#[tokio::test(start_paused = true)]
async fn significant_at_boot() {
    let (log, a, b) = (Log::new(), Knobs::new(), Knobs::new());
    b.hang_start(true);
    let a_spec = probe("a", &log, &a).restart(Restart::Temporary).significant(true);
    let s = spec(OneForOne, 1, 5, vec![a_spec, probe("b", &log, &b)]).auto_shutdown(AnySignificant);
    let s = ChildSpec::supervisor("s", s).restart(Restart::Transient);
    let start = tokio::spawn(Tree::start("root", spec(OneForOne, 0, 5, vec![s, probe("c", &log, &Knobs::new())])));
    log.seen("start b", 1).await;
    a.starting().unwrap().stop(None);
    settle().await;
    b.hang_start(false);
    let tree = start.await.unwrap().unwrap();
    down(&tree, "root/s").await;
    assert!(!b.lock.held());
    assert_eq!(tree.stop(PATIENCE).await, Ok(()));
    let mut log = log.take();
    log.sort(); // b's end and c's start are nobody's order
    assert_eq!(log, ["start a", "start b", "start c", "stop a", "stop b", "stop c"]);
}

/// A tree that is gone before its starter has heard that it was up is not shown as one that runs.
#[tokio::test(start_paused = true)]
async fn significant_at_boot_and_nobody_looks() {
    let (log, a, b) = (Log::new(), Knobs::new(), Knobs::new());
    b.hang_start(true);
    let a_spec = probe("a", &log, &a).restart(Restart::Transient).significant(true);
    let children = vec![a_spec, probe("b", &log, &b)];
    let mut start = Box::pin(Tree::start("root", spec(OneForOne, 0, 5, children).auto_shutdown(AnySignificant)));
    let looked_once = async {
        log.seen("start b", 1).await;
        a.starting().unwrap().stop(None);
    };
    tokio::select! {
        biased;
        _ = &mut start => panic!("b has not started"),
        () = looked_once => {}
    }
    settle().await;
    b.hang_start(false);
    log.seen("stop b", 1).await;
    settle().await;
    has_shut_down(&start.await.unwrap()).await;
}
