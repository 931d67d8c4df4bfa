//! A ledger under a supervision tree of the application's own, in two ways: as a child of a supervisor of this kit,
//! and linked to a plain `ractor` actor. In both the storage actor is killed, and no caller notices. The Raft actor
//! may say by a panic that it lost its log: it dies with its elder, and both come back from disk.
//!
//! ```text
//! cargo run --example under_your_supervisor
//! ```
#![allow(clippy::print_stdout, reason = "an example speaks to people")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use converge_ledger::supervisors::ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use converge_ledger::supervisors::{Intensity, Strategy, SupervisorSpec, Tree};
use converge_ledger::{AppendOptions, Config, Ledger, NewEntry, Node};

fn config(dir: &Path) -> Config {
    let mut config = Config::default();
    config.node.data_dir = dir.to_owned();
    config.listen.grpc = "off".into();
    config
}

async fn append(ledger: &Ledger, payload: &'static str) -> anyhow::Result<u64> {
    let entry =
        NewEntry { context_id: "jobs".into(), key: String::new(), payload: payload.into(), metadata: BTreeMap::new() };
    Ok(ledger.append(entry, AppendOptions::default()).await?.entry.sequence.get())
}

/// The application's tree: the ledger is one of its children.
async fn under_a_supervisor(dir: &Path) -> anyhow::Result<()> {
    let (child, ledger) = Node::child(config(dir))?;
    let intensity = Intensity { restarts: 3, period: Duration::from_secs(60) };
    let spec = SupervisorSpec::new(Strategy::OneForOne, intensity, vec![child]);
    let tree = Tree::start("application", spec).await?;
    println!("under a supervisor: sequence {}", append(&ledger, "before the kill").await?);
    let storage = tree.find("application/converge-ledger/ledger/storage").expect("runs");
    storage.kill();
    println!("storage killed:     sequence {}", append(&ledger, "after the kill").await?);
    tree.stop(Duration::from_secs(10)).await?;
    Ok(())
}

/// An actor of the application that knows nothing of this kit.
struct Owner;

impl Actor for Owner {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        event: SupervisionEvent,
        _: &mut (),
    ) -> Result<(), ActorProcessingErr> {
        println!("the owner hears: {event}");
        Ok(())
    }
}

async fn linked_to_an_actor(dir: &Path) -> anyhow::Result<()> {
    let (owner, ended) = Actor::spawn(None, Owner, ()).await?;
    let node = Node::spawn_linked(config(dir), owner.get_cell()).await?;
    println!("linked to an actor: sequence {}", append(&node.ledger(), "before the kill").await?);
    node.tree().find("root/ledger/storage").expect("runs").kill();
    println!("storage killed:     sequence {}", append(&node.ledger(), "after the kill").await?);
    node.stop(Duration::from_secs(10)).await?;
    owner.stop(None);
    ended.await?;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (one, two) = (tempfile::tempdir()?, tempfile::tempdir()?);
    under_a_supervisor(one.path()).await?;
    linked_to_an_actor(two.path()).await
}
