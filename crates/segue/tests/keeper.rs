//! The keeper as a real process, with a supervisor that does what each test needs. This program
//! is all of them: which one, its first argument says; without one it runs the tests.

#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test, though no harness calls it"
)]

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, kill_process};
use segue_sys::process::{Process, has_controlling_terminal};
use segue_sys::signal::{Handled, Signals};
use segue_sys::spawn::{Exit, Mask, Spawn, reap};

#[path = "../src/keeper/mod.rs"]
#[expect(
    unused,
    reason = "its unit tests, which no harness collects here, run with the program's"
)]
mod keeper;

use keeper::{Keeper, LinkError, Opened, SUPERVISOR_ARGUMENT};
use segue_wire::handoff::keeper::{FALLBACK, PROGRAM, STATE};
use segue_wire::handoff::{FromKeeper, ToKeeper};

const TESTS: [(&str, fn()); 11] = [
    ("mirrors_the_exit_code", mirrors_the_exit_code),
    ("forwards_each_signal_once", forwards_each_signal_once),
    (
        "ends_the_app_of_a_crashed_supervisor",
        ends_the_app_of_a_crashed_supervisor,
    ),
    (
        "kills_at_once_when_asked_again",
        kills_at_once_when_asked_again,
    ),
    ("its_death_is_noticed", its_death_is_noticed),
    ("reaps_orphans", reaps_orphans),
    ("starts_another_supervisor", starts_another_supervisor),
    ("holds_back_one_that_fails", holds_back_one_that_fails),
    (
        "goes_back_to_the_release_before",
        goes_back_to_the_release_before,
    ),
    (
        "tells_a_terminal_from_an_operator",
        tells_a_terminal_from_an_operator,
    ),
    ("is_a_good_init", is_a_good_init),
];

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let words: Vec<&str> = args.iter().filter_map(|arg| arg.to_str()).collect();
    match words.as_slice() {
        ["keeper", ..] => {
            let keeper = Keeper::new("segue".into(), args.into_iter().skip(1));
            ExitCode::from(keeper.run())
        }
        ["session", terminal, rest @ ..] => in_session(terminal, rest),
        [SUPERVISOR_ARGUMENT, part, rest @ ..] => supervisor(part, rest),
        _ => run_tests(&words),
    }
}

fn run_tests(words: &[&str]) -> ExitCode {
    let filters: Vec<_> = words.iter().filter(|word| !word.starts_with('-')).collect();
    for (name, test) in TESTS {
        if words.contains(&"--list") {
            println!("{name}: test");
        } else if filters.is_empty() || filters.iter().any(|filter| name.contains(**filter)) {
            test();
            println!("test {name} ... ok");
        }
    }
    ExitCode::SUCCESS
}

// ---- the parts that a supervisor plays

fn supervisor(part: &str, rest: &[&str]) -> ExitCode {
    match part {
        "exit" => ExitCode::from(rest[0].parse::<u8>().unwrap()),
        "report" => report(&[]).unwrap(),
        "store" => report(rest).unwrap(),
        "never" => {
            let (opened, _) = Opened::take_up().unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let link = opened.watch().unwrap();
                let null = File::open("/dev/null").unwrap();
                let state = ToKeeper::Store(STATE.to_owned());
                link.sender().say(state, Some(null.as_fd()));
                ExitCode::from(3)
            })
        }
        "panic" => panic!("on purpose"),
        "crash" => {
            let (app, line) = start_app(rest[0]);
            say(&format!("{} {line}", app.pid));
            kill_process(rustix::process::getpid(), Signal::KILL).unwrap();
            unreachable!("killed")
        }
        "orphan" => {
            let (app, line) = start_app(rest[0]);
            poll(&mut [PollFd::new(&app.pidfd, PollFlags::IN)], None).unwrap();
            assert_eq!(reap(&app.pidfd).unwrap(), Some(Exit::Code(0)));
            say(&line);
            report(&[]).unwrap()
        }
        other => panic!("no such part: {other}"),
    }
}

/// Runs a shell command, and returns the first line that it prints.
fn start_app(script: &str) -> (segue_sys::spawn::Child, String) {
    let (reader, writer) = std::io::pipe().unwrap();
    let app = Spawn {
        program: Path::new("/bin/sh"),
        argv: &["sh".into(), "-c".into(), script.into()],
        env: &std::env::vars_os().collect::<Vec<_>>(),
        cwd: Path::new("/"),
        descriptors: vec![(writer.into(), 1)],
        descriptor_limit: None,
        nice: None,
        identity: None,
        no_new_privileges: false,
        umask: None,
        cgroup: None,
        mask: Mask::Clear,
    }
    .start()
    .unwrap();
    let mut line = String::new();
    BufReader::new(reader).read_line(&mut line).unwrap();
    (app, line.trim_end().to_owned())
}

/// Has this held, says what was held and what comes from the keeper, until QUIT or its death.
fn report(store: &[&str]) -> Result<ExitCode, LinkError> {
    let signals = Signals::block()?;
    let (opened, holdings) = Opened::take_up()?;
    let names: Vec<&str> = holdings.descriptors.keys().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut link = opened.watch()?;
        let sender = link.sender();
        for word in store {
            let (name, path) = word.split_once('=').unwrap_or((word, "/dev/null"));
            let file = File::open(path)?;
            sender.say(ToKeeper::Store(name.to_owned()), Some(file.as_fd()));
        }
        say(&format!("ready {} {}", std::process::id(), names.join(",")));
        loop {
            let Some(news) = link.next().await else {
                say("Ended");
                return Ok(ExitCode::from(5));
            };
            match news {
                FromKeeper::Signal { number, signal } => {
                    let signal = Handled::ALL
                        .into_iter()
                        .find(|handled| handled.signal().as_raw() == signal)
                        .unwrap();
                    say(&format!("{signal:?}"));
                    if signal == Handled::Usr1 {
                        // Not dealt with: it is told again to the next one.
                        continue;
                    }
                    sender.say(ToKeeper::Acknowledge(number), None);
                    match signal {
                        Handled::Quit => return Ok(ExitCode::from(7)),
                        Handled::Usr2 => sender.say(ToKeeper::Ready, None),
                        _ => {}
                    }
                }
                // Of the signal that comes next.
                FromKeeper::Origin { number, pid, uid } => {
                    assert!(number > 0 && pid > 0);
                    assert_eq!(uid, rustix::process::getuid().as_raw());
                }
                other => say(&format!("{other:?}")),
            }
            // Whatever comes by other ways would be a second time.
            assert_eq!(signals.receive()?, None);
        }
    })
}

fn say(line: &str) {
    println!("{line}");
    std::io::stdout().flush().unwrap();
}

/// Becomes leader of a session on that terminal, then the program with the rest of the arguments.
fn in_session(terminal: &str, rest: &[&str]) -> ExitCode {
    rustix::process::setsid().unwrap();
    // The first terminal that a session leader opens becomes the session's.
    let _terminal = File::options()
        .read(true)
        .write(true)
        .open(terminal)
        .unwrap();
    assert!(has_controlling_terminal());
    let error = Command::new("/proc/self/exe").args(rest).exec();
    panic!("{error}")
}

// ---- the tests

struct Kept {
    keeper: Child,
    stdout: BufReader<ChildStdout>,
    stderr: BufReader<ChildStderr>,
}

impl Kept {
    fn start(command: &mut Command) -> Self {
        let mut keeper = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            stdout: BufReader::new(keeper.stdout.take().unwrap()),
            stderr: BufReader::new(keeper.stderr.take().unwrap()),
            keeper,
        }
    }

    fn with(args: &[&str]) -> Self {
        let mut command = Command::new("/proc/self/exe");
        Self::start(command.arg("keeper").args(args))
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn numbers(&mut self) -> Vec<u32> {
        let line = self.line();
        let words = line.split_whitespace();
        words.filter_map(|word| word.parse().ok()).collect()
    }

    fn send(&self, signal: Signal) {
        let pid = Pid::from_raw(self.keeper.id().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Has the supervisor say that it serves: until then its end is a failure to take over.
    fn serve(&mut self) {
        self.send(Signal::USR2);
        assert_eq!(self.line(), "Usr2");
    }

    /// As its own line has said who it is.
    fn kill_supervisor(&self, line: &str) {
        let pid = Pid::from_raw(number(line).cast_signed()).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
    }

    /// Its exit code, and everything it said on stderr.
    fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).unwrap();
        (self.keeper.wait().unwrap().code(), said)
    }
}

fn is_gone(pid: u32) -> bool {
    Process::look_up(pid).is_none()
}

fn mirrors_the_exit_code() {
    for code in [0, 1, 2, 124, 255] {
        let kept = Kept::with(&["exit", &code.to_string()]);
        assert_eq!(kept.end(), (Some(code), String::new()));
    }
    // Also where exits of children would go unheard.
    let mut env = Command::new("env");
    let this = std::env::current_exe().unwrap();
    let env = env.arg("--ignore-signal=CHLD").arg(this);
    let kept = Kept::start(env.args(["keeper", "exit", "3"]));
    assert_eq!(kept.end(), (Some(3), String::new()));
}

fn forwards_each_signal_once() {
    let mut kept = Kept::with(&["report"]);
    let supervisor = kept.numbers();
    assert_ne!(supervisor, [kept.keeper.id()]);
    for (signal, expected) in [
        (Signal::TERM, "Term"),
        (Signal::INT, "Int"),
        (Signal::HUP, "Hup"),
        (Signal::USR1, "Usr1"),
        (Signal::USR2, "Usr2"),
        (Signal::WINCH, "Winch"),
        (Signal::TTIN, "Ttin"),
        (Signal::TTOU, "Ttou"),
        (Signal::TERM, "Term"),
        (Signal::QUIT, "Quit"),
    ] {
        kept.send(signal);
        assert_eq!(kept.line(), expected);
    }
    assert_eq!(kept.line(), "");
    assert_eq!(kept.end(), (Some(7), String::new()));
}

fn ends_the_app_of_a_crashed_supervisor() {
    // A worker with a child in the same group and one in a session of its own.
    let app = "sleep 1000 & a=$!; setsid sleep 1000 & echo $a $!; wait";
    let mut kept = Kept::with(&["crash", app]);
    let pids = kept.numbers();
    assert_eq!(pids.len(), 3);
    let (code, said) = kept.end();
    assert_eq!(code, Some(1));
    assert!(
        said.contains(" was killed by signal 9 before it had begun: "),
        "{said}"
    );
    assert!(
        said.contains("segue: 3 processes ended, 0 of them by SIGKILL"),
        "{said}"
    );
    assert!(pids.into_iter().all(is_gone));

    let (code, said) = Kept::with(&["panic"]).end();
    assert_eq!(code, Some(1));
    assert!(
        said.contains(" panicked, which is a bug in segue before it had begun: "),
        "{said}"
    );
}

fn kills_at_once_when_asked_again() {
    let began = Instant::now();
    let app = "trap '' TERM; sleep 1000 & echo $!; wait";
    let mut kept = Kept::with(&["crash", app]);
    let pids = kept.numbers();
    let mut said = String::new();
    kept.stderr.read_line(&mut said).unwrap();
    assert!(said.contains("was killed by signal 9"), "{said}");
    kept.send(Signal::TERM);
    let (code, said) = kept.end();
    assert_eq!(code, Some(1));
    assert!(
        said.contains("2 processes ended, 2 of them by SIGKILL"),
        "{said}"
    );
    assert!(pids.into_iter().all(is_gone));
    assert!(began.elapsed() < Duration::from_secs(5));
}

fn its_death_is_noticed() {
    let mut kept = Kept::with(&["report"]);
    let _ready = kept.line();
    kept.send(Signal::KILL);
    assert_eq!(kept.line(), "Ended");
    assert_eq!(kept.line(), "");
    assert_eq!(kept.keeper.wait().unwrap().signal(), Some(9));
}

fn starts_another_supervisor() {
    let mut kept = Kept::with(&["store", STATE, "web/a", "web/b"]);
    let first = kept.line();
    kept.send(Signal::HUP);
    kept.send(Signal::USR1);
    assert_eq!(
        (kept.line().as_str(), kept.line().as_str()),
        ("Hup", "Usr1")
    );
    kept.kill_supervisor(&first);
    let second = kept.line();
    assert!(second.ends_with(" state,web/a,web/b"), "{second}");
    assert_ne!(number(&first), number(&second));
    // What was dealt with is not told again, what was not is.
    assert_eq!(kept.line(), "Usr1");
    kept.serve();
    kept.send(Signal::QUIT);
    assert_eq!(kept.line(), "Quit");
    let (code, said) = kept.end();
    assert_eq!(code, Some(7));
    assert!(
        said.contains("was killed by signal 9: another one takes over, the app goes on serving"),
        "{said}"
    );
}

fn holds_back_one_that_fails() {
    // The first one has nobody to take over from: what it says is the end.
    let (code, said) = Kept::with(&["never"]).end();
    assert_eq!((code, said.as_str()), (Some(3), ""));

    let failing = format!("{PROGRAM}=/bin/false");
    let mut kept = Kept::with(&["store", STATE, &failing]);
    let first = kept.line();
    kept.kill_supervisor(&first);
    let mut lines = Vec::new();
    for _ in 0..4 {
        let mut line = String::new();
        kept.stderr.read_line(&mut line).unwrap();
        lines.push(line);
    }
    assert!(
        lines[0].contains("signal 9: another one takes over"),
        "{lines:?}"
    );
    assert!(
        lines[1].contains("could not take over (exit code 1): another one"),
        "{lines:?}"
    );
    for (line, wait) in [(&lines[2], 1), (&lines[3], 2)] {
        assert!(line.contains("could not take over (exit code 1)"), "{line}");
        assert!(line.contains(&format!("is started in {wait} s")), "{line}");
    }
    // One that is told to end is started at once, and when it fails as well, all is ended.
    kept.send(Signal::TERM);
    let (code, said) = kept.end();
    assert_eq!(code, Some(1));
    assert!(
        said.contains("and the app is to end: it is ended now"),
        "{said}"
    );
}

fn goes_back_to_the_release_before() {
    let this = std::env::current_exe().unwrap();
    let fallback = format!("{FALLBACK}={}", this.display());
    let failing = format!("{PROGRAM}=/bin/false");
    let mut kept = Kept::with(&["store", STATE, &failing, &fallback]);
    let first = kept.line();
    // As if it had become another release, which dies before it serves.
    kept.kill_supervisor(&first);
    let second = kept.line();
    assert!(second.ends_with(" program,state"), "{second}");
    kept.serve();
    kept.send(Signal::QUIT);
    assert_eq!(kept.line(), "Quit");
    let (code, said) = kept.end();
    assert_eq!(code, Some(7), "{said}");
    assert!(
        said.contains("the release before it is started again"),
        "{said}"
    );
}

fn number(line: &str) -> u32 {
    line.split(' ').nth(1).unwrap().parse().unwrap()
}

fn reaps_orphans() {
    // The shell that starts it has ended before it does, or does not collect it.
    let mut kept = Kept::with(&["orphan", "sh -c 'exec <&-' & echo $!"]);
    let orphan = format!("/proc/{}", kept.numbers()[0]);
    assert!(kept.line().starts_with("ready "));
    let until = Instant::now() + Duration::from_secs(20);
    while std::fs::exists(&orphan).unwrap() {
        assert!(Instant::now() < until, "a zombie is left: {orphan}");
        std::thread::yield_now();
    }
    kept.send(Signal::QUIT);
    // Whoever the keeper has collected is told of: it may have been a worker.
    let last = std::iter::repeat_with(|| kept.line());
    let last = last.into_iter().find(|line| !line.starts_with("Ended {"));
    assert_eq!(last.as_deref(), Some("Quit"));
    assert_eq!(kept.end(), (Some(7), String::new()));
}

fn tells_a_terminal_from_an_operator() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::{Winsize, tcsetwinsize};

    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let mut command = Command::new("/proc/self/exe");
    let args = ["session", name.to_str().unwrap(), "keeper", "report"];
    let mut kept = Kept::start(command.args(args));
    assert!(kept.line().starts_with("ready "));

    // A resize reaches the keeper as WINCH before ^C does as INT, and goes no further.
    let size = Winsize {
        ws_row: 10,
        ws_col: 20,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&terminal, size).unwrap();
    let mut terminal = File::from(terminal);
    terminal.write_all(b"\x03").unwrap();
    assert_eq!(kept.line(), "Int");
    kept.send(Signal::HUP);
    assert_eq!(kept.line(), "Hup");
    drop(terminal);
    assert_eq!(kept.line(), "TerminalGone");
    // The terminal is gone: from now on nobody but it can have meant a HUP.
    kept.send(Signal::HUP);
    assert_eq!(kept.line(), "TerminalGone");
    kept.send(Signal::QUIT);
    assert_eq!(kept.line(), "Quit");
    assert_eq!(kept.end().0, Some(7));
}

fn is_a_good_init() {
    let namespace = [
        "--user",
        "--map-root-user",
        "--pid",
        "--fork",
        "--mount-proc",
    ];
    let possible = Command::new("unshare").args(namespace).arg("true").output();
    if !possible.is_ok_and(|output| output.status.success()) {
        println!("(no user and pid namespaces here: not tried as pid 1)");
        return;
    }
    let this = std::env::current_exe().unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::new("unshare");
        let command = command.args(namespace).arg(&this).arg("keeper");
        Kept::start(command.args(args))
    };
    assert_eq!(run(&["exit", "3"]).end(), (Some(3), String::new()));
    let app = "sleep 1000 & echo $!; wait";
    let mut kept = run(&["crash", app]);
    assert_eq!(kept.numbers().len(), 2);
    let (code, said) = kept.end();
    assert_eq!(code, Some(1));
    assert!(said.contains("2 processes ended"), "{said}");
}
