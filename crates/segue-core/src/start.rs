//! The first start, which shows whether the app can run at all, and the number of slots.

use crate::action::{Action, Finish, Outcome, Refusal};
use crate::app::{App, Phase};
use crate::cause::{Cause, Failure, Leaving};
use crate::datum::portable_record;
use crate::event::Scale;
use crate::ids::{RequestId, SlotId};
use crate::notice::Notice;
use crate::restart::Restart;
use crate::settings::GiveUp;
use crate::slot::{Next, Slot};
use crate::stop::Stop;
use crate::time::Time;
use crate::worker::Worker;

/// No app may have more slots: two generations of sockets must fit into one group with room to spare.
pub const MAX_WORKERS: u32 = 1024;

/// The first start, until it is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) request: RequestId,
    pub(crate) since: Time,
    /// It is not the first one.
    pub(crate) restart: Option<Restart>,
}

impl App {
    pub(crate) fn start(&mut self, request: RequestId) {
        if self.phase != Phase::New {
            self.reply(request, Outcome::Refused(Refusal::Starting));
            return;
        }
        for slot in 0..self.settings.workers.clamp(1, MAX_WORKERS) {
            self.slots.insert(SlotId(slot), Slot::vacant(self.now));
        }
        let until = self.now + self.settings.ready_timeout;
        self.phase = Phase::Preparing {
            request,
            since: self.now,
            until,
        };
        self.order(Action::Prepare {
            generation: self.serving,
            like: None,
        });
    }

    pub(crate) fn started_preparing(&mut self, is_cold: bool, failed: bool) {
        let Phase::Preparing { request, since, .. } = self.phase else {
            return;
        };
        if failed {
            let failure = Failure {
                worker: None,
                slot: None,
                cause: Cause::PrepareFailed,
            };
            self.reply(request, Outcome::NeverStarted { failure });
            self.phase = Phase::Starting {
                start: None,
                failure: Some(failure),
                was_ready: false,
            };
            self.begin_stop(Stop::because(self.now, Finish::NeverStarted(failure)));
        } else {
            if is_cold {
                self.send_pilot();
            }
            let start = Some(Start {
                request,
                since,
                restart: None,
            });
            self.phase = Phase::Starting {
                start,
                failure: None,
                was_ready: false,
            };
        }
    }

    pub(crate) fn advance_start(
        &mut self,
        start: Option<Start>,
        failure: Option<Failure>,
        was_ready: bool,
    ) {
        let occupants = || {
            self.slots
                .values()
                .map(|slot| slot.occupant.and_then(|worker| self.workers.get(&worker)))
        };
        let is_any_ready = occupants().flatten().any(Worker::is_ready);
        let is_any_booting = occupants().flatten().any(Worker::is_booting);
        let are_all_ready = occupants().all(|worker| worker.is_some_and(Worker::is_ready));
        if are_all_ready {
            if let Some(Start {
                request,
                since,
                restart,
            }) = start
            {
                let took = self.now.since(since);
                let workers = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
                self.notify(Notice::AppReady { workers, took });
                match restart {
                    None => self.reply(request, Outcome::Started { took }),
                    Some(restart) => self.restarted(request, since, restart),
                }
            }
            self.phase = Phase::Running;
            return;
        }
        match failure {
            // All run the same command: where one is a wrapper, none will ever ask.
            Some(failure)
                if !is_any_ready
                    && !was_ready
                    && (!is_any_booting || failure.cause == Cause::Wrapper) =>
            {
                if let Some(Start { request, .. }) = start {
                    self.reply(request, Outcome::NeverStarted { failure });
                    self.phase = Phase::Starting {
                        start: None,
                        failure: Some(failure),
                        was_ready,
                    };
                }
                self.begin_stop(Stop::because(self.now, Finish::NeverStarted(failure)));
            }
            _ if is_any_ready && !was_ready => {
                self.phase = Phase::Starting {
                    start,
                    failure,
                    was_ready: true,
                };
                // Slots that failed before anybody was ready have waited for this.
                self.spawn_due();
            }
            _ => {
                self.advance_restart();
                self.advance_give_up();
            }
        }
    }

    pub(crate) fn advance_give_up(&mut self) {
        let is_given_up = self.reload.is_none()
            && self.waiting.is_none()
            && self
                .slots
                .values()
                .all(|slot| slot.occupant.is_none() && slot.respawn.next == Next::GivenUp);
        if is_given_up && self.settings.give_up == GiveUp::Exit {
            self.begin_stop(Stop::because(self.now, Finish::GivenUp));
        }
    }

    pub(crate) fn scale(&mut self, request: RequestId, to: Scale) {
        let from = u32::try_from(self.slots.len()).unwrap_or(MAX_WORKERS);
        let to = match to {
            Scale::To(workers) => workers,
            Scale::Up(by) => from.saturating_add(by),
            Scale::Down(by) => from.saturating_sub(by),
        };
        let refusal = match self.phase {
            Phase::New | Phase::Preparing { .. } => Some(Refusal::Starting),
            Phase::Stopping(_) | Phase::Finished => Some(Refusal::Stopping),
            Phase::Starting { .. } | Phase::Running | Phase::Paused { .. } => match to {
                _ if self.reload.is_some() => Some(Refusal::Reloading),
                0 => Some(Refusal::NoWorkers),
                to if to > MAX_WORKERS => Some(Refusal::TooMany),
                _ => None,
            },
        };
        if let Some(refusal) = refusal {
            self.reply(request, Outcome::Refused(refusal));
            return;
        }
        for slot in from..to {
            self.slots.insert(SlotId(slot), Slot::vacant(self.now));
        }
        for slot in to..from {
            let Some(slot) = self.slots.remove(&SlotId(slot)) else {
                continue;
            };
            if let Some(worker) = slot.successor {
                self.leave(worker, Leaving::NotNeeded);
            }
            if let Some(worker) = slot.occupant {
                self.leave(worker, Leaving::ScaledDown);
            }
        }
        if from != to {
            self.notify(Notice::Scaled { from, to });
        }
        self.reply(request, Outcome::Scaled { from, to });
    }
}

portable_record!(Start {
    request,
    since,
    restart,
});
