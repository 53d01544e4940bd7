//! A read-only picture of an app, for `status` and tests.

use crate::cause::ProbeFailure;
use crate::ids::{AddressId, Generation, ReloadId, SlotId, SocketIndex, WorkerId};
use crate::notice::ReloadStep;
use crate::time::Time;

/// One app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppView {
    pub phase: AppPhase,
    pub serving: Generation,
    /// The generation that served before and can be had back.
    pub previous: Option<Generation>,
    /// Workers fail at once for a cause that is none of theirs: nobody is replaced.
    pub is_health_shared: bool,
    pub reload: Option<ReloadView>,
    pub slots: Vec<SlotView>,
    pub workers: Vec<WorkerView>,
    pub addresses: Vec<AddressView>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppPhase {
    /// No worker has been ready yet.
    Starting,
    Running,
    /// No worker serves; clients wait for the next reload.
    Paused,
    Stopping,
    Finished,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReloadView {
    pub reload: ReloadId,
    pub generation: Generation,
    pub since: Time,
    pub step: ReloadStep,
    /// When the step began.
    pub step_since: Time,
    /// When the step ends by itself.
    pub until: Option<Time>,
    /// While there is a canary.
    pub canary: Option<CanaryView>,
}

/// A canary and what it has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CanaryView {
    pub percent: u8,
    pub until: Time,
    pub new: SideView,
    pub old: SideView,
}

/// What the workers of one generation have answered while the canary ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SideView {
    pub answers: u64,
    pub errors: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotView {
    pub slot: SlotId,
    /// The worker that serves, or will.
    pub worker: Option<WorkerId>,
    /// Respawns since the last reload.
    pub restarts: u32,
    pub given_up: bool,
    /// When the next worker is spawned, if one is awaited.
    pub respawn_at: Option<Time>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerView {
    pub worker: WorkerId,
    pub slot: SlotId,
    pub generation: Generation,
    pub phase: WorkerPhase,
    /// When this phase began.
    pub since: Time,
    /// When this phase ends by force.
    pub until: Option<Time>,
    /// Since when its event loop does not turn.
    pub blocked_since: Option<Time>,
    /// It failed its last probe like this.
    pub failing: Option<ProbeFailure>,
    /// So often in a row that it is unhealthy.
    pub is_unhealthy: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WorkerPhase {
    Booting,
    Ready,
    /// Gets no new connections, still accepts those on their way.
    Quiet,
    /// Finishes what is open.
    Draining,
    /// Was told to end.
    Stopping,
    /// Was killed.
    Killed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressView {
    pub address: AddressId,
    pub sockets: u16,
    /// Who gets new connections, with weights.
    pub set: Vec<(SocketIndex, u32)>,
    /// Workers of the set that accept, in order.
    pub serving: Vec<WorkerId>,
    pub steered: bool,
    pub refusing: bool,
}
