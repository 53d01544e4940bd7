//! Which apps there are: started, deleted, and made what a file says.

use std::collections::BTreeSet;
use std::path::Path;

use segue_core::{Event, Finish, Scale};
use segue_wire::control::{
    ApplyBody, Asked, CanaryWish, Difference, KeyChange, Level, Outcome, OutcomeKind, Problem,
    ProblemCode, Wait,
};
use serde::Deserialize;
use serde_json::Value;

use super::app_shell::AppShell;
use super::plan::Plan;
use super::run::Supervisor;
use super::succession::app_prefix;
use crate::config::app::AppConfig;
use crate::config::change::{self, Change, Effect};
use crate::config::command::is_app_name;
use crate::control::command::{Asker, Caller};

/// It is to be forgotten when it has stopped.
pub(super) const LEAVING: &str = "leaving";

impl Supervisor {
    /// An app that is new here.
    pub(super) fn start(&mut self, definition: &Value, caller: Caller) {
        let app = match self.understand(definition) {
            Ok(app) => app,
            Err(problem) => return caller.refuse(problem),
        };
        let key = caller.key().map(str::to_owned);
        if let Some(shell) = self.apps.get_mut(&app.name)
            && shell.finish.is_none()
        {
            if let Some(request) = key.as_deref().and_then(|key| shell.requests.known(key)) {
                // The same request again: the supervisor was replaced in between.
                shell.callers.wait(request, caller.accept().teller);
                return shell.go_on(request, false, Event::StartRequested { request });
            }
            return caller.refuse(Problem::new(
                ProblemCode::Conflict,
                format!("{} runs already", app.name),
                format!(
                    "for new code: segue reload {name}; for another configuration: segue apply, or segue delete {name} first",
                    name = app.name
                ),
            ));
        }
        match self.plan(app) {
            Ok(plan) => self.launch(plan, caller.accept(), true),
            Err(problem) => caller.refuse(problem),
        }
    }

    /// One that has been stopped.
    pub(super) fn start_again(&mut self, name: &str, caller: Caller) {
        let Some(shell) = self.apps.get(name) else {
            return caller.refuse(self.no_such_app(name));
        };
        if shell.finish.is_none() {
            return caller.refuse(Problem::new(
                ProblemCode::Conflict,
                format!("{name} runs already"),
                format!("for new code: segue reload {name}"),
            ));
        }
        match self.plan(shell.plan.app.clone()) {
            Ok(plan) => self.launch(plan, caller.accept(), false),
            Err(problem) => caller.refuse(problem),
        }
    }

    fn plan(&self, app: AppConfig) -> Result<Plan, Problem> {
        Plan::of(app, &self.host, None).map_err(|why| {
            Problem::new(
                ProblemCode::BadRequest,
                why,
                "correct that and start it again",
            )
        })
    }

    fn launch(&mut self, plan: Plan, asker: Asker, is_on_trial: bool) {
        let name = plan.app.name.clone();
        let is_known = self.apps.contains_key(&name);
        let revival = self.apps.get(&name).and_then(|shell| shell.revival);
        self.clear(&name);
        let shell = self.add(plan);
        if let Some(revival) = revival {
            shell.revive(revival);
        }
        shell.is_on_trial = is_on_trial && !is_known;
        let (request, is_new) = shell.requests.enter(asker.key.as_deref());
        shell.callers.wait(request, asker.teller);
        shell.go_on(request, is_new, Event::StartRequested { request });
        self.site.commit();
    }

    /// What is left of an app that has ended is not needed any more.
    pub(super) fn clear(&mut self, name: &str) {
        if self.apps.remove(name).is_some() {
            let prefix = app_prefix(name);
            self.site.drop_all(&prefix);
            self.site.commit();
            self.holder.release_all(&prefix);
            self.tell_apart();
        }
    }

    /// Where there are several apps, or may be, what is said of one says which it is.
    pub(super) fn tell_apart(&mut self) {
        let are_many = self.host.memory.is_some() || self.apps.len() > 1;
        for shell in self.apps.values_mut() {
            shell.is_one_of_many = are_many;
        }
    }

    /// Stops an app and forgets it.
    pub(super) fn delete(&mut self, name: &str, caller: Caller) {
        let Some(shell) = self.apps.get_mut(name) else {
            return caller.refuse(self.no_such_app(name));
        };
        shell.leave(caller.accept());
        self.site.commit();
    }

    /// What follows from what apps have come to.
    pub(super) fn settle_roster(&mut self) {
        let is_gone = |shell: &AppShell| match &shell.finish {
            Some(Finish::NeverStarted(_)) => shell.is_on_trial || shell.is_leaving,
            Some(_) => shell.is_leaving,
            None => false,
        };
        let gone = self.apps.iter().filter(|(_, shell)| is_gone(shell));
        let gone: Vec<String> = gone.map(|(name, _)| name.clone()).collect();
        for name in &gone {
            // The last app in the foreground is the end; its words are still to be said.
            if self.host.memory.is_some() || self.apps.len() > 1 {
                self.clear(name);
                self.site.commit();
            }
        }
        self.remember();
    }

    /// What would have to change for a file to be what runs.
    pub(super) fn differences(&self, source: &Path, wanted: &[AppConfig]) -> Vec<Difference> {
        let kept = wanted.iter().map(|app| {
            let (fate, keys) = self.fate(app);
            (app.name.as_str(), fate, keys)
        });
        let gone = self.gone(source, wanted);
        let gone = gone.map(|name| (name, Fate::Delete, Vec::new()));
        let all = kept.chain(gone);
        all.map(|(name, fate, keys)| Difference {
            app: name.to_owned(),
            change: fate.name().to_owned(),
            keys: keys.into_iter().map(shown).collect(),
        })
        .collect()
    }

    /// Apps that a file has had and does not have any more.
    fn gone<'a>(
        &'a self,
        source: &'a Path,
        wanted: &'a [AppConfig],
    ) -> impl Iterator<Item = &'a str> {
        let apps = self.apps.iter().filter(move |(name, shell)| {
            is_from(&shell.plan.app, source) && !wanted.iter().any(|app| app.name == **name)
        });
        apps.map(|(name, _)| name.as_str())
    }

    fn fate(&self, wanted: &AppConfig) -> (Fate, Vec<Change>) {
        let Some(shell) = self.apps.get(&wanted.name) else {
            return (Fate::Start, Vec::new());
        };
        let keys = change::between(&shell.plan.app, shell.slots(), wanted);
        let does = |effect| keys.iter().any(|change| change.effect == effect);
        let fate = if shell.finish.is_some() {
            Fate::Start
        } else if keys.is_empty() {
            Fate::Same
        } else if does(Effect::Reload) {
            Fate::Reload
        } else if does(Effect::Scale) {
            Fate::Scale
        } else {
            Fate::Adjust
        };
        (fate, keys)
    }

    /// All apps of a file.
    pub(super) fn understand_all(&self, body: &ApplyBody) -> Result<Vec<AppConfig>, Problem> {
        let definitions = body.definitions.iter();
        let apps = definitions.map(|app| self.understand(app));
        apps.map(|app| Ok(self.at_home(app?))).collect()
    }

    /// An app of a supervisor in the foreground lives where that was started, whoever applies its file.
    fn at_home(&self, app: AppConfig) -> AppConfig {
        let like = self.apps.get(&app.name).or(self.apps.values().next());
        match like.filter(|_| self.host.memory.is_none()) {
            Some(like) => AppConfig {
                caller_env: like.plan.app.caller_env.clone(),
                umask: like.plan.app.umask,
                ..app
            },
            None => app,
        }
    }

    /// An app as it comes over the socket.
    fn understand(&self, definition: &Value) -> Result<AppConfig, Problem> {
        let app = AppConfig::deserialize(definition);
        let mut app = app.map_err(|error| {
            Problem::new(
                ProblemCode::BadRequest,
                format!("the definition of the app cannot be understood: {error}"),
                "use a segue of the supervisor's release, or segue upgrade",
            )
        })?;
        if !is_app_name(&app.name) {
            return Err(Problem::new(
                ProblemCode::BadRequest,
                format!("{:?} is no name of an app", app.name),
                "use letters, digits, dots, dashes and underscores",
            ));
        }
        self.host.give_log(&mut app);
        Ok(app)
    }

    /// Makes a file what runs. Each app that has to change has its own outcome. `asked` is who wants it.
    /// Says which apps have new workers by that, or none at all.
    pub(super) fn apply(
        &mut self,
        source: &Path,
        wanted: Vec<AppConfig>,
        asker: &Asker,
        asked: &Asked,
    ) -> BTreeSet<String> {
        let gone: Vec<String> = self.gone(source, &wanted).map(str::to_owned).collect();
        let mut renewed = BTreeSet::new();
        for app in wanted {
            let name = app.name.clone();
            let (fate, keys) = self.fate(&app);
            match fate {
                Fate::Start => match self.plan(app) {
                    Ok(plan) => self.launch(plan, asker.clone(), true),
                    Err(problem) => asker.teller.outcome(not_done(&name, problem)),
                },
                _ => self.change(&name, app, &keys, asker, asked),
            }
            if matches!(fate, Fate::Start | Fate::Reload) {
                renewed.insert(name);
            }
        }
        for name in gone {
            if let Some(shell) = self.apps.get_mut(&name) {
                shell.leave(asker.clone());
            }
            renewed.insert(name);
        }
        self.site.commit();
        renewed
    }

    /// Other keys of an app that runs, or none.
    fn change(
        &mut self,
        name: &str,
        wanted: AppConfig,
        keys: &[Change],
        asker: &Asker,
        asked: &Asked,
    ) {
        let Some(shell) = self.apps.get_mut(name) else {
            return;
        };
        if keys.is_empty() {
            // What its caller has by now.
            shell.redefine(wanted);
            return asker.teller.outcome(done(name, "is as the file says"));
        }
        let is_logged_elsewhere = keys.iter().any(|change| change.key.starts_with("log."));
        let fresh = match is_logged_elsewhere {
            true => Plan::of(wanted, &self.host, None),
            false => Plan::with_writer(wanted, &self.host, shell.plan.writer.clone()),
        };
        let fresh = match fresh {
            Ok(fresh) => fresh,
            Err(why) => {
                let problem = Problem::new(ProblemCode::BadRequest, why, "correct that");
                return asker.teller.outcome(not_done(name, problem));
            }
        };
        let to = Scale::To(fresh.settings.workers);
        shell.adjust(fresh, is_logged_elsewhere);
        let does = |effect| keys.iter().any(|change| change.effect == effect);
        let (scales, reloads) = (does(Effect::Scale), does(Effect::Reload));
        if scales {
            let request = shell.requests.next();
            if !reloads {
                shell.callers.wait(request, asker.teller.clone());
            }
            shell.feed(Event::ScaleRequested { request, to });
        }
        if reloads {
            let (wait, canary) = (Wait::Committed, CanaryWish::AsSet);
            shell.reload_for(asked.clone(), wait, canary, asker.clone());
        } else if !scales {
            let text = "is adjusted, with no restart";
            asker.teller.outcome(done(name, text));
        }
    }
}

/// What becomes of an app by a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Start,
    Delete,
    Reload,
    Scale,
    Adjust,
    Same,
}

impl Fate {
    const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Delete => "delete",
            Self::Reload => "reload",
            Self::Scale => "scale",
            Self::Adjust => "adjust",
            Self::Same => "same",
        }
    }
}

fn shown(change: Change) -> KeyChange {
    KeyChange {
        key: change.key,
        from: change.from,
        to: change.to,
        effect: change.effect.name().to_owned(),
    }
}

impl AppShell {
    /// Ends, and is forgotten then.
    fn leave(&mut self, asker: Asker) {
        self.is_leaving = true;
        self.journal.put(LEAVING, &true);
        match self.finish {
            None => self.stop(asker),
            Some(_) => asker
                .teller
                .outcome(done(&self.plan.app.name, "is deleted")),
        }
    }

    /// The same settings, meant anew.
    fn redefine(&mut self, app: AppConfig) {
        self.plan.app = app;
        self.note_definition();
    }

    fn note_definition(&mut self) {
        self.definitions += 1;
        self.journal.put(super::app_shell::PLAN, &self.plan.app);
    }

    /// Other settings, from now on. What is under way goes on as it was begun.
    fn adjust(&mut self, fresh: Plan, is_logged_elsewhere: bool) {
        let before = std::mem::replace(&mut self.plan, fresh);
        self.core.adjust(self.plan.settings.clone());
        self.plan.settings = self.core.settings().clone();
        self.proving.ask(self.plan.probe.clone());
        self.weigh_from_now();
        if before.memory_limits != self.plan.memory_limits {
            let refused = self.crew.limit_memory(self.plan.memory_limits);
            self.note_limits(refused);
        }
        if is_logged_elsewhere {
            self.log_elsewhere(before.writer.clone());
        }
        let (was, is) = (&before.app, &self.plan.app);
        let is_elsewhere = was.cwd != is.cwd || was.log != is.log;
        self.set_triggers(&before.watch, is_elsewhere);
        self.note_definition();
        // Events before this one were decided with the settings before.
        self.note_core();
        self.journal.commit();
        let text = format!("{} has other settings now", self.plan.app.name);
        self.announce("settings_changed", Level::Info, text);
    }
}

fn is_from(app: &AppConfig, source: &Path) -> bool {
    app.origin
        .as_ref()
        .is_some_and(|origin| origin.file == source)
}

fn done(app: &str, text: &str) -> Outcome {
    Outcome {
        kind: OutcomeKind::Applied,
        app: app.to_owned(),
        text: format!("{app} {text}"),
        ..Outcome::default()
    }
}

fn not_done(app: &str, problem: Problem) -> Outcome {
    Outcome {
        kind: OutcomeKind::Refused,
        app: app.to_owned(),
        text: problem.message,
        next: problem.next,
        refusal: Some("bad_definition".to_owned()),
        ..Outcome::default()
    }
}
