//! Follows a stream of progress to its outcomes, and tells each step.

use std::time::Duration;

use segue_wire::control::{Level, Missed, Notice, Outcome, OutcomeKind, ProblemCode, Progress};
use tokio::time::{Instant, sleep, timeout};

use super::error::Trouble;
use super::output::{Output, Tone};
use crate::control::client::{ClientError, Stream};
use crate::exit::Exit;
use crate::telemetry::lines;
use crate::telemetry::log::Verbosity;

/// How often the supervisor may be replaced while somebody waits for it.
const MOST_REPLACED: u32 = 1000;

/// How long another one may take to take over, and the pause between two looks.
pub(super) const TAKE_OVER: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);

/// Makes a request and follows its stream to the end. `what` begins the error if it breaks: "cannot
/// reload web". When the supervisor is replaced meanwhile the request is made again, which does
/// nothing twice.
pub(super) async fn follow(
    ask: impl AsyncFn() -> Result<Stream, ClientError>,
    what: &str,
    output: &Output,
) -> Result<Exit, Trouble> {
    follow_apps(ask, what, output, false).await
}

/// The same, where several apps may be told of: each piece of news names its own.
pub(super) async fn follow_apps(
    ask: impl AsyncFn() -> Result<Stream, ClientError>,
    what: &str,
    output: &Output,
    are_many: bool,
) -> Result<Exit, Trouble> {
    let talking = |error| Trouble::talking(what, error);
    let mut stream = again(&ask).await.map_err(talking)?;
    let mut teller = StepTeller {
        output,
        are_many,
        held: None,
    };
    let mut exits = Vec::new();
    let mut replaced = 0;
    loop {
        match stream.next().await {
            Ok(Some(Progress::Outcome(outcome))) => {
                teller.outcome(&outcome, what);
                exits.push(exit_of(&outcome));
            }
            Ok(Some(progress)) => teller.progress(&progress),
            Ok(None) if !exits.is_empty() => break,
            Err(error) if !is_broken(&error) => return Err(talking(error)),
            Ok(None) | Err(_) if replaced >= MOST_REPLACED => break,
            Ok(None) | Err(_) => {
                replaced += 1;
                stream = match again(&ask).await {
                    Ok(stream) => stream,
                    // Nobody took over.
                    Err(ClientError::NotRunning { .. }) => break,
                    Err(error) => return Err(talking(error)),
                };
            }
        }
    }
    if exits.is_empty() {
        let why = "the supervisor ended before the outcome was known";
        let next = "see whether it runs, and what serves: segue status";
        return Err(Trouble::new(what, why, next, Exit::NotFound));
    }
    Ok(Exit::all(exits))
}

/// The same request, to whoever has taken over.
pub(super) async fn again(
    ask: impl AsyncFn() -> Result<Stream, ClientError>,
) -> Result<Stream, ClientError> {
    let until = Instant::now() + TAKE_OVER;
    loop {
        match ask().await {
            Err(error) if is_broken(&error) && Instant::now() < until => sleep(PAUSE).await,
            answer => return answer,
        }
    }
}

/// The supervisor has ended, and another one may take over, or has.
pub(super) fn is_broken(error: &ClientError) -> bool {
    match error {
        ClientError::Broken(_) => true,
        ClientError::Refused(problem) => problem.code == ProblemCode::Ending,
        ClientError::NotRunning { .. }
        | ClientError::Connect { .. }
        | ClientError::TimedOut { .. }
        | ClientError::Garbled(_) => false,
    }
}

/// Tells one piece of news that belongs to no request.
pub(super) fn show(progress: &Progress, output: &Output, are_many: bool) {
    let mut teller = StepTeller {
        output,
        are_many,
        held: None,
    };
    teller.progress(progress);
    teller.release();
}

/// Gives up waiting after `limit`; what goes on goes on.
pub(super) async fn limited(
    limit: Option<Duration>,
    what: &str,
    command: impl Future<Output = Result<Exit, Trouble>>,
) -> Result<Exit, Trouble> {
    let Some(limit) = limit else {
        return command.await;
    };
    let finished = timeout(limit, command).await;
    finished.unwrap_or_else(|_| Err(Trouble::overdue(what, limit)))
}

/// The exit code of an outcome.
pub(super) fn exit_of(outcome: &Outcome) -> Exit {
    match outcome.kind {
        OutcomeKind::Accepted
        | OutcomeKind::Started
        | OutcomeKind::Reloaded
        | OutcomeKind::Restarted
        | OutcomeKind::Promoted
        | OutcomeKind::RolledBack
        | OutcomeKind::Scaled
        | OutcomeKind::Paused
        | OutcomeKind::Stopped
        | OutcomeKind::Applied
        | OutcomeKind::Upgraded => Exit::Done,
        OutcomeKind::ReloadFailed
        | OutcomeKind::NeverStarted
        | OutcomeKind::UpgradeFailed
        | OutcomeKind::Unknown => Exit::Failed,
        OutcomeKind::Superseded => Exit::Conflict,
        OutcomeKind::StoppedHard => Exit::Partly,
        OutcomeKind::Refused => match outcome.refusal.as_deref() {
            Some("no_workers" | "too_many" | "bad_definition") => Exit::Usage,
            // Nothing is in the way: there is nothing to do it with.
            Some("nothing_to_promote" | "nothing_to_roll_back_to") => Exit::Failed,
            _ => Exit::Conflict,
        },
    }
}

struct StepTeller<'a> {
    output: &'a Output,
    /// There are several apps.
    are_many: bool,
    /// The end of a reload is told as a notice and as the outcome: kept back until the next event
    /// shows whether it is the same one.
    held: Option<Notice>,
}

impl StepTeller<'_> {
    fn progress(&mut self, progress: &Progress) {
        if self.output.json {
            self.json(progress);
            return;
        }
        match progress {
            Progress::Notice(notice) => {
                self.release();
                let is_end = ["reload_committed", "reload_failed", "reload_superseded"]
                    .contains(&notice.kind.as_str());
                if is_end {
                    self.held = Some((**notice).clone());
                } else {
                    self.notice(notice);
                }
            }
            Progress::Missed(missed) => {
                self.release();
                let text = too_fast(*missed);
                self.output.line(&self.output.tone(&text, Tone::Faint));
            }
            Progress::Outcome(_) => {}
        }
    }

    fn outcome(&mut self, outcome: &Outcome, what: &str) {
        if self.output.json {
            self.json(&Progress::Outcome(Box::new(outcome.clone())));
        }
        if self
            .held
            .as_ref()
            .is_some_and(|held| held.text == outcome.text)
        {
            self.held = None;
        }
        self.release();
        let exit = exit_of(outcome);
        if exit == Exit::Done {
            if !self.output.json && self.output.verbosity.shows(Level::Info) {
                let text = self.named(&outcome.app, &outcome.text);
                self.output.line(&self.output.tone(&text, Tone::Good));
            }
            return;
        }
        if !self.output.json {
            let text = self.named(&outcome.app, &outcome.text);
            let trouble = Trouble::new(what, text, &outcome.next, exit);
            self.output.trouble(&trouble);
            let stderr = outcome.failure.iter().flat_map(|failure| &failure.stderr);
            for line in lines::tail(stderr) {
                self.output.complain(&line);
            }
        }
    }

    fn release(&mut self) {
        if let Some(held) = self.held.take() {
            self.notice(&held);
        }
    }

    fn notice(&self, notice: &Notice) {
        match told(notice, self.output.verbosity, self.are_many) {
            Some((text, Some(tone))) => self.output.line(&self.output.tone(&text, tone)),
            Some((text, None)) => self.output.line(&text),
            None => {}
        }
    }

    fn named(&self, app: &str, text: &str) -> String {
        named(app, text, self.are_many)
    }

    fn json(&self, progress: &Progress) {
        // Strings, numbers and lists of them always have a JSON form.
        self.output
            .line(&serde_json::to_string(progress).unwrap_or_default());
    }
}

/// The words for a piece of news and their colour, for whoever wants to know so much.
pub(super) fn told(
    notice: &Notice,
    verbosity: Verbosity,
    are_many: bool,
) -> Option<(String, Option<Tone>)> {
    // Steps that the supervisor's own log leaves out are news for whoever waits for them.
    let level = if notice.kind == "worker_ready" {
        Level::Info
    } else {
        notice.level
    };
    let tone = match notice.level {
        Level::Debug => Some(Tone::Faint),
        Level::Info => None,
        Level::Warn => Some(Tone::Careful),
        Level::Error => Some(Tone::Bad),
    };
    let text = named(&notice.app, &notice.text, are_many);
    verbosity.shows(level).then_some((text, tone))
}

/// News that came faster than they were read.
pub(super) fn too_fast(missed: Missed) -> String {
    format!("({} steps were too fast to be shown)", missed.count)
}

/// What is said of an app, with its name where there are others.
pub(super) fn named(app: &str, text: &str, are_many: bool) -> String {
    match are_many {
        true => lines::of_app(app, text),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use segue_wire::control::Failure;

    use super::*;
    use crate::cli::output::kept;

    fn notice(kind: &str, level: Level, text: &str) -> Progress {
        Progress::Notice(Box::new(Notice {
            kind: kind.to_owned(),
            level,
            text: text.to_owned(),
            ..Notice::default()
        }))
    }

    #[test]
    fn steps_of_a_reload() {
        let (output, out, err) = kept::output();
        let mut teller = StepTeller {
            output: &output,
            are_many: false,
            held: None,
        };
        let text = "reload 3 committed: generation 4 serves (2 workers, 1.2 s)";
        teller.progress(&notice(
            "reload_superseded",
            Level::Info,
            "reload 2 was overtaken by reload 3",
        ));
        teller.progress(&notice("reload_started", Level::Info, "reload 3 began"));
        teller.progress(&notice("worker_spawned", Level::Debug, "worker 7 boots"));
        teller.progress(&notice("worker_ready", Level::Debug, "worker 7 is ready"));
        teller.progress(&notice("reload_committed", Level::Info, text));
        let outcome = Outcome {
            kind: OutcomeKind::Reloaded,
            text: text.to_owned(),
            ..Outcome::default()
        };
        teller.outcome(&outcome, "cannot reload");
        let expected = format!(
            "reload 2 was overtaken by reload 3\nreload 3 began\nworker 7 is ready\n{text}\n"
        );
        assert_eq!(out.text(), expected);
        assert_eq!(err.text(), "");
    }

    #[test]
    fn a_failed_reload_shows_the_workers_last_words() {
        let (output, out, err) = kept::output();
        let mut teller = StepTeller {
            output: &output,
            are_many: false,
            held: None,
        };
        let text = "reload 3 failed, nothing has changed: worker 7 exited with code 1";
        teller.progress(&notice("reload_failed", Level::Error, text));
        let outcome = Outcome {
            kind: OutcomeKind::ReloadFailed,
            text: text.to_owned(),
            next: "repair it".to_owned(),
            failure: Some(Failure {
                stderr: vec!["Error: no such table".to_owned()],
                ..Failure::default()
            }),
            ..Outcome::default()
        };
        teller.outcome(&outcome, "cannot reload web");
        assert_eq!(out.text(), "");
        let expected = format!(
            "segue: cannot reload web: {text}; repair it\n  its last lines on stderr:\n  | Error: no such table\n"
        );
        assert_eq!(err.text(), expected);
    }

    #[test]
    fn json_has_one_line_an_event() {
        let (mut output, out, _) = kept::output();
        output.json = true;
        let mut teller = StepTeller {
            output: &output,
            are_many: false,
            held: None,
        };
        teller.progress(&notice("worker_ready", Level::Debug, "ready"));
        teller.outcome(
            &Outcome {
                kind: OutcomeKind::Reloaded,
                ..Outcome::default()
            },
            "cannot reload",
        );
        let text = out.text();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines[0]["event"], "notice");
        assert_eq!(lines[0]["kind"], "worker_ready");
        assert_eq!(lines[1]["event"], "outcome");
        assert_eq!(lines[1]["kind"], "reloaded");
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn exit_codes_of_outcomes() {
        let refused = |why: &str| Outcome {
            kind: OutcomeKind::Refused,
            refusal: Some(why.to_owned()),
            ..Outcome::default()
        };
        let of = |kind| Outcome {
            kind,
            ..Outcome::default()
        };
        for (outcome, exit) in [
            (of(OutcomeKind::Reloaded), Exit::Done),
            (of(OutcomeKind::ReloadFailed), Exit::Failed),
            (of(OutcomeKind::Superseded), Exit::Conflict),
            (of(OutcomeKind::StoppedHard), Exit::Partly),
            (refused("reloading"), Exit::Conflict),
            (refused("no_workers"), Exit::Usage),
        ] {
            assert_eq!(exit_of(&outcome), exit, "{outcome:?}");
        }
    }
}
