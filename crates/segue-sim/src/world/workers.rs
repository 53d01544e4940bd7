//! The other side: clients that connect, and virtual workers that follow their scripts.

use segue_core::{AddressId, AddressKind, AskId, Event, ExitStatus, SocketIndex, Time, WorkerId};

use super::{Happening, World};
use crate::kernel::Fate;
use crate::plan::{OnDisconnect, Step};
use crate::trace;

impl World<'_> {
    pub(super) fn connect(&mut self, place: u32) {
        let Some(connection) = self.kernel.syn(place, &mut self.random) else {
            return;
        };
        let is_path = self
            .kernel
            .group(place)
            .is_some_and(|group| group.kind == AddressKind::Path);
        let is_late = !is_path && self.random.chance(self.plan.faults.late_handshakes);
        let after = match (is_path, is_late) {
            (true, _) => 0,
            (false, true) => self.random.within(100, 4_500),
            (false, false) => self.random.within(1, 3),
        };
        self.at(self.now + after, Happening::Established(connection));
    }

    pub(super) fn established(&mut self, connection: usize) {
        if !self.kernel.establish(connection, self.now) {
            return;
        }
        let (place, index) = {
            let connection = &self.kernel.connections[connection];
            (connection.place, connection.index)
        };
        self.note(|| {
            format!(
                "connection {connection} queued at {}",
                trace::socket(place, index)
            )
        });
        self.wake_acceptors(place, index);
        self.soon(Happening::Tended(place, index));
    }

    pub(super) fn wake_acceptors(&mut self, place: u32, index: SocketIndex) {
        let acceptors: Vec<WorkerId> = self
            .processes
            .iter()
            .filter(|process| process.accepts_from(place, index))
            .map(|process| process.worker)
            .collect();
        for worker in acceptors {
            self.soon(Happening::Looked(worker, place, index));
        }
    }

    pub(super) fn look(
        &mut self,
        worker: WorkerId,
        place: u32,
        index: SocketIndex,
    ) -> Result<(), String> {
        let now = self.now;
        loop {
            let Some(process) = self.process(worker) else {
                return Ok(());
            };
            if !process.accepts_from(place, index) {
                return Ok(());
            }
            if process.blocked_until > now {
                let at = process.blocked_until;
                self.at(at, Happening::Looked(worker, place, index));
                return Ok(());
            }
            let Some(connection) = self.dequeue(place, index) else {
                return Ok(());
            };
            self.note(|| format!("connection {connection} accepted by {worker}"));
            self.kernel.resolve(connection, Fate::Accepted(worker));
            self.serve(worker, place)?;
        }
    }

    /// A connection is in a worker's hands.
    pub(super) fn serve(&mut self, worker: WorkerId, place: u32) -> Result<(), String> {
        let now = self.now;
        let is_long = self.random.chance(self.plan.faults.long_connections);
        let lasts = match (is_long, self.random.chance(200)) {
            (false, _) => self.random.within(1, 100),
            (true, false) => self.random.within(1_000, 10_000),
            (true, true) => 10_000_000,
        };
        let rate = self
            .process(worker)
            .map_or(0, |process| process.script.errors);
        let is_error = rate > 0 && self.random.chance(rate);
        let Some(process) = self.process(worker) else {
            return Ok(());
        };
        process.busy_until = process.busy_until.max(now + lasts);
        process.accepted += 1;
        if let Some((answers, errors)) = &mut process.counts {
            *answers += 1;
            *errors += u64::from(is_error);
        }
        if process
            .script
            .dies_at_accept
            .is_some_and(|limit| process.accepted >= limit)
        {
            self.die(worker, ExitStatus::Signal(11));
        }
        self.rules.served(worker, place, &self.kernel)
    }

    pub(super) fn step(&mut self, worker: WorkerId, step: Step) {
        let now = self.now;
        let Some(process) = self.process(worker) else {
            return;
        };
        if !process.is_alive {
            return;
        }
        if process.blocked_until > now {
            let at = process.blocked_until;
            self.at(at, Happening::Stepped(worker, step));
            return;
        }
        match step {
            Step::Attach => self.say(worker, Event::Attached { worker }),
            Step::Ask(place) => {
                let process_can_ask = process.has_channel && !process.is_disconnecting;
                if process_can_ask && let Some(kind) = self.plan.places.get(place as usize).copied()
                {
                    self.last_ask += 1;
                    let ask = AskId(self.last_ask);
                    let address = AddressId(place);
                    self.rules.put(ask, worker, now);
                    self.say(
                        worker,
                        Event::Asked {
                            worker,
                            ask,
                            address,
                            kind,
                            covers: Vec::new(),
                        },
                    );
                }
            }
            Step::AskInVain(place) => {
                if process.has_channel && !process.is_disconnecting {
                    self.last_ask += 1;
                    let ask = AskId(self.last_ask);
                    let address = AddressId(place);
                    self.rules.put(ask, worker, now);
                    self.say(
                        worker,
                        Event::AskedInVain {
                            worker,
                            ask,
                            address,
                        },
                    );
                }
            }
            Step::Notify => self.say(worker, Event::Notified { worker }),
            Step::SayReady => self.say(worker, Event::SaidReady { worker }),
            Step::Exit(status) => self.die(worker, status),
            Step::CloseChannel => self.end_channel(worker),
            Step::Close(place) => {
                self.rules.disturbed(Time(now));
                self.close_server(worker, place);
            }
            Step::Block(lasts) => {
                process.blocked_until = now + lasts;
                self.at(now + 1_000, Happening::Pinged(worker));
            }
            Step::Preload => {
                process.is_preloaded = true;
                self.say(worker, Event::Preloaded { worker });
            }
            Step::Grow => self.say(worker, Event::OverMemory { worker }),
            Step::Wrap => self.say(worker, Event::FoundWrapper { worker }),
        }
    }

    pub(super) fn given(&mut self, worker: WorkerId, place: u32, index: SocketIndex) {
        let Some(process) = self.process(worker) else {
            return;
        };
        if !process.is_alive || !process.has_channel || process.is_disconnecting {
            return;
        }
        process.listening.push((place, index));
        let address = AddressId(place);
        self.say(worker, Event::Listened { worker, address });
        self.soon(Happening::Looked(worker, place, index));
    }

    pub(super) fn close_server(&mut self, worker: WorkerId, place: u32) {
        let Some(process) = self.process(worker) else {
            return;
        };
        if process.listens_at(place) {
            process.listening.retain(|(at, _)| *at != place);
            let address = AddressId(place);
            self.say(worker, Event::Closed { worker, address });
        }
    }

    pub(super) fn disconnected(&mut self, worker: WorkerId) {
        let now = self.now;
        let Some(process) = self.process(worker) else {
            return;
        };
        if !process.is_alive
            || !process.has_channel
            || process.script.on_disconnect == OnDisconnect::Ignores
        {
            return;
        }
        if process.blocked_until > now {
            let at = process.blocked_until;
            self.at(at, Happening::Disconnected(worker));
            return;
        }
        process.is_disconnecting = true;
        let places: Vec<u32> = process.listening.iter().map(|(place, _)| *place).collect();
        for place in places {
            self.close_server(worker, place);
        }
        self.look_done(worker);
    }

    pub(super) fn look_done(&mut self, worker: WorkerId) {
        let now = self.now;
        let Some(process) = self.process(worker) else {
            return;
        };
        if !process.is_alive {
            return;
        }
        let until = process.busy_until.max(process.blocked_until);
        if until > now {
            self.at(until, Happening::LookedDone(worker));
            return;
        }
        let lingers = process.script.on_disconnect == OnDisconnect::Lingers;
        if process.is_preloaded {
            self.say(worker, Event::Drained { worker });
            return;
        }
        self.end_channel(worker);
        if !lingers {
            self.soon(Happening::Died(worker, ExitStatus::Code(0)));
        }
    }

    pub(super) fn end_channel(&mut self, worker: WorkerId) {
        self.say(worker, Event::ChannelEnded { worker });
        if let Some(process) = self.process(worker) {
            process.has_channel = false;
        }
    }

    pub(super) fn die(&mut self, worker: WorkerId, status: ExitStatus) {
        let now = Time(self.now);
        let Some(process) = self.process(worker) else {
            return;
        };
        if !process.is_alive {
            return;
        }
        process.is_alive = false;
        let is_serving = !process.listening.is_empty() && !process.is_disconnecting;
        process.listening.clear();
        if is_serving {
            self.rules.disturbed(now);
        }
        self.note(|| format!("{worker} dies"));
        self.end_channel(worker);
        // Before or after the end of its channel is seen.
        self.soon(Happening::Told(Event::Exited { worker, status }));
    }
}
