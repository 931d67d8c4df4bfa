//! The commands of a client against the real binary: files that resume, watches that go on, codes of conditions.
#![cfg(feature = "cli")]
#![allow(missing_docs, dead_code, clippy::print_stderr)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::cluster::SETTLED;
use crate::support::node::{Node, cli, free_address};
use crate::support::program::binary;
use crate::support::served::{PATIENCE, served, write};
use crate::support::until;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Child;

fn line(number: usize) -> String {
    // Every second line repeats another: equal lines are different events.
    format!("{{\"key\":\"k\",\"payload\":\"p{}\"}}", number / 2)
}

fn payload(number: usize) -> String {
    format!("p{}", number / 2)
}

fn counts(report: &Value) -> (u64, u64, u64) {
    let count = |name: &str| report[name].as_u64().unwrap();
    (count("appended"), count("already_there"), count("refused"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_appended_once_and_goes_on_where_it_grew() {
    let served = served().await;
    let path = served.file((0..150).map(line));
    let from = ["append", "orders", "--from", path.to_str().unwrap()];
    assert_eq!(counts(&served.json(&from).await), (150, 0, 0));
    assert_eq!(counts(&served.json(&from).await), (0, 150, 0));
    write(&path, (0..170).map(line));
    assert_eq!(counts(&served.json(&from).await), (20, 150, 0));
    assert_eq!(served.payloads("orders").await, (0..170).map(payload).collect::<Vec<_>>());
    // Lines that were corrected stand at the end; those around them are known.
    let corrected = |n| if n == 0 || n == 100 { format!("{{\"payload\":\"{n} corrected\"}}") } else { line(n) };
    write(&path, (0..170).map(corrected));
    let report = served.json(&from).await;
    assert_eq!((counts(&report), &report["out_of_order"]), ((2, 168, 0), &2.into()));
    let last = ["0 corrected", "100 corrected"].map(str::to_owned);
    assert_eq!(served.payloads("orders").await, (0..170).map(payload).chain(last).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_line_stops_the_file_before_it_and_can_be_corrected() {
    let served = served().await;
    let lines = |bad: &'static str| (0..40).map(move |n| if n == 29 { bad.to_owned() } else { line(n) });
    let path = served.file(lines("{\"payload\":"));
    let from = ["append", "orders", "--from", path.to_str().unwrap()];
    let output = served.run(&from).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("events.jsonl:30") && error.contains("again"), "{error}");
    assert!(error.contains("its first 29 entries are acknowledged"), "{error}");
    assert_eq!(served.payloads("orders").await.len(), 29, "nothing after the bad line was sent");
    // What no node takes is treated alike.
    let long = "k".repeat(1025);
    write(&path, (0..40).map(|n| if n == 29 { format!("{{\"key\":\"{long}\",\"payload\":\"\"}}") } else { line(n) }));
    let output = served.run(&from).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("events.jsonl:30"), "{output:?}");
    assert_eq!(counts(&serde_json::from_slice(&output.stdout).unwrap()), (0, 29, 0));
    write(&path, (0..40).map(line));
    assert_eq!(counts(&served.json(&from).await), (11, 29, 0));
    assert_eq!(served.payloads("orders").await, (0..40).map(payload).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_dies_in_the_middle_of_a_file_loses_and_doubles_no_line() {
    let mut served = served().await;
    let path = served.file((0..400).map(line));
    let appending = served.command(&["append", "orders", "--from", path.to_str().unwrap()]).spawn().unwrap();
    let mut seen = served.command(&["watch", "orders", "--count", "50"]).spawn().unwrap();
    tokio::time::timeout(PATIENCE, seen.wait()).await.unwrap().unwrap();
    served.node.kill().await;
    served.node.start().await;
    let output = tokio::time::timeout(PATIENCE, appending.wait_with_output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{output:?}");
    let (appended, there, refused) = counts(&serde_json::from_slice(&output.stdout).unwrap());
    assert_eq!((appended + there, refused), (400, 0));
    assert_eq!(served.payloads("orders").await, (0..400).map(payload).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_client_resumes_from_stdin() {
    let served = served().await;
    let path = served.file((0..300).map(line));
    let mut first = served.command(&["append", "orders", "--from", path.to_str().unwrap()]).spawn().unwrap();
    let mut seen = served.command(&["watch", "orders", "--count", "40"]).spawn().unwrap();
    tokio::time::timeout(PATIENCE, seen.wait()).await.unwrap().unwrap();
    first.kill().await.unwrap();
    let mut second = served.command(&["append", "orders", "--from", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    let text: String = (0..300).map(|number| format!("{}\n", line(number))).collect();
    let mut stdin = second.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).await.unwrap();
    drop(stdin);
    let output = tokio::time::timeout(PATIENCE, second.wait_with_output()).await.unwrap().unwrap();
    let (appended, there, refused) = counts(&serde_json::from_slice(&output.stdout).unwrap());
    assert_eq!((appended + there, refused), (300, 0));
    assert!(there >= 40, "{there} were there");
    assert_eq!(served.payloads("orders").await, (0..300).map(payload).collect::<Vec<_>>());
}

async fn next(lines: &mut tokio::io::Lines<BufReader<tokio::process::ChildStdout>>) -> Value {
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap();
    serde_json::from_str(&line.expect("the watch goes on")).unwrap()
}

fn watching(child: &mut Child) -> tokio::io::Lines<BufReader<tokio::process::ChildStdout>> {
    BufReader::new(child.stdout.take().unwrap()).lines()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_after_the_node_was_killed() {
    let mut served = served().await;
    served.json(&["append", "orders", "a", "0"]).await;
    let mut child = served.command(&["watch", "orders", "--from", "0", "--count", "4"]).spawn().unwrap();
    let mut lines = watching(&mut child);
    assert_eq!(next(&mut lines).await["payload"], "0", "history first");
    served.json(&["append", "orders", "a", "1"]).await;
    assert_eq!(next(&mut lines).await["payload"], "1");
    served.node.kill().await;
    served.node.start().await;
    served.json(&["append", "orders", "a", "2"]).await;
    served.json(&["append", "other", "a", "x"]).await;
    served.json(&["append", "orders", "a", "3"]).await;
    for sequence in [3, 4] {
        assert_eq!(next(&mut lines).await["sequence"], sequence, "each once, in order");
    }
    assert!(tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap().success(), "it ends at its count");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_nobody_reads_any_more_ends() {
    let served = served().await;
    served.json(&["append", "orders", "a", "0"]).await;
    let mut child = served.command(&["watch", "orders"]).spawn().unwrap();
    let mut lines = watching(&mut child);
    next(&mut lines).await;
    drop(lines);
    let status = tokio::time::timeout(PATIENCE, child.wait()).await.expect("no further entry is needed").unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_answers_is_heard_above_one_that_is_not_there() {
    let directory = tempfile::tempdir().unwrap();
    let mut alone = Node::new(directory.path(), 1);
    alone.peers = Some(format!("1={},2={},3={}", alone.peer, free_address(), free_address()));
    alone.start().await;
    let nobody = "http://127.0.0.1:1";
    for endpoints in [[alone.url(), nobody.to_owned()], [nobody.to_owned(), alone.url()]] {
        let mut command = tokio::process::Command::new(binary());
        command.args(["append", "orders", "a", "0", "--timeout", "4s", "--endpoint", &endpoints.join(",")]);
        let output = command.output().await.unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{error}");
        assert!(error.contains("append: not written: ") && error.contains("start them"), "{error}");
        assert!(error.contains("not formed yet") && !error.contains("check that the node runs"), "{error}");
        assert!(!error.contains("unknown") && !error.contains("refused"), "one verdict, one reason: {error}");
        let mut command = tokio::process::Command::new(binary());
        command.args(["get", "orders", "--timeout", "1s", "--endpoint", &endpoints.join(",")]);
        let output = command.output().await.unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{error}");
        assert!(error.contains("not formed yet"), "{error}");
        assert!(!error.contains("written") && !error.contains("carried out"), "a read writes nothing: {error}");
    }
    let mut command = tokio::process::Command::new(binary());
    let output = command.args(["append", "orders", "a", "0", "--timeout", "1s", "--endpoint", nobody]).output().await;
    let output = output.unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("append: not written: ") && error.contains("check that the node runs"), "{error}");
}

/// Takes connections and what comes, and never answers.
async fn mute() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut bytes = [0; 1024];
                while matches!(tokio::io::AsyncReadExt::read(&mut connection, &mut bytes).await, Ok(1..)) {}
            });
        }
    });
    format!("http://{address}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_without_an_answer_is_unknown_and_says_how_to_find_out() {
    let url = mute().await;
    let error = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(binary());
        command.args(arguments).args(["--timeout", "1s", "--endpoint", &url]);
        let output = command.output().await.unwrap();
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let append = error(&["append", "orders", "a", "0", "--idempotency-key", "k 1"]).await;
    assert!(append.contains("append: unknown whether it was written: "), "{append}");
    assert!(append.contains("run it again with --idempotency-key \"k 1\""), "{append}");
    assert!(!append.contains("--timeout") && !append.contains("not written"), "one next step: {append}");
    let append = error(&["append", "orders", "a", "0"]).await;
    assert!(append.contains("--idempotency-key \"cli-"), "the key that was made up: {append}");
    let get = error(&["get", "orders"]).await;
    assert!(get.contains("--timeout") && !get.contains("written"), "{get}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_variable_that_nobody_reads_is_named() {
    let served = served().await;
    let mut command = served.command(&["get", "orders"]);
    let output = command.env("CONVERGE_LEDGER_ENDPOINTS", "http://127.0.0.1:1").output().await.unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("the nearest one is CONVERGE_LEDGER_ENDPOINT"), "{error}");
}

/// A variable of a node's is nothing to whoever does not run one; one that is nobody's is misspelt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_cares_for_the_variables_that_it_reads() {
    let served = served().await;
    let url = served.node.url();
    let run = async |arguments: &[&str], name: &str, value: &str| {
        let mut command = tokio::process::Command::new(binary());
        let output = command.args(arguments).env(name, value).env("RUST_LOG", "").output().await.unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let get = ["get", "orders", "--endpoint", &url];
    for (name, value) in [
        ("CONVERGE_LEDGER__NODE__ID", "one\r"),
        ("CONVERGE_LEDGER__LIMITS__PAYLOAD_BYTES", "4MiB"),
        ("GRPC_PORT", "66000"),
        ("CONVERGE_LEDGER_ENDPOINT", "not what --endpoint says"),
    ] {
        assert_eq!(run(&get, name, value).await, (Some(0), String::new()), "{name}");
    }
    let (code, error) = run(&["get", "orders"], "CONVERGE_LEDGER_ENDPOINT", "127.0.0.1:1;127.0.0.1:2").await;
    assert_eq!(code, Some(2), "{error}");
    let words = ["CONVERGE_LEDGER_ENDPOINT = \"127.0.0.1:1;127.0.0.1:2\"", "separated by commas"];
    assert!(words.iter().all(|word| error.contains(word)), "{error}");
    let (code, error) = run(&["inspect", "summary"], "CONVERGE_LEDGER_ENDPOINT", "nowhere").await;
    assert!(code != Some(2) && !error.contains("ENDPOINT"), "{error}");
    for command in [&get[..], &["inspect", "summary"], &["start"]] {
        let (code, error) = run(command, "CONVERGE_LEDGER_NODE_ID", "1").await;
        assert_eq!(code, Some(2), "{command:?}: {error}");
        assert!(error.contains("the nearest one is CONVERGE_LEDGER__NODE__ID"), "{command:?}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_snapshot_is_not_read_to_its_end() {
    let served = served().await;
    // It has none.
    let output = served.run(&["load", "orders", "--file", "/dev/zero"]).await;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("not a Converge Ledger snapshot"), "{error}");
    assert_eq!(output.status.code(), Some(5), "{error}");
}

/// A connection to this port of loopback is open: what the system says, for nobody else does.
fn is_connected(port: &str) -> bool {
    let port = format!(":{:04X}", port.parse::<u16>().unwrap());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields[2].ends_with(&port) && fields[3] == "01"
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_watch_outlives_more_restarts_than_its_time_out_is_long() {
    let mut served = served().await;
    let patience = Duration::from_secs(10);
    let mut watch = served.command(&["watch", "orders", "--count", "1", "--timeout", "10s"]);
    let mut child = watch.spawn().unwrap();
    let port = served.node.grpc.rsplit_once(':').unwrap().1.to_owned();
    let connected = async || until("the watch is back", PATIENCE, async || is_connected(&port).then_some(())).await;
    connected().await;
    let began = Instant::now();
    let mut restarts = 0;
    // From the first loss on for longer than it waits, and then one more.
    while restarts < 3 || began.elapsed() < patience + Duration::from_secs(1) {
        served.node.kill().await;
        served.node.start().await;
        connected().await;
        // A stream that lives for a moment, not a connection that only opens.
        tokio::time::sleep(Duration::from_millis(500)).await;
        restarts += 1;
    }
    served.node.kill().await;
    served.node.start().await;
    let gone = child.try_wait().unwrap();
    assert!(gone.is_none(), "it gave up in {restarts} restarts: {:?}", child.wait_with_output().await);
    served.json(&["append", "orders", "a", "0"]).await;
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_have_a_code_of_their_own() {
    let served = served().await;
    let keyed = ["append", "orders", "facts", "hello", "--idempotency-key", "k1"];
    let first = served.json(&keyed).await;
    assert_eq!((&first["sequence"], &first["deduplicated"]), (&1.into(), &false.into()));
    let second = served.json(&keyed).await;
    assert_eq!((&second["id"], &second["deduplicated"]), (&first["id"], &true.into()));
    let other = served.run(&["append", "orders", "facts", "other", "--idempotency-key", "k1"]).await;
    assert_eq!(other.status.code(), Some(4), "{other:?}");
    let stale = served.run(&["append", "orders", "facts", "x", "--expected-sequence", "7"]).await;
    assert_eq!(stale.status.code(), Some(4), "{stale:?}");
    assert!(String::from_utf8_lossy(&stale.stderr).contains('1'), "names the actual sequence: {stale:?}");
    served.json(&["append", "orders", "facts", "x", "--expected-sequence", "1"]).await;
    let filtered = served.json(&["get", "orders", "--key", "facts", "--limit", "1", "--after", "1"]).await;
    assert_eq!(filtered["entries"].as_array().unwrap().len(), 1);
    assert_eq!(filtered["latest_sequence"], 2);
    let exists = served.directory.path().join("blob");
    std::fs::write(&exists, "mine").unwrap();
    let kept = served.run(&["snapshot", "orders", "--file", exists.to_str().unwrap()]).await;
    assert_eq!(kept.status.code(), Some(2), "{kept:?}");
    assert_eq!(std::fs::read(&exists).unwrap(), b"mine");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_node_s_directory_can_be_inspected_verified_and_indexed_anew() {
    let mut served = served().await;
    let path = served.file((0..30).map(line));
    served.json(&["append", "orders", "--from", path.to_str().unwrap()]).await;
    let before = served.payloads("orders").await;
    let digest = served.json(&["status"]).await["digest"].clone();
    let data = served.node.data.display().to_string();
    let taken = served.run(&["inspect", "summary", "--data-dir", &data]).await;
    assert_eq!(taken.status.code(), Some(1), "a running node has its directory for itself: {taken:?}");
    assert!(String::from_utf8_lossy(&taken.stderr).contains(&data), "{taken:?}");
    served.node.terminate(SETTLED).await;

    let summary = served.json(&["inspect", "summary", "--data-dir", &data]).await;
    assert_eq!((&summary["entries"], &summary["contexts"], &summary["digest"]), (&30.into(), &1.into(), &digest));
    let log = served.run(&["inspect", "log", "--data-dir", &data, "--from", "2", "--limit", "3"]).await;
    let indices: Vec<Value> = String::from_utf8_lossy(&log.stdout)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["index"].clone())
        .collect();
    assert_eq!(indices, [2, 3, 4], "one JSON document a line");
    let verified = served.json(&["inspect", "verify", "--data-dir", &data]).await;
    assert_eq!((&verified["entries"], &verified["keys"]), (&30.into(), &30.into()));
    let rebuilt = served.json(&["inspect", "rebuild-index", "--data-dir", &data]).await;
    assert_eq!((&rebuilt["entries"], &rebuilt["digest"]), (&30.into(), &digest), "the index follows from the log");
    served.json(&["inspect", "verify", "--data-dir", &data]).await;

    served.node.start().await;
    assert_eq!(served.payloads("orders").await, before);
    assert_eq!(counts(&served.json(&["append", "orders", "--from", path.to_str().unwrap()]).await), (0, 30, 0));
}

/// Turns over a bit of the last sector that the journal has.
fn damage_the_tail(data: &Path) -> u64 {
    const RECORDS: usize = 2 * 4096;
    const SECTOR: usize = 512;
    const LSN: usize = 500;
    let files = std::fs::read_dir(data).unwrap().map(|file| file.unwrap().path());
    let journal = files.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("journal-"));
    let sectors = journal.flat_map(|path| {
        let content = std::fs::read(&path).unwrap();
        let lsn = move |at: usize| u64::from_le_bytes(content[at + LSN..at + LSN + 8].try_into().unwrap());
        let end = std::fs::metadata(&path).unwrap().len() as usize;
        (RECORDS..end).step_by(SECTOR).map(move |at| (lsn(at), path.clone(), at))
    });
    let (lsn, path, at) = sectors.max_by_key(|(lsn, ..)| *lsn).unwrap();
    let mut content = std::fs::read(&path).unwrap();
    content[at + 3] ^= 1;
    std::fs::write(path, content).unwrap();
    lsn
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_alone_goes_on_without_a_damaged_last_record_once_its_loss_is_accepted() {
    let mut served = served().await;
    for payload in ["kept", "lost"] {
        served.json(&["append", "orders", "k", payload]).await;
    }
    served.node.kill().await;
    let data = served.node.data.display().to_string();
    let lsn = damage_the_tail(&served.node.data).to_string();
    // A fenced node says no ready line.
    served.node.spawn();
    until("the node says what helps", PATIENCE, || async {
        let said = String::from_utf8(served.run(&["status"]).await.stdout).unwrap();
        (said.contains("data loss") && said.contains("inspect cut-tail")).then_some(())
    })
    .await;
    served.node.kill().await;

    let look = ["inspect", "cut-tail", "--data-dir", &data];
    let shown = served.run(&look).await;
    let error = String::from_utf8_lossy(&shown.stderr).into_owned();
    assert_eq!(shown.status.code(), Some(5), "{error}");
    assert!(error.contains(&format!("--accept-loss-of {lsn}")) && error.contains("nothing was changed"), "{error}");
    let found: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(
        (found["lsn"].to_string(), &found["is_covered"], &found["voters"]),
        (lsn.clone(), &false.into(), &1.into())
    );
    let other = served.run(&[&look[..], &["--accept-loss-of", "1"]].concat()).await;
    assert_eq!(other.status.code(), Some(1), "{other:?}");
    let cut = served.json(&[&look[..], &["--accept-loss-of", &lsn]].concat()).await;
    assert!(std::fs::exists(cut["kept"].as_str().unwrap()).unwrap(), "{cut}");

    served.node.start().await;
    let left = served.payloads("orders").await;
    assert!(["kept", "lost"].map(str::to_owned).starts_with(&left) && !left.is_empty(), "{left:?}");
    served.json(&["append", "orders", "k", "after"]).await;
    assert_eq!(served.payloads("orders").await.last().map(String::as_str), Some("after"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_of_two_clusters_says_so() {
    let one = served().await;
    let directory = tempfile::tempdir().unwrap();
    let mut other = Node::new(directory.path(), 1);
    other.set("cluster.name", "another");
    other.start().await;
    let both = format!("{},{}", one.node.url(), other.url());
    let output = cli(&["status", "--endpoint", &both]).await;
    let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("are of 2 different clusters") && error.contains("--endpoint"), "{error}");
    assert!(said.contains("2 different clusters:"), "{said}");
    for url in [one.node.url(), other.url()] {
        let listed = said.lines().find(|line| line.starts_with("cluster ") && line.ends_with(&url));
        assert!(listed.is_some(), "which node is of which: {said}");
    }
    let twice = format!("{},{}", one.node.url(), one.node.url());
    let output = cli(&["status", "--endpoint", &twice]).await;
    assert!(output.status.success(), "one cluster, however often it is named: {output:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_answer_is_an_alarm() {
    let served = served().await;
    let nobody = format!("http://{}", free_address());
    let output = cli(&["status", "--endpoint", &format!("{},{nobody}", served.node.url())]).await;
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(said.contains(&format!("alarms:\n{nobody} does not answer")) && !said.contains("no alarms"), "{said}");
    let output = cli(&["status", "--endpoint", &served.node.url()]).await;
    assert!(String::from_utf8_lossy(&output.stdout).contains("no alarms"), "{output:?}");
}

/// Exit code and complaint of a command that talks to nobody.
async fn refused(arguments: &[&str]) -> (Option<i32>, String) {
    let output = cli(arguments).await;
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn a_directory_to_inspect_that_is_not_there_or_not_readable_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    std::fs::write(path("file"), "").unwrap();
    for (name, word) in [("none", "does not exist"), ("file", "is no directory")] {
        let (code, error) = refused(&["inspect", "summary", "--data-dir", &path(name)]).await;
        assert_eq!(code, Some(1), "{error}");
        assert!([word, &path(name), "--data-dir"].iter().all(|word| error.contains(word)), "{error}");
    }
    std::fs::create_dir(path("sealed")).unwrap();
    std::fs::set_permissions(path("sealed"), std::fs::Permissions::from_mode(0o0)).unwrap();
    // Root may read everything, unless that right is taken away.
    let mut command = tokio::process::Command::new("setpriv");
    let rights = "-dac_override,-dac_read_search";
    command.args(["--bounding-set", rights, "--inh-caps", rights]);
    let output = match command.args([binary(), "inspect", "summary", "--data-dir", &path("sealed")]).output().await {
        Ok(output) if !output.stderr.starts_with(b"setpriv") => output,
        other => return eprintln!("skipped: no right can be taken away here: {other:?}"),
    };
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains(&path("sealed")) && error.contains("may not be read by this user: run this as"), "{error}");
}

#[tokio::test]
async fn an_append_without_a_payload_is_told_both_ways_to_give_it() {
    for arguments in [&["append", "orders"][..], &["append", "orders", "facts"]] {
        let (code, error) = refused(arguments).await;
        assert_eq!(code, Some(2), "{error}");
        assert!(error.contains("<KEY> <PAYLOAD>") && error.contains("--from <FILE|->"), "{error}");
    }
}
