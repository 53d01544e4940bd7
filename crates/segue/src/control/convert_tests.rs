//! An app with names, and its picture.

use std::time::Duration;

use segue_core::{
    AddressId, AddressView, AppPhase, AppView, CanaryView, Cause, Failure, Generation,
    ProbeFailure, ReloadId, ReloadStep, ReloadView, Scale, SideView, SlotId, SlotView, SocketIndex,
    Time, WorkerId, WorkerPhase, WorkerView,
};
use segue_wire::control as wire;

use super::convert;
use super::names::{Measures, Names, OutOfMemory, Usage};

/// An app `web` of two workers, each with the pid 4000 + its id, except those above 100, which never ran.
pub(super) struct Web;

impl Names for Web {
    fn app(&self) -> &'static str {
        "web"
    }

    fn pid(&self, worker: WorkerId) -> Option<u32> {
        (worker.0 < 100).then_some(4000 + worker.0)
    }

    fn address(&self, address: AddressId) -> String {
        format!("0.0.0.0:{}", 3000 + address.0)
    }

    fn workers(&self) -> u32 {
        2
    }

    fn tail(&self, worker: WorkerId) -> Vec<String> {
        if worker == WorkerId(7) {
            vec!["Error: no such table".to_owned(), "    at query".to_owned()]
        } else {
            Vec::new()
        }
    }

    fn detail(&self, failure: &Failure) -> Option<String> {
        match failure.cause {
            Cause::SpawnFailed => Some("Resource temporarily unavailable".to_owned()),
            Cause::PrepareFailed => Some("/srv/web/current: No such file or directory".to_owned()),
            _ => None,
        }
    }

    fn advice(&self, failure: &Failure) -> Option<String> {
        (failure.cause == Cause::Wrapper)
            .then(|| "write: segue run --node-arg=--import=tsx server.ts".to_owned())
    }

    fn out_of_memory(&self, worker: WorkerId) -> Option<OutOfMemory> {
        match worker.0 {
            20 => Some(OutOfMemory::Kernel),
            21 => Some(OutOfMemory::Heap),
            _ => None,
        }
    }

    fn draining(&self, worker: WorkerId) -> Option<wire::Draining> {
        (worker.0 == 8).then_some(wire::Draining {
            busy: 2,
            oldest_ms: 90_000,
            moved: 120,
            cut: 1,
            ..wire::Draining::default()
        })
    }
}

impl Measures for Web {
    fn source(&self) -> Option<String> {
        None
    }

    fn usage(&self, worker: WorkerId) -> Option<Usage> {
        (worker.0 < 100).then_some(Usage {
            memory: 1 << 20,
            cpu_ms: 250,
            age_ms: 9_000,
        })
    }

    fn connections(&self, _: WorkerId) -> Option<u32> {
        None
    }

    fn queued(&self, _: AddressId) -> Option<u32> {
        Some(3)
    }

    fn release(&self, generation: Generation) -> Option<String> {
        Some(format!("/srv/web/releases/{}", generation.0))
    }

    fn drain(&self, _: WorkerId) -> (wire::Drain, Option<String>) {
        (wire::Drain::Full, None)
    }

    fn bypasses(&self, _: WorkerId) -> Vec<String> {
        Vec::new()
    }

    fn stragglers(&self) -> wire::Stragglers {
        wire::Stragglers {
            handed_over: 5,
            ..wire::Stragglers::default()
        }
    }

    fn revision(&self, _: Generation) -> Option<wire::Revision> {
        None
    }

    fn leaves(&self, _: WorkerId) -> Option<String> {
        Some("a newer generation serves".to_owned())
    }

    fn log(&self) -> Option<wire::Log> {
        Some(wire::Log {
            path: "/srv/web/logs/web.log".to_owned(),
            format: "json".to_owned(),
            time: false,
        })
    }

    fn last_reload(&self) -> Option<wire::ReloadRecord> {
        None
    }

    fn restarts(&self) -> Vec<wire::RestartCount> {
        Vec::new()
    }

    fn last_failure(&self, slot: SlotId) -> Option<wire::Failure> {
        (slot.0 > 4).then(|| wire::Failure {
            cause: "exited_booting".to_owned(),
            text: "worker 7 exited with code 1 before it was ready".to_owned(),
            ..wire::Failure::default()
        })
    }
}

#[test]
fn a_picture_of_a_reload() {
    let view = AppView {
        phase: AppPhase::Running,
        serving: Generation(1),
        previous: Some(Generation(7)),
        is_health_shared: true,
        reload: Some(ReloadView {
            reload: ReloadId(1),
            generation: Generation(2),
            since: Time(9_000),
            step: ReloadStep::Canary {
                percent: 10,
                lasts: Duration::from_secs(60),
            },
            step_since: Time(9_500),
            until: Some(Time(60_000)),
            canary: Some(CanaryView {
                percent: 10,
                until: Time(60_000),
                new: SideView {
                    answers: 9,
                    errors: 1,
                },
                old: SideView {
                    answers: 80,
                    errors: 0,
                },
            }),
        }),
        slots: vec![SlotView {
            slot: SlotId(0),
            worker: Some(WorkerId(1)),
            restarts: 2,
            given_up: false,
            respawn_at: Some(Time(10_500)),
        }],
        workers: vec![WorkerView {
            worker: WorkerId(1),
            slot: SlotId(0),
            generation: Generation(1),
            phase: WorkerPhase::Draining,
            since: Time(4_000),
            until: Some(Time(12_000)),
            blocked_since: Some(Time(8_000)),
            failing: Some(ProbeFailure::Status(503)),
            is_unhealthy: true,
        }],
        addresses: vec![AddressView {
            address: AddressId(0),
            sockets: 4,
            set: vec![(SocketIndex(0), 9), (SocketIndex(2), 1)],
            serving: vec![WorkerId(1)],
            steered: true,
            refusing: false,
        }],
    };
    let app = convert::app(&view, Time(10_000), &Web);
    let expected = wire::App {
        name: "web".to_owned(),
        phase: wire::AppPhase::Running,
        generation: 1,
        release: Some("/srv/web/releases/1".to_owned()),
        log: Web.log(),
        stragglers: wire::Stragglers {
            handed_over: 5,
            ..wire::Stragglers::default()
        },
        reload: Some(wire::Reload {
            reload: 1,
            generation: 2,
            since_ms: 1_000,
            step: "canary".to_owned(),
            step_text: "10 % of the new connections go to it for 1 min".to_owned(),
            step_since_ms: 500,
            until_in_ms: Some(50_000),
            canary: Some(wire::CanaryProgress {
                percent: 10,
                until_in_ms: 50_000,
                new: wire::Answers {
                    answers: 9,
                    errors: 1,
                },
                old: wire::Answers {
                    answers: 80,
                    errors: 0,
                },
            }),
        }),
        previous: Some(7),
        health_shared: true,
        troubles: vec![wire::Trouble {
            kind: "no_worker_ready".to_owned(),
            text: "no worker of web is ready: all have ended".to_owned(),
            next: "segue why tells what ended them".to_owned(),
        }],
        addresses: vec![wire::Address {
            name: "0.0.0.0:3000".to_owned(),
            sockets: 4,
            set: vec![0, 2],
            weights: vec![9, 1],
            serving: vec![1],
            queued: Some(3),
            steered: true,
            refusing: false,
        }],
        slots: vec![wire::Slot {
            slot: 0,
            worker: Some(1),
            restarts: 2,
            given_up: false,
            respawn_in_ms: Some(500),
            last_failure: None,
        }],
        workers: vec![wire::Worker {
            worker: 1,
            slot: 0,
            generation: 1,
            pid: Some(4001),
            phase: wire::WorkerPhase::Draining,
            since_ms: 6_000,
            until_in_ms: Some(2_000),
            age_ms: Some(9_000),
            memory: Some(1 << 20),
            cpu_ms: Some(250),
            connections: None,
            restarts: 2,
            drain: wire::Drain::Full,
            drain_note: None,
            draining: None,
            bypasses: Vec::new(),
            leaves: Some("a newer generation serves".to_owned()),
            blocked_ms: Some(2_000),
            failing: Some("its probe was answered with 503".to_owned()),
            unhealthy: true,
        }],
        ..wire::App::default()
    };
    assert_eq!(app, expected);

    let stopping = AppView {
        phase: AppPhase::Stopping,
        ..view
    };
    let app = convert::app(&stopping, Time(10_000), &Web);
    assert_eq!(app.slots.first().map(|slot| slot.respawn_in_ms), Some(None));
}

#[test]
fn scales() {
    for (asked, expected) in [
        (wire::ScaleBody::To(3), Scale::To(3)),
        (wire::ScaleBody::By(2), Scale::Up(2)),
        (wire::ScaleBody::By(-2), Scale::Down(2)),
        (wire::ScaleBody::By(i32::MIN), Scale::Down(1 << 31)),
    ] {
        assert_eq!(convert::scale(asked), expected);
    }
}
