//! Loading a snapshot: chunks of entries are staged invisibly, over as many log entries as it takes, then one command
//! appends them all.
//!
//! A chunk is hashed when it is staged, and says which chain hash it goes on from. So the last command reads no row and
//! hashes nothing: it follows the chunks from the context's end, each of which must go on from the hash in which the
//! one before it ended, and links them. It costs as much as there are chunks, however many entries they have.
//!
//! The chunks stay in the log; kept here is only where they are ([`Part`]). They are dropped when their load
//! succeeded, when their node's mark passed the staging's number, and with their node's boot. A load that was refused
//! keeps them: the node may try again, from where the context is now.
//!
//! A chunk has no outcome that would be kept: staging it twice changes nothing.

use std::collections::BTreeMap;

use super::changes::StagingChange;
use super::step::{Standing, Step};
use crate::command::{Load, Stage};
use crate::ids::{Lamport, Position, Sequence};
use crate::outcome::{Outcome, Refusal};
use crate::planted::{self, Bug};
use crate::state::{Head, IndexChunk, Indexed, Part, Staging, View};

impl<'a, V: View> Step<'a, V> {
    pub(super) fn stage(&mut self, row: u32, stage: &'a Stage) -> Outcome {
        // Its staging is closed, and nothing would ever drop it.
        if stage.load < self.low_staging {
            return Outcome::Refused(Refusal::Superseded);
        }
        if self.staged_for(stage.load).is_some_and(|context_id| context_id != stage.context_id) {
            return Outcome::Refused(Refusal::ChunkInvalid);
        }
        let Ok(count) = u32::try_from(stage.entries.len()) else {
            return Outcome::Refused(Refusal::ChunkInvalid);
        };
        if let Some(known) = self.part(stage.load, stage.first) {
            let same = (known.count, known.base_chain, known.chain) == (count, stage.base_chain, stage.chain);
            return if same { Outcome::Staged } else { Outcome::Refused(Refusal::ChunkInvalid) };
        }
        if stage.computed_chain() != Some(stage.chain) {
            return Outcome::Refused(Refusal::ChunkInvalid);
        }
        let lamport = stage.entries.iter().map(|entry| entry.lamport).max().unwrap_or(Lamport(0));
        let (base_chain, chain) = (stage.base_chain, stage.chain);
        let part = Part { count, index: self.index, row, lamport, base_chain, chain };
        let added = &mut self.staged.entry(stage.load).or_default().added;
        added.context_id.clone_from(&stage.context_id);
        added.parts.insert(stage.first, part);
        Outcome::Staged
    }

    pub(super) fn load(&mut self, load: &'a Load) -> Result<Outcome, V::Error> {
        let head = self.head(&load.context_id)?.unwrap_or(Head::EMPTY);
        if let Err(refusal) = check_base(&head, load) {
            return Ok(Outcome::Refused(refusal));
        }
        let Some(parts) = self.joining(load) else {
            return Ok(Outcome::Refused(Refusal::LoadIncomplete));
        };
        let head = if load.count == 0 { head } else { self.link(head, load, &parts) };
        self.staged.insert(load.stage, StagingChange { dropped: true, ..StagingChange::default() });
        Ok(Outcome::Loaded { context: head.number, restored: load.count, latest: head.latest })
    }

    /// The parts that are exactly `base + 1 ..= base + count`, in order. Looks at what is kept of them only.
    fn joining(&self, load: &Load) -> Option<Vec<(Sequence, Part)>> {
        let end = load.base.get().checked_add(load.count)?;
        let foreign = self.staged_for(load.stage).is_some_and(|context_id| context_id != load.context_id);
        if foreign && load.count > 0 {
            return None;
        }
        let (mut parts, mut last, mut chain) = (Vec::new(), load.base.get(), load.base_chain);
        while last < end {
            let first = Sequence(last + 1);
            let Some(part) = self.part(load.stage, first).filter(|part| part.base_chain == chain) else {
                return planted::is(Bug::LoadIncomplete).then_some(parts);
            };
            last += u64::from(part.count);
            chain = part.chain;
            parts.push((first, part));
        }
        (last == end).then_some(parts)
    }

    /// Appends the parts behind the head, and returns the new head.
    fn link(&mut self, head: Head, load: &Load, parts: &[(Sequence, Part)]) -> Head {
        let mut head = Head { number: self.number(&head), ..head };
        for (first, part) in parts {
            let position = self.last_position.next();
            self.last_position = Position(self.last_position.get() + u64::from(part.count));
            head.latest = Sequence(first.get() + u64::from(part.count) - 1);
            head.lamport = head.lamport.max(part.lamport);
            head.chain = part.chain;
            let Part { count, index, row, chain, .. } = *part;
            let chunk = IndexChunk { context: head.number, first: *first, count, position, chain, index, row };
            self.effects.entries.push(Indexed::Chunk(chunk));
        }
        self.effects.heads.insert(load.context_id.clone(), head);
        head
    }

    /// What earlier batches staged, as of the command before this one.
    fn earlier(&self, load: u64) -> Option<&'a Staging> {
        let dropped = self.staged.get(&load).is_some_and(|change| change.dropped);
        match self.standing {
            // What is below a mark that this batch raised is gone already.
            Standing::Current(origin) if load >= self.low_staging && !dropped => origin.staged.get(&load),
            _ => None,
        }
    }

    fn added(&self, load: u64) -> Option<&Staging> {
        self.staged.get(&load).map(|change| &change.added).filter(|added| !added.parts.is_empty())
    }

    /// The context that a staging is for, once it has parts.
    fn staged_for(&self, load: u64) -> Option<&str> {
        let staging = self.added(load).or_else(|| self.earlier(load))?;
        Some(&staging.context_id)
    }

    fn part(&self, load: u64, first: Sequence) -> Option<Part> {
        let of = |staging: Option<&Staging>| staging?.parts.get(&first).copied();
        of(self.added(load)).or_else(|| of(self.earlier(load)))
    }
}

/// Makes what a batch staged and dropped part of what is kept.
pub(super) fn keep(kept: &mut BTreeMap<u64, Staging>, changes: BTreeMap<u64, StagingChange>) {
    for (load, StagingChange { dropped, added }) in changes {
        if dropped {
            kept.remove(&load);
        }
        if !added.parts.is_empty() {
            let staging = kept.entry(load).or_default();
            staging.context_id = added.context_id;
            staging.parts.extend(added.parts);
        }
    }
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
