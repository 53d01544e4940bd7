//! Facts that the shell reports, in the past tense. The core ignores facts about workers it
//! no longer knows, so a late one does no harm.

use crate::cause::ProbeFailure;
use crate::datum::portable_choice;
use crate::ids::{AddressId, AskId, Generation, RequestId, SocketRef, WorkerId};
use crate::settings::Canary;

/// Something happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The app is to run. First event of all.
    StartRequested { request: RequestId },
    /// Replace every worker with a new generation.
    ReloadRequested {
        request: RequestId,
        canary: CanaryChoice,
    },
    /// End the trial of the new generation: it has won.
    PromoteRequested { request: RequestId },
    /// Give the generation back that served before: by abandoning the reload that is under way,
    /// or by another one.
    RollbackRequested { request: RequestId },
    /// End every worker, then start the app afresh.
    RestartRequested { request: RequestId },
    /// Change the number of slots.
    ScaleRequested { request: RequestId, to: Scale },
    /// Drain every worker, and let clients wait until a reload brings new ones.
    PauseRequested { request: RequestId },
    /// Drain everything, then finish. Asked again, it hurries.
    StopRequested { request: RequestId },
    /// End everything at once.
    KillRequested { request: RequestId },

    /// The release of a generation has been resolved; `changed` says that `listen`, arguments or
    /// environment differ from the serving generation's, so that it may listen elsewhere, `is_cold`
    /// that its compile cache is empty, so that one worker should boot before the others. `listen` is where
    /// each of its workers is to listen, as far as that was said.
    Prepared {
        generation: Generation,
        changed: bool,
        is_cold: bool,
        listen: Vec<AddressId>,
    },
    /// The release of a generation cannot be resolved.
    PrepareFailed { generation: Generation },

    /// The process exists.
    Spawned { worker: WorkerId },
    /// The process speaks over its channel.
    Attached { worker: WorkerId },
    /// Its preload script runs: it can be drained without losing a connection.
    Preloaded { worker: WorkerId },
    /// The worker uses more memory than its limit.
    OverMemory { worker: WorkerId },
    /// Nothing is open in it any more, and it accepts nothing.
    Drained { worker: WorkerId },
    /// No process could be made.
    SpawnFailed { worker: WorkerId },
    /// The worker wants to listen at an address; who listens there also does at those that it
    /// `covers`, as far as that was wanted.
    Asked {
        worker: WorkerId,
        ask: AskId,
        address: AddressId,
        kind: AddressKind,
        covers: Vec<AddressId>,
    },
    /// The worker wants to listen where it may not.
    AskedInVain {
        worker: WorkerId,
        ask: AskId,
        address: AddressId,
    },
    /// The worker listens there now.
    Listened {
        worker: WorkerId,
        address: AddressId,
    },
    /// The worker no longer listens there.
    Closed {
        worker: WorkerId,
        address: AddressId,
    },
    /// `process.send('ready')`.
    SaidReady { worker: WorkerId },
    /// `READY=1` on its notify socket.
    Notified { worker: WorkerId },
    /// Answer to [`Action::Probe`](crate::Action::Probe).
    Probed {
        worker: WorkerId,
        verdict: ProbeVerdict,
    },
    /// Its event loop has not turned for a second.
    Blocked { worker: WorkerId },
    /// It turns again. A new supervisor says so of each worker that answers it for the first time.
    Unblocked { worker: WorkerId },
    /// What it has answered since [`Action::Count`](crate::Action::Count), and how many of those
    /// were errors: 5xx, or connections that ended without an answer.
    Counted {
        worker: WorkerId,
        answers: u64,
        errors: u64,
    },
    /// Another process below the worker listens: the worker is a wrapper and will never ask.
    FoundWrapper { worker: WorkerId },
    /// The channel is at its end, or no longer usable. The process may still run.
    ChannelEnded { worker: WorkerId },
    /// The process is gone, its output has been read, its channel is closed.
    Exited {
        worker: WorkerId,
        status: ExitStatus,
    },
    /// Answer to [`Action::CheckSettled`](crate::Action::CheckSettled).
    SettleChecked { worker: WorkerId, clear: bool },

    /// The socket is bound, listens and has its place in the group. `steered` is false where the kernel
    /// refused the steering program: the address then has this one socket only.
    Opened { socket: SocketRef, steered: bool },
    /// The socket could not be made.
    OpenFailed { socket: SocketRef, errno: i32 },
    /// The set is in force.
    Steered { address: AddressId },
    /// The set was not changed; the one before it is still in force.
    SteerFailed { address: AddressId },

    /// [`App::next_deadline`](crate::App::next_deadline) has come.
    DeadlineReached,
}

/// Whether a reload has a canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CanaryChoice {
    /// As the settings say.
    AsSet,
    Off,
    With(Canary),
}

/// How a probe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeVerdict {
    Passed,
    Failed(ProbeFailure),
}

/// A number of slots, absolute or relative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    To(u32),
    Up(u32),
    Down(u32),
}

/// What can be done with the sockets of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressKind {
    /// TCP: a group of sockets, steered by a program.
    Steered,
    /// A Unix-domain path: a socket for each generation, cut over by rename.
    Path,
    /// One socket for everybody: UDP, abstract names. A new generation's answer is held until the cut-over.
    Single,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    Code(i32),
    Signal(i32),
    /// The process is gone and nobody could say how.
    Unknown,
}

portable_choice!(
    Event
    [DeadlineReached]
    {
        StartRequested { request },
        ReloadRequested { request, canary = CanaryChoice::AsSet },
        PromoteRequested { request },
        RollbackRequested { request },
        RestartRequested { request },
        ScaleRequested { request, to },
        PauseRequested { request },
        StopRequested { request },
        KillRequested { request },
        Prepared { generation, changed, is_cold = false, listen = Vec::new() },
        PrepareFailed { generation },
        Spawned { worker },
        Attached { worker },
        Preloaded { worker },
        OverMemory { worker },
        Drained { worker },
        SpawnFailed { worker },
        Asked { worker, ask, address, kind, covers = Vec::new() },
        AskedInVain { worker, ask, address },
        Listened { worker, address },
        Closed { worker, address },
        SaidReady { worker },
        Notified { worker },
        Probed { worker, verdict },
        Blocked { worker },
        Unblocked { worker },
        Counted { worker, answers, errors },
        FoundWrapper { worker },
        ChannelEnded { worker },
        Exited { worker, status },
        SettleChecked { worker, clear },
        Opened { socket, steered },
        OpenFailed { socket, errno },
        Steered { address },
        SteerFailed { address },
    }
);

portable_choice!(CanaryChoice [AsSet, Off] {} (With));

portable_choice!(ProbeVerdict [Passed] {} (Failed));

portable_choice!(Scale [] {} (To, Up, Down));

portable_choice!(AddressKind [Steered, Path, Single]);

portable_choice!(ExitStatus [Unknown] {} (Code, Signal));
