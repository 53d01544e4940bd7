//! Supervisors that are killed: another one takes over, and nobody notices. No worker is
//! restarted by it, no request fails, what was under way is finished, nothing is left behind.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::Signal;
use segue_load::Phase;
use segue_wire::control::WorkerPhase;

use crate::drain::{assert_unnoticed, mixed};
use crate::harness::everything::{self, Everything};
use crate::harness::heavy;
use crate::harness::load::{Clients, render};
use crate::harness::nodes::nodes;
use crate::harness::process::Process;
use crate::harness::record::Record;
use crate::harness::run::{LIMIT, Launch, Run};

/// Kills the supervisor that serves now.
#[track_caller]
pub(crate) fn kill_supervisor(run: &Run) -> u32 {
    let supervisor = run.status().supervisor.pid;
    assert_ne!(supervisor, run.main.pid, "the main process is the keeper");
    kill(supervisor);
    supervisor
}

#[track_caller]
fn kill(pid: u32) {
    let process = Process::open(pid).expect("it runs");
    process.signal(Signal::KILL);
    assert!(process.ends_within(LIMIT), "{pid} survived");
}

/// The pid of the supervisor, without asking it.
fn supervisor_of(run: &Run) -> Option<u32> {
    let children = crate::harness::process::children(run.main.pid);
    let mut children = children.into_iter();
    children.find(|child| {
        std::fs::read(format!("/proc/{child}/cmdline"))
            .is_ok_and(|line| line.split(|byte| *byte == 0).nth(1) == Some(b"__supervisor"))
    })
}

#[test]
fn a_killed_supervisor_is_not_missed() {
    let _turn = heavy();
    for node in nodes() {
        let run = Launch::node("recorded.js")
            .with_node(&node)
            .recording()
            .start();
        let workers = run.ready_pids();
        let clients = Clients::start(mixed(100), run.address());
        clients.wait_for_answers(1000);
        let mut supervisors = BTreeSet::new();
        for _ in 0..5 {
            clients.mark("the supervisor is killed", Phase::Fault);
            supervisors.insert(kill_supervisor(&run));
            clients.wait_for_answers(500);
            assert_eq!(run.ready_pids(), workers, "no worker was restarted");
        }
        assert_eq!(supervisors.len(), 5);
        run.roll("v2", "recorded.js");
        clients.committed("v2");
        clients.wait_for_answers(500);
        let report = clients.stop();
        assert_unnoticed(&report, &run);
        Record::read(&run).expect_each_once(report.requests(), &run);
        run.finish();
    }
}

/// The next of a row of numbers (xorshift64).
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// So many times: a reload under load, in which the supervisor is killed at a random moment. The command
/// learns how it ends all the same.
fn killed_in_a_reload(times: u32, seed: u64) {
    let _turn = heavy();
    for node in nodes() {
        let run = Launch::node("recorded.js")
            .with_node(&node)
            .recording()
            .start();
        let clients = Clients::start(mixed(150), run.address());
        clients.wait_for_answers(1000);
        let mut random = seed;
        for number in 0..times {
            let version = format!("v{}", number + 2);
            let moment = Duration::from_micros(next(&mut random) % 1_600_000);
            clients.mark(format!("killed after {moment:?}"), Phase::Fault);
            run.site.deploy(&version, "recorded.js");
            let keeper = Process::open(run.main.pid).expect("the keeper");
            let reload = run.segue_beside(&["reload", "--wait", "drained"]);
            // It does not end: that is the wait.
            assert!(!keeper.ends_within(moment));
            let victim = supervisor_of(&run).expect("a supervisor");
            kill(victim);
            let context = || format!("round {number}, killed after {moment:?}, seed {seed}");
            eprintln!("{}", context());
            reload.wait(LIMIT).expect(0);
            clients.committed(&version);
            let app = run.app();
            let ready = |worker: &&segue_wire::control::Worker| worker.phase == WorkerPhase::Ready;
            assert_eq!(app.workers.iter().filter(ready).count(), 2, "{}", context());
            assert_eq!(app.generation, number + 2, "{}", context());
            let report = clients.snapshot();
            assert_eq!(
                report.failed(),
                0,
                "{}\n{}\n{}",
                context(),
                render(&report),
                run.log.render()
            );
        }
        clients.wait_for_answers(1000);
        let report = clients.stop();
        eprintln!("{node}, {times} kills: {}", render(&report));
        assert_unnoticed(&report, &run);
        Record::read(&run).expect_each_once(report.requests(), &run);
        run.finish();
    }
}

#[test]
fn a_reload_survives_the_supervisor() {
    killed_in_a_reload(6, 0x5eed);
}

#[test]
#[ignore = "long"]
fn a_reload_survives_the_supervisor_at_200_moments() {
    killed_in_a_reload(200, 0x5eed2);
}

#[test]
fn workers_that_end_without_a_supervisor_are_replaced() {
    let run = Launch::standin("").start();
    let before = run.ready_pids();
    // The keeper is stopped, so that nobody starts another one meanwhile.
    run.signal(Signal::STOP);
    kill(run.status().supervisor.pid);
    kill_one(before[0]);
    run.signal(Signal::CONT);
    let app = run.until("it has a successor", |app| {
        let mut ready = app
            .workers
            .iter()
            .filter(|worker| worker.phase == WorkerPhase::Ready);
        ready.clone().count() == 2 && ready.all(|worker| worker.pid != Some(before[0]))
    });
    let failure = app.slots.iter().find_map(|slot| slot.last_failure.as_ref());
    let text = &failure.expect("it is known why").text;
    assert!(text.contains("was ended by SIGKILL"), "{text}");
    run.finish();
}

fn kill_one(pid: u32) {
    Process::open(pid).expect("a worker").signal(Signal::KILL);
}

#[test]
fn a_supervisor_that_fails_again_and_again_is_held_back() {
    let run = Launch::standin("").start();
    let workers = run.ready_pids();
    for _ in 0..4 {
        let mark = run.log.mark();
        let victim = loop {
            if let Some(supervisor) = supervisor_of(&run) {
                break supervisor;
            }
        };
        kill(victim);
        run.log.wait_for(mark, "was killed by signal 9", LIMIT);
    }
    run.log.wait_for(
        0,
        "in a row soon after their start: the next one is started in",
        LIMIT,
    );
    assert_eq!(run.get("/").status, 200, "the app goes on serving");
    assert_eq!(run.ready_pids(), workers);
    run.finish();
}

fn killed_under_the_whole_load(kills: u32) {
    let _turn = heavy();
    for node in nodes() {
        let run = everything::app(&node).start();
        let workers = run.ready_pids();
        let clients = Everything::start(&run);
        clients.wait_for_answers(300);
        for number in 0..kills {
            clients.mark(&format!("kill {number}"), Phase::Fault);
            kill_supervisor(&run);
            clients.wait_for_answers(100);
            assert_eq!(run.ready_pids(), workers, "no worker was restarted");
            clients.assert_unharmed(&run);
        }
        run.roll("v2", "everything.js");
        clients.committed("v2");
        clients.wait_for_answers(300);
        clients.stop(&run);
        run.finish();
    }
}

#[test]
fn no_kind_of_client_misses_a_killed_supervisor() {
    killed_under_the_whole_load(2);
}

#[test]
#[ignore = "long"]
fn no_kind_of_client_misses_twenty_killed_supervisors() {
    killed_under_the_whole_load(20);
}

fn main_process_killed_under_the_whole_load(kills: u32) {
    let _turn = heavy();
    for node in nodes() {
        let mut run = everything::app(&node).start();
        let workers = run.ready_pids();
        let clients = Everything::start(&run);
        clients.wait_for_answers(300);
        for number in 0..kills {
            clients.mark(&format!("kill {number}"), Phase::Fault);
            run.kill_main();
            clients.wait_for_answers(100);
            assert_eq!(run.ready_pids(), workers, "no worker was restarted");
            clients.assert_unharmed(&run);
            // The new one keeps as the old one did.
            kill_supervisor(&run);
            assert_eq!(run.ready_pids(), workers);
        }
        let version = "v2";
        run.site.deploy(version, "everything.js");
        run.signal(Signal::HUP);
        run.until("the reload is over", |app| {
            app.generation == 2 && app.workers.len() == 2
        });
        clients.committed(version);
        clients.wait_for_answers(300);
        clients.stop(&run);
        run.finish();
    }
}

#[test]
fn a_killed_main_process_is_replaced_and_not_missed() {
    // Twice: its heir has to be replaced by one that had what it holds from a predecessor.
    main_process_killed_under_the_whole_load(2);
}

#[test]
#[ignore = "long"]
fn ten_killed_main_processes_are_not_missed() {
    main_process_killed_under_the_whole_load(10);
}

#[test]
fn the_pid_file_names_the_main_process_that_took_the_place() {
    let launch = Launch::standin("");
    let path = launch.site.path("segue.pid");
    let mut run = launch.flag("--pid-file", &path).start();
    run.kill_main();
    let text = std::fs::read_to_string(&path).expect("read the pid file");
    assert_eq!(text.trim().parse(), Ok(run.main.pid));
    run.finish();
    assert!(!path.exists());
}

#[test]
fn when_both_are_gone_workers_do_not_run_on_by_themselves() {
    let mut run = Launch::node("plain.js").start();
    // Stopped, it does not start another supervisor meanwhile.
    run.signal(Signal::STOP);
    kill(run.status().supervisor.pid);
    run.signal(Signal::KILL);
    run.wait_for_end(LIMIT);
    run.expect_nothing_left();
}

#[test]
fn what_is_asked_during_a_take_over_is_done_once() {
    let run = Launch::standin("").workers("1").start();
    let name = run.app().name;
    let mut slots = 1;
    for round in 0..6 {
        let asked = run.segue_beside(&["scale", &name, "+1"]);
        let take_over = match round % 2 {
            0 => None,
            _ => Some(run.segue_beside(&["upgrade", "--binary", env!("CARGO_BIN_EXE_segue")])),
        };
        if take_over.is_none() {
            kill(supervisor_of(&run).expect("a supervisor"));
        }
        run.signal(Signal::TTIN);
        let asked_meanwhile = run.segue_beside(&["scale", &name, "+1"]);
        if let Some(upgrade) = take_over {
            upgrade.wait(LIMIT).expect(0);
        }
        asked.wait(LIMIT).expect(0);
        asked_meanwhile.wait(LIMIT).expect(0);
        slots += 3;
        run.until("all are done", |app| app.slots.len() >= slots);
        assert_eq!(run.app().slots.len(), slots, "round {round}");
    }
    run.finish();
}
