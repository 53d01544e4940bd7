//! What requests carry, and what a dry run of an apply answers.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The body of a start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartBody {
    /// An app with everything that is known of it, as a segue of the same release writes it.
    #[serde(default)]
    pub definition: Value,
}

/// The body of an apply: all apps of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyBody {
    /// The absolute path of the file. Apps that came from it and are not in it any more are deleted.
    #[serde(default)]
    pub source: String,
    /// As in [`StartBody`].
    #[serde(default)]
    pub definitions: Vec<Value>,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// The answer to an apply that is only to say what it would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Differences {
    pub differences: Vec<Difference>,
}

/// What would become of one app.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Difference {
    pub app: String,
    /// `start`, `delete`, `reload`, `scale`, `adjust` or `same`.
    pub change: String,
    pub keys: Vec<KeyChange>,
}

/// One key that has another value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KeyChange {
    pub key: String,
    pub from: String,
    pub to: String,
    /// What it takes: `reload`, `scale`, `live` (holds at once), `next` (with the next workers), or `start`
    /// (after a stop and another start).
    pub effect: String,
}

/// The body of an upgrade; an empty body means the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeBody {
    /// The absolute path of the new binary; without it, whatever is at the place of the present one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary: Option<String>,
}

/// The body of a reload; an empty body means the defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadBody {
    #[serde(default)]
    pub wait: Wait,
    #[serde(default, skip_serializing_if = "CanaryWish::is_as_set")]
    pub canary: CanaryWish,
}

/// Whether a reload has a canary: nothing, `"off"`, or one of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "CanaryForm", try_from = "CanaryForm")]
pub enum CanaryWish {
    /// As the app's settings say.
    #[default]
    AsSet,
    Off,
    With(Canary),
}

/// A share of new connections for the new generation, before it gets all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// 1 to 99.
    pub percent: u8,
    pub for_ms: u64,
    /// How far its share of errors may lie above the old generation's, in thousandths.
    #[serde(default = "Canary::one_percent")]
    pub max_errors_per_mille: u16,
}

/// How a [`CanaryWish`] is written.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum CanaryForm {
    Word(Option<String>),
    With(Canary),
}

impl CanaryWish {
    const fn is_as_set(&self) -> bool {
        matches!(self, Self::AsSet)
    }
}

impl Canary {
    const fn one_percent() -> u16 {
        10
    }

    /// # Errors
    /// What cannot be meant.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=99).contains(&self.percent) {
            return Err(format!(
                "a canary of {} % is none: its share is 1 to 99 %",
                self.percent
            ));
        }
        if self.for_ms == 0 {
            return Err("a canary of no time proves nothing".to_owned());
        }
        if self.max_errors_per_mille > 1000 {
            return Err("more than 100 % of errors cannot be".to_owned());
        }
        Ok(())
    }
}

impl From<CanaryWish> for CanaryForm {
    fn from(wish: CanaryWish) -> Self {
        match wish {
            CanaryWish::AsSet => Self::Word(None),
            CanaryWish::Off => Self::Word(Some("off".to_owned())),
            CanaryWish::With(canary) => Self::With(canary),
        }
    }
}

impl TryFrom<CanaryForm> for CanaryWish {
    type Error = String;

    fn try_from(form: CanaryForm) -> Result<Self, String> {
        match form {
            CanaryForm::Word(None) => Ok(Self::AsSet),
            CanaryForm::Word(Some(word)) if word == "off" => Ok(Self::Off),
            CanaryForm::Word(Some(word)) => Err(format!(
                "the canary {word:?} is neither \"off\" nor an object"
            )),
            CanaryForm::With(canary) => canary.check().map(|()| Self::With(canary)),
        }
    }
}

/// When a reload is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// When the new generation serves alone, or the reload has failed.
    #[default]
    Committed,
    /// When the old generation is gone too.
    Drained,
    /// When the request has been accepted.
    None,
}

/// The body of a scale: exactly one of the two fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleBody {
    /// So many workers.
    To(u32),
    /// So many more, or fewer if negative.
    By(i32),
}
