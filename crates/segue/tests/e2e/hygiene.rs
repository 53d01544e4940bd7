//! What workers may and who they are: limits, rights, users, places to listen at, environment.

use std::fs;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::process::Signal;
use segue_load::Phase;
use segue_wire::control::WorkerPhase;

use crate::background::Desk;
use crate::drain::{assert_unnoticed, mixed};
use crate::harness::load::{Clients, render};
use crate::harness::process::{Process, children};
use crate::harness::run::{LIMIT, Launch, Run};
use crate::harness::{heavy, http, is_root, skip};
use crate::takeover::kill_supervisor;

/// A line of `/proc/PID/FILE`, without its name.
fn line_of(pid: u32, file: &str, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).expect("the process is there");
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let words: Vec<&str> = line.unwrap_or_default().split_whitespace().collect();
    words.join(" ")
}

/// The first worker is killed and has a successor; all that run now.
fn after_a_respawn(run: &Run) -> Vec<u32> {
    let old = run.ready_pids();
    Process::open(old[0])
        .expect("a worker")
        .signal(Signal::KILL);
    run.until("it has a successor", |app| {
        let ready = app.workers.iter().filter(|worker| {
            worker.phase == WorkerPhase::Ready && worker.pid.is_some_and(|pid| pid != old[0])
        });
        ready.count() == old.len()
    });
    run.ready_pids()
}

#[test]
fn a_worker_has_its_limit_of_files_and_gains_no_rights() {
    let run = Launch::node("plain.js").flag("--nofile", "1234").start();
    let check = |pids: Vec<u32>| {
        for pid in pids {
            assert_eq!(line_of(pid, "status", "NoNewPrivs:"), "1");
            assert_eq!(line_of(pid, "limits", "Max open files"), "1234 1234 files");
        }
    };
    check(run.ready_pids());
    check(after_a_respawn(&run));
    run.upgrade().expect(0);
    run.roll("v2", "plain.js");
    check(run.ready_pids());
    run.finish();

    let run = Launch::node("plain.js")
        .flag("--no-new-privs", "off")
        .start();
    assert_eq!(line_of(run.ready_pids()[0], "status", "NoNewPrivs:"), "0");
    run.finish();
}

#[test]
fn what_cannot_be_given_is_wrong_usage() {
    for (flag, value, why) in [
        (
            "--nofile",
            "1073741824",
            "cannot give workers 1073741824 open files",
        ),
        (
            "--user",
            "nobody-of-that-name",
            "there is no user nobody-of-that-name",
        ),
        (
            "--group",
            "nobody-of-that-name",
            "there is no group nobody-of-that-name",
        ),
        ("--listen", "localhost:80", "127.0.0.1:8080"),
    ] {
        let launch = Launch::node("plain.js").flag(flag, value);
        let (code, run) = launch.start_and_fail(LIMIT);
        assert_eq!(code, 2, "{flag} {value}: {}", run.log.render());
        assert!(run.log.contains(why), "{}", run.log.render());
    }
    if !is_root() {
        return skip("to start as another user than root takes root");
    }
    let launch = Launch::node("plain.js").under_user(65_534);
    let (code, run) = launch.flag("--user", "root").start_and_fail(LIMIT);
    assert_eq!(code, 2, "{}", run.log.render());
    assert!(run.log.contains("only root can change the user"));
}

#[test]
fn workers_of_another_user_are_reloaded_unnoticed() {
    if !is_root() {
        return skip("only root can run workers as another user");
    }
    let _turn = heavy();
    // The user of these numbers need not have a name.
    let launch = Launch::node("plain.js")
        .flag("--user", "64321")
        .flag("--group", "64322")
        .env("SUDO_USER", "somebody");
    launch.site.open_to_all();
    let run = launch.start();
    let check = |pids: Vec<u32>| {
        for pid in pids {
            assert_eq!(line_of(pid, "status", "Uid:"), "64321 64321 64321 64321");
            assert_eq!(line_of(pid, "status", "Gid:"), "64322 64322 64322 64322");
            assert_eq!(line_of(pid, "status", "Groups:"), "64322");
            assert_eq!(line_of(pid, "status", "CapEff:"), "0000000000000000");
        }
    };
    check(run.ready_pids());
    let env = run.get("/info").json()["env"].clone();
    assert_eq!(env["HOME"], "/");
    assert_eq!(env["SUDO_USER"], serde_json::Value::Null);
    let mode = fs::metadata(&run.control).map(|socket| {
        use std::os::unix::fs::MetadataExt;
        (socket.uid(), socket.mode() & 0o777)
    });
    assert_eq!(mode.expect("the control socket"), (0, 0o600));

    let clients = Clients::start(mixed(100), run.address());
    clients.wait_for_answers(500);
    for version in ["v2", "v3"] {
        clients.mark(format!("reload to {version}"), Phase::Reload);
        run.roll(version, "plain.js");
        clients.committed(version);
        clients.wait_for_answers(500);
        check(run.ready_pids());
    }
    let report = clients.stop();
    eprintln!("{}", render(&report));
    // With the preload script, then, or idle connections would have been closed.
    assert_unnoticed(&report, &run);
    check(after_a_respawn(&run));
    run.finish();
}

/// Root in a container may change users and signal them, and not look into them.
#[test]
fn roots_rights_in_a_container_are_enough() {
    if !is_root() {
        return skip("only root can run workers as another user");
    }
    let rights = "-all,+chown,+dac_override,+fowner,+kill,+setgid,+setuid,+net_bind_service";
    let launch = Launch::node("plain.js")
        .under(&["setpriv", "--bounding-set", rights])
        .flag("--user", "64321")
        .flag("--group", "64322")
        .flag("--ready", "http=/");
    launch.site.open_to_all();
    let run = launch.start();
    run.roll("v2", "plain.js");
    assert_eq!(run.get("/").version(), "v2");
    for pid in after_a_respawn(&run) {
        assert_eq!(line_of(pid, "status", "Uid:"), "64321 64321 64321 64321");
    }
    run.finish();
}

#[test]
fn a_name_brings_its_groups_and_its_home() {
    if !is_root() {
        return skip("only root can run workers as another user");
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let line = passwd.lines().find(|line| line.starts_with("nobody:"));
    let Some([_, _, uid, gid, _, home, ..]) = line.map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        <[&str; 7]>::try_from(fields).expect("seven fields")
    }) else {
        return skip("there is no user nobody here");
    };
    let launch = Launch::node("plain.js").flag("--user", "nobody");
    launch.site.open_to_all();
    let run = launch.start();
    let pid = run.ready_pids()[0];
    assert_eq!(line_of(pid, "status", "Uid:"), [uid; 4].join(" "));
    assert_eq!(line_of(pid, "status", "Gid:"), [gid; 4].join(" "));
    let env = run.get("/info").json()["env"].clone();
    assert_eq!(
        (&env["USER"], &env["LOGNAME"]),
        (&"nobody".into(), &"nobody".into())
    );
    assert_eq!(env["HOME"], home);
    run.finish();
}

/// What came of the second wish: a worker may serve before it knows.
fn beyond(run: &Run) -> String {
    let deadline = Instant::now() + LIMIT;
    loop {
        let answer = http::get(run.address(), "/beyond").expect("an answer");
        let said = answer.text();
        if said != "not known yet" {
            return said;
        }
        assert!(Instant::now() < deadline, "it is never known");
        std::thread::yield_now();
    }
}

#[test]
fn a_worker_may_only_listen_where_it_is_said() {
    let launch = Launch::node("asks-beyond.js");
    let (port, other) = (
        launch.site.port.number().to_string(),
        launch.site.other_port.number(),
    );
    let run = launch.flag("--listen", &port).start();
    let check = || {
        let said = beyond(&run);
        assert!(
            said.starts_with("EACCES -13 "),
            "{said}\n{}",
            run.log.render()
        );
        let error = TcpStream::connect(("127.0.0.1", other)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        let addresses = run.app().addresses;
        assert_eq!(addresses.len(), 1, "no socket: {addresses:?}");
    };
    run.log.wait_for(0, "may not listen at", LIMIT);
    check();
    let mark = run.log.mark();
    run.roll("v2", "asks-beyond.js");
    run.log.wait_for(mark, "listen_forbidden", LIMIT);
    check();
    // A successor knows it too.
    run.upgrade().expect(0);
    after_a_respawn(&run);
    check();
    run.finish();

    // Said twice, it may.
    let launch = Launch::node("asks-beyond.js");
    let (port, other) = (
        launch.site.port.number().to_string(),
        launch.site.other_port.number(),
    );
    let launch = launch.flag("--listen", &port);
    let run = launch.more("--listen", format!("[::]:{other}")).start();
    // Ready only with both.
    assert_eq!(beyond(&run), "listening");
    run.finish();
}

#[test]
fn who_does_not_listen_wherever_it_is_to_is_not_ready() {
    let launch = Launch::node("plain.js").flag("--ready-timeout", "2s");
    let port = launch.site.port.number().to_string();
    let other = launch.site.other_port.number().to_string();
    let launch = launch.flag("--listen", port).more("--listen", &other);
    let (code, run) = launch.start_and_fail(LIMIT);
    assert_eq!(code, 1);
    assert!(
        run.log.contains(&format!("[::]:{other}")),
        "{}",
        run.log.render()
    );
}

#[test]
fn nothing_of_the_supervisors_environment_reaches_a_worker() {
    let hidden = [
        ("SEGUE_STEERING", "on"),
        ("SEGUE_HELD_FD", "4000"),
        ("FDSTORE", "10"),
        ("NOTIFY_SOCKET", "@segue-nobody-is-there"),
        ("WATCHDOG_USEC", "600000000"),
        ("JOURNAL_STREAM", "8:1"),
        ("SYSTEMD_EXEC_PID", "1"),
        ("LISTEN_FDNAMES", "x"),
        ("LISTEN_PID", "1"),
    ];
    let mut launch = Launch::node("plain.js").env("CREDENTIALS_DIRECTORY", "/run/credentials/x");
    for (name, value) in hidden {
        launch = launch.env(name, value);
    }
    let run = launch.start();
    let check = || {
        let env = run.get("/info").json()["env"].clone();
        let env = env.as_object().expect("variables");
        for (name, _) in hidden {
            assert!(!env.contains_key(name), "{name}");
        }
        let ours: Vec<&str> = env
            .keys()
            .map(String::as_str)
            .filter(|name| name.starts_with("SEGUE_") && !name.starts_with("SEGUE_TEST"))
            .collect();
        assert_eq!(ours, ["SEGUE_APP", "SEGUE_GENERATION", "SEGUE_SLOT"]);
        // It is the app's, who has the same user.
        assert_eq!(env["CREDENTIALS_DIRECTORY"], "/run/credentials/x");
    };
    check();
    run.roll("v2", "plain.js");
    check();
    run.finish();
}

/// The helper of the only worker, and that worker.
fn helper_of(run: &Run) -> (Process, Process) {
    let pids = run.get("/helper").json();
    let open = |who: &str| {
        let pid = pids[who].as_u64().and_then(|pid| u32::try_from(pid).ok());
        Process::open(pid.expect("a pid")).expect("it runs")
    };
    (open("worker"), open("helper"))
}

/// The directory of a worker's own cgroup.
fn cgroup_of(pid: u32) -> Option<PathBuf> {
    let group = line_of(pid, "cgroup", "0::/");
    let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
    let mut directories = mounts.iter().map(|mount| mount.join(&group));
    directories.find(|directory| group.contains("segue-") && directory.is_dir())
}

#[test]
fn a_helper_dies_with_its_worker_although_it_does_not_want_to() {
    let run = Launch::node("leaves-helpers.js").workers("1").start();
    let (worker, helper) = helper_of(&run);
    let Some(cgroup) = cgroup_of(worker.pid) else {
        return skip("workers have no cgroups here: none of version 2 that can be written to");
    };
    assert_eq!(cgroup_of(helper.pid), Some(cgroup.clone()));

    // Killed from outside; the supervisor was another one by then.
    run.upgrade().expect(0);
    worker.signal(Signal::KILL);
    assert!(helper.ends_within(LIMIT), "{}", run.log.render());
    run.until("there is another one", |app| {
        app.workers.iter().any(|other| {
            other.phase == WorkerPhase::Ready && other.pid.is_some_and(|pid| pid != worker.pid)
        })
    });

    // Replaced.
    let (worker, helper) = helper_of(&run);
    let second = cgroup_of(worker.pid).expect("it has one too");
    run.roll("v2", "leaves-helpers.js");
    assert!(worker.ends_within(LIMIT) && helper.ends_within(LIMIT));

    // After the supervisor's death, and at the end.
    kill_supervisor(&run);
    let (worker, helper) = helper_of(&run);
    let third = cgroup_of(worker.pid).expect("it has one still");
    worker.signal(Signal::KILL);
    assert!(helper.ends_within(LIMIT), "{}", run.log.render());
    run.until("there is another one", |app| {
        app.workers.iter().any(|other| {
            other.phase == WorkerPhase::Ready && other.pid.is_some_and(|pid| pid != worker.pid)
        })
    });
    let (worker, _) = helper_of(&run);
    let last = cgroup_of(worker.pid).expect("it has one too");
    run.finish();
    for cgroup in [cgroup, second, third, last] {
        assert!(!cgroup.exists(), "{} is left", cgroup.display());
    }
}

/// Where the memory controller is of version 2, as on most machines by now, the kernel keeps the limit;
/// elsewhere that is said, and the app runs.
#[test]
fn memory_is_limited_or_it_is_said_that_it_is_not() {
    let run = Launch::node("leaks.js")
        .workers("1")
        .flag("--memory-max", "200MiB")
        .start();
    let worker = run.ready_pids()[0];
    let limit = cgroup_of(worker).and_then(|cgroup| {
        let limit = fs::read_to_string(cgroup.join("memory.max"));
        limit.ok()
    });
    match limit {
        Some(limit) => {
            assert_eq!(limit.trim(), (200 << 20).to_string());
            assert!(!run.log.contains("do not hold"), "{}", run.log.render());
        }
        None => {
            run.log.wait_for(0, "memory_max do not hold: ", LIMIT);
            assert_eq!(run.get("/").version(), "v1");
        }
    }
    run.finish();

    // Of workers that are there, too.
    let desk = Desk::new();
    desk.file("", "-");
    desk.segue(&["start"]).expect(0);
    let pids = || {
        let workers = desk.app("web").workers.into_iter();
        workers.filter_map(|worker| worker.pid).collect::<Vec<_>>()
    };
    let before = pids();
    desk.file("limits.memory_max = \"200MiB\"", "-");
    desk.segue(&["apply"]).expect(0);
    assert_eq!(pids(), before, "no worker is another one");
    let limit = cgroup_of(before[0]).map(|cgroup| cgroup.join("memory.max"));
    match limit.and_then(|limit| fs::read_to_string(limit).ok()) {
        Some(limit) => assert_eq!(limit.trim(), (200 << 20).to_string()),
        None => assert!(desk.own_log().contains("memory_max do not hold: ")),
    }
}

#[test]
fn a_helper_in_its_group_dies_with_its_worker_everywhere() {
    let run = Launch::node("orphans.js").workers("1").start();
    let worker = run.ready_pids()[0];
    let helpers: Vec<Process> = children(worker)
        .into_iter()
        .filter_map(Process::open)
        .collect();
    assert_eq!(helpers.len(), 1);
    Process::open(worker)
        .expect("the worker")
        .signal(Signal::KILL);
    assert!(helpers[0].ends_within(LIMIT), "{}", run.log.render());
    run.finish();
}
