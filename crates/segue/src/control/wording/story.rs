//! The words for what an operator must see to, for the steps of a reload, and for causes without names.

use segue_core::{
    AppPhase, AppView, Cause, ExitStatus, Leaving, ReloadStep, SlotView, WorkerPhase,
};
use segue_wire::control as wire;

use super::reasons::signal_name;
use crate::control::names::{Measures, OutOfMemory};

/// The word for a step in JSON.
pub(crate) const fn step_code(step: &ReloadStep) -> &'static str {
    match step {
        ReloadStep::Preparing => "preparing",
        ReloadStep::Emptying => "emptying",
        ReloadStep::Booting { .. } => "booting",
        ReloadStep::Proving => "proving",
        ReloadStep::Canary { .. } => "canary",
        ReloadStep::CuttingOver => "cutting_over",
        ReloadStep::Probation { .. } => "probation",
        ReloadStep::Replacing { .. } => "replacing",
    }
}

/// A cause without saying who: restarts with the same one are counted together.
pub(crate) fn brief(cause: &Cause, memory: Option<OutOfMemory>) -> String {
    match memory {
        Some(OutOfMemory::Kernel) => return "out of memory, killed by the kernel".to_owned(),
        Some(OutOfMemory::Heap) => return "out of memory, node's heap is full".to_owned(),
        None => {}
    }
    let text = match cause {
        Cause::ExitedBooting { status } => {
            return format!("{} before it was ready", ended(*status));
        }
        Cause::ExitedReady { status, .. } => return ended(*status),
        Cause::NeverListened { .. } => "never listened",
        Cause::NotListeningAt { .. } => "did not listen where it should",
        Cause::NeverSaidReady { .. } => "never sent 'ready'",
        Cause::NeverNotified { .. } => "never sent READY=1",
        Cause::ProbeFailed { .. } => "never passed its probe",
        Cause::Unhealthy { .. } => "failed its health check",
        Cause::Unresponsive { .. } => "event loop blocked",
        Cause::OverMemory => "above its memory limit",
        Cause::CanaryErrors { .. } => "too many errors in the canary",
        Cause::RolledBack => "rolled back",
        Cause::Wrapper => "only starts another process",
        Cause::ChannelLost => "lost its channel",
        Cause::SpawnFailed => "could not be started",
        Cause::PrepareFailed => "release cannot be resolved",
        Cause::SteerFailed { .. } => "cannot get connections",
    };
    text.to_owned()
}

/// The cause of a replacement that no failure led to; `None` for those that are no restart.
pub(crate) const fn replacement(why: Leaving) -> Option<(&'static str, &'static str)> {
    match why {
        Leaving::Aged => Some(("aged", "reached its greatest age")),
        Leaving::OverMemory => Some(("over_memory", "above its memory limit")),
        Leaving::Unhealthy => Some(("unhealthy", "failed its health check")),
        Leaving::Unresponsive => Some(("unresponsive", "event loop blocked")),
        Leaving::Reload
        | Leaving::ScaledDown
        | Leaving::Stop
        | Leaving::Pause
        | Leaving::Abandoned
        | Leaving::Restart
        | Leaving::RolledBack
        | Leaving::NotNeeded
        | Leaving::ChannelLost
        | Leaving::NotReady => None,
    }
}

/// The word for want of memory in JSON.
pub(crate) const fn memory_code(memory: OutOfMemory) -> &'static str {
    match memory {
        OutOfMemory::Kernel => "kernel",
        OutOfMemory::Heap => "heap",
    }
}

pub(super) const fn memory(memory: OutOfMemory) -> &'static str {
    match memory {
        OutOfMemory::Kernel => "the kernel killed it because memory had run out",
        OutOfMemory::Heap => "its JavaScript heap was full",
    }
}

pub(super) const fn memory_advice(memory: OutOfMemory) -> &'static str {
    match memory {
        OutOfMemory::Kernel => {
            "give it more memory or run fewer workers; with --memory a worker is replaced before it comes to that"
        }
        OutOfMemory::Heap => {
            "look for a leak, or raise node's limit: --node-arg=--max-old-space-size=MIB; with --memory a worker is replaced before it comes to that"
        }
    }
}

fn ended(status: ExitStatus) -> String {
    match status {
        ExitStatus::Code(code) => format!("exit code {code}"),
        ExitStatus::Signal(signal) => signal_name(signal),
        ExitStatus::Unknown => "unknown end".to_owned(),
    }
}

/// What an operator must see to: with any of it `status --check` fails.
pub(crate) fn troubles(view: &AppView, measures: &impl Measures) -> Vec<wire::Trouble> {
    let trouble = |kind: &str, text: String, next: &str| wire::Trouble {
        kind: kind.to_owned(),
        text,
        next: next.to_owned(),
    };
    let mut found = Vec::new();
    for address in view.addresses.iter().filter(|address| address.refusing) {
        let text = format!(
            "no worker serves {}: connections are refused",
            measures.address(address.address)
        );
        found.push(trouble(
            "address_unserved",
            text,
            "segue why tells what ended the workers",
        ));
    }
    for slot in &view.slots {
        let last = measures.last_failure(slot.slot);
        let because = last
            .as_ref()
            .map_or_else(String::new, |failure| format!(": {}", failure.text));
        if slot.given_up {
            let text = format!(
                "{} is given up after {} restarts{because}",
                slot.slot, slot.restarts
            );
            let next = "mend the release, then segue reload or segue restart";
            found.push(trouble("slot_given_up", text, next));
        } else if !is_ready(view, slot)
            && slot.restarts > 0
            && last.is_some_and(|failure| is_of_a_start(&failure.cause))
        {
            let text = format!(
                "the last start of {} never became ready{because}",
                slot.slot
            );
            let next = "it is tried again; segue why tells how often it has been";
            found.push(trouble("never_ready", text, next));
        }
    }
    let is_served = view.slots.iter().any(|slot| is_ready(view, slot))
        || view
            .workers
            .iter()
            .any(|worker| worker.phase == WorkerPhase::Ready);
    if !is_served {
        let (why, next) = match view.phase {
            AppPhase::Starting => ("it is starting", "segue status shows how far it is"),
            AppPhase::Paused => ("it is paused", "segue reload brings new workers"),
            AppPhase::Stopping => ("it is stopping", ""),
            AppPhase::Finished => ("it has stopped", ""),
            AppPhase::Running => ("all have ended", "segue why tells what ended them"),
        };
        let text = format!("no worker of {} is ready: {why}", measures.app());
        found.push(trouble("no_worker_ready", text, next));
    }
    found
}

fn is_ready(view: &AppView, slot: &SlotView) -> bool {
    let mut workers = view.workers.iter();
    workers.any(|worker| Some(worker.worker) == slot.worker && worker.phase == WorkerPhase::Ready)
}

/// Whether a failure with this code is that of a worker that had not been ready.
fn is_of_a_start(code: &str) -> bool {
    matches!(
        code,
        "exited_booting"
            | "never_listened"
            | "not_listening_at"
            | "never_said_ready"
            | "never_notified"
            | "probe_failed"
            | "wrapper"
            | "spawn_failed"
    )
}
