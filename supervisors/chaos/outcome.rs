//! What a monkey did, and what became of it.

use std::collections::BTreeMap;
use std::fmt;

use tokio::time::Duration;

use super::observer::{Orphan, Used};
use super::{Fault, MessageKind};
use crate::tree::Escalated;

/// The report of a run. Two runs of one seed, in paused time, under the same load, differ in nothing but actors' ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What repeats the run.
    pub seed: u64,
    /// In order.
    pub hits: Vec<Hit>,
    /// Times it was due and hit nobody: nobody ran who was meant, or the budget was used up.
    pub spared: u64,
    /// Moments that were waited for in vain, for triggers that wait for a message or an await.
    pub unreached: u64,
    /// Actors alive at the end without a place in the tree. Known are those that had one, and their `ractor` children;
    /// an actor that was spawned without a link was never anybody's, and nobody can count it.
    pub orphans: Vec<Orphan>,
    /// By supervisor: how much of the restart intensity was used. Absent: one that restarted nobody.
    pub intensity: BTreeMap<String, Used>,
    /// The tree did not survive: why.
    pub ended: Option<Escalated>,
}

/// One fault, as it came to pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Since the monkey was attached.
    pub at: Duration,
    /// Where.
    pub path: String,
    /// Which incarnation.
    pub incarnation: u64,
    /// What.
    pub fault: Fault,
    /// In which callback, and of what kind of message, for triggers that wait for such.
    pub moment: Option<(crate::Callback, Option<MessageKind>)>,
    /// What became of it.
    pub recovery: Recovery,
}

/// How a hit was recovered from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// From the hit until the place was running again.
    Took(Duration),
    /// A stall: nobody died.
    NotDue,
    /// It was not running again in time, or not when the run ended; or its actor was too busy for the fault until then.
    Failed,
}

impl Outcome {
    /// The longest recovery.
    pub fn slowest(&self) -> Option<Duration> {
        let took = self.hits.iter().filter_map(|hit| match hit.recovery {
            Recovery::Took(took) => Some(took),
            _ => None,
        });
        took.max()
    }

    /// The tree is alive, every hit was recovered from, and nobody is left over.
    pub fn is_survived(&self) -> bool {
        let recovered = self.hits.iter().all(|hit| hit.recovery != Recovery::Failed);
        recovered && self.ended.is_none() && self.orphans.is_empty()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { seed, spared, unreached, .. } = self;
        writeln!(f, "seed {seed}: {} hits, {spared} spared, {unreached} moments not reached", self.hits.len())?;
        for hit in &self.hits {
            let Hit { at, path, incarnation, fault, recovery, .. } = hit;
            write!(f, "  {:>9.3} s  {path} (incarnation {incarnation})  {fault:?}", at.as_secs_f64())?;
            if let Some((callback, kind)) = hit.moment {
                write!(f, " in {callback:?}")?;
                kind.map_or(Ok(()), |kind| write!(f, " {kind}"))?;
            }
            match recovery {
                Recovery::Took(took) => writeln!(f, "  running again after {took:?}")?,
                Recovery::NotDue => writeln!(f)?,
                Recovery::Failed => writeln!(f, "  NOT RECOVERED")?,
            }
        }
        for (supervisor, Used { most, allowed }) in &self.intensity {
            writeln!(f, "  {supervisor}: {most} of {allowed} restarts in its period, at most")?;
        }
        for Orphan { path, actor } in &self.orphans {
            writeln!(f, "  ORPHAN {actor}, once at {path}")?;
        }
        match &self.ended {
            Some(ended) => writeln!(f, "  THE TREE ENDED: {ended}"),
            None => Ok(()),
        }
    }
}
