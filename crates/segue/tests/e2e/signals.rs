//! The signals of the main process, and life as PID 1.

use std::time::Duration;

use rustix::process::Signal;
use segue_load::Phase;
use segue_wire::control::AppPhase;

use crate::drain::mixed;
use crate::harness::load::{Clients, assert_flawless};
use crate::harness::process::{self, Process};
use crate::harness::record::Record;
use crate::harness::run::{LIMIT, Launch};
use crate::harness::{heavy, is_root, skip};

#[test]
fn ttin_and_ttou_change_the_number_of_workers() {
    let run = Launch::standin("").workers("2").start();
    run.signal(Signal::TTIN);
    run.until("one worker more", |app| {
        app.slots.len() == 3 && app.workers.len() == 3
    });
    run.signal(Signal::TTOU);
    run.until("one worker fewer", |app| {
        app.slots.len() == 2 && app.workers.len() == 2
    });
    run.signal(Signal::TTOU);
    run.until("one worker", |app| {
        app.slots.len() == 1 && app.workers.len() == 1
    });
    let mark = run.log.mark();
    run.signal(Signal::TTOU);
    // One is the least; it says so.
    run.log.wait_for(mark, "worker", LIMIT);
    assert_eq!(run.app().slots.len(), 1);
    assert_eq!(run.get("/").version(), "v1");
    run.finish();
}

#[test]
fn a_signal_that_finds_nothing_to_do_says_so_and_kills_nobody() {
    let run = Launch::standin("").start();
    let before = run.ready_pids();
    for (signal, says) in [(Signal::USR1, "--log FILE"), (Signal::USR2, "upgraded")] {
        let mark = run.log.mark();
        run.signal(signal);
        run.log.wait_for(mark, says, LIMIT);
    }
    for signal in [Signal::PIPE, Signal::CHILD] {
        run.signal(signal);
    }
    assert_eq!(run.get("/").version(), "v1");
    assert_eq!(run.ready_pids(), before);
    run.finish();
}

#[test]
fn the_pid_file_names_the_main_process() {
    let launch = Launch::standin("");
    let path = launch.site.path("segue.pid");
    let run = launch.flag("--pid-file", &path).start();
    let text = std::fs::read_to_string(&path).expect("read the pid file");
    assert_eq!(text.trim().parse(), Ok(run.main.pid));
    assert_eq!(run.status().supervisor.keeper_pid, Some(run.main.pid));
    run.finish();
}

#[test]
fn workers_and_supervisor_are_in_process_groups_of_their_own() {
    let run = Launch::standin("").start();
    let group = |pid: u32| {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a pid"));
        rustix::process::getpgid(pid).expect("its group")
    };
    let supervisor = run.status().supervisor.pid;
    let mut groups = vec![group(run.main.pid), group(supervisor)];
    groups.extend(run.ready_pids().into_iter().map(group));
    groups.sort_by_key(|group| group.as_raw_nonzero());
    groups.dedup();
    assert_eq!(groups.len(), 4, "a ^C of the terminal arrives once");
    run.finish();
}

#[test]
fn as_pid_1_it_serves_reaps_and_ends_with_the_right_code() {
    let unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
    let tried = std::process::Command::new("unshare")
        .args(&unshare[1..])
        .arg("true")
        .output();
    if !tried.is_ok_and(|output| output.status.success()) {
        return skip("unshare may not make a pid namespace here");
    }
    let mut run = Launch::node("grandchildren.js").under(&unshare).start();
    assert_eq!(
        run.status().supervisor.keeper_pid,
        Some(1),
        "the keeper is PID 1"
    );
    assert_eq!(run.get("/").version(), "v1");
    run.roll("v2", "grandchildren.js");
    assert_eq!(run.get("/").version(), "v2");
    run.until("the old generation is gone", |app| app.workers.len() == 2);
    let keeper = *process::children(run.main.pid).first().expect("the keeper");
    // Whatever lost its parent has become the keeper's child, and has been reaped.
    run.until("no zombie is left", |_| {
        process::children(keeper)
            .iter()
            .all(|child| process::state(*child) != Some('Z'))
    });
    Process::open(keeper)
        .expect("the keeper")
        .signal(Signal::TERM);
    let status = run.wait_for_end(LIMIT);
    assert_eq!(status.code(), Some(0), "{}", run.log.render());
    run.expect_nothing_left();
}

#[test]
fn as_pid_1_a_first_start_that_fails_is_an_exit_code() {
    let unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
    let tried = std::process::Command::new("unshare")
        .args(&unshare[1..])
        .arg("true")
        .output();
    if !tried.is_ok_and(|output| output.status.success()) {
        return skip("unshare may not make a pid namespace here");
    }
    let launch = Launch::node("throws-at-boot.js").under(&unshare);
    let (code, run) = launch.start_and_fail(Duration::from_secs(20));
    assert_eq!(code, 1, "{}", run.log.render());
}

#[test]
fn without_a_place_for_a_control_socket_signals_are_enough() {
    // A read-only container in small: /run cannot be written to, and nobody can be trusted
    // with the other directory.
    let mounts = "mkdir -p /tmp/segue-0 && mount -t tmpfs -o mode=777 none /tmp/segue-0 && \
                  mount -t tmpfs -o ro none /run";
    let tried = std::process::Command::new("unshare")
        .args(["--mount", "sh", "-c", mounts])
        .output();
    if !is_root() || !tried.is_ok_and(|output| output.status.success()) {
        return skip("unshare may not mount here");
    }
    let script = format!("{mounts} && exec \"$@\"");
    let mut launch = Launch::node("plain.js")
        .env("XDG_RUNTIME_DIR", "")
        .flag("--name", "shop")
        .under(&["unshare", "--mount", "sh", "-c", &script, "sh"]);
    launch.default_control = true;
    let run = launch.spawn();
    run.log.wait_for(0, "no control socket: ", LIMIT);
    run.log.wait_for(0, "shop is ready", LIMIT);
    assert_eq!(run.get("/").version(), "v1");
    run.site.deploy("v2", "plain.js");
    run.signal(Signal::HUP);
    run.log.wait_for(0, "committed", LIMIT);
    assert_eq!(run.get("/").version(), "v2");
    run.finish();
}

#[test]
fn a_paused_app_lets_clients_wait_until_hup_brings_new_workers() {
    let _turn = heavy();
    let run = Launch::node("recorded.js").recording().start();
    let clients = Clients::start(mixed(50), run.address());
    clients.wait_for_answers(500);

    clients.mark("pause", Phase::Fault);
    run.signal(Signal::WINCH);
    run.until("all have drained, and clients queue", |app| {
        app.phase == AppPhase::Paused
            && app.workers.is_empty()
            && app
                .addresses
                .iter()
                .any(|address| address.queued.unwrap_or(0) > 0 && !address.refusing)
    });
    // Asked again, nothing changes; nor does a killed supervisor.
    run.signal(Signal::WINCH);
    Process::open(run.status().supervisor.pid)
        .expect("the supervisor")
        .signal(Signal::KILL);
    run.until("it is still paused", |app| app.phase == AppPhase::Paused);

    run.site.deploy("v2", "recorded.js");
    run.signal(Signal::HUP);
    clients.wait_for_answers(500);
    clients.committed("v2");
    run.until("it runs", |app| app.phase == AppPhase::Running);
    let report = clients.stop();
    assert_flawless(&report, &run);
    Record::read(&run).expect_each_once(report.requests(), &run);
    run.finish();
}

#[test]
fn a_broken_release_leaves_a_paused_app_paused() {
    let run = Launch::node("plain.js").start();
    run.signal(Signal::WINCH);
    run.until("paused", |app| {
        app.phase == AppPhase::Paused && app.workers.is_empty()
    });
    run.roll_and_fail("v2", "throws-at-boot.js");
    run.until("still paused", |app| {
        app.phase == AppPhase::Paused && app.workers.is_empty()
    });
    run.roll("v3", "plain.js");
    assert_eq!(run.get("/").version(), "v3");
    run.signal(Signal::WINCH);
    run.until("paused again", |app| app.phase == AppPhase::Paused);
    run.finish();
}
