//! A child that owns a database file is restarted ten thousand times and never finds it locked.
#![allow(missing_docs)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use converge_supervisors::ractor::{Actor, ActorProcessingErr, ActorRef};
use converge_supervisors::{ChildSpec, Intensity, Service, Strategy, SupervisorSpec, Tree};
use redb::Database;
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant};

const RESTARTS: u64 = 10_000;

struct Owner;

/// Who is owned by whom: the file, and how often it was opened.
#[derive(Clone)]
struct Desk {
    file: PathBuf,
    opened: Arc<AtomicU64>,
}

enum Ask {
    Present(oneshot::Sender<u64>),
    Panic,
    Fail,
}

impl Actor for Owner {
    type Msg = Ask;
    type State = (Database, u64);
    type Arguments = Desk;

    async fn pre_start(&self, _: ActorRef<Ask>, desk: Desk) -> Result<Self::State, ActorProcessingErr> {
        let database = Database::create(&desk.file)?;
        Ok((database, desk.opened.fetch_add(1, Ordering::SeqCst) + 1))
    }

    async fn handle(
        &self,
        _: ActorRef<Ask>,
        ask: Ask,
        (_database, incarnation): &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match ask {
            Ask::Present(reply) => {
                let _ = reply.send(*incarnation);
                Ok(())
            }
            Ask::Panic => std::panic::panic_any("out of luck"),
            Ask::Fail => Err("out of order".into()),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_restarts_find_the_file_free() {
    std::panic::set_hook(Box::new(|_| {})); // thousands of them are meant
    let directory = tempfile::tempdir().unwrap();
    let desk = Desk { file: directory.path().join("db"), opened: Arc::default() };
    let service = Service::new("owner");
    let args = desk.clone();
    let owner = ChildSpec::service("owner", &service, move || (Owner, args.clone()));
    let intensity = Intensity { restarts: 1_000_000, period: Duration::from_millis(1) };
    let tree = Tree::start("root", SupervisorSpec::new(Strategy::OneForOne, intensity, vec![owner])).await.unwrap();
    let mut reports = tree.reports();
    for restart in 0..RESTARTS {
        let deadline = Instant::now() + Duration::from_secs(30);
        let actor = service.wait(deadline).await.expect("it is up");
        match restart % 4 {
            0 => drop(service.try_cast(Ask::Panic)),
            1 => drop(service.try_cast(Ask::Fail)),
            2 => actor.stop(Some("out of reasons".to_owned())),
            _ => actor.kill(),
        }
        // The successor answers: it has opened the file.
        loop {
            let answer = service.call(Ask::Present, deadline).await;
            if answer.is_ok_and(|incarnation| incarnation == restart + 2) {
                break;
            }
            assert!(Instant::now() < deadline, "restart {restart} has no successor");
        }
        while let Ok(Some(report)) = reports.try_next() {
            let failed = matches!(report.event, converge_supervisors::Event::StartFailed { .. });
            assert!(!failed, "restart {restart}: {report:?}");
        }
    }
    assert_eq!(desk.opened.load(Ordering::SeqCst), RESTARTS + 1, "every start found the file free");
    tree.stop(Duration::from_secs(30)).await.unwrap();
}
