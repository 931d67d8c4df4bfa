//! What of a transaction's message is counted before it is decoded.

use converge_ledger_core::Limits;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use tonic::{Code, Status};

use super::status::refused;
use super::whole::PREFIX_BYTES;

/// `AppendBatchRequest.entries` and `conditions`, `NewEntry.metadata`.
const ENTRIES: u32 = 1;
const CONDITIONS: u32 = 2;
const METADATA: u32 = 4;

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

    use super::super::pb::ledger::{AppendBatchRequest, Condition, NewEntry};
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
