//! Linearizable reads: many waiting callers, few rounds of the crate's read index.
//!
//! Pure. A caller joins only a round that has not been asked yet: a round that was asked before the caller came
//! may answer with an index from before it, too. A round's context is unique to this incarnation, so that a late
//! answer to a former one satisfies nobody. The crate drops a request silently when there is no leader or no
//! commit in its term; a round that stays unanswered is therefore asked again under a new context.

use std::collections::BTreeMap;
use std::time::Duration;

use converge_ledger_core::LogIndex;
use converge_ledger_core::planted::{self, Bug};

/// Everyone who waits for a read index; `C` is the caller's reply.
pub(crate) struct Reads<C> {
    incarnation: u64,
    /// Rounds in flight at once; callers beyond them wait for the next one.
    rounds_max: usize,
    /// Callers that may wait; one more is refused.
    waiting_max: usize,
    counter: u64,
    /// Not part of any round yet.
    next: Vec<C>,
    asked: BTreeMap<u64, Round<C>>,
    /// Confirmed, waiting for apply to reach the index.
    confirmed: BTreeMap<LogIndex, Vec<C>>,
}

struct Round<C> {
    callers: Vec<C>,
    asked_at: Duration,
}

impl<C> Reads<C> {
    pub(crate) fn new(incarnation: u64, rounds_max: usize, waiting_max: usize) -> Reads<C> {
        let (next, asked, confirmed) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        Reads { incarnation, rounds_max, waiting_max, counter: 0, next, asked, confirmed }
    }

    /// Adds a caller; gives it back when too many wait.
    pub(crate) fn add(&mut self, caller: C) -> Result<(), C> {
        if self.waiting() >= self.waiting_max {
            return Err(caller);
        }
        self.next.push(caller);
        Ok(())
    }

    /// Opens a round for all who wait, if there is anyone and a round is free: its context is to be asked.
    pub(crate) fn open(&mut self, now: Duration) -> Option<Vec<u8>> {
        if self.next.is_empty() || self.asked.len() >= self.rounds_max {
            return None;
        }
        self.counter += 1;
        self.asked.insert(self.counter, Round { callers: std::mem::take(&mut self.next), asked_at: now });
        Some(self.context(self.counter))
    }

    /// An answer of the crate. One that belongs to no open round is ignored.
    pub(crate) fn answered(&mut self, context: &[u8], index: LogIndex) {
        let Some(counter) = self.counter_of(context) else { return };
        if let Some(round) = self.asked.remove(&counter) {
            self.confirmed.entry(index).or_default().extend(round.callers);
        }
    }

    /// Everyone whose index has been applied.
    pub(crate) fn applied(&mut self, applied: LogIndex) -> Vec<C> {
        let mut ready = Vec::new();
        let early = planted::is(Bug::ReadUnapplied);
        while let Some(entry) = self.confirmed.first_entry().filter(|e| *e.key() <= applied || early) {
            ready.extend(entry.remove());
        }
        ready
    }

    /// Takes back the callers of rounds asked longer than `patience` ago, to be asked anew.
    pub(crate) fn retry(&mut self, now: Duration, patience: Duration) {
        let late: Vec<u64> =
            self.asked.iter().filter(|(_, r)| now.saturating_sub(r.asked_at) >= patience).map(|(c, _)| *c).collect();
        for counter in late {
            let round = self.asked.remove(&counter).expect("a late round is an asked one");
            self.next.extend(round.callers);
        }
    }

    /// Forgets callers that no longer wait.
    pub(crate) fn retain(&mut self, alive: impl Fn(&C) -> bool) {
        self.next.retain(&alive);
        self.asked.values_mut().for_each(|round| round.callers.retain(&alive));
        self.confirmed.values_mut().for_each(|callers| callers.retain(&alive));
    }

    fn waiting(&self) -> usize {
        let asked: usize = self.asked.values().map(|round| round.callers.len()).sum();
        let confirmed: usize = self.confirmed.values().map(Vec::len).sum();
        self.next.len() + asked + confirmed
    }

    fn context(&self, counter: u64) -> Vec<u8> {
        [self.incarnation.to_le_bytes(), counter.to_le_bytes()].concat()
    }

    fn counter_of(&self, context: &[u8]) -> Option<u64> {
        let (incarnation, counter) = context.split_at_checked(8)?;
        if incarnation != self.incarnation.to_le_bytes() {
            return None;
        }
        Some(u64::from_le_bytes(counter.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(1);

    /// `7.2`: round 2 of incarnation 7.
    fn tell(context: &[u8]) -> String {
        let (incarnation, counter) = context.split_at(8);
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("a number of 8 bytes"));
        format!("{}.{}", number(incarnation), number(counter))
    }

    fn number(text: &str) -> u64 {
        text.trim_end_matches("ms").parse().expect("a number")
    }

    #[test]
    fn the_script_is_what_reads_decide() {
        let (mut reads, mut now) = (Reads::new(0, 0, 0), Duration::ZERO);
        crate::golden::check("replication/golden/reads.txt", |words| {
            match words {
                ["reads", incarnation, "rounds", rounds, "callers", callers] => {
                    reads = Reads::new(number(incarnation), number(rounds) as usize, number(callers) as usize);
                    return String::new();
                }
                ["add", caller] => {
                    return reads
                        .add((*caller).to_owned())
                        .map_or_else(|back| format!("{back} is refused"), |()| "waits".into());
                }
                ["open"] => {
                    return reads.open(now).map_or("nothing".to_owned(), |context| format!("ask {}", tell(&context)));
                }
                ["answered", context, "at", index] => {
                    let (incarnation, counter) = context.split_once('.').expect("a context");
                    let context = [number(incarnation).to_le_bytes(), number(counter).to_le_bytes()].concat();
                    reads.answered(&context, LogIndex(number(index)));
                }
                ["retry", "after", pause] => {
                    now += Duration::from_millis(number(pause));
                    reads.retry(now, PATIENCE);
                }
                ["gave_up", caller] => reads.retain(|waiting| waiting != caller),
                ["applied", index] => {
                    let ready = reads.applied(LogIndex(number(index)));
                    return if ready.is_empty() { "nobody".to_owned() } else { ready.join(" ") };
                }
                _ => panic!("no such line: {words:?}"),
            }
            format!("{} wait", reads.waiting())
        });
    }
}
