//! What a background supervisor remembers of its apps: a file that is replaced whenever they change,
//! and read when it begins. So they come back after a reboot as they were.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use segue_core::{Event, Finish};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::app_shell::AppShell;
use super::revival::Revival;
use super::run::Supervisor;
use super::triggers::Triggers;
use crate::config::app::AppConfig;
use crate::telemetry::lines::PREFIX;

/// How long a disk may take for it when the supervisor ends.
const LAST_WRITE: Duration = Duration::from_secs(5);

/// The form of the file.
const VERSION: u32 = 1;

#[derive(Debug, Deserialize, Serialize)]
struct Remembered {
    version: u32,
    apps: Vec<One>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct One {
    app: AppConfig,
    /// It is not to run.
    #[serde(default)]
    is_stopped: bool,
    /// As it was scaled last, if it runs.
    #[serde(default)]
    workers: Option<u32>,
}

/// What makes the file another one.
#[derive(Debug)]
struct Seen {
    name: String,
    workers: Option<u32>,
    definitions: u64,
}

impl Seen {
    fn of(shell: &AppShell) -> Self {
        Self {
            name: shell.plan.app.name.clone(),
            workers: running(shell),
            definitions: shell.definitions,
        }
    }

    fn is_of(&self, shell: &AppShell) -> bool {
        let Self {
            name,
            workers,
            definitions,
        } = self;
        *name == shell.plan.app.name
            && *workers == running(shell)
            && *definitions == shell.definitions
    }
}

impl One {
    fn of(shell: &AppShell) -> Self {
        let workers = running(shell);
        Self {
            app: shell.plan.app.clone(),
            is_stopped: workers.is_none(),
            workers,
        }
    }
}

/// How many workers it is to have, unless it is stopped.
fn running(shell: &AppShell) -> Option<u32> {
    match shell.finish {
        None => Some(shell.slots()),
        Some(_) => (shell.revival.is_some()).then_some(shell.plan.settings.workers),
    }
}

/// What is to be written next, and what was last.
#[derive(Debug, Default)]
pub(super) struct Memory {
    seen: Vec<Seen>,
    /// What this supervisor cannot run. Another release may.
    aside: Vec<One>,
    next: Arc<Next>,
    last: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Next {
    /// The newest, until somebody writes it. Never held for long.
    text: Mutex<Option<String>>,
    /// Held while it is written, so that an older one does not come later.
    writing: Mutex<()>,
}

impl Memory {
    /// To be called at the end: what is being written is to be whole.
    pub(super) async fn settle(self) {
        if let Some(last) = self.last {
            let _ = timeout(LAST_WRITE, last).await;
        }
    }
}

impl Supervisor {
    /// Writes down which apps there are, if that has changed.
    pub(super) fn remember(&mut self) {
        let Some(path) = self.host.memory.clone() else {
            return;
        };
        // What is to end with the supervisor is to come back with it.
        if self.is_ending {
            return;
        }
        let staying = || {
            let apps = self.apps.values();
            apps.filter(|shell| !shell.is_leaving && !shell.is_on_trial)
        };
        // At every turn of the loop, so without making anything.
        if staying().count() == self.memory.seen.len()
            && staying()
                .zip(&self.memory.seen)
                .all(|(shell, seen)| seen.is_of(shell))
        {
            return;
        }
        let aside = self.memory.aside.iter();
        let aside = aside.filter(|one| !self.apps.contains_key(&one.app.name));
        let aside = aside.cloned();
        let remembered = Remembered {
            version: VERSION,
            apps: staying().map(One::of).chain(aside).collect(),
        };
        let seen = staying().map(Seen::of).collect();
        self.memory.seen = seen;
        let text = match serde_json::to_string_pretty(&remembered) {
            Ok(text) => text,
            Err(error) => {
                tracing::error!(%error, "cannot write down which apps there are; this is a bug in segue");
                return;
            }
        };
        let next = Arc::clone(&self.memory.next);
        *lock(&next.text) = Some(text);
        let host = self.host.clone();
        // A disk may take its time.
        self.memory.last = Some(tokio::task::spawn_blocking(move || {
            let _turn = lock(&next.writing);
            let text = lock(&next.text).take();
            if let Some(text) = text
                && let Err(error) = replace(&path, &text)
            {
                host.say(format!(
                    "{PREFIX}cannot remember which apps there are in {}: {error}; they will not come back after a reboot",
                    path.display()
                ));
            }
        }));
    }

    /// The apps of an earlier life.
    pub(super) fn recall(&mut self) {
        let Some(path) = self.host.memory.clone() else {
            return;
        };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return self.set_aside(&path, &error.to_string()),
        };
        let remembered: Remembered = match serde_json::from_str(&text) {
            Ok(Remembered { version, .. }) if version != VERSION => {
                let why = format!("its form {version} is another release's");
                return self.set_aside(&path, &why);
            }
            Ok(remembered) => remembered,
            Err(error) => return self.set_aside(&path, &error.to_string()),
        };
        for remembered in remembered.apps {
            let One {
                mut app,
                is_stopped,
                workers,
            } = remembered;
            let name = app.name.clone();
            if let Some(workers) = workers.filter(|workers| *workers > 0) {
                app.written.push("workers", workers.to_string());
            }
            if self.apps.contains_key(&name) {
                continue;
            }
            match self.plan_anyhow(app.clone(), None) {
                Ok(plan) => {
                    let shell = self.add(plan);
                    if is_stopped {
                        shell.finish = Some(Finish::Stopped { killed: 0 });
                        shell.triggers = Triggers::default();
                    } else {
                        shell.revive(Revival::default());
                        let request = shell.requests.next();
                        shell.feed(Event::StartRequested { request });
                    }
                }
                Err(why) => {
                    self.host.say(format!(
                        "{PREFIX}{name} is not started, and not forgotten: {why}"
                    ));
                    self.memory.aside.push(One {
                        app,
                        is_stopped,
                        workers,
                    });
                }
            }
        }
    }

    /// Nothing of it is lost: somebody may want to look.
    fn set_aside(&self, path: &Path, why: &str) {
        let aside = path.with_extension("unreadable");
        let kept = match fs::rename(path, &aside) {
            Ok(()) => format!("it is kept as {}", aside.display()),
            Err(error) => format!("and cannot be set aside: {error}"),
        };
        self.host.say(format!(
            "{PREFIX}cannot read which apps there were in {}: {why}; {kept}",
            path.display()
        ));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All of it or nothing, also when the machine stops in the middle.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    let fresh: PathBuf = path.with_extension("new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    File::open(directory)?.sync_all()
}
