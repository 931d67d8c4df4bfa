//! Loading a snapshot: entries are staged invisibly, over as many log entries as it takes, then
//! one command appends them all.
//!
//! Staged entries stay in the log; kept here is only where ([`Part`]). They are dropped when
//! their load succeeded, when their node's low-water mark passed the staging's number, and with
//! their node's boot. A load that was refused keeps them: the node may try again, from where the
//! context is now, under a counter of its own and the same staging.

use super::{Standing, Step};
use crate::command::{Command, Load, Stage, StagedEntry};
use crate::entry::{chain_link, content_hash};
use crate::ids::{LogIndex, Sequence};
use crate::outcome::{Outcome, Refusal};
use crate::planted::{self, Bug};
use crate::state::{Head, IndexRow, Part, View};

impl<'a, V: View> Step<'a, V> {
    pub(super) fn stage(&mut self, row: u32, stage: &'a Stage) -> Outcome {
        // Its staging is closed, and nothing would ever drop it.
        if stage.load < self.low_water {
            return Outcome::Refused(Refusal::Superseded);
        }
        let index = self.index;
        let parts = self.staging(stage.load);
        match parts.last_mut() {
            Some(part) if continues(part, index, row, stage.entry.sequence) => part.count += 1,
            _ => {
                parts.push(Part { first: stage.entry.sequence, count: 1, index, first_row: row });
            }
        }
        Outcome::Staged
    }

    pub(super) fn load(&mut self, load: &'a Load) -> Result<Outcome, V::Error> {
        let head = self.head(&load.context_id)?.unwrap_or(Head::EMPTY);
        if let Err(refusal) = check_base(&head, load) {
            return Ok(Outcome::Refused(refusal));
        }
        let Some(parts) = complete(self.staging(load.stage), load) else {
            return Ok(Outcome::Refused(Refusal::LoadIncomplete));
        };
        let head = if load.count == 0 { head } else { self.load_parts(head, load, &parts)? };
        self.staged.insert(load.stage, Vec::new());
        Ok(Outcome::Loaded { context: head.number, restored: load.count, latest: head.latest })
    }

    /// Appends what the parts hold beyond the head, and returns the new head.
    fn load_parts(&mut self, head: Head, load: &Load, parts: &[Part]) -> Result<Head, V::Error> {
        let context = self.number(&head);
        let mut head = Head { number: context, ..head };
        for part in parts {
            // Up to where the context already is, entries are not needed any more.
            let known = head.latest.next().get().saturating_sub(part.first.get());
            for offset in u32::try_from(known).unwrap_or(part.count)..part.count {
                let row = part.first_row + offset;
                let entry = self.staged_entry(part.index, row)?;
                assert_eq!(entry.sequence, head.latest.next(), "a staged row is not what it was");
                head = extend(&head, load, &entry);
                let position = self.next_position();
                self.effects.entries.push(IndexRow {
                    context,
                    sequence: entry.sequence,
                    position,
                    lamport: entry.lamport,
                    index: part.index,
                    row,
                });
            }
        }
        self.effects.heads.insert(load.context_id.clone(), head);
        Ok(head)
    }

    /// A staged entry; this batch's own are not in the view yet.
    fn staged_entry(&self, index: LogIndex, row: u32) -> Result<StagedEntry, V::Error> {
        if index != self.index {
            return self.view.staged(index, row);
        }
        match self.batch.commands.get(row as usize) {
            Some(Command::Stage(stage)) => Ok(stage.entry.clone()),
            other => panic!("a part names row {row} of this batch, which is {other:?}"),
        }
    }

    /// The parts of a staging, as of the command before this one, to be changed.
    fn staging(&mut self, load: u64) -> &mut Vec<Part> {
        self.staged.entry(load).or_insert_with(|| match self.standing {
            // Parts below a mark that this batch raised are gone already.
            Standing::Current(origin) if load >= self.low_water => {
                origin.staged.get(&load).cloned().unwrap_or_default()
            }
            _ => Vec::new(),
        })
    }
}

/// Whether this row of this log entry is the next one of the part.
fn continues(part: &Part, index: LogIndex, row: u32, sequence: Sequence) -> bool {
    let count = u64::from(part.count);
    part.index == index
        && u64::from(part.first_row) + count == u64::from(row)
        && part.first.get().checked_add(count) == Some(sequence.get())
}

fn check_base(head: &Head, load: &Load) -> Result<(), Refusal> {
    let latest = head.latest;
    if load.fail_if_exists && latest > Sequence(0) {
        return Err(Refusal::ContextExists { latest });
    }
    if latest != load.base {
        return Err(Refusal::LoadMoved { latest });
    }
    if head.chain != load.base_chain {
        return Err(Refusal::LoadDiverges { latest });
    }
    Ok(())
}

/// The parts in order, without those at or below the base, if they are exactly
/// `base + 1 ..= base + count`. Looks at numbers only; `count` may be any.
fn complete(parts: &[Part], load: &Load) -> Option<Vec<Part>> {
    let base = load.base.get();
    let last = |part: &Part| part.first.get() + u64::from(part.count - 1);
    let mut parts: Vec<Part> = parts.iter().filter(|part| last(part) > base).copied().collect();
    parts.sort_by_key(|part| part.first);
    let mut covered = base;
    for part in &parts {
        let start = part.first.get().max(base + 1);
        if start - 1 != covered {
            return None;
        }
        covered = last(part);
    }
    (covered - base == load.count || planted::is(Bug::LoadIncomplete)).then_some(parts)
}

fn extend(head: &Head, load: &Load, entry: &StagedEntry) -> Head {
    let content = content_hash(&load.context_id, &entry.key, &entry.payload, &entry.metadata);
    Head {
        number: head.number,
        latest: entry.sequence,
        lamport: head.lamport.max(entry.lamport),
        chain: chain_link(&head.chain, entry.sequence, entry.id, entry.appended_at_ns, entry.lamport, &content),
    }
}
