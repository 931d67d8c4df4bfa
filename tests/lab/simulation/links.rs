//! The connections between simulated nodes, decided purely: what is sent, what becomes of it and when, and who hears of
//! what. Whoever holds [`Inner`] moves time and makes the calls.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use converge_actors::distribution::{Inbound, Lane, LinkEvent, Permit, SendError, Sink};
use converge_ledger_core::NodeId;
use converge_ledger_core::chance::Dice;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::trace::{Trace, digest};

/// What holds for a whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct NetworkPlan {
    /// Latency of a frame when the weather is fine, from and to.
    pub(super) latency_us: (u64, u64),
    /// A connection to a peer that answers nothing breaks after this.
    pub(super) keepalive_ms: (u64, u64),
    /// A broken connection is dialed again after this.
    pub(super) redial_ms: (u64, u64),
    /// Bytes on their way from one node to another over one lane; more are shed.
    pub(super) queue_bytes_max: usize,
}

/// What single frames suffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Weather {
    pub(super) loss_permille: u64,
    pub(super) duplicate_permille: u64,
    pub(super) reorder_permille: u64,
    /// Added to the latency, at most.
    pub(super) delay_ms: u64,
}

/// What happened, for the report.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) delivered: u64,
    pub(super) lost: u64,
    pub(super) duplicated: u64,
    pub(super) reordered: u64,
    pub(super) broken: u64,
}

pub(super) struct Inner {
    pub(super) plan: NetworkPlan,
    pub(super) dice: Dice,
    /// What frames suffer now, by number: the worst of each counts.
    pub(super) weathers: BTreeMap<u64, Weather>,
    /// How many faults cut each way; it is mended when the last of them is.
    pub(super) cuts: BTreeMap<(NodeId, NodeId), u32>,
    pub(super) members: BTreeMap<NodeId, Member>,
    pub(super) links: BTreeMap<(NodeId, NodeId, Lane), Link>,
    /// Connections that are over, but not for one end: by who sent, who has not heard yet, and epoch. True where what
    /// is on its way still arrives.
    pub(super) ending: BTreeMap<(NodeId, NodeId, Lane, u64), bool>,
    pub(super) queue: BTreeMap<(Instant, u64), Event>,
    pub(super) order: u64,
    pub(super) joined: u64,
    pub(super) counts: Counts,
}

#[derive(Clone)]
pub(super) struct Member {
    pub(super) sink: Arc<dyn Sink>,
    /// Tells one process of a node from the next.
    pub(super) life: u64,
}

/// A connection that is up.
pub(super) struct Link {
    pub(super) epoch: u64,
    /// By direction, low to high first: when the last frame arrives, bytes on their way, and what a cut holds back.
    pub(super) ways: [Way; 2],
    pub(super) breaking: bool,
}

#[derive(Default)]
pub(super) struct Way {
    pub(super) last: Option<Instant>,
    pub(super) bytes: usize,
    pub(super) held: Vec<Bytes>,
}

pub(super) enum Event {
    Dial {
        a: NodeId,
        b: NodeId,
        lane: Lane,
    },
    Frame {
        from: NodeId,
        to: NodeId,
        lane: Lane,
        epoch: u64,
        payload: Bytes,
    },
    /// A connection that was cut off for too long.
    Break {
        a: NodeId,
        b: NodeId,
        lane: Lane,
        epoch: u64,
    },
    /// One end hears that a connection is over.
    Down {
        at: NodeId,
        life: u64,
        peer: NodeId,
        lane: Lane,
        epoch: u64,
    },
}

/// A call that has to be made without the lock.
pub(super) enum Call {
    Deliver(Arc<dyn Sink>, Inbound),
    Event(Arc<dyn Sink>, LinkEvent),
}

impl Inner {
    pub(super) fn send(&mut self, from: NodeId, to: NodeId, lane: Lane, payload: Bytes) -> Result<(), SendError> {
        let (a, b) = pair(from, to);
        let max = self.plan.queue_bytes_max;
        let way = usize::from(from == b);
        // Who has not heard that the other end is gone sends into the void.
        if !self.links.contains_key(&(a, b, lane)) && self.is_ending(to, from, lane) {
            self.counts.lost += 1;
            return Ok(());
        }
        let link = self.links.get_mut(&(a, b, lane)).ok_or(SendError::Down)?;
        if link.ways[way].bytes > 0 && link.ways[way].bytes + payload.len() > max {
            return Err(SendError::Full);
        }
        link.ways[way].bytes += payload.len();
        let epoch = link.epoch;
        if self.cuts.contains_key(&(from, to)) {
            link.ways[way].held.push(payload);
            self.stall(a, b, lane);
            return Ok(());
        }
        self.carry(from, to, lane, epoch, payload);
        Ok(())
    }

    /// Decides what becomes of a frame.
    pub(super) fn carry(&mut self, from: NodeId, to: NodeId, lane: Lane, epoch: u64, payload: Bytes) {
        let weather = self.weather();
        let (a, b) = pair(from, to);
        let way = usize::from(from == b);
        if self.chance(weather.loss_permille) {
            self.counts.lost += 1;
            let link = self.links.get_mut(&(a, b, lane)).expect("it is up");
            link.ways[way].bytes -= payload.len();
            return;
        }
        let (least, most) = self.plan.latency_us;
        let latency = least + self.dice.below(most - least + 1) + 1000 * self.dice.below(weather.delay_ms + 1);
        let mut at = Instant::now() + Duration::from_micros(latency);
        let reordered = self.chance(weather.reorder_permille);
        let link = self.links.get_mut(&(a, b, lane)).expect("it is up");
        if reordered {
            self.counts.reordered += 1;
            // Late enough for others to overtake it, or early enough to overtake some.
            at += Duration::from_micros(self.dice.below(latency + 20_000));
        } else {
            at = link.ways[way].last.map_or(at, |last| last.max(at));
            link.ways[way].last = Some(at);
        }
        if self.chance(weather.duplicate_permille) {
            self.counts.duplicated += 1;
            let again = at + Duration::from_millis(self.dice.below(50));
            let link = self.links.get_mut(&(a, b, lane)).expect("it is up");
            link.ways[way].bytes += payload.len();
            self.push(again, Event::Frame { from, to, lane, epoch, payload: payload.clone() });
        }
        self.push(at, Event::Frame { from, to, lane, epoch, payload });
    }

    pub(super) fn handle(&mut self, event: Event, trace: &Trace) -> Vec<Call> {
        match event {
            Event::Dial { a, b, lane } => self.dial(a, b, lane, trace),
            Event::Frame { from, to, lane, epoch, payload } => self.arrive(from, to, lane, epoch, payload, trace),
            Event::Break { a, b, lane, epoch } => {
                let cut = self.is_cut(a, b);
                if let Some(link) = self.links.get_mut(&(a, b, lane)).filter(|link| link.epoch == epoch) {
                    link.breaking = false;
                    if cut {
                        self.break_link(a, b, lane);
                    }
                }
                Vec::new()
            }
            Event::Down { at, life, peer, lane, epoch } => {
                self.ending.remove(&(peer, at, lane, epoch));
                let member = self.members.get(&at).filter(|member| member.life == life);
                let Some(member) = member else { return Vec::new() };
                trace.note(&[1, at.get(), peer.get(), epoch], || {
                    format!("node {at} hears that its {} link to {peer} is down", lane.name())
                });
                vec![Call::Event(member.sink.clone(), LinkEvent::Down { peer, lane, epoch })]
            }
        }
    }

    pub(super) fn dial(&mut self, a: NodeId, b: NodeId, lane: Lane, trace: &Trace) -> Vec<Call> {
        let (Some(low), Some(high)) = (self.members.get(&a).cloned(), self.members.get(&b).cloned()) else {
            return Vec::new();
        };
        if self.links.contains_key(&(a, b, lane)) {
            return Vec::new();
        }
        if self.is_cut(a, b) {
            self.dial_later(a, b, lane);
            return Vec::new();
        }
        // Whoever has not heard of the last connection's end yet hears of it first.
        let mut calls = Vec::new();
        let ended = |event: &Event| match event {
            Event::Down { at, peer, lane: of, .. } => *of == lane && pair(*at, *peer) == (a, b),
            _ => false,
        };
        let early: Vec<_> = self.queue.iter().filter(|(_, event)| ended(event)).map(|(key, _)| *key).collect();
        for key in early {
            let event = self.queue.remove(&key).expect("a key just listed");
            calls.extend(self.handle(event, trace));
        }
        self.order += 1;
        let epoch = self.order;
        self.links.insert((a, b, lane), Link { epoch, ways: Default::default(), breaking: false });
        trace.note(&[2, a.get(), b.get(), epoch], || format!("{} link between {a} and {b} is up", lane.name()));
        calls.push(Call::Event(high.sink, LinkEvent::Up { peer: a, lane, epoch }));
        calls.push(Call::Event(low.sink, LinkEvent::Up { peer: b, lane, epoch }));
        calls
    }

    pub(super) fn arrive(
        &mut self,
        from: NodeId,
        to: NodeId,
        lane: Lane,
        epoch: u64,
        payload: Bytes,
        trace: &Trace,
    ) -> Vec<Call> {
        let (a, b) = pair(from, to);
        let way = usize::from(from == b);
        let cut = self.cuts.contains_key(&(from, to));
        let late = !cut && self.ending.get(&(from, to, lane, epoch)) == Some(&true);
        if late {
            return vec![self.deliver(from, to, lane, epoch, payload, trace)];
        }
        let Some(link) = self.links.get_mut(&(a, b, lane)).filter(|link| link.epoch == epoch) else {
            return Vec::new();
        };
        if cut {
            link.ways[way].held.push(payload);
            self.stall(a, b, lane);
            return Vec::new();
        }
        link.ways[way].bytes -= payload.len();
        vec![self.deliver(from, to, lane, epoch, payload, trace)]
    }

    pub(super) fn deliver(
        &mut self,
        from: NodeId,
        to: NodeId,
        lane: Lane,
        epoch: u64,
        payload: Bytes,
        trace: &Trace,
    ) -> Call {
        self.counts.delivered += 1;
        let sink = self.members.get(&to).expect("a link is up between members").sink.clone();
        trace.note(&[3, from.get(), to.get(), digest(&payload)], || {
            format!("{from} -> {to} {}: {}", lane.name(), super::frames::describe(&payload))
        });
        Call::Deliver(sink, Inbound { from, lane, epoch, payload, permit: Permit::none() })
    }

    pub(super) fn break_link(&mut self, a: NodeId, b: NodeId, lane: Lane) {
        let Some(link) = self.links.remove(&(a, b, lane)) else { return };
        self.counts.broken += 1;
        for (at, peer) in [(a, b), (b, a)] {
            let after = self.between_ms(0, 20);
            self.tell_down(at, peer, lane, link.epoch, after);
        }
        self.dial_later(a, b, lane);
    }

    pub(super) fn tell_down(&mut self, at: NodeId, peer: NodeId, lane: Lane, epoch: u64, after: Duration) {
        if let Some(life) = self.members.get(&at).map(|member| member.life) {
            let arrives = self.dice.one_in(2);
            self.ending.insert((peer, at, lane, epoch), arrives);
            self.push(Instant::now() + after, Event::Down { at, life, peer, lane, epoch });
        }
    }

    /// Whether `at` has still to hear that a connection to `peer` is over.
    pub(super) fn is_ending(&self, peer: NodeId, at: NodeId, lane: Lane) -> bool {
        self.ending.range((peer, at, lane, 0)..=(peer, at, lane, u64::MAX)).next().is_some()
    }

    pub(super) fn is_cut(&self, a: NodeId, b: NodeId) -> bool {
        self.cuts.contains_key(&(a, b)) || self.cuts.contains_key(&(b, a))
    }

    pub(super) fn weather(&self) -> Weather {
        self.weathers.values().fold(Weather::default(), |worst, weather| Weather {
            loss_permille: worst.loss_permille.max(weather.loss_permille),
            duplicate_permille: worst.duplicate_permille.max(weather.duplicate_permille),
            reorder_permille: worst.reorder_permille.max(weather.reorder_permille),
            delay_ms: worst.delay_ms.max(weather.delay_ms),
        })
    }

    pub(super) fn dial_later(&mut self, a: NodeId, b: NodeId, lane: Lane) {
        let (least, most) = self.plan.redial_ms;
        let after = self.between_ms(least, most);
        self.push(Instant::now() + after, Event::Dial { a, b, lane });
    }

    /// A cut connection breaks after a while, unless it is mended before.
    pub(super) fn stall(&mut self, a: NodeId, b: NodeId, lane: Lane) {
        let (least, most) = self.plan.keepalive_ms;
        let after = self.between_ms(least, most);
        let Some(link) = self.links.get_mut(&(a, b, lane)) else { return };
        if !std::mem::replace(&mut link.breaking, true) {
            let epoch = link.epoch;
            self.push(Instant::now() + after, Event::Break { a, b, lane, epoch });
        }
    }

    pub(super) fn release(&mut self, from: NodeId, to: NodeId, lane: Lane) {
        let (a, b) = pair(from, to);
        let way = usize::from(from == b);
        let Some(link) = self.links.get_mut(&(a, b, lane)) else { return };
        let (held, epoch) = (std::mem::take(&mut link.ways[way].held), link.epoch);
        for payload in held {
            self.carry(from, to, lane, epoch, payload);
        }
    }

    pub(super) fn push(&mut self, at: Instant, event: Event) {
        self.order += 1;
        self.queue.insert((at, self.order), event);
    }

    pub(super) fn between_ms(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + self.dice.below(most.saturating_sub(least) + 1))
    }

    pub(super) fn chance(&mut self, permille: u64) -> bool {
        permille > 0 && self.dice.below(1000) < permille
    }
}

pub(super) fn make(call: Call) {
    match call {
        Call::Deliver(sink, inbound) => sink.deliver(inbound),
        Call::Event(sink, event) => sink.event(event),
    }
}

pub(super) fn pair(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    (a.min(b), a.max(b))
}
