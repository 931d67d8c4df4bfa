//! Entries that must exist and that nobody saw: is there an append of unknown outcome for each?
//!
//! A slot wants one intent that began before the slot's deadline. Most fit any slot from some point on, as deadlines
//! grow with the sequence; an append with an expected sequence fits one slot. A slot takes the first that is left, and
//! one that finds none asks for another arrangement along an augmenting path (Kuhn's algorithm), so a slot stays empty
//! only when there is no arrangement for all of them.

use std::collections::BTreeMap;

use super::contexts::{Context, Intent, append};
use super::operation::{Operation, Outcome, Time};
use super::order::Deadline;
use super::verdict::{Line, Rule, Verdict};

/// What one intent can fill, counted in slots of the context.
#[derive(Clone, Debug, Default)]
pub(super) struct Offer {
    /// Every slot from here on.
    pub(super) from: Option<usize>,
    /// And these, for their appends expected what stands before.
    pub(super) only: Vec<usize>,
}

/// Finds appends for the slots of a sound context that nobody saw.
pub(super) fn unseen(
    operations: &[Operation],
    context: &mut Context<'_>,
    deadlines: &[Option<Deadline>],
    verdict: &mut Verdict,
) {
    let empty: Vec<_> = (0..context.slots.len()).filter(|&slot| context.slots[slot].value.is_none()).collect();
    if empty.is_empty() {
        return;
    }
    let offers: Vec<_> = context.intents.iter().flat_map(chances).map(|of| offer(operations, of, deadlines)).collect();
    if let Some(slot) = Arrangement::new(&offers).fill(&empty) {
        let said = deadlines[slot].map(|deadline| deadline.bound.line).or(context.longest);
        let lines: Vec<Line> = said.into_iter().collect();
        context.broken(verdict, Rule::Unfilled, &lines, || {
            format!("something stands at sequence {}, and no append is left that can have made it by then", slot + 1)
        });
    }
}

/// The appends that can make one entry more; under a key that leaves its window, each by itself.
fn chances(intent: &Intent) -> impl Iterator<Item = &[Line]> {
    let size = if intent.expires { 1 } else { usize::MAX };
    intent.attempts.chunks(size).filter(|_| intent.expires || !intent.is_placed())
}

fn offer(operations: &[Operation], attempts: &[Line], deadlines: &[Option<Deadline>]) -> Offer {
    let in_time = |start: Time, slot: usize| deadlines[slot].is_none_or(|deadline| start <= deadline.bound.time);
    let mut offer = Offer::default();
    let mut start = None::<Time>;
    // A refusal for the expected sequence says that the key was not known up to there.
    let mut unknown_up_to = 0;
    for &line in attempts {
        let append = append(operations, line);
        match (&append.outcome, append.expected) {
            (Outcome::Refused(refused), _) => {
                unknown_up_to = refused.actual.map_or(0, |actual| actual.get() as usize).max(unknown_up_to);
            }
            (_, None) => start = Some(start.map_or(append.start, |start| start.min(append.start))),
            (_, Some(expected)) => {
                let slot = expected.get() as usize;
                if slot < deadlines.len() && in_time(append.start, slot) {
                    offer.only.push(slot);
                }
            }
        }
    }
    offer.only.retain(|&slot| slot >= unknown_up_to);
    if let Some(start) = start {
        // Deadlines do not fall: the slots in time are the last ones.
        let late = deadlines.partition_point(|deadline| deadline.is_some_and(|deadline| deadline.bound.time < start));
        offer.from = Some(late.max(unknown_up_to));
    }
    offer
}

/// Who fills what.
pub(super) struct Arrangement<'o> {
    offers: &'o [Offer],
    /// Offers by slot, for those that fit only there.
    only: BTreeMap<usize, Vec<usize>>,
    /// The rest by the first slot that they fit.
    from: Vec<(usize, usize)>,
    /// What each offer fills.
    fills: Vec<Option<usize>>,
}

impl<'o> Arrangement<'o> {
    pub(super) fn new(offers: &'o [Offer]) -> Self {
        let mut only = BTreeMap::<_, Vec<_>>::new();
        for (number, offer) in offers.iter().enumerate() {
            offer.only.iter().for_each(|&slot| only.entry(slot).or_default().push(number));
        }
        let from = offers.iter().enumerate().filter_map(|(number, offer)| Some((offer.from?, number)));
        let mut from: Vec<_> = from.collect();
        from.sort_unstable();
        Arrangement { offers, only, from, fills: vec![None; offers.len()] }
    }

    /// The first slot that stays empty, if one does.
    pub(super) fn fill(mut self, slots: &[usize]) -> Option<usize> {
        let mut rest = Vec::new();
        let mut next = 0;
        for &slot in slots {
            let narrow = |number: &&usize| self.fills[**number].is_none();
            if let Some(&number) = self.only.get(&slot).and_then(|offers| offers.iter().find(narrow)) {
                self.fills[number] = Some(slot);
                continue;
            }
            while self.from.get(next).is_some_and(|&(_, number)| self.fills[number].is_some()) {
                next += 1;
            }
            match self.from.get(next) {
                Some(&(from, number)) if from <= slot => self.fills[number] = Some(slot),
                _ => rest.push(slot),
            }
        }
        rest.into_iter().find(|&slot| !self.augment(slot))
    }

    /// Finds room for one more slot, breadth first: offers that fit it, offers that fit the slots of those, and so on.
    fn augment(&mut self, wanted: usize) -> bool {
        // Through which slot each offer was reached.
        let mut reached = vec![None; self.offers.len()];
        let mut queue = std::collections::VecDeque::from([wanted]);
        while let Some(slot) = queue.pop_front() {
            let broad = self.from.iter().take_while(|(from, _)| *from <= slot).map(|&(_, number)| number);
            let narrow = self.only.get(&slot).into_iter().flatten().copied();
            let fitting: Vec<_> = narrow.chain(broad).filter(|&number| reached[number].is_none()).collect();
            for number in fitting {
                reached[number] = Some(slot);
                match self.fills[number] {
                    Some(taken) => queue.push_back(taken),
                    None => {
                        self.shift(number, wanted, &reached);
                        return true;
                    }
                }
            }
        }
        false
    }

    /// Moves offers along the path that ends at a free one.
    fn shift(&mut self, free: usize, wanted: usize, reached: &[Option<usize>]) {
        let mut number = free;
        while let Some(slot) = reached[number] {
            let before = self.fills.iter().position(|&fills| fills == Some(slot));
            self.fills[number] = Some(slot);
            match before {
                Some(other) if slot != wanted => number = other,
                _ => return,
            }
        }
    }
}
