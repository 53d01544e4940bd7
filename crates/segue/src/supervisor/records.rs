//! What the supervisor remembers for people: who a worker was, its last words, why things failed.
//! Bounded: the dead are forgotten in the order in which they died. Successors remember the same.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use segue_core::{AddressId, Cause, Failure, Generation, SlotId, WorkerId};
use segue_wire::control as wire;
use serde::{Deserialize, Serialize};

use crate::control::names::OutOfMemory;
use crate::handoff::{InheritError, Inherited, Journal};

/// So many dead workers are remembered.
const DEAD: usize = 64;

/// Where they are written down, and the rest.
const DEAD_PREFIX: &str = "dead/";
const NOTES: &str = "records";

/// So many places beside our sockets are told of; a random port would be a new one each time.
const BYPASSES: usize = 16;

#[derive(Debug)]
pub(super) struct Records {
    journal: Journal,
    dead: BTreeMap<WorkerId, Deceased>,
    order: VecDeque<WorkerId>,
    /// Why no process could be made.
    spawn_errors: BTreeMap<WorkerId, String>,
    /// Who listens instead of a wrapper, or where a worker listens beside our sockets.
    listeners: BTreeMap<WorkerId, String>,
    steer_errors: BTreeMap<AddressId, String>,
    /// What was said of the last probe that failed.
    probe_errors: BTreeMap<WorkerId, String>,
    notes: Notes,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Notes {
    /// Why the last release that could not be resolved could not.
    release_error: Option<String>,
    /// By slot.
    last_failures: BTreeMap<u32, wire::Failure>,
    bypasses: BTreeSet<String>,
    /// Why workers leave, until they are gone.
    leaving: BTreeMap<u32, String>,
}

/// What is left of a worker.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Deceased {
    pub(super) pid: Option<u32>,
    pub(super) tail: Vec<String>,
    #[serde(default)]
    pub(super) generation: Option<u32>,
    #[serde(default)]
    pub(super) out_of_memory: Option<OutOfMemory>,
}

impl Records {
    pub(super) fn new(journal: Journal) -> Self {
        Self {
            journal,
            dead: BTreeMap::new(),
            order: VecDeque::new(),
            spawn_errors: BTreeMap::new(),
            listeners: BTreeMap::new(),
            steer_errors: BTreeMap::new(),
            probe_errors: BTreeMap::new(),
            notes: Notes::default(),
        }
    }

    /// Those of a predecessor.
    ///
    /// # Errors
    /// Something is of another kind.
    pub(super) fn restore(journal: Journal, inherited: &Inherited) -> Result<Self, InheritError> {
        let mut records = Self::new(journal);
        let prefix = records.journal.full(DEAD_PREFIX);
        for (rest, deceased) in inherited.values::<Deceased>(&prefix)? {
            let worker = rest
                .parse()
                .map_err(|error| InheritError::value(&format!("{prefix}{rest}"), error))?;
            records.dead.insert(WorkerId(worker), deceased);
        }
        records.order = records.dead.keys().copied().collect();
        let notes = inherited.value(&records.journal.full(NOTES))?;
        records.notes = notes.unwrap_or_default();
        Ok(records)
    }

    fn note(&self) {
        self.journal.put(NOTES, &self.notes);
    }

    pub(super) fn bury(&mut self, worker: WorkerId, deceased: Deceased) {
        self.journal
            .put(&format!("{DEAD_PREFIX}{}", worker.0), &deceased);
        if self.notes.leaving.remove(&worker.0).is_some() {
            self.note();
        }
        self.dead.insert(worker, deceased);
        self.order.push_back(worker);
        while self.order.len() > DEAD {
            if let Some(oldest) = self.order.pop_front() {
                self.journal.drop(&format!("{DEAD_PREFIX}{}", oldest.0));
                self.dead.remove(&oldest);
                self.spawn_errors.remove(&oldest);
                self.listeners.remove(&oldest);
                self.probe_errors.remove(&oldest);
            }
        }
    }

    pub(super) fn deceased(&self, worker: WorkerId) -> Option<&Deceased> {
        self.dead.get(&worker)
    }

    pub(super) fn spawn_failed(&mut self, worker: WorkerId, generation: Generation, why: String) {
        self.spawn_errors.insert(worker, why);
        let generation = Some(generation.0);
        self.bury(
            worker,
            Deceased {
                generation,
                ..Deceased::default()
            },
        );
    }

    pub(super) fn leaves(&mut self, worker: WorkerId, why: &str) {
        self.notes.leaving.insert(worker.0, why.to_owned());
        self.note();
    }

    pub(super) fn why_leaving(&self, worker: WorkerId) -> Option<&String> {
        self.notes.leaving.get(&worker.0)
    }

    /// Another process below the worker listens.
    pub(super) fn found_wrapper(&mut self, worker: WorkerId, pid: i32, address: SocketAddr) {
        self.listeners
            .insert(worker, format!("its child {pid} listens at {address}"));
    }

    pub(super) fn release_failed(&mut self, why: String) {
        self.notes.release_error = Some(why);
        self.note();
    }

    pub(super) fn steer_failed(&mut self, address: AddressId, why: String) {
        self.steer_errors.insert(address, why);
    }

    pub(super) fn probe_failed(&mut self, worker: WorkerId, why: Option<String>) {
        match why {
            Some(why) => self.probe_errors.insert(worker, why),
            None => self.probe_errors.remove(&worker),
        };
    }

    /// A worker listens there on a socket of its own. True if that is news.
    pub(super) fn note_bypass(&mut self, worker: WorkerId, place: &str) -> bool {
        self.listeners
            .insert(worker, format!("it listens at {place}, out of reach"));
        let bypasses = &mut self.notes.bypasses;
        let is_news = bypasses.len() < BYPASSES && bypasses.insert(place.to_owned());
        self.note();
        is_news
    }

    pub(super) fn failed(&mut self, slot: SlotId, failure: wire::Failure) {
        self.notes.last_failures.insert(slot.0, failure);
        self.note();
    }

    pub(super) fn last_failure(&self, slot: SlotId) -> Option<&wire::Failure> {
        self.notes.last_failures.get(&slot.0)
    }

    /// What the system said about a failure.
    pub(super) fn detail(&self, failure: &Failure) -> Option<String> {
        match failure.cause {
            Cause::SpawnFailed => self.spawn_errors.get(&failure.worker?).cloned(),
            Cause::Wrapper | Cause::NeverListened { .. } | Cause::NotListeningAt { .. } => {
                self.listeners.get(&failure.worker?).cloned()
            }
            Cause::ProbeFailed { .. } | Cause::Unhealthy { .. } => {
                self.probe_errors.get(&failure.worker?).cloned()
            }
            Cause::PrepareFailed => self.notes.release_error.clone(),
            Cause::SteerFailed { address } => self.steer_errors.get(&address).cloned(),
            Cause::ExitedBooting { .. }
            | Cause::ExitedReady { .. }
            | Cause::NeverSaidReady { .. }
            | Cause::NeverNotified { .. }
            | Cause::Unresponsive { .. }
            | Cause::OverMemory
            | Cause::CanaryErrors { .. }
            | Cause::RolledBack
            | Cause::ChannelLost => None,
        }
    }

    pub(super) fn forget_address(&mut self, address: AddressId) {
        self.steer_errors.remove(&address);
    }
}
