//! A run: what is asked for, its start, the handle on it, and its end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::client::{Client, Shared};
use crate::contract::Contract;
use crate::kind::Kind;
use crate::random::Random;
use crate::report::Report;
use crate::request::Writer;
use crate::tally::{Phase, Tally};
use crate::target::Target;

/// A load that can be started, any number of times.
#[derive(Clone, Debug)]
pub struct Load {
    kinds: Vec<Kind>,
    contract: Contract,
    seed: u64,
    requests: Option<u64>,
    number_in_query: bool,
    headers: Vec<(String, String)>,
    connect_timeout: Duration,
    answer_timeout: Duration,
    pause_after_failure: Duration,
}

/// Says what the load is.
#[derive(Clone, Debug)]
pub struct Builder(Load);

impl Load {
    /// No client yet; the [full](Contract::full) contract; 5 s to connect, 10 s to answer.
    #[must_use]
    pub fn builder() -> Builder {
        Builder(Self {
            kinds: Vec::new(),
            contract: Contract::full(),
            seed: 1,
            requests: None,
            number_in_query: true,
            headers: Vec::new(),
            connect_timeout: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(10),
            pause_after_failure: Duration::from_millis(10),
        })
    }

    /// Starts all clients as tasks of the current runtime.
    ///
    /// # Panics
    /// Outside of a tokio runtime with time and I/O.
    pub fn start(&self, target: impl Into<Target>) -> Running {
        let target = target.into();
        let classes = self.kinds.iter().map(|kind| (kind.name(), kind.is_timed()));
        let tally = Tally::new(classes, self.requests);
        let longest = self
            .kinds
            .iter()
            .map(Kind::extra_time)
            .max()
            .unwrap_or_default();
        let shared = Arc::new(Shared {
            writer: Writer {
                host: target.host(),
                number_in_query: self.number_in_query,
                headers: self.headers.clone(),
            },
            target,
            contract: self.contract.clone(),
            connect_timeout: self.connect_timeout,
            answer_timeout: self.answer_timeout,
            pause_after_failure: self.pause_after_failure,
            tally,
        });
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for (class, kind) in self.kinds.iter().enumerate() {
            for _ in 0..kind.clients() {
                let random = Random::new(self.seed, tasks.len() as u64);
                let client = Client::new(
                    Arc::clone(&shared),
                    class,
                    kind.clone(),
                    random,
                    stopped.clone(),
                );
                tasks.spawn(client.run());
            }
        }
        Running {
            shared,
            stop,
            tasks,
            // Connecting, answering and watching the end each have a limit; a second for the machine.
            ending: self.connect_timeout + self.answer_timeout + longest + Duration::from_secs(2),
        }
    }
}

impl Builder {
    /// Adds a kind of load.
    #[must_use]
    pub fn with(mut self, kind: impl Into<Kind>) -> Self {
        self.0.kinds.push(kind.into());
        self
    }

    #[must_use]
    pub fn contract(mut self, contract: Contract) -> Self {
        self.0.contract = contract;
        self
    }

    /// Seed of everything that is random. Default 1.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.0.seed = seed;
        self
    }

    /// Ends the run after so many requests of all clients together. Default: no such end.
    #[must_use]
    pub fn requests(mut self, requests: u64) -> Self {
        self.0.requests = Some(requests);
        self
    }

    /// Whether the number of the request is appended to its query as well. Default true.
    #[must_use]
    pub fn number_in_query(mut self, number_in_query: bool) -> Self {
        self.0.number_in_query = number_in_query;
        self
    }

    /// One more header in every request.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.headers.push((name.into(), value.into()));
        self
    }

    /// Default 5 s.
    #[must_use]
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.0.connect_timeout = limit;
        self
    }

    /// From the first byte sent to the last received, what the request itself asks for apart. Default 10 s.
    #[must_use]
    pub fn answer_timeout(mut self, limit: Duration) -> Self {
        self.0.answer_timeout = limit;
        self
    }

    /// How long a client waits after a failure before its next request, so that a server that
    /// refuses everything does not keep the machine busy. Default 10 ms.
    #[must_use]
    pub fn pause_after_failure(mut self, pause: Duration) -> Self {
        self.0.pause_after_failure = pause;
        self
    }

    #[must_use]
    pub fn build(self) -> Load {
        self.0
    }

    /// Builds and starts.
    ///
    /// # Panics
    /// As [`Load::start`].
    pub fn start(self, target: impl Into<Target>) -> Running {
        self.0.start(target)
    }
}

/// A load under way. Dropped, it ends at once and nothing is reported.
#[derive(Debug)]
#[must_use = "dropped, the load ends at once"]
pub struct Running {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    ending: Duration,
}

impl Running {
    /// Begins a new window of the time line.
    pub fn mark(&self, name: impl Into<String>, phase: Phase) {
        self.shared.tally.mark(name.into(), phase);
    }

    /// Says that a reload to `version` has been committed, and begins a steady window. From now
    /// on, answers by any other version that has been seen so far, on connections begun after this, are counted as stale.
    pub fn committed(&self, version: &str) {
        self.shared.tally.committed(version);
        self.mark(format!("committed {version}"), Phase::Steady);
    }

    /// What has been counted so far.
    #[must_use]
    pub fn snapshot(&self) -> Report {
        self.shared.tally.report()
    }

    /// Waits until so many requests have been answered since the start.
    pub async fn answered(&self, answers: u64) {
        self.wait(|tally| (tally.answers() >= answers).then_some(()))
            .await;
    }

    /// Waits until the counts are as wanted. Costs a snapshot for each change; for tests.
    pub async fn until(&self, wanted: impl Fn(&Report) -> bool) -> Report {
        self.wait(|tally| Some(tally.report()).filter(|report| wanted(report)))
            .await
    }

    async fn wait<T>(&self, look: impl Fn(&Tally) -> Option<T>) -> T {
        loop {
            let mut changed = std::pin::pin!(self.shared.tally.changed());
            changed.as_mut().enable();
            if let Some(found) = look(&self.shared.tally) {
                return found;
            }
            changed.await;
        }
    }

    /// Lets every client end what it has begun, within the limits of its request, and reports.
    pub async fn stop(self) -> Report {
        self.stop.send_replace(true);
        let ending = self.ending;
        self.finish(ending).await
    }

    /// Waits until the number of requests is reached that the builder was given, or `limit` has passed; what is
    /// then under way is given up and shows as [`Report::in_flight`].
    pub async fn finish(mut self, limit: Duration) -> Report {
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        let _ = timeout(limit, ended).await;
        self.tasks.abort_all();
        self.snapshot()
    }
}
