//! `segue run`: from what was written to the two processes that it means. The main process
//! checks everything that can be checked, then keeps a supervisor; the supervisor reads the same
//! command line again and runs it.

use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use segue_sys::process;
use segue_sys::signal::Signals;

use crate::cli::args::RunArgs;
use crate::config::app::AppConfig;
use crate::config::command::{CommandLine, app_name, logical_directory};
use crate::config::file::FileError;
use crate::config::file::app::{FromFile, chosen};
use crate::config::processors::available_processors;
use crate::config::settings::AppSettings;
use crate::control::runtime::{NoDirectory, Place};
use crate::control::socket;
use crate::exit::Exit;
use crate::handoff::{InheritError, Inherited};
use crate::keeper::{KEEPER_ARGUMENT, Keeper, Opened, SUPERVISOR_ARGUMENT};
use crate::service::activation::{self, Passed};
use crate::supervisor::{
    self, Beginning, Ended, PLAN, PROBE_ARGUMENT, PROBE_STATE, Plan, Probed, tell_failure,
};
use crate::telemetry;
use crate::telemetry::lines::PREFIX;
use crate::worker::launch::Release;
use crate::worker::layout::Layout;
use crate::worker::log::{self, LogFile};
use crate::worker::preload::Shelf;
use crate::worker::probe::Question;
use crate::worker::writer::{Stream, Writer};

/// How long the last lines may take to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

/// What a process of ours is for, by its first argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Whatever the user typed; `run` makes it the main process.
    Command,
    Supervisor,
    /// It takes the place of a main process that has died.
    Successor,
    Probe,
}

impl Role {
    pub(crate) fn of(words: &[OsString]) -> Self {
        match words.get(1).and_then(|word| word.to_str()) {
            Some(SUPERVISOR_ARGUMENT) => Self::Supervisor,
            Some(KEEPER_ARGUMENT) => Self::Successor,
            Some(PROBE_ARGUMENT) => Self::Probe,
            Some(_) | None => Self::Command,
        }
    }
}

/// `segue run`, in one of its roles.
pub(crate) fn run(role: Role, args: &RunArgs) -> u8 {
    match role {
        Role::Supervisor => supervise(args),
        Role::Successor => keep_on(args),
        Role::Command | Role::Probe => keep(args),
    }
}

/// The main process: refuses what cannot run, then keeps a supervisor and mirrors its end.
fn keep(args: &RunArgs) -> u8 {
    // Before anything is opened: they are where a descriptor of ours would be.
    let Passed {
        descriptors: passed,
        complaint,
    } = activation::take();
    if let Some(complaint) = complaint {
        complain(&complaint);
    }
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
    let log_file = match prepared.app.log.as_deref().map(open_log).transpose() {
        Ok(log) => log,
        Err(why) => return refuse(&why),
    };
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
    let mut keeper = Keeper::new(name, words);
    if let Some(log) = log_file {
        keeper = keeper.holding(log::HELD.to_owned(), log);
    }
    for (name, descriptor) in passed {
        keeper = keeper.holding(name, descriptor);
    }
    stay(keeper, pid_file)
}

/// The main process in place of one that has died: nothing is checked any more, the app runs.
fn keep_on(args: &RunArgs) -> u8 {
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_else(|| "segue".into());
    let keeper = match Keeper::new(name, words.skip(1)).in_place() {
        Ok(keeper) => keeper,
        Err(error) => {
            complain(&format!("cannot take the main process's place: {error}"));
            return Exit::Failed.code();
        }
    };
    let pid_file = args.pid_file.as_deref();
    if let Some(path) = pid_file
        && let Err(error) = fs::write(path, format!("{}\n", std::process::id()))
    {
        complain(&format!(
            "cannot write the pid file {}: {error}",
            path.display()
        ));
    }
    // It was the supervisor, and bears its name.
    let _ = process::set_name(c"segue");
    stay(keeper, pid_file)
}

fn stay(keeper: Keeper, pid_file: Option<&Path>) -> u8 {
    let code = keeper.run();
    if let Some(path) = pid_file {
        remove_own_pid_file(path);
    }
    code
}

/// The supervisor: runs the app until it is told to stop.
fn supervise(args: &RunArgs) -> u8 {
    // It was started by a link in /proc, whose name it would bear.
    let _ = process::set_name(c"segue");
    let cannot_start = |error: io::Error| {
        complain(&format!("cannot start the supervisor: {error}"));
        Exit::Failed.code()
    };
    // Threads inherit the mask, so before any thread.
    let signals = match Signals::block() {
        Ok(signals) => signals,
        Err(error) => return cannot_start(error),
    };
    let Begun {
        beginning,
        app,
        settings,
        control,
        log_file,
    } = match begin(args) {
        Ok(begun) => begun,
        Err(failed) => {
            complain(&failed.why);
            return failed.exit.code();
        }
    };
    let layout = Layout::new(&app.name, &settings.log_settings);
    let log_file = app.log.clone().zip(log_file).map(|(path, file)| LogFile {
        path,
        file,
        rotation: settings.log_settings.rotation,
        began: began(&beginning),
    });
    let writer = match Writer::inherited(layout, log_file) {
        Ok(writer) => writer,
        Err(error) => return cannot_start(error),
    };
    let descriptor_limit =
        process::raise_descriptor_limit().unwrap_or_else(|_| process::descriptor_limit());
    let lines = writer.clone();
    telemetry::log::install(args.verbosity(), move |line| {
        lines.push(Stream::Err, format!("{line}\n").as_bytes());
    });
    let plan = Plan {
        app,
        probe: question(&settings),
        max_memory: settings.max_memory,
        drain: settings.drain.clone(),
        settings: settings.core(available_processors()),
        shelf: Shelf::of_this_process(Place::of_this_process().directory().ok().as_deref()),
        control,
        verbosity: args.verbosity(),
        writer: writer.clone(),
        descriptor_limit,
    };
    let exit = match supervisor::run(plan, signals, beginning) {
        Ok(Ended::AsAsked) => Exit::Done,
        Ok(Ended::NeverStarted | Ended::GivenUp | Ended::KeeperLost) => Exit::Failed,
        Err(error) => {
            let why = format!("cannot run: {error}");
            tell_failure(&why, error.errno());
            writer.push(Stream::Err, format!("{PREFIX}{why}\n").as_bytes());
            Exit::Failed
        }
    };
    writer.flush(LAST_LINES);
    exit.code()
}

/// When the first line of the log file was written, as a predecessor has noted it.
fn began(beginning: &Beginning) -> Option<u64> {
    // Unreadable, it is worth no more than missing.
    beginning.inherited.as_ref()?.value(log::BEGAN).ok()?
}

/// What workers are asked, if that is a rule.
fn question(settings: &AppSettings) -> Option<Question> {
    let probe = &settings.probe;
    Some(Question {
        path: settings.probe_path()?.to_owned(),
        status: probe.status.clone(),
        timeout: probe.timeout,
        headers: probe.headers.clone(),
        host: probe.host.clone(),
    })
}

/// The probe of an upgrade: shows whether this binary can read the state of a running supervisor,
/// and does nothing else.
pub(crate) fn probe() -> ExitCode {
    let read = || -> Result<(), InheritError> {
        let state = process::inherited_descriptor(PROBE_STATE)?;
        supervisor::check(Inherited::read(&state.into())?)
    };
    match read() {
        Ok(()) => {
            let probed = Probed {
                release: env!("CARGO_PKG_VERSION").to_owned(),
                format: segue_wire::handoff::log::FORMAT,
            };
            // A text and a number always have a JSON form.
            let line = serde_json::to_string(&probed).unwrap_or_default();
            match writeln!(io::stdout(), "{line}") {
                Ok(()) => Exit::Done.into(),
                Err(_) => Exit::Failed.into(),
            }
        }
        Err(error) => {
            complain(&format!(
                "segue {} cannot take over: {error}",
                env!("CARGO_PKG_VERSION")
            ));
            Exit::Failed.into()
        }
    }
}

/// What a supervisor is to run, and with what.
struct Begun {
    beginning: Beginning,
    app: AppConfig,
    settings: AppSettings,
    control: Option<PathBuf>,
    log_file: Option<OwnedFd>,
}

/// Why there is no beginning.
struct NotBegun {
    why: String,
    exit: Exit,
}

/// What a predecessor has left goes before what the command line says: it may say something else
/// by now, or nothing that can be done.
fn begin(args: &RunArgs) -> Result<Begun, NotBegun> {
    let failed = |why: String| NotBegun {
        why,
        exit: Exit::Failed,
    };
    let (link, mut holdings) = Opened::take_up()
        .map_err(|error| failed(format!("cannot start the supervisor: {error}")))?;
    let log_file = holdings.descriptors.remove(log::HELD);
    let is_passed = |name: &String, _: &mut OwnedFd| name.starts_with(activation::PREFIX);
    let passed = holdings.descriptors.extract_if(.., is_passed).collect();
    let inherited = Inherited::of(holdings.descriptors)
        .map_err(|error| failed(format!("cannot take over: {error}")))?;
    let prepared = Prepared::of(args);
    let (app, settings, control) = match &inherited {
        Some(inherited) => {
            let app: Result<AppConfig, _> = inherited.needed(PLAN);
            let app = app.map_err(|error| failed(format!("cannot take over: {error}")))?;
            // Those that the app was started with: its file may say something else by now.
            let settings = match &app.origin {
                Some(origin) => origin.settings.settings(),
                None => Ok(args.given.settings.clone()),
            };
            let settings = settings.unwrap_or_else(|_| args.given.settings.clone());
            (
                app,
                settings,
                prepared.ok().and_then(|prepared| prepared.control.ok()),
            )
        }
        None => {
            let prepared = prepared.map_err(|why| NotBegun {
                why,
                exit: Exit::Usage,
            })?;
            (prepared.app, prepared.settings, prepared.control.ok())
        }
    };
    let log_file = match (&app.log, log_file) {
        (Some(path), None) => Some(open_log(path).map_err(failed)?),
        (_, held) => held,
    };
    let keeper_release = holdings.release;
    let log_copy = log_file.as_ref().map(OwnedFd::try_clone).transpose();
    let beginning = Beginning {
        link,
        inherited,
        log_file: log_copy.map_err(|error| failed(format!("cannot take over: {error}")))?,
        keeper_release,
        passed,
    };
    Ok(Begun {
        beginning,
        app,
        settings,
        control,
        log_file,
    })
}

/// Everything that follows from the command line, the file and the surroundings.
struct Prepared {
    app: AppConfig,
    settings: AppSettings,
    /// None where nobody has named a socket and there is no place for one, as in a container
    /// whose whole file system is read-only: that must not keep the app from running.
    control: Result<PathBuf, NoDirectory>,
}

impl Prepared {
    /// # Errors
    /// What cannot be, and what to do about it.
    fn of(args: &RunArgs) -> Result<Self, String> {
        let here = logical_directory(std::env::var_os("PWD").as_deref())
            .map_err(|error| format!("cannot tell the current directory: {error}"))?;
        let chosen = chosen(args.config.as_deref(), &args.command, &here);
        match chosen.map_err(|error| shown(&error))? {
            Some((file, app)) => {
                let env = std::env::vars_os().collect();
                let read = FromFile::of(&file, &app, &args.given.written, &here, env)
                    .map_err(|error| shown(&error))?;
                let named = file.control.as_ref();
                let named = named.map(|control| file.directory().join(control));
                let control = control(args, &here, named, &read.config.name);
                Ok(Self {
                    app: read.config,
                    settings: read.settings,
                    control,
                })
            }
            None => Self::of_words(args, &here),
        }
    }

    /// What the command line alone says.
    fn of_words(args: &RunArgs, here: &Path) -> Result<Self, String> {
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
        let control = control(args, here, None, &name);
        let app = AppConfig {
            name,
            command: line.command,
            args: line.args,
            node: line.node.unwrap_or_else(|| OsString::from(&given.node)),
            node_args,
            cwd,
            caller_env: std::env::vars_os().collect(),
            env_files: given.env_files.clone(),
            env,
            log: given.log.as_ref().map(|path| here.join(path)),
            confinement: given.confinement.clone(),
            origin: None,
        };
        Ok(Self {
            app,
            settings: given.clone(),
            control,
        })
    }
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
            .map(|directory| directory.join(format!("{name}.sock"))),
    }
}

/// A whole report begins a line of its own.
fn shown(error: &FileError) -> String {
    match error {
        FileError::Refused(refused) => {
            let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
                && io::stderr().is_terminal();
            format!("cannot run this file\n{}", refused.report(colours))
        }
        _ => error.to_string(),
    }
}

fn open_log(path: &Path) -> Result<OwnedFd, String> {
    log::open(path).map_err(|error| {
        format!(
            "cannot open the log file {}: {error}; choose another one with --log",
            path.display()
        )
    })
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
    tell_failure(why, None);
    Exit::Usage.code()
}

// Where nobody reads, the exit code has to do.
fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "{PREFIX}{line}");
}
