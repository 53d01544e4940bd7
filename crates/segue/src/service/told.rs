//! What the service manager has been told of the app, and so what is to be said next. Reads no clock
//! and sends nothing.

use std::time::Duration;

use segue_core::{ReloadId, Time};

/// While the app starts, reloads or stops it asks for so much time from now on, so often: systemd
/// would take an app for hung that needs longer than its own limits.
const EXTENSION: Duration = Duration::from_secs(30);
const EXTENDING: Duration = Duration::from_secs(10);

/// Between two changes of the status line alone.
const STATUS_PAUSE: Duration = Duration::from_millis(200);

/// What the service manager can understand of what goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Starting,
    Running,
    Reloading(ReloadId),
    Stopping,
}

/// The interval at which it wants to hear that we live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Watchdog(Duration);

impl Watchdog {
    /// From `WATCHDOG_USEC` and `WATCHDOG_PID`, if it is meant for the service whose main process is
    /// `main`: half of what it says.
    pub(crate) fn of(micros: Option<&str>, pid: Option<&str>, main: u32) -> Option<Self> {
        let micros: u64 = micros?.parse().ok().filter(|micros| *micros > 1)?;
        let is_ours = match pid {
            Some(pid) => pid.parse() == Ok(main),
            None => true,
        };
        is_ours.then(|| Self(Duration::from_micros(micros / 2)))
    }
}

/// The picture that the service manager has.
#[derive(Debug)]
pub(crate) struct Told {
    /// The main process.
    main: u32,
    phase: Option<Phase>,
    status: String,
    /// The status as it is by now, and when it may be told.
    next_status: Option<(String, Time)>,
    status_at: Time,
    extend_at: Option<Time>,
    watchdog: Option<(Watchdog, Time)>,
}

impl Told {
    pub(crate) fn new(main: u32, watchdog: Option<Watchdog>, now: Time) -> Self {
        Self {
            main,
            phase: None,
            status: String::new(),
            next_status: None,
            status_at: Time(0),
            extend_at: None,
            watchdog: watchdog.map(|watchdog| (watchdog, now)),
        }
    }

    /// Whether it has been told that the app is up.
    pub(crate) fn is_up(&self) -> bool {
        matches!(self.phase, Some(Phase::Running | Phase::Reloading(_)))
    }

    /// Compares it with what is so. `micros` is the time by the monotonic clock. A message to send, if
    /// it has to learn something.
    pub(crate) fn see(
        &mut self,
        now: Time,
        micros: u64,
        phase: Phase,
        status: &str,
    ) -> Option<String> {
        if self.phase == Some(phase) {
            self.see_status(now, status);
            return None;
        }
        self.phase = Some(phase);
        let mut lines = match phase {
            Phase::Starting => Vec::new(),
            // Also told by a supervisor that has taken over: all of it may have been said before.
            Phase::Running => vec!["READY=1".to_owned(), format!("MAINPID={}", self.main)],
            Phase::Reloading(_) => {
                vec!["RELOADING=1".to_owned(), format!("MONOTONIC_USEC={micros}")]
            }
            Phase::Stopping => vec!["STOPPING=1".to_owned()],
        };
        lines.push(self.say_status(now, status));
        self.extend_at = None;
        if phase != Phase::Running {
            lines.push(self.extend(now));
        }
        Some(lines.join("\n"))
    }

    fn see_status(&mut self, now: Time, status: &str) {
        let at = self.status_at + STATUS_PAUSE;
        self.next_status = (status != self.status).then(|| (status.to_owned(), at.max(now)));
    }

    fn say_status(&mut self, now: Time, status: &str) -> String {
        status.clone_into(&mut self.status);
        self.status_at = now;
        self.next_status = None;
        // The message is made of lines.
        format!("STATUS={}", status.replace(['\n', '\r'], " "))
    }

    fn extend(&mut self, now: Time) -> String {
        self.extend_at = Some(now + EXTENDING);
        format!("EXTEND_TIMEOUT_USEC={}", EXTENSION.as_micros())
    }

    /// Messages whose time has come.
    pub(crate) fn due(&mut self, now: Time) -> Vec<String> {
        let mut messages = Vec::new();
        if self.extend_at.is_some_and(|at| now >= at) {
            messages.push(self.extend(now));
        }
        if let Some((status, _)) = self.next_status.take_if(|(_, at)| now >= *at) {
            messages.push(self.say_status(now, &status));
        }
        if let Some((Watchdog(interval), at)) = &mut self.watchdog
            && now >= *at
        {
            *at = now + *interval;
            messages.push("WATCHDOG=1".to_owned());
        }
        messages
    }

    /// When the next one is due.
    pub(crate) fn next(&self) -> Option<Time> {
        let status = self.next_status.as_ref().map(|(_, at)| *at);
        let watchdog = self.watchdog.map(|(_, at)| at);
        [self.extend_at, status, watchdog]
            .into_iter()
            .flatten()
            .min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(watchdog: Option<&str>) -> Told {
        Told::new(7, Watchdog::of(watchdog, None, 7), Time(0))
    }

    fn see(told: &mut Told, now: u64, phase: Phase, status: &str) -> String {
        let message = told.see(Time(now), now * 1000, phase, status);
        message.unwrap_or_default().replace('\n', " ")
    }

    fn due(told: &mut Told, now: u64) -> String {
        told.due(Time(now)).join(", ")
    }

    #[test]
    fn a_life_is_told_once_and_in_order() {
        let mut told = told(None);
        assert_eq!(
            see(&mut told, 1000, Phase::Starting, "starts"),
            "STATUS=starts EXTEND_TIMEOUT_USEC=30000000"
        );
        assert!(!told.is_up());
        assert_eq!(
            see(&mut told, 2000, Phase::Running, "serves"),
            "READY=1 MAINPID=7 STATUS=serves"
        );
        assert_eq!(see(&mut told, 2001, Phase::Running, "serves"), "");
        assert_eq!(told.next(), None, "nothing is due while nothing happens");
        let one = Phase::Reloading(ReloadId(1));
        assert_eq!(
            see(&mut told, 3000, one, "reloads"),
            "RELOADING=1 MONOTONIC_USEC=3000000 STATUS=reloads EXTEND_TIMEOUT_USEC=30000000"
        );
        assert!(told.is_up());
        // Overtaken: whoever asked for the second one waits for its own beginning.
        let two = Phase::Reloading(ReloadId(2));
        assert!(
            see(&mut told, 4000, two, "reloads").starts_with("RELOADING=1 MONOTONIC_USEC=4000000")
        );
        assert!(see(&mut told, 5000, Phase::Running, "serves").starts_with("READY=1"));
        assert_eq!(
            see(&mut told, 6000, Phase::Stopping, "stops"),
            "STOPPING=1 STATUS=stops EXTEND_TIMEOUT_USEC=30000000"
        );
    }

    #[test]
    fn more_time_is_asked_for_as_long_as_it_is_needed() {
        let mut told = told(None);
        see(&mut told, 0, Phase::Starting, "starts");
        assert_eq!(told.next(), Some(Time(10_000)));
        assert_eq!(due(&mut told, 9_999), "");
        assert_eq!(due(&mut told, 10_000), "EXTEND_TIMEOUT_USEC=30000000");
        assert_eq!(told.next(), Some(Time(20_000)));
        see(&mut told, 15_000, Phase::Running, "serves");
        assert_eq!(due(&mut told, 100_000), "");
    }

    #[test]
    fn a_status_that_flickers_is_told_now_and_then() {
        let mut told = told(None);
        see(&mut told, 1000, Phase::Running, "a");
        for (now, status) in [(1001, "b"), (1002, "c"), (1003, "d")] {
            assert_eq!(see(&mut told, now, Phase::Running, status), "");
        }
        assert_eq!(told.next(), Some(Time(1200)));
        assert_eq!(due(&mut told, 1200), "STATUS=d");
        see(&mut told, 1201, Phase::Running, "e");
        see(&mut told, 1202, Phase::Running, "d");
        assert_eq!(told.next(), None, "it is as it was told");
        see(&mut told, 9000, Phase::Running, "two\nlines");
        assert_eq!(told.next(), Some(Time(9000)));
        assert_eq!(due(&mut told, 9000), "STATUS=two lines");
    }

    #[test]
    fn the_watchdog_is_for_the_main_process_and_wants_half_of_its_time() {
        for (micros, pid, expected) in [
            (None, None, None),
            (Some("3000000"), None, Some(1500)),
            (Some("3000000"), Some("7"), Some(1500)),
            (Some("3000000"), Some("8"), None),
            (Some("0"), None, None),
            (Some("soon"), None, None),
        ] {
            let found = Watchdog::of(micros, pid, 7);
            assert_eq!(found, expected.map(Duration::from_millis).map(Watchdog));
        }
        let mut told = told(Some("3000000"));
        assert_eq!(due(&mut told, 0), "WATCHDOG=1");
        assert_eq!(told.next(), Some(Time(1500)));
        assert_eq!(due(&mut told, 1499), "");
        assert_eq!(due(&mut told, 1600), "WATCHDOG=1");
        assert_eq!(told.next(), Some(Time(3100)));
    }
}
