//! Under a service manager: what it is told, and when.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::command::{Outcome, Pending};
use crate::harness::main_process::AS_MAIN;
use crate::harness::process::Process;
use crate::harness::run::{LIMIT, Launch, Run};
use crate::harness::skip;
use crate::harness::systemd::Manager;

/// A launch under a service manager.
pub(crate) fn managed(launch: Launch) -> (Launch, Manager) {
    let manager = Manager::start(&launch.site.path(""));
    let launch = launch.env("NOTIFY_SOCKET", manager.address());
    (launch, manager)
}

#[test]
fn a_life_is_told_step_by_step() {
    let (launch, manager) = managed(Launch::node("plain.js").flag("--name", "shop"));
    let mut run = launch.start();
    let first = manager.wait_for(0, "STATUS=shop starts: 0 of 2 workers ready");
    assert!(first.value("EXTEND_TIMEOUT_USEC").is_some(), "{first:?}");
    let ready = manager.wait_for(0, "READY=1");
    let main = run.main.pid.to_string();
    assert_eq!(ready.value("MAINPID"), Some(main.as_str()));
    let at = format!("at [::]:{}", run.site.port.number());
    let status = format!("STATUS=shop serves: 2 workers of generation 1 {at}");
    manager.wait_for(0, &status);

    let mark = manager.mark();
    let began = segue_sys::clock::monotonic_micros();
    run.roll("v2", "plain.js");
    let ended = segue_sys::clock::monotonic_micros();
    let reloading = manager.wait_for(mark, "RELOADING=1");
    let micros = reloading.value("MONOTONIC_USEC").expect("a time");
    let micros: u64 = micros.parse().expect("a number");
    assert!(
        (began..=ended).contains(&micros),
        "{began} {micros} {ended}"
    );
    let status = reloading.value("STATUS").expect("a status");
    assert!(
        status.ends_with(&format!("generation 1 serves {at}")),
        "{status}"
    );
    manager.wait_for(mark, "READY=1");
    run.until("the old generation is gone", |app| app.workers.len() == 2);
    let status = format!("STATUS=shop serves: 2 workers of generation 2 {at}");
    manager.wait_for(mark, &status);

    let mark = manager.mark();
    run.roll_and_fail("v3", "throws-at-boot.js");
    manager.wait_for(mark, "RELOADING=1");
    let ready = manager.wait_for(mark, "READY=1");
    let status = ready.value("STATUS").expect("a status");
    assert!(
        status.contains("generation 2 ") && status.contains("reload 2 failed"),
        "{status}"
    );

    run.signal(Signal::TERM);
    manager.wait_for(mark, "STOPPING=1");
    let status = run.wait_for_end(LIMIT);
    assert_eq!(status.code(), Some(0), "{}", run.log.render());
    run.expect_nothing_left();
    let expected = [
        "READY",
        "RELOADING",
        "READY",
        "RELOADING",
        "READY",
        "STOPPING",
    ];
    assert_eq!(manager.states(), expected, "{}", manager.render());
    let last = manager.messages().pop().expect("it was told");
    assert_eq!(last.text, "BARRIER=1", "it has heard everything");
}

/// systemd's `Type=notify-reload` sends HUP, and waits for the two words.
#[test]
fn a_reload_by_signal_is_told_with_its_beginning_and_its_end() {
    let (launch, manager) = managed(Launch::standin(""));
    let run = launch.start();
    manager.wait_for(0, "READY=1");
    let mark = manager.mark();
    let began = segue_sys::clock::monotonic_micros();
    run.signal(Signal::HUP);
    let reloading = manager.wait_for(mark, "RELOADING=1");
    let micros = reloading
        .value("MONOTONIC_USEC")
        .and_then(|text| text.parse().ok());
    assert!(micros.is_some_and(|micros: u64| micros >= began));
    manager.wait_for(mark, "READY=1");
    assert_eq!(run.app().generation, 2);
    run.finish();
}

/// A manager that has sent HUP waits for both words, however soon it is over.
#[test]
fn a_reload_that_cannot_begin_is_told_as_one_that_failed() {
    let (launch, manager) = managed(Launch::node("plain.js"));
    let run = launch.start();
    manager.wait_for(0, "READY=1");
    for _ in 0..3 {
        std::fs::remove_file(run.site.path("current")).expect("remove the link");
        let mark = manager.mark();
        run.signal(Signal::HUP);
        manager.wait_for(mark, "RELOADING=1");
        let ready = manager.wait_for(mark, "READY=1");
        let status = ready.value("STATUS").expect("a status");
        assert!(status.contains("failed"), "{status}");
        run.site.turn("v1");
    }
    let mark = manager.mark();
    run.signal(Signal::HUP);
    manager.wait_for(mark, "READY=1");
    run.finish();
}

/// A pause is for people: the service goes on, and says what it waits for.
#[test]
fn a_pause_is_told_in_words() {
    let (launch, manager) = managed(Launch::standin(""));
    let run = launch.start();
    manager.wait_for(0, "READY=1");
    let mark = manager.mark();
    run.signal(Signal::WINCH);
    let said = |message: &str| manager.heard_within(mark, message, LIMIT).is_some();
    let port = run.site.port.number();
    assert!(
        said(&format!(
            "STATUS=standin is paused: clients wait for a reload at [::]:{port}"
        )),
        "{}",
        manager.render()
    );
    run.signal(Signal::HUP);
    manager.wait_for(mark, "RELOADING=1");
    manager.wait_for(mark, "READY=1");
    assert_eq!(run.get("/").version(), "v1");
    run.finish();
    assert_eq!(
        manager.states(),
        ["READY", "RELOADING", "READY", "STOPPING"]
    );
}

#[test]
fn a_supervisor_that_takes_over_says_where_things_are() {
    let (launch, manager) = managed(Launch::standin(""));
    let run = launch.start();
    manager.wait_for(0, "READY=1");
    let mark = manager.mark();
    let supervisor = Process::open(run.status().supervisor.pid).expect("it runs");
    supervisor.signal(Signal::KILL);
    let ready = manager.wait_for(mark, "READY=1");
    let main = run.main.pid.to_string();
    assert_eq!(ready.value("MAINPID"), Some(main.as_str()));
    let mark = manager.mark();
    run.segue(&["upgrade"]).expect(0);
    manager.wait_for(mark, "READY=1");
    run.finish();
    assert_eq!(manager.states(), ["READY", "READY", "READY", "STOPPING"]);
}

#[test]
fn a_start_that_fails_says_why() {
    let (launch, manager) = managed(Launch::node("throws-at-boot.js"));
    let (code, run) = launch.start_and_fail(LIMIT);
    assert_eq!(code, 1, "{}", run.log.render());
    let states = manager.states();
    assert!(
        !states.contains(&"READY".to_owned()),
        "{}",
        manager.render()
    );
    let messages = manager.messages();
    let status = messages
        .iter()
        .rev()
        .find_map(|message| message.value("STATUS"));
    assert!(
        status.is_some_and(|status| status.contains("never got ready")),
        "{}",
        manager.render()
    );

    let (launch, manager) = managed(Launch::node("plain.js").script("missing.js"));
    let (code, run) = launch.start_and_fail(LIMIT);
    assert_eq!(code, 2, "{}", run.log.render());
    manager.wait_for(0, "STATUS=cannot run");
}

/// As systemd does: the variable names the main process.
fn watched(launch: Launch, pid: Option<&str>) -> (Run, Manager) {
    let (launch, manager) = managed(launch);
    let launch = match pid {
        Some(pid) => launch.env("WATCHDOG_PID", pid),
        None => launch.under(&AS_MAIN),
    };
    let launch = launch.env("WATCHDOG_USEC", "400000");
    (launch.start(), manager)
}

#[test]
fn the_watchdog_hears_the_loop_and_nothing_else() {
    let (run, manager) = watched(Launch::standin(""), None);
    let ping = |limit| {
        let mark = manager.mark();
        manager.heard_within(mark, "WATCHDOG=1", limit).is_some()
    };
    for _ in 0..5 {
        assert!(ping(LIMIT));
    }
    let supervisor = Process::open(run.status().supervisor.pid).expect("it runs");
    supervisor.signal(Signal::STOP);
    // One may have been sent just before.
    let _ = ping(Duration::from_millis(100));
    assert!(!ping(Duration::from_secs(1)), "{}", manager.render());
    assert_eq!(run.get("/").status, 200, "the app does not need it");
    supervisor.signal(Signal::CONT);
    assert!(ping(LIMIT));
    let mark = manager.mark();
    supervisor.signal(Signal::KILL);
    manager.wait_for(mark, "WATCHDOG=1");
    run.finish();

    let (run, manager) = watched(Launch::standin(""), Some("1"));
    manager.wait_for(0, "READY=1");
    let heard = manager.heard_within(0, "WATCHDOG=1", Duration::from_secs(1));
    assert!(heard.is_none(), "it is for somebody else: {heard:?}");
    run.finish();
}

#[test]
fn workers_do_not_speak_to_the_service_manager() {
    let (launch, _manager) = managed(Launch::node("plain.js").env("FDSTORE", "7"));
    let run = launch.env("WATCHDOG_USEC", "60000000").start();
    let env = run.get("/info").json()["env"].clone();
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "FDSTORE"] {
        assert!(env[name].is_null(), "{name}: {}", env[name]);
    }
    run.finish();
}

#[test]
fn a_service_manager_that_does_not_listen_is_no_obstacle() {
    let launch = Launch::standin("");
    let path = launch.site.path("notify");
    let _unread = UnixDatagram::bind(&path).expect("bind a socket");
    let run = launch
        .env("NOTIFY_SOCKET", path.to_str().expect("a plain path"))
        .start();
    for version in 2..12 {
        run.roll(&format!("v{version}"), "");
    }
    assert_eq!(run.get("/").version(), "v11");
    run.finish();

    let run = Launch::standin("")
        .env("NOTIFY_SOCKET", "/no/such/socket")
        .start();
    assert_eq!(run.get("/").version(), "v1");
    run.finish();
}

/// Runs `segue service` in the site's current release.
fn service(launch: &Launch, words: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_segue"));
    command.arg("service").args(words);
    command.current_dir(launch.site.path("current"));
    command.env("PWD", launch.site.path("current"));
    command.env("XDG_CONFIG_HOME", launch.site.path("config"));
    command.env_remove("SEGUE_CONTROL");
    Pending::start(command).wait(LIMIT)
}

/// What systemd has to say about units of ours; `None` where it is not installed.
fn complaints(directory: &Path, units: &[&str], flags: &[&str]) -> Option<Vec<String>> {
    let mut command = Command::new("systemd-analyze");
    command.arg("verify").arg("--man=no").args(flags);
    command.args(units.iter().map(|unit| directory.join(unit)));
    command.env("XDG_RUNTIME_DIR", directory);
    let output = command.output().ok()?;
    let text = String::from_utf8_lossy(&output.stderr);
    // Units of the machine may have faults, too.
    let about =
        |line: &&str| !output.status.success() || units.iter().any(|unit| line.contains(unit));
    Some(text.lines().filter(about).map(str::to_owned).collect())
}

#[test]
fn systemd_accepts_the_units_and_would_not_accept_others() {
    let launch = Launch::node("plain.js");
    let directory = launch.site.path("");
    let script = launch.site.path("current/odd %n $HOME \"name\".js");
    std::fs::write(&script, "").expect("write a script");
    let script = script.to_string_lossy().into_owned();
    let check = |words: &[&str], flags: &[&str]| {
        let words: Vec<&str> = ["print"].iter().chain(words).copied().collect();
        let printed = service(&launch, &words).expect(0).out.clone();
        std::fs::write(directory.join("web.service"), &printed).expect("write the unit");
        complaints(&directory, &["web.service"], flags).map(|found| (printed, found))
    };
    let accepted = |words: &[&str], flags: &[&str]| match check(words, flags) {
        Some((printed, found)) => {
            assert_eq!(found, Vec::<String>::new(), "{printed}");
            true
        }
        None => {
            skip("systemd-analyze is not installed");
            false
        }
    };
    if !accepted(&["--name", "web", "plain.js", "--port", "80"], &[]) {
        return;
    }
    accepted(
        &[
            "--run-as",
            "daemon",
            "--log",
            "/var/log/web.log",
            "plain.js",
        ],
        &[],
    );
    accepted(&["--run-as", "daemon", "-w", "4", &script, "", ";"], &[]);
    accepted(&["--user", "plain.js"], &["--user"]);

    let units = ["shop.service", "shop.socket"];
    let words = [
        "--socket",
        "80",
        "--socket",
        "/run/shop.sock",
        "--name",
        "shop",
        "plain.js",
    ];
    let printed = service(&launch, &[&["print"], &words[..]].concat())
        .expect(0)
        .out
        .clone();
    let mut texts = printed.split("# /etc/systemd/system/shop.").skip(1);
    for unit in units {
        let (kind, text) = texts
            .next()
            .and_then(|text| text.split_once('\n'))
            .expect("a unit");
        assert!(unit.ends_with(kind), "{printed}");
        std::fs::write(directory.join(unit), text).expect("write the unit");
    }
    assert_eq!(
        complaints(&directory, &units, &[]),
        Some(Vec::new()),
        "{printed}"
    );

    let wrong = printed.replace("KillMode", "KillMood");
    std::fs::write(directory.join("web.service"), wrong).expect("write the unit");
    let found = complaints(&directory, &["web.service"], &[]);
    assert!(
        found.is_some_and(|found| !found.is_empty()),
        "it is looked at"
    );
}

#[test]
fn a_unit_is_installed_once_and_not_over_another_one() {
    let launch = Launch::node("plain.js");
    let words = [
        "install", "--user", "--socket", "3000", "--name", "shop", "plain.js",
    ];
    let outcome = service(&launch, &words);
    outcome
        .expect(0)
        .says(&["systemctl --user enable --now shop.socket shop.service"]);
    let units = launch.site.path("config/systemd/user");
    if let Some(found) = complaints(&units, &["shop.service", "shop.socket"], &["--user"]) {
        assert_eq!(found, Vec::<String>::new());
    } else {
        skip("systemd-analyze is not installed");
    }
    let unit = units.join("shop.service");
    let text = std::fs::read_to_string(&unit).expect("read the unit");
    // The link, not where it leads: it is followed again at each reload.
    let current = launch.site.path("current");
    let start = format!(" run --cwd {} --name shop plain.js\n", current.display());
    assert!(text.contains(&start), "{text}");
    service(&launch, &words).expect(0);
    std::fs::write(&unit, "by hand").expect("write the unit");
    service(&launch, &words)
        .expect(1)
        .says(&["something else", "--force"]);
    assert_eq!(std::fs::read_to_string(&unit).expect("read it"), "by hand");
    let forced = [&["install", "--force"], &words[1..]].concat();
    service(&launch, &forced).expect(0);
    assert_eq!(std::fs::read_to_string(&unit).expect("read it"), text);
}

#[test]
fn a_command_line_that_run_would_refuse_makes_no_unit() {
    let launch = Launch::node("plain.js");
    for (words, says) in [
        (
            &["print", "-w", "0", "plain.js"][..],
            "write a number from 1",
        ),
        (
            &["print", "-w", "2", "--socket=80", "plain.js"],
            "before those that are",
        ),
        (&["print", "--socket", "here", "plain.js"], "write a port"),
        (&["print", "missing.js"], "missing.js"),
        (
            &["print", "--user", "--run-as", "web", "plain.js"],
            "cannot be used with",
        ),
        (&["print", "--run-as", "a\nb", "plain.js"], "is no user"),
    ] {
        let outcome = service(&launch, words);
        outcome.expect(2).says(&[says]);
        assert_eq!(outcome.out, "");
    }
}
