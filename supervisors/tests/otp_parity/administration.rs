//! `start_child` and its relatives in good order, and what can be read of children.

use converge_supervisors::Strategy::OneForOne;
use converge_supervisors::{Backoff, ChildError, ChildSpec, ChildState, Restart, Template};
use tokio::time::{Duration, sleep};

use super::common::*;
use super::keep;

fn not_found(id: &str) -> ChildError {
    ChildError::NotFound(id.to_owned())
}

#[tokio::test(start_paused = true)]
async fn child_adm() {
    let bench = Bench::start(OneForOne, 2, &["a"], keep).await;
    let (root, a) = (bench.root(), || probe("a", &bench.log, &bench.knobs["a"]));
    let first = bench.cell("a");
    assert_eq!(root.count_children(), counts(1, 1, 0, 1));
    assert_eq!(refused(root.start_child(a()).await), ChildError::Running("a".into()));
    assert_eq!(bench.cell("a"), first, "it was left alone");

    assert_eq!(root.terminate_child("x").await, Err(not_found("x")));
    assert_eq!(root.terminate_child("a").await, Ok(()));
    assert_eq!(children(&root), are(&[("a", ChildState::Stopped)]));
    assert_eq!(bench.node("a").unwrap().last_exit.as_deref(), Some("shutdown"));
    assert_eq!(root.count_children(), counts(1, 0, 0, 1));
    assert_eq!(root.terminate_child("a").await, Ok(()), "what is down already is no error");
    assert_eq!(refused(root.start_child(a()).await), ChildError::AlreadyPresent("a".into()));

    let (id, second) = running(root.restart_child("a").await);
    assert_eq!((id.as_str(), &second), ("a", &bench.cell("a")));
    assert_ne!(second, first);
    assert_eq!(refused(root.restart_child("a").await), ChildError::Running("a".into()));
    assert_eq!(refused(root.restart_child("x").await), not_found("x"));

    assert_eq!(root.delete_child("a").await, Err(ChildError::Running("a".into())));
    assert_eq!(root.delete_child("x").await, Err(not_found("x")));
    assert_eq!(root.terminate_child("a").await, Ok(()));
    assert_eq!(root.delete_child("a").await, Ok(()));
    assert_eq!(refused(root.restart_child("a").await), not_found("a"));
    assert_eq!((children(&root), root.count_children()), (vec![], counts(0, 0, 0, 0)));

    let (_, third) = running(root.start_child(a()).await);
    third.kill();
    bench.up("a", 2).await;
    assert_eq!(bench.tree.stop(PATIENCE).await, Ok(()));
    let down = ChildError::Down("root".into());
    assert_eq!(refused(root.start_child(a()).await), down);
    assert_eq!(refused(root.restart_child("a").await), down);
    assert_eq!(root.terminate_child("a").await, Err(down.clone()));
    assert_eq!(root.delete_child("a").await, Err(down));
    assert!(bench.tree.supervisor("root/a").is_none(), "a worker is no supervisor");
    assert!(bench.tree.supervisor("root/x").is_none());
}

/// OTP refuses `restart_child` and `delete_child` here as such; a handle on a dynamic supervisor has none, and its place
/// in the tree answers by what the child is: one that is there runs, and one that is not there is not found. OTP calls
/// `terminate_child` of a child that has ended a success; ids are not used again, so here it is not found.
#[tokio::test(start_paused = true)]
async fn child_adm_simple() {
    let nursery = Nursery::start(template(Restart::Permanent)).await;
    let (dynamic, place) = (&nursery.dynamic, nursery.place());
    assert_eq!((children(&place), dynamic.count_children()), (vec![], counts(0, 0, 0, 0)));
    let ((a, first), (b, _)) = (nursery.child("a").await, nursery.child("b").await);
    assert_ne!(a, b);
    assert_eq!(children(&place), are(&[(&a, ChildState::Running), (&b, ChildState::Running)]));
    assert_eq!(dynamic.count_children(), counts(2, 2, 0, 2));

    assert_eq!(dynamic.terminate_child("x").await, Err(not_found("x")));
    assert_eq!(dynamic.terminate_child(&a).await, Ok(()));
    assert_eq!(first.get_status(), converge_supervisors::ractor::ActorStatus::Stopped);
    assert_eq!(children(&place), are(&[(&b, ChildState::Running)]));
    assert_eq!(dynamic.terminate_child(&a).await, Err(not_found(&a)));
    assert_eq!(refused(place.restart_child(&a).await), not_found(&a));
    assert_eq!(refused(place.restart_child(&b).await), ChildError::Running(b.clone()));
    assert_eq!(place.delete_child(&b).await, Err(ChildError::Running(b)));
    assert_eq!(dynamic.count_children(), counts(1, 1, 0, 1));
}

/// In start order, those that were added last; OTP's is the other way round.
#[tokio::test(start_paused = true)]
async fn which_children() {
    let slow =
        |id: &str, c: ChildSpec| if id == "d" { c.backoff(Backoff { first: second(), max: second() }) } else { c };
    let bench = Bench::start(OneForOne, 9, &["a", "d", "c"], slow).await;
    let (root, late) = (bench.root(), Knobs::new());
    running(root.start_child(probe("b", &bench.log, &late)).await);
    root.terminate_child("a").await.unwrap();
    let d = bench.cell("d");
    d.kill();
    ended(&d).await;
    late.hang_start(true);
    bench.cell("b").kill();
    bench.log.seen("start b", 2).await;
    let expected = [
        ("a", ChildState::Stopped),
        ("d", ChildState::Restarting),
        ("c", ChildState::Running),
        ("b", ChildState::Starting),
    ];
    assert_eq!(children(&root), are(&expected));
    let looked = root.which_children();
    assert_eq!(looked[2].actor, Some(bench.cell("c").get_id()));
    assert_eq!((looked[0].actor, looked[1].actor), (None, None));
}

#[tokio::test(start_paused = true)]
async fn which_children_simple_one_for_one() {
    let nursery = Nursery::start(template(Restart::Transient)).await;
    let ((a, first), (b, other), (c, _)) =
        (nursery.child("a").await, nursery.child("b").await, nursery.child("c").await);
    first.kill();
    ended(&first).await;
    other.stop(None);
    ended(&other).await;
    assert_eq!(children(&nursery.place()), are(&[(&a, ChildState::Running), (&c, ChildState::Running)]), "not {b}");
    let looked = nursery.dynamic.which_children();
    assert_eq!(looked[0].path, format!("root/d/{a}"));
    assert_eq!((looked[0].restarts, looked[0].last_exit.as_deref()), (1, Some("killed")));
    assert_ne!(looked[0].actor, Some(first.get_id()));
}

/// `specs` is 1 for OTP's `simple_one_for_one`, however many children it has; here each is counted, as everywhere else.
#[tokio::test(start_paused = true)]
async fn count_children() {
    let nursery = Nursery::start(template(Restart::Temporary)).await;
    let mut actors = Vec::new();
    for full in [100, 200] {
        while actors.len() < full {
            actors.push(nursery.child("a").await.1);
        }
        assert_eq!(nursery.dynamic.count_children(), counts(full, full, 0, full));
        assert_eq!(nursery.dynamic.which_children().len(), full);
    }
    actors.iter().for_each(|actor| actor.kill());
    for actor in actors {
        ended(&actor).await;
    }
    assert_eq!(nursery.dynamic.count_children(), counts(0, 0, 0, 0));
}

/// OTP's children are what their specification says they are; here a supervisor is one of this kit.
#[tokio::test(start_paused = true)]
async fn count_children_supervisor() {
    let bench = Bench::start(OneForOne, 1, &["w"], keep).await;
    let sub = |id: String| ChildSpec::supervisor(id, spec(OneForOne, 1, 1, vec![])).restart(Restart::Temporary);
    for n in 0..100 {
        running(bench.root().start_child(sub(n.to_string())).await);
    }
    assert_eq!(bench.root().count_children(), counts(101, 101, 100, 1));
    bench.root().terminate_child("w").await.unwrap();
    assert_eq!(bench.root().count_children(), counts(101, 100, 100, 1));
    for n in 0..100 {
        let cell = bench.cell(&n.to_string());
        cell.kill();
        ended(&cell).await;
    }
    assert_eq!(bench.root().count_children(), counts(1, 0, 0, 1));
}

/// A child whose restart fails is counted, and not as active.
#[tokio::test(start_paused = true)]
async fn count_restarting_children() {
    let backoff = Some(Backoff { first: second(), max: second() });
    let nursery = Nursery::start(Template { backoff, ..template(Restart::Permanent) }).await;
    let (calm, broken) = (Knobs::new(), Knobs::new());
    let (a, first) = nursery.child_with("a", &broken).await;
    let (b, other) = nursery.child_with("b", &broken).await;
    let (c, third) = nursery.child_with("c", &calm).await;
    for cell in [&first, &other, &third] {
        cell.kill();
        ended(cell).await;
    }
    assert_eq!(nursery.dynamic.count_children(), counts(3, 0, 0, 3), "all wait");
    sleep(second() * 2).await;
    assert_eq!(nursery.dynamic.count_children(), counts(3, 3, 0, 3));

    broken.fail_starts(u32::MAX);
    for id in [&a, &b] {
        let cell = nursery.tree.find(&format!("root/d/{id}")).unwrap();
        cell.kill();
        ended(&cell).await;
    }
    nursery.log.seen("no start a", 5).await;
    assert_eq!(nursery.dynamic.count_children(), counts(3, 1, 0, 3));
    broken.fail_starts(0);
    sleep(second() * 2).await;
    assert_eq!(nursery.dynamic.count_children(), counts(3, 3, 0, 3));
    for (id, left) in [(c, 2), (a, 1), (b, 0)] {
        assert_eq!(nursery.dynamic.terminate_child(&id).await, Ok(()));
        assert_eq!(nursery.dynamic.count_children(), counts(left, left, 0, left));
    }
}

/// Started in order, stopped in reverse, with those that were added as the youngest.
#[tokio::test(start_paused = true)]
async fn order_of_children() {
    let ids = ["e", "c", "a", "d", "b"];
    let bench = Bench::start(OneForOne, 1, &ids[..3], keep).await;
    for id in &ids[3..] {
        running(bench.root().start_child(probe(id, &bench.log, &Knobs::new())).await);
    }
    assert_eq!(children(&bench.root()), are(&ids.map(|id| (id, ChildState::Running))));
    bench.root().terminate_child("c").await.unwrap();
    running(bench.root().restart_child("c").await);
    assert_eq!(children(&bench.root()), are(&ids.map(|id| (id, ChildState::Running))), "it keeps its place");
    bench.log.take();
    assert_eq!(bench.tree.stop(Duration::from_secs(5)).await, Ok(()));
    assert_eq!(bench.log.take(), ["stop b", "stop d", "stop a", "stop c", "stop e"]);
}
