//! The day of somebody who comes from PM2: ecosystem files are imported, their apps started, listed,
//! scaled, reloaded and restarted, the machine goes down and comes up again.

use std::path::Path;

use rustix::process::Signal;
use segue_wire::control::AppPhase;

use crate::background::{Desk, ready};
use crate::harness::command::Outcome;
use crate::harness::http;
use crate::harness::port::Port;
use crate::harness::process::Process;
use crate::harness::run::LIMIT;

/// Listens where the test says for this app, as an app written for PM2 does.
const SERVER: &str = "
const { answer } = require(process.cwd() + '/echo.js');
const ports = JSON.parse(require('fs').readFileSync(process.env.PORTS));
require('http').createServer(answer).listen(ports[process.env.SEGUE_APP], () => {
  console.log('listening');
  process.send('ready');
});
process.on('message', message => message === 'shutdown' && process.exit(0));
";

fn in_directory(desk: &Desk, directory: &str, words: &[&str]) -> Outcome {
    desk.begin_in(directory, words).wait(LIMIT)
}

/// A project with its ecosystem file and scripts.
fn project(desk: &Desk, directory: &str, file: &str, scripts: &[&str], flags: &[&str]) {
    let there = desk.path(directory);
    for script in scripts {
        let path = there.join(script);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("make it");
        std::fs::write(&path, SERVER).expect("write a script");
    }
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    std::fs::copy(fixtures.join("pm2").join(file), there.join(file)).expect("copy the file");
    std::fs::copy(fixtures.join("echo.js"), there.join("echo.js")).expect("copy the answers");
    std::fs::write(there.join("VERSION"), "v1").expect("write a version");
    std::fs::create_dir_all(there.join("logs")).expect("make the directory of logs");
    in_directory(desk, directory, &[&["import", "pm2", file], flags].concat()).expect(0);
    in_directory(desk, directory, &["check"]).expect(0);
}

#[test]
fn a_day_after_pm2() {
    let desk = Desk::new();
    let ports: Vec<Port> = (0..4).map(|_| Port::lease()).collect();
    let names = ["shop", "shop-queue", "legacy", "web"];
    let map = names.iter().zip(&ports);
    let map: serde_json::Map<String, serde_json::Value> = map
        .map(|(name, port)| ((*name).to_owned(), port.number().into()))
        .collect();
    let map = serde_json::Value::from(map).to_string();
    std::fs::write(desk.path("ports.json"), map).expect("write the ports");
    let at = |name: &str| {
        let index = names.iter().position(|known| *known == name);
        let port = &ports[index.expect("a known app")];
        std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, port.number()))
    };

    let scripts = ["dist/server.js", "dist/queue.js"];
    let production = ["--env", "production"];
    project(&desk, "shop", "ecosystem.config.js", &scripts, &production);
    project(&desk, "old", "processes.json", &["bin/www"], &[]);
    project(
        &desk,
        "site",
        "ecosystem.config.yaml",
        &["server.js", "tick.sh"],
        &[],
    );
    for (directory, words) in [
        ("shop", &["start"][..]),
        ("old", &["start"]),
        ("site", &["start", "web"]),
    ] {
        in_directory(&desk, directory, words).expect(0);
    }
    let listed = desk.segue(&["list"]);
    for name in names {
        listed.expect(0).says(&[&format!("{name}  running")]);
        assert_eq!(http::get(at(name), "/").expect("an answer").version(), "v1");
    }
    desk.segue(&["logs", "shop", "-n", "50"])
        .expect(0)
        .says(&["listening"]);

    desk.segue(&["logs", "-n", "50"])
        .expect(0)
        .says(&["shop.0 | listening", "shop-queue.0 | listening"]);
    let following = desk.begin(&["logs", "-f"]);

    let clients = names.map(|name| desk.load(at(name)));
    desk.segue(&["scale", "shop", "3"]).expect(0);
    desk.segue(&["scale", "shop", "-1"]).expect(0);
    desk.segue(&["scale", "shop-queue", "1"]).expect(0);
    std::fs::write(desk.path("shop/VERSION"), "v2").expect("write a version");
    desk.segue(&["reload", "shop"]).expect(0);
    assert_eq!(
        http::get(at("shop"), "/").expect("an answer").version(),
        "v2"
    );
    desk.segue(&["reload", "shop-queue"]).expect(0);
    for clients in clients {
        clients.wait_for_answers(50);
        desk.assert_flawless(&clients.stop());
    }
    if let Some(process) = &following.process {
        process.signal(Signal::TERM);
    }
    let followed = following.wait(LIMIT);
    followed.says(&["shop.0 g2 | listening", "shop-queue.0 g2 | listening"]);
    desk.segue(&["restart", "legacy"]).expect(0);
    desk.segue(&["stop", "legacy"]).expect(0);
    desk.segue(&["del", "web"]).expect(0);

    // The machine goes down.
    let supervisor = desk.status().supervisor.pid;
    let down: Vec<Process> = desk
        .mains()
        .into_iter()
        .chain(Process::open(supervisor))
        .collect();
    for process in &down {
        process.signal(Signal::STOP);
    }
    for process in &down {
        process.signal(Signal::KILL);
    }
    for process in &down {
        assert!(process.ends_within(LIMIT), "{} is down", process.pid);
    }
    // What the unit of `segue service install --background` runs.
    let service = desk.begin(&["start", "--foreground"]);
    let wait = std::time::Instant::now() + LIMIT;
    while desk.segue(&["status"]).code != Some(0) {
        assert!(std::time::Instant::now() < wait, "the service comes up");
    }
    desk.until(
        "what ran is back, what was stopped is not, what was deleted is gone",
        |status| {
            let phase = |name: &str| {
                let app = status.apps.iter().find(|app| app.name == name);
                app.map(|app| (app.phase, ready(app) > 0))
            };
            phase("shop") == Some((AppPhase::Running, true))
                && phase("shop-queue") == Some((AppPhase::Running, true))
                && phase("legacy") == Some((AppPhase::Finished, false))
                && phase("web").is_none()
        },
    );
    assert_eq!(
        http::get(at("shop"), "/").expect("an answer").version(),
        "v2"
    );
    assert_eq!(ready(&desk.app("shop-queue")), 1, "as it was scaled");
    // What was stopped before the supervisor began is so after it has become another one.
    desk.segue(&["upgrade"]).expect(0);
    assert_eq!(desk.app("legacy").phase, AppPhase::Finished);
    desk.segue(&["start", "legacy"]).expect(0);
    desk.segue(&["delete", "all"]).expect(0);
    assert!(desk.status().apps.is_empty());
    desk.segue(&["shutdown"]).expect(0);
    service.wait(LIMIT).expect(0);
}
