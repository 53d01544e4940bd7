//! Workers that serve are watched: one that is ill is replaced first and drained after, one that is
//! blocked hurts nobody but those who are inside it.

use std::time::{Duration, Instant};

use segue_load::{Fresh, Load};
use segue_wire::control::App;

use crate::harness::http;
use crate::harness::load::{Clients, assert_flawless, render};
use crate::harness::nodes::each_node;
use crate::harness::run::{Launch, Run};
use crate::harness::{heavy, lasting};

fn fresh(clients: u32) -> segue_load::Builder {
    Load::builder().with(Fresh {
        clients,
        ..Fresh::default()
    })
}

#[test]
fn a_blocked_worker_gets_no_new_connection_until_it_answers() {
    let _turn = lasting();
    each_node(|node| {
        let run = Launch::node("plain.js")
            .with_node(node)
            .flag("--unresponsive", "30s")
            .start();
        let mark = run.log.mark();
        let address = run.address();
        let blocked = std::thread::spawn(move || http::get(address, "/block?ms=6000"));
        run.log
            .wait_for(mark, "worker_blocked", Duration::from_secs(10));
        let blocked_at = Instant::now();
        let clients = Clients::start(fresh(10), run.address());
        clients.wait_for_answers(500);
        let report = clients.stop();
        assert!(
            blocked_at.elapsed() < Duration::from_secs(4),
            "it is still blocked: {:?}",
            blocked_at.elapsed()
        );
        assert_flawless(&report, &run);
        let class = report.classes.first().expect("one class");
        eprintln!("{node}: {}", render(&report));
        let _ = class;
        let answered = blocked.join().expect("no panic").expect("an answer");
        let victim = answered.pid();
        assert_eq!(answered.text(), "blocked\n");
        run.log
            .wait_for(mark, "worker_unblocked", Duration::from_secs(10));
        run.until("both serve again", |_| run.get("/").pid() == victim);
        assert_eq!(run.app().generation, 1);
        run.finish();
    });
}

#[test]
fn a_worker_that_is_blocked_for_long_is_replaced() {
    let _turn = lasting();
    let run = Launch::node("plain.js")
        .flag("--unresponsive", "2s")
        .start();
    let before = run.ready_pids();
    let address = run.address();
    let blocked = std::thread::spawn(move || http::get(address, "/block?ms=60000"));
    let clients = Clients::start(fresh(10), run.address());
    run.until("one has been replaced", |app| replaced(app, &before) == 1);
    clients.wait_for_answers(200);
    let report = clients.stop();
    eprintln!("{}", render(&report));
    // Connections that were in its queue when it was found out have been handed to others.
    assert!(report.failed() <= 10, "{}", render(&report));
    drop(blocked);
    run.signal(rustix::process::Signal::TERM);
    run.signal(rustix::process::Signal::INT);
}

fn replaced(app: &App, before: &[u32]) -> usize {
    let pids = app.workers.iter().filter_map(|worker| worker.pid);
    pids.filter(|pid| !before.contains(pid)).count()
}

fn watched(launch: Launch) -> Launch {
    launch
        .flag("--ready", "http=/healthz")
        .flag("--health-interval", "300ms")
        .flag("--health-failures", "2")
}

#[test]
fn a_worker_that_fails_its_probe_is_replaced_unnoticed() {
    let _turn = heavy();
    let run = watched(Launch::node("sickens.js")).start();
    let before = run.ready_pids();
    let clients = Clients::start(fresh(20), run.address());
    clients.wait_for_answers(200);
    let victim = run.get("/sicken").pid();
    run.until("it has been replaced", |app| {
        let pids: Vec<u32> = app.workers.iter().filter_map(|worker| worker.pid).collect();
        pids.len() == 2 && !pids.contains(&victim)
    });
    clients.wait_for_answers(200);
    let report = clients.stop();
    eprintln!("{}", render(&report));
    assert_flawless(&report, &run);
    let app = run.app();
    assert_eq!((app.generation, replaced(&app, &before)), (1, 1));
    run.finish();
}

/// When all fail at once it is nothing that new workers could do better.
#[test]
fn a_cause_that_all_share_replaces_nobody() {
    let launch = Launch::node("sickens.js");
    let file = launch.site.path("no-database");
    let run = watched(launch)
        .env("SHARED", &file.to_string_lossy())
        .start();
    let before = run.ready_pids();
    let mark = run.log.mark();
    std::fs::write(&file, "").expect("write a file");
    run.log
        .wait_for(mark, "health_shared", Duration::from_secs(20));
    expect_same(&run, &before);
    std::fs::remove_file(&file).expect("remove the file");
    run.log
        .wait_for(mark, "health_recovered", Duration::from_secs(20));
    expect_same(&run, &before);
    run.finish();
}

fn expect_same(run: &Run, before: &[u32]) {
    assert_eq!(run.ready_pids(), before, "{}", run.log.render());
    assert_eq!(run.get("/").version(), "v1");
}
