//! Two accounts side by side.

use super::script::{DYNAMIC, Script, Step, Why, split};
use super::{Account, Record};

/// Whose account is set beside the model's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Teller {
    /// One difference. When a child of a starting supervisor does not start, `gen_server` of OTP 25 tells the parent before
    /// that supervisor is gone, so what the parent does next may come first. (OTP 26 tells it afterwards.)
    Erlang,
    /// Differences. A supervisor of the kit is an actor that no test can look into: its own starts and ends do not
    /// appear among the events, only in the view (`new`). And it goes on reading while children start and stop: when
    /// several siblings end together, or one while another is restarted, it knows of the second while it still restarts the
    /// first, where OTP's finishes the first restart and then undoes it. What comes of it is the same, so of such a step only
    /// the answers and the view are compared.
    Kit,
}

/// The first step whose records differ, in words.
pub fn difference(script: &Script, model: &Account, told: &Account, teller: Teller) -> Option<String> {
    for (i, expected) in model.iter().enumerate() {
        let (step, before) = (i.checked_sub(1).map(|i| &script.steps[i]), i.checked_sub(1).map(|i| &model[i]));
        let slow = expected.events.iter().any(|event| event.starts_with("meanwhile "));
        // What ended during the first start of all is restarted when that is through, as by OTP's: one alone in its order, if
        // the start of another supervisor's child does not fail meanwhile.
        let alone = step.is_none()
            && expected.reply == "ok"
            && expected.verdicts.as_ref().is_some_and(|verdicts| verdicts.len() < 2);
        let slow = match slow {
            false => Slow::None,
            true if alone => Slow::Alone,
            true => Slow::Many,
        };
        let mut expected = adapt(expected, step, before, teller, slow);
        let Some(found) = told.get(i) else {
            return Some(format!("no record of step {i}, {step:?}"));
        };
        let mut found = adapt(found, step, before, teller, slow);
        if expected.verdicts.is_none() || found.verdicts.is_none() {
            (expected.verdicts, found.verdicts) = (None, None);
        }
        if expected != found {
            return Some(format!("step {i}, {step:?}\nexpected: {expected:#?}\n{teller:?}: {found:#?}"));
        }
    }
    (told.len() > model.len()).then(|| format!("{} records instead of {}", told.len(), model.len()))
}

/// Whether children ended while a sibling started.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slow {
    None,
    Alone,
    Many,
}

fn adapt(record: &Record, step: Option<&Step>, before: Option<&Record>, teller: Teller, slow: Slow) -> Record {
    let mut record = record.clone();
    record.events.retain(|event| !event.starts_with("meanwhile "));
    if let (Some(Step::Exit(ends)), Some(before)) = (step, before) {
        for (path, _) in ends.iter().filter(|(_, why)| *why == Why::Kill) {
            gather_orphans(&mut record, path, before);
        }
    }
    if slow != Slow::None {
        by_supervisor(&mut record.events);
    }
    sort_dynamic(&mut record.events);
    if teller == Teller::Erlang {
        let (mut failed, events) = record.events.into_iter().partition::<Vec<_>, _>(|event| is_failed_start(event));
        failed.sort();
        record.events = events;
        record.events.append(&mut failed);
    }
    if teller == Teller::Kit {
        let together = matches!(step, Some(Step::Exit(ends)) if ends.len() > 1);
        let queued = matches!(step, Some(Step::Queued(..)));
        if together || queued || slow == Slow::Many {
            record.events.clear();
            record.verdicts = None;
        }
        record.events.retain(|event| !event.starts_with("begin ") && !event.starts_with("end "));
    }
    record
}

/// What is below a killed supervisor dies in no order, and in Erlang a supervisor below it still stops its children as
/// it should, while the new ones start. That all die is compared; when, and of what, is not.
fn gather_orphans(record: &mut Record, killed: &str, before: &Record) {
    let mut orphans = Vec::new();
    for line in &before.view {
        let Some((path, "up" | "new")) = line.split_once(' ') else { continue };
        if !path.strip_prefix(killed).is_some_and(|rest| rest.starts_with('/')) {
            continue;
        }
        let died = |event: &String| is_end_of(event, "down", path) || is_end_of(event, "end", path);
        if let Some(place) = record.events.iter().position(died) {
            let event = record.events.remove(place);
            let word = if event.starts_with("down ") { "fell" } else { "end" };
            orphans.push(format!("{word} {path}"));
        }
    }
    record.events.splice(0..0, orphans);
}

/// What has ended during the start of a supervisor is restarted while its parent starts the next: the order across
/// supervisors is nobody's.
fn by_supervisor(events: &mut [String]) {
    let of = |event: &String| {
        let path = event.split(' ').nth(1).unwrap_or_default();
        let own = event.starts_with("begin ") || event.starts_with("end ");
        if own { path.to_owned() } else { split(path).0.to_owned() }
    };
    events.sort_by_key(of);
}

fn is_end_of(event: &str, word: &str, path: &str) -> bool {
    let rest = event.strip_prefix(word).and_then(|rest| rest.strip_prefix(' '));
    rest.and_then(|rest| rest.strip_prefix(path)).is_some_and(|rest| rest.starts_with(' '))
}

/// A supervisor that exits with `{shutdown, Reason}`.
fn is_failed_start(event: &str) -> bool {
    event.starts_with("end ") && event.ends_with(" shutdown:")
}

/// Children of a dynamic supervisor are stopped all at once, in no order.
fn sort_dynamic(events: &mut [String]) {
    let parent = |event: &String| {
        let path = event.strip_prefix("down ").and_then(|rest| rest.split(' ').next());
        path.map(|path| split(path).0).filter(|parent| parent.ends_with(DYNAMIC)).map(str::to_owned)
    };
    let mut rest = events;
    while let Some(first) = rest.first() {
        let alike = match parent(first) {
            Some(of) => rest.iter().take_while(|event| parent(event).as_ref() == Some(&of)).count(),
            None => 1,
        };
        let (run, after) = rest.split_at_mut(alike);
        run.sort();
        rest = after;
    }
}
