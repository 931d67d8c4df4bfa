//! Real node processes for tests: start, kill, ask, write under load, compare.
//!
//! What runs the processes is the library's, as for the demo and for chaos: dropping a node kills its process.
//! Deliberately knows nothing else of the library: what the tests see is the command line and the wire.
#![allow(missing_docs, dead_code, unreachable_pub, clippy::print_stderr)]

pub mod cluster;
pub mod node;
pub mod program;
pub mod served;
pub mod strace;
pub mod wire;

use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;

/// A seed from `CONVERGE_TEST_SEED`, or a new one; printed, so that a failure can be run again.
pub fn seeded(test: &str) -> StdRng {
    let seed =
        std::env::var("CONVERGE_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(rand::random::<u64>);
    eprintln!("{test}: CONVERGE_TEST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// A number from the environment, for tests that can be made longer.
pub fn setting(name: &str, default: usize) -> usize {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text}")),
        Err(_) => default,
    }
}

/// Asks until there is an answer: for states of another process that nothing announces.
pub async fn until<T, F>(what: &str, deadline: Duration, mut probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let end = Instant::now() + deadline;
    loop {
        if let Some(answer) = probe().await {
            return answer;
        }
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
