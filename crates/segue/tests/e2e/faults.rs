//! What can go wrong around a supervisor: limits, channels, pipes, and its own death.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use segue_load::{Fresh, Load, Phase};
use segue_wire::control::WorkerPhase;

use crate::harness::command::Pending;
use crate::harness::load::{Clients, assert_flawless};
use crate::harness::process::{self, Process};
use crate::harness::run::{LIMIT, Launch, Run};
use crate::harness::{is_root, skip};
use crate::service::managed;

fn pid(number: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(number).ok()?)
}

/// Sets a soft limit of another process and returns what it was.
fn limit(process: u32, resource: Resource, current: u64) -> Rlimit {
    let hard = rustix::process::getrlimit(resource).maximum;
    let fresh = Rlimit {
        current: Some(current),
        maximum: hard,
    };
    prlimit(pid(process), resource, fresh).expect("set a limit")
}

/// A reload that cannot be done costs nothing; once it can be done, it is.
fn failing_reload(run: &Run, mend: impl FnOnce()) {
    let before = run.ready_pids();
    let load = Load::builder().with(Fresh {
        clients: 20,
        ..Fresh::default()
    });
    let clients = Clients::start(load, run.address());
    clients.wait_for_answers(100);
    clients.mark("failing reload", Phase::Reload);
    run.roll_and_fail("v2", "");
    clients.wait_for_answers(100);
    assert_flawless(&clients.stop(), run);
    assert_eq!(run.ready_pids(), before);
    mend();
    run.reload().expect(0);
    assert_eq!(run.get("/").version(), "v2");
}

#[test]
fn without_processes_left_a_reload_fails_and_the_old_version_serves() {
    if !is_root() {
        return skip("the limit on processes is set for a user of its own, which takes root");
    }
    let launch = Launch::standin("");
    // A user that nobody else is: the limit counts all its processes.
    let user = 60_000 + u32::from(launch.site.port.number() % 5000);
    let run = launch.under_user(user).start();
    let supervisor = run.status().supervisor.pid.to_string();
    // By a process of the same user: root may lack the capability to limit others.
    let limit_processes = |value: &str| {
        let mut command = Command::new("setpriv");
        command.args([
            format!("--reuid={user}"),
            format!("--regid={user}"),
            "--clear-groups".to_owned(),
        ]);
        command.args(["prlimit", "--pid", &supervisor, value]);
        Pending::start(command).wait(LIMIT).expect(0).out.clone()
    };
    let limits = limit_processes("--nproc");
    let hard = limits
        .lines()
        .last()
        .and_then(|line| line.split_whitespace().nth_back(1));
    let hard = hard.expect("a table with the hard limit").to_owned();
    limit_processes("--nproc=1:");
    failing_reload(&run, || drop(limit_processes(&format!("--nproc={hard}:"))));
    run.finish();
}

#[test]
fn without_descriptors_left_a_reload_fails_and_the_old_version_serves() {
    let run = Launch::standin("").start();
    let supervisor = run.status().supervisor.pid;
    // Room for the caller's own connection, not for a worker's channel, output and sockets.
    let open = u64::try_from(process::descriptors(supervisor)).expect("a count");
    let old = limit(supervisor, Resource::Nofile, open + 3);
    failing_reload(&run, || {
        prlimit(pid(supervisor), Resource::Nofile, old).expect("lift the limit");
    });
    run.finish();
}

#[test]
fn with_no_descriptor_left_at_all_the_app_serves_and_the_supervisor_recovers() {
    let run = Launch::standin("").start();
    let supervisor = run.status().supervisor.pid;
    let old = limit(supervisor, Resource::Nofile, 3);
    // The control socket cannot accept this; it must neither spin nor die.
    let asked = run.segue_beside(&["status"]);
    for _ in 0..50 {
        assert_eq!(run.get("/").version(), "v1");
    }
    prlimit(pid(supervisor), Resource::Nofile, old).expect("lift the limit");
    asked.wait(LIMIT);
    run.segue(&["status"]).expect(0);
    run.roll("v2", "");
    run.finish();
}

#[test]
fn descriptors_do_not_grow_with_reloads() {
    let run = Launch::standin("").start();
    let supervisor = run.status().supervisor.pid;
    // The question itself costs a descriptor or two, which its last answer may still hold: the
    // fewest of several looks are those that stay.
    let settled = |generation: u32| {
        let fewest = Cell::new(usize::MAX);
        let looks = Cell::new(0);
        run.until("the old generation is gone", |app| {
            if app.generation == generation && app.reload.is_none() && app.workers.len() == 2 {
                fewest.set(fewest.get().min(process::descriptors(supervisor)));
                looks.set(looks.get() + 1);
            }
            looks.get() == 10
        });
        fewest.get()
    };
    for version in ["v2", "v3"] {
        run.roll(version, "");
    }
    let before = settled(3);
    for version in ["v4", "v5", "v6", "v7"] {
        run.roll(version, "");
    }
    let after = settled(7);
    assert!(after <= before, "{before} descriptors became {after}");
    run.finish();
}

/// Whether the worker behaves or is replaced: the app serves, the supervisor answers, a reload heals.
fn misbehaving_channel(words: &str) {
    let run = Launch::standin("").workers("2").start();
    let load = Load::builder().with(Fresh {
        clients: 10,
        ..Fresh::default()
    });
    let clients = Clients::start(load, run.address());
    clients.wait_for_answers(100);
    // It may be refused, as its workers cannot be talked to, or come to serve: not lose a request.
    run.site.deploy("v2", words);
    let outcome = run.reload();
    assert!(matches!(outcome.code, Some(0 | 1)), "{outcome:#?}");
    clients.wait_for_answers(100);
    assert!(run.try_status().is_ok());
    run.roll("v3", "");
    clients.committed("v3");
    clients.wait_for_answers(50);
    assert_flawless(&clients.stop(), &run);
    run.until("only the third generation is left", |app| {
        app.workers
            .iter()
            .all(|worker| worker.generation == app.generation)
    });
    run.finish();
}

#[test]
fn a_worker_that_floods_its_channel() {
    misbehaving_channel("flood=100000");
}

#[test]
fn a_worker_that_garbles_its_channel() {
    misbehaving_channel("garble");
}

#[test]
fn a_worker_whose_line_never_ends() {
    misbehaving_channel("unfinished");
}

#[test]
fn a_worker_that_never_reads_its_channel() {
    let run = Launch::standin("").flag("--ready-timeout", "2s").start();
    run.roll_and_fail("v2", "never-read");
    assert_eq!(run.get("/").version(), "v1");
    run.finish();
}

#[test]
fn a_worker_that_never_acknowledges_a_handle() {
    let launch = Launch::standin("")
        .flag("--ready-timeout", "3s")
        .flag("--drain-timeout", "2s");
    let run = launch.start();
    run.site.deploy("v2", "never-acknowledge");
    let outcome = run.reload();
    assert!(matches!(outcome.code, Some(0 | 1)), "{outcome:#?}");
    run.roll("v3", "");
    assert_eq!(run.get("/").version(), "v3");
    run.finish();
}

#[test]
fn a_node_worker_that_abuses_its_channel_is_at_most_replaced() {
    for abuse in ["/garble", "/unfinished", "/flood", "/huge"] {
        let run = Launch::node("channel-fd.js").start();
        assert_eq!(run.get(abuse).status, 200);
        run.until("both slots are filled", |app| {
            app.workers
                .iter()
                .filter(|worker| worker.phase == WorkerPhase::Ready)
                .count()
                == 2
        });
        for _ in 0..20 {
            assert_eq!(run.get("/").version(), "v1");
        }
        run.roll("v2", "plain.js");
        assert_eq!(run.get("/").version(), "v2");
        run.finish();
    }
}

#[test]
fn a_blocked_event_loop_does_not_block_the_supervisor() {
    let run = Launch::node("plain.js").workers("1").start();
    let address = run.address();
    let blocked = std::thread::spawn(move || crate::harness::http::get(address, "/block?ms=3000"));
    run.site.deploy("v2", "plain.js");
    run.reload().expect(0);
    assert_eq!(run.get("/").version(), "v2");
    let answer = blocked.join().expect("no panic").expect("an answer");
    assert_eq!(answer.version(), "v1");
    run.finish();
}

#[test]
fn a_worker_that_dies_while_a_connection_is_handed_to_it_costs_nobody_anything() {
    let run = Launch::standin("die-on-newconn").start();
    // Their successors take what they are handed.
    let port = run.site.port.number();
    std::fs::write(
        run.site.path("releases/v1/behaviour"),
        format!("port={port}"),
    )
    .expect("mend the release");
    let name = run.app().name;
    let pids = run.ready_pids();
    let leaving = Process::open(pids[1]).expect("the worker of the last slot");
    leaving.signal(Signal::STOP);
    let mut streams: Vec<TcpStream> = (0..20)
        .map(|number| {
            let mut stream = TcpStream::connect(run.address()).expect("a queue takes it");
            stream
                .set_read_timeout(Some(LIMIT))
                .expect("set a time limit");
            write!(
                stream,
                "GET /?n={number} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            )
            .expect("ask");
            stream
        })
        .collect();
    // The last slot goes; what its stopped worker's queue holds is handed to the other, which dies of it.
    let scaled = run.segue_beside(&["scale", &name, "1"]);
    for (number, stream) in streams.iter_mut().enumerate() {
        let mut text = String::new();
        stream
            .read_to_string(&mut text)
            .unwrap_or_else(|error| panic!("connection {number}: {error}\n{}", run.log.render()));
        assert!(
            text.contains(&format!("x-segue-echo: {number}\r\n")),
            "connection {number}: {text}"
        );
    }
    scaled.wait(LIMIT);
    assert!(
        !run.processes().contains(&pids[0]),
        "the worker of the first slot died of what it was handed"
    );
    leaving.signal(Signal::CONT);
    run.finish();
}

#[test]
fn a_full_stdout_pipe_stops_nobody() {
    let mut run = Launch::node("plain.js").holding_stdout().start();
    // Far more than pipes and buffers hold.
    for _ in 0..20 {
        assert_eq!(run.get("/print?lines=2000&repeat=200").status, 200);
    }
    run.segue(&["status"]).expect(0);
    run.roll("v2", "plain.js");
    assert_eq!(run.get("/").version(), "v2");
    run.read_stdout();
    run.log.wait_for(0, "xxxxxxxx", LIMIT);
    run.finish();
}

#[test]
fn an_idle_supervisor_does_not_wake_up() {
    is_never_woken(&Launch::standin("").start());
    let (launch, manager) = managed(Launch::standin(""));
    let run = launch.start();
    manager.wait_for(0, "READY=1");
    is_never_woken(&run);
    run.finish();
}

fn is_never_woken(run: &Run) {
    let supervisor = run.status().supervisor.pid;
    let switches = || {
        let status =
            std::fs::read_to_string(format!("/proc/{supervisor}/status")).expect("read its status");
        let line = status
            .lines()
            .find(|line| line.starts_with("voluntary_ctxt_switches"));
        line.and_then(|line| line.split_whitespace().last()?.parse::<u64>().ok())
            .expect("a count")
    };
    let supervisor = Process::open(supervisor).expect("the supervisor");
    // Waiting for its end, which does not come, is looking at nothing for so long.
    let woken_within = |seconds| {
        let before = switches();
        assert!(!supervisor.ends_within(Duration::from_secs(seconds)));
        switches() - before
    };
    // The last look at its status may still be closing its connection.
    let settled = (0..10).any(|_| woken_within(1) == 0);
    assert!(settled, "it was never idle for a second");
    assert_eq!(woken_within(4), 0, "woken in four idle seconds");
}

#[test]
fn the_supervisor_is_out_of_the_data_path() {
    let run = Launch::standin("").start();
    let supervisor = run.status().supervisor.pid;
    let before = process::cpu_ticks(supervisor);
    let load = Load::builder()
        .with(Fresh {
            clients: 20,
            ..Fresh::default()
        })
        .requests(5000);
    let report = Clients::start(load, run.address()).finish(LIMIT);
    assert_flawless(&report, &run);
    let used = process::cpu_ticks(supervisor) - before;
    assert!(
        used <= 2,
        "{used} hundredths of a second for other people's connections"
    );
    run.finish();
}

#[test]
fn a_worker_inherits_no_descriptor_of_another() {
    let run = Launch::node("plain.js").workers("2").start();
    run.roll("v2", "plain.js");
    run.until("the old generation is gone", |app| app.workers.len() == 2);
    let supervisor = run.status().supervisor.pid;
    let pids = run.ready_pids();
    let (first, second) = (
        process::sockets_and_pipes(pids[0]),
        process::sockets_and_pipes(pids[1]),
    );
    let shared: Vec<_> = first.intersection(&second).collect();
    assert!(shared.is_empty(), "both workers hold {shared:?}");
    // The supervisor keeps the listening socket of each; channel and output end in different sockets.
    let known = process::sockets_and_pipes(supervisor);
    for of_worker in [&first, &second] {
        let common: Vec<_> = of_worker
            .intersection(&known)
            .filter(|name| name.starts_with("socket"))
            .collect();
        assert!(
            common.len() <= 1,
            "the supervisor and a worker share {common:?}"
        );
    }
    run.finish();
}
