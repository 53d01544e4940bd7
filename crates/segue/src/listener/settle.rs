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
        handshakes: impl Fn(u16) -> Handshakes,
        has_waiting: impl Fn(SocketRef) -> bool,
    ) -> bool {
        let Some(watched) = self.workers.get_mut(&worker) else {
            return true;
        };
        // Handshakes first: one that is over has put its connection into the queue by then.
        watched.handshakes.retain(|port, old| {
            if old.is_empty() {
                return false;
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use segue_core::{AddressId, SocketIndex};
    use std::cell::Cell;

    const WORKER: WorkerId = WorkerId(1);
    const SOCKET: SocketRef = SocketRef {
        address: AddressId(0),
        index: SocketIndex(0),
    };

    fn peers(ports: &[u16]) -> Handshakes {
        let peer = |port: &u16| SocketAddr::from(([127, 0, 0, 1], *port));
        ports.iter().map(peer).collect()
    }

    fn watched(ports: &[u16]) -> Watched {
        Watched {
            sockets: vec![SOCKET],
            handshakes: BTreeMap::from([(80, peers(ports))]),
        }
    }

    #[test]
    fn handshakes_that_began_before_are_waited_for() {
        let mut settling = Settling::default();
        settling.begin(WORKER, watched(&[1, 2]));
        let mut check = |now: &[u16], waits: bool| {
            let handshakes = |port| {
                assert_eq!(port, 80);
                peers(now)
            };
            settling.is_clear(WORKER, handshakes, |_| waits)
        };
        assert!(!check(&[1, 2, 3], false));
        // One is over and in the queue; those that began later are not waited for.
        assert!(!check(&[2, 3, 4], true));
        assert!(!check(&[2], false));
        assert!(!check(&[1, 3], true), "1 came again, to another socket");
        assert!(check(&[1, 3], false));
    }

    #[test]
    fn the_queue_is_looked_at_last() {
        let mut settling = Settling::default();
        settling.begin(WORKER, watched(&[1]));
        let is_over = Cell::new(false);
        let handshakes = |_| {
            is_over.set(true);
            Handshakes::new()
        };
        assert!(!settling.is_clear(WORKER, handshakes, |_| is_over.get()));
    }

    #[test]
    fn nothing_is_asked_of_the_kernel_without_need() {
        let mut settling = Settling::default();
        settling.begin(WORKER, watched(&[]));
        let mut check = |waits| {
            let no_list = |_| unreachable!("no handshake was under way");
            settling.is_clear(WORKER, no_list, |_| waits)
        };
        assert!(!check(true));
        assert!(check(false));
    }
}
