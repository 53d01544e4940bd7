//! The log file of workers' output: opened anew when a signal asks for it, and what people are told
//! of it. The file itself belongs to its thread, which may wait for a disk.

use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use super::app_shell::{AppShell, Input};
use super::run::Supervisor;
use crate::handoff::{InheritError, Inherited, Journal};
use crate::telemetry::lines::PREFIX;
use crate::worker::log::{self, LogNews, Owner};
use crate::worker::writer::Writer;
use segue_wire::control::{Level, Outcome, OutcomeKind, Problem, ProblemCode};

/// A disk may take so long for what it was handed before others are kept waiting no longer.
const LAST_LINES_THERE: Duration = Duration::from_millis(50);

/// The file is to be opened anew, and has not been.
const REOPENING: &str = "log/reopening";

/// Has the writer tell the loop what becomes of the file.
pub(super) fn watch(writer: &Writer, journal: &Journal, inputs: &UnboundedSender<Input>) {
    let inputs = inputs.clone();
    let tell = move |news| drop(inputs.send(Input::Log(news)));
    writer.set_log_owner(Owner::new(journal.clone(), tell));
}

/// What a predecessor was asked and may not have done is done.
///
/// # Errors
/// What was written down cannot be understood.
pub(super) fn take_over(
    writer: &Writer,
    journal: &Journal,
    inherited: &Inherited,
) -> Result<(), InheritError> {
    if inherited.value::<bool>(&journal.full(REOPENING))?.is_some() {
        writer.reopen_log();
    }
    Ok(())
}

impl AppShell {
    /// What workers print from now on goes where the plan says; what they have printed, where it was to.
    pub(super) fn log_elsewhere(&mut self, before: Writer) {
        let writer = &self.plan.writer;
        let is_through = before.retire(writer, LAST_LINES_THERE);
        self.retired
            .retain(|writer| !writer.flush_log(Duration::ZERO));
        if !is_through {
            self.retired.push(before);
        }
        for (_, member) in self.crew.members() {
            member.output.write_to(writer.clone());
        }
        for name in [REOPENING, log::BEGAN] {
            self.journal.drop(name);
        }
        if !self.has_log() {
            self.journal.release(log::HELD);
        }
        self.plan.hold_log(&self.journal, &self.inputs);
    }

    pub(super) fn has_log(&self) -> bool {
        self.plan.writer.log_path().is_some()
    }

    pub(super) fn reopen_log(&self) {
        if !self.has_log() {
            return;
        }
        // Together with the signal that asks for it.
        self.journal.put(REOPENING, &true);
        self.plan.writer.reopen_log();
    }

    pub(super) fn hear_log(&self, news: LogNews) {
        let log = self.plan.writer.log_name();
        if matches!(news, LogNews::Reopened | LogNews::NotReopened(_))
            && !self.plan.writer.is_to_reopen_log()
        {
            self.journal.drop(REOPENING);
            self.journal.commit();
        }
        let (level, text) = match news {
            LogNews::Reopened => (Level::Info, format!("{log} is opened anew")),
            LogNews::NotReopened(error) => (
                Level::Error,
                format!(
                    "cannot open {log} anew: {error}; the one that is open goes on: mend that and send USR1 again"
                ),
            ),
            LogNews::Began(time) => {
                self.journal.put(log::BEGAN, &time);
                self.journal.commit();
                return;
            }
            LogNews::Rotated => (Level::Debug, format!("{log} is rotated")),
            LogNews::NotRotated(error) => (
                Level::Error,
                format!("cannot rotate {log}: {error}; it goes on and grows, and is tried again"),
            ),
            LogNews::NotCompressed(error) => (
                Level::Warn,
                format!(
                    "cannot compress what {log} was before: {error}; it stays as it is until the next rotation"
                ),
            ),
            LogNews::Failing(error) => (
                Level::Error,
                format!(
                    "{log} cannot be written: {error}; what workers print is lost until it can be"
                ),
            ),
            LogNews::Recovered { lost } => (
                Level::Warn,
                format!("{log} is written again; {lost} lines were lost"),
            ),
        };
        if self.plan.host.verbosity.shows(level) {
            self.say(format!("{PREFIX}{text}"));
        }
    }
}

impl Supervisor {
    pub(super) fn reopen_logs(&self) {
        for shell in self.apps.values() {
            shell.reopen_log();
        }
        self.site.commit();
    }

    /// The same, for somebody who is told whether it has begun.
    pub(super) fn reopen_logs_for_caller(&self) -> Result<Outcome, Problem> {
        let logs = self.apps.values().filter_map(|shell| {
            let path = shell.plan.writer.log_path()?;
            Some(path.display().to_string())
        });
        let logs: Vec<String> = logs.collect();
        let text = match logs.as_slice() {
            [] => {
                return Err(Problem::new(
                    ProblemCode::BadRequest,
                    "no app writes a log file",
                    "segue run --log FILE writes one",
                ));
            }
            [log] => format!("log file {log} is opened anew"),
            logs => format!("log files {} are opened anew", logs.join(", ")),
        };
        self.reopen_logs();
        let name = match self.apps.keys().next() {
            Some(name) if self.apps.len() == 1 => name.clone(),
            _ => String::new(),
        };
        Ok(Outcome {
            kind: OutcomeKind::Accepted,
            app: name,
            text,
            ..Outcome::default()
        })
    }
}
