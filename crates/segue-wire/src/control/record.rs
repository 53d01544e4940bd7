//! `GET /v1/apps/{app}/why`: what has happened to an app, as it is remembered.
//!
//! Moments are milliseconds since 1970 by the supervisor's wall clock, durations milliseconds.

use serde::{Deserialize, Serialize};

use super::event::Failure;
use super::status::{App, Supervisor};

/// The whole answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Story {
    pub supervisor: Supervisor,
    /// As in the status.
    pub app: App,
    /// Oldest first.
    pub reloads: Vec<ReloadRecord>,
    /// Workers that failed or were replaced by themselves, oldest first.
    pub restarts: Vec<RestartRecord>,
}

/// One reload, from its request to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReloadRecord {
    pub reload: u32,
    /// `reload`, or `rollback`.
    pub kind: String,
    /// The generation that was to serve, once it has begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
    pub asked: Asked,
    /// When it was asked for.
    pub at_ms: u64,
    /// The directory that it ran from, symlinks followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    pub steps: Vec<Step>,
    pub outcome: ReloadOutcome,
    /// For people: the outcome in one line; empty while it goes on.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// From the request to the outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// The reload that overtook this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<u32>,
}

/// How a reload ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReloadOutcome {
    /// It waits for its turn, or goes on.
    UnderWay,
    Committed,
    Failed,
    Superseded,
    /// A word of a newer release.
    #[default]
    #[serde(other)]
    Unknown,
}

/// Who asked for something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Asked {
    /// `cli`, `api`, `signal`, `watch`, `schedule`, or empty where nobody knows.
    pub by: String,
    /// For people.
    pub text: String,
    /// By the kernel's word, at the time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
}

/// What a release says about where it comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Revision {
    /// A commit, or what the file `REVISION` holds.
    pub id: String,
    /// The branch that was checked out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
}

/// A step of a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Step {
    /// One of the words of the manual, such as `booting`.
    pub step: String,
    /// How long it took; missing while it goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
}

/// A worker that failed, or was replaced by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestartRecord {
    pub at_ms: u64,
    pub generation: u32,
    /// Who and why; `slot`, `worker` and `pid` are within.
    pub failure: Failure,
}

impl Revision {
    /// For people: a short id, and the branch.
    #[must_use]
    pub fn short(&self) -> String {
        let is_hash = self.id.len() >= 40 && self.id.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = match is_hash {
            true => self.id.get(..12).unwrap_or(&self.id),
            false => &self.id,
        };
        match &self.branch {
            Some(branch) => format!("{id} ({branch})"),
            None => id.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_story_is_understood() {
        let text = r#"{
            "app": {"name": "web"},
            "reloads": [{"reload": 3, "outcome": "transmuted", "moon": "full", "steps": [{"step": "dreaming"}]}],
            "restarts": [{"failure": {"cause": "bored"}}]
        }"#;
        let story: Story = serde_json::from_str(text).unwrap();
        assert_eq!(story.app.name, "web");
        assert_eq!(story.reloads[0].outcome, ReloadOutcome::Unknown);
        assert_eq!(story.reloads[0].steps[0].took_ms, None);
        assert_eq!(story.restarts[0].failure.cause, "bored");
        assert_eq!(
            serde_json::from_str::<Story>("{}").unwrap(),
            Story::default()
        );
    }

    #[test]
    fn revisions_are_shortened_where_they_are_hashes() {
        let revision = |id: &str, branch: Option<&str>| Revision {
            id: id.to_owned(),
            branch: branch.map(str::to_owned),
        };
        let hash = "0123456789abcdef0123456789abcdef01234567";
        for (revision, expected) in [
            (revision(hash, None), "0123456789ab"),
            (revision(hash, Some("main")), "0123456789ab (main)"),
            (revision("v1.2.3", None), "v1.2.3"),
        ] {
            assert_eq!(revision.short(), expected);
        }
    }
}
