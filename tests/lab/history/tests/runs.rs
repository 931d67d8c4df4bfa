//! Histories of a correct ledger that seeds choose, and ways to spoil them.

use converge_ledger_core::{NodeId, Position, Sequence, chance};

use crate::history::*;

/// Chance from a seed, for places in lists.
pub(super) struct Dice(chance::Dice);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Dice(chance::Dice(seed))
    }

    /// One of `0..below`.
    pub(super) fn below(&mut self, below: usize) -> usize {
        self.0.below(below.max(1) as u64) as usize
    }

    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// How a run looks.
pub(super) struct Shape {
    pub(super) operations: usize,
    pub(super) contexts: usize,
    /// How long a call takes at most; each operation takes place one tick after the one before.
    pub(super) ticks: usize,
    /// Entries that a read or a watch shows at most.
    pub(super) shown: usize,
    /// Ends with the states of two nodes, always or by chance.
    pub(super) states: bool,
    /// For so many positions a key is known; none: for ever.
    pub(super) window: Option<u64>,
}

#[derive(Clone)]
struct Intent {
    context: usize,
    value: String,
    key: Option<String>,
    place: Option<(u64, u64)>,
    retried: bool,
}

/// A run under way: operations take place one after the other, and real time is put around them.
pub(super) struct Run<'d> {
    dice: &'d mut Dice,
    shape: Shape,
    now: u64,
    lists: Vec<Vec<(String, u64)>>,
    position: u64,
    intents: Vec<Intent>,
    history: Vec<Operation>,
}

/// A history of a correct ledger.
pub(super) fn run(dice: &mut Dice, shape: Shape) -> Vec<Operation> {
    let lists = vec![Vec::new(); shape.contexts];
    let mut run = Run { dice, now: 100, lists, position: 0, intents: Vec::new(), history: Vec::new(), shape };
    run.history.extend(run.shape.window.map(|key_window| Operation::Begin(Begin { key_window })));
    for _ in 0..run.shape.operations {
        run.now += 1;
        match run.dice.below(10) {
            0..4 => run.append(),
            4 if run.shape.window.is_some() && run.dice.one_in(2) => run.another(),
            4 | 5 => run.retry(),
            6 | 7 => run.read(true),
            8 => run.read(false),
            _ => run.watch(),
        }
    }
    if run.shape.states || run.dice.one_in(2) {
        run.states();
    }
    run.history
}

fn name(context: usize) -> String {
    format!("c{context}")
}

impl Run<'_> {
    fn around(&mut self) -> (Time, Time) {
        let ticks = self.shape.ticks;
        (Time(self.now - self.dice.below(ticks) as u64), Time(self.now + self.dice.below(ticks) as u64))
    }

    fn append(&mut self) {
        let context = self.dice.below(self.shape.contexts);
        let number = self.intents.len();
        let key = (!self.dice.one_in(3)).then(|| format!("k{number}"));
        let intent = Intent { context, value: format!("v{number}"), key, place: None, retried: false };
        self.intents.push(intent);
        self.attempt(number);
    }

    fn retry(&mut self) {
        // Keys that are forgotten are those of long before.
        let recent = if self.shape.window.is_some() { 40 } else { 8 };
        let from = self.intents.len().saturating_sub(recent);
        let recent = self.intents.len() - from;
        let number = from + self.dice.below(recent);
        match self.intents.get(number) {
            Some(intent) if intent.key.is_some() => {
                self.intents[number].retried = true;
                self.attempt(number);
            }
            _ => self.append(),
        }
    }

    /// Something else under a key of before, which is not told of any more from then on.
    fn another(&mut self) {
        let (from, next) = (self.dice.below(self.intents.len()), self.intents.len());
        let Some(intent) = self.intents.get_mut(from).filter(|intent| intent.key.is_some()) else { return };
        let other = Intent { value: format!("v{next}"), place: None, retried: false, ..intent.clone() };
        let place = intent.place;
        if self.known(place).is_some() {
            self.intents.push(Intent { key: None, ..other.clone() });
            let (context, value, key) = (name(other.context), other.value, other.key);
            let (start, end) = self.around();
            let outcome = Outcome::Refused(Refused { reason: "another".into(), actual: None });
            self.history.push(Operation::Append(Append {
                client: 0,
                start,
                end: Some(end),
                context,
                value,
                idempotency_key: key,
                expected: None,
                behind: None,
                outcome,
            }));
            return;
        }
        self.intents[from].key = None;
        self.intents.push(other);
        self.attempt(next);
    }

    /// Where the entry of a key is, if the key is still known.
    fn known(&self, place: Option<(u64, u64)>) -> Option<(u64, u64)> {
        let window = self.shape.window.unwrap_or(u64::MAX);
        place.filter(|(_, position)| *position > self.position.saturating_sub(window))
    }

    fn attempt(&mut self, number: usize) {
        let intent = self.intents[number].clone();
        let latest = self.lists[intent.context].len() as u64;
        let (start, end) = self.around();
        let mut expected = self.dice.one_in(4).then_some(latest);
        let (outcome, written) = match (self.known(intent.place), self.dice.below(6)) {
            (_, 0) => (Outcome::Unknown, false),
            (_, 1) if !intent.retried => (Outcome::Refused(Refused { reason: "overload".into(), actual: None }), false),
            (None, 2) => {
                expected = Some(latest + 1 - 2 * u64::from(latest > 0 && self.dice.one_in(2)));
                let actual = Some(Sequence(latest));
                (Outcome::Refused(Refused { reason: "expected".into(), actual }), false)
            }
            (None, 3) => (Outcome::Unknown, true),
            (None, _) => (done(latest + 1, self.told(self.position + 1), false), true),
            (Some((sequence, position)), _) => {
                expected = self.dice.one_in(4).then_some(7);
                (done(sequence, self.told(position), true), false)
            }
        };
        if written {
            self.position += 1;
            self.lists[intent.context].push((intent.value.clone(), self.position));
            self.intents[number].place = Some((latest + 1, self.position));
        }
        let end = match outcome {
            // The client gave up at some time, also before anything happened, or it is not known when.
            Outcome::Unknown => (!self.dice.one_in(3)).then(|| Time(start.0 + self.dice.below(3) as u64)),
            _ => Some(end),
        };
        self.history.push(Operation::Append(Append {
            client: number as u64,
            start,
            end,
            context: name(intent.context),
            value: intent.value,
            idempotency_key: intent.key,
            expected: expected.map(Sequence),
            behind: None,
            outcome,
        }));
    }

    fn told(&mut self, position: u64) -> Option<Position> {
        (!self.dice.one_in(3)).then_some(Position(position))
    }

    fn seen(&mut self, context: usize, from: usize, to: usize) -> Vec<Seen> {
        (from..to)
            .map(|at| {
                let (value, position) = self.lists[context][at].clone();
                Seen { sequence: Sequence(at as u64 + 1), value, position: self.told(position) }
            })
            .collect()
    }

    fn read(&mut self, fresh: bool) {
        let context = self.dice.below(self.shape.contexts);
        let (start, end) = self.around();
        let there = self.lists[context].len();
        let latest = if fresh { there } else { there - self.dice.below(there.min(3) + 1) };
        let after = latest.saturating_sub(self.dice.below(self.shape.shown + 1));
        let to = latest - if self.dice.one_in(3) { self.dice.below(latest - after + 1) } else { 0 };
        let entries = self.seen(context, after, to);
        let consistency = if fresh { Consistency::Linearizable } else { Consistency::Stale };
        self.history.push(Operation::Read(Read {
            client: 0,
            start,
            end,
            context: name(context),
            consistency,
            after: Sequence(after as u64),
            latest: Sequence(latest as u64),
            entries,
            limited: to < latest,
        }));
    }

    fn watch(&mut self) {
        let context = self.dice.below(self.shape.contexts);
        let (start, end) = self.around();
        let to = self.dice.below(self.lists[context].len() + 1);
        let after = to.saturating_sub(self.dice.below(self.shape.shown + 1));
        let entries = self.seen(context, after, to);
        let (context, after) = (name(context), Sequence(after as u64));
        self.history.push(Operation::Watch(Watch { client: 0, start, end, context, after, entries }));
    }

    fn states(&mut self) {
        for node in [1, 2] {
            for context in 0..self.shape.contexts {
                let entries = self.seen(context, 0, self.lists[context].len());
                self.history.push(Operation::State(State { node: NodeId(node), context: name(context), entries }));
            }
        }
        self.history.push(Operation::End(End { position: Position(self.position) }));
    }
}

fn done(sequence: u64, position: Option<Position>, deduplicated: bool) -> Outcome {
    Outcome::Done(Done { sequence: Sequence(sequence), position, deduplicated })
}

/// Forgets much of what was seen, which leaves a good history good.
pub(super) fn blur(history: &mut Vec<Operation>, dice: &mut Dice) {
    history.retain_mut(|operation| {
        let forget = dice.one_in(2);
        match operation {
            Operation::Append(append) if forget && matches!(append.outcome, Outcome::Done(_)) => {
                append.outcome = Outcome::Unknown;
            }
            Operation::Read(read) if forget => {
                read.limited = read.after < read.latest;
                read.entries.clear();
            }
            Operation::Watch(_) => return !forget,
            Operation::State(_) | Operation::End(_) => return false,
            _ => {}
        }
        true
    });
}

/// Changes something small, which may or may not be noticed.
pub(super) fn disturb(history: &mut Vec<Operation>, dice: &mut Dice) {
    if history.is_empty() {
        return;
    }
    let at = dice.below(history.len());
    let shift = |dice: &mut Dice, number: u64| (number + dice.below(5) as u64).saturating_sub(2);
    let other = history[dice.below(history.len())].clone();
    if dice.one_in(12) {
        history.remove(at);
        return;
    }
    if dice.one_in(8) {
        let one = 1 + dice.below(5) as u64;
        swap_positions(history, one, one + 1 + dice.below(2) as u64);
        return;
    }
    match &mut history[at] {
        Operation::Append(append) => disturb_append(append, other, dice),
        Operation::Read(read) => match dice.below(5) {
            0 => (read.start, read.end) = moved(dice, read.start, read.end),
            1 => read.end = Time(shift(dice, read.end.0)),
            2 => read.latest = Sequence(shift(dice, read.latest.get())),
            3 => read.consistency = Consistency::Linearizable,
            _ => spoil(&mut read.entries, dice),
        },
        Operation::Watch(watch) => match dice.below(3) {
            0 => (watch.start, watch.end) = moved(dice, watch.start, watch.end),
            1 => watch.after = Sequence(shift(dice, watch.after.get())),
            _ => spoil(&mut watch.entries, dice),
        },
        Operation::State(state) => spoil(&mut state.entries, dice),
        Operation::Begin(begin) => begin.key_window = shift(dice, begin.key_window),
        Operation::End(end) => end.position = Position(shift(dice, end.position.get())),
    }
}

/// Two entries have changed their places in the ledger, and everybody says so.
fn swap_positions(history: &mut [Operation], one: u64, other: u64) {
    let swap = |position: &mut Option<Position>| match position {
        Some(position) if position.get() == one => *position = Position(other),
        Some(position) if position.get() == other => *position = Position(one),
        _ => {}
    };
    for operation in history {
        match operation {
            Operation::Append(Append { outcome: Outcome::Done(done), .. }) => swap(&mut done.position),
            Operation::Read(Read { entries, .. })
            | Operation::Watch(Watch { entries, .. })
            | Operation::State(State { entries, .. }) => entries.iter_mut().for_each(|seen| swap(&mut seen.position)),
            Operation::Begin(_) | Operation::Append(_) | Operation::End(_) => {}
        }
    }
}

fn disturb_append(append: &mut Append, other: Operation, dice: &mut Dice) {
    let shift = |dice: &mut Dice, number: u64| (number + dice.below(5) as u64).saturating_sub(2);
    let other = match other {
        Operation::Append(other) => other,
        _ => append.clone(),
    };
    match dice.below(11) {
        0 => append.start = Time((append.start.0 + dice.below(12) as u64).saturating_sub(4)),
        1 => append.end = append.end.map(|end| Time(shift(dice, end.0))),
        2 => append.expected = append.expected.map(|expected| Sequence(shift(dice, expected.get()))),
        3 => append.outcome = Outcome::Unknown,
        4 => (append.end, append.outcome) = (other.end.or(append.end), other.outcome),
        5 => append.idempotency_key = other.idempotency_key,
        6 => (append.value, append.idempotency_key) = (other.value, other.idempotency_key),
        7 => {
            let (expected, actual) = (dice.below(4) as u64, dice.below(4) as u64);
            append.expected = Some(Sequence(expected));
            append.end = append.end.or(Some(Time(append.start.0 + 4)));
            append.outcome = Outcome::Refused(Refused { reason: "expected".into(), actual: Some(Sequence(actual)) });
        }
        _ => match &mut append.outcome {
            Outcome::Done(done) => match dice.below(3) {
                0 => done.sequence = Sequence(shift(dice, done.sequence.get())),
                1 => done.deduplicated ^= true,
                _ => done.position = done.position.map(|position| Position(shift(dice, position.get()))),
            },
            Outcome::Refused(refused) => {
                refused.actual = refused.actual.map(|actual| Sequence(shift(dice, actual.get())));
            }
            Outcome::Unknown => append.idempotency_key = None,
        },
    }
}

fn moved(dice: &mut Dice, start: Time, end: Time) -> (Time, Time) {
    let ticks = dice.below(7) as u64;
    (Time((start.0 + ticks).saturating_sub(3)), Time((end.0 + ticks).saturating_sub(3)))
}

fn spoil(entries: &mut Vec<Seen>, dice: &mut Dice) {
    let (one, other) = (dice.below(entries.len()), dice.below(entries.len()));
    match dice.below(5) {
        _ if entries.is_empty() => {}
        0 => drop(entries.pop()),
        1 => entries.swap(one, other),
        2 => entries[one].value = entries[other].value.clone(),
        3 => drop(entries.remove(one)),
        _ => {
            let position = entries[other].position;
            entries[one].position = position.map(|position| Position(position.get() + dice.below(2) as u64));
        }
    }
}
