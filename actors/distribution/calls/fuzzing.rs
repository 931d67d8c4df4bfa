//! Frames of calls, see [`crate::fuzzing`].

use bytes::Bytes;

use super::wire::{CallAnswer, CallFrame};
use crate::fuzzing::sample::Seed;

/// A frame of calls as a peer may send it.
pub fn call_frame(data: &[u8]) -> bool {
    let bytes = Bytes::copy_from_slice(data);
    let Ok(frame) = CallFrame::decode(&bytes) else { return false };
    let again = Bytes::from(frame.encode().concat());
    assert!(again.len() <= bytes.len(), "our own form of a frame is longer than a stranger's");
    assert_eq!(CallFrame::decode(&again), Ok(frame), "a frame reads back as another");
    true
}

/// Sound frames.
pub(crate) fn seeds() -> Vec<Seed> {
    let (name, tag, body) = ("stock".to_owned(), "Reserve".to_owned(), Bytes::from_static(b"body"));
    let reply = |answer| CallFrame::Reply { id: 300, answer };
    let frames = [
        ("call", CallFrame::Call { id: 300, name: name.clone(), tag: tag.clone(), left_ms: 9_000, body: body.clone() }),
        ("cast", CallFrame::Cast { name, tag, body: body.clone() }),
        ("done", reply(CallAnswer::Done(body))),
        ("no_such_name", reply(CallAnswer::NoSuchName)),
        ("wrong_type", reply(CallAnswer::WrongType)),
        ("overloaded", reply(CallAnswer::Overloaded)),
        ("failed", reply(CallAnswer::Failed("no stock".into()))),
        ("no_answer", reply(CallAnswer::NoAnswer)),
        ("cancel", CallFrame::Cancel { id: 300 }),
    ];
    let sound = frames.map(|(name, frame)| Seed::new("call_frame", name, &[&frame.encode().concat()]));
    let mut seeds = sound.to_vec();
    seeds.push(Seed::new("call_frame", "another_version", &[&[2, 7, 1]]));
    seeds.push(Seed::new("call_frame", "more_than_its_kind", &[&[1, 7, 1, 0]]));
    seeds
}
