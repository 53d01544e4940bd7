//! What a demo prints: a line for each step as it happens, and the tables at its end.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write as _};
use std::time::{Duration, Instant};

use segue_load::{Phase, Report};
use serde::Serialize;

use crate::cli::output::Output;

/// One step, as it came out.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Step {
    pub(super) name: String,
    pub(super) took_ms: u64,
    /// It came out as it should.
    pub(super) right: bool,
    pub(super) detail: String,
    /// What the command wrote on stderr.
    pub(super) said: String,
}

/// Most lines of a command's stderr that are shown.
const QUOTED_LINES: usize = 8;

/// Everything that a demo has found.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Findings {
    /// Every step came out right, and no request failed that should not.
    pub(super) passed: bool,
    /// Requests that failed and should not have: all but those inside the killed worker.
    pub(super) failed: u64,
    /// Requests that were inside the worker that was killed with -9.
    pub(super) lost_with_worker: u64,
    /// Answers by an old version on connections begun after the commit of its successor.
    pub(super) stale: u64,
    pub(super) steps: Vec<Step>,
    pub(super) load: Report,
}

impl Findings {
    pub(super) fn new(steps: Vec<Step>, load: Report) -> Self {
        let lost_with_worker = load.excused();
        let failed = load.failed() - lost_with_worker + load.in_flight;
        Self {
            passed: failed == 0 && load.stale == 0 && steps.iter().all(|step| step.right),
            failed,
            lost_with_worker,
            stale: load.stale,
            steps,
            load,
        }
    }
}

/// Where the lines go.
pub(super) struct Show {
    started: Instant,
    output: Output,
    is_terminal: bool,
}

impl Show {
    pub(super) fn new(output: Output) -> Self {
        Self {
            started: Instant::now(),
            is_terminal: io::stdout().is_terminal() && !output.json,
            output,
        }
    }

    /// A line that stays.
    pub(super) fn line(&self, text: &str) {
        if !self.output.json {
            let erase = if self.is_terminal { "\r\x1b[K" } else { "" };
            let seconds = self.started.elapsed().as_secs_f64();
            self.output.line(&format!("{erase}{seconds:>5.1}s  {text}"));
        }
    }

    /// A line that the next one replaces; on a terminal only.
    pub(super) fn passing(&self, text: &str) {
        if self.is_terminal {
            let seconds = self.started.elapsed().as_secs_f64();
            let mut out = io::stdout().lock();
            // The lines that stay will tell of a terminal that has gone.
            let _ = write!(out, "\r\x1b[K{seconds:>5.1}s  {text}").and_then(|()| out.flush());
        }
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        writeln!(
            f,
            "{:<34} {:>9} {:>9} {:>8}",
            "load", "requests", "answered", "failed"
        )?;
        for class in &self.load.classes {
            let name = class_name(&class.name);
            let failed = class.failed();
            writeln!(
                f,
                "{name:<34} {:>9} {:>9} {failed:>8}",
                class.requests, class.answers
            )?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "{:<34} {:>9} {:>9} {:>8}",
            "what went on", "seconds", "p99", "failed"
        )?;
        for window in &self.load.windows {
            let seconds = Duration::from_millis(window.to_ms - window.from_ms).as_secs_f64();
            let p99 = Duration::from_micros(window.latency.p99_us).as_secs_f64() * 1000.0;
            let failed: u64 = window.failures.values().sum();
            let note = match window.phase {
                Phase::Fault if failed > 0 => "  inside the worker that was killed",
                Phase::Steady | Phase::Reload | Phase::Fault => "",
            };
            let name = &window.name;
            writeln!(
                f,
                "{name:<34} {seconds:>9.1} {p99:>7.1}ms {failed:>8}{note}"
            )?;
        }
        writeln!(f)?;
        for step in self.steps.iter().filter(|step| !step.right) {
            writeln!(f, "{} went wrong: {}", step.name, step.detail)?;
        }
        if self.failed > 0 {
            for failure in self.load.first_failures.iter().take(10) {
                writeln!(f, "  {failure}")?;
            }
        }
        if self.stale > 0 {
            writeln!(
                f,
                "answered by an old version after the commit: {}",
                self.stale
            )?;
        }
        write!(
            f,
            "failed requests: {} of {}",
            self.failed,
            self.load.requests()
        )?;
        if self.lost_with_worker > 0 {
            let lost = self.lost_with_worker;
            write!(
                f,
                "; {lost} more were inside the worker when it was killed with -9"
            )?;
        }
        writeln!(f)
    }
}

fn class_name(class: &str) -> &str {
    match class {
        "close" => "GET",
        "post" => "POST, sent slowly",
        "download" => "downloads of 3 s",
        other => other,
    }
}

/// The first lines of what a command said, indented.
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::new();
    for line in text.trim().lines().take(QUOTED_LINES) {
        // Writing to a String cannot fail.
        let _ = write!(quoted, "\n        | {line}");
    }
    quoted
}
