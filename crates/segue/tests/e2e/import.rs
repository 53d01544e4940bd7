//! What PM2 had, as a `segue.toml`: each file of `tests/fixtures/pm2` has the shape of those that are in
//! use. What comes of it must be good, and what does not come of it must be said.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::command::{Outcome, Pending};
use crate::harness::run::LIMIT;

fn fixture(name: &str) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pm2");
    fixtures.join(name)
}

fn segue(directory: &Path, words: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_segue"));
    command
        .args(words)
        .current_dir(directory)
        .env("NO_COLOR", "1")
        .env_remove("PWD")
        .env_remove("NODE_ENV")
        .env_remove("BASE_PORT");
    Pending::start(command).wait(LIMIT)
}

/// Imports a file in a directory that has these scripts, and gives what was said and written.
#[track_caller]
fn import(name: &str, scripts: &[&str], flags: &[&str]) -> (String, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let here = directory.path();
    for script in scripts {
        let path = here.join(script);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("make it");
        std::fs::write(path, "").expect("write a script");
    }
    std::fs::copy(fixture(name), here.join(name)).expect("copy the file");
    let words = [&["import", "pm2", name], flags].concat();
    let outcome = segue(here, &words);
    outcome.expect(0).says(&["next: segue check"]);
    let text = std::fs::read_to_string(here.join("segue.toml")).expect("the file");
    let checked = segue(here, &["check"]);
    assert_eq!(checked.code, Some(0), "{checked:#?}\n{text}");
    (outcome.text(), text)
}

/// The whole list of what is left out, and lines that must be in the file.
#[track_caller]
fn expect(found: &(String, String), left: &[&str], lines: &[&str]) {
    let (said, text) = found;
    let told: Vec<&str> = said
        .lines()
        .filter_map(|line| line.split_once(" is left out: ").map(|(key, _)| key))
        .collect();
    assert_eq!(told, left, "{said}\n{text}");
    for line in lines {
        assert!(text.lines().any(|found| found == *line), "{line}\n{text}");
    }
}

#[test]
fn stages_functions_and_a_deploy_section() {
    let scripts = ["dist/server.js", "dist/queue.js"];
    let found = import("ecosystem.config.js", &scripts, &["--env", "production"]);
    expect(
        &found,
        &[
            "shop: env_staging",
            "shop: error_file",
            "shop: log_date_format",
            "shop: merge_logs",
            "shop: deploy",
            "shop-queue: exec_mode",
            "shop-queue: log_date_format",
            "shop-queue: merge_logs",
            "shop-queue: min_uptime",
        ],
        &[
            "[app.shop]",
            "command = \"dist/server.js\"",
            "workers = \"auto\"",
            "args = [\"--port\", \"3000\"]",
            "node_args = [\"--max-old-space-size=400\", \"--enable-source-maps\"]",
            "[app.shop-queue]",
            "workers = 2",
            "at = \"0 3 * * *\"",
        ],
    );
    assert!(
        found.1.contains("postgres://db.internal/shop"),
        "{}",
        found.1
    );
    assert!(!found.1.contains("localhost"), "{}", found.1);
}

#[test]
fn computed_values_and_names_in_camel_case() {
    let found = import(
        "computed.config.cjs",
        &["api/index.js", "admin/index.js"],
        &[],
    );
    let left = |app: &str, more: &[&str]| -> Vec<String> {
        let keys = [
            more,
            &["increment_var", "instance_var", "treekill"],
            &["watch_delay"],
        ];
        keys.concat()
            .iter()
            .map(|key| format!("{app}: {key}"))
            .collect()
    };
    let left = [left("api", &[]), left("admin", &["autorestart"])].concat();
    let left: Vec<&str> = left.iter().map(String::as_str).collect();
    expect(
        &found,
        &left,
        &["[app.api]", "cwd = \"./api\"", "[app.admin]", "workers = 2"],
    );
    for text in [
        "PORT = \"4001\"",
        "./admin/out.log",
        "100MiB",
        "{\\\"index\\\":0}",
    ] {
        assert!(found.1.contains(text), "{text}\n{}", found.1);
    }
}

#[test]
fn a_module_with_typescript_and_python() {
    let found = import("esm.config.mjs", &["src/server.ts", "jobs.py"], &[]);
    expect(
        &found,
        &[
            "ssr: filter_env",
            "ssr: post_update",
            "ssr: stop_exit_codes",
        ],
        &[
            "command = \"./src/server.ts\"",
            "node_args = [\"--enable-source-maps\"]",
            "command = \"python3\"",
            "args = [\"jobs.py\"]",
        ],
    );
}

#[test]
fn json_as_pm2_understands_it() {
    let found = import("processes.json", &["bin/www"], &[]);
    expect(
        &found,
        &[
            "legacy: append_env_to_name",
            "legacy: disable_logs",
            "legacy: error_file",
            "legacy: force",
            "legacy: log_file",
            "legacy: min_uptime",
            "legacy: namespace",
            "legacy: disable_logs",
            "legacy: pid_file",
            "legacy: trace",
        ],
        &[
            "command = \"node\"",
            "args = [\"bin/www\", \"--name\", \"my app\"]",
            "workers = 2",
        ],
    );
}

#[test]
fn yaml_with_anchors() {
    let found = import("ecosystem.config.yaml", &["server.js", "tick.sh"], &[]);
    expect(
        &found,
        &["web: instances", "web: x-common", "tick: log_date_format"],
        &[
            "command = \"./server.js\"",
            "command = \"bash\"",
            "args = [\"./tick.sh\", \"--every\", \"5\"]",
        ],
    );
    for text in [
        "ANSWER = \"yes\"",
        "PORT = \"3000\"",
        "256MiB",
        "format = \"json\"",
    ] {
        assert!(found.1.contains(text), "{text}\n{}", found.1);
    }
}

#[test]
fn npm_start_becomes_what_it_runs() {
    let directory = tempfile::tempdir().expect("a directory");
    let here = directory.path();
    std::fs::write(here.join("server.js"), "").expect("write a script");
    let package = r#"{ "scripts": { "start": "NODE_ENV=production node --enable-source-maps server.js --port 80",
        "both": "node a.js && node server.js" } }"#;
    std::fs::write(here.join("package.json"), package).expect("write package.json");
    let app = |name: &str, args: &str| {
        format!("{{ name: '{name}', script: 'npm', args: {args}, env: {{ A: 1, NODE_ENV: 'x' }} }}")
    };
    let apps = [
        app("web", "'start'"),
        app("shop", "['run', 'start']"),
        app("both", "'run both'"),
    ];
    let text = format!("module.exports = {{ apps: [{}] }}", apps.join(", "));
    std::fs::write(here.join("ecosystem.config.js"), text).expect("write the file");
    segue(here, &["import", "pm2"])
        .expect(0)
        .says(&["both: script is left out: npm would stand between segue and node"]);
    let text = std::fs::read_to_string(here.join("segue.toml")).expect("the file");
    for line in ["command = \"server.js\"", "args = [\"--port\", \"80\"]"] {
        let count = text.lines().filter(|found| *found == line).count();
        assert_eq!(count, 2, "{line}\n{text}");
    }
    assert!(text.contains("NODE_ENV = \"production\""), "{text}");
}

#[test]
fn a_dump() {
    let directory = tempfile::tempdir().expect("a directory");
    let here = directory.path();
    std::fs::create_dir(here.join("web")).expect("make a directory");
    std::fs::write(here.join("web/server.js"), "").expect("write a script");
    let dump = std::fs::read_to_string(fixture("dump.pm2")).expect("the dump");
    let dump = dump.replace("/srv", &here.to_string_lossy());
    std::fs::write(here.join("dump.pm2"), dump).expect("write the dump");
    let outcome = segue(here, &["import", "pm2", "dump.pm2"]);
    outcome.expect(0);
    segue(here, &["check"]).expect(0).says(&["is good: web"]);
    let text = std::fs::read_to_string(here.join("segue.toml")).expect("the file");
    expect(
        &(outcome.text(), text.clone()),
        &[],
        &["workers = 2", "watch = true"],
    );
    for (word, is_there) in [("PORT", true), ("PM2_HOME", false), ("307200KiB", true)] {
        assert_eq!(text.contains(word), is_there, "{word}\n{text}");
    }
}

#[test]
fn what_is_no_file_of_pm2s_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let here = directory.path();
    for (name, text, why) in [
        ("a.yaml", "apps: [", "it is not YAML"),
        ("b.yml", "apps: 1", "it has no apps"),
        ("c.json", "{ apps: ", "node could not load it"),
        ("d.toml", "", "it is none of"),
    ] {
        std::fs::write(here.join(name), text).expect("write the file");
        segue(here, &["import", "pm2", name])
            .expect(1)
            .says(&[why, "nothing was written"]);
    }
    // It grows to a billion of them.
    let mut bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (one, before) in ('b'..='j').zip('a'..='i') {
        bomb.push_str(&format!(
            "{one}: &{one} [{}]\n",
            vec![format!("*{before}"); 9].join(", ")
        ));
    }
    std::fs::write(here.join("e.yaml"), bomb).expect("write the file");
    segue(here, &["import", "pm2", "e.yaml"])
        .expect(1)
        .says(&["it is not YAML"]);
    segue(here, &["import", "pm2"])
        .expect(2)
        .says(&["ecosystem.config.yaml"]);
}
