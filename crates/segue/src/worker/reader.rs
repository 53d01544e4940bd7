//! Reads a worker's pipe so that no line is lost when the supervisor is killed: lines stay in the
//! pipe until they have been written, and a successor finds them there. It may write a few again
//! that had just been written.
//!
//! ```text
//!   look (tee(2) into a pipe of ours) ──▶ hand over whole lines ──▶ wait until they are written ──▶ take
//! ```
//! Reading never depends for long on whoever reads our stdout: where writing falls behind, lines
//! are taken at once, as long as it does.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, pipe_with, tee};
use segue_sys::readable;
use tokio::io::unix::AsyncFd;

use super::output::Printer;
use super::writer::Ticket;

/// How long writing may take before it is not waited for any more.
const PATIENCE: Duration = Duration::from_millis(20);

/// Looked at or read at once; lives on the stack, so that an idle worker costs nothing.
const CHUNK: usize = 64 << 10;

/// A pipe of our own, always empty between two looks; shared by all readers of a thread.
#[derive(Debug)]
pub(crate) struct Scratch {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Scratch {
    /// # Errors
    /// That there is no descriptor for it.
    pub(crate) fn new() -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Self { reader, writer })
    }
}

/// One of a worker's pipes.
pub(super) struct Pipe {
    pipe: AsyncFd<OwnedFd>,
    scratch: Arc<Scratch>,
    /// A longer beginning of a line does not stay in it, or the worker would soon wait.
    most_left: usize,
}

/// What there is to read.
enum Look {
    /// So many bytes, all of them still in the pipe.
    Seen(usize),
    /// It cannot be looked into. So many bytes, none of them there any more.
    Read(usize),
    End,
}

impl Pipe {
    /// # Errors
    /// That it cannot be watched.
    pub(super) fn new(pipe: OwnedFd, scratch: Arc<Scratch>) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&pipe, true)?;
        let size = fcntl_getpipe_size(&pipe).unwrap_or(0);
        Ok(Self {
            pipe: readable::watch(pipe).map_err(|(_, error)| error)?,
            scratch,
            most_left: size.min(CHUNK) / 2,
        })
    }

    /// Takes so many bytes out of it.
    ///
    /// # Errors
    /// They are not there.
    pub(super) fn discard(&self, mut count: usize) -> io::Result<()> {
        let mut sink = [0; CHUNK];
        while count > 0 {
            let most = count.min(CHUNK);
            let part = sink.get_mut(..most).unwrap_or_default();
            match rustix::io::read(self.pipe.get_ref(), part) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => count -= read,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn look(&self, chunk: &mut [u8]) -> io::Result<Look> {
        let Scratch { reader, writer } = &*self.scratch;
        let seen = match tee(self.pipe.get_ref(), writer, CHUNK, SpliceFlags::NONBLOCK) {
            Ok(0) => return Ok(Look::End),
            Ok(seen) => seen,
            // It is no pipe, or tee is forbidden here.
            Err(Errno::INVAL | Errno::NOSYS | Errno::PERM) => return self.read(chunk),
            Err(errno) => return Err(errno.into()),
        };
        let mut count = 0;
        while count < seen {
            let rest = chunk.get_mut(count..).unwrap_or_default();
            match rustix::io::read(reader, rest) {
                Ok(0) => break,
                Ok(read) => count += read,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(Look::Seen(count))
    }

    fn read(&self, chunk: &mut [u8]) -> io::Result<Look> {
        Ok(match rustix::io::read(self.pipe.get_ref(), chunk)? {
            0 => Look::End,
            read => Look::Read(read),
        })
    }
}

/// How many bytes of it are whole lines, so many at most.
fn whole_lines(seen: &[u8], most: usize) -> usize {
    let ends = |(at, byte): (usize, &u8)| (*byte == b'\n').then_some(at + 1);
    let end = seen.iter().enumerate().filter_map(ends).nth(most - 1);
    end.or_else(|| Some(seen.iter().rposition(|byte| *byte == b'\n')? + 1))
        .unwrap_or(0)
}

/// Reads one of them until its end.
pub(super) struct Reader {
    pipe: Pipe,
    printer: Printer,
    /// So many bytes have been seen and left in the pipe, as the beginning of a line.
    left: usize,
    /// Writing has fallen behind.
    is_behind: Option<Ticket>,
}

enum Turn {
    Idle,
    /// It must be known that they have been written before they are taken.
    Written(Ticket, usize),
    More,
    End,
}

impl Reader {
    pub(super) fn new(pipe: Pipe, printer: Printer) -> Self {
        Self {
            pipe,
            printer,
            left: 0,
            is_behind: None,
        }
    }

    pub(super) async fn read_to_end(mut self) {
        loop {
            match self.turn().await {
                Turn::Idle => {}
                // A worker that floods its output must not keep the others waiting.
                Turn::More => tokio::task::yield_now().await,
                Turn::Written(ticket, count) => {
                    if !ticket.written(PATIENCE).await {
                        self.is_behind = Some(ticket);
                    }
                    let taken = self.pipe.discard(count);
                    self.printer.taken();
                    if taken.is_err() {
                        break;
                    }
                }
                Turn::End => break,
            }
        }
        self.printer.hand_over(None, 0);
    }

    /// Hands over what is there.
    async fn turn(&mut self) -> Turn {
        let Ok(mut guard) = self.pipe.pipe.readable().await else {
            return Turn::End;
        };
        let mut chunk = [0; CHUNK];
        let looked = self.pipe.look(&mut chunk);
        let (count, stays) = match looked {
            Ok(Look::Seen(count)) => (count, true),
            Ok(Look::Read(count)) => (count, false),
            Ok(Look::End) => return Turn::End,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                guard.clear_ready();
                return Turn::Idle;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Turn::More,
            Err(_) => return Turn::End,
        };
        let seen = chunk.get(..count).unwrap_or_default();
        if !stays {
            self.printer.hand_over(Some(seen), 0);
            return Turn::More;
        }
        let has_ended = guard.ready().is_read_closed();
        let whole = match whole_lines(seen, self.printer.most_lines()) {
            // Only more of it, or its end, makes it worth another look.
            0 if count <= self.pipe.most_left && !has_ended => {
                if count == self.left {
                    guard.clear_ready();
                }
                self.left = count;
                return Turn::Idle;
            }
            // As long as that, or the last one.
            0 => count,
            whole => whole,
        };
        self.left = 0;
        let ticket = self.printer.hand_over(seen.get(..whole), whole);
        match &self.is_behind {
            Some(late) if !late.is_written() => {
                let taken = self.pipe.discard(whole);
                self.printer.taken();
                match taken {
                    Ok(()) => Turn::More,
                    Err(_) => Turn::End,
                }
            }
            _ => {
                self.is_behind = None;
                Turn::Written(ticket, whole)
            }
        }
    }
}
