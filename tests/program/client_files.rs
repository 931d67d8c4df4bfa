//! The files that the commands of a client read and write: imports that are corrected, piped and fed back, and copies
//! to what is a file and what is none.
#![cfg(feature = "cli")]
#![allow(missing_docs, dead_code, clippy::print_stderr)]

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;

use crate::support::node::Node;
use crate::support::program::binary;
use crate::support::served::{PATIENCE, Served, served};
use crate::support::until;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::Notify;
use tokio::time::timeout;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn report(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

impl Served {
    /// Writes a file, and appends its lines.
    async fn import(&self, context: &str, content: &[u8], more: &[&str]) -> Output {
        let path = self.path("import.jsonl");
        std::fs::write(&path, content).unwrap();
        self.run(&[&["append", context, "--from", path.to_str().unwrap()], more].concat()).await
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn snapshot(&self, file: &Path, more: &[&str]) -> Output {
        self.run(&[&["snapshot", "orders", "--file", file.to_str().unwrap()], more].concat()).await
    }

    /// What a load of the file restores.
    async fn restored(&self, context: &str, file: &Path) -> Value {
        self.json(&["load", context, "--file", file.to_str().unwrap()]).await["entries_restored"].clone()
    }

    /// What one watch prints of so many entries, line by line.
    async fn watched(&self, context: &str, count: usize) -> Vec<u8> {
        let output = self.run(&["watch", context, "--count", &count.to_string()]).await;
        assert!(output.status.success(), "{output:?}");
        output.stdout
    }

    /// Key, payload and metadata of all entries.
    async fn contents(&self, context: &str) -> Vec<[Value; 4]> {
        let read = self.json(&["get", context]).await;
        let field = |entry: &Value, name: &str| entry[name].clone();
        let entries = read["entries"].as_array().unwrap().iter();
        entries.map(|entry| ["key", "payload", "payload_base64", "metadata"].map(|name| field(entry, name))).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_is_appended_while_its_pipe_stays_open() {
    let served = served().await;
    let known: String = (0..5).map(|n| format!("{{\"payload\":\"{n}\"}}\n")).collect();
    report(&served.import("orders", known.as_bytes(), &[]).await);
    let mut piped = served.command(&["append", "orders", "--from", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = piped.stdin.take().unwrap();
    stdin.write_all(known.as_bytes()).await.unwrap();
    for next in 5..8 {
        stdin.write_all(format!("{{\"payload\":\"{next}\"}}\n").as_bytes()).await.unwrap();
        // It comes although nothing follows it.
        served.watched("orders", next + 1).await;
    }
    drop(stdin);
    let output = timeout(PATIENCE, piped.wait_with_output()).await.unwrap().unwrap();
    let report = report(&output);
    assert_eq!((&report["appended"], &report["already_there"]), (&3.into(), &5.into()), "{report}");
    assert_eq!(served.payloads("orders").await, (0..8).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spacing_and_order_of_fields_do_not_double_an_entry() {
    let served = served().await;
    let first = "{\"key\":\"a\",\"payload\":\"x\"}\n\n{\"key\":\"a\",\"payload\":\"x\"}\n\
                 {\"payload\":\"\u{fc}\",\"metadata\":{\"m\":\"1\",\"n\":\"2\"}}\n{\"payload\":\"last\"}\n";
    let appended = report(&served.import("orders", first.as_bytes(), &[]).await);
    assert_eq!(appended["appended"], 4);
    let second = "\u{feff}{ \"payload\" : \"x\", \"key\":\"a\"}\r\n{\"key\":\"a\",\"payload\":\"x\"}\r\n\r\n\
                  {\"metadata\":{\"n\":\"2\",\"m\":\"1\"},\"payload_base64\":\"w7w=\"}\r\n{\"payload\":\"last\"}";
    let again = served.import("orders", second.as_bytes(), &[]).await;
    assert_eq!((&report(&again)["appended"], &report(&again)["already_there"]), (&0.into(), &4.into()), "{again:?}");
    assert_eq!(text(&again.stderr), "", "nothing to say");
    // A line that was corrected is another entry, and stands after those that were there.
    let corrected = second.replace("w7w=", "eA==");
    let output = served.import("orders", corrected.as_bytes(), &[]).await;
    let counts = report(&output);
    assert_eq!((&counts["appended"], &counts["already_there"]), (&1.into(), &3.into()), "{counts}");
    assert_eq!(counts["out_of_order"], 1, "{counts}");
    assert!(text(&output.stderr).contains("import.jsonl:4"), "{output:?}");
    assert_eq!(served.payloads("orders").await, ["x", "x", "\u{fc}", "last", "x"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_none_of_which_is_there_is_told() {
    let served = served().await;
    let directory = served.run(&["append", "orders", "--from", served.directory.path().to_str().unwrap()]).await;
    assert_eq!(directory.status.code(), Some(1));
    assert!(text(&directory.stderr).contains("check --from"), "{directory:?}");
    let fresh = served.import("orders", b"{\"payload\":\"1\"}\n", &["--resume"]).await;
    assert_eq!(report(&fresh)["appended"], 1, "a context without entries has nothing that could be doubled");
    let other = b"{\"payload\":\"one\"}\n{\"payload\":\"two\"}\n";
    let refused = served.import("orders", other, &["--resume"]).await;
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");
    assert!(
        text(&refused.stderr).contains("import.jsonl:1") && text(&refused.stderr).contains("--resume"),
        "{refused:?}"
    );
    assert_eq!(served.payloads("orders").await, ["1"]);
    let told = served.import("orders", other, &[]).await;
    assert_eq!(report(&told)["entries_before"], 1);
    assert!(text(&told.stderr).contains("none of") && text(&told.stderr).contains("--resume"), "{told:?}");
    let known = served.import("orders", other, &["--resume"]).await;
    assert_eq!((&report(&known)["already_there"], text(&known.stderr)), (&2.into(), String::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_whose_keys_may_be_forgotten_is_not_appended_twice() {
    const WINDOW: usize = 1024;
    let directory = tempfile::tempdir().unwrap();
    let mut node = Node::new(directory.path(), 1);
    node.environment.insert("CONVERGE_LEDGER__CLUSTER__KEY_WINDOW".to_owned(), WINDOW.to_string());
    node.start().await;
    let served = Served { node, directory };
    let lines =
        |count: usize| (0..count).map(|n| format!("{{\"payload\":\"{n}\"}}\n")).collect::<String>().into_bytes();
    let part = lines(WINDOW / 2);
    assert_eq!(report(&served.import("orders", &part, &[]).await)["appended"], WINDOW / 2);
    assert_eq!(report(&served.import("orders", &part, &[]).await)["already_there"], WINDOW / 2);
    assert_eq!(report(&served.import("others", &lines(WINDOW), &[]).await)["appended"], WINDOW);
    let refused = served.import("orders", &part, &[]).await;
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");
    assert!(text(&refused.stderr).contains("import.jsonl:1") && text(&refused.stderr).contains("--new"), "{refused:?}");
    assert_eq!(served.payloads("orders").await.len(), WINDOW / 2, "nothing was appended");
    assert_eq!(report(&served.import("fresh", &part, &[]).await)["appended"], WINDOW / 2, "it had no entries");
    assert_eq!(report(&served.import("orders", &part, &["--new"]).await)["appended"], WINDOW / 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_reads_print_can_be_appended() {
    let served = served().await;
    let lines = "{\"key\":\"k\",\"payload\":\"te\u{0}xt \\\"q\\\"\",\"metadata\":{\"n\":\"v\"}}\n{\"payload\":\"\"}\n\
                 {\"payload_base64\":\"/w==\"}\n{\"payload\":\"\"}\n";
    report(&served.import("orders", lines.replace('\u{0}', "\\u0000").as_bytes(), &[]).await);
    let contents = served.contents("orders").await;
    let got = served.run(&["get", "orders"]).await;
    let watched = served.watched("orders", 4).await;
    for (context, printed) in [("of-get", &got.stdout), ("of-watch", &watched)] {
        let report = report(&served.import(context, printed, &[]).await);
        assert_eq!(report["appended"], 4, "{report}");
        assert_eq!(served.contents(context).await, contents);
    }
    // One identity, whatever the form.
    let same = report(&served.import("of-watch", &got.stdout, &[]).await);
    assert_eq!((&same["appended"], &same["already_there"]), (&0.into(), &4.into()));
    let appended = served.run(&["append", "one", "k", "v", "--metadata", "a=b"]).await;
    report(&served.import("two", &appended.stdout, &[]).await);
    assert_eq!(served.contents("two").await, served.contents("one").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_larger_than_an_answer_pages_by_itself() {
    let directory = tempfile::tempdir().unwrap();
    let mut node = Node::new(directory.path(), 1);
    node.set("limits.payload_bytes", 4096);
    node.set("limits.response_bytes", 136 << 10);
    node.start().await;
    let served = Served { node, directory };
    let long = "x".repeat(3000);
    let lines: String = (0..150).map(|n| format!("{{\"key\":\"{}\",\"payload\":\"{n} {long}\"}}\n", n % 2)).collect();
    report(&served.import("orders", lines.as_bytes(), &[]).await);
    let all: Vec<String> = (0..150).map(|n| format!("{n} {long}")).collect();
    assert_eq!(served.payloads("orders").await, all);
    for (more, wanted) in [(&["--key", "1"][..], 75), (&["--limit", "140"], 140), (&["--after", "100"], 50)] {
        let read = served.json(&[&["get", "orders"], more].concat()).await;
        assert_eq!(read["entries"].as_array().unwrap().len(), wanted, "{more:?}");
        assert_eq!((&read["latest_sequence"], &read["context_id"]), (&150.into(), &"orders".into()));
    }
    let table = served.run(&["get", "orders", "--consistency", "stale"]).await;
    assert!(table.status.success(), "{table:?}");
    let empty = served.json(&["get", "nothing"]).await;
    assert_eq!(empty.to_string(), "{\"context_id\":\"nothing\",\"entries\":[],\"latest_sequence\":0}");
}

/// A node may be set to take less than any node may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_the_node_refuses_is_to_be_corrected() {
    let directory = tempfile::tempdir().unwrap();
    let mut node = Node::new(directory.path(), 1);
    node.set("limits.payload_bytes", 4096);
    node.start().await;
    let served = Served { node, directory };
    let long = format!("{{\"payload\":\"1\"}}\n{{\"payload\":\"2\"}}\n{{\"payload\":\"{}\"}}\n", "x".repeat(4097));
    let refused = served.import("orders", long.as_bytes(), &[]).await;
    let error = text(&refused.stderr);
    let words = ["import.jsonl:3: ", "4097 bytes", "correct it and run the command again", "its first 2 entries are"];
    assert!(refused.status.code() == Some(1) && words.iter().all(|word| error.contains(word)), "{error}");
    let counts: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!((&counts["appended"], &counts["refused"]), (&2.into(), &1.into()));
    // What an import prints is no entry.
    let told = served.import("orders", &refused.stdout, &[]).await;
    assert!(text(&told.stderr).contains("unknown field `already_there`"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_entries_of_another_source_are_others() {
    let served = served().await;
    let line = b"{\"payload\":\"tick\"}\n";
    for (source, appended) in [(&[][..], 1), (&["--source", "tuesday"], 1), (&["--source", "tuesday"], 0), (&[], 0)] {
        assert_eq!(report(&served.import("orders", line, source).await)["appended"], appended, "{source:?}");
    }
}

/// Some entries that do not compress.
async fn filled(entries: usize) -> Served {
    let served = served().await;
    let noise = || (0..3000).map(|_| char::from(rand::random_range(b'0'..=b'z'))).collect::<String>();
    let lines: String = (0..entries).map(|_| format!("{{\"payload\":{}}}\n", Value::from(noise()))).collect();
    report(&served.import("orders", lines.as_bytes(), &[]).await);
    served
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_replaces_the_file_that_a_name_leads_to() {
    let served = filled(3).await;
    let there = served.path("copies");
    std::fs::create_dir(&there).unwrap();
    let (file, link, dangling) = (there.join("file"), served.path("link"), served.path("dangling"));
    std::fs::write(&file, "mine").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    symlink("copies/file", &link).unwrap();
    symlink("copies/new", &dangling).unwrap();
    let refused = served.snapshot(&link, &[]).await;
    assert_eq!((refused.status.code(), std::fs::read(&file).unwrap()), (Some(2), b"mine".to_vec()), "{refused:?}");
    report(&served.snapshot(&link, &["--force"]).await);
    report(&served.snapshot(&dangling, &[]).await);
    for (link, file) in [(&link, &file), (&dangling, &there.join("new"))] {
        assert!(link.symlink_metadata().unwrap().is_symlink(), "{} stays a link", link.display());
        assert_eq!(served.restored(&format!("{}", file.display()), file).await, 3);
    }
    assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o640, "the file's permissions stay");
    let directory = served.snapshot(&there, &["--force"]).await;
    assert!(matches!(directory.status.code(), Some(1 | 2)), "{directory:?}");
    assert_eq!(names(&there), ["file", "new"], "nothing else is left there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_goes_through_what_is_no_file() {
    let served = filled(3).await;
    let (fifo, blob) = (served.path("fifo"), served.path("blob"));
    assert!(Command::new("mkfifo").arg(&fifo).status().await.unwrap().success());
    for force in [&[][..], &["--force"]] {
        let reader = async {
            let mut bytes = Vec::new();
            tokio::fs::File::open(&fifo).await.unwrap().read_to_end(&mut bytes).await.unwrap();
            bytes
        };
        let (written, read) = tokio::join!(served.snapshot(&fifo, force), timeout(PATIENCE, reader));
        report(&written);
        std::fs::write(&blob, read.unwrap()).unwrap();
        assert_eq!(served.restored(&format!("copy {force:?}"), &blob).await, 3);
        assert!(fifo.metadata().unwrap().file_type().is_fifo());
    }
    // The standard output, whatever it is called and wherever it goes.
    for name in ["-", "/dev/stdout", "/proc/self/fd/1"] {
        let out = std::fs::File::create(&blob).unwrap();
        let status = served.command(&["snapshot", "orders", "--file", name]).stdout(out).status().await.unwrap();
        assert!(status.success(), "{name}");
        assert_eq!(served.restored(&format!("of {name}"), &blob).await, 3);
    }
    // A device of our own: the machine's are not for tests.
    let device = served.path("null");
    let made = Command::new("mknod").args([device.to_str().unwrap(), "c", "1", "3"]).output().await.unwrap();
    if !made.status.success() || std::fs::OpenOptions::new().write(true).open(&device).is_err() {
        eprintln!("skipped: no device can be made here: {}", text(&made.stderr));
        return;
    }
    for force in [&[][..], &["--force"]] {
        report(&served.snapshot(&device, force).await);
        assert!(device.metadata().unwrap().file_type().is_char_device());
    }
    assert!(!names(served.directory.path()).iter().any(|name| name.contains("part")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_past_the_limit_of_files_or_told_to_stop_leaves_nothing() {
    let served = filled(60).await;
    let there = served.path("there");
    std::fs::create_dir(&there).unwrap();
    let script = "ulimit -f 20; exec \"$1\" snapshot orders --file \"$2/file\" --endpoint \"$3\"";
    let arguments = ["-c", script, "sh", binary(), there.to_str().unwrap(), &served.node.url()];
    let limited = Command::new("sh").args(arguments).output().await.unwrap();
    assert_eq!(limited.status.code(), Some(1), "{limited:?}");
    assert!(text(&limited.stderr).contains("File too large"), "{limited:?}");
    assert_eq!(names(&there), Vec::<String>::new());
    // It waits for a reader of the pipe, and would for ever.
    let fifo = there.join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().await.unwrap().success());
    let waiting = served.command(&["snapshot", "orders", "--file", fifo.to_str().unwrap()]).spawn().unwrap();
    let id = waiting.id().unwrap();
    // A signal that it handles, so that this is not before it can.
    let handles = || std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    until("it handles SIGTERM", PATIENCE, async || {
        let status = handles();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:\t")).unwrap();
        (u64::from_str_radix(caught, 16).unwrap() & (1 << 14) != 0).then_some(())
    })
    .await;
    assert!(Command::new("kill").args(["-TERM", &id.to_string()]).status().await.unwrap().success());
    let told = timeout(PATIENCE, waiting.wait_with_output()).await.unwrap().unwrap();
    assert_eq!(told.status.code(), Some(1), "{told:?}");
    assert_eq!(names(&there), ["fifo"]);
}

/// Takes connections for a node. The first one brings no answer back, and ends when told to.
async fn losing_the_first_answer(listener: TcpListener, node: String, lose: Arc<Notify>) {
    let (mut client, _) = listener.accept().await.unwrap();
    let mut server = TcpStream::connect(&node).await.unwrap();
    tokio::select! {
        _ = tokio::io::copy(&mut client, &mut server) => {}
        () = lose.notified() => {}
    }
    drop((client, server));
    loop {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect(&node).await.unwrap();
        tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_whose_answer_was_lost_does_not_blame_its_own_entries() {
    let served = filled(3).await;
    let blob = served.path("blob");
    report(&served.snapshot(&blob, &[]).await);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let through = format!("http://{}", listener.local_addr().unwrap());
    let lose = Arc::new(Notify::new());
    let proxy = tokio::spawn(losing_the_first_answer(listener, served.node.grpc.clone(), lose.clone()));
    let load = ["load", "copy", "--file", blob.to_str().unwrap(), "--fail-if-exists", "--endpoint", &through];
    let loading = served.command(&load).spawn().unwrap();
    // It is done, and the answer is lost.
    served.watched("copy", 3).await;
    lose.notify_one();
    let output = timeout(PATIENCE, loading.wait_with_output()).await.unwrap().unwrap();
    assert_eq!(output.status.code(), Some(3), "unknown, and not refused: {output:?}");
    assert!(text(&output.stderr).contains("this very load"), "{output:?}");
    proxy.abort();
    let known = served.run(&["load", "copy", "--file", blob.to_str().unwrap(), "--fail-if-exists"]).await;
    assert_eq!(known.status.code(), Some(4), "{known:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_fails_leaves_nothing_and_spoils_nothing() {
    let served = filled(60).await;
    let script = "mount -t tmpfs -o size=64k tmpfs \"$1\" || exit 77
        echo mine > \"$1/file\"
        for name in file new; do
            \"$2\" snapshot orders --file \"$1/$name\" --force --endpoint \"$3\"; echo \"exit $?\"
        done
        cat \"$1/file\"; ls -A \"$1\"";
    let small = served.path("small");
    std::fs::create_dir(&small).unwrap();
    let arguments = ["--mount", "sh", "-c", script, "sh", small.to_str().unwrap(), binary(), &served.node.url()];
    let output = Command::new("unshare").args(arguments).output().await.unwrap();
    if output.status.code() != Some(0) {
        eprintln!("skipped: no small file system can be mounted here: {}", text(&output.stderr));
        return;
    }
    assert_eq!(text(&output.stdout), "exit 1\nexit 1\nmine\nfile\n", "{output:?}");
    assert!(text(&output.stderr).contains("No space left"), "{output:?}");
}
