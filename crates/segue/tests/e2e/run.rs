//! What `segue run` makes of a command line, and what a worker sees of it.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::command::Pending;
use crate::harness::nodes::{frameworks, installed, on_path};
use crate::harness::run::{LIMIT, Launch};
use crate::harness::skip;

fn segue(arguments: &[&str]) -> crate::harness::command::Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_segue"));
    command
        .args(arguments)
        .env("NO_COLOR", "1")
        .env_remove("SEGUE_CONTROL");
    Pending::start(command).wait(LIMIT)
}

#[test]
fn a_worker_sees_its_place() {
    let launch = Launch::node("plain.js")
        .arguments(&["--port", "x", "-w", "9"])
        .env("MINE", "kept");
    let run = launch.workers("3").flag("--name", "shop").start();
    let mut slots = Vec::new();
    let mut ids = Vec::new();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let info = run.get("/info").json();
        let pid = info["pid"].as_u64().expect("a pid");
        if seen.contains(&pid) {
            continue;
        }
        seen.push(pid);
        let env = &info["env"];
        assert_eq!(info["argv"], serde_json::json!(["--port", "x", "-w", "9"]));
        assert_eq!(env["MINE"], "kept");
        assert_eq!(env["SEGUE_APP"], "shop");
        assert_eq!(env["SEGUE_GENERATION"], "1");
        assert_eq!(env["SEGUE_SLOT"], env["NODE_APP_INSTANCE"]);
        assert_eq!(info["isWorker"], true);
        assert_eq!(info["connected"], true);
        slots.push(env["SEGUE_SLOT"].as_str().expect("a slot").to_owned());
        ids.push(info["workerId"].as_u64().expect("an id"));
    }
    slots.sort();
    assert_eq!(slots, ["0", "1", "2"]);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 3, "every worker has an id of its own");
    run.roll("v2", "plain.js");
    let info = run.get("/info").json();
    assert_eq!(info["env"]["SEGUE_GENERATION"], "2");
    assert!(
        !ids.contains(&info["workerId"].as_u64().expect("an id")),
        "ids are not used again"
    );
    run.finish();
}

#[test]
fn auto_honours_the_cpu_affinity() {
    let run = Launch::standin("")
        .workers("auto")
        .under(&["taskset", "-c", "0"])
        .start();
    assert_eq!(run.app().slots.len(), 1);
    run.finish();
    let cpus = std::thread::available_parallelism()
        .expect("a number of CPUs")
        .get();
    let run = Launch::standin("").workers("auto").start();
    assert_eq!(run.app().slots.len(), cpus);
    run.finish();
}

#[test]
fn an_app_without_a_port_runs_with_the_alive_rule() {
    let run = Launch::node("no-port.js").flag("--ready", "alive").start();
    run.log.wait_for(0, "consuming", LIMIT);
    run.roll("v2", "no-port.js");
    assert_eq!(run.app().generation, 2);
    run.finish();
}

/// A wrapper must be named and answered with advice, quickly and at the first start.
fn wrapper_is_refused(launch: Launch, says: &[&str]) {
    let began = Instant::now();
    let (code, run) = launch.flag("--ready-timeout", "60s").start_and_fail(LIMIT);
    assert!(
        matches!(code, 1 | 2),
        "exit code {code}\n{}",
        run.log.render()
    );
    for text in says {
        assert!(
            run.log.contains(text),
            "no {text:?} in\n{}",
            run.log.render()
        );
    }
    // The advice comes within a second of the wrapper's listening; npm and tsx need their time to get there.
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn npm_start_is_refused_with_advice() {
    if on_path("npm").is_none() {
        return skip("npm is not installed");
    }
    let launch = Launch::node("plain.js");
    let manifest = r#"{"name": "wrapped", "scripts": {"start": "node server.js"}}"#;
    std::fs::write(launch.site.path("releases/v1/package.json"), manifest)
        .expect("write package.json");
    wrapper_is_refused(launch.script("npm").arguments(&["start"]), &["npm"]);
}

#[test]
fn npx_tsx_is_refused_with_advice() {
    let launch = Launch::node("typed.ts");
    std::os::unix::fs::symlink(frameworks(), launch.site.path("releases/node_modules"))
        .expect("link the frameworks");
    let tsx = launch.site.path("releases/node_modules/.bin/tsx");
    let tsx = tsx.to_str().expect("a plain path").to_owned();
    wrapper_is_refused(launch.script(&tsx).arguments(&["server.ts"]), &["--import"]);
}

#[test]
fn node_watch_is_refused_with_advice() {
    let launch = Launch::node("plain.js");
    let node = installed().path;
    let node = node.to_str().expect("a plain path").to_owned();
    wrapper_is_refused(
        launch.script(&node).arguments(&["--watch", "server.js"]),
        &["watch"],
    );
}

#[test]
fn a_script_that_starts_another_node_is_recognised() {
    let began = Instant::now();
    let launch = Launch::node("listens-below.js").flag("--ready-timeout", "60s");
    let (code, run) = launch.start_and_fail(LIMIT);
    assert_eq!(code, 1, "{}", run.log.render());
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn without_a_script_the_start_script_of_package_json_runs() {
    let launch = Launch::node("plain.js");
    let release = launch.site.path("releases/v1");
    let manifest =
        r#"{"name": "from-manifest", "scripts": {"start": "node server.js --from manifest"}}"#;
    std::fs::write(release.join("package.json"), manifest).expect("write package.json");
    let run = launch.without_script().start();
    let info = run.get("/info").json();
    assert_eq!(info["argv"], serde_json::json!(["--from", "manifest"]));
    assert_eq!(run.app().name, "from-manifest");
    run.finish();
}

#[test]
fn a_start_script_that_needs_a_shell_is_refused_with_advice() {
    let launch = Launch::node("plain.js");
    let release = launch.site.path("releases/v1");
    let manifest = r#"{"name": "x", "scripts": {"start": "node migrate.js && node server.js"}}"#;
    std::fs::write(release.join("package.json"), manifest).expect("write package.json");
    let (code, run) = launch.without_script().start_and_fail(LIMIT);
    assert_eq!(code, 2, "{}", run.log.render());
    assert!(run.log.contains("start"), "{}", run.log.render());
}

#[test]
fn a_script_that_does_not_exist_is_an_error_at_once() {
    let (code, run) = Launch::node("plain.js")
        .script("missing.js")
        .start_and_fail(LIMIT);
    assert!(matches!(code, 1 | 2), "exit code {code}");
    assert!(run.log.contains("missing.js"), "{}", run.log.render());
}

#[test]
fn help_tells_a_newcomer_what_to_do() {
    segue(&["--help"])
        .expect(0)
        .says(&["run", "reload", "status", "demo"]);
    segue(&["run", "--help"])
        .expect(0)
        .says(&["--workers", "--ready-timeout", "--min-uptime"]);
    segue(&["--version"])
        .expect(0)
        .says(&[env!("CARGO_PKG_VERSION")]);
}

#[test]
fn wrong_usage_ends_with_2() {
    segue(&["run", "--no-such-flag", "x.js"]).expect(2);
    segue(&["run", "--ready-timeout", "soon", "x.js"]).expect(2);
    segue(&["no-such-command"]).expect(2);
}

#[test]
fn the_demo_loses_nothing() {
    let _turn = crate::harness::lasting();
    let mut command = Command::new(env!("CARGO_BIN_EXE_segue"));
    command
        .arg("demo")
        .env("NO_COLOR", "1")
        .env_remove("SEGUE_CONTROL");
    let outcome = Pending::start(command).wait(Duration::from_secs(90));
    outcome.expect(0).says(&[
        "refused with exit code 1",
        "the same supervisor process",
        "followed by",
    ]);
    eprintln!("{}", outcome.text());
}
