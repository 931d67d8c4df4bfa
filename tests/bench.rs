//! `bench` measures what it says, and tells what it could not.
#![cfg(feature = "cli")]
#![allow(missing_docs, dead_code)]

mod support;

use serde_json::Value;
use support::node::{cli, free_address};
use support::served::{PATIENCE, served};
use support::until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bench_measures_what_it_was_asked_for() {
    let served = served().await;
    let plot = served.directory.path().join("latency.svg");
    let mix = ["--reads", "50", "--keys", "50", "--watchers", "3", "--contexts", "2", "--payload", "100"];
    let how = ["bench", "--clients", "2,4", "--rate", "100", "--for", "2s", "--warmup", "100ms", "--plot"];
    let report = served.json(&[&how[..], &[plot.to_str().unwrap()], &mix].concat()).await;
    let steps = report["steps"].as_array().unwrap();
    assert_eq!(steps.iter().map(|step| step["clients"].as_u64().unwrap()).collect::<Vec<_>>(), [2, 4]);
    for step in steps {
        let count = |kind: &str| step["calls"][kind]["count"].as_u64().unwrap();
        let (appends, reads) = (count("append"), count("read"));
        let due = appends + reads + step["behind"].as_u64().unwrap();
        assert!(due == 200 && appends > 0 && reads > 0, "as many as were due: {step}");
        assert!(count("watch") > 0 && step["failed"] == serde_json::json!({}), "{step}");
        let latency = |name: &str| step["calls"]["append"][name].as_u64().unwrap();
        assert!(0 < latency("p50_us") && latency("p50_us") <= latency("p99_us"), "{step}");
        assert!(latency("p99_us") <= latency("max_us"), "{step}");
    }
    let svg = std::fs::read_to_string(&plot).unwrap();
    assert!(svg.starts_with("<svg") && svg.matches("<polyline").count() == 3, "{svg}");
    let context = format!("{}0", report["contexts"].as_str().unwrap());
    let read = served.json(&["get", &context]).await;
    assert!(read["entries"].as_array().unwrap().len() > 1, "it appended for real: {read}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bench_of_streams_counts_what_is_acknowledged() {
    let served = served().await;
    let how = ["bench", "--stream", "--clients", "3", "--for", "1s", "--warmup", "100ms", "--contexts", "1"];
    let report = served.json(&how).await;
    let step = &report["steps"][0];
    let appends = step["calls"]["append"]["count"].as_u64().unwrap();
    assert!(appends > 0 && step["failed"] == serde_json::json!({}), "{step}");
    let context = format!("{}0", report["contexts"].as_str().unwrap());
    let latest = served.json(&["get", &context, "--limit", "1"]).await["latest_sequence"].as_u64().unwrap();
    assert!(latest >= appends, "{latest}: {step}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bench_runs_without_a_node_only_in_its_own_process() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("data");
    let embedded = ["bench", "--embedded", data.to_str().unwrap(), "--for", "1s", "--clients", "4", "--output", "json"];
    let output = cli(&embedded).await;
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["steps"][0]["calls"]["append"]["count"].as_u64().unwrap() > 0, "{report}");
    let nobody = format!("http://{}", free_address());
    let heavy = ["bench", "--clients", "65536", "--payload", "1000000"];
    assert_eq!(cli(&heavy).await.status.code(), Some(2));
    let output = cli(&["bench", "--endpoint", &nobody, "--for", "1s", "--timeout", "1s"]).await;
    assert_eq!(output.status.code(), Some(3), "{output:?}");
}

/// A rate that no node keeps up with: what is done is counted, and what is not begun is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bench_of_a_node_that_is_overloaded_or_dies_says_so() {
    let mut served = served().await;
    let report = served.json(&["bench", "--clients", "2", "--rate", "1000000", "--for", "1s", "--warmup", "1s"]).await;
    let step = &report["steps"][0];
    assert!(step["calls"]["append"]["per_second"].as_f64().unwrap() > 0.0, "{step}");
    assert!(step["behind"].as_u64().unwrap() > 1_000_000, "{step}");
    let watchers = served.run(&["bench", "--watchers", "5000", "--for", "1s"]).await;
    let told = String::from_utf8_lossy(&watchers.stderr).into_owned();
    assert!(watchers.status.code() == Some(3) && told.contains("grpc.watches"), "{watchers:?}");
    let applied = async || applied(&served.json(&["status"]).await);
    let before = applied().await;
    let mut bench = served.command(&["bench", "--clients", "4,4", "--for", "2s", "--warmup", "1ms", "--timeout", "1s"]);
    let running = tokio::spawn(async move { bench.output().await.unwrap() });
    until("appends of the bench", PATIENCE, async || (applied().await > before + 20).then_some(())).await;
    served.node.kill().await;
    let output = running.await.unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(3), "a step without an answer: {output:?}");
    let done = |step: usize| report["steps"][step]["calls"]["append"]["per_second"].as_f64().unwrap();
    assert!(done(0) > 0.0 && done(1) == 0.0, "what was measured before is told: {report}");
}

fn applied(status: &Value) -> u64 {
    status["applied_index"].as_u64().unwrap_or_else(|| panic!("{status}"))
}
