//! `batch`: the lines of a file as one transaction, all or none.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tonic::metadata::MetadataMap;

use super::client::Call;
use super::lines::entry::{self, Bad};
use super::{Failure, Format, Global, Kind, append, output};
use crate::api::grpc::pb::ledger::{AppendBatchRequest, Condition, NewEntry};

/// A file is read up to here; a transaction is smaller, also where its payloads are base64 and escaped.
const FILE_BYTES_MAX: u64 = 32 << 20;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// JSON lines, an entry each: `context_id`, `key`, `payload` or `payload_base64`, `metadata`. Or a condition each:
    /// `{"condition": {"context_id": "…", "sequence": 3, "fence_epoch": 1}}`, with one of the two numbers or both. `-` is stdin.
    #[arg(long, value_name = "FILE|-")]
    from: PathBuf,
    /// One transaction per key, however often it is sent: the same lines under it are appended once.
    #[arg(long, value_parser = append::parse_key)]
    idempotency_key: Option<String>,
}

#[derive(Deserialize)]
struct Kinds {
    #[serde(default)]
    context_id: Option<String>,
    #[serde(default)]
    condition: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConditionLine {
    condition: ConditionFields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConditionFields {
    context_id: String,
    #[serde(default)]
    sequence: Option<u64>,
    #[serde(default)]
    fence_epoch: Option<u64>,
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    let client = global.client()?;
    let (name, text) = read(&arguments.from).await?;
    let mut request = parse(&name, &text)?;
    let key = arguments.idempotency_key.unwrap_or_else(append::random_key);
    request.idempotency_key.clone_from(&key);
    let answer = client
        .call(Call::Write("batch"), &MetadataMap::new(), &request, |mut node, request| async move {
            node.ledger.append_batch(request).await
        })
        .await;
    let answer = answer.map_err(|failure| {
        if !failure.is_unknown() {
            return failure;
        }
        failure.next(format!("run it again with --idempotency-key {key:?}, which appends all of it once"))
    })?;
    let answer = answer.into_inner();
    match global.output {
        Format::Json => {
            let placed = answer.placed.iter().map(|at| {
                json!({
                    "context_id": at.context_id,
                    "sequence": at.sequence,
                    "position": at.position,
                    "lamport": at.lamport,
                    "id": at.id,
                })
            });
            let placed: Vec<_> = placed.collect();
            output::json(&json!({ "placed": placed, "deduplicated": answer.deduplicated, "term": answer.term }))
        }
        Format::Table => {
            let mut table = output::table(&["context", "sequence", "position", "id"]);
            for at in &answer.placed {
                let (sequence, position) = (at.sequence.to_string(), at.position.to_string());
                table.add_row([output::shown(&at.context_id), sequence, position, at.id.clone()]);
            }
            output::line(table.to_string())?;
            match answer.deduplicated {
                true => output::line("it was there already: the idempotency key was used before"),
                false => Ok(()),
            }
        }
    }
}

/// The file's name, for people, and what is in it.
async fn read(path: &Path) -> Result<(String, Vec<u8>), Failure> {
    let mut text = Vec::new();
    let (name, read) = if path.as_os_str() == "-" {
        ("stdin".to_owned(), tokio::io::stdin().take(FILE_BYTES_MAX + 1).read_to_end(&mut text).await)
    } else {
        let read = match tokio::fs::File::open(path).await {
            Ok(file) => file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).await,
            Err(error) => Err(error),
        };
        (output::harmless(&path.display().to_string()), read)
    };
    read.map_err(|error| Failure::error(format!("{name}: it cannot be read: {error}")))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        let why = format!("{name} is longer than {FILE_BYTES_MAX} bytes, more than a transaction holds: split it");
        return Err(Failure::new(Kind::Usage, why));
    }
    Ok((name, text))
}

/// The transaction that the lines are.
fn parse(name: &str, text: &[u8]) -> Result<AppendBatchRequest, Failure> {
    let mut request = AppendBatchRequest::default();
    for (number, line) in (1..).zip(text.split(|byte| *byte == b'\n')) {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        add(&mut request, line).map_err(|Bad { byte, why }| {
            let why = output::harmless(&why);
            Failure::error(format!(
                "{name}:{number}:{byte}: {why}; nothing was sent: correct it and run the command again"
            ))
        })?;
    }
    Ok(request)
}

fn add(request: &mut AppendBatchRequest, line: &[u8]) -> Result<(), Bad> {
    let kinds: Kinds = entry::object(line)?;
    if kinds.condition.is_some() {
        let ConditionLine { condition } = entry::object(line)?;
        let ConditionFields { context_id, sequence, fence_epoch } = condition;
        request.conditions.push(Condition { context_id, sequence, fence_epoch });
        return Ok(());
    }
    let Some(context_id) = kinds.context_id else {
        let why = "the line has neither context_id nor condition: name the entry's context".to_owned();
        return Err(Bad { byte: line.len(), why });
    };
    let message = entry::parse(line, &context_id)?;
    request.entries.push(NewEntry {
        context_id,
        key: message.key,
        payload: message.payload,
        metadata: message.metadata,
        received_lamport: None,
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_entries_and_conditions() {
        let text = br#"{"context_id":"a","payload":"x"}

{"condition":{"context_id":"b","sequence":0}}
{"condition":{"context_id":"a","fence_epoch":7}}
{"context_id":"b","key":"k","payload_base64":"eA==","metadata":{"n":"v"}}
"#;
        let request = parse("file", text).unwrap();
        let entries: Vec<_> = request.entries.iter().map(|e| (&e.context_id[..], &e.key[..], &e.payload[..])).collect();
        assert_eq!(entries, [("a", "", &b"x"[..]), ("b", "k", b"x")]);
        let conditions: Vec<_> =
            request.conditions.iter().map(|c| (&c.context_id[..], c.sequence, c.fence_epoch)).collect();
        assert_eq!(conditions, [("b", Some(0), None), ("a", None, Some(7))]);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, told) in [
            ("\n{\"payload\":\"x\"}", "file:2:15: the line has neither context_id nor condition"),
            ("{\"condition\":{\"sequence\":1}}", "missing field `context_id`"),
            ("{\"condition\":{\"context_id\":\"a\",\"sequence\":-1}}", "file:1:"),
            ("{\"context_id\":\"a\",\"payloads\":\"x\"}", "payloads"),
            ("[]", "expected a JSON object"),
        ] {
            let failure = parse("file", text.as_bytes()).unwrap_err().to_string();
            assert!(failure.contains(told), "{failure}");
        }
    }
}
