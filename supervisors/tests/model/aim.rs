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

use super::Manner;
use super::otp::{Known, Otp, ROOT};
use super::script::{
    Auto, Body, Child, DYNAMIC, Restart, Script, ScriptedOutcome, Slow, Step, Strategy as Group, Sup, Template, Why,
    split,
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
    pub odd: Odd,
    /// Starts are slow, and up to so many siblings end meanwhile. One: the first start of each that is there
    /// from the beginning, which all finish alike.
    pub slow: usize,
    /// Calls wait behind one another.
    pub queued: bool,
    /// Whose rules the steps are aimed by.
    pub manner: Manner,
    /// `all_significant` is among the ways of automatic shutdown.
    pub auto_all: bool,
    pub steps: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Odd {
    Never,
    /// The first of a worker only: how many there are is the same for all who tell of it.
    First,
    Any,
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
    starts: Vec<ScriptedOutcome>,
    /// Which start is slow, and which siblings end meanwhile.
    slow: Option<(usize, Vec<(usize, Why)>)>,
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
    Attempt(usize, Attempt, Stray),
    Start(usize, Shape, Stray),
    Queued(Vec<Blow>),
    Pass(u64),
    /// To this many milliseconds after the edge of a window.
    Edge(usize, i64),
}

#[derive(Clone, Copy, Debug)]
enum Attempt {
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
    drafts(range).prop_map(move |draft| script(&draft, range.manner))
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
        slow: None,
        supervisor: Some(Box::new(flags)),
        template: None,
        children,
    });
    (root, vec(blows(range), 1..range.steps)).prop_map(|(root, blows)| Draft { root, blows })
}

fn flags(range: Range) -> impl Strategy<Value = Flags> {
    let strategy = select(&[Group::OneForOne, Group::OneForAll, Group::RestForOne][..]);
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
    let attempt = if range.slow > 1 { prop_oneof![3 => Just(0usize), 1 => 1..3usize].boxed() } else { Just(0).boxed() };
    let slow = (attempt, vec((any::<usize>(), whys()), 1..range.slow.max(1) + 1));
    let slow = if range.slow > 0 { weighted(0.4, slow).boxed() } else { Just(None).boxed() };
    (restart, any::<bool>(), weighted(0.2, Just(())), starts(range), slow).prop_map(
        |(restart, significant, brutal, starts, slow)| Shape {
            restart,
            significant,
            brutal: brutal.is_some(),
            starts,
            slow,
            supervisor: None,
            template: None,
            children: Vec::new(),
        },
    )
}

/// First starts mostly go well, or there would be few trees.
fn starts(range: Range) -> BoxedStrategy<Vec<ScriptedOutcome>> {
    let odd =
        if range.calls { &[ScriptedOutcome::Fail, ScriptedOutcome::Ignore][..] } else { &[ScriptedOutcome::Fail][..] };
    if range.odd == Odd::Never {
        return Just(Vec::new()).boxed();
    }
    let first = prop_oneof![30 => Just(ScriptedOutcome::Up), 1 => select(odd)];
    let later = prop_oneof![3 => Just(ScriptedOutcome::Up), 1 => select(odd)];
    let more = if range.odd == Odd::First { 0..1usize } else { 0..5 };
    (first, vec(later, more)).prop_map(|(first, later)| std::iter::once(first).chain(later).collect()).boxed()
}

fn whys() -> impl Strategy<Value = Why> {
    select(&[Why::Normal, Why::Shutdown, Why::ShutdownTerm, Why::Abnormal, Why::Odd, Why::Kill, Why::Kill][..])
}

fn blows(range: Range) -> impl Strategy<Value = Blow> {
    let call = select(&[Attempt::Terminate, Attempt::Terminate, Attempt::Restart, Attempt::Delete][..]);
    let stray = || prop_oneof![12 => Just(Stray::Not), 3 => Just(Stray::Some), 1 => Just(Stray::Wide)];
    let most: usize = if range.together == Together::Never { 2 } else { 5 };
    let count = prop_oneof![3 => 1..2usize, 1 => 1..most];
    let exits = count.prop_flat_map(move |count| vec((any::<usize>(), whys()), count));
    let mut blows = Vec::from([(5, exits.prop_map(move |exits| Blow::Exit(exits, range.together)).boxed())]);
    if range.time {
        let offsets = select(&[-1, 0, 1, 400, 998, 999, 1_000, 1_500][..]);
        blows.push((1, select(&[4_000, 7_300, 11_000][..]).prop_map(Blow::Pass).boxed()));
        blows.push((1, (any::<usize>(), offsets).prop_map(|(which, offset)| Blow::Edge(which, offset)).boxed()));
    }
    if range.calls {
        let calls =
            (any::<usize>(), call, stray()).prop_map(|(target, call, stray)| Blow::Attempt(target, call, stray));
        // What is started later is slow for those only who finish each start before they do anything else.
        let added = shapes(Range { slow: if range.slow > 1 { range.slow } else { 0 }, ..range });
        let starts =
            (any::<usize>(), added, stray()).prop_map(|(target, shape, stray)| Blow::Start(target, shape, stray));
        if range.queued {
            let quick = shapes(Range { slow: 0, odd: Odd::First, ..range });
            let starts =
                (any::<usize>(), quick, stray()).prop_map(|(target, shape, stray)| Blow::Start(target, shape, stray));
            let queued = vec(Union::new_weighted(vec![(3, calls.clone().boxed()), (1, starts.boxed())]), 2..5);
            blows.push((3, queued.prop_map(Blow::Queued).boxed()));
        }
        blows.extend([(4, calls.boxed()), (2, starts.boxed())]);
    }
    Union::new_weighted(blows)
}

/// The script of a draft. It ends when nothing is left of the tree, and else by stopping it.
fn script(draft: &Draft, manner: Manner) -> Script {
    let mut names = Names { keys: 0, added: 0, manner };
    let root = names.supervisor(&draft.root);
    let (mut otp, _) = Otp::start(&root, manner);
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
    manner: Manner,
}

impl Names {
    fn supervisor(&mut self, shape: &Shape) -> Sup {
        let flags = shape.supervisor.as_ref().expect("a supervisor");
        let workers: Vec<String> =
            shape.children.iter().zip('a'..).filter_map(|(shape, id)| shape.worker(id)).collect();
        let children =
            shape.children.iter().zip('a'..).map(|(shape, id)| self.child(id.to_string(), shape, flags.auto, &workers));
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

    /// A child that is legal under such a supervisor, beside these workers.
    fn child(&mut self, mut id: String, shape: &Shape, auto: Auto, workers: &[String]) -> Child {
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
                let slow = shape.slow_beside(&id, workers);
                Body::Worker { key: self.keys, brutal: shape.brutal, starts: shape.starts.clone(), slow }
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
            Blow::Pass(milliseconds) => Some(Step::Pass(*milliseconds)),
            Blow::Edge(which, offset) => {
                let edges = otp.edges();
                let edge = edges.get(which % edges.len().max(1))?;
                Some(Step::Pass(edge.checked_add_signed(*offset)?))
            }
            Blow::Queued(calls) => self.queued(calls, otp),
            Blow::Exit(exits, together) => exit(exits, *together, &known),
            Blow::Attempt(target, call, stray) => {
                let idle = known.iter().filter(|child| !child.up);
                // As OTP has it, there are no requests about single children of a dynamic supervisor, but of its own kind.
                let still = || known.iter().filter(|child| !child.dynamic);
                let gone = otp.gone();
                let path = match (stray, call) {
                    (Stray::Not, Attempt::Restart | Attempt::Delete) => pick(*target, idle)?,
                    (Stray::Some, _) if !gone.is_empty() && target.is_multiple_of(2) => {
                        gone[target / 2 % gone.len()].clone()
                    }
                    (Stray::Some, _) => pick(*target, known.iter())?,
                    (_, Attempt::Terminate) if !matches!(stray, Stray::Wide) => pick(*target, known.iter())?,
                    (Stray::Not, _) => pick(*target, still())?,
                    (Stray::Wide, _) if target.is_multiple_of(2) => format!("{}/zz", split(&pick(*target, still())?).0),
                    (Stray::Wide, _) => {
                        format!("{}/zz", pick(*target, still().filter(|child| child.template.is_none()))?)
                    }
                };
                Some(match call {
                    Attempt::Terminate => Step::Terminate(path),
                    Attempt::Restart => Step::Restart(path),
                    Attempt::Delete => Step::Delete(path),
                })
            }
            Blow::Start(target, shape, stray) => Some(self.start(*target, shape, *stray, &known)),
        }
    }

    /// Calls of one supervisor, aimed at its children, or at one of them.
    fn queued(&mut self, calls: &[Blow], otp: &Otp) -> Option<Step> {
        let calls: Vec<Step> = calls.iter().filter_map(|call| self.aim(call, otp)).collect();
        let parent = calls.first().map(|call| parent_of(call).to_owned())?;
        let mut queued: Vec<Step> = calls.into_iter().filter(|call| parent_of(call) == parent).collect();
        if self.manner == Manner::Kit {
            // Of two that are added the kit may take the second first, which is then the elder.
            let mut starts = 0;
            queued.retain(|call| {
                starts += usize::from(matches!(call, Step::Start(..)));
                !matches!(call, Step::Start(..)) || starts == 1
            });
        }
        // About one child, where that can be.
        if let Some(Step::Start(_, child)) = queued.first().filter(|_| !parent.ends_with(DYNAMIC)) {
            let path = format!("{parent}/{}", child.id);
            for call in &mut queued[1..] {
                match call {
                    Step::Terminate(about) | Step::Restart(about) | Step::Delete(about) => about.clone_from(&path),
                    _ => {}
                }
            }
        }
        (queued.len() > 1).then_some(Step::Queued(parent, queued))
    }

    fn start(&mut self, target: usize, shape: &Shape, stray: Stray, known: &[Known]) -> Step {
        let root = Known { path: ROOT.to_owned(), up: true, supervisor: true, template: None, dynamic: false };
        let supervisors = || known.iter().chain([&root]).filter(|child| child.up && child.supervisor);
        let hungry = pick(target / 2, supervisors().filter(|child| child.template.is_some()));
        let parent =
            hungry.filter(|_| target.is_multiple_of(2)).or_else(|| pick(target, supervisors())).expect("the root");
        let siblings = || known.iter().filter(|child| split(&child.path).0 == parent);
        // The id of a dynamic supervisor is for no other kind of child.
        let other = || siblings().filter(|child| !child.path.ends_with(DYNAMIC));
        let idle = pick(target / 7, other().filter(|child| !child.up));
        let sibling = idle.filter(|_| !target.is_multiple_of(3)).or_else(|| pick(target / 7, other()));
        let template = supervisors().find(|child| child.path == parent).and_then(|child| child.template);
        let id = match (stray, sibling) {
            (Stray::Some | Stray::Wide, Some(sibling)) if template.is_none() => split(&sibling).1.to_owned(),
            _ => {
                self.added += 1;
                format!("s{:02}", self.added)
            }
        };
        let workers: Vec<String> =
            siblings().filter(|child| !child.supervisor).map(|child| split(&child.path).1.to_owned()).collect();
        if let Some((template, auto)) = template {
            return Step::Start(parent, self.dynamic_child(id, shape, template, auto, &workers));
        }
        // Legal only where automatic shutdown is on: what the supervisor says to the others is part of the script.
        let mut child = self.child(id, shape, Auto::Any, &workers);
        if matches!(stray, Stray::Not) && !target.is_multiple_of(3) {
            child.significant = false;
        }
        Step::Start(parent, child)
    }

    /// A *re*start that is ignored leaves a child without a process in a dynamic supervisor of OTP 25, which nothing can
    /// remove: not tried.
    fn dynamic_child(
        &mut self,
        id: String,
        shape: &Shape,
        template: Template,
        auto: Auto,
        siblings: &[String],
    ) -> Child {
        let mut starts = shape.starts.clone();
        if self.manner == Manner::Otp {
            for outcome in starts.iter_mut().skip(1).filter(|outcome| **outcome == ScriptedOutcome::Ignore) {
                *outcome = ScriptedOutcome::Fail;
            }
        }
        self.keys += 1;
        let slow = shape.slow_beside(&id, siblings);
        let body = Body::Worker { key: self.keys, brutal: template.brutal, starts, slow };
        Child { id, restart: template.restart, significant: auto != Auto::Never, body }
    }
}

impl Shape {
    /// The id, of a worker.
    fn worker(&self, id: char) -> Option<String> {
        self.supervisor.is_none().then(|| id.to_string())
    }

    /// Its slow start, beside these siblings.
    fn slow_beside(&self, id: &str, workers: &[String]) -> Option<Slow> {
        let (attempt, ends) = self.slow.as_ref()?;
        let others: Vec<&String> = workers.iter().filter(|worker| *worker != id).collect();
        let aimed = |(target, why): &(usize, Why)| Some((others.get(target % others.len().max(1))?.to_string(), *why));
        Some(Slow { attempt: *attempt, ends: ends.iter().filter_map(aimed).collect() })
    }
}

/// The supervisor that a call is made of.
fn parent_of(call: &Step) -> &str {
    match call {
        Step::Start(parent, _) => parent,
        Step::Terminate(path) | Step::Restart(path) | Step::Delete(path) => split(path).0,
        Step::Exit(_) | Step::Queued(..) | Step::Pass(_) | Step::Stop => "",
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
