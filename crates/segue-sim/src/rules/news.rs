//! What each piece of news must be true about.

use std::time::Duration;

use segue_core::{
    AppPhase, AppView, Failure, Leaving, Notice, ReloadStep, Time, WorkerId, WorkerPhase,
};

use super::{Rules, Verdict, ensure};

impl Rules {
    pub(super) fn judge_notice(&mut self, now: Time, notice: &Notice, view: &AppView) -> Verdict {
        match notice {
            Notice::WorkerReady { worker, .. } => {
                self.alive(*worker, notice)?;
                if let Some(known) = self.workers.get_mut(worker) {
                    known.ready_at = Some(now);
                }
                Ok(())
            }
            Notice::WorkerLeaving { worker, why, .. } => {
                self.alive(*worker, notice)?;
                let generation = self.workers.get_mut(worker).map(|known| {
                    known.leaving = Some(now);
                    known.generation
                });
                match why {
                    // Before the commit a batch has joined: the capacity is judged slot by slot.
                    Leaving::Reload => ensure(
                        Some(view.serving) > generation || view.reload.is_some(),
                        || format!("{worker} leaves for a reload that has not been committed"),
                    ),
                    Leaving::Abandoned => ensure(Some(view.serving) != generation, || {
                        format!("{worker} of the serving generation is abandoned")
                    }),
                    Leaving::Aged | Leaving::OverMemory => {
                        self.judge_replacement(now, *worker, view)
                    }
                    Leaving::Unhealthy | Leaving::Unresponsive => {
                        ensure(!view.is_health_shared, || {
                            format!("{worker} is replaced for what others suffer from too")
                        })?;
                        self.judge_replacement(now, *worker, view)
                    }
                    Leaving::ScaledDown
                    | Leaving::Restart
                    | Leaving::RolledBack
                    | Leaving::NotNeeded
                    | Leaving::Stop
                    | Leaving::ChannelLost
                    | Leaving::NotReady => Ok(()),
                    Leaving::Pause => ensure(view.phase == AppPhase::Paused, || {
                        format!("{worker} leaves for a pause that is not one")
                    }),
                }
            }
            Notice::RespawnDue { slot, .. } => {
                let times = self.respawns.entry(*slot).or_default();
                times.push(now);
                let within = self.settings.intensity.within;
                let recent = times.iter().filter(|at| now.since(**at) < within).count();
                ensure(recent <= self.settings.intensity.restarts as usize, || {
                    format!("{slot} is respawned more often than allowed")
                })
            }
            Notice::ReloadCommitted { generation, .. } => {
                self.respawns.clear();
                // The sockets from before a gap had nobody to wait for their last handshakes.
                let had_gap = self.before.as_ref().is_some_and(|before| {
                    matches!(before.phase, AppPhase::Paused | AppPhase::Starting)
                });
                if had_gap {
                    self.disturbed(now);
                }
                ensure(view.serving == *generation, || {
                    format!("{generation} is committed and does not serve")
                })?;
                Ok(())
            }
            // Whose slots are taken begins a new row.
            Notice::ReloadStep { step, .. } => {
                match step {
                    ReloadStep::Replacing { .. } | ReloadStep::Emptying => self.respawns.clear(),
                    ReloadStep::Canary { .. } | ReloadStep::CuttingOver => {
                        let generation = view.reload.map(|reload| reload.generation);
                        return self.prove_all(now, generation);
                    }
                    ReloadStep::Preparing
                    | ReloadStep::Booting { .. }
                    | ReloadStep::Proving
                    | ReloadStep::Probation { .. } => {}
                }
                Ok(())
            }
            Notice::ReloadSuperseded { reload, by } => {
                ensure(by > reload, || format!("{reload} is superseded by {by}"))
            }
            Notice::ReloadFailed {
                failure: Failure { slot, .. },
                ..
            } => {
                // One of the old release comes where the new one was.
                self.respawns.retain(|other, _| Some(*other) != *slot);
                ensure(
                    self.before
                        .as_ref()
                        .is_none_or(|before| before.serving == view.serving),
                    || "a failed reload changed who serves".into(),
                )
            }
            Notice::AddressUnserved { address } => {
                self.unserved.insert(*address);
                let soon = now + Duration::from_secs(5);
                let is_awaited = view.slots.iter().any(|slot| {
                    slot.respawn_at
                        .is_some_and(|at| at <= soon && !slot.given_up)
                }) || view.workers.iter().any(|worker| {
                    worker.phase == WorkerPhase::Booting
                        && worker.generation == view.serving
                        && view
                            .slots
                            .iter()
                            .any(|slot| slot.worker == Some(worker.worker))
                });
                // Hope has an end, however often it begins anew.
                let patience = self.settings.ready_timeout + Duration::from_secs(5);
                let is_hopeless = self
                    .waits_since
                    .get(address)
                    .is_some_and(|since| now.since(*since) >= patience);
                ensure(
                    self.stopping.is_some() || !is_awaited || is_hopeless,
                    || format!("{address} is given up although somebody comes soon"),
                )
            }
            Notice::ProbeWaived { worker, .. } => {
                if let Some(known) = self.workers.get_mut(worker) {
                    known.has_passed = true;
                }
                Ok(())
            }
            Notice::AddressServed { address } => {
                self.unserved.remove(address);
                Ok(())
            }
            Notice::WorkerKilled { .. }
            | Notice::DrainTimedOut { .. }
            | Notice::GenerationHurried { .. }
            | Notice::SettleTimedOut { .. } => {
                self.disturbed(now);
                Ok(())
            }
            Notice::Scaled { to, .. } => {
                self.respawns.retain(|slot, _| slot.0 < *to);
                Ok(())
            }
            Notice::WorkerSpawned { .. }
            | Notice::WorkerFailed { .. }
            | Notice::SlotGivenUp { .. }
            | Notice::WorkerDrained { .. }
            | Notice::WorkerLeft { .. }
            | Notice::AppReady { .. }
            | Notice::ReloadStarted { .. }
            | Notice::GenerationGone { .. }
            | Notice::AddressOpened { .. }
            | Notice::AddressClosed { .. }
            | Notice::HeldReleased { .. }
            | Notice::ListenForbidden { .. }
            | Notice::StopDelayed { .. }
            | Notice::WorkerBlocked { .. }
            | Notice::WorkerUnblocked { .. }
            | Notice::WorkerUnhealthy { .. }
            | Notice::WorkerHealthy { .. }
            | Notice::CanarySkipped { .. }
            | Notice::HealthShared { .. }
            | Notice::HealthRecovered
            | Notice::Stopping
            | Notice::Paused
            | Notice::Refused(_) => Ok(()),
        }
    }

    /// Whoever is replaced leaves a successor that is ready in its slot.
    fn judge_replacement(&self, now: Time, worker: WorkerId, view: &AppView) -> Verdict {
        let slot = self.workers.get(&worker).map(|known| known.slot);
        let is_succeeded = view.workers.iter().any(|other| {
            Some(other.slot) == slot
                && other.worker != worker
                && other.generation == view.serving
                && other.phase == WorkerPhase::Ready
        });
        ensure(is_succeeded || self.stopping == Some(now), || {
            format!("{worker} is replaced by nobody")
        })
    }
}
