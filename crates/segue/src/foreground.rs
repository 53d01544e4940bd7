//! `segue run`: from what was written to the two processes that it means. The main process
//! checks everything that can be checked, then keeps a supervisor; the supervisor reads the same
//! command line again and runs it.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use segue_sys::process;
use segue_sys::signal::Signals;

use crate::cli::args::RunArgs;
use crate::cli::prepared::Prepared;
use crate::config::app::AppConfig;
use crate::config::state;
use crate::control::runtime::Place;
use crate::control::socket;
use crate::exit::Exit;
use crate::handoff::{InheritError, Inherited};
use crate::keeper::{KEEPER_ARGUMENT, Keeper, Opened, SUPERVISOR_ARGUMENT};
use crate::service::activation::{self, Passed};
use crate::supervisor::{
    self, Beginning, Ended, Host, PROBE_ARGUMENT, PROBE_STATE, Probed, tell_failure,
};
use crate::telemetry;
use crate::telemetry::lines::PREFIX;
use crate::worker::launch::Release;
use crate::worker::log;
use crate::worker::preload::Shelf;
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
    for app in &prepared.apps {
        if let Err(error) = Release::resolve(app) {
            return refuse(&error.to_string());
        }
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
    // The supervisor opens it again, and holds it.
    for path in prepared.apps.iter().filter_map(|app| app.log.as_ref()) {
        if let Err(error) = log::open(path) {
            return refuse(&format!(
                "cannot open the log file {}: {error}; choose another one with --log",
                path.display()
            ));
        }
    }
    if args.is_detached
        && let Err(error) = detach()
    {
        return refuse(&format!("cannot leave the terminal: {error}"));
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
    let mut keeper = Keeper::new(name, words);
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
        apps,
        control,
        metrics,
    } = match begin(args) {
        Ok(begun) => begun,
        Err(failed) => {
            complain(&failed.why);
            return failed.exit.code();
        }
    };
    let own = state::own_log().filter(|_| args.is_background);
    let writer = match Writer::inherited(own) {
        Ok(writer) => writer,
        Err(error) => return cannot_start(error),
    };
    let descriptor_limit =
        process::raise_descriptor_limit().unwrap_or_else(|_| process::descriptor_limit());
    let lines = writer.clone();
    telemetry::log::install(args.verbosity(), move |line| {
        lines.push(Stream::Err, format!("{line}\n").as_bytes());
    });
    let host = Host {
        memory: match args.is_background {
            true => state::memory(),
            false => None,
        },
        shelf: Shelf::of_this_process(Place::of_this_process().directory().ok().as_deref()),
        control,
        metrics,
        verbosity: args.verbosity(),
        writer: writer.clone(),
        descriptor_limit,
    };
    let exit = match supervisor::run(host, apps, signals, beginning) {
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
    /// None where a predecessor has left them.
    apps: Vec<AppConfig>,
    control: Option<PathBuf>,
    metrics: Option<SocketAddr>,
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
    let is_passed = |name: &String, _: &mut OwnedFd| name.starts_with(activation::PREFIX);
    let passed = holdings.descriptors.extract_if(.., is_passed).collect();
    let inherited = Inherited::of(holdings.descriptors)
        .map_err(|error| failed(format!("cannot take over: {error}")))?;
    let (apps, control, metrics) = match (Prepared::of(args), &inherited) {
        // They go on as they were, wherever the command line leads by now.
        (prepared, Some(_)) => {
            let metrics = prepared.as_ref().ok().and_then(|it| it.metrics);
            let control = prepared.ok().and_then(|prepared| prepared.control.ok());
            (Vec::new(), control, metrics.or(args.metrics))
        }
        (Ok(prepared), None) => (prepared.apps, prepared.control.ok(), prepared.metrics),
        (Err(why), None) => {
            return Err(NotBegun {
                why,
                exit: Exit::Usage,
            });
        }
    };
    let beginning = Beginning {
        link,
        inherited,
        keeper_release: holdings.release,
        passed,
    };
    Ok(Begun {
        beginning,
        apps,
        control,
        metrics,
    })
}

/// A session of its own, without a terminal, and files that nobody else may read.
fn detach() -> io::Result<()> {
    rustix::process::setsid()?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    Ok(())
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
