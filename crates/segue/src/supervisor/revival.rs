//! Apps that a background supervisor remembers and that do not come up when it begins, because what they
//! need is not there yet after a boot, or the release is broken: they are tried again until they do, or
//! somebody stops them.

use std::time::Duration;

use segue_core::{Event, Finish, Time};
use segue_wire::control::{Outcome, OutcomeKind, Trouble};

use super::app_shell::AppShell;
use super::run::Supervisor;
use crate::config::quantity;
use crate::control::command::Caller;
use crate::telemetry::lines::PREFIX;

/// How often an app has been tried, for a successor. There until it has come up.
pub(super) const REVIVAL: &str = "revival";

/// The wait after the first try; it doubles up to the longest between two respawns.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// An app that has not come up since the supervisor began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Revival {
    tries: u32,
    /// When it is tried next, if it is not being tried.
    at: Option<Time>,
}

impl AppShell {
    /// It is to come up, however often that takes.
    pub(super) fn revive(&mut self, revival: Revival) {
        self.journal.put(REVIVAL, &revival.tries);
        self.revival = Some(Revival {
            at: None,
            ..revival
        });
    }

    /// As a predecessor has left it.
    pub(super) fn revive_on(&mut self, tries: Option<u32>) {
        self.revival = tries.map(|tries| Revival { tries, at: None });
    }

    /// It has come up, or is not to any more.
    pub(super) fn end_revival(&mut self) {
        if self.revival.take().is_some() {
            self.journal.drop(REVIVAL);
        }
    }

    /// It does not run, and will be tried again.
    pub(super) fn is_awaiting_revival(&self) -> bool {
        self.revival.is_some() && self.finish.is_some()
    }

    pub(super) fn next_revival(&self) -> Option<Time> {
        self.revival?.at
    }

    /// For people.
    pub(super) fn revival_told(&self, now: Time) -> Option<Trouble> {
        let at = self.next_revival()?;
        let wait = Duration::from_secs(at.since(now).as_secs() + 1);
        Some(Trouble {
            kind: "tried_again".to_owned(),
            text: format!(
                "it does not come up; it is tried again within {}",
                quantity::human(wait)
            ),
            next: format!(
                "segue start {name} tries at once, segue stop {name} gives it up",
                name = self.plan.app.name
            ),
        })
    }

    /// One more try has failed, if so: the next one is due later.
    fn await_revival(&mut self) {
        let (Some(revival), Some(finish)) = (self.revival, &self.finish) else {
            return;
        };
        if revival.at.is_some() {
            return;
        }
        if self.is_leaving || matches!(finish, Finish::GivenUp) {
            return self.end_revival();
        }
        let longest = self.plan.settings.backoff_max.max(FIRST_WAIT);
        let wait = FIRST_WAIT * 2_u32.saturating_pow(revival.tries.min(16));
        let wait = wait.min(longest);
        let tries = revival.tries.saturating_add(1);
        self.journal.put(REVIVAL, &tries);
        self.revival = Some(Revival {
            tries,
            at: Some(self.now() + wait),
        });
        self.say(format!(
            "{PREFIX}{} is tried again in {}",
            self.plan.app.name,
            quantity::human(wait)
        ));
    }
}

impl Supervisor {
    /// To be called after every event.
    pub(super) fn await_revivals(&mut self) {
        if self.is_ending {
            return;
        }
        for shell in self.apps.values_mut() {
            shell.await_revival();
        }
    }

    /// Tries those whose time has come.
    pub(super) fn revive_due(&mut self) {
        let now = self.now();
        self.revive_by(now);
    }

    /// Tries all of them, whenever they would be due.
    pub(super) fn revive_all(&mut self) {
        self.revive_by(Time(u64::MAX));
    }

    fn revive_by(&mut self, now: Time) {
        if self.is_ending {
            return;
        }
        let due = self.apps.values().filter_map(|shell| {
            let is_due = shell.next_revival().is_some_and(|at| at <= now);
            is_due.then(|| shell.plan.app.clone())
        });
        let due: Vec<_> = due.collect();
        for app in due {
            let name = app.name.clone();
            let Some(revival) = self.apps.get(&name).and_then(|shell| shell.revival) else {
                continue;
            };
            let plan = match self.plan_anyhow(app, None) {
                Ok(plan) => plan,
                Err(error) => {
                    self.host.say(format!("{PREFIX}{name}: {error}"));
                    if let Some(shell) = self.apps.get_mut(&name) {
                        shell.revive(revival);
                    }
                    continue;
                }
            };
            self.clear(&name);
            let shell = self.add(plan);
            shell.revive(revival);
            let request = shell.requests.next();
            shell.feed(Event::StartRequested { request });
        }
    }

    /// Gives up an app that would be tried again.
    pub(super) fn stop_reviving(&mut self, app: &str, caller: Caller) {
        let Some(shell) = self.apps.get_mut(app) else {
            return caller.refuse(self.no_such_app(app));
        };
        shell.end_revival();
        shell.journal.commit();
        caller.accept().teller.outcome(Outcome {
            kind: OutcomeKind::Stopped,
            app: app.to_owned(),
            text: format!("{app} is stopped: it had not come up, and is not tried again"),
            ..Outcome::default()
        });
    }

    pub(super) fn is_awaiting_revival(&self, app: &str) -> bool {
        let shell = self.apps.get(app);
        shell.is_some_and(AppShell::is_awaiting_revival)
    }
}
