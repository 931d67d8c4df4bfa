//! What one child alone can have is not given to two.
#![allow(missing_docs)]

use crate::common::*;
use converge_supervisors::Strategy::OneForOne;
use converge_supervisors::{ChildSpec, DynamicSupervisor, Latch, Restart, Service, StartError, Tree};

fn on(service: &Service<Do>, id: &str) -> ChildSpec {
    served(id, service, &Log::new(), &Knobs::new())
}

fn free(id: &str) -> ChildSpec {
    probe(id, &Log::new(), &Knobs::new())
}

/// `check` and `start` refuse the same, and nothing was started.
async fn is_refused(children: Vec<ChildSpec>, reason: &str) {
    let spec = spec(OneForOne, 1, 5, children);
    assert_eq!(spec.check().unwrap_err().to_string(), reason);
    let started = Tree::start("root", spec).await;
    assert!(matches!(&started, Err(StartError::Spec(error)) if error.to_string() == reason), "{started:?}");
}

#[tokio::test(start_paused = true)]
async fn a_specification_that_gives_it_to_two_is_refused() {
    let below = |child| ChildSpec::supervisor("s", spec(OneForOne, 1, 5, vec![child]));
    let service = Service::new("ledger");
    let shared = "the service \"ledger\" is given to a and to s/b: make one for each of them";
    is_refused(vec![on(&service, "a"), below(on(&service, "b"))], shared).await;
    let crowd = DynamicSupervisor::new(template(Restart::Temporary), |()| None::<(Probe, ())>);
    let shared = "the dynamic supervisor is given to a and to s/b: make one for each of them";
    is_refused(vec![ChildSpec::dynamic("a", &crowd), below(ChildSpec::dynamic("b", &crowd))], shared).await;
    let latch = Latch::new("writer");
    let shared = "the latch \"writer\" is given to a and to b: make one for each of them";
    is_refused(vec![free("a").latch(&latch), free("b").latch(&latch.clone())], shared).await;

    let own = ["one", "two"].map(Service::new);
    let children = vec![on(&own[0], "a"), on(&own[1], "b").latch(&latch).latch(&latch)];
    assert_eq!(spec(OneForOne, 1, 5, children).check(), Ok(()), "each its own, and the same one twice is one");
}

/// In one that is added, and in another tree, nobody sees it beforehand: the first keeps what it has.
#[tokio::test(start_paused = true)]
async fn who_comes_second_does_not_start() {
    let service = Service::new("ledger");
    let tree = Tree::start("root", spec(OneForOne, 1, 5, vec![on(&service, "a")])).await.unwrap();
    let (root, first) = (tree.supervisor("root").unwrap(), service.get().unwrap());
    let taken = format!("the service \"ledger\" is that of the actor {}, which runs", first.get_id());
    assert_eq!(refused(root.start_child(on(&service, "b")).await), not_started("root/b", &taken));
    let other = Tree::start("other", spec(OneForOne, 1, 5, vec![on(&service, "c")])).await;
    assert_eq!(other.unwrap_err(), StartError::Child { path: "other/c".into(), reason: taken });
    assert_eq!(service.get(), Some(first.clone()), "and it is not emptied by their ends");
    service.call(Do::Ping, soon()).await.unwrap();

    let twice = spec(OneForOne, 1, 5, vec![on(&service, "x"), on(&service, "y")]);
    let refusal = refused(root.start_child(ChildSpec::supervisor("s", twice)).await).to_string();
    assert!(refusal.contains("is given to s/x and to s/y"), "{refusal}");

    root.terminate_child("a").await.unwrap();
    let (_, second) = running(root.start_child(on(&service, "b")).await);
    assert_eq!(service.get().map(|actor| actor.get_id()), Some(second.get_id()), "when it is free, another may");
    tree.stop(PATIENCE).await.unwrap();
}
