//! HTTP probes: to whom the question goes, and what comes of it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use segue_core::{AddressId, Event, ProbeFailure, ProbeVerdict, SocketRef, WorkerId};

use super::app_shell::{AppShell, Input};
use crate::listener::{NoWay, Way};
use crate::worker::probe::{self, Failed, Question, Road, Subject};

/// Probes of an app.
#[derive(Debug, Default)]
pub(super) struct Proving {
    /// What is asked; without it nobody can be probed.
    question: Option<Arc<Question>>,
    /// Workers for whose probe there was no room.
    waiting: VecDeque<WorkerId>,
}

/// News of a probe.
#[derive(Debug)]
pub(super) enum Probing {
    /// The worker has the connection: no rule is needed any more.
    Accepted(AddressId, SocketAddr),
    Ended(
        WorkerId,
        Option<(AddressId, SocketAddr)>,
        Result<(), Failed>,
    ),
}

impl Proving {
    pub(super) fn new(question: Option<Question>) -> Self {
        Self {
            question: question.map(Arc::new),
            waiting: VecDeque::new(),
        }
    }

    /// What is asked from now on.
    pub(super) fn ask(&mut self, question: Option<Question>) {
        self.question = question.map(Arc::new);
    }
}

impl AppShell {
    /// Asks a worker once. The answer comes as an event, within the probe's time-out as soon as there is
    /// room for it.
    pub(super) fn probe(&mut self, worker: WorkerId) {
        let begun = match self.proving.question.clone() {
            Some(question) => self.begin_probe(worker, question),
            None => Err(ProbeFailure::Other.into()),
        };
        if let Err(failed) = begun {
            let event = self.probed(worker, Err(failed));
            self.facts.push_back(event);
        }
    }

    fn begin_probe(&mut self, worker: WorkerId, question: Arc<Question>) -> Result<(), Failed> {
        let (socket, is_tls) = self.probed_socket(worker).ok_or(ProbeFailure::NoAddress)?;
        let pids = self
            .core
            .holders()
            .filter(|(held, _)| *held == socket)
            .filter_map(|(_, holder)| Some(self.crew.member(holder)?.pid))
            .collect();
        let (road, rule) = match self.pool.begin_probe(socket) {
            Ok(Way::Tcp {
                socket: client,
                source,
                target,
            }) => {
                let road = Road::Tcp {
                    socket: client,
                    source,
                    target,
                };
                (road, Some((socket.address, source)))
            }
            Ok(Way::Connected(client)) => (Road::Connected(client), None),
            Err(NoWay::Busy) => {
                self.proving.waiting.push_back(worker);
                return Ok(());
            }
            Err(NoWay::Unsteerable) => return Err(ProbeFailure::Unsteerable.into()),
            Err(NoWay::Failed(error)) => return Err(Failed::of_io(&error)),
        };
        let subject = Subject { road, is_tls, pids };
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            let accepted = || {
                if let Some((address, source)) = rule {
                    let _ = inputs.send(Input::Probing(Probing::Accepted(address, source)));
                }
            };
            let result = probe::ask(&question, subject, accepted).await;
            let _ = inputs.send(Input::Probing(Probing::Ended(worker, rule, result)));
        });
        Ok(())
    }

    /// The socket of the first address at which it listens and can be reached, and whether its server
    /// there speaks TLS.
    fn probed_socket(&self, worker: WorkerId) -> Option<(SocketRef, bool)> {
        let member = self.crew.member(worker)?;
        member.record.listens.iter().find_map(|address| {
            let address = AddressId(*address);
            let mut holders = self.core.holders();
            let (socket, _) = holders
                .find(|(socket, holder)| *holder == worker && socket.address == address)
                .filter(|_| self.pool.takes_connections(address))?;
            Some((socket, member.record.tls.contains(&address.0)))
        })
    }

    pub(super) fn hear_probing(&mut self, news: Probing) {
        match news {
            Probing::Accepted(address, source) => self.pool.end_probe(address, source),
            Probing::Ended(worker, rule, result) => {
                if let Some((address, source)) = rule {
                    self.pool.end_probe(address, source);
                }
                let event = self.probed(worker, result);
                self.feed(event);
            }
        }
        if let Some(next) = self.proving.waiting.pop_front() {
            self.probe(next);
            self.work();
        }
    }

    fn probed(&mut self, worker: WorkerId, result: Result<(), Failed>) -> Event {
        let verdict = match result {
            Ok(()) => ProbeVerdict::Passed,
            Err(Failed { failure, detail }) => {
                tracing::debug!(%worker, ?failure, detail, "a probe failed");
                self.records.probe_failed(worker, detail);
                ProbeVerdict::Failed(failure)
            }
        };
        Event::Probed { worker, verdict }
    }
}
