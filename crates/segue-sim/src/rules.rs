//! The properties that must hold in every run, checked after every event and at the end.
//!
//! The rules see what the core is told, what it orders and its public view, and beside that what
//! the virtual world knows: who lives, and which connection went where.

mod ends;
mod news;
mod proof;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use segue_core::{
    Action, AddressId, AddressKind, App, AppPhase, AppView, AskId, Distribution, Event, Generation,
    Notice, Outcome, ProbeVerdict, RequestId, Settings, SlotId, SocketIndex, SocketRef, Time,
    WorkerId, WorkerPhase,
};

use crate::kernel::Kernel;
use crate::plan::Plan;

type Verdict = Result<(), String>;

/// A connection may wait in a queue for this long, in the worst of the worlds that plans describe.
const LONGEST_WAIT: u64 = 120_000;

/// A question may be held, and its answer delayed, for this long.
const LONGEST_ANSWER: u64 = 20_000;

/// What the world takes for itself: slow deaths, delays.
const SLACK: Duration = Duration::from_secs(6);

/// The longest that a quieted worker waits for late handshakes.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Known {
    slot: SlotId,
    generation: Generation,
    spawned_at: Time,
    ready_at: Option<Time>,
    /// A probe of it passed, or it cannot be probed.
    has_passed: bool,
    leaving: Option<Time>,
    is_gone: bool,
}

#[derive(Debug)]
struct Asked {
    worker: WorkerId,
    at: u64,
    is_answered: bool,
}

#[derive(Debug)]
pub(crate) struct Rules {
    settings: Settings,
    kinds: Vec<AddressKind>,
    is_steering_refused: bool,
    is_steering_unreliable: bool,
    workers: BTreeMap<WorkerId, Known>,
    asks: BTreeMap<AskId, Asked>,
    /// Whether each request has its reply.
    requests: BTreeMap<RequestId, bool>,
    /// Generations that serve, or did.
    proven: BTreeSet<Generation>,
    /// Workers of others that get connections.
    public: BTreeSet<WorkerId>,
    forgotten: BTreeSet<Generation>,
    unserved: BTreeSet<AddressId>,
    /// Since when nobody has served an address that exists.
    waits_since: BTreeMap<AddressId, Time>,
    respawns: BTreeMap<SlotId, Vec<Time>>,
    stopping: Option<Time>,
    is_finished: bool,
    /// Addresses that somebody served when a stop began which nothing has hurried or disturbed since.
    calm_stop: BTreeSet<AddressId>,
    is_asked_to_stop: bool,
    last_disturbance: Time,
    /// When a worker was last seen to be blocked.
    last_blocked: Option<Time>,
    before: Option<AppView>,
    /// The worker whose end the next event reports.
    going: Option<WorkerId>,
}

impl Rules {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            settings: plan.settings.clone(),
            kinds: plan.places.clone(),
            is_steering_refused: plan.faults.is_steering_refused,
            is_steering_unreliable: plan.faults.steer_fails > 0,
            workers: BTreeMap::new(),
            asks: BTreeMap::new(),
            requests: BTreeMap::new(),
            proven: BTreeSet::from([Generation(1)]),
            public: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            unserved: BTreeSet::new(),
            waits_since: BTreeMap::new(),
            respawns: BTreeMap::new(),
            stopping: None,
            is_finished: false,
            calm_stop: BTreeSet::new(),
            is_asked_to_stop: false,
            last_disturbance: Time(0),
            last_blocked: None,
            before: None,
            going: None,
        }
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.is_finished
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    pub(crate) fn asked_for(&mut self, request: RequestId) {
        self.requests.insert(request, false);
    }

    pub(crate) fn put(&mut self, ask: AskId, worker: WorkerId, at: u64) {
        let asked = Asked {
            worker,
            at,
            is_answered: false,
        };
        self.asks.insert(ask, asked);
    }

    /// Something goes wrong from outside: a stop may now cost connections.
    pub(crate) fn disturbed(&mut self, now: Time) {
        self.last_disturbance = now;
        self.calm_stop.clear();
    }

    /// A queue with connections in it is left alone: somebody accepts from it, or nobody could
    /// be handed them.
    pub(crate) fn left_alone(
        &self,
        app: &App,
        place: u32,
        index: SocketIndex,
        is_served: bool,
    ) -> Verdict {
        if !is_served {
            return Ok(());
        }
        let socket = SocketRef {
            address: AddressId(place),
            index,
        };
        ensure(app.holders().any(|(held, _)| held == socket), || {
            format!("{socket} has a queue, nobody holds it, and it is left alone")
        })
    }

    /// What is queued at an address is reset.
    pub(crate) fn reset(&self, address: AddressId) -> Verdict {
        ensure(!self.calm_stop.contains(&address), || {
            format!("a stop that nothing disturbed resets connections of {address}")
        })
    }

    pub(crate) fn before(&mut self, now: Time, event: &Event) {
        self.is_asked_to_stop = matches!(event, Event::StopRequested { .. });
        if matches!(event, Event::Blocked { .. }) {
            self.last_blocked = Some(now);
        }
        self.going = match event {
            Event::Exited { worker, .. } | Event::SpawnFailed { worker } => Some(*worker),
            _ => None,
        };
        if let Event::Probed {
            worker,
            verdict: ProbeVerdict::Passed,
        } = event
            && let Some(known) = self.workers.get_mut(worker)
        {
            known.has_passed = true;
        }
    }

    pub(crate) fn judge(
        &mut self,
        now: Time,
        actions: &[Action],
        app: &App,
        view: AppView,
        kernel: &Kernel,
    ) -> Verdict {
        if let Some(going) = self.going.take()
            && let Some(known) = self.workers.get_mut(&going)
        {
            known.is_gone = true;
            if let Some(leaving) = known.leaving
                && now.since(leaving) > self.longest_leave()
            {
                return Err(format!("{going} took too long to leave"));
            }
        }
        let is_stop = |action: &Action| matches!(action, Action::Notify(Notice::Stopping));
        if actions.iter().any(is_stop) {
            self.stopping = Some(now);
            self.calm_stop = self
                .before
                .iter()
                .filter(|_| self.is_asked_to_stop)
                .filter(|_| now.since(self.last_disturbance) > SLACK)
                .flat_map(|before| &before.addresses)
                .filter(|address| !address.serving.is_empty())
                .map(|address| address.address)
                .collect();
        }
        for address in &view.addresses {
            if address.serving.is_empty() {
                self.waits_since.entry(address.address).or_insert(now);
            } else {
                self.waits_since.remove(&address.address);
            }
        }
        self.waits_since
            .retain(|id, _| view.addresses.iter().any(|address| address.address == *id));
        for action in actions {
            if self.is_finished && !matches!(action, Action::Reply { .. }) {
                return Err(format!("after the end: {action:?}"));
            }
            self.judge_action(now, action, app, &view, kernel)?;
        }
        self.judge_capacity(now, actions, &view)?;
        if actions
            .iter()
            .any(|action| matches!(action, Action::Give { .. }))
        {
            self.judge_holders(app)?;
        }
        self.before = Some(view);
        Ok(())
    }

    fn judge_action(
        &mut self,
        now: Time,
        action: &Action,
        app: &App,
        view: &AppView,
        kernel: &Kernel,
    ) -> Verdict {
        match action {
            Action::Prepare { like, .. } => ensure(
                like.is_none_or(|like| !self.forgotten.contains(&like)),
                || "what was forgotten is asked back".into(),
            ),
            Action::BootDone { worker } => {
                self.alive(*worker, action)?;
                let is_ready = view
                    .workers
                    .iter()
                    .any(|known| known.worker == *worker && known.phase != WorkerPhase::Booting);
                ensure(is_ready, || format!("{worker} is not ready"))
            }
            Action::Probe { worker }
            | Action::Count { worker }
            | Action::StopCounting { worker } => self.alive(*worker, action),
            Action::Open { .. }
            | Action::Tend {
                how: segue_core::Tend::Leave,
                ..
            } => Ok(()),
            Action::Forget { generation } => {
                self.forgotten.insert(*generation);
                let has_left = view
                    .workers
                    .iter()
                    .all(|worker| worker.generation != *generation);
                ensure(has_left && view.serving != *generation, || {
                    format!("{generation} is forgotten too early")
                })
            }
            Action::Spawn {
                worker,
                slot,
                generation,
            } => {
                let known = Known {
                    slot: *slot,
                    generation: *generation,
                    spawned_at: now,
                    ready_at: None,
                    has_passed: false,
                    leaving: None,
                    is_gone: false,
                };
                ensure(!self.forgotten.contains(generation), || {
                    format!("{worker} is spawned of a forgotten generation")
                })?;
                let is_wanted = view.phase != AppPhase::Paused || view.reload.is_some();
                ensure(is_wanted, || format!("{worker} is spawned in a paused app"))?;
                ensure(self.workers.insert(*worker, known).is_none(), || {
                    format!("{worker} is spawned twice")
                })
            }
            Action::Give { worker, ask, .. } | Action::Deny { worker, ask, .. } => {
                self.alive(*worker, action)?;
                let Some(asked) = self.asks.get_mut(ask) else {
                    return Err(format!("{ask} was never put"));
                };
                ensure(asked.worker == *worker && !asked.is_answered, || {
                    format!("{ask} is answered twice, or to the wrong worker")
                })?;
                asked.is_answered = true;
                Ok(())
            }
            Action::Steer { address, set } => self.judge_steer(now, *address, set, app, kernel),
            Action::Publish { workers, .. } => workers.iter().try_for_each(|worker| {
                self.alive(*worker, action)?;
                self.prove(now, *worker)
            }),
            Action::Tend {
                socket,
                how: segue_core::Tend::Reset,
            } => ensure(
                self.stopping.is_some()
                    || (self.unserved.contains(&socket.address) && view.phase != AppPhase::Paused),
                || format!("{socket} is reset, and nobody was told that it is not served"),
            ),
            Action::Tend {
                socket,
                how: segue_core::Tend::HandOver,
            } => {
                let is_served = view.addresses.iter().any(|address| {
                    address.address == socket.address && !address.serving.is_empty()
                });
                ensure(is_served, || format!("{socket} is handed over to nobody"))
            }
            Action::ShutGate { .. } => ensure(self.stopping.is_some(), || {
                "a gate is shut in a running app".into()
            }),
            Action::Close { address } => {
                self.unserved.remove(address);
                ensure(view.phase != AppPhase::Paused, || {
                    format!("{address} is closed in a paused app")
                })?;
                let holders = app
                    .holders()
                    .filter(|(socket, _)| socket.address == *address);
                ensure(holders.count() == 0, || {
                    format!("{address} is closed in use")
                })
            }
            Action::CheckSettled { worker } => {
                self.alive(*worker, action)?;
                let leaving = self.workers.get(worker).and_then(|known| known.leaving);
                let is_settled = leaving.is_some_and(|at| now >= at + self.settings.settle);
                ensure(is_settled, || {
                    format!("{worker} is not given time to settle")
                })
            }
            Action::BeginSettle { worker }
            | Action::Disconnect { worker }
            | Action::Retire { worker, .. }
            | Action::Drain { worker, .. }
            | Action::Signal { worker, .. } => {
                self.alive(*worker, action)?;
                ensure(
                    self.workers
                        .get(worker)
                        .is_some_and(|known| known.leaving.is_some())
                        || self.stopping.is_some(),
                    || format!("{action:?} to a worker that nobody asked to leave"),
                )
            }
            Action::Reply { request, outcome } => {
                if let Outcome::Reloaded { .. } = outcome {
                    let is_committed = view.serving != Generation(1);
                    ensure(is_committed, || "reloaded into the first generation".into())?;
                }
                match self.requests.insert(*request, true) {
                    Some(false) => Ok(()),
                    Some(true) => Err(format!("{request} has a second reply")),
                    None => Err(format!("{request} was never made")),
                }
            }
            Action::Notify(notice) => self.judge_notice(now, notice, view),
            Action::Finish(_) => {
                self.is_finished = true;
                let is_empty = view.workers.is_empty() && view.addresses.is_empty();
                ensure(is_empty && view.phase == AppPhase::Finished, || {
                    "finished with something left".into()
                })?;
                let bound = self.longest_stop();
                ensure(
                    self.stopping.is_none_or(|since| now.since(since) <= bound),
                    || "the stop took too long".into(),
                )
            }
        }
    }

    fn alive(&self, worker: WorkerId, what: &impl std::fmt::Debug) -> Verdict {
        match self.workers.get(&worker) {
            Some(known) if !known.is_gone => Ok(()),
            Some(_) => Err(format!("{worker} is gone: {what:?}")),
            None => Err(format!("{worker} was never spawned: {what:?}")),
        }
    }

    /// A set is never empty, names only sockets that exist, and each of them is held by somebody
    /// whose generation may have connections.
    fn judge_steer(
        &mut self,
        now: Time,
        address: AddressId,
        set: &[(SocketIndex, u32)],
        app: &App,
        kernel: &Kernel,
    ) -> Verdict {
        let Some(group) = kernel.group(address.0) else {
            return Err(format!("{address} is steered and not open"));
        };
        ensure(!set.is_empty(), || format!("{address} gets an empty set"))?;
        ensure(
            group.kind != AddressKind::Single && group.is_steered,
            || format!("{address} cannot be steered"),
        )?;
        ensure(group.kind != AddressKind::Path || set.len() == 1, || {
            format!("{address} gets more than one socket on its path")
        })?;
        for (index, _) in set {
            let exists = usize::from(index.0) < group.sockets.len();
            ensure(exists, || format!("{address}{index} does not exist"))?;
            let socket = SocketRef {
                address,
                index: *index,
            };
            let holders: Vec<WorkerId> = app
                .holders()
                .filter(|(held, _)| *held == socket)
                .map(|(_, holder)| holder)
                .collect();
            ensure(!holders.is_empty(), || {
                format!("{socket} gets connections and nobody holds it")
            })?;
            self.prove_any(now, &holders)?;
        }
        Ok(())
    }

    /// With a socket for each worker no two share one.
    fn judge_holders(&self, app: &App) -> Verdict {
        if self.settings.distribution != Distribution::Spread || self.is_steering_refused {
            return Ok(());
        }
        let mut seen = BTreeSet::new();
        for (socket, _) in app.holders() {
            let kind = self.kinds.get(socket.address.0 as usize);
            if kind == Some(&AddressKind::Steered) {
                ensure(seen.insert(socket), || format!("{socket} is held twice"))?;
            }
        }
        Ok(())
    }

    /// A client's connection is in a worker's hands.
    pub(crate) fn served(&self, worker: WorkerId, place: u32, kernel: &Kernel) -> Verdict {
        let is_steered = kernel
            .group(place)
            .is_some_and(|group| group.kind == AddressKind::Steered && group.is_steered);
        let Some(known) = self.workers.get(&worker) else {
            return Ok(());
        };
        if !is_steered {
            return Ok(());
        }
        let is_shared = self.settings.distribution == Distribution::Shared;
        let is_public = self.public.contains(&worker)
            || (is_shared
                && self.public.iter().any(|other| {
                    self.workers
                        .get(other)
                        .is_some_and(|other| other.generation == known.generation)
                }));
        ensure(self.proven.contains(&known.generation) || is_public, || {
            format!(
                "a client's connection at address {place} reaches {worker}, which is not proven"
            )
        })?;
        let ready = self.settings.ready;
        let is_by_message = (ready.message || ready.notify || ready.probe)
            && self.settings.distribution == Distribution::Spread;
        ensure(!is_by_message || known.ready_at.is_some(), || {
            format!("a client's connection at address {place} reaches {worker}, which is not ready")
        })
    }

    fn longest_leave(&self) -> Duration {
        SETTLE_LIMIT.max(self.settings.settle)
            + self.settings.drain_timeout.max(self.settings.stop_timeout)
            + self.settings.kill_after
            + SLACK
    }

    fn longest_stop(&self) -> Duration {
        SETTLE_LIMIT
            .max(self.settings.settle)
            .max(self.settings.stop_timeout)
            + self.settings.kill_after
            + SLACK
    }
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(what()) }
}
