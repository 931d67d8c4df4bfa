//! One log entry while it is applied.

use std::collections::BTreeMap;

use super::changes::{Changes, StagingChange};
use crate::command::Batch;
use crate::ids::{ContextNo, LogIndex, Position};
use crate::outcome::Outcome;
use crate::state::{Effects, Head, KeyRow, Origin, State, View};

/// How a batch's boot stands to what is known of its node.
pub(super) enum Standing<'a> {
    /// An older boot: closed.
    Older,
    /// The newest boot.
    Current(&'a Origin),
    /// A boot not seen before: what was kept of the one before goes.
    Newer,
}

/// One log entry while it is applied: the state before it, and on top of that what it changes.
pub(super) struct Step<'a, V> {
    pub(super) view: &'a V,
    pub(super) index: LogIndex,
    pub(super) standing: Standing<'a>,
    pub(super) low_water: u64,
    pub(super) low_staging: u64,
    pub(super) last_position: Position,
    pub(super) contexts: u64,
    /// Of idempotency keys, in positions.
    pub(super) key_window: u64,
    /// First outcomes of this batch's attempts.
    pub(super) outcomes: BTreeMap<u64, Outcome>,
    /// What this batch changes in the stagings that it touches.
    pub(super) staged: BTreeMap<u64, StagingChange>,
    /// Idempotency keys of this batch.
    pub(super) keys: BTreeMap<(ContextNo, &'a str), KeyRow>,
    pub(super) effects: Effects,
}

impl<'a, V: View> Step<'a, V> {
    pub(super) fn new(state: &'a State, view: &'a V, index: LogIndex, batch: &'a Batch) -> Self {
        let standing = match state.origins.get(&batch.origin) {
            Some(origin) if batch.boot < origin.boot => Standing::Older,
            Some(origin) if batch.boot == origin.boot => Standing::Current(origin),
            _ => Standing::Newer,
        };
        let (low_water, low_staging) = match standing {
            Standing::Current(origin) => {
                (batch.low_water.max(origin.low_water), batch.low_staging.max(origin.low_staging))
            }
            Standing::Older | Standing::Newer => (batch.low_water, batch.low_staging),
        };
        Self {
            view,
            index,
            standing,
            low_water,
            low_staging,
            last_position: state.last_position,
            contexts: state.contexts,
            key_window: state.key_window,
            outcomes: BTreeMap::new(),
            staged: BTreeMap::new(),
            keys: BTreeMap::new(),
            effects: Effects::default(),
        }
    }

    pub(super) fn first_outcome(&self, counter: u64) -> Option<Outcome> {
        let earlier = match self.standing {
            Standing::Current(origin) => origin.outcomes.get(&counter),
            Standing::Older | Standing::Newer => None,
        };
        earlier.or_else(|| self.outcomes.get(&counter)).copied()
    }

    /// The end of a context as of the command before this one.
    pub(super) fn head(&self, context_id: &str) -> Result<Option<Head>, V::Error> {
        match self.effects.heads.get(context_id) {
            Some(head) => Ok(Some(*head)),
            None => self.view.head(context_id),
        }
    }

    /// The context's number, a new one for a context without entries.
    pub(super) fn number(&mut self, head: &Head) -> ContextNo {
        if head.number == Head::EMPTY.number {
            self.contexts += 1;
            ContextNo(self.contexts)
        } else {
            head.number
        }
    }

    pub(super) fn next_position(&mut self) -> Position {
        self.last_position = self.last_position.next();
        self.last_position
    }

    pub(super) fn finish(self) -> Changes {
        Changes {
            newer_boot: matches!(self.standing, Standing::Newer),
            marks: match self.standing {
                Standing::Older => None,
                Standing::Current(_) | Standing::Newer => Some((self.low_water, self.low_staging)),
            },
            last_position: self.last_position,
            contexts: self.contexts,
            outcomes: self.outcomes,
            staged: self.staged,
            effects: self.effects,
        }
    }
}
