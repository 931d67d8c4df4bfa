//! What a check says: counts, and every violation with the lines that show it.

use std::fmt;

use serde::Serialize;

/// Violations that a verdict explains; the rest are counted.
const VIOLATIONS_MAX: usize = 1000;

/// A line of the history; counts from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Line(pub u64);

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The rule that a history breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Rule {
    /// An operation ends before it starts, or was answered without an end. The history is bad, not the ledger.
    Interval,
    /// Two appends mean one value and do not share an idempotency key. The history is bad, not the ledger.
    ValueReused,
    /// Two values at one sequence.
    Place,
    /// One value at two sequences, and not past the window of its key.
    Twice,
    /// Two values under one idempotency key, within its window.
    Key,
    /// An entry that nobody appended.
    Uninvoked,
    /// An entry whose every append was refused.
    Refused,
    /// Two appends that both say that they were the first of one entry; or one that says it was not, without a key, or past
    /// the key's window.
    Deduplicated,
    /// An append behind another sequence than the expected one, or a refusal for no reason.
    Expected,
    /// An entry with two positions, a position with two entries, or positions that do not grow with the sequence.
    Position,
    /// A read or a watch left out or repeated an entry; or a final state has a hole.
    Gap,
    /// An answer shows entries behind the latest one that it names.
    Latest,
    /// There are more entries than appends that can have made them.
    Unfilled,
    /// A final state lacks an entry that was acknowledged or seen.
    Lost,
    /// The final states of two nodes differ.
    Diverged,
    /// The final states are not the positions from 1 to the last one.
    Ledger,
    /// Of one call, the final states have an entry without the one before it, or at an earlier position.
    Prefix,
    /// The order of a context contradicts real time.
    Order,
    /// The order of the whole ledger contradicts real time.
    LedgerOrder,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The names of the serialised form, which serde gives to any serializer.
        self.serialize(f)
    }
}

/// One contradiction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The broken rule.
    pub rule: Rule,
    /// The context, where it is about one.
    pub context: Option<String>,
    /// The lines that contradict each other or the rule.
    pub lines: Vec<Line>,
    /// Why, for people.
    pub why: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.rule)?;
        if let Some(context) = &self.context {
            write!(f, " in {context:?}")?;
        }
        let lines: Vec<_> = self.lines.iter().map(ToString::to_string).collect();
        let noun = if lines.len() == 1 { "line" } else { "lines" };
        write!(f, ", {noun} {}: {}", lines.join(", "), self.why)
    }
}

/// What a history holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Lines.
    pub operations: u64,
    /// Contexts that any operation names.
    pub contexts: u64,
    /// Entries that are known to exist.
    pub entries: u64,
    /// Appends that were acknowledged.
    pub acknowledged: u64,
    /// Of them, those that say that the entry stood there before.
    pub deduplicated: u64,
    /// Appends whose outcome is unknown.
    pub unknown: u64,
    /// Appends that were refused.
    pub refused: u64,
    /// Linearizable reads.
    pub reads: u64,
    /// Stale reads.
    pub reads_stale: u64,
    /// Subscriptions.
    pub watches: u64,
    /// Final states.
    pub states: u64,
}

/// What the check of a history found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// What the history holds.
    pub counts: Counts,
    /// The first contradictions found.
    pub violations: Vec<Violation>,
    /// How many more there are.
    pub more: u64,
}

impl Verdict {
    /// A correct ledger can have shown this history.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.violations.is_empty()
    }

    /// Takes the explanation lazily: a broken history can break a rule a million times.
    pub(super) fn add(&mut self, rule: Rule, context: Option<&str>, lines: &[Line], why: impl FnOnce() -> String) {
        if self.violations.len() == VIOLATIONS_MAX {
            self.more += 1;
            return;
        }
        let context = context.map(ToOwned::to_owned);
        self.violations.push(Violation { rule, context, lines: lines.to_vec(), why: why() });
    }
}
