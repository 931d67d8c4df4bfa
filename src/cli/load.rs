//! `load`: a context from a blob, all of it or nothing.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::api::grpc::pb::context::LoadRequest;
use clap::Args;
use converge_ledger_core::snapshot::MAGIC;
use serde_json::json;
use tonic::Code;
use tonic::metadata::MetadataMap;

use super::client::Call;
use super::{Failure, Format, Global, Kind, output};

/// A blob larger than this fits no message.
const BLOB_BYTES_MAX: u64 = 1 << 30;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The context to restore.
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    context: String,
    /// The blob, as `snapshot` wrote it; `-` is stdin.
    #[arg(long, alias = "from", value_name = "FILE|-")]
    file: PathBuf,
    /// Refuse when the context already has entries.
    #[arg(long)]
    fail_if_exists: bool,
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    let file = arguments.file.as_path();
    let snapshot =
        read(file).map_err(|error| Failure::error(format!("cannot read {file:?}: {error}; check --file")))?;
    if snapshot.len() as u64 > BLOB_BYTES_MAX {
        let message = format!("{file:?} is larger than the {BLOB_BYTES_MAX} bytes of any snapshot");
        return Err(Failure::new(Kind::Usage, message));
    }
    let request = LoadRequest {
        context_id: arguments.context,
        snapshot: snapshot.into(),
        fail_if_exists: arguments.fail_if_exists,
    };
    let none = MetadataMap::new();
    let response = global
        .client()?
        .slow()
        .call(Call::Write("load"), &none, &request, |mut node, request| async move { node.context.load(request).await })
        .await
        .map_err(|failure| explained(failure, file))?
        .into_inner();
    let (restored, latest) = (response.entries_restored, response.latest_sequence);
    // What is loaded is all that the context holds then: nothing else is loaded into one that has more.
    let already_there = latest.saturating_sub(restored);
    match global.output {
        Format::Json => output::json(&json!({
            "context_id": request.context_id,
            "entries_restored": restored,
            "already_there": already_there,
            "latest_sequence": latest,
        })),
        Format::Table => output::line(told(&output::shown(&request.context_id), restored, already_there)),
    }
}

/// What a load has done, for people.
fn told(context: &str, restored: u64, already_there: u64) -> String {
    let latest = restored + already_there;
    let entries = |count: u64| format!("{count} {}", if count == 1 { "entry" } else { "entries" });
    let (there, new) = (entries(already_there), entries(restored));
    match (restored, already_there) {
        (0, 0) => format!("nothing restored: the snapshot has no entries, and neither has {context}"),
        (0, _) => format!("nothing restored: {context} already holds all of the snapshot, {there}"),
        (_, 0) => format!("{new} restored; the latest sequence of {context} is {latest}"),
        _ => {
            format!("{new} restored behind {there} of the snapshot that {context} had; its latest sequence is {latest}")
        }
    }
}

/// The only argument that can be wrong here is the blob; and what stands in the way may be what we loaded ourselves.
fn explained(failure: Failure, file: &Path) -> Failure {
    match failure.code() {
        Some(Code::AlreadyExists) if failure.maybe_done() => Failure::new(
            Kind::Unavailable,
            format!(
                "{failure}; it may have them from this very load, whose first answer was lost: load without \
                 --fail-if-exists, which changes nothing where the entries are the same"
            ),
        ),
        _ if failure.is_unknown() => {
            failure.next("load it again without --fail-if-exists: what is there already stays")
        }
        Some(Code::InvalidArgument) => {
            Failure::new(Kind::Integrity, format!("{file:?}: {failure}; make another snapshot"))
        }
        _ => failure,
    }
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    match path.as_os_str() == "-" {
        true => read_from(std::io::stdin().lock()),
        false => read_from(std::fs::File::open(path)?),
    }
}

/// Reads no more than its beginning where that is not a snapshot's: it may be anything, of any size.
fn read_from(mut source: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.by_ref().take(MAGIC.len() as u64).read_to_end(&mut bytes)?;
    if bytes == MAGIC {
        source.take(BLOB_BYTES_MAX + 1 - bytes.len() as u64).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}
