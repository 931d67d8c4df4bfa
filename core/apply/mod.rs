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
//! An append that follows the command before it in its batch is refused where that did not append: of
//! what one caller sent in a row, a beginning is in the ledger and nothing behind it.
//!
//! A transaction is one command: it has one attempt and one outcome, and its entries are appended all or none. What an append
//! or a transaction meets next, in this order: its idempotency key, fences and conditions, and then it is appended. So a
//! retry of what is in the ledger hears so, though the context was fenced or moved on meanwhile.
//!
//! Staged chunks are not attempts in that sense: their outcome is not kept, for staging one again
//! changes nothing.
//!
//! Limits are not checked here: they are settings, and would let nodes disagree.

mod append;
mod changes;
mod digest;
mod load;
mod step;
mod transact;

use crate::command::{Batch, Command};
use crate::ids::LogIndex;
use crate::outcome::{Outcome, Refusal};
use crate::planted::{self, Bug};
use crate::state::{Effects, Origin, State, View};
use changes::Changes;
use step::{Standing, Step};

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
        state.digest = digest::without_commands(state, index);
        state.applied = index;
        return Ok(Effects::default());
    };
    let mut step = Step::new(state, view, index, batch);
    let mut row = 0;
    for command in &batch.commands {
        let outcome = step.command(row, command)?;
        step.effects.outcomes.push(outcome);
        row += u32::try_from(command.rows()).expect("a batch has a bound far below");
    }
    let changes = step.finish();
    let digest = digest::with_commands(state, index, batch, &changes);
    Ok(commit(state, index, batch, digest, changes))
}

impl<'a, V: View> Step<'a, V> {
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
            Command::Append(append) if append.follows && !self.has_appended() => Outcome::Refused(Refusal::NotReached),
            Command::Append(append) => self.append(row, append)?,
            Command::Stage(_) => unreachable!("a chunk was staged above"),
            Command::Load(load) => self.load(load)?,
            Command::Transact(transact) => self.transact(row, transact)?,
            Command::Fence(fence) => self.fence(fence)?,
        };
        self.outcomes.insert(counter, outcome);
        Ok(outcome)
    }

    /// The command before this one in the batch is in the ledger.
    fn has_appended(&self) -> bool {
        matches!(self.effects.outcomes.last(), Some(Outcome::Appended(_))) || planted::is(Bug::FollowsIgnored)
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
