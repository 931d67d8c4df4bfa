//! A client that streams: it appends without waiting for each, as far as the node's window lets it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Caller, FAILED_PAUSE, Pace};
use crate::api::grpc::pb::ledger::AppendStreamRequest;
use crate::cli::bench::measure::Timed;
use crate::cli::bench::target::{Target, short};

/// Messages between the client and HTTP/2.
const QUEUE: usize = 64;

impl Caller {
    /// Streams until the step is over; says whether it got an answer.
    pub(super) async fn stream(mut self, pace: Arc<Pace>) -> bool {
        let mut answered = false;
        while Instant::now() < pace.end {
            // When each entry was sent that is not acknowledged.
            let mut begun = VecDeque::new();
            if let Err(why) = self.stream_once(pace.end, &mut begun, &mut answered).await {
                (0..begun.len().max(1)).for_each(|_| self.recorder.failed(Timed::Append, &why));
                tokio::time::sleep(FAILED_PAUSE).await;
            }
        }
        answered
    }

    async fn stream_once(
        &mut self,
        end: Instant,
        begun: &mut VecDeque<u64>,
        answered: &mut bool,
    ) -> Result<(), String> {
        let Target::Grpc(node) = &self.target else { return Err("it has no streams".to_owned()) };
        let (sender, messages) = mpsc::channel(QUEUE);
        let answers = node.ledger.clone().append_stream(ReceiverStream::new(messages)).await;
        let mut answers = answers.map_err(|status| short(&status))?.into_inner();
        let (mut sender, mut window) = (Some(sender), 1);
        loop {
            if Instant::now() >= end {
                // What is under way is answered, and then the stream ends.
                sender = None;
            }
            let room = async {
                match &sender {
                    Some(sender) => sender.clone().reserve_owned().await.ok(),
                    None => None,
                }
            };
            tokio::select! {
                biased;
                answer = answers.message() => {
                    let Some(answer) = answer.map_err(|status| short(&status))? else { return Ok(()) };
                    window = answer.window.map_or(window, |window| window.entries as usize);
                    for began in begun.drain(..answer.places.len().min(begun.len())) {
                        self.recorder.done(Timed::Append, began);
                        *answered = true;
                    }
                }
                permit = room, if sender.is_some() && begun.len() < window => match permit {
                    Some(permit) => {
                        let began = self.recorder.stamp(Instant::now());
                        permit.send(self.streamed(began));
                        begun.push_back(began);
                    }
                    // The answers say why.
                    None => sender = None,
                },
            }
        }
    }

    fn streamed(&mut self, began: u64) -> AppendStreamRequest {
        let append = self.next_append(began);
        AppendStreamRequest {
            context_id: append.context,
            payload: append.payload,
            idempotency_key: append.key.unwrap_or_default(),
            ..AppendStreamRequest::default()
        }
    }
}
