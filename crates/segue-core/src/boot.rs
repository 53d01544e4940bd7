//! Boots: when a worker is ready, what keeps it from being, and who boots first where a compile
//! cache is to be filled.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::action::Action;
use crate::app::{App, Phase as AppState};
use crate::cause::{Cause, Leaving, ProbeFailure};
use crate::datum::portable_record;
use crate::ids::{AddressId, SlotId, WorkerId};
use crate::notice::Notice;
use crate::time::Time;
use crate::worker::{Phase, Worker};

/// A booting worker that cannot get ready because an answer is held gets it after this.
pub(crate) const HOLD_LIMIT: Duration = Duration::from_secs(1);

/// The others do not wait for longer than this for the first one to fill the cache.
const HEAD_START: Duration = Duration::from_secs(10);

/// The worker that boots before the others, to fill the compile cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pilot {
    /// None while it has not been spawned.
    pub(crate) worker: Option<WorkerId>,
    pub(crate) until: Time,
}

impl App {
    pub(crate) fn send_pilot(&mut self) {
        let head_start = HEAD_START.min(self.settings.ready_timeout / 2);
        self.pilot = Some(Pilot {
            worker: None,
            until: self.now + head_start,
        });
    }

    /// The others wait: the first one boots and its head start is not over.
    pub(crate) fn is_pilot_ahead(&self) -> bool {
        self.pilot.is_some_and(|pilot| {
            self.now < pilot.until
                && pilot
                    .worker
                    .is_some_and(|id| self.workers.get(&id).is_some_and(Worker::is_booting))
        })
    }

    /// When the head start ends.
    pub(crate) fn pilot_deadline(&self) -> Option<Time> {
        self.is_pilot_ahead().then_some(())?;
        self.pilot.map(|pilot| pilot.until)
    }

    /// So many of those that wait may be spawned now; the first one becomes the pilot.
    pub(crate) fn boots_allowed(&self) -> usize {
        match self.pilot {
            Some(Pilot { worker: None, .. }) => 1,
            Some(_) if self.is_pilot_ahead() => 0,
            Some(_) | None => usize::MAX,
        }
    }

    pub(crate) fn note_pilot(&mut self, id: WorkerId) {
        if let Some(pilot) = &mut self.pilot
            && pilot.worker.is_none()
        {
            pilot.worker = Some(id);
        }
    }

    /// Booting workers become ready, or run out of time.
    pub(crate) fn advance_boots(&mut self) {
        let pilot = self.pilot.and_then(|pilot| pilot.worker);
        if pilot.is_some() && !self.is_pilot_ahead() {
            self.pilot = None;
            self.has_moved = true;
        }
        let booting: Vec<WorkerId> = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.is_booting())
            .map(|(id, _)| *id)
            .collect();
        for id in booting {
            let missing = self.missing(id);
            let Some(worker) = self.workers.get_mut(&id) else {
                continue;
            };
            let Phase::Booting { until } = worker.phase else {
                continue;
            };
            let slot = worker.slot;
            let Some(cause) = missing else {
                let took = self.now.since(worker.since);
                worker.enter(self.now, Phase::Ready);
                // From now on it is probed at another interval.
                worker.watch.probing = crate::probe::Probing::Idle;
                self.order(Action::BootDone { worker: id });
                self.notify(Notice::WorkerReady {
                    worker: id,
                    slot,
                    took,
                });
                continue;
            };
            if self.now >= until {
                self.fail(id, cause, Leaving::NotReady);
            } else {
                self.release_held(id, Some(HOLD_LIMIT));
            }
        }
    }

    /// Answers what was held back from a worker, if it was for at least so long.
    pub(crate) fn release_held(&mut self, id: WorkerId, at_least: Option<Duration>) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let is_due = |since: Time| at_least.is_none_or(|wait| now >= since + wait);
        let due: Vec<_> = worker
            .held
            .iter()
            .copied()
            .filter(|held| is_due(held.since))
            .collect();
        worker.held.retain(|held| !is_due(held.since));
        for held in due {
            if at_least.is_some() {
                self.notify(Notice::HeldReleased {
                    worker: id,
                    address: held.address,
                });
            }
            self.requeue_released(id, held);
        }
    }

    /// What keeps a booting worker from being ready, as it would be told if its time were over. Of
    /// one that was ready, what it has lost.
    pub(crate) fn missing(&self, id: WorkerId) -> Option<Cause> {
        self.missing_besides_probe(id).or_else(|| {
            let worker = self.workers.get(&id)?;
            let is_missing = worker.is_booting() && self.must_pass(id) && !self.has_passed(worker);
            is_missing.then_some(Cause::ProbeFailed {
                failure: worker.watch.failure.unwrap_or(ProbeFailure::TimedOut),
                within: self.settings.ready_timeout,
            })
        })
    }

    pub(crate) fn missing_besides_probe(&self, id: WorkerId) -> Option<Cause> {
        let worker = self.workers.get(&id)?;
        let within = self.settings.ready_timeout;
        let rules = self.settings.ready;
        let listens = !worker.listens.is_empty() || !worker.held.is_empty();
        let own_rules = [
            (!worker.is_spawned, Cause::SpawnFailed),
            (
                (rules.listening || self.must_pass(id)) && !listens,
                Cause::NeverListened { within },
            ),
            (
                rules.message && !worker.said_ready,
                Cause::NeverSaidReady { within },
            ),
            (
                rules.notify && !worker.is_notified,
                Cause::NeverNotified { within },
            ),
        ];
        let has = |wanted: &AddressId| {
            let held = worker.held.iter().map(|held| &held.address);
            worker.listens.iter().chain(held).any(|address| {
                let known = self.addresses.get(address);
                address == wanted || known.is_some_and(|known| known.covers.contains(wanted))
            })
        };
        own_rules
            .into_iter()
            .find(|(is_missing, _)| *is_missing)
            .map(|(_, cause)| cause)
            .or_else(|| {
                let wanted = match rules.listening || rules.probe {
                    true => self.wanted.get(&worker.generation),
                    false => None,
                };
                let mut required = self.required(id, worker);
                required.extend(wanted.into_iter().flatten());
                required
                    .into_iter()
                    .find(|address| !has(address))
                    .map(|address| Cause::NotListeningAt { address, within })
            })
    }

    /// Whether it boots to take a place that another one holds.
    pub(crate) fn succeeds(&self, id: WorkerId) -> bool {
        self.workers.get(&id).is_some_and(|worker| {
            self.slots
                .get(&worker.slot)
                .is_some_and(|slot| slot.successor == Some(id))
        })
    }

    /// Where a new worker must listen: where its slot's worker does now; if there is none that is
    /// ready, where all that are ready do. In a paused app, where they did before.
    fn required(&self, id: WorkerId, worker: &Worker) -> BTreeSet<AddressId> {
        if let Some(slot) = self.slots.get(&worker.slot)
            && slot.successor == Some(id)
        {
            let predecessor = slot.occupant.and_then(|worker| self.workers.get(&worker));
            return predecessor
                // Another release may have listened elsewhere.
                .filter(|predecessor| predecessor.generation == worker.generation)
                .map(|worker| worker.listens.clone())
                .unwrap_or_default();
        }
        let Some(reload) = self.reload.as_ref() else {
            return BTreeSet::new();
        };
        if worker.generation != reload.generation || reload.is_changed {
            return BTreeSet::new();
        }
        let listens = |slot: &SlotId| match &self.phase {
            AppState::Paused { listened } => listened.get(slot),
            _ => {
                let occupant = self.slots.get(slot)?.occupant?;
                let worker = self.workers.get(&occupant)?;
                (worker.is_ready() && worker.generation == self.serving).then_some(&worker.listens)
            }
        };
        if let Some(listened) = listens(&worker.slot) {
            return listened.clone();
        }
        self.slots
            .keys()
            .filter_map(listens)
            .cloned()
            .reduce(|all, one| all.intersection(&one).copied().collect())
            .unwrap_or_default()
    }
}

portable_record!(Pilot { worker, until });
