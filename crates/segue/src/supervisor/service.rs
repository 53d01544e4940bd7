//! What the service manager is told by this supervisor: the app's phase and its state in words, that
//! it lives, that it needs more time. Called after every event and at every turn of the loop; that
//! turn is what the watchdog proves.

use std::io;
use std::time::Duration;

use segue_core::{AppPhase, Notice, Time};
use segue_sys::clock;
use segue_wire::control as wire;

use super::app_shell::AppShell;
use super::run::{RunError, Supervisor};
use crate::keeper::LinkError;
use crate::service::{Notifier, Phase, Told, Watchdog, is_up, line};

/// How long the manager may take to hear our last words.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The service manager, as the loop deals with it.
#[derive(Debug)]
pub(super) struct Service {
    notifier: Notifier,
    told: Told,
}

/// What the service manager is told of an app that its state does not show.
#[derive(Debug, Default)]
pub(super) struct ServiceWord {
    /// A stop has been asked for, which the app's phase does not say yet.
    is_to_stop: bool,
    /// What came of the last reload, if it failed.
    failed: Option<String>,
    /// The end in words.
    last_words: Option<String>,
}

impl Service {
    /// That of this process, whose keeper is `main`.
    pub(super) fn new(main: u32, now: Time) -> Self {
        let variable = |name| std::env::var(name).ok();
        let (micros, pid) = (variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"));
        let watchdog = Watchdog::of(micros.as_deref(), pid.as_deref(), main);
        Self {
            notifier: Notifier::of_this_process(),
            told: Told::new(main, watchdog, now),
        }
    }

    pub(super) fn notifier(&self) -> Notifier {
        self.notifier.clone()
    }

    /// When something is to be said although nothing happens.
    pub(super) fn next(&self) -> Option<Time> {
        if !self.notifier.is_there() {
            return None;
        }
        let times = [self.told.next(), self.notifier.next_try()];
        times.into_iter().flatten().min()
    }

    /// To be called at every turn of the loop.
    pub(super) fn attend(&mut self, now: Time) {
        if !self.notifier.is_there() {
            return;
        }
        self.notifier.try_again(now);
        for message in self.told.due(now) {
            // A ping that comes late says nothing: what waits before it will.
            if message != "WATCHDOG=1" || self.notifier.next_try().is_none() {
                self.notifier.say(&message);
            }
        }
    }

    /// To be called when all is over, with the last words: who has ended is not heard any more.
    pub(super) fn end(&self, last_words: &str) {
        if !last_words.is_empty() {
            self.notifier.say(&status(last_words));
        }
        if !self.notifier.settle(LAST_WORDS) {
            tracing::debug!("the service manager has not heard everything");
        }
    }
}

impl ServiceWord {
    /// News that the app's state does not show.
    pub(super) fn note(&mut self, notice: &Notice, told: &wire::Notice) {
        match notice {
            Notice::ReloadFailed { .. } => self.failed = Some(told.text.clone()),
            Notice::ReloadCommitted { .. } => self.failed = None,
            Notice::StopDelayed { .. } => self.is_to_stop = true,
            _ => {}
        }
    }

    /// The end in words. They are said last, and stay where `systemctl status` shows them.
    pub(super) fn note_end(&mut self, text: &str) {
        self.last_words = Some(text.to_owned());
    }

    pub(super) fn last_words(&self) -> Option<&str> {
        self.last_words.as_deref()
    }
}

impl Supervisor {
    /// Tells the service manager what has changed.
    pub(super) fn tell_service(&mut self) {
        if !self.service.notifier.is_there() {
            return;
        }
        let (phases, lines): (Vec<Phase>, Vec<String>) = self
            .shells()
            .map(|shell| shell.seen_by_service(self))
            .unzip();
        let is_all = |wanted: Phase| phases.iter().all(|phase| *phase == wanted);
        let mut reloads = phases.iter();
        let reload = reloads.find(|phase| matches!(phase, Phase::Reloading(_)));
        let phase = match reload {
            _ if self.is_ending || (is_all(Phase::Stopping) && !phases.is_empty()) => {
                Phase::Stopping
            }
            _ if phases.contains(&Phase::Starting) => Phase::Starting,
            Some(reload) => *reload,
            None => Phase::Running,
        };
        let status = match lines.is_empty() {
            true => "no app runs".to_owned(),
            false => lines.join("; "),
        };
        let micros = clock::monotonic_micros();
        let now = self.now();
        if let Some(message) = self.service.told.see(now, micros, phase, &status) {
            self.service.notifier.say(&message);
        }
    }
}

impl AppShell {
    /// What is to be told of it.
    fn seen_by_service(&self, supervisor: &Supervisor) -> (Phase, String) {
        let view = self.core.view();
        let phase = match (view.phase, view.reload) {
            (AppPhase::Stopping | AppPhase::Finished, _) => Phase::Stopping,
            _ if self.word.is_to_stop => Phase::Stopping,
            (AppPhase::Starting, _) if !supervisor.service.told.is_up() && !is_up(&view) => {
                Phase::Starting
            }
            (_, Some(reload)) => Phase::Reloading(reload.reload),
            (_, None) => Phase::Running,
        };
        let addresses: Vec<String> = view
            .addresses
            .iter()
            .map(|address| self.pool.describe(address.address))
            .collect();
        let failed = self.word.failed.as_deref();
        let text = line(&self.plan.app.name, &view, phase, &addresses, failed);
        (phase, text)
    }
}

/// Tells the service manager why nothing runs.
pub(crate) fn tell_failure(why: &str, errno: Option<i32>) {
    let notifier = Notifier::of_this_process();
    let mut message = status(why);
    if let Some(errno) = errno {
        message.push_str(&format!("\nERRNO={errno}"));
    }
    notifier.say(&message);
    notifier.settle(LAST_WORDS);
}

fn status(text: &str) -> String {
    // The message is made of lines.
    format!("STATUS={}", text.replace('\n', " "))
}

impl RunError {
    /// What the system said, if that is why.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Self::System { source, .. }
            | Self::Metrics { source, .. }
            | Self::Keeper(LinkError::Unusable(source)) => io::Error::raw_os_error(source),
            Self::Control(_) | Self::Keeper(_) | Self::Predecessor(_) | Self::App(_) => None,
        }
    }
}
