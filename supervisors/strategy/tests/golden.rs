//! Golden scripts: the lines of `../golden/*.txt` are what a machine is told, with what it decides after the arrow.
//!
//! `UPDATE=1` writes what it decides into the files. A script begins with `machine`, or with `running` where all children
//! have been started: the strategy, the intensity (`lax`: more than any script makes), the auto-shutdown, and the children.
//! In brackets is the stage that it has come to.

use super::*;

struct Script {
    machine: Machine,
    now: Instant,
    stage: &'static str,
}

/// `one_for_one 3/5s any_significant: permanent, transient significant backoff`
fn machine(line: &str) -> (Machine, usize) {
    let (head, children) = line.split_once(':').expect("children after a colon");
    let mut head = head.split_whitespace();
    let mut of_all = match head.next().expect("a strategy") {
        "one_for_all" => rules(Strategy::OneForAll, LAX),
        "rest_for_one" => rules(Strategy::RestForOne, LAX),
        "one_for_one" => rules(Strategy::OneForOne, LAX),
        "dynamic" => Rules { dynamic: true, ..rules(Strategy::OneForOne, LAX) },
        other => panic!("no strategy: {other}"),
    };
    for word in head {
        match (word, word.split_once('/')) {
            ("lax", _) => of_all.intensity = LAX,
            ("any_significant", _) => of_all.auto_shutdown = AutoShutdown::AnySignificant,
            ("all_significant", _) => of_all.auto_shutdown = AutoShutdown::AllSignificant,
            (_, Some((restarts, period))) => {
                of_all.intensity = Intensity { restarts: restarts.parse().unwrap(), period: duration(period) };
            }
            _ => panic!("neither intensity nor auto-shutdown: {word}"),
        }
    }
    let children: Vec<Terms> = children.split(',').filter(|child| !child.trim().is_empty()).map(terms).collect();
    let count = children.len();
    (Machine::new(of_all, children), count)
}

fn terms(child: &str) -> Terms {
    let mut terms = term(Restart::Permanent, None);
    for word in child.split_whitespace() {
        match word {
            "permanent" => terms.restart = Restart::Permanent,
            "transient" => terms.restart = Restart::Transient,
            "temporary" => terms.restart = Restart::Temporary,
            "significant" => terms.significant = true,
            "backoff" => terms.backoff = Some(BACKOFF),
            _ => panic!("no word about a child: {word}"),
        }
    }
    terms
}

fn duration(text: &str) -> Duration {
    let count = |digits: &str| digits.parse().expect("a number with its unit");
    let millis = text.strip_suffix("ms").map(|digits| Duration::from_millis(count(digits)));
    millis.unwrap_or_else(|| Duration::from_secs(count(text.trim_end_matches('s'))))
}

impl Script {
    fn begin(line: &str) -> Script {
        let (kind, rest) = line.split_once(' ').expect("a machine after its kind");
        let (mut machine, children) = machine(rest);
        if kind == "running" {
            machine.now(Input::Boot);
            (0..children).for_each(|i| drop(machine.now(Input::Started(i))));
            assert_eq!(machine.stage(), Stage::Running, "{line}");
        }
        let stage = stage(&machine);
        Script { machine, now: Instant::now(), stage }
    }

    /// What comes of a line.
    fn take(&mut self, line: &str) -> String {
        let (line, pause) = line.split_once(" after ").unwrap_or((line, "0s"));
        self.now += duration(pause);
        let words: Vec<&str> = line.split_whitespace().collect();
        let place = || words[1].parse::<Place>().expect("a child's place");
        let input = match words[0] {
            "awaited" => return format!(" => {:?}", self.machine.awaited()),
            "already" => return format!(" => {:?}", self.machine.already(place())),
            "start_child" => return self.ask(Request::Start(place(), terms(&words[2..].join(" ")))),
            "restart_child" => return self.ask(Request::Restart(place())),
            "terminate_child" => return self.ask(Request::Terminate(place())),
            "delete_child" => return self.ask(Request::Delete(place())),
            "boot" => Input::Boot,
            "started" => Input::Started(place()),
            "ignored" => Input::Ignored(place()),
            "failed" => Input::StartFailed(place(), no_start()),
            "gone" => Input::Gone(place(), if words[2] == "normal" { Exit::from_reason(None) } else { crash() }),
            "stuck" => Input::Stuck(place(), "still runs".into()),
            "elapsed" => Input::Elapsed(place()),
            "shutdown" => Input::Shutdown,
            other => panic!("no such input: {other}"),
        };
        let effects = self.machine.step(self.now, input);
        self.tell(&effects)
    }

    fn ask(&mut self, request: Request) -> String {
        let before = format!("{:?}", self.machine);
        match self.machine.ask(request) {
            Ok(effects) => self.tell(&effects),
            Err(refusal) => {
                assert_eq!(format!("{:?}", self.machine), before, "a refusal changes nothing");
                format!(" => refused: {refusal:?}")
            }
        }
    }

    fn tell(&mut self, effects: &[Effect]) -> String {
        let effects: Vec<String> = effects.iter().map(effect).collect();
        let effects = if effects.is_empty() { "nothing".to_owned() } else { effects.join(", ") };
        let before = std::mem::replace(&mut self.stage, stage(&self.machine));
        let stage = if self.stage == before { String::new() } else { format!(" [{}]", self.stage) };
        format!(" => {effects}{stage}")
    }
}

fn stage(machine: &Machine) -> &'static str {
    match machine.stage() {
        Stage::Starting => "starting",
        Stage::Running => "running",
        Stage::Stopping => "stopping",
        Stage::Exiting if machine.is_done() => "done",
        Stage::Exiting => "exiting",
    }
}

fn effect(effect: &Effect) -> String {
    match effect {
        Effect::Start(child) => format!("start {child}"),
        Effect::Stop { child, hurry } => format!("stop {child}{}", if *hurry { " in a hurry" } else { "" }),
        Effect::Delay { child, attempt } => format!("delay {child} (attempt {attempt})"),
        Effect::Restarting { child, reason, in_window } => {
            format!("restarting {child} ({reason}; {in_window} in window)")
        }
        Effect::Forget(child) => format!("forget {child}"),
        Effect::Answer(child, outcome) => format!("answer {child}: {outcome:?}"),
        Effect::Ready => "ready".to_owned(),
        Effect::Exit(verdict) => format!("exit: {verdict:?}"),
    }
}

fn run(text: &str) -> String {
    let mut script = None;
    let mut told = String::new();
    for line in text.lines() {
        let line = line.split(" => ").next().unwrap_or_default().trim_end();
        let outcome = match line.split(' ').next() {
            Some("" | "#") => String::new(),
            Some("machine" | "running") => {
                script = Some(Script::begin(line));
                String::new()
            }
            _ => script.as_mut().expect("a script begins with a machine").take(line),
        };
        let width = if outcome.is_empty() { 0 } else { 27 };
        told.push_str(&format!("{line:width$}{outcome}\n"));
    }
    told
}

#[test]
fn each_script_is_what_the_machine_decides() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("strategy/golden");
    let files = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path());
    let files: Vec<_> = files.filter(|path| path.extension().is_some_and(|ending| ending == "txt")).collect();
    assert!(!files.is_empty(), "no scripts in {}", folder.display());
    for path in files {
        let written = std::fs::read_to_string(&path).unwrap();
        let told = run(&written);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, told).unwrap();
            continue;
        }
        for (n, (written, told)) in written.lines().zip(told.lines()).enumerate() {
            assert_eq!(told, written, "{} line {}; UPDATE=1 rewrites it", path.display(), n + 1);
        }
    }
}
