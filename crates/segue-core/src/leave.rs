//! How a worker leaves: it gets no new connections, goes on accepting those on their way,
//! finishes what is open, is told to end, is killed. Every step has a deadline.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::action::{Action, Signal};
use crate::address::HANDSHAKE_LIMIT;
use crate::app::{App, CHANNEL_GRACE, Phase as AppState};
use crate::cause::{Cause, Leaving};
use crate::ids::{Generation, WorkerId};
use crate::notice::Notice;
use crate::time::Time;
use crate::worker::{ChannelState, Check, Phase, Worker};

/// Between two looks at a queue that was not empty.
const CHECK_AGAIN: Duration = Duration::from_millis(50);

/// A drained process may end by itself for so long before it is asked to.
const EXIT_GRACE: Duration = Duration::from_millis(500);

/// SIGKILL is sent again after this, in case the process was stuck in the kernel.
const KILL_AGAIN: Duration = Duration::from_secs(5);

impl App {
    /// Asks a worker to leave. Asked again, nothing changes.
    pub(crate) fn leave(&mut self, id: WorkerId, why: Leaving) {
        let now = self.now;
        let kill_at = now + self.settings.kill_after;
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        if !worker.stays() {
            return;
        }
        let slot = worker.slot;
        let has_served = worker.is_ready() || !worker.listens.is_empty();
        // A worker that is ready by its message listens before it is.
        let is_unproven =
            matches!(why, Leaving::Abandoned | Leaving::NotReady) || worker.is_booting();
        worker.held.clear();
        if !has_served || (is_unproven && worker.listens.is_empty()) {
            // No connection has reached it.
            worker.enter(now, Phase::Stopping { why, kill_at });
            self.notify(Notice::WorkerLeaving {
                worker: id,
                slot,
                why,
            });
            self.order(Action::Signal {
                worker: id,
                signal: Signal::Stop,
            });
            return;
        }
        // Connections have reached an unproven one only where they could not be kept away. In a
        // paused app, new ones and those on their way stay in the queues, for whoever comes.
        if is_unproven || matches!(why, Leaving::Pause | Leaving::Restart) {
            self.notify(Notice::WorkerLeaving {
                worker: id,
                slot,
                why,
            });
            let until = match is_unproven {
                true => kill_at,
                false => self.drain_deadline(why),
            };
            self.drain_until(id, why, until);
            return;
        }
        self.quiet(id, why);
    }

    /// The worker may have been given connections: it goes on accepting those on their way.
    pub(crate) fn quiet(&mut self, id: WorkerId, why: Leaving) {
        let now = self.now;
        let settle = self.settings.settle;
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let slot = worker.slot;
        let limit = now + HANDSHAKE_LIMIT.max(settle + CHECK_AGAIN * 4);
        let check = Check::At(now + settle);
        worker.enter(now, Phase::Quiet { why, check, limit });
        self.newly_quiet.push(id);
        self.notify(Notice::WorkerLeaving {
            worker: id,
            slot,
            why,
        });
    }

    pub(crate) fn settle_checked(&mut self, id: WorkerId, clear: bool) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let Phase::Quiet {
            why,
            check: Check::Asked,
            limit,
        } = worker.phase
        else {
            return;
        };
        if clear {
            for address in self.addresses.values_mut() {
                address.note_clear(id);
            }
            self.begin_drain(id, why);
        } else {
            worker.phase = Phase::Quiet {
                why,
                check: Check::At(now + CHECK_AGAIN),
                limit,
            };
        }
    }

    /// Idle connections may go at once: new ones have gone elsewhere from this moment on.
    fn retire(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        if let Phase::Quiet { why, .. } = worker.phase
            && worker.is_preloaded
            && worker.has_channel()
        {
            self.order(Action::Retire { worker: id, why });
        }
    }

    fn begin_drain(&mut self, id: WorkerId, why: Leaving) {
        let until = self.drain_deadline(why);
        self.drain_until(id, why, until);
    }

    /// The preload script has said that nothing is open: the worker does not end by itself.
    pub(crate) fn drained(&mut self, id: WorkerId) {
        let now = self.now;
        let kill_at = now + self.settings.kill_after;
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let Phase::Draining { why, .. } = worker.phase else {
            return;
        };
        let slot = worker.slot;
        let took = now.since(worker.since);
        worker.enter(now, Phase::Stopping { why, kill_at });
        self.notify(Notice::WorkerDrained {
            worker: id,
            slot,
            took,
        });
        self.order(Action::Signal {
            worker: id,
            signal: Signal::Stop,
        });
    }

    /// Asks the worker to finish what is open: over its channel, or where it has none by the stop request.
    fn drain_until(&mut self, id: WorkerId, why: Leaving, until: Time) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        if worker.is_attached && worker.has_channel() {
            let is_preloaded = worker.is_preloaded;
            worker.enter(now, Phase::Draining { why, until });
            self.order(match is_preloaded {
                true => Action::Drain {
                    worker: id,
                    why,
                    until,
                },
                false => Action::Disconnect { worker: id },
            });
        } else {
            worker.enter(
                now,
                Phase::Stopping {
                    why,
                    kill_at: until,
                },
            );
            self.order(Action::Signal {
                worker: id,
                signal: Signal::Stop,
            });
        }
    }

    fn drain_deadline(&self, why: Leaving) -> Time {
        let settings = &self.settings;
        let limit = match why {
            Leaving::Restart => settings.stop_timeout,
            // It finishes nothing while it is blocked.
            Leaving::Unresponsive => settings.drain_timeout.min(settings.stop_timeout),
            _ => settings.drain_timeout,
        };
        match self.phase.stop() {
            Some(stop) => stop.until,
            None => self.now + limit,
        }
    }

    /// A worker whose channel is at its end, and that has not exited in time, is of no use.
    pub(crate) fn fail_lost_channels(&mut self) {
        let now = self.now;
        let lost: Vec<WorkerId> = self
            .workers
            .iter()
            .filter(|(_, worker)| {
                worker.stays()
                    && matches!(worker.channel, ChannelState::Ended { at } if now >= at + CHANNEL_GRACE)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in lost {
            self.fail(id, Cause::ChannelLost, Leaving::ChannelLost);
        }
    }

    /// Moves every worker whose time has come one phase on.
    pub(crate) fn advance_leavers(&mut self) {
        // Only once the sets are in force: what is under way towards a worker then began before.
        let (steering, settling): (Vec<WorkerId>, Vec<WorkerId>) =
            std::mem::take(&mut self.newly_quiet)
                .into_iter()
                .partition(|worker| {
                    self.addresses.values().any(|address| {
                        address.ordered.is_some()
                            && address
                                .sockets
                                .iter()
                                .any(|socket| socket.holders.contains(worker))
                    })
                });
        self.newly_quiet = steering;
        for worker in settling {
            for address in self.addresses.values_mut() {
                address.note(worker);
            }
            self.order(Action::BeginSettle { worker });
            self.retire(worker);
        }
        let ids: Vec<WorkerId> = self.workers.keys().copied().collect();
        for id in ids {
            self.advance_leaver(id);
        }
    }

    fn advance_leaver(&mut self, id: WorkerId) {
        let now = self.now;
        let kill_at = now + self.settings.kill_after;
        let stop_by = self.phase.stop().map(|stop| stop.until);
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let slot = worker.slot;
        let took = now.since(worker.since);
        match worker.phase {
            Phase::Booting { .. } | Phase::Ready => {}
            Phase::Quiet { why, check, limit } => {
                if now >= limit {
                    self.notify(Notice::SettleTimedOut { worker: id, slot });
                    self.begin_drain(id, why);
                } else if matches!(check, Check::At(at) if now >= at)
                    && self.newly_quiet.contains(&id)
                {
                    let check = Check::At(now + CHECK_AGAIN);
                    worker.phase = Phase::Quiet { why, check, limit };
                } else if matches!(check, Check::At(at) if now >= at) {
                    worker.phase = Phase::Quiet {
                        why,
                        check: Check::Asked,
                        limit,
                    };
                    self.order(Action::CheckSettled { worker: id });
                }
            }
            Phase::Draining { why, until } => {
                let shortened = stop_by.map_or(until, |stop_by| until.min(stop_by));
                if let ChannelState::Ended { .. } = worker.channel {
                    let stop_at = now + EXIT_GRACE;
                    worker.enter(now, Phase::Drained { why, stop_at });
                    self.notify(Notice::WorkerDrained {
                        worker: id,
                        slot,
                        took,
                    });
                } else if now >= shortened {
                    worker.enter(now, Phase::Stopping { why, kill_at });
                    self.count_cut_off();
                    self.notify(Notice::DrainTimedOut {
                        worker: id,
                        slot,
                        limit: took,
                    });
                    self.order(Action::Signal {
                        worker: id,
                        signal: Signal::Stop,
                    });
                } else if shortened < until {
                    let is_preloaded = worker.is_preloaded;
                    worker.phase = Phase::Draining {
                        why,
                        until: shortened,
                    };
                    if is_preloaded {
                        self.order(Action::Drain {
                            worker: id,
                            why,
                            until: shortened,
                        });
                    }
                }
            }
            Phase::Drained { why, stop_at } => {
                if now >= stop_at {
                    worker.enter(now, Phase::Stopping { why, kill_at });
                    self.order(Action::Signal {
                        worker: id,
                        signal: Signal::Stop,
                    });
                }
            }
            Phase::Stopping { why, kill_at } => {
                let latest = stop_by.map(|stop_by| stop_by + self.settings.kill_after);
                let kill_at = latest.map_or(kill_at, |latest| kill_at.min(latest));
                if now >= kill_at {
                    self.kill(id);
                } else {
                    worker.phase = Phase::Stopping { why, kill_at };
                }
            }
            Phase::Killed { why, again_at } => {
                if now >= again_at {
                    worker.phase = Phase::Killed {
                        why,
                        again_at: now + KILL_AGAIN,
                    };
                    self.order(Action::Signal {
                        worker: id,
                        signal: Signal::Kill,
                    });
                }
            }
        }
    }

    /// Ends a worker at once, whatever it is doing.
    pub(crate) fn kill(&mut self, id: WorkerId) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let (why, is_cut_off) = match worker.phase {
            Phase::Booting { .. } => (Leaving::Stop, false),
            Phase::Ready => (Leaving::Stop, true),
            Phase::Quiet { why, .. } | Phase::Draining { why, .. } => (why, true),
            Phase::Drained { why, .. } | Phase::Stopping { why, .. } => (why, false),
            Phase::Killed { .. } => return,
        };
        let slot = worker.slot;
        worker.enter(
            now,
            Phase::Killed {
                why,
                again_at: now + KILL_AGAIN,
            },
        );
        if is_cut_off {
            self.count_cut_off();
        }
        self.notify(Notice::WorkerKilled { worker: id, slot });
        self.order(Action::Signal {
            worker: id,
            signal: Signal::Kill,
        });
    }

    /// Ends the oldest generation when too many drain at once.
    pub(crate) fn hurry_generations(&mut self) {
        let now = self.now;
        let why = |worker: &Worker| match worker.phase {
            Phase::Quiet { why, .. } | Phase::Draining { why, .. } => {
                matches!(why, Leaving::Reload | Leaving::Pause).then_some(why)
            }
            Phase::Booting { .. }
            | Phase::Ready
            | Phase::Drained { .. }
            | Phase::Stopping { .. }
            | Phase::Killed { .. } => None,
        };
        let draining: BTreeSet<Generation> = self
            .workers
            .values()
            .filter(|worker| why(worker).is_some())
            .map(|worker| worker.generation)
            .collect();
        let limit = self.settings.drain_generations.max(1);
        let count = u32::try_from(draining.len()).unwrap_or(u32::MAX);
        let excess = usize::try_from(count.saturating_sub(limit)).unwrap_or(0);
        for generation in draining.into_iter().take(excess) {
            self.notify(Notice::GenerationHurried {
                generation,
                draining: count,
                limit,
            });
            let of_generation = |worker: &&mut Worker| worker.generation == generation;
            for worker in self.workers.values_mut().filter(of_generation) {
                if let Some(why) = why(worker) {
                    worker.enter(now, Phase::Draining { why, until: now });
                }
            }
        }
    }

    fn count_cut_off(&mut self) {
        if let AppState::Stopping(stop) = &mut self.phase {
            stop.cut_off += 1;
        }
    }
}
