//! The loop: waits for whatever happens next and makes an event of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::pending;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use segue_core::{
    App, AskId, Event, ExitStatus, Finish, Generation, RequestId, Settings, Time, WorkerId,
};
use segue_sys::signal::Signals;
use segue_sys::{clock, readable};
use segue_wire::handoff::{Contents, ToKeeper};
use segue_wire::node::QueryServer;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use super::booting::{Resolved, boot_priority};
use super::control_socket::open_control;
use super::crew::{Channels, Crew};
use super::history::History;
use super::holding::Holder;
use super::logging;
use super::memory::Kills;
use super::proving::{Probing, Proving};
use super::records::Records;
use super::requests::Requests;
use super::service::Service;
use super::story::request_of;
use super::succession::{self, Life, Replayed, app_prefix};
use super::upgrade::{Probed, Upgrade, take_over_output};
use super::watching::Pulses;
use crate::config::app::AppConfig;
use crate::config::drain::DrainSettings;
use crate::control::callers::Callers;
use crate::control::names::Measures;
use crate::control::server;
use crate::control::socket::BindError;
use crate::handoff::{InheritError, Inherited, Journal};
use crate::keeper::{LinkError, Opened, Sender};
use crate::listener::{Inheritance, Pool, Registry, Stragglers, allowed_by_environment};
use crate::telemetry::log::Verbosity;
use crate::worker::channel::Heard;
use crate::worker::launch::{Release, ResolveError};
use crate::worker::log::{self, LogNews};
use crate::worker::preload::Shelf;
use crate::worker::probe::Question;
use crate::worker::writer::{Stream, Writer};

/// What a successor is to run, whatever the command line means by then.
pub(crate) const PLAN: &str = "plan";

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
    /// The HTTP probe, if there is one.
    pub(crate) probe: Option<Question>,
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
    #[error("cannot take over from the supervisor before: {0}")]
    Predecessor(#[from] InheritError),
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
    Resolved(Generation, Box<Result<Resolved, ResolveError>>),
    Probing(Probing),
    /// Something has come over a worker's notify socket. To be answered once all of it has been read.
    Notices(WorkerId, oneshot::Sender<()>),
    /// A worker has been booting for long.
    BootLasts(WorkerId),
    /// What the binary of an upgrade says.
    Probed(Result<Probed, String>),
    Log(LogNews),
    /// Nobody will ask any more for what was kept from an earlier life.
    PatienceEnded,
}

/// A question of a worker that has not been answered.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Asking {
    pub(super) worker: u32,
    pub(super) query: QueryServer,
}

pub(super) struct Supervisor {
    pub(super) plan: Plan,
    pub(super) core: App,
    pub(super) pool: Pool,
    pub(super) stragglers: Stragglers<Channels>,
    pub(super) crew: Crew,
    pub(super) releases: BTreeMap<Generation, Release>,
    /// Those whose compile cache the first worker that is ready is to fill.
    pub(super) cold: BTreeSet<Generation>,
    pub(super) proving: Proving,
    pub(super) pulses: Pulses,
    /// The priority of workers that boot while others serve, if it is another than ours.
    pub(super) boot_priority: Option<i32>,
    pub(super) asks: BTreeMap<AskId, Asking>,
    pub(super) callers: Callers,
    pub(super) requests: Requests,
    pub(super) upgrade: Option<Upgrade>,
    pub(super) records: Records,
    pub(super) history: History,
    pub(super) kills: Kills,
    pub(super) inputs: mpsc::UnboundedSender<Input>,
    pub(super) news: mpsc::UnboundedSender<Heard>,
    /// Events that follow from what has just been performed.
    pub(super) facts: VecDeque<Event>,
    pub(super) finish: Option<Finish>,
    /// For a successor: of the supervisor, and of the app.
    pub(super) site: Journal,
    pub(super) journal: Journal,
    pub(super) life: Life,
    pub(super) keeper: Sender,
    pub(super) holder: Holder,
    pub(super) keeper_pid: u32,
    /// Its release.
    pub(super) keeper_release: String,
    pub(super) service: Service,
    /// When workers that have not asked for a socket are next looked at.
    pub(super) next_look: Option<Time>,
    /// When the workers' memory is next looked at; never without a limit.
    pub(super) next_weighing: Option<Time>,
    pub(super) lost_keeper: bool,
    /// When the last signal to stop came that was not an echo of another.
    pub(super) stop_signalled: Option<Time>,
    /// Who sends the signal of this number: a process and its user.
    pub(super) signal_origin: Option<(u64, (u32, u32))>,
    last_request: u64,
    last_ask: u64,
}

/// What a supervisor begins with.
pub(crate) struct Beginning {
    pub(crate) link: Opened,
    /// What a predecessor has left.
    pub(crate) inherited: Option<Inherited>,
    /// The log file as it is open now, if there is one.
    pub(crate) log_file: Option<OwnedFd>,
    /// The keeper's release.
    pub(crate) keeper_release: String,
    /// What the service manager has passed on, by the names under which it is held.
    pub(crate) passed: Vec<(String, OwnedFd)>,
}

/// Runs the app until it is stopped.
///
/// # Errors
/// Nothing was started, for the reason given.
pub(crate) fn run(plan: Plan, signals: Signals, beginning: Beginning) -> Result<Ended, RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| RunError::System {
            doing: "start the runtime",
            source,
        })?;
    let ended = runtime.block_on(supervise(plan, signals, beginning));
    // A blocking task that hangs (a dead network file system) must not hold the end up.
    runtime.shutdown_timeout(Duration::from_millis(100));
    ended
}

async fn supervise(
    mut plan: Plan,
    signals: Signals,
    beginning: Beginning,
) -> Result<Ended, RunError> {
    let system = |doing| move |source| RunError::System { doing, source };
    let Beginning {
        link,
        mut inherited,
        log_file,
        keeper_release,
        passed,
    } = beginning;
    let mut link = link.watch()?;
    let keeper = link.sender();
    let holder = Holder::new(keeper.clone());
    for (name, descriptor) in inherited.iter().flat_map(Inherited::descriptors) {
        holder.note_held(name, descriptor.as_fd());
    }
    let nothing = Contents::default();
    let contents = inherited
        .as_ref()
        .map_or(&nothing, |before| &before.contents);
    let site = Journal::begin(Box::new(holder.clone()), contents)
        .map_err(system("write down its state"))?;
    if let Some(log_file) = log_file {
        site.hold(log::HELD, log_file);
    }
    for (name, descriptor) in &passed {
        site.hold(name, descriptor);
    }
    let control = open_control(&plan, &site, inherited.as_mut())?;
    plan.control = control.as_ref().map(|control| control.path().to_owned());
    let signals =
        readable::watch(signals).map_err(|(_, error)| system("watch for signals")(error))?;
    let (inputs, mut incoming) = mpsc::unbounded_channel();
    let (news, mut heard) = mpsc::unbounded_channel();
    let (commands, mut asked) = mpsc::channel(COMMANDS);
    let (ending, ended) = oneshot::channel::<()>();

    let reach = Reach {
        inputs,
        news,
        inheritance: Inheritance::of(passed, site.clone()),
        site,
        keeper: keeper.clone(),
        holder,
        keeper_release,
    };
    let mut supervisor = match inherited {
        None => {
            let mut supervisor = Supervisor::new(plan, reach);
            let request = supervisor.new_request();
            supervisor.feed(Event::StartRequested { request });
            supervisor
        }
        Some(inherited) => Supervisor::restore(plan, reach, inherited)?,
    };
    let serving = control.map(|control| {
        tokio::spawn(server::serve(control, commands, async {
            let _ = ended.await;
        }))
    });
    keeper.say(ToKeeper::Ready, None);

    while supervisor.finish.is_none() {
        supervisor.service.attend(supervisor.now());
        let wake = supervisor.next_wake();
        tokio::select! {
            biased;
            ready = signals.readable() => {
                if let Ok(mut ready) = ready {
                    ready.clear_ready();
                }
                supervisor.hear_signals(signals.get_ref());
            }
            Some((worker, news)) = heard.recv() => supervisor.hear_news(worker, news),
            Some(input) = incoming.recv() => supervisor.hear(input),
            Some(command) = asked.recv() => supervisor.hear_command(command),
            news = link.next() => supervisor.hear_keeper(news),
            () = sleep_until(wake) => supervisor.wake_up(),
        }
    }

    let finish = supervisor.finish;
    let lost_keeper = supervisor.lost_keeper;
    supervisor.service.end();
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

/// Where a supervisor's tasks report to, and what it writes to.
struct Reach {
    inputs: mpsc::UnboundedSender<Input>,
    news: mpsc::UnboundedSender<Heard>,
    inheritance: Inheritance,
    site: Journal,
    keeper: Sender,
    holder: Holder,
    keeper_release: String,
}

async fn sleep_until(wake: Option<Duration>) {
    match wake {
        Some(wait) => tokio::time::sleep(wait).await,
        None => pending().await,
    }
}

impl Supervisor {
    fn new(plan: Plan, reach: Reach) -> Self {
        let life = Life::new();
        let journal = journal_of(&reach.site, &plan);
        reach.site.put(PLAN, &plan.app);
        let pool = Pool::new(allowed_by_environment(), journal.clone());
        let registry = registry(&journal, &life);
        let core = App::new(plan.settings.clone());
        Self::with(plan, reach, life, core, pool, registry)
    }

    /// One that goes on where a predecessor has ended.
    fn restore(plan: Plan, reach: Reach, mut inherited: Inherited) -> Result<Self, RunError> {
        take_over_output(&plan.writer, &reach.site, &inherited)?;
        let life = Life::restore(&inherited)?;
        let journal = journal_of(&reach.site, &plan);
        let pool = Pool::restore(allowed_by_environment(), journal.clone(), &mut inherited)?;
        let registry = registry(&journal, &life);
        let Replayed {
            core,
            pending,
            facts,
        } = succession::replay(plan.settings.clone(), &journal, &inherited)?;
        let mut supervisor = Self::with(plan, reach, life, core, pool, registry.clone());
        logging::take_over(&supervisor.plan.writer, &inherited)?;
        supervisor.facts = facts;
        supervisor.releases = succession::releases(&journal, &inherited)?;
        supervisor.records = Records::restore(journal.clone(), &inherited)?;
        supervisor.history = History::restore(journal.clone(), &inherited)?;
        if let Some(request) = supervisor.history.unnumbered() {
            supervisor.note_numbered(request);
        }
        supervisor.stragglers.count_from(
            inherited
                .value(&journal.full(succession::COUNTS))?
                .unwrap_or_default(),
        );
        supervisor.requests = Requests::restore(&journal, &inherited)?;
        supervisor.asks = succession::asks(&journal, &inherited)?;
        supervisor.take_over(&mut inherited, &registry)?;
        for name in inherited.left() {
            // Nobody knows what it was for.
            supervisor.site.release(name);
        }
        supervisor.resume(pending);
        supervisor.await_unwanted();
        supervisor.conclude_upgrade(&inherited)?;
        Ok(supervisor)
    }

    fn with(
        plan: Plan,
        reach: Reach,
        life: Life,
        core: App,
        mut pool: Pool,
        registry: Registry,
    ) -> Self {
        let Reach {
            inputs,
            news,
            inheritance,
            site,
            keeper,
            holder,
            keeper_release,
        } = reach;
        let journal = journal_of(&site, &plan);
        logging::watch(&plan.writer, &site, &inputs);
        let crew = Crew::new(inputs.clone(), journal.under("worker/"), keeper.clone());
        site.put(Life::NAME, &life);
        let first = life.first_number();
        let keeper_pid =
            rustix::process::getppid().map_or(0, |pid| pid.as_raw_pid().unsigned_abs());
        let service = Service::new(keeper_pid, Time(clock::monotonic_millis()));
        pool.inherit(inheritance);
        pool.keep_in(service.notifier());
        Self {
            core,
            pool,
            stragglers: Stragglers::new(crew.channels(), registry),
            crew,
            releases: BTreeMap::new(),
            cold: BTreeSet::new(),
            proving: Proving::new(plan.probe.clone()),
            pulses: Pulses::default(),
            boot_priority: boot_priority(),
            asks: BTreeMap::new(),
            callers: Callers::default(),
            requests: Requests::default(),
            upgrade: None,
            records: Records::new(journal.clone()),
            history: History::new(journal.clone()),
            kills: Kills::watch(),
            inputs,
            news,
            facts: VecDeque::new(),
            finish: None,
            site,
            journal,
            life,
            keeper,
            holder,
            keeper_pid,
            keeper_release,
            service,
            next_look: None,
            next_weighing: plan
                .max_memory
                .map(|_| Time(clock::monotonic_millis()) + WEIGHING),
            lost_keeper: false,
            stop_signalled: None,
            signal_origin: None,
            last_request: first,
            last_ask: first,
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
        self.work();
    }

    /// Handles what there is to handle, until nothing is left.
    pub(super) fn work(&mut self) {
        while let Some(event) = self.facts.pop_front() {
            tracing::trace!(?event, "event");
            let now = self.now();
            self.note_handled(now, &event);
            let from = self.facts.len();
            let request = request_of(&event);
            let actions = self.core.handle(now, event);
            if let Some(request) = request {
                self.note_numbered(request);
            }
            for action in actions {
                tracing::trace!(?action, "action");
                self.perform(action);
            }
            self.note_performed(&self.facts, from);
        }
        self.note_rest();
        self.tell_service();
        self.release_callers();
        let generations = || self.crew.members().map(|(_, member)| member.generation);
        let (oldest, newest) = (generations().min(), generations().max());
        self.plan.writer.show_generations(oldest != newest);
    }

    /// Answers those who wait for an old generation to be gone.
    pub(super) fn release_callers(&mut self) {
        let generations = self.crew.members().map(|(_, member)| member.generation);
        self.callers.release(generations.min());
    }

    /// How long nothing needs to be done, if nothing happens.
    fn next_wake(&self) -> Option<Duration> {
        let wake = [
            self.core.next_deadline(),
            self.next_look,
            self.next_weighing,
            self.pulses.due(),
            self.service.next(),
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
        if self.pulses.due().is_some_and(|due| self.now() >= due) {
            self.beat();
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

/// Where an app writes down what a successor must know.
fn journal_of(site: &Journal, plan: &Plan) -> Journal {
    site.under(&app_prefix(&plan.app.name))
}

fn registry(journal: &Journal, life: &Life) -> Registry {
    Registry::new(journal.under("connection/"), life.first_number())
}
