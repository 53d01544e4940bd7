//! What must hold when the world has been calm for long, and when everything is over.

use std::time::Duration;

use segue_core::{App, AppPhase, AppView, RequestId, SocketIndex, Time, WorkerPhase};

use super::{LONGEST_ANSWER, LONGEST_WAIT, Rules, SLACK, Verdict, ensure};
use crate::kernel::Kernel;

/// A worker that is replaced because it blocks is followed by the next one that does within this.
const BLOCKS_AGAIN: Duration = Duration::from_secs(10);

impl Rules {
    /// After a long calm: nothing waits that should not.
    pub(crate) fn after_calm(&self, app: &App, now: u64, kernel: &Kernel) -> Verdict {
        let view = app.view();
        // In a paused app clients wait for as long as it is, and so they do for a release whose
        // workers block as soon as they listen, one after the other.
        let blocks = |at: Time| Time(now).since(at) < BLOCKS_AGAIN;
        if view.phase != AppPhase::Paused && !self.last_blocked.is_some_and(blocks) {
            self.judge_waiting(now, kernel)?;
        }
        for (ask, asked) in &self.asks {
            let is_owed = !asked.is_answered
                && now > asked.at + LONGEST_ANSWER
                && view.workers.iter().any(|worker| {
                    worker.worker == asked.worker
                        && matches!(worker.phase, WorkerPhase::Booting | WorkerPhase::Ready)
                });
            ensure(!is_owed, || {
                format!("{ask} of {} was never answered", asked.worker)
            })?;
        }
        for (worker, known) in &self.workers {
            let is_late = known
                .leaving
                .is_some_and(|at| Time(now).since(at) > self.longest_leave());
            ensure(known.is_gone || !is_late, || {
                format!("{worker} does not leave")
            })?;
        }
        for (request, is_replied) in &self.requests {
            let is_start = *request == RequestId(1);
            ensure(
                *is_replied || is_start || view.phase == AppPhase::Starting,
                || format!("{request} has no reply after {now} ms"),
            )?;
        }
        self.judge_leftovers(Time(now), &view)?;
        for address in &view.addresses {
            let serves = |(index, _): &(SocketIndex, u32)| {
                app.holders().any(|(socket, holder)| {
                    socket.address == address.address
                        && socket.index == *index
                        && view.workers.iter().any(|worker| {
                            worker.worker == holder && worker.phase == WorkerPhase::Ready
                        })
                })
            };
            let is_right = !address.steered
                || address.serving.is_empty()
                || address.set.iter().all(serves)
                || kernel.group(address.address.0).is_none();
            let is_stirring = self.is_steering_unreliable
                || Time(now).since(self.last_disturbance) < SLACK
                || view.workers.iter().any(|worker| {
                    worker.phase != WorkerPhase::Ready || Time(now).since(worker.since) < SLACK
                });
            ensure(is_right || is_stirring, || {
                format!("{} steers to sockets that nobody serves", address.address)
            })?;
        }
        Ok(())
    }

    /// What was rolled back is replaced, or tried to be.
    fn judge_leftovers(&self, now: Time, view: &AppView) -> Verdict {
        let settings = &self.settings;
        let slots = u32::try_from(view.slots.len()).unwrap_or(1);
        let patience = settings.backoff_max + (settings.ready_timeout + SLACK) * slots;
        for worker in &view.workers {
            let is_left = worker.phase == WorkerPhase::Ready
                && worker.generation != view.serving
                && view.reload.is_none();
            let is_tried = self
                .workers
                .values()
                .any(|known| known.slot == worker.slot && now.since(known.spawned_at) <= patience);
            ensure(!is_left || is_tried, || {
                format!("{} stays after it was rolled back", worker.worker)
            })?;
        }
        Ok(())
    }

    fn judge_waiting(&self, now: u64, kernel: &Kernel) -> Verdict {
        for (id, connection) in kernel.connections.iter().enumerate() {
            let waits = connection.fate.is_none()
                && connection
                    .entered
                    .is_some_and(|since| now.saturating_sub(since) > LONGEST_WAIT);
            ensure(!waits, || {
                format!(
                    "connection {id} at address {}{} waits for ever",
                    connection.place, connection.index
                )
            })?;
        }
        Ok(())
    }

    pub(crate) fn at_end(&self, app: &App, now: u64, kernel: &Kernel) -> Verdict {
        ensure(self.is_finished, || "the app never finished".into())?;
        ensure(app.next_deadline().is_none(), || {
            "a finished app wants to be woken".into()
        })?;
        for (request, is_replied) in &self.requests {
            ensure(*is_replied, || format!("{request} has no reply"))?;
        }
        for (worker, known) in &self.workers {
            ensure(known.is_gone, || format!("{worker} was left at {now}"))?;
        }
        for (id, connection) in kernel.connections.iter().enumerate() {
            ensure(connection.fate.is_some(), || {
                format!("connection {id} was left waiting")
            })?;
        }
        Ok(())
    }
}
