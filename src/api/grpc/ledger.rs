//! `LedgerService`: transactions, appends after a time from elsewhere, and fences. Its streams of appends are served by
//! `append_stream`, without decoders and encoders of others.

use std::sync::Arc;

use converge_ledger_core::{FenceEpoch, Limits, Sequence};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use tokio_stream::Empty;
use tonic::{Code, Request, Response, Status, Streaming};

use super::body::Charged;
use super::context::Context;
use super::convert;
use super::metadata::Begun;
use super::pb::ledger::ledger_service_server::LedgerService;
use super::pb::ledger::{
    AppendBatchRequest, AppendBatchResponse, AppendStreamRequest, AppendStreamResponse, AppendWithReceivedTimeRequest,
    AppendWithReceivedTimeResponse, FenceRequest, FenceResponse,
};
use super::status::{from_error, refused};
use super::whole::PREFIX_BYTES;
use crate::{AppendOptions, TransactionEntry};

/// `AppendBatchRequest.entries` and `conditions`, `NewEntry.metadata`.
const ENTRIES: u32 = 1;
const CONDITIONS: u32 = 2;
const METADATA: u32 = 4;

pub(super) struct LedgerCalls(pub(super) Arc<Context>);

#[tonic::async_trait]
impl LedgerService for LedgerCalls {
    type AppendStreamStream = Empty<Result<AppendStreamResponse, Status>>;

    async fn append_stream(
        &self,
        _: Request<Streaming<AppendStreamRequest>>,
    ) -> Result<Response<Self::AppendStreamStream>, Status> {
        Err(refused(Code::Unimplemented, "no stream of appends comes here"))
    }

    async fn append_batch(
        &self,
        request: Request<AppendBatchRequest>,
    ) -> Result<Response<AppendBatchResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let left = self.0.time_left(&metadata, &extensions)?;
        let transaction = convert::transaction(message);
        let bytes = transaction.entries.iter().map(|one| one.entry.content_bytes()).sum();
        let held = self.0.room_for(bytes)?;
        Begun::set(&extensions);
        let done = self.0.ledger.transact(transaction, Some(left)).await.map_err(|error| from_error(&error))?;
        let placed = done.entries.into_iter().map(convert::placed).collect();
        let answer = AppendBatchResponse { placed, deduplicated: done.deduplicated, term: done.term.get() };
        let mut response = Response::new(answer);
        response.extensions_mut().insert(Charged(Arc::new(held)));
        Ok(response)
    }

    async fn append_with_received_time(
        &self,
        request: Request<AppendWithReceivedTimeRequest>,
    ) -> Result<Response<AppendWithReceivedTimeResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let AppendWithReceivedTimeRequest { entry, expected_sequence, fence_epoch, idempotency_key } = message;
        let TransactionEntry { entry, received_lamport } = convert::received_entry(entry.unwrap_or_default());
        convert::context_id(&entry.context_id)?;
        if received_lamport.is_none() {
            let why = "received_lamport is not given: give it, or use converge.context.v1";
            return Err(refused(Code::InvalidArgument, why));
        }
        let options = AppendOptions {
            idempotency_key: convert::given(idempotency_key),
            expected_sequence: expected_sequence.map(Sequence),
            fence_epoch: fence_epoch.map(FenceEpoch),
            received_lamport,
            deadline: Some(self.0.time_left(&metadata, &extensions)?),
        };
        let held = self.0.room_for(entry.content_bytes())?;
        Begun::set(&extensions);
        let done = self.0.ledger.append(entry, options).await.map_err(|error| from_error(&error))?;
        let mut response = Response::new(AppendWithReceivedTimeResponse {
            entry: Some(convert::ledger_entry(done.entry)),
            deduplicated: done.deduplicated,
            term: done.term.get(),
        });
        response.extensions_mut().insert(Charged(Arc::new(held)));
        Ok(response)
    }

    async fn fence(&self, request: Request<FenceRequest>) -> Result<Response<FenceResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        convert::context_id(&message.context_id)?;
        let left = self.0.time_left(&metadata, &extensions)?;
        Begun::set(&extensions);
        let fenced = self.0.ledger.fence(&message.context_id, message.epoch.map(FenceEpoch), Some(left)).await;
        let fenced = fenced.map_err(|error| from_error(&error))?;
        Ok(Response::new(FenceResponse {
            epoch: fenced.epoch.get(),
            latest_sequence: fenced.latest.get(),
            position: fenced.position.get(),
            term: fenced.term.get(),
        }))
    }
}

/// Whether a transaction, with the bytes before its message, has no more parts than one may have: each takes a hundred bytes
/// and more once it is decoded, and two where it comes. What is no message is for the decoder to refuse.
pub(super) fn transaction_fits(message: &[u8]) -> Result<(), Status> {
    let Some((prefix, message)) = message.split_first_chunk::<PREFIX_BYTES>() else { return Ok(()) };
    if prefix[0] != 0 {
        return Err(refused(Code::Unimplemented, "the message is compressed: a transaction may not be"));
    }
    let most = Limits::CONTRACT;
    let mut entries = Bound::new("entries", most.transaction_entries);
    let mut conditions = Bound::new("conditions", most.transaction_conditions);
    each_part(message, |tag, part| match tag {
        ENTRIES => {
            entries.count()?;
            let mut pairs = Bound::new("pairs of metadata in an entry", most.metadata_pairs);
            each_part(part, |tag, _| if tag == METADATA { pairs.count() } else { Ok(()) })
        }
        CONDITIONS => conditions.count(),
        _ => Ok(()),
    })
}

/// So many of these, and no more.
struct Bound {
    what: &'static str,
    most: usize,
    count: usize,
}

impl Bound {
    fn new(what: &'static str, most: usize) -> Bound {
        Bound { what, most, count: 0 }
    }

    fn count(&mut self) -> Result<(), Status> {
        self.count += 1;
        if self.count <= self.most {
            return Ok(());
        }
        let Bound { what, most, .. } = self;
        Err(refused(Code::InvalidArgument, format!("there are more than {most} {what}: split the transaction")))
    }
}

/// Looks at each part of a message that has a length, up to where it is none any more.
fn each_part(mut rest: &[u8], mut look: impl FnMut(u32, &[u8]) -> Result<(), Status>) -> Result<(), Status> {
    while !rest.is_empty() {
        let Ok((tag, wire_type)) = decode_key(&mut rest) else { return Ok(()) };
        if wire_type != WireType::LengthDelimited {
            let Ok(()) = skip_field(wire_type, tag, &mut rest, DecodeContext::default()) else { return Ok(()) };
            continue;
        }
        let length = decode_varint(&mut rest).ok().and_then(|length| usize::try_from(length).ok());
        let Some((part, after)) = length.and_then(|length| rest.split_at_checked(length)) else { return Ok(()) };
        look(tag, part)?;
        rest = after;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::super::pb::ledger::{Condition, NewEntry};
    use super::*;

    fn told(request: &AppendBatchRequest) -> Result<(), String> {
        let message = [&[0; PREFIX_BYTES][..], &request.encode_to_vec()].concat();
        transaction_fits(&message).map_err(|status| status.message().to_owned())
    }

    #[test]
    fn a_transaction_has_no_more_parts_than_one_may_have_before_it_is_decoded() {
        let metadata = (0..64).map(|n| (n.to_string(), String::new())).collect();
        let full = NewEntry { metadata, ..NewEntry::default() };
        let condition = Condition { sequence: Some(3), ..Condition::default() };
        let mut most = AppendBatchRequest {
            entries: vec![full; 1000],
            conditions: vec![condition.clone(); 128],
            idempotency_key: "key".to_owned(),
        };
        assert_eq!(told(&most), Ok(()));
        most.conditions.push(condition);
        assert_eq!(told(&most).unwrap_err(), "there are more than 128 conditions: split the transaction");
        most.entries.push(NewEntry::default());
        assert_eq!(told(&most).unwrap_err(), "there are more than 1000 entries: split the transaction");
        most.entries.truncate(1);
        most.entries[0].metadata.insert("64".to_owned(), String::new());
        assert!(told(&most).unwrap_err().contains("64 pairs of metadata"));
    }

    #[test]
    fn what_is_no_message_is_for_the_decoder() {
        for bytes in
            [&[][..], &[0], &[0; 5], &[0, 0, 0, 0, 1, 0x0a], &[0, 0, 0, 0, 2, 0x0a, 0xff], &[0, 0, 0, 0, 1, 0xff]]
        {
            assert!(transaction_fits(bytes).is_ok(), "{bytes:?}");
        }
        assert_eq!(transaction_fits(&[1, 0, 0, 0, 0]).unwrap_err().code(), Code::Unimplemented);
    }
}
