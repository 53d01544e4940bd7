//! Who waits for what, in one app: joins the core's replies with the callers that asked.
//!
//! It only keeps addresses to answer to. A request whose caller has left is carried out all the same.

use std::collections::BTreeMap;

use segue_core::{Generation, RequestId};
use segue_wire::control::{Notice, Outcome, OutcomeKind, Wait};
use tokio::sync::oneshot;

use super::command::Teller;

/// The callers of one app.
#[derive(Debug, Default)]
pub(crate) struct Callers {
    waiting: BTreeMap<RequestId, Waiting>,
    /// Reloads that are committed, whose callers wait until the old generation is gone.
    held: Vec<Held>,
    watching: Vec<Teller>,
}

#[derive(Debug)]
enum Waiting {
    Stream { teller: Teller, until_drained: bool },
    Once(oneshot::Sender<Outcome>),
}

#[derive(Debug)]
struct Held {
    teller: Teller,
    generation: Generation,
    outcome: Outcome,
}

impl Callers {
    /// Somebody waits for a reload.
    pub(crate) fn reload(&mut self, app: &str, request: RequestId, wait: Wait, teller: Teller) {
        let until_drained = match wait {
            Wait::None => {
                teller.outcome(Outcome {
                    kind: OutcomeKind::Accepted,
                    app: app.to_owned(),
                    text: "the reload is accepted; nobody waits for its outcome".to_owned(),
                    ..Outcome::default()
                });
                return;
            }
            Wait::Committed => false,
            Wait::Drained => true,
        };
        self.waiting.insert(
            request,
            Waiting::Stream {
                teller,
                until_drained,
            },
        );
    }

    /// Somebody waits for the outcome, whatever is asked for.
    pub(crate) fn wait(&mut self, request: RequestId, teller: Teller) {
        self.waiting.insert(
            request,
            Waiting::Stream {
                teller,
                until_drained: false,
            },
        );
    }

    /// Somebody waits for the supervisor to be another one.
    pub(crate) fn upgrade(&mut self, request: RequestId, teller: Teller) {
        self.wait(request, teller);
    }

    /// Somebody waits for one answer, without progress.
    pub(crate) fn once(&mut self, request: RequestId, reply: oneshot::Sender<Outcome>) {
        self.waiting.insert(request, Waiting::Once(reply));
    }

    /// Somebody watches.
    pub(crate) fn watch(&mut self, teller: Teller) {
        self.watching.push(teller);
    }

    /// News for everybody who waits or watches.
    pub(crate) fn tell(&mut self, notice: &Notice) {
        self.watching.retain(|teller| !teller.is_gone());
        let waiting = self.waiting.values().filter_map(|waiting| match waiting {
            Waiting::Stream { teller, .. } => Some(teller),
            Waiting::Once(_) => None,
        });
        let held = self.held.iter().map(|held| &held.teller);
        for teller in waiting.chain(held).chain(&self.watching) {
            teller.notice(notice);
        }
    }

    /// Whether somebody waits for the outcome of this request.
    pub(crate) fn is_waiting(&self, request: RequestId) -> bool {
        self.waiting.contains_key(&request)
    }

    /// A request has ended. Ignored when nobody asked for it here.
    pub(crate) fn answer(&mut self, request: RequestId, outcome: Outcome) {
        match self.waiting.remove(&request) {
            Some(Waiting::Stream {
                teller,
                until_drained,
            }) => match (until_drained, outcome.kind, outcome.generation) {
                (true, OutcomeKind::Reloaded, Some(generation)) => self.held.push(Held {
                    teller,
                    generation: Generation(generation),
                    outcome,
                }),
                _ => teller.outcome(outcome),
            },
            Some(Waiting::Once(reply)) => {
                // The caller may have left.
                let _ = reply.send(outcome);
            }
            None => {}
        }
    }

    /// Answers those who wait for an old generation to be gone. `oldest` is the oldest generation that
    /// has a worker, `None` when there is no worker at all. To be called after every event.
    pub(crate) fn release(&mut self, oldest: Option<Generation>) {
        let gone = |held: &mut Held| oldest.is_none_or(|oldest| held.generation <= oldest);
        for held in self.held.extract_if(.., gone) {
            held.teller.outcome(held.outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use segue_wire::control::Progress;
    use tokio::sync::mpsc;

    use super::*;
    use crate::control::command::{Caller, Peer};

    fn stream() -> (Teller, mpsc::Receiver<Progress>) {
        let (caller, mut begun) = Caller::new(None, Peer::default());
        let teller = caller.accept().teller;
        (teller, begun.try_recv().unwrap().unwrap())
    }

    fn reloaded(generation: u32) -> Outcome {
        Outcome {
            kind: OutcomeKind::Reloaded,
            generation: Some(generation),
            ..Outcome::default()
        }
    }

    fn received(events: &mut mpsc::Receiver<Progress>) -> Vec<String> {
        let mut kinds = Vec::new();
        loop {
            match events.try_recv() {
                Ok(Progress::Notice(notice)) => kinds.push(notice.kind.clone()),
                Ok(Progress::Outcome(outcome)) => kinds.push(format!("{:?}", outcome.kind)),
                Ok(Progress::Missed(_)) => kinds.push("missed".to_owned()),
                Err(mpsc::error::TryRecvError::Empty) => return kinds,
                Err(mpsc::error::TryRecvError::Disconnected) => {
                    kinds.push("end".to_owned());
                    return kinds;
                }
            }
        }
    }

    fn notice(kind: &str) -> Notice {
        Notice {
            kind: kind.to_owned(),
            ..Notice::default()
        }
    }

    #[test]
    fn each_caller_waits_for_what_it_asked() {
        let mut callers = Callers::default();
        let (at_once, mut at_once_events) = stream();
        let (committed, mut committed_events) = stream();
        let (drained, mut drained_events) = stream();
        let (watching, mut watching_events) = stream();
        callers.reload("web", RequestId(1), Wait::None, at_once);
        callers.reload("web", RequestId(2), Wait::Committed, committed);
        callers.reload("web", RequestId(3), Wait::Drained, drained);
        callers.watch(watching);
        assert_eq!(received(&mut at_once_events), ["Accepted", "end"]);

        callers.tell(&notice("a"));
        for request in 1..=4 {
            callers.answer(RequestId(request), reloaded(2));
        }
        callers.release(Some(Generation(1)));
        assert_eq!(received(&mut committed_events), ["a", "Reloaded", "end"]);
        assert_eq!(received(&mut drained_events), ["a"]);

        callers.tell(&notice("b"));
        callers.release(Some(Generation(2)));
        assert_eq!(received(&mut drained_events), ["b", "Reloaded", "end"]);
        assert_eq!(received(&mut watching_events), ["a", "b"]);

        drop(watching_events);
        callers.tell(&notice("c"));
        assert!(callers.watching.is_empty());
    }

    #[test]
    fn an_app_without_workers_keeps_nobody_waiting() {
        let mut callers = Callers::default();
        let (teller, mut events) = stream();
        callers.reload("web", RequestId(1), Wait::Drained, teller);
        callers.answer(RequestId(1), reloaded(2));
        callers.release(None);
        assert_eq!(received(&mut events), ["Reloaded", "end"]);
    }

    #[test]
    fn a_failed_reload_is_told_at_once_to_all() {
        let mut callers = Callers::default();
        let (teller, mut events) = stream();
        callers.reload("web", RequestId(1), Wait::Drained, teller);
        let failed = Outcome {
            kind: OutcomeKind::ReloadFailed,
            ..Outcome::default()
        };
        callers.answer(RequestId(1), failed);
        assert_eq!(received(&mut events), ["ReloadFailed", "end"]);
    }
}
