//! What the supervisor remembers for people: who a worker was, its last words, why things failed.
//! Bounded: the dead are forgotten in the order in which they died.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use segue_core::{AddressId, Cause, Failure, SlotId, WorkerId};
use segue_wire::control as wire;

/// So many dead workers are remembered.
const DEAD: usize = 256;

/// So many places beside our sockets are told of; a random port would be a new one each time.
const BYPASSES: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Records {
    dead: BTreeMap<WorkerId, Deceased>,
    order: VecDeque<WorkerId>,
    /// Why no process could be made.
    spawn_errors: BTreeMap<WorkerId, String>,
    /// Why the last release that could not be resolved could not.
    release_error: Option<String>,
    /// Who listens instead of a wrapper, or where a worker listens beside our sockets.
    listeners: BTreeMap<WorkerId, String>,
    steer_errors: BTreeMap<AddressId, String>,
    last_failures: BTreeMap<SlotId, wire::Failure>,
    bypasses: BTreeSet<String>,
}

/// What is left of a worker.
#[derive(Clone, Debug, Default)]
pub(super) struct Deceased {
    pub(super) pid: Option<u32>,
    pub(super) tail: Vec<String>,
}

impl Records {
    pub(super) fn bury(&mut self, worker: WorkerId, deceased: Deceased) {
        self.dead.insert(worker, deceased);
        self.order.push_back(worker);
        while self.order.len() > DEAD {
            if let Some(oldest) = self.order.pop_front() {
                self.dead.remove(&oldest);
                self.spawn_errors.remove(&oldest);
                self.listeners.remove(&oldest);
            }
        }
    }

    pub(super) fn deceased(&self, worker: WorkerId) -> Option<&Deceased> {
        self.dead.get(&worker)
    }

    pub(super) fn spawn_failed(&mut self, worker: WorkerId, why: String) {
        self.spawn_errors.insert(worker, why);
        self.bury(worker, Deceased::default());
    }

    /// Another process below the worker listens.
    pub(super) fn found_wrapper(&mut self, worker: WorkerId, pid: i32, address: SocketAddr) {
        self.listeners
            .insert(worker, format!("its child {pid} listens at {address}"));
    }

    pub(super) fn release_failed(&mut self, why: String) {
        self.release_error = Some(why);
    }

    pub(super) fn steer_failed(&mut self, address: AddressId, why: String) {
        self.steer_errors.insert(address, why);
    }

    /// A worker listens there on a socket of its own. True if that is news.
    pub(super) fn note_bypass(&mut self, worker: WorkerId, place: &str) -> bool {
        self.listeners
            .insert(worker, format!("it listens at {place}, out of reach"));
        self.bypasses.len() < BYPASSES && self.bypasses.insert(place.to_owned())
    }

    pub(super) fn failed(&mut self, slot: SlotId, failure: wire::Failure) {
        self.last_failures.insert(slot, failure);
    }

    pub(super) fn last_failure(&self, slot: SlotId) -> Option<&wire::Failure> {
        self.last_failures.get(&slot)
    }

    /// What the system said about a failure.
    pub(super) fn detail(&self, failure: &Failure) -> Option<String> {
        match failure.cause {
            Cause::SpawnFailed => self.spawn_errors.get(&failure.worker?).cloned(),
            Cause::Wrapper | Cause::NeverListened { .. } | Cause::NotListeningAt { .. } => {
                self.listeners.get(&failure.worker?).cloned()
            }
            Cause::PrepareFailed => self.release_error.clone(),
            Cause::SteerFailed { address } => self.steer_errors.get(&address).cloned(),
            Cause::ExitedBooting { .. }
            | Cause::ExitedReady { .. }
            | Cause::NeverSaidReady { .. }
            | Cause::ChannelLost => None,
        }
    }

    pub(super) fn forget_address(&mut self, address: AddressId) {
        self.steer_errors.remove(&address);
    }
}
