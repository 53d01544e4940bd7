//! The grammar of the command line. Flags of settings come from the table of settings, the rest from here.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand};
use segue_wire::control::{Canary, CanaryWish, ScaleBody, Wait};

use super::demo::DemoArgs;
use super::flush::{FlushArgs, ReopenArgs};
use super::given::Given;
use super::help::{
    AFTER_HELP, APPLY_HELP, CHECK_HELP, RELOAD_HELP, ROLLBACK_HELP, RUN_HELP, START_HELP,
    UPGRADE_HELP,
};
use super::hook::HookArgs;
use super::import::ImportArgs;
use super::logs::LogsArgs;
use super::output::Output;
use super::reference::{CompletionsArgs, ManArgs};
use super::service::ServiceArgs;
use super::top::TopArgs;
use super::upgrade::UpgradeArgs;
use crate::config::values::address;
use crate::config::{probe, quantity};
use crate::telemetry::log::Verbosity;

/// Zero-downtime application server: runs N workers of a Node.js app on one port, and replaces them
/// with a new version so that no client can tell.
#[derive(Debug, Parser)]
#[command(name = "segue", version, after_help = AFTER_HELP, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run an app in the foreground, or all apps of a file
    Run(Box<RunArgs>),
    /// Add an app to the background supervisor, which is started if none runs
    Start(Box<StartArgs>),
    /// Make what a file says what runs: start, delete, reload, scale and adjust its apps
    #[command(after_help = APPLY_HELP)]
    Apply(ApplyArgs),
    /// Replace the workers with a new generation
    #[command(after_help = RELOAD_HELP)]
    Reload(ReloadArgs),
    /// End the canary or probation of a reload early: it stays
    Promote(AppArgs),
    /// Go back to the release before
    #[command(after_help = ROLLBACK_HELP)]
    Rollback(AppArgs),
    /// Stop all workers, then start the app afresh; clients wait meanwhile
    Restart(AppArgs),
    /// Show what runs: one line a worker
    Status(StatusArgs),
    /// Watch what runs: a live view of the whole screen
    Top(TopArgs),
    /// Tell what has happened: the last reload, every restart and its cause, what drains and why
    Why(WhyArgs),
    /// Show what workers have printed to the log file
    Logs(LogsArgs),
    /// Empty the log file, and remove what it was before
    Flush(FlushArgs),
    /// Open the log files anew, as USR1 does: for rotation by others
    Reopen(ReopenArgs),
    /// Follow the supervisor's news: starts, crashes, reloads, drains
    Events(EventsArgs),
    /// Change the number of workers
    Scale(ScaleArgs),
    /// Stop an app gracefully; it stays known to a background supervisor
    Stop(StopArgs),
    /// Stop an app gracefully and forget it
    #[command(visible_alias = "del")]
    Delete(AppArgs),
    /// Stop everything and end the supervisor
    Shutdown(ShutdownArgs),
    /// Replace the supervisor itself, in place: no worker and no client notices
    #[command(after_help = UPGRADE_HELP)]
    Upgrade(UpgradeArgs),
    /// Check a segue.toml: each error with its line, and whether what it names is there
    #[command(after_help = CHECK_HELP)]
    Check(CheckArgs),
    /// Write a commented segue.toml for the app in this directory
    Init(InitArgs),
    /// Write a segue.toml from what another process manager has
    Import(ImportArgs),
    /// Print a systemd unit for an app, or install it
    Service(ServiceArgs),
    /// Deploy by git push: a push is built and reloaded, or refused
    Hook(HookArgs),
    /// Print what completes commands and flags in a shell
    Completions(CompletionsArgs),
    /// Show the manual page of a command
    Man(ManArgs),
    /// See it at work: a built-in app, reloaded, broken and killed under load
    Demo(DemoArgs),
}

/// `run`: settings of the app, flags of the supervisor, and the app's own words.
#[derive(Args, Clone, Debug, Default)]
#[command(after_help = RUN_HELP, override_usage = "segue run [OPTIONS] [SCRIPT|COMMAND [ARGS...]]\n       segue run [OPTIONS] [-c FILE] [APP]")]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) given: Given,
    /// Run an app of this file [default: segue.toml in the current directory, else its Procfile]
    #[arg(short, long, value_name = "FILE", help_heading = "App")]
    pub(crate) config: Option<PathBuf>,
    /// Make the control socket here [default: NAME.sock in $XDG_RUNTIME_DIR/segue, /run/segue or /tmp/segue-UID]
    #[arg(
        long,
        value_name = "PATH",
        env = "SEGUE_CONTROL",
        help_heading = "Supervisor"
    )]
    pub(crate) control: Option<PathBuf>,
    /// Serve metrics for Prometheus at /metrics of this address, such as 127.0.0.1:9464 [default: nowhere]
    #[arg(long, value_name = "ADDRESS", value_parser = address, help_heading = "Supervisor")]
    pub(crate) metrics: Option<SocketAddr>,
    /// Write the main process's pid here, for kill -HUP
    #[arg(long, value_name = "PATH", help_heading = "Supervisor")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Say only what is wrong
    #[arg(short, long, help_heading = "Supervisor")]
    pub(crate) quiet: bool,
    /// Say more; twice: everything
    #[arg(short, long, action = ArgAction::Count, help_heading = "Supervisor")]
    pub(crate) verbose: u8,
    /// It is the background supervisor, which has no app of its own.
    #[arg(skip)]
    pub(crate) is_background: bool,
    /// It leaves the terminal behind.
    #[arg(skip)]
    pub(crate) is_detached: bool,
    /// A script for node (.js .mjs .cjs .ts .mts .cts), or a command; the rest of the line goes to it untouched.
    /// Or the name of an app of the file
    #[arg(value_name = "SCRIPT|COMMAND|APP", trailing_var_arg = true)]
    pub(crate) command: Vec<OsString>,
}

/// `start`: what `run` takes.
#[derive(Args, Clone, Debug)]
#[command(after_help = START_HELP, override_usage = "segue start [OPTIONS] [SCRIPT|COMMAND [ARGS...]]\n       segue start [OPTIONS] [-c FILE] [APP]")]
pub(crate) struct StartArgs {
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Wait no longer than this, with exit code 124; the start itself goes on [default: as long as it takes]
    #[arg(long, value_name = "DURATION", value_parser = quantity::duration, help_heading = "Supervisor")]
    pub(crate) timeout: Option<Duration>,
    /// Be the background supervisor, without leaving the terminal: for a service unit. Its apps are those that it
    /// remembers
    #[arg(long, help_heading = "Supervisor")]
    pub(crate) foreground: bool,
    #[arg(long, hide = true, requires = "foreground")]
    pub(crate) detached: bool,
}

impl StartArgs {
    pub(crate) fn output(&self) -> Output {
        Output::of_this_process(false, self.run.verbosity())
    }

    /// The supervisor itself.
    pub(crate) fn into_background(self) -> RunArgs {
        RunArgs {
            is_background: true,
            is_detached: self.detached,
            ..self.run
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct ApplyArgs {
    /// The file [default: segue.toml in the current directory, else its Procfile]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Only print what would be done
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// Wait no longer than this, with exit code 124; what was asked for goes on [default: as long as it takes]
    #[arg(long, value_name = "DURATION", value_parser = quantity::duration)]
    pub(crate) timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// Flags of every command that talks to a supervisor.
#[derive(Args, Clone, Debug)]
pub(crate) struct CommonArgs {
    /// The supervisor's control socket [default: the only one, or the one that has the app]
    #[arg(long, value_name = "PATH", env = "SEGUE_CONTROL")]
    pub(crate) control: Option<PathBuf>,
    /// Answer in JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Say only what is wrong
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Say more; twice: everything
    #[arg(short, long, action = ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Args, Debug)]
pub(crate) struct ReloadArgs {
    /// The apps that are meant; all: every one [default: all of the supervisor]
    #[arg(value_name = "APP")]
    pub(crate) apps: Vec<String>,
    /// When to return: the new generation serves; the old one is gone too; the request is accepted
    #[arg(long, value_name = "committed|drained|none", default_value = "committed", value_parser = wait)]
    pub(crate) wait: Wait,
    /// A share of new connections first, for a time: 10%:60s, or 10%:60s:1% with how far its share of errors may
    /// lie above the old generation's [default: as the app is set; off: without]
    #[arg(long, value_name = "P%:DURATION[:P%]|off", value_parser = canary)]
    pub(crate) canary: Option<CanaryWish>,
    /// Wait no longer than this, with exit code 124; the reload itself goes on [default: as long as it takes]
    #[arg(long, value_name = "DURATION", value_parser = quantity::duration)]
    pub(crate) timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    /// The app that is meant [default: all of the supervisor]
    pub(crate) app: Option<String>,
    /// Exit with 1, and say why, if a slot is given up, an address is unserved, the last start of a slot never
    /// became ready, or no worker is ready
    #[arg(long)]
    pub(crate) check: bool,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// The file [default: segue.toml in the current directory, else its Procfile]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print the JSON schema of the file instead, for editors
    #[arg(long)]
    pub(crate) schema: bool,
}

#[derive(Args, Debug)]
pub(crate) struct InitArgs {
    /// The script or program to run [default: the start script or `main` of package.json, else server.js]
    #[arg(value_name = "SCRIPT|COMMAND", trailing_var_arg = true)]
    pub(crate) command: Vec<OsString>,
    /// Name of the app [default: the name in package.json, else the script's]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
}

/// `promote`, `rollback`, `restart`.
#[derive(Args, Debug)]
pub(crate) struct AppArgs {
    /// The app that is meant; all: every one [default: the only one]
    pub(crate) app: Option<String>,
    /// Wait no longer than this, with exit code 124; what was asked for goes on [default: as long as it takes]
    #[arg(long, value_name = "DURATION", value_parser = quantity::duration)]
    pub(crate) timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

#[derive(Args, Debug)]
pub(crate) struct WhyArgs {
    /// The app that is meant [default: the only one]
    pub(crate) app: Option<String>,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

#[derive(Args, Debug)]
pub(crate) struct EventsArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

#[derive(Args, Debug)]
#[command(override_usage = "segue scale [OPTIONS] [APP] N|+N|-N")]
pub(crate) struct ScaleArgs {
    /// So many workers, or so many more or fewer; the app may be left out when there is only one, all: every one
    #[arg(value_name = "[APP] N|+N|-N", required = true, num_args = 1..=2, allow_negative_numbers = true)]
    pub(crate) words: Vec<String>,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

#[derive(Args, Debug)]
pub(crate) struct StopArgs {
    /// The app that is meant; all: every one [default: the only one]
    pub(crate) app: Option<String>,
    /// Wait no longer than this, with exit code 124; stopping itself goes on [default: as long as it takes]
    #[arg(long, value_name = "DURATION", value_parser = quantity::duration)]
    pub(crate) timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ShutdownArgs {
    /// Wait no longer than this, with exit code 124; stopping itself goes on [default: as long as it takes]
    #[arg(long, value_name = "DURATION", value_parser = quantity::duration)]
    pub(crate) timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

impl Command {
    /// Refuses what can be written but not meant.
    pub(crate) fn check(&self) -> Result<(), clap::Error> {
        match self {
            // A file may complete what is at odds alone.
            Self::Run(args) => args.check("run"),
            Self::Start(args) => args.run.check("start"),
            Self::Scale(args) => args
                .parse()
                .map(drop)
                .map_err(|reason| invalid("scale", &reason)),
            Self::Service(args) => args.check(),
            Self::Reload(_)
            | Self::Promote(_)
            | Self::Rollback(_)
            | Self::Restart(_)
            | Self::Status(_)
            | Self::Top(_)
            | Self::Why(_)
            | Self::Logs(_)
            | Self::Apply(_)
            | Self::Stop(_)
            | Self::Delete(_)
            | Self::Shutdown(_)
            | Self::Upgrade(_)
            | Self::Events(_)
            | Self::Check(_)
            | Self::Init(_)
            | Self::Import(_)
            | Self::Flush(_)
            | Self::Reopen(_)
            | Self::Hook(_)
            | Self::Completions(_)
            | Self::Man(_)
            | Self::Demo(_) => Ok(()),
        }
    }
}

impl RunArgs {
    pub(crate) const fn verbosity(&self) -> Verbosity {
        Verbosity::new(self.quiet, self.verbose)
    }

    fn check(&self, command: &str) -> Result<(), clap::Error> {
        // A file may complete what is at odds alone.
        if self.may_be_of_file() {
            return Ok(());
        }
        let checked = self.given.settings.check();
        checked.map_err(|odd| invalid(command, &odd.to_string()))
    }

    /// Whether an app of a file is meant, if there is a file.
    pub(crate) fn may_be_of_file(&self) -> bool {
        self.config.is_some() || self.command.len() < 2
    }
}

impl CommonArgs {
    pub(crate) fn output(&self) -> Output {
        Output::of_this_process(self.json, Verbosity::new(self.quiet, self.verbose))
    }
}

impl ScaleArgs {
    /// The app, if named, and the number.
    pub(crate) fn parse(&self) -> Result<(Option<&str>, ScaleBody), String> {
        let (app, number) = match self.words.as_slice() {
            [number] => (None, number),
            [app, number] => (Some(app.as_str()), number),
            _ => return Err("one app and one number are needed".to_owned()),
        };
        let usage = || format!("{number:?} is not a number of workers; write 4, +1 or -1");
        let scale = if number.starts_with(['+', '-']) {
            number.parse().ok().filter(|by| *by != 0).map(ScaleBody::By)
        } else {
            number.parse().ok().filter(|to| *to != 0).map(ScaleBody::To)
        };
        scale.map(|scale| (app, scale)).ok_or_else(usage)
    }
}

fn wait(word: &str) -> Result<Wait, String> {
    match word {
        "committed" => Ok(Wait::Committed),
        "drained" => Ok(Wait::Drained),
        "none" => Ok(Wait::None),
        _ => Err("write committed, drained or none".to_owned()),
    }
}

/// `10%:60s`, `10%:60s:0.5%` or `off`.
fn canary(word: &str) -> Result<CanaryWish, String> {
    if word == "off" {
        return Ok(CanaryWish::Off);
    }
    let canary = probe::canary(word)?;
    let canary = Canary {
        percent: canary.percent,
        for_ms: u64::try_from(canary.lasts.as_millis()).unwrap_or(u64::MAX),
        max_errors_per_mille: u16::try_from(canary.max_errors).unwrap_or(u16::MAX),
    };
    canary.check()?;
    Ok(CanaryWish::With(canary))
}

pub(super) fn invalid(command: &str, reason: &str) -> clap::Error {
    let mut cli = Cli::command();
    cli.build();
    match cli.find_subcommand_mut(command) {
        Some(command) => command.error(ErrorKind::ValueValidation, reason),
        None => cli.error(ErrorKind::ValueValidation, reason),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use segue_core::ReadyRules;

    use super::*;
    use crate::config::settings::Workers;

    fn parse(line: &str) -> Result<Command, String> {
        let words = line.split_whitespace();
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        cli.command.check().map_err(|error| error.to_string())?;
        Ok(cli.command)
    }

    fn run(line: &str) -> RunArgs {
        match parse(line) {
            Ok(Command::Run(args)) => *args,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_follows_the_script_is_the_scripts() {
        for (line, command) in [
            ("segue run server.js", "server.js"),
            (
                "segue run server.js --port 80 -w 9 --name x -h",
                "server.js --port 80 -w 9 --name x -h",
            ),
            ("segue run -- server.js --version", "server.js --version"),
            ("segue run server.js a -- b", "server.js a -- b"),
            ("segue run", ""),
        ] {
            let args = run(line);
            let words = args.command.join(OsStr::new(" "));
            assert_eq!(words, command, "{line}");
            assert_eq!(args.given, Given::default(), "{line}");
        }
    }

    #[test]
    fn words_of_the_command_need_not_be_utf_8() {
        let word = OsStr::from_bytes(b"a\xff.js");
        let line = ["segue", "run"].map(OsStr::new).into_iter().chain([word]);
        match Cli::try_parse_from(line).map(|cli| cli.command) {
            Ok(Command::Run(args)) => assert_eq!(args.command, [word]),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_fill_the_settings() {
        let args = run(
            "segue run -w 50% --name web --env A=1 --env B=2 --node-arg --inspect \
             --node-arg=--enable-source-maps --ready message --drain-timeout 1m30s \
             --pid-file /run/web.pid -vv server.js -q",
        );
        let settings = &args.given.settings;
        assert_eq!(settings.workers, Workers::Percent(50));
        assert_eq!(settings.name.as_deref(), Some("web"));
        assert_eq!(settings.env.len(), 2);
        assert_eq!(settings.node_args, ["--inspect", "--enable-source-maps"]);
        assert_eq!(settings.core(1).ready, ReadyRules::MESSAGE);
        assert_eq!(settings.drain_timeout, Duration::from_secs(90));
        assert_eq!(args.verbosity(), Verbosity::Trace);
        assert_eq!(args.command, ["server.js", "-q"]);
    }

    #[test]
    fn wrong_usage_says_what_to_write() {
        for (line, expected) in [
            ("segue run --worker 2 server.js", "'--workers'"),
            ("segue relod", "'reload'"),
            ("segue run --ready-timeout 30 server.js", "write 30s"),
            ("segue run -w 0 server.js", "write a number from 1 to 1024"),
            ("segue run --backoff-min 1m server.js a", "swap them"),
            (
                "segue reload --wait soon",
                "write committed, drained or none",
            ),
            (
                "segue scale web",
                "\"web\" is not a number of workers; write 4, +1 or -1",
            ),
            ("segue scale web 0", "is not a number"),
            ("segue scale", "[APP] N|+N|-N"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }

    #[test]
    fn numbers_of_workers() {
        for (line, expected) in [
            ("segue scale 4", (None, ScaleBody::To(4))),
            ("segue scale web 4 --json", (Some("web"), ScaleBody::To(4))),
            ("segue scale web +2", (Some("web"), ScaleBody::By(2))),
            ("segue scale web -2", (Some("web"), ScaleBody::By(-2))),
            ("segue scale --json -1", (None, ScaleBody::By(-1))),
        ] {
            let Ok(Command::Scale(args)) = parse(line) else {
                panic!("{line}: {:?}", parse(line));
            };
            assert_eq!(args.parse(), Ok(expected), "{line}");
        }
    }

    #[test]
    fn canaries() {
        let with = |percent, for_ms, max_errors_per_mille| {
            Some(CanaryWish::With(Canary {
                percent,
                for_ms,
                max_errors_per_mille,
            }))
        };
        for (line, expected) in [
            ("segue reload", None),
            ("segue reload --canary off", Some(CanaryWish::Off)),
            ("segue reload --canary 10%:60s", with(10, 60_000, 10)),
            ("segue reload --canary=5%:1m30s:0.5%", with(5, 90_000, 5)),
            (
                "segue reload web --canary 99%:1s:100%",
                with(99, 1_000, 1_000),
            ),
        ] {
            match parse(line) {
                Ok(Command::Reload(args)) => assert_eq!(args.canary, expected, "{line}"),
                other => panic!("{line}: {other:?}"),
            }
        }
        for (word, expected) in [
            ("on", "write a share and a duration"),
            ("10%", "write a share and a duration"),
            ("10%:60", "write 60s"),
            ("0%:60s", "from 1% to 99%"),
            ("10%:0s", "longer than 0"),
            ("10%:60s:101%", ""),
        ] {
            let line = format!("segue reload --canary {word}");
            let error = parse(&line).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }

    #[test]
    fn waits() {
        let Ok(Command::Reload(args)) = parse("segue reload a b --wait=drained --timeout 5m")
        else {
            panic!("no reload");
        };
        assert_eq!(args.apps, ["a", "b"]);
        assert_eq!(args.wait, Wait::Drained);
        assert_eq!(args.timeout, Some(Duration::from_secs(300)));
    }
}
