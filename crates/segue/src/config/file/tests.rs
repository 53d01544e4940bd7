//! What files mean, and the exact report of each kind of error.

use std::path::Path;

use super::{File, FileError, schema};
use crate::config::file::app::FromFile;
use crate::config::keys::KEYS;
use crate::config::settings::AppSettings;
use crate::config::written::Written;

fn lookup(name: &str) -> Option<String> {
    match name {
        "PORT" => Some("3000".to_owned()),
        "WORKERS" => Some("3".to_owned()),
        "EMPTY" => Some(String::new()),
        _ => None,
    }
}

fn read(name: &str, text: &str) -> Result<File, FileError> {
    File::parse(&Path::new("/srv").join(name), text, &lookup)
}

/// The settings of `[app.web]` with these lines in it.
fn settings(lines: &str) -> AppSettings {
    let text = format!("[app.web]\ncommand = \"server.js\"\n{lines}");
    let file = read("segue.toml", &text).unwrap_or_else(|error| panic!("{}", error.report(false)));
    file.apps[0].settings.settings().unwrap()
}

/// The same by flags.
fn by_keys(pairs: &[(&str, &str)]) -> AppSettings {
    let mut written = Written::default();
    for (key, value) in pairs {
        written.push(key, *value);
    }
    written.settings().unwrap()
}

#[track_caller]
fn means(lines: &str, pairs: &[(&str, &str)]) {
    assert_eq!(settings(lines), by_keys(pairs), "{lines}");
}

#[test]
fn values_as_they_are_written() {
    means("", &[]);
    means("workers = 4", &[("workers", "4")]);
    means("workers = \"50%\"", &[("workers", "50%")]);
    means("workers = \"${WORKERS}\"", &[("workers", "3")]);
    means("reload.max_surge = 2", &[("reload.max_surge", "2")]);
    means(
        "env = { A = \"x ${PORT}\", N = 0x10, T = true, F = 1.5, D = \"$${PORT}\" }",
        &[
            ("env", "A=x 3000"),
            ("env", "D=${PORT}"),
            ("env", "F=1.5"),
            ("env", "N=16"),
            ("env", "T=true"),
        ],
    );
    means("env_file = \".env\"", &[("env_file", ".env")]);
    means(
        "env_file = [\"a\", \"b\"]\nnode_args = [\"--inspect\"]",
        &[
            ("env_file", "a"),
            ("env_file", "b"),
            ("node_args", "--inspect"),
        ],
    );
    means("reload.ready = \"message\"", &[("reload.ready", "message")]);
    means(
        "[app.web.reload]\nready = [\"notify\", { http = \"/h\", status = \"200\", successes = 2, headers = { A = \"b\" } }]",
        &[
            ("reload.ready", "notify"),
            ("reload.ready", "http=/h"),
            ("reload.probe.headers", "A: b"),
            ("reload.probe.status", "200"),
            ("reload.probe.successes", "2"),
        ],
    );
    means(
        "reload.canary = { percent = 10, for = \"60s\" }",
        &[("reload.canary", "10%:60s")],
    );
    means(
        "reload.canary = { percent = 10, for = \"60s\", max_errors = \"0.5%\" }",
        &[("reload.canary", "10%:60s:0.5%")],
    );
    means(
        "reload.canary = \"10%:60s\"",
        &[("reload.canary", "10%:60s")],
    );
    means(
        "restart = { intensity = { restarts = 3, within = \"2m\" }, backoff = { min = \"1s\", max = \"2s\" } }",
        &[
            ("restart.intensity", "3/2m"),
            ("restart.backoff.min", "1s"),
            ("restart.backoff.max", "2s"),
        ],
    );
    means(
        "stop.request = { message = \"shutdown\" }",
        &[("stop.request", "message:shutdown")],
    );
    means("stop.request = \"SIGINT\"", &[("stop.request", "SIGINT")]);
    means(
        "drain = { preload = false, websocket = { close_after = \"1s\", code = 1001 } }",
        &[
            ("drain.preload", "off"),
            ("drain.websocket.close_after", "1s"),
            ("drain.websocket.code", "1001"),
        ],
    );
    means("limits.memory = \"512MiB\"", &[("limits.memory", "512MiB")]);
}

#[test]
fn apps_keep_the_order_of_the_file() {
    let text = "[app.web]\ncommand = \"a.js\"\nargs = [\"--port\", 80]\n[app.api]\ncommand = \"b.js\"\n[supervisor]\ncontrol = \"c.sock\"\n";
    let file = read("segue.toml", text).unwrap();
    let names: Vec<&str> = file.apps.iter().map(|app| app.name.as_str()).collect();
    assert_eq!(names, ["web", "api"]);
    assert_eq!(file.apps[0].args, ["--port", "80"]);
    assert_eq!(file.control.as_deref(), Some("c.sock"));
    assert_eq!(file.app(Some("api")).unwrap().command, "b.js");
    let several = file.app(None).unwrap_err().to_string();
    assert!(several.contains("has several apps (web, api)"), "{several}");
    let unknown = file.app(Some("x")).unwrap_err().to_string();
    assert!(unknown.contains("no app x"), "{unknown}");
}

#[test]
fn flags_go_before_the_file_and_paths_are_of_their_place() {
    let text = "[app.web]\ncommand = \"node\"\nargs = [\"--inspect\", \"s.js\", \"a\"]\ncwd = \"current\"\nlog.out = \"w.log\"\nenv = { A = \"file\" }\n";
    let file = read("segue.toml", text).unwrap();
    let of = |flags: &[(&str, &str)]| {
        let mut written = Written::default();
        for (key, value) in flags {
            written.push(key, *value);
        }
        FromFile::of(
            &file,
            &file.apps[0],
            &written,
            Path::new("/here"),
            Vec::new(),
        )
        .unwrap()
    };
    let plain = of(&[]).config;
    assert_eq!(plain.name, "web");
    assert_eq!(plain.cwd, Path::new("/srv/current"));
    assert_eq!(plain.log.as_deref(), Some(Path::new("/srv/w.log")));
    assert_eq!(plain.node_args, ["--inspect"]);
    assert_eq!(plain.args, ["a"]);
    let flags = of(&[
        ("cwd", "x"),
        ("log.out", "y"),
        ("env", "A=flag"),
        ("name", "n"),
    ])
    .config;
    assert_eq!(flags.name, "n");
    assert_eq!(flags.cwd, Path::new("/here/x"));
    assert_eq!(flags.log.as_deref(), Some(Path::new("/here/y")));
    assert_eq!(flags.env.last().unwrap().1, "flag");
}

#[test]
fn a_procfile() {
    let text = "# processes\nweb: PORT=80 node server.js --x 'a b'\nworker: node jobs.js\n";
    let file = read("Procfile", text).unwrap();
    assert_eq!(file.apps.len(), 2);
    let app = FromFile::of(
        &file,
        &file.apps[0],
        &Written::default(),
        Path::new("/srv"),
        Vec::new(),
    );
    let app = app.unwrap().config;
    assert_eq!(app.args, ["--x", "a b"]);
    assert_eq!(app.env, [("PORT".into(), "80".into())]);
}

#[test]
fn the_schema_in_the_repository_is_the_programs() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/segue.schema.json");
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        there == schema::text(),
        "write it anew: cargo run -- check --schema > docs/segue.schema.json"
    );
}

/// `reports.txt` holds files, each followed by its report.
#[test]
fn each_error_has_its_report() {
    let cases = include_str!("reports.txt");
    let mut found = String::new();
    for case in cases.split("==== ").skip(1) {
        let (name, rest) = case.split_once('\n').unwrap();
        let (text, _) = rest.split_once("----\n").unwrap();
        let report = match read(name, text) {
            Ok(_) => "it is good".to_owned(),
            Err(error) => error.report(false),
        };
        let report: Vec<&str> = report.lines().map(str::trim_end).collect();
        found += &format!("==== {name}\n{text}----\n{}\n", report.join("\n"));
    }
    assert!(found == cases, "the reports are now:\n{found}");
}

#[test]
fn a_log_has_one_line() {
    let error = read(
        "segue.toml",
        "[app.web]\ncommand = \"a.js\"\nwrokers = 4\nenf = 1\n",
    );
    assert_eq!(
        error.unwrap_err().to_string(),
        "/srv/segue.toml:3:1: unknown key `wrokers` in [app.web]; did you mean `workers`? (and 1 more; segue check shows all)"
    );
}

#[test]
fn every_key_stands_in_the_manual() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/manual.md");
    let manual = std::fs::read_to_string(path).unwrap();
    for key in KEYS.iter().filter(|key| key.name != "name") {
        let row = manual
            .lines()
            .find(|line| line.starts_with(&format!("| `{}` |", key.name)))
            .unwrap_or_else(|| panic!("docs/manual.md has no row for {}", key.name));
        let default = key.default.unwrap_or_default();
        let default = match key.name {
            "drain.preload" | "no_new_privs" => "true",
            "log.time" => "false",
            "watch" => "`off`",
            "restart.intensity" => "10 in `1m`",
            _ => default,
        };
        assert!(row.contains(default), "{row}: {default}");
        assert!(row.ends_with(&format!("`--{}` |", key.flag)), "{row}");
    }
}
