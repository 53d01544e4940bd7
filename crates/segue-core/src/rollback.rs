//! How a reload that is not committed ends: what served goes on serving.
//!
//! Before the new workers had connections they just end. Later the sets of all addresses turn back
//! at once, and the new ones finish what they have. Where an old worker is no longer there to take
//! its place back (it left with an earlier batch, or crashed), the new one keeps the slot as a
//! *leftover*, in reserve, until a worker of the old release is ready there (`replace`).

use crate::action::{Outcome, Refusal};
use crate::app::{App, Phase as AppState};
use crate::cause::{Cause, Failure, Leaving};
use crate::ids::{AddressId, Generation, RequestId};
use crate::notice::Notice;
use crate::reload::{Purpose, Reload, Step, nobody};
use crate::worker::Worker;

impl App {
    /// Ends the new workers; what serves is untouched, or serves again.
    pub(crate) fn abandon(&mut self) -> Option<Reload> {
        let reload = self.reload.take()?;
        self.stop_counting(&reload);
        let is_running = match self.phase {
            AppState::Starting { .. } | AppState::Running => true,
            AppState::New
            | AppState::Preparing { .. }
            | AppState::Paused { .. }
            | AppState::Stopping(_)
            | AppState::Finished => false,
        };
        let is_ready = |app: &Self, id| app.workers.get(&id).is_some_and(Worker::is_ready);
        for (slot, worker) in &reload.incoming {
            let (slot, worker) = (*slot, *worker);
            let is_public = reload.step.is_public() && is_ready(self, worker);
            if !is_public {
                self.leave(worker, Leaving::Abandoned);
                continue;
            }
            let occupant = self.slots.get(&slot).and_then(|slot| slot.occupant);
            if is_running
                && !occupant.is_some_and(|old| is_ready(self, old))
                && let Some(place) = self.slots.get_mut(&slot)
            {
                // Whoever boots there of the old release is to replace it.
                place.successor = place.occupant.replace(worker);
            } else {
                self.quiet(worker, Leaving::RolledBack);
            }
        }
        if matches!(reload.step, Step::Canary { .. } | Step::Flipping { .. }) {
            // The way back is not a retry: it is tried at once.
            for address in self.addresses.values_mut() {
                address.retry_at = None;
            }
        }
        self.pilot = None;
        self.leaving.push(reload.generation);
        Some(reload)
    }

    pub(crate) fn fail_reload(&mut self, failure: Failure) {
        if let Some(reload) = self.abandon() {
            let id = reload.id;
            self.notify(Notice::ReloadFailed {
                reload: id,
                failure,
            });
            for request in reload.callers().chain(reload.promoted_by.iter().copied()) {
                let reload = id;
                self.reply(request, Outcome::ReloadFailed { reload, failure });
            }
        }
    }

    /// Ends the trial of the new generation: it has won.
    pub(crate) fn request_promote(&mut self, request: RequestId) {
        match &mut self.reload {
            Some(reload)
                if reload.purpose == Purpose::Release
                    && (reload.step.is_public() || !reload.joined.is_empty()) =>
            {
                reload.promoted_by.push(request);
            }
            Some(_) | None => {
                self.reply(request, Outcome::Refused(Refusal::NothingToPromote));
            }
        }
    }

    /// Abandons the reload that is under way; true if there was one that can be.
    pub(crate) fn abandon_for(&mut self, request: RequestId) -> bool {
        match &mut self.reload {
            Some(reload) => match reload.purpose {
                Purpose::Release => {}
                Purpose::Restart if reload.can_be_abandoned() => {}
                // That is what is wanted.
                Purpose::Rollback { .. } => {
                    reload.also.push(request);
                    return true;
                }
                Purpose::Restart => return false,
            },
            None => return false,
        }
        let of = self.reload.as_ref().map(|reload| reload.id);
        self.fail_reload(nobody(Cause::RolledBack));
        if let Some(of) = of {
            let generation = self.serving;
            self.reply(request, Outcome::Abandoned { of, generation });
        }
        true
    }

    pub(crate) fn steer_failed(&mut self, id: AddressId) {
        let now = self.now;
        if let Some(address) = self.addresses.get_mut(&id) {
            address.steer_failed(now);
        }
        let is_cutting_over = self.reload.as_ref().is_some_and(|reload| {
            matches!(reload.step, Step::Canary { .. } | Step::Flipping { .. })
        });
        if is_cutting_over {
            self.fail_reload(nobody(Cause::SteerFailed { address: id }));
        }
    }

    /// This generation serves, and the one before can be had back.
    pub(crate) fn serve_from_now_on(&mut self, generation: Generation) {
        let old = std::mem::replace(&mut self.serving, generation);
        self.leaving.push(old);
        let oldest = self.previous.replace(old);
        // Its last worker may be gone for long; it was kept only to be had back.
        if let Some(generation) = oldest
            && generation != old
            && !self.leaving.contains(&generation)
        {
            self.forget(generation);
        }
    }
}
