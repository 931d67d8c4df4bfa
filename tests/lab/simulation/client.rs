//! Clients of the simulated world: how they reach a node, and the copies that they make.

use std::sync::Arc;
use std::time::Duration;

use converge_ledger_core::chance::Dice;
use tokio::time::{Instant, sleep};

use super::trace::digest;
use super::world::{Life, World};
use crate::history::{Consistency, Done, Operation, Read, Seen, Time};
use crate::workload::{Acknowledged, Api, Client, Missed, acknowledged, follow, many, missed, seen, shown};
use converge_ledger::{
    AppendOptions, Error, Ledger, Loaded, ManyEntry, NewEntry, ReadOptions, Sequence, Snapshot, WatchOptions, Written,
};

/// Contexts with more entries than this are not copied.
const COPY_ENTRIES_MAX: u64 = 60;

/// A call ends so soon after its deadline.
const LATE_MAX: Duration = Duration::from_millis(100);

/// A copy of a context that was asked for.
#[derive(Clone, Debug)]
pub(super) struct Copied {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) came: Came,
    /// What a second load of more of the original into the same context was answered with, made at the same time.
    pub(super) grown: Option<Came>,
}

/// What a load was answered with: so many entries of the original, from the first on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Came {
    Whole(u64),
    WholeOrNothing(u64),
    Nothing,
}

impl Came {
    fn of(answer: Option<Result<Loaded, Error>>, count: u64) -> Came {
        match answer {
            Some(Ok(loaded)) => Came::Whole(loaded.latest.get()),
            None => Came::WholeOrNothing(count),
            Some(Err(error)) => match error.written() {
                Written::Perhaps => Came::WholeOrNothing(count),
                Written::Nothing => Came::Nothing,
            },
        }
    }

    fn allows(self, entries: u64) -> bool {
        match self {
            Came::Whole(all) => entries == all,
            Came::WholeOrNothing(all) => entries == all || entries == 0,
            Came::Nothing => entries == 0,
        }
    }
}

impl Copied {
    /// Whether the copy may hold so many entries: those of the second load, if that was done; those of the first, if
    /// only that was.
    pub(super) fn allows(&self, entries: u64) -> bool {
        let Some(grown) = self.grown else { return self.came.allows(entries) };
        match grown {
            Came::Whole(all) => entries == all,
            Came::WholeOrNothing(all) => entries == all || self.came.allows(entries),
            Came::Nothing => self.came.allows(entries),
        }
    }
}

/// The simulated world, as one client reaches it.
pub(super) struct Simulated {
    pub(super) client: u64,
    pub(super) world: Arc<World>,
}

impl Simulated {
    /// Data loss is only for a node whose disk rotted.
    fn missed(&self, life: &Life, error: &Error) -> Missed {
        let finding = match error {
            Error::DataLoss(what) if !self.world.is_rotten(life.id) => {
                Some(format!("node {} reports data loss without cause: {what}", life.id))
            }
            _ => None,
        };
        missed(error, finding)
    }

    fn judge(&self, life: &Life, error: &Error) {
        self.missed(life, error).finding.into_iter().for_each(|finding| self.violated(finding));
    }

    /// What comes of a call, if the process is there until then. Liveness: whatever goes wrong, it ends with its deadline.
    async fn call<R>(
        &self,
        life: &Life,
        deadline: Option<Duration>,
        call: impl Future<Output = Result<R, Error>>,
    ) -> Option<Result<R, Error>> {
        let began = Instant::now();
        let answer = tokio::select! {
            biased;
            () = life.over() => return None,
            answer = call => answer,
        };
        let took = began.elapsed();
        if deadline.is_some_and(|deadline| took > deadline + LATE_MAX) {
            let (node, client) = (life.id, self.client);
            self.violated(format!(
                "node {node}: a call of client {client} took {took:?}, its deadline was {deadline:?}"
            ));
        }
        Some(answer)
    }

    fn note(&self, life: &Life, numbers: [u64; 2], what: impl FnOnce() -> String) {
        let [kind, detail] = numbers;
        let line = || format!("client {} on node {}: {}", self.client, life.id, what());
        self.world.trace.note(&[kind, self.client, detail], line);
    }

    async fn snapshot(&self, life: &Life, context: &str, deadline: Duration) -> Option<Snapshot> {
        let snapshot = self.call(life, None, life.ledger().snapshot(context, Some(deadline))).await?;
        snapshot.inspect_err(|error| self.judge(life, error)).ok()
    }

    async fn load(&self, life: &Life, to: &str, from: Snapshot, alone: bool, deadline: Duration) -> Came {
        let answer = self.call(life, None, life.ledger().load(to, from.bytes, alone, Some(deadline))).await;
        if let Some(Err(error)) = &answer {
            self.judge(life, error);
        }
        Came::of(answer, from.entry_count)
    }

    fn copied(&self, life: &Life, copied: Copied) {
        self.note(life, [8, digest(format!("{copied:?}").as_bytes())], || format!("{copied:?}"));
        self.world.facts.copied(copied);
    }
}

impl Api for Simulated {
    type Place = Arc<Life>;

    fn place(&mut self, home: Option<u64>, dice: &mut Dice) -> Option<Arc<Life>> {
        self.world.life_for(home, dice)
    }

    fn another(&mut self, dice: &mut Dice) -> Option<Arc<Life>> {
        self.world.some_life(dice)
    }

    fn is_over(&self) -> bool {
        self.world.ending()
    }

    fn now(&self) -> Time {
        Time(self.world.trace.stamp())
    }

    fn record(&self, life: &Arc<Life>, operation: Operation) {
        match &operation {
            Operation::Append(append) => {
                let (outcome, value, context) = (&append.outcome, &append.value, &append.context);
                self.note(life, [5, digest(format!("{outcome:?}").as_bytes())], || {
                    format!("appends {value} to {context}: {outcome:?}")
                });
            }
            Operation::Watch(watch) => self.note(life, [7, watch.entries.len() as u64], || {
                format!("watched {} behind {}: {}", watch.context, watch.after, watch.entries.len())
            }),
            _ => {}
        }
        match &operation {
            Operation::Watch(_) | Operation::Read(Read { consistency: Consistency::Stale, .. }) => {
                self.world.facts.record_alone(life.id, operation);
            }
            _ => self.world.facts.record(operation),
        }
    }

    fn violated(&self, what: String) {
        self.world.facts.violated(what);
    }

    fn is_lost_since(&self, moment: Time) -> bool {
        self.world.facts.restored_since(moment)
    }

    async fn append(
        &mut self,
        life: &Arc<Life>,
        entry: NewEntry,
        options: AppendOptions,
    ) -> Result<Acknowledged, Missed> {
        let answer = self.call(life, options.deadline, life.ledger().append(entry, options)).await;
        let answer = answer.ok_or(Missed::GONE)?;
        answer.map(acknowledged).map_err(|error| self.missed(life, &error))
    }

    async fn append_many(
        &mut self,
        life: &Arc<Life>,
        entries: Vec<ManyEntry>,
        deadline: Duration,
    ) -> (Vec<Done>, Option<Missed>) {
        // Whatever comes of it is an answer: only the end of the process is none.
        let call = async { Ok(many(life.ledger().append_many(entries, Some(deadline)).await)) };
        match self.call(life, Some(deadline), call).await {
            Some(Ok((done, failed))) => (done, failed.map(|error| self.missed(life, &error))),
            _ => (Vec::new(), Some(Missed::GONE)),
        }
    }

    async fn read(
        &mut self,
        life: &Arc<Life>,
        context: &str,
        options: ReadOptions,
    ) -> Result<(Sequence, Vec<Seen>), Missed> {
        let after = options.after;
        let answer = self.call(life, options.deadline, life.ledger().read(context, options)).await;
        let answer = answer.ok_or(Missed::GONE)?;
        let count = answer.as_ref().map_or(0, |page| page.entries.len());
        self.note(life, [6, count as u64], || {
            let came = answer.as_ref().map(|page| page.latest.get());
            format!("reads {context} behind {after}: {count}, {came:?}")
        });
        answer.map(shown).map_err(|error| self.missed(life, &error))
    }

    async fn watch(
        &mut self,
        life: &Arc<Life>,
        context: &str,
        from: Sequence,
        until: Instant,
        entries: &mut Vec<Seen>,
    ) -> Result<(), Missed> {
        let ended = follow(life.ledger(), (context, from), until, || life.over(), entries).await;
        ended.map_err(|error| self.missed(life, &error))
    }

    /// Copies a context into a new one, all or nothing: once, or as it was and as it is at the same time, so that the
    /// copy grows under one of the two loads.
    async fn copy(client: &mut Client<Simulated>, life: &Arc<Life>, context: &str) {
        if client.latest.get(context).is_none_or(|latest| *latest > COPY_ENTRIES_MAX) {
            return;
        }
        let deadline = client.deadline();
        let Some(first) = client.api.snapshot(life, context, deadline).await else { return };
        let (id, number) = client.next();
        let (from, to) = (context.to_owned(), format!("copy-{id}-{number}"));
        let deadline = client.deadline();
        if !client.dice.one_in(2) {
            let came = client.api.load(life, &to, first, true, deadline).await;
            return client.api.copied(life, Copied { from, to, came, grown: None });
        }
        let later = Duration::from_millis(client.dice.below(500));
        tokio::select! {
            biased;
            () = life.over() => return,
            () = sleep(later) => {}
        }
        let again = client.deadline();
        let Some(second) = client.api.snapshot(life, context, again).await else { return };
        let another = client.api.another(&mut client.dice);
        let (api, other) = (&client.api, another.as_ref().unwrap_or(life));
        let (came, grown) =
            tokio::join!(api.load(life, &to, first, false, deadline), api.load(other, &to, second, false, deadline));
        api.copied(life, Copied { from, to, came, grown: Some(grown) });
    }
}

/// So many entries of a context from the first on, as a new subscription brings them.
pub(super) async fn followed(ledger: &Ledger, context: &str, count: usize) -> Vec<Seen> {
    let mut watch = ledger.watch(context, WatchOptions::default());
    let mut entries = Vec::new();
    while entries.len() < count {
        match tokio::time::timeout(Duration::from_secs(10), watch.next()).await {
            Ok(Some(Ok(entry))) => entries.push(seen(&entry)),
            _ => break,
        }
    }
    entries
}
