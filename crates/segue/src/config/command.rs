//! What follows `run`: a script for node, an executable, or nothing, which means the start
//! script of package.json. It says what is meant; whether that exists is found out when a
//! generation is resolved, again for each.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::package::{NotPlain, Package, PackageError, PlainScript};
use crate::handoff::text::word;

/// What a worker runs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) enum Command {
    /// Run by node. As written; a relative path is below the app's directory.
    Script(#[serde(with = "word")] PathBuf),
    /// Looked up with the workers' PATH, unless it has a slash.
    Executable(#[serde(with = "word")] OsString),
}

/// A command as it was meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommandLine {
    pub(crate) command: Command,
    pub(crate) args: Vec<OsString>,
    /// The node that was written out, as in `node server.js`.
    pub(crate) node: Option<OsString>,
    /// Between that node and the script.
    pub(crate) node_args: Vec<OsString>,
    /// Assignments at the start of a start script.
    pub(crate) env: Vec<(OsString, OsString)>,
}

/// Why it is not known what to run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error(
        "nothing to run: {} has no package.json; write `segue run server.js`, with your script's name",
        .0.display()
    )]
    Nothing(PathBuf),
    #[error(
        "nothing to run: the package.json in {} has no start script; write `segue run {main}`, or add \"scripts\": {{ \"start\": \"node {main}\" }}",
        directory.display()
    )]
    NoStartScript { directory: PathBuf, main: String },
    #[error(
        "cannot run the start script `{script}` of package.json: {why}; write its node command after `segue run`, for example `segue run server.js`"
    )]
    NotPlain { script: String, why: NotPlain },
    #[error("cannot run {}: it is a directory; go there and write `segue run`", .0.display())]
    Directory(PathBuf),
    #[error(transparent)]
    Package(#[from] PackageError),
    #[error(
        "`{0}` is no name for an app: use letters, digits, `.`, `_` and `-`, beginning with a letter or digit, 64 at most"
    )]
    Name(String),
}

impl CommandLine {
    /// Reads what was written after `run`, in the app's directory.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub(crate) fn read(words: &[OsString], directory: &Path) -> Result<Self, CommandError> {
        match words.split_first() {
            None => Self::from_start_script(directory),
            Some((first, _)) if !is_script(first) && directory.join(first).is_dir() => {
                Err(CommandError::Directory(directory.join(first)))
            }
            Some((first, rest)) => Ok(Self::from_words(first, rest)),
        }
    }

    fn from_start_script(directory: &Path) -> Result<Self, CommandError> {
        let package =
            Package::read(directory)?.ok_or_else(|| CommandError::Nothing(directory.to_owned()))?;
        match package.scripts.get("start") {
            Some(script) => Self::from_script(script, directory),
            None => Err(CommandError::NoStartScript {
                directory: directory.to_owned(),
                main: package.main.unwrap_or_else(|| "server.js".into()),
            }),
        }
    }

    /// Reads a script of package.json.
    ///
    /// # Errors
    /// That it needs a shell.
    pub(crate) fn from_script(script: &str, directory: &Path) -> Result<Self, CommandError> {
        let plain = PlainScript::parse(script).map_err(|why| CommandError::NotPlain {
            script: script.to_owned(),
            why,
        })?;
        let mut words: Vec<OsString> = plain.words.into_iter().map(Into::into).collect();
        // npm puts this directory first in the PATH of scripts.
        if let Some(first) = words.first_mut() {
            let installed = Path::new("node_modules/.bin").join(&*first);
            if !first.as_encoded_bytes().contains(&b'/') && directory.join(&installed).is_file() {
                *first = installed.into_os_string();
            }
        }
        let env = plain
            .env
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        Ok(Self {
            env,
            ..Self::read(&words, directory)?
        })
    }

    /// Reads the words of a command.
    pub(crate) fn from_words(first: &OsStr, rest: &[OsString]) -> Self {
        let line = |command, args: &[OsString]| Self {
            command,
            args: args.to_vec(),
            node: None,
            node_args: Vec::new(),
            env: Vec::new(),
        };
        if is_script(first) {
            return line(Command::Script(first.into()), rest);
        }
        if is_node(first)
            && let Some(script_at) = script_position(rest)
            && let (node_args, [script, args @ ..]) = rest.split_at(script_at)
        {
            let node_args = node_args.iter().filter(|arg| *arg != "--");
            return Self {
                node: Some(first.to_owned()),
                node_args: node_args.cloned().collect(),
                ..line(Command::Script(script.into()), args)
            };
        }
        line(Command::Executable(first.to_owned()), rest)
    }

    /// The program's word, if it is one.
    pub(crate) fn command_name(&self) -> Option<&str> {
        match &self.command {
            Command::Executable(name) => name.to_str(),
            Command::Script(_) => None,
        }
    }
}

/// Whether node runs it, by its name.
pub(super) fn is_script(word: &OsStr) -> bool {
    let extension = Path::new(word).extension().and_then(OsStr::to_str);
    matches!(extension, Some("js" | "mjs" | "cjs" | "ts" | "mts" | "cts"))
}

/// Whether the word names a node: `node`, `nodejs`, `/usr/bin/node`, `node22`.
pub(crate) fn is_node(word: &OsStr) -> bool {
    let name = Path::new(word).file_name().and_then(OsStr::to_str);
    name.and_then(|name| name.strip_prefix("nodejs").or(name.strip_prefix("node")))
        .is_some_and(|version| version.bytes().all(|b| b.is_ascii_digit() || b == b'.'))
}

/// Where the script is among node's arguments; `None` when node is to run something else: code
/// from the command line or from stdin, a package script, its test runner.
pub(crate) fn script_position(args: &[OsString]) -> Option<usize> {
    let mut at = 0;
    while let Some(arg) = args.get(at) {
        let text = arg.to_string_lossy();
        match text.as_ref() {
            "--" => return (at + 1 < args.len()).then_some(at + 1),
            "-e" | "--eval" | "-p" | "--print" | "-pe" | "-i" | "--interactive" | "-" | "--run"
            | "--test" | "-c" | "--check" | "-v" | "--version" | "-h" | "--help" => return None,
            text if text.starts_with("--run=") || text.starts_with("--eval=") => return None,
            text if WITH_VALUE.contains(&text) => at += 2,
            text if text.starts_with('-') => at += 1,
            _ => return Some(at),
        }
    }
    None
}

/// Options of node whose value is the next argument, when it is not joined with `=`.
const WITH_VALUE: [&str; 40] = [
    "-C",
    "-r",
    "--conditions",
    "--cpu-prof-dir",
    "--cpu-prof-interval",
    "--cpu-prof-name",
    "--diagnostic-dir",
    "--disable-proto",
    "--disable-warning",
    "--dns-result-order",
    "--env-file",
    "--env-file-if-exists",
    "--experimental-config-file",
    "--experimental-default-type",
    "--experimental-loader",
    "--heap-prof-dir",
    "--heap-prof-interval",
    "--heap-prof-name",
    "--heapsnapshot-near-heap-limit",
    "--heapsnapshot-signal",
    "--icu-data-dir",
    "--import",
    "--input-type",
    "--inspect-port",
    "--inspect-publish-uid",
    "--loader",
    "--localstorage-file",
    "--max-http-header-size",
    "--openssl-config",
    "--redirect-warnings",
    "--report-dir",
    "--report-filename",
    "--report-signal",
    "--require",
    "--secure-heap",
    "--title",
    "--tls-cipher-list",
    "--trace-event-categories",
    "--unhandled-rejections",
    "--watch-path",
];

/// The app's name: what was asked for, else the package's name without its scope, else the
/// command's without its extension.
///
/// # Errors
/// That the name asked for cannot be one. The others are made to fit.
pub(crate) fn app_name(
    asked: Option<&str>,
    command: &Command,
    directory: &Path,
) -> Result<String, CommandError> {
    if let Some(name) = asked {
        return if is_name(name) {
            Ok(name.to_owned())
        } else {
            Err(CommandError::Name(name.to_owned()))
        };
    }
    // A package.json that cannot be read is no reason not to run a script beside it.
    let package = Package::read(directory).ok().flatten();
    let package = package.and_then(|package| package.name);
    let package = package.as_deref().map(|name| {
        let unscoped = name.rsplit('/').next().unwrap_or(name);
        fit_name(unscoped)
    });
    let path = match command {
        Command::Script(path) => path.as_path(),
        Command::Executable(name) => Path::new(name),
    };
    let stem = || fit_name(&path.file_stem().unwrap_or_default().to_string_lossy());
    let name = package.filter(|name| is_name(name)).unwrap_or_else(stem);
    Ok(if is_name(&name) { name } else { "app".into() })
}

/// Whether a word can be the name of an app, and does not look like a script.
pub(crate) fn is_app_name(word: &str) -> bool {
    is_name(word) && !is_script(OsStr::new(word))
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.len() <= 64
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// Makes a name of it, as far as it goes.
pub(crate) fn fit_name(name: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    name.chars()
        .map(|c| if fits(c) { c } else { '-' })
        .skip_while(|c| !c.is_ascii_alphanumeric())
        .take(64)
        .collect()
}

/// The current directory as the user reached it, symlinks included, if `$PWD` says so and is
/// right; so that `cd current` means the link, wherever it points at the next reload.
///
/// # Errors
/// As getcwd(3).
pub(crate) fn logical_directory(pwd: Option<&OsStr>) -> io::Result<PathBuf> {
    let physical = std::env::current_dir()?;
    let Some(logical) = pwd.map(Path::new).filter(|path| path.is_absolute()) else {
        return Ok(physical);
    };
    let same = |a: &Path, b: &Path| -> io::Result<bool> {
        let (a, b) = (a.metadata()?, b.metadata()?);
        Ok((a.dev(), a.ino()) == (b.dev(), b.ino()))
    };
    // POSIX refuses a PWD with dots in it too (pwd(1)).
    let dots = logical.as_os_str().as_encoded_bytes().split(|b| *b == b'/');
    let dots = dots.into_iter().any(|part| part == b"." || part == b"..");
    if !dots && same(logical, &physical).unwrap_or(false) {
        Ok(logical.to_owned())
    } else {
        Ok(physical)
    }
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
