//! `segue demo`: a built-in app under a strict load, reloaded, broken and killed before the user's eyes.
//!
//! It is an ordinary user of segue: it runs this binary's own commands against a supervisor of
//! its own, whose directory, port and control socket nobody else has. It leaves nothing behind.

mod process;
mod show;
mod stage;

use std::ffi::OsStr;
use std::future::Future;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use segue_load::{Download, Framing, Fresh, KeepAlive, Load, Phase, Post, Running, Think};
use segue_sys::readable::watch;
use segue_sys::signal::{Handled, Signals};
use segue_wire::control::{App, WorkerPhase};
use tokio::io::unix::AsyncFd;
use tokio::time::{sleep, timeout};

use self::process::{Commands, Supervisor, node_version};
use self::show::{Findings, Show, Step, quote};
use self::stage::Stage;
use super::error::Trouble;
use super::output::Output;
use crate::exit::Exit;
use crate::telemetry::log::Verbosity;

const WORKERS: usize = 2;
/// How long the app may take to serve, at first and after its worker was killed.
const READY_LIMIT: Duration = Duration::from_secs(15);
const DOWNLOAD: Duration = Duration::from_secs(3);
/// What the steps take by themselves; the rest of the time lies between them.
const STEPS_TAKE: Duration = Duration::from_secs(12);
/// Start, five reloads, the broken release, two kills, the upgrade.
const PAUSES: u32 = 10;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// How long the demo takes, about
    #[arg(long, value_name = "SECONDS", default_value_t = 22, value_parser = clap::value_parser!(u64).range(15..=3600))]
    seconds: u64,
    /// Port on 127.0.0.1 [default: a free one]
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 0,
        hide_default_value = true
    )]
    port: u16,
    /// Print nothing but one JSON object at the end
    #[arg(long)]
    json: bool,
}

impl DemoArgs {
    pub(crate) fn output(&self) -> Output {
        Output::of_this_process(self.json, Verbosity::new(false, 0))
    }
}

/// Runs the demo. [`Exit::Failed`] if a request failed that should not, or a step came out wrong.
///
/// # Errors
/// What could not be set up: no `node`, no directory, a supervisor that does not start.
pub(crate) async fn run(args: DemoArgs, output: Output) -> Result<Exit, Trouble> {
    let node = match node_version(OsStr::new("node")) {
        Ok(node) => node,
        Err(error) => {
            let next = "install Node 16 or newer, or put its directory first in PATH";
            return Err(Trouble::new(
                "the demo needs node",
                error,
                next,
                Exit::Failed,
            ));
        }
    };
    perform(&args, &output, &node).await.map_err(|error| {
        let next = "run it again; what it made is gone";
        Trouble::new(
            "the demo ended early",
            format!("{error:#}"),
            next,
            Exit::Failed,
        )
    })
}

async fn perform(args: &DemoArgs, output: &Output, node: &str) -> anyhow::Result<Exit> {
    // Before anything is made that ^C would leave behind.
    let signals = Signals::block().context("cannot take signals")?;
    let signals = watch(signals)
        .map_err(|(_, error)| error)
        .context("cannot watch signals")?;
    let stage = Stage::set()?;
    stage.deploy("v1")?;
    let binary = std::env::current_exe().context("cannot find this program's own file")?;
    let flags = ["--name", "demo", "--workers", "2", "--min-uptime", "500ms"];
    let mut supervisor = Supervisor::start(&binary, &stage, args.port, &flags)?;
    let commands = Commands {
        binary,
        stage: &stage,
    };
    let play = Play {
        commands: &commands,
        stage: &stage,
        show: Show::new(output.clone()),
        pause: Duration::from_secs(args.seconds).saturating_sub(STEPS_TAKE) / PAUSES,
    };
    let findings = tokio::select! {
        findings = play.perform(node) => findings,
        error = supervisor.ended() => return Err(error),
        signal = interrupted(&signals) => signal.and_then(|signal| Err(anyhow::anyhow!("interrupted by {signal:?}"))),
    };
    // Whatever came out, what was started is ended before its directory goes.
    let stopped = supervisor.stop().await;
    let mut findings = findings?;
    let stopped = stopped?;
    if !stopped.success() {
        findings.passed = false;
    }
    if args.json {
        output.line(&serde_json::to_string_pretty(&findings)?);
    } else {
        output.line(findings.to_string().trim_end());
        if !stopped.success() {
            output.line(&format!("the supervisor ended with {stopped}"));
        }
    }
    Ok(if findings.passed {
        Exit::Done
    } else {
        Exit::Failed
    })
}

/// Completes when the user wants the demo to end.
async fn interrupted(signals: &AsyncFd<Signals>) -> anyhow::Result<Handled> {
    loop {
        let mut ready = signals.readable().await?;
        while let Some(received) = signals.get_ref().receive()? {
            if matches!(
                received.signal,
                Handled::Int | Handled::Term | Handled::Quit | Handled::Hup
            ) {
                return Ok(received.signal);
            }
        }
        ready.clear_ready();
    }
}

/// The steps, in order.
struct Play<'a> {
    commands: &'a Commands<'a>,
    stage: &'a Stage,
    show: Show,
    pause: Duration,
}

impl Play<'_> {
    async fn perform(&self, node: &str) -> anyhow::Result<Findings> {
        let directory = self.stage.directory().display();
        self.show
            .line(&format!("node {node}; everything lies in {directory}"));
        let address = self.await_service().await?;
        self.show
            .line(&format!("v1 serves at {address} with {WORKERS} workers"));
        let load = load().start(address);
        load.answered(1).await;
        self.show.line(
            "58 clients ask, on new connections and on ones that they keep; none ever asks twice",
        );
        let mut steps = Vec::new();
        self.rest(&load).await;
        for version in ["v2", "v3", "v4"] {
            steps.push(self.reload(&load, version).await?);
        }
        steps.push(self.refuse(&load, "v5", "v4").await?);
        steps.push(self.reload(&load, "v6").await?);
        steps.push(self.kill(&load).await?);
        steps.push(self.upgrade(&load).await?);
        steps.push(self.kill_supervisor(&load).await?);
        steps.push(self.reload(&load, "v7").await?);
        self.show.line("the last requests are answered");
        Ok(Findings::new(steps, load.stop().await))
    }

    /// The address, once all workers serve.
    async fn await_service(&self) -> anyhow::Result<SocketAddr> {
        let app = self
            .until(|app| ready(app).count() == WORKERS && !app.addresses.is_empty())
            .await?;
        let address = app
            .addresses
            .first()
            .map(|address| address.name.as_str())
            .unwrap_or_default();
        address.parse().with_context(|| {
            format!("the app does not listen where it should, but at \"{address}\"")
        })
    }

    /// A good release: the command must succeed.
    async fn reload(&self, load: &Running, version: &str) -> anyhow::Result<Step> {
        self.stage.deploy(version)?;
        let name = format!("reload to {version}");
        load.mark(&name, Phase::Reload);
        let began = Instant::now();
        let outcome = self
            .watched(load, &name, self.commands.run("reload", &[]))
            .await?;
        let right = outcome.code == Some(0);
        if right {
            load.committed(version);
        } else {
            load.mark("reload failed", Phase::Steady);
        }
        let detail = if right {
            format!("committed, {version} has every new connection")
        } else {
            format!("exit code {:?} instead of 0", outcome.code)
        };
        let said = if right { String::new() } else { outcome.stderr };
        let end = End {
            right,
            detail,
            said,
        };
        Ok(self.end_step(load, name, began, end).await)
    }

    /// A broken release: the command must fail, and the old version serve on.
    async fn refuse(&self, load: &Running, version: &str, serving: &str) -> anyhow::Result<Step> {
        self.stage.deploy_broken(version)?;
        let name = format!("reload to {version}, which is broken");
        load.mark(&name, Phase::Reload);
        let began = Instant::now();
        let outcome = self
            .watched(load, &name, self.commands.run("reload", &[]))
            .await?;
        load.mark(format!("{version} was refused"), Phase::Steady);
        self.stage.point_to(serving)?;
        let right = outcome.code == Some(1);
        let detail = if right {
            format!("refused with exit code 1, {serving} serves on")
        } else {
            format!("exit code {:?} instead of 1", outcome.code)
        };
        let said = outcome.stderr;
        let end = End {
            right,
            detail,
            said,
        };
        Ok(self.end_step(load, name, began, end).await)
    }

    /// Kills a serving worker; another must take its place.
    async fn kill(&self, load: &Running) -> anyhow::Result<Step> {
        let app = self
            .commands
            .status()
            .await?
            .context("the supervisor does not answer")?;
        let pid = ready(&app).next().context("no worker is ready")?;
        let name = format!("kill -9 of worker {pid}");
        load.mark(&name, Phase::Fault);
        let began = Instant::now();
        kill(pid)?;
        let replaced = self.until(|app| {
            let mut serving = ready(app);
            serving.by_ref().all(|other| other != pid) && ready(app).count() == WORKERS
        });
        let replaced = self.watched(load, &name, replaced).await;
        load.mark("worker replaced", Phase::Steady);
        let (right, detail) = match replaced {
            Ok(_) => {
                let lost = load.snapshot().excused();
                (true, format!("replaced; {lost} requests were inside it"))
            }
            Err(error) => (false, format!("not replaced: {error:#}")),
        };
        let said = String::new();
        let end = End {
            right,
            detail,
            said,
        };
        Ok(self.end_step(load, name, began, end).await)
    }

    /// Has the supervisor become this same binary again; no worker may be another afterwards.
    async fn upgrade(&self, load: &Running) -> anyhow::Result<Step> {
        let before = self.crew().await?;
        let name = "upgrade of the supervisor".to_owned();
        // Nothing that fails now is to be excused.
        load.mark(&name, Phase::Steady);
        let began = Instant::now();
        let outcome = self
            .watched(load, &name, self.commands.run("upgrade", &[]))
            .await?;
        load.mark("upgraded", Phase::Steady);
        let after = self.crew().await?;
        let right = outcome.code == Some(0) && after == before;
        let detail = match (outcome.code, right) {
            (Some(0), true) => format!(
                "{}; the same supervisor process, the same workers",
                outcome.stdout.trim()
            ),
            (Some(0), false) => format!("other processes than before: {before:?}, {after:?}"),
            (code, _) => format!("exit code {code:?} instead of 0"),
        };
        let said = if right { String::new() } else { outcome.stderr };
        let end = End {
            right,
            detail,
            said,
        };
        Ok(self.end_step(load, name, began, end).await)
    }

    /// Kills the supervisor; another one must go on with the same workers.
    async fn kill_supervisor(&self, load: &Running) -> anyhow::Result<Step> {
        let before = self.crew().await?;
        let name = format!("kill -9 of the supervisor {}", before.supervisor);
        load.mark(&name, Phase::Steady);
        let began = Instant::now();
        kill(before.supervisor)?;
        let followed = async {
            loop {
                if let Ok(crew) = self.crew().await
                    && crew.supervisor != before.supervisor
                {
                    return crew;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        let followed = timeout(READY_LIMIT, followed);
        let followed = self.watched(load, &name, followed).await;
        load.mark("another supervisor", Phase::Steady);
        let (right, detail) = match followed {
            Ok(crew) if crew.workers == before.workers => {
                let next = crew.supervisor;
                (true, format!("followed by {next}, with the same workers"))
            }
            Ok(crew) => (
                false,
                format!("other workers than before: {before:?}, {crew:?}"),
            ),
            Err(_) => (false, "no other one has come".to_owned()),
        };
        let said = String::new();
        let end = End {
            right,
            detail,
            said,
        };
        Ok(self.end_step(load, name, began, end).await)
    }

    async fn crew(&self) -> anyhow::Result<Crew> {
        let status = self.commands.all_status().await?;
        let status = status.context("the supervisor does not answer")?;
        let app = status.apps.first().context("it has no app")?;
        let mut workers: Vec<u32> = ready(app).collect();
        workers.sort_unstable();
        Ok(Crew {
            supervisor: status.supervisor.pid,
            workers,
        })
    }

    async fn end_step(&self, load: &Running, name: String, began: Instant, end: End) -> Step {
        let took = began.elapsed();
        let step = Step {
            name,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            right: end.right,
            detail: end.detail,
            said: end.said,
        };
        let wrong = if step.right { "" } else { "WENT WRONG: " };
        self.show.line(&format!(
            "{}: {wrong}{}{}\n        {:.2} s; {}",
            step.name,
            step.detail,
            quote(&step.said),
            took.as_secs_f64(),
            counts(load)
        ));
        self.rest(load).await;
        step
    }

    /// Lets the load go on for a while.
    async fn rest(&self, load: &Running) {
        self.watched(load, "serving", sleep(self.pause)).await;
    }

    /// Shows the counts while something takes its time.
    async fn watched<T>(&self, load: &Running, what: &str, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            self.show.passing(&format!("{what} … {}", counts(load)));
            if let Ok(done) = timeout(Duration::from_millis(200), &mut work).await {
                return done;
            }
        }
    }

    /// Asks for the status until it is as wanted.
    async fn until(&self, wanted: impl Fn(&App) -> bool) -> anyhow::Result<App> {
        let ask = async {
            loop {
                if let Some(app) = self.commands.status().await?
                    && wanted(&app)
                {
                    return Ok(app);
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        match timeout(READY_LIMIT, ask).await {
            Ok(app) => app,
            Err(_) => bail!("{WORKERS} workers did not serve within {READY_LIMIT:?}"),
        }
    }
}

/// How a step ended.
struct End {
    right: bool,
    detail: String,
    said: String,
}

/// Who does the work.
#[derive(Debug, PartialEq, Eq)]
struct Crew {
    supervisor: u32,
    workers: Vec<u32>,
}

fn kill(pid: u32) -> anyhow::Result<()> {
    let process = i32::try_from(pid).ok();
    let process = process.and_then(rustix::process::Pid::from_raw);
    let process = process.with_context(|| format!("{pid} is no process"))?;
    rustix::process::kill_process(process, rustix::process::Signal::KILL)
        .with_context(|| format!("cannot kill {pid}"))
}

fn load() -> Load {
    let ms = Duration::from_millis;
    Load::builder()
        .with(Fresh {
            clients: 16,
            pause: ms(2),
            ..Fresh::default()
        })
        .with(Think {
            clients: 20,
            ..Think::default()
        })
        .with(KeepAlive {
            clients: 10,
            ..KeepAlive::default()
        })
        .with(Post {
            clients: 8,
            bytes: 32 * 1024,
            framing: Framing::Alternating,
            over: ms(40),
            fresh: true,
            ..Post::default()
        })
        .with(Download {
            clients: 4,
            over: DOWNLOAD,
            bytes: 256 * 1024,
            ..Download::default()
        })
        .build()
}

/// Processes of the workers that serve.
fn ready(app: &App) -> impl Iterator<Item = u32> {
    app.workers
        .iter()
        .filter(|worker| worker.phase == WorkerPhase::Ready && worker.generation == app.generation)
        .filter_map(|worker| worker.pid)
}

fn counts(load: &Running) -> String {
    let report = load.snapshot();
    let failed = report.failed() - report.excused();
    format!("{} requests answered, {failed} failed", report.answers())
}
