//! The ways in which a request can fail, as its client sees them.

use std::fmt;
use std::io;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// One kind of failure. "Before" means that not one byte of the answer had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// Nobody accepts connections: ECONNREFUSED, or no such Unix socket.
    Refused,
    /// The connection was not established in time.
    ConnectTimeout,
    /// The connection was reset after the request was begun.
    ResetBeforeAnswer,
    /// The connection was reset within the answer.
    ResetInAnswer,
    /// The server closed the connection instead of answering.
    EofBeforeAnswer,
    /// The server closed the connection within the answer: it is truncated.
    EofInAnswer,
    /// The answer was not complete in time.
    Timeout,
    /// A well-formed answer with the wrong number, status, body or hash.
    WrongAnswer,
    /// A second answer to a request that had been answered.
    RepeatedAnswer,
    /// Bytes that belong to no request.
    UnsolicitedBytes,
    /// Not the protocol that is spoken, or HTTP/1.1 that leaves room for two readings.
    BadSyntax,
    /// A WebSocket connection ended without a close frame.
    NoCloseFrame,
    /// The client's own machine had no descriptor, port or memory left. Says nothing about the server.
    ClientLimit,
}

impl FailureKind {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 13] = [
        Self::Refused,
        Self::ConnectTimeout,
        Self::ResetBeforeAnswer,
        Self::ResetInAnswer,
        Self::EofBeforeAnswer,
        Self::EofInAnswer,
        Self::Timeout,
        Self::WrongAnswer,
        Self::RepeatedAnswer,
        Self::UnsolicitedBytes,
        Self::BadSyntax,
        Self::NoCloseFrame,
        Self::ClientLimit,
    ];

    /// Whether the death of the process that was answering explains it: its connections end, but
    /// nobody is refused, kept waiting or told something wrong.
    #[must_use]
    pub fn is_cut_off(self) -> bool {
        matches!(
            self,
            Self::ResetBeforeAnswer
                | Self::ResetInAnswer
                | Self::EofBeforeAnswer
                | Self::EofInAnswer
                | Self::NoCloseFrame
        )
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Refused => "refused",
            Self::ConnectTimeout => "connect timed out",
            Self::ResetBeforeAnswer => "reset before the answer",
            Self::ResetInAnswer => "reset in the answer",
            Self::EofBeforeAnswer => "closed before the answer",
            Self::EofInAnswer => "closed in the answer",
            Self::Timeout => "answer timed out",
            Self::WrongAnswer => "wrong answer",
            Self::RepeatedAnswer => "repeated answer",
            Self::UnsolicitedBytes => "unsolicited bytes",
            Self::BadSyntax => "bad syntax",
            Self::NoCloseFrame => "no close frame",
            Self::ClientLimit => "limit of the client",
        })
    }
}

/// One failure, with what is needed to find it in a trace of the server or the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Milliseconds since the load was started.
    pub at_ms: u64,
    pub kind: FailureKind,
    /// The kind of load.
    pub class: String,
    /// The number of the request.
    pub request: u64,
    /// The client's port; none before a connection exists and on Unix sockets.
    pub local_port: Option<u16>,
    /// How many requests the connection had answered before.
    pub answered_before: u64,
    /// The name of the window of the time line.
    pub window: String,
    /// What happened, with the text of the errno if there was one.
    pub detail: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{:03}s {} #{}: {}: {}",
            self.at_ms / 1000,
            self.at_ms % 1000,
            self.class,
            self.request,
            self.kind,
            self.detail
        )?;
        if let Some(port) = self.local_port {
            write!(f, " (port {port}, after {} answers)", self.answered_before)?;
        }
        write!(f, " [{}]", self.window)
    }
}

/// A failure on its way to the tally, which adds time, class and place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) kind: FailureKind,
    pub(crate) detail: String,
}

impl Trouble {
    pub(crate) fn new(kind: FailureKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
        }
    }

    /// An error of connect(2) or socket(2).
    pub(crate) fn of_connect(error: &io::Error) -> Self {
        let kind = match Errno::from_io_error(error) {
            Some(
                Errno::MFILE
                | Errno::NFILE
                | Errno::NOBUFS
                | Errno::NOMEM
                | Errno::ADDRNOTAVAIL
                | Errno::AGAIN,
            ) => FailureKind::ClientLimit,
            Some(Errno::TIMEDOUT) => FailureKind::ConnectTimeout,
            None if error.kind() == io::ErrorKind::TimedOut => FailureKind::ConnectTimeout,
            _ => FailureKind::Refused,
        };
        Self::new(kind, format!("connect: {error}"))
    }

    /// An error of read(2) or write(2); `in_answer` says that part of the answer has come.
    pub(crate) fn of_transfer(call: &str, error: &io::Error, in_answer: bool) -> Self {
        // TLS without its closing alert: the end of the stream, which may be anybody's doing.
        if error.kind() == io::ErrorKind::UnexpectedEof {
            let mut trouble = Self::of_eof(in_answer);
            trouble.detail = format!("{call}: {error}");
            return trouble;
        }
        let kind = if in_answer {
            FailureKind::ResetInAnswer
        } else {
            FailureKind::ResetBeforeAnswer
        };
        Self::new(kind, format!("{call}: {error}"))
    }

    /// The failure of a request that was sent behind one that failed in this way.
    pub(crate) fn of_follower(&self) -> Self {
        let kind = match self.kind {
            FailureKind::ResetInAnswer => FailureKind::ResetBeforeAnswer,
            FailureKind::EofInAnswer => FailureKind::EofBeforeAnswer,
            kind => kind,
        };
        Self::new(
            kind,
            format!("behind a request that failed: {}", self.detail),
        )
    }

    pub(crate) fn of_eof(in_answer: bool) -> Self {
        if in_answer {
            Self::new(FailureKind::EofInAnswer, "end of stream within the answer")
        } else {
            Self::new(
                FailureKind::EofBeforeAnswer,
                "end of stream, no byte of an answer",
            )
        }
    }
}
