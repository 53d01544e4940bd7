//! Reload: a transaction that replaces every worker with a new generation, or changes nothing.
//!
//! ```text
//!   Preparing ──▶ Booting ──▶ Opening ──▶ Flipping ──▶ committed
//!       │            │           │            │
//!       └────────────┴───────────┴────────────┴──▶ failed: the new workers end, the old serve
//! ```
//! *Booting* lasts until every new worker is ready and has lived for `min_uptime`, without one
//! connection. *Opening* answers what was held back because it cannot be steered. *Flipping*
//! changes the set of every address; one refusal undoes them all.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::action::{Action, Outcome, Refusal};
use crate::app::{App, Phase as AppState};
use crate::cause::{Cause, Failure, Leaving};
use crate::datum::{portable_choice, portable_record};
use crate::event::CanaryChoice;
use crate::ids::{AddressId, Generation, ReloadId, RequestId, SlotId, WorkerId};
use crate::notice::Notice;
use crate::slot::Respawn;
use crate::time::Time;
use crate::worker::{Phase as WorkerPhase, Worker};

/// How long a held answer may take to become a listening worker, and a set to be changed.
const OPENING_LIMIT: Duration = Duration::from_secs(5);

/// A booting worker that cannot get ready because an answer is held gets it after this.
pub(crate) const HOLD_LIMIT: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reload {
    pub(crate) id: ReloadId,
    pub(crate) request: RequestId,
    pub(crate) generation: Generation,
    pub(crate) since: Time,
    pub(crate) step: Step,
    pub(crate) incoming: BTreeMap<SlotId, WorkerId>,
    /// It may listen elsewhere than the serving generation.
    pub(crate) is_changed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Preparing { until: Time },
    Booting,
    Opening { until: Time },
    Flipping { until: Time },
}

/// A reload that waits for its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) id: ReloadId,
    pub(crate) request: RequestId,
}

impl Reload {
    pub(crate) fn is_incoming(&self, worker: WorkerId) -> bool {
        self.incoming.values().any(|incoming| *incoming == worker)
    }

    /// Before the cut-over it can be abandoned without anybody noticing.
    fn can_be_abandoned(&self) -> bool {
        match self.step {
            Step::Preparing { .. } | Step::Booting | Step::Opening { .. } => true,
            Step::Flipping { .. } => false,
        }
    }
}

impl App {
    /// The generation that new connections go to.
    pub(crate) fn front(&self) -> Generation {
        match &self.reload {
            Some(Reload {
                step: Step::Flipping { .. },
                generation,
                ..
            }) => *generation,
            _ => self.serving,
        }
    }

    pub(crate) fn request_reload(&mut self, request: RequestId, _canary: CanaryChoice) {
        match self.phase {
            AppState::New => {
                self.reply(request, Outcome::Refused(Refusal::Starting));
                return;
            }
            AppState::Stopping(_) | AppState::Finished => {
                self.reply(request, Outcome::Refused(Refusal::Stopping));
                return;
            }
            AppState::Preparing { .. }
            | AppState::Starting { .. }
            | AppState::Running
            | AppState::Paused { .. } => {}
        }
        if self.delayed_stop.is_some() {
            self.reply(request, Outcome::Refused(Refusal::Stopping));
            return;
        }
        let id = self.next_reload_id();
        if let Some(overtaken) = self.waiting.replace(Waiting { id, request }) {
            self.supersede(overtaken.id, overtaken.request, id);
        }
        if self.reload.as_ref().is_some_and(Reload::can_be_abandoned)
            && let Some(abandoned) = self.abandon()
        {
            self.supersede(abandoned.id, abandoned.request, id);
        }
    }

    fn supersede(&mut self, reload: ReloadId, request: RequestId, by: ReloadId) {
        self.notify(Notice::ReloadSuperseded { reload, by });
        self.reply(request, Outcome::Superseded { by });
    }

    /// Ends the new workers; what serves is untouched.
    pub(crate) fn abandon(&mut self) -> Option<Reload> {
        let reload = self.reload.take()?;
        for worker in reload.incoming.values() {
            let is_ready = self.workers.get(worker).is_some_and(Worker::is_ready);
            match reload.step {
                // Some sets may have been changed already.
                Step::Flipping { .. } if is_ready => self.quiet(*worker, Leaving::Abandoned),
                Step::Preparing { .. }
                | Step::Booting
                | Step::Opening { .. }
                | Step::Flipping { .. } => self.leave(*worker, Leaving::Abandoned),
            }
        }
        self.leaving.push(reload.generation);
        Some(reload)
    }

    pub(crate) fn fail_reload(&mut self, failure: Failure) {
        if let Some(Reload {
            id: reload,
            request,
            ..
        }) = self.abandon()
        {
            self.notify(Notice::ReloadFailed { reload, failure });
            self.reply(request, Outcome::ReloadFailed { reload, failure });
        }
    }

    pub(crate) fn prepared(&mut self, generation: Generation, changed: bool) {
        if generation == self.serving {
            self.started_preparing(false);
        } else if self.is_preparing(generation) {
            let slots: Vec<SlotId> = self.slots.keys().copied().collect();
            let incoming = slots
                .into_iter()
                .map(|slot| (slot, self.spawn(slot, generation)))
                .collect();
            if let Some(reload) = &mut self.reload {
                reload.step = Step::Booting;
                reload.is_changed = changed;
                reload.incoming = incoming;
            }
        }
    }

    fn is_preparing(&self, generation: Generation) -> bool {
        self.reload.as_ref().is_some_and(|reload| {
            reload.generation == generation && matches!(reload.step, Step::Preparing { .. })
        })
    }

    pub(crate) fn prepare_failed(&mut self, generation: Generation) {
        if generation == self.serving {
            self.started_preparing(true);
        } else if self.is_preparing(generation) {
            self.fail_reload(Failure {
                worker: None,
                slot: None,
                cause: Cause::PrepareFailed,
            });
        }
    }

    /// Booting workers become ready, or run out of time.
    pub(crate) fn advance_boots(&mut self) {
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
            let WorkerPhase::Booting { until } = worker.phase else {
                continue;
            };
            let slot = worker.slot;
            let Some(cause) = missing else {
                let took = self.now.since(worker.since);
                worker.enter(self.now, WorkerPhase::Ready);
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

    /// What keeps a booting worker from being ready, as it would be told if its time were over.
    fn missing(&self, id: WorkerId) -> Option<Cause> {
        let worker = self.workers.get(&id)?;
        let within = self.settings.ready_timeout;
        let rules = self.settings.ready;
        let own_rule = (!worker.is_spawned)
            .then_some(Cause::SpawnFailed)
            .or_else(|| {
                (rules.message && !worker.said_ready).then_some(Cause::NeverSaidReady { within })
            })
            .or_else(|| {
                ((rules.listening || rules.probe)
                    && worker.listens.is_empty()
                    && worker.held.is_empty())
                .then_some(Cause::NeverListened { within })
            });
        let has = |address: &AddressId| {
            worker.listens.contains(address)
                || worker.held.iter().any(|held| held.address == *address)
        };
        own_rule.or_else(|| {
            self.required(id, worker)
                .into_iter()
                .find(|address| !has(address))
                .map(|address| Cause::NotListeningAt { address, within })
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
                worker.is_ready().then_some(&worker.listens)
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

    pub(crate) fn advance_reload(&mut self) {
        self.start_waiting_reload();
        let Some(reload) = &self.reload else {
            return;
        };
        let nobody = |cause| Failure {
            worker: None,
            slot: None,
            cause,
        };
        match reload.step {
            Step::Preparing { until } => {
                if self.now >= until {
                    self.fail_reload(nobody(Cause::PrepareFailed));
                }
            }
            Step::Booting => {
                if self.proven_at().is_some_and(|at| self.now >= at) {
                    // It was ready once; it must still be.
                    let lapsed = self.incoming().into_iter().find_map(|id| {
                        let slot = self.workers.get(&id)?.slot;
                        let cause = self.missing(id)?;
                        Some(Failure {
                            worker: Some(id),
                            slot: Some(slot),
                            cause,
                        })
                    });
                    if let Some(failure) = lapsed {
                        self.fail_reload(failure);
                        return;
                    }
                    self.enter_step(Step::Opening {
                        until: self.now + OPENING_LIMIT,
                    });
                    let incoming = self.incoming();
                    for worker in incoming {
                        self.release_held(worker, None);
                    }
                }
            }
            Step::Opening { until } => {
                let waits_for = self.incoming().into_iter().find_map(|id| {
                    let worker = self.workers.get(&id)?;
                    let address = self.awaited_by(id)?;
                    Some(Failure {
                        worker: Some(id),
                        slot: Some(worker.slot),
                        cause: Cause::NotListeningAt {
                            address,
                            within: OPENING_LIMIT,
                        },
                    })
                });
                match waits_for {
                    None => self.enter_step(Step::Flipping {
                        until: self.now + OPENING_LIMIT,
                    }),
                    Some(failure) if self.now >= until => self.fail_reload(failure),
                    Some(_) => {}
                }
            }
            Step::Flipping { until } => match self.unsteered_address() {
                None => self.commit(),
                Some(address) if self.now >= until => {
                    self.fail_reload(nobody(Cause::SteerFailed { address }));
                }
                Some(_) => {}
            },
        }
    }

    fn start_waiting_reload(&mut self) {
        let may_start = match self.phase {
            AppState::Starting { was_ready, .. } => was_ready,
            AppState::Running | AppState::Paused { .. } => true,
            AppState::New
            | AppState::Preparing { .. }
            | AppState::Stopping(_)
            | AppState::Finished => false,
        };
        if !may_start || self.reload.is_some() {
            return;
        }
        let Some(Waiting { id, request }) = self.waiting.take() else {
            return;
        };
        self.dismiss_successors();
        self.last_generation += 1;
        let generation = Generation(self.last_generation);
        self.reload = Some(Reload {
            id,
            request,
            generation,
            since: self.now,
            step: Step::Preparing {
                until: self.now + self.settings.ready_timeout,
            },
            incoming: BTreeMap::new(),
            is_changed: false,
        });
        self.notify(Notice::ReloadStarted {
            reload: id,
            generation,
        });
        self.order(Action::Prepare {
            generation,
            like: None,
        });
    }

    fn incoming(&self) -> Vec<WorkerId> {
        self.reload
            .iter()
            .flat_map(|reload| reload.incoming.values().copied())
            .collect()
    }

    fn enter_step(&mut self, step: Step) {
        if let Some(reload) = &mut self.reload {
            reload.step = step;
            self.has_moved = true;
        }
    }

    /// When every new worker will have lived long enough; none while one is not ready.
    pub(crate) fn proven_at(&self) -> Option<Time> {
        let reload = self.reload.as_ref()?;
        if reload.step != Step::Booting {
            return None;
        }
        let mut latest = None;
        for id in reload.incoming.values() {
            let worker = self.workers.get(id).filter(|worker| worker.is_ready())?;
            latest = latest.max(Some(worker.since + self.settings.min_uptime));
        }
        latest
    }

    /// An address that the worker has asked for and does not listen at yet.
    fn awaited_by(&self, worker: WorkerId) -> Option<AddressId> {
        self.addresses
            .iter()
            .find(|(id, address)| {
                let is_listening = self
                    .workers
                    .get(&worker)
                    .is_some_and(|worker| worker.listens.contains(id));
                let is_released = address
                    .asks
                    .iter()
                    .any(|ask| ask.worker == worker && ask.is_released);
                let is_holder = address
                    .sockets
                    .iter()
                    .any(|socket| socket.holders.contains(&worker));
                !is_listening && (is_released || is_holder)
            })
            .map(|(id, _)| *id)
    }

    fn unsteered_address(&self) -> Option<AddressId> {
        let front = self.front();
        self.addresses
            .iter()
            .find(|(id, address)| {
                address.is_steerable()
                    && address.desired_set(**id, front, &self.workers) != address.set
            })
            .map(|(id, _)| *id)
    }

    pub(crate) fn steer_failed(&mut self, id: AddressId) {
        let now = self.now;
        if let Some(address) = self.addresses.get_mut(&id) {
            address.steer_failed(now);
        }
        if self
            .reload
            .as_ref()
            .is_some_and(|reload| matches!(reload.step, Step::Flipping { .. }))
        {
            let cause = Cause::SteerFailed { address: id };
            self.fail_reload(Failure {
                worker: None,
                slot: None,
                cause,
            });
            // The way back is not a retry: it is tried at once.
            for address in self.addresses.values_mut() {
                address.retry_at = None;
            }
        }
    }

    fn commit(&mut self) {
        let Some(reload) = self.reload.take() else {
            return;
        };
        let old = std::mem::replace(&mut self.serving, reload.generation);
        let took = self.now.since(reload.since);
        let Reload {
            id,
            generation,
            request,
            incoming,
            ..
        } = reload;
        for (slot, worker) in incoming {
            // What it asked for too late to be waited for.
            self.release_held(worker, None);
            let predecessor = self.slots.get_mut(&slot).and_then(|slot| {
                slot.respawn = Respawn::fresh(self.now);
                slot.occupant.replace(worker)
            });
            if let Some(predecessor) = predecessor {
                self.leave(predecessor, Leaving::Reload);
            }
        }
        if matches!(self.phase, AppState::Paused { .. }) {
            self.phase = AppState::Running;
        }
        self.leaving.push(old);
        self.notify(Notice::ReloadCommitted {
            reload: id,
            generation,
            took,
        });
        self.reply(
            request,
            Outcome::Reloaded {
                reload: id,
                generation,
                took,
            },
        );
    }
}

portable_record!(Reload {
    id,
    request,
    generation,
    since,
    step,
    incoming,
    is_changed,
});

portable_choice!(
    Step
    [Booting]
    {
        Preparing { until },
        Opening { until },
        Flipping { until },
    }
);

portable_record!(Waiting { id, request });
