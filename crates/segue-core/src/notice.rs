//! News, for people, and the steps of a reload as they are told.

use std::time::Duration;

use crate::action::Refusal;
use crate::cause::{Cause, Failure, Leaving, ProbeFailure};
use crate::event::ExitStatus;
use crate::ids::{AddressId, Generation, ReloadId, SlotId, WorkerId};

/// News, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    WorkerSpawned {
        worker: WorkerId,
        slot: SlotId,
        generation: Generation,
    },
    WorkerReady {
        worker: WorkerId,
        slot: SlotId,
        took: Duration,
    },
    /// A worker failed that had not been asked to leave.
    WorkerFailed {
        worker: WorkerId,
        slot: SlotId,
        cause: Cause,
    },
    /// Its successor is spawned after this wait.
    RespawnDue {
        slot: SlotId,
        wait: Duration,
        restarts: u32,
    },
    /// Restart intensity reached.
    SlotGivenUp {
        slot: SlotId,
        restarts: u32,
        within: Duration,
    },
    WorkerLeaving {
        worker: WorkerId,
        slot: SlotId,
        why: Leaving,
    },
    /// The worker has no connection left; it is told to end.
    WorkerDrained {
        worker: WorkerId,
        slot: SlotId,
        took: Duration,
    },
    /// The drain's deadline came first.
    DrainTimedOut {
        worker: WorkerId,
        slot: SlotId,
        limit: Duration,
    },
    /// It ignored the stop request too.
    WorkerKilled {
        worker: WorkerId,
        slot: SlotId,
    },
    /// A worker that was asked to leave is gone.
    WorkerLeft {
        worker: WorkerId,
        slot: SlotId,
        status: ExitStatus,
    },
    /// Everybody who should serve is ready.
    AppReady {
        workers: u32,
        took: Duration,
    },
    ReloadStarted {
        reload: ReloadId,
        generation: Generation,
    },
    /// No address can be shared by two generations: the canary is left out.
    CanarySkipped {
        reload: ReloadId,
    },
    /// A reload comes to its next step; the one before took so long.
    ReloadStep {
        reload: ReloadId,
        step: ReloadStep,
        took: Duration,
    },
    ReloadCommitted {
        reload: ReloadId,
        generation: Generation,
        took: Duration,
    },
    ReloadFailed {
        reload: ReloadId,
        failure: Failure,
    },
    ReloadSuperseded {
        reload: ReloadId,
        by: ReloadId,
    },
    GenerationGone {
        generation: Generation,
    },
    /// Too many generations drain at once: the oldest is ended now.
    GenerationHurried {
        generation: Generation,
        draining: u32,
        limit: u32,
    },
    AddressOpened {
        address: AddressId,
        steered: bool,
    },
    AddressClosed {
        address: AddressId,
    },
    /// Nobody will serve this address soon: connections are refused.
    AddressUnserved {
        address: AddressId,
    },
    /// Somebody serves it again.
    AddressServed {
        address: AddressId,
    },
    /// A held answer was given before the cut-over, because the worker could not get ready without it.
    HeldReleased {
        worker: WorkerId,
        address: AddressId,
    },
    /// It wanted to listen where it may not, and was told so.
    ListenForbidden {
        worker: WorkerId,
        slot: SlotId,
        address: AddressId,
    },
    /// Late handshakes or queued connections were still there at the limit; they are handed over.
    SettleTimedOut {
        worker: WorkerId,
        slot: SlotId,
    },
    /// Its event loop does not turn: it gets no new connections while others can have them.
    WorkerBlocked {
        worker: WorkerId,
        slot: SlotId,
    },
    WorkerUnblocked {
        worker: WorkerId,
        slot: SlotId,
        lasted: Duration,
    },
    /// It failed its probe too often in a row.
    WorkerUnhealthy {
        worker: WorkerId,
        slot: SlotId,
        failure: ProbeFailure,
    },
    /// It passes its probe again.
    WorkerHealthy {
        worker: WorkerId,
        slot: SlotId,
    },
    /// It cannot be probed by itself: it counts as if it passed.
    ProbeWaived {
        worker: WorkerId,
        slot: SlotId,
    },
    /// So many fail at once that the cause is none of theirs: nobody is replaced.
    HealthShared {
        failing: u32,
        of: u32,
    },
    /// What they shared is over.
    HealthRecovered,
    Scaled {
        from: u32,
        to: u32,
    },
    /// A stop was asked for; it begins after this.
    StopDelayed {
        delay: Duration,
    },
    Stopping,
    /// Workers drain, clients wait for the next reload.
    Paused,
    /// The signal was understood and is not possible now.
    Refused(Refusal),
}

/// Where a reload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadStep {
    /// Its release is being resolved.
    Preparing,
    /// A restart: what served is drained and ended.
    Emptying,
    /// So many new workers boot, of so many that are still to be replaced.
    Booting { workers: u32, of: u32 },
    /// They are ready and must stay alive and well.
    Proving,
    /// They get this share of the new connections.
    Canary { percent: u8, lasts: Duration },
    /// New connections begin to go to them alone.
    CuttingOver,
    /// They serve; the old ones stay to take over again.
    Probation { lasts: Duration },
    /// So many of all workers are replaced; room is made for the next.
    Replacing { done: u32, of: u32 },
}
