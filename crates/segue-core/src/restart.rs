//! A restart: once the new generation's release is resolved, every worker ends, then the app starts
//! afresh with it. Addresses stay open: clients that come in the gap wait.

use crate::action::Outcome;
use crate::app::{App, Phase};
use crate::cause::{Cause, Failure, Leaving};
use crate::datum::portable_record;
use crate::ids::{Generation, ReloadId, RequestId, SlotId, WorkerId};
use crate::notice::{Notice, ReloadStep};
use crate::reload::{Reload, Step};
use crate::slot::{Next, Slot};
use crate::start::Start;
use crate::time::Time;

/// The new start of a restart, until it is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Restart {
    pub(crate) reload: ReloadId,
    pub(crate) generation: Generation,
    /// It has failed if not all are ready by then.
    pub(crate) until: Time,
}

impl App {
    pub(crate) fn begin_emptying(&mut self) {
        self.enter_step(Step::Emptying);
        self.tell_step(ReloadStep::Emptying);
        for slot in self.slots.values_mut() {
            slot.occupant = None;
            slot.successor = None;
        }
        let ids: Vec<WorkerId> = self.workers.keys().copied().collect();
        for id in ids {
            self.leave(id, Leaving::Restart);
        }
    }

    pub(crate) fn is_emptying(&self) -> bool {
        self.reload
            .as_ref()
            .is_some_and(|reload| reload.step == Step::Emptying)
    }

    pub(crate) fn advance_emptying(&mut self) {
        // One that was killed is as good as gone.
        let is_left = self
            .workers
            .values()
            .any(|worker| worker.leaving() == Some(Leaving::Restart) && !worker.is_killed());
        if is_left {
            return;
        }
        let Some(Reload {
            id,
            request,
            generation,
            since,
            is_cold,
            ..
        }) = self.reload.take()
        else {
            return;
        };
        self.overtake_start(id);
        self.serve_from_now_on(generation);
        let slots: Vec<SlotId> = self.slots.keys().copied().collect();
        for slot in slots {
            self.slots.insert(slot, Slot::vacant(self.now));
        }
        if is_cold {
            self.send_pilot();
        }
        // Time for a first failure, and for another try.
        let until = self.now + self.settings.ready_timeout * 2 + self.settings.backoff_max;
        self.phase = Phase::Starting {
            start: Some(Start {
                request,
                since,
                restart: Some(Restart {
                    reload: id,
                    generation,
                    until,
                }),
            }),
            failure: None,
            was_ready: true,
        };
        self.has_moved = true;
    }

    /// The new start has failed for whoever asked for it; the app goes on trying.
    pub(crate) fn advance_restart(&mut self) {
        let Phase::Starting {
            start:
                Some(Start {
                    request,
                    restart: Some(Restart { reload, until, .. }),
                    ..
                }),
            failure,
            was_ready,
        } = self.phase
        else {
            return;
        };
        let is_given_up = |slot: &Slot| slot.respawn.next == Next::GivenUp;
        if self.now < until && !self.slots.values().any(is_given_up) {
            return;
        }
        let failure = failure.unwrap_or(Failure {
            worker: None,
            slot: None,
            cause: Cause::NeverListened {
                within: self.settings.ready_timeout,
            },
        });
        self.notify(Notice::ReloadFailed { reload, failure });
        self.reply(request, Outcome::ReloadFailed { reload, failure });
        self.phase = Phase::Starting {
            start: None,
            failure: None,
            was_ready,
        };
    }

    /// A reload was committed before the new start was over.
    pub(crate) fn overtake_restart(&mut self, by: ReloadId) {
        if let Phase::Starting { start, .. } = &mut self.phase
            && let Some(Start {
                request,
                restart: Some(Restart { reload, .. }),
                ..
            }) = *start
        {
            *start = None;
            self.supersede(reload, request, by);
        }
    }

    /// A start that is not over begins anew.
    fn overtake_start(&mut self, by: ReloadId) {
        self.overtake_restart(by);
        if let Phase::Starting { start, .. } = &mut self.phase
            && let Some(Start { request, .. }) = start.take()
        {
            self.reply(request, Outcome::Superseded { by });
        }
    }

    pub(crate) fn restarted(&mut self, request: RequestId, since: Time, restart: Restart) {
        let took = self.now.since(since);
        let Restart {
            reload, generation, ..
        } = restart;
        self.notify(Notice::ReloadCommitted {
            reload,
            generation,
            took,
        });
        self.reply(
            request,
            Outcome::Restarted {
                reload,
                generation,
                took,
            },
        );
    }

    pub(crate) fn restart_deadline(&self) -> Option<Time> {
        match self.phase {
            Phase::Starting {
                start:
                    Some(Start {
                        restart: Some(Restart { until, .. }),
                        ..
                    }),
                ..
            } => Some(until),
            _ => None,
        }
    }
}

portable_record!(Restart {
    reload,
    generation,
    until,
});
