//! What lies between an app as it runs and as it is wanted: keys, their values, and what it takes to
//! get from one to the other.

use std::collections::BTreeSet;
use std::ffi::OsString;

use super::app::AppConfig;
use super::keys::KEYS;
use super::processors::available_processors;
use super::written::Written;

/// What it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// New workers, by a reload.
    Reload,
    /// More workers, or fewer.
    Scale,
    /// Nothing: it holds from now on.
    Live,
    /// New workers have it, whenever they come.
    Next,
    /// A stop and another start.
    Start,
}

/// One key that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) key: String,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) effect: Effect,
}

/// Variables that tell about the caller's shell and not about the app.
const SHELL: [&str; 6] = ["_", "OLDPWD", "PWD", "SHLVL", "COLUMNS", "LINES"];

/// Keys whose values only a new worker can have.
const OF_A_WORKER: [&str; 9] = [
    "env",
    "env_file",
    "cwd",
    "node",
    "node_args",
    "drain.preload",
    "log.out",
    "log.format",
    "log.time",
];

impl Effect {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Reload => "reload",
            Self::Scale => "scale",
            Self::Live => "live",
            Self::Next => "next",
            Self::Start => "start",
        }
    }

    fn of(key: &str) -> Self {
        match key {
            "workers" => Self::Scale,
            // Sockets are made for it.
            "distribution" => Self::Start,
            // And processes for these.
            "user" | "group" | "listen" | "no_new_privs" | "limits.nofile" => Self::Reload,
            key if key.starts_with("log.rotate") || OF_A_WORKER.contains(&key) => Self::Reload,
            _ => Self::Live,
        }
    }
}

/// What differs. `slots` is how many workers the app is to have by now.
pub(crate) fn between(now: &AppConfig, slots: u32, wanted: &AppConfig) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut push = |key: &str, from: String, to: String, effect| {
        if from != to {
            changes.push(Change {
                key: key.to_owned(),
                from,
                to,
                effect,
            });
        }
    };
    let command = |app: &AppConfig| format!("{:?}", app.command);
    push("command", command(now), command(wanted), Effect::Reload);
    push(
        "args",
        words(&now.args),
        words(&wanted.args),
        Effect::Reload,
    );
    // Those that the command line of a script brings are in there, too.
    push(
        "node_args",
        words(&now.node_args),
        words(&wanted.node_args),
        Effect::Reload,
    );
    let directory = |app: &AppConfig| app.cwd.display().to_string();
    push("cwd", directory(now), directory(wanted), Effect::Reload);
    let node = |app: &AppConfig| app.node.display().to_string();
    push("node", node(now), node(wanted), Effect::Reload);
    push("env", variables(now), variables(wanted), Effect::Reload);
    let log = |app: &AppConfig| app.log.as_ref().map(|path| path.display().to_string());
    push(
        "log.out",
        log(now).unwrap_or_default(),
        log(wanted).unwrap_or_default(),
        Effect::Reload,
    );
    let count = |written: &Written| {
        let settings = written.settings().unwrap_or_default();
        settings.workers.count(available_processors())
    };
    push(
        "workers",
        slots.to_string(),
        count(&wanted.written).to_string(),
        Effect::Scale,
    );
    let callers = differing(&now.caller_env, &wanted.caller_env);
    push(
        "environment of the caller",
        String::new(),
        callers,
        Effect::Next,
    );
    for name in now.written.changes(&wanted.written) {
        // Those that have been looked at above.
        if [
            "workers",
            "env",
            "cwd",
            "node",
            "node_args",
            "log.out",
            "name",
        ]
        .contains(&name)
        {
            continue;
        }
        let value = |written: &Written| {
            let values: Vec<&str> = written.values(name).collect();
            let default = KEYS.iter().find(|key| key.name == name);
            match values.as_slice() {
                [] => default
                    .and_then(|key| key.default)
                    .unwrap_or("none")
                    .to_owned(),
                values => values.join(", "),
            }
        };
        push(
            name,
            value(&now.written),
            value(&wanted.written),
            Effect::of(name),
        );
    }
    changes
}

fn words(words: &[OsString]) -> String {
    let words = words.iter().map(|word| word.display().to_string());
    words.collect::<Vec<_>>().join(" ")
}

/// The app's own, without their values: some are secret.
fn variables(app: &AppConfig) -> String {
    let last: std::collections::BTreeMap<_, _> = app.env.iter().cloned().collect();
    let shown = last
        .iter()
        .map(|(name, value)| format!("{}={}", name.display(), fingerprint(value)));
    shown.collect::<Vec<_>>().join(" ")
}

/// Tells values apart without showing them.
fn fingerprint(value: &OsString) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    format!("#{:04x}", hasher.finish() & 0xffff)
}

/// Names of variables that are not the same.
fn differing(now: &[(OsString, OsString)], wanted: &[(OsString, OsString)]) -> String {
    let now: BTreeSet<_> = now.iter().collect();
    let wanted: BTreeSet<_> = wanted.iter().collect();
    let names = now
        .symmetric_difference(&wanted)
        .map(|(name, _)| name.display().to_string());
    let names: BTreeSet<String> = names
        .filter(|name| !SHELL.contains(&name.as_str()))
        .collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}
