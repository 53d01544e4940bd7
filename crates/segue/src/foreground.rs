//! `segue run`: from what was written to the two processes that it means. The main process
//! checks everything that can be checked, then keeps a supervisor; the supervisor reads the same
//! command line again and runs it.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use segue_core::Settings;
use segue_sys::process;
use segue_sys::signal::Signals;

use crate::cli::args::RunArgs;
use crate::config::app::AppConfig;
use crate::config::command::{CommandLine, app_name, logical_directory};
use crate::config::processors::available_processors;
use crate::control::runtime::{NoDirectory, Place};
use crate::control::socket;
use crate::exit::Exit;
use crate::keeper::Keeper;
use crate::supervisor::{self, Ended, Plan};
use crate::telemetry::lines::PREFIX;
use crate::telemetry::log;
use crate::worker::launch::Release;
use crate::worker::preload::Shelf;
use crate::worker::writer::{Stream, Writer};

/// How long the last lines may take to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The main process: refuses what cannot run, then keeps a supervisor and mirrors its end.
pub(crate) fn keep(args: &RunArgs) -> u8 {
    let prepared = match Prepared::of(args) {
        Ok(prepared) => prepared,
        Err(why) => return refuse(&why),
    };
    // Nothing has been started yet: what is missing is an error of usage now, and a failed
    // start later.
    if let Err(error) = Release::resolve(&prepared.app) {
        return refuse(&error.to_string());
    }
    match &prepared.control {
        Ok(control) => {
            if let Err(error) = socket::check(control) {
                complain(&error.to_string());
                return Exit::Conflict.code();
            }
        }
        Err(why) => complain(&format!(
            "no control socket: {why}; only signals reach this supervisor, HUP reloads"
        )),
    }
    let pid_file = args.pid_file.as_deref();
    if let Some(path) = pid_file
        && let Err(error) = fs::write(path, format!("{}\n", std::process::id()))
    {
        return refuse(&format!(
            "cannot write the pid file {}: {error}; choose another path with --pid-file",
            path.display()
        ));
    }
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_else(|| "segue".into());
    let code = Keeper::new(name, words).run();
    if let Some(path) = pid_file {
        remove_own_pid_file(path);
    }
    code
}

/// The supervisor: runs the app until it is told to stop.
pub(crate) fn supervise(args: &RunArgs) -> u8 {
    // It was started by a link in /proc, whose name it would bear.
    let _ = process::set_name(c"segue");
    // Threads inherit the mask, so before any thread.
    let (signals, writer) = match Signals::block().and_then(|signals| {
        let writer = Writer::inherited()?;
        Ok((signals, writer))
    }) {
        Ok(both) => both,
        Err(error) => {
            complain(&format!("cannot start the supervisor: {error}"));
            return Exit::Failed.code();
        }
    };
    let descriptor_limit =
        process::raise_descriptor_limit().unwrap_or_else(|_| process::descriptor_limit());
    let lines = writer.clone();
    log::install(args.verbosity(), move |line| {
        lines.push(Stream::Err, format!("{line}\n").as_bytes());
    });
    let prepared = match Prepared::of(args) {
        Ok(prepared) => prepared,
        Err(why) => return refuse(&why),
    };
    let plan = Plan {
        app: prepared.app,
        settings: prepared.settings,
        max_memory: args.settings.max_memory,
        drain: args.settings.drain.clone(),
        shelf: Shelf::of_this_process(Place::of_this_process().directory().ok().as_deref()),
        control: prepared.control.ok(),
        verbosity: args.verbosity(),
        writer: writer.clone(),
        descriptor_limit,
    };
    let exit = match supervisor::run(plan, signals) {
        Ok(Ended::AsAsked) => Exit::Done,
        Ok(Ended::NeverStarted | Ended::GivenUp | Ended::KeeperLost) => Exit::Failed,
        Err(error) => {
            writer.push(
                Stream::Err,
                format!("{PREFIX}cannot run: {error}\n").as_bytes(),
            );
            Exit::Failed
        }
    };
    writer.flush(LAST_LINES);
    exit.code()
}

/// Everything that follows from the command line and the surroundings.
struct Prepared {
    app: AppConfig,
    settings: Settings,
    /// None where nobody has named a socket and there is no place for one, as in a container
    /// whose whole file system is read-only: that must not keep the app from running.
    control: Result<PathBuf, NoDirectory>,
}

impl Prepared {
    /// # Errors
    /// What cannot be, and what to do about it.
    fn of(args: &RunArgs) -> Result<Self, String> {
        let given = &args.settings;
        let here = logical_directory(std::env::var_os("PWD").as_deref())
            .map_err(|error| format!("cannot tell the current directory: {error}"))?;
        let cwd = given
            .cwd
            .as_ref()
            .map_or_else(|| here.clone(), |cwd| here.join(cwd));
        let line = CommandLine::read(&args.command, &cwd).map_err(|error| error.to_string())?;
        let name = app_name(given.name.as_deref(), &line.command, &cwd)
            .map_err(|error| error.to_string())?;
        let mut node_args = line.node_args;
        node_args.extend(given.node_args.iter().map(Into::into));
        let mut env = line.env;
        env.extend(
            given
                .env
                .iter()
                .map(|(key, value)| (key.into(), value.into())),
        );
        let app = AppConfig {
            name: name.clone(),
            command: line.command,
            args: line.args,
            node: line.node.unwrap_or_else(|| OsString::from(&given.node)),
            node_args,
            cwd,
            caller_env: std::env::vars_os().collect(),
            env_files: given.env_files.clone(),
            env,
        };
        let control = match &args.control {
            Some(path) => Ok(here.join(path)),
            None => Place::of_this_process()
                .directory()
                .map(|directory| directory.join(format!("{name}.sock"))),
        };
        let settings = given.core(available_processors());
        Ok(Self {
            app,
            settings,
            control,
        })
    }
}

/// A successor may have written its own pid by now.
fn remove_own_pid_file(path: &Path) {
    let own =
        fs::read_to_string(path).is_ok_and(|text| text.trim().parse() == Ok(std::process::id()));
    if own {
        let _ = fs::remove_file(path);
    }
}

fn refuse(why: &str) -> u8 {
    complain(why);
    Exit::Usage.code()
}

// Where nobody reads, the exit code has to do.
fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "{PREFIX}{line}");
}
