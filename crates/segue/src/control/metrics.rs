//! The status as Prometheus reads it (OpenMetrics 1.0). Nothing is counted here: every value is what
//! the supervisor says at that moment, so nothing has to be kept true across successors.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use segue_wire::control::{App, Status, Worker, WorkerPhase};

/// Its content type.
pub(super) const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics, each with its help.
pub(super) fn render(status: Status) -> String {
    let mut registry = Registry::with_prefix("segue");
    registry.register_collector(Box::new(Snapshot(status)));
    let mut page = String::new();
    // Writing to a string does not fail.
    let _ = text::encode(&mut page, &registry);
    page
}

#[derive(Debug)]
struct Snapshot(Status);

/// A family of one number for each app.
type OfApp = (&'static str, &'static str, fn(&App) -> u64);

const OF_APP: [OfApp; 5] = [
    ("generation", "The generation that serves", |app| {
        app.generation.into()
    }),
    ("slots", "Places for workers", |app| app.slots.len() as u64),
    (
        "slots_given_up",
        "Slots whose workers failed too often; tried again at a reload or restart",
        |app| app.slots.iter().filter(|slot| slot.given_up).count() as u64,
    ),
    (
        "addresses_refusing",
        "Addresses that nobody serves or soon will",
        |app| {
            let refusing = app.addresses.iter().filter(|address| address.refusing);
            refusing.count() as u64
        },
    ),
    ("reloading", "1 while a reload is under way", |app| {
        app.reload.is_some().into()
    }),
];

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Status { supervisor, apps } = &self.0;
        let keeper = supervisor.keeper_version.as_deref().unwrap_or_default();
        let releases = [
            ("version", supervisor.version.as_str()),
            ("keeper_version", keeper),
        ];
        let help = "Releases of supervisor and main process";
        let mut family = encoder.encode_descriptor("release", help, None, MetricType::Gauge)?;
        gauge(&mut family, releases, 1)?;
        if let Some(memory) = supervisor.memory {
            let help = "Resident memory of the supervisor";
            let name = "supervisor_memory_bytes";
            let family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(memory).encode(family)?;
        }
        for (name, help, value) in OF_APP {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for app in apps {
                gauge(&mut family, [("app", app.name.as_str())], value(app))?;
            }
        }
        let help = "Workers by phase";
        let mut family = encoder.encode_descriptor("workers", help, None, MetricType::Gauge)?;
        for app in apps {
            for phase in WorkerPhase::ALL {
                let is_in = |worker: &&Worker| worker.phase == phase;
                let count = app.workers.iter().filter(is_in).count() as u64;
                let labels = [("app", app.name.as_str()), ("phase", phase.as_str())];
                gauge(&mut family, labels, count)?;
            }
        }
        let help = "Resident memory of each worker";
        let name = "worker_memory_bytes";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for app in apps {
            for (worker, memory) in app.workers.iter().filter_map(|it| Some((it, it.memory?))) {
                let number = worker.worker.to_string();
                let labels = [("app", app.name.as_str()), ("worker", &number)];
                gauge(&mut family, labels, memory)?;
            }
        }
        let help = "Workers that were replaced without a reload, by cause";
        let name = "worker_restarts";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for app in apps {
            for restarts in &app.restarts {
                let labels = [("app", app.name.as_str()), ("cause", &restarts.cause)];
                counter(&mut family, labels, restarts.count)?;
            }
        }
        let help = "Connections that were brought from one worker to another";
        let name = "connections_moved";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for app in apps {
            let moved = app.stragglers.migrated + app.stragglers.handed_over;
            counter(&mut family, [("app", app.name.as_str())], moved)?;
        }
        Ok(())
    }
}

fn gauge<const N: usize>(
    family: &mut MetricEncoder<'_>,
    labels: [(&str, &str); N],
    value: u64,
) -> fmt::Result {
    ConstGauge::new(value).encode(family.encode_family(&labels)?)
}

fn counter<const N: usize>(
    family: &mut MetricEncoder<'_>,
    labels: [(&str, &str); N],
    value: u64,
) -> fmt::Result {
    ConstCounter::new(value).encode(family.encode_family(&labels)?)
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
                memory: Some(8192),
                ..Supervisor::default()
            },
            apps: vec![app],
        };
        let text = render(status);
        for line in [
            "segue_release{version=\"1.2.3\",keeper_version=\"\"} 1",
            "segue_supervisor_memory_bytes 8192",
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
