//! The words for everything that the core reports: one line of plain English each, the same in
//! the supervisor's own lines, in streams and in the output of commands.

use std::time::Duration;

use segue_core::{
    Cause, ExitStatus, Failure, Leaving, Notice, Outcome, ProbeFailure, Refusal, ReloadStep,
    SlotId, WorkerId,
};
use segue_wire::control::Level;

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
                "{slot} is given up: {restarts} restarts within {}; the next reload tries it again",
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

/// Who failed and how, in one line.
pub(crate) fn failure(failure: &Failure, names: &impl Names) -> String {
    let detail = names
        .detail(failure)
        .map_or_else(String::new, |detail| format!(": {detail}"));
    let cause = cause(&failure.cause, names);
    match (failure.worker, failure.slot) {
        (Some(worker), Some(slot)) => format!("{} {cause}{detail}", subject(&worker, &slot, names)),
        (Some(worker), None) => format!("{worker}{} {cause}{detail}", pid(worker, names)),
        (None, Some(slot)) => format!("the worker of {slot} {cause}{detail}"),
        (None, None) => format!("the new release {cause}{detail}"),
    }
}

/// What to do about a failure; may be empty.
pub(crate) fn advice(failure: &Failure, names: &impl Names) -> String {
    if let Some(advice) = names.advice(failure) {
        return advice;
    }
    let general = match failure.cause {
        Cause::ExitedBooting {
            status: ExitStatus::Code(0),
        } => {
            "a server stays; if the script only starts another process, give segue that process's script"
        }
        Cause::ExitedBooting {
            status: ExitStatus::Signal(9),
        }
        | Cause::ExitedReady {
            status: ExitStatus::Signal(9),
            ..
        } => "if nobody sent it, the kernel had no memory left: see dmesg",
        Cause::NeverListened { .. } => {
            "for an app without a port use --ready alive; for a slow start a longer --ready-timeout"
        }
        Cause::NotListeningAt { .. } => {
            "the new release must listen wherever the old one does; to move it to another address, stop it and run it again"
        }
        Cause::NeverSaidReady { .. } => {
            "call process.send('ready') when the app can serve, or use --ready listening"
        }
        Cause::Wrapper => "give segue the server's own script instead of a command that starts it",
        Cause::SpawnFailed => {
            "check the command, its permissions, and the limits on processes and memory"
        }
        Cause::PrepareFailed => {
            "check that the directory, the script and the env files exist and can be read"
        }
        Cause::SteerFailed { .. } => "the log of the supervisor has the system's answer",
        Cause::NeverNotified { .. } => {
            "send READY=1 to NOTIFY_SOCKET when the app can serve, or use --ready listening"
        }
        Cause::ExitedBooting { .. }
        | Cause::ExitedReady { .. }
        | Cause::ChannelLost
        | Cause::ProbeFailed { .. }
        | Cause::Unhealthy { .. }
        | Cause::Unresponsive { .. }
        | Cause::OverMemory
        | Cause::CanaryErrors { .. }
        | Cause::RolledBack => "",
    };
    general.to_owned()
}

/// The word for a cause in JSON.
pub(crate) const fn cause_code(cause: &Cause) -> &'static str {
    match cause {
        Cause::ExitedBooting { .. } => "exited_booting",
        Cause::ExitedReady { .. } => "exited_ready",
        Cause::NeverListened { .. } => "never_listened",
        Cause::NotListeningAt { .. } => "not_listening_at",
        Cause::NeverSaidReady { .. } => "never_said_ready",
        Cause::NeverNotified { .. } => "never_notified",
        Cause::ProbeFailed { .. } => "probe_failed",
        Cause::Unhealthy { .. } => "unhealthy",
        Cause::Unresponsive { .. } => "unresponsive",
        Cause::OverMemory => "over_memory",
        Cause::CanaryErrors { .. } => "canary_errors",
        Cause::RolledBack => "rolled_back",
        Cause::Wrapper => "wrapper",
        Cause::ChannelLost => "channel_lost",
        Cause::SpawnFailed => "spawn_failed",
        Cause::PrepareFailed => "prepare_failed",
        Cause::SteerFailed { .. } => "steer_failed",
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

/// The name of a signal on Linux (signal(7)); the numbers are those of x86-64 and arm64.
pub(crate) fn signal_name(signal: i32) -> String {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let index = usize::try_from(signal)
        .ok()
        .and_then(|signal| signal.checked_sub(1));
    match index.and_then(|index| NAMES.get(index)) {
        Some(name) => format!("SIG{name}"),
        None => format!("signal {signal}"),
    }
}

fn cause(cause: &Cause, names: &impl Names) -> String {
    match cause {
        Cause::ExitedBooting { status } => format!("{} before it was ready", exited(*status)),
        Cause::ExitedReady { status, after } => {
            format!(
                "{} after it had been ready for {}",
                exited(*status),
                human(*after)
            )
        }
        Cause::NeverListened { within } => format!("listened nowhere within {}", human(*within)),
        Cause::NotListeningAt { address, within } => format!(
            "did not listen at {}, where the serving generation does, within {}",
            names.address(*address),
            human(*within)
        ),
        Cause::NeverSaidReady { within } => {
            format!("did not send 'ready' within {}", human(*within))
        }
        Cause::NeverNotified { within } => {
            format!("did not send READY=1 within {}", human(*within))
        }
        Cause::ProbeFailed { failure, within } => format!(
            "did not pass its probe within {}: {}",
            human(*within),
            probe_failure(*failure)
        ),
        Cause::Unhealthy { failure } => format!("is unhealthy: {}", probe_failure(*failure)),
        Cause::Unresponsive { lasted } => {
            format!(
                "did not answer for {}: its event loop was blocked",
                human(*lasted)
            )
        }
        Cause::OverMemory => "used more memory than its limit".to_owned(),
        Cause::CanaryErrors { new, old } => format!(
            "answered {} of its requests with errors, the old generation {}",
            per_mille(*new),
            per_mille(*old)
        ),
        Cause::RolledBack => "was rolled back on request".to_owned(),
        Cause::Wrapper => "only starts another process, and that one listens".to_owned(),
        Cause::ChannelLost => "lost its channel to the supervisor".to_owned(),
        Cause::SpawnFailed => "could not be started".to_owned(),
        Cause::PrepareFailed => "cannot be resolved".to_owned(),
        Cause::SteerFailed { address } => {
            format!("cannot get the connections of {}", names.address(*address))
        }
    }
}

fn severity(cause: &Cause) -> Level {
    match cause {
        Cause::ExitedReady {
            status: ExitStatus::Code(0),
            ..
        } => Level::Warn,
        Cause::ExitedBooting { .. }
        | Cause::ExitedReady { .. }
        | Cause::NeverListened { .. }
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
        | Cause::SteerFailed { .. } => Level::Error,
    }
}

fn exited(status: ExitStatus) -> String {
    match status {
        ExitStatus::Code(code) => format!("exited with code {code}"),
        ExitStatus::Signal(signal) => format!("was ended by {}", signal_name(signal)),
        ExitStatus::Unknown => "ended, nobody knows how,".to_owned(),
    }
}

fn exit(status: ExitStatus) -> String {
    match status {
        ExitStatus::Code(code) => format!("exit code {code}"),
        ExitStatus::Signal(signal) => signal_name(signal),
        ExitStatus::Unknown => "exit status unknown".to_owned(),
    }
}

const fn leaving(why: Leaving) -> &'static str {
    match why {
        Leaving::Reload => "a newer generation serves",
        Leaving::ScaledDown => "fewer workers are wanted",
        Leaving::Stop => "the app stops",
        Leaving::Pause => "the app is paused",
        Leaving::Abandoned => "its generation was given up",
        Leaving::Aged => "it has reached its greatest age, and its successor is ready",
        Leaving::OverMemory => "it uses too much memory, and its successor is ready",
        Leaving::Unhealthy => "it fails its health check, and its successor is ready",
        Leaving::Unresponsive => "its event loop is blocked, and its successor is ready",
        Leaving::Restart => "the app is restarted",
        Leaving::RolledBack => "its generation was rolled back",
        Leaving::NotNeeded => "whoever it was to replace is replaced otherwise",
        Leaving::ChannelLost => "it lost its channel to the supervisor",
        Leaving::NotReady => "it did not get ready in time",
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

fn step(step: &ReloadStep) -> String {
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

fn probe_failure(failure: ProbeFailure) -> String {
    match failure {
        ProbeFailure::Status(status) => format!("its probe was answered with {status}"),
        ProbeFailure::Refused => "its probe was refused".to_owned(),
        ProbeFailure::Closed => "its probe was not answered: the connection was closed".to_owned(),
        ProbeFailure::TimedOut => "its probe was not answered in time".to_owned(),
        ProbeFailure::NotHttp => "its probe was not answered with HTTP".to_owned(),
        ProbeFailure::NoAddress => "it listens nowhere where it could be probed".to_owned(),
        ProbeFailure::Unsteerable => "it cannot be probed by itself".to_owned(),
        ProbeFailure::Other => "its probe could not be made".to_owned(),
    }
}

fn per_mille(rate: u32) -> String {
    format!("{}.{} %", rate / 10, rate % 10)
}

fn subject(worker: &WorkerId, slot: &SlotId, names: &impl Names) -> String {
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
