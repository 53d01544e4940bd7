//! Words for what an operator must see to, and for causes without names.

use std::time::Duration;

use segue_core::{
    AddressId, AddressView, AppPhase, AppView, Cause, ExitStatus, Failure, Generation, Leaving,
    ProbeFailure, SlotId, SlotView, Time, WorkerId, WorkerPhase, WorkerView,
};

use super::convert;
use super::convert_tests::Web;
use super::names::OutOfMemory;
use super::wording::{brief, replacement, troubles};

fn slot(slot: u32, restarts: u32, given_up: bool) -> SlotView {
    SlotView {
        slot: SlotId(slot),
        worker: (!given_up).then_some(WorkerId(slot)),
        restarts,
        given_up,
        respawn_at: None,
    }
}

fn view(phase: AppPhase, slots: Vec<SlotView>, ready: &[u32], refusing: bool) -> AppView {
    let worker = |slot: &SlotView| WorkerView {
        worker: WorkerId(slot.slot.0),
        slot: slot.slot,
        generation: Generation(1),
        phase: match ready.contains(&slot.slot.0) {
            true => WorkerPhase::Ready,
            false => WorkerPhase::Booting,
        },
        since: Time(0),
        until: None,
        blocked_since: None,
        failing: None,
        is_unhealthy: false,
    };
    AppView {
        phase,
        serving: Generation(1),
        previous: None,
        is_health_shared: false,
        reload: None,
        workers: slots
            .iter()
            .filter(|slot| !slot.given_up)
            .map(worker)
            .collect(),
        slots,
        addresses: vec![AddressView {
            address: AddressId(0),
            sockets: 1,
            set: Vec::new(),
            serving: Vec::new(),
            steered: true,
            refusing,
        }],
    }
}

#[test]
fn what_an_operator_must_see_to() {
    let running = |slots, ready: &[u32]| view(AppPhase::Running, slots, ready, false);
    // The slots above 4 have failed at their start.
    for (what, view, expected) in [
        (
            "all is well",
            running(vec![slot(0, 0, false)], &[0]),
            vec![],
        ),
        (
            "a first start",
            running(vec![slot(0, 0, false), slot(1, 0, false)], &[0]),
            vec![],
        ),
        (
            "a respawn after a crash",
            running(vec![slot(0, 0, false), slot(1, 3, false)], &[0]),
            vec![],
        ),
        (
            "a failure that has been repaired",
            running(vec![slot(5, 3, false)], &[5]),
            vec![],
        ),
        (
            "a start that never became ready",
            running(vec![slot(0, 0, false), slot(5, 3, false)], &[0]),
            vec![(
                "never_ready",
                "the last start of slot 5 never became ready: worker 7 exited with code 1 before it was ready",
            )],
        ),
        (
            "a slot that is given up",
            running(vec![slot(0, 0, false), slot(5, 10, true)], &[0]),
            vec![(
                "slot_given_up",
                "slot 5 is given up after 10 restarts: worker 7 exited with code 1 before it was ready",
            )],
        ),
        (
            "an address that nobody serves",
            view(AppPhase::Running, vec![slot(0, 10, true)], &[], true),
            vec![
                (
                    "address_unserved",
                    "no worker serves 0.0.0.0:3000: connections are refused",
                ),
                ("slot_given_up", "slot 0 is given up after 10 restarts"),
                (
                    "no_worker_ready",
                    "no worker of web is ready: all have ended",
                ),
            ],
        ),
        (
            "a pause",
            view(AppPhase::Paused, vec![], &[], false),
            vec![("no_worker_ready", "no worker of web is ready: it is paused")],
        ),
    ] {
        let found = troubles(&view, &Web);
        let found: Vec<(&str, &str)> = found
            .iter()
            .map(|trouble| (trouble.kind.as_str(), trouble.text.as_str()))
            .collect();
        assert_eq!(found, expected, "{what}");
    }
}

#[test]
fn causes_are_counted_without_names() {
    let within = Duration::from_secs(30);
    let ready = |status| Cause::ExitedReady {
        status,
        after: within,
    };
    let booting = |status| Cause::ExitedBooting { status };
    for (cause, memory, expected) in [
        (ready(ExitStatus::Code(1)), None, "exit code 1"),
        (ready(ExitStatus::Signal(11)), None, "SIGSEGV"),
        (ready(ExitStatus::Unknown), None, "unknown end"),
        (
            booting(ExitStatus::Code(1)),
            None,
            "exit code 1 before it was ready",
        ),
        (
            ready(ExitStatus::Signal(9)),
            Some(OutOfMemory::Kernel),
            "out of memory, killed by the kernel",
        ),
        (
            ready(ExitStatus::Signal(6)),
            Some(OutOfMemory::Heap),
            "out of memory, node's heap is full",
        ),
        (Cause::NeverListened { within }, None, "never listened"),
        (
            Cause::Unhealthy {
                failure: ProbeFailure::TimedOut,
            },
            None,
            "failed its health check",
        ),
        (Cause::OverMemory, None, "above its memory limit"),
    ] {
        assert_eq!(brief(&cause, memory), expected);
    }
}

#[test]
fn want_of_memory_is_named() {
    let failure = |worker| Failure {
        worker: Some(WorkerId(worker)),
        slot: Some(SlotId(0)),
        cause: Cause::ExitedReady {
            status: ExitStatus::Signal(9),
            after: Duration::from_secs(3),
        },
    };
    for (worker, code, text, next) in [
        (
            20,
            Some("kernel"),
            "worker 20 (slot 0, pid 4020) was ended by SIGKILL after it had been ready for 3 s: the kernel killed it because memory had run out",
            "with --memory",
        ),
        (
            21,
            Some("heap"),
            "worker 21 (slot 0, pid 4021) was ended by SIGKILL after it had been ready for 3 s: its JavaScript heap was full",
            "--max-old-space-size",
        ),
        (
            22,
            None,
            "worker 22 (slot 0, pid 4022) was ended by SIGKILL after it had been ready for 3 s",
            "dmesg",
        ),
    ] {
        let told = convert::failure(&failure(worker), &Web);
        assert_eq!(told.out_of_memory.as_deref(), code);
        assert_eq!(told.text, text);
        assert!(told.next.contains(next), "{}", told.next);
    }
}

#[test]
fn replacements_are_restarts_and_reloads_are_not() {
    assert_eq!(
        replacement(Leaving::OverMemory),
        Some(("over_memory", "above its memory limit"))
    );
    assert_eq!(replacement(Leaving::Reload), None);
    assert_eq!(replacement(Leaving::Restart), None);
}
