//! Programs of the system that do what needs privileges.

use std::process::Stdio;

use tokio::process::Command;

/// Runs one to its end; gives what it printed, or says why it failed.
pub(super) async fn run(words: &[&str]) -> Result<String, String> {
    let Some((program, arguments)) = words.split_first() else { return Err("no command".into()) };
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output = output.map_err(|error| format!("`{program}`: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next().unwrap_or("it said nothing");
    Err(format!("`{}`: {said}", words.join(" ")))
}
