//! `snapshot`: a context as one checked blob.

use std::path::{Path, PathBuf};

use crate::api::grpc::pb::context::{SnapshotRequest, SnapshotResponse};
use clap::Args;
use serde_json::json;
use tonic::metadata::MetadataMap;

use super::client::Call;
use super::files::{Existing, OutputFile};
use super::{Failure, Format, Global, output, signals};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The context to copy.
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    context: String,
    /// Where to write the blob; `-` is stdout.
    #[arg(long, alias = "to", value_name = "FILE|-")]
    file: PathBuf,
    /// Replace the file if it exists. What is no file, such as a pipe, is
    /// written through with it and without.
    #[arg(long)]
    force: bool,
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    let mut signals = signals()?;
    // Dropped half-way, it leaves nothing behind.
    tokio::select! {
        outcome = copy(global, arguments) => outcome,
        () = signals.next() => Err(Failure::error("interrupted")),
    }
}

async fn copy(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    let existing = if arguments.force { Existing::Replace } else { Existing::Keep };
    let file = OutputFile::find(&arguments.file, existing)?;
    let request = SnapshotRequest { context_id: arguments.context };
    let none = MetadataMap::new();
    let response = global
        .client()?
        .slow()
        .call(Call::Read("snapshot"), &none, &request, |mut node, request| async move {
            node.context.snapshot(request).await
        })
        .await?
        .into_inner();
    file.write(response.snapshot.clone()).await?;
    if file.is_stdout() {
        return Ok(());
    }
    report(global.output, &request.context_id, &arguments.file, &response)
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
