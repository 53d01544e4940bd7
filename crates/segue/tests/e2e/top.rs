//! The live view: on a terminal of its own, with keys, while the app is reloaded and the supervisor goes.

use std::process::{Child, Command};
use std::time::Instant;

use rustix::process::Signal;

use crate::harness::command::Pending;
use crate::harness::process::Process;
use crate::harness::run::{LIMIT, Launch, Run};
use crate::harness::screen::Screen;
use crate::harness::terminal::Terminal;

fn top(run: &Run, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_segue"));
    command.args(words).arg("--control").arg(&run.control);
    command.args(["--interval", "200ms"]);
    command.env_remove("SEGUE_CONTROL");
    command
}

/// Waits until it shows the app with all its workers.
#[track_caller]
fn wait_for_workers(terminal: &Terminal, run: &Run) -> Screen {
    let pids = run.ready_pids();
    let wanted = |screen: &Screen| {
        let has = |pid: &u32| screen.contains(&format!(" {pid} "));
        screen.contains("- web ") && pids.iter().all(has)
    };
    terminal.wait_for_screen("web and its workers", LIMIT, wanted)
}

#[track_caller]
fn wait_for_generation(terminal: &Terminal, generation: &str) -> Screen {
    let what = format!("web is at generation {generation}");
    terminal.wait_for_screen(&what, LIMIT, |screen| {
        let words = screen.line("- web").unwrap_or_default();
        words.get(2).is_some_and(|word| word == generation)
    })
}

/// Its end, and the terminal as it was before.
#[track_caller]
fn ends_well(terminal: &Terminal, modes: &str, mut child: Child) {
    let deadline = Instant::now() + LIMIT;
    let process = Process::open(child.id());
    if let Some(process) = process {
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(process.ends_within(left), "it does not end");
    }
    let status = child.wait().expect("its end");
    assert_eq!(status.code(), Some(0));
    assert_eq!(terminal.modes(), modes);
    terminal.wait_for_screen("it is given back", LIMIT, |screen| {
        !screen.is_alternate && screen.has_cursor
    });
}

fn launch() -> Launch {
    Launch::standin("").flag("--name", "web")
}

#[test]
fn it_shows_what_happens_and_does_what_keys_say() {
    let launch = launch();
    let log = launch.site.path("web.log");
    let run = launch.flag("--log", &log).start();
    let terminal = Terminal::usual(110, 30);
    let modes = terminal.modes();
    let child = terminal.start_session(&top(&run, &["top"]));
    let screen = wait_for_workers(&terminal, &run);
    assert!(screen.is_alternate && !screen.has_cursor && screen.has_colours);
    assert_ne!(terminal.modes(), modes, "keys are read one by one");
    assert!(
        screen.contains(&format!("pid {}", run.main.pid)),
        "{screen}"
    );

    terminal.press("r");
    terminal.wait_for_screen("it asks first", LIMIT, |screen| {
        screen.contains("reload web? y/n")
    });
    terminal.press("n");
    terminal.wait_for_screen("the answer was no", LIMIT, |screen| {
        screen.contains("q quit")
    });
    terminal.press("ry");
    let screen = wait_for_generation(&terminal, "2");
    terminal.wait_for_screen("how it ended", LIMIT, |screen| {
        screen.contains("generation 2 serves")
    });
    assert!(screen.contains("events"), "{screen}");
    // Somebody else's reload, and what is told of it.
    run.roll("v2", "");
    wait_for_generation(&terminal, "3");
    wait_for_workers(&terminal, &run);
    terminal.wait_for_screen("its story", LIMIT, |screen| {
        screen.contains("reload 2 committed")
    });

    terminal.press("\x1b[B");
    terminal.press(" ");
    terminal.wait_for_screen("it is folded", LIMIT, |screen| screen.contains("+ web"));
    terminal.press("l");
    terminal.wait_for_screen("its log", LIMIT, |screen| screen.contains("log of web: "));
    terminal.press(" ?");
    terminal.wait_for_screen("help", LIMIT, |screen| screen.contains(" keys "));
    terminal.press("?");
    wait_for_workers(&terminal, &run);

    terminal.resize(60, 12);
    terminal.wait_for_screen("the keys are in the last line", LIMIT, |screen| {
        let mut lines = screen.lines();
        lines.nth(11).is_some_and(|line| line.starts_with("q quit"))
            && lines.all(|line| line.is_empty())
    });
    terminal.resize(5, 2);
    terminal.resize(100, 24);
    wait_for_workers(&terminal, &run);
    terminal.press("q");
    ends_well(&terminal, &modes, child);
    run.finish();
}

#[test]
fn signals_end_it_and_the_terminal_is_as_before() {
    let run = launch().start();
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        let terminal = Terminal::usual(80, 24);
        let modes = terminal.modes();
        // What PM2's users type.
        let child = terminal.start_session(top(&run, &["monit", "web"]).env("NO_COLOR", "1"));
        let screen = wait_for_workers(&terminal, &run);
        assert!(!screen.has_colours, "{screen}");
        let process = Process::open(child.id()).expect("it runs");
        process.signal(signal);
        ends_well(&terminal, &modes, child);
    }
    run.finish();
}

#[test]
fn it_is_suspended_and_resumed_by_its_shell() {
    let run = launch().start();
    let terminal = Terminal::usual(80, 24);
    let modes = terminal.modes();
    let mut shell = Command::new("bash");
    let script = "\"$@\"; echo stopped=$?; read -r answer; fg >/dev/null; echo ended=$?";
    shell.args(["--norc", "-m", "-c", script, "shell"]);
    let view = top(&run, &["top"]);
    shell.arg(view.get_program()).args(view.get_args());
    let child = terminal.start_session(&shell);
    wait_for_workers(&terminal, &run);
    terminal.press("\x1a");
    let screen = terminal.wait_for_screen("it has stopped", LIMIT, |screen| {
        screen.contains("stopped=148")
    });
    assert!(!screen.is_alternate && screen.has_cursor, "{screen}");
    assert_eq!(terminal.modes(), modes);
    terminal.press("\n");
    terminal.wait_for_screen("it goes on", LIMIT, |screen| screen.is_alternate);
    run.reload().expect(0);
    wait_for_generation(&terminal, "2");
    terminal.press("\x03");
    terminal.wait_for_screen("it has ended", LIMIT, |screen| screen.contains("ended=0"));
    ends_well(&terminal, &modes, child);
    run.finish();
}

#[test]
fn a_supervisor_that_goes_is_waited_for() {
    let run = launch().start();
    let terminal = Terminal::usual(100, 24);
    let modes = terminal.modes();
    let child = terminal.start_session(&top(&run, &["top"]));
    wait_for_workers(&terminal, &run);
    let supervisor = Process::open(run.status().supervisor.pid).expect("it runs");
    supervisor.signal(Signal::KILL);
    assert!(supervisor.ends_within(LIMIT));
    // Another one takes over, and the view goes on with it.
    run.reload().expect(0);
    wait_for_generation(&terminal, "2");
    run.upgrade().expect(0);
    run.reload().expect(0);
    wait_for_generation(&terminal, "3");
    wait_for_workers(&terminal, &run);
    run.finish();
    let screen = terminal.wait_for_screen("nobody answers", LIMIT, |screen| {
        screen.contains("no answer since ")
    });
    assert!(screen.contains("no supervisor listens at"), "{screen}");
    assert!(screen.contains("- web "), "what was known last: {screen}");
    terminal.press("\x1b");
    ends_well(&terminal, &modes, child);
}

/// Clears the screen, renames the window, hides what follows, and writes over the line.
const EVIL: &[u8] = b"a\x1b[2J\x1b]0;owned\x07\x1b[8mb\rsegue: all is well\xc2\x9b2J";

#[test]
fn a_log_does_nothing_to_the_terminal() {
    let launch = Launch::node("raw.js").workers("1").flag("--name", "web");
    let log = launch.site.path("web.log");
    let run = launch.flag("--log", &log).start();
    let terminal = Terminal::usual(100, 24);
    let modes = terminal.modes();
    let mut command = top(&run, &["top", "web"]);
    let child = terminal.start_session(command.env("NO_COLOR", "1"));
    wait_for_workers(&terminal, &run);
    terminal.press("l");
    let hex: String = EVIL.iter().map(|byte| format!("{byte:02x}")).collect();
    run.get(&format!("/raw?hex={hex}0a1b5b33326d677265656e0a&times=1"));
    let shown = "web.0 | a\\x1b[2J\\x1b]0;owned\\x07\\x1b[8mb\\rsegue: all is well\\u{9b}2J";
    let screen = terminal.wait_for_screen("the line as it is", LIMIT, |screen| {
        screen.contains(shown) && screen.contains("web.0 | green")
    });
    assert!(!screen.contains("[32m"), "{screen}");
    terminal.press("q");
    ends_well(&terminal, &modes, child);
    run.finish();
}

#[test]
fn without_a_terminal_it_says_what_to_use_instead() {
    let run = launch().start();
    let outcome = run.segue(&["top"]);
    outcome.expect(2);
    assert_eq!(outcome.out, "");
    outcome.says(&["stdout is no terminal", "segue status --json"]);
    let mut command = top(&run, &["top"]);
    command.args(["--interval", "100ms"]);
    Pending::start(command).wait(LIMIT).expect(2);
    run.finish();
}
