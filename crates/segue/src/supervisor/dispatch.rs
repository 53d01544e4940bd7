//! Commands of callers, to the apps that they mean.

use std::path::Path;

use segue_core::{Finish, Time};
use segue_wire::control::{
    App, AppPhase, Differences, Outcome, OutcomeKind, Problem, ProblemCode, Status,
    Supervisor as Process,
};

use super::app_shell::AppShell;
use super::origin;
use super::picture::own_memory;
use super::run::{ENDING, Supervisor};
use crate::control::command::{Asker, Caller, Command};
use crate::control::convert;

impl Supervisor {
    pub(super) fn hear_command(&mut self, command: Command) {
        match command {
            Command::Status { reply } => {
                let _ = reply.send(self.status());
            }
            Command::Start { definition, caller } => self.start(&definition, caller),
            Command::StartAgain { app, caller } => self.start_again(&app, caller),
            Command::Delete { app, caller } => self.delete(&app, caller),
            Command::Compare { body, reply } => {
                let compared = self.understand_all(&body).map(|wanted| Differences {
                    differences: self.differences(Path::new(&body.source), &wanted),
                });
                let _ = reply.send(compared);
            }
            Command::Apply { body, caller } => match self.understand_all(&body) {
                Ok(wanted) => {
                    let asker = caller.accept();
                    let asked = origin::of_caller(asker.peer, "apply");
                    let _ = self.apply(Path::new(&body.source), wanted, &asker, &asked);
                }
                Err(problem) => caller.refuse(problem),
            },
            Command::Events { caller } => {
                let teller = caller.accept().teller;
                for shell in self.apps.values_mut() {
                    shell.callers.watch(teller.clone());
                }
                self.watching.push(teller);
            }
            Command::Reload {
                app: Some(app),
                caller,
                ..
            } if self.is_awaiting_revival(&app) => self.start_again(&app, caller),
            Command::Reload {
                app,
                wait,
                canary,
                caller,
            } => self.each(app.as_deref(), caller, |shell, asker| {
                shell.reload(wait, canary, asker);
            }),
            Command::Promote { app, caller } => {
                self.each(Some(&app), caller, AppShell::promote);
            }
            Command::Rollback { app, caller } => {
                self.each(Some(&app), caller, AppShell::roll_back);
            }
            Command::Restart { app, caller } if self.has_ended(&app) => {
                self.start_again(&app, caller);
            }
            Command::Restart { app, caller } => {
                self.each(Some(&app), caller, AppShell::restart);
            }
            Command::Why { app, reply } => {
                let _ = reply.send(match self.apps.get(&app) {
                    Some(shell) => Ok(shell.story(self.process())),
                    None => Err(self.no_such_app(&app)),
                });
            }
            Command::Scale {
                app,
                scale,
                key,
                reply,
            } => match self.running(&app) {
                Ok(shell) => shell.scale(scale, key.as_deref(), reply),
                Err(problem) => drop(reply.send(Err(problem))),
            },
            Command::ReopenLogs { reply } => {
                let _ = reply.send(self.reopen_logs_for_caller());
            }
            Command::Stop { app, caller } if self.is_awaiting_revival(&app) => {
                self.stop_reviving(&app, caller);
            }
            Command::Stop { app, caller } => self.each(Some(&app), caller, AppShell::stop),
            Command::Shutdown { caller } => self.shut_down(caller),
            Command::Upgrade { binary, caller } => {
                let Asker { key, teller, .. } = caller.accept();
                let (request, is_new) = self.requests.enter(key.as_deref());
                self.callers.upgrade(request, teller);
                match self.requests.outcome_of(request) {
                    Some(outcome) => self.callers.answer(request, outcome),
                    // Whoever was at it may have been killed before it came to anything.
                    None if is_new || self.upgrade.is_none() => {
                        self.begin_upgrade(request, binary);
                    }
                    // It is under way.
                    None => {}
                }
            }
        }
    }

    /// To one app, or to all that run; each has its own outcome.
    fn each(&mut self, app: Option<&str>, caller: Caller, what: impl Fn(&mut AppShell, Asker)) {
        match app {
            Some(app) => match self.running(app) {
                Ok(shell) => what(shell, caller.accept()),
                Err(problem) => caller.refuse(problem),
            },
            None if self.shells().next().is_none() => {
                caller.refuse(Problem::new(
                    ProblemCode::NoSuchApp,
                    "no app runs here",
                    "start one: segue start",
                ));
            }
            None => {
                let asker = caller.accept();
                for shell in self.shells_mut() {
                    what(shell, asker.clone());
                }
            }
        }
    }

    fn shut_down(&mut self, caller: Caller) {
        let asker = caller.accept();
        self.is_ending = true;
        self.site.put(ENDING, &true);
        if self.shells().next().is_none() {
            asker.teller.outcome(Outcome {
                kind: OutcomeKind::Stopped,
                text: "no app ran; the supervisor ends".to_owned(),
                ..Outcome::default()
            });
        }
        for shell in self.shells_mut() {
            shell.stop(asker.clone());
        }
        self.site.commit();
    }

    fn has_ended(&self, app: &str) -> bool {
        let shell = self.apps.get(app);
        shell.is_some_and(|shell| shell.finish.is_some())
    }

    fn running(&mut self, app: &str) -> Result<&mut AppShell, Problem> {
        match self.apps.get(app).map(|shell| shell.finish.is_some()) {
            None => Err(self.no_such_app(app)),
            Some(true) => Err(Problem::new(
                ProblemCode::Conflict,
                format!("{app} is stopped"),
                format!("start it: segue start {app}"),
            )),
            Some(false) => {
                let known = self.apps.get_mut(app);
                known.ok_or_else(|| Problem::new(ProblemCode::NoSuchApp, "it has gone", ""))
            }
        }
    }

    pub(super) fn no_such_app(&self, app: &str) -> Problem {
        let names: Vec<&str> = self.apps.keys().map(String::as_str).collect();
        let next = match names.as_slice() {
            [] => "start one: segue start".to_owned(),
            names => format!("this supervisor runs {}", names.join(", ")),
        };
        Problem::new(
            ProblemCode::NoSuchApp,
            format!("no app {app:?} runs here"),
            next,
        )
    }

    fn status(&self) -> Status {
        let now = self.now();
        let apps = self.apps.values();
        Status {
            supervisor: self.process(),
            apps: apps.map(|shell| picture(shell, now)).collect(),
        }
    }

    fn process(&self) -> Process {
        let since = self.now().since(Time(self.life.began)).as_millis();
        let first = self.apps.values().next();
        Process {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            keeper_pid: Some(self.reach.keeper_pid),
            keeper_version: Some(self.keeper_release.clone()).filter(|it| !it.is_empty()),
            since_ms: u64::try_from(since).unwrap_or(u64::MAX),
            memory: own_memory(),
            control: self.host.control_shown(),
            // All apps share what the service manager has passed on.
            unclaimed: first.map_or_else(Vec::new, |shell| shell.pool.unclaimed()),
        }
    }
}

/// An app as people see it.
fn picture(shell: &AppShell, now: Time) -> App {
    let mut app = convert::app(&shell.core.view(), now, shell);
    if let Some(finish) = &shell.finish {
        app.phase = AppPhase::Finished;
        if matches!(finish, Finish::Stopped { .. }) {
            // It does what it is meant to.
            app.troubles.clear();
            app.slots.clear();
        }
        app.troubles.extend(shell.revival_told(now));
    }
    app
}
