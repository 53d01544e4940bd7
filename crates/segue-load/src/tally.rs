//! What has been counted so far, shared by all clients of a run. Counts; judges nothing.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::connection::Answer;
use crate::failure::{Failure, FailureKind, Trouble};
use crate::report::{Answers, ClassReport, Connections, Latency, Report, WindowReport};

/// How many failures are kept with their details.
const KEPT_FAILURES: usize = 500;
/// How many versions and workers are told apart; further ones are counted together.
const KEPT_NAMES: usize = 1000;
const OTHERS: &str = "(others)";

/// What goes on in a window of the time line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nothing is done to the server.
    Steady,
    /// It is being reloaded.
    Reload,
    /// A process of it was killed: what that process had in hand is lost.
    Fault,
}

#[derive(Debug)]
pub(crate) struct Tally {
    started: Instant,
    counts: Mutex<Counts>,
    changed: Notify,
}

#[derive(Debug)]
struct Counts {
    next_number: u64,
    last_number: u64,
    in_flight: u64,
    classes: Vec<Class>,
    windows: Vec<Window>,
    versions: BTreeMap<String, Answers>,
    workers: BTreeMap<String, u64>,
    /// Versions that connections begun after the given moment must not reach any more.
    retired: BTreeMap<String, Instant>,
    stale: u64,
    first_failures: Vec<Failure>,
}

#[derive(Debug)]
struct Class {
    name: &'static str,
    is_timed: bool,
    requests: u64,
    answers: u64,
    cut: u64,
    lost_echoes: u64,
    safe_to_retry: u64,
    failures: BTreeMap<FailureKind, u64>,
    connections: Connections,
    latency: Histogram<u64>,
}

#[derive(Debug)]
struct Window {
    name: String,
    phase: Phase,
    began: Instant,
    peak_in_flight: u64,
    answers: u64,
    failures: BTreeMap<FailureKind, u64>,
    latency: Histogram<u64>,
}

/// A request that has begun and must end as answered, failed or cut.
#[derive(Debug)]
#[must_use]
pub(crate) struct Ticket {
    pub(crate) number: u64,
    class: usize,
    window: usize,
    begun: Instant,
}

/// Where something happened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    pub(crate) local_port: Option<u16>,
    pub(crate) answered_before: u64,
}

/// How a connection ended without a request on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    /// The last answer said `Connection: close`, and the end came.
    Announced,
    /// It said so, and then nothing happened for a while.
    AnnouncedOnly,
    /// End of stream without a word.
    Unannounced,
    /// Reset while idle, announced or not.
    Reset,
    /// We closed it.
    Client,
}

impl Tally {
    pub(crate) fn new(
        classes: impl Iterator<Item = (&'static str, bool)>,
        bound: Option<u64>,
    ) -> Self {
        let started = Instant::now();
        Self {
            started,
            counts: Mutex::new(Counts {
                next_number: 1,
                last_number: bound.unwrap_or(u64::MAX),
                in_flight: 0,
                classes: classes
                    .map(|(name, is_timed)| Class::new(name, is_timed))
                    .collect(),
                windows: vec![Window::new("start".to_owned(), Phase::Steady, started, 0)],
                versions: BTreeMap::new(),
                workers: BTreeMap::new(),
                retired: BTreeMap::new(),
                stale: 0,
                first_failures: Vec::new(),
            }),
            changed: Notify::new(),
        }
    }

    // The counts are plain numbers: a panic elsewhere cannot leave them half-changed in a way that matters.
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Numbers a request; `None` when the run has had as many as it may.
    pub(crate) fn begin(&self, class: usize) -> Option<Ticket> {
        let mut counts = self.lock();
        let number = counts.next_number;
        if number > counts.last_number {
            return None;
        }
        counts.next_number += 1;
        counts.in_flight += 1;
        counts.class(class).requests += 1;
        let window = counts.windows.len() - 1;
        let in_flight = counts.in_flight;
        let peak = &mut counts.windows[window].peak_in_flight;
        *peak = in_flight.max(*peak);
        Some(Ticket {
            number,
            class,
            window,
            begun: Instant::now(),
        })
    }

    pub(crate) fn answered(&self, ticket: &Ticket, opened: Instant, place: Place, answer: &Answer) {
        let micros = u64::try_from(ticket.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut counts = self.lock();
        counts.in_flight -= 1;
        let class = counts.class(ticket.class);
        class.answers += 1;
        let is_timed = class.is_timed;
        class.latency.saturating_record(micros);
        let window = counts.window_of(ticket.window);
        window.answers += 1;
        if is_timed {
            window.latency.saturating_record(micros);
        }
        if let Some(version) = &answer.version {
            let is_stale = counts
                .retired
                .get(version)
                .is_some_and(|retired| opened > *retired);
            counts.stale += u64::from(is_stale);
            let answers = entry(&mut counts.versions, version);
            if place.answered_before == 0 {
                answers.on_new_connections += 1;
            } else {
                answers.on_old_connections += 1;
            }
        }
        if let Some(worker) = &answer.worker {
            *entry(&mut counts.workers, worker) += 1;
        }
        drop(counts);
        self.changed.notify_waiters();
    }

    pub(crate) fn failed(&self, ticket: &Ticket, place: Place, trouble: Trouble) {
        let mut counts = self.lock();
        counts.in_flight -= 1;
        counts.fail(
            self.started,
            ticket.class,
            ticket.window,
            ticket.number,
            place,
            trouble,
        );
        drop(counts);
        self.changed.notify_waiters();
    }

    /// A cut request came to nothing, as it should.
    pub(crate) fn cut(&self, ticket: &Ticket) {
        let mut counts = self.lock();
        counts.in_flight -= 1;
        counts.class(ticket.class).cut += 1;
        drop(counts);
        self.changed.notify_waiters();
    }

    /// A WebSocket message was under way when a close frame came.
    pub(crate) fn lost(&self, ticket: &Ticket) {
        let mut counts = self.lock();
        counts.in_flight -= 1;
        counts.class(ticket.class).lost_echoes += 1;
        drop(counts);
        self.changed.notify_waiters();
    }

    /// The server said of a stream that it had not begun with it.
    #[cfg(feature = "http2")]
    pub(crate) fn refused(&self, ticket: &Ticket) {
        let mut counts = self.lock();
        counts.in_flight -= 1;
        counts.class(ticket.class).safe_to_retry += 1;
        drop(counts);
        self.changed.notify_waiters();
    }

    /// The server ended a WebSocket connection with a close frame.
    pub(crate) fn close_frame(&self, class: usize, code: Option<u16>) {
        let mut counts = self.lock();
        let codes = &mut counts.class(class).connections.close_codes;
        // 1005 stands for a frame without a code (RFC 6455, 7.1.5).
        *codes.entry(code.unwrap_or(1005)).or_default() += 1;
        drop(counts);
        self.changed.notify_waiters();
    }

    /// A request was given up before anything of it was sent: it has never been.
    pub(crate) fn unsent(&self, ticket: &Ticket) {
        let mut counts = self.lock();
        counts.in_flight -= 1;
        counts.class(ticket.class).requests -= 1;
        drop(counts);
        self.changed.notify_waiters();
    }

    /// A failure after the answer to request `number`.
    pub(crate) fn failed_after(&self, class: usize, number: u64, place: Place, trouble: Trouble) {
        let mut counts = self.lock();
        let window = counts.windows.len() - 1;
        counts.fail(self.started, class, window, number, place, trouble);
        drop(counts);
        self.changed.notify_waiters();
    }

    pub(crate) fn opened(&self, class: usize) {
        self.lock().class(class).connections.opened += 1;
    }

    pub(crate) fn closed(&self, class: usize, closing: Closing) {
        let mut counts = self.lock();
        let connections = &mut counts.class(class).connections;
        *match closing {
            Closing::Announced => &mut connections.closed_announced,
            Closing::AnnouncedOnly => &mut connections.announced_but_open,
            Closing::Unannounced => &mut connections.closed_unannounced,
            Closing::Reset => &mut connections.reset_idle,
            Closing::Client => &mut connections.closed_by_client,
        } += 1;
        drop(counts);
        self.changed.notify_waiters();
    }

    pub(crate) fn mark(&self, name: String, phase: Phase) {
        let mut counts = self.lock();
        let window = Window::new(name, phase, Instant::now(), counts.in_flight);
        counts.windows.push(window);
    }

    /// Every version that was seen or current so far, except this one, must not be reached by connections begun from now on.
    pub(crate) fn committed(&self, version: &str) {
        let now = Instant::now();
        let mut counts = self.lock();
        let seen: Vec<String> = counts.versions.keys().cloned().collect();
        for old in seen {
            counts.retired.entry(old).or_insert(now);
        }
        counts.retired.remove(version);
    }

    /// Completes at the next change; create it before looking, or a change is missed.
    pub(crate) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }

    pub(crate) fn answers(&self) -> u64 {
        self.lock().classes.iter().map(|class| class.answers).sum()
    }

    pub(crate) fn report(&self) -> Report {
        let now = Instant::now();
        let counts = self.lock();
        Report {
            elapsed_ms: millis(now - self.started),
            classes: counts.classes.iter().map(Class::report).collect(),
            versions: counts.versions.clone(),
            workers: counts.workers.clone(),
            stale: counts.stale,
            in_flight: counts.in_flight,
            steady: counts.latency(|phase| phase == Phase::Steady),
            reload: counts.latency(|phase| phase == Phase::Reload),
            windows: counts.window_reports(self.started, now),
            first_failures: counts.first_failures.clone(),
        }
    }
}

impl Counts {
    // A ticket's class and window come from this tally, so the indices are in range.
    fn class(&mut self, class: usize) -> &mut Class {
        &mut self.classes[class]
    }

    /// The window that a request counts for, which began in window `first` and ends now: the
    /// first in which something was done to the server, else the current one.
    fn window_of(&mut self, first: usize) -> &mut Window {
        let last = self.windows.len() - 1;
        let index = (first..=last)
            .find(|&index| self.windows[index].phase != Phase::Steady)
            .unwrap_or(last);
        &mut self.windows[index]
    }

    fn fail(
        &mut self,
        started: Instant,
        class: usize,
        window: usize,
        request: u64,
        place: Place,
        trouble: Trouble,
    ) {
        *self.class(class).failures.entry(trouble.kind).or_default() += 1;
        // A request belongs to the window it began in, but what a killed process cut off belongs
        // to the kill: a download may have begun windows before.
        let present = self.windows.len() - 1;
        let is_fault = self
            .windows
            .get(present)
            .is_some_and(|window| window.phase == Phase::Fault);
        let window = if is_fault && trouble.kind.is_cut_off() {
            present
        } else {
            window
        };
        let window = self.window_of(window);
        *window.failures.entry(trouble.kind).or_default() += 1;
        let window = window.name.clone();
        if self.first_failures.len() < KEPT_FAILURES {
            self.first_failures.push(Failure {
                at_ms: millis(started.elapsed()),
                kind: trouble.kind,
                class: self.classes[class].name.to_owned(),
                request,
                local_port: place.local_port,
                answered_before: place.answered_before,
                window,
                detail: trouble.detail,
            });
        }
    }

    fn latency(&self, wanted: impl Fn(Phase) -> bool) -> Latency {
        let mut sum = histogram();
        for window in self.windows.iter().filter(|window| wanted(window.phase)) {
            // Both have the same bounds and precision, so that adding cannot fail.
            let _ = sum.add(&window.latency);
        }
        Latency::of(&sum)
    }

    fn window_reports(&self, started: Instant, now: Instant) -> Vec<WindowReport> {
        let ends = self
            .windows
            .iter()
            .skip(1)
            .map(|window| window.began)
            .chain([now]);
        let report = |(window, end): (&Window, Instant)| WindowReport {
            name: window.name.clone(),
            phase: window.phase,
            from_ms: millis(window.began - started),
            to_ms: millis(end - started),
            peak_in_flight: window.peak_in_flight,
            answers: window.answers,
            failures: window.failures.clone(),
            latency: Latency::of(&window.latency),
        };
        self.windows.iter().zip(ends).map(report).collect()
    }
}

impl Class {
    fn new(name: &'static str, is_timed: bool) -> Self {
        Self {
            name,
            is_timed,
            requests: 0,
            answers: 0,
            cut: 0,
            lost_echoes: 0,
            safe_to_retry: 0,
            failures: BTreeMap::new(),
            connections: Connections::default(),
            latency: histogram(),
        }
    }

    fn report(&self) -> ClassReport {
        ClassReport {
            name: self.name.to_owned(),
            requests: self.requests,
            answers: self.answers,
            cut: self.cut,
            lost_echoes: self.lost_echoes,
            safe_to_retry: self.safe_to_retry,
            failures: self.failures.clone(),
            connections: self.connections.clone(),
            latency: Latency::of(&self.latency),
        }
    }
}

impl Window {
    fn new(name: String, phase: Phase, began: Instant, in_flight: u64) -> Self {
        Self {
            name,
            phase,
            began,
            peak_in_flight: in_flight,
            answers: 0,
            failures: BTreeMap::new(),
            latency: histogram(),
        }
    }
}

// Longer times than the limit, ten minutes, are recorded as the limit.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("bounds and precision are supported")
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The value under `name`, or under a common name when there are too many: a server chooses the names.
fn entry<'a, V: Default>(map: &'a mut BTreeMap<String, V>, name: &str) -> &'a mut V {
    let name = if map.contains_key(name) || map.len() < KEPT_NAMES {
        name
    } else {
        OTHERS
    };
    map.entry(name.to_owned()).or_default()
}
