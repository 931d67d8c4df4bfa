//! A TCP server: a listener, one actor for each connection, and a connection that crashes alone.
//!
//! ```sh
//! cargo run --example server
//! ```
//!
//! It echoes lines in upper case to two clients of its own, one of which sends a line that it cannot bear. A real server
//! would end with `Running::run_until_signal` instead (feature `signals`).
#![allow(clippy::print_stdout)]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use converge_supervisors::ractor::{Actor, ActorProcessingErr, ActorRef};
use converge_supervisors::{Application, ChildSpec, DynamicSupervisor, Intensity, Restart, Shutdown, Strategy};
use converge_supervisors::{SupervisorSpec, Template};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Duration;

/// A socket on its way to the actor that takes it.
type Socket = Arc<Mutex<Option<TcpStream>>>;

/// Accepts on a socket that was bound before the tree, so that it stays bound while the listener is restarted.
struct Listener {
    socket: Arc<TcpListener>,
    connections: DynamicSupervisor<Socket>,
}

/// To itself: one more.
struct Next;

impl Actor for Listener {
    type Msg = Next;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Next>, (): ()) -> Result<(), ActorProcessingErr> {
        myself.send_message(Next)?;
        Ok(())
    }

    async fn handle(&self, myself: ActorRef<Next>, _: Next, (): &mut ()) -> Result<(), ActorProcessingErr> {
        let (stream, _) = self.socket.accept().await?;
        let socket = Arc::new(Mutex::new(Some(stream)));
        if let Err(error) = self.connections.start_child(socket).await {
            println!("a connection is refused: {error}"); // there are too many, for example
        }
        myself.send_message(Next)?;
        Ok(())
    }
}

struct Connection;

impl Actor for Connection {
    type Msg = Next;
    type State = BufReader<TcpStream>;
    type Arguments = TcpStream;

    async fn pre_start(&self, myself: ActorRef<Next>, stream: TcpStream) -> Result<Self::State, ActorProcessingErr> {
        myself.send_message(Next)?;
        Ok(BufReader::new(stream))
    }

    /// One line. Between two lines it can be stopped.
    async fn handle(
        &self,
        myself: ActorRef<Next>,
        _: Next,
        stream: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            myself.stop(None);
            return Ok(());
        }
        assert_ne!(line.trim_end(), "crash", "this line is too much");
        stream.write_all(line.to_uppercase().as_bytes()).await?;
        myself.send_message(Next)?;
        Ok(())
    }
}

fn application(socket: TcpListener) -> Application {
    let template = Template {
        restart: Restart::Temporary, // its client has to come again
        shutdown: Some(Shutdown::Timeout(Duration::from_millis(100))),
        children_max: 1_000,
        ..Template::default()
    };
    let take = |socket: Socket| socket.lock().ok()?.take().map(|stream| (Connection, stream));
    let connections = DynamicSupervisor::new(template, take);
    let (socket, own) = (Arc::new(socket), connections.clone());
    let listener = move || (Listener { socket: Arc::clone(&socket), connections: own.clone() }, ());
    let children = vec![
        ChildSpec::dynamic("connections", &connections),
        // It waits in its handler, where it reads no stop, and has nothing to bring to an end.
        ChildSpec::actor("listener", listener).shutdown(Shutdown::BrutalKill),
    ];
    Application::new("server", SupervisorSpec::new(Strategy::RestForOne, Intensity::default(), children))
}

/// What comes back until the server closes the connection, or has sent as much as it was sent.
async fn say(server: SocketAddr, text: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(text.as_bytes()).await?;
    let mut answer = Vec::new();
    // Closed without a word, or with unread bytes: that is its end, too.
    let _ = stream.take(text.len() as u64).read_to_end(&mut answer).await;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Serves two clients of its own.
#[tokio::main]
pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let server = socket.local_addr()?;
    let running = application(socket).start().await?;

    let mut calm = TcpStream::connect(server).await?;
    println!("the one that crashes: {:?}", say(server, "crash\n").await?);
    calm.write_all(b"still here\n").await?;
    let mut answer = [0; 11];
    calm.read_exact(&mut answer).await?;
    println!("the other: {:?}", String::from_utf8_lossy(&answer));
    assert_eq!(&answer, b"STILL HERE\n");
    assert_eq!(say(server, "hello\n").await?, "HELLO\n", "and it still accepts");

    running.stop().await?;
    running.wait().await?;
    Ok(())
}
