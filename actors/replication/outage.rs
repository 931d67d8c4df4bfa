//! Says in the log that this node cannot serve for want of others: when that has lasted, again at intervals, and when it
//! is over.
//!
//! Pure: whoever holds it looks with every tick, and writes down what it says.

use std::time::Duration;

use converge_ledger_core::NodeId;

/// The same trouble is said again after this.
pub(super) const AGAIN: Duration = Duration::from_secs(30);

/// Why a node that is well cannot serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It has never been told who the cluster is.
    NotFormed,
    /// Nobody leads.
    NoLeader,
}

/// What is to be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Say {
    /// It has lasted so long.
    Lasts(Trouble, Duration),
    /// It lasted so long, and is over.
    Over(Trouble, Duration),
}

/// The trouble that there is, if any, and since when.
#[derive(Debug, Default)]
pub(super) struct Outage {
    now: Option<(Trouble, Duration)>,
    /// When it was last said.
    said: Option<Duration>,
}

impl Outage {
    /// Looks at what is. `now` is the time since any moment; what does not last for `patience` is not spoken of.
    pub(super) fn look(&mut self, trouble: Option<Trouble>, now: Duration, patience: Duration) -> Option<Say> {
        let (before, said) = (self.now, self.said);
        if let Some((was, since)) = before.filter(|(was, _)| trouble != Some(*was)) {
            (self.now, self.said) = (trouble.map(|trouble| (trouble, now)), None);
            return said.map(|_| Say::Over(was, now.saturating_sub(since)));
        }
        let (trouble, since) = *self.now.get_or_insert((trouble?, now));
        let due = said.map_or(since + patience, |said| said + AGAIN);
        (now >= due).then(|| {
            self.said = Some(now);
            Say::Lasts(trouble, now.saturating_sub(since))
        })
    }
}

/// Ids as people write them: `1, 3`.
pub(super) fn list(ids: &[NodeId]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(2);

    fn at(outage: &mut Outage, trouble: Option<Trouble>, second: u64) -> Option<Say> {
        outage.look(trouble, Duration::from_secs(second), PATIENCE)
    }

    #[test]
    fn what_lasts_is_said_then_again_at_intervals_and_when_it_is_over() {
        let mut outage = Outage::default();
        let trouble = Some(Trouble::NoLeader);
        assert_eq!(at(&mut outage, trouble, 10), None);
        assert_eq!(at(&mut outage, trouble, 11), None);
        assert_eq!(at(&mut outage, trouble, 12), Some(Say::Lasts(Trouble::NoLeader, PATIENCE)));
        assert_eq!(at(&mut outage, trouble, 13), None);
        assert_eq!(at(&mut outage, trouble, 41), None);
        let thirty_two = Duration::from_secs(32);
        assert_eq!(at(&mut outage, trouble, 42), Some(Say::Lasts(Trouble::NoLeader, thirty_two)));
        assert_eq!(at(&mut outage, None, 50), Some(Say::Over(Trouble::NoLeader, Duration::from_secs(40))));
        assert_eq!(at(&mut outage, None, 51), None);
    }

    #[test]
    fn a_change_of_leader_is_not_spoken_of() {
        let mut outage = Outage::default();
        assert_eq!(at(&mut outage, Some(Trouble::NoLeader), 10), None);
        assert_eq!(at(&mut outage, None, 11), None);
        assert_eq!(at(&mut outage, Some(Trouble::NoLeader), 12), None, "it counts from here");
    }

    #[test]
    fn one_trouble_ends_where_another_begins() {
        let mut outage = Outage::default();
        at(&mut outage, Some(Trouble::NotFormed), 0);
        assert!(at(&mut outage, Some(Trouble::NotFormed), 5).is_some());
        let over = Say::Over(Trouble::NotFormed, Duration::from_secs(6));
        assert_eq!(at(&mut outage, Some(Trouble::NoLeader), 6), Some(over));
        assert_eq!(at(&mut outage, Some(Trouble::NoLeader), 7), None);
        assert!(at(&mut outage, Some(Trouble::NoLeader), 8).is_some());
    }
}
