//! Settings as written, by a file or by flags: keys and texts, in order. This form can be laid over
//! another one, compared, and kept for a successor; `AppSettings` is what it comes to.

use serde::{Deserialize, Serialize};

use super::keys::{KEYS, Key};
use super::settings::AppSettings;

/// Keys that repeat and add up: those of the command line come after those of the file.
const ADDING: [&str; 3] = ["env", "env_file", "node_args"];

/// What a reload takes from the file; everything else stays as it was at the start.
const FRESH_AT_RELOAD: [&str; 10] = [
    "env",
    "env_file",
    "cwd",
    "node",
    "node_args",
    "user",
    "group",
    "listen",
    "no_new_privs",
    "limits.nofile",
];

/// Keys with their values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Written(Vec<(String, String)>);

impl Written {
    pub(crate) fn push(&mut self, key: &str, value: impl Into<String>) {
        self.0.push((key.to_owned(), value.into()));
    }

    pub(crate) fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        let found = self.0.iter().filter(move |(name, _)| name == key);
        found.map(|(_, value)| value.as_str())
    }

    /// The one that counts of a key that does not repeat.
    pub(crate) fn last<'a>(&'a self, key: &'a str) -> Option<&'a str> {
        self.values(key).last()
    }

    /// These laid over others: what is given here counts.
    pub(crate) fn over(&self, below: &Self) -> Self {
        let kept = below.0.iter().filter(|(key, _)| {
            ADDING.contains(&key.as_str()) || self.0.iter().all(|(own, _)| own != key)
        });
        Self(kept.chain(&self.0).cloned().collect())
    }

    /// What they come to. Keys that this release does not know were written by another one.
    ///
    /// # Errors
    /// A value that cannot be.
    pub(crate) fn settings(&self) -> Result<AppSettings, String> {
        let mut settings = AppSettings::default();
        for (name, value) in &self.0 {
            if let Some(key) = key(name) {
                key.set(&mut settings, value)
                    .map_err(|why| format!("{name} = {value:?}: {why}"))?;
            }
        }
        Ok(settings)
    }

    /// The keys that mean something else there, and that a reload does not change.
    pub(crate) fn fixed_changes(&self, there: &Self) -> Vec<&'static str> {
        let mut changes = self.changes(there);
        changes.retain(|key| !FRESH_AT_RELOAD.contains(key));
        changes
    }

    /// The keys that mean something else there.
    pub(crate) fn changes(&self, there: &Self) -> Vec<&'static str> {
        let alone = |written: &Self, key: &Key| {
            let mut settings = AppSettings::default();
            for value in written.values(key.name) {
                // What cannot be set does not differ: it has been refused.
                let _ = key.set(&mut settings, value);
            }
            settings
        };
        KEYS.iter()
            .filter(|key| alone(self, key) != alone(there, key))
            .map(|key| key.name)
            .collect()
    }
}

/// The key of that name.
pub(crate) fn key(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(pairs: &[(&str, &str)]) -> Written {
        let mut written = Written::default();
        for (key, value) in pairs {
            written.push(key, *value);
        }
        written
    }

    #[test]
    fn what_is_laid_over_counts() {
        let file = written(&[
            ("workers", "2"),
            ("env", "A=file"),
            ("env", "B=file"),
            ("reload.ready", "message"),
        ]);
        let flags = written(&[("env", "A=flag"), ("reload.ready", "alive"), ("node", "n")]);
        let both = flags.over(&file);
        assert_eq!(both.last("workers"), Some("2"));
        let env: Vec<_> = both.values("env").collect();
        assert_eq!(env, ["A=file", "B=file", "A=flag"]);
        let ready: Vec<_> = both.values("reload.ready").collect();
        assert_eq!(ready, ["alive"]);
        assert_eq!(both.settings().unwrap().node, "n");
    }

    #[test]
    fn what_a_reload_leaves_is_told_by_meaning() {
        let one = written(&[("drain.timeout", "60s"), ("env", "A=1"), ("workers", "2")]);
        let same = written(&[("drain.timeout", "1m"), ("env", "A=2"), ("workers", "2")]);
        assert!(one.fixed_changes(&same).is_empty());
        let other = written(&[("workers", "3"), ("log.out", "a.log")]);
        assert_eq!(
            one.fixed_changes(&other),
            ["workers", "drain.timeout", "log.out"]
        );
    }

    #[test]
    fn keys_of_another_release_are_passed_over() {
        let odd = written(&[("reload.magic", "1"), ("workers", "3")]);
        assert!(odd.settings().is_ok());
        assert!(written(&[("workers", "x")]).settings().is_err());
    }
}
