//! `segue status`: a picture of what runs, one line a worker.

use std::collections::BTreeSet;
use std::time::Duration;

use segue_wire::control::{
    Address, Answers, App, AppPhase, Drain, Reload, Slot, Status, Supervisor, Worker, WorkerPhase,
};

use super::args::StatusArgs;
use super::connections;
use super::error::Trouble;
use super::output::{Output, Tone};
use super::why::{ailments, by_cause};
use crate::config::quantity::human;
use crate::control::find::find;
use crate::control::runtime::Place;
use crate::exit::Exit;
use crate::telemetry::lines;

pub(super) const HEADINGS: [&str; 10] = [
    "SLOT", "GEN", "WORKER", "PID", "PHASE", "SINCE", "CONNS", "MEMORY", "CPU", "RESTARTS",
];
pub(super) const HEALTH_SHARED: &str =
    "workers fail at once, for a cause that a new worker would not cure: nobody is replaced";
/// Position of the phase, which has a colour, and of the connections, which are not always known.
const PHASE: usize = 4;
const CONNECTIONS: usize = 6;

pub(super) async fn run(args: StatusArgs, output: Output) -> Result<Exit, Trouble> {
    let app = args.app.as_deref();
    let found = find(args.common.control.clone(), app, &Place::of_this_process()).await;
    let found = found.map_err(|error| Trouble::finding("cannot show the status", error))?;
    let mut status = found.status;
    status
        .apps
        .retain(|known| app.is_none_or(|app| known.name == app));
    connections::count(&mut status);
    if output.json {
        // Strings, numbers and lists of them always have a JSON form.
        output.line(&serde_json::to_string_pretty(&status).unwrap_or_default());
    } else {
        show(&status, &output);
    }
    if args.check {
        return Ok(check(&status, &output));
    }
    Ok(Exit::Done)
}

/// Whether the apps need nobody; else why they do.
fn check(status: &Status, output: &Output) -> Exit {
    let mut exit = Exit::Done;
    for app in &status.apps {
        for trouble in &app.troubles {
            let next = match trouble.next.as_str() {
                "" => String::new(),
                next => format!("; {next}"),
            };
            output.complain(&format!("segue: {}: {}{next}", app.name, trouble.text));
            exit = Exit::Failed;
        }
    }
    exit
}

fn show(status: &Status, output: &Output) {
    for app in &status.apps {
        show_app(app, output);
    }
    for unclaimed in &status.supervisor.unclaimed {
        let line = format!("nobody listens at {unclaimed}, which the service manager does");
        output.line(&output.tone(&line, Tone::Careful));
    }
    output.line(&output.tone(&supervisor_line(&status.supervisor), Tone::Faint));
}

fn supervisor_line(supervisor: &Supervisor) -> String {
    let mut line = supervisor_words(supervisor);
    if let Some(control) = &supervisor.control {
        line.push_str(&format!(", control socket {control}"));
    }
    line
}

/// Which supervisor it is, and since when.
pub(super) fn supervisor_words(supervisor: &Supervisor) -> String {
    let keeper = supervisor.keeper_version.as_ref();
    let keeper = keeper.map_or_else(String::new, |it| format!(" (main process {it})"));
    format!(
        "segue {}{keeper}, pid {}, up {}",
        supervisor.version,
        supervisor.keeper_pid.unwrap_or(supervisor.pid),
        ms(supervisor.since_ms)
    )
}

fn show_app(app: &App, output: &Output) {
    let tone = if app.troubles.is_empty() && app.phase == AppPhase::Running {
        Tone::Good
    } else {
        Tone::Careful
    };
    let phase = app_phase(app.phase);
    let mut head = format!(
        "{}  {}  generation {}",
        app.name,
        output.tone(phase, tone),
        app.generation
    );
    if let Some(release) = &app.release {
        head.push_str(&format!("  {release}"));
    }
    if let Some(revision) = &app.revision {
        head.push_str(&format!("  {}", revision.short()));
    }
    output.line(&head);
    if let Some(reload) = &app.reload {
        show_reload(reload, output);
    }
    for address in &app.addresses {
        let mut line = format!("  {}", address.name);
        if let Some(queued) = queued(address) {
            line.push_str(&format!("  {queued}"));
        }
        if address.refusing {
            let refusing = "refuses connections: no worker serves";
            line.push_str(&format!("  {}", output.tone(refusing, Tone::Bad)));
        }
        output.line(&line);
    }
    show_workers(&app.workers, output);
    show_drains(app, output);
    if app.health_shared {
        output.line(&format!("  {}", output.tone(HEALTH_SHARED, Tone::Bad)));
    }
    for slot in &app.slots {
        show_slot(slot, output);
    }
    for trouble in &app.troubles {
        output.line(&format!("  {}", output.tone(&trouble.text, Tone::Bad)));
        if !trouble.next.is_empty() {
            output.line(&format!("    what to do: {}", trouble.next));
        }
    }
    if let Some(restarts) = by_cause(&app.restarts) {
        output.line(&format!("  restarts since the start: {restarts}"));
    }
}

/// The word for where an app is in its life.
pub(super) const fn app_phase(phase: AppPhase) -> &'static str {
    match phase {
        // It may be started again.
        AppPhase::Finished => "stopped",
        phase => phase.as_str(),
    }
}

/// How many connections wait at an address, if any do.
pub(super) fn queued(address: &Address) -> Option<String> {
    let queued = address.queued.filter(|queued| *queued > 0)?;
    Some(format!("{queued} waiting to be accepted"))
}

fn show_reload(reload: &Reload, output: &Output) {
    output.line(&format!("  {}", reload_words(reload)));
    if let Some(canary) = canary(reload) {
        output.line(&format!("  {canary}"));
    }
}

/// How far a reload is.
pub(super) fn reload_words(reload: &Reload) -> String {
    let step = match reload.step_text.as_str() {
        "" => "goes on",
        text => text,
    };
    let left = reload
        .until_in_ms
        .map(|left| format!(", {} left", ms(left)));
    format!(
        "reload {} for {}: generation {}: {step}{}",
        reload.reload,
        ms(reload.since_ms),
        reload.generation,
        left.unwrap_or_default()
    )
}

/// What a canary has come to so far.
pub(super) fn canary(reload: &Reload) -> Option<String> {
    let canary = reload.canary.as_ref()?;
    let side =
        |Answers { answers, errors }: &Answers| format!("{errors} errors in {answers} answers");
    Some(format!(
        "canary: {} % of new connections, {} left; new {}, old {}",
        canary.percent,
        ms(canary.until_in_ms),
        side(&canary.new),
        side(&canary.old)
    ))
}

fn show_workers(workers: &[Worker], output: &Output) {
    if workers.is_empty() {
        return;
    }
    let sorted = sorted(workers);
    let counted = workers.iter().any(|worker| worker.connections.is_some());
    let rows: Vec<[String; 10]> = [HEADINGS.map(str::to_owned)]
        .into_iter()
        .chain(sorted.iter().map(|worker| cells(worker)))
        .collect();
    let mut widths = [0; 10];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let workers = [None].into_iter().chain(sorted.iter().map(Some));
    for (row, worker) in rows.iter().zip(workers) {
        let mut line = String::from(" ");
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            if column == CONNECTIONS && !counted {
                continue;
            }
            let padded = format!("{cell:width$}");
            line.push(' ');
            line.push_str(&match worker {
                Some(worker) if column == PHASE => output.tone(&padded, tone_of(worker.phase)),
                Some(_) => padded,
                None => output.tone(&padded, Tone::Faint),
            });
            line.push(' ');
        }
        if let Some(note) = worker.and_then(|worker| note(worker)) {
            line.push_str(&format!(" {note}"));
        }
        output.line(line.trim_end());
    }
}

/// Those that leave come last.
pub(super) fn sorted(workers: &[Worker]) -> Vec<&Worker> {
    let mut sorted: Vec<&Worker> = workers.iter().collect();
    sorted.sort_by_key(|worker| (worker.phase.is_leaving(), worker.slot, worker.worker));
    sorted
}

/// What stands under the headings.
pub(super) fn cells(worker: &Worker) -> [String; 10] {
    let known = |number: Option<String>| number.unwrap_or_else(|| "-".to_owned());
    [
        worker.slot.to_string(),
        worker.generation.to_string(),
        worker.worker.to_string(),
        known(worker.pid.map(|pid| pid.to_string())),
        worker.phase.as_str().to_owned(),
        ms(worker.since_ms),
        known(
            worker
                .connections
                .map(|connections| connections.to_string()),
        ),
        known(worker.memory.map(memory)),
        known(share(worker)),
        worker.restarts.to_string(),
    ]
}

/// What a worker must do and until when, or what ails it.
pub(super) fn note(worker: &Worker) -> Option<String> {
    let until = worker.until_in_ms.map(ms);
    Some(match (worker.phase, until) {
        (WorkerPhase::Booting, Some(until)) => format!("must be ready within {until}"),
        (WorkerPhase::Quiet, Some(until)) => format!("accepts what is on its way, {until} at most"),
        (WorkerPhase::Quiet, None) => "accepts what is on its way".to_owned(),
        (WorkerPhase::Draining, until) => draining(worker, until),
        (WorkerPhase::Stopping, Some(until)) => format!("was told to end, killed in {until}"),
        (WorkerPhase::Ready, _) => match ailments(worker) {
            ailments if ailments.is_empty() => return None,
            ailments => ailments.join("; "),
        },
        _ => return None,
    })
}

fn draining(worker: &Worker, until: Option<String>) -> String {
    let draining = worker.draining.unwrap_or_default();
    let (mut text, stop) = match draining.left(ms) {
        Some(left) => (format!("drains {left}"), ';'),
        None => ("finishes its connections".to_owned(), ','),
    };
    if let Some(until) = until {
        text.push_str(&format!("{stop} {until} at most"));
    }
    if let Some(gone) = draining.gone() {
        text.push_str(&format!("; {gone}"));
    }
    text
}

/// What is not as good as it could be in how workers let their connections go, once each.
fn show_drains(app: &App, output: &Output) {
    let mut notes: BTreeSet<String> = BTreeSet::new();
    for worker in &app.workers {
        if let Some(note) = &worker.drain_note {
            notes.insert(match worker.drain {
                Drain::Full => format!("drain: {note}"),
                Drain::Plain | Drain::Unknown => format!(
                    "drain: plain ({note}); idle keep-alive connections are closed in a reload"
                ),
            });
        }
        for place in &worker.bypasses {
            notes.insert(format!(
                "the app listens at {place} on a socket of its own: a reload cannot hand that port over, and connections to it are lost with their worker"
            ));
        }
    }
    for note in notes {
        output.line(&format!("  {}", output.tone(&note, Tone::Careful)));
    }
}

fn show_slot(slot: &Slot, output: &Output) {
    if let Some(respawn) = respawn(slot) {
        output.line(&format!("  {respawn}"));
    }
    // A failure long repaired is no news: it is shown while its slot is not served.
    if (slot.given_up || slot.respawn_in_ms.is_some())
        && let Some(failure) = &slot.last_failure
    {
        output.line(&format!("  last failure: {}", failure.text));
        for line in lines::tail(&failure.stderr) {
            output.line(&format!("  {line}"));
        }
    }
}

/// When a slot that has no worker gets one.
pub(super) fn respawn(slot: &Slot) -> Option<String> {
    let respawn = ms(slot.respawn_in_ms?);
    Some(format!("slot {} gets a new worker in {respawn}", slot.slot))
}

pub(super) const fn tone_of(phase: WorkerPhase) -> Tone {
    match phase {
        WorkerPhase::Ready => Tone::Good,
        WorkerPhase::Booting | WorkerPhase::Quiet | WorkerPhase::Draining => Tone::Careful,
        WorkerPhase::Stopping | WorkerPhase::Killed => Tone::Bad,
        WorkerPhase::Unknown => Tone::Faint,
    }
}

/// Processor time over the life of the process, as ps(1) shows it.
fn share(worker: &Worker) -> Option<String> {
    let (cpu, age) = (worker.cpu_ms?, worker.age_ms.filter(|age| *age > 0)?);
    Some(percent(cpu, age))
}

/// Processor time as a share of the time that has passed.
pub(super) fn percent(cpu_ms: u64, of_ms: u64) -> String {
    let tenths = cpu_ms.saturating_mul(1000) / of_ms.max(1);
    format!("{}.{}%", tenths / 10, tenths % 10)
}

pub(super) fn memory(bytes: u64) -> String {
    const MIB: u64 = 1024 * 1024;
    if bytes >= 1024 * MIB {
        let tenths = bytes.saturating_mul(10) / (1024 * MIB);
        format!("{}.{} GiB", tenths / 10, tenths % 10)
    } else {
        format!("{} MiB", bytes / MIB)
    }
}

pub(super) fn ms(millis: u64) -> String {
    // Tenths of a second only make a table restless.
    let whole = if millis >= 1000 {
        millis / 1000 * 1000
    } else {
        millis
    };
    human(Duration::from_millis(whole))
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
