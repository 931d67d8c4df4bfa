//! The batcher alone, by the script `../golden/batcher.txt`. It is node 1's, its patience is a second, and it runs after
//! each line, as after each message of the actor.

use super::*;
use converge_ledger_core::{Append, EntryId, NewEntry};

static ZEROS: [u8; 4 << 20] = [0; 4 << 20];

struct Script {
    batcher: Batcher,
    now: Duration,
    runs: u64,
    gave_up: BTreeSet<u64>,
    handed: BTreeMap<u64, Bytes>,
}

impl Script {
    fn begin() -> Script {
        let batcher = Batcher::new(NodeId(1), Boot(1), Duration::from_secs(1), Bounds::default());
        let (now, gave_up, handed) = (Duration::ZERO, BTreeSet::new(), BTreeMap::new());
        Script { batcher, now, runs: 0, gave_up, handed }
    }

    /// Tells it a line, and runs it: what it hands over, what is open, and what is in a batch and unresolved.
    fn take(&mut self, words: &[&str]) -> String {
        let (words, pause) = match words {
            [words @ .., "after", millis] => (words, number(millis)),
            words => (words, 0),
        };
        self.now += Duration::from_millis(pause);
        let (now, gave_up, batcher) = (self.now, &mut self.gave_up, &mut self.batcher);
        match words {
            ["led_by", leader] => batcher.led_by((*leader != "nobody").then(|| NodeId(number(leader)))),
            ["push", counters] => range(counters).for_each(|counter| push(batcher, counter, 100)),
            ["push", counters, kib] => range(counters).for_each(|counter| push(batcher, counter, number(kib) << 10)),
            ["group", counters] => group(batcher, counters, 100),
            ["group", counters, kib] => group(batcher, counters, number(kib) << 10),
            ["resolved", counters] => batcher.resolved(now, range(counters)),
            ["not_proposed", token, "by", by] => batcher.not_proposed(NodeId(number(by)), number(token), None),
            ["not_proposed", token, "by", by, "hint", to] => {
                batcher.not_proposed(NodeId(number(by)), number(token), Some(NodeId(number(to))));
            }
            ["lost_link", peer] => batcher.lost_link(NodeId(number(peer))),
            ["gave_up", counters] => gave_up.extend(range(counters)),
            ["look"] => batcher.expire(now, |counter| !gave_up.contains(&counter)),
            _ => panic!("no such line: {words:?}"),
        }
        self.runs += 1;
        // Other marks each time: bytes that are made again are other bytes.
        let marks = Marks { low_water: self.runs, low_staging: 1 };
        let effects = batcher.run(now, || marks, |counter| !gave_up.contains(&counter));
        let mut told: Vec<String> = effects.into_iter().map(|effect| tell(effect, &mut self.handed)).collect();
        if told.is_empty() {
            told.push("nothing".to_owned());
        }
        let open = self.batcher.open.iter().map(|(command, _)| command.counter()).collect();
        let bytes: usize = self.batcher.open.iter().map(|(_, bytes)| bytes).sum();
        assert_eq!(self.batcher.open_bytes, bytes);
        assert_eq!(self.batcher.sealed.is_empty(), self.batcher.batch_of.is_empty());
        let unresolved: Vec<u64> = self.batcher.batch_of.keys().copied().collect();
        let left =
            [("open", open), ("unresolved", unresolved)].into_iter().filter(|(_, counters)| !counters.is_empty());
        told.join(", ") + &left.map(|(what, counters)| format!(" [{what} {}]", ranges(counters))).collect::<String>()
    }
}

fn group(batcher: &mut Batcher, counters: &str, bytes: u64) {
    let counters = range(counters);
    let first = *counters.start();
    counters.for_each(|counter| push_as(batcher, counter, bytes, counter > first));
}

fn push(batcher: &mut Batcher, counter: u64, bytes: u64) {
    push_as(batcher, counter, bytes, false);
}

fn push_as(batcher: &mut Batcher, counter: u64, bytes: u64, follows: bool) {
    let bytes = bytes as usize;
    let entry = NewEntry {
        context_id: "c".into(),
        key: String::new(),
        payload: Bytes::from_static(&ZEROS[..bytes]),
        metadata: BTreeMap::new(),
    };
    let command = Command::Append(Append {
        counter,
        id: EntryId([0; 16]),
        appended_at_ns: 0,
        idempotency_key: None,
        expected_sequence: None,
        fence_epoch: None,
        received_lamport: None,
        follows,
        entry,
    });
    batcher.push(command, bytes);
}

fn tell(effect: Effect, handed: &mut BTreeMap<u64, Bytes>) -> String {
    let (told, token, data) = match effect {
        Effect::Propose { token, data } => (format!("propose {token}"), token, data),
        Effect::Forward { to, token, data } => (format!("forward {token} to {to}"), token, data),
    };
    let counters = Batch::decode(&data).unwrap().commands.iter().map(Command::counter).collect();
    let again = handed.insert(token, data.clone());
    assert!(again.as_ref().is_none_or(|first| *first == data), "the bytes of batch {token} were made again");
    format!("{told}{}: {}", if again.is_some() { " again" } else { "" }, ranges(counters))
}

fn number(text: &str) -> u64 {
    text.trim_end_matches(char::is_alphabetic).parse().expect("a number")
}

/// `5-7`, or one number.
fn range(text: &str) -> std::ops::RangeInclusive<u64> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    number(first)..=number(last)
}

fn ranges(numbers: Vec<u64>) -> String {
    let runs = numbers.chunk_by(|one, next| one + 1 == *next).map(|run| match run {
        [one] => one.to_string(),
        run => format!("{}-{}", run[0], run[run.len() - 1]),
    });
    runs.collect::<Vec<_>>().join(" ")
}

#[test]
fn the_script_is_what_the_batcher_decides() {
    let mut script = Script::begin();
    crate::golden::check("entry/golden/batcher.txt", |words| match words {
        ["batcher"] => {
            script = Script::begin();
            String::new()
        }
        words => script.take(words),
    });
}
