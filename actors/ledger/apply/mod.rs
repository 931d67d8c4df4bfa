//! The state machine.

use crate::command::Batch;
use crate::ids::LogIndex;
use crate::state::{Effects, State, View};

/// Applies the next log entry.
///
/// # Errors
/// The view's own; the state is as it was then.
pub fn apply<V: View>(
    state: &mut State,
    view: &V,
    index: LogIndex,
    batch: Option<&Batch>,
) -> Result<Effects, V::Error> {
    let _ = (state, view, index, batch);
    unimplemented!()
}
