//! Every word that people read, once.

use std::time::{Duration, UNIX_EPOCH};

use segue_core::{
    AddressId, Cause, ExitStatus, Failure, Generation, Leaving, Notice, Outcome, Refusal, ReloadId,
    SlotId, WorkerId,
};
use segue_wire::control::{self as wire, Level};

use super::convert;
use super::convert_tests::Web;
use super::wording;
use crate::telemetry::lines;

const W: WorkerId = WorkerId(7);
const S: SlotId = SlotId(1);
const MINUTE: Duration = Duration::from_secs(60);
const MOMENT: Duration = Duration::from_millis(1_234);

fn failed(cause: Cause) -> Failure {
    Failure {
        worker: Some(W),
        slot: Some(S),
        cause,
    }
}

#[test]
fn notices() {
    let exited = Cause::ExitedBooting {
        status: ExitStatus::Code(1),
    };
    for (notice, level, kind, text) in [
        (
            Notice::WorkerSpawned {
                worker: W,
                slot: S,
                generation: Generation(2),
            },
            Level::Debug,
            "worker_spawned",
            "worker 7 (slot 1, pid 4007) of generation 2 boots",
        ),
        (
            Notice::WorkerReady {
                worker: W,
                slot: S,
                took: MOMENT,
            },
            Level::Debug,
            "worker_ready",
            "worker 7 (slot 1, pid 4007) is ready after 1.2 s",
        ),
        (
            Notice::WorkerFailed {
                worker: W,
                slot: S,
                cause: exited,
            },
            Level::Error,
            "worker_failed",
            "worker 7 (slot 1, pid 4007) exited with code 1 before it was ready",
        ),
        (
            Notice::RespawnDue {
                slot: S,
                wait: Duration::ZERO,
                restarts: 1,
            },
            Level::Info,
            "respawn_due",
            "slot 1 gets a new worker at once (restart 1)",
        ),
        (
            Notice::RespawnDue {
                slot: S,
                wait: Duration::from_millis(200),
                restarts: 3,
            },
            Level::Info,
            "respawn_due",
            "slot 1 gets a new worker in 200 ms (restart 3)",
        ),
        (
            Notice::SlotGivenUp {
                slot: S,
                restarts: 10,
                within: MINUTE,
            },
            Level::Error,
            "slot_given_up",
            "slot 1 is given up: 10 restarts within 1 min; the next reload or restart tries it again",
        ),
        (
            Notice::WorkerLeaving {
                worker: W,
                slot: S,
                why: Leaving::Reload,
            },
            Level::Debug,
            "worker_leaving",
            "worker 7 (slot 1, pid 4007) leaves: a newer generation serves",
        ),
        (
            Notice::WorkerDrained {
                worker: W,
                slot: S,
                took: MOMENT,
            },
            Level::Debug,
            "worker_drained",
            "worker 7 (slot 1, pid 4007) has finished its connections after 1.2 s",
        ),
        (
            Notice::WorkerDrained {
                worker: WorkerId(8),
                slot: S,
                took: MOMENT,
            },
            Level::Warn,
            "worker_drained",
            "worker 8 (slot 1, pid 4008) has finished its connections after 1.2 s: 120 moved, 1 cut off",
        ),
        (
            Notice::DrainTimedOut {
                worker: WorkerId(8),
                slot: S,
                limit: MINUTE * 5,
            },
            Level::Warn,
            "drain_timed_out",
            "worker 8 (slot 1, pid 4008) still had connections after 5 min (2 busy; oldest 1 min 30 s): they are cut off",
        ),
        (
            Notice::DrainTimedOut {
                worker: W,
                slot: S,
                limit: MINUTE * 5,
            },
            Level::Warn,
            "drain_timed_out",
            "worker 7 (slot 1, pid 4007) still had connections after 5 min: they are cut off",
        ),
        (
            Notice::DrainTimedOut {
                worker: W,
                slot: S,
                limit: Duration::ZERO,
            },
            Level::Warn,
            "drain_timed_out",
            "worker 7 (slot 1, pid 4007) still had connections: they are cut off",
        ),
        (
            Notice::WorkerKilled { worker: W, slot: S },
            Level::Warn,
            "worker_killed",
            "worker 7 (slot 1, pid 4007) did not end when asked to: killed",
        ),
        (
            Notice::WorkerLeft {
                worker: W,
                slot: S,
                status: ExitStatus::Signal(15),
            },
            Level::Debug,
            "worker_left",
            "worker 7 (slot 1, pid 4007) is gone (SIGTERM)",
        ),
        (
            Notice::AppReady {
                workers: 1,
                took: MOMENT,
            },
            Level::Info,
            "app_ready",
            "web is ready: 1 worker after 1.2 s",
        ),
        (
            Notice::ReloadStarted {
                reload: ReloadId(3),
                generation: Generation(4),
            },
            Level::Info,
            "reload_started",
            "reload 3 began: generation 4 boots",
        ),
        (
            Notice::ReloadCommitted {
                reload: ReloadId(3),
                generation: Generation(4),
                took: MOMENT,
            },
            Level::Info,
            "reload_committed",
            "reload 3 committed: generation 4 serves (2 workers, 1.2 s)",
        ),
        (
            Notice::ReloadFailed {
                reload: ReloadId(3),
                failure: failed(exited),
            },
            Level::Error,
            "reload_failed",
            "reload 3 failed, nothing has changed: worker 7 (slot 1, pid 4007) exited with code 1 before it was ready",
        ),
        (
            Notice::ReloadSuperseded {
                reload: ReloadId(3),
                by: ReloadId(4),
            },
            Level::Info,
            "reload_superseded",
            "reload 3 was overtaken by reload 4",
        ),
        (
            Notice::GenerationGone {
                generation: Generation(3),
            },
            Level::Info,
            "generation_gone",
            "generation 3 is gone",
        ),
        (
            Notice::AddressOpened {
                address: AddressId(0),
                steered: true,
            },
            Level::Info,
            "address_opened",
            "listening at 0.0.0.0:3000",
        ),
        (
            Notice::AddressOpened {
                address: AddressId(1),
                steered: false,
            },
            Level::Info,
            "address_opened",
            "listening at 0.0.0.0:3001 with one socket for all workers",
        ),
        (
            Notice::AddressClosed {
                address: AddressId(1),
            },
            Level::Info,
            "address_closed",
            "no longer listening at 0.0.0.0:3001",
        ),
        (
            Notice::AddressUnserved {
                address: AddressId(0),
            },
            Level::Error,
            "address_unserved",
            "no worker serves 0.0.0.0:3000: connections are refused",
        ),
        (
            Notice::AddressServed {
                address: AddressId(0),
            },
            Level::Info,
            "address_served",
            "0.0.0.0:3000 is served again",
        ),
        (
            Notice::HeldReleased {
                worker: W,
                address: AddressId(0),
            },
            Level::Warn,
            "held_released",
            "worker 7 (pid 4007) listens at 0.0.0.0:3000 before the cut-over, because it does not get ready without it",
        ),
        (
            Notice::ListenForbidden {
                worker: W,
                slot: S,
                address: AddressId(0),
            },
            Level::Warn,
            "listen_forbidden",
            "worker 7 (pid 4007) may not listen at 0.0.0.0:3000, which is none of the places of listen: it is told EACCES",
        ),
        (
            Notice::SettleTimedOut { worker: W, slot: S },
            Level::Info,
            "settle_timed_out",
            "connections were still on their way to worker 7 (slot 1, pid 4007) at the limit: they are handed over",
        ),
        (
            Notice::Scaled { from: 4, to: 1 },
            Level::Info,
            "scaled",
            "scaled from 4 to 1 worker",
        ),
        (
            Notice::Stopping,
            Level::Info,
            "stopping",
            "web stops: connections drain",
        ),
        (
            Notice::Paused,
            Level::Warn,
            "paused",
            "web is paused: its workers drain, and clients wait in the queues until a reload (segue reload, or HUP) brings new ones",
        ),
        (
            Notice::Refused(Refusal::Reloading),
            Level::Warn,
            "refused",
            "refused: a reload is under way",
        ),
    ] {
        let told = convert::notice(&notice, &Web, UNIX_EPOCH + MOMENT);
        assert_eq!(
            (told.level, told.kind.as_str(), told.text.as_str()),
            (level, kind, text)
        );
        assert_eq!((told.app.as_str(), told.at_ms), ("web", 1_234));
    }
}

#[test]
fn a_crash_in_the_supervisors_own_lines() {
    let cause = Cause::ExitedReady {
        status: ExitStatus::Signal(9),
        after: MOMENT,
    };
    let notice = Notice::WorkerFailed {
        worker: W,
        slot: S,
        cause,
    };
    let told = convert::notice(&notice, &Web, UNIX_EPOCH);
    let expected = "\
segue: worker 7 (slot 1, pid 4007) was ended by SIGKILL after it had been ready for 1.2 s
segue:   its last lines on stderr:
segue:   | Error: no such table
segue:   |     at query
segue:   what to do: if nobody sent it, the kernel had no memory left: see dmesg";
    assert_eq!(lines::notice(&told).join("\n"), expected);
    let failure = told.failure.unwrap();
    assert_eq!(failure.cause, "exited_ready");
    assert_eq!(
        (failure.exit_code, failure.signal.as_deref()),
        (None, Some("SIGKILL"))
    );
    assert_eq!(
        (failure.worker, failure.slot, failure.pid),
        (Some(7), Some(1), Some(4007))
    );
}

#[test]
fn causes() {
    let within = Duration::from_secs(30);
    for (cause, code, text, next) in [
        (
            Cause::ExitedBooting {
                status: ExitStatus::Unknown,
            },
            "exited_booting",
            "ended, nobody knows how, before it was ready",
            "",
        ),
        (
            Cause::ExitedReady {
                status: ExitStatus::Code(0),
                after: MOMENT,
            },
            "exited_ready",
            "exited with code 0 after it had been ready for 1.2 s",
            "",
        ),
        (
            Cause::NeverListened { within },
            "never_listened",
            "listened nowhere within 30 s",
            "--ready alive",
        ),
        (
            Cause::NotListeningAt {
                address: AddressId(0),
                within,
            },
            "not_listening_at",
            "did not listen at 0.0.0.0:3000, where the serving generation does, within 30 s",
            "must listen wherever the old one does",
        ),
        (
            Cause::NeverSaidReady { within },
            "never_said_ready",
            "did not send 'ready' within 30 s",
            "process.send('ready')",
        ),
        (
            Cause::Wrapper,
            "wrapper",
            "only starts another process, and that one listens",
            "write: segue run --node-arg=--import=tsx server.ts",
        ),
        (
            Cause::ChannelLost,
            "channel_lost",
            "lost its channel to the supervisor",
            "",
        ),
        (
            Cause::SpawnFailed,
            "spawn_failed",
            "could not be started: Resource temporarily unavailable",
            "limits on processes",
        ),
        (
            Cause::SteerFailed {
                address: AddressId(0),
            },
            "steer_failed",
            "cannot get the connections of 0.0.0.0:3000",
            "log",
        ),
    ] {
        let failure = convert::failure(&failed(cause), &Web);
        assert_eq!(failure.cause, code);
        assert_eq!(failure.text, format!("worker 7 (slot 1, pid 4007) {text}"));
        assert!(failure.next.contains(next), "{code}: {}", failure.next);
        assert_eq!(
            failure.next.is_empty(),
            next.is_empty(),
            "{code}: {}",
            failure.next
        );
    }
    let unresolved = Failure {
        worker: None,
        slot: None,
        cause: Cause::PrepareFailed,
    };
    assert_eq!(
        convert::failure(&unresolved, &Web).text,
        "the new release cannot be resolved: /srv/web/current: No such file or directory"
    );
    let never_ran = Failure {
        worker: Some(WorkerId(101)),
        slot: Some(S),
        cause: Cause::SpawnFailed,
    };
    let never_ran = convert::failure(&never_ran, &Web);
    assert!(
        never_ran.text.starts_with("worker 101 (slot 1) could not"),
        "{}",
        never_ran.text
    );
    assert_eq!(never_ran.pid, None);
}

#[test]
fn outcomes() {
    let failure = failed(Cause::ExitedBooting {
        status: ExitStatus::Code(3),
    });
    for (outcome, kind, text, next) in [
        (
            Outcome::Started { took: MOMENT },
            wire::OutcomeKind::Started,
            "web is ready after 1.2 s",
            "",
        ),
        (
            Outcome::Reloaded {
                reload: ReloadId(3),
                generation: Generation(4),
                took: MOMENT,
            },
            wire::OutcomeKind::Reloaded,
            "reload 3 committed: generation 4 serves (2 workers, 1.2 s)",
            "",
        ),
        (
            Outcome::ReloadFailed {
                reload: ReloadId(3),
                failure,
            },
            wire::OutcomeKind::ReloadFailed,
            "reload 3 failed, nothing has changed: worker 7 (slot 1, pid 4007) exited with code 3 before it was ready",
            "",
        ),
        (
            Outcome::Superseded { by: ReloadId(4) },
            wire::OutcomeKind::Superseded,
            "superseded by reload 4",
            "the outcome of reload 4 tells what serves",
        ),
        (
            Outcome::Scaled { from: 1, to: 4 },
            wire::OutcomeKind::Scaled,
            "scaled from 1 to 4 workers",
            "",
        ),
        (
            Outcome::Paused,
            wire::OutcomeKind::Paused,
            "web is paused",
            "segue reload, or HUP to the main process, brings new workers",
        ),
        (
            Outcome::Stopped,
            wire::OutcomeKind::Stopped,
            "web has stopped; every connection was finished",
            "",
        ),
        (
            Outcome::StoppedHard { killed: 1 },
            wire::OutcomeKind::StoppedHard,
            "web has stopped; 1 worker was killed before the last connection was finished",
            "a longer --stop-timeout gives them more time",
        ),
        (
            Outcome::NeverStarted { failure },
            wire::OutcomeKind::NeverStarted,
            "web never got ready: worker 7 (slot 1, pid 4007) exited with code 3 before it was ready",
            "",
        ),
        (
            Outcome::Refused(Refusal::NoWorkers),
            wire::OutcomeKind::Refused,
            "refused: it cannot run with fewer than one worker",
            "to end it, use segue stop",
        ),
    ] {
        let told = convert::outcome(&outcome, &Web);
        assert_eq!(
            (told.kind, told.text.as_str(), told.next.as_str()),
            (kind, text, next)
        );
        let failed = matches!(
            kind,
            wire::OutcomeKind::ReloadFailed | wire::OutcomeKind::NeverStarted
        );
        assert_eq!(
            told.failure.map(|failure| failure.stderr.len()),
            failed.then_some(2)
        );
        let refused = kind == wire::OutcomeKind::Refused;
        assert_eq!(told.refusal.as_deref(), refused.then_some("no_workers"));
    }
}

#[test]
fn signals() {
    for (number, name) in [
        (1, "SIGHUP"),
        (9, "SIGKILL"),
        (11, "SIGSEGV"),
        (31, "SIGSYS"),
        (34, "signal 34"),
        (0, "signal 0"),
        (-1, "signal -1"),
    ] {
        assert_eq!(wording::signal_name(number), name);
    }
}
