//! What stands around segue on the page of tasks: nginx before it, a container around it. The configuration,
//! the Dockerfile and the commands are those of the page.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use segue_load::{Builder, Fresh, KeepAlive, Load};
use segue_wire::control::Status;

use crate::harness::command::Pending;
use crate::harness::load::{Clients, assert_flawless, render};
use crate::harness::nodes::on_path;
use crate::harness::port::Port;
use crate::harness::process::{self, MARK, Process};
use crate::harness::run::{LIMIT, Launch};
use crate::harness::{fixtures, http, is_root, skip};
use crate::tasks::block;

/// What goes around the page's nginx block: everything in a directory of the test's own. The load client
/// would miss its own port, which the app does not see behind a proxy.
const NGINX: &str = "
pid DIRECTORY/nginx.pid;
events {}
http {
    access_log DIRECTORY/access.log;
    client_body_temp_path DIRECTORY/body;
    proxy_temp_path DIRECTORY/proxy;
    fastcgi_temp_path DIRECTORY/fastcgi;
    scgi_temp_path DIRECTORY/scgi;
    uwsgi_temp_path DIRECTORY/uwsgi;
    proxy_hide_header x-segue-port;
";

/// The program, which Debian puts where only root's PATH leads.
pub(crate) fn nginx() -> Option<PathBuf> {
    let beside = PathBuf::from("/usr/sbin/nginx");
    on_path("nginx").or_else(|| beside.is_file().then_some(beside))
}

/// Kills what a test has left.
struct Mark(String);

impl Drop for Mark {
    fn drop(&mut self) {
        process::kill_marked(&self.0);
    }
}

/// Ends nginx, which has no mark: it writes its title over its environment.
struct Ended(Option<Process>);

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(process) = &self.0 {
            process.signal(Signal::TERM);
        }
    }
}

fn load() -> Builder {
    Load::builder()
        .with(Fresh {
            clients: 4,
            ..Fresh::default()
        })
        .with(KeepAlive {
            clients: 8,
            ..KeepAlive::default()
        })
}

/// A program of this name that runs these lines.
fn put_program(path: &Path, lines: &str) {
    fs::write(path, format!("#!/bin/sh\n{lines}\n")).expect("write a program");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("let it run");
}

#[test]
fn behind_nginx() {
    let Some(nginx) = nginx() else {
        return skip("nginx is not installed (Debian: nginx-light)");
    };
    let launch = Launch::node("plain.js");
    let upstream = format!("server 127.0.0.1:{};", launch.site.port.number());
    let run = launch.start();
    let directory = tempfile::tempdir().expect("a directory");
    let here = directory.path();
    let port = Port::lease();
    let mut servers = block("Behind nginx", &["nginx"]);
    for (from, to) in [
        ("server 127.0.0.1:3000;", &upstream),
        (
            "listen 8080;",
            &format!("listen 127.0.0.1:{};", port.number()),
        ),
    ] {
        assert_eq!(servers.matches(from).count(), 1, "{from} in {servers}");
        servers = servers.replace(from, to);
    }
    let text = NGINX.replace("DIRECTORY", &here.to_string_lossy()) + &servers + "}\n";
    fs::write(here.join("nginx.conf"), text).expect("write the configuration");

    // What the page types leads to the nginx of this test.
    let bin = here.join("bin");
    fs::create_dir(&bin).expect("make a directory");
    let own = format!(
        "exec {} -p {here} -e {here}/error.log -c {here}/nginx.conf",
        nginx.display(),
        here = here.display()
    );
    put_program(&bin.join("nginx"), &format!("{own} \"$@\""));
    put_program(&bin.join("sudo"), "exec \"$@\"");
    let reload = "test \"$*\" = 'reload nginx' && exec nginx -s reload";
    put_program(&bin.join("systemctl"), reload);
    let shell = |line: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let paths = std::iter::once(bin.clone()).chain(std::env::split_paths(&path));
        let mut command = Command::new("sh");
        command
            .args(["-ec", line])
            .env("PATH", std::env::join_paths(paths).expect("join paths"));
        command
    };
    let server = Pending::start(shell("exec nginx -g 'daemon off;'"));
    let _guard = Ended(server.process.as_ref().and_then(|it| Process::open(it.pid)));
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.number()));
    let log = || fs::read_to_string(here.join("error.log")).unwrap_or_default();
    let deadline = Instant::now() + LIMIT;
    while http::get(address, "/").is_err() {
        assert!(
            Instant::now() < deadline,
            "nginx does not answer: {}",
            log()
        );
    }
    let master = server.process.as_ref().map_or(0, |process| process.pid);
    let before = process::children(master);
    let typed = block("Behind nginx", &["sh", "syntax"]);
    Pending::start(shell(&typed)).wait(LIMIT).expect(0);
    // One of its own that leaves would take idle connections along.
    while !process::children(master).is_disjoint(&before) {
        assert!(Instant::now() < deadline, "nginx has reloaded: {}", log());
    }

    let clients = Clients::start(load(), address);
    clients.wait_for_answers(200);
    for version in ["v2", "v3"] {
        run.site.deploy(version, "plain.js");
        // By then, connections that nginx keeps have moved as well.
        run.segue(&["reload", "--wait", "drained"]).expect(0);
        assert_eq!(
            http::get(address, "/").expect("an answer").version(),
            version
        );
        clients.wait_for_answers(200);
    }
    let report = clients.stop();
    assert_flawless(&report, &run);
    let answered = fs::read_to_string(here.join("access.log")).expect("the log of requests");
    let others: Vec<&str> = answered
        .lines()
        .filter(|line| !line.contains("\" 200 "))
        .collect();
    assert!(others.is_empty(), "{others:?}\n{}", log());
    assert!(answered.lines().count() > 600, "{}", render(&report));

    // It would tell of a connection that was reset or refused, also where it has tried again.
    let trouble = log();
    let trouble: Vec<&str> = trouble
        .lines()
        .filter(|line| line.contains("upstream"))
        .collect();
    assert!(trouble.is_empty(), "{trouble:?}");
    Pending::start(shell("nginx -s quit")).wait(LIMIT).expect(0);
    server.wait(LIMIT).expect(0);
    run.finish();
}

/// What the page's Dockerfile says to run, with which variable, and its command that asks whether the app is
/// well.
struct Image {
    command: Vec<String>,
    health: Vec<String>,
    variable: String,
}

fn image() -> Image {
    let text = block("In Docker", &["dockerfile"]);
    let words = |line: &str| -> Vec<String> {
        let (_, list) = line.split_once("CMD ").expect("a command");
        serde_json::from_str(list).expect("the form without a shell")
    };
    let one = |instruction: &str| {
        let mut lines = text.lines().filter(|line| line.starts_with(instruction));
        lines.next().expect(instruction).to_owned()
    };
    let port = one("EXPOSE ").replace("EXPOSE ", "");
    let (variable, value) = (one("ENV "), format!("={port}"));
    let variable = variable
        .strip_prefix("ENV ")
        .and_then(|it| it.strip_suffix(&value));
    Image {
        command: words(&one("CMD ")),
        health: words(&one("HEALTHCHECK ")),
        variable: variable
            .expect("a variable says where to listen")
            .to_owned(),
    }
}

/// What a container has of its own, as far as that goes without an image: processes, and the places where
/// segue keeps things.
const ISOLATED: [&str; 9] = [
    "unshare",
    "--mount",
    "--pid",
    "--fork",
    "--mount-proc",
    "--kill-child",
    "sh",
    "-ec",
    "mount -t tmpfs none /run; mount -t tmpfs none /var/cache; exec \"$@\"",
];

#[test]
fn in_a_container() {
    let tried = Command::new(ISOLATED[0])
        .args(&ISOLATED[1..])
        .args(["sh", "true"])
        .output();
    if !is_root() || !tried.is_ok_and(|output| output.status.success()) {
        return skip("unshare may not make the namespaces of a container here");
    }
    let Image {
        command,
        health,
        variable,
    } = image();
    let typed = block("In Docker", &["sh", "syntax"]);
    let after = |text: &str, flag: &str| {
        let (_, rest) = text.split_once(flag).expect(flag);
        let number = rest.trim_start().split([' ', 's']).next();
        Duration::from_secs(number.and_then(|it| it.parse().ok()).expect("seconds"))
    };
    let grace = after(&typed, "--stop-timeout");
    let delay = after(&command.join(" "), "--stop-delay");

    let directory = tempfile::tempdir().expect("a directory");
    let here = directory.path();
    fs::create_dir(here.join("bin")).expect("make a directory");
    symlink(env!("CARGO_BIN_EXE_segue"), here.join("bin/segue")).expect("put the binary there");
    fs::create_dir(here.join("app")).expect("make a directory");
    for (from, to) in [("plain.js", "server.js"), ("echo.js", "echo.js")] {
        fs::copy(fixtures().join(from), here.join("app").join(to)).expect("copy the app");
    }
    let set_version = |version: &str| {
        fs::write(here.join("app/VERSION"), version).expect("write a version");
    };
    set_version("v1");
    let port = Port::lease();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.number()));
    let mark = Mark(process::new_mark());
    let start = |words: &[&str]| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let paths = std::iter::once(here.join("bin")).chain(std::env::split_paths(&path));
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .current_dir(here.join("app"))
            .env_clear()
            .env("PATH", std::env::join_paths(paths).expect("join paths"))
            .env("HOME", "/root")
            .env(&variable, port.number().to_string())
            .env(MARK, &mark.0);
        Pending::start(command)
    };
    let run: Vec<&str> = ISOLATED
        .into_iter()
        .chain(["sh"])
        .chain(command.iter().map(String::as_str))
        .collect();
    let container = start(&run);
    let unshare = container.process.as_ref().expect("it runs").pid;
    let deadline = Instant::now() + LIMIT;
    let first = loop {
        let child = process::children(unshare).into_iter().find(|child| {
            let name = fs::read_to_string(format!("/proc/{child}/comm"));
            name.is_ok_and(|name| name.trim() == "segue")
        });
        if let Some(first) = child.and_then(Process::open) {
            break first;
        }
        assert!(Instant::now() < deadline, "the container starts");
    };
    // As `docker exec` does, and Docker itself for the health of a container.
    let target = first.pid.to_string();
    let execute = |words: &[&str]| {
        let enter = ["nsenter", "--target", &target, "--pid", "--mount"];
        start(&[&enter[..], words].concat()).wait(LIMIT)
    };
    let health: Vec<&str> = health.iter().map(String::as_str).collect();
    while execute(&health).code != Some(0) {
        assert!(
            Instant::now() < deadline,
            "it is well: {:?}",
            execute(&health)
        );
    }
    assert_eq!(http::get(address, "/").expect("an answer").version(), "v1");
    let status = execute(&["segue", "status", "--json"]);
    let status: Status = serde_json::from_str(&status.expect(0).out).expect("a status");
    assert_eq!(status.supervisor.keeper_pid, Some(1), "segue is PID 1");

    set_version("v2");
    let clients = Clients::start(load(), address);
    clients.wait_for_answers(50);
    let commands: Vec<&str> = typed
        .lines()
        .filter_map(|line| line.strip_prefix("docker exec web "))
        .map(|line| line.split('#').next().unwrap_or(line).trim())
        .collect();
    assert_eq!(commands, ["segue status", "segue reload"]);
    for command in commands {
        let words: Vec<&str> = command.split(' ').collect();
        execute(&words).expect(0);
    }
    assert_eq!(http::get(address, "/").expect("an answer").version(), "v2");
    clients.wait_for_answers(50);
    let report = clients.stop();
    assert_eq!(report.failed() + report.in_flight, 0, "{}", render(&report));

    let asked = Instant::now();
    first.signal(Signal::TERM);
    // The delay of the stop: a load balancer may not have noticed yet.
    http::get(address, "/").expect("an answer");
    let ended = container.wait(grace);
    ended.expect(0).says(&["server stops"]);
    assert!(asked.elapsed() >= delay, "{ended:?}");
    assert!(http::get(address, "/").is_err(), "it has stopped");
}
