//! From the core's picture and news to the wire's. The two crates know nothing of each other, so
//! that neither format follows the other by accident; every field is named here once.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use segue_core::{
    AppPhase, AppView, Canary, CanaryChoice, Cause, ExitStatus, Failure, Notice, Outcome,
    ReloadView, Scale, SideView, SocketIndex, Time, WorkerPhase, WorkerView,
};
use segue_wire::control as wire;

use super::names::{Measures, Names};
use super::wording;

/// One app as `status` shows it.
pub(crate) fn app(view: &AppView, now: Time, measures: &impl Measures) -> wire::App {
    // A vacant slot of an app that ends stays vacant.
    let respawns = matches!(view.phase, AppPhase::Starting | AppPhase::Running);
    wire::App {
        name: measures.app().to_owned(),
        source: measures.source(),
        phase: match view.phase {
            AppPhase::Starting => wire::AppPhase::Starting,
            AppPhase::Running => wire::AppPhase::Running,
            AppPhase::Paused => wire::AppPhase::Paused,
            AppPhase::Stopping => wire::AppPhase::Stopping,
            AppPhase::Finished => wire::AppPhase::Finished,
        },
        generation: view.serving.0,
        release: measures.release(view.serving),
        revision: measures.revision(view.serving),
        last_reload: measures.last_reload(),
        troubles: wording::troubles(view, measures),
        previous: view.previous.map(|generation| generation.0),
        health_shared: view.is_health_shared,
        restarts: measures.restarts(),
        stragglers: measures.stragglers(),
        log: measures.log(),
        reload: view.reload.map(|reload| self::reload(&reload, now)),
        addresses: view
            .addresses
            .iter()
            .map(|address| wire::Address {
                name: measures.address(address.address),
                sockets: address.sockets,
                weights: weights(&address.set),
                set: address.set.iter().map(|(index, _)| index.0).collect(),
                serving: address.serving.iter().map(|worker| worker.0).collect(),
                queued: measures.queued(address.address),
                steered: address.steered,
                refusing: address.refusing,
            })
            .collect(),
        slots: view
            .slots
            .iter()
            .map(|slot| wire::Slot {
                slot: slot.slot.0,
                worker: slot.worker.map(|worker| worker.0),
                restarts: slot.restarts,
                given_up: slot.given_up,
                respawn_in_ms: slot
                    .respawn_at
                    .filter(|_| respawns)
                    .map(|at| millis(at.since(now))),
                last_failure: measures.last_failure(slot.slot),
            })
            .collect(),
        workers: view
            .workers
            .iter()
            .map(|worker| self::worker(worker, view, now, measures))
            .collect(),
    }
}

/// News of an app, with its text.
pub(crate) fn notice(notice: &Notice, names: &impl Names, at: SystemTime) -> wire::Notice {
    let (level, text) = wording::notice(notice, names);
    let mut told = wire::Notice {
        kind: notice_kind(notice).to_owned(),
        app: names.app().to_owned(),
        at_ms: at.duration_since(UNIX_EPOCH).map_or(0, millis),
        level,
        text,
        ..wire::Notice::default()
    };
    match notice {
        Notice::WorkerSpawned {
            worker,
            slot,
            generation,
        } => {
            told.worker = Some(worker.0);
            told.slot = Some(slot.0);
            told.generation = Some(generation.0);
        }
        Notice::WorkerReady { worker, slot, took }
        | Notice::WorkerDrained { worker, slot, took } => {
            told.worker = Some(worker.0);
            told.slot = Some(slot.0);
            told.took_ms = Some(millis(*took));
        }
        Notice::WorkerFailed {
            worker,
            slot,
            cause,
        } => {
            told.worker = Some(worker.0);
            told.slot = Some(slot.0);
            let failure = Failure {
                worker: Some(*worker),
                slot: Some(*slot),
                cause: *cause,
            };
            told.failure = Some(self::failure(&failure, names));
        }
        Notice::RespawnDue { slot, .. } | Notice::SlotGivenUp { slot, .. } => {
            told.slot = Some(slot.0);
        }
        Notice::WorkerLeaving { worker, slot, .. }
        | Notice::DrainTimedOut { worker, slot, .. }
        | Notice::WorkerKilled { worker, slot }
        | Notice::WorkerLeft { worker, slot, .. }
        | Notice::SettleTimedOut { worker, slot } => {
            told.worker = Some(worker.0);
            told.slot = Some(slot.0);
        }
        Notice::AppReady { took, .. } => told.took_ms = Some(millis(*took)),
        Notice::ReloadStarted { reload, generation } => {
            told.reload = Some(reload.0);
            told.generation = Some(generation.0);
        }
        Notice::ReloadCommitted {
            reload,
            generation,
            took,
        } => {
            told.reload = Some(reload.0);
            told.generation = Some(generation.0);
            told.took_ms = Some(millis(*took));
        }
        Notice::ReloadFailed { reload, failure } => {
            told.reload = Some(reload.0);
            told.worker = failure.worker.map(|worker| worker.0);
            told.slot = failure.slot.map(|slot| slot.0);
            told.failure = Some(self::failure(failure, names));
        }
        Notice::ReloadStep { reload, took, step } => {
            told.reload = Some(reload.0);
            told.step = Some(wording::step_code(step).to_owned());
            told.took_ms = Some(millis(*took));
        }
        Notice::WorkerBlocked { worker, slot }
        | Notice::WorkerUnblocked { worker, slot, .. }
        | Notice::WorkerUnhealthy { worker, slot, .. }
        | Notice::WorkerHealthy { worker, slot }
        | Notice::ProbeWaived { worker, slot } => {
            told.worker = Some(worker.0);
            told.slot = Some(slot.0);
        }
        Notice::CanarySkipped { reload } => told.reload = Some(reload.0),
        Notice::HealthShared { .. } | Notice::HealthRecovered => {}
        Notice::ReloadSuperseded { reload, by } => {
            told.reload = Some(reload.0);
            told.by = Some(by.0);
        }
        Notice::GenerationGone { generation } | Notice::GenerationHurried { generation, .. } => {
            told.generation = Some(generation.0)
        }
        Notice::AddressOpened { address, .. }
        | Notice::AddressClosed { address }
        | Notice::AddressUnserved { address }
        | Notice::AddressServed { address } => told.address = Some(names.address(*address)),
        Notice::ListenForbidden {
            worker,
            slot,
            address,
        } => {
            told.worker = Some(worker.0);
            told.slot = Some(slot.0);
            told.address = Some(names.address(*address));
        }
        Notice::HeldReleased { worker, address } => {
            told.worker = Some(worker.0);
            told.address = Some(names.address(*address));
        }
        Notice::Scaled { .. }
        | Notice::StopDelayed { .. }
        | Notice::Stopping
        | Notice::Paused
        | Notice::Refused(_) => {}
    }
    told.pid = told
        .worker
        .and_then(|worker| names.pid(segue_core::WorkerId(worker)));
    told
}

/// How a request ended, with its text.
pub(crate) fn outcome(outcome: &Outcome, names: &impl Names) -> wire::Outcome {
    let (text, next) = wording::outcome(outcome, names);
    let blank = wire::Outcome {
        app: names.app().to_owned(),
        text,
        next,
        ..wire::Outcome::default()
    };
    match outcome {
        Outcome::Started { took } => wire::Outcome {
            kind: wire::OutcomeKind::Started,
            took_ms: Some(millis(*took)),
            ..blank
        },
        Outcome::Reloaded {
            reload,
            generation,
            took,
        } => wire::Outcome {
            kind: wire::OutcomeKind::Reloaded,
            reload: Some(reload.0),
            generation: Some(generation.0),
            took_ms: Some(millis(*took)),
            ..blank
        },
        Outcome::ReloadFailed { reload, failure } => wire::Outcome {
            kind: wire::OutcomeKind::ReloadFailed,
            reload: Some(reload.0),
            failure: Some(self::failure(failure, names)),
            ..blank
        },
        Outcome::Restarted {
            reload,
            generation,
            took,
        } => wire::Outcome {
            kind: wire::OutcomeKind::Restarted,
            reload: Some(reload.0),
            generation: Some(generation.0),
            took_ms: Some(millis(*took)),
            ..blank
        },
        Outcome::RolledBack {
            reload,
            generation,
            took,
            ..
        } => wire::Outcome {
            kind: wire::OutcomeKind::RolledBack,
            reload: Some(reload.0),
            generation: Some(generation.0),
            took_ms: Some(millis(*took)),
            ..blank
        },
        Outcome::Promoted { reload, generation } => wire::Outcome {
            kind: wire::OutcomeKind::Promoted,
            reload: Some(reload.0),
            generation: Some(generation.0),
            ..blank
        },
        Outcome::Abandoned { of, generation } => wire::Outcome {
            kind: wire::OutcomeKind::RolledBack,
            reload: Some(of.0),
            generation: Some(generation.0),
            ..blank
        },
        Outcome::Superseded { by } => wire::Outcome {
            kind: wire::OutcomeKind::Superseded,
            by: Some(by.0),
            ..blank
        },
        Outcome::Scaled { from, to } => wire::Outcome {
            kind: wire::OutcomeKind::Scaled,
            from: Some(*from),
            to: Some(*to),
            ..blank
        },
        Outcome::Paused => wire::Outcome {
            kind: wire::OutcomeKind::Paused,
            ..blank
        },
        Outcome::Stopped => wire::Outcome {
            kind: wire::OutcomeKind::Stopped,
            ..blank
        },
        Outcome::StoppedHard { killed } => wire::Outcome {
            kind: wire::OutcomeKind::StoppedHard,
            killed: Some(*killed),
            ..blank
        },
        Outcome::NeverStarted { failure } => wire::Outcome {
            kind: wire::OutcomeKind::NeverStarted,
            failure: Some(self::failure(failure, names)),
            ..blank
        },
        Outcome::Refused(why) => wire::Outcome {
            kind: wire::OutcomeKind::Refused,
            refusal: Some(wording::refusal_code(*why).to_owned()),
            ..blank
        },
    }
}

/// What was wrong, with the worker's last words.
pub(crate) fn failure(failure: &Failure, names: &impl Names) -> wire::Failure {
    let (exit_code, signal) = match failure.cause {
        Cause::ExitedBooting { status } | Cause::ExitedReady { status, .. } => match status {
            ExitStatus::Code(code) => (Some(code), None),
            ExitStatus::Signal(signal) => (None, Some(wording::signal_name(signal))),
            ExitStatus::Unknown => (None, None),
        },
        Cause::NeverListened { .. }
        | Cause::NotListeningAt { .. }
        | Cause::NeverSaidReady { .. }
        | Cause::NeverNotified { .. }
        | Cause::ProbeFailed { .. }
        | Cause::Unhealthy { .. }
        | Cause::Unresponsive { .. }
        | Cause::OverMemory
        | Cause::CanaryErrors { .. }
        | Cause::RolledBack
        | Cause::Wrapper
        | Cause::ChannelLost
        | Cause::SpawnFailed
        | Cause::PrepareFailed
        | Cause::SteerFailed { .. } => (None, None),
    };
    wire::Failure {
        worker: failure.worker.map(|worker| worker.0),
        slot: failure.slot.map(|slot| slot.0),
        pid: failure.worker.and_then(|worker| names.pid(worker)),
        cause: wording::cause_code(&failure.cause).to_owned(),
        text: wording::failure(failure, names),
        next: wording::advice(failure, names),
        exit_code,
        signal,
        out_of_memory: failure
            .worker
            .and_then(|worker| names.out_of_memory(worker))
            .map(|want| wording::memory_code(want).to_owned()),
        stderr: failure
            .worker
            .map_or_else(Vec::new, |worker| names.tail(worker)),
    }
}

/// Whether a reload is to have a canary.
pub(crate) fn canary(wish: wire::CanaryWish) -> CanaryChoice {
    match wish {
        wire::CanaryWish::AsSet => CanaryChoice::AsSet,
        wire::CanaryWish::Off => CanaryChoice::Off,
        wire::CanaryWish::With(canary) => CanaryChoice::With(Canary {
            percent: canary.percent,
            lasts: Duration::from_millis(canary.for_ms),
            max_errors: canary.max_errors_per_mille.into(),
        }),
    }
}

/// What a scale asks of the core.
pub(crate) fn scale(scale: wire::ScaleBody) -> Scale {
    match scale {
        wire::ScaleBody::To(to) => Scale::To(to),
        wire::ScaleBody::By(by) if by < 0 => Scale::Down(by.unsigned_abs()),
        wire::ScaleBody::By(by) => Scale::Up(by.unsigned_abs()),
    }
}

/// None where all are equal.
fn weights(set: &[(SocketIndex, u32)]) -> Vec<u32> {
    let weights = set.iter().map(|(_, weight)| *weight);
    match weights.clone().any(|weight| weight != 1) {
        true => weights.collect(),
        false => Vec::new(),
    }
}

fn reload(reload: &ReloadView, now: Time) -> wire::Reload {
    let answers = |side: SideView| wire::Answers {
        answers: side.answers,
        errors: side.errors,
    };
    wire::Reload {
        reload: reload.reload.0,
        generation: reload.generation.0,
        since_ms: millis(now.since(reload.since)),
        step: wording::step_code(&reload.step).to_owned(),
        step_text: wording::step(&reload.step),
        step_since_ms: millis(now.since(reload.step_since)),
        until_in_ms: reload.until.map(|until| millis(until.since(now))),
        canary: reload.canary.map(|canary| wire::CanaryProgress {
            percent: canary.percent,
            until_in_ms: millis(canary.until.since(now)),
            new: answers(canary.new),
            old: answers(canary.old),
        }),
    }
}

fn worker(
    worker: &WorkerView,
    view: &AppView,
    now: Time,
    measures: &impl Measures,
) -> wire::Worker {
    let usage = measures.usage(worker.worker);
    let (drain, drain_note) = measures.drain(worker.worker);
    let slot = view.slots.iter().find(|slot| slot.slot == worker.slot);
    wire::Worker {
        worker: worker.worker.0,
        slot: worker.slot.0,
        generation: worker.generation.0,
        pid: measures.pid(worker.worker),
        phase: match worker.phase {
            WorkerPhase::Booting => wire::WorkerPhase::Booting,
            WorkerPhase::Ready => wire::WorkerPhase::Ready,
            WorkerPhase::Quiet => wire::WorkerPhase::Quiet,
            WorkerPhase::Draining => wire::WorkerPhase::Draining,
            WorkerPhase::Stopping => wire::WorkerPhase::Stopping,
            WorkerPhase::Killed => wire::WorkerPhase::Killed,
        },
        since_ms: millis(now.since(worker.since)),
        until_in_ms: worker.until.map(|until| millis(until.since(now))),
        age_ms: usage.map(|usage| usage.age_ms),
        memory: usage.map(|usage| usage.memory),
        cpu_ms: usage.map(|usage| usage.cpu_ms),
        connections: measures.connections(worker.worker),
        restarts: slot.map_or(0, |slot| slot.restarts),
        drain,
        drain_note,
        draining: measures.draining(worker.worker),
        bypasses: measures.bypasses(worker.worker),
        leaves: measures.leaves(worker.worker),
        blocked_ms: worker.blocked_since.map(|since| millis(now.since(since))),
        failing: worker.failing.map(wording::probe_failure),
        unhealthy: worker.is_unhealthy,
    }
}

const fn notice_kind(notice: &Notice) -> &'static str {
    match notice {
        Notice::WorkerSpawned { .. } => "worker_spawned",
        Notice::WorkerReady { .. } => "worker_ready",
        Notice::WorkerFailed { .. } => "worker_failed",
        Notice::RespawnDue { .. } => "respawn_due",
        Notice::SlotGivenUp { .. } => "slot_given_up",
        Notice::WorkerLeaving { .. } => "worker_leaving",
        Notice::WorkerDrained { .. } => "worker_drained",
        Notice::DrainTimedOut { .. } => "drain_timed_out",
        Notice::WorkerKilled { .. } => "worker_killed",
        Notice::WorkerLeft { .. } => "worker_left",
        Notice::AppReady { .. } => "app_ready",
        Notice::ReloadStarted { .. } => "reload_started",
        Notice::ReloadStep { .. } => "reload_step",
        Notice::CanarySkipped { .. } => "canary_skipped",
        Notice::ReloadCommitted { .. } => "reload_committed",
        Notice::ReloadFailed { .. } => "reload_failed",
        Notice::ReloadSuperseded { .. } => "reload_superseded",
        Notice::GenerationGone { .. } => "generation_gone",
        Notice::GenerationHurried { .. } => "generation_hurried",
        Notice::StopDelayed { .. } => "stop_delayed",
        Notice::AddressOpened { .. } => "address_opened",
        Notice::AddressClosed { .. } => "address_closed",
        Notice::AddressUnserved { .. } => "address_unserved",
        Notice::AddressServed { .. } => "address_served",
        Notice::HeldReleased { .. } => "held_released",
        Notice::ListenForbidden { .. } => "listen_forbidden",
        Notice::SettleTimedOut { .. } => "settle_timed_out",
        Notice::WorkerBlocked { .. } => "worker_blocked",
        Notice::WorkerUnblocked { .. } => "worker_unblocked",
        Notice::WorkerUnhealthy { .. } => "worker_unhealthy",
        Notice::WorkerHealthy { .. } => "worker_healthy",
        Notice::ProbeWaived { .. } => "probe_waived",
        Notice::HealthShared { .. } => "health_shared",
        Notice::HealthRecovered => "health_recovered",
        Notice::Scaled { .. } => "scaled",
        Notice::Stopping => "stopping",
        Notice::Paused => "paused",
        Notice::Refused(_) => "refused",
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
