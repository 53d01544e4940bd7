//! Brings connections of one address to its published workers: what was in a queue in turn, one at
//! a time to each; what other workers have let go to whoever has been brought the fewest, several at a
//! time. A connection that is given back goes to the next worker.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use segue_core::{AddressId, WorkerId};
use segue_sys::socket;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch as published};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::{HandOver, Receipt, Tally};
use crate::handoff::Deposit;

/// How long a connection waits for a worker that takes it.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The same for one that a worker has let go. Its client is in no hurry: it has been answered.
pub(super) const MIGRANT_PATIENCE: Duration = Duration::from_secs(30);

/// Connections from other workers that one worker is offered at once. Node takes one descriptor at
/// a time; the next is in its channel by then.
const MIGRANTS_AT_ONCE: usize = 8;

/// Wait after every published worker has given a connection back.
const RETRY: Duration = Duration::from_millis(200);

/// An accepted connection on its way.
#[derive(Debug)]
pub(super) struct Straggler {
    pub(super) connection: Deposit,
    /// Of one that has been served before: the keep-alive time-out that its client was promised.
    pub(super) keep_alive: Option<Duration>,
    /// The worker that has let it go, and does not get it back.
    pub(super) from: Option<WorkerId>,
    /// Workers that gave it back.
    pub(super) tried: Vec<WorkerId>,
    pub(super) expires: Instant,
    pub(super) _share: Share,
}

/// Its share of what may be held at once, free again at its end.
#[derive(Debug)]
pub(super) enum Share {
    Room(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit),
    /// There was no room: the worker it comes from hands nothing over meanwhile.
    Receipt(#[expect(dead_code, reason = "held for its drop")] Receipt),
}

/// What comes to a courier.
pub(super) enum Arriving {
    Waiting(Straggler),
    /// One that is being offered already.
    Offered {
        worker: WorkerId,
        is_migrant: bool,
        given_back: Pin<Box<dyn Future<Output = Option<Straggler>> + Send>>,
    },
}

/// What came of an attempt.
#[derive(Debug)]
struct Attempt {
    worker: WorkerId,
    kind: Kind,
    /// The connection, if it was given back.
    given_back: Option<Straggler>,
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Queue,
    Worker,
}

/// What a worker has been brought.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    /// It is being offered a connection from a queue.
    is_offered: bool,
    /// Connections from other workers that it is being offered.
    migrating: usize,
    /// Those that it has accepted.
    migrated: u64,
}

#[derive(Debug)]
pub(super) struct Courier<H> {
    address: AddressId,
    way: Arc<H>,
    tally: Arc<Tally>,
    /// Oldest first.
    waiting: VecDeque<Straggler>,
    loads: BTreeMap<WorkerId, Load>,
    /// Published workers that have let connections go: where nobody else serves, those still
    /// accept, but two of them must not pass a connection back and forth.
    leavers: BTreeSet<WorkerId>,
    attempts: JoinSet<Attempt>,
    /// Worker that got the last one.
    last: Option<WorkerId>,
    /// When connections that all workers gave back are tried again.
    retry: Option<Instant>,
}

impl<H: HandOver> Courier<H> {
    pub(super) fn new(address: AddressId, way: Arc<H>, tally: Arc<Tally>) -> Self {
        Self {
            address,
            way,
            tally,
            waiting: VecDeque::new(),
            loads: BTreeMap::new(),
            leavers: BTreeSet::new(),
            attempts: JoinSet::new(),
            last: None,
            retry: None,
        }
    }

    /// Works until the address is forgotten and everything is delivered.
    pub(super) async fn run(
        mut self,
        mut incoming: mpsc::UnboundedReceiver<Arriving>,
        mut published: published::Receiver<Vec<WorkerId>>,
    ) {
        let mut is_forgotten = false;
        while !(is_forgotten && self.waiting.is_empty() && self.attempts.is_empty()) {
            self.expire();
            let workers = published.borrow_and_update().clone();
            self.dispatch(&workers);
            let deadline = self.deadline();
            tokio::select! {
                arriving = incoming.recv(), if !is_forgotten => match arriving {
                    Some(Arriving::Waiting(straggler)) => {
                        self.leavers.extend(straggler.from);
                        self.waiting.push_back(straggler);
                    }
                    Some(Arriving::Offered { worker, is_migrant, given_back }) => {
                        let kind = if is_migrant { Kind::Worker } else { Kind::Queue };
                        self.follow(worker, kind, given_back);
                    }
                    None => is_forgotten = true,
                },
                Ok(()) = published.changed(), if !is_forgotten => self.try_all_again(),
                Some(attempt) = self.attempts.join_next() => match attempt {
                    Ok(attempt) => self.finish(attempt),
                    // It panicked, and its connection is gone with it. Which worker it was is not
                    // known any more: with none marked, at worst one is offered a few at once.
                    Err(_) => self.loads.clear(),
                },
                () = sleep_until_some(deadline) => {}
            }
        }
    }

    /// Starts an attempt for each connection for which there is a worker.
    fn dispatch(&mut self, workers: &[WorkerId]) {
        self.loads.retain(|worker, load| {
            load.is_offered || load.migrating > 0 || workers.contains(worker)
        });
        self.leavers.retain(|leaver| workers.contains(leaver));
        let mut kept = VecDeque::with_capacity(self.waiting.len());
        let mut is_refused = false;
        while let Some(straggler) = self.waiting.pop_front() {
            match self.next_worker(workers, &straggler) {
                Some(worker) => self.attempt(worker, straggler),
                None => {
                    let all = workers.iter().all(|worker| straggler.has_tried(*worker));
                    is_refused |= all && !straggler.tried.is_empty() && !workers.is_empty();
                    kept.push_back(straggler);
                }
            }
        }
        self.waiting = kept;
        self.retry = match is_refused {
            true => self.retry.or_else(|| Some(Instant::now() + RETRY)),
            false => None,
        };
    }

    /// The worker that is to be offered the connection now.
    fn next_worker(&self, workers: &[WorkerId], straggler: &Straggler) -> Option<WorkerId> {
        let load = |worker: &WorkerId| self.loads.get(worker).copied().unwrap_or_default();
        let last = workers.iter().position(|worker| Some(*worker) == self.last);
        let start = last.map_or(0, |position| position + 1);
        let mut in_turn = workers
            .iter()
            .cycle()
            .skip(start)
            .take(workers.len())
            .copied()
            .filter(|worker| !straggler.has_tried(*worker));
        match straggler.kind() {
            Kind::Queue => in_turn.find(|worker| !load(worker).is_offered),
            Kind::Worker => in_turn
                .filter(|worker| load(worker).migrating < MIGRANTS_AT_ONCE)
                .filter(|worker| !self.leavers.contains(worker))
                .min_by_key(|worker| {
                    let Load {
                        migrating,
                        migrated,
                        ..
                    } = load(worker);
                    migrated.saturating_add(u64::try_from(migrating).unwrap_or(u64::MAX))
                }),
        }
    }

    fn attempt(&mut self, worker: WorkerId, mut straggler: Straggler) {
        let kind = straggler.kind();
        let (way, address) = (Arc::clone(&self.way), self.address);
        self.last = Some(worker);
        self.follow(worker, kind, async move {
            let keep_alive = straggler.keep_alive;
            let taken = way
                .hand_over(worker, address, keep_alive, straggler.connection)
                .await;
            straggler.connection = taken.err()?;
            Some(straggler)
        });
    }

    /// Waits for what comes of an offer.
    fn follow(
        &mut self,
        worker: WorkerId,
        kind: Kind,
        given_back: impl Future<Output = Option<Straggler>> + Send + 'static,
    ) {
        let load = self.loads.entry(worker).or_default();
        match kind {
            Kind::Queue => load.is_offered = true,
            Kind::Worker => load.migrating += 1,
        }
        let offered = Offered::note(&self.tally, worker);
        self.attempts.spawn(async move {
            let mut given_back = given_back.await;
            drop(offered);
            if let Some(straggler) = &mut given_back {
                straggler.tried.push(worker);
            }
            Attempt {
                worker,
                kind,
                given_back,
            }
        });
    }

    fn finish(&mut self, attempt: Attempt) {
        let Attempt {
            worker,
            kind,
            given_back,
        } = attempt;
        let load = self.loads.entry(worker).or_default();
        match kind {
            Kind::Queue => load.is_offered = false,
            Kind::Worker => load.migrating = load.migrating.saturating_sub(1),
        }
        if let Some(straggler) = given_back {
            self.waiting.push_front(straggler);
            return;
        }
        let count = match kind {
            Kind::Queue => &self.tally.handed_over,
            Kind::Worker => {
                load.migrated += 1;
                &self.tally.migrated
            }
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives up what has waited too long, and lets all workers be tried again if it is time.
    fn expire(&mut self) {
        let now = Instant::now();
        for straggler in std::mem::take(&mut self.waiting) {
            if straggler.expires > now {
                self.waiting.push_back(straggler);
                continue;
            }
            tracing::warn!(address = %self.address, "no worker took a connection in time: closed");
            match straggler.kind() {
                Kind::Queue => {
                    if let Ok(connection) = straggler.connection.copy() {
                        socket::reset(connection);
                    }
                }
                // Between two requests, the end of an idle connection is an orderly one.
                Kind::Worker => drop(straggler.connection),
            }
            self.tally.expired.fetch_add(1, Ordering::Relaxed);
        }
        if self.retry.is_some_and(|retry| retry <= now) {
            self.try_all_again();
        }
    }

    fn try_all_again(&mut self) {
        self.retry = None;
        for straggler in &mut self.waiting {
            straggler.tried.clear();
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let expires = self.waiting.iter().map(|straggler| straggler.expires).min();
        expires.into_iter().chain(self.retry).min()
    }
}

impl Straggler {
    fn kind(&self) -> Kind {
        match self.from {
            Some(_) => Kind::Worker,
            None => Kind::Queue,
        }
    }

    fn has_tried(&self, worker: WorkerId) -> bool {
        self.from == Some(worker) || self.tried.contains(&worker)
    }
}

/// That a worker is being offered a connection, for as long as this lives.
struct Offered {
    tally: Arc<Tally>,
    worker: WorkerId,
}

impl Offered {
    fn note(tally: &Arc<Tally>, worker: WorkerId) -> Self {
        *tally.offered().entry(worker).or_default() += 1;
        Self {
            tally: Arc::clone(tally),
            worker,
        }
    }
}

impl Drop for Offered {
    fn drop(&mut self) {
        let mut offered = self.tally.offered();
        if let Some(count) = offered.get_mut(&self.worker) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                offered.remove(&self.worker);
            }
        }
    }
}

async fn sleep_until_some(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
