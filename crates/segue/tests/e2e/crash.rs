//! A worker that dies costs the requests inside it, and nothing else.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rustix::process::Signal;
use segue_load::{FailureKind, Fresh, Load, Phase};
use segue_wire::control::WorkerPhase;

use crate::harness::heavy;
use crate::harness::http;
use crate::harness::load::{Clients, render};
use crate::harness::output::Stream;
use crate::harness::process::Process;
use crate::harness::run::{LIMIT, Launch, Run};

fn kill(pids: &[u32]) {
    let found: Vec<Process> = pids.iter().filter_map(|pid| Process::open(*pid)).collect();
    for process in &found {
        process.signal(Signal::KILL);
    }
    for process in &found {
        assert!(
            process.ends_within(Duration::from_secs(5)),
            "{} survived",
            process.pid
        );
    }
}

/// Waits until every slot has a ready worker that is none of these.
fn wait_for_successors(run: &Run, old: &[u32]) {
    run.until("every slot has a new worker", |app| {
        let ready = app.workers.iter().filter(|worker| {
            worker.phase == WorkerPhase::Ready && worker.pid.is_some_and(|pid| !old.contains(&pid))
        });
        ready.count() >= app.slots.len().min(old.len())
    });
}

/// Kills so many workers under load, three times.
fn kill_under_load(count: usize) {
    let _turn = heavy();
    let run = Launch::node("plain.js").workers("2").start();
    let load = Load::builder().with(Fresh {
        clients: 50,
        ..Fresh::default()
    });
    let clients = Clients::start(load, run.address());
    for round in 0..3 {
        clients.wait_for_answers(300);
        let mut victims = run.ready_pids();
        victims.truncate(count);
        assert_eq!(victims.len(), count);
        clients.mark(format!("kill {round}"), Phase::Fault);
        kill(&victims);
        wait_for_successors(&run, &victims);
        clients.wait_for_answers(100);
        clients.mark("steady", Phase::Steady);
    }
    let report = clients.stop();
    eprintln!("{}", render(&report));
    assert_eq!(
        report.failed(),
        report.excused(),
        "{}\n{}",
        render(&report),
        run.log.render()
    );
    assert_eq!(report.failed_by(FailureKind::Refused), 0);
    assert_eq!(report.in_flight, 0);
    assert!(
        run.log.contains("SIGKILL"),
        "the log says what ended the worker\n{}",
        run.log.render()
    );
    run.finish();
}

#[test]
fn kill_9_of_one_worker_costs_only_the_requests_inside_it() {
    kill_under_load(1);
}

#[test]
fn kill_9_of_all_workers_costs_only_the_requests_inside_them() {
    kill_under_load(2);
}

/// Connections that lie in the queues of stopped workers, each with its request sent.
fn queue(run: &Run, count: usize) -> Vec<TcpStream> {
    (0..count)
        .map(|number| {
            let mut stream = TcpStream::connect(run.address()).expect("the queue takes it");
            stream
                .set_read_timeout(Some(LIMIT))
                .expect("set a time limit");
            write!(
                stream,
                "GET /?n={number} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            )
            .expect("send the request");
            stream
        })
        .collect()
}

/// How many of them are answered whole.
fn answered(run: &Run, streams: Vec<TcpStream>) -> usize {
    let whole = |(number, mut stream): (usize, TcpStream)| {
        let mut bytes = Vec::new();
        if let Err(error) = stream.read_to_end(&mut bytes) {
            eprintln!("connection {number}: {error}\n{}", run.log.render());
            return false;
        }
        let text = String::from_utf8_lossy(&bytes).to_lowercase();
        text.starts_with("http/1.1 200") && text.contains(&format!("x-segue-echo: {number}\r\n"))
    };
    streams
        .into_iter()
        .enumerate()
        .map(whole)
        .filter(|whole| *whole)
        .count()
}

#[test]
fn the_queues_of_killed_workers_wait_for_their_successors() {
    let run = Launch::standin("").workers("3").start();
    let old = run.ready_pids();
    for pid in &old {
        Process::open(*pid).expect("a worker").signal(Signal::STOP);
    }
    let streams = queue(&run, 60);
    kill(&old);
    assert_eq!(answered(&run, streams), 60);
    run.finish();
}

#[test]
fn the_queue_of_one_killed_worker_is_served() {
    let run = Launch::standin("").workers("3").start();
    let victim = run.ready_pids()[1];
    Process::open(victim)
        .expect("a worker")
        .signal(Signal::STOP);
    let streams = queue(&run, 60);
    kill(&[victim]);
    assert_eq!(answered(&run, streams), 60);
    run.finish();
}

#[test]
fn a_worker_that_exits_0_by_itself_is_replaced_and_said_so() {
    let run = Launch::node("plain.js").start();
    let mark = run.log.mark();
    let old = run.ready_pids();
    // The connection ends with the process.
    http::get(run.address(), "/exit?code=0").expect_err("no answer from a process that exits");
    run.log.wait_for(mark, "code 0", LIMIT);
    run.until("a new worker serves", |app| {
        app.slots.iter().any(|slot| slot.restarts > 0)
    });
    run.until("both are ready", |app| {
        app.workers
            .iter()
            .filter(|worker| worker.phase == WorkerPhase::Ready)
            .count()
            == 2
    });
    assert_ne!(run.ready_pids(), old);
    run.finish();
}

#[test]
fn the_exit_code_and_the_last_lines_of_stderr_are_shown() {
    let run = Launch::node("plain.js").start();
    let mark = run.log.mark();
    http::get(run.address(), "/throw").expect_err("no answer from a process that throws");
    run.log.wait_for(mark, "code 1", LIMIT);
    let app = run.until("the failure is known", |app| {
        app.slots.iter().any(|slot| slot.last_failure.is_some())
    });
    let failure = app
        .slots
        .iter()
        .find_map(|slot| slot.last_failure.clone())
        .expect("a failure");
    assert_eq!(failure.exit_code, Some(1), "{failure:#?}");
    assert!(
        failure
            .stderr
            .iter()
            .any(|line| line.contains("the fixture was asked to throw")),
        "{failure:#?}"
    );
    run.finish();
}

#[test]
fn a_slot_whose_workers_keep_failing_is_given_up_and_tried_again_at_a_reload() {
    let launch = Launch::standin("")
        .flag("--backoff-min", "10ms")
        .flag("--backoff-max", "50ms")
        .flag("--intensity", "3/1m");
    let run = launch.workers("1").start();
    let behaviour = run.site.path("releases/v1/behaviour");
    let works = std::fs::read(&behaviour).expect("read the behaviour");
    std::fs::write(&behaviour, "exit-at-boot=7 stderr=no_database").expect("break the release");
    let before = run.ready_pids();
    kill(&before);
    let app = run.until("the slot is given up", |app| {
        app.slots.iter().all(|slot| slot.given_up)
    });
    let failure = app.slots[0].last_failure.clone().expect("a failure");
    assert_eq!(failure.exit_code, Some(7), "{failure:#?}");
    // A queue that nobody will serve is worse than a refusal.
    run.until("connections are refused", |app| {
        app.addresses.iter().all(|address| address.refusing)
    });
    http::get(run.address(), "/").expect_err("nobody serves");

    std::fs::write(&behaviour, works).expect("mend the release");
    run.reload().expect(0);
    assert_eq!(run.get("/").version(), "v1");
    assert!(run.app().slots.iter().all(|slot| !slot.given_up));
    run.finish();
}

#[test]
fn a_first_start_that_fails_ends_the_run_with_the_reason() {
    let (code, run) = Launch::node("throws-at-boot.js").start_and_fail(LIMIT);
    assert_eq!(code, 1);
    assert!(
        run.log.contains("the settings are missing"),
        "{}",
        run.log.render()
    );
    let last = run
        .log
        .lines()
        .into_iter()
        .rfind(|line| line.stream == Stream::Err);
    let last = last.map_or_else(String::new, |line| line.text);
    assert!(last.contains("never got ready: worker"), "{last}");
}

#[test]
fn a_first_start_that_never_listens_names_the_rule_for_apps_without_a_port() {
    let (code, run) = Launch::node("no-port.js")
        .flag("--ready-timeout", "2s")
        .start_and_fail(LIMIT);
    assert_eq!(code, 1);
    assert!(run.log.contains("alive"), "{}", run.log.render());
}
