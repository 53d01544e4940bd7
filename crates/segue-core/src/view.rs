//! A read-only picture of an app, for `status` and tests.

use crate::ids::{AddressId, Generation, ReloadId, SlotId, SocketIndex, WorkerId};
use crate::time::Time;

/// One app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppView {
    pub phase: AppPhase,
    pub serving: Generation,
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
    /// Who gets new connections.
    pub set: Vec<SocketIndex>,
    /// Workers of the set that accept, in order.
    pub serving: Vec<WorkerId>,
    pub steered: bool,
    pub refusing: bool,
}
