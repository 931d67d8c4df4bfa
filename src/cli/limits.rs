//! What the process may take from the machine. Only for the command: the limits of an embedding host are its own.

use crate::Config;
use converge_actors::distribution::Lane;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

/// Descriptors for the journal, the database, the runtime and the standard streams, with room to spare.
const FILES_RESERVED: u64 = 64;
/// Descriptors for handshakes at the peer port.
const HANDSHAKES_RESERVED: u64 = 64;
/// Descriptors for one peer: a connection of each lane, each way.
const PEER_RESERVED: u64 = 2 * Lane::ALL.len() as u64;

/// Raises the limit of open files to what is allowed, and cuts the connections of clients to what that leaves. Says
/// what was cut.
pub fn fit(config: &mut Config) {
    let Some(files) = raise() else { return };
    let wanted = config.grpc.connections;
    let fits = connections(files, config.cluster.peers.len() as u64, wanted);
    if fits < wanted {
        tracing::warn!(
            "open files are limited to {files} (ulimit -n): grpc.connections is cut from {wanted} to {fits}; raise \
             the limit for more"
        );
        config.grpc.connections = fits;
    }
}

/// A file past the limit of sizes (`ulimit -f`) becomes an error of its write, instead of the end of the process
/// without a word. The handler stays for as long as the process lives.
pub fn outlive_file_sizes() {
    // Where it cannot be set, all is as without it.
    let _ = signal(SignalKind::from_raw(Signal::XFSZ.as_raw()));
}

/// The limit of open files after it was raised; none where there is none.
pub fn raise() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let soft = current?;
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    match raised {
        Ok(()) => maximum,
        Err(error) => {
            tracing::warn!(%error, soft, "the limit of open files cannot be raised");
            Some(soft)
        }
    }
}

/// How many connections of clients a limit of open files leaves; at least one.
fn connections(files: u64, voters: u64, wanted: u32) -> u32 {
    let peers = voters.saturating_sub(1);
    let handshakes = if peers > 0 { HANDSHAKES_RESERVED } else { 0 };
    let left = files.saturating_sub(FILES_RESERVED + handshakes + peers * PEER_RESERVED);
    wanted.min(u32::try_from(left).unwrap_or(u32::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::connections;

    #[test]
    fn connections_leave_files_for_the_rest() {
        assert_eq!(connections(1024, 0, 512), 512);
        assert_eq!(connections(256, 0, 512), 192);
        assert_eq!(connections(256, 3, 512), 112);
        assert_eq!(connections(20, 3, 512), 1);
    }
}
