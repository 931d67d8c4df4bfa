//! The audit must see what is wrong, or its verdict says nothing.

use std::collections::BTreeMap;

use crate::api::grpc::pb::context::Entry;
use tokio::time::Instant;

use super::audit::{Audit, Contexts};
use super::events::{Acknowledged, EVENT, read};

fn entry(sequence: u64) -> Entry {
    Entry {
        id: format!("{sequence:032x}"),
        sequence,
        metadata: BTreeMap::from([(EVENT.to_owned(), sequence.to_string())]),
        ..Entry::default()
    }
}

fn contexts(entries: Vec<Entry>) -> Contexts {
    Contexts::from([("c".to_owned(), entries)])
}

fn acknowledged(sequences: std::ops::RangeInclusive<u64>) -> Vec<Option<Acknowledged>> {
    let answer = |sequence| Some(Acknowledged::new("c", &entry(sequence), Instant::now()));
    sequences.map(answer).collect()
}

fn found(entries: Vec<Entry>) -> Audit {
    let mut audit = Audit::default();
    audit.add(&contexts(entries), &acknowledged(1..=3));
    audit
}

#[test]
fn what_was_acknowledged_and_more_is_clean() {
    assert!(found((1..=3).map(entry).collect()).is_clean());
    assert!(found((1..=4).map(entry).collect()).is_clean(), "not acknowledged, and there: allowed");
}

#[test]
fn a_lost_a_doubled_and_a_misplaced_entry_are_seen() {
    assert_eq!(found(vec![entry(1), entry(2)]).lost, 1);
    assert_eq!(found(Vec::new()).lost, 3);
    let again = Entry { sequence: 4, id: "another".into(), ..entry(2) };
    assert_eq!(found(vec![entry(1), entry(2), entry(3), again]), Audit { duplicated: 1, ..Audit::default() });
    let swapped = found(vec![entry(2), entry(1), entry(3)]);
    assert_eq!((swapped.lost, swapped.gaps), (2, 2));
    assert_eq!(found(vec![entry(1), entry(3)]).gaps, 1);
}

#[tokio::test]
async fn the_events_are_real_and_many() {
    let events = read().await.unwrap();
    assert!(events.len() >= 2000);
    assert!(events.iter().all(|event| event.context_id.starts_with("packages.") && !event.payload.is_empty()));
    let contexts: std::collections::BTreeSet<_> = events.iter().map(|event| &event.context_id).collect();
    assert!(contexts.len() > 1);
}
