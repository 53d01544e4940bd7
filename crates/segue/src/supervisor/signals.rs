//! Signals, and the keeper's news: what concerns the process concerns every app.

use std::time::Duration;

use segue_core::{Event, ExitStatus, Scale};
use segue_sys::signal::{Handled, Received, Signals};
use segue_wire::handoff::keeper;
use segue_wire::handoff::{FromKeeper, ToKeeper};

use super::app_shell::AppShell;
use super::intent::{self, Intent};
use super::origin;
use super::run::{ENDING, Supervisor};
use super::succession::Life;
use crate::telemetry::lines;

/// A signal to stop that comes so soon after another is the same one: sent to a process and to
/// its group, as timeout(1) does, or to every process of a service.
const ECHO: Duration = Duration::from_millis(100);

impl Supervisor {
    /// Those that run, or are about to stop.
    pub(super) fn shells(&self) -> impl Iterator<Item = &AppShell> {
        self.apps.values().filter(|shell| shell.finish.is_none())
    }

    pub(super) fn shells_mut(&mut self) -> impl Iterator<Item = &mut AppShell> {
        let apps = self.apps.values_mut();
        apps.filter(|shell| shell.finish.is_none())
    }

    pub(super) fn hear_signals(&mut self, signals: &Signals) {
        loop {
            match signals.receive() {
                Ok(Some(received)) => self.hear_signal(received),
                Ok(None) => return,
                Err(error) => {
                    tracing::error!(%error, "cannot read signals");
                    return;
                }
            }
        }
    }

    fn hear_signal(&mut self, received: Received) {
        match intent::of(received) {
            Intent::Reload => {
                let sender = (received.pid != 0).then_some((received.pid, received.uid));
                let asked = origin::of_signal("HUP", sender);
                self.host.say(format!(
                    "{}reload asked for by {}",
                    lines::PREFIX,
                    asked.text
                ));
                self.read_again(asked);
            }
            Intent::Upgrade => {
                let request = self.requests.next();
                self.begin_upgrade(request, None);
            }
            Intent::Stop => self.hear_stop_signal(),
            Intent::Reopen => self.hear_reopen(),
            Intent::Pause => {
                for shell in self.shells_mut() {
                    let request = shell.requests.next();
                    shell.feed(Event::PauseRequested { request });
                }
            }
            Intent::Grow => self.hear_scale(Scale::Up(1)),
            Intent::Shrink => self.hear_scale(Scale::Down(1)),
            Intent::Nothing => {}
        }
    }

    /// What the keeper has to say; nothing more once it is dead.
    pub(super) fn hear_keeper(&mut self, news: Option<FromKeeper>) {
        match news {
            Some(FromKeeper::Signal { number, signal }) => self.hear_forwarded(number, signal),
            Some(FromKeeper::Ended { pid, end }) => {
                let status = match end {
                    keeper::End::Code(code) => ExitStatus::Code(code),
                    keeper::End::Signal(signal) => ExitStatus::Signal(signal),
                };
                for shell in self.apps.values_mut() {
                    shell.crew.hear_end(pid, status);
                }
            }
            Some(FromKeeper::Origin { number, pid, uid }) => {
                self.signal_origin = Some((number, (pid, uid)));
            }
            Some(FromKeeper::TerminalGone) => self.hear_stop("the terminal has gone"),
            Some(FromKeeper::NotHeld(name)) => {
                tracing::warn!(name, "the keeper has no room for a descriptor");
            }
            Some(FromKeeper::Held(_) | FromKeeper::All(_)) => {}
            None => self.hear_keeper_gone(),
        }
    }

    /// A signal that the keeper has been sent. It may come again after a crash.
    fn hear_forwarded(&mut self, number: u64, signal: i32) {
        if number > self.life.last_signal {
            self.life.last_signal = number;
            // Together with what it leads to.
            self.site.put(Life::NAME, &self.life);
            if let Some(signal) = Handled::from_number(signal) {
                let origin = self.signal_origin.take_if(|origin| origin.0 == number);
                let (pid, uid) = origin.map_or((0, 0), |(_, sender)| sender);
                self.hear_signal(Received {
                    signal,
                    from_kernel: false,
                    pid,
                    uid,
                });
            }
            self.site.commit();
        }
        self.keeper.say(ToKeeper::Acknowledge(number), None);
    }

    fn hear_stop_signal(&mut self) {
        let now = self.now();
        let is_echo = self
            .stop_signalled
            .is_some_and(|before| now.since(before) < ECHO);
        if !is_echo {
            self.stop_signalled = Some(now);
            self.hear_stop("asked to stop");
        }
    }

    pub(super) fn hear_stop(&mut self, why: &str) {
        tracing::debug!(why, "stop");
        self.is_ending = true;
        self.site.put(ENDING, &true);
        for shell in self.shells_mut() {
            let request = shell.requests.next();
            shell.feed(Event::StopRequested { request });
        }
        self.site.commit();
    }

    fn hear_scale(&mut self, to: Scale) {
        for shell in self.shells_mut() {
            let request = shell.requests.next();
            shell.feed(Event::ScaleRequested { request, to });
        }
    }

    fn hear_reopen(&self) {
        if self.shells().all(|shell| !shell.has_log()) {
            self.host.say(format!(
                "{}USR1 (reopen log files): there is none; `segue run --log FILE` writes one",
                lines::PREFIX
            ));
        }
        self.reopen_logs();
    }
}
