//! The check: reads a history context by context, then holds its order against real time.

use std::collections::{BTreeMap, HashMap};

use converge_ledger_core::{NodeId, Position, Sequence};

use super::contexts::{Context, Place};
use super::operation::{Append, Consistency, Operation, Outcome, Read, Refused, Seen, State, Time, Watch};
use super::order;
use super::verdict::{Counts, Line, Rule, Verdict};

/// Holds a history against the model that [`crate::history`] describes. Takes time like sorting it, memory like the
/// history.
#[must_use]
pub fn check(operations: &[Operation]) -> Verdict {
    let mut check = Check::new(operations);
    check.gather();
    check.observe();
    check.bound();
    check.known();
    check.states();
    check.positions();
    check.prefixes();
    order::check(operations, &mut check.contexts, &mut check.verdict);
    check.count();
    check.verdict
}

struct Check<'h> {
    operations: &'h [Operation],
    /// For so many positions a key is known; none: for ever.
    key_window: Option<u64>,
    contexts: Vec<Context<'h>>,
    names: HashMap<&'h str, usize>,
    /// The context of each line; of no use for a line that has none.
    of: Vec<usize>,
    verdict: Verdict,
}

fn lines(operations: &[Operation]) -> impl Iterator<Item = (Line, &Operation)> {
    (1..).map(Line).zip(operations)
}

impl<'h> Check<'h> {
    fn new(operations: &'h [Operation]) -> Self {
        let mut names = HashMap::new();
        let mut contexts = Vec::new();
        let mut of = Vec::with_capacity(operations.len());
        let key_window = operations.iter().find_map(|operation| match operation {
            Operation::Begin(begin) => Some(begin.key_window),
            _ => None,
        });
        for operation in operations {
            let name = match operation {
                Operation::Append(append) => &append.context,
                Operation::Read(read) => &read.context,
                Operation::Watch(watch) => &watch.context,
                Operation::State(state) => &state.context,
                Operation::Begin(_) | Operation::End(_) => {
                    of.push(usize::MAX);
                    continue;
                }
            };
            of.push(*names.entry(name.as_str()).or_insert_with(|| {
                contexts.push(Context::new(name, key_window));
                contexts.len() - 1
            }));
        }
        Check { operations, key_window, contexts, names, of, verdict: Verdict::default() }
    }

    fn context(&mut self, line: Line) -> (&mut Context<'h>, &mut Verdict) {
        (&mut self.contexts[self.of[line.0 as usize - 1]], &mut self.verdict)
    }

    /// Who meant to write what.
    fn gather(&mut self) {
        for (line, operation) in lines(self.operations) {
            let (start, end) = match operation {
                Operation::Append(append) => (append.start, append.end),
                Operation::Read(Read { start, end, .. }) | Operation::Watch(Watch { start, end, .. }) => {
                    (*start, Some(*end))
                }
                Operation::Begin(_) | Operation::State(_) | Operation::End(_) => continue,
            };
            let (context, verdict) = self.context(line);
            if end.is_some_and(|end| end < start) {
                context.broken(verdict, Rule::Interval, &[line], || "ends before it starts".into());
            }
            if let Operation::Append(append) = operation {
                context.meant(append, line, verdict);
                alone(context, append, line, verdict);
            }
        }
    }

    /// What stands where.
    fn observe(&mut self) {
        for (line, operation) in lines(self.operations) {
            match operation {
                Operation::Append(append) => self.observe_append(append, line),
                Operation::Read(read) => {
                    self.entries(line, read.after, &read.entries);
                    self.observe_read(read, line);
                }
                Operation::Watch(watch) => self.entries(line, watch.after, &watch.entries),
                Operation::State(state) => self.entries(line, Sequence(0), &state.entries),
                Operation::Begin(_) | Operation::End(_) => {}
            }
        }
    }

    fn observe_append(&mut self, append: &Append, line: Line) {
        let (context, verdict) = self.context(line);
        match &append.outcome {
            Outcome::Done(done) => {
                let (sequence, position) = (done.sequence, done.position);
                let seen = Place { sequence, value: &append.value, position };
                context.seen(seen, line, verdict, |_| Rule::Place);
            }
            Outcome::Refused(Refused { actual: Some(actual), .. }) => context.exists(actual.get(), line, verdict),
            Outcome::Refused(_) | Outcome::Unknown => {}
        }
    }

    fn observe_read(&mut self, read: &Read, line: Line) {
        let (context, verdict) = self.context(line);
        context.exists(read.latest.get(), line, verdict);
        let last = read.entries.last().map_or(read.after, |entry| entry.sequence);
        if last > read.latest && !read.entries.is_empty() {
            context.broken(verdict, Rule::Latest, &[line], || {
                format!("holds sequence {last} and says that the latest is {}", read.latest)
            });
        }
        if !read.limited && last < read.latest {
            context.broken(verdict, Rule::Gap, &[line], || {
                format!("ends with sequence {last}, the latest is {}, and no limit was set", read.latest)
            });
        }
    }

    /// Entries in a row behind `after`.
    fn entries(&mut self, line: Line, after: Sequence, entries: &[Seen]) {
        let operations = self.operations;
        let is_state = |line: Line| matches!(operations[line.0 as usize - 1], Operation::State(_));
        let mut before = after;
        let (context, verdict) = self.context(line);
        for seen in entries {
            if before.get().checked_add(1) != Some(seen.sequence.get()) {
                context.broken(verdict, Rule::Gap, &[line], || format!("sequence {} follows {before}", seen.sequence));
            }
            before = seen.sequence;
            context.seen(seen.into(), line, verdict, |other| match is_state(line) && is_state(other) {
                true => Rule::Diverged,
                false => Rule::Place,
            });
        }
    }

    /// When each entry can have been written.
    fn bound(&mut self) {
        for context in &mut self.contexts {
            context.windows(&mut self.verdict);
            context.makers(self.operations, &mut self.verdict);
        }
        for (line, operation) in lines(self.operations) {
            let (sequence, start, end) = match operation {
                Operation::Append(append) => match (&append.outcome, append.end) {
                    (Outcome::Refused(Refused { actual: Some(actual), .. }), Some(end)) => {
                        (*actual, Some(append.start), end)
                    }
                    _ => continue,
                },
                Operation::Read(read) => {
                    let fresh = read.consistency == Consistency::Linearizable;
                    (read.latest, fresh.then_some(read.start), read.end)
                }
                Operation::Watch(watch) => match watch.entries.last() {
                    Some(seen) => (seen.sequence, None, watch.end),
                    None => continue,
                },
                Operation::Begin(_) | Operation::State(_) | Operation::End(_) => continue,
            };
            let (context, _) = self.context(line);
            observed(context, sequence.get(), start, end, line);
        }
    }

    /// Who was told of a first entry began before the ledger had left that one's window behind.
    fn known(&mut self) {
        let Some(window) = self.key_window else { return };
        let slots = self.contexts.iter().flat_map(|context| &context.slots);
        let mut there: Vec<_> = slots.filter_map(|slot| Some((slot.high?, slot.position?.0))).collect();
        there.sort_unstable_by_key(|(by, position)| (by.time, *position));
        let mut last = None::<(Line, Position)>;
        for (by, position) in &mut there {
            // The highest that was there by then.
            let (line, highest) = last.filter(|(_, last)| last > position).unwrap_or((by.line, *position));
            (by.line, *position) = (line, highest);
            last = Some((line, highest));
        }
        for (line, operation) in lines(self.operations) {
            let Operation::Append(Append { start, outcome: Outcome::Done(done), .. }) = operation else { continue };
            let before = there.partition_point(|(by, _)| by.time < *start);
            let Some((by, last)) = before.checked_sub(1).map(|at| there[at]) else { continue };
            let first = done.position.filter(|_| done.deduplicated);
            if let Some(first) = first.filter(|first| last.get().saturating_sub(first.get()) >= window) {
                let (context, verdict) = self.context(line);
                context.broken(verdict, Rule::Deduplicated, &[by.line, line], || {
                    format!("position {last} was there by then, and the key of {first} not known any more")
                });
            }
        }
    }

    /// Every node holds all that was acknowledged or seen, in the end.
    fn states(&mut self) {
        for (line, operation) in lines(self.operations) {
            let Operation::State(State { node, entries, .. }) = operation else { continue };
            let operations = self.operations;
            let is_state = |line: Line| matches!(operations[line.0 as usize - 1], Operation::State(_));
            let (context, verdict) = self.context(line);
            // A hole before the last one is known by now.
            let last = entries.last().map_or(0, |seen| seen.sequence.get());
            let Some(missing) = context.slots.get(last as usize) else { continue };
            let said = missing.value.map(|(_, line)| line).into_iter().chain(context.longest);
            let said: Vec<_> = said.collect();
            let witness = said.iter().copied().find(|&line| !is_state(line));
            let (rule, witness) = match witness {
                Some(witness) => (Rule::Lost, witness),
                None => (Rule::Diverged, said[0]),
            };
            let all = context.slots.len();
            context.broken(verdict, rule, &[witness, line], || {
                format!("node {node} ends with sequence {last}, but {} was there, of {all}", last + 1)
            });
        }
    }

    /// A position has one entry, later entries of a context have greater ones, and together they are all.
    fn positions(&mut self) {
        let mut known = Vec::new();
        for (at, context) in self.contexts.iter_mut().enumerate() {
            let mut before = None;
            for slot in 0..context.slots.len() {
                let Some((position, line)) = context.slots[slot].position else { continue };
                known.push((position, at, line));
                if let Some((other, said)) = before.filter(|&(other, _)| other >= position) {
                    let sequence = slot + 1;
                    context.broken(&mut self.verdict, Rule::Position, &[said, line], || {
                        format!("sequence {sequence} is at position {position}, an earlier one at {other}")
                    });
                }
                before = Some((position, line));
            }
        }
        known.sort_unstable();
        for pair in known.windows(2) {
            let [(one, a, first), (other, b, second)] = *pair else { continue };
            if one == other && a != b {
                let name = self.contexts[a].name;
                self.contexts[b].sound = false;
                self.contexts[a].broken(&mut self.verdict, Rule::Position, &[first, second], || {
                    format!("position {one} is that of two entries, of {name:?} and of another context")
                });
            }
        }
        self.whole();
    }

    /// Each node's final states are the positions 1 to the last one. That none is there twice is known by now.
    fn whole(&mut self) {
        let mut nodes = BTreeMap::<NodeId, (u64, u64, Line)>::new();
        for (line, operation) in lines(self.operations) {
            match operation {
                Operation::State(state) => {
                    let positions = state.entries.iter().filter_map(|seen| seen.position);
                    let last = positions.max().unwrap_or_default().get();
                    let (count, highest, at) = nodes.entry(state.node).or_insert((0, 0, line));
                    *count += state.entries.len() as u64;
                    *highest = last.max(*highest);
                    *at = line;
                }
                Operation::End(end) => {
                    let all = end.position.get();
                    if nodes.is_empty() && all > 0 {
                        let why = || format!("the ledger has {all} entries in the end, and no state shows them");
                        self.verdict.add(Rule::Ledger, None, &[line], why);
                    }
                    for (node, (count, highest, at)) in &nodes {
                        if *count != all || *highest > all {
                            self.verdict.add(Rule::Ledger, None, &[*at, line], || {
                                format!(
                                    "node {node} holds {count} entries, the last known position is {highest}; the \
                                     ledger's is {all}"
                                )
                            });
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// Of what one call gave, the ledger has a beginning in the end, in that order.
    fn prefixes(&mut self) {
        if !self.operations.iter().any(|operation| matches!(operation, Operation::End(_))) {
            return;
        }
        for (line, operation) in lines(self.operations) {
            let Operation::Append(Append { value, behind: Some(behind), .. }) = operation else { continue };
            let Some((_, position)) = self.context(line).0.place(value) else { continue };
            let before = self.names.get(behind.context.as_str()).and_then(|at| self.contexts[*at].place(&behind.value));
            let first = &behind.value;
            let (said, why) = match before {
                None => (line, format!("{value:?} is there, but not {first:?}, which its call gave before")),
                Some((said, before)) => match before.zip(position) {
                    Some((before, own)) if own <= before => (
                        said,
                        format!("{value:?} is at position {own}, and {first:?} before it in its call at {before}"),
                    ),
                    _ => continue,
                },
            };
            let (context, verdict) = self.context(line);
            context.broken(verdict, Rule::Prefix, &[said, line], || why);
        }
    }

    fn count(&mut self) {
        let mut counts = Counts {
            operations: self.operations.len() as u64,
            contexts: self.contexts.len() as u64,
            entries: self.contexts.iter().map(|context| context.slots.len() as u64).sum(),
            ..Counts::default()
        };
        for operation in self.operations {
            match operation {
                Operation::Append(append) => match &append.outcome {
                    Outcome::Done(done) => {
                        counts.acknowledged += 1;
                        counts.deduplicated += u64::from(done.deduplicated);
                    }
                    Outcome::Refused(_) => counts.refused += 1,
                    Outcome::Unknown => counts.unknown += 1,
                },
                Operation::Read(read) => match read.consistency {
                    Consistency::Linearizable => counts.reads += 1,
                    Consistency::Stale => counts.reads_stale += 1,
                },
                Operation::Watch(_) => counts.watches += 1,
                Operation::State(_) => counts.states += 1,
                Operation::Begin(_) | Operation::End(_) => {}
            }
        }
        self.verdict.counts = counts;
    }
}

/// The rules that an append can break by itself.
fn alone(context: &mut Context<'_>, append: &Append, line: Line, verdict: &mut Verdict) {
    match &append.outcome {
        Outcome::Unknown => {}
        _ if append.end.is_none() => {
            context.broken(verdict, Rule::Interval, &[line], || "was answered, but has no end".into());
        }
        Outcome::Done(done) if done.deduplicated && append.idempotency_key.is_none() => {
            context.broken(verdict, Rule::Deduplicated, &[line], || "without a key there is no first one".into());
        }
        Outcome::Refused(Refused { actual: Some(actual), .. }) if append.expected == Some(*actual) => {
            context.broken(verdict, Rule::Expected, &[line], || format!("refused, though the latest was {actual}"));
        }
        Outcome::Refused(Refused { actual: Some(_), .. }) if append.expected.is_none() => {
            context.broken(verdict, Rule::Expected, &[line], || "refused for a sequence that it did not expect".into());
        }
        Outcome::Done(_) | Outcome::Refused(_) => {}
    }
}

/// Somebody saw that the latest sequence was this one: the entry was written by the end, and where the answer is
/// fresh, the one behind it not before the start.
fn observed(context: &mut Context<'_>, sequence: u64, start: Option<Time>, end: Time, line: Line) {
    if let Some(slot) = sequence.checked_sub(1).and_then(|at| context.slots.get_mut(at as usize)) {
        slot.not_after(end, line);
    }
    if let (Some(start), Some(next)) = (start, context.slots.get_mut(sequence as usize)) {
        next.not_before(start, line);
    }
}
