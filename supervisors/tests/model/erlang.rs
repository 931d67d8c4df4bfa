//! A script, done to a tree of Erlang's own supervisor.
//!
//! Scripts go to one Erlang machine as terms in a file, and come back as lines; see `erlang/scripts.escript`.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::script::{Auto, Body, Child, Restart, Script, ScriptedOutcome, Slow, Step, Strategy, Sup, Template, Why};
use super::{Account, Record};

/// What the script exits with then.
const NO_DEBUG_INFORMATION: i32 = 2;

/// Why there are no accounts.
#[derive(Debug)]
pub enum Error {
    /// There is no Erlang here, or none whose clock can be turned.
    Missing,
    Failed(String),
}

/// The stories of all these scripts, in order.
pub fn accounts(scripts: &[Script], folder: &Path) -> Result<Vec<Account>, Error> {
    let terms: String = scripts.iter().map(|script| format!("{}.\n", term(script))).collect();
    static FILES: AtomicUsize = AtomicUsize::new(0);
    let number = FILES.fetch_add(1, Ordering::Relaxed);
    let file = folder.join(format!("scripts-{}-{number}.terms", std::process::id()));
    std::fs::write(&file, terms).map_err(|error| Error::Failed(error.to_string()))?;
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/erlang/scripts.escript");
    let run = Command::new("escript").arg(program).arg(&file).stdin(Stdio::null()).output();
    let _ = std::fs::remove_file(&file);
    let output = run.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::Missing,
        _ => Error::Failed(error.to_string()),
    })?;
    if output.status.code() == Some(NO_DEBUG_INFORMATION) {
        return Err(Error::Missing);
    }
    if !output.status.success() {
        return Err(Error::Failed(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    let text = String::from_utf8(output.stdout).map_err(|error| Error::Failed(error.to_string()))?;
    read(&text)
}

fn read(text: &str) -> Result<Vec<Account>, Error> {
    let (mut accounts, mut account, mut record) = (Vec::new(), Account::new(), Record::default());
    for line in text.lines() {
        match line.split_at_checked(2) {
            Some(("E ", event)) => record.events.push(event.to_owned()),
            Some(("V ", seen)) => record.view.push(seen.to_owned()),
            Some(("R ", reply)) => {
                record.reply = reply.to_owned();
                account.push(std::mem::take(&mut record));
            }
            _ if line == "END" => accounts.push(std::mem::take(&mut account)),
            _ => return Err(Error::Failed(format!("not a line of an account: {line:?}"))),
        }
    }
    Ok(accounts)
}

// --- terms

fn term(script: &Script) -> String {
    let steps: Vec<String> = script.steps.iter().map(step).collect();
    format!("{{{},[{}]}}", supervisor(&script.root), steps.join(","))
}

fn supervisor(sup: &Sup) -> String {
    let strategy = match sup.strategy {
        Strategy::OneForOne => "one_for_one".to_owned(),
        Strategy::OneForAll => "one_for_all".to_owned(),
        Strategy::RestForOne => "rest_for_one".to_owned(),
        Strategy::Simple(Template { restart, brutal }) => {
            let significant = sup.auto != Auto::Never;
            format!("{{simple,{},{significant},{}}}", restart_word(restart), shutdown_word(brutal))
        }
    };
    let auto = match sup.auto {
        Auto::Never => "never",
        Auto::Any => "any_significant",
        Auto::All => "all_significant",
    };
    let children: Vec<String> = sup.children.iter().map(child).collect();
    format!("{{sup,{strategy},{},{},{auto},[{}]}}", sup.intensity, sup.period, children.join(","))
}

fn child(child: &Child) -> String {
    let mut term = format!("{{{:?},{},{},", child.id, restart_word(child.restart), child.significant);
    match &child.body {
        Body::Supervisor(sup) => term.push_str(&supervisor(sup)),
        Body::Worker { key, brutal, starts, slow } => {
            let starts: Vec<&str> = starts.iter().map(|outcome| outcome_word(*outcome)).collect();
            let slow = match slow {
                None => "none".to_owned(),
                Some(Slow { attempt, ends }) => format!("{{{},{}}}", attempt + 1, ends_term(ends)),
            };
            let _ = write!(term, "{{worker,{key},{},[{}],{slow}}}", shutdown_word(*brutal), starts.join(","));
        }
    }
    term.push('}');
    term
}

fn restart_word(restart: Restart) -> &'static str {
    match restart {
        Restart::Permanent => "permanent",
        Restart::Transient => "transient",
        Restart::Temporary => "temporary",
    }
}

fn shutdown_word(brutal: bool) -> &'static str {
    if brutal { "brutal_kill" } else { "5000" }
}

fn outcome_word(outcome: ScriptedOutcome) -> &'static str {
    match outcome {
        ScriptedOutcome::Up => "ok",
        ScriptedOutcome::Ignore => "ignore",
        ScriptedOutcome::Fail => "fail",
    }
}

fn step(step: &Step) -> String {
    match step {
        Step::Exit(ends) => format!("{{exit,{}}}", ends_term(ends)),
        Step::Start(parent, spec) => format!("{{start,{parent:?},{}}}", child(spec)),
        Step::Terminate(path) => format!("{{terminate,{path:?}}}"),
        Step::Restart(path) => format!("{{restart,{path:?}}}"),
        Step::Delete(path) => format!("{{delete,{path:?}}}"),
        Step::Queued(parent, calls) => {
            let calls: Vec<String> = calls.iter().map(self::step).collect();
            format!("{{queued,{parent:?},[{}]}}", calls.join(","))
        }
        Step::Pass(milliseconds) => format!("{{pass,{milliseconds}}}"),
        Step::Stop => "stop".to_owned(),
    }
}

fn ends_term(ends: &[(String, Why)]) -> String {
    let ends: Vec<String> = ends.iter().map(|(who, why)| format!("{{{who:?},{}}}", why_term(*why))).collect();
    format!("[{}]", ends.join(","))
}

fn why_term(why: Why) -> &'static str {
    match why {
        Why::Normal => "normal",
        Why::Shutdown => "shutdown",
        Why::ShutdownTerm => "{shutdown,told_to}",
        Why::Abnormal => "told_to_fail",
        Why::Odd => "out_of_luck",
        Why::Kill => "kill",
    }
}
