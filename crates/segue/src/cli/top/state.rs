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
mod tests {
    use segue_wire::control::{Level, Notice, OutcomeKind};

    use super::*;
    use crate::cli::top::recorded;

    fn state() -> State {
        let status = recorded::status();
        State::new(None, Duration::from_secs(3), status, recorded::now())
    }

    fn press(state: &mut State, keys: &[Key]) -> Vec<Order> {
        let press = |key: &Key| state.handle(state.now, Event::Pressed(*key));
        keys.iter().flat_map(press).collect()
    }

    fn place(state: &State) -> String {
        let rows = state.rows();
        let place = &rows[state.selected(&rows).unwrap()].place;
        match place.worker {
            Some(worker) => format!("{} {worker}", place.app),
            None => place.app.clone(),
        }
    }

    #[test]
    fn keys_move_and_fold() {
        use Key::{Down, First, Fold, Last, Letter, PageDown, PageUp, Up};
        for (keys, expected, rows) in [
            (&[][..], "web", 6),
            (&[Up], "web", 6),
            (&[Down], "web 3", 6),
            (&[Letter('j'), Letter('j'), Letter('k')], "web 3", 6),
            (&[Last], "api 2", 6),
            (&[Last, Down], "api 2", 6),
            (&[PageDown, PageUp], "web", 6),
            (&[Letter('G'), Letter('g')], "web", 6),
            (&[Last, First], "web", 6),
            (&[Down, Down, Fold], "web", 3),
            (&[Fold, Down], "api", 3),
            (&[Fold, Fold, Down], "web 3", 6),
            (&[Letter('x')], "web", 6),
        ] {
            let mut state = state();
            assert_eq!(press(&mut state, keys), []);
            assert_eq!(place(&state), expected, "{keys:?}");
            assert_eq!(state.rows().len(), rows, "{keys:?}");
        }
    }

    #[test]
    fn keys_that_end_it() {
        for (keys, orders) in [
            (&[Key::Letter('q')][..], &[Order::Quit][..]),
            (&[Key::Escape], &[Order::Quit]),
            (&[Key::Interrupt], &[Order::Quit]),
            (&[Key::Suspend], &[Order::Suspend]),
            (&[Key::Redraw], &[Order::Redraw]),
            // Out of the help, and of the question, first.
            (&[Key::Letter('?'), Key::Escape], &[]),
            (&[Key::Letter('?'), Key::Letter('q')], &[]),
            (&[Key::Letter('r'), Key::Letter('q')], &[]),
            (&[Key::Letter('?'), Key::Interrupt], &[Order::Quit]),
        ] {
            assert_eq!(press(&mut state(), keys), orders, "{keys:?}");
        }
    }

    #[test]
    fn a_reload_is_asked_for_after_a_question() {
        let mut state = state();
        assert_eq!(press(&mut state, &[Key::Last, Key::Letter('r')]), []);
        assert_eq!(state.mode, Mode::Question("api".to_owned()));
        assert_eq!(press(&mut state, &[Key::Letter('n')]), []);
        assert_eq!(state.mode, Mode::Table);
        let orders = press(&mut state, &[Key::Letter('r'), Key::Letter('y')]);
        assert_eq!(orders, [Order::Reload("api".to_owned())]);
        for (kind, text, next, tone) in [
            (OutcomeKind::Reloaded, "reload 1 committed", "", Tone::Good),
            (
                OutcomeKind::ReloadFailed,
                "reload 1 failed",
                "mend it",
                Tone::Bad,
            ),
        ] {
            let outcome = Outcome {
                kind,
                app: "api".to_owned(),
                text: text.to_owned(),
                next: next.to_owned(),
                ..Outcome::default()
            };
            let now = state.now;
            state.handle(now, Event::Reloaded(Ok(Box::new(outcome))));
            let (said, found) = state.said.clone().unwrap();
            assert!(said.starts_with(&format!("api: {text}")), "{said}");
            assert!(said.ends_with(next), "{said}");
            assert_eq!(found, tone);
        }
        press(&mut state, &[Key::Down]);
        assert_eq!(state.said, None);
    }

    #[test]
    fn who_leaves_does_not_move_the_selection_to_another_app() {
        let mut state = state();
        press(&mut state, &[Key::Down, Key::Down, Key::Down]);
        assert_eq!(place(&state), "web 1");
        let mut status = recorded::status();
        status.apps[0].workers.retain(|worker| worker.worker != 1);
        let now = state.now;
        state.handle(now, Event::Answered(Box::new(status)));
        assert_eq!(state.rows().len(), 5);
        assert_eq!(place(&state), "api");
        state.handle(now, Event::Answered(Box::default()));
        assert_eq!(state.selected(&state.rows()), None);
        assert_eq!(
            press(&mut state, &[Key::Down, Key::Fold, Key::Letter('r')]),
            []
        );
        assert_eq!(state.mode, Mode::Table);
        let now = state.now;
        state.handle(now, Event::Answered(Box::new(recorded::status())));
        assert!(state.selected(&state.rows()).is_some());
    }

    #[test]
    fn silence_begins_with_the_last_answer() {
        let mut state = state();
        let began = state.now;
        let after = |seconds| Now {
            at: began.at + Duration::from_secs(seconds),
            wall: began.wall,
        };
        state.handle(after(3), Event::Passed);
        assert!(state.silence.is_none());
        state.handle(after(4), Event::Passed);
        let silence = state.silence.clone().unwrap();
        assert_eq!((silence.since.at, silence.why), (began.at, None));
        state.handle(after(5), Event::Unanswered("nobody listens".to_owned()));
        state.handle(after(6), Event::Passed);
        let silence = state.silence.clone().unwrap();
        assert_eq!(silence.since.at, began.at);
        assert_eq!(silence.why.as_deref(), Some("nobody listens"));
        assert_eq!(press(&mut state, &[Key::Letter('r')]), []);
        assert_eq!(state.mode, Mode::Table, "nobody could be asked");
        state.handle(after(7), Event::Answered(Box::new(recorded::status())));
        state.handle(after(8), Event::Passed);
        assert!(state.silence.is_none());
    }

    #[test]
    fn processor_time_is_of_the_last_second() {
        let worker = |cpu_ms, age_ms| Worker {
            cpu_ms: Some(cpu_ms),
            age_ms: Some(age_ms),
            ..Worker::default()
        };
        let first = sampled(&worker(500, 10_000), None).unwrap();
        assert_eq!(first.share, (500, 10_000));
        let soon = sampled(&worker(600, 10_200), Some(first)).unwrap();
        assert_eq!(soon.share, (500, 10_000), "too soon");
        let later = sampled(&worker(1_000, 11_000), Some(soon)).unwrap();
        assert_eq!(later.share, (500, 1_000));
        assert!(sampled(&Worker::default(), Some(later)).is_none());
    }

    #[test]
    fn news_are_told_as_events_tells_them() {
        let mut state = state();
        let notice = |app: &str, kind: &str, level, text: &str| {
            Event::Told(Progress::Notice(Box::new(Notice {
                app: app.to_owned(),
                kind: kind.to_owned(),
                level,
                text: text.to_owned(),
                ..Notice::default()
            })))
        };
        let now = state.now;
        for event in [
            notice("web", "worker_ready", Level::Debug, "worker 3 is ready"),
            notice("web", "worker_spawned", Level::Debug, "worker 4 boots"),
            notice("api", "crash", Level::Warn, "worker 1 \x1b[2J\u{202e}died"),
        ] {
            state.handle(now, event);
        }
        let texts: Vec<&str> = state.news.iter().map(|news| news.text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "web: worker 3 is ready",
                "api: worker 1 \\x1b[2J\\u{202e}died"
            ]
        );
        for _ in 0..=KEPT {
            state.handle(now, notice("api", "x", Level::Info, "more"));
        }
        assert_eq!(state.news.len(), KEPT);
        let status = recorded::status();
        let mut only = State::new(Some("web".to_owned()), Duration::from_secs(3), status, now);
        only.handle(now, notice("api", "x", Level::Info, "of another app"));
        only.handle(now, notice("", "x", Level::Info, "of the supervisor"));
        assert_eq!(only.news.len(), 1);
        assert_eq!(only.rows().len(), 4);
    }

    #[test]
    fn the_log_is_that_of_the_selected_app() {
        let mut state = state();
        let log = recorded::status().apps[0].log.clone().unwrap();
        let web = Order::Follow(Some(("web".to_owned(), log)));
        let web = [web];
        assert_eq!(press(&mut state, &[Key::Letter('l')]), web);
        let now = state.now;
        let logged = |app: &str, lines: usize| Event::Logged {
            app: app.to_owned(),
            lines: vec!["hello".to_owned(); lines],
        };
        state.handle(now, logged("web", 3));
        state.handle(now, logged("api", 1));
        assert_eq!(state.log.as_ref().unwrap().lines.len(), 3);
        state.handle(now, logged("web", KEPT));
        assert_eq!(state.log.as_ref().unwrap().lines.len(), KEPT);
        // It has no log file.
        assert_eq!(press(&mut state, &[Key::Last]), [Order::Follow(None)]);
        assert_eq!(state.log.as_ref().unwrap().log, None);
        assert_eq!(press(&mut state, &[Key::First]), web);
        assert_eq!(
            press(&mut state, &[Key::Letter('l')]),
            [Order::Follow(None)]
        );
        assert_eq!(state.log, None);
    }
}
