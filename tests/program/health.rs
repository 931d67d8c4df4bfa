//! A node that cannot serve says so: to load balancers, in its status, and in its log.
#![cfg(feature = "cli")]
#![allow(missing_docs)]

use crate::support::cluster::{Cluster, SETTLED};
use crate::support::node::Node;
use crate::support::until;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

const CONTEXT: &str = "converge.context.v1.ContextService";

/// What health says of a name, if the node answers.
async fn health(node: &Node, name: &str) -> Option<ServingStatus> {
    let request = HealthCheckRequest { service: name.to_owned() };
    let answer = HealthClient::new(node.channel()).check(request).await.ok()?;
    Some(answer.into_inner().status())
}

async fn becomes(node: &Node, status: ServingStatus) {
    until(&format!("health of node {} is {status:?}", node.id), SETTLED, || async {
        health(node, CONTEXT).await.filter(|is| *is == status)
    })
    .await;
    // The process lives all the time.
    assert_eq!(health(node, "").await, Some(ServingStatus::Serving));
}

/// Waits for an alarm with all of these words, and gives it.
async fn alarm(node: &Node, words: &[&str]) -> String {
    until(&format!("an alarm of node {} has {words:?}", node.id), SETTLED, || async {
        let status = node.status().await?;
        let alarms = status["alarms"].as_array().unwrap().clone();
        let mut texts = alarms.iter().map(|alarm| alarm.as_str().unwrap().to_owned());
        texts.find(|text| words.iter().all(|word| text.contains(word)))
    })
    .await
}

async fn is_quiet(node: &Node) {
    until("no alarm", SETTLED, || async {
        node.status().await.filter(|status| status["alarms"].as_array().unwrap().is_empty())
    })
    .await;
}

/// Waits for a line of the log with all of these words.
async fn said(node: &Node, words: &[&str]) {
    until(&format!("the log of node {} says {words:?}", node.id), SETTLED, || async {
        node.log().lines().any(|line| words.iter().all(|word| line.contains(word))).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_a_leader_says_so_until_there_is_one() {
    let mut cluster = Cluster::new();
    cluster.start().await;
    for node in &cluster.nodes {
        becomes(node, ServingStatus::Serving).await;
        is_quiet(node).await;
    }
    cluster.nodes[0].kill().await;
    cluster.nodes[2].kill().await;
    let left = &cluster.nodes[1];
    becomes(left, ServingStatus::NotServing).await;
    alarm(left, &["no leader"]).await;
    said(left, &["WARN", "no leader"]).await;
    cluster.nodes[2].start().await;
    let left = &cluster.nodes[1];
    becomes(left, ServingStatus::Serving).await;
    said(left, &["INFO", "there is a leader again"]).await;
    cluster.nodes[0].start().await;
    for node in &cluster.nodes {
        is_quiet(node).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_names_the_voter_that_it_does_not_hear_of() {
    let mut cluster = Cluster::new();
    cluster.start().await;
    let leader = cluster.leader().await;
    let lost = (leader + 1) % 3;
    cluster.nodes[lost].kill().await;
    let named = format!("voter {} has not been heard of", lost + 1);
    let left = || (0..3).filter(|index| *index != lost).map(|index| &cluster.nodes[index]);
    // On a busy machine another may lead by now.
    let leading = until("an alarm of whoever leads", SETTLED, || async {
        for node in left() {
            let alarms = node.status().await?["alarms"].to_string();
            if alarms.contains(&named) && alarms.contains("see that its node runs") {
                return Some(node);
            }
        }
        None
    })
    .await;
    said(leading, &["WARN", "a voter is not heard of", &format!("voter={}", lost + 1)]).await;
    // It can be done without.
    becomes(leading, ServingStatus::Serving).await;
    cluster.nodes[lost].start().await;
    for node in &cluster.nodes {
        is_quiet(node).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_cluster_is_not_formed_says_who_is_missing() {
    let mut cluster = Cluster::new();
    cluster.nodes[1].spawn();
    let first = &cluster.nodes[1];
    becomes(first, ServingStatus::NotServing).await;
    let text = alarm(first, &["not formed", "1, 3"]).await;
    assert!(!text.contains("NodeId"), "{text}");
    said(first, &["WARN", "not formed", "1, 3"]).await;
    cluster.nodes[0].spawn();
    alarm(&cluster.nodes[0], &["not formed", "3"]).await;
    cluster.nodes[2].spawn();
    for node in &cluster.nodes {
        becomes(node, ServingStatus::Serving).await;
        is_quiet(node).await;
    }
    said(&cluster.nodes[1], &["INFO", "the cluster is formed"]).await;
}
