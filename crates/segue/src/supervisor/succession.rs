//! From one supervisor to the next: what is written down as it happens, and how a successor makes
//! of it a supervisor that goes on. A successor is this process after an exec, or another one after
//! a crash; it cannot tell which, besides what an upgrade leaves for it.
//!
//! Deciding is deterministic, so the core is written down as a snapshot and the events since. An
//! event is written down before it is handled, and what came of performing its actions after that.
//! So of the last event a successor knows the actions and not whether they were performed: it
//! performs them, and those that can be seen to have been done are not done again.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use segue_core::{
    Action, App, Datum, Event, ExitStatus, Generation, Settings, Time, WorkerId, load_event,
    save_event,
};
use segue_sys::clock;
use segue_sys::notify::NotifyListener;
use segue_wire::handoff::Contents;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::app_shell::{AppShell, Asking, PLAN};
use super::crew::{self, DESCRIPTORS, NOTIFY, Recruit};
use super::history::History;
use super::records::Records;
use super::requests::Requests;
use super::revival::REVIVAL;
use super::roster::LEAVING;
use super::run::{ENDING, METRICS};
use crate::config::app::AppConfig;
use crate::handoff::text::Word;
use crate::handoff::{Deposit, InheritError, Inherited, Journal, tree};
use crate::listener::{Counts, Pool, Registry, Resumed, Traveller};
use crate::worker::channel::{self, Channel, Offered, Predecessor};
use crate::worker::launch::Release;
use crate::worker::layout::Label;
use crate::worker::output::{Output, Unfinished};

/// So many events are written down before a new snapshot is.
const MOST_EVENTS: usize = 256;

/// Names of apps begin so.
const APPS: &str = "app/";

const CORE: &str = "core";
const EVENTS: &str = "events";
pub(super) const COUNTS: &str = "counts";

/// Numbers of one supervisor begin so far above those of the one before.
const EPOCH: u32 = 32;

/// What is written down of the supervisor itself.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Life {
    /// When the first one began, by the monotonic clock.
    pub(super) began: u64,
    /// How many came before this one.
    pub(super) predecessors: u32,
    /// The last signal that has been dealt with.
    pub(super) last_signal: u64,
}

impl Life {
    pub(super) const NAME: &str = "supervisor";

    pub(super) fn new() -> Self {
        Self {
            began: clock::monotonic_millis(),
            predecessors: 0,
            last_signal: 0,
        }
    }

    /// That of a predecessor, which this one goes on with.
    pub(super) fn restore(inherited: &Inherited) -> Result<Self, InheritError> {
        let before: Self = inherited.needed(Self::NAME)?;
        Ok(Self {
            predecessors: before.predecessors + 1,
            ..before
        })
    }

    /// Above every number that a predecessor can have given.
    pub(super) fn first_number(&self) -> u64 {
        u64::from(self.predecessors) << EPOCH
    }
}

/// An event, or what came of one.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Entry {
    /// It is about to be handled.
    Handled(Value),
    /// Its actions have been performed; these are the facts that they led to.
    Performed(Vec<Value>),
}

/// A core as its predecessor left it.
pub(super) struct Replayed {
    pub(super) core: App,
    /// The actions of the last event, if they may not have been performed.
    pub(super) pending: Option<Vec<Action>>,
    /// Events that are to be handled next.
    pub(super) facts: VecDeque<Event>,
}

impl AppShell {
    pub(super) fn note_handled(&self, at: Time, event: &Event) {
        let event = tree::to_json(&save_event(at, event));
        self.journal.append(EVENTS, &Entry::Handled(event));
        self.journal.commit();
    }

    /// Takes effect at the next commit.
    pub(super) fn note_performed(&self, facts: &VecDeque<Event>, from: usize) {
        let facts = facts.iter().skip(from);
        let facts = facts.map(|fact| tree::to_json(&save_event(Time(0), fact)));
        let entry = Entry::Performed(facts.collect());
        self.journal.append(EVENTS, &entry);
    }

    /// Nothing is left to be handled. A snapshot makes the events before it unnecessary.
    pub(super) fn note_rest(&self) {
        if self.journal.length(EVENTS) >= MOST_EVENTS {
            self.note_core();
        }
        self.journal.put(COUNTS, &self.stragglers.counts());
        self.journal.commit();
    }

    pub(super) fn note_core(&self) {
        let snapshot = tree::to_json(&self.core.snapshot());
        self.journal.put(CORE, &snapshot);
        self.journal.drop(EVENTS);
    }
}

/// Whether a successor of this release could understand what was written down: all of it is read,
/// nothing is done.
///
/// # Errors
/// What cannot be understood.
pub(crate) fn check(contents: Contents) -> Result<(), InheritError> {
    let inherited = Inherited::values_of(contents);
    Life::restore(&inherited)?;
    Requests::restore(Journal::nowhere(), 0, &inherited)?;
    inherited.value::<bool>(ENDING)?;
    inherited.value::<SocketAddr>(METRICS)?;
    for app in apps(&inherited)? {
        check_app(&app, &inherited)?;
    }
    Ok(())
}

/// The apps of a predecessor.
///
/// # Errors
/// One is of another kind.
pub(super) fn apps(inherited: &Inherited) -> Result<Vec<AppConfig>, InheritError> {
    let named = inherited.values::<Value>(APPS)?.into_iter();
    let plans = named.filter_map(|(rest, plan)| {
        let name = rest.strip_suffix(PLAN)?.strip_suffix('/')?;
        let plan = AppConfig::deserialize(&plan);
        Some(plan.map_err(|error| InheritError::value(&format!("{APPS}{name}/{PLAN}"), error)))
    });
    plans.collect()
}

fn check_app(app: &AppConfig, inherited: &Inherited) -> Result<(), InheritError> {
    let journal = Journal::nowhere().under(&app_prefix(&app.name));
    replay(Settings::default(), &journal, inherited)?;
    releases(&journal, inherited)?;
    asks(&journal, inherited)?;
    Requests::restore(journal.clone(), 0, inherited)?;
    Records::restore(journal.clone(), inherited)?;
    History::restore(journal.clone(), inherited)?;
    inherited.value::<Counts>(&journal.full(COUNTS))?;
    inherited.value::<u32>(&journal.full(REVIVAL))?;
    inherited.value::<bool>(&journal.full(LEAVING))?;
    Pool::check(&journal, inherited)?;
    by_name::<Traveller>(inherited, &journal.full("connection/"))?;
    let prefix = journal.full("worker/");
    for (rest, value) in inherited.values::<Value>(&prefix)? {
        let failed = |error| InheritError::value(&format!("{prefix}{rest}"), error);
        match rest.rsplit_once('/').map_or("", |(_, what)| what) {
            "record" => drop(crew::Record::deserialize(&value).map_err(failed)?),
            "channel" => drop(channel::Record::deserialize(&value).map_err(failed)?),
            channel::INBOX => drop(Word::deserialize(&value).map_err(failed)?),
            "output" => drop(Unfinished::deserialize(&value).map_err(failed)?),
            // Of a newer release.
            _ => {}
        }
    }
    Ok(())
}

/// What the names of an app begin with.
pub(super) fn app_prefix(name: &str) -> String {
    format!("{APPS}{name}/")
}

/// The core of a predecessor.
///
/// # Errors
/// It is of another kind.
pub(super) fn replay(
    settings: Settings,
    journal: &Journal,
    inherited: &Inherited,
) -> Result<Replayed, InheritError> {
    let name = journal.full(CORE);
    let mut core = match inherited.value::<Value>(&name)? {
        Some(snapshot) => App::restore(settings, &tree::from_json(snapshot))
            .map_err(|error| InheritError::value(&name, error))?,
        None => App::new(settings),
    };
    let name = journal.full(EVENTS);
    let mut facts: VecDeque<Event> = VecDeque::new();
    let mut pending = None;
    for entry in inherited.list(&name) {
        let entry = Entry::deserialize(entry).map_err(|error| InheritError::value(&name, error))?;
        let load = |event: Value| {
            let datum: Datum = tree::from_json(event);
            load_event(&datum).map_err(|error| InheritError::value(&name, error))
        };
        match entry {
            Entry::Handled(event) => {
                let (at, event) = load(event)?;
                // Facts are handled in their order, before anything else. What was found out anew by whoever
                // took over is not among them.
                facts.pop_front_if(|fact| *fact == event);
                pending = Some(core.handle(at, event));
            }
            Entry::Performed(events) => {
                pending = None;
                for event in events {
                    facts.push_back(load(event)?.1);
                }
            }
        }
    }
    Ok(Replayed {
        core,
        pending,
        facts,
    })
}

/// Releases and open questions of a predecessor, by their numbers.
///
/// # Errors
/// One is of another kind.
pub(super) fn releases(
    journal: &Journal,
    inherited: &Inherited,
) -> Result<BTreeMap<Generation, Release>, InheritError> {
    let releases = numbered(inherited, &journal.full("release/"))?;
    Ok(releases
        .into_iter()
        .map(|(number, release)| (Generation(number), release))
        .collect())
}

/// The same for questions.
///
/// # Errors
/// One is of another kind.
pub(super) fn asks(
    journal: &Journal,
    inherited: &Inherited,
) -> Result<BTreeMap<segue_core::AskId, Asking>, InheritError> {
    let asks = numbered(inherited, &journal.full("ask/"))?;
    Ok(asks
        .into_iter()
        .map(|(number, asking)| (segue_core::AskId(number), asking))
        .collect())
}

/// Every value whose name begins so.
pub(super) fn by_name<T: serde::de::DeserializeOwned>(
    inherited: &Inherited,
    prefix: &str,
) -> Result<Vec<T>, InheritError> {
    let values = inherited.values::<T>(prefix)?.into_iter();
    Ok(values.map(|(_, value)| value).collect())
}

fn numbered<N, T>(inherited: &Inherited, prefix: &str) -> Result<Vec<(N, T)>, InheritError>
where
    N: std::str::FromStr<Err: std::fmt::Display>,
    T: serde::de::DeserializeOwned,
{
    let values = inherited.values::<T>(prefix)?.into_iter();
    values
        .map(|(rest, value)| match rest.parse() {
            Ok(number) => Ok((number, value)),
            Err(error) => Err(InheritError::value(&format!("{prefix}{rest}"), error)),
        })
        .collect()
}

impl AppShell {
    /// Takes up the workers of a predecessor and the connections that were on their way. Who has
    /// ended meanwhile is noticed like any other exit.
    ///
    /// # Errors
    /// What was written down cannot be understood.
    pub(super) fn take_over(
        &mut self,
        inherited: &mut Inherited,
        registry: &Registry,
    ) -> Result<(), InheritError> {
        let mut travellers: BTreeMap<u64, (Traveller, Option<Deposit>)> = registry
            .found(inherited)?
            .into_iter()
            .map(|(traveller, deposit)| (deposit.number(), (traveller, Some(deposit))))
            .collect();
        let prefix = self.journal.full("worker/");
        let mut workers: BTreeMap<WorkerId, crew::Record> = BTreeMap::new();
        for (rest, value) in inherited.values::<Value>(&prefix)? {
            let Some(number) = rest.strip_suffix("/record") else {
                continue;
            };
            let name = format!("{prefix}{rest}");
            let number = number
                .parse()
                .map_err(|error| InheritError::value(&name, error))?;
            let record = crew::Record::deserialize(&value)
                .map_err(|error| InheritError::value(&name, error))?;
            workers.insert(WorkerId(number), record);
        }
        for (worker, record) in workers {
            for offered in self.take_over_worker(worker, record, inherited, &mut travellers)? {
                if let Some((traveller, _)) = travellers.remove(&offered.connection) {
                    let verdict = async move { offered.verdict.await.unwrap_or(Ok(())) };
                    let state = Resumed::Offered { worker, verdict };
                    self.stragglers.resume(&traveller, state);
                }
            }
        }
        for (traveller, deposit) in travellers.into_values() {
            if let Some(deposit) = deposit {
                let state = Resumed::<std::future::Pending<_>>::Waiting(deposit);
                self.stragglers.resume(&traveller, state);
            }
        }
        Ok(())
    }

    fn take_over_worker(
        &mut self,
        worker: WorkerId,
        record: crew::Record,
        inherited: &mut Inherited,
        travellers: &mut BTreeMap<u64, (Traveller, Option<Deposit>)>,
    ) -> Result<Vec<Offered>, InheritError> {
        let journal = self.crew.journal_of(worker);
        let pid = record.pid;
        let descriptors = DESCRIPTORS.map(|name| inherited.take(&journal.full(name)));
        let [Some(pidfd), Some(channel), Some(stdout), Some(stderr)] = descriptors else {
            // They could not be held.
            self.crew.note_end(worker, pid);
            return Ok(Vec::new());
        };
        let label = Label {
            app: self.plan.app.name.clone(),
            worker,
            slot: record.slot(),
            generation: record.generation(),
        };
        let unfinished: Unfinished = inherited
            .value(&journal.full("output"))?
            .unwrap_or_default();
        journal.drop("output");
        let unusable = |error| InheritError::value(&journal.full("stdout"), error);
        let output = Output::read(&label, stdout, stderr, &self.plan.writer, unfinished)
            .map_err(unusable)?;
        let notify = inherited.take(&journal.full(NOTIFY));
        let news = self.news.clone();
        let written: Option<channel::Record> = inherited.value(&journal.full("channel"))?;
        let (channel, offered) = match written {
            Some(written) => {
                let pool = &self.pool;
                let pending = inherited.take(&journal.full(channel::PENDING));
                let predecessor = Predecessor {
                    record: written,
                    inbox: inherited.value(&journal.full(channel::INBOX))?,
                    pending,
                    lend: &mut |socket| pool.lend(socket),
                    connection: &mut |number| travellers.get_mut(&number)?.1.take(),
                };
                Channel::take_over(worker, channel, news, journal, predecessor)
            }
            None => (Channel::open(worker, channel, news, journal), Vec::new()),
        };
        let is_lowered = record.is_lowered;
        let recruit = Recruit {
            notify: notify.map(NotifyListener::from),
            pidfd,
            channel,
            output,
            record,
        };
        if let Err(error) = self.crew.join(worker, recruit) {
            tracing::error!(%error, %worker, pid, "cannot watch a worker that a supervisor before this one has started");
        }
        if is_lowered {
            self.bound_lower_priority(worker);
        }
        Ok(offered)
    }

    /// Everything else is as the core says.
    pub(super) fn resume(&mut self, pending: Option<Vec<Action>>) {
        for order in self.core.standing_orders() {
            self.perform(order);
        }
        if let Some(actions) = pending {
            let from = self.facts.len();
            for action in actions {
                self.perform_again(action);
            }
            self.note_performed(&self.facts, from);
        }
        if let Some((generation, like)) = self.core.awaited_release()
            && !self.releases.contains_key(&generation)
        {
            self.perform(Action::Prepare { generation, like });
        }
        if self
            .crew
            .members()
            .any(|(_, member)| member.record.is_attached && !member.record.has_asked)
        {
            self.look_soon();
        }
        self.miss();
        self.work();
    }

    /// Who is not there although the core counts on it, because it could not be held or watched, has ended
    /// as far as anybody can tell.
    fn miss(&mut self) {
        let workers = self.core.view().workers.into_iter();
        let missing = workers.filter(|it| self.crew.member(it.worker).is_none());
        let missing: Vec<WorkerId> = missing.map(|it| it.worker).collect();
        for worker in missing {
            tracing::warn!(%worker, "a worker that a supervisor before this one has started is not there");
            let status = ExitStatus::Unknown;
            self.facts.push_back(Event::Exited { worker, status });
        }
    }

    /// Performs what may have been performed already.
    fn perform_again(&mut self, action: Action) {
        match &action {
            Action::Spawn { worker, .. } if self.crew.member(*worker).is_some() => {
                self.facts.push_back(Event::Spawned { worker: *worker });
            }
            Action::Open { socket } if self.pool.is_open(*socket) => {
                let steered = self.pool.is_steered(socket.address);
                self.facts.push_back(Event::Opened {
                    socket: *socket,
                    steered,
                });
            }
            // Not twice: the second one would cut short what the first one lets finish.
            Action::Disconnect { .. } => {}
            Action::Prepare { generation, .. } if self.releases.contains_key(generation) => {}
            _ => self.perform(action),
        }
    }
}
