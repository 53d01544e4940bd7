//! `GET /v1/status`: a picture of the supervisor and its apps.
//!
//! Times are distances in milliseconds from the moment of the answer, so that no two clocks need
//! agree: `*_since_ms` lies in the past, `*_in_ms` ahead. Sizes are bytes.

use serde::{Deserialize, Serialize};

use super::event::Failure;
use super::record::{ReloadRecord, Revision};

/// The whole answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    #[serde(default)]
    pub supervisor: Supervisor,
    #[serde(default)]
    pub apps: Vec<App>,
}

/// The process that answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Supervisor {
    pub version: String,
    pub pid: u32,
    /// The main process: the one that a terminal, systemd and `--pid-file` see.
    pub keeper_pid: Option<u32>,
    /// The main process's release; an upgrade does not replace it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keeper_version: Option<String>,
    /// How long the supervisor has been running.
    pub since_ms: u64,
    /// Its own resident memory in bytes; where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// The control socket that it listens at.
    pub control: Option<String>,
    /// Sockets that a service manager has passed on and no worker has asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unclaimed: Vec<String>,
}

/// One app.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct App {
    pub name: String,
    /// The file that it comes from, if it comes from one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    pub phase: AppPhase,
    /// The generation that serves.
    pub generation: u32,
    /// The directory that the serving generation runs from, symlinks followed.
    pub release: Option<String>,
    /// What the release says about where it comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// The reload that is under way.
    pub reload: Option<Reload>,
    /// The last one that has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_reload: Option<ReloadRecord>,
    /// What an operator must see to; empty when all is well.
    pub troubles: Vec<Trouble>,
    /// The generation that served before, where it can be had back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous: Option<u32>,
    /// Workers fail at once for a cause that is none of theirs: nobody is replaced.
    pub health_shared: bool,
    /// Restarts since the first start, by cause.
    pub restarts: Vec<RestartCount>,
    pub addresses: Vec<Address>,
    pub slots: Vec<Slot>,
    pub workers: Vec<Worker>,
    pub stragglers: Stragglers,
    /// Where its output goes, if to a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<Log>,
}

/// The log file of an app.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Log {
    pub path: String,
    /// `text` or `json`.
    pub format: String,
    /// Text begins with the time.
    pub time: bool,
}

/// Something that an operator must see to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Trouble {
    /// `slot_given_up`, `address_unserved`, `never_ready`, `no_worker_ready` or `tried_again`.
    pub kind: String,
    /// For people: what is wrong.
    pub text: String,
    /// For people: what to do about it; may be empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next: String,
}

/// So many restarts had the same cause.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestartCount {
    /// As in a failure, such as `exited_ready`.
    pub cause: String,
    /// For people, shorter than a failure's text and without names: `exit code 1`.
    pub text: String,
    pub count: u64,
}

/// What became of connections in queues that no worker accepted from, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stragglers {
    /// Handed to a worker.
    pub handed_over: u64,
    /// Idle connections that a leaving worker let go and another one took.
    pub migrated: u64,
    /// Reset, because nobody would serve the address soon.
    pub refused: u64,
    /// Reset, because no worker took them within ten seconds.
    pub expired: u64,
}

/// Where an app is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AppPhase {
    /// No worker has been ready yet.
    Starting,
    Running,
    /// No worker serves; clients wait for the next reload.
    Paused,
    Stopping,
    Finished,
    /// A word of a newer release.
    #[default]
    #[serde(other)]
    Unknown,
}

/// A reload that is under way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reload {
    pub reload: u32,
    /// The generation that is to serve.
    pub generation: u32,
    pub since_ms: u64,
    /// One of the words of the manual, such as `booting`.
    pub step: String,
    /// For people.
    pub step_text: String,
    pub step_since_ms: u64,
    /// When the step ends by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_in_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryProgress>,
}

/// A canary, and what it has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CanaryProgress {
    pub percent: u8,
    pub until_in_ms: u64,
    /// The new generation's workers.
    pub new: Answers,
    /// Those of the old one, over the same time.
    pub old: Answers,
}

/// What workers have answered since a canary began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Answers {
    pub answers: u64,
    /// 5xx, or connections that ended without an answer.
    pub errors: u64,
}

/// A place that the app listens at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Address {
    /// As in a URL: `0.0.0.0:3000`, `[::]:3000`; a path for a Unix-domain socket.
    pub name: String,
    /// Sockets in the pool.
    pub sockets: u16,
    /// Positions of the sockets that get new connections.
    pub set: Vec<u16>,
    /// Their shares of new connections, where these are not equal.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<u32>,
    /// Workers that accept from the set.
    pub serving: Vec<u32>,
    /// Connections that wait to be accepted, in all queues together; where known.
    pub queued: Option<u32>,
    /// Whether a steering program says who gets new connections.
    pub steered: bool,
    /// Nobody will serve here soon: connections are reset.
    pub refusing: bool,
}

/// A stable place for one worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Slot {
    pub slot: u32,
    /// The worker that serves, or will.
    pub worker: Option<u32>,
    /// Respawns since the last reload.
    pub restarts: u32,
    /// Restart intensity was reached; the slot is tried again at the next reload or restart.
    pub given_up: bool,
    /// When the next worker is spawned, if one is awaited.
    pub respawn_in_ms: Option<u64>,
    pub last_failure: Option<Failure>,
}

/// One process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Worker {
    /// Its id, new at each spawn; the app sees it as `cluster.worker.id`.
    pub worker: u32,
    pub slot: u32,
    pub generation: u32,
    pub pid: Option<u32>,
    pub phase: WorkerPhase,
    /// When this phase began.
    pub since_ms: u64,
    /// When this phase ends by force.
    pub until_in_ms: Option<u64>,
    /// How long the process has been there; where known.
    pub age_ms: Option<u64>,
    /// Resident memory in bytes; where known.
    pub memory: Option<u64>,
    /// Processor time used since it began, in milliseconds; where known.
    pub cpu_ms: Option<u64>,
    /// Open connections; where known.
    pub connections: Option<u32>,
    /// Respawns of its slot since the last reload.
    pub restarts: u32,
    pub drain: Drain,
    /// Why the drain is the plain one, or what the full one cannot do.
    pub drain_note: Option<String>,
    /// What a drain that has begun still waits for.
    pub draining: Option<Draining>,
    /// Where it listens on sockets of its own, which cannot be drained or cut over.
    pub bypasses: Vec<String>,
    /// For people: why it leaves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leaves: Option<String>,
    /// For how long its event loop has not turned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocked_ms: Option<u64>,
    /// For people: how its last probe failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing: Option<String>,
    /// It failed its probe so often in a row that it is to be replaced.
    pub unhealthy: bool,
}

/// How a worker's connections are let go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Drain {
    /// By the preload script: no request is lost.
    Full,
    /// By Node's own disconnect: idle keep-alive connections are closed unannounced.
    Plain,
    /// Not known yet, or a word of a newer release.
    #[default]
    #[serde(other)]
    Unknown,
}

/// Open connections of a worker that drains, and what became of the others since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Draining {
    /// HTTP/1 between two requests.
    pub idle: u64,
    /// HTTP/1 in a request.
    pub busy: u64,
    /// WebSockets and other upgrades.
    pub websocket: u64,
    pub tls: u64,
    pub http2: u64,
    pub other: u64,
    /// Being handed over.
    pub outgoing: u64,
    /// Age of the oldest one.
    pub oldest_ms: u64,
    /// Handed to another worker.
    pub moved: u64,
    /// Closed after the client had been told.
    pub announced: u64,
    /// Cut off, because they stalled or at the deadline.
    pub cut: u64,
    /// Of those, the ones that stalled.
    pub stalled: u64,
}

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerPhase {
    Booting,
    Ready,
    /// Gets no new connections, still accepts those on their way.
    Quiet,
    /// Finishes what is open.
    Draining,
    /// Was told to end.
    Stopping,
    /// Was killed.
    Killed,
    /// A word of a newer release.
    #[default]
    #[serde(other)]
    Unknown,
}

impl Draining {
    /// What is left, in words: `3 busy, 1 websocket; oldest 12 min`. `None` when nothing is.
    /// `human` writes a number of milliseconds.
    #[must_use]
    pub fn left(&self, human: impl Fn(u64) -> String) -> Option<String> {
        let kinds = [
            (self.idle, "idle"),
            (self.busy, "busy"),
            (self.websocket, "websocket"),
            (self.tls, "TLS"),
            (self.http2, "HTTP/2"),
            (self.other, "other"),
            (self.outgoing, "being moved"),
        ];
        let left: Vec<String> = kinds
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, kind)| format!("{count} {kind}"))
            .collect();
        if left.is_empty() {
            return None;
        }
        let mut text = left.join(", ");
        if self.oldest_ms > 0 {
            text.push_str(&format!("; oldest {}", human(self.oldest_ms)));
        }
        Some(text)
    }

    /// What became of the others, in words: `120 moved, 2 cut off (1 stalled)`. `None` for nothing.
    #[must_use]
    pub fn gone(&self) -> Option<String> {
        let fates = [
            (self.moved, "moved"),
            (self.announced, "closed with notice"),
            (self.cut, "cut off"),
        ];
        let gone: Vec<String> = fates
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, fate)| format!("{count} {fate}"))
            .collect();
        let stalled = match self.stalled {
            0 => String::new(),
            stalled => format!(" ({stalled} stalled)"),
        };
        (!gone.is_empty()).then(|| gone.join(", ") + &stalled)
    }
}

impl WorkerPhase {
    /// Those of this release, in the order of a life.
    pub const ALL: [Self; 6] = [
        Self::Booting,
        Self::Ready,
        Self::Quiet,
        Self::Draining,
        Self::Stopping,
        Self::Killed,
    ];

    /// Whether the worker is on its way out.
    #[must_use]
    pub const fn is_leaving(self) -> bool {
        match self {
            Self::Quiet | Self::Draining | Self::Stopping | Self::Killed => true,
            Self::Booting | Self::Ready | Self::Unknown => false,
        }
    }

    /// The word in the JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Booting => "booting",
            Self::Ready => "ready",
            Self::Quiet => "quiet",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
            Self::Killed => "killed",
            Self::Unknown => "unknown",
        }
    }
}

impl AppPhase {
    /// The word in the JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Finished => "finished",
            Self::Unknown => "unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_supervisor_is_understood() {
        let text = r#"{
            "supervisor": {"version": "9.0.0", "pid": 7, "mood": "fine"},
            "apps": [{"name": "web", "phase": "pondering", "workers": [
                {"worker": 3, "phase": "hibernating", "warmth": 3}, {"worker": 4, "phase": "ready"}
            ]}],
            "galaxy": {}
        }"#;
        let status: Status = serde_json::from_str(text).unwrap();
        assert_eq!(status.supervisor.pid, 7);
        let app = &status.apps[0];
        assert_eq!(app.phase, AppPhase::Unknown);
        assert_eq!(app.workers[0].phase, WorkerPhase::Unknown);
        assert_eq!(app.workers[1].phase, WorkerPhase::Ready);
        assert_eq!(app.workers[1].pid, None);
    }

    #[test]
    fn an_empty_answer_is_understood() {
        assert_eq!(
            serde_json::from_str::<Status>("{}").unwrap(),
            Status::default()
        );
    }

    #[test]
    fn a_drain_says_what_is_left_and_what_is_gone() {
        let human = |ms: u64| format!("{} s", ms / 1000);
        let nothing = Draining::default();
        assert_eq!((nothing.left(human), nothing.gone()), (None, None));
        let some = Draining {
            busy: 3,
            websocket: 1,
            oldest_ms: 12_000,
            moved: 120,
            cut: 1,
            ..nothing
        };
        let stalled = Draining {
            cut: 3,
            stalled: 2,
            ..some
        };
        let left = some.left(human);
        assert_eq!(left.as_deref(), Some("3 busy, 1 websocket; oldest 12 s"));
        assert_eq!(some.gone().as_deref(), Some("120 moved, 1 cut off"));
        let gone = stalled.gone();
        assert_eq!(gone.as_deref(), Some("120 moved, 3 cut off (2 stalled)"));
    }

    #[test]
    fn words_are_those_of_the_json() {
        for phase in [
            WorkerPhase::Booting,
            WorkerPhase::Ready,
            WorkerPhase::Quiet,
            WorkerPhase::Draining,
            WorkerPhase::Stopping,
            WorkerPhase::Killed,
        ] {
            assert_eq!(serde_json::to_value(phase).unwrap(), phase.as_str());
        }
        for phase in [
            AppPhase::Starting,
            AppPhase::Running,
            AppPhase::Paused,
            AppPhase::Stopping,
            AppPhase::Finished,
        ] {
            assert_eq!(serde_json::to_value(phase).unwrap(), phase.as_str());
        }
    }
}
