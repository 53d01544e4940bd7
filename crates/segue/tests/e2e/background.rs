//! The background supervisor and its apps: started, listed, scaled, reloaded, applied, deleted, and
//! back again after it has gone.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use segue_load::{Fresh, KeepAlive, Load, Report};
use segue_wire::control::{App, AppPhase, Status, WorkerPhase};
use serde_json::Value;

use crate::harness::command::{Outcome, Pending};
use crate::harness::http;
use crate::harness::load::{Clients, render};
use crate::harness::nodes::installed;
use crate::harness::port::Port;
use crate::harness::process::{self, Process};
use crate::harness::run::{LIMIT, Launch};
use crate::harness::site::Site;
use crate::harness::standin;

/// A user with a directory of their own, and a supervisor in the background.
pub(crate) struct Desk {
    pub(crate) site: std::sync::Arc<Site>,
    mark: String,
}

impl Desk {
    pub(crate) fn new() -> Self {
        let launch = Launch::node("plain.js");
        let desk = Self {
            site: launch.site,
            mark: process::new_mark(),
        };
        for name in ["run", "state", "cache"] {
            std::fs::create_dir(desk.path(name)).expect("make a directory");
        }
        desk
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.site.path(name)
    }

    /// `[app.web]` and `[app.api]`, with more lines for each.
    pub(crate) fn file(&self, web: &str, api: &str) {
        let quick = "reload = { min_uptime = \"0s\" }\ndrain = { settle = \"0s\" }\n";
        let app = |name: &str, port: u16, lines: &str| match lines {
            "-" => String::new(),
            lines => format!(
                "[app.{name}]\ncommand = \"server.js\"\ncwd = \"current\"\nworkers = 2\nnode = {:?}\n{quick}env = {{ PORT = \"{port}\" }}\n{lines}\n",
                installed().path
            ),
        };
        let text = format!(
            "{}{}",
            app("web", self.site.port.number(), web),
            app("api", self.site.other_port.number(), api)
        );
        std::fs::write(self.path("segue.toml"), text).expect("write the file");
    }

    /// Both apps, with so many workers and the same lines.
    pub(crate) fn file_with(&self, workers: [usize; 2], lines: &str) {
        self.file(lines, lines);
        let path = self.path("segue.toml");
        let text = std::fs::read_to_string(&path).expect("read the file");
        let mut text = text.replacen("workers = 2", &format!("workers = {}", workers[0]), 1);
        let second = text.rfind("workers = 2").filter(|_| workers[1] != 2);
        if let Some(at) = second {
            text.replace_range(at..at + 11, &format!("workers = {}", workers[1]));
        }
        std::fs::write(path, text).expect("write the file");
    }

    pub(crate) fn begin(&self, words: &[&str]) -> Pending {
        self.begin_in(".", words)
    }

    /// In one of its directories.
    pub(crate) fn begin_in(&self, directory: &str, words: &[&str]) -> Pending {
        self.begin_with(directory, words, &[])
    }

    /// With more variables.
    pub(crate) fn begin_with(
        &self,
        directory: &str,
        words: &[&str],
        variables: &[(&str, &str)],
    ) -> Pending {
        let mut command = Command::new(env!("CARGO_BIN_EXE_segue"));
        command
            .args(words)
            .current_dir(self.path(directory))
            .env("PORTS", self.path("ports.json"))
            .env("NO_COLOR", "1")
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("XDG_STATE_HOME", self.path("state"))
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env(process::MARK, &self.mark)
            .env_remove("SEGUE_CONTROL")
            .env_remove("PWD")
            .envs(variables.iter().copied());
        Pending::start(command)
    }

    pub(crate) fn segue(&self, words: &[&str]) -> Outcome {
        self.begin(words).wait(LIMIT)
    }

    pub(crate) fn status(&self) -> Status {
        let outcome = self.segue(&["status", "--json"]);
        serde_json::from_str(&outcome.expect(0).out).expect("a status")
    }

    pub(crate) fn app(&self, name: &str) -> App {
        let apps = self.status().apps;
        let app = apps.into_iter().find(|app| app.name == name);
        app.unwrap_or_else(|| panic!("no app {name}"))
    }

    #[track_caller]
    pub(crate) fn until(&self, what: &str, wanted: impl Fn(&Status) -> bool) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let status = self.status();
            if wanted(&status) {
                return;
            }
            assert!(Instant::now() < deadline, "{what}: {status:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn web(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.site.port.number()).into()
    }

    pub(crate) fn api(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.site.other_port.number()).into()
    }

    pub(crate) fn version(&self, at: SocketAddr) -> String {
        http::get(at, "/").expect("an answer").version().to_owned()
    }

    fn env(&self, at: SocketAddr, name: &str) -> Value {
        let answer = http::get(at, "/info").expect("an answer");
        answer.json()["env"][name].clone()
    }

    pub(crate) fn load(&self, at: SocketAddr) -> Clients {
        let load = Load::builder()
            .with(Fresh {
                clients: 10,
                ..Fresh::default()
            })
            .with(KeepAlive {
                clients: 10,
                ..KeepAlive::default()
            });
        let clients = Clients::start(load, at);
        clients.wait_for_answers(50);
        clients
    }

    /// Main processes whose runtime directory is this one's.
    pub(crate) fn mains(&self) -> Vec<Process> {
        let wanted = format!("XDG_RUNTIME_DIR={}", self.path("run").display());
        let is_ours = |pid: &u32| {
            let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            name.trim() == "segue"
                && environ
                    .split(|byte| *byte == 0)
                    .any(|entry| entry == wanted.as_bytes())
        };
        let entries = std::fs::read_dir("/proc").expect("read /proc").flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(is_ours).filter_map(Process::open).collect()
    }

    pub(crate) fn own_log(&self) -> String {
        std::fs::read_to_string(self.path("state/segue/segue.log")).unwrap_or_default()
    }

    #[track_caller]
    pub(crate) fn assert_flawless(&self, report: &Report) {
        assert_eq!(
            report.failed() + report.in_flight,
            0,
            "{}\n{}",
            render(report),
            self.own_log()
        );
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the supervisor said\n{}", self.own_log());
        }
        // By signal: a supervisor that a test has found stuck answers nothing.
        for main in self.mains() {
            main.signal(Signal::TERM);
            if !main.ends_within(Duration::from_secs(10)) {
                main.signal(Signal::KILL);
            }
        }
        process::kill_marked(&self.mark);
    }
}

pub(crate) fn ready(app: &App) -> usize {
    let ready = app.workers.iter();
    ready
        .filter(|worker| worker.phase == WorkerPhase::Ready)
        .count()
}

#[test]
fn a_day_with_two_apps() {
    let desk = Desk::new();
    desk.file("", "");
    desk.segue(&["start"])
        .expect(0)
        .says(&["web is ready", "api is ready"]);
    assert_eq!(desk.version(desk.web()), "v1");
    desk.segue(&["ls"])
        .expect(0)
        .says(&["web  running", "api  running"]);
    let main = desk.status().supervisor.keeper_pid.expect("a main process");
    let status = std::fs::read_to_string(format!("/proc/{main}/status")).expect("its status");
    assert!(status.contains("Umask:\t0077"), "{status}");
    let worker = desk.app("web").workers[0].pid.expect("a worker");
    let theirs = std::fs::read_to_string(format!("/proc/{worker}/status")).expect("its status");
    assert!(
        theirs.contains("Umask:\t0022"),
        "workers have that of the caller: {theirs}"
    );
    let stat = std::fs::read_to_string(format!("/proc/{main}/stat")).expect("its stat");
    let session = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.split(' ').nth(3));
    assert_eq!(
        session,
        Some(main.to_string().as_str()),
        "a session of its own"
    );

    let clients = [desk.load(desk.web()), desk.load(desk.api())];
    desk.segue(&["scale", "web", "3"]).expect(0);
    desk.site.deploy("v2", "plain.js");
    desk.segue(&["reload"])
        .expect(0)
        .says(&["web: reload 1 began", "api: reload 1 began"]);
    assert_eq!(desk.version(desk.web()), "v2");
    assert_eq!(desk.version(desk.api()), "v2");
    desk.segue(&["reload", "api"]).expect(0);
    desk.segue(&["upgrade"]).expect(0);
    let supervisor = desk.status().supervisor.pid;
    let killed = Process::open(supervisor).expect("it runs");
    killed.signal(Signal::KILL);
    desk.until("another supervisor", |status| {
        status.supervisor.pid != supervisor
    });
    for clients in clients {
        clients.wait_for_answers(50);
        desk.assert_flawless(&clients.stop());
    }
    desk.until("three workers of web", |status| {
        status
            .apps
            .iter()
            .any(|app| app.name == "web" && ready(app) == 3)
    });

    desk.segue(&["stop", "api"]).expect(0);
    assert_eq!(desk.app("api").phase, AppPhase::Finished);
    desk.segue(&["status", "--check"]).expect(0);
    assert!(http::get(desk.api(), "/").is_err(), "it is stopped");
    desk.segue(&["reload", "api"])
        .expect(4)
        .says(&["segue start api"]);
    desk.segue(&["start", "api"]).expect(0);
    assert_eq!(desk.version(desk.api()), "v2");
    desk.segue(&["restart", "web"]).expect(0);

    // Another life remembers them.
    desk.segue(&["stop", "web"]).expect(0);
    desk.segue(&["shutdown"]).expect(0);
    desk.segue(&["status"]).expect(3);
    desk.file("", "-");
    desk.segue(&["start", "-c", "nothing.toml"]).expect(2);
    std::fs::remove_file(desk.path("segue.toml")).expect("remove the file");
    desk.file("", "");
    let file = desk.path("segue.toml");
    std::fs::rename(&file, desk.path("elsewhere.toml")).expect("hide the file");
    std::fs::rename(desk.path("elsewhere.toml"), &file).expect("show the file");
    desk.segue(&["start", "web"]).expect(0);
    desk.until("both are back", |status| {
        status.apps.len() == 2 && status.apps.iter().all(|app| ready(app) > 0)
    });

    desk.segue(&["delete", "api"]).expect(0);
    desk.until("one app", |status| status.apps.len() == 1);
    desk.segue(&["delete", "nobody"]).expect(3);
}

#[test]
fn what_the_file_says_is_what_runs() {
    let desk = Desk::new();
    desk.file("", "-");
    desk.segue(&["apply", "--dry-run"])
        .expect(0)
        .says(&["+ web: is started"]);
    desk.segue(&["apply"]).expect(0).says(&["web is ready"]);
    desk.segue(&["apply"])
        .expect(0)
        .says(&["web: as the file says"]);

    let clients = desk.load(desk.web());
    let pids = |app: &App| {
        app.workers
            .iter()
            .filter_map(|worker| worker.pid)
            .collect::<Vec<_>>()
    };
    let before = pids(&desk.app("web"));
    desk.file("limits.max_age = \"24h\"\nstop.timeout = \"3s\"", "");
    desk.segue(&["apply", "--dry-run"]).expect(0).says(&[
        "~ web: is adjusted, with no restart",
        "limits.max_age: none -> 24h (at once)",
        "+ api: is started",
    ]);
    assert_eq!(desk.status().apps.len(), 1, "nothing has been done");
    desk.segue(&["apply"]).expect(0);
    assert_eq!(pids(&desk.app("web")), before, "no worker is another one");
    assert_eq!(desk.version(desk.api()), "v1");

    let text = std::fs::read_to_string(desk.path("segue.toml")).expect("read the file");
    let text = text.replacen("workers = 2", "workers = 3", 1);
    let text = text.replacen("env = {", "env = { COLOUR = \"green\",", 1);
    std::fs::write(desk.path("segue.toml"), &text).expect("write the file");
    desk.segue(&["apply"]).expect(0).says(&[
        "~ web: is reloaded",
        "workers: 2 -> 3",
        "api: as the file says",
    ]);
    assert_eq!(desk.env(desk.web(), "COLOUR"), "green");
    desk.segue(&["why", "web"])
        .expect(0)
        .says(&["`segue apply` by"]);
    assert_eq!(ready(&desk.app("web")), 3);
    desk.segue(&["apply"])
        .expect(0)
        .says(&["web: as the file says"]);

    // A definition that cannot start changes nothing for clients.
    let broken = text.replacen("command = \"server.js\"", "command = \"none.js\"", 1);
    std::fs::write(desk.path("segue.toml"), broken).expect("write the file");
    desk.segue(&["apply"]).expect(5).says(&["none.js"]);
    std::fs::write(desk.path("segue.toml"), &text).expect("write the file");
    desk.segue(&["apply"]).expect(0);
    assert_eq!(desk.env(desk.web(), "COLOUR"), "green");

    std::fs::write(desk.path("segue.toml"), "[app.web]\nwrokers = 1\n").expect("write");
    desk.segue(&["apply"])
        .expect(2)
        .says(&["did you mean `workers`"]);
    clients.wait_for_answers(50);
    desk.assert_flawless(&clients.stop());

    desk.file("-", "");
    desk.segue(&["apply"])
        .expect(0)
        .says(&["- web: drains and is deleted"]);
    desk.until("one app", |status| status.apps.len() == 1);
}

/// A file of some of three apps, each with a number of workers and a few settings.
fn any_file(desk: &Desk, ports: &[Port], random: &mut u64) -> (String, Vec<(String, usize)>) {
    let mut next = |below: u64| {
        // Knuth's MMIX generator.
        *random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (*random >> 33) % below
    };
    let mut text = String::new();
    let mut expected = Vec::new();
    for (name, port) in ["a", "b", "c"].iter().zip(ports) {
        if next(4) == 0 {
            continue;
        }
        let workers = 1 + next(3);
        let colour = next(3);
        let drain = ["1m", "2m"][usize::try_from(next(2)).expect("small")];
        let age = ["", "limits.max_age = \"24h\"\n"][usize::try_from(next(2)).expect("small")];
        text += &format!(
            "[app.{name}]\ncommand = {:?}\nargs = [\"port={}\"]\nworkers = {workers}\nenv = {{ COLOUR = \"{colour}\" }}\nreload.min_uptime = \"0s\"\ndrain.settle = \"0s\"\ndrain.timeout = \"{drain}\"\n{age}",
            standin(),
            port.number(),
        );
        expected.push(((*name).to_owned(), usize::try_from(workers).expect("small")));
    }
    std::fs::write(desk.path("segue.toml"), &text).expect("write the file");
    (text, expected)
}

#[test]
fn any_file_after_any_other_is_what_runs_then() {
    let desk = Desk::new();
    let ports = [Port::lease(), Port::lease(), Port::lease()];
    let seed = std::env::var("SEGUE_SEED").ok();
    let seed = seed.and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut random = seed;
    for number in 0..12 {
        let (text, expected) = any_file(&desk, &ports, &mut random);
        let applied = desk.segue(&["apply"]);
        let file = format!("file {number} of seed {seed}:\n{text}\n{applied:#?}");
        assert_eq!(applied.code, Some(0), "{file}");
        // What has been scaled down is still to drain.
        desk.until(&file, |status| {
            let apps = status.apps.iter();
            let found: Vec<(String, usize)> = apps
                .map(|app| (app.name.clone(), app.workers.len()))
                .collect();
            found == expected
        });
        let again = desk.segue(&["apply", "--dry-run"]);
        let same = again.expect(0).out.lines();
        assert!(
            same.clone()
                .all(|line| line.ends_with(": as the file says")),
            "{file}\n{again:#?}"
        );
        assert_eq!(same.count(), expected.len(), "{file}");
    }
}

#[test]
fn an_app_that_cannot_start_leaves_nothing() {
    let desk = Desk::new();
    std::fs::write(desk.path("broken.js"), "throw new Error('no way')").expect("write");
    let pid_file = desk.path("pid");
    let pid_file = pid_file.to_str().expect("a plain path");
    let started = desk.segue(&["start", "--pid-file", pid_file, "broken.js"]);
    let main = desk.status().supervisor.keeper_pid.expect("a main process");
    let written = std::fs::read_to_string(pid_file).expect("the pid file");
    assert_eq!(written.trim(), main.to_string());
    started.expect(1).says(&["no way"]);
    assert!(desk.status().apps.is_empty());
    std::fs::write(desk.path("segue.toml"), "[app.web]\nwrokers = 1\n").expect("write");
    desk.segue(&["start"])
        .expect(2)
        .says(&["did you mean `workers`"]);
    desk.file("", "-");
    desk.segue(&["start"]).expect(0);
    desk.segue(&["start"]).expect(4).says(&["web runs already"]);
    desk.segue(&["start", "--metrics", "127.0.0.1:9464"])
        .expect(2)
        .says(&["--metrics is for a supervisor that begins"]);
    desk.segue(&["start", "--foreground"]).expect(4);
}

#[test]
fn metrics_are_served_where_the_file_says_and_survive_an_upgrade() {
    let desk = Desk::new();
    desk.file("", "");
    let file = desk.path("segue.toml");
    let text = std::fs::read_to_string(&file).expect("read the file");
    let port = Port::lease();
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port.number()));
    std::fs::write(&file, format!("{text}[supervisor]\nmetrics = \"{at}\"\n")).expect("write");
    let run = desk.begin(&["run"]);
    let metrics = || http::get(at, "/metrics").map(|answer| answer.text());
    let deadline = Instant::now() + LIMIT;
    let ready = "segue_workers{app=\"api\",phase=\"ready\"} 2";
    while !metrics().is_ok_and(|text| text.contains(ready)) {
        assert!(Instant::now() < deadline, "{:?}", metrics());
        std::thread::sleep(Duration::from_millis(20));
    }
    desk.segue(&["upgrade"]).expect(0);
    assert!(metrics().expect("metrics").contains(ready));
    assert_eq!(http::get(at, "/").expect("an answer").status, 404);
    let other = desk.begin(&["run", "--control", "other.sock", "-c", "segue.toml", "web"]);
    other
        .wait(LIMIT)
        .expect(1)
        .says(&["cannot serve metrics at", "in use"]);
    if let Some(process) = &run.process {
        process.signal(Signal::TERM);
    }
    run.wait(LIMIT).expect(0);
}

#[test]
fn several_apps_in_the_foreground_follow_their_file_at_hup() {
    let desk = Desk::new();
    desk.file("", "");
    let run = desk.begin(&["run"]);
    let main = run.process.as_ref().expect("it runs").pid;
    let deadline = Instant::now() + LIMIT;
    while http::get(desk.api(), "/").is_err() || http::get(desk.web(), "/").is_err() {
        assert!(Instant::now() < deadline, "both apps listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    desk.until("both are up", |status| {
        status.apps.iter().all(|app| app.phase == AppPhase::Running)
    });
    let clients = desk.load(desk.web());
    desk.file("", "-");
    desk.site.deploy("v2", "plain.js");
    let main = Process::open(main).expect("it runs");
    main.signal(Signal::HUP);
    desk.until(
        "one app, of the second generation",
        |status| matches!(status.apps.as_slice(), [app] if app.generation == 2),
    );
    desk.file("", "");
    main.signal(Signal::HUP);
    desk.until("two apps", |status| {
        status.apps.len() == 2 && status.apps.iter().all(|app| app.phase == AppPhase::Running)
    });
    // Its apps live where it was started, whoever applies their file.
    desk.file("limits.max_age = \"24h\"", "-");
    let shell = [("COLOUR", "of somebody's shell")];
    let applied = desk.begin_with(".", &["apply"], &shell).wait(LIMIT);
    applied.expect(0).says(&["limits.max_age"]);
    assert!(!applied.out.contains("environment"), "{}", applied.out);
    desk.file("", "");
    let applied = desk.begin_with(".", &["apply"], &shell).wait(LIMIT);
    applied.expect(0);
    assert_eq!(desk.env(desk.api(), "COLOUR"), Value::Null);
    clients.wait_for_answers(50);
    desk.assert_flawless(&clients.stop());
    main.signal(Signal::TERM);
    run.wait(LIMIT).expect(0);
}
