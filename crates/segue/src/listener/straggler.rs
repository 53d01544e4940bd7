//! Connections without a worker: accepts what is in queues that nobody serves, takes what leaving
//! workers hand over, and brings each to a worker that the core has published for the address, or
//! resets it, as told.
//!
//! ```text
//!   watch (one task per tended socket) ──┬─▶ courier (one task per address) ──▶ HandOver
//!          accepts, up to a bound        │    keeps each connection until a worker took it
//!   adopt (from a leaving worker) ───────┘
//! ```
//!
//! A connection that was accepted is never lost to a change of mind: ending a watch leaves what it
//! accepted with the courier. Nothing wakes up while the queues are empty. It knows neither
//! channels nor who is ready.

mod courier;
mod registry;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use segue_core::{AddressId, SocketRef, Tend, WorkerId};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc, watch as published};
use tokio::time::Instant;

use self::courier::{Arriving, Courier, MIGRANT_PATIENCE, PATIENCE, Share, Straggler};
pub(crate) use self::registry::{Registry, Traveller};
use self::watch::Watch;
use crate::handoff::Deposit;

/// Connections of one app that may be accepted and not yet delivered. The others wait in their
/// queue, where the kernel keeps them just as well.
const HELD_LIMIT: usize = 64;

/// The same for connections that leaving workers hand over, where those that do not fit wait in
/// their worker.
const MIGRANT_LIMIT: usize = 64;

/// The way to a worker.
pub(crate) trait HandOver: Send + Sync + 'static {
    /// Gives a connection to a worker. Done when the worker has accepted it; gives it back when
    /// it surely will not. Must end within a deadline of its own, and must not give back a
    /// connection that the worker may still serve. `keep_alive` is for a connection that has been
    /// served before: the keep-alive time-out that its client was promised, zero for none.
    fn hand_over(
        &self,
        worker: WorkerId,
        address: AddressId,
        keep_alive: Option<Duration>,
        connection: Deposit,
    ) -> impl Future<Output = Result<(), Deposit>> + Send;
}

/// A connection that a leaving worker hands over, idle.
#[derive(Debug)]
pub(crate) struct Migrant {
    pub(crate) connection: OwnedFd,
    /// The keep-alive time-out that its client was promised; zero for none.
    pub(crate) keep_alive: Duration,
    /// The worker it leaves, which will not get it back.
    pub(crate) from: WorkerId,
    /// Dropped as soon as there is room for the worker's next one.
    pub(crate) receipt: Receipt,
}

/// Whatever it is, it is to be dropped in time.
pub(crate) type Receipt = Box<dyn Debug + Send + Sync>;

/// What became of stragglers so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Counts {
    /// Accepted by a worker, from a queue.
    pub(crate) handed_over: u64,
    /// Accepted by a worker, from another worker.
    pub(crate) migrated: u64,
    /// Reset, because nobody will serve the address soon.
    pub(crate) reset: u64,
    /// Reset, because no worker took them in time.
    pub(crate) expired: u64,
}

/// How far a predecessor had come with a connection.
pub(crate) enum Resumed<F> {
    Waiting(Deposit),
    /// A worker has it, or will, and is to say whether it serves it.
    Offered {
        worker: WorkerId,
        verdict: F,
    },
}

#[derive(Debug, Default)]
struct Tally {
    handed_over: AtomicU64,
    migrated: AtomicU64,
    reset: AtomicU64,
    expired: AtomicU64,
    /// How many connections each worker is being offered, all addresses together.
    offered: Mutex<BTreeMap<WorkerId, usize>>,
}

impl Tally {
    fn offered(&self) -> MutexGuard<'_, BTreeMap<WorkerId, usize>> {
        self.offered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stragglers of one app.
#[derive(Debug)]
pub(crate) struct Stragglers<H> {
    way: Arc<H>,
    tally: Arc<Tally>,
    room: Arc<Semaphore>,
    migrant_room: Arc<Semaphore>,
    watches: BTreeMap<SocketRef, (Tend, Watch)>,
    couriers: BTreeMap<AddressId, Address>,
    registry: Registry,
}

#[derive(Debug)]
struct Address {
    stragglers: mpsc::UnboundedSender<Arriving>,
    workers: published::Sender<Vec<WorkerId>>,
}

impl<H: HandOver> Stragglers<H> {
    pub(crate) fn new(way: H, registry: Registry) -> Self {
        Self {
            registry,
            way: Arc::new(way),
            tally: Arc::default(),
            room: Arc::new(Semaphore::new(HELD_LIMIT)),
            migrant_room: Arc::new(Semaphore::new(MIGRANT_LIMIT)),
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
                let registry = self.registry.clone();
                Watch::hand_over(lend()?, socket.address, &self.room, stragglers, registry)?
            }
            Tend::Reset => Watch::reset(lend()?, Arc::clone(&self.tally))?,
        };
        self.watches.insert(socket, (how, watch));
        Ok(())
    }

    /// Brings a connection that a worker has let go to another one, which is the published worker that
    /// has been brought the fewest. Called within a runtime.
    pub(crate) fn adopt(&mut self, address: AddressId, migrant: Migrant) {
        let Migrant {
            connection,
            keep_alive,
            from,
            receipt,
        } = migrant;
        // Without room the receipt goes with the connection, and its worker waits for its end.
        let share = match Arc::clone(&self.migrant_room).try_acquire_owned() {
            Ok(room) => Share::Room(room),
            Err(_) => Share::Receipt(receipt),
        };
        let traveller = Traveller {
            address: address.0,
            keep_alive: Some(keep_alive),
            from: Some(from.0),
        };
        let straggler = Straggler {
            connection: self.registry.enter(connection, &traveller),
            keep_alive: Some(keep_alive),
            from: Some(from),
            tried: Vec::new(),
            expires: Instant::now() + MIGRANT_PATIENCE,
            _share: share,
        };
        // The courier lives as long as the entry.
        drop(
            self.address(address)
                .stragglers
                .send(Arriving::Waiting(straggler)),
        );
    }

    /// Goes on with a connection of a predecessor's. `offered` is where it was on offer, and what
    /// comes of that. Called within a runtime.
    pub(crate) fn resume(
        &mut self,
        traveller: &Traveller,
        state: Resumed<impl Future<Output = Result<(), Deposit>> + Send + 'static>,
    ) {
        let address = AddressId(traveller.address);
        let (room, patience) = match traveller.from {
            Some(_) => (&self.migrant_room, MIGRANT_PATIENCE),
            None => (&self.room, PATIENCE),
        };
        // It counts, but is not held up by what does not fit.
        let share = match Arc::clone(room).try_acquire_owned() {
            Ok(room) => Share::Room(room),
            Err(_) => Share::Receipt(Box::new(())),
        };
        let Traveller {
            keep_alive, from, ..
        } = *traveller;
        let straggler = move |connection| Straggler {
            connection,
            keep_alive,
            from: from.map(WorkerId),
            tried: Vec::new(),
            expires: Instant::now() + patience,
            _share: share,
        };
        let arriving = match state {
            Resumed::Waiting(connection) => Arriving::Waiting(straggler(connection)),
            Resumed::Offered { worker, verdict } => {
                let is_migrant = from.is_some();
                let given_back = async move { Some(straggler(verdict.await.err()?)) };
                Arriving::Offered {
                    worker,
                    is_migrant,
                    given_back: Box::pin(given_back),
                }
            }
        };
        drop(self.address(address).stragglers.send(arriving));
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

    /// Whether a connection is on its way to this worker.
    pub(crate) fn is_offering(&self, worker: WorkerId) -> bool {
        self.tally.offered().contains_key(&worker)
    }

    /// Goes on counting where a predecessor has ended.
    pub(crate) fn count_from(&self, counts: Counts) {
        let tally = &self.tally;
        for (counter, before) in [
            (&tally.handed_over, counts.handed_over),
            (&tally.migrated, counts.migrated),
            (&tally.reset, counts.reset),
            (&tally.expired, counts.expired),
        ] {
            counter.fetch_add(before, Ordering::Relaxed);
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            handed_over: self.tally.handed_over.load(Ordering::Relaxed),
            migrated: self.tally.migrated.load(Ordering::Relaxed),
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
