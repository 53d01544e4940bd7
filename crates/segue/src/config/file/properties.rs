//! What is printed reads back as what was meant, and no text makes the reader fail otherwise than by
//! saying what is wrong.

use std::path::Path;

use proptest::prelude::*;

use super::print;
use super::{File, FileError};
use crate::config::keys::KEYS;
use crate::config::written::Written;

fn read(text: &str) -> Result<File, FileError> {
    File::parse(Path::new("/srv/segue.toml"), text, &|_| None)
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{1,12}",
        "[^\\x00]{1,8}",
        Just("${A}$${B}\\\"".to_owned())
    ]
}

/// A value that the key takes.
fn value_of(key: &'static str) -> BoxedStrategy<String> {
    let duration = || (2u32..5000).prop_map(|ms| format!("{ms}s"));
    let count = || (1u32..100).prop_map(|count| count.to_string());
    match key {
        "workers" => prop_oneof![Just("auto".to_owned()), count(), Just("50%".to_owned())].boxed(),
        "env" => ("[A-Za-z_.-]{1,8}", any_text())
            .prop_map(|(name, value)| format!("{name}={value}"))
            .boxed(),
        "env_file" | "cwd" | "node" | "node_args" | "log.out" => any_text().boxed(),
        "distribution" => prop_oneof!["spread", "shared"].boxed(),
        "reload.ready" => prop_oneof!["listening", "alive", "message", "notify"].boxed(),
        "reload.probe.status" => prop_oneof!["2xx", "200-399", "200,204"].boxed(),
        "reload.probe.headers" => "X-[a-z]{1,5}: [a-z]{1,5}".boxed(),
        "reload.probe.host" => "[a-z]{1,8}".boxed(),
        "reload.max_surge" => prop_oneof![Just("50%".to_owned()), count()].boxed(),
        "reload.canary" => "[1-9]%:[1-9]s(:[1-9]%)?".boxed(),
        // One below the other.
        "limits.memory" => "[1-9][0-9]{0,2}(KiB|MiB)".boxed(),
        "limits.memory_high" => "[1-9]GiB".boxed(),
        "limits.memory_max" => "[1-9][0-9]GiB".boxed(),
        "listen" => prop_oneof![
            "[1-9][0-9]{0,3}",
            Just("127.0.0.1:80".to_owned()),
            "/run/[a-z]{1,5}"
        ]
        .boxed(),
        "user" | "group" => prop_oneof!["[a-z][a-z0-9_-]{0,8}", "[1-9][0-9]{0,4}"].boxed(),
        "limits.nofile" => "[1-9][0-9]{2,6}".boxed(),
        "drain.preload" | "log.time" | "no_new_privs" => prop_oneof!["on", "off"].boxed(),
        "log.format" => prop_oneof!["text", "json"].boxed(),
        "log.rotate.size" | "log.rotate.total" => prop_oneof!["off", "[1-9][0-9]{0,3}MiB"].boxed(),
        "log.rotate.age" => prop_oneof![Just("off".to_owned()), duration()].boxed(),
        "drain.idle" => prop_oneof!["migrate", "close"].boxed(),
        "drain.websocket.code" => prop_oneof!["1001", "1012", "3000"].boxed(),
        "stop.request" => prop_oneof!["SIGTERM", "SIGINT", "message:[a-z]{1,5}"].boxed(),
        "restart.intensity" => "[1-9]/[1-9]m".boxed(),
        "restart.at" => "[0-5]?[0-9] (\\*|1?[0-9]) \\* (\\*|\\*/[2-5]) (\\*|mon-fri|[0-7])".boxed(),
        "watch" => prop_oneof!["on", "off", "!?[a-z]{1,6}(/[a-z]{1,3}\\.js)?"].boxed(),
        "restart.give_up" => prop_oneof!["stay", "exit"].boxed(),
        "reload.probe.successes" | "health.failures" | "drain.generations" | "log.rotate.keep" => {
            count().boxed()
        }
        _ => duration().boxed(),
    }
}

fn settings() -> impl Strategy<Value = Written> {
    let keys = KEYS.iter().filter(|key| key.name != "name");
    let values: Vec<_> = keys
        .map(|key| {
            let most = if key.repeats { 4 } else { 2 };
            (
                Just(key.name),
                prop::collection::vec(value_of(key.name), 0..most),
            )
        })
        .collect();
    values.prop_map(|keys| {
        let mut written = Written::default();
        for (key, values) in keys {
            for value in values {
                written.push(key, value);
            }
        }
        written
    })
}

/// By meaning: of a variable that is set twice the last one counts, in the order of names.
fn meaning(written: &Written) -> crate::config::settings::AppSettings {
    let mut settings = written.settings().unwrap();
    let env: std::collections::BTreeMap<_, _> = settings.env.drain(..).collect();
    settings.env = env.into_iter().collect();
    settings
}

proptest! {
    #[test]
    fn what_is_printed_reads_back(
        written in settings(),
        command in any_text(),
        args in prop::collection::vec(any_text(), 0..3),
    ) {
        prop_assume!(meaning(&written).check().is_ok());
        let text = print::app("web", &command, &args, &written);
        let file = match read(&text) {
            Ok(file) => file,
            Err(error) => return Err(TestCaseError::fail(format!("{text}\n{}", error.report(false)))),
        };
        let app = &file.apps[0];
        prop_assert_eq!(&app.command, &command);
        prop_assert_eq!(&app.args, &args);
        prop_assert_eq!(meaning(&app.settings), meaning(&written));
        // And once more the same.
        let again = print::app("web", &app.command, &app.args, &app.settings);
        prop_assert_eq!(read(&again).unwrap().apps[0].settings.clone(), app.settings.clone());
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,80}", tail in prop_oneof!["", "\n[app.web]\n.{0,30}", "\n[app.web]\nenv = .{0,20}"]) {
        if let Err(error) = read(&format!("{text}{tail}")) {
            prop_assert!(!error.to_string().is_empty());
            prop_assert!(!error.report(false).is_empty());
        }
    }
}
