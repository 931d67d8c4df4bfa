//! What goes over the wire beside messages, and what errors look like there.

use std::time::{Duration, Instant};

use converge_ledger_core::Sequence;
use tonic::Code;
use tonic::metadata::{MetadataMap, MetadataValue};

use super::super::metadata::*;
use super::super::status::{from_error, overloaded};
use super::super::{convert, names, transport};
use super::settings;
use crate::{Consistency, Error, Rejection, Written};

fn with(name: &'static str, value: &str) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    metadata.insert(name, MetadataValue::try_from(value).unwrap());
    metadata
}

#[test]
fn every_error_has_the_contract_s_code_and_outcome() {
    let cases = [
        (Error::PayloadTooLarge { bytes: 2, limit: 1 }, Code::ResourceExhausted),
        (Error::InvalidArgument("a".into()), Code::InvalidArgument),
        (Error::Overloaded { retry_after: Duration::from_millis(70) }, Code::ResourceExhausted),
        (Error::TooManyAttempts { limit: 9, retry_after: Duration::from_millis(70) }, Code::ResourceExhausted),
        (Error::Rejected(Rejection { reason: "a".into() }), Code::InvalidArgument),
        (Error::ExpectedSequence { actual: Sequence(7) }, Code::FailedPrecondition),
        (Error::IdempotencyMismatch { sequence: Sequence(7) }, Code::AlreadyExists),
        (Error::ContextExists { latest: Sequence(7) }, Code::AlreadyExists),
        (Error::LoadDiverges { latest: Sequence(7) }, Code::FailedPrecondition),
        (Error::InvalidSnapshot("a".into()), Code::InvalidArgument),
        (Error::ResponseTooLarge { limit: 1 }, Code::ResourceExhausted),
        (Error::Unavailable { reason: "a".into() }, Code::Unavailable),
        (Error::ReadTimeout, Code::DeadlineExceeded),
        (Error::DataLoss("a".into()), Code::DataLoss),
        (Error::Stopped, Code::Unavailable),
    ];
    for (error, code) in cases {
        let status = from_error(&error);
        assert_eq!(status.code(), code, "{error:?}");
        assert_eq!(status.metadata().get(names::OUTCOME).unwrap(), names::REFUSED, "{error:?}");
        assert_eq!(status.message(), error.to_string());
    }
    let status = from_error(&Error::LoadUnknown);
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(status.metadata().get(names::OUTCOME).unwrap(), names::UNKNOWN);
}

#[test]
fn programs_find_numbers_in_the_trailers() {
    let status = from_error(&Error::ExpectedSequence { actual: Sequence(7) });
    assert_eq!(status.metadata().get(names::ACTUAL_SEQUENCE).unwrap(), "7");
    assert!(status.message().contains('7'));
    let status = from_error(&Error::Overloaded { retry_after: Duration::from_millis(70) });
    assert_eq!(status.metadata().get(names::RETRY_AFTER_MS).unwrap(), "70");
    let status = overloaded("busy", Duration::MAX);
    assert!(status.metadata().get(names::RETRY_AFTER_MS).is_some());
    let too_large = from_error(&Error::PayloadTooLarge { bytes: 2, limit: 1 });
    assert!(too_large.metadata().get(names::RETRY_AFTER_MS).is_none(), "a retry would not help");
}

#[test]
fn idempotency_keys_are_bounded_and_never_empty() {
    const NAME: &str = names::IDEMPOTENCY_KEY;
    assert_eq!(idempotency_key(&MetadataMap::new()).unwrap(), None);
    assert_eq!(idempotency_key(&with(NAME, "a b")).unwrap().unwrap(), "a b");
    let longest = "k".repeat(1024);
    assert_eq!(idempotency_key(&with(NAME, &longest)).unwrap().unwrap(), longest);
    let mut twice = with(NAME, "a");
    twice.append(NAME, MetadataValue::from_static("a"));
    let mut bytes = MetadataMap::new().into_headers();
    bytes.insert(NAME, hyper::header::HeaderValue::from_bytes(b"\xff").unwrap());
    let bytes = MetadataMap::from_headers(bytes);
    for bad in [with(NAME, ""), with(NAME, &"k".repeat(1025)), twice, bytes] {
        let status = idempotency_key(&bad).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(NAME), "{}", status.message());
        assert_eq!(status.metadata().get(names::OUTCOME).unwrap(), names::REFUSED);
    }
}

#[test]
fn expected_sequences_are_numbers() {
    const NAME: &str = names::EXPECTED_SEQUENCE;
    assert_eq!(expected_sequence(&MetadataMap::new()).unwrap(), None);
    for (text, number) in [("0", 0), ("7", 7), ("18446744073709551615", u64::MAX)] {
        assert_eq!(expected_sequence(&with(NAME, text)).unwrap(), Some(Sequence(number)));
    }
    for bad in ["", "-1", "+1", "1.0", "0x1", "18446744073709551616", "seven", " 7"] {
        let status = expected_sequence(&with(NAME, bad)).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{bad}");
        assert!(status.message().contains(NAME));
    }
}

#[test]
fn consistency_has_three_names() {
    const NAME: &str = names::CONSISTENCY;
    assert_eq!(consistency(&MetadataMap::new()).unwrap(), Consistency::Linearizable);
    assert_eq!(consistency(&with(NAME, "linearizable")).unwrap(), Consistency::Linearizable);
    assert_eq!(consistency(&with(NAME, "lease")).unwrap(), Consistency::Lease);
    assert_eq!(consistency(&with(NAME, "stale")).unwrap(), Consistency::Stale);
    for bad in ["", "Stale", "eventual"] {
        assert!(consistency(&with(NAME, bad)).unwrap_err().message().contains(NAME), "{bad}");
    }
}

#[test]
fn grpc_timeouts_are_parsed_as_the_protocol_says() {
    for (text, time) in [
        ("1H", Duration::from_secs(3600)),
        ("2M", Duration::from_secs(120)),
        ("3S", Duration::from_secs(3)),
        ("4m", Duration::from_millis(4)),
        ("5u", Duration::from_micros(5)),
        ("6n", Duration::from_nanos(6)),
        ("99999999H", Duration::from_secs(99_999_999 * 3600)),
    ] {
        assert_eq!(grpc_timeout(text), Some(time), "{text}");
    }
    for bad in ["", "1", "S", "-1S", "123456789S", "1X", "1 S", "1SS", "1é"] {
        assert_eq!(grpc_timeout(bad), None, "{bad}");
    }
}

#[test]
fn the_ledger_gets_a_little_less_than_the_client() {
    let settings = settings();
    let left = |value: &str| time_left(&with("grpc-timeout", value), None, &settings);
    let ten = left("10S").unwrap();
    assert!(ten < Duration::from_secs(10) && ten >= Duration::from_millis(9_800), "{ten:?}");
    let short = left("20m").unwrap();
    assert!(short < Duration::from_millis(20) && short >= Duration::from_millis(18), "{short:?}");
    assert!(left("99999999H").unwrap() < settings.deadline_max);
    let none = time_left(&MetadataMap::new(), None, &settings).unwrap();
    assert!(none <= settings.deadline_default && none > settings.deadline_default / 2);
    for expired in ["0n", "1n", "1m"] {
        let status = left(expired).unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{expired}");
        assert_eq!(status.metadata().get(names::OUTCOME).unwrap(), names::REFUSED);
    }
    assert_eq!(left("soon").unwrap_err().code(), Code::InvalidArgument);
    let long_ago = Instant::now().checked_sub(Duration::from_secs(11)).unwrap();
    let spent = time_left(&with("grpc-timeout", "10S"), Some(Arrived(long_ago)), &settings);
    assert_eq!(spent.unwrap_err().code(), Code::DeadlineExceeded, "the body took all the time");
}

#[test]
fn contexts_and_keys_have_names_of_bounded_length() {
    assert!(convert::context_id("a").is_ok());
    assert!(convert::context_id(&"a".repeat(1024)).is_ok());
    for bad in [String::new(), "a".repeat(1025)] {
        let status = convert::context_id(&bad).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("context_id"));
    }
    assert_eq!(convert::key_filter(String::new()).unwrap(), None);
    let longest = "k".repeat(1024);
    assert_eq!(convert::key_filter(longest.clone()).unwrap(), Some(longest));
    let status = convert::key_filter("k".repeat(1025)).unwrap_err();
    assert!(status.code() == Code::InvalidArgument && status.message().starts_with("key "), "{status:?}");
}

#[test]
fn errors_from_in_front_of_the_handlers_are_marked() {
    let headers = |code: &'static str| {
        let mut headers = hyper::HeaderMap::new();
        headers.insert("grpc-status", hyper::header::HeaderValue::from_static(code));
        headers
    };
    let mut too_large = headers("11");
    transport::mark_outcome(&mut too_large, Written::Nothing);
    assert_eq!(too_large["grpc-status"], "8", "tonic's out of range is the contract's exhausted");
    assert_eq!(too_large[names::OUTCOME], names::REFUSED);
    let mut undecodable = headers("13");
    transport::mark_outcome(&mut undecodable, Written::Nothing);
    assert_eq!(undecodable["grpc-status"], "3", "bytes that are no message are the client's mistake");
    assert_eq!(undecodable[names::OUTCOME], names::REFUSED);
    let mut unimplemented = headers("12");
    transport::mark_outcome(&mut unimplemented, Written::Nothing);
    assert_eq!(unimplemented["grpc-status"], "12");
    assert_eq!(unimplemented[names::OUTCOME], names::REFUSED);
    let mut unknown = headers("4");
    unknown.insert(names::OUTCOME, hyper::header::HeaderValue::from_static(names::UNKNOWN));
    transport::mark_outcome(&mut unknown, Written::Nothing);
    assert_eq!(unknown[names::OUTCOME], names::UNKNOWN, "the handler's word stands");
    let begun = Begun::default();
    assert_eq!(begun.written(), Written::Nothing);
    let extensions = {
        let mut extensions = tonic::Extensions::default();
        extensions.insert(begun.clone());
        extensions
    };
    Begun::set(&extensions);
    let mut torn_off = headers("4");
    transport::mark_outcome(&mut torn_off, begun.written());
    assert_eq!(torn_off[names::OUTCOME], names::UNKNOWN, "the ledger has it, and nobody knows more");
    let mut ok = hyper::HeaderMap::new();
    transport::mark_outcome(&mut ok, Written::Nothing);
    assert!(ok.is_empty());
}
