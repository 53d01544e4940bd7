//! The I/O of one channel. What is read is looked at first, written down, taken out of the socket,
//! and then heard, so that a successor finds every byte either in the socket or in the inbox. What is written is
//! marked before and after, so that a successor knows the one line that may or may not have been sent.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as UnregisteredStream;
use std::sync::Arc;

use segue_core::WorkerId;
use segue_sys::passing;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use super::ledger::{Broken, Next};
use super::{Attention, End, Heard, Lines, News, PENDING, Shared, State};

/// Bytes read in one turn. After each turn every other task gets its own.
pub(super) const TURN: usize = 32 << 10;

/// Turns that empty any socket buffer an unprivileged process can have (`net.core.wmem_max`, 208 KiB
/// by default), and are over soon when the worker writes on and on.
const LAST_TURNS: u32 = 16;

/// The task behind a channel.
pub(super) struct Listener {
    worker: WorkerId,
    shared: Arc<Shared>,
    news: mpsc::UnboundedSender<Heard>,
}

/// What came of one step.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Read,
    Idle,
    End,
}

/// What ended a wait.
enum Woken {
    Readable,
    Writable,
    Order,
    Late,
}

impl Listener {
    pub(super) fn new(
        worker: WorkerId,
        shared: Arc<Shared>,
        news: mpsc::UnboundedSender<Heard>,
    ) -> Self {
        Self {
            worker,
            shared,
            news,
        }
    }

    pub(super) async fn run(self, socket: OwnedFd) {
        let socket = match register(socket) {
            Ok(socket) => socket,
            Err(error) => {
                self.shared.lock().ledger.end();
                self.end(End::Broken(Broken::Failed(error.kind())));
                return;
            }
        };
        let end = self.talk(&socket).await;
        if let Some(End::Broken(broken)) = end {
            self.shared.lock().ledger.stop_writing();
            self.end(End::Broken(broken));
            self.linger(&socket).await;
            self.shared.lock().ledger.end();
        } else {
            self.shared.lock().ledger.end();
            if let Some(end) = end {
                self.end(end);
            }
        }
    }

    fn end(&self, end: End) {
        let mut state = self.shared.lock();
        state.desk.end();
        state.note();
        let last = state.desk.take_reports();
        drop(state);
        // Nobody listens any more: the supervisor is ending.
        drop(self.news.send((self.worker, News::Ended(last, end))));
    }

    /// Keeps a broken channel open until it is dropped, and hears what becomes of connections that
    /// the worker has been sent.
    async fn linger(&self, socket: &UnixStream) {
        let mut is_at_end = false;
        while !self.shared.lock().is_closed {
            let readable = tokio::select! {
                ready = socket.readable(), if !is_at_end => ready.map(|()| true),
                () = self.shared.wake.notified() => Ok(false),
            };
            let turn = match readable {
                Ok(true) => self.read_ready(socket).await,
                Ok(false) => Ok(Turn::Idle),
                Err(error) => Err(error),
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
    async fn talk(&self, socket: &UnixStream) -> Option<End> {
        if let Err(error) = self.settle_inbox(socket).await {
            return Some(End::Broken(Broken::Failed(error.kind())));
        }
        loop {
            let (has_unwritten, deadline) = {
                let state = self.shared.lock();
                if state.is_closed {
                    return None;
                }
                if let Some(broken) = state.ledger.broken() {
                    return Some(End::Broken(broken));
                }
                let deadlines = [state.ledger.deadline(), state.desk.deadline()];
                let deadline = deadlines.into_iter().flatten().min();
                (state.ledger.has_unwritten(), deadline)
            };
            let woken = tokio::select! {
                ready = socket.readable() => ready.map(|()| Woken::Readable),
                ready = socket.writable(), if has_unwritten => ready.map(|()| Woken::Writable),
                () = self.shared.wake.notified() => Ok(Woken::Order),
                () = self.shared.until(deadline) => Ok(Woken::Late),
            };
            let turn = match woken {
                Ok(Woken::Readable) => self.read_ready(socket).await,
                Ok(Woken::Writable) => self.write(socket),
                Ok(Woken::Order) => Ok(Turn::Idle),
                Ok(Woken::Late) => self.check_deadline(socket).await,
                Err(error) => Err(error),
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
        let mut state = self.shared.lock();
        let written = loop {
            match state.ledger.next() {
                Next::Nothing => break Ok(()),
                // Its descriptor went another way.
                Next::Void => state.ledger.discard(),
                Next::Piece => {
                    // A successor must know that this may have been sent, and then that it has.
                    state.ledger.mark_trying(true);
                    state.note();
                    state.journal.commit();
                    let sent = socket.try_io(Interest::WRITABLE, || {
                        state
                            .ledger
                            .send(|bytes, descriptor| passing::send(socket, bytes, descriptor))
                    });
                    state.ledger.mark_trying(false);
                    state.note();
                    state.journal.commit();
                    if let Err(error) = sent {
                        break Err(error);
                    }
                }
            }
        };
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // It does not listen any more, but what it has said is still to be read.
            Err(error) if is_gone(&error) => state.ledger.stop_writing(),
            Err(error) => return Err(error),
        }
        Ok(Turn::Idle)
    }

    async fn read_ready(&self, socket: &UnixStream) -> io::Result<Turn> {
        let takes_descriptors = self.shared.lock().desk.takes_descriptors();
        let mut buffer = vec![0; TURN];
        let looked = socket.try_io(Interest::READABLE, || {
            look(socket, &mut buffer, takes_descriptors)
        });
        self.read(socket, &buffer, looked).await
    }

    /// Takes what was looked at out of the socket, and has every line of it heard.
    async fn read(
        &self,
        socket: &UnixStream,
        buffer: &[u8],
        looked: io::Result<(usize, Option<OwnedFd>)>,
    ) -> io::Result<Turn> {
        let (count, descriptor) = match looked {
            Ok((0, _)) => return Ok(Turn::End),
            Ok(looked) => looked,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Turn::Idle),
            // A worker that dies with unread messages resets the channel, after all it had said.
            Err(error) if is_gone(&error) => return Ok(Turn::End),
            Err(error) => return Err(error),
        };
        let bytes = buffer.get(..count).unwrap_or_default();
        // What has no end yet stays, unless there is nothing else.
        let lines = bytes.iter().rposition(|byte| *byte == b'\n');
        let taken = lines.map_or(bytes, |end| bytes.get(..=end).unwrap_or_default());
        {
            let mut state = self.shared.lock();
            if let Some(descriptor) = descriptor {
                // Once it is out of the socket a successor could not get it anywhere else.
                state.journal.hold(PENDING, &descriptor);
                state.is_pending_held = true;
                state.desk.take_descriptor(descriptor);
            }
            state.fill_inbox(taken);
            state.journal.commit();
        }
        consume(socket, taken.len())?;
        {
            let mut state = self.shared.lock();
            state.inbox.consumed();
            state.note();
            state.journal.commit();
        }
        self.have_heard().await;
        Ok(Turn::Read)
    }

    /// What a predecessor had begun to read.
    async fn settle_inbox(&self, socket: &UnixStream) -> io::Result<()> {
        let begun = self.shared.lock().inbox.begun();
        if let Some(begun) = begun {
            // If it is still in the socket, it is the first thing there.
            let mut buffer = vec![0; begun.len()];
            if let Ok(count) = passing::peek_bytes(socket, &mut buffer)
                && count == begun.len()
                && buffer == begun
            {
                consume(socket, count)?;
            }
            let mut state = self.shared.lock();
            state.inbox.consumed();
            state.note();
        }
        if !self.shared.lock().inbox.is_empty() {
            self.have_heard().await;
        }
        Ok(())
    }

    /// Waits until the loop has heard every line of the inbox.
    async fn have_heard(&self) {
        let (read_on, heard) = oneshot::channel();
        let lines = Lines {
            shared: Arc::clone(&self.shared),
            _read_on: read_on,
        };
        if self.shared.lock().desk.is_over() {
            // Nothing is reported any more, but whether a connection is served still matters.
            let mut lines = lines;
            while lines.next().is_some() {}
        } else {
            drop(self.news.send((self.worker, News::Lines(lines))));
            let _ = heard.await;
        }
        let mut state = self.shared.lock();
        // Its message has been heard, and whoever has it by now is in the same transaction.
        if state.is_pending_held && !state.desk.has_pending() {
            state.is_pending_held = false;
            state.journal.release_now(PENDING);
        }
    }

    /// A wait is over by the clock. If it was us who were stopped or starved, the answer lies in the
    /// socket: what was there is heard first.
    async fn check_deadline(&self, socket: &UnixStream) -> io::Result<Turn> {
        for _ in 0..LAST_TURNS {
            // Past the runtime's idea of what is readable, which may be older than the answer.
            let takes_descriptors = self.shared.lock().desk.takes_descriptors();
            let mut buffer = vec![0; TURN];
            let looked = look(socket, &mut buffer, takes_descriptors);
            match self.read(socket, &buffer, looked).await? {
                Turn::Read => {}
                Turn::Idle => break,
                Turn::End => return Ok(Turn::End),
            }
        }
        let now = self.shared.now();
        let mut state = self.shared.lock();
        let State { ledger, desk, .. } = &mut *state;
        ledger.tick(now);
        desk.tick(now, ledger);
        state.note();
        Ok(Turn::Idle)
    }

    fn finish(&self) -> End {
        let mut state = self.shared.lock();
        if state.decoder.finish().is_some() {
            state.desk.attention(Attention::Garbage);
        }
        End::Eof
    }
}

/// Looks at what comes next, with descriptors only from a worker that has some to give.
fn look(
    socket: &UnixStream,
    buffer: &mut [u8],
    takes_descriptors: bool,
) -> io::Result<(usize, Option<OwnedFd>)> {
    match takes_descriptors {
        true => passing::peek(socket, buffer),
        false => Ok((passing::peek_bytes(socket, buffer)?, None)),
    }
}

/// Takes so many bytes out of the socket, all of which are there.
fn consume(socket: &UnixStream, count: usize) -> io::Result<()> {
    let mut buffer = vec![0; count];
    let mut left = count;
    while left > 0 {
        let rest = buffer.get_mut(..left).unwrap_or_default();
        match passing::receive_bytes(socket, rest)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            taken => left -= taken,
        }
    }
    Ok(())
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
