//! Lines on their way to one file, and the thread that does the waiting for it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rustix::event::EventfdFlags;
use tokio::sync::Notify;

use super::archive::Archive;
use super::bounded::Bounded;
use super::journald::{self, Journald};
use super::layout::{Layout, Reader};
use super::log::{self, LogFile, LogNews, Owner};
use super::rolling::{Rolling, Rotator};
use super::sink::{Sink, Stopped, count_lines};

/// How many bytes wait for one file at most, those being written included.
pub(super) const LIMIT: usize = 1 << 20;
/// What a buffer keeps allocated after a burst.
const KEPT: usize = 16 << 10;

#[derive(Debug)]
pub(super) struct Queue {
    pub(super) name: String,
    /// Where it is opened anew, if it can be.
    pub(super) path: Option<PathBuf>,
    /// Where it is connected to anew, if it can be.
    journald: Option<Journald>,
    /// What it was before, if it is rotated.
    pub(super) archive: Option<Arc<Archive>>,
    /// Of its notes.
    pub(super) layout: Arc<Layout>,
    pub(super) reader: Reader,
    /// Ends a wait for the reader.
    pub(super) wake: OwnedFd,
    pub(super) state: Mutex<State>,
    /// There is something to write, or the end has come.
    pub(super) filled: Condvar,
    /// Everything has been written.
    pub(super) emptied: Condvar,
    /// Something has been written.
    pub(super) progress: Notify,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) waiting: Vec<u8>,
    pub(super) in_flight: usize,
    /// Bytes that were handed over, dropped ones not counted.
    pub(super) pushed: u64,
    /// Since the limit was reached and until all that was queued then is written.
    pub(super) is_dropping: bool,
    pub(super) dropped: u64,
    /// Nobody reads any more.
    pub(super) is_closed: bool,
    pub(super) is_ending: bool,
    /// Nothing is written until it is over.
    pub(super) is_paused: bool,
    /// The file is to be opened anew.
    pub(super) wants_reopening: bool,
    /// Who is told about that, and about errors.
    pub(super) owner: Option<Arc<Owner>>,
}

/// Where a queue leads.
pub(super) enum Place {
    Given(OwnedFd),
    /// Our own log, if that is there.
    Own(OwnedFd, PathBuf),
    Log(LogFile),
    Journal(OwnedFd, Journald),
}

impl Place {
    pub(super) const fn file(&self) -> &OwnedFd {
        match self {
            Self::Given(file) | Self::Own(file, _) | Self::Journal(file, _) => file,
            Self::Log(log) => &log.file,
        }
    }
}

/// What the thread does next.
pub(super) enum Job {
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
    pub(super) fn is_written(&self, end: u64) -> bool {
        let unwritten = (self.waiting.len() + self.in_flight) as u64;
        self.is_closed || end <= self.pushed.saturating_sub(unwritten)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.is_closed || (self.waiting.is_empty() && self.in_flight == 0 && !self.is_dropping)
    }
}

impl Queue {
    pub(super) fn start(thread: &str, place: Place, layout: &Arc<Layout>) -> io::Result<Arc<Self>> {
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let (name, reader) = match &place {
            Place::Given(file) | Place::Own(file, _) => (thread.to_owned(), Reader::of(file)),
            Place::Log(log) => (log.path.display().to_string(), Reader::default()),
            Place::Journal(..) => (journald::NAME.to_owned(), Reader::of_journal()),
        };
        let (mut log, mut journald, mut bounded) = (None, None, None);
        let file = match place {
            Place::Given(file) => file,
            Place::Own(file, path) => {
                bounded = Bounded::of(&file, &path);
                file
            }
            Place::Log(it) => {
                log = Some((it.path, it.rotation, it.began));
                it.file
            }
            Place::Journal(stream, how) => {
                journald = Some(how);
                stream
            }
        };
        let queue = Arc::new_cyclic(|queue: &Weak<Self>| Self {
            name,
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
            journald,
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
            .spawn(move || theirs.write_to(file, rotator, bounded))?;
        Ok(queue)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where in the queue their end is.
    pub(super) fn push(&self, lines: &[u8]) -> u64 {
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
    pub(super) fn pause(&self, limit: Duration) -> (Vec<u8>, bool) {
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

    pub(super) fn resume(&self, leftover: Vec<u8>) {
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

    pub(super) fn flush(&self, limit: Duration) -> bool {
        let waited = self
            .emptied
            .wait_timeout_while(self.lock(), limit, |state| !state.is_idle());
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.is_idle()
    }

    /// The thread's life.
    pub(super) fn write_to(
        &self,
        file: OwnedFd,
        rotator: Option<Rotator>,
        mut bounded: Option<Bounded>,
    ) {
        let mut chunk = Vec::new();
        let may_change = self.path.is_some() || self.journald.is_some();
        let sink = Sink::new(file, may_change, &self.wake);
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
            // The journal may have been started again since.
            if let (Some(_), Some(journald)) = (before, &self.journald)
                && let Ok(stream) = journald.connect()
            {
                output.change(stream);
            }
            let written = output.write(&chunk, &self.name, &self.layout, &mut hear);
            if let Some(bounded) = &mut bounded
                && !output.sink.is_mid_line()
                && bounded.see(output.sink.file(), output.sink.size())
            {
                output.sink.begin_anew();
            }
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
    pub(super) fn reopen(&self, output: &mut Rolling<'_>) {
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
    pub(super) fn hold(&self, file: &OwnedFd) {
        let owner = self.lock().owner.clone();
        if let Some(owner) = owner {
            owner.hold(file);
        }
    }

    pub(super) fn hear(&self, news: LogNews, file: Option<&OwnedFd>) {
        if let Some(file) = file {
            self.hold(file);
        }
        self.tell(news);
    }

    pub(super) fn tell(&self, news: LogNews) {
        let owner = self.lock().owner.clone();
        if let Some(owner) = owner {
            owner.tell(news);
        }
    }

    /// Waits for something to do, and moves what is to be written to `chunk`. `is_due` says that
    /// nothing has to be written before the file is opened anew. Waits for so long at most, if at all.
    pub(super) fn take(
        &self,
        chunk: &mut Vec<u8>,
        is_due: &mut bool,
        limit: Option<Duration>,
    ) -> Job {
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

    pub(super) fn dropped(&self, lines: u64) -> Vec<u8> {
        let why = match self.path {
            Some(_) => format!("{} is written too slowly", self.name),
            None => format!("the reader of {} is too slow", self.name),
        };
        self.layout.note(&format!("… {lines} lines dropped: {why}"))
    }
}
