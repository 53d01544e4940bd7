//! One app of a supervisor: the shell around its core.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use segue_core::{
    Action, App, AppPhase, AskId, Event, ExitStatus, Finish, Generation, Time, WorkerId,
};
use segue_sys::clock;
use segue_wire::control as wire;
use segue_wire::node::QueryServer;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::booting::{Resolved, boot_priority};
use super::crew::{Channels, Crew};
use super::edits::Changes;
use super::eye::Blind;
use super::history::History;
use super::logging;
use super::memory::Kills;
use super::plan::Plan;
use super::proving::{Probing, Proving};
use super::records::Records;
use super::requests::Requests;
use super::revival::{REVIVAL, Revival};
use super::roster::LEAVING;
use super::service::ServiceWord;
use super::story::request_of;
use super::succession::{self, Replayed, app_prefix};
use super::triggers::Triggers;
use super::upgrade::take_over_output;
use super::watching::Pulses;
use crate::control::callers::Callers;
use crate::control::names::Measures;
use crate::handoff::{InheritError, Inherited, Journal};
use crate::keeper::Sender;
use crate::listener::{Inheritance, Pool, Registry, Stragglers, allowed_by_environment};
use crate::service::Notifier;
use crate::telemetry::lines;
use crate::worker::channel::{Heard, News};
use crate::worker::launch::{Release, ResolveError};
use crate::worker::log::LogNews;
use crate::worker::writer::Writer;

/// Of an app: what a successor is to run, whatever the command line means by then.
pub(super) const PLAN: &str = "plan";

/// Between two looks at the workers' memory, where it has a limit.
const WEIGHING: Duration = Duration::from_secs(5);

/// What tasks report to the loop.
#[derive(Debug)]
pub(super) enum Input {
    /// With how many of it the kernel has killed for want of memory, if that is known.
    Exited(WorkerId, ExitStatus, Option<u64>),
    Resolved(Generation, Box<Result<Resolved, ResolveError>>),
    Probing(Probing),
    /// Something has come over a worker's notify socket. To be answered once all of it has been read.
    Notices(WorkerId, oneshot::Sender<()>),
    /// A worker has been booting for long.
    BootLasts(WorkerId),
    Log(LogNews),
    /// Files have changed.
    Changes(Changes),
    /// They cannot be watched.
    Blind(Blind),
    /// Nobody will ask any more for what was kept from an earlier life.
    PatienceEnded,
}

/// Something that happens to an app.
pub(super) enum Happening {
    Input(Input),
    News(WorkerId, News),
}

/// A question of a worker that has not been answered.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Asking {
    pub(super) worker: u32,
    pub(super) query: QueryServer,
}

/// One app: its core, and everything that the core decides about.
pub(super) struct AppShell {
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
    pub(super) records: Records,
    pub(super) history: History,
    pub(super) kills: Kills,
    pub(super) inputs: mpsc::UnboundedSender<Input>,
    pub(super) incoming: mpsc::UnboundedReceiver<Input>,
    pub(super) news: mpsc::UnboundedSender<Heard>,
    pub(super) heard: mpsc::UnboundedReceiver<Heard>,
    /// Events that follow from what has just been performed.
    pub(super) facts: VecDeque<Event>,
    pub(super) finish: Option<Finish>,
    /// For a successor.
    pub(super) journal: Journal,
    pub(super) keeper_pid: u32,
    /// For the service manager.
    pub(super) word: ServiceWord,
    /// What is said of it says which app it is.
    pub(super) is_one_of_many: bool,
    /// It is to be forgotten when it has ended.
    pub(super) is_leaving: bool,
    /// How often it has been defined anew.
    pub(super) definitions: u64,
    /// Somebody has just asked for it: it is forgotten if it never comes up.
    pub(super) is_on_trial: bool,
    /// It has come up, and its sockets may be more than it has asked for.
    pub(super) has_come_up: bool,
    /// When workers that have not asked for a socket are next looked at.
    pub(super) next_look: Option<Time>,
    /// When the workers' memory is next looked at; never without a limit.
    pub(super) next_weighing: Option<Time>,
    pub(super) triggers: Triggers,
    /// It was remembered, and has not come up yet.
    pub(super) revival: Option<Revival>,
    /// Why memory is not limited, as it was last said.
    pub(super) no_limits: Option<String>,
    /// Who has written its lines before, and may not be through.
    pub(super) retired: Vec<Writer>,
    last_ask: u64,
}

/// What an app shares with its supervisor's others: where it writes down, and who holds for it.
#[derive(Clone)]
pub(super) struct Reach {
    pub(super) site: Journal,
    pub(super) keeper: Sender,
    pub(super) keeper_pid: u32,
    pub(super) inheritance: Inheritance,
    pub(super) notifier: Notifier,
    /// Numbers of this supervisor's requests begin above this one.
    pub(super) first: u64,
}

impl AppShell {
    pub(super) fn new(plan: Plan, reach: &Reach) -> Self {
        let journal = journal_of(&reach.site, &plan);
        journal.put(PLAN, &plan.app);
        let pool = Pool::new(allowed_by_environment(), journal.clone());
        let registry = Registry::new(journal.under("connection/"), reach.first);
        let core = App::new(plan.settings.clone());
        let requests = Requests::new(journal.clone(), reach.first);
        Self::with(plan, reach, core, pool, registry, requests)
    }

    /// One that goes on where that of a predecessor has ended. To be resumed when all apps are there.
    ///
    /// # Errors
    /// What was written down cannot be understood.
    pub(super) fn restore(
        plan: Plan,
        reach: &Reach,
        inherited: &mut Inherited,
    ) -> Result<(Self, Option<Vec<Action>>), InheritError> {
        let journal = journal_of(&reach.site, &plan);
        take_over_output(&plan.writer, &journal, inherited)?;
        let pool = Pool::restore(allowed_by_environment(), journal.clone(), inherited)?;
        let registry = Registry::new(journal.under("connection/"), reach.first);
        let Replayed {
            core,
            pending,
            facts,
        } = succession::replay(plan.settings.clone(), &journal, inherited)?;
        let requests = Requests::restore(journal.clone(), reach.first, inherited)?;
        let mut shell = Self::with(plan, reach, core, pool, registry.clone(), requests);
        logging::take_over(&shell.plan.writer, &journal, inherited)?;
        shell.facts = facts;
        shell.releases = succession::releases(&journal, inherited)?;
        shell.records = Records::restore(journal.clone(), inherited)?;
        shell.history = History::restore(journal.clone(), inherited)?;
        if let Some(request) = shell.history.unnumbered() {
            shell.note_numbered(request);
        }
        let counts = inherited.value(&journal.full(succession::COUNTS))?;
        shell.stragglers.count_from(counts.unwrap_or_default());
        shell.asks = succession::asks(&journal, inherited)?;
        shell.take_over(inherited, &registry)?;
        shell.revive_on(inherited.value(&journal.full(REVIVAL))?);
        shell.is_leaving = inherited.value(&journal.full(LEAVING))?.unwrap_or_default();
        if shell.core.is_at_rest() {
            shell.finish = Some(Finish::Stopped { killed: 0 });
            shell.triggers = Triggers::default();
        }
        Ok((shell, pending))
    }

    fn with(
        mut plan: Plan,
        reach: &Reach,
        core: App,
        mut pool: Pool,
        registry: Registry,
        requests: Requests,
    ) -> Self {
        let (inputs, incoming) = mpsc::unbounded_channel();
        let (news, heard) = mpsc::unbounded_channel();
        let journal = journal_of(&reach.site, &plan);
        plan.hold_log(&journal, &inputs);
        let worker_journal = journal.under("worker/");
        let keeper = reach.keeper.clone();
        let crew = Crew::new(inputs.clone(), worker_journal, keeper, reach.keeper_pid);
        pool.inherit(reach.inheritance.clone());
        pool.keep_in(reach.notifier.clone());
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
            requests,
            records: Records::new(journal.clone()),
            history: History::new(journal.clone()),
            kills: Kills::watch(),
            incoming,
            news,
            heard,
            facts: VecDeque::new(),
            finish: None,
            journal,
            keeper_pid: reach.keeper_pid,
            word: ServiceWord::default(),
            is_one_of_many: false,
            is_leaving: false,
            definitions: 0,
            is_on_trial: false,
            has_come_up: false,
            next_look: None,
            next_weighing: plan
                .max_memory
                .map(|_| Time(clock::monotonic_millis()) + WEIGHING),
            triggers: Triggers::of(&plan, &inputs),
            revival: None,
            no_limits: None,
            retired: Vec::new(),
            last_ask: reach.first,
            inputs,
            plan,
        }
    }

    pub(super) fn now(&self) -> Time {
        Time(clock::monotonic_millis())
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

    /// When something is to be done although nothing happens.
    pub(super) fn next_wake(&self) -> Option<Time> {
        let wake = [
            self.core.next_deadline(),
            self.next_look,
            self.next_weighing,
            self.pulses.due(),
            self.triggers.due(),
            self.next_revival(),
        ];
        wake.into_iter().flatten().min()
    }

    pub(super) fn wake_up(&mut self) {
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
        self.pull_triggers();
        if self
            .core
            .next_deadline()
            .is_some_and(|deadline| self.now() >= deadline)
        {
            self.feed(Event::DeadlineReached);
        }
    }

    /// The limit of memory may be another one.
    pub(super) fn weigh_from_now(&mut self) {
        self.next_weighing = self.plan.max_memory.map(|_| self.now() + WEIGHING);
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

    /// A notice for the log.
    pub(super) fn logged(&self, notice: &wire::Notice) -> Vec<String> {
        if !self.is_one_of_many {
            return lines::notice(notice);
        }
        lines::notice(&wire::Notice {
            text: lines::of_app(&notice.app, &notice.text),
            ..notice.clone()
        })
    }

    /// One line of ours, where the operator looks.
    pub(super) fn say(&self, line: String) {
        self.plan.host.say(line);
    }

    /// What happens next to this app.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Happening> {
        if let Poll::Ready(Some((worker, news))) = self.heard.poll_recv(context) {
            return Poll::Ready(Happening::News(worker, news));
        }
        match self.incoming.poll_recv(context) {
            Poll::Ready(Some(input)) => Poll::Ready(Happening::Input(input)),
            // Its own senders keep it open.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    /// How many workers it is to have by now.
    pub(super) fn slots(&self) -> u32 {
        u32::try_from(self.core.slots()).unwrap_or(u32::MAX)
    }

    pub(super) fn is_starting(&self) -> bool {
        self.core.view().phase == AppPhase::Starting
    }

    pub(super) fn wall_clock() -> SystemTime {
        SystemTime::now()
    }
}

/// Where an app writes down what a successor must know.
fn journal_of(site: &Journal, plan: &Plan) -> Journal {
    site.under(&app_prefix(&plan.app.name))
}
