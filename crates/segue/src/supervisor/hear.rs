//! What reaches the loop, as events for the core: worker reports, callers' commands, signals.

use std::time::Duration;

use segue_core::{CanaryChoice, Event, ExitStatus, RequestId, Scale, Time, WorkerId};
use segue_sys::signal::{Handled, Received, Signals};
use segue_wire::control::{Problem, ProblemCode, ScaleBody, Status, Supervisor as Process};
use segue_wire::handoff::keeper;
use segue_wire::handoff::{FromKeeper, ToKeeper};
use segue_wire::node::QueryServer;
use tokio::sync::oneshot;

use super::crew::{address_of, key_of};
use super::intent::{self, Intent};
use super::origin;
use super::records::Deceased;
use super::run::{Asking, Input, Supervisor};
use super::succession::Life;
use crate::control::command::{Caller, Command};
use crate::control::convert;
use crate::listener::Place;
use crate::telemetry::lines;
use crate::worker::channel::{End, News, Report};

/// A signal to stop that comes so soon after another is the same one: sent to a process and to
/// its group, as timeout(1) does, or to every process of a service.
const ECHO: Duration = Duration::from_millis(100);

impl Supervisor {
    pub(super) fn hear(&mut self, input: Input) {
        match input {
            Input::Exited(worker, status) => self.hear_exit(worker, status),
            Input::Probed(answer) => self.hear_probe(answer),
            Input::Log(news) => self.hear_log(news),
            Input::PatienceEnded => self.close_unwanted(),
            Input::Resolved(generation, resolved) => self.hear_resolved(generation, *resolved),
            Input::Probing(news) => self.hear_probing(news),
            Input::Notices(worker, heard) => self.hear_notices(worker, heard),
            Input::BootLasts(worker) => self.raise_priority(worker),
        }
    }

    /// Something has come over a worker's channel.
    pub(super) fn hear_news(&mut self, worker: WorkerId, news: News) {
        match news {
            News::Lines(mut lines) => {
                while let Some(reports) = lines.next() {
                    for report in reports {
                        self.hear_report(worker, report);
                    }
                    // That the line has been heard, and what it has led to.
                    self.journal.commit();
                }
            }
            News::Ended(last, end) => {
                for report in last {
                    self.hear_report(worker, report);
                }
                if let End::Broken(reason) = end {
                    tracing::warn!(%worker, ?reason, "channel is broken");
                }
                self.crew.channel_ended(worker);
                self.feed(Event::ChannelEnded { worker });
            }
        }
    }

    fn hear_report(&mut self, worker: WorkerId, report: Report) {
        match report {
            Report::Online => {
                if let Some(member) = self.crew.member_mut(worker) {
                    member.record.is_attached = true;
                }
                self.crew.note(worker);
                self.look_soon();
                self.feed(Event::Attached { worker });
            }
            Report::Query(query) => self.hear_query(worker, query),
            Report::Listening { index, place } => {
                let Some(address) = self.pool.listened(&place, index) else {
                    return;
                };
                // The worker's own listen has made the queue as long as the app asked for.
                self.pool.raise_backlog(address);
                if let Some(member) = self.crew.member_mut(worker)
                    && !member.record.listens.contains(&address.0)
                {
                    member.record.listens.push(address.0);
                }
                self.crew.note(worker);
                self.feed(Event::Listened { worker, address });
            }
            Report::Closed { key } => {
                if let Some(address) = address_of(&key) {
                    if let Some(member) = self.crew.member_mut(worker) {
                        member
                            .record
                            .listens
                            .retain(|listens| *listens != address.0);
                        member.record.tls.retain(|tls| *tls != address.0);
                    }
                    self.crew.note(worker);
                    self.feed(Event::Closed { worker, address });
                }
            }
            Report::SaidReady => self.feed(Event::SaidReady { worker }),
            Report::Hello(hello) => self.hear_hello(worker, hello),
            Report::Connection(arrival) => self.hear_connection(worker, arrival),
            Report::State(state) => self.hear_drain_state(worker, state),
            Report::Drained(totals) => self.hear_drained(worker, totals),
            Report::Bypass(bypass) => self.hear_bypass(worker, bypass),
            Report::Pong { number } => self.hear_pong(worker, number),
            Report::Counted(counted) => self.hear_count(worker, counted),
            Report::Attention(attention) => tracing::warn!(%worker, "{attention}"),
        }
    }

    fn hear_query(&mut self, worker: WorkerId, query: QueryServer) {
        if let Some(member) = self.crew.member_mut(worker) {
            member.record.has_asked = true;
        }
        self.crew.note(worker);
        let (address, kind) = match self.pool.asked(&query) {
            Ok(asked) => asked,
            Err(errno) => {
                self.deny_query(worker, &query, errno.raw_os_error());
                return;
            }
        };
        if let Some(Place::Descriptor(number)) = self.pool.place(address) {
            let number = *number;
            let copied = self.crew.copy_descriptor(worker, number);
            match copied {
                Ok(descriptor) => self.pool.adopt(address, descriptor),
                Err(error) => {
                    let errno = error
                        .raw_os_error()
                        .unwrap_or(rustix::io::Errno::BADF.raw_os_error());
                    self.deny_query(worker, &query, errno);
                    return;
                }
            }
        }
        let ask = self.new_ask();
        let asking = Asking {
            worker: worker.0,
            query,
        };
        self.journal.put(&format!("ask/{}", ask.0), &asking);
        self.asks.insert(ask, asking);
        self.feed(Event::Asked {
            worker,
            ask,
            address,
            kind,
        });
    }

    pub(super) fn deny_query(&mut self, worker: WorkerId, query: &QueryServer, errno: i32) {
        let Some(channel) = self.crew.channel(worker) else {
            return;
        };
        let (key, data) = match self.pool.asked(query) {
            Ok((address, _)) => (key_of(address), self.pool.ticket_data(address, &query.data)),
            Err(_) => (String::new(), query.data.clone()),
        };
        channel.deny(query.seq, &key, &data, errno);
    }

    fn hear_exit(&mut self, worker: WorkerId, status: ExitStatus) {
        self.forget_pulse(worker);
        if let Some(member) = self.crew.discharge(worker) {
            let tail = member.output.tail();
            let out_of_memory = self.kills.judge(status, &tail);
            self.records.bury(
                worker,
                Deceased {
                    pid: Some(member.pid),
                    tail,
                    generation: Some(member.generation.0),
                    out_of_memory,
                },
            );
        }
        for (ask, _) in self
            .asks
            .extract_if(.., |_, asking| asking.worker == worker.0)
        {
            self.journal.drop(&format!("ask/{}", ask.0));
        }
        self.feed(Event::Exited { worker, status });
    }

    pub(super) fn hear_signals(&mut self, signals: &Signals) {
        loop {
            match signals.receive() {
                Ok(Some(received)) => self.hear_signal(received),
                Ok(None) => return,
                Err(error) => {
                    tracing::error!(%error, "cannot read signals");
                    return;
                }
            }
        }
    }

    fn hear_signal(&mut self, received: Received) {
        match intent::of(received) {
            Intent::Reload => {
                let request = self.new_request();
                let sender = (received.pid != 0).then_some((received.pid, received.uid));
                let asked = origin::of_signal("HUP", sender);
                self.say(format!(
                    "{}reload asked for by {}",
                    lines::PREFIX,
                    asked.text
                ));
                self.note_asked(request, "reload", asked);
                let canary = CanaryChoice::AsSet;
                self.feed(Event::ReloadRequested { request, canary });
            }
            Intent::Upgrade => {
                let request = self.new_request();
                self.begin_upgrade(request, None);
            }
            Intent::Stop => self.hear_stop_signal(),
            Intent::Reopen => self.reopen_log(),
            Intent::Pause => {
                let request = self.new_request();
                self.feed(Event::PauseRequested { request });
            }
            Intent::Grow => self.hear_scale(Scale::Up(1)),
            Intent::Shrink => self.hear_scale(Scale::Down(1)),
            Intent::Nothing => {}
        }
    }

    /// What the keeper has to say; nothing more once it is dead.
    pub(super) fn hear_keeper(&mut self, news: Option<FromKeeper>) {
        match news {
            Some(FromKeeper::Signal { number, signal }) => self.hear_forwarded(number, signal),
            Some(FromKeeper::Ended { pid, end }) => {
                let status = match end {
                    keeper::End::Code(code) => ExitStatus::Code(code),
                    keeper::End::Signal(signal) => ExitStatus::Signal(signal),
                };
                self.crew.hear_end(pid, status);
            }
            Some(FromKeeper::Origin { number, pid, uid }) => {
                self.signal_origin = Some((number, (pid, uid)));
            }
            Some(FromKeeper::TerminalGone) => self.hear_stop("the terminal has gone"),
            Some(FromKeeper::NotHeld(name)) => {
                tracing::warn!(name, "the keeper has no room for a descriptor");
            }
            Some(FromKeeper::Held(_) | FromKeeper::All(_)) => {}
            None => self.hear_keeper_gone(),
        }
    }

    /// A signal that the keeper has been sent. It may come again after a crash.
    fn hear_forwarded(&mut self, number: u64, signal: i32) {
        if number > self.life.last_signal {
            self.life.last_signal = number;
            // Together with what it leads to.
            self.site.put(Life::NAME, &self.life);
            if let Some(signal) = Handled::from_number(signal) {
                let origin = self.signal_origin.take_if(|origin| origin.0 == number);
                let (pid, uid) = origin.map_or((0, 0), |(_, sender)| sender);
                self.hear_signal(Received {
                    signal,
                    from_kernel: false,
                    pid,
                    uid,
                });
            }
            self.site.commit();
        }
        self.keeper.say(ToKeeper::Acknowledge(number), None);
    }

    fn hear_stop_signal(&mut self) {
        let now = self.now();
        let is_echo = self
            .stop_signalled
            .is_some_and(|before| now.since(before) < ECHO);
        if !is_echo {
            self.stop_signalled = Some(now);
            self.hear_stop("asked to stop");
        }
    }

    pub(super) fn hear_stop(&mut self, why: &str) {
        tracing::debug!(why, "stop");
        let request = self.new_request();
        self.feed(Event::StopRequested { request });
    }

    fn hear_scale(&mut self, to: Scale) {
        let request = self.new_request();
        self.feed(Event::ScaleRequested { request, to });
    }

    pub(super) fn hear_command(&mut self, command: Command) {
        match command {
            Command::Status { reply } => {
                let _ = reply.send(self.status());
            }
            Command::Events { caller } => self.callers.watch(caller.accept()),
            Command::Reload {
                app,
                wait,
                canary,
                caller,
            } => {
                if let Some(caller) = self.admit(app.as_deref(), caller) {
                    self.reload(wait, canary, caller);
                }
            }
            Command::Promote { app, caller } => {
                if let Some(caller) = self.admit(Some(&app), caller) {
                    self.promote(caller);
                }
            }
            Command::Rollback { app, caller } => {
                if let Some(caller) = self.admit(Some(&app), caller) {
                    self.roll_back(caller);
                }
            }
            Command::Restart { app, caller } => {
                if let Some(caller) = self.admit(Some(&app), caller) {
                    self.restart(caller);
                }
            }
            Command::Why { app, reply } => {
                let _ = reply.send(match self.is_named(Some(&app)) {
                    true => Ok(self.story()),
                    false => Err(self.no_such_app(&app)),
                });
            }
            Command::Scale {
                app,
                scale,
                key,
                reply,
            } => match self.is_named(Some(&app)) {
                true => self.scale(scale, key.as_deref(), reply),
                false => {
                    let _ = reply.send(Err(self.no_such_app(&app)));
                }
            },
            Command::ReopenLogs { reply } => {
                let _ = reply.send(self.reopen_log_for_caller());
            }
            Command::Stop { app, caller } => {
                if let Some(caller) = self.admit(Some(&app), caller) {
                    self.stop(caller);
                }
            }
            Command::Shutdown { caller } => self.stop(caller),
            Command::Upgrade { binary, caller } => {
                let (request, is_new) = self.enter_request(caller.key());
                self.callers.upgrade(request, caller.accept());
                match (is_new, self.outcome_of(request)) {
                    (true, _) => self.begin_upgrade(request, binary),
                    (false, Some(outcome)) => self.callers.answer(request, outcome),
                    // It is under way.
                    (false, None) => {}
                }
            }
        }
    }

    fn stop(&mut self, caller: Caller) {
        let (request, is_new) = self.enter_request(caller.key());
        self.callers.wait(request, caller.accept());
        self.go_on(request, is_new, Event::StopRequested { request });
    }

    /// A request that was made before is not made a second time.
    pub(super) fn go_on(&mut self, request: RequestId, is_new: bool, event: Event) {
        if is_new {
            self.feed(event);
        } else if let Some(outcome) = self.outcome_of(request) {
            self.callers.answer(request, outcome);
            self.release_callers();
        }
    }

    fn scale(
        &mut self,
        scale: ScaleBody,
        key: Option<&str>,
        reply: oneshot::Sender<Result<segue_wire::control::Outcome, Problem>>,
    ) {
        let to = convert::scale(scale);
        let (request, is_new) = self.enter_request(key);
        let (outcome, decided) = oneshot::channel();
        self.callers.once(request, outcome);
        tokio::spawn(async move {
            // Dropped undecided only when the supervisor ends; the caller then learns that.
            if let Ok(outcome) = decided.await {
                let _ = reply.send(Ok(outcome));
            }
        });
        self.go_on(request, is_new, Event::ScaleRequested { request, to });
    }

    fn is_named(&self, app: Option<&str>) -> bool {
        app.is_none_or(|app| app == self.plan.app.name)
    }

    fn admit(&self, app: Option<&str>, caller: Caller) -> Option<Caller> {
        if self.is_named(app) {
            return Some(caller);
        }
        caller.refuse(self.no_such_app(app.unwrap_or_default()));
        None
    }

    fn no_such_app(&self, app: &str) -> Problem {
        Problem::new(
            ProblemCode::NoSuchApp,
            format!("no app {app:?} runs here"),
            format!("this supervisor runs {}", self.plan.app.name),
        )
    }

    fn status(&self) -> Status {
        let now = self.now();
        Status {
            supervisor: self.process(),
            apps: vec![convert::app(&self.core.view(), now, self)],
        }
    }

    pub(super) fn process(&self) -> Process {
        let since = self.now().since(Time(self.life.began)).as_millis();
        Process {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            keeper_pid: Some(self.keeper_pid),
            keeper_version: Some(self.keeper_release.clone()).filter(|it| !it.is_empty()),
            since_ms: u64::try_from(since).unwrap_or(u64::MAX),
            control: self.plan.control_shown(),
            unclaimed: self.pool.unclaimed(),
        }
    }
}
