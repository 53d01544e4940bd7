//! What is to be run: an app as it is written down, and what follows from that.

use std::fs::DirBuilder;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use segue_core::Settings;
use segue_sys::cgroup::Limits;
use tokio::sync::mpsc;

use super::app_shell::Input;
use super::logging;
use crate::config::app::AppConfig;
use crate::config::drain::DrainSettings;
use crate::config::log::Destination;
use crate::config::processors::available_processors;
use crate::config::schedule::Schedule;
use crate::config::settings::AppSettings;
use crate::config::state;
use crate::config::watch::Watch;
use crate::handoff::Journal;
use crate::telemetry::log::Verbosity;
use crate::worker::layout::Layout;
use crate::worker::log::{self, LogFile};
use crate::worker::preload::Shelf;
use crate::worker::probe::Question;
use crate::worker::writer::{Stream, Writer};

/// What every app of a supervisor shares.
#[derive(Clone)]
pub(crate) struct Host {
    /// Where a background supervisor remembers its apps. One in the foreground ends with its apps.
    pub(crate) memory: Option<PathBuf>,
    /// Where the preload script may lie.
    pub(crate) shelf: Shelf,
    /// Where the control socket is to be, if there is to be one.
    pub(crate) control: Option<PathBuf>,
    /// Where metrics are served, if they are.
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) verbosity: Verbosity,
    pub(crate) writer: Writer,
    /// The limit of open files that workers get: ours, before we raised it.
    pub(crate) descriptor_limit: rustix::process::Rlimit,
}

impl Host {
    /// The control socket, for people.
    pub(super) fn control_shown(&self) -> Option<String> {
        let control = self.control.as_ref()?;
        Some(control.display().to_string())
    }

    /// A log file for an app that names none, where there is no terminal to print to.
    pub(super) fn give_log(&self, app: &mut AppConfig) {
        if let (Some(memory), Destination::Usual) = (&self.memory, app.destination()) {
            app.log = Some(state::app_log(memory, &app.name));
        }
    }

    /// One line of ours, where the operator looks.
    pub(super) fn say(&self, line: String) {
        self.writer
            .push(Stream::Err, format!("{line}\n").as_bytes());
    }
}

/// What to run.
pub(super) struct Plan {
    pub(super) app: AppConfig,
    pub(super) settings: Settings,
    /// The HTTP probe, if there is one.
    pub(super) probe: Option<Question>,
    /// Resident memory in bytes above which a worker is replaced.
    pub(super) max_memory: Option<u64>,
    /// What the kernel lets a worker's cgroup have.
    pub(super) memory_limits: Limits,
    /// How workers let their connections go.
    pub(super) drain: DrainSettings,
    /// Whose change brings a reload, and which times of day.
    pub(super) watch: Watch,
    pub(super) restart_at: Option<Schedule>,
    /// Where its lines go.
    pub(super) writer: Writer,
    /// A copy of its log file, to be held for a successor.
    log_file: Option<OwnedFd>,
    pub(super) host: Host,
}

impl Plan {
    /// What follows from an app as it is written down. `log_file` is its log file where it is open, with
    /// when its first line was written.
    ///
    /// # Errors
    /// A setting that cannot be, or a log file that cannot be opened.
    pub(super) fn of(
        mut app: AppConfig,
        host: &Host,
        log_file: Option<(OwnedFd, Option<u64>)>,
    ) -> Result<Self, String> {
        host.give_log(&mut app);
        let destination = app.destination();
        Self::to(destination, app, host, log_file)
    }

    /// The same, with its lines going where those of an app go that says nothing of them. How the app is
    /// written down stays.
    ///
    /// # Errors
    /// As above.
    pub(super) fn to_usual(app: AppConfig, host: &Host) -> Result<Self, String> {
        let log = host.memory.as_ref().map(|it| state::app_log(it, &app.name));
        let elsewhere = AppConfig { log, ..app.clone() };
        let mut plan = Self::to(Destination::Usual, elsewhere, host, None)?;
        plan.app = app;
        Ok(plan)
    }

    fn to(
        destination: Destination,
        app: AppConfig,
        host: &Host,
        log_file: Option<(OwnedFd, Option<u64>)>,
    ) -> Result<Self, String> {
        let settings = app.written.settings()?;
        let layout = Layout::new(&app.name, &settings.log_settings);
        if destination == Destination::Journal {
            let writer = host.writer.for_journal(layout).map_err(|error| {
                format!("cannot reach systemd's journal: {error}; choose a file with --log")
            })?;
            return Ok(Self::with(app, &settings, host, writer));
        }
        let (file, began) = log_file.unzip();
        let file = match (&app.log, file) {
            (Some(path), None) => Some(open_log(path, host).map_err(|error| {
                format!(
                    "cannot open the log file {}: {error}; choose another one with --log",
                    path.display()
                )
            })?),
            (_, file) => file,
        };
        let copied = file.as_ref().map(OwnedFd::try_clone).transpose();
        let copied = copied.map_err(|error| format!("cannot write its log: {error}"))?;
        let log_file = app.log.clone().zip(file).map(|(path, file)| LogFile {
            path,
            file,
            rotation: settings.log_settings.rotation,
            began: began.flatten(),
        });
        let writer = host.writer.for_app(layout, log_file);
        let writer = writer.map_err(|error| format!("cannot write its log: {error}"))?;
        Ok(Self {
            log_file: copied,
            ..Self::with(app, &settings, host, writer)
        })
    }

    /// The same where the log stays the same, and so does whoever writes it.
    ///
    /// # Errors
    /// A setting that cannot be.
    pub(super) fn with_writer(
        mut app: AppConfig,
        host: &Host,
        writer: Writer,
    ) -> Result<Self, String> {
        app.log = writer.log_path().cloned();
        let settings = app.written.settings()?;
        Ok(Self::with(app, &settings, host, writer))
    }

    fn with(app: AppConfig, settings: &AppSettings, host: &Host, writer: Writer) -> Self {
        Self {
            probe: question(settings),
            max_memory: settings.max_memory,
            memory_limits: Limits {
                high: settings.memory_high,
                max: settings.memory_max,
            },
            drain: settings.drain.clone(),
            watch: settings.watch.clone(),
            restart_at: settings.restart_at,
            settings: settings.core(available_processors()),
            writer,
            log_file: None,
            host: host.clone(),
            app,
        }
    }

    /// Has its log file held, and whoever writes it tell what becomes of it.
    pub(super) fn hold_log(&mut self, journal: &Journal, inputs: &mpsc::UnboundedSender<Input>) {
        if let Some(file) = self.log_file.take() {
            journal.hold(log::HELD, file);
        }
        logging::watch(&self.writer, journal, inputs);
    }
}

fn open_log(path: &Path, host: &Host) -> io::Result<OwnedFd> {
    // The directory that a user names must be there; the one that we choose is made.
    if host.memory.is_some()
        && let Some(directory) = path.parent()
    {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
    }
    log::open(path)
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
