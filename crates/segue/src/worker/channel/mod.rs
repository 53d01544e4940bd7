//! The channel to one worker: its I/O, and what is owed over it.
//!
//! One task reads and writes; [`Channel`] only leaves orders for it, so nothing here waits for a
//! worker. What a worker says is heard in the supervisor's loop, line by line, so that what it leads
//! to is written down together with having been heard. A worker that floods, garbles, never reads or never answers costs bounded memory and
//! bounded turns, and ends in [`End::Broken`]. What the messages mean to the app is decided elsewhere.

mod conversation;
mod inbox;
mod ledger;
mod report;
mod succession;
#[cfg(test)]
mod tests;

use std::future::{Future, pending};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use segue_core::{SocketRef, WorkerId};
use segue_sys::clock;
use segue_wire::node::{Decoder, Drain, HandleType};
use serde_json::Value;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::handoff::{Deposit, Journal};
use conversation::Listener;
use inbox::Inbox;
use ledger::Ledger;
use ledger::Limits;
use report::Desk;
pub(crate) use report::{Arrival, Attention, End, Report};
pub(crate) use succession::{Offered, Predecessor, Record};

/// The name under which a descriptor is held whose message has not been heard.
pub(crate) const PENDING: &str = "pending";

/// The name under which what has been read and not heard is written down.
pub(crate) const INBOX: &str = "inbox";

/// What comes from workers' channels, for the loop.
pub(crate) type Heard = (WorkerId, News);

/// Something has come over a channel.
#[derive(Debug)]
pub(crate) enum News {
    /// Lines to be heard, one by one.
    Lines(Lines),
    /// The last news, after these reports.
    Ended(Vec<Report>, End),
}

/// Lines that a worker has written and that have not been heard. The worker is not read any
/// further while they live.
#[derive(Debug)]
pub(crate) struct Lines {
    shared: Arc<Shared>,
    _read_on: oneshot::Sender<()>,
}

/// Our end of one worker's channel. Dropping the last clone closes it.
#[derive(Clone, Debug)]
pub(crate) struct Channel(Arc<Owner>);

#[derive(Debug)]
struct Owner(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Something was left for the task.
    wake: Notify,
    opened: Instant,
    /// Milliseconds of the monotonic clock at `opened`: a successor's deadlines are by the same.
    opened_at: u64,
}

#[derive(Debug)]
struct State {
    ledger: Ledger,
    desk: Desk,
    decoder: Decoder,
    inbox: Inbox,
    is_closed: bool,
    journal: Journal,
    /// Something is held under [`PENDING`].
    is_pending_held: bool,
}

impl Channel {
    /// Takes our end of the socket pair. Must be called within a runtime.
    pub(crate) fn open(
        worker: WorkerId,
        socket: OwnedFd,
        news: mpsc::UnboundedSender<Heard>,
        journal: Journal,
    ) -> Self {
        let ledger = Ledger::new(Limits::default());
        Self::begin(worker, socket, news, State::new(ledger, journal))
    }

    fn begin(
        worker: WorkerId,
        socket: OwnedFd,
        news: mpsc::UnboundedSender<Heard>,
        state: State,
    ) -> Self {
        state.note();
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            wake: Notify::new(),
            opened: Instant::now(),
            opened_at: clock::monotonic_millis(),
        });
        let listener = Listener::new(worker, Arc::clone(&shared), news);
        tokio::spawn(listener.run(socket));
        Self(Arc::new(Owner(shared)))
    }

    /// Answers the question `seq` with a socket. `key` must differ from every key the worker holds.
    pub(crate) fn give(
        &self,
        seq: u64,
        key: &str,
        data: &Value,
        socket: (SocketRef, OwnedFd),
        kind: HandleType,
    ) {
        unblock(&socket.1);
        let now = self.0.0.now();
        self.order(|ledger| ledger.give(now, seq, key, data, socket, kind));
    }

    /// Answers the question `seq` with a positive errno.
    pub(crate) fn deny(&self, seq: u64, key: &str, data: &Value, errno: i32) {
        self.order(|ledger| ledger.deny(seq, key, data, errno));
    }

    /// Tells the worker to close its servers, finish what is open, and close the channel.
    pub(crate) fn disconnect(&self) {
        self.order(Ledger::disconnect);
    }

    /// Tells the worker's preload script how to drain; without one nobody listens.
    pub(crate) fn drain(&self, drain: Drain) {
        self.order(|ledger| ledger.drain(drain));
    }

    /// Asks the preload script to answer with this number; a worker whose event loop is blocked does so
    /// only afterwards.
    pub(crate) fn ping(&self, number: u64) {
        self.order(|ledger| ledger.ping(number));
    }

    /// Has the preload script count answers, from zero unless it does already, or no more.
    pub(crate) fn count(&self, on: bool) {
        self.order(|ledger| ledger.count(on));
    }

    /// Has Node write what it has compiled into its compile cache, for those that start later.
    pub(crate) fn fill_cache(&self) {
        self.order(Ledger::fill_cache);
    }

    /// Says something to the app, which hears it in its `'message'` listeners.
    pub(crate) fn tell_app(&self, text: &str) {
        self.order(|ledger| ledger.tell_app(text));
    }

    /// Offers the worker a connection for the socket it holds under `key`. Our own copy is kept
    /// until it accepts. It comes back when the worker surely will not serve it: it has declined, was
    /// never sent it, has closed the channel, or the channel has been dropped (after its death). The
    /// worker has 30 s to take it and 30 s to decide, then the channel is broken; it may still decide.
    /// `keep_alive` is for a connection that another worker has served: the keep-alive time-out that
    /// its client was promised, zero for none.
    pub(crate) fn hand_over(
        &self,
        key: &str,
        keep_alive: Option<Duration>,
        connection: Deposit,
    ) -> impl Future<Output = Result<(), Deposit>> + Send + use<> {
        unblock(&connection);
        let now = self.0.0.now();
        let (verdict, decided) = oneshot::channel();
        let keep_alive = keep_alive.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        self.order(|ledger| ledger.offer(now, key, keep_alive, connection, verdict));
        // The ledger decides every offer; it is dropped undecided only with the whole runtime.
        async { decided.await.unwrap_or(Ok(())) }
    }

    fn order(&self, leave: impl FnOnce(&mut Ledger)) {
        self.0.0.order(leave);
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_closed = true;
        // What a panic takes away, a successor is to find.
        if !std::thread::panicking() {
            state.journal.drop("channel");
            state.journal.drop(INBOX);
        }
        drop(state);
        self.0.wake.notify_one();
    }
}

impl Lines {
    /// Hears the next line; `None` when there is none. What it changes here takes effect with
    /// whatever the caller does about it, at the next commit of the journal.
    pub(crate) fn next(&mut self) -> Option<Vec<Report>> {
        let now = self.shared.now();
        let mut state = self.shared.lock();
        let State {
            ledger,
            desk,
            decoder,
            inbox,
            ..
        } = &mut *state;
        let rest = inbox.next_line()?;
        let mut reports = Vec::new();
        decoder.feed(&rest, |line| {
            desk.hear(ledger, now, line, &self.shared);
            reports.append(&mut desk.take_reports());
        });
        if inbox.is_empty() {
            desk.finish_turn(decoder.is_within_line());
        }
        state.note();
        drop(state);
        self.shared.wake.notify_one();
        Some(reports)
    }
}

impl State {
    fn new(ledger: Ledger, journal: Journal) -> Self {
        Self {
            ledger,
            desk: Desk::default(),
            decoder: Decoder::default(),
            inbox: Inbox::default(),
            is_closed: false,
            journal,
            is_pending_held: false,
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        let since = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.opened_at.saturating_add(since)
    }

    fn order(&self, leave: impl FnOnce(&mut Ledger)) {
        let mut state = self.lock();
        leave(&mut state.ledger);
        state.note();
        drop(state);
        self.wake.notify_one();
    }

    async fn until(&self, deadline: Option<u64>) {
        match deadline {
            Some(deadline) => {
                let since = deadline.saturating_sub(self.opened_at);
                sleep_until(self.opened + Duration::from_millis(since)).await;
            }
            None => pending().await,
        }
    }
}

/// Node 16 takes a descriptor as it is, and would block its event loop in accept or read.
fn unblock(socket: impl AsFd) {
    // Both fail for no reason but a descriptor that is not open, and this one is.
    if let Ok(flags) = fcntl_getfl(&socket) {
        let _ = fcntl_setfl(&socket, flags | OFlags::NONBLOCK);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
