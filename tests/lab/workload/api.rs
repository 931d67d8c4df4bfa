//! What a client works on.

use std::time::Duration;

use converge_ledger::{AppendOptions, ManyEntry, NewEntry, ReadOptions, Sequence};
use converge_ledger_core::chance::Dice;
use tokio::time::Instant;

use super::Client;
use crate::history::{Done, Operation, Outcome, Seen, Time};

/// An append was acknowledged.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    /// The entry of the answer.
    pub seen: Seen,
    /// It stood there before this call.
    pub deduplicated: bool,
}

/// A call was not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missed {
    /// What an append knows then: that nothing was written, or nothing.
    pub outcome: Outcome,
    /// No fault excuses it.
    pub finding: Option<String>,
}

impl Missed {
    /// The node went away during the call.
    pub const GONE: Missed = Missed { outcome: Outcome::Unknown, finding: None };
}

/// A ledger as one client reaches it, and where that client writes down what it saw.
pub trait Api: Send + Sized + 'static {
    /// Where a call is made: a node, or one life of it.
    type Place: Send + Sync;

    /// Where the next call is made: the client's own node, if it has one and that runs; any other otherwise.
    fn place(&mut self, home: Option<u64>, dice: &mut Dice) -> Option<Self::Place>;

    /// Any node that runs, for another try.
    fn another(&mut self, dice: &mut Dice) -> Option<Self::Place>;

    /// Whether clients are to finish.
    fn is_over(&self) -> bool;

    /// Now, by the clock of the history.
    fn now(&self) -> Time;

    /// Puts into the history what was seen at a place.
    fn record(&self, at: &Self::Place, operation: Operation);

    /// Something does not hold that no history shows.
    fn violated(&self, what: String);

    /// Whether what was done before this moment may be lost.
    fn is_lost_since(&self, _moment: Time) -> bool {
        false
    }

    /// Appends.
    fn append(
        &mut self,
        at: &Self::Place,
        entry: NewEntry,
        options: AppendOptions,
    ) -> impl Future<Output = Result<Acknowledged, Missed>> + Send;

    /// Appends in order, in one call: what is done of them, the first ones, and why the next one is not.
    fn append_many(
        &mut self,
        at: &Self::Place,
        entries: Vec<ManyEntry>,
        deadline: Duration,
    ) -> impl Future<Output = (Vec<Done>, Option<Missed>)> + Send;

    /// Reads; gives the latest sequence, and the entries.
    fn read(
        &mut self,
        at: &Self::Place,
        context: &str,
        options: ReadOptions,
    ) -> impl Future<Output = Result<(Sequence, Vec<Seen>), Missed>> + Send;

    /// Follows a context until then, or until the subscription breaks.
    fn watch(
        &mut self,
        at: &Self::Place,
        context: &str,
        from: Sequence,
        until: Instant,
        entries: &mut Vec<Seen>,
    ) -> impl Future<Output = Result<(), Missed>> + Send;

    /// Copies a context by snapshot and load; only for a world that does.
    fn copy(_client: &mut Client<Self>, _at: &Self::Place, _context: &str) -> impl Future<Output = ()> + Send {
        async {}
    }
}
