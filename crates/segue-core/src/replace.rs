//! Replacing one worker that still serves, because of its age or its memory: its successor boots
//! first, then the old one leaves like any other. One slot at a time, so that a limit that all
//! workers reach together does not double the app.

use std::time::Duration;

use crate::app::{App, Phase};
use crate::cause::Leaving;
use crate::ids::{SlotId, WorkerId};
use crate::slot::Next;
use crate::time::Time;
use crate::worker::Worker;

impl App {
    pub(crate) fn advance_replacements(&mut self) {
        self.promote_successors();
        if !self.may_replace() || self.slots.values().any(|slot| slot.successor.is_some()) {
            return;
        }
        let due = self
            .slots
            .iter()
            // A slot that keeps failing is not to be kept going this way.
            .filter(|(_, slot)| slot.respawn.next != Next::GivenUp)
            .filter(|(_, slot)| self.now >= slot.replace_after)
            .find(|(_, slot)| {
                let occupant = slot.occupant.and_then(|worker| self.workers.get(&worker));
                occupant.is_some_and(|worker| self.why_replaced(worker).is_some())
            })
            .map(|(slot, _)| *slot);
        if let Some(slot) = due {
            let successor = self.spawn(slot, self.serving);
            if let Some(slot) = self.slots.get_mut(&slot) {
                slot.successor = Some(successor);
            }
        }
    }

    /// A reload replaces everybody anyway.
    fn may_replace(&self) -> bool {
        self.phase == Phase::Running
            && self.reload.is_none()
            && self.waiting.is_none()
            && self.delayed_stop.is_none()
    }

    fn why_replaced(&self, worker: &Worker) -> Option<Leaving> {
        if !worker.is_ready() {
            None
        } else if worker.is_over_memory {
            Some(Leaving::OverMemory)
        } else if self
            .settings
            .max_age
            .is_some_and(|age| self.now >= worker.since + age)
        {
            Some(Leaving::Aged)
        } else {
            None
        }
    }

    /// A successor takes its place when it is ready, or at once when the place has become free.
    fn promote_successors(&mut self) {
        let ids: Vec<SlotId> = self.slots.keys().copied().collect();
        for id in ids {
            let Some(slot) = self.slots.get(&id) else {
                continue;
            };
            let Some(successor) = slot.successor else {
                continue;
            };
            let occupant = slot.occupant;
            let is_ready = self.workers.get(&successor).is_some_and(Worker::is_ready);
            if !is_ready && occupant.is_some() {
                continue;
            }
            // A worker that is over its limit again at once must not be replaced without end.
            let again = self.now + self.settings.backoff_max;
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.successor = None;
                slot.occupant = Some(successor);
                slot.replace_after = again;
            }
            let Some(old) = occupant else {
                continue;
            };
            let why = self
                .workers
                .get(&old)
                .and_then(|worker| self.why_replaced(worker));
            self.leave(old, why.unwrap_or(Leaving::Aged));
        }
    }

    /// A successor that failed costs nothing but a wait; true if it was one.
    pub(crate) fn successor_failed(&mut self, worker: WorkerId, slot: SlotId) -> bool {
        let retry = self.now + self.settings.backoff_max;
        match self.slots.get_mut(&slot) {
            Some(slot) if slot.successor == Some(worker) => {
                slot.successor = None;
                slot.replace_after = retry;
                true
            }
            Some(_) | None => false,
        }
    }

    /// Ends successors that are still booting: they are of no use any more.
    pub(crate) fn dismiss_successors(&mut self) {
        let successors: Vec<WorkerId> = self
            .slots
            .values_mut()
            .filter_map(|slot| slot.successor.take())
            .collect();
        for worker in successors {
            self.leave(worker, Leaving::NotNeeded);
        }
    }

    /// When the next worker reaches its greatest age, or may be tried to be replaced again.
    pub(crate) fn replacement_deadline(&self) -> Option<Time> {
        if !self.may_replace() || self.slots.values().any(|slot| slot.successor.is_some()) {
            return None;
        }
        let age: Option<Duration> = self.settings.max_age;
        self.slots
            .values()
            .filter(|slot| slot.respawn.next != Next::GivenUp)
            .filter_map(|slot| {
                let worker = self
                    .workers
                    .get(&slot.occupant?)
                    .filter(|worker| worker.is_ready())?;
                let due = match (worker.is_over_memory, age) {
                    (true, _) => Some(worker.since),
                    (false, Some(age)) => Some(worker.since + age),
                    (false, None) => None,
                };
                due.map(|due| due.max(slot.replace_after))
            })
            .min()
    }
}
