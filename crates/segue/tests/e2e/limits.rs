//! Workers that leave one by one: for their age or their memory, because too many generations
//! drain, and after the delay of a stop.

use std::time::Duration;

use rustix::process::Signal;
use segue_load::{Download, Load};

use crate::drain::{assert_unnoticed, mixed};
use crate::harness::heavy;
use crate::harness::load::{Clients, render};
use crate::harness::record::Record;
use crate::harness::run::{LIMIT, Launch};

/// Both workers come to be replaced; keep-alive clients do not notice.
fn replaced(launch: Launch) {
    let _turn = heavy();
    let run = launch.recording().start();
    let first = run.ready_pids();
    let clients = Clients::start(mixed(50), run.address());
    clients.wait_for_answers(500);
    run.until("both have been replaced", |app| {
        app.workers
            .iter()
            .filter_map(|worker| worker.pid)
            .all(|pid| !first.contains(&pid))
    });
    clients.wait_for_answers(500);
    let report = clients.stop();
    eprintln!("{}", render(&report));
    assert_unnoticed(&report, &run);
    assert_eq!(run.app().generation, 1, "no reload was needed");
    Record::read(&run).expect_each_once(report.requests(), &run);
    run.finish();
}

#[test]
fn workers_of_great_age_are_replaced_unnoticed() {
    let launch = Launch::node("plain.js").flag("--max-age", "2s");
    replaced(launch);
}

#[test]
fn workers_that_use_too_much_memory_are_replaced_unnoticed() {
    let launch = Launch::node("plain.js").flag("--memory", "1MiB");
    replaced(launch);
}

#[test]
fn the_oldest_generation_is_ended_when_too_many_drain() {
    let _turn = heavy();
    let run = Launch::node("plain.js")
        .flag("--drain-generations", "1")
        .start();
    let mark = run.log.mark();
    let begin = || {
        let download = Download {
            clients: 2,
            over: Duration::from_secs(60),
            ..Download::default()
        };
        let clients = Clients::start(Load::builder().with(download), run.address());
        run.until("the downloads have begun", |_| clients.opened() >= 2);
        clients
    };
    let first = begin();
    run.roll("v2", "plain.js");
    let second = begin();
    run.roll("v3", "plain.js");
    run.log
        .wait_for(mark, "generation 1 is ended before it has drained", LIMIT);
    run.until("the first generation is gone", |app| {
        app.workers.iter().all(|worker| worker.generation > 1)
    });
    assert!(
        run.app()
            .workers
            .iter()
            .any(|worker| worker.generation == 2),
        "the one after it still drains"
    );
    drop((first, second));
    run.finish();
}

#[test]
fn a_delayed_stop_serves_on_before_it_drains() {
    let mut run = Launch::node("plain.js").flag("--stop-delay", "1s").start();
    let mark = run.log.mark();
    run.signal(Signal::TERM);
    run.log.wait_for(mark, "goes on serving for", LIMIT);
    assert_eq!(run.get("/").version(), "v1");
    let status = run.wait_for_end(LIMIT);
    assert_eq!(status.code(), Some(0), "{}", run.log.render());
    run.expect_nothing_left();
}
