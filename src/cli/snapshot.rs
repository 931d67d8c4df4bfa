//! `snapshot`: a context as one checked blob.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use converge_ledger::api::grpc::pb::context::{SnapshotRequest, SnapshotResponse};
use serde_json::json;
use tonic::metadata::MetadataMap;

use super::{Failure, Format, Global, Kind, output};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The context to copy.
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    context: String,
    /// Where to write the blob; `-` is stdout.
    #[arg(long, alias = "to", value_name = "FILE|-")]
    file: PathBuf,
    /// Replace the file if it exists.
    #[arg(long)]
    force: bool,
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    let to_stdout = arguments.file.as_os_str() == "-";
    if !to_stdout && !arguments.force && arguments.file.exists() {
        let file = arguments.file.display();
        let message = format!("{file} exists: name another file, or give --force");
        return Err(Failure::new(Kind::Usage, message));
    }
    let request = SnapshotRequest { context_id: arguments.context };
    let none = MetadataMap::new();
    let response = global
        .client()?
        .call("snapshot", &none, &request, |mut node, request| async move { node.context.snapshot(request).await })
        .await?
        .into_inner();
    if to_stdout {
        return output::bytes(&response.snapshot);
    }
    write(&arguments.file, &response.snapshot).map_err(|error| {
        let file = arguments.file.display();
        Failure::error(format!("cannot write {file}: {error}; name another file with --file"))
    })?;
    report(global.output, &request.context_id, &arguments.file, &response)
}

/// Writes beside the file first: a crash leaves the old one or the new one.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    let mut file = File::create(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&part, path)
}

fn report(format: Format, context_id: &str, file: &Path, response: &SnapshotResponse) -> Result<(), Failure> {
    let metadata = response.metadata.unwrap_or_default();
    let (bytes, sequence) = (response.snapshot.len(), response.sequence);
    match format {
        Format::Json => output::json(&json!({
            "context_id": context_id,
            "file": file.display().to_string(),
            "bytes": bytes,
            "sequence": sequence,
            "entry_count": metadata.entry_count,
            "created_at_ns": metadata.created_at_ns,
            "version": metadata.version,
        })),
        Format::Table => {
            let mut table = output::table(&["file", "bytes", "entries", "sequence", "made"]);
            table.add_row([
                file.display().to_string(),
                bytes.to_string(),
                metadata.entry_count.to_string(),
                sequence.to_string(),
                output::time(metadata.created_at_ns),
            ]);
            output::line(table.to_string())
        }
    }
}
