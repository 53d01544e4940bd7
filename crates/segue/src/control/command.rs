//! What callers ask of the supervisor loop, and how it answers them without ever waiting for one.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use segue_wire::control::{
    ApplyBody, CanaryWish, Differences, Missed, Notice, Outcome, Problem, Progress, ScaleBody,
    Status, Story, Wait,
};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

/// How many events may wait for a caller that reads slowly.
const QUEUE: usize = 512;
/// Places of the queue that notices leave free, so that outcomes always find one.
const RESERVED: usize = 128;

/// One request, for the supervisor loop to answer.
#[derive(Debug)]
pub(crate) enum Command {
    Status {
        reply: oneshot::Sender<Status>,
    },
    /// An app that is new here.
    Start {
        definition: Value,
        caller: Caller,
    },
    /// One that has been stopped.
    StartAgain {
        app: String,
        caller: Caller,
    },
    /// Stop an app and forget it.
    Delete {
        app: String,
        caller: Caller,
    },
    /// What an apply would do.
    Compare {
        body: ApplyBody,
        reply: oneshot::Sender<Result<Differences, Problem>>,
    },
    /// Make a file what runs.
    Apply {
        body: ApplyBody,
        caller: Caller,
    },
    /// Without `app`, every app; each has its own outcome.
    Reload {
        app: Option<String>,
        wait: Wait,
        canary: CanaryWish,
        caller: Caller,
    },
    /// What a reload has brought is to stay, without a longer canary or probation.
    Promote {
        app: String,
        caller: Caller,
    },
    /// Back to the release before.
    Rollback {
        app: String,
        caller: Caller,
    },
    /// All workers at once, with a gap.
    Restart {
        app: String,
        caller: Caller,
    },
    /// What is remembered of an app.
    Why {
        app: String,
        reply: oneshot::Sender<Result<Story, Problem>>,
    },
    /// Answered with the outcome, a refusal included.
    Scale {
        app: String,
        scale: ScaleBody,
        /// By which the same request is known when it is made again.
        key: Option<String>,
        reply: oneshot::Sender<Result<Outcome, Problem>>,
    },
    /// Open the log files anew.
    ReopenLogs {
        reply: oneshot::Sender<Result<Outcome, Problem>>,
    },
    Stop {
        app: String,
        caller: Caller,
    },
    /// Stop every app, then end.
    Shutdown {
        caller: Caller,
    },
    /// Become another binary.
    Upgrade {
        binary: Option<PathBuf>,
        caller: Caller,
    },
    /// All notices of all apps from now on.
    Events {
        caller: Caller,
    },
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Peer {
    /// By the kernel's word, as of when it connected.
    pub(crate) uid: u32,
    pub(crate) pid: Option<u32>,
    /// It says that it is a command of ours.
    pub(crate) is_command: bool,
}

/// Somebody who waits to be told whether the request is accepted. Dropping it says that the
/// supervisor is ending.
#[derive(Debug)]
pub(crate) struct Caller {
    peer: Peer,
    /// By which the same request is known when it is made again.
    key: Option<String>,
    begun: oneshot::Sender<Result<mpsc::Receiver<Progress>, Problem>>,
}

/// The answer that a [`Caller`] gets.
pub(crate) type Begun = oneshot::Receiver<Result<mpsc::Receiver<Progress>, Problem>>;

/// Where an accepted caller is told what goes on. Its stream ends when every clone is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Teller {
    events: mpsc::Sender<Progress>,
    missed: Arc<AtomicU64>,
}

impl Caller {
    pub(crate) fn new(key: Option<String>, peer: Peer) -> (Self, Begun) {
        let (begun, answer) = oneshot::channel();
        (Self { peer, key, begun }, answer)
    }

    pub(crate) fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Begins the stream.
    pub(crate) fn accept(self) -> Asker {
        let (events, receiver) = mpsc::channel(QUEUE);
        // A caller that has gone does not cancel what it asked for.
        let _ = self.begun.send(Ok(receiver));
        Asker {
            peer: self.peer,
            key: self.key,
            teller: Teller {
                events,
                missed: Arc::default(),
            },
        }
    }

    /// Nothing will be done.
    pub(crate) fn refuse(self, problem: Problem) {
        let _ = self.begun.send(Err(problem));
    }
}

/// Somebody whose request has been accepted. Each clone may answer; the stream ends with the last.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    pub(crate) peer: Peer,
    pub(crate) key: Option<String>,
    pub(crate) teller: Teller,
}

impl Teller {
    /// Passes a notice on. A caller who does not read misses some and is told how many.
    pub(crate) fn notice(&self, notice: &Notice) {
        if self.events.capacity() <= RESERVED {
            self.missed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.tell_missed();
        let _ = self
            .events
            .try_send(Progress::Notice(Box::new(notice.clone())));
    }

    /// Passes the outcome for one app on.
    pub(crate) fn outcome(&self, outcome: Outcome) {
        self.tell_missed();
        let _ = self.events.try_send(Progress::Outcome(Box::new(outcome)));
    }

    /// Whether nobody listens any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.events.is_closed()
    }

    fn tell_missed(&self) {
        let count = self.missed.swap(0, Ordering::Relaxed);
        if count > 0 {
            let _ = self.events.try_send(Progress::Missed(Missed { count }));
        }
    }
}

#[cfg(test)]
mod tests {
    use segue_wire::control::OutcomeKind;

    use super::*;

    #[test]
    fn a_caller_that_reads_nothing_still_gets_the_outcome() {
        let (caller, mut begun) = Caller::new(None, Peer::default());
        let teller = caller.accept().teller;
        let mut events = begun.try_recv().unwrap().unwrap();
        for _ in 0..QUEUE * 2 {
            teller.notice(&Notice::default());
        }
        teller.outcome(Outcome {
            kind: OutcomeKind::Reloaded,
            ..Outcome::default()
        });
        drop(teller);
        let mut told = 0;
        let mut missed = 0;
        let mut outcomes = 0;
        while let Ok(event) = events.try_recv() {
            match event {
                Progress::Notice(_) => told += 1,
                Progress::Missed(Missed { count }) => missed += count,
                Progress::Outcome(_) => outcomes += 1,
            }
        }
        assert_eq!(told, QUEUE - RESERVED);
        assert_eq!(missed, (QUEUE + RESERVED) as u64);
        assert_eq!(outcomes, 1);
    }

    #[test]
    fn callers_that_left_are_no_trouble() {
        let (caller, begun) = Caller::new(None, Peer::default());
        drop(begun);
        let teller = caller.accept().teller;
        assert!(teller.is_gone());
        teller.notice(&Notice::default());
        teller.outcome(Outcome::default());
    }
}
