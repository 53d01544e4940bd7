//! From what was written, on a command line or in a file, to the apps that it means and the place of
//! their supervisor's control socket.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::args::RunArgs;
use super::start::MAIN;
use crate::config::app::AppConfig;
use crate::config::command::{CommandLine, app_name, is_app_name, logical_directory};
use crate::config::file::app::{FromFile, chosen, whole};
use crate::config::file::{File, FileApp, FileError};
use crate::config::log::Destination;
use crate::control::runtime::{NoDirectory, Place};

/// Everything that follows from the command line, the file and the surroundings.
pub(crate) struct Prepared {
    /// None of them are one that a background supervisor only remembers.
    pub(crate) apps: Vec<AppConfig>,
    /// None where nobody has named a socket and there is no place for one, as in a container
    /// whose whole file system is read-only: that must not keep the apps from running.
    pub(crate) control: Result<PathBuf, NoDirectory>,
    /// Where metrics are served.
    pub(crate) metrics: Option<SocketAddr>,
}

/// The directory that a command is written in, with the symlinks it was reached by.
///
/// # Errors
/// There is none.
pub(crate) fn here() -> Result<PathBuf, String> {
    logical_directory(std::env::var_os("PWD").as_deref())
        .map_err(|error| format!("cannot tell the current directory: {error}"))
}

impl Prepared {
    /// # Errors
    /// What cannot be, and what to do about it.
    pub(crate) fn of(args: &RunArgs) -> Result<Self, String> {
        let here = here()?;
        if args.is_background {
            return Ok(Self {
                apps: Vec::new(),
                control: control(args, &here, None, MAIN),
                metrics: args.metrics,
            });
        }
        let chosen = chosen(args.config.as_deref(), &args.command, &here);
        match chosen.map_err(|error| shown(&error))? {
            Some((file, chosen)) => {
                let apps = of_file(args, &file, &chosen, &here)?;
                let named = file.control.as_ref();
                let named = named.map(|control| file.directory().join(control));
                let name = match apps.as_slice() {
                    [only] => only.name.clone(),
                    _ => name_of_all(&file, &apps),
                };
                let control = control(args, &here, named, &format!("{name}.sock"));
                let metrics = args.metrics.or(file.metrics);
                Ok(Self {
                    apps,
                    control,
                    metrics,
                })
            }
            None => {
                let app = Self::of_words(args, &here)?;
                let control = control(args, &here, None, &format!("{}.sock", app.name));
                Ok(Self {
                    apps: vec![app],
                    control,
                    metrics: args.metrics,
                })
            }
        }
    }

    /// The apps alone, for a supervisor with a umask of its own.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub(crate) fn all(args: &RunArgs) -> Result<Vec<AppConfig>, String> {
        let mut apps = Self::of(args)?.apps;
        let umask = umask();
        for app in &mut apps {
            app.umask = umask;
        }
        Ok(apps)
    }

    /// What the command line alone says.
    fn of_words(args: &RunArgs, here: &Path) -> Result<AppConfig, String> {
        let given = &args.given.settings;
        given.check().map_err(|odd| odd.to_string())?;
        let cwd = given.cwd.as_ref();
        let cwd = cwd.map_or_else(|| here.to_owned(), |cwd| here.join(cwd));
        let line = CommandLine::read(&args.command, &cwd).map_err(|error| error.to_string())?;
        let name = app_name(given.name.as_deref(), &line.command, &cwd)
            .map_err(|error| error.to_string())?;
        let mut node_args = line.node_args;
        node_args.extend(given.node_args.iter().map(Into::into));
        let mut env = line.env;
        let own = given.env.iter();
        env.extend(own.map(|(key, value)| (key.into(), value.into())));
        Ok(AppConfig {
            name,
            command: line.command,
            args: line.args,
            node: line.node.unwrap_or_else(|| OsString::from(&given.node)),
            node_args,
            cwd,
            caller_env: std::env::vars_os().collect(),
            env_files: given.env_files.clone(),
            env,
            log: match Destination::of(args.given.written.last("log.out")) {
                Destination::File => given.log.as_ref().map(|path| here.join(path)),
                Destination::Usual | Destination::Stdout | Destination::Journal => None,
            },
            umask: None,
            written: args.given.written.clone(),
            confinement: given.confinement.clone(),
            origin: None,
        })
    }
}

/// That of this process (proc_pid_status(5)); reading it otherwise would change it for a moment.
pub(super) fn umask() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(line.trim(), 8).ok()
}

/// The apps of a file, with the flags of the command line laid over each.
fn of_file(
    args: &RunArgs,
    file: &File,
    chosen: &[FileApp],
    here: &Path,
) -> Result<Vec<AppConfig>, String> {
    if chosen.len() > 1 && args.given.written.last("name").is_some() {
        return Err(format!(
            "--name is for one app, and {} has several: name the one that is meant",
            file.path.display()
        ));
    }
    let env: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let flags = &args.given.written;
    let is_whole = args.command.is_empty();
    let apps = match is_whole {
        true => whole(file, flags, here, &env),
        false => {
            let read = chosen
                .iter()
                .map(|app| FromFile::of(file, app, flags, here, env.clone()));
            read.map(|read| read.map(|read| read.config)).collect()
        }
    };
    apps.map_err(|error| shown(&error))
}

/// Several apps are called as the directory of their file is.
fn name_of_all(file: &File, apps: &[AppConfig]) -> String {
    let directory = file.directory().file_name();
    let directory = directory.and_then(|name| name.to_str());
    let first = apps.first().map(|app| app.name.as_str());
    let name = directory.filter(|name| is_app_name(name)).or(first);
    name.unwrap_or("segue").to_owned()
}

/// Where the control socket is to be.
fn control(
    args: &RunArgs,
    here: &Path,
    of_file: Option<PathBuf>,
    name: &str,
) -> Result<PathBuf, NoDirectory> {
    match (&args.control, of_file) {
        (Some(path), _) => Ok(here.join(path)),
        (None, Some(path)) => Ok(path),
        (None, None) => Place::of_this_process()
            .directory()
            .map(|directory| directory.join(name)),
    }
}

/// A whole report begins a line of its own.
pub(super) fn shown(error: &FileError) -> String {
    match error {
        FileError::Refused(refused) => {
            let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
                && io::stderr().is_terminal();
            format!("cannot run this file\n{}", refused.report(colours))
        }
        _ => error.to_string(),
    }
}
