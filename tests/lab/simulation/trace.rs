//! What a run did, in order: a digest of it always, its lines where somebody wants to read them.

use std::sync::{Arc, Mutex};

use converge_ledger_core::chance::mix;
use tokio::time::Instant;

/// Shared by everything in a run.
#[derive(Clone)]
pub(super) struct Trace(Arc<Mutex<Inner>>);

struct Inner {
    began: Instant,
    digest: u64,
    /// The last stamp given out.
    stamp: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    /// Begins now; with `verbose` it keeps every line.
    pub(super) fn new(verbose: bool) -> Trace {
        let lines = verbose.then(Vec::new);
        Trace(Arc::new(Mutex::new(Inner { began: Instant::now(), digest: 0, stamp: 0, lines })))
    }

    /// Something happened: `numbers` go into the digest, `line` is for people.
    pub(super) fn note(&self, numbers: &[u64], line: impl FnOnce() -> String) {
        let mut inner = self.lock();
        let at = inner.began.elapsed().as_nanos() as u64;
        inner.digest = numbers.iter().fold(mix(inner.digest ^ at), |digest, number| mix(digest ^ number));
        let ms = at / 1_000_000;
        if let Some(lines) = &mut inner.lines {
            lines.push(format!("{ms:>7} ms  {}", line()));
        }
    }

    /// A time that no other call gets, in nanoseconds: as the simulated clock has it, and in the order of the calls.
    pub(super) fn stamp(&self) -> u64 {
        let mut inner = self.lock();
        let now = inner.began.elapsed().as_nanos() as u64;
        inner.stamp = now.max(inner.stamp + 1);
        inner.stamp
    }

    pub(super) fn elapsed_ms(&self) -> u64 {
        self.lock().began.elapsed().as_millis() as u64
    }

    pub(super) fn digest(&self) -> u64 {
        self.lock().digest
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.lock().lines.clone().unwrap_or_default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

/// A digest of bytes, cheap and the same in every process.
pub(super) fn digest(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(bytes.len() as u64, |digest, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(digest ^ u64::from_le_bytes(word))
    })
}
