//! Applications: phases, exit policy, ends.
#![allow(missing_docs)]

use crate::common::*;
use converge_supervisors::Strategy::OneForOne;
use converge_supervisors::{
    Application, ApplicationError, AutoShutdown, ChildSpec, Ended, ExitPolicy, Restart, Running, SupervisorSpec,
};

fn children(log: &Log) -> Vec<ChildSpec> {
    ["a", "b"].into_iter().map(|id| probe(id, log, &Knobs::new())).collect()
}

fn app(log: &Log) -> Application {
    Application::new("root", spec(OneForOne, 0, 5, children(log)))
}

#[tokio::test(start_paused = true)]
async fn phases_run_in_order_when_the_tree_is_up() {
    let log = Log::new();
    let phase = |name: &'static str| {
        let log = log.clone();
        move |tree: converge_supervisors::Tree| async move {
            assert!(tree.find("root/b").is_some());
            log.push(name);
            Ok(())
        }
    };
    let ended = log.clone();
    let running = app(&log)
        .phase("first", phase("first"))
        .phase("second", phase("second"))
        .on_end(move || ended.push("end"))
        .start()
        .await
        .unwrap();
    running.stop().await.unwrap();
    assert_eq!(running.wait().await, Ok(()), "it was told to stop");
    log.seen("end", 1).await;
    assert_eq!(log.take(), ["start a", "start b", "first", "second", "stop b", "stop a", "end"]);
}

#[tokio::test(start_paused = true)]
async fn a_phase_that_fails_stops_the_tree_in_order() {
    let log = Log::new();
    let never = log.clone();
    let application = app(&log).phase("open", |_| async { Err("no door".into()) }).phase("next", move |_| async move {
        never.push("next");
        Ok(())
    });
    let error = application.start().await.unwrap_err();
    assert_eq!(error.to_string(), "start phase \"open\": no door");
    assert_eq!(log.take(), ["start a", "start b", "stop b", "stop a"]);
}

#[tokio::test(start_paused = true)]
async fn a_phase_that_hangs_has_failed() {
    let log = Log::new();
    let application = app(&log).phase_timeout(second()).phase("open", |_| std::future::pending());
    let error = application.start().await.unwrap_err();
    assert!(matches!(error, ApplicationError::Phase { ref phase, .. } if phase == "open"), "{error}");
    assert_eq!(log.take(), ["start a", "start b", "stop b", "stop a"]);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_is_dropped_in_a_phase_leaves_nothing() {
    let log = Log::new();
    let starting = tokio::spawn(app(&log).phase("open", |_| std::future::pending()).start());
    log.seen("start b", 1).await;
    settle().await;
    starting.abort();
    log.seen("stop a", 1).await;
}

/// Nobody waits for the time-out of a phase whose tree is gone.
#[tokio::test(start_paused = true)]
async fn a_tree_that_ends_in_a_phase_ends_the_start() {
    let log = Log::new();
    let ended = log.clone();
    let application = app(&log).on_end(move || ended.push("end")).phase("open", |tree| {
        tree.find("root/b").unwrap().kill();
        std::future::pending()
    });
    let before = tokio::time::Instant::now();
    let error = application.start().await.unwrap_err();
    assert!(before.elapsed() < second(), "{:?}", before.elapsed());
    assert_eq!(
        error.to_string(),
        "start phase \"open\": the tree gave up on root/b: killed (more than 0 restarts within 5s)"
    );
    log.seen("end", 1).await;
    assert_eq!(log.take(), ["start a", "start b", "stop a", "end"]);
}

/// The deadline of the stop holds, whether anyone waits for it or not.
#[tokio::test(start_paused = true)]
async fn a_start_that_is_dropped_while_it_stops_its_tree_leaves_nothing() {
    let (log, a) = (Log::new(), Knobs::new());
    a.hang_stop(true);
    let ended = log.clone();
    let child = probe("a", &log, &a).shutdown(converge_supervisors::Shutdown::Infinity);
    let application = Application::new("root", spec(OneForOne, 0, 5, vec![child]))
        .stop_deadline(second())
        .on_end(move || ended.push("end"))
        .phase("open", |_| async { Err("no door".into()) });
    let starting = tokio::spawn(application.start());
    log.seen("stop a", 1).await;
    starting.abort();
    log.seen("end", 1).await;
    assert!(!a.lock.held());
}

/// Where there is no runtime any more there is nothing to stop, and no panic.
#[test]
fn a_start_that_is_dropped_outside_the_runtime() {
    let log = Log::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (tell, reached) = tokio::sync::oneshot::channel();
    let ended = log.clone();
    let application = app(&log).on_end(move || ended.push("end")).phase("open", move |_| {
        let _ = tell.send(());
        std::future::pending()
    });
    let mut starting = Box::pin(application.start());
    runtime.block_on(async {
        tokio::select! {
            _ = &mut starting => panic!("the phase is not over"),
            reached = reached => reached.unwrap(),
        }
    });
    drop(starting);
    runtime.block_on(log.seen("end", 1));
    assert_eq!(log.take(), ["start a", "start b", "end"], "it was killed");
}

/// Whatever is heard of the end is heard after `on_end`: a `main` returns then, and its runtime with every task in it is
/// gone.
#[test]
fn a_main_that_returns_has_seen_the_end() {
    for end in ["waits", "stops", "has no start", "panics in it"] {
        // Looks at `main` after every turn of a task, so that it goes on before another that the same end has woken.
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().event_interval(1).build().unwrap();
        let (log, ended) = (Log::new(), Log::new());
        let on_end = ended.clone();
        let application = app(&log).on_end(move || {
            on_end.push("end");
            assert_ne!(end, "panics in it", "told to");
        });
        runtime.block_on(async {
            match end {
                "has no start" => {
                    let failed = application.phase("open", |_| async { Err("no door".into()) }).start().await;
                    failed.unwrap_err();
                }
                "stops" => application.start().await.unwrap().stop().await.unwrap(),
                _ => {
                    let running = application.start().await.unwrap();
                    running.tree().find("root/b").unwrap().kill();
                    running.wait().await.unwrap_err();
                }
            }
        });
        drop(runtime);
        assert_eq!(ended.take(), ["end"], "a main that {end}");
    }
}

/// The tree gives up: b is permanent, and no restart is allowed.
async fn gives_up(policy: ExitPolicy) -> Result<(), Ended> {
    let log = Log::new();
    let running = app(&log).exit_policy(policy).start().await.unwrap();
    running.tree().find("root/b").unwrap().kill();
    let ended = running.wait().await;
    assert_eq!(log.take(), ["start a", "start b", "stop a"], "the others are stopped, not killed");
    ended
}

/// The tree ends in good order: its significant child is done.
async fn is_done(policy: ExitPolicy) -> Result<(), Ended> {
    let log = Log::new();
    let worker = probe("a", &log, &Knobs::new()).restart(Restart::Transient).significant(true);
    let spec: SupervisorSpec = spec(OneForOne, 0, 5, vec![worker]).auto_shutdown(AutoShutdown::AnySignificant);
    let running: Running = Application::new("root", spec).exit_policy(policy).start().await.unwrap();
    running.tree().find("root/a").unwrap().stop(None);
    let ended = running.wait().await;
    assert_eq!(running.stop().await, Ok(()), "no error, and no excuse");
    assert_eq!(running.wait().await, ended);
    ended
}

#[tokio::test(start_paused = true)]
async fn what_an_end_means_is_the_policys() {
    for policy in [ExitPolicy::Permanent, ExitPolicy::Transient] {
        assert!(matches!(gives_up(policy).await, Err(Ended::GaveUp(_))), "{policy:?}");
    }
    assert_eq!(gives_up(ExitPolicy::Temporary).await, Ok(()));
    assert_eq!(is_done(ExitPolicy::Permanent).await, Err(Ended::Unexpected("root".into())));
    for policy in [ExitPolicy::Transient, ExitPolicy::Temporary] {
        assert_eq!(is_done(policy).await, Ok(()), "{policy:?}");
    }
}

/// OTP's case of that name: an application whose children fail on their way down ends as one that gave up, and its
/// other children are stopped in order.
#[tokio::test(start_paused = true)]
async fn faulty_application_shutdown() {
    assert!(matches!(gives_up(ExitPolicy::Permanent).await, Err(Ended::GaveUp(_))));
}

#[tokio::test(start_paused = true)]
async fn a_phase_that_stops_the_tree_is_no_start() {
    let stops = |tree: converge_supervisors::Tree| async move { Ok(tree.stop(PATIENCE).await?) };
    let started = app(&Log::new()).phase("last", stops).start().await;
    assert!(matches!(started, Err(ApplicationError::Phase { .. })), "{started:?}");
}

/// What a host set to run at the end may hang: a stop says so and goes on, after as long again as it had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_does_not_wait_for_ever_for_what_runs_at_the_end() {
    let (go_on, hangs) = std::sync::mpsc::channel::<()>();
    let application = app(&Log::new()).stop_deadline(second()).on_end(move || {
        let _ = hangs.recv();
    });
    let running = application.start().await.unwrap();
    running.stop().await.unwrap();
    drop(go_on);
}
