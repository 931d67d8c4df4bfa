//! What a history says about each context: who meant to write what, and what stands where.
//!
//! Owns the rules that need no clock: one value, one place, one maker. When it breaks one in a context, that context
//! has no order to speak of and is left out of [`super::order`].

use std::collections::HashMap;

use converge_ledger_core::{Position, Sequence};

use super::operation::{Append, Operation, Outcome, Refused, Seen, Time};
use super::verdict::{Line, Rule, Verdict};

/// A bound on the time at which an entry was written, and the line that sets it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    pub(super) time: Time,
    pub(super) line: Line,
}

/// One sequence of a context.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slot {
    /// What stands there and who said so first; none where nobody saw it.
    pub(super) value: Option<(ValueNo, Line)>,
    pub(super) position: Option<(Position, Line)>,
    /// Not written before.
    pub(super) low: Option<Bound>,
    /// Not written after.
    pub(super) high: Option<Bound>,
}

impl Slot {
    pub(super) fn not_before(&mut self, time: Time, line: Line) {
        if self.low.is_none_or(|low| low.time < time) {
            self.low = Some(Bound { time, line });
        }
    }

    pub(super) fn not_after(&mut self, time: Time, line: Line) {
        if self.high.is_none_or(|high| high.time > time) {
            self.high = Some(Bound { time, line });
        }
    }
}

/// An entry as somebody saw it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'s> {
    pub(super) sequence: Sequence,
    pub(super) value: &'s str,
    pub(super) position: Option<Position>,
}

impl<'s> From<&'s Seen> for Place<'s> {
    fn from(seen: &'s Seen) -> Self {
        Place { sequence: seen.sequence, value: &seen.value, position: seen.position }
    }
}

/// Index of a value in its context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ValueNo(usize);

/// Something that a client meant to write.
#[derive(Debug)]
struct Meant<'h> {
    text: &'h str,
    intent: usize,
    key: Option<&'h str>,
    first: Line,
    /// Its sequence and who said so first.
    place: Option<(u64, Line)>,
}

/// All that can make one entry at a time: the appends under one idempotency key, or one append without a key.
#[derive(Debug, Default)]
pub(super) struct Intent {
    pub(super) attempts: Vec<Line>,
    /// Its key leaves a window: each attempt can make an entry of its own.
    pub(super) expires: bool,
    /// The value that stands in the context.
    placed: Option<ValueNo>,
}

impl Intent {
    pub(super) fn is_placed(&self) -> bool {
        self.placed.is_some()
    }
}

/// A context, as far as the history tells.
#[derive(Debug)]
pub(super) struct Context<'h> {
    pub(super) name: &'h str,
    /// For so many positions a key is known; none: for ever.
    window: Option<u64>,
    texts: HashMap<&'h str, ValueNo>,
    keys: HashMap<&'h str, usize>,
    values: Vec<Meant<'h>>,
    pub(super) intents: Vec<Intent>,
    /// So many entries all of them can make at most.
    makes: u64,
    /// Slot `n` is sequence `n + 1`. No more than can be made, whatever the history says.
    pub(super) slots: Vec<Slot>,
    /// Who said that the last slot exists.
    pub(super) longest: Option<Line>,
    /// No rule is broken that the order rests on.
    pub(super) sound: bool,
}

impl<'h> Context<'h> {
    pub(super) fn new(name: &'h str, window: Option<u64>) -> Self {
        Context {
            name,
            window,
            texts: HashMap::new(),
            keys: HashMap::new(),
            values: Vec::new(),
            intents: Vec::new(),
            makes: 0,
            slots: Vec::new(),
            longest: None,
            sound: true,
        }
    }

    pub(super) fn broken(&mut self, verdict: &mut Verdict, rule: Rule, lines: &[Line], why: impl FnOnce() -> String) {
        self.sound = false;
        verdict.add(rule, Some(self.name), lines, why);
    }

    /// Takes note of what an append was to write.
    pub(super) fn meant(&mut self, append: &'h Append, line: Line, verdict: &mut Verdict) {
        let key = append.idempotency_key.as_deref();
        let text = append.value.as_str();
        if let Some(&ValueNo(known)) = self.texts.get(text) {
            let (intent, first) = (self.values[known].intent, self.values[known].first);
            if key.is_none() || self.values[known].key != key {
                return self.broken(verdict, Rule::ValueReused, &[first, line], || {
                    format!("both mean {text:?} and do not share an idempotency key")
                });
            }
            return self.attempted(intent, line);
        }
        let fresh = self.intents.len();
        let intent = key.map_or(fresh, |key| *self.keys.entry(key).or_insert(fresh));
        if intent == fresh {
            let expires = key.is_some() && self.window.is_some();
            self.intents.push(Intent { expires, ..Intent::default() });
        }
        self.attempted(intent, line);
        self.texts.insert(text, ValueNo(self.values.len()));
        self.values.push(Meant { text, intent, key, first: line, place: None });
    }

    fn attempted(&mut self, intent: usize, line: Line) {
        let intent = &mut self.intents[intent];
        self.makes += u64::from(intent.expires || intent.attempts.is_empty());
        intent.attempts.push(line);
    }

    /// Takes note that entries up to a sequence exist.
    pub(super) fn exists(&mut self, sequence: u64, line: Line, verdict: &mut Verdict) {
        let known = self.slots.len() as u64;
        if sequence <= known {
            return;
        }
        let makes = self.makes;
        if sequence > makes {
            return self.broken(verdict, Rule::Unfilled, &[line], || {
                format!("names sequence {sequence}, and the appends of the history make {makes} entries at most")
            });
        }
        self.slots.resize(sequence as usize, Slot::default());
        self.longest = Some(line);
    }

    /// Takes note of an entry that somebody saw. `differ` is the rule that two values at one place break.
    pub(super) fn seen(&mut self, seen: Place<'_>, line: Line, verdict: &mut Verdict, differ: impl Fn(Line) -> Rule) {
        let (sequence, text) = (seen.sequence.get(), seen.value);
        let Some(value) = self.value_at(sequence, text) else {
            return self.broken(verdict, Rule::Uninvoked, &[line], || {
                format!("{text:?} stands at sequence {sequence}, and nobody appended it")
            });
        };
        if sequence == 0 {
            return self.broken(verdict, Rule::Place, &[line], || format!("{text:?} at sequence 0: they count from 1"));
        }
        self.exists(sequence, line, verdict);
        if self.slots.len() as u64 >= sequence {
            self.stands(sequence, value, line, verdict, differ);
            self.at_position(sequence, seen.position, line, verdict);
        }
    }

    /// The number of a value; without a look into the map when it is known to stand there.
    fn value_at(&self, sequence: u64, text: &str) -> Option<ValueNo> {
        let there = sequence.checked_sub(1).and_then(|at| self.slots.get(at as usize)?.value);
        match there {
            Some((value, _)) if self.values[value.0].text == text => Some(value),
            _ => self.texts.get(text).copied(),
        }
    }

    /// Who said first where a value stands, and its position; none when nobody saw it.
    pub(super) fn place(&self, text: &str) -> Option<(Line, Option<Position>)> {
        let ValueNo(known) = self.texts.get(text)?;
        let (sequence, line) = self.values[*known].place?;
        let position = self.slots.get(sequence as usize - 1)?.position;
        Some((line, position.map(|(position, _)| position)))
    }

    fn stands(
        &mut self,
        sequence: u64,
        value: ValueNo,
        line: Line,
        verdict: &mut Verdict,
        differ: impl Fn(Line) -> Rule,
    ) {
        let slot = &mut self.slots[sequence as usize - 1];
        let (there, said) = *slot.value.get_or_insert((value, line));
        if there != value {
            let (one, other) = (self.values[there.0].text, self.values[value.0].text);
            self.broken(verdict, differ(said), &[said, line], || {
                format!("sequence {sequence} holds {one:?} for one and {other:?} for the other")
            });
        }
        let meant = &mut self.values[value.0];
        let intent = meant.intent;
        if self.intents[intent].expires {
            // How far apart these may stand, their positions say: see `windows`.
            meant.place = meant.place.filter(|(place, _)| *place <= sequence).or(Some((sequence, line)));
            self.intents[intent].placed.get_or_insert(value);
            return;
        }
        let (place, said) = *meant.place.get_or_insert((sequence, line));
        if place != sequence {
            let text = meant.text;
            return self.broken(verdict, Rule::Twice, &[said, line], || {
                format!("{text:?} stands at sequence {place} for one and at {sequence} for the other")
            });
        }
        let first = *self.intents[intent].placed.get_or_insert(value);
        if first != value {
            let (one, other) = (&self.values[first.0], &self.values[value.0]);
            let (key, one, other) = (one.key.unwrap_or_default(), one.text, other.text);
            let said = self.values[first.0].place.map_or(line, |(_, line)| line);
            self.broken(verdict, Rule::Key, &[said, line], || {
                format!("{one:?} and {other:?} both stand there under the idempotency key {key:?}")
            });
        }
    }

    fn at_position(&mut self, sequence: u64, position: Option<Position>, line: Line, verdict: &mut Verdict) {
        let Some(position) = position else { return };
        let slot = &mut self.slots[sequence as usize - 1];
        let (there, said) = *slot.position.get_or_insert((position, line));
        if there != position || position.get() == 0 {
            self.broken(verdict, Rule::Position, &[said, line], || {
                format!("sequence {sequence} is at position {there} for one and at {position} for the other")
            });
        }
    }

    /// Under a key that leaves its window, the next entry stands past it.
    pub(super) fn windows(&mut self, verdict: &mut Verdict) {
        let Some(window) = self.window else { return };
        let mut latest = HashMap::new();
        for at in 0..self.slots.len() {
            let Some((value, line)) = self.slots[at].value else { continue };
            let intent = self.values[value.0].intent;
            let before = latest.insert(intent, at).filter(|_| self.intents[intent].expires);
            let Some((there, said)) = before.and_then(|before| self.slots[before].value) else { continue };
            if !before.is_some_and(|before| self.is_within(window, before, at)) {
                continue;
            }
            let (one, other) = (&self.values[there.0], &self.values[value.0]);
            let (key, one, other) = (one.key.unwrap_or_default(), one.text, other.text);
            let rule = if there == value { Rule::Twice } else { Rule::Key };
            self.broken(verdict, rule, &[said, line], || {
                format!(
                    "{one:?} and {other:?} stand there under the idempotency key {key:?}, within its window of {window}"
                )
            });
        }
    }

    /// The key of the one slot was known when the other came, as far as their positions tell.
    fn is_within(&self, window: u64, first: usize, second: usize) -> bool {
        let position = |slot: usize| Some(self.slots.get(slot)?.position?.0.get());
        position(first).zip(position(second)).is_some_and(|(first, second)| second.saturating_sub(first) <= window)
    }

    /// Bounds the time of every entry by those who can have made it and those who were told that it is there.
    pub(super) fn makers(&mut self, operations: &[Operation], verdict: &mut Verdict) {
        for at in 0..self.slots.len() {
            if let Some((value, said)) = self.slots[at].value {
                self.maker(at, value, said, operations, verdict);
            }
        }
    }

    fn maker(&mut self, at: usize, value: ValueNo, said: Line, operations: &[Operation], verdict: &mut Verdict) {
        let sequence = at as u64 + 1;
        let text = self.values[value.0].text;
        let intent = self.values[value.0].intent;
        let attempts = std::mem::take(&mut self.intents[intent].attempts);
        let mut makers = Makers::default();
        for &line in &attempts {
            let append = append(operations, line);
            match &append.outcome {
                Outcome::Refused(Refused { actual: Some(actual), .. })
                    if actual.get() >= sequence
                        // The ledger had not come to the entry that follows here.
                        && self.window.is_none_or(|window| self.is_within(window, at, actual.get() as usize)) =>
                {
                    self.broken(verdict, Rule::Expected, &[said, line], || {
                        format!("refused because the latest was {actual}, but its key was known from {sequence} on")
                    });
                }
                Outcome::Refused(_) => {}
                Outcome::Done(_) | Outcome::Unknown if append.value != text => {}
                Outcome::Done(done) if self.intents[intent].expires && done.sequence.get() != sequence => {}
                Outcome::Done(done) => {
                    append.end.into_iter().for_each(|end| self.slots[at].not_after(end, line));
                    if done.deduplicated {
                        makers.maybe(append, line, sequence);
                    } else if let Some((first, _)) = makers.first {
                        self.broken(verdict, Rule::Deduplicated, &[first, line], || {
                            format!("both say that they were the first to write {text:?}")
                        });
                    } else {
                        makers.first = Some((line, append));
                    }
                }
                Outcome::Unknown => makers.maybe(append, line, sequence),
            }
        }
        let slot = &mut self.slots[at];
        match makers {
            Makers { first: Some((line, append)), .. } if follows(append, sequence) => {
                slot.not_before(append.start, line);
            }
            Makers { first: None, earliest: Some(earliest), .. } => slot.not_before(earliest.time, earliest.line),
            Makers { first: Some((line, append)), .. } | Makers { elsewhere: Some((line, append)), .. } => {
                let expected = append.expected.unwrap_or_default();
                self.broken(verdict, Rule::Expected, &[line], || {
                    format!("{text:?} was to follow sequence {expected}, and stands at {sequence}")
                });
            }
            Makers { .. } => {
                let lines: Vec<_> = [said].into_iter().chain(attempts.first().copied()).collect();
                self.broken(verdict, Rule::Refused, &lines, || {
                    format!("{text:?} stands at sequence {sequence}, but every append of it was refused")
                });
            }
        }
        self.intents[intent].attempts = attempts;
    }
}

/// Who can have made an entry.
#[derive(Default)]
struct Makers<'h> {
    /// The one that says so.
    first: Option<(Line, &'h Append)>,
    /// The earliest start of the others.
    earliest: Option<Bound>,
    /// One that expected another place.
    elsewhere: Option<(Line, &'h Append)>,
}

impl<'h> Makers<'h> {
    fn maybe(&mut self, append: &'h Append, line: Line, sequence: u64) {
        if !follows(append, sequence) {
            self.elsewhere = Some((line, append));
        } else if self.earliest.is_none_or(|earliest| append.start < earliest.time) {
            self.earliest = Some(Bound { time: append.start, line });
        }
    }
}

/// The append's expectation, where it has one, lets it make the entry at this sequence.
fn follows(append: &Append, sequence: u64) -> bool {
    append.expected.is_none_or(|expected| expected.get().checked_add(1) == Some(sequence))
}

/// The append of a line that is known to be one.
pub(super) fn append(operations: &[Operation], line: Line) -> &Append {
    match &operations[line.0 as usize - 1] {
        Operation::Append(append) => append,
        other => unreachable!("line {line} is no append: {other:?}"),
    }
}
