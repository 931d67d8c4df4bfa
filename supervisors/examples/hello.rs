//! One worker that is killed and comes back.
//!
//! ```sh
//! cargo run --example hello
//! ```
#![allow(clippy::print_stdout)]

use converge_supervisors::ractor::{Actor, ActorProcessingErr, ActorRef};
use converge_supervisors::{CallError, ChildSpec, Intensity, Service, Strategy, SupervisorSpec, Tree};
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant};

struct Greeter;

struct Greet {
    name: &'static str,
    reply: oneshot::Sender<String>,
}

impl Actor for Greeter {
    type Msg = Greet;
    /// How many it has greeted.
    type State = u32;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Greet>, (): ()) -> Result<u32, ActorProcessingErr> {
        Ok(0)
    }

    async fn handle(&self, _: ActorRef<Greet>, greet: Greet, greeted: &mut u32) -> Result<(), ActorProcessingErr> {
        *greeted += 1;
        let _ = greet.reply.send(format!("hello {}, you are number {greeted}", greet.name));
        Ok(())
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

/// Whoever is the greeter now answers. Where there is none, the call waits for one.
async fn greet(greeter: &Service<Greet>, name: &'static str) -> Result<String, CallError> {
    greeter.call(|reply| Greet { name, reply }, soon()).await
}

/// Greets two, kills the greeter, and greets a third.
#[tokio::main]
pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let greeter = Service::new("greeter");
    let children = vec![ChildSpec::service("greeter", &greeter, || (Greeter, ()))];
    let spec = SupervisorSpec::new(Strategy::OneForOne, Intensity::default(), children);
    let tree = Tree::start("hello", spec).await?;

    println!("{}", greet(&greeter, "Ann").await?);
    println!("{}", greet(&greeter, "Ben").await?);

    let first = greeter.get().expect("it has just answered");
    first.kill();
    greeter.left(first.get_id(), soon()).await;

    let answer = greet(&greeter, "Cleo").await?;
    println!("{answer}");
    assert_eq!(answer, "hello Cleo, you are number 1", "its state began again");
    tree.stop(Duration::from_secs(5)).await?;
    Ok(())
}
