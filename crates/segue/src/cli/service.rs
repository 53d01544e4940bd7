//! `segue service`: the units that systemd runs an app by, printed or put where systemd looks.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};

use super::args::{Cli, Command, RunArgs};
use super::error::Trouble;
use super::output::Output;
use crate::config::command::{self, CommandLine, app_name, logical_directory};
use crate::config::file::app::{FromFile, chosen};
use crate::exit::Exit;
use crate::service::unit::{self, Unit};
use crate::telemetry::log::Verbosity;

const HELP: &str = "\
What follows the flags is what follows `segue run`.

Examples:
  segue service print server.js
  segue service print --run-as web -w 4 server.js --port 80
  segue service install --user --name web server.js
  segue service install --background           the apps of segue start, back after a reboot
  segue service print --user --socket 3000 server.js   systemd listens, from before the first start";

/// Flags that come before those of `run`.
const OURS: [&str; 5] = ["--user", "--run-as", "--socket", "--force", "--background"];

#[derive(Args, Debug)]
pub(crate) struct ServiceArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print the unit, or the two with --socket
    #[command(after_help = HELP, override_usage = "segue service print [FLAGS] [OPTIONS OF RUN] SCRIPT|COMMAND [ARGS...]")]
    Print(UnitArgs),
    /// Write it where systemd looks; it is neither enabled nor started
    #[command(after_help = HELP, override_usage = "segue service install [FLAGS] [OPTIONS OF RUN] SCRIPT|COMMAND [ARGS...]")]
    Install {
        /// Replace a unit of that name that says something else
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        unit: UnitArgs,
    },
}

#[derive(Args, Debug)]
struct UnitArgs {
    /// For your own service manager (systemctl --user), not the system's
    #[arg(long, conflicts_with = "run_as")]
    user: bool,
    /// Run the service as this user [default: the owner of the app's directory]
    #[arg(long, value_name = "USER", value_parser = account)]
    run_as: Option<String>,
    /// Have systemd listen here in the app's place: a port, HOST:PORT or an absolute path; repeatable
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    socket: Vec<String>,
    /// For the background supervisor and the apps that it remembers, instead of one app
    #[arg(long, conflicts_with_all = ["socket", "words"])]
    background: bool,
    /// What follows `segue run`
    #[arg(
        value_name = "SCRIPT|COMMAND",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    words: Vec<OsString>,
}

impl ServiceArgs {
    pub(crate) fn output(&self) -> Output {
        Output::of_this_process(false, Verbosity::new(false, 0))
    }

    /// Refuses a command line that `run` would refuse.
    pub(crate) fn check(&self) -> Result<(), clap::Error> {
        match self.what.unit().background {
            true => Ok(()),
            false => self.what.unit().run_args().map(drop),
        }
    }
}

impl What {
    fn unit(&self) -> &UnitArgs {
        match self {
            Self::Print(unit) | Self::Install { unit, .. } => unit,
        }
    }
}

impl UnitArgs {
    fn run_args(&self) -> Result<RunArgs, clap::Error> {
        let ours = |word: &&OsString| {
            let name = word.to_string_lossy();
            let name = name.split_once('=').map_or(&*name, |(name, _)| name);
            OURS.contains(&name)
        };
        let words = ["segue", "run"].into_iter().map(OsString::from);
        let parsed = Cli::try_parse_from(words.chain(self.words.iter().cloned()));
        if parsed
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::UnknownArgument)
            && let Some(misplaced) = self.words.iter().find(ours)
        {
            let why = format!(
                "{} is no flag of run: write it before those that are\n",
                misplaced.display()
            );
            return Err(Cli::command().error(ErrorKind::UnknownArgument, why));
        }
        let cli = parsed?;
        cli.command.check()?;
        match cli.command {
            Command::Run(args) => Ok(*args),
            _ => Err(Cli::command().error(ErrorKind::InvalidValue, "no command of run")),
        }
    }
}

pub(super) async fn run(args: ServiceArgs, output: Output) -> Result<Exit, Trouble> {
    let trouble = |why: String| {
        let next = "see segue service print --help";
        Trouble::new("cannot write the unit", why, next, Exit::Usage)
    };
    let found = unit_of(args.what.unit()).map_err(trouble)?;
    let config = match args.what.unit().user {
        true => Some(config_directory().ok_or_else(|| trouble("HOME is not set".to_owned()))?),
        false => None,
    };
    let directory = unit::directory(config.as_deref());
    let mut files = vec![(directory.join(found.service_name()), found.service())];
    if let Some(socket) = found.socket() {
        files.push((directory.join(found.socket_name()), socket));
    }
    match &args.what {
        What::Print(_) => {
            for (path, text) in &files {
                if files.len() > 1 {
                    output.line(&format!("# {}", path.display()));
                }
                output.line(text.trim_end());
                if files.len() > 1 {
                    output.line("");
                }
            }
        }
        What::Install { force, unit } => {
            for (path, text) in &files {
                check_file(path, text, *force)?;
            }
            for (path, text) in &files {
                write(path, text).map_err(|error| {
                    let next = "run it as root, or with --user for a service of your own";
                    Trouble::new(
                        format!("cannot write {}", path.display()),
                        error,
                        next,
                        Exit::Failed,
                    )
                })?;
                output.line(&format!("wrote {}", path.display()));
            }
            let systemctl = match unit.user {
                true => "systemctl --user",
                false => "systemctl",
            };
            let names: Vec<String> = match files.len() {
                1 => vec![found.service_name()],
                _ => vec![found.socket_name(), found.service_name()],
            };
            let names = names.join(" ");
            output.line(&format!(
                "next: {systemctl} daemon-reload && {systemctl} enable --now {names}"
            ));
            if unit.user {
                output.line("to have it run while you are not logged in: loginctl enable-linger");
            }
        }
    }
    Ok(Exit::Done)
}

/// Nothing that somebody has written by hand is replaced unasked.
fn check_file(path: &Path, text: &str, force: bool) -> Result<(), Trouble> {
    match std::fs::read_to_string(path) {
        Ok(present) if present != text && !force => Err(Trouble::new(
            format!("cannot write {}", path.display()),
            "it is there and says something else",
            "compare it with segue service print, then use --force",
            Exit::Failed,
        )),
        _ => Ok(()),
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    std::fs::write(path, text)
}

/// The unit that brings the apps of `segue start` back after a reboot.
fn background(args: &UnitArgs) -> Result<Unit, String> {
    let program = std::env::current_exe().map_err(|error| format!("where am I: {error}"))?;
    let settings = crate::config::settings::AppSettings::default();
    let account = args
        .run_as
        .clone()
        .filter(|account| account != "root" && account != "0");
    Ok(Unit {
        is_background: true,
        name: "segue".to_owned(),
        program: text(program)?,
        words: Vec::new(),
        directory: "/".to_owned(),
        path: None,
        is_users: args.user,
        account: account.filter(|_| !args.user),
        control: None,
        stop: settings.stop_delay + settings.stop_timeout + settings.kill_after,
        sockets: Vec::new(),
    })
}

fn unit_of(args: &UnitArgs) -> Result<Unit, String> {
    if args.background {
        return background(args);
    }
    let run = args.run_args().map_err(|error| error.to_string())?;
    let here = logical_directory(std::env::var_os("PWD").as_deref())
        .map_err(|error| format!("cannot tell the current directory: {error}"))?;
    let mut words = Vec::new();
    let chosen = chosen(run.config.as_deref(), &run.command, &here);
    let (settings, name, cwd, node) = match chosen.map_err(|error| error.to_string())? {
        Some((file, apps)) => {
            let read = apps.iter().map(|app| {
                let env = std::env::vars_os().collect();
                FromFile::of(&file, app, &run.given.written, &here, env)
            });
            let read: Vec<FromFile> = read
                .collect::<Result<_, _>>()
                .map_err(|error| error.to_string())?;
            // The one that takes longest to stop is the one that systemd must wait for.
            let is_one = read.len() == 1;
            let slowest = read.into_iter().max_by_key(|app| {
                let settings = &app.settings;
                settings.stop_delay + settings.stop_timeout + settings.kill_after
            });
            let Some(FromFile {
                mut config,
                settings,
            }) = slowest
            else {
                return Err(format!("{} has no app", file.path.display()));
            };
            if !is_one {
                let directory = file.directory().file_name();
                let directory = directory.and_then(|name| name.to_str());
                if let Some(name) = directory.filter(|name| command::is_app_name(name)) {
                    name.clone_into(&mut config.name);
                }
                file.directory().clone_into(&mut config.cwd);
            }
            if run.config.is_none() {
                words.extend(["--config".into(), file.path.into_os_string()]);
            }
            (settings, config.name, config.cwd, config.node)
        }
        None => {
            let settings = run.given.settings;
            let cwd = settings.cwd.as_ref();
            let cwd = cwd.map_or_else(|| here.clone(), |cwd| here.join(cwd));
            let line = CommandLine::read(&run.command, &cwd).map_err(|error| error.to_string())?;
            let name = app_name(settings.name.as_deref(), &line.command, &cwd)
                .map_err(|error| error.to_string())?;
            if let command::Command::Script(script) = &line.command
                && !cwd.join(script).is_file()
            {
                return Err(format!(
                    "there is no {} in {}",
                    script.display(),
                    cwd.display()
                ));
            }
            if settings.cwd.is_none() {
                // systemd follows links in WorkingDirectory once; segue follows these at each reload.
                words.extend(["--cwd".into(), here.clone().into_os_string()]);
            }
            let node = line.node.unwrap_or_else(|| OsString::from(&settings.node));
            (settings, name, cwd, node)
        }
    };
    words.extend(args.words.iter().cloned());
    let program = std::env::current_exe().map_err(|error| format!("where am I: {error}"))?;
    let account = match (args.user, &args.run_as) {
        (true, _) => None,
        (false, Some(account)) => Some(account.clone()),
        (false, None) => owner(&cwd)?,
    };
    Ok(Unit {
        is_background: false,
        name,
        program: text(program)?,
        words: words.into_iter().map(text).collect::<Result<_, _>>()?,
        path: unusual_directory(&node).map(text).transpose()?,
        is_users: args.user,
        account: account.filter(|account| account != "root" && account != "0"),
        control: run.control.map(|path| text(here.join(path))).transpose()?,
        directory: text(here)?,
        stop: settings.stop_delay + settings.stop_timeout + settings.kill_after,
        sockets: args.socket.clone(),
    })
}

fn text(word: impl Into<OsString>) -> Result<String, String> {
    let text = word.into().into_string();
    let text =
        text.map_err(|word| format!("{} is not UTF-8, as a unit must be", word.display()))?;
    match text.contains(char::is_control) {
        true => Err(format!("{text:?} has characters that a unit cannot have")),
        false => Ok(text),
    }
}

/// Where the program is found, unless systemd looks there by itself.
fn unusual_directory(program: &OsString) -> Option<PathBuf> {
    if Path::new(program).components().count() > 1 {
        return None;
    }
    let path = std::env::var_os("PATH")?;
    let mut directories = std::env::split_paths(&path);
    let found = directories.find(|directory| directory.join(program).is_file())?;
    let is_usual = unit::USUAL_PATH
        .split(':')
        .any(|usual| Path::new(usual) == found);
    (!is_usual && found.is_absolute()).then_some(found)
}

/// The name of who owns a directory, or the number where there is none.
fn owner(directory: &Path) -> Result<Option<String>, String> {
    let found = std::fs::metadata(directory)
        .map_err(|error| format!("cannot look at {}: {error}", directory.display()))?;
    let uid = found.uid().to_string();
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1) == Some(&uid)).then(|| name.to_owned())
    });
    Ok(Some(name.unwrap_or(uid)))
}

fn config_directory() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let config = set("XDG_CONFIG_HOME").map(PathBuf::from);
    config.or_else(|| Some(PathBuf::from(set("HOME")?).join(".config")))
}

fn account(word: &str) -> Result<String, String> {
    let is_account = |c: char| c.is_ascii_alphanumeric() || "._-@".contains(c);
    match !word.is_empty() && word.chars().all(is_account) {
        true => Ok(word.to_owned()),
        false => Err("that is no user".to_owned()),
    }
}

fn address(word: &str) -> Result<String, String> {
    match unit::is_address(word) {
        true => Ok(word.to_owned()),
        false => {
            Err("write a port, HOST:PORT with the host as a number, or an absolute path".to_owned())
        }
    }
}
