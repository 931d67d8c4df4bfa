//! The calls that this node works at.
//!
//! Each runs in a task of its own, on the runtime on which its name was registered, which the host may keep apart from the
//! ledger's. What one node may have running here is bounded by number and by bytes, and so are the answers that wait for it; the reader of a link never waits for
//! a handler, and a call beyond the bound is turned away with a word.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use bytes::Bytes;
use converge_ledger_core::NodeId;
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;

use super::registry::{CallContext, Handler};
use super::wire::{CallAnswer, cut};
use super::{ANSWERS_BYTES_MAX, HANDLED_BYTES_MAX, MESSAGE_BYTES_MAX, OPEN_MAX};
use crate::distribution::lock::lock;

/// Which call of its connection: the epoch, and the caller's number.
pub(super) type CallKey = (u64, u64);

/// Calls under way, by the node that calls.
#[derive(Default)]
pub(super) struct Serving {
    callers: Mutex<BTreeMap<NodeId, OfCaller>>,
    stopped: CancellationToken,
}

#[derive(Default)]
struct OfCaller {
    running: usize,
    bytes: usize,
    /// Bytes of answers that wait: for the link, or here until their caller looks.
    answers: usize,
    /// Those that their caller may give up.
    cancels: BTreeMap<CallKey, CancellationToken>,
}

impl Serving {
    /// Takes a place for a call; `None` where the caller has as many as it may.
    pub(super) fn admit(self: &Arc<Self>, from: NodeId, key: Option<CallKey>, bytes: usize) -> Option<CallPlace> {
        let mut callers = lock(&self.callers);
        let of = callers.entry(from).or_default();
        if of.running >= OPEN_MAX || of.bytes + bytes > HANDLED_BYTES_MAX {
            return None;
        }
        let given_up = self.stopped.child_token();
        (of.running, of.bytes) = (of.running + 1, of.bytes + bytes);
        if let Some(key) = key {
            of.cancels.insert(key, given_up.clone());
        }
        Some(CallPlace { serving: Arc::clone(self), from, key, bytes, answer: 0, given_up })
    }

    /// Nobody waits for that call any more.
    pub(super) fn cancel(&self, from: NodeId, key: CallKey) {
        let given_up = lock(&self.callers).get(&from).and_then(|of| of.cancels.get(&key).cloned());
        if let Some(given_up) = given_up {
            given_up.cancel();
        }
    }

    /// The node has ended: so has all that it worked at.
    pub(super) fn stop(&self) {
        self.stopped.cancel();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.is_cancelled()
    }
}

/// A call's place among those that this node works at, given back when it is dropped.
pub(super) struct CallPlace {
    serving: Arc<Serving>,
    from: NodeId,
    key: Option<CallKey>,
    bytes: usize,
    answer: usize,
    pub(super) given_up: CancellationToken,
}

impl Drop for CallPlace {
    fn drop(&mut self) {
        let mut callers = lock(&self.serving.callers);
        let of = callers.get_mut(&self.from).expect("a place is one of its caller's");
        (of.running, of.bytes, of.answers) = (of.running - 1, of.bytes - self.bytes, of.answers - self.answer);
        if let Some(key) = self.key {
            of.cancels.remove(&key);
        }
        if of.running == 0 {
            callers.remove(&self.from);
        }
    }
}

impl CallPlace {
    /// Runs the handler; `None` where nobody waits for the answer any more.
    pub(super) async fn run(&mut self, handler: &Handler, context: CallContext, body: Bytes) -> Option<CallAnswer> {
        let in_time = timeout_at(context.deadline, caught(handler, context, body));
        let answer = self.given_up.run_until_cancelled(in_time).await?.ok()?;
        Some(self.keep(answer))
    }

    /// Takes room for an answer that is to wait, until the place is given back. Where its caller has no more of it, there
    /// is no answer.
    fn keep(&mut self, answer: CallAnswer) -> CallAnswer {
        let bytes = match &answer {
            CallAnswer::Done(reply) => reply.len(),
            CallAnswer::Failed(text) => return CallAnswer::Failed(cut(text).to_owned()),
            _ => return answer,
        };
        let mut callers = lock(&self.serving.callers);
        let of = callers.get_mut(&self.from).expect("a place is one of its caller's");
        if bytes > MESSAGE_BYTES_MAX || of.answers + bytes > ANSWERS_BYTES_MAX {
            return CallAnswer::NoAnswer;
        }
        (of.answers, self.answer) = (of.answers + bytes, bytes);
        answer
    }
}

/// Runs the handler. A panic, of it or of its future, is its failure.
async fn caught(handler: &Handler, context: CallContext, body: Bytes) -> CallAnswer {
    let mut running = pin!(async move { handler(context, body).await });
    std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(cx))) {
        Ok(poll) => poll,
        Err(panic) => Poll::Ready(CallAnswer::Failed(format!("the handler panicked: {}", said(&*panic)))),
    })
    .await
}

/// The words of a panic.
fn said(panic: &(dyn Any + Send)) -> &str {
    let literal = panic.downcast_ref::<&str>().copied();
    literal.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a word")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_has_so_many_places_and_bytes_and_gives_them_back() {
        let (serving, caller) = (Arc::<Serving>::default(), NodeId(2));
        let mut places: Vec<_> = (0..OPEN_MAX).map(|_| serving.admit(caller, None, 1).unwrap()).collect();
        assert!(serving.admit(caller, None, 0).is_none());
        assert!(serving.admit(NodeId(3), None, 0).is_some(), "another one has its own");
        places.pop();
        assert!(serving.admit(caller, None, HANDLED_BYTES_MAX).is_none());
        assert!(serving.admit(caller, None, MESSAGE_BYTES_MAX).is_some());
        places.clear();
        let whole = serving.admit(caller, None, HANDLED_BYTES_MAX).unwrap();
        assert!(serving.admit(caller, None, 1).is_none());
        drop(whole);
        assert!(lock(&serving.callers).is_empty(), "nothing is left of who calls no more");
    }

    #[test]
    fn answers_that_wait_for_a_caller_hold_so_many_bytes_and_no_more() {
        let (serving, caller) = (Arc::<Serving>::default(), NodeId(2));
        let long = CallAnswer::Done(vec![0; MESSAGE_BYTES_MAX].into());
        let place = |from| serving.admit(from, None, 0).unwrap();
        let mut waiting = Vec::new();
        for _ in 0..ANSWERS_BYTES_MAX / MESSAGE_BYTES_MAX {
            waiting.push(place(caller));
            assert_eq!(waiting.last_mut().unwrap().keep(long.clone()), long);
        }
        let mut beyond = place(caller);
        assert_eq!(beyond.keep(long.clone()), CallAnswer::NoAnswer);
        assert_eq!(beyond.keep(CallAnswer::Done(Bytes::new())), CallAnswer::Done(Bytes::new()));
        assert_eq!(place(NodeId(3)).keep(long.clone()), long, "another one has its own");
        waiting.pop();
        assert_eq!(place(caller).keep(long.clone()), long, "what was sent makes room");
        assert_eq!(place(caller).keep(CallAnswer::Done(vec![0; MESSAGE_BYTES_MAX + 1].into())), CallAnswer::NoAnswer);
    }

    #[test]
    fn a_call_is_given_up_by_its_caller_alone_and_all_are_with_the_node() {
        let serving = Arc::<Serving>::default();
        let place = |from, id| serving.admit(NodeId(from), Some((7, id)), 1).unwrap();
        let (one, two, other) = (place(2, 1), place(2, 2), place(3, 1));
        serving.cancel(NodeId(2), (7, 1));
        serving.cancel(NodeId(2), (8, 2));
        let given_up = || [&one, &two, &other].map(|place| place.given_up.is_cancelled());
        assert_eq!(given_up(), [true, false, false]);
        serving.stop();
        assert_eq!(given_up(), [true; 3]);
        assert!(place(2, 3).given_up.is_cancelled());
    }
}
