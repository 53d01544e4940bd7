//! What the supervisor remembers of its news, and how it tells the story: `segue why`.

use std::time::UNIX_EPOCH;

use segue_core::{Cause, Event, Generation, Notice, RequestId, WorkerId};
use segue_wire::control as wire;
use segue_wire::control::{Asked, Failure, ReloadOutcome, RestartRecord, Story};

use super::app_shell::AppShell;
use super::history::End;
use crate::control::convert;
use crate::control::names::Names;
use crate::control::wording;

impl AppShell {
    /// Somebody asks for what is kept in a record; to be fed next.
    pub(super) fn note_asked(&mut self, request: RequestId, kind: &str, asked: Asked) {
        let at = (self.now(), wall_ms());
        self.history.asked(request, kind, asked, at);
    }

    /// The core has been told of a request, and has given it a number or not.
    pub(super) fn note_numbered(&mut self, request: RequestId) {
        self.history.numbered(request, self.core.reload_of(request));
    }

    /// What is worth remembering of a notice.
    pub(super) fn remember(&mut self, notice: &Notice, told: &wire::Notice) {
        let now = self.now();
        match notice {
            Notice::ReloadStarted { reload, generation } => {
                let at = (now, told.at_ms);
                self.history.began(*reload, *generation, at);
            }
            Notice::ReloadStep { reload, step, .. } => {
                self.history.step(*reload, wording::step_code(step), now);
            }
            Notice::ReloadCommitted { reload, .. } => {
                let end = End::of(ReloadOutcome::Committed, told);
                self.history.ended(*reload, now, end);
            }
            Notice::ReloadFailed { reload, failure } => {
                let mut end = End::of(ReloadOutcome::Failed, told);
                if let (Cause::RolledBack, Some(asked)) = (failure.cause, self.history.declined()) {
                    end.text.push_str(&format!(", by {}", asked.text));
                }
                self.history.ended(*reload, now, end);
            }
            Notice::ReloadSuperseded { reload, by } => {
                let end = End {
                    by: Some(*by),
                    ..End::of(ReloadOutcome::Superseded, told)
                };
                self.history.ended(*reload, now, end);
            }
            Notice::WorkerFailed {
                worker,
                slot,
                cause,
            } => {
                if let Some(failure) = &told.failure {
                    self.records.failed(*slot, failure.clone());
                    let cause = wording::brief(cause, self.out_of_memory(*worker));
                    self.note_restart(*worker, failure.clone(), cause, told.at_ms);
                }
            }
            Notice::WorkerLeaving { worker, slot, why } => {
                self.records.leaves(*worker, wording::leaving(*why));
                if let Some((code, text)) = wording::replacement(*why) {
                    let failure = Failure {
                        worker: Some(worker.0),
                        slot: Some(slot.0),
                        pid: told.pid,
                        cause: code.to_owned(),
                        text: format!(
                            "{} is replaced: {}",
                            wording::subject(worker, slot, self),
                            wording::leaving(*why)
                        ),
                        ..Failure::default()
                    };
                    self.note_restart(*worker, failure, text.to_owned(), told.at_ms);
                }
            }
            _ => {}
        }
    }

    /// Of the serving generation: what becomes of another one is told by its reload.
    fn note_restart(&mut self, worker: WorkerId, failure: Failure, cause: String, at_ms: u64) {
        let Some(generation) = self.generation_of(worker) else {
            return;
        };
        if generation == self.core.view().serving {
            let record = RestartRecord {
                at_ms,
                generation: generation.0,
                failure,
            };
            self.history.restarted(record, cause);
        }
    }

    fn generation_of(&self, worker: WorkerId) -> Option<Generation> {
        match self.crew.member(worker) {
            Some(member) => Some(member.generation),
            None => self.records.deceased(worker)?.generation.map(Generation),
        }
    }

    pub(super) fn story(&self, supervisor: wire::Supervisor) -> Story {
        let now = self.now();
        Story {
            supervisor,
            app: convert::app(&self.core.view(), now, self),
            reloads: self.history.reloads(),
            restarts: self.history.restarts(),
        }
    }
}

impl End {
    fn of(outcome: ReloadOutcome, told: &wire::Notice) -> Self {
        Self {
            outcome,
            text: told.text.clone(),
            failure: told.failure.clone(),
            by: None,
        }
    }
}

/// The request that may become a reload.
pub(super) fn request_of(event: &Event) -> Option<RequestId> {
    match event {
        Event::ReloadRequested { request, .. }
        | Event::RollbackRequested { request }
        | Event::RestartRequested { request } => Some(*request),
        _ => None,
    }
}

fn wall_ms() -> u64 {
    let since = AppShell::wall_clock().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}
