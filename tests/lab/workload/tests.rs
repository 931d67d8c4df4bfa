//! What an answer means, and what an entry carries.

use std::time::Duration;

use converge_ledger::Sequence;
use converge_ledger::api::grpc::names;
use converge_ledger::api::grpc::pb::context::Entry;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use super::mix::{entry, value_of};
use super::remote::{is_excused, outcome};
use super::{Record, longest_pause};
use crate::history::{Append, Done, Operation, Outcome, Refused, Time};

fn status(code: Code, trailers: &[(&'static str, &'static str)]) -> Status {
    let mut status = Status::new(code, "why");
    for (name, value) in trailers {
        status.metadata_mut().insert(*name, MetadataValue::from_static(value));
    }
    status
}

#[test]
fn only_a_node_can_refuse_an_append() {
    let refused = |status: &Status| matches!(outcome(status), Outcome::Refused(_));
    assert!(refused(&status(Code::Unavailable, &[(names::OUTCOME, names::REFUSED)])));
    assert!(!refused(&status(Code::Unavailable, &[])), "made up by the library");
    assert!(!refused(&status(Code::DeadlineExceeded, &[(names::OUTCOME, names::UNKNOWN)])));
    assert!(!refused(&status(Code::Cancelled, &[])));
    let trailers = [(names::OUTCOME, names::REFUSED), (names::ACTUAL_SEQUENCE, "12")];
    let other = outcome(&status(Code::FailedPrecondition, &trailers));
    assert!(matches!(other, Outcome::Refused(Refused { actual: Some(Sequence(12)), .. })), "{other:?}");
}

#[test]
fn data_loss_and_a_node_s_own_errors_are_not_excused() {
    let said = [(names::OUTCOME, names::REFUSED)];
    for code in [Code::DataLoss, Code::Internal, Code::Unknown, Code::InvalidArgument, Code::AlreadyExists] {
        assert!(!is_excused(&status(code, &said)), "{code:?}");
    }
    assert!(is_excused(&status(Code::Internal, &[])), "a broken stream");
    assert!(!is_excused(&status(Code::FailedPrecondition, &said)), "nothing else was expected");
}

#[test]
fn the_longest_pause_counts_from_the_first_start_and_looks_at_acknowledgements_only() {
    let append = |end: u64, outcome| {
        Operation::Append(Append {
            client: 1,
            start: Time(10),
            end: Some(Time(end)),
            context: "c".into(),
            value: end.to_string(),
            idempotency_key: None,
            expected: None,
            behind: None,
            outcome,
        })
    };
    let done = || Outcome::Done(Done { sequence: Sequence(1), position: None, deduplicated: false });
    assert_eq!(longest_pause(&[]), Duration::ZERO);
    assert_eq!(longest_pause(&[append(50, done()), append(90, done())]), Duration::from_nanos(40));
    let history = [append(200, done()), append(100, Outcome::Unknown), append(20, done())];
    assert_eq!(longest_pause(&history), Duration::from_nanos(180));
}

#[test]
fn an_entry_that_did_not_come_through_as_it_was_made_is_seen() {
    let whole = entry("c", "1/2", 3);
    let shows = |key: &str, payload: &[u8]| value_of(key, payload, &whole.metadata);
    assert_eq!(shows(&whole.key, &whole.payload), "1/2");
    assert!(shows("k1", &whole.payload).contains("spoiled"));
    assert!(shows(&whole.key, &whole.payload[..whole.payload.len() - 1]).contains("spoiled"));
    assert!(value_of(&whole.key, &whole.payload, &Default::default()).contains("spoiled"));
}

#[test]
fn a_place_whose_entry_becomes_another_one_is_seen() {
    let record = Record::default();
    let see = |sequence, id: &str| record.seen("c", &Entry { sequence, id: id.into(), ..Entry::default() });
    see(1, "a");
    see(2, "b");
    see(1, "a");
    assert!(record.troubles().is_empty());
    see(2, "a");
    assert!(record.troubles().iter().any(|trouble| trouble.contains("entry 2 of c")));
}
