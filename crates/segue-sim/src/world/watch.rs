//! What the shell finds out about workers: probes, pings, counts.

use segue_core::{Event, ProbeFailure, ProbeVerdict, WorkerId};

use super::{Happening, World};
use crate::plan::OnProbe;

/// A probe has this long.
const PROBE_LIMIT: u64 = 1_000;

/// Between two looks at the counts.
const READ_AGAIN: u64 = 500;

impl World<'_> {
    pub(super) fn answer_probe(&mut self, worker: WorkerId) {
        let now = self.now;
        let is_outage = self
            .plan
            .outage
            .is_some_and(|(from, to)| (from..to).contains(&now));
        let Some(process) = self.process(worker) else {
            return;
        };
        let age = now - process.born;
        let failed = |failure| (ProbeVerdict::Failed(failure), 0);
        let passed = (ProbeVerdict::Passed, 0);
        let status = failed(ProbeFailure::Status(503));
        let (verdict, after) = if !process.is_alive {
            failed(ProbeFailure::Refused)
        } else if process.blocked_until > now {
            (ProbeVerdict::Failed(ProbeFailure::TimedOut), PROBE_LIMIT)
        } else if process.listening.is_empty() {
            failed(ProbeFailure::NoAddress)
        } else {
            match process.script.on_probe {
                OnProbe::Hangs => return,
                OnProbe::Unsteerable => failed(ProbeFailure::Unsteerable),
                _ if is_outage => status,
                OnProbe::FailsUntil(until) if age < until => status,
                OnProbe::FailsFrom(from) if age >= from => status,
                OnProbe::FailsBetween(from, to) if (from..to).contains(&age) => status,
                OnProbe::Passes
                | OnProbe::FailsUntil(_)
                | OnProbe::FailsFrom(_)
                | OnProbe::FailsBetween(..) => passed,
            }
        };
        let at = now + after + self.delay();
        self.at(at, Happening::Told(Event::Probed { worker, verdict }));
    }

    /// A worker has been blocked for a second, or is no more.
    pub(super) fn ping(&mut self, worker: WorkerId) {
        let now = self.now;
        let Some(process) = self.process(worker) else {
            return;
        };
        if !process.is_alive {
            return;
        }
        let until = process.blocked_until;
        if until > now {
            self.say(worker, Event::Blocked { worker });
            self.at(until, Happening::Pinged(worker));
        } else {
            self.say(worker, Event::Unblocked { worker });
        }
    }

    pub(super) fn count(&mut self, worker: WorkerId) {
        if let Some(process) = self.process(worker) {
            process.counts = Some((0, 0));
            self.at(self.now + READ_AGAIN, Happening::Read(worker));
        }
    }

    pub(super) fn read_counts(&mut self, worker: WorkerId) {
        let Some(process) = self.process(worker) else {
            return;
        };
        if let Some((answers, errors)) = process.counts.filter(|_| process.is_alive) {
            let event = Event::Counted {
                worker,
                answers,
                errors,
            };
            self.say(worker, event);
            self.at(self.now + READ_AGAIN, Happening::Read(worker));
        }
    }
}
