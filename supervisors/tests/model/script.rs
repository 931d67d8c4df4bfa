//! What is done to a tree of supervisors, as plain data.

use std::fmt;

/// A tree, and what happens to it, step by step. After each step the tree comes to rest before the next.
#[derive(Clone, PartialEq, Eq)]
pub struct Script {
    pub root: Sup,
    pub steps: Vec<Step>,
}

/// On one line, also where `proptest` asks for many.
impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Script {{ root: {:?}, steps: {:?} }}", self.root, self.steps)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sup {
    pub strategy: Strategy,
    pub intensity: usize,
    /// In seconds.
    pub period: u64,
    pub auto: Auto,
    pub children: Vec<Child>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    OneForOne,
    OneForAll,
    RestForOne,
    /// `simple_one_for_one`: no children to begin with, and all are alike.
    Simple(Template),
}

/// The id of a dynamic supervisor ends with this.
pub const DYNAMIC: char = '*';

/// What the children of a dynamic supervisor have in common. They are significant where it heeds that at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Template {
    pub restart: Restart,
    pub brutal: bool,
}

/// `auto_shutdown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auto {
    Never,
    Any,
    All,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    pub id: String,
    pub restart: Restart,
    pub significant: bool,
    pub body: Body,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    Permanent,
    Transient,
    Temporary,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    Worker {
        /// Unique in a script: attempts to start are counted under it, over all incarnations of the tree above.
        key: u32,
        /// Shut down by a kill.
        brutal: bool,
        /// How its starts go, one after the other; all further ones go well.
        starts: Vec<ScriptedOutcome>,
        slow: Option<Slow>,
    },
    Supervisor(Sup),
}

/// A start that takes its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slow {
    /// Which one, from 0.
    pub attempt: usize,
    /// Workers among its siblings, by id, that end meanwhile, one after the other: all has come to rest before, and their
    /// supervisor could read of it before the start is through.
    pub ends: Vec<(String, Why)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScriptedOutcome {
    Up,
    Ignore,
    Fail,
}

/// Paths are ids from the root, such as `root/a/b`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Children of one supervisor end for these reasons, one after the other, before their supervisor reads of the
    /// first. A supervisor told to end stops its own children first, a killed one does not.
    Exit(Vec<(String, Why)>),
    /// `start_child` of the supervisor with this path; and so on. Of a dynamic supervisor's child only the id, as a name,
    /// and the starts are its own.
    Start(String, Child),
    Terminate(String),
    Restart(String),
    Delete(String),
    /// Calls of one supervisor, all of them made before it reads the first. None of their starts is slow.
    Queued(String, Vec<Step>),
    /// Milliseconds go by. One goes by after the start and after each step, too.
    Pass(u64),
    /// The whole tree is stopped.
    Stop,
}

/// Why a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Normal,
    Shutdown,
    /// `{shutdown, Term}`.
    ShutdownTerm,
    /// It fails.
    Abnormal,
    /// It stops for a reason of its own that is none of the above.
    Odd,
    Kill,
}

impl Why {
    /// The word for it in an account.
    pub fn word(self) -> &'static str {
        match self {
            Why::Normal => "normal",
            Why::Shutdown => "shutdown",
            Why::ShutdownTerm => "shutdown:",
            Why::Abnormal | Why::Odd => "abnormal",
            Why::Kill => "killed",
        }
    }
}

impl Sup {
    pub fn is_dynamic(&self) -> bool {
        matches!(self.strategy, Strategy::Simple(_))
    }
}

/// The supervisor's path and the child's id.
pub fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}
