//! The screen at several sizes, drawn from a recorded status.

use std::time::Duration;

use jiff::tz::TimeZone;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::style::{Color, Modifier};
use segue_wire::control::{Level, Notice, Progress, Status, Trouble};

use super::draw::{Look, draw};
use super::keys::Key;
use super::recorded;
use super::state::{Event, Now, State};

fn state() -> State {
    with(recorded::status())
}

fn with(status: Status) -> State {
    State::new(None, Duration::from_secs(3), status, recorded::now())
}

fn handle(state: &mut State, events: impl IntoIterator<Item = Event>) {
    for event in events {
        state.handle(state.now, event);
    }
}

fn told(text: &str, level: Level) -> Event {
    Event::Told(Progress::Notice(Box::new(Notice {
        app: "web".to_owned(),
        at_ms: 1_772_366_584_000,
        level,
        text: text.to_owned(),
        ..Notice::default()
    })))
}

fn drawn(state: &State, width: u16, height: u16, has_colours: bool) -> Buffer {
    let look = Look {
        has_colours,
        zone: TimeZone::UTC,
    };
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let drawn = terminal.draw(|frame| draw(state, &look, frame.area(), frame.buffer_mut()));
    drawn.unwrap().buffer.clone()
}

/// What is seen, line by line, without what is blank at the ends.
fn seen(state: &State, width: u16, height: u16) -> String {
    let buffer = drawn(state, width, height, true);
    let lines = buffer.content.chunks(usize::from(width)).map(|cells| {
        let line: String = cells.iter().map(|cell| cell.symbol()).collect();
        line.trim_end().to_owned()
    });
    let lines: Vec<String> = lines.collect();
    lines.join("\n").trim_end().to_owned()
}

#[track_caller]
fn check(state: &State, width: u16, height: u16, expected: &str) {
    let seen = seen(state, width, height);
    assert_eq!(seen, expected.trim_matches('\n'), "\n{seen}\n");
}

#[test]
fn on_a_wide_terminal() {
    let mut state = state();
    let news = [
        ("generation 2 serves", Level::Info),
        ("worker 9 exited", Level::Warn),
    ];
    handle(&mut state, news.map(|(text, level)| told(text, level)));
    check(&state, 140, 16, "
segue 0.1.0, pid 3998, up 3 h 5 min, 12 MiB, 2 apps, 4 workers
APP    GEN  WORKER   PID  PHASE      SINCE  CONNS   MEMORY    CPU  RESTARTS
- web    2                2/2 ready             4  146 MiB  16.2%         3
  0      2       3  4003  ready      12 s       -   49 MiB  10.0%         0
  1      2       4  4004  ready      12 s       -   50 MiB   5.0%         2
  0      1       1  4001  draining   12 s       4   47 MiB   1.2%         0  drains 3 busy, 1 websocket; oldest 12 min; 1 min 47 s at most;
                                                                             118 moved
- api    1                0/1 ready                 30 MiB  20.0%         0  reload 1 for 2 s: generation 2: 1 of 1 new worker boot, 28 s
                                                                             left
  0      2       2  4102  booting    2 s        -   30 MiB  20.0%         0  must be ready within 28 s

 events ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
12:03:04 web: generation 2 serves
12:03:04 web: worker 9 exited

q quit  j/k select  Enter fold  l log  r reload  ? help
");
}

#[test]
fn on_the_usual_terminal() {
    check(
        &state(),
        80,
        24,
        "
segue 0.1.0, pid 3998, up 3 h 5 min, 12 MiB, 2 apps, 4 workers
APP    GEN  WORKER   PID  PHASE      SINCE  CONNS   MEMORY    CPU  RESTARTS
- web    2                2/2 ready             4  146 MiB  16.2%         3
  0      2       3  4003  ready      12 s       -   49 MiB  10.0%         0
  1      2       4  4004  ready      12 s       -   50 MiB   5.0%         2
  0      1       1  4001  draining   12 s       4   47 MiB   1.2%         0
      drains 3 busy, 1 websocket; oldest 12 min; 1 min 47 s at most; 118 moved
- api    1                0/1 ready                 30 MiB  20.0%         0
    reload 1 for 2 s: generation 2: 1 of 1 new worker boot, 28 s left
  0      2       2  4102  booting    2 s        -   30 MiB  20.0%         0
      must be ready within 28 s

 events ────────────────────────────────────────────────────────────────────────
nothing has happened since this view began









q quit  j/k select  Enter fold  l log  r reload  ? help
",
    );
}

#[test]
fn on_a_narrow_terminal() {
    check(
        &state(),
        40,
        16,
        "
segue 0.1.0, pid 3998, up 3 h 5 min, 12…
APP    GEN   PID  PHASE      CONNS
- web    2        2/2 ready      4
  0      2  4003  ready          -
  1      2  4004  ready          -
  0      1  4001  draining       4
      drains 3 busy, 1 websocket; oldest
      12 min; 1 min 47 s at most; 118
      moved
- api    1        0/1 ready
    reload 1 for 2 s: generation 2: 1 of
    1 new worker boot, 28 s left
 events ────────────────────────────────
nothing has happened since this view be…

q quit  j/k select  Enter fold  l log  …
",
    );
}

#[test]
fn on_a_tiny_terminal() {
    check(
        &state(),
        20,
        4,
        "
segue 0.1.0, pid 39…
APP    PHASE
- web  2/2 ready
q quit  j/k select …
",
    );
    check(
        &state(),
        8,
        3,
        "
segue 0…
APP   P…
- w…  2…
",
    );
    check(
        &state(),
        1,
        1,
        "
…
",
    );
}

/// Whatever is shown, and however small it is: it is drawn.
#[test]
fn every_size_is_drawn() {
    let mut help = state();
    handle(&mut help, [Event::Pressed(Key::Letter('?'))]);
    let mut log = state();
    handle(
        &mut log,
        [Event::Pressed(Key::Letter('l')), told("x", Level::Info)],
    );
    let mut silent = state();
    handle(&mut silent, [Event::Unanswered("because ".repeat(40))]);
    let nothing = with(Status::default());
    for state in [&state(), &help, &log, &silent, &nothing] {
        for width in (0..30).chain([40, 79, 200]) {
            for height in (0..20).chain([50]) {
                drawn(state, width, height, true);
            }
        }
    }
}

#[test]
fn the_selected_row_stays_in_sight() {
    let mut status = recorded::status();
    let worker = status.apps[0].workers[1].clone();
    status.apps[0].workers = (0..50)
        .map(|slot| segue_wire::control::Worker {
            worker: slot,
            slot,
            pid: Some(5000 + slot),
            ..worker.clone()
        })
        .collect();
    let mut state = with(status);
    for (keys, expected) in [
        (&[][..], "5000"),
        (&[Key::PageDown, Key::PageDown, Key::PageDown], "5029"),
        (&[Key::Last], "4102"),
        (&[Key::First, Key::Down], "5000"),
    ] {
        handle(&mut state, keys.iter().map(|key| Event::Pressed(*key)));
        let seen = seen(&state, 80, 20);
        assert!(seen.contains(expected), "{keys:?}\n{seen}");
    }
}

#[test]
fn panes_and_questions() {
    let mut state = state();
    handle(
        &mut state,
        [
            Event::Pressed(Key::Letter('l')),
            Event::Logged {
                app: "web".to_owned(),
                lines: vec!["web.0 | hello".to_owned(), "web.1 | there".to_owned()],
            },
            Event::Pressed(Key::Letter('r')),
        ],
    );
    check(
        &state,
        80,
        24,
        "
segue 0.1.0, pid 3998, up 3 h 5 min, 12 MiB, 2 apps, 4 workers
APP    GEN  WORKER   PID  PHASE      SINCE  CONNS   MEMORY    CPU  RESTARTS
- web    2                2/2 ready             4  146 MiB  16.2%         3
  0      2       3  4003  ready      12 s       -   49 MiB  10.0%         0
  1      2       4  4004  ready      12 s       -   50 MiB   5.0%         2
  0      1       1  4001  draining   12 s       4   47 MiB   1.2%         0
      drains 3 busy, 1 websocket; oldest 12 min; 1 min 47 s at most; 118 moved
- api    1                0/1 ready                 30 MiB  20.0%         0
    reload 1 for 2 s: generation 2: 1 of 1 new worker boot, 28 s left
  0      2       2  4102  booting    2 s        -   30 MiB  20.0%         0
      must be ready within 28 s

 events ────────────────────────────────────────────────────────────────────────
nothing has happened since this view began



 log of web: /var/log/web.log ──────────────────────────────────────────────────
web.0 | hello
web.1 | there



reload web? y/n
",
    );
    handle(
        &mut state,
        [
            Event::Pressed(Key::Letter('n')),
            Event::LogFailed {
                app: "web".to_owned(),
                why: "cannot show /var/log/web.log: denied".to_owned(),
            },
        ],
    );
    assert!(seen(&state, 80, 24).contains("denied"));
    // The app that has no log file.
    handle(&mut state, [Event::Pressed(Key::Last)]);
    assert!(seen(&state, 80, 24).contains("no log file: its output goes"));
    handle(&mut state, [Event::Pressed(Key::Letter('?'))]);
    check(
        &state,
        64,
        18,
        "
segue 0.1.0, pid 3998, up 3 h 5 min, 12 MiB, 2 apps, 4 workers
APP    GEN   PID  PHASE      CONNS   MEMORY    CPU  RESTARTS
     ┌ keys ───────────────────────────────────────────────┐at
     │ up, down, j, k    select an app or a worker         │
- api│ PgUp, PgDn, g, G  further                           │
    r│ Enter, space      fold the app, or show its workers │28 s
    l│ l                 its log file, if it has one       │
  0  │ r                 reload the app, after a question  │
     │ ^L                draw everything anew              │
 even│ ^Z                suspend                           │────
nothi│ q, Esc, ^C        quit                              │
     │                                                     │
     │ CPU is of the time since the look before. RESTARTS  │
 log │ of a worker are those of its slot since the last    │────
no lo│ reload, of an app all since its start: segue why.   │std…
     └─────────────────────────────────────────────────────┘

q quit  j/k select  Enter fold  l log  r reload  ? help
",
    );
}

#[test]
fn silence_is_told() {
    let mut state = state();
    let later = Now {
        at: state.now.at + Duration::from_secs(75),
        ..state.now
    };
    let why = "no supervisor listens at /run/segue/main.sock: Connection refused";
    state.handle(later, Event::Unanswered(why.to_owned()));
    let seen = seen(&state, 60, 20);
    let expected = "no answer since 12:03:04, for 1 min 15 s: no supervisor";
    assert!(seen.lines().nth(1).unwrap().starts_with(expected), "{seen}");
    let buffer = drawn(&state, 60, 20, true);
    let row = &buffer[(0, 5)];
    assert!(row.modifier.contains(Modifier::DIM), "the rows are old");
}

#[test]
fn what_is_wrong_is_told_beneath() {
    let mut status = recorded::status();
    status.apps.truncate(1);
    status.apps[0].workers.truncate(1);
    status.apps[0].slots[1].respawn_in_ms = Some(4_000);
    status.apps[0].addresses[0].queued = Some(7);
    status.apps[0].troubles = vec![Trouble {
        kind: "slot_given_up".to_owned(),
        text: "slot 0 is given up after 10 restarts".to_owned(),
        next: "mend it, then segue reload".to_owned(),
    }];
    check(
        &with(status),
        72,
        14,
        "
segue 0.1.0, pid 3998, up 3 h 5 min, 12 MiB, 1 app, 1 worker
APP    GEN   PID  PHASE      SINCE  CONNS  MEMORY   CPU  RESTARTS
- web    2        0/2 ready             4  47 MiB  1.2%         3
    0.0.0.0:3000  7 waiting to be accepted
    slot 1 gets a new worker in 4 s
    slot 0 is given up after 10 restarts; mend it, then segue reload
  0      1  4001  draining   12 s       4  47 MiB  1.2%         0
      drains 3 busy, 1 websocket; oldest 12 min; 1 min 47 s at most; 118
      moved

 events ────────────────────────────────────────────────────────────────
nothing has happened since this view began

q quit  j/k select  Enter fold  l log  r reload  ? help
",
    );
}

#[test]
fn without_colours_there_is_none() {
    let mut state = state();
    handle(&mut state, [told("worker 9 exited", Level::Error)]);
    for (has_colours, expected) in [(false, false), (true, true)] {
        let buffer = drawn(&state, 140, 16, has_colours);
        let mut cells = buffer.content.iter();
        let found = cells.any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset);
        assert_eq!(found, expected);
    }
    // What is selected is seen all the same.
    let buffer = drawn(&state, 140, 16, false);
    let selected = buffer.content.iter();
    let mut selected = selected.filter(|cell| cell.modifier.contains(Modifier::REVERSED));
    assert!(selected.next().is_some());
}

#[test]
fn nothing_acts_on_the_terminal() {
    const EVIL: &str = "a\x1b[2J\x1b]0;owned\x07\rb\u{9b}2J\u{202e}\tc\u{200f}";
    let mut status = recorded::status();
    EVIL.clone_into(&mut status.supervisor.version);
    let app = &mut status.apps[0];
    EVIL.clone_into(&mut app.name);
    EVIL.clone_into(&mut app.log.as_mut().unwrap().path);
    EVIL.clone_into(&mut app.addresses[0].name);
    app.addresses[0].queued = Some(1);
    app.workers[1].failing = Some(EVIL.to_owned());
    app.troubles = vec![Trouble {
        text: EVIL.to_owned(),
        next: EVIL.to_owned(),
        ..Trouble::default()
    }];
    EVIL.clone_into(&mut status.apps[1].reload.as_mut().unwrap().step_text);
    let mut state = with(status);
    let log = Event::Logged {
        app: EVIL.to_owned(),
        lines: vec![crate::cli::logs::plainly("web", false, EVIL.as_bytes())],
    };
    handle(
        &mut state,
        [
            Event::Pressed(Key::Letter('l')),
            log,
            told(EVIL, Level::Info),
            Event::LogFailed {
                app: EVIL.to_owned(),
                why: EVIL.to_owned(),
            },
            Event::Unanswered(EVIL.to_owned()),
        ],
    );
    let mut asked = with(state.status.clone());
    handle(&mut asked, [Event::Pressed(Key::Letter('r'))]);
    let mut ended = with(state.status.clone());
    handle(&mut ended, [Event::Reloaded(Err(EVIL.to_owned()))]);
    for state in [&state, &asked, &ended] {
        for width in [30, 80, 200] {
            let buffer = drawn(state, width, 40, true);
            for cell in &buffer.content {
                let acts = |c: char| {
                    c.is_control() || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}')
                };
                assert!(!cell.symbol().contains(acts), "{:?}", cell.symbol());
            }
            assert!(seen(state, width, 40).contains("a\\x1b[2J"));
        }
    }
}
