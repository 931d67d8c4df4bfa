//! The live tree as rows: what people look for comes first. Pure.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use converge_ledger::api::grpc::pb::admin::{TreeNode, TreeResponse};
use tokio::time::Instant;

use crate::cli::output;
use crate::cli::status::Answer;

/// One look at all nodes.
#[derive(Default)]
pub(super) struct Sample {
    /// When; `None` before the first.
    pub(super) at: Option<Instant>,
    /// By endpoint.
    pub(super) answers: BTreeMap<String, Answer<TreeResponse>>,
}

/// What a screen shows.
pub(super) struct Live {
    /// One line about the whole.
    pub(super) title: String,
    pub(super) header: Vec<&'static str>,
    pub(super) rows: Vec<Vec<String>>,
}

/// The rows of a look, given the one before.
pub(super) fn live(before: &Sample, now: &Sample) -> Live {
    let several = now.answers.len() > 1;
    let mut header = vec!["actor", "state", "phase", "mailbox", "msgs/s", "restarts", "uptime", "last exit"];
    if several {
        header.insert(0, "node");
    }
    let elapsed = now.at.zip(before.at).map(|(now, before)| now - before);
    let mut nodes = Vec::new();
    let mut rows = Vec::new();
    for (endpoint, answer) in &now.answers {
        match answer {
            Ok(tree) => nodes.extend(tree.nodes.iter().map(|node| (endpoint.as_str(), node))),
            Err(failure) => rows.push(silent(several, endpoint, header.len(), &failure.to_string())),
        }
    }
    nodes.sort_by_key(|(endpoint, node)| (urgency(node), *endpoint, node.path.as_str()));
    let title = title(&nodes, rows.len());
    for (endpoint, node) in nodes {
        let rate = elapsed.and_then(|elapsed| rate(earlier(before, endpoint, &node.path)?, node, elapsed));
        let mut row = cells(node, rate);
        if several {
            row.insert(0, endpoint.to_owned());
        }
        rows.push(row);
    }
    Live { title, header, rows }
}

/// The least comes first: what does not run, then what is suspended, then long mailboxes, then many restarts.
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

fn title(nodes: &[(&str, &TreeNode)], silent: usize) -> String {
    let running = nodes.iter().filter(|(_, node)| node.state == "running").count();
    let restarts: u64 = nodes.iter().map(|(_, node)| node.restarts).sum();
    let waiting: u64 = nodes.iter().filter_map(|(_, node)| node.mailbox).sum();
    let mut title = format!("{running} of {} run, {waiting} messages wait, {restarts} restarts", nodes.len());
    if silent > 0 {
        title.push_str(&format!(", {silent} nodes do not answer"));
    }
    title
}

fn silent(several: bool, endpoint: &str, columns: usize, failure: &str) -> Vec<String> {
    let mut row = vec![String::new(); columns];
    row[0] = endpoint.to_owned();
    row[usize::from(several) + 1] = "no answer".to_owned();
    if let Some(last) = row.last_mut() {
        *last = output::shown(failure);
    }
    row
}

fn earlier<'a>(before: &'a Sample, endpoint: &str, path: &str) -> Option<&'a TreeNode> {
    let tree = before.answers.get(endpoint)?.as_ref().ok()?;
    tree.nodes.iter().find(|node| node.path == path)
}

/// Messages in a second; of the same incarnation only, for a new one counts from zero.
fn rate(before: &TreeNode, now: &TreeNode, elapsed: Duration) -> Option<f64> {
    let handled = now.handled.checked_sub(before.handled).filter(|_| before.incarnation == now.incarnation)?;
    (!elapsed.is_zero()).then(|| handled as f64 / elapsed.as_secs_f64())
}

fn cells(node: &TreeNode, rate: Option<f64>) -> Vec<String> {
    let uptime = node.uptime_ms.map(Duration::from_millis);
    vec![
        node.path.clone(),
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
    if node.suspended { format!("{}, suspended", node.state) } else { node.state.clone() }
}

/// What it is at, and for how long where that is worth a look.
fn phase(node: &TreeNode) -> String {
    match node.busy_ms {
        Some(busy) if busy >= 100 => format!("{} for {}", node.phase, uptime_text(Duration::from_millis(busy))),
        _ => node.phase.clone(),
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
        Sample { at: Some(at), answers: BTreeMap::from([("here".to_owned(), Ok(TreeResponse { nodes }))]) }
    }

    fn column(live: &Live, name: &str) -> Vec<String> {
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
