//! The live tree as rows: what people look for comes first. Pure.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::api::grpc::pb::admin::{TreeNode, TreeResponse};
use tokio::time::Instant;

use crate::cli::output;
use crate::cli::status::Answer;

/// One look at all nodes, by endpoint. `None`: no answer yet.
pub(super) type Sample = BTreeMap<String, Option<Look>>;

/// One look at one node.
pub(super) struct Look {
    /// When it answered, or failed to.
    pub(super) at: Instant,
    pub(super) answer: Answer<TreeResponse>,
}

/// What a screen shows.
pub(super) struct LiveTree {
    /// One line about the whole.
    pub(super) title: String,
    pub(super) header: Vec<&'static str>,
    pub(super) rows: Vec<Vec<String>>,
}

/// The rows of a look, given the last answers before it.
pub(super) fn live(before: &Sample, now: &Sample) -> LiveTree {
    let several = now.len() > 1;
    let mut header = vec!["actor", "state", "phase", "mailbox", "msgs/s", "restarts", "uptime", "last exit"];
    if several {
        header.insert(0, "node");
    }
    let mut nodes = Vec::new();
    let mut rows = Vec::new();
    for (endpoint, look) in now {
        match look.as_ref().map(|look| &look.answer) {
            Some(Ok(tree)) => nodes.extend(tree.nodes.iter().map(|node| (endpoint.as_str(), node))),
            Some(Err(failure)) => {
                rows.push(silent(several, endpoint, header.len(), "no answer", &failure.to_string()));
            }
            None => rows.push(silent(several, endpoint, header.len(), "no answer yet", "")),
        }
    }
    nodes.sort_by_key(|(endpoint, node)| (urgency(node), *endpoint, node.path.as_str()));
    let title = title(&nodes, rows.len(), now.len());
    for (endpoint, node) in nodes {
        let rate = since(before, now, endpoint)
            .and_then(|(tree, elapsed)| rate(tree.nodes.iter().find(|old| old.path == node.path)?, node, elapsed));
        let mut row = cells(node, rate);
        if several {
            row.insert(0, endpoint.to_owned());
        }
        rows.push(row);
    }
    LiveTree { title, header, rows }
}

/// The least comes first: what is on its way up or down, then what is suspended, then long mailboxes, then many restarts,
/// and what rests last.
fn urgency(node: &TreeNode) -> (u8, Reverse<u64>, Reverse<u64>) {
    let rank = match node.state.as_str() {
        "restarting" => 0,
        "starting" | "stopping" => 1,
        _ if node.suspended => 2,
        "running" => 3,
        _ => 4,
    };
    (rank, Reverse(node.mailbox.unwrap_or(0)), Reverse(node.restarts))
}

fn title(nodes: &[(&str, &TreeNode)], silent: usize, asked: usize) -> String {
    let running = nodes.iter().filter(|(_, node)| node.state == "running").count();
    let restarts: u64 = nodes.iter().map(|(_, node)| node.restarts).sum();
    let waiting: u64 = nodes.iter().filter_map(|(_, node)| node.mailbox).sum();
    let mut title = format!("{running} of {} run, {waiting} messages wait, {restarts} restarts", nodes.len());
    if silent > 0 {
        title.push_str(&format!(", no answer from {silent} of {asked} nodes"));
    }
    title
}

fn silent(several: bool, endpoint: &str, columns: usize, state: &str, failure: &str) -> Vec<String> {
    let mut row = vec![String::new(); columns];
    row[0] = endpoint.to_owned();
    row[usize::from(several) + 1] = state.to_owned();
    if let Some(last) = row.last_mut() {
        *last = output::shown(failure);
    }
    row
}

/// What a node answered before, and how long before.
fn since<'a>(before: &'a Sample, now: &Sample, endpoint: &str) -> Option<(&'a TreeResponse, Duration)> {
    let (before, now) = (before.get(endpoint)?.as_ref()?, now.get(endpoint)?.as_ref()?);
    Some((before.answer.as_ref().ok()?, now.at - before.at))
}

/// Messages in a second; of the same incarnation only, for a new one counts from zero.
fn rate(before: &TreeNode, now: &TreeNode, elapsed: Duration) -> Option<f64> {
    let handled = now.handled.checked_sub(before.handled).filter(|_| before.incarnation == now.incarnation)?;
    (!elapsed.is_zero()).then(|| handled as f64 / elapsed.as_secs_f64())
}

fn cells(node: &TreeNode, rate: Option<f64>) -> Vec<String> {
    let uptime = node.uptime_ms.map(Duration::from_millis);
    vec![
        output::harmless(&node.path),
        state(node),
        phase(node),
        node.mailbox.map(|mailbox| mailbox.to_string()).unwrap_or_default(),
        rate.map(|rate| format!("{rate:.0}")).unwrap_or_default(),
        node.restarts.to_string(),
        uptime.map(uptime_text).unwrap_or_default(),
        output::shown(&node.last_exit),
    ]
}

pub(super) fn state(node: &TreeNode) -> String {
    let state = output::harmless(&node.state);
    if node.suspended { format!("{state}, suspended") } else { state }
}

/// What it is at, and for how long where that is worth a look.
fn phase(node: &TreeNode) -> String {
    let phase = output::harmless(&node.phase);
    match node.busy_ms {
        Some(busy) if busy >= 100 => format!("{phase} for {}", uptime_text(Duration::from_millis(busy))),
        _ => phase,
    }
}

pub(super) fn uptime_text(uptime: Duration) -> String {
    let seconds = uptime.as_secs();
    match seconds {
        0..60 => format!("{}.{} s", seconds, uptime.subsec_millis() / 100),
        60..3600 => format!("{} m {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} m", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(path: &str, state: &str, mailbox: Option<u64>, restarts: u64) -> TreeNode {
        TreeNode { path: path.into(), state: state.into(), mailbox, restarts, ..TreeNode::default() }
    }

    fn sample(at: Instant, nodes: Vec<TreeNode>) -> Sample {
        Sample::from([("here".to_owned(), Some(Look { at, answer: Ok(TreeResponse { nodes }) }))])
    }

    fn column(live: &LiveTree, name: &str) -> Vec<String> {
        let at = live.header.iter().position(|header| *header == name).unwrap();
        live.rows.iter().map(|row| row[at].clone()).collect()
    }

    #[test]
    fn what_is_in_trouble_comes_first() {
        let suspended = TreeNode { suspended: true, ..node("root/held", "running", Some(9), 0) };
        let nodes = vec![
            node("root", "running", None, 0),
            node("root/done", "stopped", None, 0),
            node("root/busy", "running", Some(3), 0),
            node("root/full", "running", Some(40), 0),
            node("root/weak", "running", Some(3), 7),
            suspended,
            node("root/slow", "starting", None, 0),
            node("root/dead", "restarting", None, 2),
        ];
        let live = live(&Sample::default(), &sample(Instant::now(), nodes));
        let order = ["root/dead", "root/slow", "root/held", "root/full", "root/weak", "root/busy", "root", "root/done"];
        assert_eq!(column(&live, "actor"), order);
        assert_eq!(live.title, "5 of 8 run, 55 messages wait, 9 restarts");
    }

    #[test]
    fn one_that_is_slow_leaves_the_others_as_they_are() {
        let mut now = sample(Instant::now(), vec![node("root", "running", None, 0)]);
        now.insert("there".to_owned(), None);
        let live = live(&Sample::default(), &now);
        assert_eq!(column(&live, "node"), ["there", "here"]);
        assert_eq!(column(&live, "state"), ["no answer yet", "running"]);
        assert_eq!(live.title, "1 of 1 run, 0 messages wait, 0 restarts, no answer from 1 of 2 nodes");
    }

    #[test]
    fn what_a_node_says_cannot_steer_the_terminal() {
        let nodes = vec![TreeNode { phase: "\u{9b}2J".into(), ..node("root/\x1b[2J", "\x07running", None, 0) }];
        let live = live(&Sample::default(), &sample(Instant::now(), nodes));
        assert!(!live.rows.concat().concat().contains(char::is_control), "{:?}", live.rows);
    }

    #[test]
    fn a_rate_is_of_one_incarnation() {
        let at = Instant::now();
        let handled = |incarnation, handled| TreeNode { incarnation, handled, ..node("root/a", "running", None, 0) };
        let before = sample(at, vec![handled(1, 100)]);
        let later = at + Duration::from_secs(2);
        let rate = |nodes| column(&live(&before, &sample(later, nodes)), "msgs/s");
        assert_eq!(rate(vec![handled(1, 300)]), ["100"]);
        assert_eq!(rate(vec![handled(2, 300)]), [""]);
        assert_eq!(rate(vec![handled(1, 50)]), [""]);
    }
}
