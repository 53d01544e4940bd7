//! Probes of single workers: while they boot, until enough have passed in a row; once they are
//! ready, at an interval, until too many have failed in a row.
//!
//! ```text
//!   Idle ──wanted──▶ At(when) ──Probe──▶ Asked ──Probed, or the limit──▶ At(when) …
//! ```

use std::time::Duration;

use crate::action::Action;
use crate::app::App;
use crate::cause::ProbeFailure;
use crate::datum::{portable_choice, portable_record};
use crate::event::ProbeVerdict;
use crate::ids::WorkerId;
use crate::notice::Notice;
use crate::time::Time;
use crate::worker::Worker;

/// A new generation is probed at least so often until it is committed, unless its own interval
/// is longer.
const TRIAL_INTERVAL: Duration = Duration::from_secs(1);

/// What is known of a worker by its probes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Watch {
    pub(crate) probing: Probing,
    /// In a row.
    pub(crate) passed: u32,
    /// In a row.
    pub(crate) failed: u32,
    pub(crate) failure: Option<ProbeFailure>,
    /// It cannot be probed by itself.
    pub(crate) is_waived: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Probing {
    #[default]
    Idle,
    At(Time),
    Asked {
        until: Time,
    },
}

impl Watch {
    /// A success, or a failure, is one of a new row.
    fn note(&mut self, verdict: ProbeVerdict) {
        match verdict {
            ProbeVerdict::Passed => {
                self.passed = self.passed.saturating_add(1);
                self.failed = 0;
                self.failure = None;
            }
            ProbeVerdict::Failed(failure) => {
                self.passed = 0;
                self.failed = self.failed.saturating_add(1);
                self.failure = Some(failure);
            }
        }
    }

    /// When the next probe, or the answer to this one, is due.
    pub(crate) fn deadline(&self) -> Option<Time> {
        match self.probing {
            Probing::Idle => None,
            Probing::At(at) => Some(at),
            Probing::Asked { until } => Some(until),
        }
    }
}

impl App {
    /// Orders the probes that are due; those that nobody has answered have failed.
    pub(crate) fn advance_probes(&mut self) {
        if !self.settings.ready.probe && self.settings.health.interval.is_none() {
            return;
        }
        let ids: Vec<WorkerId> = self.workers.keys().copied().collect();
        for id in ids {
            self.waive_if_held(id);
            let interval = self.probe_interval(id);
            let limit = self.now + self.settings.ready_timeout;
            let now = self.now;
            let Some(worker) = self.workers.get_mut(&id) else {
                continue;
            };
            let is_booting = worker.is_booting();
            let watch = &mut worker.watch;
            match (interval, watch.probing) {
                (None, Probing::Idle) => {}
                (None, Probing::At(_) | Probing::Asked { .. }) => watch.probing = Probing::Idle,
                (Some(interval), Probing::Idle) => {
                    watch.passed = 0;
                    watch.probing = match is_booting {
                        true => Probing::At(now),
                        false => Probing::At(now + interval),
                    };
                    self.has_moved = true;
                }
                (Some(_), Probing::At(at)) if now >= at => {
                    watch.probing = Probing::Asked { until: limit };
                    self.order(Action::Probe { worker: id });
                }
                (Some(_), Probing::Asked { until }) if now >= until => {
                    self.probed(id, ProbeVerdict::Failed(ProbeFailure::TimedOut));
                    self.has_moved = true;
                }
                (Some(_), Probing::At(_) | Probing::Asked { .. }) => {}
            }
        }
    }

    pub(crate) fn probed(&mut self, id: WorkerId, verdict: ProbeVerdict) {
        let Some(interval) = self.probe_interval(id) else {
            return;
        };
        let next = self.now + interval;
        let limit = self.settings.health.failures.max(1);
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let Probing::Asked { .. } = worker.watch.probing else {
            return;
        };
        if verdict == ProbeVerdict::Failed(ProbeFailure::Unsteerable) {
            self.waive(id);
            return;
        }
        let (slot, is_ready) = (worker.slot, worker.is_ready());
        let was_unhealthy = is_ready && worker.watch.failed >= limit;
        worker.watch.note(verdict);
        worker.watch.probing = Probing::At(next);
        let is_unhealthy = is_ready && worker.watch.failed >= limit;
        match (was_unhealthy, is_unhealthy, worker.watch.failure) {
            (false, true, Some(failure)) => self.notify(Notice::WorkerUnhealthy {
                worker: id,
                slot,
                failure,
            }),
            (true, false, _) => self.notify(Notice::WorkerHealthy { worker: id, slot }),
            (false, _, _) | (true, true, _) => {}
        }
    }

    /// Where a connection would reach any worker, a failed probe says nothing about this one.
    fn waive(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id) {
            let slot = worker.slot;
            worker.watch = Watch {
                is_waived: true,
                ..Watch::default()
            };
            self.notify(Notice::ProbeWaived { worker: id, slot });
        }
    }

    /// What is held back until the cut-over cannot be probed before.
    fn waive_if_held(&mut self, id: WorkerId) {
        let is_held = self.workers.get(&id).is_some_and(|worker| {
            worker.is_booting()
                && !worker.watch.is_waived
                && worker.listens.is_empty()
                && !worker.held.is_empty()
        });
        if is_held && self.must_pass(id) && self.missing_besides_probe(id).is_none() {
            self.waive(id);
        }
    }

    /// A booting worker is ready only when it has passed its probe. Whoever is to replace an
    /// unhealthy one must be able to do what that one cannot.
    pub(crate) fn must_pass(&self, id: WorkerId) -> bool {
        self.settings.ready.probe || (self.settings.health.interval.is_some() && self.succeeds(id))
    }

    /// How often a worker is to be probed now, if at all.
    fn probe_interval(&self, id: WorkerId) -> Option<Duration> {
        let worker = self.workers.get(&id)?;
        if worker.watch.is_waived {
            return None;
        }
        let boot = self.settings.probe.interval.max(Duration::from_millis(1));
        if worker.is_booting() {
            let is_due = self.must_pass(id)
                && !worker.listens.is_empty()
                && self.missing_besides_probe(id).is_none();
            return is_due.then_some(boot);
        }
        if !worker.is_ready() {
            return None;
        }
        let health = self.settings.health.interval;
        let trial = boot.max(TRIAL_INTERVAL);
        match self.is_on_trial(id) {
            true if self.settings.ready.probe => Some(health.map_or(trial, |it| it.min(trial))),
            true | false => health,
        }
    }

    pub(crate) fn has_passed(&self, worker: &Worker) -> bool {
        worker.watch.is_waived || worker.watch.passed >= self.settings.probe.successes.max(1)
    }
}

portable_record!(Watch {
    probing,
    passed,
    failed,
    failure,
    is_waived,
});

portable_choice!(Probing [Idle] { Asked { until } } (At));
