//! Who may be given connections, and that capacity is never lost.

use segue_core::{
    Action, AppView, Generation, Leaving, Notice, ReloadStep, Time, WorkerId, WorkerPhase,
};

use super::{Rules, Verdict, ensure};

impl Rules {
    /// A worker gets connections from now on: unless its generation serves, it is ready, has passed
    /// its probe and has lived for `min_uptime`.
    pub(super) fn prove(&mut self, now: Time, worker: WorkerId) -> Verdict {
        let Some(known) = self.workers.get(&worker) else {
            return Ok(());
        };
        let must_pass = self.settings.ready.probe;
        ensure(
            !must_pass || known.has_passed || known.ready_at.is_none(),
            || format!("{worker} is ready and has not passed its probe"),
        )?;
        if self.proven.contains(&known.generation) || self.public.contains(&worker) {
            return Ok(());
        }
        let has_lived = known
            .ready_at
            .is_some_and(|at| now >= at + self.settings.min_uptime);
        ensure(has_lived && known.leaving.is_none(), || {
            format!("{worker} gets connections before it is proven")
        })?;
        self.public.insert(worker);
        Ok(())
    }

    /// Everybody of a generation who is ready may be given connections.
    pub(super) fn prove_all(&mut self, now: Time, generation: Option<Generation>) -> Verdict {
        let ready: Vec<WorkerId> = self
            .workers
            .iter()
            .filter(|(_, known)| {
                Some(known.generation) == generation
                    && known.ready_at.is_some()
                    && known.leaving.is_none()
                    && !known.is_gone
            })
            .map(|(worker, _)| *worker)
            .collect();
        ready
            .into_iter()
            .try_for_each(|worker| self.prove(now, worker))
    }

    /// A socket gets connections: each of its holders may have them. Where later ones of a generation
    /// share that of the first, one must be proven.
    pub(super) fn prove_any(&mut self, now: Time, holders: &[WorkerId]) -> Verdict {
        let verdicts: Vec<Verdict> = holders
            .iter()
            .map(|holder| self.prove(now, *holder))
            .collect();
        match holders {
            [_] => verdicts.into_iter().collect(),
            _ if verdicts.iter().any(Result::is_ok) => Ok(()),
            _ => verdicts.into_iter().collect(),
        }
    }

    /// Whoever has a slot and is ready is followed by somebody who is, unless it fails or its slot
    /// is to be empty.
    pub(super) fn judge_capacity(
        &mut self,
        now: Time,
        actions: &[Action],
        view: &AppView,
    ) -> Verdict {
        // Whoever of a new generation takes a slot counts as one that serves.
        for worker in view.slots.iter().filter_map(|slot| slot.worker) {
            let generation = self.workers.get(&worker).map(|known| known.generation);
            if generation != Some(view.serving) {
                self.prove(now, worker)?;
            }
        }
        let Some(before) = &self.before else {
            return Ok(());
        };
        if self.stopping.is_some() {
            return Ok(());
        }
        let is_ready = |view: &AppView, worker: Option<WorkerId>| {
            view.workers
                .iter()
                .any(|other| Some(other.worker) == worker && other.phase == WorkerPhase::Ready)
        };
        if view.serving != before.serving {
            self.proven.insert(view.serving);
            let has_all = view.slots.iter().all(|slot| {
                is_ready(view, slot.worker)
                    && self
                        .workers
                        .get(&slot.worker.unwrap_or(WorkerId(0)))
                        .is_some_and(|known| known.generation == view.serving)
            });
            let begins = |action: &Action| {
                matches!(
                    action,
                    Action::Notify(Notice::ReloadStep {
                        step: ReloadStep::Emptying,
                        ..
                    })
                )
            };
            let is_restart = actions.iter().any(begins)
                || before
                    .reload
                    .is_some_and(|reload| reload.step == ReloadStep::Emptying);
            return ensure(has_all || is_restart, || {
                format!("{} serves with gaps at {now}", view.serving)
            });
        }
        for slot in &before.slots {
            let later = view.slots.iter().find(|later| later.slot == slot.slot);
            let is_held = later.is_some_and(|later| is_ready(view, later.worker));
            if is_held || !is_ready(before, slot.worker) {
                continue;
            }
            let is_explained = actions.iter().any(|action| match action {
                Action::Notify(
                    Notice::WorkerFailed { worker, .. }
                    | Notice::WorkerLeaving {
                        worker,
                        why: Leaving::ScaledDown | Leaving::Pause | Leaving::Restart,
                        ..
                    },
                ) => Some(*worker) == slot.worker,
                _ => false,
            });
            ensure(is_explained, || {
                format!("{} does not serve any more, and nobody said why", slot.slot)
            })?;
        }
        Ok(())
    }
}
