//! What is told of a worker, and what each of its messages does.

use std::fmt;

use segue_core::WorkerId;
use segue_wire::node::{Line, Message, Place, QueryServer};
use tokio::sync::mpsc;

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
    /// Worth a line in the log. Each kind once.
    Attention(Attention),
    /// The last report.
    Ended(End),
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
}

impl fmt::Display for Attention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Garbage => "wrote something to its channel that is not a message",
            Self::Oversized => "sent a message of more than 8 MiB, which was discarded",
            Self::OutOfStep => "acknowledged a socket that it was not sent",
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
    /// `Ended` has been reported.
    is_over: bool,
    noted: Vec<Attention>,
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
            // Closed on arrival; without the answer the worker's whole channel would stall.
            Message::Handle { .. } => ledger.acknowledge_theirs(),
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
            Message::User | Message::Unknown | Message::Segue(_) => {}
        }
    }

    pub(super) fn end(&mut self, end: End) {
        self.is_over = true;
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
