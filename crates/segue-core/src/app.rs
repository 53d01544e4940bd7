//! One app: takes facts, keeps what follows from them, and gives orders.
//!
//! An event only records what it says; then `converge` moves every part one step towards what
//! is wanted, until nothing moves. So no event can forget a consequence.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::action::{Action, Outcome};
use crate::address::Address;
use crate::boot::Pilot;
use crate::cause::{Cause, Failure, Leaving};
use crate::datum::{Datum, Portable, Unreadable, portable_choice};
use crate::event::{Event, ExitStatus};
use crate::health::Health;
use crate::ids::{AddressId, Generation, ReloadId, RequestId, SlotId, WorkerId};
use crate::notice::Notice;
use crate::reload::Reload;
use crate::request::Waiting;
use crate::settings::Settings;
use crate::slot::{Next, Slot};
use crate::start::Start;
use crate::stop::Stop;
use crate::time::Time;
use crate::worker::{ChannelState, Worker};

/// A process whose channel has ended has this long to exit by itself.
pub(crate) const CHANNEL_GRACE: Duration = Duration::from_secs(1);

/// One app's decisions.
#[derive(Clone, Debug)]
pub struct App {
    pub(crate) settings: Settings,
    pub(crate) now: Time,
    pub(crate) phase: Phase,
    pub(crate) slots: BTreeMap<SlotId, Slot>,
    pub(crate) workers: BTreeMap<WorkerId, Worker>,
    pub(crate) addresses: BTreeMap<AddressId, Address>,
    /// Where each worker of a generation is to listen, as far as that was said.
    pub(crate) wanted: BTreeMap<Generation, BTreeSet<AddressId>>,
    /// The generation that a respawn belongs to.
    pub(crate) serving: Generation,
    /// The one that served before; its release is kept.
    pub(crate) previous: Option<Generation>,
    pub(crate) reload: Option<Reload>,
    /// The newest reload asked for while another is under way.
    pub(crate) waiting: Option<Waiting>,
    pub(crate) health: Health,
    /// Who boots before the others.
    pub(crate) pilot: Option<Pilot>,
    /// A stop that was asked for and begins at this instant.
    pub(crate) delayed_stop: Option<(Time, Stop)>,
    /// Workers that have become quiet in this step and whose handshakes are to be noted.
    pub(crate) newly_quiet: Vec<WorkerId>,
    /// Generations whose end has not been reported.
    pub(crate) leaving: Vec<Generation>,
    last_worker: u32,
    pub(crate) last_generation: u32,
    pub(crate) last_reload: u32,
    actions: Vec<Action>,
    /// Something changed in this pass that another step may have to follow.
    pub(crate) has_moved: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    New,
    /// The first generation's release is being resolved.
    Preparing {
        request: RequestId,
        since: Time,
        until: Time,
    },
    /// No worker has been ready yet, or not all of the first generation.
    Starting {
        start: Option<Start>,
        failure: Option<Failure>,
        was_ready: bool,
    },
    Running,
    /// Every worker leaves; new connections queue until a reload brings new workers.
    Paused {
        /// Where the worker of each slot listened.
        listened: BTreeMap<SlotId, BTreeSet<AddressId>>,
    },
    Stopping(Stop),
    Finished,
}

impl Phase {
    pub(crate) fn stop(&self) -> Option<&Stop> {
        match self {
            Self::Stopping(stop) => Some(stop),
            Self::New
            | Self::Preparing { .. }
            | Self::Starting { .. }
            | Self::Running
            | Self::Paused { .. }
            | Self::Finished => None,
        }
    }
}

impl App {
    /// Nothing of it runs, and nothing will by itself: it has not been started, or has ended.
    #[must_use]
    pub const fn is_at_rest(&self) -> bool {
        matches!(self.phase, Phase::New | Phase::Finished)
    }

    /// How many slots it has.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The settings as they are.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Other settings, from now on; what has a deadline keeps it. How many workers there are is a matter
    /// of scaling, and how connections are distributed stays: sockets were made for it. Whoever replays events must take a snapshot first: those before were decided with
    /// the settings before.
    pub fn adjust(&mut self, settings: Settings) {
        self.settings = Settings {
            distribution: self.settings.distribution,
            ..settings
        };
    }

    /// An app that has not been started.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            now: Time(0),
            phase: Phase::New,
            slots: BTreeMap::new(),
            workers: BTreeMap::new(),
            addresses: BTreeMap::new(),
            wanted: BTreeMap::new(),
            serving: Generation(1),
            previous: None,
            reload: None,
            waiting: None,
            health: Health::default(),
            pilot: None,
            delayed_stop: None,
            newly_quiet: Vec::new(),
            leaving: Vec::new(),
            last_worker: 0,
            last_generation: 1,
            last_reload: 0,
            actions: Vec::new(),
            has_moved: false,
        }
    }

    /// Takes one fact and returns what to do, in order. Never fails; time never runs backwards.
    #[must_use]
    pub fn handle(&mut self, now: Time, event: Event) -> Vec<Action> {
        self.now = self.now.max(now);
        self.apply(event);
        self.converge();
        debug_assert!(
            self.next_deadline().is_none_or(|at| at > self.now),
            "a deadline that has come was not acted upon: the shell would spin"
        );
        std::mem::take(&mut self.actions)
    }

    pub(crate) fn order(&mut self, action: Action) {
        self.has_moved = true;
        self.actions.push(action);
    }

    pub(crate) fn notify(&mut self, notice: Notice) {
        self.order(Action::Notify(notice));
    }

    pub(crate) fn reply(&mut self, request: RequestId, outcome: Outcome) {
        self.order(Action::Reply { request, outcome });
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::StartRequested { request } => self.start(request),
            Event::ReloadRequested { request, canary } => self.request_reload(request, canary),
            Event::PromoteRequested { request } => self.request_promote(request),
            Event::RollbackRequested { request } => self.request_rollback(request),
            Event::RestartRequested { request } => self.request_restart(request),
            Event::Notified { worker } => {
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.is_notified = true;
                }
            }
            Event::Probed { worker, verdict } => self.probed(worker, verdict),
            Event::Blocked { worker } => self.blocked(worker),
            Event::Unblocked { worker } => self.unblocked(worker),
            Event::Counted {
                worker,
                answers,
                errors,
            } => self.counted(worker, answers, errors),
            Event::ScaleRequested { request, to } => self.scale(request, to),
            Event::PauseRequested { request } => self.request_pause(request),
            Event::StopRequested { request } => self.request_stop(request),
            Event::KillRequested { request } => self.request_kill(request),
            Event::Prepared {
                generation,
                changed,
                is_cold,
                listen,
            } => {
                if !listen.is_empty() {
                    self.wanted.insert(generation, listen.into_iter().collect());
                }
                self.prepared(generation, changed, is_cold);
            }
            Event::PrepareFailed { generation } => self.prepare_failed(generation),
            Event::Spawned { worker } => {
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.is_spawned = true;
                }
            }
            Event::Attached { worker } => {
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.is_attached = true;
                }
            }
            Event::Preloaded { worker } => {
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.is_preloaded = true;
                }
            }
            Event::OverMemory { worker } => {
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.is_over_memory = true;
                }
            }
            Event::Drained { worker } => self.drained(worker),
            Event::SpawnFailed { worker } => {
                let now = self.now;
                self.worker_gone(worker, |_| Cause::SpawnFailed, ExitStatus::Unknown, now);
            }
            Event::Asked {
                worker,
                ask,
                address,
                kind,
                covers,
            } => self.asked(worker, ask, address, (kind, covers)),
            Event::AskedInVain {
                worker,
                ask,
                address,
            } => self.asked_in_vain(worker, ask, address),
            Event::Listened { worker, address } => {
                self.listened(worker, address);
            }
            Event::Closed { worker, address } => self.closed(worker, address),
            Event::SaidReady { worker } => {
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.said_ready = true;
                }
            }
            Event::FoundWrapper { worker } => {
                if self.workers.get(&worker).is_some_and(Worker::is_booting) {
                    self.fail(worker, Cause::Wrapper, Leaving::NotReady);
                }
            }
            Event::ChannelEnded { worker } => {
                let at = self.now;
                // A program that never spoke may close what it does not know.
                if let Some(worker) = self.workers.get_mut(&worker)
                    && worker.is_attached
                {
                    worker.channel = ChannelState::Ended { at };
                    worker.held.clear();
                }
            }
            Event::Exited { worker, status } => {
                let now = self.now;
                self.worker_gone(
                    worker,
                    |served| match served {
                        Some(after) => Cause::ExitedReady { status, after },
                        None => Cause::ExitedBooting { status },
                    },
                    status,
                    now,
                );
            }
            Event::SettleChecked { worker, clear } => self.settle_checked(worker, clear),
            Event::Opened { socket, steered } => self.opened(socket, steered),
            Event::OpenFailed { socket, errno } => self.open_failed(socket, errno),
            Event::Steered { address } => {
                let now = self.now;
                if let Some(address) = self.addresses.get_mut(&address) {
                    address.steered(now);
                }
            }
            Event::SteerFailed { address } => self.steer_failed(address),
            Event::DeadlineReached => {}
        }
    }

    /// Moves everything towards what is wanted until nothing moves. Each step below acts only
    /// where something has changed, and every change is towards an end, so this terminates;
    /// the bound is for bugs.
    fn converge(&mut self) {
        for _ in 0..64 {
            self.has_moved = false;
            self.spawn_due();
            self.answer_asks();
            self.advance_probes();
            self.advance_boots();
            self.advance_health();
            self.advance_replacements();
            self.fail_lost_channels();
            self.advance_reload();
            self.advance_phase();
            self.advance_addresses();
            self.advance_leavers();
            if !self.has_moved {
                break;
            }
        }
    }

    /// Whether vacant slots are to be filled: not before anybody has shown that the app can start.
    pub(crate) fn respawns(&self) -> bool {
        if self.is_emptying() {
            return false;
        }
        match self.phase {
            Phase::Starting {
                was_ready, failure, ..
            } => was_ready || failure.is_none(),
            Phase::Running => true,
            Phase::New
            | Phase::Preparing { .. }
            | Phase::Paused { .. }
            | Phase::Stopping(_)
            | Phase::Finished => false,
        }
    }

    pub(crate) fn spawn_due(&mut self) {
        if !self.respawns() {
            return;
        }
        let due: Vec<SlotId> = self
            .slots
            .iter()
            .filter(|(_, slot)| {
                slot.occupant.is_none()
                    && slot.successor.is_none()
                    && matches!(slot.respawn.next, Next::At(at) if at <= self.now)
            })
            .map(|(id, _)| *id)
            .take(self.boots_allowed())
            .collect();
        for slot in due {
            let worker = self.spawn(slot, self.serving);
            self.note_pilot(worker);
            if let Some(slot) = self.slots.get_mut(&slot) {
                slot.occupant = Some(worker);
            }
        }
    }

    pub(crate) fn spawn(&mut self, slot: SlotId, generation: Generation) -> WorkerId {
        self.last_worker += 1;
        let worker = WorkerId(self.last_worker);
        let until = self.now + self.settings.ready_timeout;
        self.workers
            .insert(worker, Worker::booting(slot, generation, self.now, until));
        self.order(Action::Spawn {
            worker,
            slot,
            generation,
        });
        self.notify(Notice::WorkerSpawned {
            worker,
            slot,
            generation,
        });
        worker
    }

    /// Decides about the first start, and ends what is at its end.
    fn advance_phase(&mut self) {
        self.report_gone_generations();
        self.hurry_generations();
        if let Some((at, _)) = &self.delayed_stop
            && self.now >= *at
            && let Some((_, stop)) = self.delayed_stop.take()
        {
            self.begin_stop(stop);
        }
        match self.phase.clone() {
            Phase::New | Phase::Paused { .. } | Phase::Finished => {}
            Phase::Preparing { until, .. } => {
                if self.now >= until {
                    self.started_preparing(false, true);
                }
            }
            Phase::Starting {
                start,
                failure,
                was_ready,
            } => {
                self.advance_start(start, failure, was_ready);
            }
            Phase::Running => self.advance_give_up(),
            Phase::Stopping(stop) => self.advance_stop(stop),
        }
    }

    pub(crate) fn report_gone_generations(&mut self) {
        let gone: Vec<Generation> = self
            .leaving
            .iter()
            .copied()
            .filter(|generation| {
                self.workers
                    .values()
                    .all(|worker| worker.generation != *generation)
            })
            .collect();
        self.leaving.retain(|generation| !gone.contains(generation));
        for generation in gone {
            // It may be asked back.
            if self.previous != Some(generation) {
                self.forget(generation);
            }
            self.notify(Notice::GenerationGone { generation });
        }
    }

    pub(crate) fn forget(&mut self, generation: Generation) {
        self.wanted.remove(&generation);
        self.order(Action::Forget { generation });
    }

    pub(crate) fn save_state(&self) -> Datum {
        let Self {
            // The configuration's.
            settings: _,
            now,
            phase,
            slots,
            workers,
            addresses,
            wanted,
            serving,
            previous,
            reload,
            waiting,
            health,
            pilot,
            delayed_stop,
            newly_quiet,
            leaving,
            last_worker,
            last_generation,
            last_reload,
            // Empty between two events.
            actions: _,
            has_moved: _,
        } = self;
        Datum::record([
            ("now", now.save()),
            ("phase", phase.save()),
            ("slots", slots.save()),
            ("workers", workers.save()),
            ("addresses", addresses.save()),
            ("wanted", wanted.save()),
            ("serving", serving.save()),
            ("previous", previous.save()),
            ("reload", reload.save()),
            ("waiting", waiting.save()),
            ("health", health.save()),
            ("pilot", pilot.save()),
            ("delayed_stop", delayed_stop.save()),
            ("newly_quiet", newly_quiet.save()),
            ("leaving", leaving.save()),
            ("last_worker", last_worker.save()),
            ("last_generation", last_generation.save()),
            ("last_reload", last_reload.save()),
        ])
    }

    pub(crate) fn load_state(settings: Settings, state: &Datum) -> Result<Self, Unreadable> {
        Ok(Self {
            settings,
            now: state.field("now")?,
            phase: state.field("phase")?,
            slots: state.field("slots")?,
            workers: state.field("workers")?,
            addresses: state.field("addresses")?,
            wanted: state.field_or("wanted", Some(BTreeMap::new()))?,
            serving: state.field("serving")?,
            previous: state.field("previous")?,
            reload: state
                .field::<Option<Reload>>("reload")?
                .map(Reload::complete),
            waiting: state.field("waiting")?,
            health: state.field_or("health", Some(Health::default()))?,
            pilot: state.field("pilot")?,
            delayed_stop: state.field("delayed_stop")?,
            newly_quiet: state.field("newly_quiet")?,
            leaving: state.field("leaving")?,
            last_worker: state.field("last_worker")?,
            last_generation: state.field("last_generation")?,
            last_reload: state.field("last_reload")?,
            actions: Vec::new(),
            has_moved: false,
        })
    }

    pub(crate) fn next_reload_id(&mut self) -> ReloadId {
        self.last_reload += 1;
        ReloadId(self.last_reload)
    }
}

portable_choice!(
    Phase
    [New, Running, Finished]
    {
        Preparing { request, since, until },
        Starting { start, failure, was_ready },
        Paused { listened },
    }
    (Stopping)
);
