//! One node, and the commands of a client against it.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use super::node::Node;
use super::program::binary;

/// Long enough for a node to be killed and started again meanwhile.
const TIMEOUT: &str = "60s";
/// Nothing here takes longer.
pub const PATIENCE: Duration = Duration::from_secs(90);

pub struct Served {
    pub node: Node,
    pub directory: TempDir,
}

pub async fn served() -> Served {
    let directory = tempfile::tempdir().unwrap();
    let mut node = Node::new(directory.path(), 1);
    node.start().await;
    Served { node, directory }
}

impl Served {
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        let url = self.node.url();
        // Its own arguments win over these.
        command.env("CONVERGE_LEDGER_ENDPOINT", &url).args(arguments).args(["--output", "json"]);
        if !arguments.contains(&"--timeout") {
            command.args(["--timeout", TIMEOUT]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    pub async fn run(&self, arguments: &[&str]) -> Output {
        tokio::time::timeout(PATIENCE, self.command(arguments).output()).await.unwrap().unwrap()
    }

    pub async fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments).await;
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Payloads of a context in order, its sequences being 1, 2, 3 …
    pub async fn payloads(&self, context: &str) -> Vec<String> {
        let read = self.json(&["get", context]).await;
        let entries = read["entries"].as_array().unwrap();
        for (entry, sequence) in entries.iter().zip(1_u64..) {
            assert_eq!(entry["sequence"], sequence);
        }
        entries.iter().map(|entry| entry["payload"].as_str().unwrap().to_owned()).collect()
    }

    pub fn file(&self, lines: impl Iterator<Item = String>) -> PathBuf {
        let path = self.directory.path().join("events.jsonl");
        write(&path, lines);
        path
    }
}

pub fn write(path: &Path, lines: impl Iterator<Item = String>) {
    std::fs::write(path, lines.map(|line| format!("{line}\n")).collect::<String>()).unwrap();
}
