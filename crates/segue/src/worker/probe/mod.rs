//! The HTTP probe: one question to one worker, over a connection that others do not get.
//!
//! Nothing is asked before the kernel has said which process has accepted the connection: whoever else
//! listens at the same port, its answer proves nothing. The time-out covers all of it, and whatever
//! goes wrong has a name.

mod http;
#[cfg(test)]
mod tests;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use segue_core::ProbeFailure;
use segue_sys::diag;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, UnixStream};

use crate::config::probe::Statuses;

/// Between two looks at whether the connection has been accepted: at first, and at most.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LAST_LOOK: Duration = Duration::from_millis(50);

/// What is asked, and what counts as a good answer.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) path: String,
    pub(crate) status: Statuses,
    pub(crate) timeout: Duration,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) host: Option<String>,
}

/// Who is asked, and how.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) road: Road,
    pub(crate) is_tls: bool,
    /// The processes that accept from its socket: the worker, and those that share it.
    pub(crate) pids: Vec<u32>,
}

/// The connection.
#[derive(Debug)]
pub(crate) enum Road {
    /// To be made from this socket, which is bound to `source`.
    Tcp {
        socket: OwnedFd,
        source: SocketAddr,
        target: SocketAddr,
    },
    /// A Unix-domain one that is there.
    Connected(OwnedFd),
}

/// Why a worker has not passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) failure: ProbeFailure,
    /// What the system or the library said of it.
    pub(crate) detail: Option<String>,
}

impl Failed {
    fn because(failure: ProbeFailure, detail: impl ToString) -> Self {
        Self {
            failure,
            detail: Some(detail.to_string()),
        }
    }

    /// An error of the connection.
    pub(crate) fn of_io(error: &io::Error) -> Self {
        let failure = match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => ProbeFailure::Refused,
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::NotConnected => ProbeFailure::Closed,
            io::ErrorKind::TimedOut => ProbeFailure::TimedOut,
            _ => ProbeFailure::Other,
        };
        Self::because(failure, error)
    }
}

impl From<ProbeFailure> for Failed {
    fn from(failure: ProbeFailure) -> Self {
        Self {
            failure,
            detail: None,
        }
    }
}

/// Bytes to a worker and from it.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Asks once. `accepted` is called when it is known who has accepted the connection: from then on no
/// rule is needed that brings it there.
///
/// # Errors
/// What was wrong with the answer, or why there was none within the time-out.
pub(crate) async fn ask(
    question: &Question,
    subject: Subject,
    accepted: impl FnOnce() + Send,
) -> Result<(), Failed> {
    let asked = tokio::time::timeout(question.timeout, exchange(question, subject, accepted));
    match asked.await {
        Ok(Ok(status)) if question.status.contain(status) => Ok(()),
        Ok(Ok(status)) => Err(ProbeFailure::Status(status).into()),
        Ok(Err(failed)) => Err(failed),
        Err(_) => Err(ProbeFailure::TimedOut.into()),
    }
}

/// The status of the answer.
async fn exchange(
    question: &Question,
    subject: Subject,
    accepted: impl FnOnce() + Send,
) -> Result<u16, Failed> {
    let Subject { road, is_tls, pids } = subject;
    let failed = |error: io::Error| Failed::of_io(&error);
    let (stream, authority): (Box<dyn Stream>, String) = match road {
        Road::Tcp {
            socket,
            source,
            target,
        } => {
            let socket = TcpSocket::from_std_stream(socket.into());
            let stream = socket.connect(target).await.map_err(failed)?;
            identify(&pids, || diag::accepted(target, source)).await?;
            (Box::new(stream), target.to_string())
        }
        Road::Connected(socket) => {
            let watched = socket.try_clone().map_err(failed)?;
            identify(&pids, || diag::unix_accepted(&watched)).await?;
            drop(watched);
            let stream = UnixStream::from_std(socket.into()).map_err(failed)?;
            (Box::new(stream), "localhost".to_owned())
        }
    };
    accepted();
    let authority = question.host.as_deref().unwrap_or(&authority);
    if !is_tls {
        return http::first(question, authority, stream).await;
    }
    let (stream, protocol) = tls::wrap(authority, stream).await?;
    match protocol {
        tls::Protocol::Http1 => http::first(question, authority, stream).await,
        tls::Protocol::Http2 => http::second(question, authority, stream).await,
    }
}

/// Waits until one of these processes has accepted the connection. Where the kernel does not tell, who
/// was meant is believed to have been reached.
async fn identify(
    pids: &[u32],
    accepted: impl Fn() -> io::Result<Option<u64>>,
) -> Result<(), Failed> {
    let mut pause = FIRST_LOOK;
    let inode = loop {
        match accepted() {
            Ok(Some(inode)) => break inode,
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(%error, "cannot tell who has accepted a probe");
                return Ok(());
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_LOOK);
    };
    let pids: Vec<i32> = pids
        .iter()
        .filter_map(|pid| i32::try_from(*pid).ok())
        .collect();
    // A worker with many connections has many descriptors to look through.
    let looked = tokio::task::spawn_blocking(move || {
        pids.into_iter()
            .map(|pid| diag::has_socket(pid, inode))
            .find(|has| *has != Some(false))
    });
    match looked.await {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(Failed::because(
            ProbeFailure::Other,
            "another process has accepted the probe's connection at the same port",
        )),
        Err(_) => Err(ProbeFailure::Other.into()),
    }
}
