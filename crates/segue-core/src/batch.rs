//! The batches of a reload: how many workers are replaced at once, when there is room for the
//! next ones, and how they take the slots of those that they replace.

use crate::app::{App, Phase as AppState};
use crate::cause::Leaving;
use crate::ids::SlotId;
use crate::notice::ReloadStep;
use crate::reload::Step;
use crate::slot::Respawn;

impl App {
    /// How many workers may be spawned at once in place of others.
    pub(crate) fn surge(&self) -> usize {
        self.settings.max_surge.resolve(self.slots.len())
    }

    /// There is room for `more` workers beside those that serve and those that leave. One that was
    /// killed is as good as gone.
    pub(crate) fn has_room(&self, more: usize) -> bool {
        let surge = self.surge();
        // Where everybody may be there twice, older generations may drain beside them.
        if surge >= self.slots.len() {
            return true;
        }
        let alive = self.workers.values().filter(|worker| !worker.is_killed());
        alive.count() + more <= self.slots.len() + surge
    }

    /// Boots the next workers, as many as are allowed at once.
    pub(crate) fn begin_batch(&mut self) {
        let surge = match self.phase {
            // Nobody serves whom more boots could hurt.
            AppState::Paused { .. } => self.slots.len(),
            _ => self.surge(),
        };
        let Some(reload) = &self.reload else {
            return;
        };
        let left: Vec<SlotId> = self
            .slots
            .iter()
            .filter(|(_, slot)| {
                slot.occupant
                    .is_none_or(|worker| !reload.joined.contains(&worker))
            })
            .map(|(id, _)| *id)
            .collect();
        let (size, of) = (left.len().min(surge), left.len());
        let is_waiting = reload.step == Step::Room;
        let is_paused = matches!(self.phase, AppState::Paused { .. });
        if !is_paused && !self.has_room(size) {
            if !is_waiting {
                self.enter_step(Step::Room);
            }
            return;
        }
        if let Some(reload) = &mut self.reload {
            reload.batch = left.into_iter().take(size).collect();
        }
        self.enter_step(Step::Booting);
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        self.tell_step(ReloadStep::Booting {
            workers: count(size),
            of: count(of),
        });
        self.boot_batch();
    }

    /// Spawns those of the batch that are still missing.
    pub(crate) fn boot_batch(&mut self) {
        let allowed = self.boots_allowed();
        let Some(reload) = &self.reload else {
            return;
        };
        let generation = reload.generation;
        let due: Vec<SlotId> = reload
            .batch
            .iter()
            .copied()
            .filter(|slot| !reload.incoming.contains_key(slot))
            .take(allowed)
            .collect();
        for slot in due {
            let worker = self.spawn(slot, generation);
            self.note_pilot(worker);
            if let Some(reload) = &mut self.reload {
                reload.incoming.insert(slot, worker);
            }
        }
    }

    /// The batch takes its slots; whoever had them leaves.
    pub(crate) fn join(&mut self) {
        self.take_slots();
        let Some(reload) = &self.reload else {
            return;
        };
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        self.tell_step(ReloadStep::Replacing {
            done: count(reload.joined.len()),
            of: count(self.slots.len()),
        });
        self.begin_batch();
    }

    pub(crate) fn take_slots(&mut self) {
        let Some(reload) = &mut self.reload else {
            return;
        };
        reload.batch.clear();
        let incoming = std::mem::take(&mut reload.incoming);
        reload.joined.extend(incoming.values().copied());
        for (slot, worker) in incoming {
            // What it asked for too late to be waited for.
            self.release_held(worker, None);
            let predecessor = self.slots.get_mut(&slot).and_then(|slot| {
                slot.respawn = Respawn::fresh(self.now);
                slot.replace_after = self.now;
                slot.occupant.replace(worker)
            });
            if let Some(predecessor) = predecessor {
                self.leave(predecessor, Leaving::Reload);
            }
        }
    }
}
