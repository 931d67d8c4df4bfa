//! Which voters a leader does not hear of, and when that is to be said.
//!
//! A leader asks every voter with each heartbeat, so one that is silent has lost something: its process, the disk that its
//! answers wait for, or the network. Nobody else need notice, and the next loss may stop the cluster.
//!
//! Pure: whoever holds it tells it what comes, looks with every tick, and writes down what it says.

use std::collections::BTreeMap;
use std::time::Duration;

use converge_ledger_core::NodeId;

use super::outage::AGAIN;

/// A leader that has not heard of a voter for so many election time-outs says so.
const UNHEARD_ELECTIONS: u32 = 5;

/// What is to be said of a voter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notice {
    /// It has not been heard of for so long.
    Unheard(NodeId, Duration),
    /// It was not heard of for so long, and is back.
    Back(NodeId, Duration),
}

/// When voters were heard of. Times count from any moment.
#[derive(Debug, Default)]
pub(super) struct Voters {
    /// Since when others owe this node answers, if it leads, and when it last looked.
    leads: Option<(Duration, Duration)>,
    heard: BTreeMap<NodeId, Duration>,
    /// Those that are not heard of: since when, and when that was last said.
    unheard: BTreeMap<NodeId, (Duration, Duration)>,
}

impl Voters {
    pub(super) fn heard(&mut self, voter: NodeId, now: Duration) {
        self.heard.insert(voter, now);
    }

    /// Whether it was heard of within so long.
    pub(super) fn was_heard(&self, voter: NodeId, now: Duration, recent: Duration) -> bool {
        self.heard.get(&voter).is_some_and(|heard| now <= *heard + recent)
    }

    /// Looks at who was heard of. A silence counts from when this node began to lead, for before nobody owed it an answer;
    /// and from when it looks again after it did not for an election time-out: it was stopped itself, and has not read
    /// what came meanwhile.
    pub(super) fn look(
        &mut self,
        leads: bool,
        others: impl Iterator<Item = NodeId>,
        now: Duration,
        election: Duration,
    ) -> Vec<Notice> {
        if !leads {
            (self.leads, self.unheard) = Default::default();
            return Vec::new();
        }
        let since = match self.leads {
            Some((since, looked)) if now <= looked + election => since,
            _ => now,
        };
        self.leads = Some((since, now));
        let patience = election * UNHEARD_ELECTIONS;
        others.filter_map(|voter| self.look_at(voter, since, now, patience)).collect()
    }

    fn look_at(&mut self, voter: NodeId, owes: Duration, now: Duration, patience: Duration) -> Option<Notice> {
        let heard = self.heard.get(&voter).copied().unwrap_or_default();
        let known = self.unheard.get(&voter).copied();
        if let Some((since, _)) = known.filter(|(since, _)| heard > *since) {
            self.unheard.remove(&voter);
            return Some(Notice::Back(voter, now.saturating_sub(since)));
        }
        let since = known.map_or(heard.max(owes), |(since, _)| since);
        let lasted = now.saturating_sub(since);
        if lasted < patience || known.is_some_and(|(_, said)| now < said + AGAIN) {
            return None;
        }
        self.unheard.insert(voter, (since, now));
        Some(Notice::Unheard(voter, lasted))
    }

    /// Those that are not heard of, and since when.
    pub(super) fn unheard(&self) -> impl Iterator<Item = (NodeId, Duration)> {
        self.unheard.iter().map(|(voter, (since, _))| (*voter, *since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: NodeId = NodeId(2);
    const THREE: NodeId = NodeId(3);

    fn at(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    fn look(voters: &mut Voters, leads: bool, second: u64) -> Vec<Notice> {
        voters.look(leads, [TWO, THREE].into_iter(), at(second), at(1))
    }

    #[test]
    fn a_voter_that_is_not_heard_of_is_named_once_in_a_while_and_when_it_is_back() {
        let mut voters = Voters::default();
        assert_eq!(look(&mut voters, true, 100), []);
        for second in 101..=140 {
            voters.heard(TWO, at(second));
            let said = look(&mut voters, true, second);
            match second {
                105 | 135 => assert_eq!(said, [Notice::Unheard(THREE, at(second - 100))]),
                _ => assert_eq!(said, [], "at {second}"),
            }
        }
        assert_eq!(voters.unheard().collect::<Vec<_>>(), [(THREE, at(100))]);
        voters.heard(THREE, at(141));
        assert_eq!(look(&mut voters, true, 141), [Notice::Back(THREE, at(41))]);
        assert_eq!(voters.unheard().count(), 0);
        assert_eq!(look(&mut voters, true, 142), []);
    }

    #[test]
    fn silence_counts_from_when_this_node_leads_and_is_another_s_business_afterwards() {
        let mut voters = Voters::default();
        voters.heard(TWO, at(1));
        assert_eq!(look(&mut voters, false, 50), []);
        for second in 60..=64 {
            assert_eq!(look(&mut voters, true, second), []);
        }
        let both = [TWO, THREE].map(|voter| Notice::Unheard(voter, at(5)));
        assert_eq!(look(&mut voters, true, 65), both);
        assert_eq!(look(&mut voters, false, 66), []);
        assert_eq!(voters.unheard().count(), 0);
        assert_eq!(look(&mut voters, true, 67), [], "it counts from here");
    }

    #[test]
    fn a_pause_of_this_node_is_not_the_silence_of_others() {
        let mut voters = Voters::default();
        for second in 100..=105 {
            voters.heard(TWO, at(second));
            look(&mut voters, true, second);
        }
        assert_eq!(voters.unheard().collect::<Vec<_>>(), [(THREE, at(100))]);
        // It looks before it reads. Who was silent before still is, for all that is known.
        assert_eq!(look(&mut voters, true, 200), [Notice::Unheard(THREE, at(100))]);
        for second in 201..=204 {
            assert_eq!(look(&mut voters, true, second), [], "at {second}");
        }
        assert_eq!(voters.unheard().collect::<Vec<_>>(), [(THREE, at(100))]);
        assert_eq!(look(&mut voters, true, 205), [Notice::Unheard(TWO, at(5))]);
        voters.heard(THREE, at(206));
        assert_eq!(look(&mut voters, true, 206), [Notice::Back(THREE, at(106))]);
    }
}
