//! One connection: its reader and its writer task.
//!
//! Either ends with a [`Cause`] and never by itself otherwise. The reader measures silence only while
//! it waits for bytes: one that waits for credit, because consumers are slow, takes nobody for dead.
//! The writer pings on its own clock, so the peer hears from a node whose reader waits.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use converge_ledger_core::planted::{self, Bug};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::error::Cause;
use super::frame::{BEAT_BYTES, FrameKind, Gather, HEADER_BYTES, Header, Malformed};
use super::settings::FRAME_OVERHEAD_BYTES;
use super::shared::Shared;
use super::slot::{LinkSlot, Outgoing};
use super::types::Permit;

/// Small frames are read from the socket this much at a time.
const READ_BUFFER_BYTES: usize = 64 << 10;
/// Frames written with one run of system calls; a sign of life waits for at most these.
const WRITE_FRAMES_MAX: usize = 64;
/// Pongs that may wait for the writer; more are dropped, for the peer only measures with them.
pub(super) const PONGS_MAX: usize = 4;

/// Reads frames and delivers them until something ends the connection.
pub(super) struct Reader {
    pub(super) shared: Arc<Shared>,
    pub(super) slot: Arc<LinkSlot>,
    pub(super) epoch: u64,
    pub(super) pongs: mpsc::Sender<Bytes>,
    /// Origin of the microseconds in pings.
    pub(super) started: Instant,
}

impl Reader {
    pub(super) async fn run(self, half: OwnedReadHalf) -> Cause {
        let mut stream = BufReader::with_capacity(READ_BUFFER_BYTES, half);
        loop {
            if let Err(cause) = self.frame(&mut stream).await {
                return cause;
            }
        }
    }

    async fn frame<R: AsyncRead + Unpin>(&self, stream: &mut R) -> Result<(), Cause> {
        let settings = &self.shared.settings;
        let silence_max = settings.silence_max();
        let mut raw = [0; HEADER_BYTES];
        let mut filled = 0;
        while filled < HEADER_BYTES {
            filled += arrival(silence_max, stream.read(&mut raw[filled..])).await?;
        }
        let header = Header::parse(&raw, self.slot.frame_bytes_max)?;
        // Credit comes before the allocation: what waits for consumers is all that a link may hold.
        let permit = match header.kind {
            FrameKind::Data => {
                Some(Permit::acquire(&self.slot.inbound_bytes, header.length + FRAME_OVERHEAD_BYTES).await)
            }
            FrameKind::Ping | FrameKind::Pong => None,
            kind => return Err(Malformed::OutOfPlace(kind).into()),
        };
        let payload = read_payload(stream, header.length, silence_max).await?;
        header.verify(&payload)?;
        if let Some(permit) = permit {
            let live = self.slot.deliver(self.epoch, payload, permit);
            return if live { Ok(()) } else { Err(Cause::Replaced) };
        }
        let beat: [u8; BEAT_BYTES] = payload[..].try_into().map_err(|_| Malformed::Payload(header.kind))?;
        if header.kind == FrameKind::Ping {
            // A full queue means that pongs are under way already.
            let _ = self.pongs.try_send(payload);
        } else {
            let now = self.started.elapsed().as_micros() as u64;
            let rtt = now.saturating_sub(u64::from_le_bytes(beat));
            self.slot.counters.rtt_us_plus_one.store(rtt.saturating_add(1), Relaxed);
        }
        Ok(())
    }
}

/// Reads exactly `length` bytes; `silence_max` bounds the wait for each arrival, not for the whole.
async fn read_payload<R: AsyncRead + Unpin>(
    stream: &mut R,
    length: usize,
    silence_max: Duration,
) -> Result<Bytes, Cause> {
    let mut bytes = BytesMut::with_capacity(length);
    while bytes.len() < length {
        // The buffer may have more room than was asked for; what follows belongs to the next frame.
        let mut rest = AsyncReadExt::take(&mut *stream, (length - bytes.len()) as u64);
        arrival(silence_max, rest.read_buf(&mut bytes)).await?;
    }
    Ok(bytes.freeze())
}

/// Waits for bytes to arrive: their number, never zero.
async fn arrival(silence_max: Duration, read: impl Future<Output = io::Result<usize>>) -> Result<usize, Cause> {
    match timeout(silence_max, read).await {
        Err(_) => Err(Cause::Silent(silence_max)),
        Ok(Ok(0)) => Err(Cause::Closed),
        Ok(arrived) => Ok(arrived?),
    }
}

/// Writes what is queued, and signs of life.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) slot: Arc<LinkSlot>,
    pub(super) frames: mpsc::Receiver<Outgoing>,
    pub(super) pongs: mpsc::Receiver<Bytes>,
    pub(super) started: Instant,
}

impl Writer {
    pub(super) async fn run(mut self, mut half: OwnedWriteHalf) -> Cause {
        let mut beat = interval_at(Instant::now(), self.shared.settings.heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(WRITE_FRAMES_MAX);
        let mut gather = Gather::default();
        loop {
            tokio::select! {
                biased;
                _ = beat.tick() => {
                    let now = self.started.elapsed().as_micros() as u64;
                    gather.push(FrameKind::Ping, vec![Bytes::copy_from_slice(&now.to_le_bytes())]);
                }
                Some(payload) = self.pongs.recv() => gather.push(FrameKind::Pong, vec![payload]),
                taken = self.frames.recv_many(&mut batch, WRITE_FRAMES_MAX) => {
                    // Senders are gone: the slot was emptied.
                    if taken == 0 {
                        return Cause::Replaced;
                    }
                }
            }
            let (mut frames, mut bytes) = (0, 0);
            for outgoing in batch.iter_mut().filter(|frame| frame.leaves() || planted::is(Bug::RecallIgnored)) {
                frames += 1;
                bytes += outgoing.bytes as u64;
                gather.push(FrameKind::Data, std::mem::take(&mut outgoing.pieces));
            }
            gather.seal();
            if let Err(error) = half.write_all_buf(&mut gather).await {
                return error.into();
            }
            // Only now do their permits go: what is being written still counts as queued.
            batch.clear();
            self.slot.counters.frames_sent.fetch_add(frames, Relaxed);
            self.slot.counters.bytes_sent.fetch_add(bytes, Relaxed);
        }
    }
}
