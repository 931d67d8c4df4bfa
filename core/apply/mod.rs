//! The state machine: what a log entry does.
//!
//! Apply is total. Whatever can be refused is a typed outcome; there is no batch that decodes and
//! makes it panic, for that would stop every node at the same entry for ever. It reads only its
//! arguments, so equal logs give equal states, and [`State::digest`] shows it.
//!
//! What an attempt meets, in this order, before its command is looked at:
//!
//! 1. its boot is older than the newest of its node, or its counter is below the low-water mark:
//!    refused as superseded, and nothing is remembered of it;
//! 2. it was here before: its first outcome, refusals included.
//!
//! A batch of a newer boot forgets all of the older one; a raised low-water mark forgets the
//! outcomes below it, a raised mark of stagings the chunks. All come before the batch's commands.
//!
//! Staged chunks are not attempts in that sense: their outcome is not kept, for staging one again
//! changes nothing.
//!
//! Limits are not checked here: they are settings, and would let nodes disagree.

mod append;
mod digest;
mod load;

use std::collections::BTreeMap;

use crate::command::{Batch, Command};
use crate::ids::{ContextNo, LogIndex, Position};
use crate::outcome::{Outcome, Refusal};
use crate::planted::{self, Bug};
use crate::state::{Effects, Head, KeyRow, Origin, State, View};
use load::StagingChange;

/// Applies the next log entry; `None` stands for one without commands of ours: a leader's empty
/// entry, or a change of the configuration.
///
/// # Errors
/// The view's own. The state is as it was before.
///
/// # Panics
/// When `index` is not the one after `state.applied`, or the view breaks its contract: applying
/// on would make this node differ from the others.
pub fn apply<V: View>(
    state: &mut State,
    view: &V,
    index: LogIndex,
    batch: Option<&Batch>,
) -> Result<Effects, V::Error> {
    assert_eq!(index, state.applied.next(), "log entries are applied one after the other");
    let Some(batch) = batch else {
        state.digest = digest::without_commands(&state.digest, index);
        state.applied = index;
        return Ok(Effects::default());
    };
    let mut step = Step::new(state, view, index, batch);
    for (row, command) in (0..).zip(&batch.commands) {
        let outcome = step.command(row, command)?;
        step.effects.outcomes.push(outcome);
    }
    let changes = step.finish();
    let digest = digest::with_commands(&state.digest, index, batch, &changes);
    Ok(commit(state, index, batch, digest, changes))
}

/// How a batch's boot stands to what is known of its node.
enum Standing<'a> {
    /// An older boot: closed.
    Older,
    /// The newest boot.
    Current(&'a Origin),
    /// A boot not seen before: what was kept of the one before goes.
    Newer,
}

/// One log entry while it is applied: the state before it, and on top of that what it changes.
struct Step<'a, V> {
    view: &'a V,
    index: LogIndex,
    standing: Standing<'a>,
    low_water: u64,
    low_staging: u64,
    last_position: Position,
    contexts: u64,
    /// First outcomes of this batch's attempts.
    outcomes: BTreeMap<u64, Outcome>,
    /// What this batch changes in the stagings that it touches.
    staged: BTreeMap<u64, StagingChange>,
    /// Idempotency keys of this batch.
    keys: BTreeMap<(ContextNo, &'a str), KeyRow>,
    effects: Effects,
}

/// What a batch changed.
struct Changes {
    newer_boot: bool,
    /// Of attempts and of stagings; none when the boot is closed.
    marks: Option<(u64, u64)>,
    last_position: Position,
    contexts: u64,
    outcomes: BTreeMap<u64, Outcome>,
    staged: BTreeMap<u64, StagingChange>,
    effects: Effects,
}

impl<'a, V: View> Step<'a, V> {
    fn new(state: &'a State, view: &'a V, index: LogIndex, batch: &'a Batch) -> Self {
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
            outcomes: BTreeMap::new(),
            staged: BTreeMap::new(),
            keys: BTreeMap::new(),
            effects: Effects::default(),
        }
    }

    fn command(&mut self, row: u32, command: &'a Command) -> Result<Outcome, V::Error> {
        let counter = command.counter();
        if matches!(self.standing, Standing::Older) || counter < self.low_water {
            return Ok(Outcome::Refused(Refusal::Superseded));
        }
        if let Command::Stage(stage) = command {
            return Ok(self.stage(row, stage));
        }
        if let Some(first) = self.first_outcome(counter)
            && !planted::is(Bug::RetryApplies)
        {
            return Ok(first);
        }
        let outcome = match command {
            Command::Append(append) => self.append(row, append)?,
            Command::Stage(_) => unreachable!("a chunk was staged above"),
            Command::Load(load) => self.load(load)?,
        };
        self.outcomes.insert(counter, outcome);
        Ok(outcome)
    }

    fn first_outcome(&self, counter: u64) -> Option<Outcome> {
        let earlier = match self.standing {
            Standing::Current(origin) => origin.outcomes.get(&counter),
            Standing::Older | Standing::Newer => None,
        };
        earlier.or_else(|| self.outcomes.get(&counter)).copied()
    }

    /// The end of a context as of the command before this one.
    fn head(&self, context_id: &str) -> Result<Option<Head>, V::Error> {
        match self.effects.heads.get(context_id) {
            Some(head) => Ok(Some(*head)),
            None => self.view.head(context_id),
        }
    }

    /// The context's number, a new one for a context without entries.
    fn number(&mut self, head: &Head) -> ContextNo {
        if head.number == Head::EMPTY.number {
            self.contexts += 1;
            ContextNo(self.contexts)
        } else {
            head.number
        }
    }

    fn next_position(&mut self) -> Position {
        self.last_position = self.last_position.next();
        self.last_position
    }

    fn finish(self) -> Changes {
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

/// Makes the changes part of the state. Cannot fail, so that a log entry applies whole or not.
fn commit(state: &mut State, index: LogIndex, batch: &Batch, digest: [u8; 32], changes: Changes) -> Effects {
    let Changes { newer_boot, marks, last_position, contexts, outcomes, staged, effects } = changes;
    state.applied = index;
    state.last_position = last_position;
    state.contexts = contexts;
    state.digest = digest;
    let Some((low_water, low_staging)) = marks else {
        return effects;
    };
    let origin = state.origins.entry(batch.origin).or_default();
    if newer_boot {
        *origin = Origin { boot: batch.boot, ..Origin::default() };
    }
    origin.outcomes.extend(outcomes);
    load::keep(&mut origin.staged, staged);
    if low_staging > origin.low_staging {
        origin.low_staging = low_staging;
        origin.staged = origin.staged.split_off(&low_staging);
    }
    if low_water > origin.low_water {
        origin.low_water = low_water;
        let kept = low_water.saturating_add(u64::from(planted::is(Bug::OutcomeForgotten)));
        origin.outcomes = origin.outcomes.split_off(&kept);
    }
    effects
}
