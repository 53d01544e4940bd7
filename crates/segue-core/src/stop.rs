//! The end of an app: nothing new begins, what is queued and open is finished, the rest is
//! killed in time.

use crate::action::{Action, Finish, Outcome, Refusal};
use crate::app::{App, Phase};
use crate::cause::Leaving;
use crate::datum::portable_record;
use crate::ids::{AddressId, RequestId, WorkerId};
use crate::notice::Notice;
use crate::start::Start;
use crate::time::Time;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stop {
    /// Workers are told to end by then.
    pub(crate) until: Time,
    pub(crate) requests: Vec<RequestId>,
    /// Workers that were ended before they had drained.
    pub(crate) cut_off: u32,
    because: Finish,
}

impl Stop {
    pub(crate) fn because(now: Time, because: Finish) -> Self {
        Self {
            until: now,
            requests: Vec::new(),
            cut_off: 0,
            because,
        }
    }
}

impl App {
    pub(crate) fn request_stop(&mut self, request: RequestId) {
        match &mut self.phase {
            Phase::Finished => self.reply(request, Outcome::Stopped),
            Phase::Stopping(stop) => {
                stop.requests.push(request);
                self.kill_all();
            }
            Phase::New
            | Phase::Preparing { .. }
            | Phase::Starting { .. }
            | Phase::Running
            | Phase::Paused { .. } => {
                if let Some((_, mut stop)) = self.delayed_stop.take() {
                    stop.requests.push(request);
                    self.begin_stop(stop);
                    self.kill_all();
                    return;
                }
                let mut stop = Stop::because(self.now, Finish::Stopped { killed: 0 });
                stop.requests.push(request);
                let delay = self.settings.stop_delay;
                let has_served = matches!(
                    self.phase,
                    Phase::Running
                        | Phase::Starting {
                            was_ready: true,
                            ..
                        }
                );
                if delay.is_zero() || !has_served {
                    self.begin_stop(stop);
                } else {
                    self.delayed_stop = Some((self.now + delay, stop));
                    self.notify(Notice::StopDelayed { delay });
                }
            }
        }
    }

    pub(crate) fn request_kill(&mut self, request: RequestId) {
        self.request_stop(request);
        if let Some((_, stop)) = self.delayed_stop.take() {
            self.begin_stop(stop);
        }
        self.kill_all();
    }

    pub(crate) fn kill_all(&mut self) {
        let ids: Vec<WorkerId> = self.workers.keys().copied().collect();
        for id in ids {
            self.kill(id);
        }
    }

    pub(crate) fn begin_stop(&mut self, mut stop: Stop) {
        stop.until = self.now + self.settings.stop_timeout;
        if let Some((_, delayed)) = self.delayed_stop.take() {
            stop.requests.extend(delayed.requests);
        }
        let start = match self.phase {
            Phase::Preparing { request, since, .. } => Some(Start {
                request,
                since,
                restart: None,
            }),
            Phase::Starting { start, .. } => start,
            Phase::New
            | Phase::Running
            | Phase::Paused { .. }
            | Phase::Stopping(_)
            | Phase::Finished => None,
        };
        self.phase = Phase::Stopping(stop);
        if let Some(Start { request, .. }) = start {
            self.reply(request, Outcome::Refused(Refusal::Stopping));
        }
        self.notify(Notice::Stopping);
        let waiting = self.waiting.take().map(|waiting| waiting.request);
        let reload = self.abandon();
        let reload = reload.iter().flat_map(|reload| {
            let promoted_by = reload.promoted_by.iter().copied();
            reload.callers().chain(promoted_by)
        });
        for request in waiting.into_iter().chain(reload) {
            self.reply(request, Outcome::Refused(Refusal::Stopping));
        }
        let addresses: Vec<AddressId> = self.addresses.keys().copied().collect();
        for address in addresses {
            self.order(Action::ShutGate { address });
        }
        let ids: Vec<WorkerId> = self.workers.keys().copied().collect();
        for id in ids {
            self.leave(id, Leaving::Stop);
        }
        for slot in self.slots.values_mut() {
            slot.occupant = None;
            slot.successor = None;
        }
    }

    pub(crate) fn advance_stop(&mut self, stop: Stop) {
        if !self.workers.is_empty() {
            return;
        }
        let addresses: Vec<AddressId> = self.addresses.keys().copied().collect();
        for address in addresses {
            self.close(address);
        }
        for request in &stop.requests {
            let outcome = match stop.cut_off {
                0 => Outcome::Stopped,
                killed => Outcome::StoppedHard { killed },
            };
            self.reply(*request, outcome);
        }
        // One that was abandoned by this stop before it had workers; nothing is ordered after the end.
        self.report_gone_generations();
        self.phase = Phase::Finished;
        self.order(Action::Finish(match stop.because {
            Finish::Stopped { .. } => Finish::Stopped {
                killed: stop.cut_off,
            },
            because @ (Finish::NeverStarted(_) | Finish::GivenUp) => because,
        }));
    }
}

portable_record!(Stop {
    until,
    requests,
    cut_off,
    because,
});
