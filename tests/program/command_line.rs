//! Bad input of the command line and the configuration: a non-zero exit that names the key or path
//! and the next step. And the exit codes that a script can rely on.
#![cfg(feature = "cli")]
#![allow(missing_docs, clippy::print_stderr)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::node::{cli, free_address};
use crate::support::program::binary;
use crate::support::served::{Served, served};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use tokio::time::timeout;

/// A start that cannot succeed ends within this.
const REFUSAL: Duration = Duration::from_secs(20);

const USAGE: i32 = 2;
const UNAVAILABLE: i32 = 3;
const PRECONDITION: i32 = 4;
const INTEGRITY: i32 = 5;

/// Runs `start` on an empty directory; kills it, and fails, when it does not end by itself.
fn start(directory: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(binary());
    command.arg("start").args(arguments).envs(environment.iter().copied());
    command.env("CONVERGE_LEDGER__LISTEN__PEER", "127.0.0.1:0").env_remove("GRPC_PORT");
    let mut child = command
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let end = Instant::now() + REFUSAL;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > end {
            child.kill().unwrap();
            let output = child.wait_with_output().unwrap();
            panic!("{arguments:?} {environment:?} was accepted: {output:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().unwrap()
}

/// The output is a refusal that holds each of the words.
#[track_caller]
fn names(output: &Output, words: &[&str]) {
    let error = String::from_utf8_lossy(&output.stderr);
    let code = output.status.code();
    assert!(code.is_some_and(|code| code != 0), "ended with {code:?}: {error}");
    assert!(output.stdout.is_empty(), "a refusal prints nothing on standard output: {output:?}");
    for word in words {
        assert!(error.contains(word), "the reason does not name {word:?}: {error}");
    }
    assert!(!error.contains("panicked"), "a refusal is not a panic: {error}");
}

/// As [`names`], and nobody says it twice.
#[track_caller]
fn names_once(output: &Output, words: &[&str]) {
    names(output, words);
    let error = String::from_utf8_lossy(&output.stderr);
    let last = error.lines().last().unwrap_or_default();
    assert!(last.starts_with("error: ") && words.iter().all(|word| last.contains(word)), "not at the end: {error}");
    let again = error.lines().filter(|line| line.contains(" WARN ") || line.contains(" ERROR ")).count();
    assert_eq!(again, 0, "said more than once: {error}");
}

/// The reason is not the last of a screenful of lines about what was started in vain.
#[track_caller]
fn few_lines(output: &Output) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.lines().count() <= 8, "the reason does not stand out: {error}");
}

#[test]
fn impossible_settings_name_their_key() {
    let directory = tempfile::tempdir().unwrap();
    let huge = u64::MAX.to_string();
    let cases = [
        ("node.id", "0"),
        ("node.id", "-1"),
        ("node.id", "one"),
        ("node.id", "1.5"),
        ("node.id", "99999999999999999999"),
        ("node.data_dir", ""),
        ("listen.grpc", "127.0.0.1"),
        ("listen.grpc", "127.0.0.1:65536"),
        ("listen.grpc", "127.0.0.1:-1"),
        ("cluster.name", ""),
        ("cluster.peers", "2=127.0.0.1:7001"),
        ("cluster.peers", "1=127.0.0.1:7001,2=127.0.0.1:7002"),
        ("cluster.peers", "1=127.0.0.1:7001,1=127.0.0.1:7002,3=127.0.0.1:7003"),
        ("cluster.peers", "1=127.0.0.1:7001,2=127.0.0.1:7001,3=127.0.0.1:7003"),
        ("cluster.peers", "1=127.0.0.1:7001,0=127.0.0.1:7002,3=127.0.0.1:7003"),
        ("cluster.peers", "1=127.0.0.1:7001,2=,3=127.0.0.1:7003"),
        ("cluster.peers", "1:127.0.0.1:7001"),
        ("raft.heartbeat_ms", "0"),
        ("raft.heartbeat_ms", "-100"),
        ("raft.heartbeat_ms", &huge),
        ("raft.election_ms", "0"),
        ("raft.election_ms", "100"),
        ("raft.election_ms", "50"),
        ("raft.election_ms", &huge),
        ("limits.payload_bytes", "0"),
        ("limits.payload_bytes", "-1"),
        ("limits.payload_bytes", &huge),
        ("limits.inflight_bytes", "0"),
        ("limits.inflight_bytes", "1"),
        ("limits.inflight_bytes", &huge),
        ("limits.response_bytes", "0"),
        ("limits.snapshot_bytes", "0"),
    ];
    for (key, value) in cases {
        let name = format!("CONVERGE_LEDGER__{}", key.replace('.', "__").to_uppercase());
        // A flag would win over the setting under test.
        let flags: &[&str] = if key == "listen.grpc" { &[] } else { &["--grpc", "127.0.0.1:0"] };
        // An empty variable is one that is not set.
        if !value.is_empty() {
            names(&start(directory.path(), flags, &[(&name, value)]), &[key]);
        }
        // The same in a file.
        let (section, field) = key.split_once('.').unwrap();
        let file = directory.path().join("bad.toml");
        let quoted = if section == "raft" || section == "limits" || key == "node.id" {
            value.to_owned()
        } else {
            format!("{value:?}")
        };
        std::fs::write(&file, format!("[{section}]\n{field} = {quoted}\n")).unwrap();
        let output = start(directory.path(), &["--config", "bad.toml"], &[]);
        let parses = !["one", "99999999999999999999", &huge].contains(&value);
        let word = if parses { key } else { "bad.toml" };
        names(&output, &[word]);
    }
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["bad.toml"], "a refused start leaves nothing behind");
}

/// Each was accepted once: it made another cluster, a directory of an odd name, or a peer that is never found.
#[test]
fn what_was_not_meant_is_refused_and_quoted() {
    let directory = tempfile::tempdir().unwrap();
    let grpc = ["--grpc", "127.0.0.1:0"];
    let peers = |second: &str| format!("1=127.0.0.1:7001,2={second},3=127.0.0.1:7003");
    for bad in ["http://127.0.0.1:7002", "::1:7002", "host two:7002", "127.0.0.1", "0.0.0.0:7002"] {
        let list = peers(bad);
        names(&start(directory.path(), &[&grpc[..], &["--peers", &list]].concat(), &[]), &["cluster.peers", bad]);
        names(&start(directory.path(), &grpc, &[("CONVERGE_LEDGER__CLUSTER__PEERS", &list)]), &["cluster.peers", bad]);
    }
    for (name, value, words) in [
        ("CONVERGE_LEDGER_NODE_ID", "7", &["CONVERGE_LEDGER_NODE_ID", "CONVERGE_LEDGER__NODE__ID"][..]),
        ("CONVERGE_LEDGER__CLUSTER__NAME", "prod\r", &["cluster.name", "prod\\r"]),
        ("CONVERGE_LEDGER__NODE__DATA_DIR", "d\r", &["node.data_dir", "d\\r"]),
        ("CONVERGE_LEDGER__NODE__DATA_DIR", "~/x", &["node.data_dir", "~/x"]),
        ("RUST_LOG", "info=what=", &["RUST_LOG", "info=what="]),
        ("RUST_LOG", "info\r", &["RUST_LOG", "info\\r"]),
    ] {
        names(&start(directory.path(), &grpc, &[(name, value)]), words);
    }
    names(&start(directory.path(), &[&grpc[..], &["--data-dir=~/x"]].concat(), &[]), &["node.data_dir", "~/x"]);
    let left = std::fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(left, 0, "a refused start leaves nothing behind");
}

/// The key, what was given, what gave it, and what is possible.
#[test]
fn a_setting_of_the_wrong_kind_is_named_with_its_source() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bad.toml");
    std::fs::write(&file, "[limits]\npayload_bytes = \"4MiB\"\n").unwrap();
    let said = "limits.payload_bytes = \"4MiB\"";
    let possible = "expected a whole number without a unit, 1 to 4194304";
    names_once(&start(directory.path(), &["--config", "bad.toml"], &[]), &[said, "(file \"bad.toml\")", possible]);
    let variable = "CONVERGE_LEDGER__LIMITS__PAYLOAD_BYTES";
    let given = [(variable, "4MiB")];
    names_once(&start(directory.path(), &[], &given), &[said, &format!("(variable {variable})"), possible]);
    names_once(&start(directory.path(), &["--grpc", "h"], &[]), &["listen.grpc = \"h\" (flag --grpc): it has no port"]);
}

#[test]
fn unknown_keys_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ledger.toml");
    for (text, key) in [
        ("[raft]\nheartbeat = 100\n", "raft.heartbeat"),
        ("[raftt]\nheartbeat_ms = 100\n", "raftt"),
        ("colour = 1\n", "colour"),
    ] {
        std::fs::write(&file, text).unwrap();
        names(&start(directory.path(), &["--config", "ledger.toml"], &[]), &[key, "ledger.toml"]);
    }
    let environment = [("CONVERGE_LEDGER__RAFT__HEARTBEAT", "100")];
    names(&start(directory.path(), &[], &environment), &["raft.heartbeat"]);
    let output = start(directory.path(), &["--colour", "red"], &[]);
    names(&output, &["--colour"]);
    assert_eq!(output.status.code(), Some(USAGE));
}

#[test]
fn a_configuration_file_that_cannot_be_used_is_named() {
    let directory = tempfile::tempdir().unwrap();
    names(&start(directory.path(), &["--config", "absent.toml"], &[]), &["absent.toml", "--config"]);
    names(&start(directory.path(), &["--config", "."], &[]), &["configuration file \".\"", "directory", "--config"]);
    let file = directory.path().join("broken.toml");
    for broken in [&b"[node\nid = 1"[..], b"\xff\xfe", b"id == 1"] {
        std::fs::write(&file, broken).unwrap();
        names(&start(directory.path(), &["--config", "broken.toml"], &[]), &["broken.toml"]);
    }
    std::fs::write(&file, vec![b'#'; 4 << 20]).unwrap();
    names(&start(directory.path(), &["--config", "broken.toml"], &[]), &["broken.toml"]);
}

#[test]
fn an_address_that_cannot_be_bound_names_its_key() {
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    names_once(&start(directory.path(), &["--grpc", &address], &[]), &["listen.grpc", &address, "stop what listens"]);
    let list = format!("1={address},2=127.0.0.1:7002,3=127.0.0.1:7003");
    let flags = ["--grpc", "127.0.0.1:0", "--peer", &address, "--peers", &list];
    let output = start(directory.path(), &flags, &[]);
    names(&output, &["listen.peer", &address]);
    // TEST-NET-1: an address that this machine does not have.
    let output = start(directory.path(), &["--grpc", "192.0.2.1:50051"], &[]);
    names_once(&output, &["listen.grpc = \"192.0.2.1:50051\"", "this machine does not have that address"]);
    // A name that is nobody's (RFC 6761).
    let output = start(directory.path(), &["--grpc", "nobody.invalid:50051"], &[]);
    names_once(&output, &["listen.grpc = \"nobody.invalid:50051\"", "a name that stands for one here"]);
}

/// As by a connection of somebody else, which is given ports of the same range.
#[tokio::test]
async fn a_port_that_is_taken_for_a_moment_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut child = tokio::process::Command::new(binary())
        .args(["start", "--grpc", &address])
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut ready = BufReader::new(child.stdout.take().unwrap()).lines();
    let is_said = |line: &str| line.contains("the address is taken") && line.contains(&address);
    while !is_said(&timeout(REFUSAL, log.next_line()).await.unwrap().unwrap().expect("it says that it waits")) {}
    drop(taken);
    tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
    let line = timeout(REFUSAL, ready.next_line()).await.unwrap().unwrap();
    assert!(line.is_some_and(|line| line.starts_with("ready: ") && line.contains(&address)));
}

#[test]
fn a_port_that_this_user_may_not_have_is_told() {
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    let directory = tempfile::tempdir().unwrap();
    if first.trim() != "1024" {
        return eprintln!("skipped: ports from {first:?} on are for everybody");
    }
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-net_bind_service", binary(), "start", "--grpc", "127.0.0.1:1"]);
    let output = match command.current_dir(directory.path()).output() {
        Ok(output) if !output.stderr.starts_with(b"setpriv") => output,
        other => return eprintln!("skipped: no right can be taken away here: {other:?}"),
    };
    names_once(&output, &["listen.grpc = \"127.0.0.1:1\"", "Permission denied", "a port from 1024 on"]);
}

#[test]
fn a_data_directory_that_cannot_be_used_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "not a directory").unwrap();
    let grpc = ["--grpc", "127.0.0.1:0", "--data-dir"];
    names_once(&start(directory.path(), &[&grpc[..], &["file"]].concat(), &[]), &["file\":", "is no directory"]);
    assert_eq!(std::fs::read(&file).unwrap(), b"not a directory");
    let output = start(directory.path(), &[&grpc[..], &["/proc/none"]].concat(), &[]);
    names_once(&output, &["\"/proc/none\""]);
    // A directory with someone else's files is not made into a node's.
    let foreign = directory.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("thesis.txt"), "years of work").unwrap();
    names_once(&start(directory.path(), &[&grpc[..], &["foreign"]].concat(), &[]), &["foreign"]);
    let count = std::fs::read_dir(&foreign).unwrap().count();
    assert_eq!(count, 1, "a refused start leaves nothing behind");
}

#[test]
fn a_read_only_data_directory_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let sealed = directory.path().join("sealed");
    std::fs::create_dir(&sealed).unwrap();
    std::fs::set_permissions(&sealed, std::fs::Permissions::from_mode(0o500)).unwrap();
    if std::fs::write(sealed.join("probe"), "").is_ok() {
        eprintln!("skipped: a read-only directory does not stop this user (root)");
        return;
    }
    names(&start(directory.path(), &["--grpc", "127.0.0.1:0", "--data-dir", "sealed"], &[]), &["sealed"]);
}

/// Runs a command, for people to read.
async fn run(served: &Served, arguments: &[&str]) -> Output {
    cli(&[arguments, &["--endpoint", &served.node.url()]].concat()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn port_0_and_a_second_node_on_one_directory() {
    let mut served = served().await;
    assert!(served.node.ready_line.contains(&served.node.grpc), "{}", served.node.ready_line);
    // The directory is taken while its owner lives, and free when it was killed.
    let data = served.node.data.display().to_string();
    let output = start(served.directory.path(), &["--grpc", "127.0.0.1:0", "--data-dir", &data], &[]);
    names_once(&output, &[&data, "another node has it open"]);
    served.node.kill().await;
    // It is another node's, or of another cluster.
    let of_another =
        start(served.directory.path(), &["--grpc", "127.0.0.1:0", "--data-dir", &data, "--node-id", "2"], &[]);
    names_once(&of_another, &[&data, "it belongs to node 1, but node.id = 2"]);
    few_lines(&of_another);
    let peers = "1=127.0.0.1:7001,2=127.0.0.1:7002,3=127.0.0.1:7003";
    let of_another =
        start(served.directory.path(), &["--grpc", "127.0.0.1:0", "--data-dir", &data, "--peers", peers], &[]);
    names_once(&of_another, &[&data, "its voters are [1]"]);
    few_lines(&of_another);
    served.node.grpc = "127.0.0.1:0".to_owned();
    served.node.start().await;
    let line = served.node.ready_line.clone();
    let port = line.split("127.0.0.1:").filter_map(|rest| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u16>().ok()
    });
    let ports: Vec<u16> = port.filter(|port| *port != 0).collect();
    assert!(!ports.is_empty(), "the ready line names the port that the system chose: {line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn append_get_snapshot_and_load_answer_in_json_for_programs() {
    let served = served().await;
    let appended = served.json(&["append", "orders", "facts", "hello"]).await;
    assert!(appended.to_string().contains("\"sequence\":1"), "{appended}");
    let read = served.json(&["get", "orders", "--after", "0", "--limit", "10"]).await;
    assert!(read.to_string().contains("facts"), "{read}");
    let blob = served.directory.path().join("orders.snapshot").display().to_string();
    let taken = run(&served, &["snapshot", "orders", "--file", &blob]).await;
    assert!(taken.status.success(), "{taken:?}");
    let loaded = run(&served, &["load", "copied", "--file", &blob]).await;
    assert!(loaded.status.success(), "{loaded:?}");
    assert!(String::from_utf8_lossy(&loaded.stdout).contains("1 entry restored"), "{loaded:?}");
    let again = run(&served, &["load", "copied", "--file", &blob]).await;
    let said = String::from_utf8_lossy(&again.stdout).into_owned();
    assert!(said.contains("nothing restored: copied already holds all of the snapshot, 1 entry"), "{again:?}");
    let again = served.json(&["load", "copied", "--file", &blob]).await;
    assert_eq!((&again["entries_restored"], &again["already_there"]), (&0.into(), &1.into()), "{again}");
    let status = served.json(&["status"]).await;
    for field in [
        "node_id",
        "cluster_id",
        "role",
        "leader_id",
        "term",
        "commit_index",
        "applied_index",
        "last_position",
        "peers",
        "alarms",
    ] {
        assert!(!status[field].is_null(), "status lacks {field}: {status}");
    }
    assert_eq!(status["role"], "leader");
    let tree = served.json(&["tree"]).await;
    for actor in ["storage", "replication", "entry", "watch", "listener", "connections"] {
        assert!(tree.to_string().contains(actor), "the tree lacks {actor}: {tree}");
    }
    for people in [&["status"][..], &["tree"], &["get", "orders"]] {
        let output = run(&served, people).await;
        assert!(output.status.success() && !output.stdout.is_empty(), "{people:?}: {output:?}");
    }
}

/// Lines of `tree --watch`, as a program reads them.
fn watch_tree(served: &Served) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = tokio::process::Command::new(binary())
        .args(["tree", "--watch", "--interval", "100ms", "--output", "json", "--endpoint", &served.node.url()])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tree_can_be_watched_until_a_signal() {
    let mut served = served().await;
    let (mut child, mut lines) = watch_tree(&served);
    let mut next = async || -> serde_json::Value {
        let line = timeout(Duration::from_secs(20), lines.next_line()).await.expect("a look in every interval");
        serde_json::from_str(&line.unwrap().expect("it goes on")).unwrap()
    };
    let handled = |look: &serde_json::Value| {
        let entry = look["nodes"].as_array()?.iter().find(|node| node["path"] == "root/ledger/entry")?;
        assert_eq!(entry["state"], "running");
        assert!(entry["mailbox"].is_u64() && entry["phase"].is_string(), "{entry}");
        entry["handled"].as_u64()
    };
    let before = handled(&next().await).expect("the entry actor is in the tree");
    assert!(run(&served, &["append", "orders", "facts", "hello"]).await.status.success());
    while handled(&next().await).is_some_and(|now| now <= before) {}
    // A node that is gone is shown as such, and asked again.
    served.node.kill().await;
    while next().await["error"].is_null() {}
    let id = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-s", "INT", &id]).status().unwrap().success());
    let ended = timeout(Duration::from_secs(20), child.wait()).await.expect("a signal ends it").unwrap();
    assert!(ended.success(), "{ended}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_codes_say_what_happened() {
    let served = served().await;
    let code = |output: Output| (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned());
    let url = served.node.url();

    assert_eq!(code(cli(&["append"]).await).0, Some(USAGE));
    assert_eq!(code(cli(&["no-such-command"]).await).0, Some(USAGE));
    let nobody = format!("http://{}", free_address());
    let (unavailable, error) = code(cli(&["get", "orders", "--endpoint", &nobody]).await);
    assert_eq!(unavailable, Some(UNAVAILABLE), "{error}");
    assert!(error.contains(&nobody) || error.contains(nobody.trim_start_matches("http://")), "{error}");
    let (usage, error) = code(cli(&["get", "orders", "--endpoint", "not a url"]).await);
    assert!(usage.is_some_and(|code| code != 0) && error.contains("not a url"), "{error}");

    assert!(run(&served, &["append", "orders", "facts", "hello"]).await.status.success());
    let blob = served.directory.path().join("blob").display().to_string();
    assert!(run(&served, &["snapshot", "orders", "--file", &blob]).await.status.success());
    let (exists, error) = code(run(&served, &["load", "orders", "--file", &blob, "--fail-if-exists"]).await);
    assert_eq!(exists, Some(PRECONDITION), "{error}");
    std::fs::write(&blob, "garbage").unwrap();
    let (integrity, error) = code(run(&served, &["load", "fresh", "--file", &blob]).await);
    assert_eq!(integrity, Some(INTEGRITY), "{error}");
    assert!(error.contains(&blob), "{error}");
    let (absent, error) = code(run(&served, &["load", "fresh", "--file", "/no/such/file"]).await);
    assert!(absent == Some(1) && error.contains("\"/no/such/file\""), "{absent:?} {error}");
    let (directory, error) = code(run(&served, &["load", "fresh", "--file", "."]).await);
    assert!(directory == Some(1) && error.contains("cannot read \".\"") && error.contains("--file"), "{error}");
    let (empty, error) = code(cli(&["append", "", "facts", "x", "--endpoint", &url]).await);
    assert!(empty.is_some_and(|code| code != 0), "an empty context is refused: {error}");
}

/// Exit code and complaint of a command that talks to nobody.
fn refused(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(binary()).args(arguments).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn what_an_argument_cannot_do_is_refused_at_once() {
    let (code, error) = refused(&["tree", "--watch", "--interval", "5ms"]);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("100 ms and more"), "{error}");
}
