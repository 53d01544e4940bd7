//! What lies between an app as it runs and as it is wanted: keys, their values, and what it takes to
//! get from one to the other.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use super::app::AppConfig;
use super::command::Command;
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
const OF_A_WORKER: [&str; 6] = [
    "env",
    "env_file",
    "cwd",
    "node",
    "node_args",
    "drain.preload",
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
            key if OF_A_WORKER.contains(&key) => Self::Reload,
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
    let command = |app: &AppConfig| match &app.command {
        Command::Script(script) => script.display().to_string(),
        Command::Executable(program) => program.display().to_string(),
    };
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
    let differ = differing(effective(&now.env), effective(&wanted.env));
    push("env", String::new(), differ, Effect::Reload);
    let log = |app: &AppConfig| match &app.log {
        Some(path) => Some(path.display().to_string()),
        None => app.written.last("log.out").map(str::to_owned),
    };
    push(
        "log.out",
        log(now).unwrap_or_default(),
        log(wanted).unwrap_or_default(),
        Effect::Live,
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
    let differ = differing(effective(&now.caller_env), effective(&wanted.caller_env));
    push(
        "environment of the caller",
        String::new(),
        differ,
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

/// Of a variable that is set twice the last one counts.
fn effective(env: &[(OsString, OsString)]) -> BTreeMap<&OsString, &OsString> {
    env.iter().map(|(name, value)| (name, value)).collect()
}

/// Names of variables that are not the same. Their values may be secret.
fn differing(
    now: BTreeMap<&OsString, &OsString>,
    wanted: BTreeMap<&OsString, &OsString>,
) -> String {
    let names: BTreeSet<&OsString> = now.keys().chain(wanted.keys()).copied().collect();
    let names = names.into_iter().filter(|name| {
        now.get(name) != wanted.get(name) && !SHELL.iter().any(|shell| *name == *shell)
    });
    let names: Vec<String> = names.map(|name| name.display().to_string()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::confine::Confinement;

    fn app(env: &[(&str, &str)], written: &[(&str, &str)]) -> AppConfig {
        let mut settings = Written::default();
        for (key, value) in written {
            settings.push(key, *value);
        }
        let pairs = env.iter();
        AppConfig {
            name: "web".to_owned(),
            command: Command::Script("server.js".into()),
            args: Vec::new(),
            node: "node".into(),
            node_args: Vec::new(),
            cwd: "/srv/web".into(),
            caller_env: Vec::new(),
            env_files: Vec::new(),
            env: pairs
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect(),
            log: None,
            umask: None,
            written: settings,
            confinement: Confinement::default(),
            origin: None,
        }
    }

    fn told(now: &AppConfig, wanted: &AppConfig) -> Vec<String> {
        let changes = between(now, 2, wanted).into_iter();
        changes
            .map(|it| {
                format!(
                    "{}: {} -> {} ({})",
                    it.key,
                    it.from,
                    it.to,
                    it.effect.name()
                )
            })
            .collect()
    }

    #[test]
    fn each_key_has_its_effect() {
        let now = app(&[("A", "1"), ("B", "2")], &[("workers", "2")]);
        assert_eq!(told(&now, &now), [""; 0]);
        // The same by meaning.
        let same = app(
            &[("B", "2"), ("A", "0"), ("A", "1")],
            &[("workers", "2"), ("drain.timeout", "300s")],
        );
        assert_eq!(told(&now, &same), [""; 0]);
        let mut other = app(
            &[("A", "secret"), ("C", "3")],
            &[
                ("workers", "3"),
                ("drain.timeout", "1m"),
                ("distribution", "shared"),
                ("limits.nofile", "1000"),
                ("log.rotate.size", "1MiB"),
            ],
        );
        other.log = Some("web.log".into());
        other.command = Command::Script("other.js".into());
        other.caller_env = vec![("SHLVL".into(), "2".into()), ("LANG".into(), "C".into())];
        assert_eq!(
            told(&now, &other),
            [
                "command: server.js -> other.js (reload)",
                "env:  -> A, B, C (reload)",
                "log.out:  -> web.log (live)",
                "workers: 2 -> 3 (scale)",
                "environment of the caller:  -> LANG (next)",
                "distribution: spread -> shared (start)",
                "drain.timeout: 5m -> 1m (live)",
                "limits.nofile: none -> 1000 (reload)",
                "log.rotate.size: 50MiB -> 1MiB (live)",
            ]
        );
    }
}
