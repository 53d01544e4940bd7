//! Who asks: `wrk` where it is installed, because it leaves most of a small machine to the
//! servers; else the strict client of this workspace.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use segue_load::{Contract, Fresh, KeepAlive, Kind, Load};

/// Connections open at once.
const CONNECTIONS: u32 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    Wrk,
    SegueLoad,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// A new connection for each request.
    Connections,
    /// As many requests as possible on few connections.
    KeepAlive,
}

/// How many answers in what time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted {
    pub(crate) answers: f64,
    pub(crate) seconds: f64,
    /// Neither in `answers` nor forgotten.
    pub(crate) failed: u64,
}

impl Client {
    pub(crate) fn find() -> Self {
        let wrk = Command::new("wrk").stdin(Stdio::null()).output();
        if wrk.is_ok() {
            Self::Wrk
        } else {
            Self::SegueLoad
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Wrk => "wrk, 1 thread, 64 connections",
            Self::SegueLoad => "segue-load, 1 thread, 64 clients (wrk is not installed)",
        }
    }

    pub(crate) fn ask(
        self,
        task: Task,
        address: SocketAddr,
        time: Duration,
    ) -> anyhow::Result<Counted> {
        match self {
            Self::Wrk => wrk(task, address, time),
            Self::SegueLoad => segue_load(task, address, time),
        }
    }
}

fn wrk(task: Task, address: SocketAddr, time: Duration) -> anyhow::Result<Counted> {
    let mut command = Command::new("wrk");
    command.args([
        "-t1",
        &format!("-c{CONNECTIONS}"),
        &format!("-d{}s", time.as_secs()),
    ]);
    if task == Task::Connections {
        command.args(["-H", "Connection: close"]);
    }
    let output = command
        .arg(format!("http://{address}/"))
        .stdin(Stdio::null())
        .output()
        .context("start wrk")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!(
            "wrk failed:\n{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    parse_wrk(&text).with_context(|| format!("wrk is not understood:\n{text}"))
}

/// `  75812 requests in 3.00s, 11.28MB read`, and the lines about errors, if any.
fn parse_wrk(text: &str) -> Option<Counted> {
    let line = text.lines().find(|line| line.contains(" requests in "))?;
    let (answers, rest) = line.trim().split_once(" requests in ")?;
    let (seconds, _) = rest.split_once("s,")?;
    let errors = ["Socket errors:", "Non-2xx or 3xx responses:"];
    let failed = text
        .lines()
        .filter_map(|line| {
            errors
                .iter()
                .find_map(|name| line.trim().strip_prefix(name))
        })
        .flat_map(|counts| counts.split(|c: char| !c.is_ascii_digit()))
        .filter_map(|count| count.parse::<u64>().ok())
        .sum();
    Some(Counted {
        answers: answers.parse().ok()?,
        seconds: seconds.parse().ok()?,
        failed,
    })
}

fn segue_load(task: Task, address: SocketAddr, time: Duration) -> anyhow::Result<Counted> {
    let kind: Kind = match task {
        Task::Connections => Fresh {
            clients: CONNECTIONS,
            ..Fresh::default()
        }
        .into(),
        Task::KeepAlive => KeepAlive {
            clients: CONNECTIONS,
            ..KeepAlive::default()
        }
        .into(),
    };
    let load = Load::builder()
        .with(kind)
        .contract(Contract::any_app())
        .number_in_query(false)
        .build();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("make a runtime")?;
    runtime.block_on(async {
        let began = Instant::now();
        let running = load.start(address);
        tokio::time::sleep(time).await;
        let report = running.stop().await;
        Ok(Counted {
            answers: report.answers() as f64,
            seconds: began.elapsed().as_secs_f64(),
            failed: report.failed(),
        })
    })
}
