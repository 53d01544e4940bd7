//! Whether a worker that gets no new connections has some coming nevertheless: in the queue of
//! its socket, or in handshakes that began before the set changed. A connection belongs to the
//! socket that got its first packet, however late the last one comes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use segue_core::{SocketRef, WorkerId};
use segue_sys::diag;

/// How long a list of handshakes does for all workers that ask: those of one generation are
/// asked about one after the other, and a list costs milliseconds.
const FRESH: Duration = Duration::from_millis(20);

/// Clients whose handshake with a listener was under way at some moment.
pub(super) type Handshakes = BTreeSet<SocketAddr>;

/// Workers that settle.
#[derive(Debug, Default)]
pub(super) struct Settling {
    workers: BTreeMap<WorkerId, Watched>,
    /// The last list for each listening address, and when it was made.
    lists: BTreeMap<SocketAddr, (Instant, Handshakes)>,
}

/// What is still to come for one worker.
#[derive(Debug, Default)]
pub(super) struct Watched {
    pub(super) sockets: Vec<SocketRef>,
    /// By the address they go to.
    pub(super) handshakes: BTreeMap<SocketAddr, Handshakes>,
}

impl Settling {
    pub(super) fn begin(&mut self, worker: WorkerId, watched: Watched) {
        // A list from before lacks what began since, and would say that it is over.
        self.lists.clear();
        self.workers.insert(worker, watched);
    }

    /// Whether nothing is to come any more; a worker that is not known has nothing to come.
    /// Asks for `handshakes` only while some are waited for.
    pub(super) fn is_clear(
        &mut self,
        worker: WorkerId,
        now: Instant,
        handshakes: impl Fn(SocketAddr) -> Handshakes,
        has_waiting: impl Fn(SocketRef) -> bool,
    ) -> bool {
        let Some(watched) = self.workers.get_mut(&worker) else {
            return true;
        };
        // Handshakes first: one that is over has put its connection into the queue by then.
        watched.handshakes.retain(|&local, old| {
            if old.is_empty() {
                return false;
            }
            let (made, list) = self
                .lists
                .entry(local)
                .or_insert_with(|| (now, handshakes(local)));
            if now.duration_since(*made) > FRESH {
                (*made, *list) = (now, handshakes(local));
            }
            old.retain(|peer| list.contains(peer));
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

/// Handshakes with a listener at this moment. Where the kernel does not tell, none are known, and
/// only the least time that the core lets a worker settle covers them.
pub(super) fn handshakes(local: SocketAddr) -> Handshakes {
    diag::handshakes(local).unwrap_or_else(|error| {
        tracing::debug!(%error, %local, "cannot list handshakes under way");
        Handshakes::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use segue_core::{AddressId, SocketIndex};
    use std::cell::Cell;
    use std::net::{IpAddr, Ipv4Addr};

    const WORKER: WorkerId = WorkerId(1);
    const SOCKET: SocketRef = SocketRef {
        address: AddressId(0),
        index: SocketIndex(0),
    };

    const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 80);

    fn peers(ports: &[u16]) -> Handshakes {
        let peer = |port: &u16| SocketAddr::from(([127, 0, 0, 1], *port));
        ports.iter().map(peer).collect()
    }

    fn watched(ports: &[u16]) -> Watched {
        Watched {
            sockets: vec![SOCKET],
            handshakes: BTreeMap::from([(LOCAL, peers(ports))]),
        }
    }

    /// A worker that settles, and time that passes between checks.
    struct Scene {
        settling: Settling,
        now: Instant,
    }

    impl Scene {
        fn new(ports: &[u16]) -> Self {
            let mut settling = Settling::default();
            settling.begin(WORKER, watched(ports));
            let now = Instant::now();
            Self { settling, now }
        }

        fn check(&mut self, under_way: &[u16], waits: bool) -> bool {
            self.now += FRESH * 2;
            let list = |local| {
                assert_eq!(local, LOCAL);
                peers(under_way)
            };
            self.settling.is_clear(WORKER, self.now, list, |_| waits)
        }
    }

    #[test]
    fn handshakes_that_began_before_are_waited_for() {
        let mut scene = Scene::new(&[1, 2]);
        assert!(!scene.check(&[1, 2, 3], false));
        // One is over and in the queue; those that began later are not waited for.
        assert!(!scene.check(&[2, 3, 4], true));
        assert!(!scene.check(&[2], false));
        assert!(
            !scene.check(&[1, 3], true),
            "1 came again, to another socket"
        );
        assert!(scene.check(&[1, 3], false));
    }

    #[test]
    fn the_queue_is_looked_at_last() {
        let Scene { mut settling, now } = Scene::new(&[1]);
        let is_over = Cell::new(false);
        let handshakes = |_| {
            is_over.set(true);
            Handshakes::new()
        };
        assert!(!settling.is_clear(WORKER, now, handshakes, |_| is_over.get()));
    }

    #[test]
    fn nothing_is_asked_of_the_kernel_without_need() {
        let Scene { mut settling, now } = Scene::new(&[]);
        let mut check = |waits| {
            let no_list = |_| unreachable!("no handshake was under way");
            settling.is_clear(WORKER, now, no_list, |_| waits)
        };
        assert!(!check(true));
        assert!(check(false));
    }

    #[test]
    fn one_list_does_for_workers_that_are_asked_about_together() {
        let other = WorkerId(2);
        let Scene { mut settling, now } = Scene::new(&[1]);
        settling.begin(other, watched(&[1]));
        let lists = Cell::new(0);
        let list = |_| {
            lists.set(lists.get() + 1);
            peers(&[1])
        };
        assert!(!settling.is_clear(WORKER, now, list, |_| false));
        assert!(!settling.is_clear(other, now, list, |_| false));
        assert_eq!(lists.get(), 1);
        // It is not believed about a worker whose handshakes may be younger.
        settling.begin(other, watched(&[1, 2]));
        assert!(!settling.is_clear(other, now, list, |_| false));
        assert!(!settling.is_clear(other, now + FRESH * 2, list, |_| false));
        assert_eq!(lists.get(), 3);
    }
}
