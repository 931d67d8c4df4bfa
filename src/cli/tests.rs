//! Arguments, lines of files, and what is printed.

use std::time::Duration;

use crate::api::grpc::names;
use clap::{CommandFactory as _, Parser as _};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use super::client::{may_retry, parse_endpoint};
use super::lines::{Line, Lines};
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
        "l append orders --from FILE --resume",
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
        "l inspect cut-tail --data-dir d",
        "l inspect cut-tail --data-dir d --accept-loss-of 17",
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
        "l append",
        "l append orders",
        "l append orders facts",
        "l append orders facts hello --from FILE",
        "l append orders facts hello --metadata pair",
        "l append orders facts hello --expected-sequence -1",
        "l get",
        "l get orders --limit 4294967296",
        "l get orders --after x",
        "l get orders --after -1",
        "l watch orders --from 18446744073709551616",
        "l get orders --consistency eventual",
        "l get orders --timeout 0",
        "l get orders --timeout 25h",
        "l append orders facts hello --resume",
        "l get orders --endpoint https://a:1",
        "l get orders --endpoint a",
        "l get orders --endpoint a:0",
        "l get orders --output xml",
        "l watch orders --count 0",
        "l start --node-id x",
        "l demo --clients 0",
        "l inspect",
        "l inspect everything",
        "l inspect cut-tail --accept-loss-of all",
    ] {
        let error = parse(bad).map(|_| ()).expect_err(bad);
        assert_eq!(error.exit_code(), 2, "{bad}");
    }
    let empty = Cli::try_parse_from(["l", "get", ""]).map(|_| ()).expect_err("an empty context");
    assert_eq!(empty.exit_code(), 2);
}

#[test]
fn a_number_that_is_none_is_told_what_is_possible() {
    for (bad, possible) in [
        ("l start --node-id 18446744073709551616", "1 to 18446744073709551615"),
        ("l start --node-id 0", "1 to 18446744073709551615"),
        ("l get orders --limit 4294967296", "0 to 4294967295"),
        ("l get orders --after -1", "0 to 18446744073709551615"),
        ("l watch orders --count x", "1 to 18446744073709551615"),
        ("l append orders facts hello --expected-sequence 1.5", "0 to 18446744073709551615"),
        ("l demo --clients 257", "1 to 256"),
    ] {
        let error = parse(bad).map(|_| ()).expect_err(bad).to_string();
        assert!(error.contains(&format!("possible is a whole number from {possible}")), "{bad}: {error}");
    }
}

#[test]
fn durations_have_a_unit() {
    for (text, ms) in [("10", 10_000), ("10s", 10_000), ("500ms", 500), ("2m", 120_000), ("24h", 86_400_000)] {
        assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)));
    }
    for bad in ["", "s", "-1s", "0ms", "1d", "1.5s", "99999999999999999999s", "86400001ms", "25h", "5124095576030431h"]
    {
        assert!(parse_duration(bad).is_err(), "{bad}");
    }
}

#[test]
fn endpoints_are_urls_or_addresses() {
    assert_eq!(parse_endpoint("127.0.0.1:1").unwrap(), "http://127.0.0.1:1");
    assert_eq!(parse_endpoint("http://[::1]:5/").unwrap(), "http://[::1]:5");
    assert_eq!(parse_endpoint("HTTP://a:1").unwrap(), "http://a:1");
    for (bad, why) in [
        ("", "it is empty"),
        ("http://", "it is empty"),
        ("http://a", "it has no port"),
        ("a:b", "its port is no number"),
        ("ftp://a:1", "only http://"),
        ("https://a:1", "no TLS"),
        ("http://a b:1", "white space"),
        (":1", "it has no host; an address"),
        ("a:1;b:2", "a list is separated by commas"),
        ("http://a:1;http://b:2", "a list is separated by commas"),
        ("a;http://b:2", "a list is separated by commas"),
        ("http://h:1/x", "path"),
        ("http://h:1//", "path"),
        ("http:/h:1", "path"),
        ("http://h:1?a=b", "path"),
        ("http://me@h:1", "user"),
        ("http://0x7f000001:1", "IPv4"),
    ] {
        let error = parse_endpoint(bad).expect_err(bad);
        assert!(error.contains(why) && error.ends_with("an endpoint is written http://host:port"), "{bad}: {error}");
    }
}

fn lines(text: &'static [u8]) -> Lines {
    Lines::new("file".into(), "orders", Box::new(text), Some(text.len() as u64))
}

async fn all(text: &'static [u8]) -> Result<Vec<Line>, Failure> {
    let mut lines = lines(text);
    let mut all = Vec::new();
    while let Some(line) = lines.next().await? {
        all.push(line);
    }
    Ok(all)
}

#[tokio::test]
async fn lines_become_messages() {
    let text =
        b"{\"key\":\"a\",\"payload\":\"x\"}\n\n{\"payload_base64\":\"/w==\",\"metadata\":{\"n\":\"v\"}}\r\n{\"payload\":\"\"}";
    let [first, second, third] = <[Line; 3]>::try_from(all(text).await.unwrap()).unwrap();
    assert_eq!(
        (first.place.as_str(), first.message.key.as_str(), &first.message.payload[..]),
        ("file:1", "a", &b"x"[..])
    );
    assert_eq!(first.message.context_id, "orders");
    assert_eq!((second.place.as_str(), &second.message.payload[..]), ("file:3", &b"\xff"[..]), "the blank line counts");
    assert_eq!(second.message.metadata["n"], "v");
    assert_eq!((third.place.as_str(), third.message.payload.len()), ("file:4", 0), "the last line needs no end");
    assert_eq!(third.end, text.len() as u64);
}

#[tokio::test]
async fn a_line_is_named_by_what_it_is() {
    let keys = async |text| all(text).await.unwrap().into_iter().map(|line| line.key).collect::<Vec<_>>();
    let plain = keys(b"{\"payload\":\"a\"}\n{\"payload\":\"a\"}\n{\"payload\":\"b\",\"key\":\"k\",\"metadata\":{\"x\":\"1\",\"y\":\"2\"}}").await;
    assert_eq!(plain.iter().collect::<std::collections::BTreeSet<_>>().len(), 3, "equal lines are different events");
    let other = keys(
        b"\xef\xbb\xbf\n{ \"payload_base64\":\"YQ==\", \"key\":\"\"}\r\n\n{\"entries\":[{\"payload\":\"a\"} , \
          {\"id\":\"f\",\"sequence\":7,\"metadata\":{\"y\":\"2\",\"x\":\"1\"},\"key\":\"k\",\"payload\":\"b\"}]}",
    )
    .await;
    assert_eq!(plain, other, "however they are written");
    // What lies between names and values counts.
    let differ =
        keys(b"{\"payload\":\"ab\"}\n{\"payload\":\"b\",\"key\":\"a\"}\n{\"payload\":\"\",\"key\":\"ab\"}").await;
    assert_eq!(differ.iter().chain(&plain).collect::<std::collections::BTreeSet<_>>().len(), 6);
}

#[tokio::test]
async fn what_the_ledger_assigned_is_taken_and_checked() {
    let entry = crate::api::grpc::pb::context::Entry {
        id: "0".repeat(32),
        key: "k".into(),
        payload: "p".into(),
        sequence: 3,
        appended_at_ns: u64::MAX,
        metadata: [("a".to_owned(), "b".to_owned())].into(),
    };
    let mut object = super::lines::entry::entry_json("elsewhere", &entry);
    for (name, value) in [("position", 1.into()), ("term", 1.into()), ("deduplicated", true.into())] {
        object.insert(name.into(), value);
    }
    let text = serde_json::Value::Object(object).to_string().into_bytes();
    let [line] = <[Line; 1]>::try_from(all(text.leak()).await.unwrap()).unwrap();
    assert_eq!((line.message.context_id.as_str(), &line.message.metadata), ("orders", &entry.metadata));
}

#[tokio::test]
async fn a_bad_line_is_named_with_its_place_and_the_next_step() {
    for (bad, column, why) in [
        (&b"not json"[..], 1, "expected a JSON object"),
        (b"  [\"key\",\"payload\",null,{}]", 3, "expected a JSON object"),
        (b"{\"payload\":1}", 12, "payload: invalid type: integer `1`, expected a string"),
        (b"{\"payload\":{\"a\":1}}", 11, "payload: invalid type: map"),
        (b"{\"key\":[1],\"payload\":\"x\"}", 7, "key: invalid type: sequence"),
        (b"{\"payload\":\"x\",\"metadata\":{\"n\":1}}", 32, "metadata: invalid type: integer `1`"),
        (b"{\"payload\":\"x\",\"metadata\":{\"a:\":\"{,\"},\"term\":-1}", 47, "term: invalid value"),
        (b"[{\"payload\":\"x\"},", 1, "one on each line"),
        (b"{", 1, "an entry stands on one line"),
        (b"{\"payload\":null}", 15, "expected a string: an empty payload is written \"payload\":\"\""),
        (b"{\"payload_base64\":null}", 22, "expected a string: an empty payload is written \"payload\":\"\""),
        (b"{\"payloadBase64\":\"/w==\"}", 16, "is payload_base64 meant?"),
        (b"{\"base64\":\"/w==\"}", 9, "is payload_base64 meant?"),
        (b"{\"Payload\":\"x\"}", 10, "is payload meant?"),
        (
            b"{\"payload_base64\":\"a_-=\"}",
            25,
            "the character '_' at 2 is of the alphabet for URLs: write + for - and /",
        ),
        (b"{\"payload_base64\":\"/w\"}", 23, "fill it up with = at its end"),
        ("{\"payload_base64\":\"h\u{e9}llo\"}".as_bytes(), 26, "payload_base64: the character"),
        (b"{\"key\":\"k\"}", 11, "neither payload nor payload_base64"),
        (b"{\"payload\":\"x\",\"payload_base64\":\"\"}", 35, "both"),
        (b"{\"payload_base64\":\"*\"}", 22, "payload_base64"),
        (b"{\"payload\":\"x\",\"colour\":1}", 23, "unknown field `colour`"),
        (b"{\"payload\":\"x\",\"payload\":\"y\"}", 24, "duplicate field `payload`"),
        (
            "{\"payload\":\"ü\",\"metadata\":{\"ö\":\"1\",\"ö\":\"2\"}}".as_bytes(),
            38,
            "metadata: `ö` stands there twice",
        ),
        (
            b"{\"payload\":\"x\",\"sequence\":\"1\"}",
            29,
            "sequence: invalid type: string \"1\", expected a whole number",
        ),
        (b"{\"payload\":\"\xff\"}", 13, "unicode"),
        (b"{\"payload\":\"x\"", 14, "an entry stands on one line"),
        (b"{\"payload\":\"x\"} {}", 17, "trailing"),
        (b"{\"entries\":[{\"payload\":\"x\"},{\"payload\":2}]}", 40, "expected a string"),
        (b"{\"entries\":[{\"payload\":\"x\"}{}]}", 28, "comma"),
        (b"{\"entries\":[{\"payload\":\"x\"}],\"colour\":1}", 40, "unknown field `colour`"),
        (b"{\"entries\":[{\"payload\":\"x\"}],\"entries\":[]}", 42, "duplicate field `entries`"),
        (b"\xff\xfe{\0\"\0", 1, "UTF-16"),
    ] {
        let text = [&b"{\"payload\":\"x\"}\n\n"[..], bad, b"\n{\"payload\":\"y\"}"].concat();
        let mut lines = lines(text.leak());
        let failure = loop {
            match lines.next().await {
                Ok(line) => assert!(!line.expect(why).message.payload.ends_with(b"y"), "{why}"),
                Err(failure) => break failure,
            }
        };
        let text = failure.to_string();
        assert!(text.starts_with(&format!("file:3:{column}: ")) && text.contains(why), "{column} {why}: {text}");
        assert!(text.contains("again") && !text.contains("at line 1"), "{text}");
        assert_eq!(failure.kind(), Kind::Error);
    }
}

/// What no node takes is not sent to one.
#[tokio::test]
async fn a_line_past_a_limit_is_named_before_it_is_sent() {
    let payload = |bytes: usize| format!("{{\"payload\":\"{}\"}}", "x".repeat(bytes));
    let key = |bytes: usize| format!("{{\"payload\":\"\",\"key\":\"{}\"}}", "x".repeat(bytes));
    let pairs = |count: usize, bytes: usize| {
        let pairs: Vec<_> = (0..count).map(|n| format!("\"{n:02}\":\"{}\"", "x".repeat(bytes))).collect();
        format!("{{\"payload\":\"\",\"metadata\":{{{}}}}}", pairs.join(","))
    };
    for good in [payload(4 << 20), key(1024), pairs(64, 1022)] {
        assert_eq!(all(good.leak().as_bytes()).await.unwrap().len(), 1);
    }
    for (bad, why) in [
        (payload((4 << 20) + 1), "payload is 4194305 bytes, the limit is 4194304: split it"),
        (key(1025), "key is 1025 bytes, the limit is 1024: shorten it"),
        (pairs(65, 1), "metadata has 65 pairs, the limit is 64"),
        (pairs(64, 1023), "metadata is 65600 bytes of names and values, the limit is 65536"),
    ] {
        let text = format!("{{\"payload\":\"x\"}}\n{bad}\n");
        let failure = all(text.leak().as_bytes()).await.unwrap_err().to_string();
        assert!(failure.starts_with("file:2:") && failure.contains(why), "{why}: {failure}");
        assert!(failure.contains("nothing from here on was sent"), "{failure}");
    }
}

#[tokio::test]
async fn a_line_in_hand_waits_for_no_other() {
    let (mut to, from) = tokio::io::duplex(1 << 10);
    let mut lines = Lines::new("pipe".into(), "orders", Box::new(tokio::io::BufReader::new(from)), None);
    tokio::io::AsyncWriteExt::write_all(&mut to, b"{\"payload\":\"1\"}\n{\"payload\":\"2\"}\n{\"pay").await.unwrap();
    assert!(lines.next().await.unwrap().is_some());
    assert!(lines.in_hand().await.unwrap().unwrap().is_some());
    assert!(lines.in_hand().await.is_none(), "half a line");
    tokio::io::AsyncWriteExt::write_all(&mut to, b"load\":\"3\"}\n").await.unwrap();
    assert_eq!(&lines.next().await.unwrap().unwrap().message.payload[..], b"3", "what was dropped lost nothing");
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
