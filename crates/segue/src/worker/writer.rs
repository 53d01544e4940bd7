//! The one place that writes to the stdout and stderr we were started with, and to the log file.
//! Whoever has lines hands them over and never waits; a thread for each file does the waiting.
//!
//! The files may be shared with others, so O_NONBLOCK is never set on them. A reader or a disk that
//! stalls costs 1 MiB of memory, then whole lines, which are counted.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rustix::event::EventfdFlags;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::archive::Archive;
use super::layout::{Batch, Label, Layout, Reader};
use super::log::{self, LogFile, LogNews, Owner};
use super::reader::Scratch;
use super::rolling::{Rolling, Rotator};
use super::sink::{Sink, Stopped, count_lines};
use crate::handoff::text::Word;

/// How many bytes wait for one file at most, those being written included.
const LIMIT: usize = 1 << 20;
/// What a buffer keeps allocated after a burst.
const KEPT: usize = 16 << 10;

/// Which of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Out,
    Err,
    /// Stdout where there is no log file.
    Log,
}

/// Where lines stand in a file's queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    stream: Stream,
    /// Bytes that were handed over up to their end.
    end: u64,
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

#[derive(Debug)]
struct Queue {
    name: String,
    /// Where it is opened anew, if it can be.
    path: Option<PathBuf>,
    /// What it was before, if it is rotated.
    archive: Option<Arc<Archive>>,
    /// Of its notes.
    layout: Arc<Layout>,
    reader: Reader,
    /// Ends a wait for the reader.
    wake: OwnedFd,
    state: Mutex<State>,
    /// There is something to write, or the end has come.
    filled: Condvar,
    /// Everything has been written.
    emptied: Condvar,
    /// Something has been written.
    progress: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    in_flight: usize,
    /// Bytes that were handed over, dropped ones not counted.
    pushed: u64,
    /// Since the limit was reached and until all that was queued then is written.
    is_dropping: bool,
    dropped: u64,
    /// Nobody reads any more.
    is_closed: bool,
    is_ending: bool,
    /// Nothing is written until it is over.
    is_paused: bool,
    /// The file is to be opened anew.
    wants_reopening: bool,
    /// Who is told about that, and about errors.
    owner: Option<Arc<Owner>>,
}

/// Where a queue leads.
enum Place {
    Given(OwnedFd),
    Log(LogFile),
}

/// What the thread does next.
enum Job {
    Write,
    /// So many lines have been dropped here.
    Say(u64),
    Reopen,
    /// It may be old enough to be rotated.
    Rotate,
    End,
}

impl State {
    /// What was handed over up to there is neither waiting nor being written.
    fn is_written(&self, end: u64) -> bool {
        let unwritten = (self.waiting.len() + self.in_flight) as u64;
        self.is_closed || end <= self.pushed.saturating_sub(unwritten)
    }

    fn is_idle(&self) -> bool {
        self.is_closed || (self.waiting.is_empty() && self.in_flight == 0 && !self.is_dropping)
    }
}

impl Writer {
    /// Writes to the stdout and stderr of this process, and to a log file. To be
    /// called after signals are blocked, which the threads inherit.
    ///
    /// # Errors
    /// That a descriptor or a thread could not be made.
    pub(crate) fn inherited(layout: Layout, log: Option<LogFile>) -> io::Result<Self> {
        let out = io::stdout().as_fd().try_clone_to_owned()?;
        let err = io::stderr().as_fd().try_clone_to_owned()?;
        Self::over(out, err, layout, log)
    }

    pub(super) fn over(
        out: OwnedFd,
        err: OwnedFd,
        layout: Layout,
        log: Option<LogFile>,
    ) -> io::Result<Self> {
        let layout = Arc::new(layout);
        let one_file = {
            let (out, err) = (rustix::fs::fstat(&out)?, rustix::fs::fstat(&err)?);
            (out.st_dev, out.st_ino) == (err.st_dev, err.st_ino)
        };
        let out = Queue::start("stdout", Place::Given(out), &layout)?;
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
        let layout = Arc::new(layout);
        let log = log.map(|log| Queue::start("log", Place::Log(log), &layout));
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

    /// Hands over lines, each with its newline. Never waits.
    pub(crate) fn push(&self, stream: Stream, lines: &[u8]) -> Ticket {
        let end = self.queue(stream).push(lines);
        Ticket { stream, end }
    }

    /// Whether lines have been written, or never will be.
    pub(crate) fn is_written(&self, ticket: Ticket) -> bool {
        self.queue(ticket.stream).lock().is_written(ticket.end)
    }

    /// Waits for that, for `limit` at most; says whether it is so.
    pub(crate) async fn written(&self, ticket: Ticket, limit: Duration) -> bool {
        let queue = self.queue(ticket.stream);
        let written = async {
            loop {
                let progress = queue.progress.notified();
                if self.is_written(ticket) {
                    return;
                }
                progress.await;
            }
        };
        tokio::time::timeout(limit, written).await.is_ok()
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
        let logged = (self.shared.log.as_ref()).is_none_or(|log| log.flush(limit));
        self.shared.out.flush(limit) & self.shared.err.flush(limit) & logged
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

    fn queue(&self, stream: Stream) -> &Queue {
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

impl Queue {
    fn start(thread: &str, place: Place, layout: &Arc<Layout>) -> io::Result<Arc<Self>> {
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let (file, log) = match place {
            Place::Given(file) => (file, None),
            Place::Log(log) => (log.file, Some((log.path, log.rotation, log.began))),
        };
        let reader = match &log {
            None => Reader::of(&file),
            Some(_) => Reader::default(),
        };
        let queue = Arc::new_cyclic(|queue: &Weak<Self>| Self {
            name: match &log {
                Some((path, _, _)) => path.display().to_string(),
                None => thread.to_owned(),
            },
            path: log.as_ref().map(|(path, _, _)| path.clone()),
            archive: log.as_ref().and_then(|(path, rule, _)| {
                let queue = queue.clone();
                let tell = move |error| {
                    if let Some(queue) = queue.upgrade() {
                        queue.tell(LogNews::NotCompressed(error));
                    }
                };
                rule.is_on().then(|| Archive::new(path, *rule, tell))
            }),
            layout: Arc::clone(layout),
            reader,
            wake,
            state: Mutex::default(),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            progress: Notify::new(),
        });
        let rotator = log.and_then(|(path, rule, began)| {
            let archive = queue.archive.clone()?;
            // What a predecessor has left half done.
            archive.wake();
            Some(Rotator::new(rule, path, archive, began))
        });
        let theirs = Arc::clone(&queue);
        std::thread::Builder::new()
            .name(format!("segue-{thread}"))
            .stack_size(64 << 10)
            .spawn(move || theirs.write_to(file, rotator))?;
        Ok(queue)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where in the queue their end is.
    fn push(&self, lines: &[u8]) -> u64 {
        let mut state = self.lock();
        if state.is_closed || lines.is_empty() {
            return state.pushed;
        }
        let queued = state.waiting.len() + state.in_flight;
        if state.is_dropping || queued + lines.len() > LIMIT {
            // Once one is dropped all are, until the reader has caught up: the gap is then in
            // one place, and can be said there.
            state.is_dropping = true;
            state.dropped += count_lines(lines);
        } else {
            state.waiting.extend_from_slice(lines);
            state.pushed += lines.len() as u64;
        }
        self.filled.notify_one();
        state.pushed
    }

    /// What is left, and whether that is all.
    fn pause(&self, limit: Duration) -> (Vec<u8>, bool) {
        let mut state = self.lock();
        state.is_paused = true;
        // It only counts; it is never full.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        let waited = self
            .emptied
            .wait_timeout_while(state, limit, |state| state.in_flight > 0);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let is_settled = state.in_flight == 0;
        let left = std::mem::take(&mut state.waiting);
        drop(state);
        let archive = self.archive.as_ref();
        let is_settled = is_settled && archive.is_none_or(|archive| archive.pause(limit));
        (left, is_settled)
    }

    fn resume(&self, leftover: Vec<u8>) {
        let mut state = self.lock();
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        state.waiting.splice(..0, leftover);
        state.is_paused = false;
        self.filled.notify_one();
        drop(state);
        if let Some(archive) = &self.archive {
            archive.resume();
        }
    }

    fn flush(&self, limit: Duration) -> bool {
        let waited = self
            .emptied
            .wait_timeout_while(self.lock(), limit, |state| !state.is_idle());
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.is_idle()
    }

    /// The thread's life.
    fn write_to(&self, file: OwnedFd, rotator: Option<Rotator>) {
        let mut chunk = Vec::new();
        let sink = Sink::new(file, self.path.is_some(), &self.wake);
        let mut output = Rolling::new(sink, rotator);
        let mut hear = |news, file: Option<&OwnedFd>| self.hear(news, file);
        // What had been handed over when the file was to be opened anew has been written.
        let mut is_due = false;
        loop {
            match self.take(&mut chunk, &mut is_due, output.due_in()) {
                Job::Write => {}
                // Where nothing can be written, that is one loss with the other.
                Job::Say(dropped) if output.sink.trouble().is_some() => output.sink.lose(dropped),
                Job::Say(dropped) => chunk = self.dropped(dropped),
                Job::Reopen => {
                    is_due = false;
                    self.reopen(&mut output);
                    continue;
                }
                Job::Rotate => output.rotate_if_due(&mut hear),
                Job::End => return,
            }
            let before = output.sink.trouble();
            let written = output.write(&chunk, &self.name, &self.layout, &mut hear);
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
                    is_due = false;
                }
            }
            if state.is_idle() || state.is_paused {
                self.emptied.notify_all();
            }
            let is_closed = state.is_closed;
            drop(state);
            self.progress.notify_waiters();
            match (before, output.sink.trouble()) {
                (None, Some((why, _))) => self.tell(LogNews::Failing(why.into())),
                (Some((_, lost)), None) => self.tell(LogNews::Recovered { lost }),
                (None, None) | (Some(_), Some(_)) => {}
            }
            if is_closed {
                return;
            }
        }
    }

    /// Opens the file anew. Takes as long as the file system does.
    fn reopen(&self, output: &mut Rolling<'_>) {
        let Some(path) = &self.path else {
            return;
        };
        match log::open(path) {
            Ok(file) => {
                self.hold(&file);
                output.change(file);
                self.tell(LogNews::Reopened);
            }
            Err(error) => self.tell(LogNews::NotReopened(error)),
        }
    }

    /// A successor is to go on with that file.
    fn hold(&self, file: &OwnedFd) {
        let owner = self.lock().owner.clone();
        if let Some(owner) = owner {
            owner.hold(file);
        }
    }

    fn hear(&self, news: LogNews, file: Option<&OwnedFd>) {
        if let Some(file) = file {
            self.hold(file);
        }
        self.tell(news);
    }

    fn tell(&self, news: LogNews) {
        let owner = self.lock().owner.clone();
        if let Some(owner) = owner {
            owner.tell(news);
        }
    }

    /// Waits for something to do, and moves what is to be written to `chunk`. `is_due` says that
    /// nothing has to be written before the file is opened anew. Waits for so long at most, if at all.
    fn take(&self, chunk: &mut Vec<u8>, is_due: &mut bool, limit: Option<Duration>) -> Job {
        chunk.clear();
        chunk.shrink_to(KEPT);
        let idles = |state: &mut State| {
            let has_more = !state.waiting.is_empty() || state.is_dropping;
            let has_work = has_more || state.wants_reopening;
            (state.is_paused || !has_work) && !state.is_ending
        };
        let state = self.lock();
        let limit = limit.filter(|_| !state.is_paused);
        // The longest of all is none: std rounds it up to a wait without end.
        let limit = limit.unwrap_or(Duration::MAX);
        let waited = self.filled.wait_timeout_while(state, limit, idles);
        let (mut state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            // In a pause that is nothing, and the next turn waits for its end.
            state.in_flight = usize::from(!state.is_paused);
            return if state.is_paused {
                Job::Write
            } else {
                Job::Rotate
            };
        }
        if state.wants_reopening && (*is_due || state.waiting.is_empty()) && !state.is_paused {
            state.wants_reopening = false;
            return Job::Reopen;
        }
        if !state.waiting.is_empty() {
            std::mem::swap(&mut state.waiting, chunk);
            *is_due = state.wants_reopening;
        } else if state.is_dropping {
            state.is_dropping = false;
            state.in_flight = 1;
            return Job::Say(std::mem::take(&mut state.dropped));
        }
        state.in_flight = chunk.len();
        match chunk.is_empty() {
            true => Job::End,
            false => Job::Write,
        }
    }

    fn dropped(&self, lines: u64) -> Vec<u8> {
        let why = match self.path {
            Some(_) => format!("{} is written too slowly", self.name),
            None => format!("the reader of {} is too slow", self.name),
        };
        self.layout.note(&format!("… {lines} lines dropped: {why}"))
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
