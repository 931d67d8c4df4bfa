//! What a tree says in the log of a start that fails: nothing that whoever asked for it does not get as its reason, and
//! once what nobody asked for. One test, because a subscriber is the process's.
#![allow(missing_docs)]

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use converge_ledger::supervisors::ractor::{Actor, ActorProcessingErr, ActorRef};
use converge_ledger::supervisors::{ChildSpec, Intensity, Strategy, SupervisorSpec, Tree};
use tracing_real::field::{Field, Visit};
use tracing_real::{Event, Level, Metadata, Subscriber, span};

/// Warnings and errors, their fields by name.
static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct LogListener;

impl Subscriber for LogListener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= Level::WARN
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = LogLine(event.metadata().level().to_string());
        event.record(&mut line);
        SAID.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

struct LogLine(String);

impl Visit for LogLine {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0 += &format!(" {}={value:?}", field.name());
    }
}

/// Its start fails while it must.
struct RefusesToStart;

impl Actor for RefusesToStart {
    type Msg = ();
    type State = ();
    type Arguments = Arc<AtomicBool>;

    async fn pre_start(&self, _: ActorRef<()>, refuses: Arc<AtomicBool>) -> Result<(), ActorProcessingErr> {
        if refuses.load(Ordering::SeqCst) { Err("no luck".into()) } else { Ok(()) }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reason_of_a_start_that_fails_is_said_once() {
    tracing_real::subscriber::set_global_default(LogListener).unwrap();
    let refuses = Arc::new(AtomicBool::new(true));
    let worker = {
        let refuses = refuses.clone();
        ChildSpec::actor("worker", move || (RefusesToStart, refuses.clone()))
    };
    let intensity = |restarts| Intensity { restarts, period: Duration::from_secs(60) };
    let inner = SupervisorSpec::new(Strategy::OneForOne, intensity(0), vec![worker]);
    let middle = SupervisorSpec::new(Strategy::OneForOne, intensity(0), vec![ChildSpec::supervisor("inner", inner)]);
    let spec = SupervisorSpec::new(Strategy::OneForOne, intensity(1), vec![ChildSpec::supervisor("middle", middle)]);

    let refused = Tree::start("root", spec.clone()).await.map(drop).unwrap_err().to_string();
    assert_eq!(refused, "root/middle/inner/worker did not start: no luck");
    assert_eq!(*SAID.lock().unwrap(), Vec::<String>::new(), "the error is the caller's to tell");

    refuses.store(false, Ordering::SeqCst);
    let tree = Tree::start("root", spec).await.unwrap();
    refuses.store(true, Ordering::SeqCst);
    tree.find("root/middle/inner/worker").unwrap().kill();
    tree.wait().await.unwrap_err();
    let said = std::mem::take(&mut *SAID.lock().unwrap());
    let failed: Vec<_> = said.iter().filter(|line| line.contains("did not start")).collect();
    let [once] = failed[..] else { panic!("a start that nobody waits for fails, and that is said once: {said:?}") };
    for word in ["WARN", "root/middle", "at=\"root/middle/inner/worker\"", "no luck"] {
        assert!(once.contains(word), "{word}: {said:?}");
    }
    assert!(
        said.iter().any(|line| line.starts_with("ERROR") && line.contains("path=\"root\"")),
        "it gives up: {said:?}"
    );
    assert!(said.iter().any(|line| line.contains("killed")), "what began it is told: {said:?}");
}
