//! The loop: waits for whatever happens next and makes an event of it.

use std::collections::{BTreeMap, VecDeque};
use std::future::pending;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use segue_core::{
    App, AskId, Event, ExitStatus, Finish, Generation, RequestId, Settings, Time, WorkerId,
};
use segue_sys::signal::Signals;
use segue_sys::{clock, readable};
use segue_wire::node::QueryServer;
use thiserror::Error;
use tokio::sync::mpsc;

use super::crew::{Channels, Crew};
use super::records::Records;
use crate::config::app::AppConfig;
use crate::config::drain::DrainSettings;
use crate::control::callers::Callers;
use crate::control::names::Measures;
use crate::control::server;
use crate::control::socket::{BindError, ControlSocket};
use crate::keeper::{FromKeeper, Link, LinkError};
use crate::listener::{Pool, Stragglers, allowed_by_environment};
use crate::telemetry::log::Verbosity;
use crate::worker::channel::Report;
use crate::worker::launch::{Release, ResolveError};
use crate::worker::preload::Shelf;
use crate::worker::writer::{Stream, Writer};

/// Requests of callers that may wait for the loop.
const COMMANDS: usize = 64;

/// Between two looks at the workers' memory, where it has a limit.
const WEIGHING: Duration = Duration::from_secs(5);

/// A deadline that should have passed and is still due is a bug; this keeps it from spinning.
const LEAST_SLEEP: Duration = Duration::from_millis(1);

/// What to run.
pub(crate) struct Plan {
    pub(crate) app: AppConfig,
    pub(crate) settings: Settings,
    /// Resident memory in bytes above which a worker is replaced.
    pub(crate) max_memory: Option<u64>,
    /// How workers let their connections go.
    pub(crate) drain: DrainSettings,
    /// Where the preload script may lie.
    pub(crate) shelf: Shelf,
    /// Where the control socket is to be, if there is to be one.
    pub(crate) control: Option<PathBuf>,
    pub(crate) verbosity: Verbosity,
    pub(crate) writer: Writer,
    /// The limit of open files that workers get: ours, before we raised it.
    pub(crate) descriptor_limit: rustix::process::Rlimit,
}

impl Plan {
    /// The control socket, for people.
    pub(super) fn control_shown(&self) -> Option<String> {
        let control = self.control.as_ref()?;
        Some(control.display().to_string())
    }
}

/// Why nothing could be run.
#[derive(Debug, Error)]
pub(crate) enum RunError {
    #[error(transparent)]
    Control(#[from] BindError),
    #[error(transparent)]
    Keeper(#[from] LinkError),
    #[error("cannot {doing}: {source}")]
    System {
        doing: &'static str,
        source: io::Error,
    },
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    AsAsked,
    NeverStarted,
    GivenUp,
    /// The main process was killed.
    KeeperLost,
}

/// What tasks report to the loop.
#[derive(Debug)]
pub(super) enum Input {
    Exited(WorkerId, ExitStatus),
    Resolved(Generation, Box<Result<Release, ResolveError>>),
}

/// A question of a worker that has not been answered.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) worker: WorkerId,
    pub(super) query: QueryServer,
}

pub(super) struct Supervisor {
    pub(super) plan: Plan,
    pub(super) core: App,
    pub(super) pool: Pool,
    pub(super) stragglers: Stragglers<Channels>,
    pub(super) crew: Crew,
    pub(super) releases: BTreeMap<Generation, Release>,
    pub(super) asks: BTreeMap<AskId, Asking>,
    pub(super) callers: Callers,
    pub(super) records: Records,
    pub(super) inputs: mpsc::UnboundedSender<Input>,
    pub(super) reports: mpsc::UnboundedSender<(WorkerId, Report)>,
    /// Events that follow from what has just been performed.
    pub(super) facts: VecDeque<Event>,
    pub(super) finish: Option<Finish>,
    pub(super) began: Time,
    pub(super) keeper_pid: u32,
    /// When workers that have not asked for a socket are next looked at.
    pub(super) next_look: Option<Time>,
    /// When the workers' memory is next looked at; never without a limit.
    pub(super) next_weighing: Option<Time>,
    pub(super) lost_keeper: bool,
    /// When the last signal to stop came that was not an echo of another.
    pub(super) stop_signalled: Option<Time>,
    last_request: u64,
    last_ask: u64,
}

/// Runs the app until it is stopped.
///
/// # Errors
/// Nothing was started, for the reason given.
pub(crate) fn run(plan: Plan, signals: Signals) -> Result<Ended, RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| RunError::System {
            doing: "start the runtime",
            source,
        })?;
    let ended = runtime.block_on(supervise(plan, signals));
    // A blocking task that hangs (a dead network file system) must not hold the end up.
    runtime.shutdown_timeout(Duration::from_millis(100));
    ended
}

async fn supervise(mut plan: Plan, signals: Signals) -> Result<Ended, RunError> {
    let system = |doing| move |source| RunError::System { doing, source };
    let control = match &plan.control {
        Some(path) => Some(ControlSocket::bind(path)?),
        None => None,
    };
    plan.control = control.as_ref().map(|control| control.path().to_owned());
    let mut link = Link::open()?;
    let signals =
        readable::watch(signals).map_err(|(_, error)| system("watch for signals")(error))?;
    let (inputs, mut incoming) = mpsc::unbounded_channel();
    let (reports, mut reported) = mpsc::unbounded_channel();
    let (commands, mut asked) = mpsc::channel(COMMANDS);
    let (ending, ended) = tokio::sync::oneshot::channel::<()>();
    let serving = control.map(|control| {
        tokio::spawn(server::serve(control, commands, async {
            let _ = ended.await;
        }))
    });

    let mut supervisor = Supervisor::new(plan, inputs, reports);
    let request = supervisor.new_request();
    supervisor.feed(Event::StartRequested { request });

    while supervisor.finish.is_none() {
        let wake = supervisor.next_wake();
        tokio::select! {
            biased;
            ready = signals.readable() => {
                if let Ok(mut ready) = ready {
                    ready.clear_ready();
                }
                supervisor.hear_signals(signals.get_ref());
            }
            Some((worker, report)) = reported.recv() => supervisor.hear_report(worker, report),
            Some(input) = incoming.recv() => supervisor.hear(input),
            Some(command) = asked.recv() => supervisor.hear_command(command),
            news = link.next() => match news {
                FromKeeper::TerminalGone => supervisor.hear_stop("the terminal has gone"),
                FromKeeper::Ended => supervisor.hear_keeper_gone(),
            },
            () = sleep_until(wake) => supervisor.wake_up(),
        }
    }

    let finish = supervisor.finish;
    let lost_keeper = supervisor.lost_keeper;
    // Streams end when their tellers are gone.
    drop(supervisor);
    let _ = ending.send(());
    if let Some(serving) = serving {
        let _ = serving.await;
    }
    Ok(match finish {
        _ if lost_keeper => Ended::KeeperLost,
        Some(Finish::NeverStarted(_)) => Ended::NeverStarted,
        Some(Finish::GivenUp) => Ended::GivenUp,
        Some(Finish::Stopped { .. }) | None => Ended::AsAsked,
    })
}

async fn sleep_until(wake: Option<Duration>) {
    match wake {
        Some(wait) => tokio::time::sleep(wait).await,
        None => pending().await,
    }
}

impl Supervisor {
    fn new(
        plan: Plan,
        inputs: mpsc::UnboundedSender<Input>,
        reports: mpsc::UnboundedSender<(WorkerId, Report)>,
    ) -> Self {
        let crew = Crew::new(inputs.clone());
        Self {
            core: App::new(plan.settings.clone()),
            pool: Pool::new(allowed_by_environment()),
            stragglers: Stragglers::new(crew.channels()),
            crew,
            releases: BTreeMap::new(),
            asks: BTreeMap::new(),
            callers: Callers::default(),
            records: Records::default(),
            inputs,
            reports,
            facts: VecDeque::new(),
            finish: None,
            began: Time(clock::monotonic_millis()),
            keeper_pid: rustix::process::getppid().map_or(0, |pid| pid.as_raw_pid().unsigned_abs()),
            next_look: None,
            next_weighing: plan
                .max_memory
                .map(|_| Time(clock::monotonic_millis()) + WEIGHING),
            lost_keeper: false,
            stop_signalled: None,
            last_request: 0,
            last_ask: 0,
            plan,
        }
    }

    pub(super) fn now(&self) -> Time {
        Time(clock::monotonic_millis())
    }

    pub(super) fn new_request(&mut self) -> RequestId {
        self.last_request += 1;
        RequestId(self.last_request)
    }

    pub(super) fn new_ask(&mut self) -> AskId {
        self.last_ask += 1;
        AskId(self.last_ask)
    }

    /// Tells the core a fact, does what it says, and goes on with what came of that.
    pub(super) fn feed(&mut self, event: Event) {
        self.facts.push_back(event);
        while let Some(event) = self.facts.pop_front() {
            tracing::trace!(?event, "event");
            for action in self.core.handle(self.now(), event) {
                tracing::trace!(?action, "action");
                self.perform(action);
            }
        }
        let generations = || self.crew.members().map(|(_, member)| member.generation);
        let (oldest, newest) = (generations().min(), generations().max());
        self.callers.release(oldest);
        self.plan.writer.show_generations(oldest != newest);
    }

    /// How long nothing needs to be done, if nothing happens.
    fn next_wake(&self) -> Option<Duration> {
        let wake = [
            self.core.next_deadline(),
            self.next_look,
            self.next_weighing,
        ]
        .into_iter()
        .flatten()
        .min()?;
        Some(wake.since(self.now()).max(LEAST_SLEEP))
    }

    fn wake_up(&mut self) {
        if self.next_look.is_some_and(|look| self.now() >= look) {
            self.look_for_wrappers();
        }
        if self
            .next_weighing
            .is_some_and(|weighing| self.now() >= weighing)
        {
            self.weigh();
        }
        if self
            .core
            .next_deadline()
            .is_some_and(|deadline| self.now() >= deadline)
        {
            self.feed(Event::DeadlineReached);
        }
    }

    /// Looks for workers that have outgrown their limit.
    fn weigh(&mut self) {
        self.next_weighing = Some(self.now() + WEIGHING);
        let limit = self.plan.max_memory.unwrap_or(u64::MAX);
        let workers: Vec<WorkerId> = self.crew.members().map(|(worker, _)| worker).collect();
        for worker in workers {
            if self.usage(worker).is_some_and(|usage| usage.memory > limit) {
                self.feed(Event::OverMemory { worker });
            }
        }
    }

    /// One line of ours, where the operator looks.
    pub(super) fn say(&self, line: String) {
        self.plan
            .writer
            .push(Stream::Err, format!("{line}\n").as_bytes());
    }

    pub(super) fn wall_clock() -> SystemTime {
        SystemTime::now()
    }
}
