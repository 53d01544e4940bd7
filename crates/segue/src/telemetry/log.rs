//! Debug logs: `tracing` events as lines, handed to a sink that must not wait.

use std::io::{self, Write};
use std::sync::Arc;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::lines::PREFIX;

/// How much is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Verbosity {
    /// Warnings and errors.
    Quiet,
    /// What an operator would care about.
    #[default]
    Normal,
    /// `-v`: every worker's steps, and why.
    Verbose,
    /// `-vv`: every message.
    Trace,
}

impl Verbosity {
    /// From the flags: `-q` wins over any `-v`.
    pub(crate) const fn new(quiet: bool, verbose: u8) -> Self {
        match (quiet, verbose) {
            (true, _) => Self::Quiet,
            (false, 0) => Self::Normal,
            (false, 1) => Self::Verbose,
            (false, _) => Self::Trace,
        }
    }

    /// Whether a notice of this level is told.
    pub(crate) fn shows(self, level: segue_wire::control::Level) -> bool {
        use segue_wire::control::Level;
        let least = match self {
            Self::Quiet => Level::Warn,
            Self::Normal => Level::Info,
            Self::Verbose | Self::Trace => Level::Debug,
        };
        level >= least
    }

    const fn filter(self) -> LevelFilter {
        match self {
            Self::Quiet => LevelFilter::ERROR,
            Self::Normal => LevelFilter::WARN,
            Self::Verbose => LevelFilter::DEBUG,
            Self::Trace => LevelFilter::TRACE,
        }
    }
}

/// Sends log lines, each with the supervisor's prefix and without a line end, to `sink`. It is
/// called from wherever something is logged, so it must not block. Only the first call has an effect.
pub(crate) fn install(verbosity: Verbosity, sink: impl Fn(String) + Send + Sync + 'static) {
    let subscriber = subscriber(verbosity, sink);
    // A second subscriber is refused; the first one stays, which is what is wanted.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

fn subscriber(
    verbosity: Verbosity,
    sink: impl Fn(String) + Send + Sync + 'static,
) -> impl tracing::Subscriber + Send + Sync {
    tracing_subscriber::fmt()
        .with_max_level(verbosity.filter())
        .with_ansi(false)
        .without_time()
        .with_target(verbosity == Verbosity::Trace)
        .with_writer(Lines {
            sink: Arc::new(sink),
        })
        .finish()
}

struct Lines<S> {
    sink: Arc<S>,
}

/// One event's bytes, told when the formatter lets go of it.
struct Line<S: Fn(String)> {
    sink: Arc<S>,
    bytes: Vec<u8>,
}

impl<'a, S: Fn(String) + Send + Sync + 'static> MakeWriter<'a> for Lines<S> {
    type Writer = Line<S>;

    fn make_writer(&'a self) -> Self::Writer {
        Line {
            sink: Arc::clone(&self.sink),
            bytes: Vec::new(),
        }
    }
}

impl<S: Fn(String)> Write for Line<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<S: Fn(String)> Drop for Line<S> {
    fn drop(&mut self) {
        for line in String::from_utf8_lossy(&self.bytes).lines() {
            (self.sink)(format!("{PREFIX}{}", line.trim_start()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn log_events_become_lines() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        let subscriber = subscriber(Verbosity::Normal, move |line| {
            sink.lock().unwrap().push(line)
        });
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(peer = 1000, "a stranger was turned away");
            tracing::info!("not told");
        });
        let expected = "segue: WARN a stranger was turned away peer=1000";
        assert_eq!(*lines.lock().unwrap(), [expected]);
    }

    #[test]
    fn verbosity_of_notices() {
        use segue_wire::control::Level;
        assert!(!Verbosity::new(true, 3).shows(Level::Info));
        assert!(Verbosity::new(true, 0).shows(Level::Warn));
        assert!(Verbosity::new(false, 0).shows(Level::Info));
        assert!(!Verbosity::new(false, 0).shows(Level::Debug));
        assert!(Verbosity::new(false, 1).shows(Level::Debug));
    }
}
