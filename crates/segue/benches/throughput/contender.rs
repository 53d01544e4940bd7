//! What is measured: segue in its two distributions, and Node's cluster primary in its two.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::proc::family;

pub(crate) const SEGUE: &str = env!("CARGO_BIN_EXE_segue");
const APP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/throughput/app.js");
const PRIMARY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/throughput/primary.js");

const BOOT_LIMIT: Duration = Duration::from_secs(90);
const STOP_LIMIT: Duration = Duration::from_secs(40);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    SegueSpread,
    /// Not compared with Node, but with the one before.
    SegueWithoutPreload,
    SegueShared,
    /// Boots that take long, of workers with a lower priority; the other one may not lower it.
    GentleBoots,
    HarshBoots,
    NodeRoundRobin,
    NodeNone,
}

/// How much a worker computes before it listens, where that is measured.
const BOOT: &str = "1500";

impl Contender {
    pub(crate) const ALL: [Self; 4] = [
        Self::SegueSpread,
        Self::SegueShared,
        Self::NodeRoundRobin,
        Self::NodeNone,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SegueSpread => "segue spread",
            Self::SegueWithoutPreload => "segue without the preload script",
            Self::SegueShared => "segue shared",
            Self::GentleBoots => "boots at low priority",
            Self::HarshBoots => "boots at normal priority",
            Self::NodeRoundRobin => "node SCHED_RR",
            Self::NodeNone => "node SCHED_NONE",
        }
    }

    /// Starts it and returns when all its workers exist and the port answers.
    pub(crate) fn launch(self, workers: usize) -> anyhow::Result<Launched> {
        let directory = tempfile::tempdir().context("make a directory")?;
        let port = free_port()?;
        let control = directory.path().join("control.sock");
        let mut command = match self {
            Self::SegueSpread => segue(&control, workers, &["--distribution", "spread"]),
            Self::SegueWithoutPreload => segue(&control, workers, &["--preload", "off"]),
            Self::SegueShared => segue(&control, workers, &["--distribution", "shared"]),
            Self::GentleBoots => booting(&control, workers, &["setpriv", "--"]),
            Self::HarshBoots => {
                let without = ["setpriv", "--bounding-set=-sys_nice", "--"];
                booting(&control, workers, &without)
            }
            Self::NodeRoundRobin => node("rr", workers),
            Self::NodeNone => node("none", workers),
        };
        let log = File::create(directory.path().join("log")).context("make a log")?;
        let errors = log.try_clone().context("share the log")?;
        let child = command
            .env("PORT", port.to_string())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("start {}", self.name()))?;
        let mut launched = Launched {
            child,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            control,
            directory,
        };
        launched.await_workers(self.own_processes() + workers)?;
        Ok(launched)
    }

    /// Processes that are not workers.
    fn own_processes(self) -> usize {
        match self {
            // Keeper and supervisor.
            Self::SegueSpread
            | Self::SegueWithoutPreload
            | Self::SegueShared
            | Self::GentleBoots
            | Self::HarshBoots => 2,
            Self::NodeRoundRobin | Self::NodeNone => 1,
        }
    }
}

fn segue(control: &Path, workers: usize, flags: &[&str]) -> Command {
    let mut command = Command::new(SEGUE);
    command.arg("run").arg("--control").arg(control);
    command.args(["--workers", &workers.to_string()]);
    command.args(flags).args(["--min-uptime", "0s", APP]);
    command
}

fn booting(control: &Path, workers: usize, prefix: &[&str]) -> Command {
    let plain = segue(control, workers, &[]);
    let mut words = prefix
        .iter()
        .map(std::ffi::OsStr::new)
        .chain([plain.get_program()]);
    let mut command = Command::new(words.next().unwrap_or_default());
    command
        .args(words)
        .args(plain.get_args())
        .env("BOOT_MS", BOOT);
    command
}

fn node(policy: &str, workers: usize) -> Command {
    let mut command = Command::new("node");
    command
        .arg(PRIMARY)
        .env("POLICY", policy)
        .env("WORKERS", workers.to_string());
    command
}

pub(crate) fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    Ok(listener.local_addr()?.port())
}

/// One that runs. Ended when dropped.
#[derive(Debug)]
pub(crate) struct Launched {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) control: PathBuf,
    directory: TempDir,
}

impl Launched {
    pub(crate) fn processes(&self) -> Vec<u32> {
        family(self.child.id())
    }

    pub(crate) fn main_process(&self) -> u32 {
        self.child.id()
    }

    /// `segue reload`, to its end.
    pub(crate) fn reload(&self) -> anyhow::Result<Duration> {
        reload(&self.control)
    }

    fn await_workers(&mut self, processes: usize) -> anyhow::Result<()> {
        let until = Instant::now() + BOOT_LIMIT;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait()? {
                let log = std::fs::read_to_string(self.directory.path().join("log"))?;
                bail!("it ended at once ({status}):\n{log}");
            }
            if answers(self.address) && self.processes().len() >= processes {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("it does not serve after {BOOT_LIMIT:?}")
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may have ended, which is what is wanted.
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        self.signal(Signal::TERM);
        let until = Instant::now() + STOP_LIMIT;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > until {
                self.signal(Signal::KILL);
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// `segue reload` of what listens there, to its end.
pub(crate) fn reload(control: &Path) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let output = Command::new(SEGUE)
        .args(["reload", "--control"])
        .arg(control)
        .stdin(Stdio::null())
        .output()
        .context("start segue reload")?;
    if !output.status.success() {
        bail!(
            "segue reload failed:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(began.elapsed())
}

/// How long the app takes by itself from its start to its first answer.
pub(crate) fn boot_time() -> anyhow::Result<Duration> {
    let port = free_port()?;
    let began = Instant::now();
    let mut child = Command::new("node")
        .arg(APP)
        .env("PORT", port.to_string())
        .stdin(Stdio::null())
        .spawn()
        .context("start node")?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut took = None;
    while took.is_none() && began.elapsed() < BOOT_LIMIT {
        if answers(address) {
            took = Some(began.elapsed());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill()?;
    child.wait()?;
    took.context("the app does not serve by itself")
}

fn answers(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.starts_with("HTTP/1.1 200"))
    };
    ask().unwrap_or(false)
}
