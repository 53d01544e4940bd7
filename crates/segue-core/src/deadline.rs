//! When the core wants to be woken, and what it looks like from outside.

use crate::app::{App, CHANNEL_GRACE, Phase};
use crate::boot::HOLD_LIMIT;
use crate::ids::{ReloadId, RequestId};
use crate::notice::ReloadStep;
use crate::reload::{Reload, Step};
use crate::slot::Next;
use crate::time::Time;
use crate::view::{AddressView, AppPhase, AppView, CanaryView, ReloadView, SlotView, WorkerView};
use crate::worker::{ChannelState, Worker};

impl App {
    /// The next instant at which something is due, if anything is. Always after the last one
    /// that was handled.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        let phase = match &self.phase {
            Phase::Preparing { until, .. } => Some(*until),
            Phase::New
            | Phase::Starting { .. }
            | Phase::Running
            | Phase::Paused { .. }
            | Phase::Stopping(_)
            | Phase::Finished => None,
        };
        let respawns = self
            .slots
            .values()
            .filter_map(|slot| match slot.respawn.next {
                Next::At(at)
                    if slot.occupant.is_none() && slot.successor.is_none() && self.respawns() =>
                {
                    (!self.is_pilot_ahead()).then_some(at)
                }
                Next::At(_) | Next::GivenUp => None,
            });
        let workers = self.workers.values().flat_map(|worker| {
            let held = worker.held.iter().filter(|_| worker.is_booting());
            worker
                .deadline()
                .into_iter()
                .chain(held.map(|held| held.since + HOLD_LIMIT))
                .chain(worker.watch.deadline())
                .chain(lost_channel(worker))
        });
        let delayed_stop = self.delayed_stop.as_ref().map(|(at, _)| *at);
        phase
            .into_iter()
            .chain(delayed_stop)
            .chain(self.replacement_deadline())
            .chain(respawns)
            .chain(workers)
            .chain(self.reload_deadline())
            .chain(self.restart_deadline())
            .chain(self.pilot_deadline())
            .chain(self.block_deadlines())
            .chain(self.address_deadlines())
            .min()
    }

    /// The reload that a request has become, while that waits for its turn or goes on.
    #[must_use]
    pub fn reload_of(&self, request: RequestId) -> Option<ReloadId> {
        let current = self.reload.as_ref().map(|it| (it.request, it.id));
        let waiting = self.waiting.as_ref().map(|it| (it.request, it.id));
        let both = [current, waiting].into_iter().flatten();
        both.into_iter()
            .find(|(asked, _)| *asked == request)
            .map(|(_, id)| id)
    }

    /// A picture of everything, for `status`.
    #[must_use]
    pub fn view(&self) -> AppView {
        AppView {
            phase: match &self.phase {
                Phase::New | Phase::Preparing { .. } => AppPhase::Starting,
                Phase::Starting { .. } => AppPhase::Starting,
                Phase::Running => AppPhase::Running,
                Phase::Paused { .. } => AppPhase::Paused,
                Phase::Stopping(_) => AppPhase::Stopping,
                Phase::Finished => AppPhase::Finished,
            },
            serving: self.serving,
            previous: self.previous,
            is_health_shared: self.health.is_shared,
            reload: self.reload.as_ref().map(|reload| self.view_reload(reload)),
            slots: self
                .slots
                .iter()
                .map(|(id, slot)| SlotView {
                    slot: *id,
                    worker: slot.occupant,
                    restarts: slot.respawn.restarts,
                    given_up: slot.respawn.next == Next::GivenUp,
                    respawn_at: match slot.respawn.next {
                        Next::At(at) if slot.occupant.is_none() => Some(at),
                        Next::At(_) | Next::GivenUp => None,
                    },
                })
                .collect(),
            workers: self
                .workers
                .iter()
                .map(|(id, worker)| {
                    let (phase, until) = worker.view_phase();
                    WorkerView {
                        worker: *id,
                        slot: worker.slot,
                        generation: worker.generation,
                        phase,
                        since: worker.since,
                        until,
                        blocked_since: worker.blocked,
                        failing: worker.watch.failure,
                        is_unhealthy: self.is_unhealthy(worker),
                    }
                })
                .collect(),
            addresses: self
                .addresses
                .iter()
                .map(|(id, address)| AddressView {
                    address: *id,
                    sockets: u16::try_from(address.sockets.len()).unwrap_or(u16::MAX),
                    set: address.set.0.clone(),
                    serving: address.published.clone(),
                    steered: address.is_steerable(),
                    refusing: address.is_refusing,
                })
                .collect(),
        }
    }

    fn view_reload(&self, reload: &Reload) -> ReloadView {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let left = self.slots.len().saturating_sub(reload.joined.len());
        let step = match reload.step {
            Step::Preparing { .. } => ReloadStep::Preparing,
            Step::Emptying => ReloadStep::Emptying,
            Step::Room => ReloadStep::Replacing {
                done: count(reload.joined.len()),
                of: count(self.slots.len()),
            },
            Step::Booting => ReloadStep::Booting {
                workers: count(reload.batch.len()),
                of: count(left),
            },
            Step::Proving { .. } => ReloadStep::Proving,
            Step::Canary { canary, .. } => ReloadStep::Canary {
                percent: canary.percent,
                lasts: canary.lasts,
            },
            Step::Opening { .. } | Step::Flipping { .. } => ReloadStep::CuttingOver,
            Step::Probation { .. } => ReloadStep::Probation {
                lasts: self.settings.probation,
            },
        };
        let canary = match reload.step {
            Step::Canary { until, canary } => {
                let (new, old) = reload.tally();
                let percent = canary.percent;
                Some(CanaryView {
                    percent,
                    until,
                    new,
                    old,
                })
            }
            _ => None,
        };
        ReloadView {
            reload: reload.id,
            generation: reload.generation,
            since: reload.since,
            step,
            step_since: reload.step_since,
            until: self.reload_deadline(),
            canary,
        }
    }

    /// Who holds which socket: for tests of the model.
    pub fn holders(&self) -> impl Iterator<Item = (crate::SocketRef, crate::WorkerId)> + '_ {
        self.addresses.iter().flat_map(|(id, address)| {
            address.indexed().flat_map(move |(index, socket)| {
                let socket_ref = crate::SocketRef {
                    address: *id,
                    index,
                };
                socket
                    .holders
                    .iter()
                    .map(move |holder| (socket_ref, *holder))
            })
        })
    }
}

fn lost_channel(worker: &Worker) -> Option<Time> {
    match worker.channel {
        ChannelState::Ended { at } if worker.stays() => Some(at + CHANNEL_GRACE),
        ChannelState::Ended { .. } | ChannelState::Open => None,
    }
}
