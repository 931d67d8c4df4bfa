//! What a stream of appends may have sent that is not acknowledged: its window.
//!
//! All windows are backed. Of the bytes that streams of appends may hold, one quarter is shared by all of their places
//! alike, so that each has the least window, and one quarter makes the first windows large. The other half is the budget
//! of entries that are larger than what their window has room for.

use std::sync::Arc;

use super::call::Call;
use super::places::{APPEND_STREAMS_AT_ONCE, Place, Pool};

/// A large window takes so much.
const LARGE_BYTES: usize = 768 << 10;
/// Of a window, so much at most is not told its client: for what comes in one read beyond the last entry that has room.
const SLACK_BYTES: usize = 32 << 10;

/// The windows of all streams.
pub(super) struct Windows {
    least_bytes: usize,
    /// One connection has a share of them only.
    large: Arc<Pool>,
}

impl Windows {
    /// Of so many bytes that streams of appends may hold.
    pub(super) fn new(bytes: usize) -> Windows {
        let quarter = bytes / 4;
        let least_bytes = (quarter / APPEND_STREAMS_AT_ONCE).min(LARGE_BYTES);
        let large = quarter.checked_div(LARGE_BYTES - least_bytes).unwrap_or(0);
        Windows { least_bytes, large: Pool::shared(large.min(APPEND_STREAMS_AT_ONCE)) }
    }

    /// For a stream that has a place.
    pub(super) fn grant(&self, call: &Arc<Call>) -> Granted {
        let large = self.large.spare(call);
        let backed = if large.is_some() { LARGE_BYTES } else { self.least_bytes };
        Granted { backed, _large: large }
    }
}

/// A stream's window, until it is dropped.
pub(super) struct Granted {
    /// So much of what came is charged to nobody else.
    pub(super) backed: usize,
    _large: Option<Place>,
}

impl Granted {
    /// What its client is told.
    pub(super) fn bytes(&self) -> usize {
        self.backed - SLACK_BYTES.min(self.backed / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::super::call::CallKind;
    use super::super::connection::Connection;
    use super::super::tests::call;
    use super::*;

    #[tokio::test]
    async fn all_that_is_granted_is_backed_and_no_connection_has_all_large_ones() {
        for bytes in [1 << 20, 4 << 20, 64 << 20, 1 << 30] {
            let windows = Windows::new(bytes);
            let connections = [(); 8].map(|()| Connection::new(false));
            let grant = |number: usize| windows.grant(&call(CallKind::AppendStream, &connections[number / 32]));
            let granted: Vec<_> = (0..APPEND_STREAMS_AT_ONCE).map(grant).collect();
            let backed: usize = granted.iter().map(|granted| granted.backed).sum();
            assert!(backed <= bytes / 2, "of {bytes} bytes, {backed} are granted");
            let least = granted.iter().map(Granted::bytes).min().unwrap();
            assert!(
                least >= (bytes / 4 / APPEND_STREAMS_AT_ONCE / 2).min(LARGE_BYTES / 2),
                "of {bytes} bytes, one has {least}"
            );
            if bytes >= 64 << 20 {
                let large = |granted: &[Granted]| granted.iter().filter(|one| one.backed == LARGE_BYTES).count();
                assert!(large(&granted[..1]) == 1 && large(&granted[224..]) > 0, "the last one has its share as well");
            }
        }
    }
}
