//! One vocabulary for what can be wrong with a worker or a reload, and for why workers leave.

use std::time::Duration;

use crate::datum::{portable_choice, portable_record};
use crate::event::ExitStatus;
use crate::ids::{AddressId, SlotId, WorkerId};

/// Why a generation, or a single worker, is no good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    pub worker: Option<WorkerId>,
    pub slot: Option<SlotId>,
    pub cause: Cause,
}

/// One vocabulary for everything that can be wrong with a worker or a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The process ended before it was ready.
    ExitedBooting { status: ExitStatus },
    /// The process ended after it was ready.
    ExitedReady { status: ExitStatus, after: Duration },
    /// Ready time-out: it listens nowhere.
    NeverListened { within: Duration },
    /// Ready time-out: it does not listen where the serving generation does.
    NotListeningAt {
        address: AddressId,
        within: Duration,
    },
    /// Ready time-out: no `process.send('ready')`.
    NeverSaidReady { within: Duration },
    /// Ready time-out: no `READY=1` on its notify socket.
    NeverNotified { within: Duration },
    /// Ready time-out: the probe never passed often enough; the last time it failed like this.
    ProbeFailed {
        failure: ProbeFailure,
        within: Duration,
    },
    /// It was ready, and then failed its probe too often in a row.
    Unhealthy { failure: ProbeFailure },
    /// Its event loop was blocked for so long.
    Unresponsive { lasted: Duration },
    /// It used more memory than its limit before its generation was committed.
    OverMemory,
    /// Of a thousand answers so many were errors, clearly more than of the old generation's.
    CanaryErrors { new: u32, old: u32 },
    /// Somebody asked for the old generation back.
    RolledBack,
    /// Another process below it listens.
    Wrapper,
    /// Its channel broke or was closed by the app.
    ChannelLost,
    /// No process could be made.
    SpawnFailed,
    /// The release cannot be resolved.
    PrepareFailed,
    /// The kernel refused to change who gets connections.
    SteerFailed { address: AddressId },
}

/// Why a worker leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// A newer generation serves.
    Reload,
    /// Its slot is gone.
    ScaledDown,
    /// The app stops.
    Stop,
    /// The app is paused.
    Pause,
    /// It belongs to a generation that was abandoned.
    Abandoned,
    /// It has reached its greatest age, and its successor is ready.
    Aged,
    /// It uses too much memory, and its successor is ready.
    OverMemory,
    /// It failed its health check, and its successor is ready.
    Unhealthy,
    /// Its event loop is blocked, and its successor is ready.
    Unresponsive,
    /// The app is restarted.
    Restart,
    /// It belongs to a generation that was rolled back, and its successor is ready.
    RolledBack,
    /// It was to replace another, which is replaced otherwise now.
    NotNeeded,
    /// It cannot be talked to any more.
    ChannelLost,
    /// It did not become ready in time.
    NotReady,
}

/// What came of a probe that did not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeFailure {
    /// It answered with another status than it should.
    Status(u16),
    /// No connection: refused.
    Refused,
    /// The connection ended without an answer.
    Closed,
    /// No answer in time.
    TimedOut,
    /// The answer was not HTTP.
    NotHttp,
    /// It listens nowhere that can be probed.
    NoAddress,
    /// Where it listens, no connection can be made to reach it and nobody else.
    Unsteerable,
    Other,
}

portable_record!(Failure {
    worker,
    slot,
    cause
});

portable_choice!(
    Cause
    [Wrapper, ChannelLost, SpawnFailed, PrepareFailed, OverMemory, RolledBack]
    {
        ExitedBooting { status },
        ExitedReady { status, after },
        NeverListened { within },
        NotListeningAt { address, within },
        NeverSaidReady { within },
        NeverNotified { within },
        ProbeFailed { failure, within },
        Unhealthy { failure },
        Unresponsive { lasted },
        CanaryErrors { new, old },
        SteerFailed { address },
    }
);

portable_choice!(
    ProbeFailure
    [Refused, Closed, TimedOut, NotHttp, NoAddress, Unsteerable, Other] {} (Status)
);

portable_choice!(
    Leaving
    [
        Reload, ScaledDown, Stop, Pause, Abandoned, Aged, OverMemory, Unhealthy, Unresponsive,
        Restart, RolledBack, NotNeeded, ChannelLost, NotReady,
    ]
);
