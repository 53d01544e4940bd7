//! Reload: a transaction that replaces every worker with a new generation, or changes nothing.
//!
//! ```text
//!                ┌────────────── the next batch ◀── Room ◀─────────┐
//!                ▼                                                 │
//!   Preparing ─▶ Booting ─▶ Proving ─▶ Opening ─▶ [Canary] ─▶ Flipping ─▶ [Probation] ─▶ committed
//!       │           │          │          │          │           │             │
//!       └───────────┴──────────┴──────────┴──────────┴───────────┴─────────────┴──▶ failed
//!   a restart:  Preparing ─▶ Emptying ─▶ a new start
//! ```
//! *Booting* lasts until every new worker of the batch is ready, *Proving* until each has lived and
//! been well for `min_uptime`; none has had a connection then. *Opening* answers what was held back
//! because it cannot be steered. *Canary* gives the first batch a share of the connections.
//! *Flipping* gives the batch those of the workers that it replaces; one refusal undoes it.
//! Where `max_surge` allows all at once there is one batch, and no old worker leaves before the
//! commit. Otherwise they leave batch by batch, and *Room* waits until they have.
//! How it fails stands in `rollback`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::action::Outcome;
use crate::app::{App, Phase as AppState};
use crate::canary::Count;
use crate::cause::{Cause, Failure};
use crate::datum::{portable_choice, portable_record};
use crate::event::AddressKind;
use crate::ids::{AddressId, Generation, ReloadId, RequestId, SlotId, WorkerId};
use crate::notice::{Notice, ReloadStep};
use crate::settings::Canary;
use crate::time::Time;
use crate::worker::Worker;

/// How long a held answer may take to become a listening worker, and a set to be changed.
const OPENING_LIMIT: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reload {
    pub(crate) id: ReloadId,
    pub(crate) request: RequestId,
    /// Others who have asked for the same.
    pub(crate) also: Vec<RequestId>,
    pub(crate) purpose: Purpose,
    pub(crate) generation: Generation,
    pub(crate) since: Time,
    pub(crate) step: Step,
    /// When the step that was told last began.
    pub(crate) step_since: Time,
    /// The slots whose workers are replaced together, now.
    pub(crate) batch: BTreeSet<SlotId>,
    /// The new workers of the batch.
    pub(crate) incoming: BTreeMap<SlotId, WorkerId>,
    /// New workers of earlier batches: they hold their slots.
    pub(crate) joined: BTreeSet<WorkerId>,
    /// It may listen elsewhere than the serving generation.
    pub(crate) is_changed: bool,
    /// Its compile cache is empty.
    pub(crate) is_cold: bool,
    /// The canary that is still to come.
    pub(crate) canary: Option<Canary>,
    /// What was answered in the canary.
    pub(crate) counts: BTreeMap<WorkerId, Count>,
    /// Who has ended its trial.
    pub(crate) promoted_by: Vec<RequestId>,
}

/// What a reload is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Release,
    /// Back to the release of this generation.
    Rollback {
        to: Generation,
    },
    Restart,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Preparing {
        until: Time,
    },
    /// Ends with the last of those who leave; each of them has its own deadline.
    Emptying,
    /// The same.
    Room,
    Booting,
    Proving {
        until: Time,
    },
    Opening {
        until: Time,
    },
    Canary {
        until: Time,
        canary: Canary,
    },
    Flipping {
        until: Time,
    },
    Probation {
        until: Time,
    },
}

impl Step {
    /// New workers get connections.
    pub(crate) fn is_public(self) -> bool {
        match self {
            Self::Canary { .. } | Self::Flipping { .. } | Self::Probation { .. } => true,
            Self::Preparing { .. }
            | Self::Emptying
            | Self::Room
            | Self::Booting
            | Self::Proving { .. }
            | Self::Opening { .. } => false,
        }
    }
}

impl Reload {
    pub(crate) fn is_incoming(&self, worker: WorkerId) -> bool {
        self.incoming.values().any(|incoming| *incoming == worker)
    }

    /// It belongs to the generation that is to be committed.
    pub(crate) fn is_new(&self, worker: WorkerId) -> bool {
        self.is_incoming(worker) || self.joined.contains(&worker)
    }

    pub(crate) fn new_workers(&self) -> impl Iterator<Item = WorkerId> + '_ {
        self.incoming.values().chain(&self.joined).copied()
    }

    /// Before the cut-over it can be abandoned without anybody noticing.
    pub(crate) fn can_be_abandoned(&self) -> bool {
        self.joined.is_empty()
            && match self.step {
                Step::Preparing { .. }
                | Step::Booting
                | Step::Proving { .. }
                | Step::Room
                | Step::Opening { .. } => true,
                Step::Emptying
                | Step::Canary { .. }
                | Step::Flipping { .. }
                | Step::Probation { .. } => false,
            }
    }

    /// One that a release wrote down which knew of no batches.
    pub(crate) fn complete(mut self) -> Self {
        if self.batch.is_empty() {
            self.batch = self.incoming.keys().copied().collect();
        }
        self
    }

    fn is_promoted(&self) -> bool {
        !self.promoted_by.is_empty()
    }

    /// Everybody who waits for its outcome.
    pub(crate) fn callers(&self) -> impl Iterator<Item = RequestId> + '_ {
        std::iter::once(self.request).chain(self.also.iter().copied())
    }
}

impl App {
    pub(crate) fn prepared(&mut self, generation: Generation, changed: bool, is_cold: bool) {
        if generation == self.serving {
            self.started_preparing(is_cold, false);
        } else if let Some(reload) = &mut self.reload
            && reload.is_preparing(generation)
        {
            reload.is_changed = changed;
            reload.is_cold = is_cold;
            match reload.purpose {
                Purpose::Release | Purpose::Rollback { .. } => {
                    if is_cold {
                        self.send_pilot();
                    }
                    self.begin_batch();
                }
                Purpose::Restart => self.begin_emptying(),
            }
        }
    }

    pub(crate) fn prepare_failed(&mut self, generation: Generation) {
        let is_preparing = |reload: &Reload| reload.is_preparing(generation);
        if generation == self.serving {
            self.started_preparing(false, true);
        } else if self.reload.as_ref().is_some_and(is_preparing) {
            self.fail_reload(nobody(Cause::PrepareFailed));
        }
    }

    /// A worker whose generation is not committed.
    pub(crate) fn is_on_trial(&self, id: WorkerId) -> bool {
        self.reload.as_ref().is_some_and(|reload| reload.is_new(id))
    }

    pub(crate) fn advance_reload(&mut self) {
        self.start_waiting_reload();
        let fault = self.fault_on_trial().or_else(|| self.canary_failure());
        if let Some(failure) = fault {
            self.fail_reload(failure);
            return;
        }
        let Some(reload) = &self.reload else {
            return;
        };
        match reload.step {
            Step::Preparing { until } => {
                if self.now >= until {
                    self.fail_reload(nobody(Cause::PrepareFailed));
                }
            }
            Step::Emptying => self.advance_emptying(),
            Step::Room => self.begin_batch(),
            Step::Booting => self.advance_booting(),
            Step::Proving { until } => self.advance_proving(until),
            Step::Opening { until } => self.advance_opening(until),
            Step::Canary { until, .. } => {
                if self.now >= until || reload.is_promoted() {
                    self.end_canary();
                } else {
                    self.count_members();
                }
            }
            Step::Flipping { until } => match self.unsteered_address() {
                None => self.flipped(),
                Some(address) if self.now >= until => {
                    self.fail_reload(nobody(Cause::SteerFailed { address }));
                }
                Some(_) => {}
            },
            Step::Probation { until } => {
                if self.now >= until || reload.is_promoted() {
                    self.commit();
                }
            }
        }
    }

    fn advance_booting(&mut self) {
        self.boot_batch();
        let Some(reload) = &self.reload else {
            return;
        };
        let is_ready = |slot: &SlotId| {
            let worker = reload.incoming.get(slot);
            worker.is_some_and(|id| self.workers.get(id).is_some_and(Worker::is_ready))
        };
        if reload.batch.iter().all(is_ready) {
            let until = self.lived_at() + self.settings.ready_timeout;
            self.enter_step(Step::Proving { until });
            self.tell_step(ReloadStep::Proving);
        }
    }

    /// When the last of the batch will have lived for `min_uptime`.
    fn lived_at(&self) -> Time {
        let since = self.incoming().into_iter().filter_map(|id| {
            let worker = self.workers.get(&id).filter(|worker| worker.is_ready())?;
            Some(worker.since)
        });
        since.max().unwrap_or(self.now) + self.settings.min_uptime
    }

    fn advance_proving(&mut self, until: Time) {
        if self.now < self.lived_at() {
            return;
        }
        let ailing = self.failing_by(|id| self.ailment(self.workers.get(&id)?));
        match ailing {
            Some(failure) if self.now >= until => {
                self.fail_reload(failure);
                return;
            }
            // It may pass.
            Some(_) => return,
            None => {}
        }
        // They were ready once; they must still be.
        if let Some(failure) = self.failing_by(|id| self.missing(id)) {
            self.fail_reload(failure);
            return;
        }
        self.enter_step(Step::Opening {
            until: self.now + OPENING_LIMIT,
        });
        self.release_all_held();
    }

    /// The first of the batch that something is wrong with.
    fn failing_by(&self, cause: impl Fn(WorkerId) -> Option<Cause>) -> Option<Failure> {
        self.incoming().into_iter().find_map(|id| {
            Some(Failure {
                worker: Some(id),
                slot: Some(self.workers.get(&id)?.slot),
                cause: cause(id)?,
            })
        })
    }

    fn release_all_held(&mut self) {
        for worker in self.incoming() {
            self.release_held(worker, None);
        }
    }

    fn advance_opening(&mut self, until: Time) {
        let waits_for = self.failing_by(|id| {
            let address = self.awaited_by(id)?;
            Some(Cause::NotListeningAt {
                address,
                within: OPENING_LIMIT,
            })
        });
        match waits_for {
            None => self.cut_over(),
            Some(failure) if self.now >= until => self.fail_reload(failure),
            Some(_) => {}
        }
    }

    /// The batch gets connections: a share first, if so.
    fn cut_over(&mut self) {
        self.release_all_held();
        let is_anybody_there = self.slots.values().any(|slot| {
            let occupant = slot.occupant.and_then(|id| self.workers.get(&id));
            occupant.is_some_and(|worker| worker.is_ready())
        });
        let is_steered = |kind: AddressKind| kind == AddressKind::Steered;
        let can_be_shared = self.addresses.values().any(|it| is_steered(it.kind));
        let Some(reload) = &mut self.reload else {
            return;
        };
        let is_wanted = !reload.is_promoted() && is_anybody_there;
        let id = reload.id;
        match reload.canary.take().filter(|_| is_wanted) {
            Some(canary) if can_be_shared => {
                let until = self.now + canary.lasts;
                self.enter_step(Step::Canary { until, canary });
                self.tell_step(ReloadStep::Canary {
                    percent: canary.percent,
                    lasts: canary.lasts,
                });
                self.count_members();
            }
            Some(_) => {
                self.notify(Notice::CanarySkipped { reload: id });
                self.begin_flip();
            }
            None => self.begin_flip(),
        }
    }

    fn end_canary(&mut self) {
        if let Some(reload) = self.reload.take() {
            self.stop_counting(&reload);
            self.reload = Some(reload);
        }
        self.begin_flip();
    }

    fn begin_flip(&mut self) {
        self.enter_step(Step::Flipping {
            until: self.now + OPENING_LIMIT,
        });
        self.tell_step(ReloadStep::CuttingOver);
    }

    /// New connections go to the batch instead of those whose slots it has.
    fn flipped(&mut self) {
        let lasts = self.settings.probation;
        let is_paused = matches!(self.phase, AppState::Paused { .. });
        let Some(reload) = &self.reload else {
            return;
        };
        if reload.joined.len() + reload.batch.len() < self.slots.len() {
            self.join();
        } else if lasts.is_zero()
            || is_paused
            || reload.is_promoted()
            || reload.purpose != Purpose::Release
        {
            self.commit();
        } else {
            let until = self.now + lasts;
            self.enter_step(Step::Probation { until });
            self.tell_step(ReloadStep::Probation { lasts });
        }
    }

    pub(crate) fn incoming(&self) -> Vec<WorkerId> {
        self.reload
            .iter()
            .flat_map(|reload| reload.incoming.values().copied())
            .collect()
    }

    pub(crate) fn enter_step(&mut self, step: Step) {
        if let Some(reload) = &mut self.reload {
            reload.step = step;
            self.has_moved = true;
        }
    }

    pub(crate) fn tell_step(&mut self, step: ReloadStep) {
        if let Some(reload) = &mut self.reload {
            let since = std::mem::replace(&mut reload.step_since, self.now);
            let (reload, took) = (reload.id, self.now.since(since));
            self.notify(Notice::ReloadStep { reload, step, took });
        }
    }

    /// When the reload comes to its next step by itself.
    pub(crate) fn reload_deadline(&self) -> Option<Time> {
        match self.reload.as_ref()?.step {
            Step::Preparing { until }
            | Step::Opening { until }
            | Step::Canary { until, .. }
            | Step::Flipping { until }
            | Step::Probation { until } => Some(until),
            Step::Proving { until } => {
                let lived_at = self.lived_at();
                Some(if lived_at > self.now { lived_at } else { until })
            }
            Step::Emptying | Step::Room | Step::Booting => None,
        }
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
        let standings = self.standings();
        self.addresses
            .iter()
            .find(|(id, address)| {
                address.is_steerable() && self.desired_set(**id, address, &standings) != address.set
            })
            .map(|(id, _)| *id)
    }

    pub(crate) fn commit(&mut self) {
        self.take_slots();
        let Some(reload) = self.reload.take() else {
            return;
        };
        let took = self.now.since(reload.since);
        let (id, generation) = (reload.id, reload.generation);
        self.serve_from_now_on(generation);
        if matches!(self.phase, AppState::Paused { .. }) {
            self.phase = AppState::Running;
        }
        self.overtake_restart(id);
        self.notify(Notice::ReloadCommitted {
            reload: id,
            generation,
            took,
        });
        let outcome = match reload.purpose {
            Purpose::Rollback { to } => Outcome::RolledBack {
                reload: id,
                generation,
                to,
                took,
            },
            Purpose::Release | Purpose::Restart => Outcome::Reloaded {
                reload: id,
                generation,
                took,
            },
        };
        for request in reload.callers() {
            self.reply(request, outcome.clone());
        }
        for request in &reload.promoted_by {
            let reload = id;
            self.reply(*request, Outcome::Promoted { reload, generation });
        }
    }
}

impl Reload {
    pub(crate) fn is_preparing(&self, generation: Generation) -> bool {
        self.generation == generation && matches!(self.step, Step::Preparing { .. })
    }
}

pub(crate) const fn nobody(cause: Cause) -> Failure {
    Failure {
        worker: None,
        slot: None,
        cause,
    }
}

portable_record!(Reload {
    id,
    request,
    also = Vec::new(),
    purpose = Purpose::Release,
    generation,
    since,
    step,
    step_since = Time(0),
    batch = BTreeSet::new(),
    incoming,
    joined = BTreeSet::new(),
    is_changed,
    is_cold = false,
    canary,
    counts = BTreeMap::new(),
    promoted_by = Vec::new(),
});

portable_choice!(Purpose [Release, Restart] { Rollback { to } });

portable_choice!(
    Step
    [Booting, Emptying, Room]
    {
        Preparing { until },
        Proving { until },
        Opening { until },
        Canary { until, canary },
        Flipping { until },
        Probation { until },
    }
);
