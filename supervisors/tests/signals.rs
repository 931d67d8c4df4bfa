//! Signals of a process, and what a stop makes of them. One test, because signals belong to the whole process.
#![cfg(all(unix, feature = "signals"))]
#![allow(missing_docs, clippy::print_stdout)]

mod common;

use std::process::Command;

use common::*;
use converge_supervisors::Strategy::OneForOne;
use converge_supervisors::{Application, RunError, Running, Signals};
use tokio::time::{Duration, sleep, timeout};

/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Signals further apart than a second are two.
const APART: Duration = Duration::from_millis(1200);

async fn start(log: &Log, knobs: &Knobs) -> Running {
    let children = vec![probe("a", log, knobs)];
    Application::new("root", spec(OneForOne, 0, 5, children)).start().await.unwrap()
}

/// Sends these to this process, one right after the other.
fn send(names: &[&str]) {
    let pid = std::process::id();
    let kills: Vec<String> = names.iter().map(|name| format!("kill -{name} {pid}")).collect();
    assert!(Command::new("sh").args(["-c", &kills.join(";")]).status().unwrap().success());
}

/// Whether whoever started this process had it ignore SIGHUP, asked of a shell, which starts likewise.
fn hangup_is_ignored() -> bool {
    let status = Command::new("sh").args(["-c", "kill -HUP $$"]).status().unwrap();
    status.success()
}

#[tokio::test]
async fn what_comes_together_is_one_signal_and_a_later_one_is_another() {
    let mut signals = Signals::install().unwrap();
    for names in [&["TERM", "INT"][..], &["HUP"], &["INT", "TERM", "HUP", "TERM"]] {
        if names == ["HUP"] && hangup_is_ignored() {
            println!("skipped: this process was started with SIGHUP ignored, as by nohup, and leaves it so");
            continue;
        }
        let log = Log::new();
        let running = start(&log, &Knobs::new()).await;
        send(names);
        let told = timeout(PATIENCE, running.run_until_signal(&mut signals)).await.expect("it ends");
        assert_eq!(told, Ok(()), "{names:?}");
        assert_eq!(log.take(), ["start a", "stop a"], "{names:?}");
        // The next round's are not of this one.
        sleep(APART).await;
    }

    let knobs = Knobs::new();
    knobs.hang_stop(true);
    let running = start(&Log::new(), &knobs).await;
    let told = tokio::spawn(async move { running.run_until_signal(&mut signals).await });
    send(&["TERM"]);
    sleep(APART).await;
    assert!(!told.is_finished(), "it stops in order, which takes its time");
    send(&["TERM"]);
    let told = timeout(PATIENCE, told).await.expect("a second signal cuts it short").unwrap();
    assert_eq!(told, Err(RunError::Twice));
}
