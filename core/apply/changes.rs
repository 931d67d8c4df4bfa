//! What a batch changes, before it is part of the state.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::ids::Position;
use crate::outcome::Outcome;
use crate::state::{Effects, Staging};

/// What a batch changes in one staging.
#[derive(Debug, Default, Serialize)]
pub(super) struct StagingChange {
    /// What was staged by earlier batches is gone.
    pub(super) dropped: bool,
    /// And this comes.
    pub(super) added: Staging,
}

/// What a batch changed.
pub(super) struct Changes {
    pub(super) newer_boot: bool,
    /// Of attempts and of stagings; none when the boot is closed.
    pub(super) marks: Option<(u64, u64)>,
    pub(super) last_position: Position,
    pub(super) contexts: u64,
    pub(super) outcomes: BTreeMap<u64, Outcome>,
    pub(super) staged: BTreeMap<u64, StagingChange>,
    pub(super) effects: Effects,
}
