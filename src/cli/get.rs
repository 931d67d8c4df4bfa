//! `get`: the entries of a context.

use clap::{Args, ValueEnum};
use converge_ledger::api::grpc::names;
use converge_ledger::api::grpc::pb::context::{GetRequest, GetResponse};
use serde_json::{Value, json};
use tonic::metadata::{MetadataMap, MetadataValue};

use super::{Failure, Format, Global, output};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The context to read.
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    context: String,
    /// Only entries after this sequence.
    #[arg(long, default_value_t = 0)]
    after: u64,
    /// At most this many entries; 0 for all.
    #[arg(long, default_value_t = 0)]
    limit: u32,
    /// Only entries with this key.
    #[arg(long, default_value = "")]
    key: String,
    /// What the read promises.
    #[arg(long, value_enum, default_value_t = Consistency::Linearizable)]
    consistency: Consistency,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Consistency {
    /// Sees every append acknowledged before.
    Linearizable,
    /// As linearizable.
    Lease,
    /// What the node has, also when it is cut off.
    Stale,
}

impl Consistency {
    fn name(self) -> &'static str {
        match self {
            Consistency::Linearizable => "linearizable",
            Consistency::Lease => "lease",
            Consistency::Stale => "stale",
        }
    }
}

pub(crate) async fn run(global: &Global, arguments: Arguments) -> Result<(), Failure> {
    let mut extra = MetadataMap::new();
    let consistency = MetadataValue::from_static(arguments.consistency.name());
    extra.insert(names::CONSISTENCY, consistency);
    let request = GetRequest {
        context_id: arguments.context,
        key: arguments.key,
        after_sequence: arguments.after,
        limit: arguments.limit,
    };
    let response = global
        .client()?
        .call("get", &extra, &request, |mut node, request| async move { node.context.get(request).await })
        .await?
        .into_inner();
    match global.output {
        Format::Json => print_json(&request.context_id, &response),
        Format::Table => print_table(&response),
    }
}

fn print_json(context_id: &str, response: &GetResponse) -> Result<(), Failure> {
    let entry = |entry| Value::Object(output::entry_json(context_id, entry));
    output::json(&json!({
        "context_id": context_id,
        "latest_sequence": response.latest_sequence,
        "entries": response.entries.iter().map(entry).collect::<Vec<_>>(),
    }))
}

fn print_table(response: &GetResponse) -> Result<(), Failure> {
    let mut table = output::table(&["sequence", "appended", "key", "payload", "metadata"]);
    for entry in &response.entries {
        table.add_row([
            entry.sequence.to_string(),
            output::time(entry.appended_at_ns),
            output::shown(&entry.key),
            output::payload(&entry.payload),
            output::metadata(&entry.metadata),
        ]);
    }
    output::line(table.to_string())?;
    let (shown, latest) = (response.entries.len(), response.latest_sequence);
    output::line(format!("{shown} entries; the latest sequence is {latest}"))
}
