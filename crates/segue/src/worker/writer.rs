//! The one place that writes to the stdout and stderr we were started with, and to the log file.
//! Whoever has lines hands them over and never waits; a thread for each file does the waiting.
//!
//! The files may be shared with others, so O_NONBLOCK is never set on them. A reader or a disk that
//! stalls costs 1 MiB of memory, then whole lines, which are counted.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::journald::Journald;
use super::layout::{Batch, Label, Layout};
use super::log::{LogFile, Owner};
use super::queue::{Place, Queue};
use super::reader::Scratch;
use crate::handoff::text::Word;

/// Which of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Out,
    Err,
    /// Stdout where there is no log file.
    Log,
}

/// Where lines stand in a file's queue.
#[derive(Clone, Debug)]
pub(crate) struct Ticket {
    queue: Arc<Queue>,
    /// Bytes that were handed over up to their end.
    end: u64,
}

impl Ticket {
    /// Whether the lines have been written, or never will be.
    pub(crate) fn is_written(&self) -> bool {
        self.queue.lock().is_written(self.end)
    }

    /// Waits for that, for `limit` at most; says whether it is so.
    pub(crate) async fn written(&self, limit: Duration) -> bool {
        let written = async {
            loop {
                let progress = self.queue.progress.notified();
                if self.is_written() {
                    return;
                }
                progress.await;
            }
        };
        tokio::time::timeout(limit, written).await.is_ok()
    }
}

/// Takes whole lines for stdout, stderr and the log file. Clones share one queue; when the last is dropped,
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
    log: Option<Arc<Queue>>,
    /// Those two end with this one.
    owns_output: bool,
    layout: Arc<Layout>,
    shows_generations: AtomicBool,
    scratch: Arc<Scratch>,
}

/// What has not been written when the process becomes another program.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Leftover {
    out: Word,
    err: Word,
    log: Word,
    /// What of it cannot be told: a write has not returned.
    #[serde(skip)]
    is_stalled: bool,
}

impl Leftover {
    /// Whether a file did not let go in time: its thread must be let live.
    pub(crate) fn is_stalled(&self) -> bool {
        self.is_stalled
    }
}

impl Writer {
    /// Writes to the stdout and stderr of this process; `own` is a file that may not grow without end, if
    /// it is that. To be called after signals are blocked, which the threads inherit.
    ///
    /// # Errors
    /// That a descriptor or a thread could not be made.
    pub(crate) fn inherited(own: Option<PathBuf>) -> io::Result<Self> {
        let out = io::stdout().as_fd().try_clone_to_owned()?;
        let err = io::stderr().as_fd().try_clone_to_owned()?;
        let out = match own {
            Some(path) => Place::Own(out, path),
            None => Place::Given(out),
        };
        Self::with(out, err, Layout::default(), None)
    }

    #[cfg(test)]
    pub(super) fn over(
        out: OwnedFd,
        err: OwnedFd,
        layout: Layout,
        log: Option<LogFile>,
    ) -> io::Result<Self> {
        Self::with(Place::Given(out), err, layout, log)
    }

    fn with(out: Place, err: OwnedFd, layout: Layout, log: Option<LogFile>) -> io::Result<Self> {
        let layout = Arc::new(layout);
        let one_file = {
            let (out, err) = (rustix::fs::fstat(out.file())?, rustix::fs::fstat(&err)?);
            (out.st_dev, out.st_ino) == (err.st_dev, err.st_ino)
        };
        let out = Queue::start("stdout", out, &layout)?;
        let err = if one_file {
            Arc::clone(&out)
        } else {
            Queue::start("stderr", Place::Given(err), &layout)?
        };
        let log = log.map(|log| Queue::start("log", Place::Log(log), &layout));
        Ok(Self {
            shared: Arc::new(Shared {
                out,
                err,
                log: log.transpose()?,
                owns_output: true,
                layout,
                shows_generations: AtomicBool::new(false),
                scratch: Arc::new(Scratch::new()?),
            }),
        })
    }

    /// One of an app, with a log file of its own; its other lines go the same way as this one's.
    ///
    /// # Errors
    /// That a descriptor or a thread could not be made.
    pub(crate) fn for_app(&self, layout: Layout, log: Option<LogFile>) -> io::Result<Self> {
        self.beside(layout, log.map(Place::Log))
    }

    /// One of an app whose lines go to systemd's journal.
    ///
    /// # Errors
    /// The same; there is no journal.
    pub(crate) fn for_journal(&self, layout: Layout) -> io::Result<Self> {
        let journald = Journald::of(&layout.app);
        self.to_journal(layout, journald)
    }

    pub(super) fn to_journal(&self, layout: Layout, journald: Journald) -> io::Result<Self> {
        let stream = journald.connect()?;
        self.beside(layout, Some(Place::Journal(stream, journald)))
    }

    fn beside(&self, layout: Layout, log: Option<Place>) -> io::Result<Self> {
        let layout = Arc::new(layout);
        let log = log.map(|log| Queue::start("log", log, &layout));
        Ok(Self {
            shared: Arc::new(Shared {
                out: Arc::clone(&self.shared.out),
                err: Arc::clone(&self.shared.err),
                log: log.transpose()?,
                owns_output: false,
                layout,
                shows_generations: AtomicBool::new(false),
                scratch: Arc::clone(&self.shared.scratch),
            }),
        })
    }

    /// Where a line goes that a worker has printed to stdout or stderr.
    pub(crate) fn for_worker(&self, stream: Stream) -> Stream {
        match self.shared.log {
            Some(_) => Stream::Log,
            None => stream,
        }
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.shared.layout
    }

    /// The log file's path.
    pub(crate) fn log_path(&self) -> Option<&PathBuf> {
        self.shared.log.as_ref()?.path.as_ref()
    }

    /// The log, for people.
    pub(crate) fn log_name(&self) -> String {
        match &self.shared.log {
            Some(log) if log.path.is_some() => format!("the log file {}", log.name),
            Some(log) => log.name.clone(),
            None => String::new(),
        }
    }

    /// Whom the log file's thread tells about it.
    pub(crate) fn set_log_owner(&self, owner: Owner) {
        if let Some(log) = &self.shared.log {
            log.lock().owner = Some(Arc::new(owner));
        }
    }

    /// Has the log file opened anew at its path. Lines handed over so far go to the file as it is
    /// open now, later ones to either: none is in two pieces. The owner is told how it went.
    pub(crate) fn reopen_log(&self) {
        if let Some(log) = &self.shared.log {
            log.lock().wants_reopening = true;
            log.filled.notify_one();
        }
    }

    /// Whether that has been asked for and not begun.
    pub(crate) fn is_to_reopen_log(&self) -> bool {
        (self.shared.log.as_ref()).is_some_and(|log| log.lock().wants_reopening)
    }

    /// Has its log file left to another writer that was made after this one. What has been handed over
    /// is written; says whether that is so within `limit`.
    pub(crate) fn retire(&self, successor: &Self, limit: Duration) -> bool {
        let Some(log) = &self.shared.log else {
            return true;
        };
        let owner = {
            let mut state = log.lock();
            state.wants_reopening = false;
            state.owner.take()
        };
        if let Some(owner) = owner {
            owner.retire();
        }
        let is_through = log.flush(limit);
        // It would rotate the file that the other one has open.
        if is_through && self.log_path() == successor.log_path() {
            log.pause(Duration::ZERO);
        }
        is_through
    }

    /// Hands over lines, each with its newline. Never waits.
    pub(crate) fn push(&self, stream: Stream, lines: &[u8]) -> Ticket {
        let queue = Arc::clone(self.queue(stream));
        let end = queue.push(lines);
        Ticket { queue, end }
    }

    /// For whoever looks into pipes.
    pub(crate) fn scratch(&self) -> Arc<Scratch> {
        Arc::clone(&self.shared.scratch)
    }

    /// Whether to colour.
    pub(crate) fn is_coloured(&self, stream: Stream) -> bool {
        self.queue(stream).reader.is_coloured
    }

    /// For lines that a worker has printed to one stream and that go to another.
    pub(super) fn batch(&self, label: &Label, printed: Stream, to: Stream) -> Batch {
        let reader = self.queue(to).reader;
        let layout = &self.shared.layout;
        layout.batch(label, printed, reader, self.shows_generations())
    }

    /// Whether workers' lines name their generation; to be set while there are two.
    pub(crate) fn show_generations(&self, show: bool) {
        self.shared.shows_generations.store(show, Ordering::Relaxed);
    }

    fn shows_generations(&self) -> bool {
        self.shared.shows_generations.load(Ordering::Relaxed)
    }

    /// Waits until everything handed over so far is written, for `limit` at most on each file.
    /// Says whether it is. For the very end: it blocks.
    pub(crate) fn flush(&self, limit: Duration) -> bool {
        let logged = self.flush_log(limit);
        self.shared.out.flush(limit) & self.shared.err.flush(limit) & logged
    }

    /// The same for its log file alone.
    pub(crate) fn flush_log(&self, limit: Duration) -> bool {
        (self.shared.log.as_ref()).is_none_or(|log| log.flush(limit))
    }

    /// Stops writing, in the middle of a line if need be, and gives what has not been written. Waits
    /// for a write that is under way, for `limit` at most on each file.
    pub(crate) fn pause(&self, limit: Duration) -> Leftover {
        let mut is_stalled = false;
        let mut pause = |queue: &Queue| {
            let (left, is_settled) = queue.pause(limit);
            is_stalled |= !is_settled;
            Word::from_bytes(&left)
        };
        let Shared {
            out,
            err,
            log,
            owns_output,
            ..
        } = &*self.shared;
        Leftover {
            out: match owns_output {
                true => pause(out),
                false => Word::default(),
            },
            err: match *owns_output && !Arc::ptr_eq(out, err) {
                true => pause(err),
                false => Word::default(),
            },
            log: log.as_deref().map(&mut pause).unwrap_or_default(),
            is_stalled,
        }
    }

    /// Writes what was left, before anything else, and goes on.
    pub(crate) fn resume(&self, leftover: Leftover) {
        let Shared { out, err, .. } = &*self.shared;
        if self.shared.owns_output {
            out.resume(leftover.out.into_bytes());
            if !Arc::ptr_eq(out, err) {
                err.resume(leftover.err.into_bytes());
            }
        }
        if let Some(log) = &self.shared.log {
            log.resume(leftover.log.into_bytes());
        }
    }

    fn queue(&self, stream: Stream) -> &Arc<Queue> {
        match stream {
            Stream::Out => &self.shared.out,
            Stream::Err => &self.shared.err,
            Stream::Log => self.shared.log.as_ref().unwrap_or(&self.shared.out),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let output = [&self.out, &self.err].into_iter();
        let output = output.filter(|_| self.owns_output);
        for queue in output.chain(&self.log) {
            queue.lock().is_ending = true;
            queue.filled.notify_all();
        }
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
