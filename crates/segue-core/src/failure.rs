//! What follows from the failure of a worker: for the reload that it belongs to, for the one that it
//! was to replace, or for its slot.

use std::time::Duration;

use crate::app::{App, Phase};
use crate::cause::{Cause, Failure, Leaving};
use crate::event::ExitStatus;
use crate::ids::{SlotId, WorkerId};
use crate::notice::Notice;
use crate::slot::{Respawn, Verdict};
use crate::time::Time;

impl App {
    /// A worker that should have stayed is no good (any more).
    pub(crate) fn fail(&mut self, worker: WorkerId, cause: Cause, leaving: Leaving) {
        let Some(found) = self.workers.get(&worker) else {
            return;
        };
        if !found.stays() {
            return;
        }
        let slot = found.slot;
        let served = found.is_ready().then(|| self.now.since(found.since));
        self.notify(Notice::WorkerFailed {
            worker,
            slot,
            cause,
        });
        self.leave(worker, leaving);
        self.account_failure(worker, slot, served, cause);
    }

    /// The process does not exist (any more).
    pub(crate) fn worker_gone(
        &mut self,
        worker: WorkerId,
        cause: impl Fn(Option<Duration>) -> Cause,
        status: ExitStatus,
        now: Time,
    ) {
        let Some(found) = self.workers.get(&worker) else {
            return;
        };
        let slot = found.slot;
        if found.stays() {
            let served = found.is_ready().then(|| now.since(found.since));
            let cause = cause(served);
            self.notify(Notice::WorkerFailed {
                worker,
                slot,
                cause,
            });
            self.forget_worker(worker);
            self.account_failure(worker, slot, served, cause);
        } else {
            self.notify(Notice::WorkerLeft {
                worker,
                slot,
                status,
            });
            self.forget_worker(worker);
        }
    }

    fn forget_worker(&mut self, worker: WorkerId) {
        self.workers.remove(&worker);
        self.newly_quiet.retain(|id| *id != worker);
        for address in self.addresses.values_mut() {
            address.release(worker);
            address.asks.retain(|ask| ask.worker != worker);
        }
    }

    fn account_failure(
        &mut self,
        worker: WorkerId,
        slot: SlotId,
        served: Option<Duration>,
        cause: Cause,
    ) {
        let failure = Failure {
            worker: Some(worker),
            slot: Some(slot),
            cause,
        };
        if self
            .reload
            .as_ref()
            .is_some_and(|reload| reload.is_new(worker))
        {
            self.fail_reload(failure);
            self.vacate(worker, slot);
            return;
        }
        if self.successor_failed(worker, slot) {
            return;
        }
        let is_occupant = self
            .slots
            .get(&slot)
            .is_some_and(|slot| slot.occupant == Some(worker));
        if !is_occupant {
            return;
        }
        if let Phase::Starting {
            failure: first,
            start,
            was_ready,
        } = &mut self.phase
            && (!*was_ready || start.is_some_and(|start| start.restart.is_some()))
        {
            // The others then fail because they all bind the port themselves.
            if cause == Cause::Wrapper {
                *first = Some(failure);
            } else {
                first.get_or_insert(failure);
            }
        }
        let settings = self.settings.clone();
        let Some(place) = self.slots.get_mut(&slot) else {
            return;
        };
        place.occupant = None;
        let verdict = place.respawn.fail(self.now, served, &settings);
        let restarts = place.respawn.restarts;
        if let Some(successor) = place.successor.take() {
            // Somebody is on the way already.
            place.occupant = Some(successor);
            return;
        }
        if !self.respawns() {
            return;
        }
        match verdict {
            Verdict::Respawn { wait } => {
                self.notify(Notice::RespawnDue {
                    slot,
                    wait,
                    restarts,
                });
            }
            Verdict::GiveUp => {
                let within = settings.intensity.within;
                self.notify(Notice::SlotGivenUp {
                    slot,
                    restarts,
                    within,
                });
            }
        }
    }

    /// A new worker that had taken the slot of an old one is gone: one of the old release comes.
    fn vacate(&mut self, worker: WorkerId, slot: SlotId) {
        let now = self.now;
        if let Some(place) = self.slots.get_mut(&slot)
            && place.occupant == Some(worker)
        {
            place.occupant = None;
            place.respawn = Respawn::fresh(now);
        }
    }
}
