//! Replacing single workers that still serve: its successor boots first, then the old one leaves
//! like any other.
//!
//! For its age or its memory one slot at a time, so that a limit that all reach together does not
//! double the app. For its health, or because its generation was rolled back, as many as `max_surge`.

use crate::app::{App, Phase};
use crate::cause::Leaving;
use crate::ids::{SlotId, WorkerId};
use crate::slot::{Next, Slot};
use crate::time::Time;
use crate::worker::Worker;

impl App {
    pub(crate) fn advance_replacements(&mut self) {
        self.promote_successors();
        if !self.may_replace() {
            return;
        }
        let mut under_way = self.successors();
        let mut due: Vec<(SlotId, Leaving)> = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.successor.is_none() && self.now >= slot.replace_after)
            .filter_map(|(id, slot)| Some((*id, self.why_replaced(slot)?)))
            .collect();
        // Whoever reaches an age again and again must not keep the room from those who need it.
        due.sort_by_key(|(slot, why)| {
            let need = match why {
                Leaving::RolledBack => 0,
                Leaving::Unhealthy | Leaving::Unresponsive => 1,
                _ => 2,
            };
            // Among equals, who was tried last waits.
            (need, self.slots.get(slot).map(|slot| slot.replace_after))
        });
        for (slot, why) in due {
            let (limit, is_pressing) = match why {
                Leaving::RolledBack => (self.surge(), true),
                Leaving::Unhealthy | Leaving::Unresponsive => {
                    (self.surge(), self.now >= self.health.replace_after)
                }
                _ => (1, true),
            };
            if !is_pressing || under_way >= limit || !self.has_room(1) {
                continue;
            }
            under_way += 1;
            let successor = self.spawn(slot, self.serving);
            if let Some(slot) = self.slots.get_mut(&slot) {
                slot.successor = Some(successor);
            }
        }
    }

    fn successors(&self) -> usize {
        let successors = self.slots.values().filter(|slot| slot.successor.is_some());
        successors.count()
    }

    /// A reload replaces everybody anyway.
    fn may_replace(&self) -> bool {
        let is_up = match self.phase {
            Phase::Running => true,
            Phase::Starting { was_ready, .. } => was_ready,
            Phase::New
            | Phase::Preparing { .. }
            | Phase::Paused { .. }
            | Phase::Stopping(_)
            | Phase::Finished => false,
        };
        is_up && self.reload.is_none() && self.waiting.is_none() && self.delayed_stop.is_none()
    }

    /// Why the worker of a slot should be replaced, if it should.
    fn why_replaced(&self, slot: &Slot) -> Option<Leaving> {
        let id = slot.occupant?;
        let worker = self.workers.get(&id).filter(|worker| worker.is_ready())?;
        if self.is_leftover(id) {
            return Some(Leaving::RolledBack);
        }
        // A slot that keeps failing is not to be kept going this way.
        if slot.respawn.next == Next::GivenUp {
            return None;
        }
        if worker.is_over_memory {
            return Some(Leaving::OverMemory);
        }
        let sickness = self.sickness(worker).filter(|_| !self.health.is_shared);
        let age = self.settings.max_age;
        let is_aged = age.is_some_and(|age| self.now >= worker.since + age);
        sickness.or(is_aged.then_some(Leaving::Aged))
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
            let why = self.why_replaced(slot);
            let (Some(old), Some(why)) = (occupant, why) else {
                // The place is free, or whoever holds it is well again.
                let kept = occupant.is_some();
                if let Some(slot) = self.slots.get_mut(&id) {
                    slot.successor = None;
                    slot.occupant = slot.occupant.or(Some(successor));
                }
                if kept {
                    self.leave(successor, Leaving::NotNeeded);
                }
                continue;
            };
            if !self.workers.get(&successor).is_some_and(Worker::is_ready) {
                continue;
            }
            // A worker that is over its limit again at once must not be replaced without end.
            let again = self.now + self.settings.backoff_max;
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.successor = None;
                slot.occupant = Some(successor);
                slot.replace_after = again;
            }
            self.leave(old, why);
        }
    }

    /// A successor that failed costs nothing but a wait; true if it was one.
    pub(crate) fn successor_failed(&mut self, worker: WorkerId, slot: SlotId) -> bool {
        let retry = self.now + self.settings.backoff_max;
        let Some(found) = self.slots.get(&slot) else {
            return false;
        };
        if found.successor != Some(worker) {
            return false;
        }
        let why = self.why_replaced(found);
        if let Some(slot) = self.slots.get_mut(&slot) {
            slot.successor = None;
            slot.replace_after = retry;
        }
        // It does no better: whatever it is, it is not the fault of the one it was to replace.
        if matches!(why, Some(Leaving::Unhealthy | Leaving::Unresponsive)) {
            self.health.replace_after = retry;
        }
        true
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
        if !self.may_replace() {
            return None;
        }
        let slots = self.slots.values().filter(|slot| slot.successor.is_none());
        let due = slots.flat_map(|slot| {
            let again = self.why_replaced(slot).map(|why| match why {
                Leaving::Unhealthy | Leaving::Unresponsive => {
                    slot.replace_after.max(self.health.replace_after)
                }
                _ => slot.replace_after,
            });
            let worker = slot.occupant.and_then(|id| self.workers.get(&id));
            let aged = worker
                .filter(|worker| worker.is_ready())
                .and_then(|worker| {
                    let age = self.settings.max_age?;
                    Some(worker.since + age)
                });
            again.into_iter().chain(aged)
        });
        // Whoever is due and waits for another one is looked at again with that one's end.
        due.filter(|at| *at > self.now).min()
    }
}
