//! Processes of a demo: this same binary as a supervisor and as its commands. Every one is awaited
//! by its pidfd, and none outlives the demo.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use rustix::process::{Pid, PidfdFlags, Signal};
use segue_wire::control::{App, Status};
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use super::stage::Stage;

/// How long a command may take: longer than any wait of the supervisor that it could report.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// How long a supervisor may take to stop, twice: asked, and asked to hurry.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// How much of the end of a log is shown.
const TAIL: u64 = 2000;

/// A child and the descriptor that tells of its end.
#[derive(Debug)]
struct Process {
    child: Child,
    pidfd: AsyncFd<OwnedFd>,
}

impl Process {
    // The child is not reaped before its pidfd is open, so the number is still its own.
    fn start(command: &mut Command) -> anyhow::Result<Self> {
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let open = || -> io::Result<AsyncFd<OwnedFd>> {
            let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
            segue_sys::readable::watch(pidfd).map_err(|(_, error)| error)
        };
        match open() {
            Ok(pidfd) => Ok(Self { child, pidfd }),
            Err(error) => {
                // It has done nothing yet that would need an orderly end.
                let _ = child.kill();
                let _ = child.wait();
                Err(error).context("cannot watch a process")
            }
        }
    }

    async fn ended(&mut self) -> io::Result<ExitStatus> {
        // A pidfd stays readable once the process has ended: readiness need not be cleared.
        let _guard = self.pidfd.readable().await?;
        self.child.wait()
    }

    fn signal(&self, signal: Signal) {
        // An error says that it has ended, which is what is wanted.
        let _ = rustix::process::pidfd_send_signal(self.pidfd.get_ref(), signal);
    }
}

impl Drop for Process {
    // Of one that has ended and was reaped, both are errors.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a command said and how it ended.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) code: Option<i32>,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// Commands of this binary that speak to the demo's supervisor.
#[derive(Debug)]
pub(super) struct Commands<'a> {
    pub(super) binary: PathBuf,
    pub(super) stage: &'a Stage,
}

impl Commands<'_> {
    /// Runs `segue NAME ARGUMENTS` to its end.
    pub(super) async fn run(&self, name: &str, arguments: &[&str]) -> anyhow::Result<Outcome> {
        let (stdout, stdout_file) = self.stage.output("command.out")?;
        let (stderr, stderr_file) = self.stage.output("command.err")?;
        let mut process = Process::start(
            Command::new(&self.binary)
                .arg(name)
                .args(arguments)
                .arg("--control")
                .arg(self.stage.control())
                .env("NO_COLOR", "1")
                .stdin(Stdio::null())
                .stdout(stdout_file)
                .stderr(stderr_file),
        )?;
        let Ok(ended) = timeout(COMMAND_LIMIT, process.ended()).await else {
            process.signal(Signal::KILL);
            process.ended().await?;
            bail!("segue {name} did not end within {COMMAND_LIMIT:?}");
        };
        Ok(Outcome {
            code: ended?.code(),
            stdout: fs::read_to_string(stdout)?,
            stderr: fs::read_to_string(stderr)?,
        })
    }

    /// What the supervisor says about the demo's app; `None` when there is no supervisor to ask.
    pub(super) async fn status(&self) -> anyhow::Result<Option<App>> {
        let status = self.all_status().await?;
        Ok(status.and_then(|status| status.apps.into_iter().next()))
    }

    pub(super) async fn all_status(&self) -> anyhow::Result<Option<Status>> {
        let outcome = self.run("status", &["--json"]).await?;
        if outcome.code != Some(0) {
            return Ok(None);
        }
        serde_json::from_str(&outcome.stdout).context("segue status --json is not understood")
    }
}

/// `segue run` with the demo's app.
#[derive(Debug)]
pub(super) struct Supervisor {
    process: Process,
    log: PathBuf,
}

impl Supervisor {
    pub(super) fn start(
        binary: &Path,
        stage: &Stage,
        port: u16,
        flags: &[&str],
    ) -> anyhow::Result<Self> {
        let (log, out) = stage.output("supervisor.log")?;
        let err = out.try_clone().context("cannot share the log")?;
        let process = Process::start(
            Command::new(binary)
                .arg("run")
                .arg("--control")
                .arg(stage.control())
                .arg("--cwd")
                .arg(stage.current())
                .args(flags)
                .arg("app.js")
                .env("PORT", port.to_string())
                .env("NO_COLOR", "1")
                .current_dir(stage.current())
                // ^C is for the demo, which ends the supervisor in order.
                .process_group(0)
                .stdin(Stdio::null())
                .stdout(out)
                .stderr(err),
        )?;
        Ok(Self { process, log })
    }

    /// Completes when the supervisor ends by itself.
    pub(super) async fn ended(&mut self) -> anyhow::Error {
        match self.process.ended().await {
            Ok(status) => anyhow!("the supervisor ended ({status}):\n{}", self.tail()),
            Err(error) => anyhow!("the supervisor cannot be watched: {error}"),
        }
    }

    /// The end of what it and its workers have said.
    pub(super) fn tail(&self) -> String {
        let read = || -> io::Result<Vec<u8>> {
            let mut file = fs::File::open(&self.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        read().map_or_else(
            |error| format!("(its log cannot be read: {error})"),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    /// Asks it to stop, then to hurry, then kills it.
    pub(super) async fn stop(mut self) -> anyhow::Result<ExitStatus> {
        for signal in [Signal::TERM, Signal::TERM, Signal::KILL] {
            self.process.signal(signal);
            if let Ok(ended) = timeout(STOP_LIMIT, self.process.ended()).await {
                return ended.context("cannot wait for the supervisor");
            }
        }
        bail!(
            "the supervisor does not end, not even killed:\n{}",
            self.tail()
        )
    }
}

/// The version that `node` says it has.
pub(super) fn node_version(node: &OsStr) -> anyhow::Result<String> {
    let output = Command::new(node)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| anyhow!("`{}` cannot be run: {error}", node.display()))?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() || !version.starts_with('v') {
        let status = output.status;
        bail!("`{} --version` failed: {status}", node.display());
    }
    Ok(version)
}
