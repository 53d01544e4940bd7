//! From an app of a file to what is run: flags are laid over it, paths are made absolute. The same
//! again for each new generation, from the file as it is by then.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{File, FileApp, FileError};
use crate::config::app::AppConfig;
use crate::config::command::{CommandError, CommandLine, is_app_name};
use crate::config::log::Destination;
use crate::config::package::PlainScript;
use crate::config::settings::AppSettings;
use crate::config::written::Written;
use crate::handoff::text::word;

/// Where an app is written down. A successor of its supervisor reads it there again.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Origin {
    #[serde(with = "word")]
    pub(crate) file: PathBuf,
    /// Its name in the file.
    pub(crate) app: String,
    /// What the command line says besides, and the directory that it was written in.
    pub(crate) flags: Written,
    #[serde(with = "word")]
    pub(crate) here: PathBuf,
    /// All apps of the file were meant: what comes to it later is, too.
    #[serde(default)]
    pub(crate) is_whole: bool,
}

/// An app of a file, with the flags of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FromFile {
    pub(crate) config: AppConfig,
    pub(crate) settings: AppSettings,
}

/// An app as its file has it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fresh {
    pub(crate) config: AppConfig,
    /// Keys that have changed in the file and not for the app.
    pub(crate) left: Vec<&'static str>,
}

/// The apps of a file that a command line means, if it means any: `config` names the file, or the directory
/// has one and no script was written. A single word may be the name of an app; without it, all are meant.
///
/// # Errors
/// The file cannot be used, or has no such app.
pub(crate) fn chosen(
    config: Option<&Path>,
    words: &[OsString],
    here: &Path,
) -> Result<Option<(File, Vec<FileApp>)>, FileError> {
    let name = match (words, config) {
        ([], _) => None,
        ([word], Some(_)) => word.to_str(),
        // Whatever looks like a script or a path is one, whether the file is good or not.
        ([word], None) => match word.to_str().filter(|word| is_app_name(word)) {
            Some(name) => Some(name),
            None => return Ok(None),
        },
        ([_, word, ..], Some(_)) => {
            return Err(FileError::Other(format!(
                "{} follows the name of an app: what it is given stands in the file, as args",
                word.display()
            )));
        }
        ([_, _, ..], None) => return Ok(None),
    };
    let path = config.map(|path| here.join(path));
    let Some(path) = path.or_else(|| File::of_directory(here)) else {
        return Ok(None);
    };
    let file = File::read(&path, &|name| std::env::var(name).ok())?;
    let Some(name) = name else {
        let apps = file.apps.clone();
        return Ok(Some((file, apps)));
    };
    match file.app(Some(name)).cloned() {
        Ok(app) => Ok(Some((file, vec![app]))),
        // It is a program, then.
        Err(FileError::NoSuchApp { .. }) if config.is_none() => Ok(None),
        Err(error) => Err(error),
    }
}

impl FromFile {
    /// Lays the flags of a command line, written in the directory `here`, over an app.
    ///
    /// # Errors
    /// What cannot be run, or be meant.
    pub(crate) fn of(
        file: &File,
        app: &FileApp,
        flags: &Written,
        here: &Path,
        caller_env: Vec<(OsString, OsString)>,
    ) -> Result<Self, FileError> {
        let written = flags.over(&app.settings);
        let settings = written.settings().map_err(FileError::Other)?;
        settings
            .check()
            .map_err(|odd| FileError::Other(odd.to_string()))?;
        let place = |key: &str| match flags.last(key) {
            Some(path) => Some(here.join(path)),
            None => Some(file.directory().join(app.settings.last(key)?)),
        };
        let cwd = place("cwd").unwrap_or_else(|| file.directory().to_owned());
        let line = app
            .line(&cwd)
            .map_err(|error| FileError::Other(format!("{}: {error}", file.path.display())))?;
        let mut node_args = line.node_args;
        node_args.extend(settings.node_args.iter().map(Into::into));
        let mut env = line.env;
        let own = settings.env.iter();
        env.extend(own.map(|(name, value)| (name.into(), value.into())));
        let config = AppConfig {
            name: settings.name.clone().unwrap_or_else(|| app.name.clone()),
            command: line.command,
            args: line.args,
            node: line.node.unwrap_or_else(|| (&settings.node).into()),
            node_args,
            cwd,
            caller_env,
            env_files: settings.env_files.clone(),
            env,
            log: place("log.out")
                .filter(|_| Destination::of(written.last("log.out")) == Destination::File),
            confinement: settings.confinement.clone(),
            origin: Some(Box::new(Origin {
                file: file.path.clone(),
                app: app.name.clone(),
                flags: flags.clone(),
                here: here.to_owned(),
                is_whole: false,
            })),
            umask: None,
            written,
        };
        Ok(Self { config, settings })
    }
}

/// All apps that a file has by now, with the flags that one of them was started with.
///
/// # Errors
/// The file cannot be used any more.
pub(crate) fn reread(
    origin: &Origin,
    caller_env: &[(OsString, OsString)],
) -> Result<Vec<AppConfig>, FileError> {
    let file = File::read(&origin.file, &|name| variable(caller_env, name))?;
    whole(&file, &origin.flags, &origin.here, caller_env)
}

/// All apps of a file.
///
/// # Errors
/// What cannot be run, or be meant.
pub(crate) fn whole(
    file: &File,
    flags: &Written,
    here: &Path,
    caller_env: &[(OsString, OsString)],
) -> Result<Vec<AppConfig>, FileError> {
    let apps = file.apps.iter().map(|app| {
        let read = FromFile::of(file, app, flags, here, caller_env.to_vec())?;
        let mut config = read.config;
        if let Some(origin) = &mut config.origin {
            origin.is_whole = true;
        }
        Ok(config)
    });
    apps.collect()
}

impl FileApp {
    /// Its command, in its directory.
    ///
    /// # Errors
    /// What is written cannot be run.
    pub(crate) fn line(&self, cwd: &Path) -> Result<CommandLine, CommandError> {
        let Some(line) = &self.line else {
            let words = std::iter::once(&self.command).chain(&self.args);
            let words: Vec<OsString> = words.map(OsString::from).collect();
            return CommandLine::read(&words, cwd);
        };
        // A Procfile often only leads to the start script, which no npm is needed for.
        let words = PlainScript::parse(line).map(|plain| plain.words);
        let words = words.unwrap_or_default();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["npm" | "yarn" | "pnpm", "start"] | ["npm" | "yarn" | "pnpm", "run", "start"] => {
                CommandLine::read(&[], cwd)
            }
            _ => CommandLine::from_script(line, cwd),
        }
    }
}

impl AppConfig {
    /// The app as its file has it now; `None` if it is from no file.
    ///
    /// # Errors
    /// The file cannot be used any more.
    pub(crate) fn fresh(&self) -> Result<Option<Fresh>, FileError> {
        let Some(origin) = &self.origin else {
            return Ok(None);
        };
        let lookup = |name: &str| variable(&self.caller_env, name);
        let file = File::read(&origin.file, &lookup)?;
        let app = file.app(Some(&origin.app))?;
        let read = FromFile::of(
            &file,
            app,
            &origin.flags,
            &origin.here,
            self.caller_env.clone(),
        )?;
        let left = read.config.written.fixed_changes(&self.written);
        let config = Self {
            // They belong to the supervisor, which stays.
            name: self.name.clone(),
            log: self.log.clone(),
            umask: self.umask,
            written: self.written.clone(),
            origin: self.origin.clone(),
            ..read.config
        };
        Ok(Some(Fresh { config, left }))
    }
}

/// A variable of an environment, if it is text.
fn variable(env: &[(OsString, OsString)], name: &str) -> Option<String> {
    let found = env.iter().find(|(key, _)| key == OsStr::new(name));
    found.and_then(|(_, value)| value.to_str().map(str::to_owned))
}
