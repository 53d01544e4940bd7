//! When the core wants to be woken, and what it looks like from outside.

use crate::app::{App, CHANNEL_GRACE, Phase};
use crate::notice::ReloadStep;
use crate::reload::{HOLD_LIMIT, Reload, Step};
use crate::slot::Next;
use crate::time::Time;
use crate::view::{AddressView, AppPhase, AppView, ReloadView, SlotView, WorkerView};
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
                    Some(at)
                }
                Next::At(_) | Next::GivenUp => None,
            });
        let workers = self.workers.values().flat_map(|worker| {
            let held = worker.held.iter().filter(|_| worker.is_booting());
            worker
                .deadline()
                .into_iter()
                .chain(held.map(|held| held.since + HOLD_LIMIT))
                .chain(lost_channel(worker))
        });
        let reload = self.reload.as_ref().and_then(|reload| match reload.step {
            Step::Preparing { until } | Step::Opening { until } | Step::Flipping { until } => {
                Some(until)
            }
            Step::Booting => self.proven_at(),
        });
        let delayed_stop = self.delayed_stop.as_ref().map(|(at, _)| *at);
        phase
            .into_iter()
            .chain(delayed_stop)
            .chain(self.replacement_deadline())
            .chain(respawns)
            .chain(workers)
            .chain(reload)
            .chain(self.address_deadlines())
            .min()
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
            previous: None,
            is_health_shared: false,
            reload: self.reload.as_ref().map(
                |Reload {
                     id,
                     generation,
                     since,
                     ..
                 }| ReloadView {
                    reload: *id,
                    generation: *generation,
                    since: *since,
                    step: ReloadStep::Preparing,
                    step_since: *since,
                    until: None,
                    canary: None,
                },
            ),
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
                        blocked_since: None,
                        failing: None,
                        is_unhealthy: false,
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
