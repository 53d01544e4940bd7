//! The supervisor replaces itself: another binary shows in a process of its own that it can read
//! the state, and only then this process becomes it (exec). Workers, sockets and connections are
//! held by the keeper meanwhile, and the new one takes them up as a successor does after a crash;
//! but it is the same process, with the same children.
//!
//! ```text
//!   probe ──reads the state──▶ commit ──exec──▶ takes over ──▶ serves
//!     │ cannot                   │ cannot           │ cannot
//!     └──────────────────────────┴──▶ goes on       └──▶ the keeper starts the one before
//! ```

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::pipe::PipeFlags;
use segue_core::RequestId;
use segue_sys::spawn::{self, Exit, Mask, Signal, Spawn};
use segue_sys::{clock, exec, process, readable};
use segue_wire::control::{Level, Outcome, OutcomeKind};
use segue_wire::handoff::ToKeeper;
use segue_wire::handoff::keeper::{FALLBACK, PROGRAM};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::app_shell::AppShell;
use super::run::{Inward, Supervisor};
use crate::handoff::text::word;
use crate::handoff::{InheritError, Inherited, Journal};
use crate::keeper::KEEPER_FD;
use crate::telemetry::lines::PREFIX;
use crate::worker::writer::{Leftover, Writer};

/// First argument of the process that shows whether it can read the state.
pub(crate) const PROBE_ARGUMENT: &str = "__probe";

/// Where the probe finds the state.
pub(crate) const PROBE_STATE: i32 = 3;

/// How long the probe may take.
const PROBE_WAIT: Duration = Duration::from_secs(10);

/// The longest answer of a probe that is read, in bytes.
const LONGEST_ANSWER: u64 = 16 << 10;

/// How long the keeper may take to have everything.
const KEEPER_WAIT: Duration = Duration::from_secs(2);

/// How long what is being written to our output may take.
const OUTPUT_WAIT: Duration = Duration::from_millis(500);

/// Seconds after which a new supervisor that does not serve is ended by its own clock.
const SERVE_WAIT: u32 = 10;

const UPGRADE: &str = "upgrade";
const OUTPUT: &str = "output";

/// An upgrade that is being probed.
#[derive(Debug)]
pub(super) struct Upgrade {
    request: RequestId,
    path: PathBuf,
    program: OwnedFd,
}

/// What a probe says of itself.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Probed {
    pub(crate) release: String,
    pub(crate) format: u32,
}

/// An upgrade that is about to become true, for the successor.
#[derive(Debug, Deserialize, Serialize)]
struct Record {
    request: u64,
    from: String,
    to: String,
    #[serde(with = "word")]
    path: PathBuf,
    /// The process that becomes the new supervisor.
    pid: u32,
    /// When the old one stopped working, in microseconds of the monotonic clock.
    stopped: u64,
}

impl Supervisor {
    /// Asked to become another binary, or what is at the place of its own by now.
    pub(super) fn begin_upgrade(&mut self, request: RequestId, binary: Option<PathBuf>) {
        if self.upgrade.is_some() {
            return self.refuse_upgrade(request, "another upgrade is under way");
        }
        let path = match binary.map_or_else(own_path, Ok) {
            Ok(path) => path,
            Err(error) => {
                return self.fail_upgrade(request, &format!("cannot tell where segue is: {error}"));
            }
        };
        let opened = exec::open_program(&path).and_then(|program| Ok((program, self.site.copy()?)));
        let (program, state) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                return self
                    .fail_upgrade(request, &format!("cannot open {}: {error}", path.display()));
            }
        };
        let probe = match Probe::start(&path, &program, state.into()) {
            Ok(probe) => probe,
            Err(error) => {
                let why = format!("cannot start {}: {error}", path.display());
                return self.fail_upgrade(request, &why);
            }
        };
        self.upgrade = Some(Upgrade {
            request,
            path,
            program,
        });
        let inward = self.inward.clone();
        tokio::spawn(async move {
            let _ = inward.send(Inward::Probed(probe.answer().await));
        });
    }

    pub(super) fn hear_probe(&mut self, answer: Result<Probed, String>) {
        let Some(upgrade) = self.upgrade.take() else {
            return;
        };
        let request = upgrade.request;
        let failed = match answer {
            Ok(probed) => self.commit_upgrade(upgrade, probed),
            Err(why) => format!("{}: {why}", upgrade.path.display()),
        };
        self.fail_upgrade(request, &failed);
    }

    /// Becomes the new binary. Returns only if that cannot be, with the reason.
    fn commit_upgrade(&mut self, upgrade: Upgrade, probed: Probed) -> String {
        let Upgrade {
            request,
            path,
            program,
        } = upgrade;
        let own = match exec::open_program(Path::new("/proc/self/exe")) {
            Ok(own) => own,
            Err(error) => return format!("cannot keep the present binary at hand: {error}"),
        };
        let record = Record {
            request: request.0,
            from: env!("CARGO_PKG_VERSION").to_owned(),
            to: probed.release,
            path,
            pid: std::process::id(),
            stopped: clock::monotonic_micros(),
        };
        let leftovers = self.pause_output(OUTPUT_WAIT);
        if leftovers.is_stalled() {
            // Its thread would hold up the exec, or die with lines in its hands.
            self.resume_output(leftovers);
            return "a file that workers' output goes to does not take it just now".to_owned();
        }
        self.site.put(UPGRADE, &record);
        self.keeper
            .say(ToKeeper::Store(FALLBACK.to_owned()), Some(own.as_fd()));
        self.keeper
            .say(ToKeeper::Store(PROGRAM.to_owned()), Some(program.as_fd()));
        self.site.commit();
        let error = if self.keeper.settle(KEEPER_WAIT) {
            // It counts through the exec; one that hangs must not hold the place for ever.
            process::alarm(SERVE_WAIT);
            match self.become_program(&program) {
                Ok(never) => match never {},
                Err(error) => error,
            }
        } else {
            io::Error::other("the keeper does not answer")
        };
        process::alarm(0);
        self.keeper
            .say(ToKeeper::Store(PROGRAM.to_owned()), Some(own.as_fd()));
        self.keeper.say(ToKeeper::Ready, None);
        self.site.drop(UPGRADE);
        self.resume_output(leftovers);
        self.site.commit();
        format!("cannot become {}: {error}", record.path.display())
    }

    fn become_program(&self, program: &OwnedFd) -> io::Result<std::convert::Infallible> {
        let link = self.keeper.copy()?;
        let argv: Vec<OsString> = std::env::args_os().collect();
        let mut env: Vec<(OsString, OsString)> = std::env::vars_os()
            .filter(|(name, _)| name != KEEPER_FD)
            .collect();
        env.push((KEEPER_FD.into(), link.as_raw_fd().to_string().into()));
        let path = format!("/proc/self/fd/{}", program.as_raw_fd());
        exec::exec(Path::new(&path), &argv, &env, &[&link])
    }

    /// All that is in the hands of this process is written down: lines are not read or written any more.
    pub(super) fn pause_output(&self, limit: Duration) -> Leftovers {
        let own = self.host.writer.pause(limit);
        self.site.put(OUTPUT, &own);
        let apps = self.apps.iter().map(|(name, shell)| {
            shell.note_core();
            shell.note_unfinished();
            let left = shell.plan.writer.pause(limit);
            shell.journal.put(OUTPUT, &left);
            (name.clone(), left)
        });
        let apps = apps.collect();
        let mut retired = self.apps.values().flat_map(|shell| &shell.retired);
        Leftovers {
            apps,
            own,
            is_retired_stalled: !retired.all(|writer| writer.flush_log(limit)),
        }
    }

    pub(super) fn resume_output(&self, leftovers: Leftovers) {
        self.host.writer.resume(leftovers.own);
        self.site.drop(OUTPUT);
        for (name, left) in leftovers.apps {
            if let Some(shell) = self.apps.get(&name) {
                shell.plan.writer.resume(left);
                shell.journal.drop(OUTPUT);
            }
        }
    }

    /// To be called when a successor serves.
    ///
    /// # Errors
    /// What was written down cannot be understood.
    pub(super) fn conclude_upgrade(&mut self, inherited: &Inherited) -> Result<(), InheritError> {
        process::alarm(0);
        let Some(record) = inherited.value::<Record>(UPGRADE)? else {
            return Ok(());
        };
        self.site.drop(UPGRADE);
        let request = RequestId(record.request);
        if record.pid != std::process::id() {
            let why = format!(
                "segue {} at {} could not take over; its last lines are in the supervisor's output",
                record.to,
                record.path.display()
            );
            self.fail_upgrade(request, &why);
            return Ok(());
        }
        let gap = clock::monotonic_micros().saturating_sub(record.stopped);
        let gap_ms = Duration::from_micros(gap).as_secs_f64() * 1000.0;
        let Record { from, to, .. } = record;
        let text = match from == to {
            true => format!("segue {to} upgraded to itself; {gap_ms:.1} ms without a supervisor"),
            false => format!("segue {from} upgraded to {to}; {gap_ms:.1} ms without a supervisor"),
        };
        self.answer_upgrade(
            request,
            Level::Info,
            Outcome {
                kind: OutcomeKind::Upgraded,
                text,
                release_from: Some(from),
                release_to: Some(to),
                gap_us: Some(gap),
                ..Outcome::default()
            },
        );
        Ok(())
    }

    fn refuse_upgrade(&mut self, request: RequestId, why: &str) {
        let outcome = Outcome {
            kind: OutcomeKind::Refused,
            text: format!("refused: {why}"),
            next: "ask again when it is over".to_owned(),
            refusal: Some("upgrading".to_owned()),
            ..Outcome::default()
        };
        self.answer_upgrade(request, Level::Warn, outcome);
    }

    fn fail_upgrade(&mut self, request: RequestId, why: &str) {
        let outcome = Outcome {
            kind: OutcomeKind::UpgradeFailed,
            text: format!("segue {} goes on: {why}", env!("CARGO_PKG_VERSION")),
            next: "put a working segue there, or name one with --binary".to_owned(),
            ..Outcome::default()
        };
        self.answer_upgrade(request, Level::Error, outcome);
    }

    fn answer_upgrade(&mut self, request: RequestId, level: Level, outcome: Outcome) {
        if self.host.verbosity.shows(level) {
            self.host.say(format!("{PREFIX}{}", outcome.text));
        }
        self.requests.keep_outcome(request, &outcome);
        self.callers.answer(request, outcome);
        self.site.commit();
    }
}

/// What has not been written to the files that output goes to.
pub(super) struct Leftovers {
    own: Leftover,
    apps: Vec<(String, Leftover)>,
    is_retired_stalled: bool,
}

impl Leftovers {
    fn is_stalled(&self) -> bool {
        let mut apps = self.apps.iter();
        self.is_retired_stalled || self.own.is_stalled() || apps.any(|(_, left)| left.is_stalled())
    }
}

impl AppShell {
    /// Lines that are in the middle of being read.
    fn note_unfinished(&self) {
        for (worker, member) in self.crew.members() {
            let journal = self.crew.journal_of(worker);
            journal.put(OUTPUT, &member.output.unfinished());
        }
    }
}

/// What a predecessor has not written to our output is written first.
///
/// # Errors
/// It is of another kind.
pub(super) fn take_over_output(
    writer: &Writer,
    journal: &Journal,
    inherited: &Inherited,
) -> Result<(), InheritError> {
    if let Some(leftover) = inherited.value::<Leftover>(&journal.full(OUTPUT))? {
        writer.resume(leftover);
        journal.drop(OUTPUT);
    }
    Ok(())
}

/// A process that reads the state and says so.
struct Probe {
    child: spawn::Child,
    out: OwnedFd,
    err: OwnedFd,
}

impl Probe {
    fn start(path: &Path, program: &OwnedFd, state: OwnedFd) -> io::Result<Self> {
        let (out, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (err, their_err) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let null = File::open("/dev/null")?;
        let program = format!("/proc/self/fd/{}", program.as_raw_fd());
        let child = Spawn {
            // The file that was looked at, whatever is at its path by then.
            program: Path::new(&program),
            argv: &[path.as_os_str().to_owned(), PROBE_ARGUMENT.into()],
            env: &std::env::vars_os()
                .filter(|(name, _)| name != KEEPER_FD)
                .collect::<Vec<_>>(),
            cwd: Path::new("/"),
            descriptors: vec![
                (null.into(), 0),
                (theirs, 1),
                (their_err, 2),
                (state, PROBE_STATE),
            ],
            descriptor_limit: None,
            nice: None,
            identity: None,
            no_new_privileges: false,
            umask: None,
            cgroup: None,
            mask: Mask::Clear,
        }
        .start()?;
        Ok(Self { child, out, err })
    }

    async fn answer(self) -> Result<Probed, String> {
        let Self { child, out, err } = self;
        let pidfd = readable::watch(child.pidfd).map_err(|(pidfd, error)| {
            let _ = spawn::send_signal(&pidfd, Signal::KILL);
            tokio::task::spawn_blocking(move || spawn::reap_killed(pidfd));
            format!("the probe cannot be watched: {error}")
        })?;
        let exit = async {
            loop {
                let mut ready = pidfd.readable().await.map_err(|error| error.to_string())?;
                match spawn::reap(pidfd.get_ref()) {
                    Ok(Some(exit)) => return Ok(exit),
                    Ok(None) => ready.clear_ready(),
                    Err(error) => return Err(error.to_string()),
                }
            }
        };
        let Ok(exit) = timeout(PROBE_WAIT, exit).await else {
            let _ = spawn::send_group(child.pid, Signal::KILL);
            let pidfd = pidfd.into_inner();
            tokio::task::spawn_blocking(move || spawn::reap_killed(pidfd));
            let seconds = PROBE_WAIT.as_secs();
            return Err(format!("it did not read the state within {seconds} s"));
        };
        let (out, err) = (text_of(out), text_of(err));
        match exit? {
            Exit::Code(0) => serde_json::from_str(out.trim())
                .map_err(|_| "it does not answer as segue does; is it segue?".to_owned()),
            Exit::Code(code) => Err(match err.trim() {
                "" => format!("it exited with code {code} instead of reading the state"),
                said => said.trim_start_matches(PREFIX).to_owned(),
            }),
            Exit::Signal(signal) => Err(format!("it was killed by signal {signal}")),
            Exit::Unknown => Err("it ended in an unknown way".to_owned()),
        }
    }
}

/// What a process that has ended has written: nothing more comes, unless somebody else holds the pipe.
fn text_of(pipe: OwnedFd) -> String {
    let _ = rustix::io::ioctl_fionbio(&pipe, true);
    let mut bytes = Vec::new();
    let _ = File::from(pipe)
        .take(LONGEST_ANSWER)
        .read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Where this binary is, or another one that has taken its place.
fn own_path() -> io::Result<PathBuf> {
    let path = std::fs::read_link("/proc/self/exe")?;
    let bytes = path.as_os_str().as_encoded_bytes();
    // The kernel's way to say that the file is gone, which a new one may have replaced (proc_pid_exe(5)).
    match bytes.strip_suffix(b" (deleted)") {
        Some(bytes) => Ok(PathBuf::from(
            <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(bytes),
        )),
        None => Ok(path),
    }
}
