//! Orders to the shell, imperative, and how requests end.

use std::time::Duration;

use crate::cause::{Failure, Leaving};
use crate::datum::portable_choice;
use crate::ids::{
    AddressId, AskId, Generation, ReloadId, RequestId, SlotId, SocketIndex, SocketRef, WorkerId,
};
use crate::notice::Notice;
use crate::time::Time;

/// Something to do. The shell performs actions in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Resolve directory, script and environment for a generation and pin them; with `like`, those
    /// that were pinned for that generation, as they were. Answered by `Prepared` or `PrepareFailed`.
    Prepare {
        generation: Generation,
        like: Option<Generation>,
    },
    /// No worker of this generation will be spawned any more, nor of one like it.
    Forget { generation: Generation },
    /// Start a process. Answered by `Spawned` or `SpawnFailed`.
    Spawn {
        worker: WorkerId,
        slot: SlotId,
        generation: Generation,
    },

    /// The worker is ready: what slowed its boot for the sake of others is to end.
    BootDone { worker: WorkerId },
    /// Ask the worker once, over a connection that reaches nobody else, whether it works.
    /// Answered by `Probed`, within the probe's time-out.
    Probe { worker: WorkerId },
    /// From now on the worker's answers are counted. Reported by `Counted`, now and then.
    Count { worker: WorkerId },
    /// No more.
    StopCounting { worker: WorkerId },

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
    /// From now on new connections go to exactly these sockets, to each in proportion to its weight.
    /// Never empty, no weight is 0, and all are 1 where they are equal.
    /// For a path: exactly one, moved onto the path. Answered by `Steered` or `SteerFailed`.
    Steer {
        address: AddressId,
        set: Vec<(SocketIndex, u32)>,
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
    /// Every slot is ready again, with a new generation.
    Restarted {
        reload: ReloadId,
        generation: Generation,
        took: Duration,
    },
    /// The new generation serves alone.
    Reloaded {
        reload: ReloadId,
        generation: Generation,
        took: Duration,
    },
    /// Nothing has changed; the old generation serves.
    ReloadFailed { reload: ReloadId, failure: Failure },
    /// The new generation serves alone, without the rest of its trial.
    Promoted {
        reload: ReloadId,
        generation: Generation,
    },
    /// The release that served before serves again: the reload `of` was abandoned, and
    /// `generation` has gone on serving.
    Abandoned {
        of: ReloadId,
        generation: Generation,
    },
    /// The release of the generation `to` serves again, under a new number.
    RolledBack {
        reload: ReloadId,
        generation: Generation,
        to: Generation,
        took: Duration,
    },
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
    /// No reload is on trial.
    NothingToPromote,
    /// No release has served before this one.
    NothingToRollBackTo,
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

portable_choice!(Tend [Leave, HandOver, Reset]);

portable_choice!(Finish [GivenUp] { Stopped { killed } } (NeverStarted));
