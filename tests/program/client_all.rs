//! The commands that show all contexts, against the real binary.
#![cfg(feature = "cli")]
#![allow(missing_docs, dead_code)]

use crate::support::node::cli;
use crate::support::served::{Served, served};
use serde_json::Value;

const ENTRIES: u64 = 12;

/// Entries of three contexts by turns, "a", "b" and "bc".
async fn filled() -> Served {
    let served = served().await;
    for n in 0..ENTRIES {
        let context = ["a", "b", "bc"][(n % 3) as usize];
        let done = served.json(&["append", context, "k", &format!("p{}", n + 1)]).await;
        assert_eq!(done["position"], n + 1, "{done}");
    }
    served
}

fn positions(read: &Value) -> Vec<u64> {
    let entries = read["entries"].as_array().unwrap();
    for entry in entries {
        let position = entry["position"].as_u64().unwrap();
        let context = ["a", "b", "bc"][((position - 1) % 3) as usize];
        let expected = (context, (position - 1) / 3 + 1, format!("p{position}"));
        assert_eq!(
            (&entry["context_id"], &entry["sequence"], &entry["payload"]),
            (&expected.0.into(), &expected.1.into(), &expected.2.into())
        );
    }
    entries.iter().map(|entry| entry["position"].as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_contexts_are_read_and_followed_by_position() {
    let served = filled().await;
    for (more, expected) in [
        (&[][..], (1..=12).collect::<Vec<u64>>()),
        (&["--after", "9"], vec![10, 11, 12]),
        (&["--after", "12"], vec![]),
        (&["--after", "2", "--limit", "3"], vec![3, 4, 5]),
        (&["--reverse", "--limit", "3"], vec![12, 11, 10]),
        (&["--reverse", "--after", "4"], vec![3, 2, 1]),
        (&["--reverse", "--after", "1"], vec![]),
        (&["--consistency", "stale", "--min-position", "12", "--after", "11"], vec![12]),
    ] {
        let read = served.json(&[&["get", "--all"], more].concat()).await;
        assert_eq!(positions(&read), expected, "{more:?}");
        if !expected.is_empty() {
            assert_eq!(read["last_position"], ENTRIES, "{more:?}");
        }
    }
    let url = served.node.url();
    let table = cli(&["get", "--all", "--reverse", "--limit", "1", "--endpoint", &url]).await;
    let text = String::from_utf8(table.stdout).unwrap();
    assert!(
        ["position", "bc", "p12", "1 entries; the last position is 12"].iter().all(|part| text.contains(part)),
        "{text}"
    );
    let watched = served.run(&["watch", "--all", "--from", "3", "--count", "9"]).await;
    let lines = String::from_utf8(watched.stdout).unwrap();
    let seen: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(positions(&serde_json::json!({ "entries": seen })), (4..=12).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contexts_are_listed_and_reads_wait_for_a_position() {
    let served = filled().await;
    let names = async |arguments: &[&str]| {
        let listed = served.json(&[&["contexts"], arguments].concat()).await;
        let contexts = listed["contexts"].as_array().unwrap();
        let name =
            |head: &Value| (head["context_id"].as_str().unwrap().to_owned(), head["latest_sequence"].as_u64().unwrap());
        contexts.iter().map(name).collect::<Vec<_>>()
    };
    let all = ["a", "b", "bc"].map(|name| (name.to_owned(), 4));
    assert_eq!(names(&[]).await, all);
    assert_eq!(names(&["b"]).await, all[1..]);
    assert_eq!(names(&["--after", "b"]).await, all[2..]);
    assert_eq!(names(&["--limit", "2", "--consistency", "stale"]).await, all[..2]);
    assert_eq!(names(&["x"]).await, []);
    let table = cli(&["contexts", "--endpoint", &served.node.url()]).await;
    assert!(String::from_utf8(table.stdout).unwrap().contains("3 contexts"));
    for command in [&["get", "a"][..], &["get", "--all"], &["contexts"]] {
        let reached = served.run(&[command, &["--min-position", "12"]].concat()).await;
        assert_eq!(reached.status.code(), Some(0), "{command:?}: {reached:?}");
        let late = served.run(&[command, &["--min-position", "13", "--timeout", "1s"]].concat()).await;
        assert_eq!(late.status.code(), Some(3), "{command:?}: {late:?}");
        assert_eq!(String::from_utf8_lossy(&late.stdout), "", "{command:?}");
    }
    for wrong in
        [&["get"][..], &["get", "a", "--all"], &["get", "a", "--reverse"], &["watch"], &["watch", "a", "--all"]]
    {
        assert_eq!(served.run(wrong).await.status.code(), Some(2), "{wrong:?}");
    }
    // Whichever comes first: the read waits for the entry.
    let appended = served.json(&["append", "a", "k", "p13"]);
    let (read, _) = tokio::join!(served.json(&["get", "--all", "--min-position", "13", "--after", "12"]), appended);
    assert_eq!(positions(&read), [13]);
}
