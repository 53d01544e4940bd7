//! Orders to the shell, imperative, and what is reported to people.

use std::time::Duration;

use crate::datum::{portable_choice, portable_record};
use crate::event::ExitStatus;
use crate::ids::{
    AddressId, AskId, Generation, ReloadId, RequestId, SlotId, SocketIndex, SocketRef, WorkerId,
};
use crate::time::Time;

/// Something to do. The shell performs actions in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Resolve directory, script and environment for a generation and pin them.
    /// Answered by `Prepared` or `PrepareFailed`.
    Prepare { generation: Generation },
    /// No worker of this generation will be spawned any more.
    Forget { generation: Generation },
    /// Start a process. Answered by `Spawned` or `SpawnFailed`.
    Spawn {
        worker: WorkerId,
        slot: SlotId,
        generation: Generation,
    },

    /// Make a socket: the next one of its address's group, or the address's first.
    /// A new steered address comes with a program that sends everything to this first one.
    /// Answered by `Opened` or `OpenFailed`.
    Open { socket: SocketRef },
    /// Answer a worker's question with a socket.
    Give {
        worker: WorkerId,
        ask: AskId,
        socket: SocketRef,
    },
    /// Answer a worker's question with an error (a positive errno).
    Deny {
        worker: WorkerId,
        ask: AskId,
        errno: i32,
    },
    /// From now on new connections go to exactly these sockets. Never empty.
    /// For a path: exactly one, moved onto the path. Answered by `Steered` or `SteerFailed`.
    Steer {
        address: AddressId,
        set: Vec<SocketIndex>,
    },
    /// These workers may be handed connections of this address, in turn.
    Publish {
        address: AddressId,
        workers: Vec<WorkerId>,
    },
    /// What to do with connections in the queue of a socket that no worker will accept from.
    Tend { socket: SocketRef, how: Tend },
    /// Let no new connection begin at this address; what has begun goes on.
    ShutGate { address: AddressId },
    /// Close every socket of the address and forget it.
    Close { address: AddressId },

    /// The worker gets no new connections from now on: note which handshakes are under way.
    BeginSettle { worker: WorkerId },
    /// Say whether the worker's queues are empty and the noted handshakes are over.
    /// Answered by `SettleChecked`.
    CheckSettled { worker: WorkerId },
    /// Ask the worker over its channel to close its servers and finish what is open.
    Disconnect { worker: WorkerId },
    /// Tell the preload script of a worker that new connections go elsewhere: it goes on accepting
    /// those on their way, and lets idle ones go. `why` says whether there is anywhere to go.
    Retire { worker: WorkerId, why: Leaving },
    /// Tell the preload script to accept nothing more and to let everything go until `until`. Said again
    /// when the deadline changes. Answered by `Drained`.
    Drain {
        worker: WorkerId,
        why: Leaving,
        until: Time,
    },
    /// Send a signal.
    Signal { worker: WorkerId, signal: Signal },

    /// Tell a caller how its request ended. Exactly one for each request.
    Reply {
        request: RequestId,
        outcome: Outcome,
    },
    /// News for logs, event streams and callers that watch.
    Notify(Notice),
    /// Everything is over: end the supervisor's work on this app.
    Finish(Finish),
}

/// What becomes of connections in the queue of a socket that no worker accepts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tend {
    /// Leave them queued: a worker accepts here, or one soon will.
    Leave,
    /// Accept them and hand them to a published worker.
    HandOver,
    /// Accept and reset them: nobody will serve them soon.
    Reset,
}

/// A signal to a worker, by its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The stop request (SIGTERM).
    Stop,
    /// SIGKILL.
    Kill,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every slot of the first generation is ready.
    Started { took: Duration },
    /// The new generation serves alone.
    Reloaded {
        reload: ReloadId,
        generation: Generation,
        took: Duration,
    },
    /// Nothing has changed; the old generation serves.
    ReloadFailed { reload: ReloadId, failure: Failure },
    /// A later request overtook this one.
    Superseded { by: ReloadId },
    /// The number of slots, before and after.
    Scaled { from: u32, to: u32 },
    /// Workers drain, clients wait.
    Paused,
    /// Everything has drained.
    Stopped,
    /// Some workers were killed before they had drained.
    StoppedHard { killed: u32 },
    /// The first generation never became ready.
    NeverStarted { failure: Failure },
    /// Not done.
    Refused(Refusal),
}

/// Why a request was not even tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The app is stopping.
    Stopping,
    /// A reload is under way.
    Reloading,
    /// The first generation is still starting.
    Starting,
    /// It cannot run with fewer than one worker.
    NoWorkers,
    /// More workers than the pool has room for.
    TooMany,
}

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
    /// It was to replace another, which is replaced otherwise now.
    NotNeeded,
    /// It cannot be talked to any more.
    ChannelLost,
    /// It did not become ready in time.
    NotReady,
}

/// How the supervisor's work on an app ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// As asked.
    Stopped { killed: u32 },
    /// The first generation never became ready.
    NeverStarted(Failure),
    /// All slots were given up and `restart.give_up` is `exit`.
    GivenUp,
}

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
    /// Late handshakes or queued connections were still there at the limit; they are handed over.
    SettleTimedOut {
        worker: WorkerId,
        slot: SlotId,
    },
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

portable_choice!(Tend [Leave, HandOver, Reset]);

portable_record!(Failure {
    worker,
    slot,
    cause
});

portable_choice!(
    Cause
    [Wrapper, ChannelLost, SpawnFailed, PrepareFailed]
    {
        ExitedBooting { status },
        ExitedReady { status, after },
        NeverListened { within },
        NotListeningAt { address, within },
        NeverSaidReady { within },
        SteerFailed { address },
    }
);

portable_choice!(
    Leaving
    [Reload, ScaledDown, Stop, Pause, Abandoned, Aged, OverMemory, NotNeeded, ChannelLost, NotReady]
);

portable_choice!(Finish [GivenUp] { Stopped { killed } } (NeverStarted));
