//! HUP: the files that apps come from are read again, what has changed in them is made so, and every
//! app is reloaded.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use segue_core::{CanaryChoice, Event};
use segue_wire::control::Asked;

use super::run::{Inward, Supervisor};
use crate::config::app::AppConfig;
use crate::config::file::app::{Origin, reread};
use crate::control::command::{Caller, Peer};
use crate::telemetry::lines::PREFIX;

/// Files, with their apps as they are by now, or why they cannot be read.
pub(super) type Reread = Vec<(PathBuf, Result<Vec<AppConfig>, String>)>;

impl Supervisor {
    /// Files are looked at, perhaps on a slow disk: not in the loop.
    pub(super) fn read_again(&mut self, asked: Asked) {
        let whole = self.apps.values().filter_map(|shell| {
            let app = &shell.plan.app;
            let origin = app.origin.as_deref().filter(|origin| origin.is_whole)?;
            Some((
                origin.file.clone(),
                (origin.clone(), app.caller_env.clone()),
            ))
        });
        let files: BTreeMap<PathBuf, (Origin, Vec<_>)> = whole.collect();
        if files.is_empty() {
            return self.reload_all(&asked, &BTreeSet::new());
        }
        let inward = self.inward.clone();
        tokio::task::spawn_blocking(move || {
            let read = files.into_iter().map(|(file, (origin, env))| {
                let apps = reread(&origin, &env).map_err(|error| error.to_string());
                (file, apps)
            });
            let _ = inward.send(Inward::Reread(read.collect(), Box::new(asked)));
        });
    }

    pub(super) fn hear_reread(&mut self, read: Reread, asked: &Asked) {
        let mut renewed = BTreeSet::new();
        // The log is the answer.
        let (caller, _) = Caller::new(None, Peer::default());
        let asker = caller.accept();
        for (file, apps) in read {
            match apps {
                Ok(mut apps) => {
                    let umask = self.umask_of(&file);
                    for app in &mut apps {
                        app.umask = umask;
                    }
                    renewed.extend(self.apply(&file, apps, &asker, asked));
                }
                // Its apps are asked to reload all the same, and say why they cannot.
                Err(why) => self.host.say(format!("{PREFIX}{why}")),
            }
        }
        self.reload_all(asked, &renewed);
    }

    /// That of whoever started the apps of a file.
    fn umask_of(&self, file: &Path) -> Option<u32> {
        let mut apps = self.apps.values().map(|shell| &shell.plan.app);
        let is_its = |app: &&AppConfig| app.origin.as_ref().is_some_and(|it| it.file == file);
        apps.find(is_its)?.umask
    }

    fn reload_all(&mut self, asked: &Asked, but: &BTreeSet<String>) {
        for shell in self.shells_mut() {
            if but.contains(&shell.plan.app.name) {
                continue;
            }
            let request = shell.requests.next();
            shell.note_asked(request, "reload", asked.clone());
            let canary = CanaryChoice::AsSet;
            shell.feed(Event::ReloadRequested { request, canary });
        }
        self.revive_all();
    }
}
