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

/// The whole list of what is left out or different, and lines that must be in the file.
#[track_caller]
fn expect(found: &(String, String), left: &[&str], lines: &[&str]) {
    let (said, text) = found;
    let told: Vec<&str> = said
        .lines()
        .filter_map(|line| {
            let is_left = line.split_once(" is left out: ");
            Some(is_left.or(line.split_once(" is different: "))?.0)
        })
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
            "shop: merge_logs",
            "shop: deploy",
            "shop: listen_timeout",
            "shop: log_date_format",
            "shop-queue: merge_logs",
            "shop-queue: min_uptime",
            "shop-queue: exec_mode",
            "shop-queue: log_date_format",
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
            "jobs: interpreter",
        ],
        &[
            "command = \"./src/server.ts\"",
            "node_args = [\"--import=tsx\", \"--enable-source-maps\"]",
            "command = \"python3\"",
            "args = [\"-u\", \"jobs.py\", \"--queue\", \"mail and more\"]",
            "ready = \"alive\"",
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
        &[
            "web: x-common",
            "web: instances",
            "tick: interpreter",
            "tick: log_date_format",
        ],
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

/// Imports apps that are written out, in a directory with a package.json and files, and gives what is said
/// and the file.
#[track_caller]
fn import_apps(apps: &[&str]) -> (String, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let here = directory.path();
    for file in ["server.js", "src/server.ts", "node_modules/tsx/cli.mjs"] {
        let path = here.join(file);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("make it");
        std::fs::write(path, "").expect("write a script");
    }
    std::fs::write(here.join("www"), "#!/usr/bin/env node\n").expect("write a script");
    std::fs::copy("/bin/true", here.join("tool")).expect("copy a program");
    let package = r#"{ "scripts": {
        "start": "NODE_ENV=production node --enable-source-maps server.js --port 80",
        "chain": "npm run start",
        "cross": "cross-env NODE_ENV=production node --enable-source-maps server.js --port 80",
        "dev": "tsx watch src/server.ts",
        "both": "node a.js && node server.js" } }"#;
    std::fs::write(here.join("package.json"), package).expect("write package.json");
    let text = format!("module.exports = {{ apps: [{}] }}", apps.join(", "));
    std::fs::write(here.join("ecosystem.config.js"), text).expect("write the file");
    let outcome = segue(here, &["import", "pm2"]);
    outcome.expect(0);
    let text = std::fs::read_to_string(here.join("segue.toml")).expect("the file");
    (outcome.text(), text)
}

#[test]
fn npm_start_becomes_what_it_runs() {
    let served = [
        "script: 'npm', args: 'start'",
        "script: 'npm', args: ['run', 'start']",
        "script: '/usr/bin/npm', args: 'run chain'",
        "script: 'npm run start'",
        "script: 'yarn', args: 'cross'",
        "script: 'bash', args: ['-c', 'npm run chain']",
        "script: 'node --enable-source-maps server.js --port 80', env: { NODE_ENV: 'production' }",
    ];
    let apps = served.iter().enumerate().map(|(index, app)| {
        let env = if app.contains("env") {
            ""
        } else {
            ", env: { A: 1, NODE_ENV: 'x' }"
        };
        format!("{{ name: 'app{index}', {app}{env} }}")
    });
    let both = "{ name: 'both', script: 'npm', args: 'run both' }".to_owned();
    let line = "{ name: 'line', script: 'node a.js && node server.js' }".to_owned();
    let apps: Vec<String> = apps.chain([both, line]).collect();
    let apps: Vec<&str> = apps.iter().map(String::as_str).collect();
    let (said, text) = import_apps(&apps);
    for remark in [
        "both: script is left out: npm would stand between segue and node",
        "line: script is left out: `&` needs a shell",
    ] {
        assert!(said.contains(remark), "{said}");
    }
    for line in [
        "command = \"server.js\"",
        "args = [\"--port\", \"80\"]",
        "node_args = [\"--enable-source-maps\"]",
    ] {
        let count = text.lines().filter(|found| *found == line).count();
        assert_eq!(count, served.len(), "{line}\n{text}");
    }
    let count = text.matches("NODE_ENV = \"production\"").count();
    assert_eq!(count, served.len(), "{text}");
}

#[test]
fn what_runs_typescript_is_loaded_by_node() {
    let apps = [
        "script: './src/server.ts'",
        "script: 'src/server.ts', interpreter: 'tsx'",
        "script: 'src/server.ts', interpreter: 'node', node_args: '--import=tsx'",
        "script: 'npx', args: 'tsx src/server.ts'",
        "script: 'npm', args: 'run dev'",
        "script: 'npx tsx watch src/server.ts'",
        "script: 'node_modules/.bin/tsx', args: 'src/server.ts'",
    ];
    let named = apps.iter().enumerate();
    let named: Vec<String> = named
        .map(|(index, app)| format!("{{ name: 'app{index}', {app} }}"))
        .collect();
    let named: Vec<&str> = named.iter().map(String::as_str).collect();
    let (said, text) = import_apps(&named);
    assert!(!said.contains("is left out"), "{said}");
    let loads = "node_args = [\"--import=tsx\"]";
    assert_eq!(text.matches(loads).count(), apps.len(), "{text}");
    let count = text.matches("src/server.ts\"").count();
    assert_eq!(count, apps.len(), "{text}");
}

#[test]
fn a_program_in_the_place_of_a_script_is_run_as_one() {
    let (said, text) = import_apps(&[
        "{ name: 'tool', script: './tool', args: '--a', wait_ready: true }",
        "{ name: 'www', script: './www', interpreter: 'none' }",
        "{ name: 'line', script: 'sh -c true' }",
        "{ name: 'files', script: 'serve', env: { PM2_SERVE_PATH: '.' } }",
    ]);
    for remark in [
        "tool: wait_ready is left out",
        "tool: interpreter is different: tool is not node",
        "files: script is left out: PM2's own server of files",
    ] {
        assert!(said.contains(remark), "{remark}\n{said}");
    }
    for lines in [
        "command = \"./tool\"\nargs = [\"--a\"]\n",
        "command = \"node\"\nargs = [\"./www\"]\n",
    ] {
        assert!(text.contains(lines), "{lines}\n{text}");
    }
    assert_eq!(text.matches("ready = \"alive\"").count(), 2, "{text}");
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
fn a_dump_of_npm_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let here = directory.path();
    std::fs::write(here.join("server.js"), "").expect("write a script");
    let package = r#"{ "scripts": { "start": "node server.js" } }"#;
    std::fs::write(here.join("package.json"), package).expect("write package.json");
    let dump = std::fs::read_to_string(fixture("dump.pm2")).expect("the dump");
    let dump = dump
        .replace("/srv/web/server.js", "/usr/bin/npm")
        .replace("/srv/web", &here.to_string_lossy())
        .replace(
            "\"node_args\": []",
            "\"node_args\": [], \"args\": [\"start\"]",
        );
    std::fs::write(here.join("dump.pm2"), dump).expect("write the dump");
    let outcome = segue(here, &["import", "pm2", "dump.pm2"]);
    outcome.expect(0);
    let text = std::fs::read_to_string(here.join("segue.toml")).expect("the file");
    let lines = ["command = \"server.js\"", "workers = 2"];
    expect(&(outcome.text(), text.clone()), &[], &lines);
    assert!(!text.contains("PM2_HOME"), "{text}");
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
