//! A reload is a transaction: no client can tell that it happened, and one that fails changes nothing.

use std::time::Duration;

use rustix::process::Signal;
use segue_load::{Cut, Download, Fresh, Load, Phase, Post};
use segue_wire::control::WorkerPhase;

use crate::harness::load::{Clients, apache_bench, assert_flawless, render};
use crate::harness::nodes::each_node;
use crate::harness::run::{LIMIT, Launch, Run};
use crate::harness::{heavy, skip};

fn fresh(clients: u32) -> segue_load::Builder {
    Load::builder().with(Fresh {
        clients,
        ..Fresh::default()
    })
}

/// So many reloads in a row under 200 clients that connect anew for each request.
fn reload_in_a_row(fixture: &str, reloads: u32) {
    let _turn = heavy();
    each_node(|node| {
        let run = Launch::node(fixture).with_node(node).start();
        let clients = Clients::start(fresh(200), run.address());
        clients.wait_for_answers(1000);
        for number in 0..reloads {
            let version = format!("v{}", number + 2);
            clients.mark(format!("reload to {version}"), Phase::Reload);
            run.roll(&version, fixture);
            clients.committed(&version);
            clients.wait_for_answers(500);
        }
        let report = clients.stop();
        eprintln!("{node}: {}", render(&report));
        assert_flawless(&report, &run);
        assert_eq!(
            report.versions.len(),
            reloads as usize + 1,
            "every version answered"
        );
        run.finish();
    });
}

#[test]
fn ten_reloads_of_an_app_without_a_signal_handler_lose_nothing() {
    reload_in_a_row("plain.js", 10);
}

#[test]
fn ten_reloads_of_an_app_that_closes_its_server_lose_nothing() {
    reload_in_a_row("graceful.js", 10);
}

#[test]
#[ignore = "long"]
fn a_hundred_reloads_lose_nothing() {
    reload_in_a_row("plain.js", 100);
}

/// Bodies in both directions and half-sent requests, on new connections.
#[test]
fn bodies_are_whole_across_reloads() {
    let _turn = heavy();
    let run = Launch::node("plain.js").start();
    let load = Load::builder()
        .with(Post {
            clients: 10,
            fresh: true,
            over: Duration::from_millis(400),
            ..Post::default()
        })
        .with(Post {
            clients: 10,
            fresh: true,
            ..Post::default()
        })
        .with(Download {
            clients: 4,
            over: Duration::from_millis(700),
            ..Download::default()
        })
        .with(Cut {
            clients: 2,
            ..Cut::default()
        });
    let clients = Clients::start(load, run.address());
    clients.wait_for_answers(50);
    for number in 2..5 {
        let version = format!("v{number}");
        clients.mark(format!("reload to {version}"), Phase::Reload);
        run.roll(&version, "plain.js");
        clients.committed(&version);
        clients.wait_for_answers(50);
    }
    assert_flawless(&clients.stop(), &run);
    run.finish();
}

#[test]
fn once_the_command_has_returned_no_new_connection_reaches_the_old_version() {
    let run = Launch::standin("").workers("3").start();
    for number in 2..6 {
        let version = format!("v{number}");
        run.roll(&version, "");
        for _ in 0..200 {
            assert_eq!(run.get("/").version(), version);
        }
    }
    run.finish();
}

#[test]
fn apache_bench_with_a_reload_in_the_middle_fails_no_request() {
    let _turn = heavy();
    let run = Launch::node("plain.js").start();
    let url = format!("http://{}/", run.address());
    let bench = apache_bench(&["-n", "100000", "-c", "1000", "-s", "60"], &url, |log| {
        log.wait_for(0, "Completed 30000 requests", Duration::from_secs(120));
        run.roll("v2", "plain.js");
        assert!(
            !log.contains("Completed 100000 requests"),
            "the reload came too late"
        );
    });
    let Some(bench) = bench else {
        return skip("ab is not installed (Debian: apache2-utils)");
    };
    assert_eq!(
        (bench.complete, bench.failed),
        (100_000, 0),
        "{}\n{}",
        bench.output,
        run.log.render()
    );
    run.finish();
}

/// Eight downloads of eight seconds, and a reload in their midst.
fn downloads_across_a_reload(fixture: &str) {
    let run = Launch::node(fixture).start();
    let download = Download {
        clients: 8,
        over: Duration::from_secs(8),
        ..Download::default()
    };
    let clients = Clients::start(Load::builder().with(download).requests(8), run.address());
    run.until("all downloads have begun", |_| clients.opened() >= 8);
    clients.mark("reload", Phase::Reload);
    run.roll("v2", fixture);
    assert_eq!(run.get("/").version(), "v2");
    assert_eq!(
        clients.snapshot().answers(),
        0,
        "the downloads were to last longer than the reload"
    );
    let report = clients.finish(LIMIT);
    assert_flawless(&report, &run);
    assert_eq!(report.answers(), 8);
    assert_eq!(report.versions.keys().collect::<Vec<_>>(), ["v1"]);
    run.finish();
}

#[test]
fn downloads_in_flight_are_whole_without_a_signal_handler() {
    downloads_across_a_reload("plain.js");
}

#[test]
fn downloads_in_flight_are_whole_when_the_app_closes_its_server() {
    downloads_across_a_reload("graceful.js");
}

#[test]
fn downloads_in_flight_are_whole_when_the_app_exits_on_sigterm() {
    downloads_across_a_reload("abrupt.js");
}

/// A broken version must cost nothing, say what is wrong, and not be in the way of the next.
fn broken_version(launch: Launch, fixture: &str, says: &[&str]) {
    let run = launch.start();
    let before = run.ready_pids();
    let clients = Clients::start(fresh(20), run.address());
    clients.wait_for_answers(50);
    clients.mark("broken reload", Phase::Reload);
    run.roll_and_fail("v2", fixture).says(says);
    clients.wait_for_answers(50);
    let report = clients.stop();
    assert_flawless(&report, &run);
    assert_eq!(report.versions.keys().collect::<Vec<_>>(), ["v1"]);
    assert_eq!(run.ready_pids(), before, "the same workers serve");
    run.until("the new workers are gone", |app| {
        app.reload.is_none() && app.workers.iter().all(|worker| worker.generation == 1)
    });
    run.roll("v3", "plain.js");
    assert_eq!(run.get("/").version(), "v3");
    run.finish();
}

#[test]
fn a_version_that_throws_at_boot_changes_nothing() {
    let launch = Launch::node("plain.js");
    broken_version(
        launch,
        "throws-at-boot.js",
        &["about to read the settings", "the settings are missing"],
    );
}

#[test]
fn a_version_with_a_syntax_error_changes_nothing() {
    broken_version(
        Launch::node("plain.js"),
        "syntax-error.js",
        &["SyntaxError"],
    );
}

#[test]
fn a_version_that_never_listens_changes_nothing() {
    let launch = Launch::node("plain.js").flag("--ready-timeout", "3s");
    broken_version(
        launch,
        "never-listens.js",
        &["listen", "waiting for a database"],
    );
}

#[test]
fn a_version_that_exits_a_second_after_listening_changes_nothing() {
    let launch = Launch::node("plain.js").flag("--min-uptime", "2s");
    broken_version(
        launch,
        "exits-after-listening.js",
        &["code 1", "lost the database"],
    );
}

#[test]
fn a_version_that_listens_elsewhere_changes_nothing() {
    let launch = Launch::node("plain.js").flag("--ready-timeout", "3s");
    broken_version(launch, "listens-elsewhere.js", &["listen"]);
}

#[test]
fn a_version_in_an_endless_loop_changes_nothing() {
    let launch = Launch::node("plain.js").flag("--ready-timeout", "3s");
    broken_version(launch, "endless-loop.js", &["computing before listening"]);
}

#[test]
fn a_version_that_cannot_be_found_changes_nothing() {
    let run = Launch::node("plain.js").start();
    std::fs::remove_file(run.site.path("current")).expect("remove the symlink");
    run.reload().expect(1).says(&["current"]);
    assert_eq!(run.get("/").version(), "v1");
    run.site.turn("v1");
    run.reload().expect(0);
    run.finish();
}

#[test]
fn a_reload_is_overtaken_by_a_later_one() {
    let run = Launch::standin("").start();
    let mark = run.log.mark();
    run.site.deploy("v2", "boot=60000");
    let first = run.segue_beside(&["reload"]);
    run.log.wait_for(mark, "reload_started", LIMIT);
    run.site.deploy("v3", "");
    let second = run.reload();
    second.expect(0);
    first.wait(LIMIT).expect(4).says(&["superseded"]);
    assert_eq!(run.get("/").version(), "v3");
    run.finish();
}

#[test]
fn the_old_generation_serves_with_all_workers_until_the_cut_over() {
    let run = Launch::standin("").flag("--ready-timeout", "60s").start();
    let before = run.ready_pids();
    run.site.deploy("v2", "boot=2000");
    let reload = run.segue_beside(&["reload"]);
    let app = run.until("the new workers boot", |app| {
        app.workers
            .iter()
            .filter(|worker| worker.phase == WorkerPhase::Booting)
            .count()
            == 2
    });
    let old: Vec<u32> = app
        .workers
        .iter()
        .filter(|worker| worker.generation == 1)
        .map(|worker| worker.worker)
        .collect();
    assert_eq!(app.addresses.len(), 1);
    assert_eq!(app.addresses[0].serving, old);
    for _ in 0..50 {
        assert!(before.contains(&run.get("/").pid()));
    }
    reload.wait(LIMIT).expect(0);
    assert_eq!(run.get("/").version(), "v2");
    run.finish();
}

#[test]
fn ready_is_what_the_app_says_with_the_message_rule() {
    let launch = Launch::node("says-ready.js")
        .flag("--ready", "message")
        .env("READY_MS", "300");
    let run = launch.flag("--ready-timeout", "3s").start();
    run.roll("v2", "says-ready.js");
    run.roll_and_fail("v3", "never-says-ready.js")
        .says(&["ready"]);
    assert_eq!(run.get("/").version(), "v2");
    run.finish();
}

#[test]
fn hup_reloads() {
    let run = Launch::node("plain.js").start();
    run.site.deploy("v2", "plain.js");
    run.signal(Signal::HUP);
    run.until("the second generation serves", |app| {
        app.generation == 2 && app.reload.is_none()
    });
    assert_eq!(run.get("/").version(), "v2");
    run.finish();
}

#[test]
fn the_caller_chooses_what_to_wait_for() {
    let run = Launch::standin("").start();
    let old = run.ready_pids();
    run.site.deploy("v2", "boot=1000");
    let accepted = run.segue(&["reload", "--wait=none"]);
    accepted.expect(0);
    assert!(run.app().generation == 1, "it does not wait for the boot");
    run.until("the second generation serves", |app| {
        app.generation == 2 && app.reload.is_none()
    });
    run.until("the first generation is gone", |app| app.workers.len() == 2);
    assert!(old.iter().all(|pid| !run.processes().contains(pid)));

    let old = run.ready_pids();
    run.site.deploy("v3", "");
    run.segue(&["reload", "--wait=drained"]).expect(0);
    assert!(
        old.iter().all(|pid| !run.processes().contains(pid)),
        "the old workers are gone"
    );
    run.finish();
}

#[test]
fn an_old_worker_that_does_not_end_is_killed_at_its_deadline() {
    let launch = Launch::node("stubborn.js")
        .flag("--drain-timeout", "1s")
        .flag("--kill-after", "500ms");
    let run = launch.flag("--stop-timeout", "1s").start();
    let old = run.ready_pids();
    run.roll("v2", "plain.js");
    run.until("the old workers are gone", |app| app.workers.len() == 2);
    assert!(old.iter().all(|pid| !run.processes().contains(pid)));
    run.finish();
}

#[test]
fn without_steering_one_socket_is_shared_and_nothing_is_lost() {
    let _turn = heavy();
    let run = Launch::node("plain.js")
        .env("SEGUE_STEERING", "off")
        .start();
    assert!(run.app().addresses.iter().all(|address| !address.steered));
    reload_under_load(&run, 3);
    run.finish();
}

#[test]
fn shared_distribution_loses_nothing() {
    let _turn = heavy();
    let run = Launch::node("plain.js")
        .flag("--distribution", "shared")
        .start();
    reload_under_load(&run, 3);
    run.finish();
}

fn reload_under_load(run: &Run, reloads: u32) {
    let clients = Clients::start(fresh(100), run.address());
    clients.wait_for_answers(500);
    for number in 0..reloads {
        let version = format!("v{}", number + 2);
        clients.mark(format!("reload to {version}"), Phase::Reload);
        run.roll(&version, "plain.js");
        clients.mark("steady", Phase::Steady);
        clients.wait_for_answers(200);
    }
    assert_flawless(&clients.stop(), run);
    // Without steering both generations accept from the one socket until the old one has left.
    run.until("the old generations are gone", |app| app.workers.len() == 2);
    assert_eq!(run.get("/").version(), format!("v{}", reloads + 1));
}
