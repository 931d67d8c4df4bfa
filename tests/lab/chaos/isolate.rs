//! Runs the command once more, in namespaces of its own.
//!
//! Whatever it starts, mounts and names there ends with its first process, however that ends. The namespaces are root's,
//! or a user's who may make them. Where neither is possible, [`flags`] says why.

use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::system;
use converge_ledger::cli::Failure;

/// Names the directory that the process inside works in.
pub(super) const INSIDE: &str = "--inside";
const NAMESPACES: &[&str] = &["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
const AS_USER: &[&str] = &["--user", "--map-root-user"];
/// What was told to end does so within this time.
const END: Duration = Duration::from_secs(15);
/// Hidden inside: the names of network namespaces stand there.
const HIDDEN: &str = "/run";

/// How `unshare` makes the namespaces here.
pub(super) async fn flags(paths: &[&Path]) -> Result<Vec<&'static str>, String> {
    for path in paths {
        let path = std::path::absolute(path).map_err(|error| format!("{path:?}: {error}"))?;
        if path.starts_with(HIDDEN) {
            return Err(format!("{path:?} is below {HIDDEN}, which is hidden inside"));
        }
    }
    let as_root = NAMESPACES.to_vec();
    let as_user = [AS_USER, NAMESPACES].concat();
    let mut why = String::new();
    for flags in [as_root, as_user] {
        let words = [&["unshare"], flags.as_slice(), &["true"]].concat();
        match system::run(&words).await {
            Ok(_) => return Ok(flags),
            Err(error) => why = error,
        }
    }
    Err(why)
}

/// Runs this process's command inside, until it ends; gives its exit code. It ends, too, when this process does: its
/// stdin does then.
pub(super) async fn run(
    flags: &[&str],
    directory: &Path,
    interrupted: impl Future<Output = ()>,
) -> Result<i32, Failure> {
    let failed = |error: std::io::Error| Failure::error(format!("cannot run in namespaces: {error}"));
    let program = std::env::current_exe().map_err(failed)?;
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let mut child = Command::new("unshare")
        .args(flags)
        .arg("--")
        .arg(program)
        .args(arguments)
        .arg(INSIDE)
        .arg(directory)
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let leash = child.stdin.take();
    let ended = tokio::select! {
        ended = child.wait() => ended,
        () = interrupted => {
            drop(leash);
            match timeout(END, child.wait()).await {
                Ok(ended) => ended,
                Err(_) => return Err(Failure::error("interrupted, and what ran inside did not end: killed")),
            }
        }
    };
    Ok(ended.map_err(failed)?.code().unwrap_or(1))
}
