//! Words that PM2's users have in their fingers: each means a command here, or is answered with what segue
//! does instead. A command of that name, once there is one, goes first.

use std::ffi::OsString;

use clap::CommandFactory;

use super::args::Cli;
use super::error::Trouble;
use crate::exit::Exit;

/// What a familiar word comes to.
#[derive(Clone, Copy, Debug)]
enum Familiar {
    /// The same as these.
    Means(&'static [&'static str]),
    /// There is no such thing: why, and what to do.
    Instead(&'static str, &'static str),
    /// The command, where this release has it; else the same answer.
    MeansOr(&'static str, &'static str, &'static str),
}

use Familiar::{Instead, Means, MeansOr};

/// Every one of them.
const TABLE: &[(&str, Familiar)] = &[
    ("list", Means(&["status"])),
    ("ls", Means(&["status"])),
    ("l", Means(&["status"])),
    ("ps", Means(&["status"])),
    ("describe", Means(&["status"])),
    ("desc", Means(&["status"])),
    ("show", Means(&["status"])),
    ("info", Means(&["status"])),
    ("jlist", Means(&["status", "--json"])),
    ("prettylist", Means(&["status", "--json"])),
    ("log", Means(&["logs"])),
    ("reloadLogs", Means(&["reopen"])),
    ("reloadlogs", Means(&["reopen"])),
    ("gracefulReload", Means(&["reload"])),
    ("kill", Means(&["shutdown"])),
    ("ecosystem", Means(&["init"])),
    ("completion", Means(&["completions"])),
    (
        "start",
        Instead(
            "this release runs an app in the foreground",
            "segue run server.js; in the background under systemd: segue service install server.js",
        ),
    ),
    ("del", MeansOr("delete", NOTHING_KEPT, FORGET)),
    ("delete", Instead(NOTHING_KEPT, FORGET)),
    ("monit", Means(&["top"])),
    ("dash", Means(&["top"])),
    (
        "save",
        Instead(
            "there is nothing to save: the background supervisor remembers its apps by itself",
            "segue import pm2 ~/.pm2/dump.pm2 takes those of PM2",
        ),
    ),
    (
        "dump",
        Instead(
            "there is nothing to save: the background supervisor remembers its apps by itself",
            "segue import pm2 ~/.pm2/dump.pm2 takes those of PM2",
        ),
    ),
    (
        "resurrect",
        Instead(
            "the background supervisor brings its apps back whenever it starts",
            "segue start; at boot: segue service install --background, then systemctl enable --now segue",
        ),
    ),
    (
        "startup",
        Instead(
            "systemd starts segue at boot, and that brings its apps back",
            "segue service install --background, then systemctl enable --now segue",
        ),
    ),
    (
        "unstartup",
        Instead(
            "systemd starts segue at boot, and no longer does once its unit is disabled",
            "systemctl disable --now segue",
        ),
    ),
    (
        "update",
        Instead(
            "segue does not fetch its releases",
            "install the new binary, then segue upgrade: the supervisor becomes it in place",
        ),
    ),
    (
        "reset",
        Instead(
            "restarts are not counted anew: they are the app's story",
            "segue why shows each with its cause",
        ),
    ),
    (
        "sendSignal",
        Instead(
            "signals go to the main process, which knows what they mean",
            "segue status shows its pid; the manual's table of signals what each does",
        ),
    ),
    (
        "deploy",
        Instead(
            "segue logs in nowhere",
            "git push to a repository with segue hook install, or let your tool end with segue reload",
        ),
    ),
    (
        "serve",
        Instead(
            "segue runs programs, it serves no files",
            "nginx does, or a program of yours: segue run server.js",
        ),
    ),
    (
        "env",
        Instead(
            "segue does not show the environment, which may hold secrets",
            "it is that of segue run, with env and env_file of segue.toml",
        ),
    ),
    (
        "pid",
        Instead(
            "pids are part of the status",
            "segue status, or segue status --json",
        ),
    ),
    (
        "id",
        Instead(
            "apps have names, workers have slots",
            "segue status shows both",
        ),
    ),
    (
        "ping",
        Instead(
            "a supervisor runs as long as it has an app",
            "segue status --check says whether all is well",
        ),
    ),
];

const NOTHING_KEPT: &str = "nothing is kept of an app that has stopped";
const FORGET: &str = "segue stop APP, or segue shutdown to end its supervisor as well";

/// The command line that is meant.
///
/// # Errors
/// There is no such thing here; what there is instead.
pub(super) fn meant(words: Vec<OsString>) -> Result<Vec<OsString>, Trouble> {
    let mut rest = words.iter();
    let program = rest.next().cloned();
    let Some(word) = rest.next().and_then(|word| word.to_str()) else {
        return Ok(words);
    };
    let Some((word, familiar)) = TABLE.iter().find(|(known, _)| *known == word) else {
        return Ok(words);
    };
    let is_command = |name: &str| Cli::command().find_subcommand(name).is_some();
    if is_command(word) {
        return Ok(words);
    }
    let with = |first: &[&str]| {
        let first = first.iter().map(OsString::from);
        let all = program
            .clone()
            .into_iter()
            .chain(first)
            .chain(rest.cloned());
        Ok(all.collect())
    };
    match *familiar {
        Means(first) => with(first),
        MeansOr(command, _, _) if is_command(command) => with(&[command]),
        MeansOr(_, why, next) | Instead(why, next) => {
            let what = format!("there is no segue {word}");
            Err(Trouble::new(what, why, next, Exit::Usage))
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use clap::error::ErrorKind;

    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn familiar_words_mean_commands() {
        for (line, expected) in [
            ("segue ls", "segue status"),
            ("segue list --json", "segue status --json"),
            ("segue describe web", "segue status web"),
            ("segue jlist", "segue status --json"),
            ("segue monit web", "segue top web"),
            ("segue reloadLogs", "segue reopen"),
            ("segue reload all", "segue reload all"),
            ("segue status ls", "segue status ls"),
            ("segue run save", "segue run save"),
            ("segue", "segue"),
            ("segue nonsense", "segue nonsense"),
        ] {
            assert_eq!(meant(words(line)).unwrap(), words(expected), "{line}");
        }
    }

    #[test]
    fn every_word_is_answered() {
        for (word, familiar) in TABLE {
            let line = vec!["segue".into(), OsString::from(word)];
            match (meant(line), familiar) {
                (Ok(words), _) => {
                    // Some need another word, as ever.
                    let missing = ErrorKind::MissingRequiredArgument;
                    let parsed = Cli::try_parse_from(words).map_err(|error| error.kind());
                    assert!(
                        parsed.is_ok() || parsed.is_err_and(|it| it == missing),
                        "{word}"
                    );
                }
                (Err(_), Means(_)) => panic!("{word} means nothing"),
                (Err(trouble), Instead(..) | MeansOr(..)) => {
                    let text = trouble.to_string();
                    assert_eq!(trouble.exit, Exit::Usage);
                    assert!(text.contains("segue") && !text.contains('\n'), "{text}");
                }
            }
        }
    }
}
