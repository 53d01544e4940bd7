//! The control server: accepts, checks who calls, and bounds what any caller can take.
//!
//! Nothing that a caller does or leaves undone harms another caller or the supervisor: a request
//! has ten seconds to arrive and its answer ten to be read, connections that have not asked
//! anything make room for new ones, and streams have a limit below that of connections.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Future, pending};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::answer::{Answerer, Stage};
use super::command::{Command, Peer};
use super::socket::ControlSocket;

/// Connections at once.
const MAX_CONNECTIONS: usize = 64;
/// Streams at once, so that there is always room for a request.
const MAX_STREAMS: usize = 48;
/// How long a request may take to arrive, and an answer to be read.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait when the process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long the last answers may take to be read once the supervisor ends.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// The longest head of a request, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// Serves until `ending` completes; then accepts nobody more, removes the socket's file, and gives the
/// answers that are under way a second to be read. Streams end when their tellers are dropped, which is to
/// happen before that.
///
/// # Errors
/// The listener cannot be used at all. Failures of single connections are logged.
pub(crate) async fn serve(
    socket: ControlSocket,
    commands: mpsc::Sender<Command>,
    ending: impl Future<Output = ()>,
) -> io::Result<()> {
    let (listener, file) = socket.into_parts();
    let listener = UnixListener::from_std(listener)?;
    let mut connections = Connections::default();
    let streams = Arc::new(Semaphore::new(MAX_STREAMS));
    tokio::pin!(ending);
    let mut exhausted = false;
    loop {
        if connections.make_room(ending.as_mut()).await == Room::Ending {
            break;
        }
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    exhausted = false;
                    let answerer = Answerer::new(commands.clone(), Arc::clone(&streams));
                    connections.begin(stream, answerer);
                }
                Err(error) => {
                    // Out of descriptors or memory; the connection stays in the queue.
                    if !exhausted {
                        warn!(%error, "cannot accept a control connection; trying again");
                        exhausted = true;
                    }
                    tokio::select! {
                        () = sleep(ACCEPT_PAUSE) => {}
                        () = &mut ending => break,
                    }
                }
            },
            Some(_) = connections.tasks.join_next() => {}
            () = &mut ending => break,
        }
    }
    // Others may hold copies of it for a successor, who is not to come: nobody is to wait there.
    let _ = rustix::net::shutdown(&listener, rustix::net::Shutdown::Both);
    drop(listener);
    if let Err(error) = file.remove() {
        warn!(%error, path = %file.path().display(), "cannot remove the control socket");
    }
    // Whoever has asked nothing by now will not be answered.
    connections.dismiss_idle();
    let rest = async { while connections.tasks.join_next().await.is_some() {} };
    if timeout(LAST_WORDS, rest).await.is_err() {
        debug!("some control connections did not read their last answer");
    }
    Ok(())
}

/// Whether a caller may ask: the supervisor's own user, and root.
pub(crate) const fn may_ask(caller: u32, own: u32) -> bool {
    caller == own || caller == 0
}

#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    /// Oldest first.
    open: VecDeque<Connection>,
}

#[derive(PartialEq, Eq)]
enum Room {
    Made,
    /// The supervisor ends; nobody more is accepted.
    Ending,
}

struct Connection {
    task: AbortHandle,
    stage: watch::Receiver<Stage>,
}

impl Connections {
    fn begin(&mut self, stream: UnixStream, mut answerer: Answerer) {
        match stream.peer_cred() {
            Ok(peer) => {
                let own = rustix::process::geteuid().as_raw();
                if !may_ask(peer.uid(), own) {
                    warn!(
                        uid = peer.uid(),
                        pid = peer.pid(),
                        "a control request of another user is refused"
                    );
                    answerer = answerer.forbid();
                }
                answerer = answerer.of(Peer {
                    uid: peer.uid(),
                    pid: peer.pid().and_then(|pid| pid.try_into().ok()),
                    is_command: false,
                });
            }
            Err(error) => {
                warn!(%error, "cannot tell who calls; the connection is dropped");
                return;
            }
        }
        let (stage, watched) = watch::channel(Stage::Waiting);
        let task = self
            .tasks
            .spawn(converse(stream, answerer, stage, watched.clone()));
        self.open.push_back(Connection {
            task,
            stage: watched,
        });
    }

    /// Waits until one connection more may be open. The oldest that has asked nothing yet is closed for it.
    async fn make_room(&mut self, mut ending: impl Future<Output = ()> + Unpin) -> Room {
        self.open
            .retain(|connection| !connection.task.is_finished());
        while self.tasks.len() >= MAX_CONNECTIONS {
            let idle = self.open.iter().position(Connection::is_idle);
            if let Some(idle) = idle.and_then(|index| self.open.remove(index)) {
                idle.task.abort();
            }
            tokio::select! {
                _ = self.tasks.join_next() => {}
                () = &mut ending => return Room::Ending,
            }
        }
        Room::Made
    }

    fn dismiss_idle(&mut self) {
        for connection in self.open.iter().filter(|connection| connection.is_idle()) {
            connection.task.abort();
        }
    }
}

impl Connection {
    fn is_idle(&self) -> bool {
        *self.stage.borrow() == Stage::Waiting
    }
}

/// One connection carries one request: callers are few and short-lived, and nothing idle is kept.
async fn converse(
    stream: UnixStream,
    answerer: Answerer,
    stage: watch::Sender<Stage>,
    watched: watch::Receiver<Stage>,
) {
    let stage = Arc::new(stage);
    let service = service_fn(move |request| {
        let answerer = answerer.clone();
        let stage = Arc::clone(&stage);
        async move { Ok::<_, Infallible>(answerer.answer(request, &stage).await) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        result = connection => {
            if let Err(error) = result {
                debug!(%error, "a control connection failed");
            }
        }
        () = overdue(watched) => debug!("a control connection was too slow and is closed"),
    }
}

/// Completes when a connection has used up its time. While the supervisor works on a request, and
/// while a stream goes on, time does not count: both have limits of their own.
async fn overdue(mut stage: watch::Receiver<Stage>) {
    let asked = reached(&mut stage, |stage| stage != Stage::Waiting);
    match timeout(PATIENCE, asked).await {
        Err(_) => return,
        Ok(None) => pending().await,
        Ok(Some(_)) => {}
    }
    let answered = |stage| matches!(stage, Stage::Answering | Stage::Streaming);
    match reached(&mut stage, answered).await {
        Some(Stage::Answering) => sleep(PATIENCE).await,
        Some(Stage::Waiting | Stage::Working | Stage::Streaming) | None => pending().await,
    }
}

/// The stage that fits, once it is reached; `None` when the connection is at its end.
async fn reached(
    stage: &mut watch::Receiver<Stage>,
    fits: impl Fn(Stage) -> bool,
) -> Option<Stage> {
    let stage = stage.wait_for(|stage| fits(*stage)).await;
    stage.ok().map(|stage| *stage)
}
