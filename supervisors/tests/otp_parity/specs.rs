//! What a specification holds, what it is by default, and which are refused. What OTP's maps and tuples may leave out or
//! misspell is a matter of types here; left are the combinations.

use converge_supervisors::Strategy::OneForOne;
use converge_supervisors::ractor::{Actor, ActorProcessingErr, ActorRef};
use converge_supervisors::{
    AutoShutdown, Backoff, ChildError, ChildSpec, DynamicSupervisor, Intensity, Restart, Shutdown, StartError,
    SupervisorSpec, Template, Tree,
};
use tokio::time::Duration;

use super::common::*;
use super::keep;

fn child(id: &str) -> ChildSpec {
    probe(id, &Log::new(), &Knobs::new())
}

/// What `Debug` says of a specification: that is how it can be read.
fn shows(spec: &ChildSpec, parts: &[&str]) {
    let text = format!("{spec:?}");
    for part in parts {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

/// Specifications are values with defaults, as OTP's maps are, and can be read back.
#[tokio::test(start_paused = true)]
async fn sup_start_map() {
    let sub = ChildSpec::supervisor("c", spec(OneForOne, 1, 5, vec![]));
    let children = vec![child("a"), child("b").shutdown(Shutdown::BrutalKill), sub];
    let tree = Tree::start("root", SupervisorSpec::new(OneForOne, Intensity::default(), children)).await.unwrap();
    let root = tree.supervisor("root").unwrap();
    let permanent = ["restart: Permanent", "significant: false"];
    let a = root.get_childspec("a").await.unwrap();
    assert_eq!(a.id(), "a");
    shows(&a, &[&permanent[..], &["shutdown: Timeout(5s)"]].concat());
    shows(&root.get_childspec("b").await.unwrap(), &[&permanent[..], &["shutdown: BrutalKill"]].concat());
    shows(&root.get_childspec("c").await.unwrap(), &[&permanent[..], &["shutdown: Infinity", "supervisor"]].concat());
    assert_eq!(root.get_childspec("d").await.unwrap_err(), ChildError::NotFound("d".into()));

    // One that was read back can be started elsewhere.
    root.terminate_child("a").await.unwrap();
    root.delete_child("a").await.unwrap();
    running(root.start_child(a).await);
}

#[tokio::test(start_paused = true)]
async fn sup_start_map_simple() {
    let nursery = Nursery::start(template(Restart::Temporary)).await;
    for name in ["a", "b", "c"] {
        let (id, _) = nursery.child(name).await;
        let spec = nursery.place().get_childspec(&id).await.unwrap();
        shows(&spec, &["restart: Temporary", "shutdown: Timeout(5s)", "significant: false"]);
    }
    assert_eq!(nursery.place().get_childspec("a").await.unwrap_err(), ChildError::NotFound("a".into()));
}

#[tokio::test(start_paused = true)]
async fn sup_start_map_faulty_specs() {
    let log = Log::new();
    let make = |id: &str| probe(id, &log, &Knobs::new());
    let nested = ChildSpec::supervisor("s", spec(OneForOne, 1, 1, vec![make("x"), make("x")]));
    for children in [vec![make("a"), make("a")], vec![make("")], vec![make("a/b")], vec![make("a"), nested]] {
        let error = Tree::start("root", spec(OneForOne, 1, 1, children)).await.unwrap_err();
        assert!(matches!(error, StartError::Spec(_)), "{error}");
    }
    assert!(matches!(Tree::start("", spec(OneForOne, 1, 1, vec![])).await, Err(StartError::Spec(_))));
    assert_eq!(log.take(), [""; 0], "nothing was started");
}

/// `SupervisorSpec::check` is OTP's `check_childspecs`; `start_child` refuses the same.
#[tokio::test(start_paused = true)]
async fn child_specs() {
    let bench = Bench::start(OneForOne, 1, &[], keep).await;
    let long = Backoff { first: second() * 60, max: second() * 60 };
    let twins = ChildSpec::supervisor("s", spec(OneForOne, 1, 1, vec![child("x"), child("x")]));
    for bad in [child(""), child("a/b"), child("a").backoff(long), child("a").significant(true), twins] {
        let alone = spec(OneForOne, 1, 5, vec![bad.clone()]);
        let refusal = alone.check().unwrap_err();
        let error = refused(bench.root().start_child(bad).await);
        assert_eq!(error, ChildError::Refused(refusal.clone()));
        assert_eq!(Tree::start("root", alone).await.unwrap_err(), StartError::Spec(refusal));
    }
    assert!(spec(OneForOne, 1, 5, vec![child("a"), child("a")]).check().is_err(), "twins");
    assert_eq!(bench.root().count_children(), counts(0, 0, 0, 0));

    for restart in [Restart::Permanent, Restart::Transient, Restart::Temporary] {
        for shutdown in [Shutdown::Timeout(Duration::ZERO), Shutdown::Infinity, Shutdown::BrutalKill] {
            let sub = ChildSpec::supervisor("s", spec(OneForOne, 1, 1, vec![]));
            for good in [child("a"), sub] {
                let good = good.restart(restart).shutdown(shutdown);
                assert_eq!(spec(OneForOne, 1, 5, vec![good.clone()]).check(), Ok(()));
                let (id, _) = running(bench.root().start_child(good).await);
                bench.root().terminate_child(&id).await.unwrap();
                let _ = bench.root().delete_child(&id).await;
            }
        }
    }
}

/// Every combination of auto-shutdown, restart and significance, at any depth.
#[test]
fn child_specs_map() {
    use AutoShutdown::{AllSignificant, AnySignificant, Never};
    for auto_shutdown in [Never, AnySignificant, AllSignificant] {
        for restart in [Restart::Permanent, Restart::Transient, Restart::Temporary] {
            for significant in [false, true] {
                let child = child("a").restart(restart).significant(significant);
                let sub = spec(OneForOne, 1, 5, vec![child]).auto_shutdown(auto_shutdown);
                let above = spec(OneForOne, 1, 5, vec![ChildSpec::supervisor("s", sub.clone())]);
                let bad = significant && (auto_shutdown == Never || restart == Restart::Permanent);
                assert_eq!(sub.check().is_err(), bad, "{sub:?}");
                assert_eq!(above.check().is_err(), bad, "{sub:?}");
            }
        }
    }
}

/// OTP's flags are types here. Their defaults are the same, and no restarts at all are a legal intensity.
#[tokio::test(start_paused = true)]
async fn sup_flags() {
    assert_eq!(Intensity::default(), Intensity { restarts: 1, period: second() * 5 });
    let root = SupervisorSpec::new(OneForOne, Intensity { restarts: 0, period: second() }, vec![child("a")]);
    assert_eq!(root.auto_shutdown, AutoShutdown::Never);
    let tree = Tree::start("root", root).await.unwrap();
    tree.find("root/a").unwrap().kill();
    assert_eq!(tree.wait().await.unwrap_err().path, "root/a", "the first failure is one too many");
}

/// What could never work is refused before anything starts.
#[tokio::test(start_paused = true)]
async fn what_could_never_work_is_refused() {
    let refused = |spec: SupervisorSpec| spec.check().unwrap_err().to_string();
    assert!(refused(spec(OneForOne, 1, 0, vec![])).contains("period"));
    let dynamic = |template| {
        let dynamic = DynamicSupervisor::new(template, |()| Some((Idle, ())));
        spec(OneForOne, 1, 5, vec![ChildSpec::dynamic("pool", &dynamic)])
    };
    let never_full = Intensity { restarts: 1, period: Duration::ZERO };
    assert!(refused(dynamic(Template { intensity: never_full, ..Template::default() })).contains("pool: the period"));
    let permanent =
        Template { restart: Restart::Permanent, auto_shutdown: AutoShutdown::AnySignificant, ..Template::default() };
    assert!(refused(dynamic(permanent)).contains("permanent"));
    assert_eq!(dynamic(Template::default()).check(), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_dynamic_supervisor_takes_children_of_its_template_only() {
    let dynamic = DynamicSupervisor::new(Template::default(), |()| Some((Idle, ())));
    let tree = Tree::start("root", spec(OneForOne, 1, 5, vec![ChildSpec::dynamic("pool", &dynamic)])).await.unwrap();
    let stranger = tree.supervisor("root/pool").unwrap().start_child(ChildSpec::actor("x", || (Idle, ()))).await;
    assert!(matches!(stranger, Err(ChildError::Refused(_))), "{stranger:?}");
    assert!(dynamic.start_child(()).await.is_ok());
}

struct Idle;

impl Actor for Idle {
    type Msg = ();
    type State = ();
    type Arguments = ();
    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}
