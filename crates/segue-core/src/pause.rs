//! A pause: every worker drains, addresses stay open, and clients wait in their queues until a
//! reload brings a new generation.

use std::collections::BTreeMap;

use crate::action::{Outcome, Refusal};
use crate::app::{App, Phase};
use crate::cause::Leaving;
use crate::ids::{RequestId, WorkerId};
use crate::notice::Notice;
use crate::slot::Slot;

impl App {
    pub(crate) fn request_pause(&mut self, request: RequestId) {
        let refusal = match self.phase {
            _ if self.delayed_stop.is_some() => Some(Refusal::Stopping),
            Phase::Stopping(_) | Phase::Finished => Some(Refusal::Stopping),
            _ if self.reload.is_some() || self.waiting.is_some() => Some(Refusal::Reloading),
            Phase::New | Phase::Preparing { .. } | Phase::Starting { .. } => {
                Some(Refusal::Starting)
            }
            Phase::Running | Phase::Paused { .. } => None,
        };
        if let Some(refusal) = refusal {
            self.reply(request, Outcome::Refused(refusal));
            return;
        }
        if self.phase == Phase::Running {
            self.pause();
        }
        self.reply(request, Outcome::Paused);
    }

    fn pause(&mut self) {
        let mut listened = BTreeMap::new();
        for (id, slot) in &mut self.slots {
            let occupant = slot.occupant.and_then(|worker| self.workers.get(&worker));
            if let Some(worker) = occupant.filter(|worker| worker.is_ready()) {
                listened.insert(*id, worker.listens.clone());
            }
            // Its failures were those of a generation that is over.
            *slot = Slot::vacant(self.now);
        }
        self.phase = Phase::Paused { listened };
        self.notify(Notice::Paused);
        let ids: Vec<WorkerId> = self.workers.keys().copied().collect();
        for id in ids {
            self.leave(id, Leaving::Pause);
        }
    }
}
