//! The one place that writes to the stdout and stderr we were started with. Whoever has lines
//! hands them over and never waits; a thread for each file does the waiting.
//!
//! The files may be shared with others, so O_NONBLOCK is never set on them. A reader that stalls
//! costs 1 MiB of memory, then whole lines, which are counted.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::EventfdFlags;
use serde::{Deserialize, Serialize};

use super::sink::{Sink, Stopped, count_lines};
use crate::handoff::text::Word;

/// How many bytes wait for one file at most, those being written included.
const LIMIT: usize = 1 << 20;
/// What a buffer keeps allocated after a burst.
const KEPT: usize = 16 << 10;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Out,
    Err,
}

/// Takes whole lines for stdout and stderr. Clones share one queue; when the last is dropped,
/// what is queued is still written, by threads that then end.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    out: Arc<Queue>,
    /// The same as `out` if both are one file: its lines then keep their order.
    err: Arc<Queue>,
    shows_generations: AtomicBool,
}

/// What has not been written when the process becomes another program.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Leftover {
    out: Word,
    err: Word,
}

#[derive(Debug)]
struct Queue {
    name: &'static str,
    coloured: bool,
    /// Ends a wait for the reader.
    wake: OwnedFd,
    state: Mutex<State>,
    /// There is something to write, or the end has come.
    filled: Condvar,
    /// Everything has been written.
    emptied: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    in_flight: usize,
    /// Since the limit was reached and until all that was queued then is written.
    is_dropping: bool,
    dropped: u64,
    /// Nobody reads any more.
    is_closed: bool,
    is_ending: bool,
    /// Nothing is written until it is over.
    is_paused: bool,
}

impl State {
    fn is_idle(&self) -> bool {
        self.is_closed || (self.waiting.is_empty() && self.in_flight == 0 && !self.is_dropping)
    }
}

impl Writer {
    /// Writes to the stdout and stderr of this process. To be called after signals are blocked,
    /// which the threads inherit.
    ///
    /// # Errors
    /// That a descriptor or a thread could not be made.
    pub(crate) fn inherited() -> io::Result<Self> {
        let out = io::stdout().as_fd().try_clone_to_owned()?;
        let err = io::stderr().as_fd().try_clone_to_owned()?;
        Self::over(out, err)
    }

    pub(super) fn over(out: OwnedFd, err: OwnedFd) -> io::Result<Self> {
        let one_file = {
            let (out, err) = (rustix::fs::fstat(&out)?, rustix::fs::fstat(&err)?);
            (out.st_dev, out.st_ino) == (err.st_dev, err.st_ino)
        };
        let out = Queue::start("stdout", out)?;
        let err = if one_file {
            Arc::clone(&out)
        } else {
            Queue::start("stderr", err)?
        };
        Ok(Self {
            shared: Arc::new(Shared {
                out,
                err,
                shows_generations: AtomicBool::new(false),
            }),
        })
    }

    /// Hands over lines, each with its newline. Never waits.
    pub(crate) fn push(&self, stream: Stream, lines: &[u8]) {
        self.queue(stream).push(lines);
    }

    /// Whether to colour: on a terminal, unless NO_COLOR or a dumb terminal say otherwise.
    pub(crate) fn is_coloured(&self, stream: Stream) -> bool {
        self.queue(stream).coloured
    }

    /// Whether workers' lines name their generation; to be set while there are two.
    pub(crate) fn show_generations(&self, show: bool) {
        self.shared.shows_generations.store(show, Ordering::Relaxed);
    }

    pub(crate) fn shows_generations(&self) -> bool {
        self.shared.shows_generations.load(Ordering::Relaxed)
    }

    /// Waits until everything handed over so far is written, for `limit` at most on each file.
    /// Says whether it is. For the very end: it blocks.
    pub(crate) fn flush(&self, limit: Duration) -> bool {
        self.shared.out.flush(limit) & self.shared.err.flush(limit)
    }

    /// Stops writing, in the middle of a line if need be, and gives what has not been written. Waits
    /// for a write that is under way, for `limit` at most on each file.
    pub(crate) fn pause(&self, limit: Duration) -> Leftover {
        let out = self.shared.out.pause(limit);
        let err = match Arc::ptr_eq(&self.shared.out, &self.shared.err) {
            true => Vec::new(),
            false => self.shared.err.pause(limit),
        };
        Leftover {
            out: Word::from_bytes(&out),
            err: Word::from_bytes(&err),
        }
    }

    /// Writes what was left, before anything else, and goes on.
    pub(crate) fn resume(&self, leftover: Leftover) {
        self.shared.out.resume(leftover.out.into_bytes());
        self.shared.err.resume(leftover.err.into_bytes());
    }

    fn queue(&self, stream: Stream) -> &Queue {
        match stream {
            Stream::Out => &self.shared.out,
            Stream::Err => &self.shared.err,
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for queue in [&self.out, &self.err] {
            queue.lock().is_ending = true;
            queue.filled.notify_all();
        }
    }
}

impl Queue {
    fn start(name: &'static str, file: OwnedFd) -> io::Result<Arc<Self>> {
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let queue = Arc::new(Self {
            name,
            coloured: wants_colour(file.as_fd().is_terminal()),
            wake,
            state: Mutex::default(),
            filled: Condvar::new(),
            emptied: Condvar::new(),
        });
        let theirs = Arc::clone(&queue);
        std::thread::Builder::new()
            .name(format!("segue-{name}"))
            .stack_size(64 << 10)
            .spawn(move || theirs.write_to(&file))?;
        Ok(queue)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, lines: &[u8]) {
        let mut state = self.lock();
        if state.is_closed || lines.is_empty() {
            return;
        }
        let queued = state.waiting.len() + state.in_flight;
        if state.is_dropping || queued + lines.len() > LIMIT {
            // Once one is dropped all are, until the reader has caught up: the gap is then in
            // one place, and can be said there.
            state.is_dropping = true;
            state.dropped += count_lines(lines);
        } else {
            state.waiting.extend_from_slice(lines);
        }
        self.filled.notify_one();
    }

    fn pause(&self, limit: Duration) -> Vec<u8> {
        let mut state = self.lock();
        state.is_paused = true;
        // It only counts; it is never full.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        let waited = self
            .emptied
            .wait_timeout_while(state, limit, |state| state.in_flight > 0);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut state.waiting)
    }

    fn resume(&self, leftover: Vec<u8>) {
        let mut state = self.lock();
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        state.waiting.splice(..0, leftover);
        state.is_paused = false;
        self.filled.notify_one();
    }

    fn flush(&self, limit: Duration) -> bool {
        let waited = self
            .emptied
            .wait_timeout_while(self.lock(), limit, |state| !state.is_idle());
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.is_idle()
    }

    /// The thread's life.
    fn write_to(&self, file: &OwnedFd) {
        let mut chunk = Vec::new();
        let mut output = Sink::new(file, &self.wake);
        while self.take(&mut chunk) {
            let written = output.write(&chunk, self.name);
            let mut state = self.lock();
            state.in_flight = 0;
            match written {
                Ok(()) => {}
                Err(Stopped::Closed) => {
                    *state = State {
                        is_closed: true,
                        ..State::default()
                    };
                }
                Err(Stopped::Paused { left }) => {
                    let from = chunk.len().saturating_sub(left);
                    state.waiting.splice(..0, chunk.drain(from..));
                }
            }
            if state.is_idle() || state.is_paused {
                self.emptied.notify_all();
            }
            if state.is_closed {
                return;
            }
        }
    }

    /// Waits for something to write and moves it to `chunk`. False at the end.
    fn take(&self, chunk: &mut Vec<u8>) -> bool {
        chunk.clear();
        chunk.shrink_to(KEPT);
        let mut state = self
            .filled
            .wait_while(self.lock(), |state| {
                let has_more = !state.waiting.is_empty() || state.is_dropping;
                (state.is_paused || !has_more) && !state.is_ending
            })
            .unwrap_or_else(PoisonError::into_inner);
        if !state.waiting.is_empty() {
            std::mem::swap(&mut state.waiting, chunk);
        } else if state.is_dropping {
            let dropped = std::mem::take(&mut state.dropped);
            state.is_dropping = false;
            *chunk = format!(
                "segue: … {dropped} lines dropped: the reader of {} is too slow\n",
                self.name
            )
            .into_bytes();
        }
        state.in_flight = chunk.len();
        !chunk.is_empty()
    }
}

fn wants_colour(is_terminal: bool) -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    is_terminal && !set("NO_COLOR") && !dumb
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
