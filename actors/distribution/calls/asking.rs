//! The calls that this node waits for, of one other node.
//!
//! Numbers rise for as long as the process lives, and each belongs to the connection over which its call went: an answer
//! that comes over another reaches nobody. An answer waits for its caller to poll; what waits so is bounded.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::error::{MayHaveRun, NotSent, RemoteError};
use super::{ANSWERS_BYTES_MAX, OPEN_MAX};
use crate::distribution::lock::lock;
use crate::distribution::types::Recall;

/// How a call ends.
pub(super) type Ended = Result<Bytes, RemoteError>;

/// The connection over which calls go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CallLink {
    pub(super) epoch: u64,
    pub(super) incarnation: u64,
}

/// How a call ended, and the bytes that it holds until its caller has looked.
#[derive(Debug)]
pub(super) struct HeldAnswer {
    pub(super) ended: Ended,
    _room: Option<OwnedSemaphorePermit>,
}

struct OpenCall {
    epoch: u64,
    recall: Recall,
    answer: oneshot::Sender<HeldAnswer>,
}

#[derive(Default)]
struct AskingState {
    link: Option<CallLink>,
    /// The number of the last call.
    last: u64,
    open: BTreeMap<u64, OpenCall>,
}

/// What one other node is asked.
pub(super) struct Asking {
    state: Mutex<AskingState>,
    /// Bytes of answers that may wait for their callers.
    room: Arc<Semaphore>,
}

impl Default for Asking {
    fn default() -> Asking {
        Asking { state: Mutex::default(), room: Arc::new(Semaphore::new(ANSWERS_BYTES_MAX)) }
    }
}

/// A call that was queued.
#[derive(Debug)]
pub(super) struct QueuedCall {
    pub(super) id: u64,
    pub(super) epoch: u64,
    pub(super) answer: oneshot::Receiver<HeldAnswer>,
}

/// What became of a call that its caller gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GivenUp {
    /// It had ended already.
    Ended,
    /// It never left.
    TakenBack,
    /// It has left.
    Left,
}

impl Asking {
    pub(super) fn link(&self) -> Option<CallLink> {
        lock(&self.state).link
    }

    /// Sends a call by `send`, which gets its epoch, its number, and what takes it back. Under one lock, so that numbers
    /// rise on the wire.
    pub(super) fn ask(
        &self,
        send: impl FnOnce(u64, u64, Recall) -> Result<(), NotSent>,
    ) -> Result<QueuedCall, NotSent> {
        let mut state = lock(&self.state);
        let CallLink { epoch, .. } = state.link.ok_or(NotSent::Down)?;
        if state.open.len() >= OPEN_MAX {
            return Err(NotSent::Full);
        }
        state.last += 1;
        let (id, recall) = (state.last, Recall::default());
        send(epoch, id, recall.clone())?;
        let (sender, answer) = oneshot::channel();
        state.open.insert(id, OpenCall { epoch, recall, answer: sender });
        Ok(QueuedCall { id, epoch, answer })
    }

    /// An answer came over the connection `epoch`. One that nobody waits for is dropped.
    pub(super) fn answered(&self, epoch: u64, id: u64, ended: Ended) {
        let mut state = lock(&self.state);
        if state.open.get(&id).is_some_and(|call| call.epoch == epoch)
            && let Some(call) = state.open.remove(&id)
        {
            drop(state);
            let _ = call.answer.send(self.held(ended));
        }
    }

    fn held(&self, ended: Ended) -> HeldAnswer {
        let bytes = ended.as_ref().map_or(0, |answer| u32::try_from(answer.len()).unwrap_or(u32::MAX));
        match Arc::clone(&self.room).try_acquire_many_owned(bytes) {
            Ok(room) => HeldAnswer { ended, _room: Some(room) },
            Err(_) => HeldAnswer { ended: Err(RemoteError::Unknown(MayHaveRun::AnswerDropped)), _room: None },
        }
    }

    /// The caller waits no longer.
    pub(super) fn give_up(&self, id: u64) -> GivenUp {
        match lock(&self.state).open.remove(&id) {
            None => GivenUp::Ended,
            Some(call) if call.recall.take_back() => GivenUp::TakenBack,
            Some(_) => GivenUp::Left,
        }
    }

    pub(super) fn up(&self, link: CallLink) {
        lock(&self.state).link = Some(link);
    }

    /// The connection ended, and with it every call that went over it. Returns what it led to.
    pub(super) fn down(&self) -> Option<CallLink> {
        let (link, open) = {
            let mut state = lock(&self.state);
            (state.link.take(), std::mem::take(&mut state.open))
        };
        for call in open.into_values() {
            let why = match call.recall.take_back() {
                true => NotSent::Down.into(),
                false => RemoteError::Unknown(MayHaveRun::LinkLost),
            };
            let _ = call.answer.send(HeldAnswer { ended: Err(why), _room: None });
        }
        link
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distribution::calls::MESSAGE_BYTES_MAX;

    const LINK: CallLink = CallLink { epoch: 5, incarnation: 50 };

    fn up() -> Asking {
        let asking = Asking::default();
        asking.up(LINK);
        asking
    }

    /// A call that waits in the queue, and what takes it off there.
    fn ask(asking: &Asking) -> (QueuedCall, Recall) {
        let mut kept = None;
        let asked = asking.ask(|_, _, recall| {
            kept = Some(recall);
            Ok(())
        });
        (asked.unwrap(), kept.unwrap())
    }

    #[test]
    fn an_answer_reaches_its_call_over_its_connection_only() {
        let asking = up();
        let (mut first, _) = ask(&asking);
        let (mut second, _) = ask(&asking);
        assert!(first.id < second.id);
        asking.answered(4, first.id, Ok(Bytes::from_static(b"of an older connection")));
        asking.answered(5, 99, Ok(Bytes::from_static(b"to nobody")));
        first.answer.try_recv().unwrap_err();
        asking.answered(5, second.id, Ok(Bytes::from_static(b"2")));
        asking.answered(5, second.id, Ok(Bytes::from_static(b"twice")));
        assert_eq!(second.answer.try_recv().unwrap().ended, Ok(Bytes::from_static(b"2")));
        first.answer.try_recv().unwrap_err();
    }

    #[test]
    fn a_lost_connection_tells_what_left_from_what_did_not() {
        let asking = up();
        let (mut left, recall) = ask(&asking);
        let (mut queued, _) = ask(&asking);
        assert!(recall.leaves());
        assert_eq!(asking.down(), Some(LINK));
        assert_eq!(left.answer.try_recv().unwrap().ended, Err(RemoteError::Unknown(MayHaveRun::LinkLost)));
        assert_eq!(queued.answer.try_recv().unwrap().ended, Err(NotSent::Down.into()));
        assert_eq!(asking.down(), None, "told once");
        assert_eq!(asking.ask(|_, _, _| panic!("there is no connection")).unwrap_err(), NotSent::Down);
        asking.up(CallLink { epoch: 6, ..LINK });
        let (mut next, _) = ask(&asking);
        assert!(next.id > queued.id, "numbers rise across connections");
        asking.answered(6, left.id, Ok(Bytes::new()));
        next.answer.try_recv().unwrap_err();
    }

    #[test]
    fn what_is_given_up_is_told_from_what_has_ended() {
        let asking = up();
        let (left, recall) = ask(&asking);
        let (queued, back) = ask(&asking);
        let (ended, _) = ask(&asking);
        assert!(recall.leaves());
        asking.answered(5, ended.id, Ok(Bytes::new()));
        assert_eq!(asking.give_up(left.id), GivenUp::Left);
        assert_eq!(asking.give_up(queued.id), GivenUp::TakenBack);
        assert!(!back.leaves(), "it is not written any more");
        assert_eq!(asking.give_up(ended.id), GivenUp::Ended);
    }

    #[test]
    fn so_many_calls_are_open_and_no_more() {
        let asking = up();
        let mut open: Vec<_> = (0..OPEN_MAX).map(|_| ask(&asking).0).collect();
        assert_eq!(asking.ask(|_, _, _| panic!("full")).unwrap_err(), NotSent::Full);
        asking.give_up(open.pop().unwrap().id);
        ask(&asking);
        assert_eq!(asking.ask(|_, _, _| Err(NotSent::Full)).unwrap_err(), NotSent::Full);
    }

    #[test]
    fn answers_that_nobody_looks_at_hold_so_many_bytes_and_no_more() {
        let asking = up();
        let long = Bytes::from(vec![0; MESSAGE_BYTES_MAX]);
        let count = ANSWERS_BYTES_MAX / MESSAGE_BYTES_MAX;
        let mut open: Vec<_> = (0..=count).map(|_| ask(&asking).0).collect();
        open.iter().for_each(|asked| asking.answered(5, asked.id, Ok(long.clone())));
        let dropped = Err(RemoteError::Unknown(MayHaveRun::AnswerDropped));
        assert_eq!(open.pop().unwrap().answer.try_recv().unwrap().ended, dropped);
        assert_eq!(open.pop().unwrap().answer.try_recv().unwrap().ended, Ok(long.clone()));
        let (mut next, _) = ask(&asking);
        asking.answered(5, next.id, Ok(long.clone()));
        assert_eq!(next.answer.try_recv().unwrap().ended, Ok(long), "what was looked at makes room");
    }
}
