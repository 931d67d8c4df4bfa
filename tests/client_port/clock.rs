//! A process whose wall clock stands where no calendar of four digits goes: what it says and stores does not end it.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;

/// In front of the system's clock: another time of day, and all else as it is.
const SHIM: &str = r"
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *at) {
    int failed = (int)syscall(SYS_clock_gettime, id, at);
    if (!failed && id == CLOCK_REALTIME) at->tv_sec = SECONDSL;
    return failed;
}
";

/// A library that stops the clock of whoever loads it; none where no C compiler is.
fn stopped_clock(root: &Path, seconds: i64) -> Option<PathBuf> {
    let (source, library) = (root.join("clock.c"), root.join("clock.so"));
    std::fs::write(&source, SHIM.replace("SECONDS", &seconds.to_string())).unwrap();
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).output();
    match compiled {
        Ok(output) if output.status.success() => Some(library),
        other => {
            eprintln!("skipped: no library can be made here: {other:?}");
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_time_of_day_ends_a_node() {
    // 1938, and the year 10000; the latter is past what 64 bits of nanoseconds hold, too.
    for (seconds, stamp) in [(-1_000_000_000, 0), (253_402_300_800, u64::MAX)] {
        let root = tempfile::tempdir().unwrap();
        let Some(library) = stopped_clock(root.path(), seconds) else { return };
        let mut node = node(&root);
        node.through = vec!["env".to_owned(), format!("LD_PRELOAD={}", library.display())];
        node.start().await;
        let channel = node.channel();
        put(&channel, "c", 1).await;
        let answer = wire::get(&channel, Request::new(get("c"))).await.unwrap();
        assert!(!answer.metadata().contains_key("date"), "{:?}", answer.metadata());
        assert_eq!(answer.into_inner().entries[0].appended_at_ns, stamp, "the clock was not moved");
        assert!(!node.log().contains("panicked"), "{}", node.log_tail());
        node.terminate(PATIENCE).await;
    }
}
