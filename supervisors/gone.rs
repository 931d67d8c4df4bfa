//! How those who wait for an actor's answer learn that it is gone.
//!
//! A reply that is dropped with its message would tell them, but a message that is sent in the very moment in which its
//! actor dies stays in the actor's channel for as long as anyone holds a reference to that actor: the caller itself, a
//! snapshot, a host's list. So an actor holds an [`Alive`], which goes with it whatever it dies of, and who waits for
//! its answer waits for that as well.

use tokio::sync::{oneshot, watch};

/// Held in an actor, and dropped with it.
#[derive(Debug)]
pub(crate) struct Alive(watch::Sender<()>);

/// The other end: tells when the [`Alive`] was dropped. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Gone(watch::Receiver<()>);

impl Alive {
    pub(crate) fn new() -> Alive {
        Alive(watch::Sender::new(()))
    }

    pub(crate) fn watch(&self) -> Gone {
        Gone(self.0.subscribe())
    }
}

impl Gone {
    /// Waits for the end.
    pub(crate) async fn wait(mut self) {
        while self.0.changed().await.is_ok() {}
    }

    /// Waits for an answer; `None` when there is none, and the one who was to give it is gone or has dropped the reply.
    pub(crate) async fn or_answer<R>(self, mut answer: oneshot::Receiver<R>) -> Option<R> {
        tokio::select! {
            biased;
            answer = &mut answer => answer.ok(),
            // What was answered last is not lost.
            () = self.wait() => answer.try_recv().ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_counts_until_the_end_and_none_is_awaited_after_it() {
        let alive = Alive::new();
        let (reply, answer) = oneshot::channel();
        let gone = alive.watch();
        reply.send(1).unwrap();
        drop(alive);
        assert_eq!(gone.clone().or_answer(answer).await, Some(1));
        let (kept, answer) = oneshot::channel::<u8>();
        assert_eq!(gone.or_answer(answer).await, None);
        drop(kept);
    }

    #[tokio::test]
    async fn a_reply_that_is_dropped_is_no_answer() {
        let alive = Alive::new();
        let (reply, answer) = oneshot::channel::<u8>();
        drop(reply);
        assert_eq!(alive.watch().or_answer(answer).await, None);
    }
}
