//! Between wire messages and the ledger's types. `""` and `0` mean "not given".

use std::time::Duration;

use converge_ledger_core::{Condition, Entry, FenceEpoch, Lamport, NewEntry, Position, Sequence};
use tonic::{Code, Status};

use super::pb::{admin, context, ledger};
use super::status::refused;
use crate::status::hex;
use crate::{
    Consistency, ContextHead, Direction, LedgerHead, ManyEntry, PeerStatus, StreamFrom, StreamOptions, Transaction,
    TransactionEntry, WatchOptions,
};

/// The longest context id.
const CONTEXT_ID_BYTES: usize = 1024;
/// The longest key.
const KEY_BYTES: usize = 1024;

/// Checks a context's name before it is looked up.
pub(super) fn context_id(text: &str) -> Result<(), Status> {
    let why = match text.len() {
        0 => "context_id is empty: name a context".to_owned(),
        1..=CONTEXT_ID_BYTES => return Ok(()),
        bytes => format!("context_id has {bytes} bytes: at most {CONTEXT_ID_BYTES}"),
    };
    Err(refused(Code::InvalidArgument, why))
}

/// A key filter; `""` filters nothing. It is kept for as long as the call lasts, so one that no entry can have is refused.
pub(super) fn key_filter(key: String) -> Result<Option<String>, Status> {
    match key.len() {
        0 => Ok(None),
        1..=KEY_BYTES => Ok(Some(key)),
        bytes => Err(refused(Code::InvalidArgument, format!("key has {bytes} bytes: at most {KEY_BYTES}"))),
    }
}

pub(super) fn new_entry(request: context::AppendRequest) -> NewEntry {
    NewEntry { context_id: request.context_id, key: request.key, payload: request.payload, metadata: request.metadata }
}

pub(super) fn streamed_entry(request: ledger::AppendStreamRequest) -> ManyEntry {
    let ledger::AppendStreamRequest { context_id, key, payload, metadata, idempotency_key, expected_sequence } =
        request;
    ManyEntry {
        entry: NewEntry { context_id, key, payload, metadata },
        idempotency_key: given(idempotency_key),
        expected_sequence: expected_sequence.map(Sequence),
    }
}

pub(super) fn transaction(request: ledger::AppendBatchRequest) -> Transaction {
    let ledger::AppendBatchRequest { entries, conditions, idempotency_key } = request;
    Transaction {
        entries: entries.into_iter().map(received_entry).collect(),
        conditions: conditions.into_iter().map(condition).collect(),
        idempotency_key: given(idempotency_key),
    }
}

pub(super) fn received_entry(entry: ledger::NewEntry) -> TransactionEntry {
    let ledger::NewEntry { context_id, key, payload, metadata, received_lamport } = entry;
    let entry = NewEntry { context_id, key, payload, metadata };
    TransactionEntry { entry, received_lamport: received_lamport.map(Lamport) }
}

fn condition(condition: ledger::Condition) -> Condition {
    let ledger::Condition { context_id, sequence, fence_epoch } = condition;
    Condition { context_id, sequence: sequence.map(Sequence), fence_epoch: fence_epoch.map(FenceEpoch) }
}

/// A text that is not `""`.
pub(super) fn given(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

pub(super) fn placed(entry: Entry) -> ledger::PlacedEntry {
    ledger::PlacedEntry {
        context_id: entry.context_id,
        sequence: entry.sequence.get(),
        position: entry.position.get(),
        lamport: entry.lamport.get(),
        id: entry.id.to_string(),
    }
}

pub(super) fn ledger_entry(entry: Entry) -> ledger::Entry {
    ledger::Entry {
        context_id: entry.context_id,
        key: entry.key,
        payload: entry.payload,
        metadata: entry.metadata,
        id: entry.id.to_string(),
        sequence: entry.sequence.get(),
        position: entry.position.get(),
        appended_at_ns: entry.appended_at_ns,
        lamport: entry.lamport.get(),
    }
}

pub(super) fn entry(entry: Entry) -> context::Entry {
    context::Entry {
        id: entry.id.to_string(),
        key: entry.key,
        payload: entry.payload,
        sequence: entry.sequence.get(),
        appended_at_ns: entry.appended_at_ns,
        metadata: entry.metadata,
    }
}

pub(super) fn placed_entry(entry: Entry) -> ledger::Entry {
    ledger::Entry {
        context_id: entry.context_id,
        key: entry.key,
        payload: entry.payload,
        metadata: entry.metadata,
        id: entry.id.to_string(),
        sequence: entry.sequence.get(),
        position: entry.position.get(),
        appended_at_ns: entry.appended_at_ns,
        lamport: entry.lamport.get(),
    }
}

/// A message's number for it; one that no version has is refused.
pub(super) fn consistency(number: i32) -> Result<Consistency, Status> {
    match ledger::Consistency::try_from(number) {
        Ok(ledger::Consistency::Linearizable) => Ok(Consistency::Linearizable),
        Ok(ledger::Consistency::Lease) => Ok(Consistency::Lease),
        Ok(ledger::Consistency::Stale) => Ok(Consistency::Stale),
        Err(_) => Err(refused(Code::InvalidArgument, format!("consistency {number} is none of 0, 1, 2"))),
    }
}

pub(super) fn stream_from(request: &ledger::ReadStreamRequest) -> Result<StreamFrom, Status> {
    use ledger::read_stream_request::Of;
    match &request.of {
        Some(Of::ContextId(name)) => {
            context_id(name)?;
            Ok(StreamFrom::Context(name.clone(), Sequence(request.from)))
        }
        Some(Of::All(_)) => Ok(StreamFrom::All(Position(request.from))),
        None => Err(refused(Code::InvalidArgument, "context_id or all is needed: say what to read")),
    }
}

pub(super) fn stream_options(request: ledger::ReadStreamRequest) -> Result<StreamOptions, Status> {
    let direction = match ledger::Direction::try_from(request.direction) {
        Ok(ledger::Direction::Forwards) => Direction::Forwards,
        Ok(ledger::Direction::Backwards) => Direction::Backwards,
        Err(_) => {
            let message = format!("direction {} is none of 0, 1", request.direction);
            return Err(refused(Code::InvalidArgument, message));
        }
    };
    Ok(StreamOptions {
        direction,
        limit: request.limit.into(),
        max_bytes: request.max_bytes,
        key: key_filter(request.key)?,
        consistency: consistency(request.consistency)?,
        min_position: Position(request.min_position),
        deadline: None,
    })
}

pub(super) fn context_head(head: ContextHead) -> ledger::ContextHead {
    let ContextHead { context_id, latest, lamport, fence_epoch, chain } = head;
    let (latest_sequence, lamport, fence_epoch) = (latest.get(), lamport.get(), fence_epoch.get());
    ledger::ContextHead { context_id, latest_sequence, lamport, fence_epoch, chain: chain.to_vec().into() }
}

pub(super) fn ledger_head(head: &LedgerHead) -> ledger::LedgerHead {
    ledger::LedgerHead {
        position: head.position.get(),
        applied_index: head.applied_index.get(),
        term: head.term.get(),
        digest: hex(&head.digest),
        cluster_id: head.cluster_id.to_string(),
    }
}

pub(super) fn watch_options(request: context::WatchRequest) -> Result<WatchOptions, Status> {
    Ok(WatchOptions { from: Sequence(request.from_sequence), key: key_filter(request.key)? })
}

pub(super) fn status(status: crate::Status) -> admin::StatusResponse {
    admin::StatusResponse {
        node_id: status.node_id,
        cluster_id: status.cluster_id,
        role: status.role,
        leader_id: status.leader_id,
        term: status.term,
        commit_index: status.commit_index,
        applied_index: status.applied_index,
        last_index: status.last_index,
        last_position: status.last_position,
        digest: status.digest,
        phase: status.phase,
        journal_bytes: status.journal_bytes,
        database_bytes: status.database_bytes,
        peers: status.peers.into_iter().map(peer).collect(),
        alarms: status.alarms,
        segment_bytes: status.segment_bytes,
        level: status.level,
        key_window: status.key_window,
    }
}

fn peer(peer: PeerStatus) -> admin::Peer {
    admin::Peer { id: peer.id, address: peer.address, connected: peer.connected, match_index: peer.match_index }
}

pub(super) fn tree_node(node: converge_supervisors::TreeNode) -> admin::TreeNode {
    use converge_supervisors::{ChildState, Kind};
    let (vitals, millis) = (node.vitals, |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    admin::TreeNode {
        path: node.path,
        kind: match node.kind {
            Kind::Supervisor => "supervisor",
            Kind::Worker => "worker",
        }
        .into(),
        state: match node.state {
            ChildState::Starting => "starting",
            ChildState::Running => "running",
            ChildState::Restarting => "restarting",
            ChildState::Stopping => "stopping",
            ChildState::Stopped => "stopped",
        }
        .into(),
        actor: node.actor.map(|id| id.to_string()).unwrap_or_default(),
        incarnation: node.incarnation,
        restarts: node.restarts,
        last_exit: node.last_exit.unwrap_or_default(),
        uptime_ms: node.uptime.map(millis),
        phase: phase(vitals.phase).into(),
        suspended: vitals.suspended,
        mailbox: vitals.mailbox,
        handled: vitals.handled,
        last_handle_us: vitals.last_handle.map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)),
        busy_ms: vitals.busy_for.map(millis),
    }
}

fn phase(phase: converge_supervisors::Phase) -> &'static str {
    use converge_supervisors::{Callback, Phase};
    match phase {
        Phase::Idle => "idle",
        Phase::Suspended => "suspended",
        Phase::In(Callback::PreStart) => "pre_start",
        Phase::In(Callback::PostStart) => "post_start",
        Phase::In(Callback::Handle) => "handle",
        Phase::In(Callback::HandleEvent) => "handle_event",
        Phase::In(Callback::PostStop) => "post_stop",
    }
}
