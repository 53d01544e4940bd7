//! What brings a reload by itself: changes of the app's files, and the time of day.

use std::path::Path;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use segue_core::{AppPhase, CanaryChoice, Event, Time};
use segue_sys::{clock, readable};
use segue_wire::control::{Asked, Level};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinError, spawn_blocking};

use super::app_shell::{AppShell, Input};
use super::edits::{Changes, Edits};
use super::eye::{Blind, Eye, Seen, Watched};
use super::plan::Plan;
use crate::config::schedule::Schedule;
use crate::config::watch::{Watch, What};
use crate::telemetry::lines;

/// Changes that come while the reload boots that the changes before have brought, or right after it was asked
/// for: after so many in a row it is most likely the app itself that writes.
const IN_A_ROW: u32 = 5;
const RIGHT_AFTER: Duration = Duration::from_secs(3);

/// From then on there is one reload in this time.
const PACE: Duration = Duration::from_secs(30);

/// A change of the machine's clock is noticed within this.
const LOOK: Duration = Duration::from_secs(3600);

/// A time that is so long ago was slept through with the machine, and is not made up for.
const STALE: SignedDuration = SignedDuration::from_mins(10);

/// Of an app.
#[derive(Debug, Default)]
pub(super) struct Triggers {
    watch: Option<FileWatch>,
    /// When changes last brought a reload.
    asked: Option<Time>,
    in_a_row: u32,
    held: Option<Changes>,
    clockwork: Option<Clockwork>,
}

impl Triggers {
    pub(super) fn of(plan: &Plan, inputs: &mpsc::UnboundedSender<Input>) -> Self {
        Self {
            watch: FileWatch::of(plan, inputs),
            clockwork: Clockwork::of(plan, None),
            ..Self::default()
        }
    }

    /// When something is to be done although nothing happens.
    pub(super) fn due(&self) -> Option<Time> {
        let held = self.asked.filter(|_| self.held.is_some());
        let look = self.clockwork.as_ref().map(|clockwork| clockwork.look);
        held.map(|asked| asked + PACE).into_iter().chain(look).min()
    }
}

/// The next time of `restart.at`.
#[derive(Clone, Copy, Debug)]
struct Clockwork {
    at: Timestamp,
    /// The clock is looked at then; `at`, if that is near.
    look: Time,
}

impl Clockwork {
    /// `last` is the time that was kept last: where the clock is set back a little it does not come again.
    fn of(plan: &Plan, last: Option<Timestamp>) -> Option<Self> {
        Self::after(&plan.restart_at?, last, Timestamp::now(), now())
    }

    fn after(
        schedule: &Schedule,
        last: Option<Timestamp>,
        wall: Timestamp,
        now: Time,
    ) -> Option<Self> {
        let recent = last.filter(|last| last.duration_since(wall) < SignedDuration::from_mins(60));
        let from = recent.map_or(wall, |last| last.max(wall));
        let at = schedule.next(from, &TimeZone::system())?;
        let wait = Duration::try_from(at.duration_since(wall)).unwrap_or_default();
        let look = now + wait.min(LOOK);
        Some(Self { at, look })
    }
}

fn now() -> Time {
    Time(clock::monotonic_millis())
}

impl AppShell {
    /// What is due of triggers.
    pub(super) fn pull_triggers(&mut self) {
        let now = self.now();
        let asked = self.triggers.asked;
        if asked.is_some_and(|asked| now >= asked + PACE)
            && let Some(changes) = self.triggers.held.take()
        {
            self.reload_for_changes(&changes);
        }
        if let Some(clockwork) = self.triggers.clockwork
            && now >= clockwork.look
        {
            let late = Timestamp::now().duration_since(clockwork.at);
            let is_time = !late.is_negative();
            let last = is_time.then_some(clockwork.at);
            self.triggers.clockwork = Clockwork::of(&self.plan, last);
            if is_time && late < STALE {
                let written = self.plan.app.written.last("restart.at");
                let text = format!("restart.at ({})", written.unwrap_or_default());
                self.reload_by_itself("schedule", text);
            }
        }
    }

    /// Settings may be others. `before` is what was watched; where, may be another place.
    pub(super) fn set_triggers(&mut self, before: &Watch, is_elsewhere: bool) {
        if *before != self.plan.watch || is_elsewhere || self.triggers.watch.is_none() {
            self.triggers.held = None;
            self.triggers.watch = FileWatch::of(&self.plan, &self.inputs);
        }
        self.triggers.clockwork = Clockwork::of(&self.plan, None);
    }

    pub(super) fn hear_changes(&mut self, changes: Changes) {
        let (now, is_reloading) = (self.now(), self.core.view().reload.is_some());
        let triggers = &mut self.triggers;
        triggers.in_a_row = match triggers.asked {
            Some(asked) if is_reloading || now < asked + RIGHT_AFTER => triggers.in_a_row + 1,
            _ => 0,
        };
        if triggers.in_a_row < IN_A_ROW {
            return self.reload_for_changes(&changes);
        }
        let words = changes.words();
        match &mut triggers.held {
            Some(held) => held.join(changes),
            held => *held = Some(changes),
        }
        if triggers.in_a_row == IN_A_ROW {
            let text = format!(
                "files change while the app boots, again and again ({words}); if it writes them itself, leave them out: watch = [\"!uploads\"]. There is a reload every {} s at most",
                PACE.as_secs()
            );
            self.announce("watch_slowed", Level::Warn, text);
        }
    }

    fn reload_for_changes(&mut self, changes: &Changes) {
        self.triggers.asked = Some(self.now());
        self.reload_by_itself("watch", changes.words());
    }

    pub(super) fn hear_blind(&mut self, why: &Blind) {
        self.triggers.watch = None;
        let text = format!("files are not watched: {why}");
        self.announce("watch_failed", Level::Warn, text);
    }

    /// Nothing is started, resumed or kept from its end by itself.
    fn reload_by_itself(&mut self, by: &str, text: String) {
        match self.core.view().phase {
            AppPhase::Starting | AppPhase::Running => {}
            AppPhase::Paused | AppPhase::Stopping | AppPhase::Finished => return,
        }
        let line = match self.is_one_of_many {
            true => lines::of_app(&self.plan.app.name, "reload asked for by "),
            false => "reload asked for by ".to_owned(),
        };
        self.say(format!("{}{line}{text}", lines::PREFIX));
        let request = self.requests.next();
        let asked = Asked {
            by: by.to_owned(),
            text,
            ..Asked::default()
        };
        self.note_asked(request, "reload", asked);
        let canary = CanaryChoice::AsSet;
        self.feed(Event::ReloadRequested { request, canary });
    }
}

/// A task that watches; it ends with this.
#[derive(Debug)]
struct FileWatch(AbortHandle);

impl Drop for FileWatch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl FileWatch {
    fn of(plan: &Plan, inputs: &mpsc::UnboundedSender<Input>) -> Option<Self> {
        let only = match &plan.watch.what {
            What::Off => return None,
            What::All => Vec::new(),
            What::Only(paths) => paths.clone(),
        };
        let what = Watched {
            cwd: plan.app.cwd.clone(),
            only,
            except: plan.watch.except.clone(),
            log: plan.app.log.clone(),
        };
        let inputs = inputs.clone();
        let task = tokio::spawn(async move {
            if let Err(Stopped::Blind(why)) = watch(what, &inputs).await {
                let _ = inputs.send(Input::Blind(why));
            }
        });
        Some(Self(task.abort_handle()))
    }
}

/// Why a task has ended.
enum Stopped {
    Blind(Blind),
    /// The process ends.
    Over,
}

impl From<Blind> for Stopped {
    fn from(why: Blind) -> Self {
        Self::Blind(why)
    }
}

impl From<JoinError> for Stopped {
    fn from(_: JoinError) -> Self {
        Self::Over
    }
}

/// Tells of changes for as long as somebody listens. Nothing runs while nothing changes.
async fn watch(what: Watched, inputs: &mpsc::UnboundedSender<Input>) -> Result<(), Stopped> {
    let mut edits = Edits::default();
    let first = what.clone();
    let mut eye = spawn_blocking(move || Eye::open(&first)).await??;
    loop {
        let system = |source| Blind::System {
            path: Path::new("inotify").to_owned(),
            source,
        };
        let descriptor = eye.descriptor().map_err(system)?;
        let descriptor = readable::watch(descriptor).map_err(|(_, error)| system(error))?;
        loop {
            let due = edits.due().map(|due| due.since(now()));
            tokio::select! {
                ready = descriptor.readable() => {
                    ready.map_err(system)?.clear_ready();
                }
                () = sleep(due) => {
                    if let Some(changes) = edits.take(now())
                        && inputs.send(Input::Changes(changes)).is_err()
                    {
                        return Ok(());
                    }
                    continue;
                }
            }
            let again = what.clone();
            let (next, seen) = spawn_blocking(move || look(eye, &again)).await??;
            eye = next;
            for edit in seen.edits {
                edits.note(now(), edit);
            }
            if seen.is_turned {
                break;
            }
        }
    }
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

/// Reads what there is, and looks where it leads now.
fn look(mut eye: Eye, what: &Watched) -> Result<(Eye, Seen), Blind> {
    let mut seen = eye.read()?;
    if seen.is_turned {
        let fresh = Eye::open(what)?;
        // What has changed until the new one was there; the way itself has been looked at.
        seen.edits.extend(eye.read()?.edits);
        eye = fresh;
    }
    Ok((eye, seen))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::KEYS;
    use crate::config::settings::AppSettings;

    #[test]
    fn the_clock_is_looked_at_once_an_hour_and_a_time_comes_once() {
        let mut settings = AppSettings::default();
        let key = KEYS.iter().find(|key| key.name == "restart.at").unwrap();
        key.set(&mut settings, "30 * * * *").unwrap();
        let schedule = settings.restart_at.unwrap();
        let half: Timestamp = "2026-03-02T12:30:00Z".parse().unwrap();
        let after = |last: Option<Timestamp>, seconds: i64| {
            let wall = half + SignedDuration::from_secs(seconds);
            Clockwork::after(&schedule, last, wall, Time(0)).unwrap()
        };
        assert_eq!(after(None, -10).at, half);
        assert_eq!(after(None, -10).look, Time(10_000));
        // The clock has been set back by a second since.
        let next = after(Some(half), -1);
        assert!(next.at > half);
        assert_eq!(next.look, Time(3_600_000));
        // By years: what was then is forgotten.
        assert_eq!(after(Some(half), -100_000_000).look.0 % 1000, 0);
        assert!(after(Some(half), -100_000_000).at < half);
    }
}
