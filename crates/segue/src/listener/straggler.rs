//! Queues without a worker: accepts what is in them and hands each connection to a worker that
//! the core has published for the address, or resets it, as told.
//!
//! ```text
//!   watch (one task per tended socket) ──▶ courier (one task per address) ──▶ HandOver
//!          accepts, up to a bound            keeps each connection until a worker took it
//! ```
//!
//! A connection that was accepted is never lost to a change of mind: ending a watch leaves what it
//! accepted with the courier. Nothing wakes up while the queues are empty. It knows neither
//! channels nor who is ready.

mod courier;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use segue_core::{AddressId, SocketRef, Tend, WorkerId};
use tokio::sync::{Semaphore, mpsc, watch as published};

use self::courier::{Courier, Straggler};
use self::watch::Watch;

/// Connections of one app that may be accepted and not yet delivered. The others wait in their
/// queue, where the kernel keeps them just as well.
const HELD_LIMIT: usize = 64;

/// The way to a worker.
pub(crate) trait HandOver: Send + Sync + 'static {
    /// Gives a connection to a worker. Done when the worker has accepted it; gives it back when
    /// it surely will not. Must end within a deadline of its own, and must not give back a
    /// connection that the worker may still serve.
    fn hand_over(
        &self,
        worker: WorkerId,
        address: AddressId,
        connection: OwnedFd,
    ) -> impl Future<Output = Result<(), OwnedFd>> + Send;
}

/// What became of stragglers so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Accepted by a worker.
    pub(crate) handed_over: u64,
    /// Reset, because nobody will serve the address soon.
    pub(crate) reset: u64,
    /// Reset, because no worker took them in time.
    pub(crate) expired: u64,
}

#[derive(Debug, Default)]
struct Tally {
    handed_over: AtomicU64,
    reset: AtomicU64,
    expired: AtomicU64,
}

/// The stragglers of one app.
#[derive(Debug)]
pub(crate) struct Stragglers<H> {
    way: Arc<H>,
    tally: Arc<Tally>,
    room: Arc<Semaphore>,
    watches: BTreeMap<SocketRef, (Tend, Watch)>,
    couriers: BTreeMap<AddressId, Address>,
}

#[derive(Debug)]
struct Address {
    stragglers: mpsc::UnboundedSender<Straggler>,
    workers: published::Sender<Vec<WorkerId>>,
}

impl<H: HandOver> Stragglers<H> {
    pub(crate) fn new(way: H) -> Self {
        Self {
            way: Arc::new(way),
            tally: Arc::default(),
            room: Arc::new(Semaphore::new(HELD_LIMIT)),
            watches: BTreeMap::new(),
            couriers: BTreeMap::new(),
        }
    }

    /// Sets what becomes of connections in this socket's queue. `lend` gives a copy of the socket,
    /// which is closed by the time a later call says [`Tend::Leave`]. Called within a runtime.
    ///
    /// # Errors
    /// `EMFILE` and the like, from `lend` or epoll_ctl(2); the socket is then left alone.
    pub(crate) fn tend(
        &mut self,
        socket: SocketRef,
        how: Tend,
        lend: impl FnOnce() -> io::Result<OwnedFd>,
    ) -> io::Result<()> {
        if self
            .watches
            .get(&socket)
            .is_some_and(|(present, _)| *present == how)
        {
            return Ok(());
        }
        self.watches.remove(&socket);
        let watch = match how {
            Tend::Leave => return Ok(()),
            Tend::HandOver => {
                let stragglers = self.address(socket.address).stragglers.clone();
                Watch::hand_over(lend()?, Arc::clone(&self.room), stragglers)?
            }
            Tend::Reset => Watch::reset(lend()?, Arc::clone(&self.tally))?,
        };
        self.watches.insert(socket, (how, watch));
        Ok(())
    }

    /// From now on connections of this address go to these workers, in turn.
    pub(crate) fn publish(&mut self, address: AddressId, workers: Vec<WorkerId>) {
        self.address(address).workers.send_replace(workers);
    }

    /// Ends all watches of an address, at once. What was accepted is still delivered, to the
    /// workers published last.
    pub(crate) fn forget(&mut self, address: AddressId) {
        self.watches.retain(|socket, _| socket.address != address);
        self.couriers.remove(&address);
    }

    /// Connections that were accepted and are not delivered yet.
    pub(crate) fn held(&self) -> usize {
        HELD_LIMIT - self.room.available_permits()
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            handed_over: self.tally.handed_over.load(Ordering::Relaxed),
            reset: self.tally.reset.load(Ordering::Relaxed),
            expired: self.tally.expired.load(Ordering::Relaxed),
        }
    }

    fn address(&mut self, address: AddressId) -> &Address {
        self.couriers.entry(address).or_insert_with(|| {
            let (stragglers, incoming) = mpsc::unbounded_channel();
            let (workers, published) = published::channel(Vec::new());
            let courier = Courier::new(address, Arc::clone(&self.way), Arc::clone(&self.tally));
            tokio::spawn(courier.run(incoming, published));
            Address {
                stragglers,
                workers,
            }
        })
    }
}
