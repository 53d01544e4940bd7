//! How long there is no supervisor when it is upgraded or killed: as PID 1 of a pid namespace, with
//! many stand-in workers that listen at four ports each.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::contender::SEGUE;
use crate::proc::{family, rss};
use crate::spread;

const WORKERS: usize = 500;
const PORTS: usize = 4;
const BOOT_LIMIT: Duration = Duration::from_secs(120);
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// One that has served for so long is followed at once.
const PROVEN: Duration = Duration::from_millis(1200);

pub(crate) fn measure(rounds: usize) -> anyhow::Result<()> {
    println!(
        "\nwithout a supervisor: PID 1 of a namespace, {WORKERS} workers, {} sockets",
        WORKERS * PORTS
    );
    let Some(app) = App::start()? else {
        println!("not measured: unshare may not make a pid namespace here");
        return Ok(());
    };
    let mut upgrades = Vec::new();
    let mut kills = Vec::new();
    for _ in 0..rounds {
        upgrades.push(app.upgrade()?);
        std::thread::sleep(PROVEN);
        kills.push(app.kill()?.as_secs_f64() * 1000.0);
        std::thread::sleep(PROVEN);
    }
    println!(
        "segue upgrade, by its own account  {} ms",
        spread(&upgrades, |gap| *gap)
    );
    println!(
        "kill -9, to the next status        {} ms",
        spread(&kills, |gap| *gap)
    );
    println!(
        "the keeper's resident memory       {} KiB",
        rss(app.keeper()?)?
    );
    app.stop()
}

struct App {
    child: Child,
    directory: tempfile::TempDir,
}

impl App {
    fn start() -> anyhow::Result<Option<Self>> {
        let namespace = ["--pid", "--fork", "--mount-proc", "--kill-child"];
        let tried = Command::new("unshare").args(namespace).arg("true").output();
        if !tried.is_ok_and(|output| output.status.success()) {
            return Ok(None);
        }
        let standin = standin()?;
        let directory = tempfile::tempdir().context("make a directory")?;
        let log = File::create(directory.path().join("log")).context("make a log")?;
        let mut command = Command::new("unshare");
        command.args(namespace).arg(SEGUE).arg("run");
        command
            .arg("--control")
            .arg(directory.path().join("control.sock"));
        command.args(["--workers", &WORKERS.to_string(), "--min-uptime", "0s"]);
        command.args(["--name", "standin"]).arg(standin);
        // Held until all are known, so that no two are the same.
        let ports = (0..PORTS)
            .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .collect::<std::io::Result<Vec<_>>>()
            .context("find free ports")?;
        for port in &ports {
            command.arg(format!("port={}", port.local_addr()?.port()));
        }
        drop(ports);
        let child = command
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share the log")?)
            .stderr(log)
            .spawn()
            .context("start segue")?;
        let mut app = Self { child, directory };
        app.await_workers()?;
        Ok(Some(app))
    }

    fn await_workers(&mut self) -> anyhow::Result<()> {
        let until = Instant::now() + BOOT_LIMIT;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended at once ({status}):\n{}", self.log()?);
            }
            if self.log()?.contains("is ready") {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("it does not serve after {BOOT_LIMIT:?}:\n{}", self.log()?)
    }

    fn log(&self) -> anyhow::Result<String> {
        std::fs::read_to_string(self.directory.path().join("log")).context("read the log")
    }

    fn control(&self) -> PathBuf {
        self.directory.path().join("control.sock")
    }

    /// `segue upgrade`; the milliseconds that it prints.
    fn upgrade(&self) -> anyhow::Result<f64> {
        let output = Command::new(SEGUE)
            .args(["upgrade", "--control"])
            .arg(self.control())
            .output()
            .context("start segue upgrade")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        let gap = text
            .split_once(" ms without")
            .and_then(|(before, _)| before.rsplit(' ').next()?.parse().ok());
        gap.with_context(|| format!("segue upgrade says {text:?}"))
    }

    /// Kills the supervisor; the time until another one answers.
    fn kill(&self) -> anyhow::Result<Duration> {
        let supervisor = self.process("__supervisor")?;
        let began = Instant::now();
        kill_process(pid(supervisor)?, Signal::KILL).context("kill the supervisor")?;
        self.ask_status()?;
        Ok(began.elapsed())
    }

    fn ask_status(&self) -> anyhow::Result<()> {
        let until = Instant::now() + ANSWER_LIMIT;
        while Instant::now() < until {
            if answers(&self.control()).unwrap_or(false) {
                return Ok(());
            }
        }
        bail!(
            "no supervisor answers within {ANSWER_LIMIT:?}:\n{}",
            self.log()?
        )
    }

    fn keeper(&self) -> anyhow::Result<u32> {
        self.process("run")
    }

    /// The process of ours whose first argument is this.
    fn process(&self, word: &str) -> anyhow::Result<u32> {
        let is_wanted = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = line.split(|byte| *byte == 0);
            words
                .next()
                .is_some_and(|name| name == SEGUE.as_bytes() || name == b"segue")
                && words.next() == Some(word.as_bytes())
        };
        let mut family = family(self.child.id()).into_iter();
        family
            .find(is_wanted)
            .with_context(|| format!("no process runs segue {word}"))
    }

    fn stop(mut self) -> anyhow::Result<()> {
        kill_process(pid(self.keeper()?)?, Signal::TERM).context("stop it")?;
        let status = self.child.wait()?;
        anyhow::ensure!(status.success(), "it ended with {status}:\n{}", self.log()?);
        Ok(())
    }
}

impl Drop for App {
    fn drop(&mut self) {
        // The namespace ends with it; it may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pid(number: u32) -> anyhow::Result<Pid> {
    i32::try_from(number)
        .ok()
        .and_then(Pid::from_raw)
        .context("a pid")
}

fn answers(control: &Path) -> std::io::Result<bool> {
    let mut stream = UnixStream::connect(control)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer.starts_with(b"HTTP/1.1 200"))
}

/// Builds the stand-in worker, as the end-to-end tests do, and says where it is.
fn standin() -> anyhow::Result<PathBuf> {
    let profile = Path::new(SEGUE)
        .parent()
        .context("the binary's directory")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--release", "--example", "standin"])
        .args(["--package", env!("CARGO_PKG_NAME"), "--target-dir"])
        .arg(profile.parent().context("the target directory")?)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .context("run cargo")?;
    anyhow::ensure!(status.success(), "the stand-in cannot be built");
    Ok(profile.join("examples/standin"))
}
