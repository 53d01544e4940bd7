//! Requests for a new generation: which is carried out at once, which waits, which overtakes which.

use std::collections::{BTreeMap, BTreeSet};

use crate::action::{Action, Outcome, Refusal};
use crate::app::{App, Phase};
use crate::datum::portable_record;
use crate::event::CanaryChoice;
use crate::ids::{Generation, ReloadId, RequestId};
use crate::notice::Notice;
use crate::reload::{Purpose, Reload, Step};

/// What waits for its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) id: ReloadId,
    pub(crate) request: RequestId,
    pub(crate) purpose: Purpose,
    pub(crate) canary: CanaryChoice,
}

impl App {
    pub(crate) fn request_reload(&mut self, request: RequestId, canary: CanaryChoice) {
        self.request_generation(request, Purpose::Release, canary);
    }

    pub(crate) fn request_restart(&mut self, request: RequestId) {
        self.request_generation(request, Purpose::Restart, CanaryChoice::Off);
    }

    pub(crate) fn request_rollback(&mut self, request: RequestId) {
        if let Some(refusal) = self.refusal() {
            self.reply(request, Outcome::Refused(refusal));
            return;
        }
        if self.reload.is_some() && self.abandon_for(request) {
            // The newest request counts, and this is it.
            if let Some(overtaken) = self.waiting.take() {
                let by = self.next_reload_id();
                self.supersede(overtaken.id, overtaken.request, by);
            }
            return;
        }
        // After a restart that is under way, that is the one before it.
        let to = match &self.reload {
            Some(_) => Some(self.serving),
            None => self.previous,
        };
        match to {
            Some(to) => {
                self.request_generation(request, Purpose::Rollback { to }, CanaryChoice::Off);
            }
            None => self.reply(request, Outcome::Refused(Refusal::NothingToRollBackTo)),
        }
    }

    fn refusal(&self) -> Option<Refusal> {
        match self.phase {
            Phase::New => Some(Refusal::Starting),
            Phase::Stopping(_) | Phase::Finished => Some(Refusal::Stopping),
            Phase::Preparing { .. }
            | Phase::Starting { .. }
            | Phase::Running
            | Phase::Paused { .. } => self.delayed_stop.is_some().then_some(Refusal::Stopping),
        }
    }

    fn request_generation(&mut self, request: RequestId, purpose: Purpose, canary: CanaryChoice) {
        if let Some(refusal) = self.refusal() {
            self.reply(request, Outcome::Refused(refusal));
            return;
        }
        let id = self.next_reload_id();
        let waiting = Waiting {
            id,
            request,
            purpose,
            canary,
        };
        if let Some(overtaken) = self.waiting.replace(waiting) {
            self.supersede(overtaken.id, overtaken.request, id);
        }
        if self.reload.as_ref().is_some_and(Reload::can_be_abandoned)
            && let Some(abandoned) = self.abandon()
        {
            self.notify(Notice::ReloadSuperseded {
                reload: abandoned.id,
                by: id,
            });
            for request in abandoned.callers() {
                self.reply(request, Outcome::Superseded { by: id });
            }
        }
    }

    pub(crate) fn supersede(&mut self, reload: ReloadId, request: RequestId, by: ReloadId) {
        self.notify(Notice::ReloadSuperseded { reload, by });
        self.reply(request, Outcome::Superseded { by });
    }

    pub(crate) fn start_waiting_reload(&mut self) {
        let may_start = match self.phase {
            Phase::Starting { was_ready, .. } => was_ready,
            Phase::Running | Phase::Paused { .. } => true,
            Phase::New | Phase::Preparing { .. } | Phase::Stopping(_) | Phase::Finished => false,
        };
        if !may_start || self.reload.is_some() {
            return;
        }
        let Some(waiting) = self.waiting.take() else {
            return;
        };
        let like = match waiting.purpose {
            Purpose::Rollback { .. } => self.previous,
            Purpose::Release | Purpose::Restart => None,
        };
        self.dismiss_successors();
        self.last_generation += 1;
        let generation = Generation(self.last_generation);
        let canary = match (waiting.purpose, waiting.canary) {
            (Purpose::Release, CanaryChoice::AsSet) => self.settings.canary,
            (Purpose::Release, CanaryChoice::With(canary)) => Some(canary),
            (Purpose::Release, CanaryChoice::Off)
            | (Purpose::Rollback { .. } | Purpose::Restart, _) => None,
        };
        self.reload = Some(Reload {
            id: waiting.id,
            request: waiting.request,
            also: Vec::new(),
            purpose: like.map_or(waiting.purpose, |to| Purpose::Rollback { to }),
            generation,
            since: self.now,
            step: Step::Preparing {
                until: self.now + self.settings.ready_timeout,
            },
            step_since: self.now,
            batch: BTreeSet::new(),
            incoming: BTreeMap::new(),
            joined: BTreeSet::new(),
            is_changed: false,
            is_cold: false,
            canary,
            counts: BTreeMap::new(),
            promoted_by: Vec::new(),
        });
        self.notify(Notice::ReloadStarted {
            reload: waiting.id,
            generation,
        });
        self.order(Action::Prepare { generation, like });
    }
}

portable_record!(Waiting {
    id,
    request,
    purpose = Purpose::Release,
    canary = CanaryChoice::AsSet,
});
