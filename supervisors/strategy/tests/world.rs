//! A model of what really is, beside the machine that believes it: each effect is checked against it.

mod random;

use std::collections::BTreeMap;

use super::*;

/// What really is, as opposed to what the machine believes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Really {
    Absent,
    Delayed,
    Starting,
    Up,
    /// Dead or dying; `Gone` is still to come.
    Dying {
        normal: bool,
    },
    /// A `Stop` is out; it was called off before it was up, or not.
    Stopping {
        was_up: bool,
    },
}

impl Really {
    fn is_there(self) -> bool {
        !matches!(self, Really::Absent | Really::Delayed)
    }

    fn is_leaving(self) -> bool {
        !self.is_there() || matches!(self, Really::Dying { .. })
    }
}

#[derive(Debug)]
struct Kid {
    terms: Terms,
    really: Really,
    /// Its start at boot is behind it, however that went.
    had_turn: bool,
    /// It need not run: it was ignored or terminated, or a start that was asked for failed.
    rests: bool,
    asked: Option<Asked>,
    terminating: bool,
}

/// What happens to a child whose start is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Luck {
    Well,
    Ignored,
    Failed,
}

/// What happens next.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Poke(Luck, bool),
    Start(Terms),
    Restart,
    Terminate,
    Delete,
}

struct MachineWorld {
    machine: Machine,
    rules: Rules,
    kids: BTreeMap<Place, Kid>,
    next: Place,
    /// The child that a request is about, while it is taken.
    about: Option<Place>,
    /// Children that are to be forgotten by the end of the step.
    doomed: Vec<Place>,
    /// A significant child has ended by itself.
    significant_end: bool,
    ready: bool,
    /// It was on its way out before the step.
    leaving: bool,
    exited: bool,
}

impl MachineWorld {
    fn new(rules: Rules, terms: Vec<Terms>) -> MachineWorld {
        let terms: Vec<Terms> = if rules.dynamic { Vec::new() } else { terms };
        let mut world = MachineWorld {
            machine: Machine::new(rules, terms.iter().copied()),
            rules,
            kids: BTreeMap::new(),
            next: 0,
            about: None,
            doomed: Vec::new(),
            significant_end: false,
            ready: false,
            leaving: false,
            exited: false,
        };
        for terms in terms {
            world.bear(terms, None);
        }
        world
    }

    fn bear(&mut self, terms: Terms, asked: Option<Asked>) -> Place {
        let place = self.next;
        self.next += 1;
        let really = Really::Absent;
        let kid = Kid { terms, really, had_turn: false, rests: false, asked, terminating: false };
        self.kids.insert(place, kid);
        place
    }

    fn kid(&mut self, place: Place) -> &mut Kid {
        self.kids.get_mut(&place).expect("effects are about children only")
    }

    fn step(&mut self, input: Input) {
        assert!(!self.exited, "no input may matter after the exit");
        self.leaving = self.machine.is_exiting();
        let effects = self.machine.step(Instant::now(), input);
        self.perform_all(effects);
    }

    fn perform_all(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            self.perform(effect);
        }
        assert_eq!(self.doomed, [], "told that they are no children");
        // What somebody asked for, an end or a start that is called off, is stopped out of its order.
        let asked = |kid: &Kid| kid.terminating || kid.asked.is_some();
        let ordered = |kid: &&Kid| matches!(kid.really, Really::Stopping { .. }) && !asked(kid);
        let stops = self.kids.values().filter(ordered).count();
        assert!(stops <= 1 || self.rules.dynamic, "one stop at a time");
    }

    fn perform(&mut self, effect: Effect) {
        assert!(!self.exited, "{effect:?} after the exit");
        match effect {
            Effect::Start(i) => self.start(i),
            Effect::Stop { child, .. } => self.stop(child),
            Effect::Delay { child, .. } => {
                let kid = self.kid(child);
                assert!(!kid.really.is_there());
                kid.really = Really::Delayed;
            }
            Effect::Forget(i) => {
                self.doomed.retain(|&doomed| doomed != i);
                let kid = self.kids.remove(&i).expect("forgotten once");
                assert!(!kid.really.is_there(), "{i} is forgotten while it is there");
                assert!(kid.asked.is_none() && !kid.terminating, "who waits is told first");
            }
            Effect::Answer(i, outcome) => self.answer(i, &outcome),
            Effect::Ready => self.ready = true,
            Effect::Restarting { .. } => {}
            Effect::Exit(verdict) => {
                assert!(self.kids.values().all(|kid| !kid.really.is_there()), "exit with children: {:?}", self.kids);
                assert!(self.kids.values().all(|kid| kid.asked.is_none() && !kid.terminating), "someone waits");
                assert!(verdict != ExitCause::AutoShutdown || self.significant_end, "an auto-shutdown for nothing");
                self.exited = true;
            }
        }
    }

    fn start(&mut self, i: Place) {
        let grouped = self.rules.strategy != Strategy::OneForOne;
        let (ready, asked) = (self.ready, self.about == Some(i));
        assert!(!self.kid(i).really.is_there(), "{i} is started while it is there");
        assert!(!self.leaving, "{i} is started by a supervisor on its way out");
        if !asked && (grouped || !ready && !self.kid(i).had_turn) {
            assert!(self.kids.range(i + 1..).all(|(_, kid)| !kid.really.is_there()), "{i} starts under its juniors");
        }
        if !ready && !self.kid(i).had_turn {
            assert!(self.kids.range(..i).all(|(_, kid)| kid.had_turn), "{i} starts before its elders");
        }
        let kid = self.kid(i);
        kid.really = Really::Starting;
        kid.rests = false;
    }

    fn stop(&mut self, i: Place) {
        let exempt = self.about == Some(i) || self.rules.dynamic || self.kids[&i].asked.is_some();
        let later = self.kids.range(i + 1..).all(|(_, kid)| kid.really.is_leaving());
        assert!(exempt || later, "{i} is stopped before its juniors: {:?}", self.kids);
        let kid = self.kid(i);
        kid.really = match kid.really {
            Really::Starting => Really::Stopping { was_up: false },
            Really::Up | Really::Dying { .. } => Really::Stopping { was_up: true },
            other => panic!("a stop for {i}, which is {other:?}"),
        };
    }

    fn answer(&mut self, i: Place, outcome: &RequestOutcome) {
        let (dynamic, done) = (self.rules.dynamic, matches!(self.machine.phase, MachinePhase::Done));
        let kid = self.kid(i);
        let asked = kid.asked.take();
        let terminated = std::mem::take(&mut kid.terminating);
        assert!(asked.is_some() || terminated, "nobody asked about {i}");
        match outcome {
            RequestOutcome::Started => assert_eq!((kid.really, terminated), (Really::Up, false)),
            RequestOutcome::Ignored | RequestOutcome::Failed(_) | RequestOutcome::Terminated => {
                assert!(!kid.really.is_there(), "{i} is said to be {outcome:?} and is {:?}", kid.really);
                kid.really = Really::Absent;
                kid.rests = true;
                let stillborn = asked == Some(Asked::Start) && *outcome != RequestOutcome::Ignored;
                if !done && (stillborn || dynamic || kid.terms.restart == Restart::Temporary) {
                    self.doomed.push(i);
                }
            }
        }
    }

    fn do_it(&mut self, i: usize, deed: Deed) {
        if let Deed::Start(terms) = deed {
            let place = self.next;
            let taken = self.ask(Request::Start(place, terms));
            if let Ok(effects) = taken {
                self.bear(terms, Some(Asked::Start));
                self.carry_out(place, effects);
            }
            return;
        }
        let Some(&place) = self.kids.keys().nth(i % self.kids.len().max(1)) else { return };
        let request = match deed {
            Deed::Poke(luck, normal) => return self.poke(place, luck, normal),
            Deed::Restart => Request::Restart(place),
            Deed::Terminate => Request::Terminate(place),
            Deed::Delete | Deed::Start(_) => Request::Delete(place),
        };
        let really = self.kids[&place].really;
        match self.ask(request) {
            Ok(effects) => {
                let kid = self.kid(place);
                match request {
                    Request::Restart(_) => kid.asked = Some(Asked::Restart),
                    Request::Terminate(_) => kid.terminating = true,
                    Request::Start(..) | Request::Delete(_) => {}
                }
                self.carry_out(place, effects);
            }
            Err(Refusal::Running) => assert!(matches!(really, Really::Up | Really::Dying { .. }), "{really:?}"),
            Err(Refusal::Restarting) => assert!(!matches!(really, Really::Up | Really::Dying { .. }), "{really:?}"),
            Err(Refusal::Present) => panic!("{request:?}: present is what it has to be"),
            Err(Refusal::Later) => assert!(
                !matches!(self.machine.phase, MachinePhase::Running)
                    || matches!(really, Really::Starting | Really::Stopping { .. }),
                "{request:?} has to wait for nothing"
            ),
            Err(Refusal::Exiting) => {
                assert!(matches!(self.machine.phase, MachinePhase::Stopping { .. } | MachinePhase::Done))
            }
        }
    }

    fn ask(&mut self, request: Request) -> Result<Vec<Effect>, Refusal> {
        let before = format!("{:?}", self.machine);
        let taken = self.machine.ask(request);
        assert!(taken.is_ok() || format!("{:?}", self.machine) == before, "a refusal changes nothing");
        taken
    }

    fn carry_out(&mut self, about: Place, effects: Vec<Effect>) {
        self.about = Some(about);
        self.perform_all(effects);
        self.about = None;
    }

    /// Lets something happen to one child.
    fn poke(&mut self, i: Place, luck: Luck, normal: bool) {
        let ready = self.ready;
        let kid = self.kid(i);
        let input = match kid.really {
            Really::Absent => return,
            Really::Up => {
                kid.really = Really::Dying { normal };
                return;
            }
            Really::Delayed => Input::Elapsed(i),
            Really::Starting if luck == Luck::Failed && ready => Input::StartFailed(i, no_start()),
            Really::Starting if luck == Luck::Ignored => Input::Ignored(i),
            Really::Starting => Input::Started(i),
            Really::Dying { normal } => Input::Gone(i, Exit { reason: "end".into(), normal }),
            Really::Stopping { was_up: false } if luck == Luck::Ignored => Input::Ignored(i),
            // The order met one that was just up.
            Really::Stopping { was_up: false } if luck == Luck::Failed => Input::Started(i),
            Really::Stopping { was_up: false } => Input::StartFailed(i, no_start()),
            Really::Stopping { was_up: true } => Input::Gone(i, crash()),
        };
        let dying = matches!(kid.really, Really::Dying { .. });
        kid.had_turn |= kid.really != Really::Delayed;
        kid.rests |= matches!(input, Input::Ignored(_)) || dying && kid.terms.restart == Restart::Transient && normal;
        kid.really = match input {
            Input::Started(_) if kid.really == Really::Starting => Really::Up,
            Input::Started(_) => Really::Stopping { was_up: true },
            _ => Really::Absent,
        };
        self.significant_end |= dying && self.kids[&i].terms.significant;
        self.step(input);
    }

    /// Answers everything that is out, favourably.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            let busy = |kid: &Kid| !matches!(kid.really, Really::Absent | Really::Up);
            let Some(i) = self.kids.iter().find_map(|(&i, kid)| busy(kid).then_some(i)) else { return };
            self.poke(i, Luck::Well, false);
            if self.exited {
                return;
            }
        }
        panic!("it does not settle: {:?}", self.machine);
    }
}
