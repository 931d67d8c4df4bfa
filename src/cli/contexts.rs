//! `contexts`: which contexts there are.

use clap::Args;
use serde_json::{Value, json};
use tonic::metadata::MetadataMap;

use super::client::Call;
use super::get::Consistency;
use super::{Failure, Format, Global, any_number, number, output};
use crate::api::grpc::pb::ledger::{ContextHead, ListContextsRequest, ListContextsResponse};
use crate::heads::CONTEXTS_DEFAULT;
use crate::status::hex;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Only names that begin so.
    #[arg(default_value = "")]
    prefix: String,
    /// Only names behind this one, in the order of their bytes.
    #[arg(long, default_value = "")]
    after: String,
    /// At most this many contexts; 0 for all.
    #[arg(long, default_value_t = 0, value_parser = number::<u32>(0..=u32::MAX.into()), allow_negative_numbers = true)]
    limit: u32,
    /// What the list promises.
    #[arg(long, value_enum, default_value_t = Consistency::Linearizable)]
    consistency: Consistency,
    /// Only of a node that has applied the entry at this position.
    #[arg(long, default_value_t = 0, value_parser = any_number, allow_negative_numbers = true)]
    min_position: u64,
}

/// Prints page by page: there may be more contexts than fit into memory.
pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    let client = global.client()?;
    let Arguments { prefix, after, limit, consistency, min_position } = arguments;
    let consistency = consistency.number();
    let mut request = ListContextsRequest { prefix, after, limit: 0, consistency, min_position };
    let (mut left, mut shown) = (if limit == 0 { u64::MAX } else { limit.into() }, 0_u64);
    let mut table = output::table(&["context", "entries", "chain"]);
    loop {
        request.limit = u32::try_from(left.min(CONTEXTS_DEFAULT as u64)).expect("a small number");
        let answer = client
            .call(Call::Read("contexts"), &MetadataMap::new(), &request, |mut node, request| async move {
                node.ledger.list_contexts(request).await
            })
            .await?;
        let ListContextsResponse { contexts, next, position, .. } = answer.into_inner();
        match global.output {
            Format::Json => print_json(shown, &contexts)?,
            Format::Table => contexts.iter().for_each(|head| {
                table.add_row([
                    output::shown(&head.context_id),
                    head.latest_sequence.to_string(),
                    hex(&head.chain[..head.chain.len().min(8)]),
                ]);
            }),
        }
        shown += contexts.len() as u64;
        left -= contexts.len() as u64;
        if next.is_empty() || left == 0 {
            break;
        }
        // The next page may come from another node: not from one that has less.
        request.after = next;
        request.min_position = request.min_position.max(position);
    }
    match global.output {
        Format::Json => output::line("]}"),
        Format::Table => {
            output::line(table.to_string())?;
            output::line(format!("{shown} contexts"))
        }
    }
}

/// The contexts, after so many others of one document on one line.
fn print_json(shown: u64, contexts: &[ContextHead]) -> Result<(), Failure> {
    let mut text = String::from(if shown == 0 { "{\"contexts\":[" } else { "" });
    for (head, number) in contexts.iter().zip(shown..) {
        if number > 0 {
            text.push(',');
        }
        let ContextHead { context_id, latest_sequence, lamport, fence_epoch, chain } = head;
        let chain = hex(chain);
        let value: Value = json!({
            "context_id": context_id, "latest_sequence": latest_sequence, "lamport": lamport, "fence_epoch": fence_epoch,
            "chain": chain,
        });
        text += &value.to_string();
    }
    output::bytes(text.as_bytes())
}
