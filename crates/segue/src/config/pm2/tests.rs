//! Apps as PM2 has them, and what becomes of them.

use serde_json::json;

use super::*;
use crate::config::file::{File, print};

fn one(value: Value) -> Translated {
    let translated = translate(&json!({ "apps": [value] }), Some("production"), &|_| None).unwrap();
    translated.into_iter().next().unwrap()
}

#[test]
fn an_app_with_everything() {
    let found = one(json!({
        "name": "my shop", "script": "./server.js", "args": "--port 80 'a b'", "instances": "max",
        "exec_mode": "cluster", "env": { "A": 1 }, "env_production": { "A": "p" }, "env_staging": {},
        "wait_ready": true, "listen_timeout": 45000, "kill_timeout": "3s", "max_memory_restart": "300M",
        "out_file": "out.log", "error_file": "err.log", "watch": true, "cron_restart": "0 0 * * *",
        "max_restarts": 5, "exp_backoff_restart_delay": 100, "node_args": ["--inspect"],
        "autorestart": true, "magic": 1, "time": false
    }));
    assert_eq!(
        (found.name.as_str(), found.command.as_str()),
        ("my-shop", "./server.js")
    );
    assert_eq!(found.args, ["--port", "80", "a b"]);
    for (key, value) in [
        ("workers", "auto"),
        ("env", "A=p"),
        ("reload.ready", "message"),
        ("reload.ready_timeout", "45000ms"),
        ("stop.timeout", "3s"),
        ("limits.memory", "300MiB"),
        ("log.out", "out.log"),
        ("restart.intensity", "5/1m"),
        ("restart.backoff.min", "100ms"),
        ("node_args", "--inspect"),
        ("stop.request", "SIGINT"),
        ("watch", "on"),
        ("restart.at", "0 0 * * *"),
    ] {
        assert_eq!(found.settings.last(key), Some(value), "{key}");
    }
    let left: Vec<&str> = found.left.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(left, ["env_staging", "error_file", "magic"]);
    let text = print::app(&found.name, &found.command, &found.args, &found.settings);
    let file = File::parse(Path::new("/a/segue.toml"), &text, &|_| None);
    let read = file.unwrap().apps[0].settings.clone();
    assert_eq!(read.last("env"), Some("A=p"));
    assert!(read.fixed_changes(&found.settings).is_empty());
}

/// Those of PM2 7 (lib/API/schema.json), without what has values of its own above.
#[test]
fn every_key_of_pm2s_is_answered_for() {
    let words = "name_prefix filter_env namespace install_url log_file disable_logs log_type \
        log_date_format time pid_file restart_delay exp_backoff_restart_delay source_map_support \
        disable_source_map_support kill_timeout shutdown_with_message listen_timeout cron_restart \
        merge_logs vizion autorestart watch_delay watch ignore_watch watch_options min_uptime \
        max_restarts execute_command force append_env_to_name post_update trace disable_trace v8 \
        event_loop_inspector deep_monitoring increment_var instance_var pmx automation treekill \
        port username uid gid user windowsHide kill_retry_time write io deploy";
    for name in words.split_whitespace() {
        for value in [
            json!(1),
            json!(true),
            json!(false),
            json!("1"),
            json!(["a"]),
        ] {
            let found = one(json!({ "script": "a.js", name: value }));
            for (key, reason) in found.left.into_iter().chain(found.differs) {
                assert_ne!(reason, reason_of_none(), "{name} = {value}: {key}");
            }
        }
    }
}

#[test]
fn triggers() {
    for (value, watched, left) in [
        (
            json!({ "watch": ["src", "./lib"] }),
            &["src", "lib"][..],
            &[][..],
        ),
        (json!({ "watch": "src lib" }), &["src", "lib"], &[]),
        (json!({ "watch": "." }), &["on"], &[]),
        (json!({ "watch": ["/etc"] }), &[], &["watch"]),
        (
            json!({ "watch": false, "ignore_watch": ["logs"] }),
            &[],
            &[],
        ),
        (
            json!({ "watch": true, "ignore_watch": ["node_modules", "logs", "./tmp/**", "**/*.bak"], "watch_delay": 9 }),
            &["!logs", "!./tmp", "!*.bak", "on"],
            &["watch_delay"],
        ),
        (
            json!({ "watch": true, "ignore_watch": ["logs", "[\\/]up(loads)?"] }),
            &["on"],
            &["ignore_watch"],
        ),
        (
            json!({ "watch": true, "ignore_watch": ["node_modules", "\\.git"] }),
            &["on"],
            &[],
        ),
        (json!({ "cron_restart": "0" }), &[], &[]),
        (json!({ "cron": "* * * * * *" }), &[], &["cron_restart"]),
    ] {
        let mut app = value.clone();
        app["script"] = "a.js".into();
        let found = one(app);
        let paths: Vec<&str> = found.settings.values("watch").collect();
        let keys: Vec<&str> = found.left.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(
            (paths.as_slice(), keys.as_slice()),
            (watched, left),
            "{value}"
        );
        assert_eq!(found.settings.last("restart.at"), None);
    }
}

fn reason_of_none() -> &'static str {
    reason("nonsense")
}

#[test]
fn interpreters() {
    for (value, command, args) in [
        (
            json!({ "script": "a.py", "interpreter": "python3", "args": ["x"] }),
            "python3",
            &["a.py", "x"][..],
        ),
        (
            json!({ "script": "./tool", "interpreter": "none" }),
            "./tool",
            &[],
        ),
        (json!({ "script": "bin/www" }), "node", &["bin/www"]),
    ] {
        let found = one(value);
        assert_eq!(
            (found.command.as_str(), found.args),
            (command, args.iter().map(|a| (*a).to_owned()).collect())
        );
    }
    assert_eq!(
        one(json!({ "script": "a.js" })).settings.last("workers"),
        Some("1")
    );
}

#[test]
fn what_is_no_node_is_ready_when_it_runs_and_hears_no_message() {
    for (value, request, left) in [
        (json!({ "script": "a.py" }), Some("SIGINT"), &[][..]),
        (
            json!({ "script": "a.sh", "shutdown_with_message": true, "source_map_support": true }),
            None,
            &["shutdown_with_message", "source_map_support"],
        ),
        (
            json!({ "script": "a", "interpreter": "none", "wait_ready": true }),
            Some("SIGINT"),
            &["wait_ready"],
        ),
    ] {
        let found = one(value.clone());
        assert_eq!(
            found.settings.last("reload.ready"),
            Some("alive"),
            "{value}"
        );
        assert_eq!(found.settings.last("stop.request"), request, "{value}");
        let keys: Vec<&str> = found.left.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, left, "{value}");
        let [(key, what)] = found.differs.as_slice() else {
            panic!("{:?}", found.differs);
        };
        assert!(
            key == "interpreter" && what.contains("segue restart"),
            "{what}"
        );
    }
}

#[test]
fn what_means_something_else() {
    for (value, key, setting) in [
        (
            json!({ "listen_timeout": 3000 }),
            "listen_timeout",
            ("reload.ready_timeout", None),
        ),
        (
            json!({ "instances": -1 }),
            "instances",
            ("workers", Some("auto")),
        ),
        (
            json!({ "instances": 2, "exec_mode": "fork" }),
            "exec_mode",
            ("workers", Some("2")),
        ),
    ] {
        let mut app = value.clone();
        app["script"] = "a.js".into();
        let found = one(app);
        let keys: Vec<&str> = found.differs.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, [key], "{value}");
        assert_eq!(found.settings.last(setting.0), setting.1, "{value}");
        assert!(found.left.is_empty(), "{:?}", found.left);
    }
    // One log for both streams is what we have; one that is named beside it is not.
    for (value, log, left) in [
        (json!({ "log_file": "a.log" }), Some("a.log"), &[][..]),
        (
            json!({ "log_file": "a.log", "out_file": "b.log" }),
            Some("b.log"),
            &["log_file"],
        ),
        (json!({ "log": true }), None, &["log_file"]),
    ] {
        let mut app = value.clone();
        app["script"] = "a.js".into();
        let found = one(app);
        assert_eq!(found.settings.last("log.out"), log, "{value}");
        let keys: Vec<&str> = found.left.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, left, "{value}");
    }
}

#[test]
fn a_dump() {
    let entry = json!({
        "name": "web", "pm_exec_path": "/srv/a.js", "pm_cwd": "/srv", "exec_interpreter": "node",
        "exec_mode": "cluster_mode", "instances": 2, "axm_options": {}, "status": "online",
        "env": { "PORT": "80", "HOME": "/root", "PM2_HOME": "x", "unique_id": "y" }
    });
    let file = json!([entry, entry]);
    let own = |name: &str| (name == "HOME").then(String::new);
    let found = translate(&file, None, &own).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(
        found[0].settings.values("env").collect::<Vec<_>>(),
        ["PORT=80"]
    );
    assert_eq!(found[0].settings.last("cwd"), Some("/srv"));
    assert!(found[0].left.is_empty(), "{:?}", found[0].left);
    assert!(translate(&json!({}), None, &own).is_err());
    assert!(translate(&json!([]), None, &own).is_err());
}
