//! What is told of a worker, and what each of its messages does.

use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::Duration;

use segue_sys::socket;
use segue_wire::node::{
    Bypass, Counted, DrainState, Hello, Line, Message, Passed, Place, QueryServer, Said, Totals,
};
use serde::{Deserialize, Serialize};

use super::ledger::{Broken, Ledger};
use super::{Shared, State};

/// What a worker said, or what became of its channel.
#[derive(Debug, PartialEq)]
pub(crate) enum Report {
    /// The process runs; its script has not started. Once.
    Online,
    /// To be answered by `give` or `deny`.
    Query(QueryServer),
    /// It listens. For port 0 the place has the real port, and `index` tells the questions apart.
    Listening { index: u64, place: Place },
    /// It no longer listens on what it was given under this key.
    Closed { key: String },
    /// `process.send('ready')`. Once.
    SaidReady,
    /// It has a preload script that will drain it. Once.
    Hello(Hello),
    /// It hands over an idle connection.
    Connection(Arrival),
    /// What its drain still waits for, when that has changed.
    State(DrainState),
    /// Nothing is open in it any more. Once.
    Drained(Totals),
    /// Its event loop has come to this ping.
    Pong { number: u64 },
    /// What it has answered since it was told to count.
    Counted(Counted),
    /// It listens on a socket that is not ours. At most [`BYPASSES`] times.
    Bypass(Bypass),
    /// Worth a line in the log. Each kind once.
    Attention(Attention),
}

/// Sockets beside ours that are reported of one worker.
const BYPASSES: u8 = 16;

/// A connection that a worker has let go, and that another one is to serve.
#[derive(Debug)]
pub(crate) struct Arrival {
    /// The key of the address it was accepted at.
    pub(crate) key: String,
    /// The keep-alive time-out that its client was promised; zero for none.
    pub(crate) keep_alive: Duration,
    pub(crate) connection: OwnedFd,
    /// To be dropped once there is room for the next one: the worker hands it over only then.
    pub(crate) receipt: Receipt,
}

/// The acknowledgement of a connection, given when this is dropped.
#[derive(Debug)]
pub(crate) struct Receipt {
    shared: Weak<Shared>,
    number: u64,
}

impl Drop for Receipt {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        let mut state = shared.lock();
        let State { ledger, desk, .. } = &mut *state;
        desk.settle(self.number, ledger);
        state.note();
        drop(state);
        shared.wake.notify_one();
    }
}

impl PartialEq for Arrival {
    // A descriptor has one owner, so equal ones are the same arrival.
    fn eq(&self, other: &Self) -> bool {
        self.connection.as_raw_fd() == other.connection.as_raw_fd()
    }
}

/// Something odd that was survived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attention {
    /// A line that is not JSON; it may have swallowed a message.
    Garbage,
    /// A message above 8 MiB, discarded.
    Oversized,
    /// An acknowledgement of nothing.
    OutOfStep,
    /// Something that it passed as a connection is none, or none of an address that it was given.
    NoConnection,
}

impl fmt::Display for Attention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Garbage => "wrote something to its channel that is not a message",
            Self::Oversized => "sent a message of more than 8 MiB, which was discarded",
            Self::OutOfStep => "acknowledged a socket that it was not sent",
            Self::NoConnection => "handed over something that is not a connection of this app",
        })
    }
}

/// Why nothing more comes from a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The worker closed it, or is gone.
    Eof,
    /// It is of no use any more. Our end stays open until the [`Channel`](super::Channel) is dropped: at its
    /// end a worker exits at once, with whatever requests it has.
    Broken(Broken),
}

/// Where lines become reports, and what need not be said twice.
#[derive(Debug, Default)]
pub(super) struct Desk {
    reports: Vec<Report>,
    is_online: bool,
    is_ready: bool,
    /// A preload script has spoken: it may hand connections over.
    has_preload: bool,
    is_drained: bool,
    state: DrainState,
    bypasses: u8,
    /// A descriptor whose message has not been heard to its end.
    pending: Option<OwnedFd>,
    /// The connection that is reported and not acknowledged.
    owed: Option<Owed>,
    /// How many connections were reported.
    arrivals: u64,
    /// `Ended` has been reported.
    is_over: bool,
    noted: Vec<Attention>,
}

/// An acknowledgement that waits for room.
#[derive(Clone, Copy, Debug)]
struct Owed {
    number: u64,
    /// When it is given in any case.
    deadline: u64,
}

/// The desk as it is written down.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Record {
    is_online: bool,
    is_ready: bool,
    has_preload: bool,
    is_drained: bool,
    bypasses: u8,
    owes: bool,
    arrivals: u64,
    is_over: bool,
}

impl Record {
    pub(super) fn has_preload(&self) -> bool {
        self.has_preload
    }
}

impl Desk {
    pub(super) fn record(&self) -> Record {
        Record {
            is_online: self.is_online,
            is_ready: self.is_ready,
            has_preload: self.has_preload,
            is_drained: self.is_drained,
            bypasses: self.bypasses,
            owes: self.owed.is_some(),
            arrivals: self.arrivals,
            is_over: self.is_over,
        }
    }

    /// What is owed is given at once: whoever was to give it is gone.
    pub(super) fn restore(record: &Record, ledger: &mut Ledger) -> Self {
        if record.owes {
            ledger.acknowledge_theirs();
        }
        Self {
            is_online: record.is_online,
            is_ready: record.is_ready,
            has_preload: record.has_preload,
            is_drained: record.is_drained,
            bypasses: record.bypasses,
            arrivals: record.arrivals,
            is_over: record.is_over,
            ..Self::default()
        }
    }

    pub(super) fn take_reports(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.reports)
    }

    pub(super) fn hear(&mut self, ledger: &mut Ledger, now: u64, line: Line, shared: &Arc<Shared>) {
        if self.is_over {
            // A broken channel says no more, but whether a connection is served still matters.
            if let Line::Message(Message::Accepted { ack, accepted }) = line {
                ledger.answered(ack, accepted);
            }
            return;
        }
        let message = match line {
            Line::Message(message) => message,
            Line::Garbage { .. } => return self.attention(Attention::Garbage),
            Line::Oversized { starts_as_handle } => {
                if starts_as_handle {
                    ledger.heard_handle();
                    ledger.acknowledge_theirs();
                }
                return self.attention(Attention::Oversized);
            }
        };
        match message {
            Message::Online => {
                if !std::mem::replace(&mut self.is_online, true) {
                    self.report(Report::Online);
                }
            }
            Message::QueryServer(query) => {
                ledger.note_question();
                self.report(Report::Query(query));
            }
            Message::Listening { index, place } => self.report(Report::Listening { index, place }),
            Message::Close { key } => self.report(Report::Closed { key }),
            Message::ExitedAfterDisconnect { seq } => ledger.confirm_exit(seq),
            Message::Accepted { ack, accepted } => ledger.answered(ack, accepted),
            Message::Handle { passed, .. } => {
                let descriptor = self.pending.take();
                ledger.heard_handle();
                match passed.filter(|_| self.has_preload) {
                    Some(passed) => self.hear_passed(ledger, now, passed, descriptor, shared),
                    // Closed on arrival; without the answer the worker's whole channel would stall.
                    None => ledger.acknowledge_theirs(),
                }
            }
            Message::Segue(said) => self.hear_preload(ledger, said),
            Message::HandleAck => {
                if !ledger.acknowledged(now) {
                    self.attention(Attention::OutOfStep);
                }
            }
            Message::HandleNack => {
                if !ledger.refused(now) {
                    self.attention(Attention::OutOfStep);
                }
            }
            Message::Ready => {
                if !std::mem::replace(&mut self.is_ready, true) {
                    self.report(Report::SaidReady);
                }
            }
            Message::User | Message::Unknown => {}
        }
    }

    fn hear_preload(&mut self, ledger: &mut Ledger, said: Said) {
        match said {
            Said::Hello(hello) => {
                if !std::mem::replace(&mut self.has_preload, true) {
                    self.report(Report::Hello(hello));
                }
            }
            _ if !self.has_preload => {}
            Said::State(state) => {
                if std::mem::replace(&mut self.state, state) != state {
                    self.report(Report::State(state));
                }
            }
            Said::Drained(totals) => {
                if !std::mem::replace(&mut self.is_drained, true) {
                    self.report(Report::Drained(totals));
                }
            }
            Said::Pong { number } => self.report(Report::Pong { number }),
            Said::Counted(counted) => self.report(Report::Counted(counted)),
            Said::Synced { number, awaits } => ledger.synced(number, awaits),
            Said::Bypass(bypass) => {
                if self.bypasses < BYPASSES {
                    self.bypasses += 1;
                    self.report(Report::Bypass(bypass));
                }
            }
        }
    }

    fn hear_passed(
        &mut self,
        ledger: &mut Ledger,
        now: u64,
        passed: Passed,
        descriptor: Option<OwnedFd>,
        shared: &Arc<Shared>,
    ) {
        let Some(connection) = descriptor else {
            // It sends it again, with the connection that it has kept.
            return ledger.refuse_theirs();
        };
        if !ledger.has_given(&passed.key) || !socket::is_connection(&connection) {
            ledger.acknowledge_theirs();
            // A client may have gone in this very moment; that is nothing odd.
            if !ledger.has_given(&passed.key) || !socket::is_stream(&connection) {
                self.attention(Attention::NoConnection);
            }
            return;
        }
        if self.owed.is_some() {
            // It does not wait for its turn, so it is no Node that speaks.
            ledger.acknowledge_theirs();
        }
        self.arrivals += 1;
        let held_back = u64::try_from(ledger.held_back().as_millis()).unwrap_or(u64::MAX);
        self.owed = Some(Owed {
            number: self.arrivals,
            deadline: now.saturating_add(held_back),
        });
        self.report(Report::Connection(Arrival {
            key: passed.key,
            keep_alive: Duration::from_millis(passed.keep_alive),
            connection,
            receipt: Receipt {
                shared: Arc::downgrade(shared),
                number: self.arrivals,
            },
        }));
    }

    /// Whether descriptors are to be taken from the worker: until it is known to have a preload
    /// script, and after the end, the kernel closes them.
    pub(super) fn takes_descriptors(&self) -> bool {
        self.has_preload && !self.is_over
    }

    pub(super) fn has_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// A descriptor came with the bytes that are heard next.
    pub(super) fn take_descriptor(&mut self, descriptor: OwnedFd) {
        self.pending = Some(descriptor);
    }

    /// The lines that are complete have been heard. A descriptor belongs to a message that began with
    /// it: without an unfinished one it came with something else, and is closed.
    pub(super) fn finish_turn(&mut self, is_within_line: bool) {
        if !is_within_line {
            self.pending = None;
        }
    }

    /// There is room for the next connection, unless this one has been acknowledged already.
    fn settle(&mut self, number: u64, ledger: &mut Ledger) {
        if self.owed.is_some_and(|owed| owed.number == number) {
            self.owed = None;
            ledger.acknowledge_theirs();
        }
    }

    pub(super) fn deadline(&self) -> Option<u64> {
        self.owed.map(|owed| owed.deadline)
    }

    pub(super) fn tick(&mut self, now: u64, ledger: &mut Ledger) {
        if let Some(owed) = self.owed
            && owed.deadline <= now
        {
            self.settle(owed.number, ledger);
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    pub(super) fn end(&mut self) {
        self.is_over = true;
        self.pending = None;
        self.owed = None;
    }

    pub(super) fn attention(&mut self, attention: Attention) {
        if !self.noted.contains(&attention) {
            self.noted.push(attention);
            self.report(Report::Attention(attention));
        }
    }

    fn report(&mut self, report: Report) {
        self.reports.push(report);
    }
}
