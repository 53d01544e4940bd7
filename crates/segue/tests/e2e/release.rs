//! Which release a worker runs, with which environment and at which addresses.

use rustix::process::Signal;
use segue_wire::control::WorkerPhase;

use crate::harness::http;
use crate::harness::process::Process;
use crate::harness::run::{LIMIT, Launch, Run};

fn ready(run: &Run, count: usize) {
    run.until("the workers are ready", |app| {
        app.workers
            .iter()
            .filter(|worker| worker.phase == WorkerPhase::Ready)
            .count()
            == count
            && app.workers.len() == count
    });
}

#[test]
fn the_current_symlink_is_followed_at_a_reload_and_pinned_for_respawns() {
    let run = Launch::node("plain.js").start();
    run.site.deploy("v2", "plain.js");
    for pid in run.ready_pids() {
        Process::open(pid).expect("a worker").signal(Signal::KILL);
    }
    let pinned = run
        .site
        .path("releases/v1")
        .canonicalize()
        .expect("the release exists");
    let before = run.app();
    run.until("both slots were filled again", |app| {
        app.workers
            .iter()
            .filter(|worker| worker.phase == WorkerPhase::Ready)
            .count()
            == 2
            && app.slots.iter().all(|slot| slot.restarts > 0)
    });
    assert_eq!(before.generation, 1);
    for _ in 0..20 {
        let info = run.get("/info").json();
        assert_eq!(info["version"], "v1");
        assert_eq!(info["cwd"].as_str(), pinned.to_str());
    }
    run.reload().expect(0);
    assert_eq!(run.get("/info").json()["version"], "v2");
    assert_eq!(run.app().generation, 2);
    run.finish();
}

#[test]
fn a_worker_that_dies_within_a_reload_is_replaced_from_its_own_release() {
    let run = Launch::standin("").flag("--ready-timeout", "60s").start();
    let victim = run.ready_pids()[0];
    run.site.deploy("v2", "boot=3000");
    let mark = run.log.mark();
    let reload = run.segue_beside(&["reload"]);
    run.log.wait_for(mark, "reload_started", LIMIT);
    Process::open(victim)
        .expect("a worker")
        .signal(Signal::KILL);
    run.until("the old generation is whole again", |app| {
        let old = app.workers.iter().filter(|worker| worker.generation == 1);
        old.filter(|worker| worker.phase == WorkerPhase::Ready && worker.pid != Some(victim))
            .count()
            == 2
    });
    assert_eq!(run.get("/").version(), "v1");
    reload.wait(LIMIT).expect(0);
    for _ in 0..20 {
        assert_eq!(run.get("/").version(), "v2");
    }
    ready(&run, 2);
    run.finish();
}

#[test]
fn a_new_worker_that_is_killed_while_it_boots_fails_the_reload() {
    let run = Launch::standin("").flag("--ready-timeout", "60s").start();
    let before = run.ready_pids();
    run.site.deploy("v2", "boot=60000");
    let reload = run.segue_beside(&["reload"]);
    let app = run.until("both new workers boot", |app| {
        let new = app.workers.iter().filter(|worker| worker.generation == 2);
        new.filter(|worker| worker.pid.is_some()).count() == 2
    });
    let booting = app.workers.iter().find(|worker| worker.generation == 2);
    let pid = booting.and_then(|worker| worker.pid).expect("a pid");
    Process::open(pid).expect("a worker").signal(Signal::KILL);
    reload.wait(LIMIT).expect(1).says(&["SIGKILL"]);
    assert_eq!(run.ready_pids(), before);
    ready(&run, 2);
    run.finish();
}

#[test]
fn env_files_are_read_again_at_a_reload() {
    let launch = Launch::node("plain.js");
    let file = launch.site.path("settings.env");
    std::fs::write(&file, "COLOUR=blue\nPLAIN='with spaces'\n").expect("write the file");
    let run = launch
        .flag("--env-file", &file)
        .flag("--env", "FIXED=1")
        .start();
    let env = run.get("/info").json()["env"].clone();
    assert_eq!(
        (&env["COLOUR"], &env["PLAIN"], &env["FIXED"]),
        (&"blue".into(), &"with spaces".into(), &"1".into())
    );
    std::fs::write(&file, "COLOUR=green\n").expect("write the file");
    for pid in run.ready_pids() {
        Process::open(pid).expect("a worker").signal(Signal::KILL);
    }
    run.until("both slots were filled again", |app| {
        app.slots.iter().all(|slot| slot.restarts > 0)
    });
    ready(&run, 2);
    let env = run.get("/info").json()["env"].clone();
    assert_eq!(
        env["COLOUR"], "blue",
        "a respawn has the environment of its generation"
    );
    run.reload().expect(0);
    let env = run.get("/info").json()["env"].clone();
    assert_eq!(
        (&env["COLOUR"], &env["FIXED"]),
        (&"green".into(), &"1".into())
    );
    assert_eq!(env["PLAIN"], serde_json::Value::Null);
    run.finish();
}

#[test]
fn a_new_release_may_listen_at_more_addresses_not_at_fewer() {
    let run = Launch::node("plain.js")
        .flag("--ready-timeout", "4s")
        .start();
    run.roll("v2", "two-ports.js");
    let other = (std::net::Ipv4Addr::LOCALHOST, run.site.other_port.number()).into();
    assert_eq!(
        http::get(other, "/").expect("the second port").version(),
        "v2"
    );
    let number = run.site.other_port.number().to_string();
    run.roll_and_fail("v3", "plain.js").says(&[&number]);
    assert_eq!(run.get("/").version(), "v2");
    assert_eq!(
        http::get(other, "/").expect("the second port").version(),
        "v2"
    );
    run.finish();
}

#[test]
fn a_stop_within_a_reload_ends_both() {
    let mut run = Launch::standin("").flag("--ready-timeout", "60s").start();
    run.site.deploy("v2", "boot=60000");
    let mark = run.log.mark();
    let reload = run.segue_beside(&["reload"]);
    run.log.wait_for(mark, "reload_started", LIMIT);
    run.signal(Signal::TERM);
    let outcome = reload.wait(LIMIT);
    assert!(outcome.code.is_some_and(|code| code != 0), "{outcome:#?}");
    let status = run.wait_for_end(LIMIT);
    assert_eq!(status.code(), Some(0), "{}", run.log.render());
    run.expect_nothing_left();
}

#[test]
fn a_port_whose_last_connections_linger_can_be_used_again_at_once() {
    let first = Launch::standin("").start();
    let port = first.site.port.number();
    for _ in 0..50 {
        // The server closes first, so TIME_WAIT is on its side.
        assert_eq!(first.get("/").version(), "v1");
    }
    first.signal(Signal::TERM);
    let mut first = first;
    first.wait_for_end(LIMIT);
    first.expect_nothing_left();
    let second = Launch::standin(&format!("port={port}")).start();
    let address = (std::net::Ipv4Addr::LOCALHOST, port).into();
    assert_eq!(http::get(address, "/").expect("an answer").version(), "v1");
    second.finish();
}
