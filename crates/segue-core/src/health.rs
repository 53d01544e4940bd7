//! Who among the ready workers is not well, and whether that is their own fault.
//!
//! A worker is *ailing* while its last probe failed or its event loop does not turn; it is *sick*
//! when that has lasted. A sick one is replaced, unless what fails it fails others too: when at
//! least half of all that are ready, and at least two, ail at once, or when its successor does
//! not pass the same probe, a new worker would do no better. Then nobody is replaced.

use std::time::Duration;

use crate::app::App;
use crate::cause::{Cause, Failure, Leaving};
use crate::datum::portable_record;
use crate::ids::WorkerId;
use crate::notice::Notice;
use crate::time::Time;
use crate::worker::Worker;

/// A worker of a generation that is not committed may be blocked for so long, if nothing is set.
const TRIAL_BLOCK: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Health {
    /// Somebody is sick, and too many ail for it to be their own fault.
    pub(crate) is_shared: bool,
    /// A successor could not do better: nobody is replaced before this.
    pub(crate) replace_after: Time,
}

impl App {
    pub(crate) fn blocked(&mut self, id: WorkerId) {
        let now = self.now;
        if let Some(worker) = self.workers.get_mut(&id)
            && worker.stays()
            && worker.blocked.is_none()
        {
            worker.blocked = Some(now);
            let slot = worker.slot;
            // Many a program does not let the loop turn while it loads.
            if worker.is_ready() {
                self.notify(Notice::WorkerBlocked { worker: id, slot });
            }
        }
    }

    pub(crate) fn unblocked(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id)
            && let Some(since) = worker.blocked.take()
        {
            let slot = worker.slot;
            let lasted = self.now.since(since);
            if worker.is_ready() {
                self.notify(Notice::WorkerUnblocked {
                    worker: id,
                    slot,
                    lasted,
                });
            }
        }
    }

    pub(crate) fn is_unhealthy(&self, worker: &Worker) -> bool {
        worker.is_ready() && worker.watch.failed >= self.settings.health.failures.max(1)
    }

    /// Why it should be replaced, if it is sick.
    pub(crate) fn sickness(&self, worker: &Worker) -> Option<Leaving> {
        if self.is_unhealthy(worker) && self.settings.health.interval.is_some() {
            return Some(Leaving::Unhealthy);
        }
        let limit = self.settings.health.unresponsive?;
        let is_over = worker
            .blocked
            .is_some_and(|since| self.now >= since + limit);
        (worker.is_ready() && is_over).then_some(Leaving::Unresponsive)
    }

    /// Finds out whether the workers share what ails them.
    pub(crate) fn advance_health(&mut self) {
        let ready: Vec<&Worker> = self
            .slots
            .values()
            .filter_map(|slot| self.workers.get(&slot.occupant?))
            .filter(|worker| worker.is_ready())
            .collect();
        let ails = |worker: &&&Worker| worker.watch.failed > 0 || worker.blocked.is_some();
        let of = u32::try_from(ready.len()).unwrap_or(u32::MAX);
        let failing = u32::try_from(ready.iter().filter(ails).count()).unwrap_or(u32::MAX);
        let are_many = failing >= 2 && failing.saturating_mul(2) >= of;
        let is_any_sick = ready.iter().any(|worker| self.sickness(worker).is_some());
        match self.health.is_shared {
            false if are_many && is_any_sick => {
                self.health.is_shared = true;
                self.notify(Notice::HealthShared { failing, of });
            }
            true if !are_many => {
                self.health.is_shared = false;
                // The others have yet to be asked again: who is still ill by then is so by itself.
                let interval = self.settings.health.interval.unwrap_or_default();
                let round = interval * (self.settings.health.failures.max(1) + 1);
                self.health.replace_after = self.health.replace_after.max(self.now + round);
                self.notify(Notice::HealthRecovered);
            }
            true | false => {}
        }
    }

    /// What is wrong with a worker that is ready and whose generation is not committed yet.
    pub(crate) fn fault_on_trial(&self) -> Option<Failure> {
        let reload = self.reload.as_ref()?;
        reload.new_workers().find_map(|id| {
            let worker = self.workers.get(&id).filter(|worker| worker.stays())?;
            let limit = self.trial_block();
            let cause = if worker.is_over_memory {
                Cause::OverMemory
            } else if !worker.is_ready() {
                return None;
            } else if self.is_unhealthy(worker)
                && let Some(failure) = worker.watch.failure
            {
                Cause::Unhealthy { failure }
            } else {
                // It may have been blocked since it loaded.
                let since = worker.blocked?.max(worker.since);
                let lasted = self.now.since(since);
                (lasted >= limit).then_some(Cause::Unresponsive { lasted })?
            };
            Some(Failure {
                worker: Some(id),
                slot: Some(worker.slot),
                cause,
            })
        })
    }

    /// What ails a worker right now, though it may pass.
    pub(crate) fn ailment(&self, worker: &Worker) -> Option<Cause> {
        if let (true, Some(failure)) = (worker.watch.failed > 0, worker.watch.failure) {
            return Some(Cause::Unhealthy { failure });
        }
        worker.blocked.map(|since| Cause::Unresponsive {
            lasted: self.now.since(since),
        })
    }

    fn trial_block(&self) -> Duration {
        self.settings.health.unresponsive.unwrap_or(TRIAL_BLOCK)
    }

    /// When a blocked worker has been so for too long.
    pub(crate) fn block_deadlines(&self) -> impl Iterator<Item = Time> + '_ {
        let trial = self.reload.iter().flat_map(|reload| reload.new_workers());
        let trial = trial.filter_map(|id| {
            let worker = self.workers.get(&id).filter(|worker| worker.is_ready())?;
            Some(worker.blocked?.max(worker.since) + self.trial_block())
        });
        let limit = self.settings.health.unresponsive;
        let others = self.workers.values().filter_map(move |worker| {
            let since = worker.blocked.filter(|_| worker.is_ready())?;
            limit.map(|limit| since + limit)
        });
        // What has come and leads to nothing now is looked at again with the next event.
        trial.chain(others).filter(|at| *at > self.now)
    }
}

portable_record!(Health {
    is_shared,
    replace_after,
});
