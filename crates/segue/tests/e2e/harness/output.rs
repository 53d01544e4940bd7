//! The lines that a process writes, kept for waits and for the report of a failed test.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Where a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Out,
    Err,
    /// What the control socket streams.
    Event,
}

/// One line, with the time since the log was begun.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) stream: Stream,
    pub(crate) at: Duration,
    pub(crate) text: String,
}

#[derive(Debug, Default)]
struct Lines {
    all: Vec<Line>,
    /// Streams that have ended.
    ended: usize,
}

/// A growing list of lines; shared with the threads that read.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    shared: Arc<(Mutex<Lines>, Condvar)>,
    begun: Instant,
}

impl Log {
    pub(crate) fn new() -> Self {
        Self {
            shared: Arc::default(),
            begun: Instant::now(),
        }
    }

    /// Reads a stream to its end in a thread of its own.
    pub(crate) fn follow(&self, stream: Stream, source: impl Read + Send + 'static) {
        let log = self.clone();
        std::thread::spawn(move || {
            let mut source = BufReader::new(source);
            let mut bytes = Vec::new();
            // An error means what an end means: there is nothing more to read.
            while source
                .read_until(b'\n', &mut bytes)
                .is_ok_and(|count| count > 0)
            {
                let text = String::from_utf8_lossy(&bytes)
                    .trim_end_matches('\n')
                    .to_owned();
                log.push(stream, text);
                bytes.clear();
            }
            log.locked().ended += 1;
            log.shared.1.notify_all();
        });
    }

    fn push(&self, stream: Stream, text: String) {
        let at = self.begun.elapsed();
        self.locked().all.push(Line { stream, at, text });
        self.shared.1.notify_all();
    }

    fn locked(&self) -> MutexGuard<'_, Lines> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything so far.
    pub(crate) fn lines(&self) -> Vec<Line> {
        self.locked().all.clone()
    }

    /// How many lines there are: a point to look from later.
    pub(crate) fn mark(&self) -> usize {
        self.locked().all.len()
    }

    /// Waits for a line after `mark` that contains `text`.
    pub(crate) fn wait_for(&self, mark: usize, text: &str, limit: Duration) -> Line {
        let deadline = Instant::now() + limit;
        let mut lines = self.locked();
        loop {
            if let Some(line) = lines
                .all
                .iter()
                .skip(mark)
                .find(|line| line.text.contains(text))
            {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(lines);
                panic!(
                    "no line with {text:?} within {limit:?}; the output was\n{}",
                    self.render()
                );
            }
            lines = self
                .shared
                .1
                .wait_timeout(lines, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Returns when a line has come since `mark`, at the latest after `limit`.
    pub(crate) fn wait_for_news(&self, mark: usize, limit: Duration) {
        let lines = self.locked();
        if lines.all.len() > mark {
            return;
        }
        // Whoever waits looks at what it waits for afterwards, in either case.
        drop(
            self.shared
                .1
                .wait_timeout(lines, limit)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// Waits until so many streams have been read to their end.
    pub(crate) fn wait_for_end(&self, streams: usize, limit: Duration) {
        let guard = self.locked();
        let (guard, waited) = self
            .shared
            .1
            .wait_timeout_while(guard, limit, |lines| lines.ended < streams)
            .unwrap_or_else(PoisonError::into_inner);
        drop(guard);
        assert!(
            !waited.timed_out(),
            "the output did not end within {limit:?}:\n{}",
            self.render()
        );
    }

    /// Whether any line contains the text.
    pub(crate) fn contains(&self, text: &str) -> bool {
        self.locked()
            .all
            .iter()
            .any(|line| line.text.contains(text))
    }

    /// All lines, for people.
    pub(crate) fn render(&self) -> String {
        self.locked()
            .all
            .iter()
            .fold(String::new(), |mut all, line| {
                let name = match line.stream {
                    Stream::Out => "out",
                    Stream::Err => "err",
                    Stream::Event => "event",
                };
                // Writing to a String cannot fail.
                let _ = writeln!(
                    all,
                    "{:>9.3}s {name:<5} | {}",
                    line.at.as_secs_f64(),
                    line.text
                );
                all
            })
    }
}
