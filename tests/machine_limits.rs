//! What a real process does where the machine gives it little: few descriptors, short files, a small disk.
//!
//! A file system that can be made small needs the right to mount one; where that is missing, those tests say so.
#![cfg(feature = "cli")]
#![allow(missing_docs, clippy::print_stderr)]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use support::node::{Node, READY};
use support::program::binary;
use support::until;
use support::wire::{self, AppendRequest};
use tonic::transport::Channel;
use tonic::{Code, Status};

const MIB: usize = 1 << 20;

/// The node under limits of the shell.
fn limited(node: &mut Node, limit: &str) {
    node.through = ["sh", "-c", &format!("{limit} && exec \"$@\""), "sh"].map(str::to_owned).to_vec();
}

async fn append(channel: &Channel, payload: Vec<u8>) -> Result<(), Status> {
    let request = AppendRequest { context_id: "c".into(), key: "k".into(), payload, ..AppendRequest::default() };
    wire::append(channel, tonic::Request::new(request)).await.map(|_| ())
}

async fn alarms(node: &Node) -> Option<String> {
    let status = node.status().await?;
    Some(format!("{} {}", status["phase"], status["alarms"]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn few_descriptors_and_many_clients_fence_nobody() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::new(root.path(), 1);
    limited(&mut node, "ulimit -n 256");
    node.start().await;
    assert!(node.log().contains("grpc.connections is cut from 512 to"), "{}", node.log_tail());
    let channel = node.channel();
    append(&channel, vec![1]).await.unwrap();
    let mut idle = Vec::new();
    for _ in 0..512 {
        idle.push(tokio::time::timeout(READY, tokio::net::TcpStream::connect(&node.grpc)).await.unwrap().unwrap());
    }
    // More than two journal files of 64 MiB: a third has to be opened.
    for number in 0..160 {
        append(&channel, vec![number; MIB]).await.unwrap();
    }
    drop(idle);
    // That clients were too many is an alarm of its own.
    let alarms = until("an answer", READY, || alarms(&node)).await;
    assert!(alarms.contains("serving") && !alarms.contains("files"), "{alarms}");
    assert!(!node.log().contains("fenced"), "{}", node.log_tail());
    node.kill().await;
}

#[tokio::test]
async fn a_limit_of_file_sizes_is_an_error_with_words() {
    let root = tempfile::tempdir().unwrap();
    let mut node = Node::new(root.path(), 1);
    limited(&mut node, "ulimit -f 4096");
    node.spawn();
    let status = node.exit(READY).await;
    assert!(status.code().is_some_and(|code| code != 0), "{status}");
    assert!(node.log().contains("File too large"), "{}", node.log_tail());
}

/// A file system in memory, unmounted in the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(root: &Path, size: &str) -> Option<SmallDisk> {
        let path = root.join("small");
        std::fs::create_dir(&path).unwrap();
        let options = format!("size={size}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&path).output();
        match mounted {
            Ok(output) if output.status.success() => Some(SmallDisk(path)),
            other => {
                eprintln!("skipped: a small file system cannot be mounted here: {other:?}");
                None
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_cannot_be_written_can_be_inspected() {
    let root = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(root.path(), "400m") else { return };
    let mut node = Node::new(root.path(), 1);
    node.data = disk.0.join("data");
    node.start().await;
    append(&node.channel(), vec![1]).await.unwrap();
    assert!(node.terminate(READY).await.success());
    assert!(Command::new("mount").args(["-o", "remount,ro"]).arg(&disk.0).status().unwrap().success());
    let copies = tempfile::tempdir().unwrap();
    let inspect = |what: &str| {
        let mut command = Command::new(binary());
        command.args(["inspect", what, "--output", "json", "--data-dir"]).arg(&node.data);
        command.env("TMPDIR", copies.path()).output().unwrap()
    };
    for what in ["summary", "verify"] {
        let output = inspect(what);
        assert!(output.status.success(), "{output:?}");
        let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(shown["entries"], 1, "{shown}");
        assert_eq!(std::fs::read_dir(copies.path()).unwrap().count(), 0, "the copy is gone");
    }
    let refused = inspect("rebuild-index");
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("make it writable"), "{refused:?}");

    let other = tempfile::tempdir().unwrap();
    let Some(little) = SmallDisk::mount(other.path(), "1m") else { return };
    let look = |copies: &Path| {
        let mut command = Command::new(binary());
        command.args(["inspect", "verify", "--data-dir"]).arg(&node.data).env("TMPDIR", copies);
        command
    };
    let refused = look(&little.0).output().unwrap();
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("more room in TMPDIR"), "{refused:?}");
    assert_eq!(std::fs::read_dir(&little.0).unwrap().count(), 0, "nothing was begun");
    // Whether it is interrupted while it copies, or is done by then: nothing stays.
    let mut interrupted = look(copies.path()).spawn().unwrap();
    let begun = || {
        let begun = std::fs::read_dir(copies.path()).unwrap().next().is_some();
        std::future::ready((begun || interrupted.try_wait().unwrap().is_some()).then_some(()))
    };
    until("a copy", READY, begun).await;
    if interrupted.try_wait().unwrap().is_none() {
        let _ = Command::new("kill").args(["-INT", &interrupted.id().to_string()]).status().unwrap();
    }
    interrupted.wait().unwrap();
    assert_eq!(std::fs::read_dir(copies.path()).unwrap().count(), 0, "the copy is gone");
}

/// A process goes on writing into files that nobody would ever find.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_is_removed_or_moved_away_fences_its_process() {
    for moved in [false, true] {
        let root = tempfile::tempdir().unwrap();
        let mut node = Node::new(root.path(), 1);
        node.start().await;
        append(&node.channel(), vec![1]).await.unwrap();
        if moved {
            std::fs::rename(&node.data, root.path().join("away")).unwrap();
        } else {
            // The node may be making a file there.
            until("the removal", READY, || async { std::fs::remove_dir_all(&node.data).ok() }).await;
        }
        let fenced = || async { alarms(&node).await.filter(|alarms| alarms.contains("fenced")) };
        until("the fence", READY, fenced).await;
        append(&node.channel(), vec![1]).await.unwrap_err();
        assert!(!node.data.exists(), "another ledger was made in its place");
        node.kill().await;
    }
}

/// Somebody makes room by moving the ledger itself elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_not_left_for_a_directory_that_was_moved_away() {
    let root = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(root.path(), "400m") else { return };
    let mut node = Node::new(root.path(), 1);
    node.data = disk.0.join("data");
    node.set("storage.free_bytes_min", 0);
    node.start().await;
    let ballast = disk.0.join("ballast");
    std::fs::write(&ballast, vec![0; 400 * MIB]).unwrap_err();
    let mut appended = 0;
    while append(&node.channel(), vec![1; MIB]).await.is_ok() {
        appended += 1;
        assert!(appended < 400, "the disk does not fill up");
    }
    let full = || async { alarms(&node).await.filter(|alarms| alarms.contains("no room")) };
    until("the full disk", READY, full).await;
    let away = root.path().join("away");
    assert!(Command::new("mv").arg(&node.data).arg(&away).status().unwrap().success());
    std::fs::remove_file(&ballast).unwrap();
    let gone = || async { alarms(&node).await.filter(|alarms| alarms.contains("its files are gone")) };
    until("the fence", READY, gone).await;
    append(&node.channel(), vec![1]).await.unwrap_err();
    assert!(!node.data.exists(), "another ledger was made in its place");
    node.kill().await;
    node.data = away;
    node.start().await;
    let status = until("a status", READY, || node.status()).await;
    assert!(status["last_position"].as_u64() >= Some(appended), "{status}: an acknowledged entry is lost");
    assert!(node.terminate(Duration::from_secs(60)).await.success());
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_first_start_on_a_full_disk_fails_with_the_reason() {
    let root = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(root.path(), "6m") else { return };
    for mark in [None, Some(0)] {
        let mut node = Node::new(root.path(), 1);
        node.data = disk.0.join("data");
        if let Some(mark) = mark {
            node.set("storage.free_bytes_min", mark);
        }
        node.spawn();
        let status = node.exit(READY).await;
        assert!(status.code().is_some_and(|code| code != 0), "{status}");
        let log = node.log();
        assert!(log.contains("room") && log.contains("make room"), "{}", node.log_tail());
    }
}

/// All that was acknowledged is in the journal; what recovery and a new start have to store finds no room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_started_on_a_full_disk_goes_on_when_there_is_room() {
    let root = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(root.path(), "400m") else { return };
    let mut node = Node::new(root.path(), 1);
    node.data = disk.0.join("data");
    node.set("storage.free_bytes_min", 64 * MIB);
    let ballast = disk.0.join("ballast");
    let mut appended = 0;
    for kills in [true, false] {
        node.start().await;
        let channel = node.channel();
        until("an append", READY, || async { append(&channel, vec![1; MIB]).await.ok() }).await;
        for _ in 1..10 {
            append(&channel, vec![1; MIB]).await.unwrap();
        }
        appended += 10;
        if kills {
            node.kill().await;
        } else {
            assert!(node.terminate(READY).await.success());
        }
        std::fs::write(&ballast, vec![0; 400 * MIB]).unwrap_err();
        node.start().await;
        let pid = node.pid();
        // Whether recovery has to write, and so fences, depends on what the database had taken before.
        let full = || async { alarms(&node).await.filter(|alarms| alarms.contains("room")) };
        let alarm = until("the alarm", READY, full).await;
        eprintln!("killed: {kills}, {alarm}");
        let refused = append(&node.channel(), vec![1]).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
        std::fs::remove_file(&ballast).unwrap();
        let channel = node.channel();
        until("room again", READY, || async { append(&channel, vec![1; MIB]).await.ok() }).await;
        appended += 1;
        assert_eq!(node.pid(), pid, "the same process");
        let status = until("a status", READY, || node.status()).await;
        assert!(status["last_position"].as_u64() >= Some(appended), "{status}");
        assert!(node.terminate(Duration::from_secs(60)).await.success());
    }
    drop(disk);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_stop_below_the_mark_and_go_on_above_it() {
    let root = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(root.path(), "400m") else { return };
    let mut node = Node::new(root.path(), 1);
    node.data = disk.0.join("data");
    node.set("storage.free_bytes_min", 64 * MIB);
    node.start().await;
    let channel = node.channel();
    append(&channel, vec![1]).await.unwrap();
    let ballast = disk.0.join("ballast");
    let room = |free: usize| {
        let used =
            |path: &Path| std::fs::metadata(path).map_or(0, |data| std::os::unix::fs::MetadataExt::blocks(&data) * 512);
        let files = std::fs::read_dir(&node.data).unwrap().map(|file| used(&file.unwrap().path())).sum::<u64>();
        std::fs::write(&ballast, vec![0; 400 * MIB - free - usize::try_from(files).unwrap()])
    };
    // The node takes room for a journal file when it likes, also between the look and the writing.
    while let Err(error) = room(40 * MIB) {
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
        std::fs::remove_file(&ballast).unwrap();
    }
    // A journal file that is being made meanwhile may take it from little room to none.
    let short = || async { alarms(&node).await.filter(|alarms| alarms.contains("the disk has")) };
    until("the alarm", READY, short).await;
    let refused = append(&channel, vec![1; MIB]).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    assert!(refused.message().contains("room"), "{refused:?}");
    assert_eq!(refused.metadata().get("x-ledger-outcome").unwrap(), "refused");
    std::fs::remove_file(&ballast).unwrap();
    until("room again", READY, || async { append(&channel, vec![1; MIB]).await.ok() }).await;
    let pid = node.pid();
    // Somebody takes all the room at once, and gives it back.
    std::fs::write(&ballast, vec![0; 400 * MIB]).unwrap_err();
    let mut taken = 0;
    while append(&channel, vec![1; MIB]).await.is_ok() && taken < 200 {
        taken += 1;
    }
    std::fs::remove_file(&ballast).unwrap();
    until("room again", READY, || async { append(&channel, vec![1; MIB]).await.ok() }).await;
    let alarms =
        until("no alarm", READY, || async { alarms(&node).await.filter(|alarms| alarms.contains("[]")) }).await;
    assert!(alarms.contains("serving"), "{alarms}");
    assert_eq!(node.pid(), pid, "the same process");
    assert!(node.terminate(Duration::from_secs(60)).await.success());
    drop(disk);
}
