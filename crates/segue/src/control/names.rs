//! What the shell knows and the core does not: the names and measures behind its numbers.

use segue_core::{AddressId, Failure, Generation, SlotId, WorkerId};
use segue_wire::control as wire;

/// Names needed to tell people what happened in one app.
pub(crate) trait Names {
    /// The name of the app.
    fn app(&self) -> &str;
    /// The process of a worker, also for a while after its end.
    fn pid(&self, worker: WorkerId) -> Option<u32>;
    /// An address as people write it.
    fn address(&self, address: AddressId) -> String;
    /// The number of slots.
    fn workers(&self) -> u32;
    /// The worker's last lines on stderr, oldest first; also for a while after its end.
    fn tail(&self, worker: WorkerId) -> Vec<String>;
    /// What the system said: the error text of a spawn, a release or a steering that failed.
    fn detail(&self, failure: &Failure) -> Option<String>;
    /// What to do about it, where the shell knows better than the general text: for instance the
    /// command to write instead of a wrapper.
    fn advice(&self, failure: &Failure) -> Option<String>;
    /// Whether a worker ended for want of memory.
    fn out_of_memory(&self, worker: WorkerId) -> Option<OutOfMemory>;
    /// What a worker's drain has said last.
    fn draining(&self, worker: WorkerId) -> Option<wire::Draining>;
}

/// Measures needed for a status.
pub(crate) trait Measures: Names {
    /// What the process uses; `None` when it is gone.
    fn usage(&self, worker: WorkerId) -> Option<Usage>;
    /// Open connections of a worker, where they can be counted.
    fn connections(&self, worker: WorkerId) -> Option<u32>;
    /// Connections that wait to be accepted, in all queues of an address together.
    fn queued(&self, address: AddressId) -> Option<u32>;
    /// The directory that a generation is pinned to.
    fn release(&self, generation: Generation) -> Option<String>;
    /// What became of connections that no worker accepted.
    fn stragglers(&self) -> wire::Stragglers;
    /// How a worker lets its connections go, and what is to be said of that.
    fn drain(&self, worker: WorkerId) -> (wire::Drain, Option<String>);
    /// Where a worker listens on sockets of its own.
    fn bypasses(&self, worker: WorkerId) -> Vec<String>;
    /// What the release of a generation says about where it comes from.
    fn revision(&self, generation: Generation) -> Option<wire::Revision>;
    /// Why a worker leaves.
    fn leaves(&self, worker: WorkerId) -> Option<String>;
    /// The newest reload that has ended.
    fn last_reload(&self) -> Option<wire::ReloadRecord>;
    /// Restarts by cause.
    fn restarts(&self) -> Vec<wire::RestartCount>;
    /// The file that the app comes from.
    fn source(&self) -> Option<String>;
    /// Where the output of workers goes, if to a file.
    fn log(&self) -> Option<wire::Log>;
    /// The slot's last failure, as it was told.
    fn last_failure(&self, slot: SlotId) -> Option<wire::Failure>;
}

/// How a process ended for want of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OutOfMemory {
    /// The kernel killed it, at the limit of its cgroup or of the machine.
    Kernel,
    /// Node gave up at its own limit.
    Heap,
}

/// What a process uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Resident memory in bytes.
    pub(crate) memory: u64,
    /// Processor time since it began, in milliseconds.
    pub(crate) cpu_ms: u64,
    /// How long it has been there, in milliseconds.
    pub(crate) age_ms: u64,
}
