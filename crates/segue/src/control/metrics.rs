//! The status as Prometheus reads it (text exposition format 0.0.4). Nothing is counted here: every
//! value is what the supervisor says at that moment, so no registry has to be kept true.

use std::fmt::Write;

use segue_wire::control::{App, Status, WorkerPhase};

/// Its content type.
pub(super) const TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics, each with its help.
pub(super) fn render(status: &Status) -> String {
    let mut page = Page(String::new());
    page.family(
        "segue_info",
        "gauge",
        "Releases of supervisor and main process.",
    );
    let keeper = status.supervisor.keeper_version.as_deref();
    let releases = [
        ("version", status.supervisor.version.as_str()),
        ("keeper_version", keeper.unwrap_or_default()),
    ];
    page.sample("segue_info", &releases, 1);
    let each = |page: &mut Page, name: &str, value: &dyn Fn(&App) -> u64| {
        for app in &status.apps {
            page.sample(name, &[("app", &app.name)], value(app));
        }
    };
    page.family("segue_generation", "gauge", "The generation that serves.");
    each(&mut page, "segue_generation", &|app| app.generation.into());
    page.family("segue_slots", "gauge", "Places for workers.");
    each(&mut page, "segue_slots", &|app| app.slots.len() as u64);
    page.family(
        "segue_slots_given_up",
        "gauge",
        "Slots whose workers failed too often; tried again at a reload or restart.",
    );
    each(&mut page, "segue_slots_given_up", &|app| {
        app.slots.iter().filter(|slot| slot.given_up).count() as u64
    });
    page.family(
        "segue_addresses_refusing",
        "gauge",
        "Addresses that nobody serves or soon will.",
    );
    each(&mut page, "segue_addresses_refusing", &|app| {
        let refusing = app.addresses.iter().filter(|address| address.refusing);
        refusing.count() as u64
    });
    page.family("segue_reloading", "gauge", "1 while a reload is under way.");
    each(&mut page, "segue_reloading", &|app| {
        app.reload.is_some().into()
    });
    page.family("segue_workers", "gauge", "Workers by phase.");
    for app in &status.apps {
        for phase in WorkerPhase::ALL {
            let count = app.workers.iter().filter(|worker| worker.phase == phase);
            let labels = [("app", app.name.as_str()), ("phase", phase.as_str())];
            page.sample("segue_workers", &labels, count.count() as u64);
        }
    }
    page.family(
        "segue_worker_restarts_total",
        "counter",
        "Workers that were replaced without a reload, by cause.",
    );
    for app in &status.apps {
        for restarts in &app.restarts {
            let labels = [("app", app.name.as_str()), ("cause", &restarts.cause)];
            page.sample("segue_worker_restarts_total", &labels, restarts.count);
        }
    }
    page.family(
        "segue_connections_moved_total",
        "counter",
        "Connections that were brought from one worker to another.",
    );
    each(&mut page, "segue_connections_moved_total", &|app| {
        app.stragglers.migrated + app.stragglers.handed_over
    });
    page.family(
        "segue_worker_memory_bytes",
        "gauge",
        "Resident memory of each worker.",
    );
    for app in &status.apps {
        for worker in &app.workers {
            let Some(memory) = worker.memory else {
                continue;
            };
            let number = worker.worker.to_string();
            let labels = [("app", app.name.as_str()), ("worker", &number)];
            page.sample("segue_worker_memory_bytes", &labels, memory);
        }
    }
    page.0
}

struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.0.push_str(name);
        for (number, (label, text)) in labels.iter().enumerate() {
            let before = if number == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{before}{label}=\"{}\"", escaped(text));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }
}

/// What a label's value may not contain as it is.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use segue_wire::control::{RestartCount, Slot, Supervisor, Worker};

    use super::*;

    #[test]
    fn what_is_given_up_can_be_alerted_on() {
        let app = App {
            name: "a\"b\\".to_owned(),
            generation: 3,
            slots: [true, false, true]
                .map(|given_up| Slot {
                    given_up,
                    ..Slot::default()
                })
                .into(),
            workers: vec![Worker {
                worker: 7,
                phase: WorkerPhase::Ready,
                memory: Some(4096),
                ..Worker::default()
            }],
            restarts: vec![RestartCount {
                cause: "exited_ready".to_owned(),
                count: 21,
                ..RestartCount::default()
            }],
            ..App::default()
        };
        let status = Status {
            supervisor: Supervisor {
                version: "1.2.3".to_owned(),
                ..Supervisor::default()
            },
            apps: vec![app],
        };
        let text = render(&status);
        for line in [
            "segue_info{version=\"1.2.3\",keeper_version=\"\"} 1",
            "# TYPE segue_slots_given_up gauge",
            "segue_slots_given_up{app=\"a\\\"b\\\\\"} 2",
            "segue_workers{app=\"a\\\"b\\\\\",phase=\"ready\"} 1",
            "segue_workers{app=\"a\\\"b\\\\\",phase=\"booting\"} 0",
            "segue_worker_restarts_total{app=\"a\\\"b\\\\\",cause=\"exited_ready\"} 21",
            "segue_worker_memory_bytes{app=\"a\\\"b\\\\\",worker=\"7\"} 4096",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
