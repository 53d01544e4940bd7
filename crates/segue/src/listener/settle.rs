//! Whether a worker that gets no new connections has some coming nevertheless: in the queue of
//! its socket, or in handshakes that began before the set changed. A connection belongs to the
//! socket that got its first packet, however late the last one comes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use segue_core::{SocketRef, WorkerId};
use segue_sys::diag;

/// Clients whose handshake with a local port was under way at some moment.
pub(super) type Handshakes = BTreeSet<SocketAddr>;

/// Workers that settle.
#[derive(Debug, Default)]
pub(super) struct Settling {
    workers: BTreeMap<WorkerId, Watched>,
}

/// What is still to come for one worker.
#[derive(Debug, Default)]
pub(super) struct Watched {
    pub(super) sockets: Vec<SocketRef>,
    pub(super) handshakes: BTreeMap<u16, Handshakes>,
}

impl Settling {
    pub(super) fn begin(&mut self, worker: WorkerId, watched: Watched) {
        self.workers.insert(worker, watched);
    }

    /// Whether nothing is to come any more; a worker that is not known has nothing to come.
    /// Costs a few microseconds, and a netlink dump while handshakes are under way.
    pub(super) fn is_clear(
        &mut self,
        worker: WorkerId,
        has_waiting: impl Fn(SocketRef) -> bool,
    ) -> bool {
        let Some(watched) = self.workers.get_mut(&worker) else {
            return true;
        };
        // Handshakes first: one that is over has put its connection into the queue by then.
        watched.handshakes.retain(|port, old| {
            let present = handshakes(*port);
            old.retain(|peer| present.contains(peer));
            !old.is_empty()
        });
        let is_clear = watched.handshakes.is_empty()
            && !watched.sockets.iter().any(|&socket| has_waiting(socket));
        if is_clear {
            self.workers.remove(&worker);
        }
        is_clear
    }
}

/// Handshakes with a port at this moment. Where the kernel does not tell, none are known, and
/// only the least time that the core lets a worker settle covers them.
pub(super) fn handshakes(port: u16) -> Handshakes {
    diag::handshakes(port).unwrap_or_else(|error| {
        tracing::debug!(%error, port, "cannot list handshakes under way");
        Handshakes::new()
    })
}
