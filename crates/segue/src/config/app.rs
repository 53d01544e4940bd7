//! One app as it is meant: what to run and in which surroundings. Only strings and paths; the
//! numbers are `segue_core::Settings`. Nothing here is resolved: symlinks, PATH and env files
//! are read afresh for each generation.

use std::ffi::OsString;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::command::Command;
use super::confine::Confinement;
use super::file::app::Origin;
use super::log::Destination;
use super::written::Written;
use crate::handoff::text::{optional_word, pairs, word, words};

/// One app.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct AppConfig {
    pub(crate) name: String,
    pub(crate) command: Command,
    /// What follows the command, untouched.
    #[serde(with = "words")]
    pub(crate) args: Vec<OsString>,
    /// Which node runs scripts: a path, or a name that is looked up with the workers' PATH.
    #[serde(with = "word")]
    pub(crate) node: OsString,
    /// Between node and the script.
    #[serde(with = "words")]
    pub(crate) node_args: Vec<OsString>,
    /// Absolute, with the symlinks it was reached by: see `command::logical_directory`.
    #[serde(with = "word")]
    pub(crate) cwd: PathBuf,
    /// The environment of the caller. Later ones win: this, `env_files` in order, `env`.
    #[serde(with = "pairs")]
    pub(crate) caller_env: Vec<(OsString, OsString)>,
    /// Relative ones are below `cwd`.
    #[serde(with = "words")]
    pub(crate) env_files: Vec<PathBuf>,
    #[serde(with = "pairs")]
    pub(crate) env: Vec<(OsString, OsString)>,
    /// Where its output goes, if not to ours. Absolute.
    #[serde(with = "optional_word", default)]
    pub(crate) log: Option<PathBuf>,
    /// Which rights files that workers make do not get; the supervisor's own if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) umask: Option<u32>,
    /// Its settings, as they were written when it was started.
    #[serde(default)]
    pub(crate) written: Written,
    /// What workers may, and as whom.
    #[serde(default = "Confinement::none")]
    pub(crate) confinement: Confinement,
    /// The file that it is from, if it is from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) origin: Option<Box<Origin>>,
}

impl AppConfig {
    /// Where its output goes. A file that it was given by an earlier release has no words.
    pub(crate) fn destination(&self) -> Destination {
        match self.log {
            Some(_) => Destination::File,
            None => Destination::of(self.written.last("log.out")),
        }
    }
}
