//! Actions to effects: one arm each. What comes of an effect is queued as the next fact.

use std::os::fd::AsFd;

use segue_core::{
    Action, AppPhase, AskId, Event, Generation, Notice, Outcome, RequestId, Signal, SlotId,
    SocketRef, WorkerId,
};
use segue_sys::memory;
use segue_sys::notify::NotifyListener;
use segue_wire::control as wire;
use segue_wire::node::HandleType;

use super::app_shell::{AppShell, Asking};
use super::crew::{Descriptors, DrainRecord, Record, Recruit, key_of};
use super::enclosure::Made;
use super::triggers::Triggers;
use crate::control::convert;
use crate::listener::Place;
use crate::telemetry::banner::Banner;
use crate::worker::channel::Channel;
use crate::worker::launch::{Launched, Start};
use crate::worker::layout::Label;
use crate::worker::output::{Output, Unfinished};
use crate::worker::preload::NoPreload;
use crate::worker::writer::Stream;

impl AppShell {
    pub(super) fn perform(&mut self, action: Action) {
        match action {
            Action::Prepare { generation, like } => self.prepare(generation, like),
            Action::Forget { generation } => {
                self.cold.remove(&generation);
                self.releases.remove(&generation);
                self.journal.drop(&format!("release/{}", generation.0));
            }
            Action::Spawn {
                worker,
                slot,
                generation,
            } => self.spawn(worker, slot, generation),
            Action::BootDone { worker } => self.boot_done(worker),
            Action::Probe { worker } => self.probe(worker),
            Action::Count { worker } => self.count(worker, true),
            Action::StopCounting { worker } => self.count(worker, false),
            Action::Open { socket } => self.open(socket),
            Action::Give {
                worker,
                ask,
                socket,
            } => self.give(worker, ask, socket),
            Action::Deny { worker, ask, errno } => {
                if let Some(Asking { query, .. }) = self.take_ask(ask) {
                    self.deny_query(worker, &query, errno);
                }
            }
            Action::Steer { address, set } => {
                self.facts.push_back(match self.pool.steer(address, &set) {
                    Ok(()) => Event::Steered { address },
                    Err(error) => {
                        let name = self.pool.describe(address);
                        tracing::warn!(%error, address = name, "cannot change who gets connections");
                        self.records.steer_failed(address, error.to_string());
                        Event::SteerFailed { address }
                    }
                });
            }
            Action::Publish { address, workers } => self.publish(address, workers),
            Action::Tend { socket, how } => self.tend(socket, how),
            Action::ShutGate { address } => self.pool.shut_gate(address),
            Action::Close { address } => {
                self.stragglers.forget(address);
                self.pool.close(address);
                self.records.forget_address(address);
            }
            Action::BeginSettle { worker } => {
                let sockets: Vec<SocketRef> = self
                    .core
                    .holders()
                    .filter(|(_, holder)| *holder == worker)
                    .map(|(socket, _)| socket)
                    .collect();
                self.pool.begin_settle(worker, &sockets);
            }
            Action::CheckSettled { worker } => {
                // A connection on its way to some worker may be on its way to this one.
                let clear = self.pool.check_settled(worker)
                    && self.stragglers.held() == 0
                    && !self.stragglers.is_offering(worker);
                self.facts.push_back(Event::SettleChecked { worker, clear });
            }
            Action::Disconnect { worker } => {
                self.forget_pulse(worker);
                if let Some(channel) = self.crew.channel(worker) {
                    channel.disconnect();
                }
            }
            Action::Retire { worker, why } => {
                self.forget_pulse(worker);
                self.order_drain(worker, why, None);
            }
            Action::Drain { worker, why, until } => {
                self.forget_pulse(worker);
                self.order_drain(worker, why, Some(until));
            }
            Action::Signal { worker, signal } => {
                let sent = match signal {
                    Signal::Stop => self.crew.stop(worker, &self.plan.drain.request),
                    Signal::Kill => self.crew.kill(worker),
                };
                if let Err(error) = sent {
                    tracing::warn!(%error, %worker, ?signal, "cannot send a signal");
                }
            }
            Action::Reply { request, outcome } => self.reply(request, &outcome),
            Action::Notify(notice) => self.tell(&notice),
            Action::Finish(finish) => {
                self.bid_farewell(&finish);
                self.triggers = Triggers::default();
                self.finish = Some(finish);
            }
        }
    }

    fn spawn(&mut self, worker: WorkerId, slot: SlotId, generation: Generation) {
        let spawned = self.try_spawn(worker, slot, generation);
        self.facts.push_back(match spawned {
            Ok(()) => Event::Spawned { worker },
            Err(error) => {
                self.crew.enclosures().sweep();
                let why = error.to_string();
                self.records.spawn_failed(worker, generation, why);
                Event::SpawnFailed { worker }
            }
        });
    }

    fn try_spawn(
        &mut self,
        worker: WorkerId,
        slot: SlotId,
        generation: Generation,
    ) -> std::io::Result<()> {
        let (name, limits) = (&self.plan.app.name, self.plan.memory_limits);
        let Made {
            enclosure,
            no_limits,
        } = self.crew.enclosures().make(name, worker, limits);
        self.note_limits(no_limits);
        let release = self
            .releases
            .get(&generation)
            .ok_or_else(|| std::io::Error::other("its release is not known"))?;
        let wanted = match self.plan.drain.preload {
            true => release.takes_preload(),
            false => Err(NoPreload::Off),
        };
        let preload = wanted.and_then(|()| self.plan.host.shelf.place(release.bounds()));
        let notify = match self.plan.settings.ready.notify {
            true => Some(NotifyListener::bind()?),
            false => None,
        };
        let notify_address = notify.as_ref().map(NotifyListener::address).transpose()?;
        let cgroup = enclosure.as_ref().and_then(|it| it.group().open().ok());
        let start = Start {
            preload: preload.as_deref().ok(),
            descriptor_limit: Some(self.plan.host.descriptor_limit),
            nice: self.nice_of_boot(),
            notify: notify_address.as_deref(),
            cgroup: cgroup.as_ref().map(AsFd::as_fd),
        };
        let Launched {
            process,
            channel,
            stdout,
            stderr,
        } = release.spawn(worker, slot, generation, &start)?;
        let child = process
            .child()
            .ok_or_else(|| std::io::Error::other("it is gone before it was there"))?;
        let is_lowered = start.nice.is_some();
        let record = Record {
            pid: child.pid,
            slot: slot.0,
            generation: generation.0,
            spawned: self.now().0,
            is_attached: false,
            has_asked: false,
            is_node: release.runs_node(),
            listens: Vec::new(),
            tls: Vec::new(),
            is_lowered,
            enclosure: enclosure.and_then(|it| it.name_if_around(child.pid)),
            status: None,
            drain: DrainRecord {
                no_preload: preload.err(),
                ..DrainRecord::default()
            },
        };
        let pid = record.pid;
        let descriptors = Descriptors {
            pidfd: &child.pidfd,
            channel: &channel,
            stdout: &stdout,
            stderr: &stderr,
            notify: notify.as_ref(),
        };
        // From now on a successor knows of it. It runs only after that.
        self.crew.note_birth(worker, &record, descriptors);
        let label = Label {
            app: self.plan.app.name.clone(),
            worker,
            slot,
            generation,
        };
        let writer = &self.plan.writer;
        let joined = Output::read(&label, stdout, stderr, writer, Unfinished::default()).and_then(
            |output| {
                let child = process.release()?;
                let journal = self.crew.journal_of(worker);
                let channel = Channel::open(worker, channel, self.news.clone(), journal);
                let recruit = Recruit {
                    pidfd: child.pidfd,
                    channel,
                    output,
                    record,
                    notify,
                };
                self.crew.join(worker, recruit)
            },
        );
        match &joined {
            Err(_) => self.crew.note_end(worker, pid),
            Ok(()) if is_lowered => self.bound_lower_priority(worker),
            Ok(()) => {}
        }
        joined
    }

    /// Says why memory is not limited, when that is news.
    pub(super) fn note_limits(&mut self, no_limits: Option<String>) {
        let no_limits = no_limits.filter(|_| !self.plan.memory_limits.is_none());
        if no_limits == self.no_limits {
            return;
        }
        self.no_limits = no_limits;
        if let Some(why) = &self.no_limits {
            let text = format!("limits.memory_high and limits.memory_max do not hold: {why}");
            self.announce("limits_unavailable", wire::Level::Warn, text);
        }
    }

    fn count(&self, worker: WorkerId, on: bool) {
        if let Some(channel) = self.crew.channel(worker) {
            channel.count(on);
        }
    }

    /// A question that is about to be answered.
    fn take_ask(&mut self, ask: AskId) -> Option<Asking> {
        self.journal.drop(&format!("ask/{}", ask.0));
        self.asks.remove(&ask)
    }

    fn give(&mut self, worker: WorkerId, ask: AskId, socket: SocketRef) {
        let Some(Asking { query, .. }) = self.take_ask(ask) else {
            return;
        };
        let Some(channel) = self.crew.channel(worker) else {
            return;
        };
        self.pool.heal_path(socket.address);
        let handle = match self.pool.lend(socket) {
            Ok(handle) => handle,
            Err(error) => {
                tracing::warn!(%error, %worker, "cannot copy a socket for a worker");
                let errno = error
                    .raw_os_error()
                    .unwrap_or(rustix::io::Errno::MFILE.raw_os_error());
                self.deny_query(worker, &query, errno);
                return;
            }
        };
        let kind = match self.pool.place(socket.address) {
            Some(Place::Udp(_)) => HandleType::DgramNative,
            _ => HandleType::NetNative,
        };
        if query.data.get("ticketKeys").is_some()
            && let Some(member) = self.crew.member_mut(worker)
            && !member.record.tls.contains(&socket.address.0)
        {
            member.record.tls.push(socket.address.0);
            self.crew.note(worker);
        }
        let data = self.pool.ticket_data(socket.address, &query.data);
        let key = key_of(socket.address);
        channel.give(query.seq, &key, &data, (socket, handle), kind);
    }

    fn reply(&mut self, request: RequestId, outcome: &Outcome) {
        // Who asked by a signal has nobody to tell; the log is their answer.
        if let Outcome::Refused(refusal) = outcome
            && !self.callers.is_waiting(request)
        {
            self.tell(&Notice::Refused(*refusal));
        }
        // A service that fails is started again, and connections may wait for that.
        if let Outcome::NeverStarted { .. } = outcome {
            self.pool.leave_kept();
        }
        let told = convert::outcome(outcome, self);
        self.requests.keep_outcome(request, &told);
        self.callers.answer(request, told);
    }

    fn tell(&mut self, notice: &Notice) {
        let told = convert::notice(notice, self, Self::wall_clock());
        self.word.note(notice, &told);
        self.remember(notice, &told);
        if self.plan.host.verbosity.shows(told.level) {
            let is_red =
                told.level == wire::Level::Error && self.plan.writer.is_coloured(Stream::Err);
            for line in self.lines_of(notice, &told) {
                self.say(match is_red {
                    true => format!("\u{1b}[31m{line}\u{1b}[0m"),
                    false => line,
                });
            }
        }
        self.callers.tell(&told);
        if matches!(notice, Notice::AppReady { .. }) {
            self.has_come_up = true;
            self.is_on_trial = false;
            self.end_revival();
        }
        if matches!(
            notice,
            Notice::AppReady { .. } | Notice::GenerationGone { .. }
        ) {
            // From here on there is little to do for long.
            memory::forget_code();
        }
    }

    /// A notice as the log has it.
    fn lines_of(&self, notice: &Notice, told: &wire::Notice) -> Vec<String> {
        match notice {
            Notice::AppReady { workers, took } => {
                let addresses: Vec<String> = self
                    .core
                    .view()
                    .addresses
                    .iter()
                    .map(|address| self.pool.describe(address.address))
                    .collect();
                let control = self.plan.host.control_shown();
                let banner = Banner {
                    app: &self.plan.app.name,
                    pid: self.keeper_pid,
                    workers: *workers,
                    took: *took,
                    addresses: &addresses,
                    control: control.as_deref(),
                };
                banner.lines()
            }
            // The banner will list it.
            Notice::AddressOpened { steered: true, .. }
                if self.core.view().phase == AppPhase::Starting =>
            {
                Vec::new()
            }
            _ => self.logged(told),
        }
    }
}
