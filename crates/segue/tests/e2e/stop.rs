//! The end: everything that has begun is finished, everything else is refused, nothing is left.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use segue_load::{Download, FailureKind, Fresh, Load};

use crate::harness::heavy;
use crate::harness::load::{Clients, assert_flawless, render};
use crate::harness::process::Process;
use crate::harness::run::{LIMIT, Launch};

/// Under load, whoever was let in is answered; whoever comes later is refused at the door.
fn stop_under_load(fixture: &str, stop: &[&str]) {
    let _turn = heavy();
    let mut run = Launch::node(fixture).start();
    let load = Load::builder().with(Fresh {
        clients: 100,
        ..Fresh::default()
    });
    let clients = Clients::start(load, run.address());
    clients.wait_for_answers(500);
    if stop.is_empty() {
        run.signal(Signal::TERM);
    } else {
        run.segue(stop).expect(0);
    }
    let status = run.wait_for_end(LIMIT);
    assert_eq!(status.code(), Some(0), "{}", run.log.render());
    let report = clients.stop();
    eprintln!("{}", render(&report));
    let refused = report.failed_by(FailureKind::Refused);
    assert_eq!(
        report.failed(),
        refused,
        "{}\n{}",
        render(&report),
        run.log.render()
    );
    assert!(refused > 0, "it has stopped");
    run.expect_nothing_left();
}

#[test]
fn stopping_loses_nothing_without_a_signal_handler() {
    stop_under_load("plain.js", &[]);
}

#[test]
fn stopping_loses_nothing_when_the_app_closes_its_server() {
    stop_under_load("graceful.js", &[]);
}

#[test]
fn shutdown_loses_nothing() {
    stop_under_load("plain.js", &["shutdown"]);
}

/// A download of three seconds, and a signal in its midst.
fn signal_in_a_download(signal: Signal) {
    let mut run = Launch::node("plain.js").start();
    let download = Download {
        clients: 2,
        over: Duration::from_secs(3),
        ..Download::default()
    };
    let clients = Clients::start(Load::builder().with(download).requests(2), run.address());
    run.until("the downloads have begun", |_| clients.opened() >= 2);
    run.signal(signal);
    let report = clients.finish(LIMIT);
    assert_eq!(
        (report.answers(), report.failed()),
        (2, 0),
        "{}\n{}",
        render(&report),
        run.log.render()
    );
    let status = run.wait_for_end(LIMIT);
    assert_eq!(status.code(), Some(0), "{}", run.log.render());
    run.expect_nothing_left();
}

#[test]
fn term_lets_downloads_end() {
    signal_in_a_download(Signal::TERM);
}

#[test]
fn quit_lets_downloads_end() {
    signal_in_a_download(Signal::QUIT);
}

#[test]
fn int_lets_downloads_end() {
    signal_in_a_download(Signal::INT);
}

#[test]
fn a_second_signal_hurries() {
    let mut run = Launch::node("plain.js")
        .flag("--stop-timeout", "60s")
        .start();
    let download = Download {
        clients: 1,
        over: Duration::from_secs(50),
        ..Download::default()
    };
    let clients = Clients::start(Load::builder().with(download), run.address());
    run.until("the download has begun", |_| clients.opened() >= 1);
    let began = Instant::now();
    run.signal(Signal::TERM);
    run.until("it is stopping", |app| {
        app.phase == segue_wire::control::AppPhase::Stopping
    });
    // Right behind the first one it counts as the same, so it is sent until it does not.
    while !run.main.ends_within(Duration::from_millis(200)) {
        assert!(began.elapsed() < Duration::from_secs(20));
        run.signal(Signal::TERM);
    }
    run.wait_for_end(Duration::ZERO);
    run.expect_nothing_left();
}

#[test]
fn a_signal_that_arrives_twice_is_one() {
    let mut run = Launch::node("plain.js").start();
    let download = Download {
        clients: 4,
        over: Duration::from_secs(3),
        ..Download::default()
    };
    let clients = Clients::start(Load::builder().with(download).requests(4), run.address());
    run.until("the downloads have begun", |_| clients.opened() >= 4);
    // As timeout(1) does, and a service manager that signals every process of the service.
    let supervisor = Process::open(run.status().supervisor.pid).expect("the supervisor");
    run.signal(Signal::TERM);
    supervisor.signal(Signal::TERM);
    run.signal(Signal::TERM);
    let report = clients.finish(LIMIT);
    assert_flawless(&report, &run);
    assert_eq!(run.wait_for_end(LIMIT).code(), Some(0));
    run.expect_nothing_left();
}

#[test]
fn a_worker_that_does_not_end_is_killed_at_the_deadline() {
    let launch = Launch::node("stubborn.js")
        .flag("--stop-timeout", "1s")
        .flag("--kill-after", "500ms");
    let mut run = launch.start();
    run.signal(Signal::TERM);
    run.wait_for_end(Duration::from_secs(10));
    run.expect_nothing_left();
}

#[test]
fn processes_that_the_app_started_do_not_outlive_it() {
    let run = Launch::node("orphans.js").start();
    assert_eq!(
        run.processes().len(),
        6,
        "keeper, supervisor, two workers, a helper of each"
    );
    run.finish();
}
