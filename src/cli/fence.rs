//! `fence`: who appends to a context under an older epoch is refused from then on.

use clap::Args;
use serde_json::json;
use tonic::metadata::MetadataMap;

use super::client::Call;
use super::{Failure, Format, Global, number, output};
use crate::api::grpc::pb::ledger::FenceRequest;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The context to fence; it need not have an entry.
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    context: String,
    /// The new epoch, above the current one; without it, the next one.
    #[arg(value_parser = number::<u64>(1..=u64::MAX))]
    epoch: Option<u64>,
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    let Arguments { context: context_id, epoch } = arguments;
    let request = FenceRequest { context_id, epoch };
    let fenced = global
        .client()?
        .call(Call::Write("fence"), &MetadataMap::new(), &request, |mut node, request| async move {
            node.ledger.fence(request).await
        })
        .await;
    let fenced = fenced.map_err(|failure| match failure.maybe_done() {
        true => failure.next("run it again without an epoch, which takes the next one"),
        false => failure,
    })?;
    let fenced = fenced.into_inner();
    match global.output {
        Format::Json => output::json(&json!({
            "context_id": request.context_id,
            "epoch": fenced.epoch,
            "latest_sequence": fenced.latest_sequence,
            "position": fenced.position,
            "term": fenced.term,
        })),
        Format::Table => {
            let context = output::shown(&request.context_id);
            output::line(format!(
                "{context} has fence epoch {} from sequence {} on",
                fenced.epoch, fenced.latest_sequence
            ))
        }
    }
}
