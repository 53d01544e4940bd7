//! The loop: waits for whatever happens next, to any app or to the process, and hands it on.

use std::collections::BTreeMap;
use std::future::{pending, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use segue_core::{Event, Finish, Time};
use segue_sys::signal::Signals;
use segue_sys::{clock, readable};
use segue_wire::control::Asked;
use segue_wire::handoff::{Contents, ToKeeper};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use super::app_shell::{AppShell, Happening, Reach};
use super::control_socket::open_control;
use super::holding::Holder;
use super::plan::{Host, Plan};
use super::recollection::Memory;
use super::requests::Requests;
use super::reread::Reread;
use super::service::Service;
use super::succession::{self, Life};
use super::upgrade::{Probed, Upgrade, take_over_output};
use crate::config::app::AppConfig;
use crate::control::callers::Callers;
use crate::control::command::Teller;
use crate::control::exposition;
use crate::control::server;
use crate::control::socket::BindError;
use crate::handoff::{InheritError, Inherited, Journal};
use crate::keeper::{LinkError, Opened, Sender};
use crate::listener::Inheritance;
use crate::telemetry::lines::PREFIX;
use crate::worker::log;
use crate::worker::writer::Writer;

/// Requests of callers that may wait for the loop.
const COMMANDS: usize = 64;

/// A deadline that should have passed and is still due is a bug; this keeps it from spinning.
const LEAST_SLEEP: Duration = Duration::from_millis(1);

/// How long the last lines may take to reach their log files.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Where metrics are served.
pub(super) const METRICS: &str = "metrics";

/// All apps are to stop, and the supervisor with them.
pub(super) const ENDING: &str = "ending";

/// Why nothing could be run.
#[derive(Debug, Error)]
pub(crate) enum RunError {
    #[error(transparent)]
    Control(#[from] BindError),
    #[error(transparent)]
    Keeper(#[from] LinkError),
    #[error("cannot take over from the supervisor before: {0}")]
    Predecessor(#[from] InheritError),
    #[error("{0}")]
    App(String),
    #[error("cannot serve metrics at {address}: {source}; choose another address with --metrics")]
    Metrics {
        address: SocketAddr,
        source: io::Error,
    },
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

pub(super) struct Supervisor {
    pub(super) host: Host,
    /// By their names. One that has been stopped is still there.
    pub(super) apps: BTreeMap<String, AppShell>,
    /// What another app is made with.
    pub(super) reach: Reach,
    pub(super) callers: Callers,
    /// Who follows the news of all apps, those that are still to come included.
    pub(super) watching: Vec<Teller>,
    pub(super) requests: Requests,
    pub(super) upgrade: Option<Upgrade>,
    /// For its tasks.
    pub(super) inward: mpsc::UnboundedSender<Inward>,
    /// For a successor.
    pub(super) site: Journal,
    pub(super) life: Life,
    pub(super) keeper: Sender,
    pub(super) holder: Holder,
    /// Its release.
    pub(super) keeper_release: String,
    pub(super) service: Service,
    pub(super) memory: Memory,
    pub(super) is_ending: bool,
    pub(super) lost_keeper: bool,
    /// When the last signal to stop came that was not an echo of another.
    pub(super) stop_signalled: Option<Time>,
    /// Who sends the signal of this number: a process and its user.
    pub(super) signal_origin: Option<(u64, (u32, u32))>,
    /// Whose turn it is, so that a talkative app does not keep the others from being heard.
    turn: usize,
}

/// What tasks of the process report to the loop.
pub(super) enum Inward {
    /// What the binary of an upgrade says.
    Probed(Result<Probed, String>),
    /// What files say by now, and for whom.
    Reread(Reread, Box<Asked>),
}

/// What a supervisor begins with.
pub(crate) struct Beginning {
    pub(crate) link: Opened,
    /// What a predecessor has left.
    pub(crate) inherited: Option<Inherited>,
    /// The keeper's release.
    pub(crate) keeper_release: String,
    /// What the service manager has passed on, by the names under which it is held.
    pub(crate) passed: Vec<(String, OwnedFd)>,
}

/// Runs apps until they, or all of it, are stopped.
///
/// # Errors
/// Nothing was started, for the reason given.
pub(crate) fn run(
    host: Host,
    apps: Vec<AppConfig>,
    signals: Signals,
    beginning: Beginning,
) -> Result<Ended, RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| RunError::System {
            doing: "start the runtime",
            source,
        })?;
    let ended = runtime.block_on(supervise(host, apps, signals, beginning));
    // A blocking task that hangs (a dead network file system) must not hold the end up.
    runtime.shutdown_timeout(Duration::from_millis(100));
    ended
}

async fn supervise(
    mut host: Host,
    apps: Vec<AppConfig>,
    signals: Signals,
    beginning: Beginning,
) -> Result<Ended, RunError> {
    let system = |doing| move |source| RunError::System { doing, source };
    let Beginning {
        link,
        mut inherited,
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
    for (name, descriptor) in &passed {
        site.hold(name, descriptor);
    }
    let control = open_control(&host, &site, inherited.as_mut())?;
    // A predecessor's, whatever its file says by now.
    let before = inherited.as_ref().map(|before| before.value(METRICS));
    let address = before.transpose()?.flatten().or(host.metrics);
    let metrics = match address {
        Some(address) => {
            site.put(METRICS, &address);
            open_metrics(address, inherited.is_some())?
        }
        None => None,
    };
    host.control = control.as_ref().map(|control| control.path().to_owned());
    let signals =
        readable::watch(signals).map_err(|(_, error)| system("watch for signals")(error))?;
    let (inward, mut inwards) = mpsc::unbounded_channel();
    let (commands, mut asked) = mpsc::channel(COMMANDS);
    let ask = commands.clone();
    let (ending, ended) = oneshot::channel::<()>();
    let inheritance = Inheritance::of(passed, site.clone());
    let tools = Tools {
        site,
        keeper: keeper.clone(),
        holder,
        keeper_release,
        inheritance,
        inward,
    };
    let mut supervisor = match inherited {
        None => Supervisor::begin(host, apps, tools)?,
        Some(inherited) => Supervisor::restore(host, tools, inherited)?,
    };
    let serving = control.map(|control| {
        tokio::spawn(server::serve(control, commands, async {
            let _ = ended.await;
        }))
    });
    let exposing = metrics.map(|listener| tokio::spawn(exposition::serve(listener, ask)));
    keeper.say(ToKeeper::Ready, None);

    supervisor.conclude();
    while !supervisor.is_over() {
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
            (app, happening) = poll_fn(|context| supervisor.poll_apps(context)) => {
                supervisor.hear(&app, happening);
            }
            Some(news) = inwards.recv() => supervisor.hear_inward(news),
            Some(command) = asked.recv() => supervisor.hear_command(command),
            news = link.next() => supervisor.hear_keeper(news),
            () = sleep_until(wake) => supervisor.wake_up(),
        }
        supervisor.conclude();
    }

    let ended = supervisor.ended();
    let last_words: Vec<&str> = supervisor
        .apps
        .values()
        .filter_map(|shell| shell.word.last_words())
        .collect();
    supervisor.service.end(&last_words.join("; "));
    let apps = supervisor.apps.values();
    let writers = apps.flat_map(|shell| shell.retired.iter().chain([&shell.plan.writer]));
    let writers: Vec<Writer> = writers.cloned().collect();
    if let Some(exposing) = exposing {
        exposing.abort();
    }
    let memory = std::mem::take(&mut supervisor.memory);
    // Streams end when their tellers are gone.
    drop(supervisor);
    memory.settle().await;
    let _ = ending.send(());
    if let Some(serving) = serving {
        let _ = serving.await;
    }
    // All of them write meanwhile; what is not written by then stays unwritten.
    let until = Instant::now() + LAST_LINES;
    for writer in writers {
        writer.flush(until.saturating_duration_since(Instant::now()));
    }
    Ok(ended)
}

/// What serves already goes on without metrics.
fn open_metrics(address: SocketAddr, is_successor: bool) -> Result<Option<TcpListener>, RunError> {
    match exposition::bind(address) {
        Ok(listener) => Ok(Some(listener)),
        Err(source) if is_successor => {
            tracing::error!(error = %source, %address, "no metrics can be served");
            Ok(None)
        }
        Err(source) => Err(RunError::Metrics { address, source }),
    }
}

/// What a supervisor works with.
struct Tools {
    site: Journal,
    keeper: Sender,
    holder: Holder,
    keeper_release: String,
    inheritance: Inheritance,
    inward: mpsc::UnboundedSender<Inward>,
}

async fn sleep_until(wake: Option<Duration>) {
    match wake {
        Some(wait) => tokio::time::sleep(wait).await,
        None => pending().await,
    }
}

impl Supervisor {
    fn begin(host: Host, apps: Vec<AppConfig>, tools: Tools) -> Result<Self, RunError> {
        let life = Life::new();
        let requests = Requests::new(tools.site.clone(), life.first_number());
        let mut supervisor = Self::with(host, tools, life, requests);
        for app in apps {
            let plan = Plan::of(app, &supervisor.host, None);
            supervisor.add(plan.map_err(RunError::App)?);
        }
        for shell in supervisor.apps.values_mut() {
            let request = shell.requests.next();
            shell.feed(Event::StartRequested { request });
        }
        supervisor.recall();
        Ok(supervisor)
    }

    /// One that goes on where a predecessor has ended.
    fn restore(host: Host, tools: Tools, mut inherited: Inherited) -> Result<Self, RunError> {
        take_over_output(&host.writer, &tools.site, &inherited)?;
        let life = Life::restore(&inherited)?;
        let first = life.first_number();
        let requests = Requests::restore(tools.site.clone(), first, &inherited)?;
        let mut supervisor = Self::with(host, tools, life, requests);
        supervisor.is_ending = inherited.value(ENDING)?.unwrap_or_default();
        let mut pending = BTreeMap::new();
        for app in succession::apps(&inherited)? {
            let name = app.name.clone();
            let journal = supervisor.site.under(&succession::app_prefix(&name));
            let began = inherited.value(&journal.full(log::BEGAN))?;
            let file = inherited.take(&journal.full(log::HELD));
            let file = file.map(|file| (file, began));
            let plan = supervisor.plan_anyhow(app, file)?;
            let (shell, left) = AppShell::restore(plan, &supervisor.reach, &mut inherited)?;
            supervisor.apps.insert(name.clone(), shell);
            pending.insert(name, left);
        }
        supervisor.tell_apart();
        for name in inherited.left() {
            // Nobody knows what it was for.
            supervisor.site.release(name);
        }
        for (name, shell) in &mut supervisor.apps {
            shell.resume(pending.remove(name).flatten());
            shell.await_unwanted();
        }
        supervisor.conclude_upgrade(&inherited)?;
        Ok(supervisor)
    }

    /// A log file that cannot be opened must not keep anybody from serving. The next start tries it again.
    pub(super) fn plan_anyhow(
        &self,
        app: AppConfig,
        file: Option<(OwnedFd, Option<u64>)>,
    ) -> Result<Plan, RunError> {
        Plan::of(app.clone(), &self.host, file).or_else(|why| {
            let name = app.name.clone();
            let plan = Plan::to_usual(app, &self.host).map_err(RunError::App)?;
            let place = match plan.writer.log_path() {
                Some(path) => path.display().to_string(),
                None => "stdout and stderr".to_owned(),
            };
            self.host.say(format!(
                "{PREFIX}{name}: {why}; until its next start it logs to {place}"
            ));
            Ok(plan)
        })
    }

    fn with(host: Host, tools: Tools, life: Life, requests: Requests) -> Self {
        let Tools {
            site,
            keeper,
            holder,
            keeper_release,
            inheritance,
            inward,
        } = tools;
        site.put(Life::NAME, &life);
        let keeper_pid =
            rustix::process::getppid().map_or(0, |pid| pid.as_raw_pid().unsigned_abs());
        let service = Service::new(keeper_pid, Time(clock::monotonic_millis()));
        let reach = Reach {
            site: site.clone(),
            keeper: keeper.clone(),
            keeper_pid,
            inheritance,
            notifier: service.notifier(),
            first: life.first_number(),
        };
        Self {
            host,
            apps: BTreeMap::new(),
            callers: Callers::default(),
            watching: Vec::new(),
            requests,
            upgrade: None,
            inward,
            site,
            keeper,
            holder,
            keeper_release,
            service,
            memory: Memory::default(),
            is_ending: false,
            lost_keeper: false,
            stop_signalled: None,
            signal_origin: None,
            turn: 0,
            life,
            reach,
        }
    }

    /// One more app. Nothing of it runs yet.
    pub(super) fn add(&mut self, plan: Plan) -> &mut AppShell {
        let name = plan.app.name.clone();
        let mut shell = AppShell::new(plan, &self.reach);
        self.watching.retain(|teller| !teller.is_gone());
        for teller in &self.watching {
            shell.callers.watch(teller.clone());
        }
        shell.is_one_of_many = self.host.memory.is_some() || !self.apps.is_empty();
        for other in self.apps.values_mut() {
            other.is_one_of_many = true;
        }
        self.apps.entry(name).insert_entry(shell).into_mut()
    }

    pub(super) fn now(&self) -> Time {
        Time(clock::monotonic_millis())
    }

    /// What happens next to any app.
    fn poll_apps(&mut self, context: &mut Context<'_>) -> Poll<(String, Happening)> {
        let count = self.apps.len().max(1);
        let first = self.turn % count;
        // Whoever was heard last is heard last.
        for part in [first..count, 0..first] {
            let (from, until) = (part.start, part.end);
            let apps = self.apps.iter_mut().enumerate();
            for (index, (name, shell)) in apps.skip(from).take(until - from) {
                if let Poll::Ready(happening) = shell.poll_next(context) {
                    self.turn = index + 1;
                    return Poll::Ready((name.clone(), happening));
                }
            }
        }
        Poll::Pending
    }

    fn hear(&mut self, app: &str, happening: Happening) {
        let Some(shell) = self.apps.get_mut(app) else {
            return;
        };
        match happening {
            Happening::Input(input) => shell.hear(input),
            Happening::News(worker, news) => shell.hear_news(worker, news),
        }
    }

    fn hear_inward(&mut self, news: Inward) {
        match news {
            Inward::Probed(answer) => self.hear_probe(answer),
            Inward::Reread(read, asked) => self.hear_reread(read, &asked),
        }
    }

    /// How long nothing needs to be done, if nothing happens.
    fn next_wake(&self) -> Option<Duration> {
        let apps = self.apps.values().filter_map(AppShell::next_wake);
        let wake = apps.chain(self.service.next()).min()?;
        Some(wake.since(self.now()).max(LEAST_SLEEP))
    }

    fn wake_up(&mut self) {
        for shell in self.apps.values_mut() {
            shell.wake_up();
        }
        self.revive_due();
    }

    /// What follows for the process from what has happened to its apps.
    fn conclude(&mut self) {
        self.await_revivals();
        self.settle_roster();
        let is_foreground = self.host.memory.is_none();
        let has_failed = |shell: &AppShell| {
            matches!(
                shell.finish,
                Some(Finish::NeverStarted(_) | Finish::GivenUp)
            )
        };
        // Whoever looks after this process learns of it by its end.
        if is_foreground && !self.is_ending && self.apps.values().any(has_failed) {
            self.hear_stop("an app has failed");
        }
        let has_come_up = self.apps.values().any(|shell| shell.has_come_up);
        if has_come_up && self.apps.values().all(|shell| !shell.is_starting()) {
            for shell in self.apps.values_mut() {
                shell.await_unwanted();
                shell.has_come_up = false;
            }
            if let Some(shell) = self.apps.values().next() {
                shell.say_unclaimed();
            }
        }
        self.tell_service();
        // Whatever has happened without an event of a core.
        self.site.commit();
    }

    fn is_over(&self) -> bool {
        let is_over = self.apps.values().all(|shell| shell.finish.is_some());
        is_over && (self.is_ending || self.host.memory.is_none())
    }

    fn ended(&self) -> Ended {
        let finishes = || self.apps.values().filter_map(|shell| shell.finish.as_ref());
        if self.lost_keeper {
            Ended::KeeperLost
        } else if finishes().any(|finish| matches!(finish, Finish::NeverStarted(_))) {
            Ended::NeverStarted
        } else if finishes().any(|finish| matches!(finish, Finish::GivenUp)) {
            Ended::GivenUp
        } else {
            Ended::AsAsked
        }
    }
}
