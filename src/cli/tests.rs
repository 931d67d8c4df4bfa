//! Arguments, lines of files, and what is printed.

use std::time::Duration;

use clap::{CommandFactory as _, Parser as _};
use converge_ledger::api::grpc::names;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use super::client::{may_retry, parse_endpoint};
use super::lines::{Lines, key};
use super::output::{payload, shown, time};
use super::*;

fn parse(arguments: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(arguments.split(' '))
}

#[test]
fn the_definition_holds_together() {
    Cli::command().debug_assert();
}

#[test]
fn commands_of_the_contract_are_taken() {
    for good in [
        "l append orders facts hello",
        "l append orders facts hello --endpoint http://127.0.0.1:1 --output json --timeout 500ms",
        "l append orders --from FILE",
        "l append orders --from -",
        "l get orders --after 0 --limit 10",
        "l watch orders --from 0",
        "l start",
        "l start --node-id 2 --data-dir d2 --grpc 127.0.0.1:50052 --peer 127.0.0.1:7002 --peers 1=a:1,2=b:2,3=c:3",
        "l snapshot orders --file FILE",
        "l load orders --file FILE --fail-if-exists",
        "l status --endpoint a:1,b:2 --endpoint c:3",
        "l tree",
        "l demo",
        "l inspect summary",
        "l inspect log --from 5 --limit 10 --data-dir d",
        "l inspect --data-dir d verify",
        "l inspect rebuild-index --output json",
    ] {
        assert!(parse(good).is_ok(), "{good}: {:?}", parse(good));
    }
    let cli = parse("l status --endpoint a:1,b:2 --endpoint c:3").unwrap();
    assert_eq!(cli.global.endpoint, ["http://a:1", "http://b:2", "http://c:3"]);
}

#[test]
fn bad_usage_is_exit_code_2() {
    for bad in [
        "l",
        "l bench",
        "l append",
        "l append orders",
        "l append orders facts",
        "l append orders facts hello --from FILE",
        "l append orders facts hello --metadata pair",
        "l append orders facts hello --expected-sequence -1",
        "l get",
        "l get orders --limit 4294967296",
        "l get orders --after x",
        "l get orders --consistency eventual",
        "l get orders --timeout 0",
        "l get orders --timeout 1h",
        "l get orders --endpoint https://a:1",
        "l get orders --endpoint a",
        "l get orders --endpoint a:0",
        "l get orders --output xml",
        "l watch orders --count 0",
        "l start --node-id x",
        "l demo --clients 0",
        "l inspect",
        "l inspect everything",
    ] {
        let error = parse(bad).map(|_| ()).expect_err(bad);
        assert_eq!(error.exit_code(), 2, "{bad}");
    }
    let empty = Cli::try_parse_from(["l", "get", ""]).map(|_| ()).expect_err("an empty context");
    assert_eq!(empty.exit_code(), 2);
}

#[test]
fn durations_have_a_unit() {
    for (text, ms) in [("10", 10_000), ("10s", 10_000), ("500ms", 500), ("2m", 120_000)] {
        assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)));
    }
    for bad in ["", "s", "-1s", "0ms", "1d", "1.5s", "99999999999999999999s", "86400001ms"] {
        assert!(parse_duration(bad).is_err(), "{bad}");
    }
}

#[test]
fn endpoints_are_urls_or_addresses() {
    assert_eq!(parse_endpoint("127.0.0.1:1").unwrap(), "http://127.0.0.1:1");
    assert_eq!(parse_endpoint("http://[::1]:5/").unwrap(), "http://[::1]:5");
    for bad in ["", "http://", "http://a", "a:b", "ftp://a:1", "http://a b:1", ":1"] {
        assert!(parse_endpoint(bad).is_err(), "{bad}");
    }
}

fn lines(text: &'static [u8]) -> Lines {
    Lines::new("file".into(), "orders", Box::new(text), Some(text.len() as u64))
}

#[tokio::test]
async fn lines_become_messages() {
    let mut lines = lines(
        b"{\"key\":\"a\",\"payload\":\"x\"}\n\n{\"payload_base64\":\"/w==\",\"metadata\":{\"n\":\"v\"}}\r\n{\"payload\":\"\"}",
    );
    let first = lines.next().await.unwrap().unwrap();
    assert_eq!((first.number, first.message.key.as_str(), &first.message.payload[..]), (1, "a", &b"x"[..]));
    assert_eq!(first.message.context_id, "orders");
    assert_eq!(first.key, key(1, b"{\"key\":\"a\",\"payload\":\"x\"}"));
    let second = lines.next().await.unwrap().unwrap();
    assert_eq!((second.number, &second.message.payload[..]), (3, &b"\xff"[..]), "the blank line counts");
    assert_eq!(second.message.metadata["n"], "v");
    assert!(!second.key.is_empty() && second.key != first.key);
    let third = lines.next().await.unwrap().unwrap();
    assert_eq!((third.number, third.message.payload.len()), (4, 0), "the last line needs no end");
    assert_eq!(Some(third.end), lines.size());
    assert!(lines.next().await.unwrap().is_none());
}

#[test]
fn a_line_is_named_by_its_place_and_its_text() {
    assert_eq!(key(1, b"a"), key(1, b"a"));
    assert_ne!(key(1, b"a"), key(2, b"a"), "equal lines are different events");
    assert_ne!(key(1, b"a"), key(1, b"b"));
}

#[tokio::test]
async fn a_bad_line_is_named_with_the_next_step() {
    for (bad, why) in [
        (&b"{\"payload\":\"x\"}\nnot json"[..], "expected"),
        (b"{\"payload\":\"x\"}\n{\"payload\":1}", "string"),
        (b"{\"payload\":\"x\"}\n{\"key\":\"k\"}", "neither payload nor payload_base64"),
        (b"{\"payload\":\"x\"}\n{\"payload\":\"x\",\"payload_base64\":\"\"}", "both"),
        (b"{\"payload\":\"x\"}\n{\"payload_base64\":\"*\"}", "payload_base64"),
        (b"{\"payload\":\"x\"}\n{\"payload\":\"x\",\"colour\":1}", "colour"),
        (b"{\"payload\":\"x\"}\n{\"payload\":\"\xff\"}", "file:2"),
        (b"{\"payload\":\"x\"}\n[]", "file:2"),
    ] {
        let mut lines = lines(bad);
        assert!(lines.next().await.unwrap().is_some());
        let failure = lines.next().await.expect_err(why);
        let text = failure.to_string();
        assert!(text.contains("file:2") && text.contains(why) && text.contains("again"), "{text}");
        assert_eq!(failure.kind(), Kind::Error);
    }
}

#[test]
fn times_are_utc() {
    assert_eq!(time(0), "1970-01-01 00:00:00.000Z");
    assert_eq!(time(951_827_696_789_000_000), "2000-02-29 12:34:56.789Z");
    assert_eq!(time(4_102_444_799_999_999_999), "2099-12-31 23:59:59.999Z");
}

#[test]
fn text_does_not_steer_the_terminal() {
    assert_eq!(shown("a\u{1b}[31mb\nc"), "a·[31mb·c");
    assert_eq!(shown(&"x".repeat(100)).chars().count(), 61);
    assert_eq!(payload(b"\xff\xfe"), "(2 bytes)");
}

#[test]
fn statuses_become_exit_codes() {
    let kind = |code| Failure::from_status("get", "http://a:1", &Status::new(code, "why")).kind();
    assert_eq!(kind(Code::Unavailable), Kind::Unavailable);
    assert_eq!(kind(Code::DeadlineExceeded), Kind::Unavailable);
    assert_eq!(kind(Code::FailedPrecondition), Kind::Precondition);
    assert_eq!(kind(Code::AlreadyExists), Kind::Precondition);
    assert_eq!(kind(Code::DataLoss), Kind::Integrity);
    assert_eq!(kind(Code::InvalidArgument), Kind::Error);
    assert_eq!(kind(Code::ResourceExhausted), Kind::Error, "a payload past the limit");
    let mut overload = Status::resource_exhausted("busy");
    overload.metadata_mut().insert(names::RETRY_AFTER_MS, 5.into());
    assert!(may_retry(&overload));
    assert_eq!(Failure::from_status("get", "a", &overload).kind(), Kind::Unavailable);
    assert!(!may_retry(&Status::resource_exhausted("large")));
    let mut marked = Status::internal("no message");
    assert!(may_retry(&marked), "a broken connection");
    marked.metadata_mut().insert(names::OUTCOME, MetadataValue::from_static(names::REFUSED));
    assert!(!may_retry(&marked), "the node's own word");
}
