//! What is told of a worker, and what each of its messages does.

use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use segue_core::WorkerId;
use segue_sys::socket;
use segue_wire::node::{
    Bypass, DrainState, Hello, Line, Message, Passed, Place, QueryServer, Said, Totals,
};
use tokio::sync::{mpsc, oneshot};

use super::ledger::{Broken, Ledger};

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
    /// It listens on a socket that is not ours. At most [`BYPASSES`] times.
    Bypass(Bypass),
    /// Worth a line in the log. Each kind once.
    Attention(Attention),
    /// The last report.
    Ended(End),
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
    pub(crate) receipt: oneshot::Sender<()>,
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

/// Where reports leave, and what need not be said twice.
pub(super) struct Desk {
    worker: WorkerId,
    reports: mpsc::UnboundedSender<(WorkerId, Report)>,
    is_online: bool,
    is_ready: bool,
    /// A preload script has spoken: it may hand connections over.
    has_preload: bool,
    is_drained: bool,
    state: DrainState,
    bypasses: u8,
    /// A descriptor whose message has not been heard to its end.
    pending: Option<OwnedFd>,
    /// Connections reported and not acknowledged.
    owed: Option<Owed>,
    /// `Ended` has been reported.
    is_over: bool,
    noted: Vec<Attention>,
}

/// An acknowledgement that waits for room.
pub(super) struct Owed {
    pub(super) taken: oneshot::Receiver<()>,
    /// When it is given in any case.
    pub(super) deadline: u64,
}

impl Desk {
    pub(super) fn new(
        worker: WorkerId,
        reports: mpsc::UnboundedSender<(WorkerId, Report)>,
    ) -> Self {
        Self {
            worker,
            reports,
            is_online: false,
            is_ready: false,
            has_preload: false,
            is_drained: false,
            state: DrainState::default(),
            bypasses: 0,
            pending: None,
            owed: None,
            is_over: false,
            noted: Vec::new(),
        }
    }

    pub(super) fn hear(&mut self, ledger: &mut Ledger, now: u64, line: Line) {
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
                match passed.filter(|_| self.has_preload) {
                    Some(passed) => self.hear_passed(ledger, now, passed, descriptor),
                    // Closed on arrival; without the answer the worker's whole channel would stall.
                    None => ledger.acknowledge_theirs(),
                }
            }
            Message::Segue(said) => self.hear_preload(said),
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

    fn hear_preload(&mut self, said: Said) {
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
        let (receipt, taken) = oneshot::channel();
        let held_back = u64::try_from(ledger.held_back().as_millis()).unwrap_or(u64::MAX);
        self.owed = Some(Owed {
            taken,
            deadline: now.saturating_add(held_back),
        });
        self.report(Report::Connection(Arrival {
            key: passed.key,
            keep_alive: Duration::from_millis(passed.keep_alive),
            connection,
            receipt,
        }));
    }

    /// Whether descriptors are to be taken from the worker: until it is known to have a preload
    /// script, and after the end, the kernel closes them.
    pub(super) fn takes_descriptors(&self) -> bool {
        self.has_preload && !self.is_over
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

    pub(super) fn owed(&mut self) -> Option<&mut Owed> {
        self.owed.as_mut()
    }

    pub(super) fn settle(&mut self) {
        self.owed = None;
    }

    pub(super) fn end(&mut self, end: End) {
        self.is_over = true;
        self.pending = None;
        self.owed = None;
        self.report(Report::Ended(end));
    }

    pub(super) fn attention(&mut self, attention: Attention) {
        if !self.noted.contains(&attention) {
            self.noted.push(attention);
            self.report(Report::Attention(attention));
        }
    }

    fn report(&self, report: Report) {
        // Nobody listens any more: the supervisor is ending.
        drop(self.reports.send((self.worker, report)));
    }
}
