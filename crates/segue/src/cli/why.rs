//! `segue why`: the story of an app, as its supervisor remembers it.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use segue_wire::control::{
    App, Level, ReloadOutcome, ReloadRecord, RestartCount, RestartRecord, Story, Worker,
};

use super::args::WhyArgs;
use super::error::Trouble;
use super::output::{Output, Tone};
use super::scale::only_app;
use super::status::{canary, ms};
use crate::control::find::find;
use crate::control::runtime::Place;
use crate::exit::Exit;
use crate::telemetry::lines;

/// So many restarts are shown if no more are asked for.
const RESTARTS: usize = 10;

pub(super) async fn run(args: WhyArgs, output: Output) -> Result<Exit, Trouble> {
    let what = "cannot tell why";
    let app = args.app.as_deref();
    let found = find(args.common.control.clone(), app, &Place::of_this_process()).await;
    let found = found.map_err(|error| Trouble::finding(what, error))?;
    let app = only_app(&found, app, what)?;
    let story = found.client.why(&app).await;
    let story = story.map_err(|error| Trouble::talking(what, error))?;
    if output.json {
        // Strings, numbers and lists of them always have a JSON form.
        output.line(&serde_json::to_string_pretty(&story).unwrap_or_default());
    } else {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        });
        show(&story, now, &output);
    }
    Ok(Exit::Done)
}

fn show(story: &Story, now: u64, output: &Output) {
    let app = &story.app;
    let mut head = format!(
        "{}  {}  generation {}",
        app.name,
        app.phase.as_str(),
        app.generation
    );
    if let Some(release) = &app.release {
        head.push_str(&format!("  {release}"));
    }
    if let Some(revision) = &app.revision {
        head.push_str(&format!("  {}", revision.short()));
    }
    output.line(&head);
    show_troubles(app, output);
    show_reloads(story, now, output);
    show_restarts(&story.restarts, &app.restarts, now, output);
    show_leaving(app, output);
}

fn show_troubles(app: &App, output: &Output) {
    for trouble in &app.troubles {
        output.line(&format!("  {}", output.tone(&trouble.text, Tone::Bad)));
        if !trouble.next.is_empty() {
            output.line(&format!("    what to do: {}", trouble.next));
        }
    }
    if app.health_shared {
        let text = "workers fail at once, for a cause that a new worker would not cure: nobody is replaced";
        output.line(&format!("  {}", output.tone(text, Tone::Bad)));
    }
    for worker in &app.workers {
        for text in ailments(worker) {
            let line = format!("worker {} (slot {}) {text}", worker.worker, worker.slot);
            output.line(&format!("  {}", output.tone(&line, Tone::Careful)));
        }
    }
}

/// What is wrong with a worker that runs.
pub(super) fn ailments(worker: &Worker) -> Vec<String> {
    let blocked = worker.blocked_ms.map(|blocked| {
        format!(
            "has not answered for {}: its event loop is blocked",
            ms(blocked)
        )
    });
    let failing = worker.failing.as_ref().map(|failing| {
        let so = if worker.unhealthy {
            "is unhealthy"
        } else {
            "failed its last probe"
        };
        format!("{so}: {failing}")
    });
    blocked.into_iter().chain(failing).collect()
}

fn show_reloads(story: &Story, now: u64, output: &Output) {
    if story.reloads.is_empty() {
        output.line("no reload since the start");
        return;
    }
    let is_news = |record: &ReloadRecord| record.outcome == ReloadOutcome::UnderWay;
    let last = story.reloads.iter().rposition(|record| !is_news(record));
    let shows_all = output.verbosity.shows(Level::Debug);
    let mut earlier = 0;
    for (index, record) in story.reloads.iter().enumerate() {
        if shows_all || is_news(record) || Some(index) == last {
            show_reload(record, &story.app, now, output);
        } else {
            earlier += 1;
        }
    }
    if earlier > 0 {
        output.line(&format!("earlier reloads: {earlier}; -v shows them"));
    }
}

fn show_reload(record: &ReloadRecord, app: &App, now: u64, output: &Output) {
    let (word, tone) = match record.outcome {
        ReloadOutcome::UnderWay => ("under way", Tone::Careful),
        ReloadOutcome::Committed => ("committed", Tone::Good),
        ReloadOutcome::Failed => ("failed", Tone::Bad),
        ReloadOutcome::Superseded => ("overtaken", Tone::Careful),
        ReloadOutcome::Unknown => ("ended", Tone::Careful),
    };
    let kind = match record.kind.as_str() {
        "" | "reload" => String::new(),
        kind => format!(" (a {kind})"),
    };
    output.line(&format!(
        "reload {}{kind}  {}  {}",
        record.reload,
        output.tone(word, tone),
        moment(record.at_ms, now)
    ));
    if !record.asked.text.is_empty() {
        output.line(&format!("  asked for: {}", record.asked.text));
    }
    if let Some(release) = &record.release {
        let revision = record.revision.as_ref();
        let revision = revision.map_or_else(String::new, |it| format!(", {}", it.short()));
        output.line(&format!("  release: {release}{revision}"));
    }
    if !record.steps.is_empty() {
        let steps = record.steps.iter().map(|step| {
            let name = step.step.replace('_', " ");
            match step.took_ms {
                Some(took) => format!("{name} {}", ms(took)),
                None => format!("{name} now"),
            }
        });
        let steps: Vec<String> = steps.collect();
        let all = record.took_ms.map(|took| format!("; {} in all", ms(took)));
        let all = all.unwrap_or_default();
        output.line(&format!("  steps: {}{all}", steps.join(", ")));
    }
    if let Some(reload) = &app.reload
        && record.outcome == ReloadOutcome::UnderWay
        && reload.reload == record.reload
        && let Some(canary) = canary(reload)
    {
        output.line(&format!("  {canary}"));
    }
    if !record.text.is_empty() {
        output.line(&format!("  {}", record.text));
    }
    if let Some(failure) = &record.failure {
        for line in lines::tail(&failure.stderr) {
            output.line(&format!("  {line}"));
        }
        if !failure.next.is_empty() {
            output.line(&format!("  what to do: {}", failure.next));
        }
    }
}

fn show_restarts(restarts: &[RestartRecord], counts: &[RestartCount], now: u64, output: &Output) {
    match by_cause(counts) {
        Some(counts) => output.line(&format!("restarts since the start: {counts}")),
        None => output.line("no restart since the start"),
    }
    let shown = match output.verbosity.shows(Level::Debug) {
        true => restarts.len(),
        false => RESTARTS,
    };
    let left_out = restarts.len().saturating_sub(shown);
    let last = restarts.len().saturating_sub(1);
    for (index, restart) in restarts.iter().enumerate().skip(left_out) {
        let failure = &restart.failure;
        output.line(&format!(
            "  {}: {}",
            moment(restart.at_ms, now),
            failure.text
        ));
        if index == last {
            for line in lines::tail(&failure.stderr) {
                output.line(&format!("  {line}"));
            }
            if !failure.next.is_empty() {
                output.line(&format!("    what to do: {}", failure.next));
            }
        } else if let Some(line) = telling(&failure.stderr) {
            for line in lines::tail([line]).into_iter().skip(1) {
                output.line(&format!("  {line}"));
            }
        }
    }
    if left_out > 0 {
        output.line(&format!("  {left_out} earlier ones; -v shows them"));
    }
}

/// `3: 2 exit code 1, 1 SIGSEGV`.
pub(super) fn by_cause(counts: &[RestartCount]) -> Option<String> {
    let all: u64 = counts.iter().map(|count| count.count).sum();
    let mut counts: Vec<&RestartCount> = counts.iter().collect();
    counts.sort_by_key(|count| std::cmp::Reverse(count.count));
    let each: Vec<String> = counts
        .iter()
        .map(|count| format!("{} {}", count.count, count.text))
        .collect();
    (all > 0).then(|| format!("{all}: {}", each.join(", ")))
}

/// The line that most likely says why: of what node prints at an uncaught exception, its message.
fn telling(stderr: &[String]) -> Option<&String> {
    let is_message = |line: &&String| {
        let line = line.trim_start();
        line.contains("rror") && !line.starts_with("at ") && !line.starts_with("throw ")
    };
    let message = stderr.iter().rev().find(is_message);
    message.or_else(|| stderr.iter().rev().find(|line| !line.trim().is_empty()))
}

fn show_leaving(app: &App, output: &Output) {
    let leaving: Vec<&Worker> = app
        .workers
        .iter()
        .filter(|worker| worker.phase.is_leaving())
        .collect();
    if leaving.is_empty() {
        output.line("nothing drains");
        return;
    }
    output.line("on their way out");
    for worker in leaving {
        let pid = worker
            .pid
            .map_or_else(String::new, |pid| format!(", pid {pid}"));
        let why = worker.leaves.as_ref();
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        output.line(&format!(
            "  worker {} (slot {}{pid}) of generation {} is {} for {}{why}",
            worker.worker,
            worker.slot,
            worker.generation,
            worker.phase.as_str(),
            ms(worker.since_ms)
        ));
        let draining = worker.draining.unwrap_or_default();
        let mut waits = Vec::new();
        waits.extend(draining.left(ms).map(|left| format!("waits for {left}")));
        waits.extend(
            worker
                .until_in_ms
                .map(|until| format!("{} at most", ms(until))),
        );
        waits.extend(draining.gone());
        if !waits.is_empty() {
            output.line(&format!("    {}", waits.join("; ")));
        }
    }
}

/// `3 min ago, 2026-11-26 00:12:03 UTC`.
fn moment(at_ms: u64, now: u64) -> String {
    let ago = format!("{} ago", ms(now.saturating_sub(at_ms)));
    let at = i64::try_from(at_ms).ok();
    match at.and_then(|at| Timestamp::from_millisecond(at).ok()) {
        Some(at) => format!("{ago}, {} UTC", at.strftime("%Y-%m-%d %H:%M:%S")),
        None => ago,
    }
}

#[cfg(test)]
mod tests {
    use segue_wire::control::{
        AppPhase, Asked, Draining, Failure, Revision, Step, Trouble, WorkerPhase,
    };

    use super::*;
    use crate::cli::output::kept;

    const NOW: u64 = 1_767_225_900_000;

    fn step(step: &str, took_ms: Option<u64>) -> Step {
        Step {
            step: step.to_owned(),
            took_ms,
        }
    }

    fn failure(text: &str, stderr: &[&str]) -> Failure {
        Failure {
            text: text.to_owned(),
            stderr: stderr.iter().map(ToString::to_string).collect(),
            ..Failure::default()
        }
    }

    fn story() -> Story {
        let failed = ReloadRecord {
            reload: 3,
            kind: "reload".to_owned(),
            generation: Some(4),
            asked: Asked {
                text: "`segue reload` by root (pid 4711)".to_owned(),
                ..Asked::default()
            },
            at_ms: NOW - 300_000,
            release: Some("/srv/web/releases/8".to_owned()),
            revision: Some(Revision {
                id: "0123456789abcdef0123456789abcdef01234567".to_owned(),
                branch: Some("main".to_owned()),
            }),
            steps: vec![step("preparing", Some(12)), step("booting", Some(1_200))],
            outcome: ReloadOutcome::Failed,
            text: "reload 3 failed, nothing has changed: worker 7 exited with code 1".to_owned(),
            took_ms: Some(1_212),
            failure: Some(Failure {
                next: "repair it".to_owned(),
                ..failure("", &["Error: no such table"])
            }),
            by: None,
        };
        let earlier = ReloadRecord {
            reload: 2,
            outcome: ReloadOutcome::Committed,
            ..ReloadRecord::default()
        };
        let restart = |minutes: u64, text: &str, stderr: &[&str]| RestartRecord {
            at_ms: NOW - minutes * 60_000,
            generation: 3,
            failure: failure(text, stderr),
        };
        let count = |count, text: &str| RestartCount {
            cause: "exited_ready".to_owned(),
            text: text.to_owned(),
            count,
        };
        Story {
            app: App {
                name: "web".to_owned(),
                phase: AppPhase::Running,
                generation: 3,
                troubles: vec![Trouble {
                    kind: "slot_given_up".to_owned(),
                    text: "slot 1 is given up after 10 restarts".to_owned(),
                    next: "mend it".to_owned(),
                }],
                restarts: vec![count(1, "SIGSEGV"), count(4, "exit code 1")],
                workers: vec![
                    Worker {
                        worker: 1,
                        generation: 2,
                        pid: Some(4001),
                        phase: WorkerPhase::Draining,
                        since_ms: 192_345,
                        until_in_ms: Some(107_000),
                        leaves: Some("a newer generation serves".to_owned()),
                        draining: Some(Draining {
                            busy: 3,
                            websocket: 1,
                            oldest_ms: 720_000,
                            moved: 118,
                            ..Draining::default()
                        }),
                        ..Worker::default()
                    },
                    Worker {
                        worker: 5,
                        slot: 0,
                        phase: WorkerPhase::Ready,
                        blocked_ms: Some(3_000),
                        ..Worker::default()
                    },
                ],
                ..App::default()
            },
            reloads: vec![earlier, failed],
            restarts: vec![
                restart(
                    9,
                    "worker 4 exited with code 1",
                    &[
                        "throw new Error('x')",
                        "Error: x",
                        "    at main",
                        "Node.js v20.1.0",
                    ],
                ),
                restart(2, "worker 5 was ended by SIGSEGV", &[]),
            ],
            ..Story::default()
        }
    }

    #[test]
    fn a_story() {
        let (output, out, _) = kept::output();
        show(&story(), NOW, &output);
        let expected = "\
web  running  generation 3
  slot 1 is given up after 10 restarts
    what to do: mend it
  worker 5 (slot 0) has not answered for 3 s: its event loop is blocked
reload 3  failed  5 min ago, 2026-01-01 00:00:00 UTC
  asked for: `segue reload` by root (pid 4711)
  release: /srv/web/releases/8, 0123456789ab (main)
  steps: preparing 12 ms, booting 1 s; 1 s in all
  reload 3 failed, nothing has changed: worker 7 exited with code 1
    its last lines on stderr:
    | Error: no such table
  what to do: repair it
earlier reloads: 1; -v shows them
restarts since the start: 5: 4 exit code 1, 1 SIGSEGV
  9 min ago, 2025-12-31 23:56:00 UTC: worker 4 exited with code 1
    | Error: x
  2 min ago, 2026-01-01 00:03:00 UTC: worker 5 was ended by SIGSEGV
on their way out
  worker 1 (slot 0, pid 4001) of generation 2 is draining for 3 min 12 s: a newer generation serves
    waits for 3 busy, 1 websocket; oldest 12 min; 1 min 47 s at most; 118 moved
";
        assert_eq!(out.text(), expected);
    }

    #[test]
    fn a_short_story() {
        let (output, out, _) = kept::output();
        let story = Story {
            app: App {
                name: "web".to_owned(),
                phase: AppPhase::Running,
                generation: 1,
                ..App::default()
            },
            ..Story::default()
        };
        show(&story, NOW, &output);
        let expected = "\
web  running  generation 1
no reload since the start
no restart since the start
nothing drains
";
        assert_eq!(out.text(), expected);
    }
}
