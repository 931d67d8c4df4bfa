//! The lines of a file over a stream of appends: many are on their way at once, and are acknowledged in their order.
//!
//! A stream that breaks is begun again with the first line that is not acknowledged, on another node where there is one.
//! Each line has its key, so that one whose acknowledgement was lost is found and not appended twice.

use std::collections::VecDeque;

use indicatif::ProgressBar;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::{Import, Then, of_line, show};
use crate::api::grpc::pb::ledger::{AppendStreamRequest, AppendStreamResponse, Window};
use crate::cli::client::{Call, may_be_done, may_retry, retry_after};
use crate::cli::lines::Line;
use crate::cli::retry::Patience;
use crate::cli::{Failure, Kind};

/// Lines that are read and not acknowledged: at most so many, and so many bytes or one.
const HELD_LINES: usize = 4096;
const HELD_BYTES: usize = 1 << 20;
/// Messages between the lines and HTTP/2.
const QUEUE: usize = 64;
/// Until the node grants one.
const NO_WINDOW: Window = Window { entries: 1, bytes: 0 };

/// What is left to do.
pub(super) struct Rest {
    /// Not acknowledged.
    pub(super) lines: VecDeque<Line>,
    pub(super) then: Then,
    bytes: usize,
}

impl Rest {
    pub(super) fn new(lines: Vec<Line>, then: Then) -> Rest {
        let bytes = lines.iter().map(size).sum();
        Rest { lines: lines.into(), then, bytes }
    }

    fn may_come(&self) -> bool {
        matches!(self.then, Then::More)
    }

    fn has_room(&self) -> bool {
        self.lines.len() < HELD_LINES && self.bytes < HELD_BYTES
    }

    fn next(&mut self, next: Result<Option<Line>, Failure>) {
        match next {
            Ok(Some(line)) => {
                self.bytes += size(&line);
                self.lines.push_back(line);
            }
            Ok(None) => self.then = Then::Over,
            Err(failure) => self.then = Then::Bad(failure),
        }
    }
}

/// About what a line takes on the wire.
fn size(line: &Line) -> usize {
    let message = &line.message;
    let metadata = message.metadata.iter().map(|(name, value)| name.len() + value.len() + 8).sum::<usize>();
    message.context_id.len() + message.key.len() + message.payload.len() + metadata + line.key.len() + 32
}

fn message(line: &Line) -> AppendStreamRequest {
    let message = line.message.clone();
    AppendStreamRequest {
        context_id: message.context_id,
        key: message.key,
        payload: message.payload,
        metadata: message.metadata,
        idempotency_key: line.key.clone(),
        expected_sequence: None,
    }
}

impl Import {
    /// Sends what is left and all that comes behind it; false where the node has no such service, and nothing was sent.
    pub(super) async fn stream(&mut self, rest: &mut Rest, bar: &ProgressBar) -> Result<bool, Failure> {
        let mut patience = Patience::new(self.client.timeout());
        let mut maybe_done = false;
        loop {
            // A stream that waits for input takes a place that others may want: without a line it is not begun again.
            if rest.lines.is_empty() && rest.may_come() {
                rest.next(self.lines.next().await);
                patience.renew();
            }
            if rest.lines.is_empty() && !rest.may_come() {
                return Ok(true);
            }
            let endpoint = self.client.preferred().endpoint.clone();
            let Err(status) = self.stream_once(rest, &mut patience, bar).await else { continue };
            if status.code() == Code::Unimplemented {
                return Ok(false);
            }
            let Some(line) = rest.lines.front() else { continue };
            let failed =
                |maybe_done| of_line(&Failure::of_call(Call::Write("append"), &endpoint, &status, maybe_done), line);
            if !may_retry(&status) {
                let failure = failed(maybe_done);
                self.tally.refused += u64::from(failure.kind() != Kind::Unavailable);
                return Err(failure);
            }
            self.client.turn_away();
            maybe_done |= may_be_done(&status);
            if !patience.pause(retry_after(&status)).await {
                return Err(failed(maybe_done));
            }
        }
    }

    /// One stream, until all is acknowledged, or for as long as it lasts.
    async fn stream_once(&mut self, rest: &mut Rest, patience: &mut Patience, bar: &ProgressBar) -> Result<(), Status> {
        let (sender, messages) = mpsc::channel(QUEUE);
        let mut node = self.client.preferred().clone();
        let begun = node.ledger.append_stream(ReceiverStream::new(messages));
        let begun = tokio::time::timeout(self.client.share(patience.left()), begun).await;
        let late = |_| Status::deadline_exceeded("the node did not begin to answer");
        let mut answers = begun.map_err(late)??.into_inner();
        let (mut window, mut sent, mut sent_bytes) = (NO_WINDOW, 0, 0);
        let mut is_open = true;
        loop {
            if rest.lines.is_empty() && !rest.may_come() {
                return Ok(());
            }
            let next = rest.lines.get(sent).filter(|line| {
                let fits = sent < window.entries as usize && (sent_bytes + size(line)) as u64 <= window.bytes;
                is_open && (fits || sent == 0)
            });
            let wants_more = rest.may_come() && rest.has_room();
            tokio::select! {
                biased;
                answer = answers.message() => {
                    let answer = answer?.ok_or_else(|| Status::unavailable("the stream ended"))?;
                    window = answer.window.unwrap_or(window);
                    let bytes: usize = rest.lines.iter().take(answer.places.len()).map(size).sum();
                    (sent, sent_bytes) = (sent - answer.places.len().min(sent), sent_bytes.saturating_sub(bytes));
                    self.acknowledged(rest, answer, bar);
                    patience.renew();
                }
                permit = sender.reserve(), if next.is_some() => match (permit, next) {
                    (Ok(permit), Some(line)) => {
                        permit.send(message(line));
                        sent += 1;
                        sent_bytes += size(line);
                    }
                    // The answers say why.
                    _ => is_open = false,
                },
                line = self.lines.next(), if wants_more => {
                    if rest.lines.is_empty() {
                        patience.renew();
                    }
                    rest.next(line);
                }
            }
        }
    }

    fn acknowledged(&mut self, rest: &mut Rest, answer: AppendStreamResponse, bar: &ProgressBar) {
        for place in answer.places {
            let Some(line) = rest.lines.pop_front() else { return };
            rest.bytes -= size(&line);
            match place.deduplicated {
                true => self.tally.found(place.sequence),
                false => self.tally.appended(&line.place, place.sequence),
            }
            show(bar, &self.tally, &line);
        }
    }
}
