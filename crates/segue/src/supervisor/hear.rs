//! What reaches an app, as events for its core: worker reports, exits, callers' commands.

use segue_core::{AskId, Event, ExitStatus, RequestId, WorkerId};
use segue_wire::control::{Problem, ScaleBody};
use segue_wire::node::QueryServer;
use tokio::sync::oneshot;

use super::app_shell::{AppShell, Asking, Input};
use super::crew::{address_of, key_of};
use super::records::Deceased;
use crate::control::command::Asker;
use crate::control::convert;
use crate::listener::Place;
use crate::worker::channel::{End, News, Report};
use crate::worker::launch::Release;

impl AppShell {
    pub(super) fn hear(&mut self, input: Input) {
        match input {
            Input::Exited(worker, status, for_memory) => {
                self.hear_exit(worker, status, for_memory);
            }
            Input::Log(news) => self.hear_log(news),
            Input::PatienceEnded => self.close_unwanted(),
            Input::Resolved(generation, resolved) => self.hear_resolved(generation, *resolved),
            Input::Probing(news) => self.hear_probing(news),
            Input::Notices(worker, heard) => self.hear_notices(worker, heard),
            Input::BootLasts(worker) => self.raise_priority(worker),
            Input::Changes(changes) => self.hear_changes(changes),
            Input::Blind(why) => self.hear_blind(&why),
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
        let generation = self.crew.member(worker).map(|member| member.generation);
        let release = generation.and_then(|generation| self.releases.get(&generation));
        let listen = release.map(Release::listen).unwrap_or_default();
        let Some(covers) = self.pool.permit(listen, address) else {
            let ask = self.note_ask(worker, query);
            self.feed(Event::AskedInVain {
                worker,
                ask,
                address,
            });
            return;
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
        let ask = self.note_ask(worker, query);
        self.feed(Event::Asked {
            worker,
            ask,
            address,
            kind,
            covers,
        });
    }

    fn note_ask(&mut self, worker: WorkerId, query: QueryServer) -> AskId {
        let ask = self.new_ask();
        let asking = Asking {
            worker: worker.0,
            query,
        };
        self.journal.put(&format!("ask/{}", ask.0), &asking);
        self.asks.insert(ask, asking);
        ask
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

    fn hear_exit(&mut self, worker: WorkerId, status: ExitStatus, for_memory: Option<u64>) {
        self.forget_pulse(worker);
        if let Some(member) = self.crew.discharge(worker) {
            let tail = member.output.tail();
            let out_of_memory = self.kills.judge(status, &tail, for_memory);
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

    pub(super) fn stop(&mut self, asker: Asker) {
        self.end_revival();
        let (request, is_new) = self.requests.enter(asker.key.as_deref());
        self.callers.wait(request, asker.teller);
        self.go_on(request, is_new, Event::StopRequested { request });
    }

    /// A request that was made before is not made a second time.
    pub(super) fn go_on(&mut self, request: RequestId, is_new: bool, event: Event) {
        if is_new {
            self.feed(event);
        } else if let Some(outcome) = self.requests.outcome_of(request) {
            self.callers.answer(request, outcome);
            self.release_callers();
        }
    }

    pub(super) fn scale(
        &mut self,
        scale: ScaleBody,
        key: Option<&str>,
        reply: oneshot::Sender<Result<segue_wire::control::Outcome, Problem>>,
    ) {
        let to = convert::scale(scale);
        let (request, is_new) = self.requests.enter(key);
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
}
