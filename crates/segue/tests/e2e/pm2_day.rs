//! The day of somebody who comes from PM2: five ecosystem files are imported, every app of them started
//! under one supervisor, listed, scaled, reloaded and restarted; the machine goes down and comes up again.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use segue_load::{Builder, Fresh, Load, Think};
use segue_wire::control::{AppPhase, Status};

use crate::background::{Desk, ready};
use crate::harness::command::{Outcome, Pending};
use crate::harness::load::Clients;
use crate::harness::nodes::{frameworks, installed};
use crate::harness::port::Port;
use crate::harness::process::Process;
use crate::harness::run::LIMIT;
use crate::harness::{fixtures, heavy, http, is_root, skip};

/// A project: its ecosystem file, how it is imported, and its scripts with the program that each is.
struct Project {
    name: &'static str,
    file: &'static str,
    flags: &'static [&'static str],
    scripts: &'static [(&'static str, &'static str)],
    /// The directories that its apps run in.
    homes: &'static [&'static str],
    /// What is not as it was, besides keys without a counterpart.
    told: &'static [&'static str],
}

const PROJECTS: [Project; 5] = [
    Project {
        name: "shop",
        file: "ecosystem.config.js",
        flags: &["--env", "production"],
        scripts: &[
            ("dist/server.js", "server.js"),
            ("dist/queue.js", "server.js"),
        ],
        homes: &["."],
        told: &[
            "shop: deploy is left out",
            "shop-queue: exec_mode is different",
        ],
    },
    Project {
        name: "old",
        file: "processes.json",
        flags: &[],
        scripts: &[("bin/www", "server.js")],
        homes: &["."],
        told: &["legacy: namespace is left out"],
    },
    Project {
        name: "site",
        file: "ecosystem.config.yaml",
        flags: &[],
        scripts: &[("server.js", "server.js"), ("tick.sh", "tick.sh")],
        homes: &["."],
        told: &[
            "web: instances is different",
            "tick: interpreter is different",
        ],
    },
    Project {
        name: "modern",
        file: "esm.config.mjs",
        flags: &[],
        scripts: &[("src/server.ts", "server.ts"), ("jobs.py", "jobs.py")],
        homes: &["."],
        told: &["jobs: interpreter is different", "segue restart"],
    },
    Project {
        name: "many",
        file: "computed.config.cjs",
        flags: &[],
        scripts: &[
            ("api/index.js", "server.js"),
            ("admin/index.js", "server.js"),
        ],
        homes: &["api", "admin"],
        told: &["api: increment_var is left out"],
    },
];

/// Those that listen through node, and so are reloaded under load.
const SERVERS: [&str; 7] = ["shop", "shop-queue", "legacy", "web", "ssr", "api", "admin"];

struct Day {
    desk: Desk,
    ports: BTreeMap<&'static str, Port>,
    /// Whom the apps of one file run as; nobody else where that cannot be.
    user: &'static str,
    has_python: bool,
}

impl Day {
    fn new() -> Self {
        let desk = Desk::new();
        desk.site.open_to_all();
        let names = SERVERS.into_iter().chain(["jobs"]);
        let ports: BTreeMap<_, _> = names.map(|name| (name, Port::lease())).collect();
        let numbers = ports.iter().map(|(name, port)| (*name, port.number()));
        let numbers: BTreeMap<_, _> = numbers.collect();
        let text = serde_json::to_string(&numbers).expect("JSON");
        std::fs::write(desk.path("ports.json"), text).expect("write the ports");
        let runs = |words: &[&str]| {
            let tried = Command::new(words[0]).args(&words[1..]).output();
            tried.is_ok_and(|output| output.status.success())
        };
        let node = installed().path;
        let node = node.to_str().expect("a plain path");
        let as_other = [
            "setpriv",
            "--reuid=www-data",
            "--regid=www-data",
            "--clear-groups",
        ];
        let can_change = is_root() && runs(&[&as_other[..], &[node, "--version"]].concat());
        let has_python = runs(&["python3", "--version"]);
        if !has_python {
            skip("python3 is not installed: the day goes on without its app");
        }
        Self {
            desk,
            ports,
            user: if can_change { "www-data" } else { "" },
            has_python,
        }
    }

    fn begin(&self, directory: &str, words: &[&str]) -> Pending {
        let variables = [("APP_USER", self.user)];
        self.desk.begin_with(directory, words, &variables)
    }

    fn run(&self, directory: &str, words: &[&str]) -> Outcome {
        self.begin(directory, words).wait(LIMIT)
    }

    fn segue(&self, words: &[&str]) -> Outcome {
        self.desk.segue(words)
    }

    fn set_version(&self, version: &str) {
        for project in &PROJECTS {
            for home in project.homes {
                let path = self.desk.path(project.name).join(home);
                std::fs::write(path.join("VERSION"), version).expect("write a version");
            }
        }
    }

    /// Puts a project there and imports its file.
    fn import(&self, project: &Project) {
        let there = self.desk.path(project.name);
        for (script, program) in project.scripts {
            let path = there.join(script);
            std::fs::create_dir_all(path.parent().expect("a directory")).expect("make it");
            let program = fixtures().join("pm2-apps").join(program);
            std::fs::copy(program, &path).expect("copy a script");
        }
        for home in project.homes {
            let home = there.join(home);
            std::fs::copy(fixtures().join("echo.js"), home.join("echo.js")).expect("copy it");
            for directory in ["logs", "src"] {
                std::fs::create_dir_all(home.join(directory)).expect("make a directory");
            }
        }
        let link = there.join("node_modules");
        std::os::unix::fs::symlink(frameworks(), link).expect("link the frameworks");
        let file = fixtures().join("pm2").join(project.file);
        std::fs::copy(file, there.join(project.file)).expect("copy the file");
        let words = [&["import", "pm2", project.file], project.flags].concat();
        self.run(project.name, &words).expect(0).says(project.told);
        // A program that cannot have its port may take a while to find out.
        let path = there.join("segue.toml");
        let text = std::fs::read_to_string(&path).expect("read the file");
        let patient = text.replace(
            "[app.jobs.reload]",
            "[app.jobs.reload]\nmin_uptime = \"1m\"",
        );
        std::fs::write(&path, patient).expect("write the file");
        if self.has_python || project.name != "modern" {
            self.run(project.name, &["check"]).expect(0);
        }
    }

    fn at(&self, name: &str) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports[name].number()).into()
    }

    #[track_caller]
    fn serves(&self, name: &str, version: &str) {
        let answer = http::get(self.at(name), "/").expect("an answer");
        assert_eq!(answer.version(), version, "{name}");
    }

    /// The program that is no node: ready as soon as it runs, and listening some time later.
    fn jobs(&self) -> http::Answer {
        let deadline = Instant::now() + LIMIT;
        loop {
            match http::get(self.at("jobs"), "/") {
                Err(_) if Instant::now() < deadline => {}
                answer => return answer.expect("an answer of jobs"),
            }
        }
    }

    fn everybody(&self) -> Vec<&'static str> {
        let jobs = self.has_python.then_some("jobs");
        SERVERS.into_iter().chain(["tick"]).chain(jobs).collect()
    }

    /// Kills the supervisor, its main process and all workers at one moment, as the end of a machine does.
    fn go_down(&self) {
        let status = self.desk.status();
        let workers = status.apps.iter().flat_map(|app| &app.workers);
        let workers = workers.filter_map(|worker| worker.pid);
        let pids = std::iter::once(status.supervisor.pid).chain(workers);
        let mains = self.desk.mains().into_iter();
        let down: Vec<Process> = mains.chain(pids.filter_map(Process::open)).collect();
        for process in &down {
            process.signal(Signal::STOP);
        }
        for process in &down {
            process.signal(Signal::KILL);
        }
        for process in &down {
            assert!(process.ends_within(LIMIT), "{} is down", process.pid);
        }
    }
}

/// Requests that come all the while, and leave processors to seven apps that boot at once.
fn load() -> Builder {
    let pause = Duration::from_millis(30);
    Load::builder()
        .with(Fresh {
            clients: 3,
            pause,
            ..Fresh::default()
        })
        .with(Think {
            clients: 3,
            pause,
            ..Think::default()
        })
}

/// Commands that run beside one another.
#[track_caller]
fn all(pending: Vec<Pending>) {
    for pending in pending {
        pending.wait(LIMIT).expect(0);
    }
}

fn phase(status: &Status, name: &str) -> Option<(AppPhase, usize)> {
    let app = status.apps.iter().find(|app| app.name == name);
    app.map(|app| (app.phase, ready(app)))
}

#[test]
fn a_day_after_pm2() {
    let _turn = heavy();
    let day = Day::new();
    let desk = &day.desk;
    for project in &PROJECTS {
        day.import(project);
    }
    day.set_version("v1");
    // The first one brings the supervisor up.
    day.run("shop", &["start"]).expect(0);
    let starts = PROJECTS.iter().skip(1).map(|project| {
        let only = (!day.has_python && project.name == "modern").then_some("ssr");
        let words: Vec<&str> = ["start"].into_iter().chain(only).collect();
        day.begin(project.name, &words)
    });
    all(starts.collect());

    let listed = day.segue(&["list"]);
    for name in day.everybody() {
        listed.expect(0).says(&[&format!("{name}  running")]);
    }
    for name in SERVERS {
        day.serves(name, "v1");
    }
    if day.has_python {
        assert_eq!(day.jobs().text(), "--queue mail and more");
    }
    day.segue(&["logs", "shop", "-n", "50"])
        .expect(0)
        .says(&["listening"]);
    day.segue(&["logs", "-n", "50"]).expect(0).says(&[
        "shop.0 | listening",
        "shop-queue.0 | listening",
        "tick.0 | ",
        "ticking --every 5",
        "ssr.0 | listening",
        "admin.1 | listening",
    ]);
    if day.has_python {
        let logs = day.segue(&["logs", "jobs"]);
        logs.expect(0).says(&["jobs.0 | listening"]);
    }
    let following = desk.begin(&["logs", "-f"]);

    let clients = SERVERS.map(|name| Clients::start(load(), day.at(name)));
    all(vec![
        desk.begin(&["scale", "shop", "3"]),
        desk.begin(&["scale", "shop-queue", "1"]),
        desk.begin(&["scale", "api", "+1"]),
        desk.begin(&["scale", "tick", "2"]),
    ]);
    day.segue(&["scale", "shop", "-1"]).expect(0);
    day.set_version("v2");
    let reloaded = SERVERS.into_iter().chain(["tick"]);
    all(reloaded.map(|name| desk.begin(&["reload", name])).collect());
    for name in SERVERS {
        day.serves(name, "v2");
    }
    for clients in clients {
        clients.wait_for_answers(50);
        desk.assert_flawless(&clients.stop());
    }
    if let Some(process) = &following.process {
        process.signal(Signal::TERM);
    }
    following.wait(LIMIT).says(&[
        "shop.0 g2 | listening",
        "shop-queue.0 g2 | listening",
        "ssr.0 g2 | listening",
    ]);
    if day.has_python {
        // As the import has said: the new one cannot have the port, and the old one serves on.
        let before = day.jobs().pid();
        day.segue(&["reload", "jobs"])
            .expect(1)
            .says(&["Address already in use"]);
        assert_eq!(day.jobs().pid(), before);
        day.segue(&["restart", "jobs"]).expect(0);
        assert_ne!(day.jobs().pid(), before);
    }
    day.segue(&["restart", "legacy"]).expect(0);
    all(vec![
        desk.begin(&["stop", "legacy"]),
        desk.begin(&["del", "web"]),
    ]);

    day.go_down();
    // What the unit of `segue service install --background` runs.
    let service = desk.begin(&["start", "--foreground"]);
    let wait = Instant::now() + LIMIT;
    while day.segue(&["status"]).code != Some(0) {
        assert!(Instant::now() < wait, "the service comes up");
    }
    let back: Vec<(&str, usize)> = [
        ("shop", 2),
        ("shop-queue", 1),
        ("ssr", 2),
        ("api", 2),
        ("admin", 2),
        ("tick", 2),
    ]
    .into_iter()
    .chain(day.has_python.then_some(("jobs", 1)))
    .collect();
    desk.until(
        "what ran is back as it was scaled, what was stopped is not, what was deleted is gone",
        |status| {
            let is_back = |(name, workers): &(&str, usize)| {
                phase(status, name)
                    .is_some_and(|(phase, ready)| phase == AppPhase::Running && ready == *workers)
            };
            back.iter().all(is_back)
                && phase(status, "legacy") == Some((AppPhase::Finished, 0))
                && phase(status, "web").is_none()
        },
    );
    for (name, _) in back.iter().filter(|(name, _)| SERVERS.contains(name)) {
        day.serves(name, "v2");
    }
    if day.has_python {
        assert_eq!(day.jobs().version(), "v2");
    }
    // What was stopped before the supervisor began is so after it has become another one.
    day.segue(&["upgrade"]).expect(0);
    assert_eq!(desk.app("legacy").phase, AppPhase::Finished);
    day.segue(&["start", "legacy"]).expect(0);
    let several = day.everybody().into_iter();
    let several = several.filter(|name| !["shop", "legacy", "web"].contains(name));
    all(several.map(|name| desk.begin(&["delete", name])).collect());
    day.segue(&["delete", "all"]).expect(0);
    assert!(desk.status().apps.is_empty());
    day.segue(&["shutdown"]).expect(0);
    service.wait(LIMIT).expect(0);
}
