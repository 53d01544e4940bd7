//! A program run to its end: what it printed, how it ended, how long it took.

use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::process::Process;
use rustix::process::Signal;

/// How one command ended.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// None if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) took: Duration,
    line: String,
}

impl Outcome {
    /// Fails the test unless the command ended with this code.
    #[track_caller]
    pub(crate) fn expect(&self, code: i32) -> &Self {
        assert_eq!(
            self.code,
            Some(code),
            "exit code of {}\n{}",
            self.line,
            self.render()
        );
        self
    }

    /// Everything that it printed.
    pub(crate) fn text(&self) -> String {
        format!("{}{}", self.out, self.err)
    }

    /// Fails the test unless one of its streams contains each of these.
    #[track_caller]
    pub(crate) fn says(&self, texts: &[&str]) -> &Self {
        for text in texts {
            assert!(
                self.text().contains(text),
                "{} does not say {text:?}\n{}",
                self.line,
                self.render()
            );
        }
        self
    }

    fn render(&self) -> String {
        format!(
            "after {:?}, code {:?}\nstdout:\n{}\nstderr:\n{}",
            self.took, self.code, self.out, self.err
        )
    }
}

/// A command under way.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) process: Option<Process>,
    line: String,
    began: Instant,
    result: mpsc::Receiver<std::io::Result<Output>>,
}

impl Pending {
    /// Starts a command; its output is read all the while.
    pub(crate) fn start(mut command: Command) -> Self {
        let line = format!("{command:?}");
        let began = Instant::now();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("start {line}: {error}"));
        let process = Process::open(child.id());
        let (done, result) = mpsc::channel();
        std::thread::spawn(move || done.send(child.wait_with_output()));
        Self {
            process,
            line,
            began,
            result,
        }
    }

    /// Waits for its end; a command that does not end within `limit` is killed and fails the test.
    #[track_caller]
    pub(crate) fn wait(self, limit: Duration) -> Outcome {
        let Ok(output) = self.result.recv_timeout(limit) else {
            if let Some(process) = &self.process {
                process.signal(Signal::KILL);
            }
            panic!("{} did not end within {limit:?}", self.line);
        };
        let output = output.expect("wait for a command");
        Outcome {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
            took: self.began.elapsed(),
            line: self.line,
        }
    }
}
