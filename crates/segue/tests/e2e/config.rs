//! Apps of a `segue.toml`: run, reloaded after edits, checked, begun with.

use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use segue_wire::control::WorkerPhase;

use crate::harness::command::{Outcome, Pending};
use crate::harness::process::Process;
use crate::harness::run::{LIMIT, Launch, Run};
use crate::takeover::kill_supervisor;

/// Settings of the launch go before the file's, so that tests are quick.
fn launch(lines: &str) -> Launch {
    let launch = Launch::node("plain.js").without_script().without_cwd();
    write(&launch, lines);
    let file = launch.site.path("segue.toml");
    launch.flag("--config", file)
}

fn write(launch: &Launch, lines: &str) {
    write_at(&launch.site.path("segue.toml"), lines);
}

fn write_at(file: &Path, lines: &str) {
    let text = format!("[app.web]\ncommand = \"server.js\"\ncwd = \"current\"\n{lines}");
    std::fs::write(file, text).expect("write the file");
}

fn segue(directory: &Path, words: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_segue"));
    command
        .args(words)
        .current_dir(directory)
        .env("NO_COLOR", "1")
        .env_remove("PWD");
    Pending::start(command).wait(LIMIT)
}

fn env_of(run: &Run, name: &str) -> serde_json::Value {
    run.get("/info").json()["env"][name].clone()
}

#[test]
fn an_app_of_a_file_runs_and_a_reload_reads_the_file_again() {
    let launch = launch("env = { COLOUR = \"blue\", PORTS = \"${PORT}\" }\n");
    let file = launch.site.path("segue.toml");
    let run = launch.flag("--env", "FIXED=flag").start();
    assert_eq!(run.app().name, "web");
    assert_eq!(env_of(&run, "COLOUR"), "blue");
    assert_eq!(env_of(&run, "FIXED"), "flag");
    assert_eq!(
        env_of(&run, "PORTS"),
        run.site.port.number().to_string().as_str()
    );

    write_at(
        &file,
        "env = { COLOUR = \"green\", FIXED = \"file\" }\nargs = [\"--new\"]\n",
    );
    run.reload().expect(0);
    assert_eq!(env_of(&run, "COLOUR"), "green");
    assert_eq!(env_of(&run, "FIXED"), "flag", "flags go before the file");
    assert_eq!(env_of(&run, "PORTS"), serde_json::Value::Null);

    // HUP is the same.
    write_at(&file, "env = { COLOUR = \"red\" }\n");
    run.signal(Signal::HUP);
    run.until("the third generation serves", |app| app.generation == 3);
    assert_eq!(env_of(&run, "COLOUR"), "red");
    run.finish();
}

#[test]
fn a_broken_file_fails_the_reload_and_the_app_serves_on() {
    let launch = launch("env = { COLOUR = \"blue\" }\n");
    let file = launch.site.path("segue.toml");
    let run = launch.start();
    let before = run.ready_pids();
    write_at(&file, "evn = { COLOUR = \"green\" }\n");
    run.reload()
        .expect(1)
        .says(&["segue.toml:4:1", "unknown key `evn`", "did you mean `env`?"]);
    assert_eq!(run.ready_pids(), before);
    std::fs::remove_file(&file).expect("remove the file");
    run.reload().expect(1).says(&["cannot read", "segue.toml"]);
    assert_eq!(run.ready_pids(), before);

    // A worker that dies meanwhile is replaced by one of its generation.
    Process::open(before[0])
        .expect("a worker")
        .signal(Signal::KILL);
    run.until("the slot is filled again", |app| {
        app.slots.iter().any(|slot| slot.restarts > 0)
            && app
                .workers
                .iter()
                .filter(|worker| worker.phase == WorkerPhase::Ready)
                .count()
                == 2
    });
    assert_eq!(env_of(&run, "COLOUR"), "blue");

    write_at(&file, "env = { COLOUR = \"green\" }\n");
    run.reload().expect(0);
    assert_eq!(env_of(&run, "COLOUR"), "green");
    run.finish();
}

#[test]
fn what_a_reload_does_not_change_is_named() {
    let launch = launch("drain.timeout = \"1m\"\n");
    let file = launch.site.path("segue.toml");
    let run = launch.start();
    write_at(&file, "drain.timeout = \"60s\"\n");
    let outcome = run.reload();
    outcome.expect(0);
    assert!(!outcome.text().contains("left as they were"), "{outcome:?}");
    write_at(&file, "drain.timeout = \"2m\"\nlimits.memory = \"1GiB\"\n");
    run.reload()
        .expect(0)
        .says(&["left as they were: drain.timeout, limits.memory; segue apply makes them so"]);
    run.finish();
}

#[test]
fn who_takes_over_reads_the_same_file() {
    let launch = launch("env = { COLOUR = \"blue\" }\n");
    let file = launch.site.path("segue.toml");
    let run = launch.start();
    // What is broken meanwhile is nothing that a successor needs.
    std::fs::write(&file, "nonsense").expect("write the file");
    kill_supervisor(&run);
    assert_eq!(env_of(&run, "COLOUR"), "blue");
    run.reload().expect(1).says(&["segue.toml:1:"]);
    run.segue(&["upgrade"]).expect(0);
    write_at(&file, "env = { COLOUR = \"green\" }\n");
    run.reload().expect(0);
    assert_eq!(env_of(&run, "COLOUR"), "green");
    run.finish();
}

#[test]
fn a_file_in_the_directory_is_found_and_an_app_of_it_chosen() {
    let launch = Launch::node("plain.js").without_script().without_cwd();
    let there = launch.site.path("current");
    let text = "[app.one]\ncommand = \"server.js\"\n[app.two]\ncommand = \"server.js\"\nenv = { WHICH = \"two\" }\n";
    std::fs::write(there.join("segue.toml"), text).expect("write the file");
    segue(&there, &["service", "print"])
        .expect(0)
        .says(&["Description=v1, by segue", "run --config "]);
    segue(&there, &["service", "print", "two"])
        .expect(0)
        .says(&["run --config ", "segue.toml two"]);
    let run = launch.script("two").start();
    assert_eq!(run.app().name, "two");
    assert_eq!(env_of(&run, "WHICH"), "two");
    run.finish();
}

#[test]
fn a_procfile_is_understood() {
    let launch = Launch::node("plain.js").without_script().without_cwd();
    let procfile = launch.site.path("current/Procfile");
    std::fs::write(&procfile, "web: WHICH=procfile node server.js\n").expect("write the file");
    segue(&launch.site.path("current"), &["check"])
        .expect(0)
        .says(&["Procfile is good: web"]);
    let run = launch.start();
    assert_eq!(run.app().name, "web");
    assert_eq!(env_of(&run, "WHICH"), "procfile");
    run.finish();
}

#[test]
fn a_file_that_is_wrong_is_not_run() {
    let launch = launch("workers = 0\n[app.web.drain]\ntimeout = 5\n");
    let (code, run) = launch.start_and_fail(LIMIT);
    assert_eq!(code, 2);
    let log = run.log.render();
    for text in [
        "segue.toml:4:11",
        "write a number from 1",
        "timeout = 5",
        "write \"5s\"",
    ] {
        assert!(log.contains(text), "no {text}:\n{log}");
    }
}

#[test]
fn check_says_everything_at_once() {
    let launch =
        launch("env_file = \"no.env\"\nnode = \"no-such-node\"\nuser = \"no-such-user\"\n");
    let there = launch.site.path(".");
    segue(&there, &["check"]).expect(2).says(&[
        "segue.toml:4:12",
        "cannot read the env file",
        "segue.toml:5:8",
        "there is no node no-such-node",
        "segue.toml:6:8",
        "there is no user no-such-user in /etc/passwd",
    ]);
    write(&launch, "command2 = 1\nworkers = -1\n");
    segue(&there, &["check"]).expect(2).says(&[
        "segue.toml:4:1",
        "did you mean `command`?",
        "segue.toml:5:11",
    ]);
    let text = "[app.a]\ncommand = \"no.js\"\n[app.b]\ncommand = \"node server.js\"\n[app.c]\ncommand = \"a.js\"\ncwd = \"gone\"\n";
    std::fs::write(launch.site.path("segue.toml"), text).expect("write the file");
    segue(&there, &["check"]).expect(2).says(&[
        "there is no script",
        "there is no shell",
        "there is no directory",
    ]);
    write(&launch, "");
    segue(&there, &["check"]).expect(0).says(&["is good: web"]);
    segue(&there, &["check", "-c", "other.toml"])
        .expect(2)
        .says(&["cannot read"]);
    let schema = segue(&there, &["check", "--schema"]);
    schema.expect(0);
    serde_json::from_str::<serde_json::Value>(&schema.out).expect("JSON");
}

#[test]
fn init_writes_a_good_file_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let here = directory.path();
    segue(here, &["check"]).expect(2).says(&["segue init"]);
    std::fs::write(here.join("main.mjs"), "").expect("write a script");
    std::fs::write(
        here.join("package.json"),
        r#"{ "name": "@me/shop", "scripts": { "start": "NODE_ENV=production node --enable-source-maps main.mjs --port 80" } }"#,
    )
    .expect("write package.json");
    segue(here, &["init"]).expect(0).says(&["wrote"]);
    let text = std::fs::read_to_string(here.join("segue.toml")).expect("the file");
    for line in [
        "[app.shop]",
        "command = \"main.mjs\"",
        "args = [\"--port\", \"80\"]",
        "node_args = [\"--enable-source-maps\"]",
        "env = { NODE_ENV = \"production\" }",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    segue(here, &["check"]).expect(0).says(&["is good: shop"]);
    segue(here, &["init"]).expect(1).says(&["there is one"]);
    let still = std::fs::read_to_string(here.join("segue.toml")).expect("the file");
    assert_eq!(still, text);

    // What is commented out is right, too.
    std::fs::write(here.join(".env"), "A=1\n").expect("write an env file");
    let bare: String = text
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(key)
                if key.starts_with('[') || key.contains(" = ") && !key.starts_with("env =") =>
            {
                format!("{key}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    std::fs::write(here.join("segue.toml"), &bare).expect("write the file");
    segue(here, &["check"]).expect(0);
}

#[test]
fn what_pm2_had_is_imported() {
    let directory = tempfile::tempdir().expect("a directory");
    let here = directory.path();
    std::fs::write(here.join("server.js"), "").expect("write a script");
    let body = "{ apps: [{ name: 'web', script: './server.js', instances: 2, env: { A: 'x' }, env_production: { A: 'y' }, watch: true, v8: 1 }] }";
    for (name, text) in [
        (
            "ecosystem.config.js",
            format!("console.log('noise'); module.exports = {body};"),
        ),
        ("ecosystem.config.mjs", format!("export default {body};")),
        (
            "made.config.cjs",
            format!("module.exports = () => ({body});"),
        ),
    ] {
        std::fs::write(here.join(name), text).expect("write the file");
        segue(here, &["import", "pm2", name, "--env", "production"])
            .expect(0)
            .says(&["web: v8 is left out: it belongs to PM2's monitoring"]);
        segue(here, &["check"]).expect(0).says(&["is good: web"]);
        let text = std::fs::read_to_string(here.join("segue.toml")).expect("the file");
        assert!(
            text.contains("workers = 2\n")
                && text.contains("watch = true\n")
                && text.contains("{ A = \"y\" }"),
            "{text}"
        );
        segue(here, &["import", "pm2", name])
            .expect(1)
            .says(&["already", "nothing was written"]);
        std::fs::remove_file(here.join("segue.toml")).expect("remove the file");
    }
    std::fs::write(here.join("broken.js"), "throw new Error('no luck')").expect("write the file");
    segue(here, &["import", "pm2", "broken.js"])
        .expect(1)
        .says(&["no luck", "node could not load it"]);
    assert!(!here.join("segue.toml").exists());
}
