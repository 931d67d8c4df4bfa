//! The sockets that a node listens on. They are bound before its tree starts: a restart in it refuses no connection.
//!
//! The default ports lie where systems take those of outgoing connections from, so what held a port when a node was
//! killed may be somebody else's connection for a moment. A start waits for that, a bounded time.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs as _};
use std::time::Duration;

use converge_ledger_core::NodeId;
use tokio::time::Instant;

use crate::Config;
use crate::config::Address;
use crate::node::StartError;

/// How long a start waits for addresses that are taken.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it tries them meanwhile.
const AGAIN: Duration = Duration::from_millis(50);

/// What a node listens on; none where it does not.
pub(crate) struct Sockets {
    pub(crate) peer: Option<TcpListener>,
    pub(crate) grpc: Option<TcpListener>,
}

impl Sockets {
    /// Binds what the configuration names, or says what stands in the way.
    pub(crate) fn bind(config: &Config, elsewhere: bool) -> Result<Sockets, StartError> {
        let (peer, grpc) = wanted(config, elsewhere)?;
        let peer = peer.map(|wanted| wanted.bind().map_err(|error| wanted.failed(&error))).transpose()?;
        let grpc = grpc.map(|wanted| wanted.bind().map_err(|error| wanted.failed(&error))).transpose()?;
        Sockets { peer, grpc }.checked(config)
    }

    /// As [`Sockets::bind`], and waits a moment for an address that is taken.
    pub(crate) async fn wait(config: &Config, elsewhere: bool) -> Result<Sockets, StartError> {
        let (peer, grpc) = wanted(config, elsewhere)?;
        let end = Instant::now() + PATIENCE;
        let mut sockets = Sockets { peer: None, grpc: None };
        if let Some(wanted) = peer {
            sockets.peer = Some(wanted.wait(end).await?);
        }
        if let Some(wanted) = grpc {
            sockets.grpc = Some(wanted.wait(end).await?);
        }
        sockets.checked(config)
    }

    fn checked(self, config: &Config) -> Result<Sockets, StartError> {
        warn_of_loopback(self.peer.as_ref(), config, &config.voters().map_err(StartError::new)?);
        Ok(self)
    }
}

/// An address of the configuration.
struct Wanted<'c> {
    key: &'static str,
    address: &'c str,
}

/// The addresses for peers and for clients. A node alone has no peers, and one whose network is `elsewhere` needs no
/// socket for them.
fn wanted(config: &Config, elsewhere: bool) -> Result<(Option<Wanted<'_>>, Option<Wanted<'_>>), StartError> {
    config.validate().map_err(StartError::new)?;
    let by_sockets = !config.cluster.peers.is_empty() && !elsewhere;
    let peer = by_sockets.then_some(Wanted { key: "listen.peer", address: &config.listen.peer });
    let grpc = config.listen.grpc_addr().map(|address| Wanted { key: "listen.grpc", address });
    Ok((peer, grpc))
}

/// Why nothing listens, and the next step.
struct Unbound(io::Error, &'static str);

impl Wanted<'_> {
    fn bind(&self) -> Result<TcpListener, Unbound> {
        let unresolved = "name an address of this machine, or a name that stands for one here";
        let addresses = self.address.to_socket_addrs().map_err(|error| Unbound(error, unresolved))?;
        let addresses: Vec<_> = addresses.collect();
        let socket = TcpListener::bind(&addresses[..]).and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
        socket.map_err(|error| {
            let next = next_step(error.kind());
            Unbound(error, next)
        })
    }

    async fn wait(&self, end: Instant) -> Result<TcpListener, StartError> {
        let mut is_said = false;
        loop {
            match self.bind() {
                Err(Unbound(error, _)) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < end => {
                    let Wanted { key, address } = self;
                    if !std::mem::replace(&mut is_said, true) {
                        tracing::info!(key, address, patience = ?PATIENCE, "the address is taken: trying again");
                    }
                    tokio::time::sleep(AGAIN).await;
                }
                bound => return bound.map_err(|refusal| self.failed(&refusal)),
            }
        }
    }

    fn failed(&self, Unbound(error, next): &Unbound) -> StartError {
        StartError::new(format!("cannot listen on {} = {:?}: {error}; {next}", self.key, self.address))
    }
}

/// What to do about an address that nothing can listen on.
fn next_step(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::AddrInUse => "stop what listens there, or choose another port (0: one that is free)",
        io::ErrorKind::AddrNotAvailable => {
            "this machine does not have that address: choose one of its own, or 0.0.0.0 for all of them"
        }
        io::ErrorKind::PermissionDenied => {
            "this user may not: choose a port from 1024 on, or allow it (CAP_NET_BIND_SERVICE on Linux)"
        }
        _ => "choose another address",
    }
}

/// A machine's own name may stand for 127.0.1.1 on it, and for something else everywhere else.
fn warn_of_loopback(socket: Option<&TcpListener>, config: &Config, voters: &BTreeMap<NodeId, String>) {
    let is_loopback = |text: &str| {
        let host = Address::parse(text, 0).map_or("", |address| address.host);
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    };
    let Some(bound) = address(socket).filter(|bound| bound.ip().is_loopback()) else { return };
    if let Some(far) = voters.values().find(|address| !is_loopback(address)) {
        tracing::warn!(
            listen = config.listen.peer,
            %bound,
            peer = far,
            "the peer port is on loopback, where other machines cannot reach it: set listen.peer, 0.0.0.0 is all addresses"
        );
    }
}

pub(crate) fn address(socket: Option<&TcpListener>) -> Option<SocketAddr> {
    socket.and_then(|socket| socket.local_addr().ok())
}
