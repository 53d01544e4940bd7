//! The words for everything that the core reports: one line of plain English each, the same in
//! the supervisor's own lines, in streams and in the output of commands.

mod reasons;
mod story;

use std::time::Duration;

use segue_core::{ExitStatus, Failure, Notice, Outcome, Refusal, ReloadStep, SlotId, WorkerId};
use segue_wire::control::Level;

use self::reasons::severity;
pub(crate) use self::reasons::{advice, cause_code, failure, leaving, probe_failure, signal_name};
pub(crate) use self::story::{brief, memory_code, replacement, step_code, troubles};
use super::names::Names;
use crate::config::quantity::human;

/// What a notice says, and how much it matters.
pub(crate) fn notice(notice: &Notice, names: &impl Names) -> (Level, String) {
    let who = |worker, slot| subject(worker, slot, names);
    match notice {
        Notice::WorkerSpawned {
            worker,
            slot,
            generation,
        } => (
            Level::Debug,
            format!("{} of {generation} boots", who(worker, slot)),
        ),
        Notice::WorkerReady { worker, slot, took } => (
            Level::Debug,
            format!("{} is ready after {}", who(worker, slot), human(*took)),
        ),
        Notice::WorkerFailed {
            worker,
            slot,
            cause,
        } => {
            let failure = Failure {
                worker: Some(*worker),
                slot: Some(*slot),
                cause: *cause,
            };
            (severity(cause), self::failure(&failure, names))
        }
        Notice::RespawnDue {
            slot,
            wait,
            restarts,
        } => {
            let when = if wait.is_zero() {
                "at once".to_owned()
            } else {
                format!("in {}", human(*wait))
            };
            (
                Level::Info,
                format!("{slot} gets a new worker {when} (restart {restarts})"),
            )
        }
        Notice::SlotGivenUp {
            slot,
            restarts,
            within,
        } => (
            Level::Error,
            format!(
                "{slot} is given up: {restarts} restarts within {}; the next reload or restart tries it again",
                human(*within)
            ),
        ),
        Notice::WorkerLeaving { worker, slot, why } => (
            Level::Debug,
            format!("{} leaves: {}", who(worker, slot), leaving(*why)),
        ),
        Notice::WorkerDrained { worker, slot, took } => {
            let draining = names.draining(*worker).unwrap_or_default();
            let level = match draining.cut {
                0 => Level::Debug,
                _ => Level::Warn,
            };
            let gone = draining.gone().map(|gone| format!(": {gone}"));
            (
                level,
                format!(
                    "{} has finished its connections after {}{}",
                    who(worker, slot),
                    human(*took),
                    gone.unwrap_or_default()
                ),
            )
        }
        Notice::DrainTimedOut {
            worker,
            slot,
            limit,
        } => {
            let draining = names.draining(*worker).unwrap_or_default();
            let left = draining.left(|ms| human(Duration::from_millis(ms)));
            let left = left.map(|left| format!(" ({left})")).unwrap_or_default();
            // Whoever is hurried has no time left at all.
            let after = match limit.is_zero() {
                true => String::new(),
                false => format!(" after {}", human(*limit)),
            };
            (
                Level::Warn,
                format!(
                    "{} still had connections{after}{left}: they are cut off",
                    who(worker, slot)
                ),
            )
        }
        Notice::WorkerKilled { worker, slot } => (
            Level::Warn,
            format!("{} did not end when asked to: killed", who(worker, slot)),
        ),
        Notice::WorkerLeft {
            worker,
            slot,
            status,
        } => (
            Level::Debug,
            format!("{} is gone ({})", who(worker, slot), exit(*status)),
        ),
        Notice::AppReady { workers, took } => (
            Level::Info,
            format!(
                "{} is ready: {} after {}",
                names.app(),
                count(*workers, "worker"),
                human(*took)
            ),
        ),
        Notice::ReloadStarted { reload, generation } => {
            (Level::Info, format!("{reload} began: {generation} boots"))
        }
        Notice::ReloadCommitted {
            reload,
            generation,
            took,
        } => (
            Level::Info,
            format!(
                "{reload} committed: {generation} serves ({}, {})",
                count(names.workers(), "worker"),
                human(*took)
            ),
        ),
        Notice::ReloadFailed { reload, failure } => (
            Level::Error,
            format!(
                "{reload} failed, nothing has changed: {}",
                self::failure(failure, names)
            ),
        ),
        Notice::ReloadStep { reload, step, took } => (
            Level::Info,
            format!("{reload}: {} (after {})", self::step(step), human(*took)),
        ),
        Notice::CanarySkipped { reload } => (
            Level::Warn,
            format!("{reload} has no canary: no address can be shared by two generations"),
        ),
        Notice::WorkerBlocked { worker, slot } => (
            Level::Warn,
            format!(
                "{} does not answer: its event loop is blocked, new connections go to others",
                who(worker, slot)
            ),
        ),
        Notice::WorkerUnblocked {
            worker,
            slot,
            lasted,
        } => (
            Level::Info,
            format!(
                "{} answers again after {}",
                who(worker, slot),
                human(*lasted)
            ),
        ),
        Notice::WorkerUnhealthy {
            worker,
            slot,
            failure,
        } => (
            Level::Warn,
            format!(
                "{} is unhealthy: {}",
                who(worker, slot),
                probe_failure(*failure)
            ),
        ),
        Notice::WorkerHealthy { worker, slot } => (
            Level::Info,
            format!("{} is healthy again", who(worker, slot)),
        ),
        Notice::ProbeWaived { worker, slot } => (
            Level::Warn,
            format!(
                "{} cannot be probed by itself: it counts as healthy",
                who(worker, slot)
            ),
        ),
        Notice::HealthShared { failing, of } => (
            Level::Error,
            format!(
                "{failing} of {of} workers fail at once: none is replaced, because a new one would not do better"
            ),
        ),
        Notice::HealthRecovered => (Level::Info, "the workers are healthy again".to_owned()),
        Notice::ReloadSuperseded { reload, by } => {
            (Level::Info, format!("{reload} was overtaken by {by}"))
        }
        Notice::GenerationGone { generation } => (Level::Info, format!("{generation} is gone")),
        Notice::GenerationHurried {
            generation,
            draining,
            limit,
        } => (
            Level::Warn,
            format!(
                "{generation} is ended before it has drained: {draining} old generations drain at once, {limit} may (drain.generations)"
            ),
        ),
        Notice::StopDelayed { delay } => (
            Level::Info,
            format!(
                "{} goes on serving for {}, then stops",
                names.app(),
                human(*delay)
            ),
        ),
        Notice::AddressOpened { address, steered } => {
            let how = if *steered {
                ""
            } else {
                " with one socket for all workers"
            };
            (
                Level::Info,
                format!("listening at {}{how}", names.address(*address)),
            )
        }
        Notice::AddressClosed { address } => (
            Level::Info,
            format!("no longer listening at {}", names.address(*address)),
        ),
        Notice::AddressUnserved { address } => (
            Level::Error,
            format!(
                "no worker serves {}: connections are refused",
                names.address(*address)
            ),
        ),
        Notice::AddressServed { address } => (
            Level::Info,
            format!("{} is served again", names.address(*address)),
        ),
        Notice::HeldReleased { worker, address } => (
            Level::Warn,
            format!(
                "{worker}{} listens at {} before the cut-over, because it does not get ready without it",
                pid(*worker, names),
                names.address(*address)
            ),
        ),
        Notice::ListenForbidden {
            worker, address, ..
        } => (
            Level::Warn,
            format!(
                "{worker}{} may not listen at {}, which is none of the places of listen: it is told EACCES",
                pid(*worker, names),
                names.address(*address)
            ),
        ),
        Notice::SettleTimedOut { worker, slot } => (
            Level::Info,
            format!(
                "connections were still on their way to {} at the limit: they are handed over",
                who(worker, slot)
            ),
        ),
        Notice::Scaled { from, to } => (
            Level::Info,
            format!("scaled from {from} to {}", count(*to, "worker")),
        ),
        Notice::Stopping => (
            Level::Info,
            format!("{} stops: connections drain", names.app()),
        ),
        Notice::Paused => (
            Level::Warn,
            format!(
                "{} is paused: its workers drain, and clients wait in the queues until a reload (segue reload, or HUP) brings new ones",
                names.app()
            ),
        ),
        Notice::Refused(why) => (Level::Warn, format!("refused: {}", refusal(*why))),
    }
}

/// How a request ended, and what to do next (possibly nothing).
pub(crate) fn outcome(outcome: &Outcome, names: &impl Names) -> (String, String) {
    let done = |text: String| (text, String::new());
    match outcome {
        Outcome::Started { took } => {
            done(format!("{} is ready after {}", names.app(), human(*took)))
        }
        Outcome::Reloaded {
            reload,
            generation,
            took,
        } => done(format!(
            "{reload} committed: {generation} serves ({}, {})",
            count(names.workers(), "worker"),
            human(*took)
        )),
        Outcome::ReloadFailed { reload, failure } => (
            format!(
                "{reload} failed, nothing has changed: {}",
                self::failure(failure, names)
            ),
            advice(failure, names),
        ),
        Outcome::Restarted {
            generation, took, ..
        } => done(format!(
            "{} was restarted: {generation} serves ({}, {})",
            names.app(),
            count(names.workers(), "worker"),
            human(*took)
        )),
        Outcome::Promoted { reload, generation } => done(format!(
            "{reload} committed before its time: {generation} serves"
        )),
        Outcome::Abandoned { of, generation } => {
            done(format!("{of} was abandoned: {generation} serves on"))
        }
        Outcome::RolledBack {
            generation,
            to,
            took,
            ..
        } => done(format!(
            "rolled back: the release of {to} serves as {generation} ({})",
            human(*took)
        )),
        Outcome::Superseded { by } => (
            format!("superseded by {by}"),
            format!("the outcome of {by} tells what serves"),
        ),
        Outcome::Scaled { from, to } => {
            done(format!("scaled from {from} to {}", count(*to, "worker")))
        }
        Outcome::Paused => (
            format!("{} is paused", names.app()),
            "segue reload, or HUP to the main process, brings new workers".to_owned(),
        ),
        Outcome::Stopped => done(format!(
            "{} has stopped; every connection was finished",
            names.app()
        )),
        Outcome::StoppedHard { killed } => (
            format!(
                "{} has stopped; {} killed before the last connection was finished",
                names.app(),
                were(*killed)
            ),
            "a longer --stop-timeout gives them more time".to_owned(),
        ),
        Outcome::NeverStarted { failure } => (
            format!(
                "{} never got ready: {}",
                names.app(),
                self::failure(failure, names)
            ),
            advice(failure, names),
        ),
        Outcome::Refused(why) => (
            format!("refused: {}", refusal(*why)),
            way_out(*why).to_owned(),
        ),
    }
}

/// The word for a refusal in JSON.
pub(crate) const fn refusal_code(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Stopping => "stopping",
        Refusal::Reloading => "reloading",
        Refusal::Starting => "starting",
        Refusal::NoWorkers => "no_workers",
        Refusal::TooMany => "too_many",
        Refusal::NothingToPromote => "nothing_to_promote",
        Refusal::NothingToRollBackTo => "nothing_to_roll_back_to",
    }
}

fn exit(status: ExitStatus) -> String {
    match status {
        ExitStatus::Code(code) => format!("exit code {code}"),
        ExitStatus::Signal(signal) => signal_name(signal),
        ExitStatus::Unknown => "exit status unknown".to_owned(),
    }
}

const fn refusal(why: Refusal) -> &'static str {
    match why {
        Refusal::Stopping => "the app is stopping",
        Refusal::Reloading => "a reload is under way",
        Refusal::Starting => "the app is still starting",
        Refusal::NoWorkers => "it cannot run with fewer than one worker",
        Refusal::NothingToPromote => "no reload is on trial",
        Refusal::NothingToRollBackTo => "no release has served before this one",
        Refusal::TooMany => "there is no room for so many workers",
    }
}

const fn way_out(why: Refusal) -> &'static str {
    match why {
        Refusal::Stopping => "run it again when it has stopped",
        Refusal::Reloading => "try again when the reload has ended; segue status shows it",
        Refusal::Starting => "try again when it is ready; segue status shows it",
        Refusal::NoWorkers => "to end it, use segue stop",
        Refusal::NothingToPromote => "a reload can be promoted during its canary or probation",
        Refusal::NothingToRollBackTo => "reload the release that is wanted",
        Refusal::TooMany => "ask for fewer workers",
    }
}

/// Where a reload is.
pub(crate) fn step(step: &ReloadStep) -> String {
    match step {
        ReloadStep::Preparing => "its release is resolved".to_owned(),
        ReloadStep::Emptying => "the old workers end".to_owned(),
        ReloadStep::Booting { workers, of } => {
            format!("{workers} of {} boot", count(*of, "new worker"))
        }
        ReloadStep::Proving => "the new workers are ready and must stay so".to_owned(),
        ReloadStep::Canary { percent, lasts } => format!(
            "{percent} % of the new connections go to it for {}",
            human(*lasts)
        ),
        ReloadStep::CuttingOver => "new connections go to it".to_owned(),
        ReloadStep::Probation { lasts } => {
            format!("the old workers stay for {}", human(*lasts))
        }
        ReloadStep::Replacing { done, of } => {
            format!("{done} of {} replaced", count(*of, "worker"))
        }
    }
}

/// A worker by all its names.
pub(crate) fn subject(worker: &WorkerId, slot: &SlotId, names: &impl Names) -> String {
    match names.pid(*worker) {
        Some(pid) => format!("{worker} ({slot}, pid {pid})"),
        None => format!("{worker} ({slot})"),
    }
}

fn pid(worker: WorkerId, names: &impl Names) -> String {
    names
        .pid(worker)
        .map_or_else(String::new, |pid| format!(" (pid {pid})"))
}

fn count(number: u32, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

fn were(workers: u32) -> String {
    let verb = if workers == 1 { "was" } else { "were" };
    format!("{} {verb}", count(workers, "worker"))
}
