//! Brings accepted connections of one address to its published workers, in turn, one at a time
//! to each. A connection that is given back goes to the next worker.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use segue_core::{AddressId, WorkerId};
use segue_sys::socket;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch as published};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::{HandOver, Tally};

/// How long a connection waits for a worker that takes it.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Wait after every published worker has given a connection back.
const RETRY: Duration = Duration::from_millis(200);

/// An accepted connection on its way.
#[derive(Debug)]
pub(super) struct Straggler {
    pub(super) connection: OwnedFd,
    /// Workers that gave it back.
    pub(super) tried: Vec<WorkerId>,
    pub(super) expires: Instant,
    /// Its share of what may be held at once.
    pub(super) _room: OwnedSemaphorePermit,
}

/// What came of an attempt: the worker, and the connection if it was given back.
type Attempt = (WorkerId, Option<Straggler>);

#[derive(Debug)]
pub(super) struct Courier<H> {
    address: AddressId,
    way: Arc<H>,
    tally: Arc<Tally>,
    /// Oldest first.
    waiting: VecDeque<Straggler>,
    /// Workers with an attempt under way.
    busy: Vec<WorkerId>,
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
            busy: Vec::new(),
            attempts: JoinSet::new(),
            last: None,
            retry: None,
        }
    }

    /// Works until the address is forgotten and everything is delivered.
    pub(super) async fn run(
        mut self,
        mut incoming: mpsc::UnboundedReceiver<Straggler>,
        mut published: published::Receiver<Vec<WorkerId>>,
    ) {
        let mut is_forgotten = false;
        while !(is_forgotten && self.waiting.is_empty() && self.attempts.is_empty()) {
            self.expire();
            let workers = published.borrow_and_update().clone();
            self.dispatch(&workers);
            let deadline = self.deadline();
            tokio::select! {
                straggler = incoming.recv(), if !is_forgotten => match straggler {
                    Some(straggler) => self.waiting.push_back(straggler),
                    None => is_forgotten = true,
                },
                Ok(()) = published.changed(), if !is_forgotten => self.try_all_again(),
                Some(attempt) = self.attempts.join_next() => match attempt {
                    Ok(attempt) => self.finish(attempt),
                    // It panicked, and its connection is gone with it. Which worker it was is not
                    // known any more: with none marked busy, at worst one gets two at once.
                    Err(_) => self.busy.clear(),
                },
                () = sleep_until_some(deadline) => {}
            }
        }
    }

    /// Starts an attempt for each connection for which there is a worker.
    fn dispatch(&mut self, workers: &[WorkerId]) {
        let mut kept = VecDeque::with_capacity(self.waiting.len());
        let mut is_refused = false;
        while let Some(straggler) = self.waiting.pop_front() {
            match self.next_worker(workers, &straggler.tried) {
                Some(worker) => self.attempt(worker, straggler),
                None => {
                    is_refused |= workers
                        .iter()
                        .all(|worker| straggler.tried.contains(worker))
                        && !workers.is_empty();
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

    /// The worker after the last one that is neither busy nor in `tried`.
    fn next_worker(&self, workers: &[WorkerId], tried: &[WorkerId]) -> Option<WorkerId> {
        let last = workers.iter().position(|worker| Some(*worker) == self.last);
        let start = last.map_or(0, |position| position + 1);
        let in_turn = workers.iter().cycle().skip(start).take(workers.len());
        in_turn
            .copied()
            .find(|worker| !self.busy.contains(worker) && !tried.contains(worker))
    }

    fn attempt(&mut self, worker: WorkerId, mut straggler: Straggler) {
        self.last = Some(worker);
        self.busy.push(worker);
        let (way, address) = (Arc::clone(&self.way), self.address);
        self.attempts.spawn(async move {
            match way.hand_over(worker, address, straggler.connection).await {
                Ok(()) => (worker, None),
                Err(connection) => {
                    straggler.connection = connection;
                    straggler.tried.push(worker);
                    (worker, Some(straggler))
                }
            }
        });
    }

    fn finish(&mut self, (worker, given_back): Attempt) {
        self.busy.retain(|busy| *busy != worker);
        match given_back {
            Some(straggler) => self.waiting.push_front(straggler),
            None => {
                self.tally.handed_over.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Gives up what has waited too long, and lets all workers be tried again if it is time.
    fn expire(&mut self) {
        let now = Instant::now();
        for straggler in std::mem::take(&mut self.waiting) {
            if straggler.expires > now {
                self.waiting.push_back(straggler);
                continue;
            }
            tracing::warn!(address = %self.address, "no worker took a connection in time: reset");
            socket::reset(straggler.connection);
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

async fn sleep_until_some(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
