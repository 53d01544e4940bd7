//! What streams carry: notices while something goes on, outcomes when it has ended.
//!
//! Both are flat records: `kind` says what happened, the fields that belong to it are there, the
//! others are left out. A reader must accept kinds that it does not know; `text` says the same for people.

use serde::{Deserialize, Serialize};

use super::sse::{self, Frame};

/// One event of a stream of progress. Its JSON form, for lines of JSON, is the data with the name of the
/// event as `event`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Progress {
    /// `event: notice`
    Notice(Box<Notice>),
    /// `event: outcome`: how the request ended for one app.
    Outcome(Box<Outcome>),
    /// `event: missed`: the reader was too slow for some notices.
    Missed(Missed),
}

/// So many notices were left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Missed {
    pub count: u64,
}

/// News of an app.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Notice {
    /// One of the words of the manual, such as `worker_ready`.
    pub kind: String,
    pub app: String,
    /// Milliseconds since 1970 by the supervisor's wall clock.
    pub at_ms: u64,
    pub level: Level,
    /// For people: one line.
    pub text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reload: Option<u32>,
    /// The step that a reload comes to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The reload that overtook this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// How much a notice matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", from = "String")]
pub enum Level {
    /// For those who look closely.
    Debug,
    /// An operator would care. Also what an unknown word reads as.
    #[default]
    Info,
    /// Look tomorrow.
    Warn,
    /// Look now.
    Error,
}

impl From<String> for Level {
    fn from(word: String) -> Self {
        match word.as_str() {
            "debug" => Self::Debug,
            "warn" => Self::Warn,
            "error" => Self::Error,
            _ => Self::Info,
        }
    }
}

/// How a request ended for one app.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Outcome {
    pub kind: OutcomeKind,
    pub app: String,
    /// For people: what happened and why, in one line.
    pub text: String,
    /// For people: what to do next; may be empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reload: Option<u32>,
    /// The generation that serves now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
    /// The reload that overtook this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<u32>,
    /// Slots before and after a scale.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<u32>,
    /// Workers that were killed before they had drained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub killed: Option<u32>,
    /// Why a request was not even tried: `stopping`, `reloading`, `starting`, `no_workers`,
    /// `too_many`, `upgrading`, `nothing_to_promote`, `nothing_to_roll_back_to`, `bad_definition`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Of an upgrade: the releases before and after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release_from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release_to: Option<String>,
    /// Of an upgrade: microseconds without a supervisor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gap_us: Option<u64>,
}

/// The outcome in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeKind {
    /// Will be done; nobody waits for it.
    Accepted,
    Started,
    Reloaded,
    /// All workers are new, after a gap.
    Restarted,
    /// The new generation serves alone, without the rest of its trial.
    Promoted,
    /// The release that served before serves again.
    RolledBack,
    /// Nothing has changed; the old generation serves.
    ReloadFailed,
    /// A later reload overtook this one.
    Superseded,
    Scaled,
    /// Workers drain, clients wait for the next reload.
    Paused,
    /// Everything has drained.
    Stopped,
    /// Some workers were killed before they had drained.
    StoppedHard,
    NeverStarted,
    /// The supervisor is another release now, or the same one anew.
    Upgraded,
    /// The supervisor goes on as it was.
    UpgradeFailed,
    /// An app is as it is wanted.
    Applied,
    /// Not even tried.
    Refused,
    /// A word of a newer release.
    #[default]
    #[serde(other)]
    Unknown,
}

/// What was wrong with a worker or a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Failure {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// One of the words of the manual, such as `exited_booting`.
    pub cause: String,
    /// For people.
    pub text: String,
    /// For people: what to do about it; may be empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The name of the signal that ended the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// It ended for want of memory: `kernel`, where the kernel killed it at the limit of its cgroup or
    /// of the machine, or `heap`, where node gave up at its own limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out_of_memory: Option<String>,
    /// The worker's last lines on stderr, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stderr: Vec<String>,
}

impl Progress {
    /// The bytes in a stream.
    #[must_use]
    pub fn encode(&self) -> String {
        let (event, data) = match self {
            Self::Notice(notice) => ("notice", serde_json::to_string(notice)),
            Self::Outcome(outcome) => ("outcome", serde_json::to_string(outcome)),
            Self::Missed(missed) => ("missed", serde_json::to_string(missed)),
        };
        // Strings, numbers and lists of them always have a JSON form.
        sse::encode(event, &data.unwrap_or_default())
    }

    /// Reads a frame; `None` for events of a newer release.
    ///
    /// # Errors
    /// The data of a known event is not what it should be.
    pub fn decode(frame: &Frame) -> Result<Option<Self>, serde_json::Error> {
        Ok(match frame.event.as_str() {
            "notice" => Some(Self::Notice(serde_json::from_str(&frame.data)?)),
            "outcome" => Some(Self::Outcome(serde_json::from_str(&frame.data)?)),
            "missed" => Some(Self::Missed(serde_json::from_str(&frame.data)?)),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Decoder;

    fn round_trip(progress: &Progress) {
        let frames = Decoder::new().feed(progress.encode().as_bytes()).unwrap();
        assert_eq!(frames.len(), 1);
        let decoded = Progress::decode(&frames[0]).unwrap();
        assert_eq!(decoded.as_ref(), Some(progress));
    }

    #[test]
    fn progress_survives_the_stream() {
        round_trip(&Progress::Missed(Missed { count: 12 }));
        round_trip(&Progress::Notice(Box::new(Notice {
            kind: "worker_ready".to_owned(),
            app: "web".to_owned(),
            text: "a\nline\r\u{2028}end".to_owned(),
            level: Level::Warn,
            worker: Some(4),
            ..Notice::default()
        })));
        round_trip(&Progress::Outcome(Box::new(Outcome {
            kind: OutcomeKind::ReloadFailed,
            reload: Some(3),
            failure: Some(Failure {
                cause: "exited_booting".to_owned(),
                exit_code: Some(1),
                stderr: vec!["Error: no".to_owned(), String::new()],
                ..Failure::default()
            }),
            ..Outcome::default()
        })));
    }

    #[test]
    fn a_newer_stream_is_understood() {
        let frame = |event: &str, data: &str| Frame {
            event: event.to_owned(),
            data: data.to_owned(),
        };
        assert_eq!(Progress::decode(&frame("weather", "rain")).unwrap(), None);
        let outcome = frame(
            "outcome",
            r#"{"kind":"transcended","app":"web","text":"ok","x":1}"#,
        );
        let Some(Progress::Outcome(outcome)) = Progress::decode(&outcome).unwrap() else {
            panic!("not an outcome");
        };
        assert_eq!(outcome.kind, OutcomeKind::Unknown);
        let notice = frame("notice", r#"{"kind":"x","level":"calm"}"#);
        let Some(Progress::Notice(notice)) = Progress::decode(&notice).unwrap() else {
            panic!("not a notice");
        };
        assert_eq!(notice.level, Level::Info);
        assert!(Progress::decode(&frame("notice", "[")).is_err());
    }
}
