//! The main process of a run, started as a shell does or as a service manager does.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::PipeReader;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};

use rustix::event::{PollFd, PollFlags, poll};
use segue_sys::spawn::{self, Exit, Mask, Spawn};

/// Runs what follows as the process that the variables of sd_listen_fds(3) and sd_watchdog_enabled(3)
/// are to name.
pub(crate) const AS_MAIN: [&str; 4] = [
    "sh",
    "-c",
    "export LISTEN_PID=$$ WATCHDOG_PID=$$; exec \"$@\"",
    "sh",
];

/// How it was started.
#[derive(Debug)]
pub(crate) enum Main {
    Command(Child),
    /// With how it ended, once that is known.
    Service(spawn::Child, Option<ExitStatus>),
}

/// A service that has been started.
pub(crate) struct Started {
    pub(crate) main: Main,
    pub(crate) pid: u32,
    pub(crate) out: PipeReader,
    pub(crate) err: PipeReader,
}

impl Main {
    /// Starts a program with sockets from number 3 on; `command` is to be led by [`AS_MAIN`].
    pub(crate) fn start(command: &Command, sockets: Vec<OwnedFd>) -> Started {
        let program = OsString::from("/usr/bin/env");
        let words = [command.get_program()]
            .into_iter()
            .chain(command.get_args());
        let argv = [program.as_os_str()].into_iter().chain(words);
        let mut env: BTreeMap<_, _> = std::env::vars_os().collect();
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => env.insert(name.to_owned(), value.to_owned()),
                None => env.remove(name),
            };
        }
        let (out, their_out) = std::io::pipe().expect("make a pipe");
        let (err, their_err) = std::io::pipe().expect("make a pipe");
        let null = std::fs::File::open("/dev/null").expect("open /dev/null");
        let first: [OwnedFd; 3] = [null.into(), their_out.into(), their_err.into()];
        let child = Spawn {
            program: Path::new(&program),
            argv: &argv.map(OsStr::to_owned).collect::<Vec<_>>(),
            env: &env.into_iter().collect::<Vec<_>>(),
            cwd: command.get_current_dir().expect("it has one"),
            descriptors: first.into_iter().chain(sockets).zip(0..).collect(),
            descriptor_limit: None,
            nice: None,
            identity: None,
            no_new_privileges: false,
            umask: None,
            cgroup: None,
            mask: Mask::Clear,
        };
        let child = child.start().expect("start it");
        Started {
            pid: child.pid,
            main: Self::Service(child, None),
            out,
            err,
        }
    }

    pub(crate) fn id(&self) -> u32 {
        match self {
            Self::Command(child) => child.id(),
            Self::Service(child, _) => child.pid,
        }
    }

    /// Its end, which has come or is about to.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        match self {
            Self::Command(child) => child.wait().expect("reap the main process"),
            Self::Service(child, ended) => *ended.get_or_insert_with(|| reap(child)),
        }
    }
}

fn reap(child: &spawn::Child) -> ExitStatus {
    let mut ended = [PollFd::new(&child.pidfd, PollFlags::IN)];
    poll(&mut ended, None).expect("wait for its end");
    match spawn::reap(&child.pidfd).expect("reap the main process") {
        Some(Exit::Code(code)) => ExitStatus::from_raw(code << 8),
        Some(Exit::Signal(signal)) => ExitStatus::from_raw(signal),
        other => panic!("it ended, but {other:?}"),
    }
}
