//! The shell's part: performs the core's orders on the virtual kernel and the virtual workers.

use segue_core::{
    Action, AddressId, AddressKind, Event, ExitStatus, Generation, Signal, SocketIndex, Tend,
    WorkerId,
};

use super::{Happening, World};
use crate::kernel::Fate;
use crate::plan::{OnStop, Prepare, Script};
use crate::process::Process;

impl World<'_> {
    pub(super) fn perform(&mut self, action: Action) -> Result<(), String> {
        match action {
            Action::Prepare { generation, like } => self.prepare(generation, like),
            Action::Probe { worker } => self.soon(Happening::Probed(worker)),
            Action::Count { worker } => self.count(worker),
            Action::StopCounting { worker } => {
                if let Some(process) = self.process(worker) {
                    process.counts = None;
                }
            }
            Action::Spawn {
                worker, generation, ..
            } => self.spawn(worker, generation),
            Action::Open { socket } => self.open(socket.address, socket.index)?,
            Action::Give {
                worker,
                socket: segue_core::SocketRef { address, index },
                ..
            } => self.soon(Happening::Given(worker, address.0, index)),
            Action::Deny { worker, .. } => self.soon(Happening::Denied(worker)),
            Action::Steer { address, set } => self.steer(address, set),
            Action::Publish { address, workers } => {
                if let Some(group) = self.kernel.group_mut(address.0) {
                    group.published = workers;
                }
                self.tend_all(address.0);
            }
            Action::Tend { socket, how } => {
                if let Some(found) = self.kernel.socket_mut(socket.address.0, socket.index) {
                    found.tend = how;
                }
                self.soon(Happening::Tended(socket.address.0, socket.index));
            }
            Action::ShutGate { address } => {
                if let Some(group) = self.kernel.group_mut(address.0) {
                    group.is_shut = true;
                }
            }
            Action::Close { address } => {
                let is_served = self
                    .kernel
                    .group(address.0)
                    .is_some_and(|group| !group.published.is_empty());
                let reset = self.kernel.close(address.0);
                if reset > 0 {
                    if is_served && !self.rules.is_stopping() {
                        return Err(format!("{address} is closed while somebody serves it"));
                    }
                    self.rules.reset(address)?;
                    self.note(|| format!("{reset} queued connections reset at {address}"));
                }
            }
            Action::BeginSettle { worker } => {
                let noted: Vec<usize> = self
                    .sockets_of(worker)
                    .into_iter()
                    .flat_map(|(place, index)| self.kernel.pending(place, index))
                    .collect();
                if let Some(process) = self.process(worker) {
                    process.noted = noted;
                }
            }
            Action::CheckSettled { worker } => self.soon(Happening::Checked(worker)),
            Action::Disconnect { worker } | Action::Drain { worker, .. } => {
                self.soon(Happening::Disconnected(worker));
            }
            Action::Signal { worker, signal } => self.signal(worker, signal),
            Action::Retire { .. }
            | Action::BootDone { .. }
            | Action::Forget { .. }
            | Action::Reply { .. }
            | Action::Notify(_)
            | Action::Finish(_) => {}
        }
        Ok(())
    }

    /// The sockets that the core gave to a worker.
    pub(super) fn sockets_of(&self, worker: WorkerId) -> Vec<(u32, SocketIndex)> {
        self.app
            .holders()
            .filter(|(_, holder)| *holder == worker)
            .map(|(socket, _)| (socket.address.0, socket.index))
            .collect()
    }

    pub(super) fn prepare(&mut self, generation: Generation, like: Option<Generation>) {
        let last = self.plan.releases.len() - 1;
        let pinned = like.and_then(|like| self.prepared.iter().find(|(id, _)| *id == like));
        let nth = pinned.map_or(self.prepared.len(), |(_, nth)| *nth);
        self.prepared.push((generation, nth.min(last)));
        self.spawned.push((generation, 0));
        let release = &self.plan.releases[nth.min(last)];
        let event = match release.prepare {
            Prepare::Found { changed, is_cold } => Event::Prepared {
                generation,
                changed,
                is_cold,
                listen: release.listen.iter().copied().map(AddressId).collect(),
            },
            Prepare::Fails => Event::PrepareFailed { generation },
            Prepare::Hangs => return,
        };
        self.soon(Happening::Told(event));
    }

    pub(super) fn script(&mut self, generation: Generation) -> Option<Script> {
        let (_, release) = self.prepared.iter().find(|(id, _)| *id == generation)?;
        let scripts = &self.plan.releases[*release].scripts;
        let (_, nth) = self.spawned.iter_mut().find(|(id, _)| *id == generation)?;
        let script = scripts.get((*nth).min(scripts.len() - 1))?.clone();
        *nth += 1;
        Some(script)
    }

    pub(super) fn spawn(&mut self, worker: WorkerId, generation: Generation) {
        let Some(script) = self.script(generation) else {
            return;
        };
        let steps = script.steps.clone();
        let mut process = Process::born(worker, script, self.now);
        if self.random.chance(self.plan.faults.spawn_fails) {
            process.is_alive = false;
            process.has_channel = false;
            self.processes.push(process);
            self.soon(Happening::Told(Event::SpawnFailed { worker }));
            return;
        }
        self.processes.push(process);
        self.say(worker, Event::Spawned { worker });
        for (at, step) in steps {
            self.at(self.now + 1 + at, Happening::Stepped(worker, step));
        }
    }

    pub(super) fn open(&mut self, address: AddressId, index: SocketIndex) -> Result<(), String> {
        let socket = segue_core::SocketRef { address, index };
        if self.random.chance(self.plan.faults.open_fails) {
            let errno = 13;
            self.soon(Happening::Told(Event::OpenFailed { socket, errno }));
            return Ok(());
        }
        let Some(kind) = self.plan.places.get(address.0 as usize).copied() else {
            return Err(format!("{address} does not exist"));
        };
        let steered = match kind {
            AddressKind::Steered => !self.plan.faults.is_steering_refused,
            AddressKind::Path | AddressKind::Single => true,
        };
        let real = self.kernel.open(address.0, kind, steered);
        if real != usize::from(index.0) {
            return Err(format!("{socket} was opened as #{real}"));
        }
        self.soon(Happening::Told(Event::Opened { socket, steered }));
        Ok(())
    }

    pub(super) fn steer(&mut self, address: AddressId, set: Vec<(SocketIndex, u32)>) {
        let nth = self.steers;
        self.steers += 1;
        let faults = &self.plan.faults;
        if faults.steers_that_fail.contains(&nth) || self.random.chance(faults.steer_fails) {
            self.soon(Happening::Told(Event::SteerFailed { address }));
            return;
        }
        if let Some(group) = self.kernel.group_mut(address.0) {
            group.set = set;
        }
        self.soon(Happening::Told(Event::Steered { address }));
    }

    pub(super) fn check_settled(&mut self, worker: WorkerId) {
        let is_queue_empty = self.sockets_of(worker).into_iter().all(|(place, index)| {
            self.kernel
                .socket_mut(place, index)
                .is_none_or(|socket| socket.queue.is_empty())
        });
        let noted = self
            .process(worker)
            .map(|process| process.noted.clone())
            .unwrap_or_default();
        let is_over = noted.iter().all(|id| {
            let connection = &self.kernel.connections[*id];
            connection.entered.is_some() || connection.fate.is_some()
        });
        let clear = is_queue_empty && is_over;
        self.soon(Happening::Told(Event::SettleChecked { worker, clear }));
    }

    pub(super) fn signal(&mut self, worker: WorkerId, signal: Signal) {
        let now = self.now;
        match signal {
            Signal::Kill => {
                let is_slow = self.random.chance(self.plan.faults.slow_deaths);
                let after = if is_slow { 3_000 } else { 1 };
                self.at(now + after, Happening::Died(worker, ExitStatus::Signal(9)));
            }
            Signal::Stop => {
                let Some(process) = self.process(worker) else {
                    return;
                };
                let blocked_until = process.blocked_until;
                match process.script.on_stop {
                    OnStop::Dies => {
                        self.at(now + 1, Happening::Died(worker, ExitStatus::Signal(15)));
                    }
                    OnStop::Finishes(after) => {
                        let at = blocked_until.max(now) + 1 + after;
                        self.at(at, Happening::Died(worker, ExitStatus::Code(0)));
                    }
                    OnStop::Ignores => {}
                }
            }
        }
    }

    pub(super) fn tend_all(&mut self, place: u32) {
        let sockets = self
            .kernel
            .group(place)
            .map_or(0, |group| group.sockets.len());
        for index in 0..u16::try_from(sockets).unwrap_or(0) {
            self.soon(Happening::Tended(place, SocketIndex(index)));
        }
    }

    /// The shell looks into a queue that the core told it to tend.
    pub(super) fn tend(&mut self, place: u32, index: SocketIndex) -> Result<(), String> {
        let Some(group) = self.kernel.group(place) else {
            return Ok(());
        };
        let Some(socket) = group.sockets.get(usize::from(index.0)) else {
            return Ok(());
        };
        if socket.queue.is_empty() {
            return Ok(());
        }
        let (how, published) = (socket.tend, group.published.clone());
        match how {
            Tend::Leave => {
                let is_served = !published.is_empty();
                return self.rules.left_alone(&self.app, place, index, is_served);
            }
            Tend::Reset => {
                while let Some(connection) = self.dequeue(place, index) {
                    self.kernel.resolve(connection, Fate::Reset);
                    self.note(|| format!("connection {connection} reset"));
                    self.rules.reset(AddressId(place))?;
                }
            }
            Tend::HandOver => {
                let able: Vec<WorkerId> = published
                    .into_iter()
                    .filter(|worker| {
                        self.process(*worker)
                            .is_some_and(|process| process.has_channel && process.listens_at(place))
                    })
                    .collect();
                // Who has died will be reported; then somebody else is published.
                while !able.is_empty() {
                    let Some(connection) = self.dequeue(place, index) else {
                        break;
                    };
                    let worker = self.random.pick(&able);
                    self.kernel.resolve(connection, Fate::HandedOver(worker));
                    self.note(|| format!("connection {connection} handed to {worker}"));
                    self.serve(worker, place)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn dequeue(&mut self, place: u32, index: SocketIndex) -> Option<usize> {
        self.kernel.socket_mut(place, index)?.queue.pop_front()
    }
}
