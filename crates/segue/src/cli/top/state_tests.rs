//! What keys and news make of the live view.

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
