//! The words for what was wrong with a worker or a release, for what to do about it, and for why
//! workers leave.

use segue_core::{Cause, ExitStatus, Failure, Leaving, ProbeFailure};
use segue_wire::control::Level;

use super::story::{memory, memory_advice};
use super::{pid, subject};
use crate::config::quantity::human;
use crate::control::names::Names;

/// Who failed and how, in one line.
pub(crate) fn failure(failure: &Failure, names: &impl Names) -> String {
    let want = failure
        .worker
        .and_then(|worker| names.out_of_memory(worker));
    let want = want.map(|want| memory(want).to_owned());
    let detail = want
        .or_else(|| names.detail(failure))
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
    let want = failure
        .worker
        .and_then(|worker| names.out_of_memory(worker));
    if let Some(want) = want {
        return memory_advice(want).to_owned();
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

pub(super) fn severity(cause: &Cause) -> Level {
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

pub(crate) const fn leaving(why: Leaving) -> &'static str {
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

pub(crate) fn probe_failure(failure: ProbeFailure) -> String {
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
