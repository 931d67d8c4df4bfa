//! Random scripts, for proptest.
//!
//! What proptest draws and shrinks is a [`Draft`]: shapes and numbers, any of which is fine. A draft becomes a script by
//! naming the children and by aiming each step at something that the model says is there, so that few steps hit nothing.
//! The model chooses what is tried, never what is expected.

use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::{Union, ValueTree};
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

use super::otp::{Known, Otp, ROOT};
use super::script::{
    Auto, Body, Child, DYNAMIC, Outcome, Restart, Script, Step, Strategy as Group, Sup, Template, Why, split,
};

/// What scripts are made of.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// `Ignore`, `auto_shutdown` and the four calls.
    pub calls: bool,
    /// Time goes by.
    pub time: bool,
    /// Whether siblings end together.
    pub together: Together,
    /// Starts fail, or are ignored.
    pub odd_starts: bool,
    /// `all_significant` is among the ways of automatic shutdown.
    pub auto_all: bool,
    pub steps: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Together {
    Never,
    /// Workers only, and for the same reason.
    Alike,
    Any,
}

#[derive(Clone, Debug)]
struct Draft {
    root: Shape,
    blows: Vec<Blow>,
}

/// A child, or with `supervisor` one with children.
#[derive(Clone, Debug)]
struct Shape {
    restart: Restart,
    significant: bool,
    brutal: bool,
    starts: Vec<Outcome>,
    supervisor: Option<Box<Flags>>,
    /// A dynamic supervisor's; it has no children of its own.
    template: Option<Template>,
    children: Vec<Shape>,
}

#[derive(Clone, Debug)]
struct Flags {
    strategy: Group,
    intensity: usize,
    period: u64,
    auto: Auto,
}

/// A step that has no target yet.
#[derive(Clone, Debug)]
enum Blow {
    /// More than one: its siblings with it.
    Exit(Vec<(usize, Why)>, Together),
    Call(usize, Call, Stray),
    Start(usize, Shape, Stray),
    Pass(u64),
}

#[derive(Clone, Copy, Debug)]
enum Call {
    Terminate,
    Restart,
    Delete,
}

/// How well a call is aimed.
#[derive(Clone, Copy, Debug)]
enum Stray {
    /// At what it is meant for: a child that runs not for a restart, say.
    Not,
    /// At any child.
    Some,
    /// At a child that is not there.
    Wide,
}

/// Random scripts; a failing one is shrunk.
pub fn scripts(range: Range) -> impl Strategy<Value = Script> {
    drafts(range).prop_map(|draft| script(&draft))
}

/// Always the same ones.
pub fn scripts_of_seed(range: Range, seed: u8, count: usize) -> Vec<Script> {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    let mut runner = TestRunner::new_with_rng(ProptestConfig::default(), rng);
    let strategy = scripts(range);
    (0..count).map(|_| strategy.new_tree(&mut runner).expect("a script").current()).collect()
}

fn drafts(range: Range) -> impl Strategy<Value = Draft> {
    let root = (flags(range), vec(shapes(range), 1..5)).prop_map(|(flags, children)| Shape {
        restart: Restart::Permanent,
        significant: false,
        brutal: false,
        starts: Vec::new(),
        supervisor: Some(Box::new(flags)),
        template: None,
        children,
    });
    (root, vec(blows(range), 1..range.steps)).prop_map(|(root, blows)| Draft { root, blows })
}

fn flags(range: Range) -> impl Strategy<Value = Flags> {
    let strategy = select(&[Group::OneForOne, Group::OneForAll, Group::RestForOne][..]);
    // Never a sum of the pauses below: whether the very end of a period belongs to it is for a test of its own.
    let periods = if range.time { &[10, 3600][..] } else { &[3600][..] };
    let autos = match range {
        Range { calls: false, .. } => &[Auto::Never][..],
        Range { auto_all: false, .. } => &[Auto::Never, Auto::Any][..],
        _ => &[Auto::Never, Auto::Any, Auto::All][..],
    };
    (strategy, prop_oneof![Just(0usize), 1usize..4, Just(6)], select(periods), select(autos))
        .prop_map(|(strategy, intensity, period, auto)| Flags { strategy, intensity, period, auto })
}

fn shapes(range: Range) -> impl Strategy<Value = Shape> {
    worker(range).prop_recursive(2, 8, 3, move |inner| {
        let template = if range.calls { 0.3 } else { 0.0 };
        (worker(range), flags(range), weighted(template, templates()), vec(inner, 0..4)).prop_map(
            |(worker, flags, template, children)| Shape {
                supervisor: Some(Box::new(flags)),
                template,
                children: if template.is_some() { Vec::new() } else { children },
                ..worker
            },
        )
    })
}

fn templates() -> impl Strategy<Value = Template> {
    let restart = select(&[Restart::Permanent, Restart::Transient, Restart::Temporary][..]);
    (restart, any::<bool>()).prop_map(|(restart, brutal)| Template { restart, brutal })
}

fn worker(range: Range) -> impl Strategy<Value = Shape> {
    let restart = select(&[Restart::Permanent, Restart::Permanent, Restart::Transient, Restart::Temporary][..]);
    (restart, any::<bool>(), weighted(0.2, Just(())), starts(range)).prop_map(
        |(restart, significant, brutal, starts)| Shape {
            restart,
            significant,
            brutal: brutal.is_some(),
            starts,
            supervisor: None,
            template: None,
            children: Vec::new(),
        },
    )
}

/// First starts mostly go well, or there would be few trees.
fn starts(range: Range) -> BoxedStrategy<Vec<Outcome>> {
    let odd = if range.calls { &[Outcome::Fail, Outcome::Ignore][..] } else { &[Outcome::Fail][..] };
    if !range.odd_starts {
        return Just(Vec::new()).boxed();
    }
    let first = prop_oneof![30 => Just(Outcome::Up), 1 => select(odd)];
    let later = prop_oneof![3 => Just(Outcome::Up), 1 => select(odd)];
    (first, vec(later, 0..5)).prop_map(|(first, later)| std::iter::once(first).chain(later).collect()).boxed()
}

fn blows(range: Range) -> impl Strategy<Value = Blow> {
    let why =
        select(&[Why::Normal, Why::Shutdown, Why::ShutdownTerm, Why::Abnormal, Why::Odd, Why::Kill, Why::Kill][..]);
    let call = select(&[Call::Terminate, Call::Terminate, Call::Restart, Call::Delete][..]);
    let stray = || prop_oneof![12 => Just(Stray::Not), 3 => Just(Stray::Some), 1 => Just(Stray::Wide)];
    let most: usize = if range.together == Together::Never { 2 } else { 5 };
    let count = prop_oneof![3 => 1..2usize, 1 => 1..most];
    let exits = count.prop_flat_map(move |count| vec((any::<usize>(), why.clone()), count));
    let mut blows = Vec::from([(5, exits.prop_map(move |exits| Blow::Exit(exits, range.together)).boxed())]);
    if range.time {
        blows.push((1, select(&[4, 7, 11][..]).prop_map(Blow::Pass).boxed()));
    }
    if range.calls {
        let calls = (any::<usize>(), call, stray()).prop_map(|(target, call, stray)| Blow::Call(target, call, stray));
        let starts = (any::<usize>(), shapes(range), stray())
            .prop_map(|(target, shape, stray)| Blow::Start(target, shape, stray));
        blows.extend([(4, calls.boxed()), (2, starts.boxed())]);
    }
    Union::new_weighted(blows)
}

/// The script of a draft. It ends when nothing is left of the tree, and else by stopping it.
fn script(draft: &Draft) -> Script {
    let mut names = Names { keys: 0, added: 0 };
    let root = names.supervisor(&draft.root);
    let (mut otp, _) = Otp::start(&root);
    let mut steps = Vec::new();
    for blow in &draft.blows {
        if let Some(step) = names.aim(blow, &otp) {
            otp.step(&step);
            steps.push(step);
        }
    }
    if !otp.is_over() {
        steps.push(Step::Stop);
    }
    Script { root, steps }
}

struct Names {
    keys: u32,
    /// Children added by calls.
    added: usize,
}

impl Names {
    fn supervisor(&mut self, shape: &Shape) -> Sup {
        let flags = shape.supervisor.as_ref().expect("a supervisor");
        let children =
            shape.children.iter().zip('a'..).map(|(shape, id)| self.child(id.to_string(), shape, flags.auto));
        let children = children.collect();
        let Flags { mut strategy, intensity, period, mut auto } = **flags;
        if let Some(template) = shape.template {
            strategy = Group::Simple(template);
            if template.restart == Restart::Permanent {
                auto = Auto::Never;
            }
        }
        Sup { strategy, intensity, period, auto, children }
    }

    /// A child that is legal under such a supervisor.
    fn child(&mut self, mut id: String, shape: &Shape, auto: Auto) -> Child {
        let significant = shape.significant && auto != Auto::Never && shape.restart != Restart::Permanent;
        let body = match &shape.supervisor {
            Some(_) => {
                if shape.template.is_some() {
                    id.push(DYNAMIC);
                }
                Body::Supervisor(self.supervisor(shape))
            }
            None => {
                self.keys += 1;
                Body::Worker { key: self.keys, brutal: shape.brutal, starts: shape.starts.clone() }
            }
        };
        Child { id, restart: shape.restart, significant, body }
    }

    fn aim(&mut self, blow: &Blow, otp: &Otp) -> Option<Step> {
        if otp.is_over() {
            return None;
        }
        let known = otp.known();
        match blow {
            Blow::Pass(seconds) => Some(Step::Pass(*seconds)),
            Blow::Exit(exits, together) => exit(exits, *together, &known),
            Blow::Call(target, call, stray) => {
                let idle = known.iter().filter(|child| !child.up);
                let still = || known.iter().filter(|child| !child.dynamic);
                let path = match (stray, call) {
                    (Stray::Not, Call::Restart | Call::Delete) => pick(*target, idle)?,
                    (_, Call::Terminate) if !matches!(stray, Stray::Wide) => pick(*target, known.iter())?,
                    (Stray::Not | Stray::Some, _) => pick(*target, still())?,
                    (Stray::Wide, _) if target.is_multiple_of(2) => format!("{}/zz", split(&pick(*target, still())?).0),
                    (Stray::Wide, _) => {
                        format!("{}/zz", pick(*target, still().filter(|child| child.template.is_none()))?)
                    }
                };
                Some(match call {
                    Call::Terminate => Step::Terminate(path),
                    Call::Restart => Step::Restart(path),
                    Call::Delete => Step::Delete(path),
                })
            }
            Blow::Start(target, shape, stray) => Some(self.start(*target, shape, *stray, &known)),
        }
    }

    fn start(&mut self, target: usize, shape: &Shape, stray: Stray, known: &[Known]) -> Step {
        let root = Known { path: ROOT.to_owned(), up: true, supervisor: true, template: None, dynamic: false };
        let supervisors = || known.iter().chain([&root]).filter(|child| child.up && child.supervisor);
        let hungry = pick(target / 2, supervisors().filter(|child| child.template.is_some()));
        let parent =
            hungry.filter(|_| target.is_multiple_of(2)).or_else(|| pick(target, supervisors())).expect("the root");
        let siblings = || known.iter().filter(|child| split(&child.path).0 == parent);
        let idle = pick(target / 7, siblings().filter(|child| !child.up));
        let sibling = idle.filter(|_| !target.is_multiple_of(3)).or_else(|| pick(target / 7, siblings()));
        let template = supervisors().find(|child| child.path == parent).and_then(|child| child.template);
        let id = match (stray, sibling) {
            (Stray::Some | Stray::Wide, Some(sibling)) if template.is_none() => split(&sibling).1.to_owned(),
            _ => {
                self.added += 1;
                format!("s{:02}", self.added)
            }
        };
        if let Some((template, auto)) = template {
            return Step::Start(parent, self.dynamic_child(id, shape, template, auto));
        }
        // Legal only where automatic shutdown is on: what the supervisor says to the others is part of the script.
        let mut child = self.child(id, shape, Auto::Any);
        if matches!(stray, Stray::Not) && !target.is_multiple_of(3) {
            child.significant = false;
        }
        Step::Start(parent, child)
    }

    /// A *re*start that is ignored leaves a child without a process in a dynamic supervisor of OTP 25, which nothing can
    /// remove: not tried.
    fn dynamic_child(&mut self, id: String, shape: &Shape, template: Template, auto: Auto) -> Child {
        let mut starts = shape.starts.clone();
        for outcome in starts.iter_mut().skip(1).filter(|outcome| **outcome == Outcome::Ignore) {
            *outcome = Outcome::Fail;
        }
        self.keys += 1;
        let body = Body::Worker { key: self.keys, brutal: template.brutal, starts };
        Child { id, restart: template.restart, significant: auto != Auto::Never, body }
    }
}

fn exit(exits: &[(usize, Why)], together: Together, known: &[Known]) -> Option<Step> {
    let alike = together == Together::Alike && exits.len() > 1;
    let up = || known.iter().filter(|child| child.up && !(alike && child.supervisor));
    let (target, why) = exits[0];
    let first = pick(target, up())?;
    let siblings = || up().filter(|child| split(&child.path).0 == split(&first).0);
    let mut ends = Vec::from([(first.clone(), why)]);
    for &(target, other) in &exits[1..] {
        let path = pick(target, siblings())?;
        if ends.iter().all(|(end, _)| *end != path) {
            ends.push((path, if alike { why } else { other }));
        }
    }
    Some(Step::Exit(ends))
}

fn pick<'a>(target: usize, among: impl Iterator<Item = &'a Known>) -> Option<String> {
    let among: Vec<_> = among.collect();
    (!among.is_empty()).then(|| among[target % among.len()].path.clone())
}
