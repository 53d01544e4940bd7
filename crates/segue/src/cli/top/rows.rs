//! The table: a row for each app, and beneath it one for each worker, in the words of `segue status`.

use std::collections::BTreeSet;

use segue_wire::control::{App, AppPhase, Slot, Worker, WorkerPhase};

use crate::cli::output::Tone;
use crate::cli::status::{
    HEADINGS, HEALTH_SHARED, app_phase, canary, cells, memory, note, percent, queued, reload_words,
    respawn, sorted, tone_of,
};
use crate::telemetry::terminal::plain;

/// Positions of what is not as `status` shows it.
const NAME: usize = 0;
const GENERATION: usize = 1;
pub(super) const PHASE: usize = 4;
pub(super) const CONNECTIONS: usize = 6;
const MEMORY: usize = 7;
const CPU: usize = 8;
const RESTARTS: usize = 9;

/// What a row is about: an app, or one of its workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) app: String,
    pub(super) worker: Option<u32>,
}

#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) place: Place,
    /// Nothing in them acts on a terminal.
    pub(super) cells: [String; 10],
    /// Of the phase.
    pub(super) tone: Tone,
    /// What is going on, each with its colour if it has one.
    pub(super) notes: Vec<(String, Option<Tone>)>,
}

/// What stands above the cells.
pub(super) fn headings() -> [String; 10] {
    let mut headings = HEADINGS.map(str::to_owned);
    "APP".clone_into(&mut headings[NAME]);
    headings
}

/// All rows. `share` is the processor time that a worker has used, and of how much.
pub(super) fn rows<'a>(
    apps: impl Iterator<Item = &'a App>,
    folded: &BTreeSet<String>,
    share: impl Fn(&str, &Worker) -> Option<(u64, u64)>,
) -> Vec<Row> {
    let mut rows = Vec::new();
    for app in apps {
        let is_folded = folded.contains(&app.name);
        let share = |worker: &Worker| share(&app.name, worker);
        rows.push(of_app(app, is_folded, share));
        if !is_folded {
            let workers = sorted(&app.workers).into_iter();
            rows.extend(workers.map(|worker| of_worker(app, worker, share(worker))));
        }
    }
    rows
}

fn of_app(app: &App, is_folded: bool, share: impl Fn(&Worker) -> Option<(u64, u64)>) -> Row {
    let is_served = |slot: &&Slot| {
        let mut workers = app.workers.iter();
        workers.any(|worker| worker.slot == slot.slot && worker.phase == WorkerPhase::Ready)
    };
    let wanted = app.slots.len();
    let ready = app.slots.iter().filter(is_served).count();
    let phase = match app.phase {
        AppPhase::Running => format!("{ready}/{wanted} ready"),
        phase if wanted == 0 => app_phase(phase).to_owned(),
        phase => format!("{} {ready}/{wanted}", app_phase(phase)),
    };
    let tone = match app.phase {
        _ if !app.troubles.is_empty() => Tone::Bad,
        AppPhase::Running if ready == wanted => Tone::Good,
        _ => Tone::Careful,
    };
    let sum = |of: &dyn Fn(&Worker) -> Option<u64>| {
        let known: Vec<u64> = app.workers.iter().filter_map(of).collect();
        (!known.is_empty()).then(|| known.into_iter().sum::<u64>())
    };
    // Of a thousandth, so that workers of different age may be added.
    let cpu = sum(&|worker| {
        let (used, of) = share(worker)?;
        Some(used.saturating_mul(100_000) / of.max(1))
    });
    let restarts: u64 = app.restarts.iter().map(|restarts| restarts.count).sum();
    let mut cells: [String; 10] = Default::default();
    let marker = if is_folded { '+' } else { '-' };
    cells[NAME] = format!("{marker} {}", plain(app.name.as_bytes()));
    cells[GENERATION] = app.generation.to_string();
    cells[PHASE] = phase;
    if let Some(connections) = sum(&|worker| worker.connections.map(u64::from)) {
        cells[CONNECTIONS] = connections.to_string();
    }
    cells[MEMORY] = sum(&|worker| worker.memory).map_or_else(String::new, memory);
    cells[CPU] = cpu.map_or_else(String::new, |cpu| percent(cpu, 100_000));
    cells[RESTARTS] = restarts.to_string();
    Row {
        place: Place {
            app: app.name.clone(),
            worker: None,
        },
        cells,
        tone,
        notes: notes(app),
    }
}

/// What is going on with an app.
fn notes(app: &App) -> Vec<(String, Option<Tone>)> {
    let mut notes = Vec::new();
    if let Some(reload) = &app.reload {
        notes.push((reload_words(reload), None));
        notes.extend(canary(reload).map(|canary| (canary, None)));
    }
    for address in &app.addresses {
        let queued = queued(address).map(|queued| format!("{}  {queued}", address.name));
        notes.extend(queued.map(|queued| (queued, Some(Tone::Careful))));
    }
    notes.extend(
        app.slots
            .iter()
            .filter_map(respawn)
            .map(|text| (text, None)),
    );
    if app.health_shared {
        notes.push((HEALTH_SHARED.to_owned(), Some(Tone::Bad)));
    }
    for trouble in &app.troubles {
        let text = match trouble.next.as_str() {
            "" => trouble.text.clone(),
            next => format!("{}; {next}", trouble.text),
        };
        notes.push((text, Some(Tone::Bad)));
    }
    for (text, _) in &mut notes {
        *text = plain(text.as_bytes());
    }
    notes
}

fn of_worker(app: &App, worker: &Worker, share: Option<(u64, u64)>) -> Row {
    let mut cells = cells(worker);
    cells[NAME] = format!("  {}", worker.slot);
    if let Some((used, of)) = share {
        cells[CPU] = percent(used, of);
    }
    let note = note(worker).map(|note| (plain(note.as_bytes()), None));
    Row {
        place: Place {
            app: app.name.clone(),
            worker: Some(worker.worker),
        },
        cells,
        tone: tone_of(worker.phase),
        notes: note.into_iter().collect(),
    }
}
