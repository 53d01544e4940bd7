//! What printing costs: lines a second into a file, and processor time for each, by segue and by PM2 in
//! cluster mode, which is fetched from npm for this.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::contender::{SEGUE, free_port};
use crate::proc::{cpu, family};
use crate::{median, spread};

const APP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/throughput/lines.js");
const PM2: &str = "pm2@7.0.4";
const LINES: u64 = 200_000;
/// Before what is measured.
const WARM_UP: u64 = 20_000;
const LIMIT: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    SegueText,
    SegueJson,
    Pm2,
}

/// What one launch gave.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Lines a second, until the last is in the file.
    lines: f64,
    /// Microseconds for each line, of the worker and of all processes.
    worker: f64,
    all: f64,
    lost: u64,
}

const KINDS: [Kind; 3] = [Kind::SegueText, Kind::SegueJson, Kind::Pm2];

pub(crate) fn compare(launches: usize) -> anyhow::Result<()> {
    println!("\n{LINES} lines of about 100 bytes by one worker, into a file");
    let Some(pm2) = fetch()? else {
        println!("not measured: npm does not fetch {PM2} here");
        return Ok(());
    };
    let mut samples = [const { Vec::new() }; 3];
    for launch in 0..launches {
        for turn in 0..KINDS.len() {
            let index = (launch + turn) % KINDS.len();
            let sample = measure(KINDS[index], &pm2)
                .with_context(|| format!("{:?}, launch {}", KINDS[index], launch + 1))?;
            samples[index].push(sample);
        }
    }
    println!(
        "{:<12} {:>28} {:>22} {:>22} {:>6}",
        "", "lines/s", "worker CPU ns each", "all CPU ns each", "lost"
    );
    let nanos = |micros: f64| micros * 1000.0;
    for (kind, samples) in KINDS.iter().zip(&samples) {
        println!(
            "{:<12} {:>28} {:>22} {:>22} {:>6}",
            kind.name(),
            spread(samples, |sample| sample.lines),
            spread(samples, |sample| nanos(sample.worker)),
            spread(samples, |sample| nanos(sample.all)),
            samples.iter().map(|sample| sample.lost).sum::<u64>(),
        );
    }
    let ratio = |what: &str, value: fn(&Sample) -> f64| {
        let [text, json, pm2] = samples
            .each_ref()
            .map(|samples| median(samples.iter().map(value)));
        println!(
            "{what:<34} segue text / PM2 {:>6.2}   segue JSON / PM2 {:>6.2}",
            text / pm2,
            json / pm2
        );
    };
    println!("ratios of the medians");
    ratio("lines/s", |sample| sample.lines);
    ratio("the worker's CPU for each line", |sample| sample.worker);
    ratio("all CPU for each line", |sample| sample.all);
    Ok(())
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::SegueText => "segue, text",
            Self::SegueJson => "segue, JSON",
            Self::Pm2 => "PM2",
        }
    }
}

/// The directory that PM2 is in; `None` where npm is not, or cannot fetch it.
fn fetch() -> anyhow::Result<Option<TempDir>> {
    let directory = tempfile::tempdir().context("make a directory")?;
    let mut command = Command::new("npm");
    command
        .args([
            "install",
            "--no-audit",
            "--no-fund",
            "--loglevel=error",
            "--prefix",
        ])
        .arg(directory.path())
        .arg(PM2)
        .stdin(Stdio::null());
    let fetched = command.output();
    Ok(fetched
        .is_ok_and(|output| output.status.success())
        .then_some(directory))
}

fn measure(kind: Kind, pm2: &TempDir) -> anyhow::Result<Sample> {
    let running = Running::start(kind, pm2)?;
    running.print(WARM_UP)?;
    running.wait_for(WARM_UP)?;
    let processes = running.processes()?;
    let before = cpu(&processes);
    let began = Instant::now();
    let (_, worker) = running.print(LINES)?;
    let lost = running.wait_for(WARM_UP + LINES)?;
    let took = began.elapsed();
    let all = cpu(&processes).saturating_sub(before);
    let each = |seconds: f64| seconds * 1e6 / LINES as f64;
    Ok(Sample {
        lines: LINES as f64 / took.as_secs_f64(),
        worker: each(worker),
        all: each(all.as_secs_f64()),
        lost,
    })
}

/// One that runs. Ended when dropped.
struct Running {
    directory: TempDir,
    address: SocketAddr,
    host: Host,
}

enum Host {
    Segue(Child),
    /// PM2's command, with its home.
    Pm2 {
        program: PathBuf,
        home: PathBuf,
    },
}

impl Running {
    fn start(kind: Kind, pm2: &TempDir) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir().context("make a directory")?;
        let port = free_port()?;
        let log = directory.path().join("web.log");
        let format = match kind {
            Kind::SegueJson => "json",
            Kind::SegueText | Kind::Pm2 => "text",
        };
        let host = match kind {
            Kind::SegueText | Kind::SegueJson => {
                let mut command = Command::new(SEGUE);
                command.args(["run", "--workers", "1", "--log-format", format, "--log"]);
                command.arg(&log).arg("--control");
                command.arg(directory.path().join("control.sock")).arg(APP);
                command.env("PORT", port.to_string());
                command.stdin(Stdio::null()).stdout(Stdio::null());
                Host::Segue(
                    command
                        .stderr(Stdio::null())
                        .spawn()
                        .context("start segue")?,
                )
            }
            Kind::Pm2 => {
                let program = pm2.path().join("node_modules/pm2/bin/pm2");
                let home = directory.path().join("home");
                let mut command = pm2_command(&program, &home);
                command.args(["start", APP, "-i", "1", "--name", "web", "--merge-logs"]);
                command.arg("--output").arg(&log).arg("--error").arg(&log);
                command.env("PORT", port.to_string());
                let output = command.output().context("start PM2")?;
                if !output.status.success() {
                    bail!("{}", String::from_utf8_lossy(&output.stderr));
                }
                Host::Pm2 { program, home }
            }
        };
        let running = Self {
            directory,
            address: (Ipv4Addr::LOCALHOST, port).into(),
            host,
        };
        let until = Instant::now() + LIMIT;
        while running.print(0).is_err() {
            if Instant::now() > until {
                bail!("it does not serve");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(running)
    }

    /// Seconds that printing took the worker: by the clock, and of its processor time.
    fn print(&self, lines: u64) -> anyhow::Result<(f64, f64)> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(LIMIT))?;
        write!(
            stream,
            "GET /?lines={lines} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let from = answer.find('{').context("no answer")?;
        let to = answer.rfind('}').context("no answer")?;
        let body: serde_json::Value = serde_json::from_str(&answer[from..=to])?;
        let number = |name: &str| body[name].as_f64().context("a number is missing");
        Ok((number("took")?, number("cpu")?))
    }

    /// Waits until so many lines are in the file or known to be lost; says how many are lost.
    fn wait_for(&self, lines: u64) -> anyhow::Result<u64> {
        let until = Instant::now() + LIMIT;
        let mut file = BufReader::new(File::open(self.directory.path().join("web.log"))?);
        let (mut seen, mut lost) = (0, 0);
        let mut line = String::new();
        while seen + lost < lines {
            if file.read_line(&mut line)? == 0 || !line.ends_with('\n') {
                if Instant::now() > until {
                    bail!("{seen} lines of {lines} have come, {lost} are said to be lost");
                }
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            match line.split_once("… ").map(|(_, note)| note) {
                Some(note) if note.contains(" lines dropped") => {
                    let count = note.split(' ').next().unwrap_or_default();
                    lost += count.parse::<u64>().unwrap_or(0);
                }
                _ => seen += 1,
            }
            line.clear();
        }
        Ok(lost)
    }

    fn processes(&self) -> anyhow::Result<Vec<u32>> {
        let root = match &self.host {
            Host::Segue(child) => child.id(),
            Host::Pm2 { home, .. } => {
                let pid = std::fs::read_to_string(home.join("pm2.pid"));
                pid.context("PM2 has no pid file")?.trim().parse()?
            }
        };
        Ok(family(root))
    }
}

fn pm2_command(program: &Path, home: &Path) -> Command {
    let mut command = Command::new("node");
    command.arg(program).env("PM2_HOME", home);
    command.stdin(Stdio::null());
    command
}

impl Drop for Running {
    fn drop(&mut self) {
        match &mut self.host {
            Host::Segue(child) => {
                if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                    // It may have ended, which is what is wanted.
                    let _ = kill_process(pid, Signal::TERM);
                }
                let _ = child.wait();
            }
            Host::Pm2 { program, home } => {
                let _ = pm2_command(program, home).arg("kill").output();
            }
        }
    }
}
