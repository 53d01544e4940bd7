//! The result of a run, as numbers: serialisable, comparable, and asked simple questions.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, FailureKind};
use crate::tally::Phase;

/// What a run has counted. All times in the units that the names say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub elapsed_ms: u64,
    /// One for each kind of load, in the order in which they were given.
    pub classes: Vec<ClassReport>,
    /// Who answered: by `x-segue-version`.
    pub versions: BTreeMap<String, Answers>,
    /// Who answered: by `x-segue-worker`.
    pub workers: BTreeMap<String, u64>,
    /// Answers by a version that connections begun after a commit must not reach. Not in `failures`.
    pub stale: u64,
    /// Requests without an outcome: under way in a snapshot; in a final report those that were given up
    /// because they did not even end at their time limit.
    pub in_flight: u64,
    /// Time to the whole answer, connecting included, while nothing was done to the server.
    pub steady: Latency,
    /// The same for requests that touched the window of a reload.
    pub reload: Latency,
    /// The time line, cut by the marks.
    pub windows: Vec<WindowReport>,
    /// The first failures in full, 500 at most.
    pub first_failures: Vec<Failure>,
}

/// One kind of load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassReport {
    pub name: String,
    /// Begun: each is answered, failed, cut, lost or refused.
    pub requests: u64,
    /// Right and whole.
    pub answers: u64,
    /// Cut on purpose, and not answered as if they were whole.
    pub cut: u64,
    /// WebSocket messages that were under way when the server's close frame came.
    pub lost_echoes: u64,
    /// HTTP/2 streams above the last one of a GOAWAY, or refused with `REFUSED_STREAM`: by the
    /// protocol nothing was done for them, and any client may send them again.
    pub safe_to_retry: u64,
    pub failures: BTreeMap<FailureKind, u64>,
    pub connections: Connections,
    pub latency: Latency,
}

/// How connections came and went, apart from those that ended in a failure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    pub opened: u64,
    /// The last answer said `Connection: close`, then the server closed.
    pub closed_announced: u64,
    /// It said so, but the server had not closed a second later.
    pub announced_but_open: u64,
    /// The server closed an idle connection without a word: with a slower network the next
    /// request would have been lost.
    pub closed_unannounced: u64,
    /// The server reset an idle connection.
    pub reset_idle: u64,
    pub closed_by_client: u64,
    /// WebSocket connections that the server ended with a close frame, by its code; 1005 without one.
    pub close_codes: BTreeMap<u16, u64>,
}

impl Connections {
    /// Ended by the server, in whatever way, with no request on them. WebSockets count by their close frames.
    #[must_use]
    pub fn closed_by_server(&self) -> u64 {
        self.closed_announced
            + self.announced_but_open
            + self.closed_unannounced
            + self.reset_idle
            + self.close_codes.values().sum::<u64>()
    }
}

/// Answers of one version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answers {
    /// To the first request of a connection.
    pub on_new_connections: u64,
    /// To later ones.
    pub on_old_connections: u64,
}

/// Percentiles in microseconds; all 0 when nothing was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    pub count: u64,
    pub p50_us: u64,
    pub p90_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    pub max_us: u64,
}

/// The time line between two marks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowReport {
    /// The mark that opened it; the first is called "start".
    pub name: String,
    pub phase: Phase,
    pub from_ms: u64,
    pub to_ms: u64,
    /// The most requests that were under way at once.
    pub peak_in_flight: u64,
    pub answers: u64,
    pub failures: BTreeMap<FailureKind, u64>,
    pub latency: Latency,
}

impl Report {
    /// All failures. A request can be answered and still end in one: a second answer, stray bytes.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.classes.iter().map(ClassReport::failed).sum()
    }

    #[must_use]
    pub fn failed_by(&self, kind: FailureKind) -> u64 {
        self.classes
            .iter()
            .filter_map(|class| class.failures.get(&kind))
            .sum()
    }

    /// Failures that the death of a process explains: cut off within the window of a [`Phase::Fault`], and
    /// no more of them than there were requests under way at once.
    #[must_use]
    pub fn excused(&self) -> u64 {
        self.windows
            .iter()
            .filter(|window| window.phase == Phase::Fault)
            .map(|window| {
                let cut_off = window.failures.iter().filter(|(kind, _)| kind.is_cut_off());
                cut_off
                    .map(|(_, count)| count)
                    .sum::<u64>()
                    .min(window.peak_in_flight)
            })
            .sum()
    }

    #[must_use]
    pub fn requests(&self) -> u64 {
        self.classes.iter().map(|class| class.requests).sum()
    }

    #[must_use]
    pub fn answers(&self) -> u64 {
        self.classes.iter().map(|class| class.answers).sum()
    }

    /// Connections of all kinds of load that the server ended.
    #[must_use]
    pub fn closed_by_server(&self) -> u64 {
        let closed = |class: &ClassReport| class.connections.closed_by_server();
        self.classes.iter().map(closed).sum()
    }

    /// The first kind of load with this name.
    #[must_use]
    pub fn class(&self, name: &str) -> Option<&ClassReport> {
        self.classes.iter().find(|class| class.name == name)
    }
}

impl ClassReport {
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}

impl Latency {
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        Self {
            count: histogram.len(),
            p50_us: histogram.value_at_quantile(0.5),
            p90_us: histogram.value_at_quantile(0.9),
            p99_us: histogram.value_at_quantile(0.99),
            p999_us: histogram.value_at_quantile(0.999),
            max_us: histogram.max(),
        }
    }
}
