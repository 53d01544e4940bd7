//! The channel to one worker: its I/O, and what is owed over it.
//!
//! One task reads and writes; [`Channel`] only leaves orders for it, so nothing here waits for a
//! worker. A worker that floods, garbles, never reads or never answers costs bounded memory and
//! bounded turns, and ends in [`End::Broken`]. What the messages mean to the app is decided elsewhere.

mod ledger;
mod report;
#[cfg(test)]
mod tests;

use std::future::{Future, pending};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as UnregisteredStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use segue_core::WorkerId;
use segue_sys::passing;
use segue_wire::node::{Decoder, Drain, HandleType};
use serde_json::Value;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use ledger::Ledger;
pub(crate) use ledger::{Broken, Limits};
pub(crate) use report::{Arrival, Attention, End, Report};
use report::{Desk, Owed};

/// Bytes read in one turn. After each turn every other task gets its own.
const TURN: usize = 32 << 10;

/// Turns that empty any socket buffer an unprivileged process can have (`net.core.wmem_max`, 208 KiB
/// by default), and are over soon when the worker writes on and on.
const LAST_TURNS: u32 = 16;

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
}

#[derive(Debug)]
struct State {
    ledger: Ledger,
    is_closed: bool,
}

impl Channel {
    /// Takes our end of the socket pair. Must be called within a runtime.
    pub(crate) fn open(
        worker: WorkerId,
        socket: OwnedFd,
        reports: mpsc::UnboundedSender<(WorkerId, Report)>,
    ) -> Self {
        Self::open_with(Limits::default(), worker, socket, reports)
    }

    fn open_with(
        limits: Limits,
        worker: WorkerId,
        socket: OwnedFd,
        reports: mpsc::UnboundedSender<(WorkerId, Report)>,
    ) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                ledger: Ledger::new(limits),
                is_closed: false,
            }),
            wake: Notify::new(),
            opened: Instant::now(),
        });
        let listener = Listener {
            shared: Arc::clone(&shared),
            decoder: Decoder::default(),
            desk: Desk::new(worker, reports),
        };
        tokio::spawn(listener.run(socket));
        Self(Arc::new(Owner(shared)))
    }

    /// Answers the question `seq` with a socket. `key` must differ from every key the worker holds.
    pub(crate) fn give(
        &self,
        seq: u64,
        key: &str,
        data: &Value,
        socket: OwnedFd,
        kind: HandleType,
    ) {
        unblock(&socket);
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
        connection: OwnedFd,
    ) -> impl Future<Output = Result<(), OwnedFd>> + Send + use<> {
        unblock(&connection);
        let now = self.0.0.now();
        let (verdict, decided) = oneshot::channel();
        let keep_alive = keep_alive.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        self.order(|ledger| ledger.offer(now, key, keep_alive, connection, verdict));
        // The ledger decides every offer; it is dropped undecided only with the whole runtime.
        async { decided.await.unwrap_or(Ok(())) }
    }

    fn order(&self, leave: impl FnOnce(&mut Ledger)) {
        leave(&mut self.0.0.lock().ledger);
        self.0.0.wake.notify_one();
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.lock().is_closed = true;
        self.0.wake.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

type Receive = fn(&UnixStream, &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)>;

/// The task behind a channel.
struct Listener {
    shared: Arc<Shared>,
    decoder: Decoder,
    desk: Desk,
}

/// What came of one step.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Read,
    Idle,
    End,
}

impl Listener {
    async fn run(mut self, socket: OwnedFd) {
        let socket = match register(socket) {
            Ok(socket) => socket,
            Err(error) => {
                self.shared.lock().ledger.end();
                self.desk.end(End::Broken(Broken::Failed(error.kind())));
                return;
            }
        };
        let end = self.talk(&socket).await;
        if let Some(End::Broken(broken)) = end {
            self.shared.lock().ledger.stop_writing();
            self.desk.end(End::Broken(broken));
            self.linger(&socket).await;
            self.shared.lock().ledger.end();
        } else {
            self.shared.lock().ledger.end();
            if let Some(end) = end {
                self.desk.end(end);
            }
        }
    }

    /// Keeps a broken channel open until it is dropped, and hears what becomes of connections that
    /// the worker has been sent.
    async fn linger(&mut self, socket: &UnixStream) {
        let mut is_at_end = false;
        while !self.shared.lock().is_closed {
            let turn = tokio::select! {
                ready = socket.readable(), if !is_at_end => ready.and_then(|()| self.read_ready(socket)),
                () = self.shared.wake.notified() => Ok(Turn::Idle),
            };
            match turn {
                Ok(Turn::Read) => tokio::task::yield_now().await,
                Ok(Turn::Idle) => {}
                Ok(Turn::End) | Err(_) => {
                    is_at_end = true;
                    self.shared.lock().ledger.end();
                }
            }
        }
    }

    /// Talks until nothing more comes, or until the channel has been dropped: then there is no end to report.
    async fn talk(&mut self, socket: &UnixStream) -> Option<End> {
        loop {
            let (has_unwritten, deadline) = {
                let state = self.shared.lock();
                if state.is_closed {
                    return None;
                }
                if let Some(broken) = state.ledger.broken() {
                    return Some(End::Broken(broken));
                }
                (state.ledger.has_unwritten(), state.ledger.deadline())
            };
            let turn = tokio::select! {
                ready = socket.readable() => ready.and_then(|()| self.read_ready(socket)),
                ready = socket.writable(), if has_unwritten => ready.and_then(|()| self.write(socket)),
                () = self.shared.wake.notified() => Ok(Turn::Idle),
                () = self.shared.until(deadline) => self.check_deadline(socket),
                () = self.shared.until_taken(self.desk.owed()) => {
                    self.desk.settle();
                    self.shared.lock().ledger.acknowledge_theirs();
                    Ok(Turn::Idle)
                }
            };
            match turn {
                Ok(Turn::Read) => tokio::task::yield_now().await,
                Ok(Turn::Idle) => {}
                Ok(Turn::End) => return Some(self.finish()),
                Err(error) => return Some(End::Broken(Broken::Failed(error.kind()))),
            }
        }
    }

    fn write(&self, socket: &UnixStream) -> io::Result<Turn> {
        let ledger = &mut self.shared.lock().ledger;
        let written = socket.try_io(Interest::WRITABLE, || {
            ledger.write(|bytes, descriptor| passing::send(socket, bytes, descriptor))
        });
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // It does not listen any more, but what it has said is still to be read.
            Err(error) if is_gone(&error) => ledger.stop_writing(),
            Err(error) => return Err(error),
        }
        Ok(Turn::Idle)
    }

    fn read_ready(&mut self, socket: &UnixStream) -> io::Result<Turn> {
        let receive = self.receiver();
        self.read(|buffer| socket.try_io(Interest::READABLE, || receive(socket, buffer)))
    }

    /// How to read: with descriptors only from a worker that has some to give.
    fn receiver(&self) -> Receive {
        match self.desk.takes_descriptors() {
            true => |socket, buffer| passing::receive(socket, buffer),
            false => |socket, buffer| Ok((passing::receive_bytes(socket, buffer)?, None)),
        }
    }

    /// Reads once and hears every line that is complete.
    fn read(
        &mut self,
        receive: impl FnOnce(&mut [u8]) -> io::Result<(usize, Option<OwnedFd>)>,
    ) -> io::Result<Turn> {
        let mut buffer = vec![0; TURN];
        let received = receive(&mut buffer);
        let count = match received {
            Ok((0, _)) => return Ok(Turn::End),
            Ok((count, descriptor)) => {
                if let Some(descriptor) = descriptor {
                    self.desk.take_descriptor(descriptor);
                }
                count
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Turn::Idle),
            // A worker that dies with unread messages resets the channel, after all it had said.
            Err(error) if is_gone(&error) => return Ok(Turn::End),
            Err(error) => return Err(error),
        };
        let now = self.shared.now();
        let ledger = &mut self.shared.lock().ledger;
        let desk = &mut self.desk;
        let bytes = buffer.get(..count).unwrap_or_default();
        self.decoder
            .feed(bytes, |line| desk.hear(ledger, now, line));
        desk.finish_turn(self.decoder.is_within_line());
        Ok(Turn::Read)
    }

    /// A wait is over by the clock. If it was us who were stopped or starved, the answer lies in the
    /// socket: what was there is heard first.
    fn check_deadline(&mut self, socket: &UnixStream) -> io::Result<Turn> {
        for _ in 0..LAST_TURNS {
            // Past the runtime's idea of what is readable, which may be older than the answer.
            let receive = self.receiver();
            match self.read(|buffer| receive(socket, buffer))? {
                Turn::Read => {}
                Turn::Idle => break,
                Turn::End => return Ok(Turn::End),
            }
        }
        self.shared.lock().ledger.tick(self.shared.now());
        Ok(Turn::Idle)
    }

    fn finish(&mut self) -> End {
        if self.decoder.finish().is_some() {
            self.desk.attention(Attention::Garbage);
        }
        End::Eof
    }
}

impl Shared {
    async fn until(&self, deadline: Option<u64>) {
        match deadline {
            Some(deadline) => sleep_until(self.opened + Duration::from_millis(deadline)).await,
            None => pending().await,
        }
    }

    /// Until there is room for the next connection, or the worker has waited long enough.
    async fn until_taken(&self, owed: Option<&mut Owed>) {
        match owed {
            Some(owed) => tokio::select! {
                // Dropped or sent, it is taken.
                _ = &mut owed.taken => {}
                () = self.until(Some(owed.deadline)) => {}
            },
            None => pending().await,
        }
    }
}

fn register(socket: OwnedFd) -> io::Result<UnixStream> {
    let socket = UnregisteredStream::from(socket);
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

/// Node 16 takes a descriptor as it is, and would block its event loop in accept or read.
fn unblock(socket: &OwnedFd) {
    // Both fail for no reason but a descriptor that is not open, and this one is.
    if let Ok(flags) = fcntl_getfl(socket) {
        let _ = fcntl_setfl(socket, flags | OFlags::NONBLOCK);
    }
}
