//! What the view shows and what keys and news make of it: facts come in, orders for the shell go out. It asks
//! nobody, draws nothing, and reads no clock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use segue_wire::control::{App, Log, Outcome, Progress, Status, Worker};

use super::keys::Key;
use super::rows::{Place, Row, rows};
use crate::cli::follow::{exit_of, named, told, too_fast};
use crate::cli::output::Tone;
use crate::exit::Exit;
use crate::telemetry::log::Verbosity;
use crate::telemetry::terminal::plain;

/// So much news, and so many lines of a log, are kept.
pub(super) const KEPT: usize = 200;
/// How far a key moves by a page.
const PAGE: usize = 10;
/// Processor time is counted in ticks: over less than this its share would jump.
const SHARE_OVER_MS: u64 = 900;

/// A moment, to measure with and to show.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) at: Instant,
    pub(super) wall: Timestamp,
}

/// What has happened.
#[derive(Debug)]
pub(super) enum Event {
    Answered(Box<Status>),
    /// The supervisor was asked in vain: why.
    Unanswered(String),
    Told(Progress),
    /// More of an app's log.
    Logged {
        app: String,
        lines: Vec<String>,
    },
    /// It cannot be shown: why.
    LogFailed {
        app: String,
        why: String,
    },
    /// A reload that was asked for here: how it ended, or why nobody knows.
    Reloaded(Result<Box<Outcome>, String>),
    Pressed(Key),
    /// Some time.
    Passed,
}

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Quit,
    Suspend,
    /// Forget what is on the screen and draw it anew.
    Redraw,
    Reload(String),
    /// Show this app's log from now on, or none.
    Follow(Option<(String, Log)>),
}

/// What keys mean at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Table,
    Help,
    /// Whether to reload this app.
    Question(String),
}

/// A line of the pane of news.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct News {
    /// By the supervisor's clock.
    pub(super) at: Option<Timestamp>,
    pub(super) text: String,
    pub(super) tone: Option<Tone>,
}

/// The pane of the selected app's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogPane {
    pub(super) app: String,
    /// The file, if there is one.
    pub(super) log: Option<Log>,
    pub(super) lines: VecDeque<String>,
    pub(super) trouble: Option<String>,
}

/// Since when there has been no answer, and why, if that is known.
#[derive(Clone, Debug)]
pub(super) struct Silence {
    pub(super) since: Now,
    pub(super) why: Option<String>,
}

/// Processor time of a worker, as it was.
#[derive(Clone, Copy, Debug)]
struct Sample {
    cpu_ms: u64,
    age_ms: u64,
    /// What it came to: time used, and of how much.
    share: (u64, u64),
}

#[derive(Debug)]
pub(super) struct State {
    /// Only this one is shown.
    only: Option<String>,
    /// Longer than this without an answer is worth telling.
    patience: Duration,
    pub(super) status: Status,
    answered: Now,
    pub(super) now: Now,
    pub(super) silence: Option<Silence>,
    samples: BTreeMap<(String, u32), Sample>,
    folded: BTreeSet<String>,
    selected: Option<Place>,
    /// Where it was, for when it goes.
    position: usize,
    pub(super) mode: Mode,
    /// What a key has come to, until the next one.
    pub(super) said: Option<(String, Tone)>,
    pub(super) news: VecDeque<News>,
    shows_log: bool,
    pub(super) log: Option<LogPane>,
}

impl State {
    /// `patience` is how long an answer may take.
    pub(super) fn new(only: Option<String>, patience: Duration, status: Status, now: Now) -> Self {
        let mut state = Self {
            only,
            patience,
            status: Status::default(),
            answered: now,
            now,
            silence: None,
            samples: BTreeMap::new(),
            folded: BTreeSet::new(),
            selected: None,
            position: 0,
            mode: Mode::Table,
            said: None,
            news: VecDeque::new(),
            shows_log: false,
            log: None,
        };
        state.answered(status);
        state
    }

    /// What comes of it.
    pub(super) fn handle(&mut self, now: Now, event: Event) -> Vec<Order> {
        self.now = now;
        let mut orders = Vec::new();
        match event {
            Event::Answered(status) => self.answered(*status),
            Event::Unanswered(why) => self.silent(Some(why)),
            Event::Told(progress) => self.told(&progress),
            Event::Logged { app, lines } => {
                if let Some(pane) = self.log.as_mut().filter(|pane| pane.app == app) {
                    pane.lines.extend(lines);
                    let extra = pane.lines.len().saturating_sub(KEPT);
                    pane.lines.drain(..extra);
                }
            }
            Event::LogFailed { app, why } => {
                if let Some(pane) = self.log.as_mut().filter(|pane| pane.app == app) {
                    pane.trouble = Some(plain(why.as_bytes()));
                }
            }
            Event::Reloaded(ended) => self.reloaded(ended),
            Event::Pressed(key) => orders.extend(self.pressed(key)),
            Event::Passed => {
                if now.at.saturating_duration_since(self.answered.at) > self.patience {
                    self.silent(None);
                }
            }
        }
        orders.extend(self.follow());
        orders
    }

    /// The apps that are shown.
    pub(super) fn apps(&self) -> impl Iterator<Item = &App> {
        let is_shown = |app: &&App| self.only.as_ref().is_none_or(|only| app.name == *only);
        self.status.apps.iter().filter(is_shown)
    }

    pub(super) fn rows(&self) -> Vec<Row> {
        rows(self.apps(), &self.folded, |app, worker| {
            self.samples
                .get(&(app.to_owned(), worker.worker))
                .map(|sample| sample.share)
        })
    }

    /// The row of `rows` that is selected.
    pub(super) fn selected(&self, rows: &[Row]) -> Option<usize> {
        let is_it = |row: &Row| Some(&row.place) == self.selected.as_ref();
        let last = rows.len().checked_sub(1)?;
        let found = rows.iter().position(is_it);
        Some(found.unwrap_or(self.position.min(last)))
    }

    /// Why there is nothing to show.
    pub(super) fn emptiness(&self) -> String {
        match &self.only {
            Some(only) => format!("the supervisor has no app named {} any more", shown(only)),
            None => "no app runs here: segue start adds one".to_owned(),
        }
    }

    fn answered(&mut self, status: Status) {
        self.answered = self.now;
        self.silence = None;
        let mut samples = BTreeMap::new();
        for app in &status.apps {
            for worker in &app.workers {
                let place = (app.name.clone(), worker.worker);
                let before = self.samples.get(&place).copied();
                if let Some(sample) = sampled(worker, before) {
                    samples.insert(place, sample);
                }
            }
        }
        self.samples = samples;
        self.status = status;
        // Whose row has gone is where the row was.
        let rows = self.rows();
        self.select(&rows, self.selected(&rows));
    }

    fn silent(&mut self, why: Option<String>) {
        let why = why.map(|why| plain(why.as_bytes()));
        match &mut self.silence {
            Some(silence) => silence.why = why.or(silence.why.take()),
            None => {
                let since = self.answered;
                self.silence = Some(Silence { since, why });
            }
        }
    }

    fn told(&mut self, progress: &Progress) {
        let are_many = self.status.apps.len() != 1;
        let news = match progress {
            Progress::Notice(notice) => {
                let is_foreign = |only: &String| !notice.app.is_empty() && notice.app != *only;
                if self.only.as_ref().is_some_and(is_foreign) {
                    return;
                }
                let Some((text, tone)) = told(notice, Verbosity::Normal, are_many) else {
                    return;
                };
                let at = i64::try_from(notice.at_ms).ok();
                let at = at.and_then(|at| Timestamp::from_millisecond(at).ok());
                News { at, text, tone }
            }
            Progress::Missed(missed) => News {
                at: None,
                text: too_fast(*missed),
                tone: Some(Tone::Faint),
            },
            Progress::Outcome(_) => return,
        };
        let text = plain(news.text.as_bytes());
        self.news.push_back(News { text, ..news });
        let extra = self.news.len().saturating_sub(KEPT);
        self.news.drain(..extra);
    }

    fn reloaded(&mut self, ended: Result<Box<Outcome>, String>) {
        let (text, tone) = match ended {
            Ok(outcome) => {
                let are_many = self.status.apps.len() != 1;
                let text = named(&outcome.app, &outcome.text, are_many);
                match (exit_of(&outcome), outcome.next.as_str()) {
                    (Exit::Done, _) => (text, Tone::Good),
                    (_, "") => (text, Tone::Bad),
                    (_, next) => (format!("{text}; {next}"), Tone::Bad),
                }
            }
            Err(why) => (why, Tone::Bad),
        };
        self.said = Some((plain(text.as_bytes()), tone));
    }

    fn pressed(&mut self, key: Key) -> Option<Order> {
        match key {
            Key::Interrupt => return Some(Order::Quit),
            Key::Suspend => return Some(Order::Suspend),
            Key::Redraw => return Some(Order::Redraw),
            _ => self.said = None,
        }
        match std::mem::replace(&mut self.mode, Mode::Table) {
            Mode::Help => None,
            Mode::Question(app) => match key {
                Key::Letter('y' | 'Y') => {
                    self.said = Some((format!("reload of {} asked for", shown(&app)), Tone::Good));
                    Some(Order::Reload(app))
                }
                // Anything else is no.
                _ => None,
            },
            Mode::Table => self.pressed_in_table(key),
        }
    }

    fn pressed_in_table(&mut self, key: Key) -> Option<Order> {
        let rows = self.rows();
        let at = self.selected(&rows);
        let move_to = |to: &dyn Fn(usize) -> usize| {
            let last = rows.len().checked_sub(1)?;
            Some(to(at?).min(last))
        };
        let to = match key {
            Key::Letter('q') | Key::Escape => return Some(Order::Quit),
            Key::Up | Key::Letter('k') => move_to(&|at| at.saturating_sub(1)),
            Key::Down | Key::Letter('j') => move_to(&|at| at + 1),
            Key::PageUp => move_to(&|at| at.saturating_sub(PAGE)),
            Key::PageDown => move_to(&|at| at + PAGE),
            Key::First | Key::Letter('g') => move_to(&|_| 0),
            Key::Last | Key::Letter('G') => move_to(&|_| usize::MAX),
            Key::Fold => {
                self.fold(&rows, at);
                return None;
            }
            Key::Letter('l') => {
                self.shows_log = !self.shows_log;
                return None;
            }
            Key::Letter('r') => {
                self.ask(&rows, at);
                return None;
            }
            Key::Letter('?' | 'h') => {
                self.mode = Mode::Help;
                return None;
            }
            Key::Letter(_) | Key::Interrupt | Key::Suspend | Key::Redraw => return None,
        };
        self.select(&rows, to);
        None
    }

    fn select(&mut self, rows: &[Row], to: Option<usize>) {
        if let Some((to, row)) = to.and_then(|to| Some((to, rows.get(to)?))) {
            self.position = to;
            self.selected = Some(row.place.clone());
        }
    }

    fn fold(&mut self, rows: &[Row], at: Option<usize>) {
        let Some(row) = at.and_then(|at| rows.get(at)) else {
            return;
        };
        let app = row.place.app.clone();
        if !self.folded.remove(&app) {
            self.folded.insert(app.clone());
        }
        // Its workers may be gone from sight.
        self.selected = Some(Place { app, worker: None });
        let rows = self.rows();
        self.position = self.selected(&rows).unwrap_or(0);
    }

    fn ask(&mut self, rows: &[Row], at: Option<usize>) {
        match at.and_then(|at| rows.get(at)) {
            Some(_) if self.silence.is_some() => {
                let text = "cannot reload: the supervisor does not answer";
                self.said = Some((text.to_owned(), Tone::Bad));
            }
            Some(row) => self.mode = Mode::Question(row.place.app.clone()),
            None => {
                let text = "cannot reload: there is no app";
                self.said = Some((text.to_owned(), Tone::Bad));
            }
        }
    }

    /// Whose log is to be shown, if that has changed.
    fn follow(&mut self) -> Option<Order> {
        let wanted = self.selected.as_ref().filter(|_| self.shows_log);
        let app = wanted.and_then(|place| self.apps().find(|app| app.name == place.app));
        let wanted = app.map(|app| (app.name.clone(), app.log.clone()));
        let shown = self.log.as_ref();
        if wanted == shown.map(|pane| (pane.app.clone(), pane.log.clone())) {
            return None;
        }
        self.log = wanted.clone().map(|(app, log)| LogPane {
            app,
            log,
            lines: VecDeque::new(),
            trouble: None,
        });
        Some(Order::Follow(
            wanted.and_then(|(app, log)| Some((app, log?))),
        ))
    }
}

/// A name as it may stand on the screen.
pub(super) fn shown(name: &str) -> String {
    plain(name.as_bytes())
}

/// Over the time since the sample before, where that is long enough; at first over the worker's life.
fn sampled(worker: &Worker, before: Option<Sample>) -> Option<Sample> {
    let (cpu_ms, age_ms) = (worker.cpu_ms?, worker.age_ms.filter(|age| *age > 0)?);
    let Some(before) = before else {
        let share = (cpu_ms, age_ms);
        return Some(Sample {
            cpu_ms,
            age_ms,
            share,
        });
    };
    let passed = age_ms.saturating_sub(before.age_ms);
    if passed < SHARE_OVER_MS {
        return Some(before);
    }
    Some(Sample {
        cpu_ms,
        age_ms,
        share: (cpu_ms.saturating_sub(before.cpu_ms), passed),
    })
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
