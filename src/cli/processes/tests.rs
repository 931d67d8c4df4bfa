//! Nothing is left behind, and nothing is removed that is somebody's.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::{Cluster, Directory, Process};

fn sleeper(directory: &Path, id: u64) -> Process {
    let mut sleeper = Process::new(directory, id, String::new(), String::new());
    sleeper.through = ["sh", "-c", "exec sleep 600"].map(str::to_owned).to_vec();
    sleeper
}

#[test]
fn a_panic_leaves_neither_processes_nor_files_behind() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (mut path, mut pids) = (None, Vec::new());
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            let directory = Directory::new("test", None, "--flag").unwrap();
            let mut cluster = Cluster::new((1..=2).map(|id| sleeper(directory.path(), id)).collect());
            cluster.nodes.iter_mut().for_each(|node| node.spawn().unwrap());
            // One that was stopped is killed all the same.
            cluster.nodes[0].signal("STOP").await.unwrap();
            pids = cluster.nodes.iter().map(|node| node.pid().unwrap()).collect();
            path = Some(directory.path().to_owned());
            let at_work = |pid: &u32| Path::new(&format!("/proc/{pid}")).exists();
            assert!(pids.iter().all(at_work) && directory.path().exists());
            std::panic::panic_any("something that nobody foresaw");
        })
    }));
    assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"something that nobody foresaw"));
    assert!(!path.unwrap().exists());
    for pid in pids {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "process {pid} is left");
    }
}

#[test]
fn a_directory_that_holds_something_is_neither_taken_nor_removed() {
    let parent = tempfile::tempdir().unwrap();
    std::fs::write(parent.path().join("mine"), "").unwrap();
    let taken = Directory::new("test", Some(parent.path().to_owned()), "--flag");
    let failure = taken.err().expect("it is not empty").to_string();
    assert!(failure.contains("not empty") && failure.contains("--flag"), "{failure}");
    assert!(parent.path().join("mine").exists());
    let named = parent.path().join("new");
    drop(Directory::new("test", Some(named.clone()), "--flag").unwrap());
    assert!(named.exists(), "the user's stays");
}
