//! Boots that do not hurt those who serve: a lower priority until a worker is ready, and a compile
//! cache that the first one fills for the others.

use std::time::SystemTime;

use segue_core::{Event, Generation, WorkerId, WorkerPhase};
use segue_sys::priority;
use segue_wire::control::{Level, Notice};

use super::app_shell::{AppShell, Input};
use crate::config::app::AppConfig;
use crate::config::file::app::Fresh;
use crate::worker::compile_cache::{self, CompileCache};
use crate::worker::launch::{Release, ResolveError};

/// By so much the priority of a worker that boots is lower: it gets a ninth of what the others get
/// where they leave nothing idle.
const LOWER: i32 = 10;

/// The lowest there is.
const LOWEST: i32 = 19;

/// A release that has been resolved.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) release: Release,
    /// Nothing is in its compile cache yet.
    pub(super) is_cold: bool,
    /// Keys whose values in the file are others by now, and stay as they were.
    pub(super) left: Vec<&'static str>,
}

/// The priority of workers that boot, where it can be raised again afterwards.
pub(super) fn boot_priority() -> Option<i32> {
    if !priority::can_be_raised() {
        tracing::debug!("workers boot at normal priority: it could not be raised again");
        return None;
    }
    priority::own().ok().map(|own| (own + LOWER).min(LOWEST))
}

/// A release of the app as it is now; from a file, as that has it now.
fn resolve_afresh(app: &AppConfig) -> Result<(Release, Vec<&'static str>), ResolveError> {
    match app.fresh()? {
        Some(Fresh { config, left }) => Ok((Release::resolve(&config)?, left)),
        None => Ok((Release::resolve(app)?, Vec::new())),
    }
}

impl AppShell {
    /// What a reload does not change is named, lest somebody believes that it has.
    fn say_left(&mut self, left: &[&str]) {
        let text = format!(
            "changed in the file, and left as they were: {}; segue apply makes them so",
            left.join(", ")
        );
        self.announce("settings_left", Level::Warn, text);
    }

    /// News that are none of the core's.
    pub(super) fn announce(&mut self, kind: &str, level: Level, text: String) {
        let since_epoch = Self::wall_clock().duration_since(SystemTime::UNIX_EPOCH);
        let notice = Notice {
            kind: kind.to_owned(),
            app: self.plan.app.name.clone(),
            at_ms: since_epoch.map_or(0, |at| u64::try_from(at.as_millis()).unwrap_or(u64::MAX)),
            level,
            text,
            ..Notice::default()
        };
        if self.plan.host.verbosity.shows(notice.level) {
            for line in self.logged(&notice) {
                self.say(line);
            }
        }
        self.callers.tell(&notice);
    }

    /// Files are looked at, perhaps on a slow disk: not in the loop.
    pub(super) fn prepare(&mut self, generation: Generation, like: Option<Generation>) {
        let app = self.plan.app.clone();
        let inputs = self.inputs.clone();
        let shelf = self.plan.host.shelf.cache().map(std::path::Path::to_owned);
        let like = like.map(|like| self.releases.get(&like).cloned());
        tokio::task::spawn_blocking(move || {
            let release = match like {
                None => resolve_afresh(&app),
                Some(Some(release)) => release.still_there().map(|release| (release, Vec::new())),
                Some(None) => Err(ResolveError::Forgotten),
            };
            let resolved = release.map(|(mut release, left)| {
                let cache =
                    shelf.and_then(|shelf| compile_cache::place(&shelf, &app.name, &release));
                let is_cold = cache.as_ref().is_some_and(|cache| cache.is_cold);
                if let Some(CompileCache { directory, .. }) = cache {
                    release.set_compile_cache(directory);
                }
                Resolved {
                    release,
                    is_cold,
                    left,
                }
            });
            let _ = inputs.send(Input::Resolved(generation, Box::new(resolved)));
        });
    }

    pub(super) fn hear_resolved(
        &mut self,
        generation: Generation,
        resolved: Result<Resolved, ResolveError>,
    ) {
        match resolved {
            Ok(Resolved {
                release,
                is_cold,
                left,
            }) => {
                if !left.is_empty() {
                    self.say_left(&left);
                }
                let serving = self.core.view().serving;
                let changed = self
                    .releases
                    .get(&serving)
                    .is_some_and(|present| release.is_changed_from(present));
                let directory = release.directory().display().to_string();
                self.history
                    .resolved(generation, directory, release.revision());
                let listen = self.pool.wanted(release.listen());
                let name = format!("release/{}", generation.0);
                self.journal.put(&name, &release);
                self.releases.insert(generation, release);
                if is_cold {
                    self.cold.insert(generation);
                }
                self.feed(Event::Prepared {
                    generation,
                    changed,
                    is_cold,
                    listen,
                });
            }
            Err(error) => {
                self.records.release_failed(error.to_string());
                self.feed(Event::PrepareFailed { generation });
            }
        }
    }

    /// The priority of a worker that is about to be started: lower if somebody serves who would feel it.
    pub(super) fn nice_of_boot(&self) -> Option<i32> {
        let workers = self.core.view().workers;
        let mut phases = workers.iter().map(|worker| worker.phase);
        self.boot_priority
            .filter(|_| phases.any(|phase| phase == WorkerPhase::Ready))
    }

    /// A boot that takes long gets normal priority: the others may leave it no time to ever get ready.
    pub(super) fn bound_lower_priority(&self, worker: WorkerId) {
        let limit = self.plan.settings.ready_timeout / 3;
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            tokio::time::sleep(limit).await;
            let _ = inputs.send(Input::BootLasts(worker));
        });
    }

    pub(super) fn raise_priority(&mut self, worker: WorkerId) {
        let Some(member) = self.crew.member_mut(worker) else {
            return;
        };
        if !std::mem::take(&mut member.record.is_lowered) {
            return;
        }
        let pid = member.pid;
        let raised = priority::own().and_then(|own| priority::set_group(pid, own));
        if let Err(error) = raised {
            tracing::warn!(%error, %worker, "cannot give a worker normal priority");
        }
        self.crew.note(worker);
    }

    /// A worker is ready.
    pub(super) fn boot_done(&mut self, worker: WorkerId) {
        self.raise_priority(worker);
        let Some(member) = self.crew.member(worker) else {
            return;
        };
        let generation = member.generation;
        if self.cold.remove(&generation)
            && let Some(channel) = self.crew.channel(worker)
        {
            channel.fill_cache();
        }
        self.watch_pulse(worker);
    }
}
